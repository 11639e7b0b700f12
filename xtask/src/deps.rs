//! `cargo xtask check-deps`: arrows between crates point upward only.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::process;

/// Crate, its layer, and the workspace crates it may depend on.
const TABLE: &[(&str, u8, &[&str])] = &[
    ("davit-image", 0, &[]),
    ("davit-composefile", 0, &[]),
    ("davit-bake", 0, &["davit-composefile", "davit-dockerfile"]),
    ("davit-dockerfile", 0, &["davit-image"]),
    ("davit-sys", 1, &[]),
    ("davit-layer", 1, &["davit-image", "davit-sys"]),
    ("davit-store", 1, &["davit-image", "davit-sys"]),
    ("davit-snapshot", 1, &["davit-image", "davit-layer", "davit-store", "davit-sys"]),
    ("davit-network", 1, &["davit-image", "davit-sys"]),
    ("davit-runtime", 1, &["davit-image", "davit-network", "davit-sys"]),
    ("davit-distribution", 2, &["davit-image"]),
    (
        "davit-build",
        3,
        &[
            "davit-dockerfile",
            "davit-image",
            "davit-layer",
            "davit-network",
            "davit-runtime",
            "davit-snapshot",
            "davit-store",
            "davit-sys",
        ],
    ),
    ("davit-scan", 3, &["davit-image", "davit-layer"]),
    (
        "davit-engine",
        4,
        &[
            "davit-build",
            "davit-distribution",
            "davit-dockerfile",
            "davit-image",
            "davit-layer",
            "davit-network",
            "davit-runtime",
            "davit-scan",
            "davit-snapshot",
            "davit-store",
            "davit-sys",
        ],
    ),
    ("davit-registry", 5, &["davit-distribution", "davit-engine", "davit-image", "davit-sys"]),
    ("davit", 6, &["davit-bake", "davit-engine", "davit-registry"]),
];

/// Crates that only tests and tasks use; anything may depend on them for its tests.
const DEVELOPMENT: &[&str] = &["davit-test", "xtask"];
/// Async and HTTP crates, which the synchronous layers 0 and 1 must not pull in.
const ASYNC: &[&str] = &["tokio", "hyper", "reqwest", "axum", "tonic", "futures"];

/// Compares `cargo metadata` with the table.
pub(crate) fn check() -> Result<()> {
    let json =
        process::output(process::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let faults = faults(&serde_json::from_str(&json)?);
    for fault in &faults {
        eprintln!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} dependencies break the layer table", faults.len());
    }
    println!("check-deps: {} crates follow the layer table", TABLE.len());
    Ok(())
}

fn faults(metadata: &Value) -> Vec<String> {
    let table: BTreeMap<&str, (u8, &[&str])> =
        TABLE.iter().map(|(name, layer, allowed)| (*name, (*layer, *allowed))).collect();
    let mut faults = Vec::new();
    for package in array(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap_or_default();
        if DEVELOPMENT.contains(&name) {
            continue;
        }
        let Some((layer, allowed)) = table.get(name) else {
            faults.push(format!("{name}: is missing in xtask's layer table"));
            continue;
        };
        for dependency in array(&package["dependencies"]) {
            let other = dependency["name"].as_str().unwrap_or_default();
            let test_only = dependency["kind"] == "dev";
            let ours = other.starts_with("davit") && dependency.get("path").is_some();
            if ours && !allowed.contains(&other) && !(test_only && DEVELOPMENT.contains(&other)) {
                faults.push(format!("{name} (layer {layer}): must not depend on {other}"));
            }
            if *layer <= 1 && !test_only && ASYNC.contains(&other) {
                faults.push(format!("{name} (layer {layer}): is synchronous, but uses {other}"));
            }
        }
    }
    faults
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let dependencies: Vec<Value> = dependencies
            .iter()
            .map(|(name, kind)| json!({"name": name, "kind": kind, "path": "x"}))
            .collect();
        json!({"packages": [{"name": name, "dependencies": dependencies}]})
    }

    #[test]
    fn finds_arrows_that_point_down() {
        let good = package("davit-layer", &[("davit-image", None), ("davit-test", Some("dev"))]);
        assert!(faults(&good).is_empty());
        let cases = [
            package("davit-layer", &[("davit-store", None)]),
            package("davit-image", &[("davit-test", None)]),
            package("davit-store", &[("tokio", None)]),
            package("davit-store", &[("davit-engine", Some("dev"))]),
            package("davit-new", &[]),
        ];
        for case in cases {
            assert_eq!(faults(&case).len(), 1, "{case}");
        }
    }
}
