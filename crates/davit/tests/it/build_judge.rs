//! The judge of builds: the same Dockerfiles built by davit and by peers.
//!
//! Cases lie in `crates/davit-build/tests/data/CASE/`: a `Dockerfile`, perhaps `options.txt` (flags),
//! `context.txt` (else the one of the folder above), `Dockerfile.dockerignore`; and `expected.json`,
//! what Docker 26 with buildx 0.13 makes of it, or BuildKit 0.33 where there is a `newer.txt`: the
//! image config, and every path that differs from the base image. The record is compared everywhere;
//! where the peers can be had, each of them builds every case that it knows.
//! `davit.differences` beside the cases lists and explains what davit does differently from the
//! record, `PEER.differences` what a peer does, and which cases are beyond it.
//! `names.txt` tells which of them, or which other test, shows what BuildKit's own tests check.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod archive;
mod buildah;
mod buildkit;
pub(crate) mod context;
mod names;
pub(crate) mod peer;
mod refused;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use davit_test::{Davit, Outcome, TempDir};
use serde_json::{Value, json};

use archive::Image;

/// How many davits build cases at the same time.
const PARTS: usize = 4;
/// Makes the recorded answers that are missing.
const RECORD_ENV: &str = "DAVIT_TEST_RECORD";

/// One case, its context made on disk.
#[derive(Debug)]
struct Case {
    name: String,
    folder: PathBuf,
    /// Holds `Dockerfile` and `context/`.
    made: PathBuf,
    options: Vec<String>,
    /// Whether BuildKit alone knows what is asked for.
    newer: bool,
}

fn data() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../davit-build/tests/data")
}

/// All cases, made below `root`.
fn cases(root: &Path) -> Vec<Case> {
    let mut names: Vec<String> = fs_err::read_dir(data())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(names.len() >= 40);
    names.into_iter().map(|name| make(root, name)).collect()
}

fn make(root: &Path, name: String) -> Case {
    let folder = data().join(&name);
    let made = root.join(&name);
    fs_err::create_dir_all(&made).unwrap();
    for file in ["Dockerfile", "Dockerfile.dockerignore"] {
        if folder.join(file).exists() {
            fs_err::copy(folder.join(file), made.join(file)).unwrap();
        }
    }
    let own = folder.join("context.txt");
    let plan = if own.exists() { own } else { data().join("context.txt") };
    context::make(&fs_err::read_to_string(plan).unwrap(), &made.join("context"));
    let options = fs_err::read_to_string(folder.join("options.txt")).unwrap_or_default();
    let options = options.split_whitespace().map(str::to_owned).collect();
    let newer = folder.join("newer.txt").exists();
    Case { name, folder, made, options, newer }
}

/// The cases, and the base image that they start from.
struct Setup {
    work: TempDir,
    base_tar: PathBuf,
    base: Image,
    cases: Vec<Case>,
}

impl Setup {
    fn new(busybox: &Path) -> Self {
        let mut setup = Self::bare(busybox);
        setup.cases = cases(&setup.work.join("cases"));
        setup
    }

    /// Without cases.
    fn bare(busybox: &Path) -> Self {
        let (work, cases) = (TempDir::new(), Vec::new());
        let base_tar = work.join("base.tar");
        context::make_base(busybox, &base_tar, &work.join("base"));
        let base = Image::read(&base_tar);
        Self { work, base_tar, base, cases }
    }
}

/// What is compared: the config without times, and the paths that differ from the base's.
fn summary(image: &Image, base: &Image) -> Value {
    let mut config = image.config.clone();
    let object = config.as_object_mut().unwrap();
    object.remove("created");
    object.remove("rootfs");
    object.remove("moby.buildkit.buildinfo.v1");
    for entry in object.get_mut("history").and_then(Value::as_array_mut).into_iter().flatten() {
        entry.as_object_mut().unwrap().remove("created");
    }
    // Absent, null and empty are one for a list that says nothing.
    let says_nothing = |value: &Value| value.is_null() || *value == json!("");
    if let Some(inner) = object.get_mut("config").and_then(Value::as_object_mut) {
        inner.retain(|_, value| !says_nothing(value));
    }
    let mut tree = BTreeMap::new();
    for (path, entry) in &image.tree {
        if base.tree.get(path) != Some(entry) {
            tree.insert(path.clone(), json!(entry));
        }
    }
    let on_base = image.tree.contains_key("bin/busybox");
    for path in base.tree.keys().filter(|path| on_base && !image.tree.contains_key(*path)) {
        tree.insert(path.clone(), Value::Null);
    }
    sort(&mut config);
    json!({"config": config, "tree": tree})
}

/// Sorts the keys of all objects: order says nothing.
fn sort(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.sort_keys();
            map.values_mut().for_each(sort);
        }
        Value::Array(items) => items.iter_mut().for_each(sort),
        _ => {}
    }
}

/// Each place where two summaries differ, as `path: one != other`.
fn differences(place: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let absent = Value::String("(absent)".to_owned());
                let (a, b) = (a.get(key).unwrap_or(&absent), b.get(key).unwrap_or(&absent));
                differences(&format!("{place}/{key}"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{place}[{index}]"), a, b, found);
            }
        }
        _ if one == other => {}
        _ => found.push(format!("{place}: {one} != {other}")),
    }
}

fn recorded(case: &Case) -> Value {
    let path = case.folder.join("expected.json");
    let text = fs_err::read_to_string(path).expect("each case has a record");
    serde_json::from_str(&text).unwrap()
}

fn write_record(case: &Case, value: &Value) {
    let text = serde_json::to_string_pretty(value).unwrap();
    fs_err::write(case.folder.join("expected.json"), text + "\n").unwrap();
}

/// Docker's copy of a context gives directories the time of the transfer, or not.
fn forget_directory_times(summary: &mut Value) {
    for entry in summary.get_mut("tree").and_then(Value::as_object_mut).into_iter().flatten() {
        let Value::String(text) = entry.1 else { continue };
        if let Some((rest, _)) = text.clone().strip_prefix("dir ").and_then(|it| it.split_once('@'))
        {
            *text = format!("dir {rest}");
        }
    }
}

/// Lines `CASE PLACE` of a builder's file of differences that are meant; `*` stands for any case.
fn meant(builder: &str) -> Vec<(String, String)> {
    let text = fs_err::read_to_string(data().join(format!("{builder}.differences"))).unwrap();
    text.lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
        .map(|line| {
            let (case, place) = line.split_once(' ').expect("a line is `CASE PLACE`");
            (case.to_owned(), place.trim_end().to_owned())
        })
        .collect()
}

/// Whether a case is more than a builder knows.
fn is_beyond(meant: &[(String, String)], case: &Case) -> bool {
    meant.iter().any(|(name, place)| *name == case.name && place == "/")
}

fn is_meant(meant: &[(String, String)], case: &str, difference: &str) -> bool {
    meant.iter().any(|(name, place)| {
        (name == "*" || name == case) && difference.starts_with(place.as_str())
    })
}

/// Compares results with the record, but for the differences that are meant.
fn compare(results: &[(&Case, Value)], meant: &[(String, String)], same: fn(&mut Value)) {
    let mut wrong = Vec::new();
    for (case, summary) in results {
        let mut found = Vec::new();
        let (mut summary, mut record) = (summary.clone(), recorded(case));
        same(&mut summary);
        same(&mut record);
        differences("", &summary, &record, &mut found);
        found.retain(|difference| !is_meant(meant, &case.name, difference));
        wrong.extend(found.into_iter().map(|difference| format!("{} {difference}", case.name)));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}

/// davit against the record.
#[test]
fn davit_builds_what_is_on_record() {
    if !davit_test::need_root() {
        return;
    }
    let Some(busybox) = context::busybox() else { return };
    let Setup { work: _work, base_tar, base, cases } = Setup::new(&busybox);
    // Each of them mostly waits for the disk.
    let part = |cases: &'_ [Case]| {
        let davit = crate::davit();
        davit.ok(["load", "--quiet", "--input", base_tar.to_str().unwrap()]);
        cases.iter().map(|case| build(&davit, case, &base)).collect::<Vec<Value>>()
    };
    let built: Vec<Value> = std::thread::scope(|scope| {
        let parts = cases.chunks(cases.len().div_ceil(PARTS));
        let parts: Vec<_> = parts.map(|cases| scope.spawn(|| part(cases))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    let results: Vec<(&Case, Value)> = cases.iter().zip(built).collect();
    let (newer, results): (Vec<_>, Vec<_>) = results.into_iter().partition(|(case, _)| case.newer);
    compare(&results, &meant("davit"), |_| {});
    // BuildKit's directories have the time at which they were sent or last written to.
    compare(&newer, &meant("davit"), forget_directory_times);
}

fn build(davit: &Davit, case: &Case, base: &Image) -> Value {
    let tag = format!("case-{}:made", case.name);
    let dockerfile = case.made.join("Dockerfile");
    let context = case.made.join("context");
    let saved = case.made.join("davit.tar");
    let output = format!("type=docker,dest={}", saved.display());
    let mut args = vec!["build", "--quiet", "--network", "none", "--tag", &tag];
    args.extend(["--output", &output, "--file", dockerfile.to_str().unwrap()]);
    args.extend(case.options.iter().map(String::as_str));
    args.push(context.to_str().unwrap());
    let outcome = Outcome::from(davit.command(&args).current_dir(&case.made).output().unwrap());
    if outcome.code != 0 {
        return json!({"error": outcome.stderr});
    }
    summary(&Image::read(&saved), base)
}

/// What a peer saved, or what it said where it failed, if that was kept beside.
fn of_peer(saved: &Path, base: &Image) -> Value {
    match saved.exists() {
        true => summary(&Image::read(saved), base),
        false => {
            let said = fs_err::read_to_string(saved.with_extension("log"));
            json!({"error": said.unwrap_or_default()})
        }
    }
}

/// buildah against the record: two peers that agree make a better judge than one.
#[test]
fn buildah_builds_what_is_on_record() {
    if !davit_test::need_root() {
        return;
    }
    let Some(busybox) = context::busybox() else { return };
    let Setup { work, base_tar, base, cases } = Setup::new(&busybox);
    let meant = meant("buildah");
    let cases: Vec<&Case> = cases.iter().filter(|case| !is_beyond(&meant, case)).collect();
    if !buildah::build(work.path(), &base_tar, &cases) {
        return;
    }
    let result = |case: &Case| of_peer(&case.made.join("buildah.tar"), &base);
    let results: Vec<(&Case, Value)> = cases.iter().map(|case| (*case, result(case))).collect();
    compare(&results, &meant, buildah::common);
}

/// Compares what a peer made with the record, or writes the records that are not there.
fn record_or_compare(results: &[(&Case, Value)], same: fn(&mut Value)) {
    let new = results.iter().filter(|(case, _)| recording() && is_new(case));
    new.for_each(|(case, value)| write_record(case, value));
    compare(results, &[], same);
}

fn recording() -> bool {
    std::env::var_os(RECORD_ENV).is_some()
}

fn is_new(case: &Case) -> bool {
    !case.folder.join("expected.json").exists()
}

/// Docker against the record, or the record anew.
#[test]
fn docker_builds_what_is_on_record() {
    let Some(peer) = peer::Peer::new() else { return };
    let Setup { work, base, mut cases, .. } = Setup::new(peer.busybox());
    let meant = meant("docker");
    cases.retain(|case| !is_beyond(&meant, case) && (!recording() || is_new(case)));
    peer.docker(work.path(), &cases);
    let result = |case: &Case| of_peer(&case.made.join("docker.tar"), &base);
    let results: Vec<(&Case, Value)> = cases.iter().map(|case| (case, result(case))).collect();
    let (newer, older): (Vec<_>, Vec<_>) = results.into_iter().partition(|(case, _)| case.newer);
    compare(&newer, &meant, forget_directory_times);
    record_or_compare(&older, forget_directory_times);
}

/// BuildKit against the record of the newer cases, or that record anew.
#[test]
fn buildkit_builds_what_is_on_record() {
    if !davit_test::need_root() {
        return;
    }
    let Some(busybox) = context::busybox() else { return };
    let Setup { work, base, cases, .. } = Setup::new(&busybox);
    let cases: Vec<&Case> = cases.iter().filter(|case| !recording() || is_new(case)).collect();
    if !buildkit::build(work.path(), &cases) {
        return;
    }
    let result = |case: &Case| of_peer(&case.made.join("buildkit.tar"), &base);
    let results: Vec<(&Case, Value)> = cases.iter().map(|case| (*case, result(case))).collect();
    let (newer, older): (Vec<_>, Vec<_>) = results.into_iter().partition(|(case, _)| case.newer);
    // What davit does differently from Docker 26 is what the newer BuildKit does.
    let differs = [meant("davit"), meant("buildkit")].concat();
    compare(&older, &differs, forget_directory_times);
    record_or_compare(&newer, forget_directory_times);
}
