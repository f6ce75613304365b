//! Operating system, architecture and variant, and which fits which.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ImageError;

/// What an image runs on, in Go's names (`linux`, `amd64`, `v8`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub architecture: String,
    /// Variant of the architecture (`v7` of `arm`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields this program carries but does not weigh (`os.version`, `features`).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Platform {
    /// A platform of these three parts, in their normal form.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let (architecture, variant) = normal(architecture, variant);
        Self { os: os.to_lowercase(), architecture, variant, other: Map::new() }
    }

    /// What this program was compiled for.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// How well an image made for `self` runs where `wanted` is asked for; lower is better, `None` is not at all.
    ///
    /// 32-bit arm runs older variants too; every other architecture wants its variant exactly, where one is named.
    #[must_use]
    pub fn fits(&self, wanted: &Self) -> Option<u32> {
        let (this, wanted) = (self.normalised(), wanted.normalised());
        if this.os != wanted.os || this.architecture != wanted.architecture {
            return None;
        }
        if this.variant == wanted.variant {
            return Some(0);
        }
        match (this.architecture.as_str(), this.level(), wanted.level()) {
            ("arm", Some(has), Some(wants)) => wants.checked_sub(has),
            // An image without a variant is the generic one.
            ("amd64" | "arm64", Some(has), Some(wants)) if this.variant.is_none() => {
                wants.checked_sub(has)
            }
            _ => None,
        }
    }

    fn normalised(&self) -> Self {
        Self::new(&self.os, &self.architecture, self.variant.as_deref())
    }

    fn level(&self) -> Option<u32> {
        match (&self.variant, self.architecture.as_str()) {
            (Some(variant), _) => variant.strip_prefix('v')?.parse().ok(),
            (None, "amd64") => Some(1),
            (None, "arm64") => Some(8),
            (None, _) => None,
        }
    }
}

/// Operating systems that can be named alone.
const SYSTEMS: [&str; 4] = ["linux", "windows", "darwin", "freebsd"];

/// Architectures that can be named alone.
const ARCHITECTURES: [&str; 8] =
    ["386", "amd64", "arm", "arm64", "loong64", "ppc64le", "riscv64", "s390x"];

/// Other names to Go's; the default variants (arm64 v8, amd64 v1) to none, arm to v7.
fn normal(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_lowercase();
    let variant = variant.map(str::to_lowercase).filter(|v| !v.is_empty());
    let (architecture, variant) = match architecture.as_str() {
        "x86_64" | "x86-64" => ("amd64", variant),
        "aarch64" => ("arm64", variant),
        "i386" | "i486" | "i586" | "i686" | "x86" => ("386", None),
        "armhf" => ("arm", Some("v7".to_owned())),
        "armel" => ("arm", Some("v6".to_owned())),
        "powerpc64le" => ("ppc64le", variant),
        other => (other, variant),
    };
    let variant = match (architecture, variant.as_deref()) {
        ("amd64", Some("v1")) | ("arm64", Some("8" | "v8")) => None,
        ("arm", None | Some("7")) => Some("v7".to_owned()),
        ("arm", Some(level @ ("5" | "6" | "8"))) => Some(format!("v{level}")),
        _ => variant,
    };
    (architecture.to_owned(), variant)
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let bad = |why| ImageError::Platform { text: text.to_owned(), why };
        let parts: Vec<&str> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty() || !part.chars().all(is_platform_char)) {
            return Err(bad("it is written os/architecture or os/architecture/variant"));
        }
        match parts[..] {
            // The other part is that of this machine.
            [os] if SYSTEMS.contains(&os) => Ok(Self::new(os, std::env::consts::ARCH, None)),
            [architecture] if ARCHITECTURES.contains(&normal(architecture, None).0.as_str()) => {
                Ok(Self::new("linux", architecture, None))
            }
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(bad("it is written os/architecture or os/architecture/variant")),
        }
    }
}

fn is_platform_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_fits_which() {
        for (has, wanted, want) in [
            ("linux/amd64", "linux/amd64", Some(0)),
            ("linux/amd64", "linux/x86_64", Some(0)),
            ("linux/amd64/v3", "linux/amd64", None),
            ("linux/amd64", "linux/amd64/v3", Some(2)),
            ("linux/amd64", "windows/amd64", None),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm/v7", "linux/arm", Some(0)),
            ("linux/arm/v6", "linux/arm/v7", Some(1)),
            ("linux/arm/v5", "linux/arm/v7", Some(2)),
            ("linux/arm/v7", "linux/arm/v6", None),
            ("linux/arm/v7", "linux/arm64", None),
            ("linux/386", "linux/i686", Some(0)),
        ] {
            let (has_it, wanted_it): (Platform, Platform) =
                (has.parse().unwrap(), wanted.parse().unwrap());
            assert_eq!(has_it.fits(&wanted_it), want, "{has} where {wanted} is wanted");
        }
    }

    #[test]
    fn one_part_is_enough() {
        let host = std::env::consts::ARCH;
        for (text, want) in [
            ("linux", format!("linux/{host}").parse::<Platform>().unwrap().to_string()),
            ("aarch64", "linux/arm64".to_owned()),
            ("armhf", "linux/arm/v7".to_owned()),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), want, "{text}");
        }
    }

    #[test]
    fn malformed_is_refused() {
        for text in ["", "lin", "linux/", "/amd64", "linux/amd64/v1/x", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
