//! Images by name and as files: Docker's words, columns and exit codes, and the peers' readers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use davit_test::{Davit, Outcome, need_image, need_root, need_tool, tar_of};

use crate::davit;

/// Imports an image of one small file under `name`; yields its ID.
fn import(davit: &Davit, name: &str, content: &str) -> String {
    let tar = davit.dir().join(format!("{}.tar", content.replace(' ', "-")));
    fs_err::write(&tar, tar_of(&[("file", content.as_bytes())])).unwrap();
    davit.ok(["import", tar.to_str().unwrap(), name])
}

fn save(davit: &Davit, names: &[&str]) -> PathBuf {
    let path = davit.dir().join("saved.tar");
    davit.ok([&["save", "-o", path.to_str().unwrap()], names].concat());
    path
}

/// A list of images without its column CREATED, which is another one a second later.
fn without_age(list: &str) -> Vec<(&str, &str)> {
    let header = list.lines().next().unwrap();
    let (created, size) = (header.find("CREATED").unwrap(), header.find("SIZE").unwrap());
    list.lines().map(|line| (&line[..created], &line[size..])).collect()
}

fn json(davit: &Davit, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&davit.ok(args)).unwrap()
}

fn with_stdin(davit: &Davit, args: &[&str], input: &[u8]) -> Outcome {
    let mut child = davit
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its input early closes the pipe.
    drop(child.stdin.take().unwrap().write_all(input));
    Outcome::from(child.wait_with_output().unwrap())
}

#[test]
fn lists_in_dockers_columns() {
    if !need_root() {
        return;
    }
    let davit = davit();
    assert_eq!(davit.ok(["images"]), "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE");
    let id = import(&davit, "app:1", "one");
    davit.ok(["tag", "app:1", "example.org/team/app:2"]);
    let short = &id["sha256:".len()..][..12];
    let list = davit.ok(["images"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 3, "{list}");
    assert!(lines[0].starts_with("REPOSITORY"), "{list}");
    assert!(lines[1].starts_with("app ") && lines[1].contains(short), "{list}");
    // Docker tells an id once for each name.
    assert_eq!(davit.ok(["images", "-q"]), format!("{short}\n{short}"));
    assert_eq!(davit.ok(["images", "-q", "--no-trunc", "app"]), id);
    assert_eq!(davit.ok(["images", "-q", "--format", "{{.Tag}}"]), "1\n2");
    assert_eq!(without_age(&davit.ok(["images", "--format", ""])), without_age(&list));
    assert_eq!(davit.ok(["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "app"]), "app:1");
    let raw = json(&davit, &["images", "--json"]);
    assert_eq!(raw[0]["RepoTags"], serde_json::json!(["app:1", "example.org/team/app:2"]));
    assert_eq!(raw[0]["Id"], id);
}

#[test]
fn filters_as_docker_does() {
    if !need_root() {
        return;
    }
    let davit = davit();
    import(&davit, "old:1", "one");
    let tar = davit.dir().join("two.tar");
    fs_err::write(&tar, tar_of(&[("file", b"two")])).unwrap();
    davit.ok(["import", "-c", "LABEL team=blue", tar.to_str().unwrap(), "new:1"]);
    import(&davit, "new:1", "three");
    let names = |filter: &str| {
        davit.ok(["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", filter])
    };
    assert_eq!(names("dangling=true"), "<none>:<none>");
    assert_eq!(names("label=team"), "<none>:<none>");
    assert_eq!(names("label=team=red"), "");
    assert_eq!(names("reference=n*"), "new:1");
    assert_eq!(names("reference=docker.io/library/new"), "");
    assert_eq!(names("since=old:1").lines().count(), 2);
    assert_eq!(names("before=old:1"), "");
    assert_eq!(names("until=24h"), "");
    assert_eq!(names(&format!("reference={}w", "*".repeat(5000))), "new:1");
    assert_eq!(names(&format!("reference={}x", "*".repeat(5000))), "");
    let refused = davit.run(["images", "["]);
    assert!(refused.code == 1 && refused.stderr.contains("syntax error in pattern"), "{refused:?}");
    let refused = davit.run(["images", "--filter", "color=red"]);
    assert_eq!((refused.code, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("invalid filter 'color'"), "{}", refused.stderr);
}

#[test]
fn removes_names_before_content() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let id = import(&davit, "app:1", "one");
    davit.ok(["tag", "app:1", "app:2"]);
    davit.ok(["tag", "app:1", "other:1"]);
    assert_eq!(davit.ok(["rmi", "app:1"]), "Untagged: app:1");
    davit.ok(["tag", "app:2", "app:3"]);
    // Two names of one repository are too many, too.
    for name in ["other:1", "app:3"] {
        let refused = davit.run(["rmi", &id]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("image is referenced in multiple repositories"));
        davit.ok(["rmi", "--no-prune", name]);
    }
    let removed = davit.ok(["rmi", &id[7..19]]);
    let lines: Vec<&str> = removed.lines().collect();
    assert_eq!(lines[..2], ["Untagged: app:2", &format!("Deleted: {id}")]);
    assert_eq!(lines.len(), 3, "the layer goes, too: {removed}");
    assert!(davit.ok(["images", "-q"]).is_empty());
    let refused = davit.run(["rmi", "app:1", "nothing"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("error: No such image: app:1"), "{}", refused.stderr);
    assert!(refused.stderr.contains("error: No such image: nothing"), "{}", refused.stderr);
    let forced = davit.run(["rmi", "-f", "nothing"]);
    assert!(forced.code == 0 && forced.stderr.contains("No such image: nothing"), "{forced:?}");
}

#[test]
fn a_mistyped_name_gets_a_hint() {
    if !need_root() {
        return;
    }
    let davit = davit();
    import(&davit, "webserver:1", "one");
    let refused = davit.run(["history", "webservr:1"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("did you mean `webserver:1`?"), "{}", refused.stderr);
    import(&davit, "s1", "two");
    let refused = davit.run(["history", "p1"]);
    assert!(!refused.stderr.contains("did you mean"), "{}", refused.stderr);
}

#[test]
fn prunes_what_has_no_name() {
    if !need_root() {
        return;
    }
    let davit = davit();
    import(&davit, "app:1", "one");
    let kept = import(&davit, "app:1", "two");
    let refused = with_stdin(&davit, &["image", "prune"], b"n\n");
    assert_eq!((refused.code, refused.stdout.as_str()), (0, ""));
    assert!(refused.stderr.contains("WARNING! This will remove all dangling images."));
    let pruned = with_stdin(&davit, &["image", "prune"], b"y\n").stdout;
    assert!(pruned.starts_with("Deleted Images:\ndeleted: sha256:"), "{pruned}");
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(davit.ok(["images", "-q", "--no-trunc"]), kept);
    let refused = davit.run(["system", "prune", "-af", "--volumes", "--filter", "until=1h"]);
    let words = "The \"until\" filter is not supported with \"--volumes\"";
    assert!(refused.code == 1 && refused.stderr.contains(words), "{refused:?}");
    davit.ok(["system", "prune", "-a", "-f"]);
    assert_eq!(davit.ok(["images", "-q"]), "");
    assert_eq!(davit.ok(["image", "prune", "-f"]), "Total reclaimed space: 0B");
    // Help and hint name the same filters.
    let refused = davit.run(["image", "prune", "--filter", "bogus=1"]).stderr;
    let known = refused.lines().find_map(|line| line.strip_prefix("hint: known filters: "));
    assert!(davit.ok(["image", "prune", "--help"]).contains(known.unwrap()), "{refused}");
}

#[test]
fn inspects_and_tells_history() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let tar = davit.dir().join("one.tar");
    fs_err::write(&tar, tar_of(&[("file", b"one")])).unwrap();
    let changes = ["-c", "CMD [\"/file\"]", "-c", "ENV A=1", "-m", "made by hand"];
    let id = davit.ok([&["import"], &changes[..], &[tar.to_str().unwrap(), "app:1"]].concat());
    let image = &json(&davit, &["image", "inspect", "app:1"])[0];
    assert_eq!(image["Id"], id);
    assert_eq!(image["RepoTags"], serde_json::json!(["app:1"]));
    assert_eq!(image["Config"], serde_json::json!({"Cmd": ["/file"], "Env": ["A=1"]}));
    assert_eq!(image["RootFS"]["Layers"].as_array().unwrap().len(), 1);
    let template = "{{.Os}} {{index .Config.Cmd 0}} {{len .RootFS.Layers}}";
    assert_eq!(davit.ok(["image", "inspect", "-f", template, &id]), "linux /file 1");
    let partly = davit.run(["image", "inspect", "app:1", "nothing"]);
    assert_eq!(partly.code, 1);
    assert!(partly.stdout.contains(&id) && partly.stderr.contains("No such image: nothing"));
    let history = davit.ok(["history", "--format", "{{.ID}} {{.Comment}}", "app:1"]);
    assert_eq!(history, format!("{} made by hand", &id[7..19]));
    let sizes = davit.ok(["history", "--human=false", "--format", "{{.Size}}", "app:1"]);
    assert_eq!(sizes, tar_of(&[("file", b"one")]).len().to_string());
}

#[test]
fn refuses_what_is_no_name() {
    if !need_root() {
        return;
    }
    let davit = davit();
    import(&davit, "app:1", "one");
    let digest = format!("app@sha256:{}", "0".repeat(64));
    for name in ["App:1", "app:", "-x", "a b", "sha256:1", &digest] {
        let refused = davit.run(["tag", "app:1", name]);
        assert_ne!(refused.code, 0, "{name}");
        assert!(refused.stderr.contains("error: "), "{name}: {}", refused.stderr);
    }
    // Whatever makes an image refuses a digest for its name, and a change that begins another.
    let archive = davit.dir().join("app.tar").display().to_string();
    fs_err::write(&archive, tar_of(&[("file", b"two")])).unwrap();
    let lines: [&[&str]; 3] = [
        &["import", &archive, &digest],
        &["import", "-c", "FROM x", &archive, "new:1"],
        &["build", "-t", &digest, davit.dir().to_str().unwrap()],
    ];
    for line in lines {
        let refused = davit.run(line);
        assert!(refused.code == 1 && refused.stderr.contains("error: "), "{line:?}: {refused:?}");
    }
    assert_eq!(davit.ok(["images", "--format", "{{.Repository}}"]), "app");
}

/// Digests of manifest and config, and the order of files, survive every way in and out.
#[test]
fn round_trips_keep_digests() {
    let (Some(glibc), Some(musl)) =
        (need_image("busybox-glibc-amd64"), need_image("busybox-musl-amd64"))
    else {
        return;
    };
    if !need_root() {
        return;
    }
    let davit = davit();
    for layout in [&glibc, &musl] {
        davit.ok(["load", "-q", "-i", layout.to_str().unwrap()]);
    }
    let names = ["busybox:1.38.0-glibc", "busybox:1.38.0-musl"];
    let facts = |davit: &Davit| {
        names.map(|name| {
            let format = "{{.Id}} {{.Descriptor.digest}} {{.RootFS.Layers}}";
            davit.ok(["image", "inspect", "-f", format, name])
        })
    };
    let before = facts(&davit);
    assert!(before[0].contains("sha256:1cfa4e2b09e1"), "{before:?}");
    assert!(before[1].contains("sha256:a34ce92094b7"), "{before:?}");
    let path = save(&davit, &names);
    let first = fs_err::read(&path).unwrap();
    davit.ok(["rmi", names[0], names[1]]);
    let loaded = davit.ok(["load", "-i", path.to_str().unwrap()]);
    assert_eq!(loaded, format!("Loaded image: {}\nLoaded image: {}", names[0], names[1]));
    assert_eq!(facts(&davit), before);
    assert!(
        fs_err::read(save(&davit, &names)).unwrap() == first,
        "the same images, the same bytes"
    );
    // Through pipes, compressed.
    let gzipped = with_stdin(&davit, &["save", names[0]], b"");
    assert_eq!(gzipped.code, 0);
    davit.ok(["rmi", names[0], names[1]]);
    assert_eq!(with_stdin(&davit, &["load"], &davit_test::gzip(&first)).code, 0);
    assert_eq!(facts(&davit), before);
    davit.ok(["system", "check"]);
}

#[test]
fn hostile_archives_are_refused() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let manifest = br#"[{"Config":"c.json","RepoTags":["a:1"],"Layers":["l.tar"]}]"#.as_slice();
    let config = br#"{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:0000000000000000000000000000000000000000000000000000000000000000"]}}"#.as_slice();
    let layer = tar_of(&[("file", b"x")]);
    let cases: [(&str, Vec<u8>); 7] = [
        ("no image", tar_of(&[("thesis.txt", b"x")])),
        ("not in it", tar_of(&[("manifest.json", manifest)])),
        ("not in it", tar_of(&[("manifest.json", manifest), ("c.json", config)])),
        ("DiffID", tar_of(&[("manifest.json", manifest), ("c.json", config), ("l.tar", &layer)])),
        ("malformed", b"this is no archive at all, whatever it says".repeat(40)),
        ("malformed", tar_of(&[("manifest.json", b"{")])),
        ("ends within", tar_of(&[("manifest.json", manifest)])[..540].to_vec()),
    ];
    for (expected, archive) in cases {
        let refused = with_stdin(&davit, &["load"], &archive);
        assert_eq!(refused.code, 1, "{expected}: {}", refused.stdout);
        assert!(refused.stderr.contains(expected), "{expected}: {}", refused.stderr);
    }
    assert_eq!(davit.ok(["images", "-q"]), "");
    davit.ok(["system", "check"]);
}

#[test]
fn an_interrupted_save_leaves_no_file() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let path = davit.dir().join("out.tar");
    let refused = davit.run(["save", "-o", path.to_str().unwrap(), "nothing"]);
    assert_eq!(refused.code, 1);
    assert!(!path.exists());
    let names: Vec<_> = fs_err::read_dir(davit.dir()).unwrap().flatten().collect();
    assert!(names.iter().all(|name| !name.file_name().to_string_lossy().contains("davit-save")));
    import(&davit, "app:1", "one");
    let full = davit.run(["save", "-o", "/dev/full", "app:1"]);
    assert_eq!(full.code, 1, "{}", full.stderr);
}

fn run(program: &Path, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {stderr}", program.display());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// skopeo reads what davit saved, as either format, and davit reads what skopeo wrote.
#[test]
fn skopeo_agrees() {
    let (Some(skopeo), Some(layout)) = (need_tool("skopeo"), need_image("busybox-musl-amd64"))
    else {
        return;
    };
    if !need_root() {
        return;
    }
    let davit = davit();
    let name = "busybox:1.38.0-musl";
    davit.ok(["load", "-q", "-i", layout.to_str().unwrap()]);
    let id = davit.ok(["images", "-q", "--no-trunc"]);
    let digest = davit.ok(["image", "inspect", "-f", "{{.Descriptor.digest}}", name]);
    let saved = save(&davit, &[name]).display().to_string();
    for source in [format!("docker-archive:{saved}"), format!("oci-archive:{saved}")] {
        let config = run(&skopeo, &["inspect", "--config", "--raw", &source]);
        let config_digest = digest_of(config.as_bytes());
        assert_eq!(config_digest, id, "{source}");
    }
    let manifest = run(&skopeo, &["inspect", "--raw", &format!("oci-archive:{saved}")]);
    assert_eq!(digest_of(manifest.as_bytes()), digest);
    for (format, kept) in [("docker-archive", false), ("oci-archive", true)] {
        let path = davit.dir().join(format!("{format}.tar"));
        let target = format!("{format}:{}:{name}", path.display());
        run(&skopeo, &["copy", "-q", &format!("oci-archive:{saved}"), &target]);
        davit.ok(["system", "prune", "-af"]);
        davit.ok(["load", "-q", "-i", path.to_str().unwrap()]);
        assert_eq!(davit.ok(["images", "-q", "--no-trunc"]), id, "{format}");
        if kept {
            let found = davit.ok(["image", "inspect", "-f", "{{.Descriptor.digest}}", &id]);
            assert_eq!(found, digest, "{format}");
        }
    }
    davit.ok(["system", "check"]);
}

fn digest_of(bytes: &[u8]) -> String {
    davit_engine::image::Digest::of(bytes).to_string()
}

/// Podman loads what davit saved, and the other way round.
#[test]
fn podman_agrees() {
    let (Some(podman), Some(layout)) = (need_tool("podman"), need_image("busybox-musl-amd64"))
    else {
        return;
    };
    if !need_root() {
        return;
    }
    let davit = davit();
    davit.ok(["load", "-q", "-i", layout.to_str().unwrap()]);
    let id = davit.ok(["images", "-q", "--no-trunc"]);
    let saved = save(&davit, &["busybox:1.38.0-musl"]);
    let storage = davit.dir().join("podman");
    let storage = storage.to_str().unwrap();
    let run_root = davit.dir().join("podman-run");
    let roots = ["--root", storage, "--runroot", run_root.to_str().unwrap()];
    let options = [&roots[..], &["--storage-driver", "vfs"]].concat();
    let call = |args: &[&str]| run(&podman, &[&options[..], args].concat());
    call(&["load", "-q", "-i", saved.to_str().unwrap()]);
    let listed = call(&["images", "-q", "--no-trunc"]);
    assert_eq!(listed.trim(), id);
    for format in ["docker-archive", "oci-archive"] {
        let path = davit.dir().join(format!("podman-{format}.tar"));
        call(&["save", "-q", "--format", format, "-o", path.to_str().unwrap(), id[7..].into()]);
        davit.ok(["system", "prune", "-af"]);
        davit.ok(["load", "-q", "-i", path.to_str().unwrap()]);
        assert_eq!(davit.ok(["images", "-q", "--no-trunc"]), id, "{format}");
    }
}

/// Archives as people keep them: in every compression, from a file and from a pipe.
#[test]
fn compressed_archives_are_loaded() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let id = import(&davit, "app:1", "compressed");
    let archive = save(&davit, &["app:1"]);
    for name in ["gzip", "bzip2", "xz", "zstd"] {
        let Some(program) = need_tool(name) else { continue };
        let output = Command::new(program).arg("-c").arg(&archive).output().unwrap();
        assert!(output.status.success(), "{name}");
        davit.ok(["rmi", "-f", "app:1"]);
        let packed = davit.dir().join("packed");
        fs_err::write(&packed, &output.stdout).unwrap();
        davit.ok(["load", "-q", "-i", packed.to_str().unwrap()]);
        assert_eq!(davit.ok(["images", "-q", "--no-trunc", "app"]), id, "{name}");
        davit.ok(["rmi", "-f", "app:1"]);
        let piped = with_stdin(&davit, &["load", "-q"], &output.stdout);
        assert_eq!(piped.code, 0, "{name}: {}", piped.stderr);
        assert_eq!(davit.ok(["images", "-q", "--no-trunc", "app"]), id, "{name}");
        davit.ok(["rmi", "-f", "app:1"]);
        let source = format!("docker-archive:{}", packed.display());
        davit.ok(["copy", "-q", &source, "app:1"]);
        assert_eq!(davit.ok(["images", "-q", "--no-trunc", "app"]), id, "{name}");
        let copied = davit.dir().join("copied");
        davit.ok(["copy", "-q", &source, &format!("dir:{}", copied.display())]);
        let broken = davit.dir().join("broken");
        fs_err::write(&broken, &output.stdout[..output.stdout.len() / 2]).unwrap();
        let refused =
            davit.run(["copy", "-q", &format!("docker-archive:{}", broken.display()), "cut:1"]);
        assert_eq!(refused.code, 1, "{name}: {}", refused.stderr);
        let cut = with_stdin(&davit, &["load", "-q"], &output.stdout[..output.stdout.len() / 2]);
        assert_eq!(cut.code, 1, "{name}: {}", cut.stderr);
        assert!(cut.stderr.contains("error: "), "{name}: {}", cut.stderr);
        // A root file system, too.
        let tar = tar_of(&[("file", b"plain")]);
        let raw = davit.dir().join("raw.tar");
        fs_err::write(&raw, &tar).unwrap();
        let output = Command::new(name).arg("-c").arg(&raw).output().unwrap();
        let imported = with_stdin(&davit, &["import", "-", "raw:1"], &output.stdout);
        assert_eq!(imported.code, 0, "{name}: {}", imported.stderr);
        let layer = davit.ok(["inspect", "-f", "{{index .RootFS.Layers 0}}", "raw:1"]);
        assert_eq!(layer, digest_of(&tar), "{name}");
    }
    davit.ok(["system", "check"]);
}

/// Adds a blob to an OCI layout; yields its descriptor.
fn put(layout: &Path, media_type: &str, content: &[u8]) -> serde_json::Value {
    let digest = digest_of(content);
    let path = layout.join("blobs").join(digest.replace(':', "/"));
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    fs_err::write(path, content).unwrap();
    serde_json::json!({"mediaType": media_type, "digest": digest, "size": content.len()})
}

/// Alpine for two platforms as one OCI archive, layers as they are published.
fn alpine_for_two(davit: &Davit) -> Option<(PathBuf, [String; 2], String)> {
    const OCI: &str = "application/vnd.oci.image";
    let layout = davit.dir().join("layout");
    let platforms = [("x86_64", "amd64"), ("aarch64", "arm64")];
    let mut entries = Vec::new();
    let mut layers = Vec::new();
    for (machine, architecture) in platforms {
        let name = format!("alpine-minirootfs-3.20.3-{machine}.tar.gz");
        let blob = fs_err::read(need_image(&name)?).unwrap();
        let mut plain = Vec::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(&blob[..]);
        std::io::Read::read_to_end(&mut decoder, &mut plain).unwrap();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(&plain)]},
        });
        let layer = put(&layout, &format!("{OCI}.layer.v1.tar+gzip"), &blob);
        layers.push(layer["digest"].as_str().unwrap().to_owned());
        let config = serde_json::to_vec(&config).unwrap();
        let config = put(&layout, &format!("{OCI}.config.v1+json"), &config);
        let media_type = format!("{OCI}.manifest.v1+json");
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer],
        });
        let mut entry = put(&layout, &media_type, &serde_json::to_vec(&manifest).unwrap());
        entry["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let media_type = format!("{OCI}.index.v1+json");
    let index =
        serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    let mut top = put(&layout, &media_type, &serde_json::to_vec(&index).unwrap());
    let digest = top["digest"].as_str().unwrap().to_owned();
    top["annotations"] =
        serde_json::json!({"io.containerd.image.name": "docker.io/library/alpine:3"});
    let file = serde_json::json!({"schemaVersion": 2, "manifests": [top]});
    fs_err::write(layout.join("index.json"), serde_json::to_vec(&file).unwrap()).unwrap();
    fs_err::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    let archive = davit.dir().join("alpine.tar");
    let tar = Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg(".").status();
    assert!(tar.unwrap().success());
    Some((archive, layers.try_into().unwrap(), digest))
}

#[test]
fn a_multi_platform_archive_comes_back_whole() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let Some((archive, layers, digest)) = alpine_for_two(&davit) else { return };
    davit.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
    let id = davit.ok(["images", "-q", "--no-trunc", "alpine:3"]);
    let saved = save(&davit, &["alpine:3"]);
    let names = run(Path::new("tar"), &["-tf", saved.to_str().unwrap()]);
    for digest in layers.iter().chain([&digest]) {
        let path = format!("blobs/{}", digest.replace(':', "/"));
        assert!(names.lines().any(|name| name == path), "{path} is not in {names}");
    }
    // Elsewhere it is the same, and for either platform.
    for platform in ["linux/amd64", "linux/arm64"] {
        let other = crate::davit();
        other.ok(["load", "-q", "--platform", platform, "-i", saved.to_str().unwrap()]);
        let architecture = other.ok(["inspect", "-f", "{{.Architecture}}", "alpine:3"]);
        assert_eq!(format!("linux/{architecture}"), platform);
        if platform == "linux/amd64" && cfg!(target_arch = "x86_64") {
            assert_eq!(other.ok(["images", "-q", "--no-trunc", "alpine:3"]), id);
        }
        let again = save(&other, &["alpine:3"]);
        let index = run(Path::new("tar"), &["-xOf", again.to_str().unwrap(), "index.json"]);
        assert!(index.contains(&digest), "{index}");
        other.ok(["system", "check"]);
    }
}
