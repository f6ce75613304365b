//! Bases of made-up files: as large, as many and as compressible as real ones.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::base;
use crate::craft::{Compression, Craft, Layer};

/// Layers of the large base, and directories with files in each.
const LAYERS: u32 = 4;
const DIRECTORIES: u32 = 125;
const FILES: u32 = 100;

/// BusyBox, and 1.2 GB in four layers of 12,500 files: most of some kilobytes, one of a hundred of
/// more than a megabyte.
pub(crate) fn large() -> Craft {
    let words = Words::new();
    (0..LAYERS).fold(busybox(), |craft, layer| {
        let mut random = fastrand::Rng::with_seed(u64::from(layer));
        let top = format!("files{layer}");
        let mut tar = Layer::new().directory(&top);
        for directory in 0..DIRECTORIES {
            tar = tar.directory(&format!("{top}/{directory}"));
            for file in 0..FILES {
                let length = if file == 0 { 1_250_000 } else { random.usize(0..24_000) };
                let content = words.text(&mut random, length);
                tar = tar.file(&format!("{top}/{directory}/{file}"), content);
            }
        }
        craft.layer(tar)
    })
}

/// BusyBox, and so many tiny files, a hundred in each directory.
pub(crate) fn many(count: u32) -> Craft {
    let mut tar = Layer::new().directory("many");
    for directory in 0..count / 10_000 {
        tar = tar.directory(&format!("many/{directory}"));
        for below in 0..100 {
            let home = format!("many/{directory}/{below}");
            tar = tar.directory(&home);
            for file in 0..100_u32 {
                tar = tar.file(&format!("{home}/{file}"), file.to_le_bytes());
            }
        }
    }
    busybox().layer(tar)
}

fn busybox() -> Craft {
    let tar = fs::read(&layers(&base::busybox())[0]).expect("the layer of BusyBox");
    let mut inflated = Vec::new();
    let mut gzip = flate2::read::GzDecoder::new(tar.as_slice());
    std::io::Read::read_to_end(&mut gzip, &mut inflated).expect("it is gzip");
    Craft::new().tar(inflated, Compression::Gzip)
}

/// Text that compresses to about two fifths, as programs and their libraries do.
pub(crate) struct Words(Vec<Vec<u8>>);

impl Words {
    pub(crate) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(7);
        let mut word = || {
            let length = random.usize(2..14);
            std::iter::repeat_with(|| random.u8(..)).take(length).collect()
        };
        Self((0..8192).map(|_| word()).collect())
    }

    pub(crate) fn text(&self, random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
        let mut text = Vec::with_capacity(length + 16);
        while text.len() < length {
            // Some words are frequent, most are rare.
            let limit = 1 << random.usize(4..14);
            text.extend_from_slice(&self.0[random.usize(0..limit)]);
        }
        text.truncate(length);
        text
    }
}

/// The layer blobs of the only image in a layout, the lowest first.
pub(crate) fn layers(layout: &Path) -> Vec<PathBuf> {
    let json = |path: &Path| -> Value {
        serde_json::from_slice(&fs::read(path).expect("the layout is whole")).expect("it is JSON")
    };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let manifest = json(&blob(&json(&layout.join("index.json"))["manifests"][0]));
    manifest["layers"].as_array().expect("a manifest has layers").iter().map(blob).collect()
}
