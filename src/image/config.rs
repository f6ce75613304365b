//! The image config: what Docker and OCI put into it, and whatever else came along.
//!
//! Fields are left out where Docker leaves them out, and fields that this
//! program does not know survive a round trip (`serde(flatten)`).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use super::{Digest, ImageError, Platform};

/// The search path of an image that sets none, as Docker has it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The JSON document that a manifest's `config` points to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// `MAINTAINER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Go's name of the processor architecture.
    #[serde(default, deserialize_with = "or_default")]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Go's name of the operating system.
    #[serde(default, deserialize_with = "or_default")]
    pub os: String,
    /// Of Windows images.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Of Windows images.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// What a container of this image runs with.
    #[serde(default, deserialize_with = "or_default")]
    pub config: RunConfig,
    /// The layers, by the digests of their uncompressed tars.
    #[serde(default, deserialize_with = "or_default")]
    pub rootfs: RootFs,
    /// One entry for each instruction, oldest first.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The `config` part of an image config. An absent field and a `null` mean the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `USER`: name or id, with an optional `:group`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `EXPOSE`: `port/protocol`.
    #[serde(default, with = "set", skip_serializing_if = "BTreeSet::is_empty")]
    pub exposed_ports: BTreeSet<String>,
    /// `ENV`: `name=value`, in order of definition.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// `ENTRYPOINT`; an empty list is written, `None` is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// `CMD`; an empty list is written, `None` is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// `VOLUME`: paths.
    #[serde(default, with = "set", skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// `WORKDIR`, absolute.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// `LABEL`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `STOPSIGNAL`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    /// `HEALTHCHECK` (Docker's own; OCI has none).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// `ONBUILD` instructions, as text (Docker's own).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// `SHELL`; empty is the default shell (Docker's own).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub shell: Vec<String>,
    /// Windows only (Docker's own).
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// Fields this program does not know (`Hostname`, `Tty`, `StopTimeout`, ...).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// `HEALTHCHECK`. Durations are in nanoseconds; 0 means "as the base image says" and is not written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", ...]` or `["CMD-SHELL", command]`.
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Before a check counts as failed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// In which failures do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two checks of the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The list of layers in an image config.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// Digests of the uncompressed tars, base first.
    #[serde(default, deserialize_with = "or_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

/// One line of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// `MAINTAINER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the instruction made no layer.
    #[serde(default, skip_serializing_if = "is_false")]
    pub empty_layer: bool,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageConfig {
    /// The config of an empty image for this platform: what Docker's frontend begins `FROM scratch` with.
    #[must_use]
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            config: RunConfig {
                env: vec![format!("PATH={DEFAULT_PATH}")],
                working_dir: "/".to_owned(),
                ..RunConfig::default()
            },
            ..Self::default()
        }
    }

    /// Reads a config; a layer list that is not one is refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let config: Self =
            serde_json::from_slice(bytes).map_err(|e| ImageError::Config(e.to_string()))?;
        if config.rootfs.kind != "layers" {
            return Err(ImageError::Config(format!(
                "rootfs of type {:?}; only \"layers\" is known",
                config.rootfs.kind
            )));
        }
        Ok(config)
    }

    /// The JSON that is stored, without white space between its parts.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, numbers and maps with string keys always encode")
    }

    /// What the image says it runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform::new(&self.os, &self.architecture, self.variant.as_deref())
    }
}

fn layers() -> String {
    "layers".to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if takes it so")]
fn is_false(value: &bool) -> bool {
    !value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's skip_serializing_if takes it so")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Go writes `null` for an empty list or map; it means the same as leaving the field out.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Docker writes a set as an object whose values are empty objects.
mod set {
    use super::{BTreeMap, BTreeSet, Deserialize, Deserializer, Map, Serializer, Value};

    pub(super) fn serialize<S: Serializer>(
        names: &BTreeSet<String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_map(names.iter().map(|name| (name, Map::<String, Value>::new())))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeSet<String>, D::Error> {
        let map: Option<BTreeMap<String, Value>> = Option::deserialize(from)?;
        Ok(map.unwrap_or_default().into_keys().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_config_comes_back_byte_for_byte() {
        let text = concat!(
            r#"{"created":"2024-01-02T03:04:05.6Z","author":"a","architecture":"arm","variant":"v7","os":"linux","#,
            r#""os.version":"1","config":{"User":"1:2","ExposedPorts":{"80/tcp":{}},"Env":["B=1","A=2"],"#,
            r#""Entrypoint":["/e"],"Cmd":[],"Volumes":{"/v":{}},"WorkingDir":"/w","Labels":{"k":"v"},"#,
            r#""StopSignal":"SIGINT","Healthcheck":{"Test":["CMD","x"],"Interval":1000000000,"Timeout":2,"#,
            r#""StartPeriod":3,"StartInterval":4,"Retries":5},"OnBuild":["RUN x"],"Shell":["/bin/bash","-c"],"#,
            r#""ArgsEscaped":true,"StopTimeout":3,"x-unknown":{"z":[1,null]}},"#,
            r#""rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"#,
            r#""history":[{"created":"2024-01-02T03:04:05Z","created_by":"RUN x","author":"a","comment":"c","empty_layer":true,"h":1}],"#,
            r#""docker_version":"20","container_config":{"Cmd":null}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(config.to_bytes()).unwrap(), text);
    }

    #[test]
    fn nulls_and_empties_are_left_out() {
        for (text, want) in [
            (
                r#"{"architecture":"amd64","os":"linux","config":{"User":"","Env":null,"Cmd":null,"Labels":null,"Volumes":null,"OnBuild":null,"Entrypoint":null,"ExposedPorts":null},"rootfs":{"type":"layers","diff_ids":null}}"#,
                r#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#,
            ),
            (
                "{}",
                r#"{"architecture":"","os":"","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#,
            ),
        ] {
            let config = ImageConfig::parse(text.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(config.to_bytes()).unwrap(), want);
        }
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"rootfs":{"type":"other"}}"#,
            r#"{"rootfs":{"diff_ids":["sha256:1"]}}"#,
            r#"{"config":{"Env":"A=1"}}"#,
            r#"{"history":{}}"#,
        ] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
