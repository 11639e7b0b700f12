//! Image configs of OCI and Docker (image-spec `config.md`, Docker's image v1.2).

mod go;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{ChainId, DiffId, Platform, Timestamp, manifest::null_as_default};

/// The config JSON of an image; its digest is the image ID.
///
/// It is read as Go reads it: keys in any case, `null` for nothing, one word for a list of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct ImageConfig {
    /// When the image was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Instruction set in Go's names.
    #[serde(default, deserialize_with = "null_as_default")]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Operating system in Go's names.
    #[serde(default, deserialize_with = "null_as_default")]
    pub os: String,
    /// Version of the operating system.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that are needed.
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// Defaults for containers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_as_default")]
    pub rootfs: RootFs,
    /// How it was made, oldest first.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<HistoryEntry>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Serialize for ImageConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ImageConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut json = Value::deserialize(deserializer)?;
        go::normalize(&mut json);
        Self::deserialize(json).map_err(serde::de::Error::custom)
    }
}

impl ImageConfig {
    /// The fields of a config as they are written, but in the form in which it is read.
    ///
    /// # Errors
    /// When it is no JSON object.
    pub fn fields(bytes: &[u8]) -> Result<Map<String, Value>, serde_json::Error> {
        let mut json = serde_json::from_slice(bytes)?;
        go::normalize(&mut json);
        serde_json::from_value(json)
    }

    /// Starts the config of an empty image.
    #[must_use]
    pub fn new(platform: &Platform) -> Self {
        Self {
            created: None,
            author: None,
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
            config: ContainerConfig::default(),
            rootfs: RootFs::default(),
            history: Vec::new(),
            extra: Map::new(),
        }
    }

    /// What the image runs on.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
            variant: self.variant.clone(),
            ..Platform::new(&self.os, &self.architecture)
        }
    }

    /// ChainID of all layers; `None` for an image without layers.
    #[must_use]
    pub fn chain_id(&self) -> Option<ChainId> {
        ChainId::of(&self.rootfs.diff_ids)
    }
}

/// The `rootfs` field of a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default, deserialize_with = "null_as_default")]
    pub kind: String,
    /// DiffIDs, bottom first.
    #[serde(default, deserialize_with = "null_as_default")]
    pub diff_ids: Vec<DiffId>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new(), extra: Map::new() }
    }
}

/// One step of an image's history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When the step ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who ran it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub empty_layer: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An empty JSON object: the value of Go's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The `config` field of an image config: defaults for its containers.
///
/// A list is `None` where the JSON has no such field or `null`, `Some` of an empty one for `[]`:
/// Docker tells the two apart for `Entrypoint`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, by name or number.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// Ports as `80/tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Empty>>,
    /// Variables as `NAME=value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// Program and its fixed arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments that a user replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How the program's health is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    /// Whether the command was already escaped (Windows; Docker's builders set it always).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// Paths that get an anonymous volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Empty>>,
    /// Initial working directory.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Instructions for builds upon this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Signal that asks the program to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// Shell of the shell forms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How a program's health is checked; times are nanoseconds, 0 means Docker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct HealthConfig {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`; `None` inherits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Vec<String>>,
    /// Time between two checks.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time after which a check has failed.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time in which failures do not count.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks within the start period.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make the container unhealthy.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::strategies::{check_json, check_refused, image_config};

    #[test]
    fn keeps_null_empty_and_absent_apart() {
        let json = r#"{"config":{"Entrypoint":[],"Cmd":null,"Env":null,"User":null,"Hostname":"h"},
            "history":null,"rootfs":null,"architecture":"amd64","os":"linux","container":"abc"}"#;
        let config: ImageConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config.config.entrypoint, Some(Vec::new()));
        assert_eq!(config.config.cmd, None);
        assert_eq!(config.rootfs, RootFs::default());
        let again = serde_json::to_value(&config).unwrap();
        assert_eq!(again["config"]["Hostname"], "h");
        assert_eq!(again["container"], "abc");
        assert_eq!(again["config"]["Entrypoint"], serde_json::json!([]));
        assert!(again["config"].get("Cmd").is_none());
    }

    #[test]
    fn reads_what_go_reads() {
        let json = r#"{"Config":{"cmd":"a","Entrypoint":["sh",null],"ENTRYPOINT":["x"],"ENV":[null],
            "Volumes":{"/x":null},"exposedports":{"80/tcp":null},"labels":{"a":null},"Other":null,
            "Healthcheck":{"test":["CMD",null],"Retries":null},"Shell":null},
            "history":[null,{"Created_By":"x","empty_layer":null}],"OS":"linux",
            "architecture":null,"rootfs":{"type":null}}"#;
        let config: ImageConfig = serde_json::from_str(json).unwrap();
        let expected = serde_json::json!({
            "config": {
                "Cmd": ["a"], "Entrypoint": ["sh", ""], "Env": [""], "Volumes": {"/x": {}},
                "ExposedPorts": {"80/tcp": {}}, "Labels": {"a": ""}, "Other": null,
                "Healthcheck": {"Test": ["CMD", ""]},
            },
            "history": [{}, {"created_by": "x"}],
            "os": "linux", "architecture": "", "rootfs": {"type": "", "diff_ids": []},
        });
        assert_eq!(serde_json::to_value(&config).unwrap(), expected);
        let fields = ImageConfig::fields(json.as_bytes()).unwrap();
        assert_eq!(fields["config"]["Cmd"], serde_json::json!(["a"]));
        assert!(ImageConfig::fields(b"[]").is_err());
    }

    #[test]
    fn numbers_of_unknown_fields_are_written_as_read() {
        let json = r#"{"x":48800000000000000000724361959,"y":0.1,"z":18446744073709551615}"#;
        let config: ImageConfig = serde_json::from_str(json).unwrap();
        let again = serde_json::to_vec(&config).unwrap();
        assert_eq!(serde_json::from_slice::<ImageConfig>(&again).unwrap(), config);
    }

    #[test]
    fn refuses_bad_configs() {
        check_refused::<ImageConfig>(&[
            "null",
            "[]",
            r#"{"created":"yesterday"}"#,
            r#"{"created":0}"#,
            r#"{"author":["a"]}"#,
            r#"{"os":1}"#,
            r#"{"architecture":[]}"#,
            r#"{"variant":8}"#,
            r#"{"os.version":10}"#,
            r#"{"os.features":"win32k"}"#,
            r#"{"rootfs":[]}"#,
            r#"{"rootfs":{"type":1}}"#,
            r#"{"rootfs":{"diff_ids":"DIGEST"}}"#,
            r#"{"rootfs":{"diff_ids":[null]}}"#,
            r#"{"rootfs":{"type":"layers","diff_ids":["sha256:xyz"]}}"#,
            r#"{"history":{}}"#,
            r#"{"history":["RUN x"]}"#,
            r#"{"history":[{"created":"now"}]}"#,
            r#"{"history":[{"created_by":1}]}"#,
            r#"{"history":[{"empty_layer":"true"}]}"#,
            r#"{"config":[]}"#,
            r#"{"config":"x"}"#,
        ]);
        for field in [
            r#""User":0"#,
            r#""ExposedPorts":["80/tcp"]"#,
            r#""ExposedPorts":{"80/tcp":1}"#,
            r#""Env":"A=b""#,
            r#""Env":{"A":"b"}"#,
            r#""Cmd":1"#,
            r#""Entrypoint":[1]"#,
            r#""Healthcheck":["CMD"]"#,
            r#""Healthcheck":{"Test":"CMD"}"#,
            r#""Healthcheck":{"Interval":"30s"}"#,
            r#""Healthcheck":{"Retries":1.5}"#,
            r#""ArgsEscaped":"true""#,
            r#""Volumes":["/x"]"#,
            r#""WorkingDir":["/"]"#,
            r#""OnBuild":"RUN x""#,
            r#""Labels":["a=b"]"#,
            r#""Labels":{"a":1}"#,
            r#""StopSignal":15"#,
            r#""StopTimeout":"10s""#,
            r#""Shell":{}"#,
        ] {
            check_refused::<ImageConfig>(&[&format!(r#"{{"config":{{{field}}}}}"#)]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn round_trips(config in image_config()) {
            check_json(&config);
            let platform = config.platform();
            prop_assert_eq!(ImageConfig::new(&platform).platform(), platform);
        }
    }

    #[test]
    fn names_its_platform_and_chain() {
        let platform: Platform = "linux/arm/v6".parse().unwrap();
        let mut config = ImageConfig::new(&platform);
        assert_eq!(config.platform(), platform);
        assert_eq!(config.chain_id(), None);
        let layer = DiffId::new(crate::Digest::of(b"layer"));
        config.rootfs.diff_ids.push(layer);
        assert_eq!(config.chain_id().map(|chain| chain.digest()), Some(layer.digest()));
    }
}
