//! An image as an immutable value.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::manifest::ManifestJson;
use super::{
    Blob, Compression, Descriptor, Digest, Flavor, HistoryEntry, ImageConfig, ImageError, Manifest,
    Platform,
};

/// One layer: what it is, and where its bytes are.
#[derive(Clone, Debug)]
pub struct ImageLayer {
    /// Media type, digest and size of the bytes as stored.
    pub descriptor: Descriptor,
    /// Digest of the uncompressed tar.
    pub diff_id: Digest,
    /// Where the bytes are.
    pub blob: Blob,
}

impl ImageLayer {
    /// How the bytes are compressed, by their media type.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        self.descriptor.compression()
    }

    /// Whether its archive has a table of contents, and marks, among its files (eStargz).
    #[must_use]
    pub fn is_estargz(&self) -> bool {
        self.descriptor.annotations.contains_key("containerd.io/snapshot/stargz/toc.digest")
    }
}

/// An image: a config and the layers it names. Functions return changed copies.
///
/// A part that was not changed since it was read keeps its bytes, and so its digest.
#[derive(Clone, Debug)]
pub struct Image {
    flavor: Flavor,
    config: ImageConfig,
    config_raw: Option<Bytes>,
    manifest_raw: Option<Bytes>,
    annotations: BTreeMap<String, String>,
    layers: Vec<ImageLayer>,
}

impl Image {
    /// An image without layers: `FROM scratch`.
    #[must_use]
    pub fn scratch(flavor: Flavor, platform: &Platform) -> Self {
        Self {
            flavor,
            config: ImageConfig::scratch(platform),
            config_raw: None,
            manifest_raw: None,
            annotations: BTreeMap::new(),
            layers: Vec::new(),
        }
    }

    /// The image of a manifest and its config, whose layers all lie in one place.
    ///
    /// The config's bytes are checked against the manifest's descriptor.
    pub fn from_parts(
        manifest: &Manifest,
        config_raw: Bytes,
        blob: &Blob,
    ) -> Result<Self, ImageError> {
        if Digest::of(&config_raw) != manifest.config.digest {
            return Err(ImageError::Inconsistent(format!(
                "its config is not {}",
                manifest.config.digest
            )));
        }
        let config = ImageConfig::parse(&config_raw)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(ImageError::Inconsistent(format!(
                "{} layers in the manifest, {} in the config",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let layers = manifest
            .layers
            .iter()
            .zip(diff_ids)
            .map(|(descriptor, diff_id)| ImageLayer {
                descriptor: descriptor.clone(),
                diff_id: *diff_id,
                blob: blob.clone(),
            })
            .collect();
        let image = Self {
            flavor: manifest.flavor,
            config,
            config_raw: Some(config_raw),
            manifest_raw: Some(manifest.raw.clone()),
            annotations: manifest.annotations.clone(),
            layers,
        };
        image.validate()?;
        Ok(image)
    }

    /// Which media types it uses.
    #[must_use]
    pub fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Its config.
    #[must_use]
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// Its layers, base first.
    #[must_use]
    pub fn layers(&self) -> &[ImageLayer] {
        &self.layers
    }

    /// The manifest's annotations.
    #[must_use]
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// With one more layer on top, without a line of history.
    #[must_use]
    pub fn with_layer(mut self, layer: ImageLayer) -> Self {
        self.forget_bytes();
        self.config.rootfs.diff_ids.push(layer.diff_id);
        self.layers.push(layer);
        self
    }

    /// With one more line of history.
    #[must_use]
    pub fn with_history(mut self, entry: HistoryEntry) -> Self {
        self.forget_bytes();
        self.config.history.push(entry);
        self
    }

    /// With another config; its layer list is replaced by that of this image's layers.
    #[must_use]
    pub fn with_config(mut self, config: ImageConfig) -> Self {
        self.forget_bytes();
        self.config = config;
        self.config.rootfs.diff_ids = self.layers.iter().map(|layer| layer.diff_id).collect();
        self
    }

    /// With these annotations on the manifest, instead of those it had.
    #[must_use]
    pub fn with_annotations(mut self, annotations: BTreeMap<String, String>) -> Self {
        self.manifest_raw = None;
        self.annotations = annotations;
        self
    }

    /// With the bytes of one layer somewhere else; the image stays the same.
    #[must_use]
    pub fn with_blob(mut self, digest: Digest, blob: &Blob) -> Self {
        for layer in self.layers.iter_mut().filter(|layer| layer.descriptor.digest == digest) {
            layer.blob = blob.clone();
        }
        self
    }

    /// In the other family of media types; only names change, no layer's bytes.
    ///
    /// A zstd layer has no name in Docker's family.
    pub fn with_flavor(mut self, flavor: Flavor) -> Result<Self, ImageError> {
        if flavor == self.flavor {
            return Ok(self);
        }
        for layer in &mut self.layers {
            let name = layer.descriptor.compression().and_then(|c| flavor.layer(c));
            name.ok_or_else(|| {
                ImageError::Inconsistent(format!(
                    "layer {} of type {} has no {flavor:?} equivalent",
                    layer.descriptor.digest, layer.descriptor.media_type
                ))
            })?
            .clone_into(&mut layer.descriptor.media_type);
        }
        self.manifest_raw = None;
        self.flavor = flavor;
        Ok(self)
    }

    fn forget_bytes(&mut self) {
        self.config_raw = None;
        self.manifest_raw = None;
    }

    /// The bytes of the config.
    #[must_use]
    pub fn config_bytes(&self) -> Bytes {
        self.config_raw.clone().unwrap_or_else(|| self.config.to_bytes().into())
    }

    /// The descriptor of the config.
    #[must_use]
    pub fn config_descriptor(&self) -> Descriptor {
        Descriptor::of(self.flavor.config(), &self.config_bytes())
    }

    /// The bytes of the manifest.
    #[must_use]
    pub fn manifest_bytes(&self) -> Bytes {
        self.manifest_raw.clone().unwrap_or_else(|| self.encode_manifest().into())
    }

    fn encode_manifest(&self) -> Vec<u8> {
        let annotations = Some(self.annotations.clone()).filter(|all| !all.is_empty());
        let json = ManifestJson {
            schema_version: 2,
            media_type: Some(self.flavor.manifest().to_owned()),
            config: Some(self.config_descriptor()),
            layers: Some(self.layers.iter().map(|layer| layer.descriptor.clone()).collect()),
            manifests: None,
            annotations,
            other: serde_json::Map::new(),
        };
        serde_json::to_vec(&json).expect("strings, numbers and maps with string keys always encode")
    }

    /// The descriptor of the manifest.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::of(self.flavor.manifest(), &self.manifest_bytes())
    }

    /// The digest of the manifest: the image's name by content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest_bytes())
    }

    /// Checks that the parts agree: layers and diff IDs, history and layers, media types.
    pub fn validate(&self) -> Result<(), ImageError> {
        let inconsistent = |why: String| Err(ImageError::Inconsistent(why));
        let ids: Vec<Digest> = self.layers.iter().map(|layer| layer.diff_id).collect();
        if ids != self.config.rootfs.diff_ids {
            return inconsistent("layers and the config's diff IDs differ".to_owned());
        }
        let made = self.config.history.iter().filter(|entry| !entry.empty_layer).count();
        if !self.config.history.is_empty() && made != self.layers.len() {
            // Old tools wrote such images, and every runtime takes them.
            tracing::debug!(
                history = made,
                layers = self.layers.len(),
                "history and layers differ"
            );
        }
        match self.layers.iter().find(|layer| layer.compression().is_none()) {
            Some(layer) => inconsistent(format!(
                "layer {} is of type {:?}, which is no file system layer",
                layer.descriptor.digest, layer.descriptor.media_type
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{BlobFile, Document};

    fn layer(content: &[u8]) -> ImageLayer {
        let media_type = Flavor::Oci.layer(Compression::Gzip).unwrap();
        ImageLayer {
            descriptor: Descriptor::of(media_type, content),
            diff_id: Digest::of(&[content, b"tar"].concat()),
            blob: Blob::File(BlobFile::kept("/nowhere")),
        }
    }

    fn reread(image: &Image) -> Result<Image, ImageError> {
        let Document::Manifest(manifest) = Document::parse(image.manifest_bytes(), None)? else {
            panic!("an index")
        };
        Image::from_parts(&manifest, image.config_bytes(), &Blob::Layout("/l".into()))
    }

    #[test]
    fn written_and_read_again_is_the_same_image() {
        let image = Image::scratch(Flavor::Oci, &Platform::host())
            .with_layer(layer(b"a"))
            .with_history(HistoryEntry::default())
            .with_annotations(BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        let again = reread(&image).unwrap();
        assert_eq!(again.digest(), image.digest());
        assert_eq!(again.config(), image.config());
        assert_eq!(again.annotations(), image.annotations());
        let more = again.with_layer(layer(b"b"));
        assert_ne!(more.digest(), image.digest());
        assert_eq!(more.config().rootfs.diff_ids.len(), 2);
        more.validate().unwrap();
    }

    #[test]
    fn docker_names_and_back() {
        let oci = Image::scratch(Flavor::Oci, &Platform::host()).with_layer(layer(b"a"));
        let docker = oci.clone().with_flavor(Flavor::Docker).unwrap();
        assert!(docker.layers()[0].descriptor.media_type.ends_with("diff.tar.gzip"));
        assert_eq!(docker.with_flavor(Flavor::Oci).unwrap().digest(), oci.digest());
        let mut zstd = layer(b"z");
        zstd.descriptor.media_type = Flavor::Oci.layer(Compression::Zstd).unwrap().to_owned();
        assert!(oci.with_layer(zstd).with_flavor(Flavor::Docker).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        let image = Image::scratch(Flavor::Oci, &Platform::host()).with_layer(layer(b"a"));
        let mut odd = image.clone();
        odd.config.rootfs.diff_ids.clear();
        assert!(odd.validate().is_err());
        assert!(reread(&odd).is_err(), "fewer diff IDs than layers");
        let mut artifact = layer(b"a");
        artifact.descriptor.media_type = "application/json".to_owned();
        assert!(image.with_layer(artifact).validate().is_err());
    }
}
