//! The second peer: buildah as Debian installs it, with a store of the test's own.
//!
//! It writes history in its own words and knows no heredocs, so it is asked for what a container
//! of the image would see: the part of the config that counts at run time, and the files.

use std::{path::Path, process::Command};

use serde_json::{Map, Value};

use super::Case;

/// What of a config matters to a container.
const FIELDS: [&str; 13] = [
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
    "architecture",
];

/// Builds cases; `buildah.tar` beside each Dockerfile is the result. `false` without buildah.
pub(super) fn build(work: &Path, base: &Path, cases: &[&Case]) -> bool {
    let Some(program) = davit_test::need_tool("buildah") else { return false };
    let store = |name: &str| work.join(name).display().to_string();
    let buildah = format!(
        "{} --root {} --runroot {} --storage-driver vfs",
        program.display(),
        store("buildah"),
        store("buildah-run")
    );
    // Its many syncs cost nothing in memory, where little is held at a time.
    let mut script = format!(
        "mkdir {0} && mount -t tmpfs tmpfs {0} && {buildah} pull --quiet docker-archive:{1} || exit 1\n",
        store("buildah"),
        base.display()
    );
    // Two at a time: each of them mostly waits.
    let (one, other) = cases.split_at(cases.len() / 2);
    for (number, cases) in [one, other].into_iter().enumerate() {
        let lines: String = cases.iter().map(|case| command(&buildah, case)).collect();
        script.push_str(&format!("( {lines} ) & part{number}=$!\n"));
    }
    script.push_str("wait $part0; wait $part1; true\n");
    // Without a network: a step shares the one that it is started in.
    let mut command = Command::new("unshare");
    fs_err::write(work.join("script"), script).unwrap();
    command.args(["--mount", "--net", "--propagation", "private", "sh"]).arg(work.join("script"));
    let output = command.env("HOME", work).env("TMPDIR", work).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// Builds a case and saves the result; once more where there is none. On a busy machine buildah fails
/// now and then by itself, and what it cannot build it cannot build twice.
fn command(buildah: &str, case: &Case) -> String {
    let folder = case.made.display();
    format!(
        "cd {folder}; for try in 1 2; do [ -e {folder}/buildah.tar ] || {{\n\
             {buildah} bud --quiet --isolation chroot --pull-never --format docker \
             --tag case-{name}:made {options} --file {folder}/Dockerfile {folder}/context \
             && {buildah} push --quiet case-{name}:made \
             docker-archive:{folder}/buildah.tar:case-{name}:made\n\
             {buildah} rmi --force case-{name}:made\n\
             }}; done >{folder}/buildah.log 2>&1\n",
        name = case.name,
        options = case.options.join(" "),
    )
}

/// Leaves of a summary what buildah and Docker say in the same words.
pub(super) fn common(summary: &mut Value) {
    let Some(config) = summary.get_mut("config").and_then(Value::as_object_mut) else { return };
    let mut kept = Map::new();
    let inner = config.get("config").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, value) in inner.into_iter().chain(config.clone()) {
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        let root = key == "WorkingDir" && value == "/";
        let says = !empty && !root && value != Value::Array(Vec::new());
        if FIELDS.contains(&key.as_str()) && says {
            kept.insert(key, value);
        }
    }
    if let Some(labels) = kept.get_mut("Labels").and_then(Value::as_object_mut) {
        labels.remove("io.buildah.version");
        if labels.is_empty() {
            kept.remove("Labels");
        }
    }
    kept.sort_keys();
    *config = kept;
    super::forget_directory_times(summary);
}
