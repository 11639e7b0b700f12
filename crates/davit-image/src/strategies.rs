//! Random values of the model for the tests of its types.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    str::FromStr,
};

use proptest::{collection::vec, option::of, prelude::*};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value};

use crate::{
    Algorithm, ContainerConfig, Descriptor, Digest, Empty, HealthConfig, HistoryEntry, ImageConfig,
    Index, Manifest, MediaType, Platform, Raw, RootFs, Timestamp,
};

/// Fails unless the printed text is parsed as the same value.
pub(crate) fn check_text<T>(value: &T)
where
    T: Display + FromStr<Err: Debug> + Debug + PartialEq,
{
    assert_eq!(&value.to_string().parse::<T>().unwrap(), value);
}

/// Fails unless the written JSON is read as the same value, and is written again as the same bytes.
pub(crate) fn check_json<T>(value: &T)
where
    T: Serialize + DeserializeOwned + Clone + Debug + PartialEq,
{
    let written = Raw::write(value.clone());
    let read = Raw::<T>::from_bytes(written.bytes().to_vec()).unwrap();
    assert_eq!(read, written);
    assert_eq!(Raw::write(read.into_value()).bytes(), written.bytes());
}

/// Fails unless every text is refused as a `T`; `DIGEST` in it becomes a good digest.
pub(crate) fn check_refused<T: DeserializeOwned + Debug>(cases: &[&str]) {
    for case in cases {
        let json = case.replace("DIGEST", &Digest::of(b"").to_string());
        assert!(serde_json::from_str::<Value>(&json).is_ok(), "not even JSON: {json}");
        let read = serde_json::from_str::<T>(&json);
        assert!(read.is_err(), "{json}: {read:?}");
    }
}

/// A text without structure, unprintable characters included.
fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,12}", any::<String>().prop_map(|text| text.chars().take(12).collect())]
}

fn texts() -> impl Strategy<Value = Vec<String>> {
    vec(text(), 0..4)
}

fn facts() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(text(), text(), 0..4)
}

fn set() -> impl Strategy<Value = BTreeMap<String, Empty>> {
    prop::collection::btree_map(text(), Just(Empty {}), 0..4)
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("JSON has no such number", |number| {
            Number::from_f64(number).map(Value::Number)
        }),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((text(), inner), 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Fields that no version of the specifications has.
fn extra() -> impl Strategy<Value = Map<String, Value>> {
    let name = text().prop_map(|name| format!("x-{name}"));
    vec((name, json()), 0..3).prop_map(|fields| fields.into_iter().collect())
}

pub(crate) fn digest() -> impl Strategy<Value = Digest> {
    let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)];
    (algorithm, any::<u64>())
        .prop_map(|(algorithm, seed)| Digest::of_with(algorithm, &seed.to_le_bytes()))
}

/// The formats' own types, and whatever else a registry may say.
pub(crate) fn media_type() -> impl Strategy<Value = MediaType> {
    let known = [
        MediaType::OCI_MANIFEST,
        MediaType::OCI_INDEX,
        MediaType::OCI_CONFIG,
        MediaType::OCI_LAYER_ZSTD,
        MediaType::OCI_EMPTY,
        MediaType::DOCKER_MANIFEST,
        MediaType::DOCKER_FOREIGN_LAYER_GZIP,
    ];
    prop_oneof![prop::sample::select(known.to_vec()), text().prop_map(MediaType::new)]
}

/// Words of a platform: Go's names and their aliases, and others within the grammar.
fn word(known: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![prop::sample::select(known).prop_map(str::to_owned), "[A-Za-z0-9_.-]{1,8}"]
}

/// A platform as a user writes it.
pub(crate) fn written_platform() -> impl Strategy<Value = Platform> {
    let os = word(&["linux", "Linux", "windows", "macos", "freebsd"]);
    let architecture = word(&[
        "amd64", "x86_64", "x86-64", "i386", "aarch64", "arm64", "ARM64", "arm", "armhf", "armel",
        "riscv64", "s390x",
    ]);
    let variant = word(&["v1", "v2", "v8", "v8.0", "8", "v7", "7", "V6", "5"]);
    (os, architecture, of(variant)).prop_map(|(os, architecture, variant)| Platform {
        variant,
        ..Platform::new(&os, &architecture)
    })
}

/// A platform as a document has it, with every optional field.
pub(crate) fn platform() -> impl Strategy<Value = Platform> {
    let fields = (text(), text(), of(text()), of(texts()), of(text()), extra());
    fields.prop_map(|(architecture, os, os_version, os_features, variant, extra)| Platform {
        architecture,
        os,
        os_version,
        os_features,
        variant,
        extra,
    })
}

pub(crate) fn descriptor() -> impl Strategy<Value = Descriptor> {
    let required = (media_type(), digest(), any::<u64>());
    let optional = (texts(), facts(), of(text()), of(platform()), of(media_type()), extra());
    (required, optional).prop_map(|((media_type, digest, size), optional)| {
        let (urls, annotations, data, platform, artifact_type, extra) = optional;
        Descriptor {
            media_type,
            digest,
            size,
            urls,
            annotations,
            data,
            platform,
            artifact_type,
            extra,
        }
    })
}

pub(crate) fn manifest() -> impl Strategy<Value = Manifest> {
    let required = (any::<u32>(), descriptor(), vec(descriptor(), 0..4));
    let optional = (of(media_type()), of(media_type()), of(descriptor()), facts(), extra());
    (required, optional).prop_map(|((schema_version, config, layers), optional)| {
        let (media_type, artifact_type, subject, annotations, extra) = optional;
        Manifest {
            schema_version,
            media_type,
            artifact_type,
            config,
            layers,
            subject,
            annotations,
            extra,
        }
    })
}

pub(crate) fn index() -> impl Strategy<Value = Index> {
    let required = (any::<u32>(), vec(descriptor(), 0..4));
    let optional = (of(media_type()), of(media_type()), of(descriptor()), facts(), extra());
    (required, optional).prop_map(|((schema_version, manifests), optional)| {
        let (media_type, artifact_type, subject, annotations, extra) = optional;
        Index { schema_version, media_type, artifact_type, manifests, subject, annotations, extra }
    })
}

pub(crate) fn timestamp() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800_i64..253_402_300_800, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanoseconds)| Timestamp::from_unix(seconds, nanoseconds).unwrap())
}

fn history_entry() -> impl Strategy<Value = HistoryEntry> {
    let fields = (of(timestamp()), of(text()), of(text()), of(text()), any::<bool>(), extra());
    fields.prop_map(|(created, created_by, author, comment, empty_layer, extra)| HistoryEntry {
        created,
        created_by,
        author,
        comment,
        empty_layer,
        extra,
    })
}

fn health() -> impl Strategy<Value = HealthConfig> {
    let fields = (of(texts()), any::<[i64; 5]>(), extra());
    fields.prop_map(|(test, numbers, extra)| {
        let [interval, timeout, start_period, start_interval, retries] = numbers;
        HealthConfig { test, interval, timeout, start_period, start_interval, retries, extra }
    })
}

fn container_config() -> impl Strategy<Value = ContainerConfig> {
    let words = (text(), text(), of(text()), of(any::<i64>()), of(any::<bool>()));
    let lists = (of(texts()), of(texts()), of(texts()), of(texts()), of(texts()));
    let maps = (of(set()), of(set()), of(facts()), of(health()), extra());
    (words, lists, maps).prop_map(|(words, lists, maps)| {
        let (user, working_dir, stop_signal, stop_timeout, args_escaped) = words;
        let (env, entrypoint, cmd, on_build, shell) = lists;
        let (exposed_ports, volumes, labels, healthcheck, extra) = maps;
        ContainerConfig {
            user,
            exposed_ports,
            env,
            entrypoint,
            cmd,
            healthcheck,
            args_escaped,
            volumes,
            working_dir,
            on_build,
            labels,
            stop_signal,
            stop_timeout,
            shell,
            extra,
        }
    })
}

fn root_fs() -> impl Strategy<Value = RootFs> {
    (text(), vec(digest().prop_map(crate::DiffId::new), 0..4), extra())
        .prop_map(|(kind, diff_ids, extra)| RootFs { kind, diff_ids, extra })
}

pub(crate) fn image_config() -> impl Strategy<Value = ImageConfig> {
    let origin = (of(timestamp()), of(text()));
    let parts = (container_config(), root_fs(), vec(history_entry(), 0..3), extra());
    (origin, platform(), parts).prop_map(|((created, author), platform, parts)| {
        let (config, rootfs, history, extra) = parts;
        let new = ImageConfig::new(&platform);
        ImageConfig { created, author, config, rootfs, history, extra, ..new }
    })
}
