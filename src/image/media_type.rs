//! The two families of media types, and what a layer's type says about its bytes.

/// Which of the two families of media types an image uses.
///
/// Registries and runtimes accept both; mixing them inside one manifest is what some refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// Docker image manifest, version 2, schema 2.
    Docker,
    /// OCI image-spec, version 1.
    Oci,
}

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
pub(crate) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

impl Flavor {
    /// The media type of a manifest.
    #[must_use]
    pub fn manifest(self) -> &'static str {
        match self {
            Self::Docker => DOCKER_MANIFEST,
            Self::Oci => OCI_MANIFEST,
        }
    }

    /// The media type of an image config.
    #[must_use]
    pub fn config(self) -> &'static str {
        match self {
            Self::Docker => DOCKER_CONFIG,
            Self::Oci => OCI_CONFIG,
        }
    }

    /// The media type of a layer; `None` where the family has none (Docker knows no zstd).
    #[must_use]
    pub fn layer(self, compression: Compression) -> Option<&'static str> {
        match (self, compression) {
            (Self::Docker, Compression::None) => Some(DOCKER_LAYER),
            (Self::Docker, Compression::Gzip) => {
                Some("application/vnd.docker.image.rootfs.diff.tar.gzip")
            }
            (Self::Docker, Compression::Zstd) => None,
            (Self::Oci, Compression::None) => Some(OCI_LAYER),
            (Self::Oci, Compression::Gzip) => Some("application/vnd.oci.image.layer.v1.tar+gzip"),
            (Self::Oci, Compression::Zstd) => Some("application/vnd.oci.image.layer.v1.tar+zstd"),
        }
    }

    /// The family that a manifest of this media type belongs to.
    #[must_use]
    pub fn of_manifest(media_type: &str) -> Option<Self> {
        match media_type {
            DOCKER_MANIFEST | DOCKER_LIST => Some(Self::Docker),
            OCI_MANIFEST | OCI_INDEX => Some(Self::Oci),
            _ => None,
        }
    }
}

/// How a layer's tar is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compression {
    /// A bare tar.
    None,
    /// RFC 1952; also what a Docker layer without a suffix may be in practice.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What a layer's media type says; `None` if it is no layer this program can unpack.
    ///
    /// Foreign (non-distributable) layers count by their suffix, too.
    #[must_use]
    pub fn of_layer(media_type: &str) -> Option<Self> {
        let suffix = [
            DOCKER_LAYER,
            OCI_LAYER,
            "application/vnd.docker.image.rootfs.foreign.diff.tar",
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
        ]
        .iter()
        .find_map(|prefix| media_type.strip_prefix(prefix))?;
        match suffix {
            "" => Some(Self::None),
            ".gzip" | "+gzip" => Some(Self::Gzip),
            ".zstd" | "+zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_types_and_back() {
        for flavor in [Flavor::Docker, Flavor::Oci] {
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let Some(media_type) = flavor.layer(compression) else {
                    assert_eq!((flavor, compression), (Flavor::Docker, Compression::Zstd));
                    continue;
                };
                assert_eq!(Compression::of_layer(media_type), Some(compression), "{media_type}");
            }
            assert_eq!(Flavor::of_manifest(flavor.manifest()), Some(flavor));
        }
        for other in ["", OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+lz4"] {
            assert_eq!(Compression::of_layer(other), None, "{other}");
        }
    }
}
