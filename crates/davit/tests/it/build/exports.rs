//! Results that leave the store: pushed with the build, in other forms, with facts for programs.

use std::{fs, io::Read as _, path::Path};

use davit_test::{Access, Registry, need_tool};
use serde_json::Value;

use super::bench::{Bench, alpine, list};
use crate::davit;

const FILES: [(&str, &str); 2] = [("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /f\n")];

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> Vec<u8> {
    let digest = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
    fs::read(layout.join("blobs/sha256").join(digest)).unwrap()
}

fn document(layout: &Path, digest: &Value) -> Value {
    serde_json::from_slice(&blob(layout, digest)).unwrap()
}

/// Builds a layout; gives its folder and what its index names.
fn layout(bench: &Bench, name: &str, keys: &str, args: &[&str]) -> (std::path::PathBuf, Value) {
    let folder = bench.davit.dir().join(name);
    let spec = format!("type=oci,tar=false,dest={}{keys}", folder.display());
    let outcome = bench.run(&[args, &["-o", &spec]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let index = json(&folder.join("index.json"));
    (folder, index["manifests"][0].clone())
}

#[test]
fn a_build_pushes_what_it_made() {
    let (Some(bench), Some(registry)) = (Bench::new(&FILES), Registry::start(Access::Open)) else {
        return;
    };
    let facts = bench.davit.dir().join("facts.json");
    let facts = facts.to_str().unwrap();
    let name = format!("{}/made:1", registry.host());
    let outcome = bench.run(&["--push", "-t", &name, "--metadata-file", facts]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let built = bench.config(&outcome);
    let told = json(Path::new(facts));
    let pushed = format!("Pushed {}", told["containerimage.digest"].as_str().unwrap());
    assert!(outcome.stderr.contains(&pushed), "{}", outcome.stderr);
    let context = bench.context.to_str().unwrap();
    let silent = bench.davit.run(["build", "--progress", "none", "--push", "-t", &name, context]);
    assert_eq!((silent.code, silent.stdout.as_str(), silent.stderr.as_str()), (0, "", ""));
    assert_eq!(told["image.name"], *name);
    assert_eq!(told["containerimage.descriptor"]["digest"], told["containerimage.digest"]);
    let other = davit();
    other.ok(["pull", &name]);
    let pulled = other.ok(["image", "inspect", "-f", "{{json .RepoDigests}}", &name]);
    let digest = told["containerimage.digest"].as_str().unwrap();
    assert!(pulled.contains(digest), "{pulled}");
    let id = |davit: &davit_test::Davit| davit.ok(["images", "-q", "--no-trunc", &name]);
    assert_eq!(id(&other), id(&bench.davit));
    assert_eq!(told["containerimage.config.digest"], *id(&other));
    let config = fs::read(other.root().join("blobs/sha256").join(&id(&other)[7..])).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&config).unwrap(), built);
    // Nothing is named here, and by its digest alone nothing there.
    for (tag, keys) in [("2", ""), ("3", ",push-by-digest=true,name-canonical=true")] {
        let name = format!("{}/made:{tag}", registry.host());
        let spec = format!("type=registry,store=false,name={name}{keys}");
        bench.build(&["-o", &spec, "--metadata-file", facts]);
        assert_eq!(bench.davit.ok(["images", "-q", &name]), "");
        let tagged = other.run(["pull", &name]).code == 0;
        assert_eq!(tagged, keys.is_empty(), "{keys}");
        let digest = json(Path::new(facts))["containerimage.digest"].as_str().unwrap().to_owned();
        other.ok(["pull", &format!("{}/made@{digest}", registry.host())]);
    }
    // A name of nothing, and a registry that is not there: no name moves.
    let refused = bench.run(&["--push"]);
    assert!(refused.stderr.contains("a push needs a name"), "{}", refused.stderr);
    let failed = bench.run(&["--push", "-t", "127.0.0.1:1/none:1", "--metadata-file", facts]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert_eq!(bench.davit.ok(["images", "-q", "127.0.0.1:1/none:1"]), "");
    assert!(!Path::new(facts).exists(), "what was told is of another build");
}

#[test]
fn layers_are_compressed_as_asked() {
    let Some(bench) = Bench::new(&FILES) else { return };
    let plain = bench.build(&[]);
    let kinds = [
        ("", "vnd.oci.image.layer.v1.tar"),
        (",compression=uncompressed", "vnd.oci.image.layer.v1.tar"),
        (",compression=gzip,compression-level=9", "vnd.oci.image.layer.v1.tar+gzip"),
        (",compression=zstd,force-compression=true", "vnd.oci.image.layer.v1.tar+zstd"),
        (",compression-level=1,oci-mediatypes=false", "vnd.docker.image.rootfs.diff.tar.gzip"),
    ];
    for (number, (keys, media_type)) in kinds.into_iter().enumerate() {
        let name = |what: &str| format!("{what}-{number}");
        let (folder, top) = layout(&bench, &name("layout"), keys, &["-t", "packed:1"]);
        let manifest = document(&folder, &top["digest"]);
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], format!("application/{media_type}"), "{keys}");
        assert_eq!(blob(&folder, &layer["digest"]).len(), layer["size"], "{keys}");
        let docker = keys.contains("oci-mediatypes=false");
        let of = |value: &Value| value["mediaType"].as_str().unwrap().contains("docker");
        assert_eq!((of(&top), of(&manifest["config"])), (docker, docker), "{keys}");
        // The same twice, whoever asks.
        let (again, second) = layout(&bench, &name("again"), keys, &["--no-cache", "-t", "x:1"]);
        let second = document(&again, &second["digest"]);
        assert_eq!(second["layers"], manifest["layers"], "{keys}");
        // Others read it, and it is the same image.
        let other = davit();
        let tar = other.dir().join("packed.tar");
        let spec = format!("type=oci,dest={}{keys}", tar.display());
        assert_eq!(bench.run(&["-t", "packed:1", "-o", &spec]).code, 0, "{keys}");
        other.ok(["load", "-i", tar.to_str().unwrap()]);
        let source = format!("oci:{}:docker.io/library/packed:1", folder.display());
        other.ok(["copy", "-q", &source, "copied:1"]);
        for name in ["packed:1", "copied:1"] {
            let id = other.ok(["images", "-q", "--no-trunc", name]);
            let config = fs::read(other.root().join("blobs/sha256").join(&id[7..])).unwrap();
            let config: Value = serde_json::from_slice(&config).unwrap();
            assert_eq!(config["rootfs"], plain["rootfs"], "{name} {keys}");
        }
    }
    if let Some(skopeo) = need_tool("skopeo") {
        let source = bench.davit.dir().join("layout-3");
        let target = bench.davit.dir().join("copied");
        let (source, target) = (format!("oci:{}", source.display()), target.display());
        let mut command = std::process::Command::new(skopeo);
        command.args(["--insecure-policy", "copy", &source, &format!("dir:{target}")]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn annotations_are_where_they_belong() {
    let Some(bench) = Bench::new(&FILES) else { return };
    let args = ["--annotation", "a=1", "--annotation", "manifest,manifest-descriptor:b=2"];
    let (folder, top) = layout(&bench, "one", ",annotation.c=3", &args);
    let manifest = document(&folder, &top["digest"]);
    assert_eq!(manifest["annotations"], serde_json::json!({"a": "1", "b": "2", "c": "3"}));
    assert_eq!(top["annotations"]["b"], "2");
    let platforms = ["--platform", "linux/amd64,linux/arm64"];
    let more = ["--annotation", "index:i=1", "--annotation", "index-descriptor:d=1"];
    let only = ["--annotation", "manifest[linux/arm64],manifest-descriptor[linux/arm64]:m=1"];
    let (folder, top) = layout(&bench, "two", "", &[&platforms[..], &more, &only].concat());
    assert_eq!(top["annotations"]["d"], "1");
    let index = document(&folder, &top["digest"]);
    assert_eq!(index["annotations"], serde_json::json!({"i": "1"}));
    let [amd64, arm64] = &index["manifests"].as_array().unwrap()[..] else { panic!("{index}") };
    assert_eq!(amd64["annotations"], Value::Null);
    assert_eq!(arm64["annotations"]["m"], "1");
    assert_eq!(document(&folder, &amd64["digest"])["annotations"], Value::Null);
    assert_eq!(document(&folder, &arm64["digest"])["annotations"]["m"], "1");
    for (args, words) in [
        (&["--annotation", "index:a=1"][..], "is for an index"),
        (&["--annotation", "manifest[linux/arm64]:a=1"], "is for linux/arm64"),
        (&["--annotation", "other:a=1"], "`other` is none of manifest"),
        (&["--annotation", "a"], "KEY=VALUE"),
    ] {
        let refused = bench.run(args);
        assert!(refused.code != 0 && refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[test]
fn no_time_is_later_than_the_epoch() {
    const EPOCH: u64 = 1_700_000_000;
    let Some(bench) = alpine("RUN echo made > /made && rm /etc/motd && ln /made /twice\n") else {
        return;
    };
    let keys = format!(",rewrite-timestamp=true,source-date-epoch={EPOCH}");
    let (folder, top) = layout(&bench, "clamped", &keys, &[]);
    assert_eq!(top["annotations"]["org.opencontainers.image.created"], "2023-11-14T22:13:20Z");
    let manifest = document(&folder, &top["digest"]);
    let mut names = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let bytes = blob(&folder, &layer["digest"]);
        let mut archive = tar::Archive::new(&bytes[..]);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert!(entry.header().mtime().unwrap() <= EPOCH, "{:?}", entry.path());
            let mut text = String::new();
            let name = entry.path().unwrap().display().to_string();
            if name == "made" {
                entry.read_to_string(&mut text).unwrap();
                assert_eq!(text, "made\n");
            }
            names.push(name);
        }
    }
    for name in ["made", "twice", "etc/.wh.motd"] {
        assert!(names.iter().any(|it| it == name), "{name}");
    }
    // Everything is there a second time, and from scratch it is the same.
    let (folder, again) = layout(&bench, "again", &keys, &["--no-cache"]);
    assert_eq!(document(&folder, &again["digest"])["layers"], manifest["layers"]);
    let files = bench.files(&["--build-arg", &format!("SOURCE_DATE_EPOCH={EPOCH}")]);
    assert!(list(&files).contains(&"made 644 made".to_owned()));
    let warned = bench.run(&["-o", "type=image,rewrite-timestamp=true"]);
    assert!(warned.stderr.contains("rewrite-timestamp has no effect"), "{}", warned.stderr);
    let refused = bench.run(&["-o", "type=image,rewrite-timestamp=true", "-o", "type=image"]);
    assert!(refused.stderr.contains("the same rewrite-timestamp"), "{}", refused.stderr);
}

#[test]
fn stages_without_cache_are_built_again() {
    let dockerfile = "FROM scratch AS one\nCOPY f /f\nFROM scratch AS two\nCOPY f /g\n\
                      FROM scratch\nCOPY --from=one /f /\nCOPY --from=two /g /\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", dockerfile)]) else { return };
    bench.build(&[]);
    let again = bench.run(&["--no-cache-filter", "TWO,tow", "--explain"]);
    assert!(again.stderr.contains("(3 of 4 steps cached)"), "{}", again.stderr);
    assert!(again.stderr.contains("[two 1/1] COPY f /g"), "{}", again.stderr);
    let warning = "no stage `tow` to build without cache; did you mean `two`?";
    assert!(again.stderr.contains(warning), "{}", again.stderr);
    assert!(bench.run(&[]).stderr.contains("(4 of 4 steps cached)"));
    // Of one stage on, of a line in its middle, of a line that makes nothing.
    let from = bench.run(&["--no-cache-from", "one,tow,99", "--explain"]);
    assert!(from.stderr.contains("(1 of 4 steps cached)"), "{}", from.stderr);
    assert!(from.stderr.contains("no stage `tow` to run again from; did you mean `two`?"));
    let line = bench.run(&["--no-cache-from", "7"]);
    assert!(line.stderr.contains("(3 of 4 steps cached)"), "{}", line.stderr);
    // What is old, and what was seen again since.
    let old = bench.run(&["--cache-ttl", "0s", "--explain"]);
    assert!(old.stderr.contains("(0 of 4 steps cached)"), "{}", old.stderr);
    assert!(old.stderr.contains("its result is too old for --cache-ttl: "), "{}", old.stderr);
    let young = bench.run(&["--cache-ttl", "1h"]);
    assert!(young.stderr.contains("(4 of 4 steps cached)"), "{}", young.stderr);
    assert!(bench.run(&["--cache-ttl", "soon"]).stderr.contains("for example 90m or 24h"));
}

#[test]
fn a_directory_is_as_the_result_if_that_is_allowed() {
    let files = [("a/x", "1"), ("f", "1"), ("Dockerfile", "FROM scratch\nCOPY a /a\nCOPY f /f\n")];
    let Some(bench) = Bench::new(&files) else { return };
    let out = bench.davit.dir().join("out");
    let before = |name: &str, text: &str| {
        fs::create_dir_all(out.join(name).parent().unwrap()).unwrap();
        fs::write(out.join(name), text).unwrap();
    };
    before("old/deep/file", "0");
    before("a/y", "0");
    before("f/was/a/directory", "0");
    before("kept", "0");
    std::os::unix::fs::symlink(&bench.context, out.join("link")).unwrap();
    let spec = format!("type=local,mode=delete,dest={}", out.display());
    let refused = bench.run(&["-o", &spec]);
    assert!(refused.stderr.contains("--allow buildx.local.delete"), "{}", refused.stderr);
    assert!(out.join("kept").exists());
    let outcome = bench.run(&["--allow", "buildx.local.delete", "-o", &spec]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(list(&out), ["a/ 755", "a/x 644 1", "f 644 1"]);
    assert!(bench.context.join("f").exists(), "a link is removed, not what it leads to");
    // What is in the way is named with what helps.
    fs::remove_dir_all(&out).unwrap();
    std::os::unix::fs::symlink("nowhere", &out).unwrap();
    let told = bench.run(&["-o", &format!("type=local,dest={}", out.display())]).stderr;
    assert!(told.contains("hint: a file or a symlink that leads to no directory"), "{told}");
    fs::remove_file(&out).unwrap();
    fs::create_dir(&out).unwrap();
    std::os::unix::fs::symlink("../context", out.join("a")).unwrap();
    let told = bench.run(&["-o", &format!("type=local,dest={}", out.display())]).stderr;
    assert!(told.contains("hint: what stands there is a directory in one"), "{told}");
}

/// With several images at once the metadata file tells of the last one, as BuildKit's does.
#[test]
fn the_last_image_is_told() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]) else {
        return;
    };
    let folder = bench.davit.dir().join("packed");
    let layout = format!("type=oci,tar=false,dest={},compression=gzip", folder.display());
    let store = "type=image,name=both:1".to_owned();
    let file = bench.davit.dir().join("facts.json");
    let digest = |outputs: [&String; 2]| {
        let _absent = fs::remove_dir_all(&folder);
        let args = ["--metadata-file", file.to_str().unwrap(), "-o", outputs[0], "-o", outputs[1]];
        bench.build(&args);
        json(&file)["containerimage.digest"].clone()
    };
    let last = digest([&store, &layout]);
    assert_eq!(last, json(&folder.join("index.json"))["manifests"][0]["digest"]);
    let last = digest([&layout, &store]);
    assert_ne!(last, json(&folder.join("index.json"))["manifests"][0]["digest"]);
    let index = bench.run(&["-o", "type=image,annotation-index.a=b"]);
    assert!(index.code == 1 && index.stderr.contains("hint: attestation-inline"), "{index:?}");
}
