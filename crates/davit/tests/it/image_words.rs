//! What the verbs on images say, and with which exit code, in Docker's words.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use davit_engine::image::Platform;
use davit_test::{Content, Davit, HttpServer, need_root, tar_of};

use crate::{davit, machine::Machine};

fn import(davit: &Davit, name: &str, content: &str) -> String {
    let tar = davit.dir().join("one.tar");
    fs_err::write(&tar, tar_of(&[("file", content.as_bytes())])).unwrap();
    davit.ok(["import", tar.to_str().unwrap(), name])
}

#[test]
fn a_load_tells_whose_name_it_takes() {
    if !need_root() {
        return;
    }
    let davit = davit();
    import(&davit, "app:1", "one");
    let archive = davit.dir().join("saved.tar");
    davit.ok(["save", "-o", archive.to_str().unwrap(), "app:1"]);
    let load = || davit.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
    assert_eq!(load(), "Loaded image: app:1");
    let other = import(&davit, "app:1", "two");
    let told = format!(
        "The image app:1 already exists, renaming the old one with ID {other} to empty string\n\
         Loaded image: app:1"
    );
    assert_eq!(load(), told);
}

#[test]
fn lists_show_what_docker_shows() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let id = import(&davit, "app:1", "one");
    let format = "{{.Containers}} {{join (split .Tag \"\") \"-\"}}";
    assert_eq!(davit.ok(["images", "--format", format]), "N/A 1");
    let block = davit.ok(["images", "--format", "raw"]);
    let start = format!("repository: app\ntag: 1\nimage_id: {}\ncreated_at: ", &id[7..19]);
    assert!(block.starts_with(&start) && block.contains("\nvirtual_size: "), "{block}");
    let sized = davit.run(["inspect", "--size", "app:1"]);
    assert_eq!((sized.code, &*sized.stderr), (0, "WARNING: --size ignored for image\n"));
    let mut unset = davit.command(["config"]);
    let root = unset.env("DAVIT_ROOT", "").output().unwrap();
    let root = String::from_utf8_lossy(&root.stdout).into_owned();
    assert!(root.contains("/var/lib/davit"), "{root}");
}

#[test]
fn a_container_of_an_ambiguous_id_is_refused() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let mut firsts = std::collections::BTreeSet::new();
    // Two of seventeen share their first digit.
    let prefix = (0..17).find_map(|round| {
        let id = import(&davit, &format!("app:{round}"), &round.to_string());
        let first = id["sha256:".len()..][..1].to_owned();
        (!firsts.insert(first.clone())).then_some(first)
    });
    let prefix = prefix.unwrap();
    let refused = davit.run(["create", "--pull", "never", &prefix, "x"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let told = format!("image id `{prefix}` is ambiguous");
    assert!(refused.stderr.contains(&told), "{refused:?}");
}

#[test]
fn errors_are_dockers() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let cases: [(&[&str], u8, &str); 10] = [
        (&["history", "nope"], 1, "No such image: nope:latest"),
        (&["inspect", "--type", "image", "nope"], 1, "No such image: nope:latest"),
        (&["inspect", "--type", "foo", "nope"], 1, "'foo'"),
        (&["pull", "-a", "app:1"], 1, "tag can't be used with --all-tags/-a"),
        (&["pull", "--platform", "a/b/c/d", "app"], 1, "--platform"),
        (&["run", "--platform", "a/b/c/d", "app"], 125, "--platform"),
        (&["search", "--filter", "foo=1", "x"], 1, "invalid filter"),
        (&["search", "--limit", "101", "x"], 1, "limit 101 is outside the range of [1, 100]"),
        (&["login", "-u", "", "-p", "x", "localhost:1"], 1, "Non-null Username Required"),
        (&["image", "inspect", "-f", "{{.Id", "nope"], 64, "template parsing error"),
    ];
    for (line, code, words) in cases {
        let outcome = davit.run(line);
        let told = outcome.stderr.contains(words);
        assert!(outcome.code == i32::from(code) && told, "{line:?}: {outcome:?}");
    }
}

#[test]
fn a_pull_by_digest_tells_whether_it_is_new() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[tar_of(&[("file", b"one")])]);
    let server = HttpServer::start(move |request| content.serve(request));
    let (davit, name) = (davit(), format!("{}/x@{}", server.host(), image.manifest.digest));
    for status in ["Downloaded newer image for", "Image is up to date for"] {
        let pulled = davit.run(["pull", &name]);
        assert!(pulled.stderr.contains(&format!("Status: {status} {name}")), "{}", pulled.stderr);
    }
}

/// Links have all rights on Linux, whatever the tar says.
#[test]
fn links_have_all_rights() {
    let Some(machine) = Machine::new() else { return };
    let mut tar = tar_of(&[("d/link", b"")]);
    // A header's kind, target and checksum.
    tar[156] = b'2';
    tar[157..163].copy_from_slice(b"target");
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|&byte| u32::from(byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let context = machine.davit().dir().join("context");
    fs_err::create_dir(&context).unwrap();
    fs_err::write(context.join("links.tar"), tar).unwrap();
    fs_err::write(context.join("Dockerfile"), "FROM busybox\nADD links.tar /x/\n").unwrap();
    machine.ok(&["build", "-q", "-t", "links", context.to_str().unwrap()]);
    let run = ["run", "--rm", "--network", "none", "links", "stat", "-c", "%A", "/x/d/link"];
    assert_eq!(machine.ok(&run), "lrwxrwxrwx");
}
