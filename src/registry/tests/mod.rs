//! The client against a server that misbehaves on demand, and against a real registry.

mod answers;
mod attempts;
mod clouds;
mod fake;
mod faults;
mod real;
mod requests;
mod standing;

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::{Patience, Settings};
use crate::image::{
    Blob, BlobFile, Compression, Descriptor, Digest, Flavor, HistoryEntry, Image, ImageLayer,
    Platform,
};

/// Short pauses and stalls; the number of tries is the default one.
fn impatient() -> Settings {
    let patience = Patience {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(20),
        idle: Duration::from_millis(800),
        commit: Duration::from_millis(800),
        ..Patience::default()
    };
    Settings { patience, ..Settings::default() }
}

/// Bytes that no compression and no repetition makes alike.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// An image whose layers are files below `dir`.
fn image(dir: &Path, flavor: Flavor, layers: &[Vec<u8>]) -> Image {
    let media_type = flavor.layer(Compression::Gzip).unwrap();
    let base = Image::scratch(flavor, &Platform::host());
    layers.iter().fold(base, |image, bytes| {
        let path = dir.join(Digest::of(bytes).hex());
        fs::write(&path, bytes).unwrap();
        let layer = ImageLayer {
            descriptor: Descriptor::of(media_type, bytes),
            diff_id: Digest::of(&[bytes, &b"tar"[..]].concat()),
            blob: Blob::File(BlobFile::kept(path)),
        };
        image.with_layer(layer).with_history(HistoryEntry::default())
    })
}
