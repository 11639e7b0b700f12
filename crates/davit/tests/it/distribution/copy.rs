//! `copy` where not all can go: parts that are not here, platforms that nobody has, and failures.

use std::{
    path::Path,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use davit_engine::image::{Descriptor, Digest, Index, MediaType, Platform, Raw};
use davit_test::{
    Access, Content, End, HttpServer, Registry, TempDir, TestImage, noise, tar_of, until,
};

use super::{blob_requests, configure, davit, layer, serve};

/// An index of images, the last without a platform that anyone has: an attestation.
fn attested(content: &mut Content, tag: &str, images: &[(&str, &TestImage)]) -> Digest {
    let proof = content.add_image("proof", &Platform::new("unknown", "unknown"), &[layer("proof")]);
    let mut entries: Vec<Descriptor> = Vec::new();
    for (platform, image) in images.iter().chain([&("unknown/unknown", &proof)]) {
        let platform = Some(platform.parse().unwrap());
        entries.push(Descriptor { platform, ..image.manifest.clone() });
    }
    let index = Raw::write(Index::new(entries));
    content.add_manifest(tag, MediaType::OCI_INDEX, index.bytes());
    index.digest()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(folder).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// A pull leaves out what other platforms need; what it brought can go everywhere.
#[test]
fn the_one_image_of_an_index_that_is_here_goes_alone() {
    let mut content = Content::default();
    let host = Platform::host().to_string();
    let ours = content.add_image("ours", &Platform::host(), &[layer("ours")]);
    let theirs = content.add_image("theirs", &"linux/s390x".parse().unwrap(), &[layer("theirs")]);
    attested(&mut content, "two", &[(&host, &ours), ("linux/s390x", &theirs)]);
    attested(&mut content, "one", &[(&host, &ours)]);
    let server = serve(content);
    let (davit, dir) = (davit(), TempDir::new());
    let alone = ours.manifest.digest.to_string();
    for tag in ["one", "two"] {
        let name = format!("{}/x:{tag}", server.host());
        davit.ok(["pull", "-q", &name]);
        for form in ["oci", "dir", "docker-archive"] {
            let place = format!("{form}:{}", dir.join(format!("{tag}-{form}")).display());
            let copied = davit.run(["copy", &name, &place]);
            assert_eq!((copied.code, copied.stdout.trim()), (0, &*alone), "{place}: {copied:?}");
            let told = format!("only the image for {host} is here");
            assert!(copied.stderr.contains(&told), "{place}: {}", copied.stderr);
            davit.ok(["copy", "-q", "--platform", &host, &name, &place]);
        }
        let other = davit.run(["copy", "--platform", "linux/s390x", &name, "dir:/none"]);
        let words = "has no image for linux/s390x";
        assert!(other.code == 1 && other.stderr.contains(words), "{}", other.stderr);
        assert!(!Path::new("/none").exists());
    }
    // Neither are compressed layers always kept.
    let plain = super::davit();
    configure(&plain, "[store]\nkeep_blobs = \"never\"\n");
    let name = format!("{}/x:two", server.host());
    plain.ok(["pull", "-q", &name]);
    let place = format!("oci:{}", dir.join("plain").display());
    plain.ok(["copy", "-q", &name, &place]);
    davit.ok(["copy", "-q", &place, "plain:1"]);
    let id = davit.ok(["images", "-q", "--no-trunc", "plain:1"]);
    assert_eq!(id, ours.id.to_string());
}

/// Everywhere else an index is left behind too.
#[test]
fn the_store_takes_the_image_of_a_platform_without_its_index() {
    let mut content = Content::default();
    let host = Platform::host().to_string();
    let ours = content.add_image("ours", &Platform::host(), &[layer("ours")]);
    let theirs = content.add_image("theirs", &"linux/s390x".parse().unwrap(), &[layer("theirs")]);
    let index = attested(&mut content, "two", &[(&host, &ours), ("linux/s390x", &theirs)]);
    let server = serve(content);
    let (davit, dir) = (davit(), TempDir::new());
    let (remote, layout) = (
        format!("docker://{}/x:two", server.host()),
        format!("oci:{}", dir.join("layout").display()),
    );
    davit.ok(["copy", "-q", &remote, &layout]);
    for source in [&remote, &layout] {
        assert_eq!(davit.ok(["copy", "-q", source, "store:all"]), index.to_string());
        for (platform, image) in [(&*host, &ours), ("linux/s390x", &theirs)] {
            let digest = image.manifest.digest.to_string();
            let copy = ["copy", "-q", "--platform", platform, source];
            for name in ["store:one".to_owned(), format!("store:one@{digest}")] {
                assert_eq!(davit.ok([&copy[..], &[&name]].concat()), digest, "{source} {name}");
            }
            let id = davit.ok(["images", "-q", "--no-trunc", "one"]);
            assert_eq!(id, image.id.to_string());
            let made = format!("oci:{}", dir.join(image.id.hex()).display());
            assert_eq!(davit.ok(["copy", "-q", "one", &made]), digest);
        }
        let none = davit.run(["copy", "-q", "--platform", "linux/riscv64", source, "store:none"]);
        let words = format!("has no image for linux/riscv64 (it has {host}, linux/s390x)");
        assert!(none.code == 1 && none.stderr.contains(&words), "{}", none.stderr);
    }
}

#[test]
fn an_archive_takes_the_only_image_of_an_index_or_nothing() {
    let mut content = Content::default();
    let host = Platform::host().to_string();
    let ours = content.add_image("ours", &Platform::host(), &[layer("ours")]);
    let theirs = content.add_image("theirs", &"linux/s390x".parse().unwrap(), &[layer("theirs")]);
    attested(&mut content, "one", &[(&host, &ours)]);
    attested(&mut content, "two", &[(&host, &ours), ("linux/s390x", &theirs)]);
    let server = serve(content);
    let (davit, dir) = (davit(), TempDir::new());
    let target = |form: &str| format!("{form}:{}", dir.join("made").display());
    let source = |tag: &str| format!("docker://{}/x:{tag}", server.host());

    let refused = davit.run(["copy", &source("two"), &target("docker-archive")]);
    assert!(refused.stderr.contains("of several platforms"), "{}", refused.stderr);
    // One manifest, of another platform than asked for.
    for form in ["oci", "dir", "docker-archive"] {
        let platform = ["copy", "--platform", "linux/s390x"];
        let refused = davit.run([&platform[..], &[&source("ours"), &target(form)]].concat());
        let words = format!("has no image for linux/s390x (it has {host})");
        assert!(refused.code == 1 && refused.stderr.contains(&words), "{}", refused.stderr);
    }
    let layers = [&ours, &theirs].map(|image| image.layers[0].digest.to_string());
    let asked = blob_requests(&server);
    assert!(
        !asked.iter().any(|path| layers.iter().any(|layer| path.ends_with(layer))),
        "{asked:?}"
    );
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));

    let copied = davit.ok(["copy", "-q", &source("one"), &target("docker-archive")]);
    assert_eq!(copied, ours.manifest.digest.to_string());
}

/// A copy is no pull and no push of what has the name here.
#[test]
fn a_copy_names_what_it_copies() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let mut content = Content::default();
    content.add_image("v1", &Platform::host(), &[layer("a")]);
    let empty = Raw::write(Index::new(Vec::new()));
    content.add_manifest("empty", MediaType::OCI_INDEX, empty.bytes());
    let server = serve(content);
    let (davit, dir, host) = (davit(), TempDir::new(), server.host());
    let source = format!("docker://{host}/x:v1");
    let copied = davit.run(["copy", &source, "store:y"]);
    assert!(copied.stderr.starts_with("v1: Pulling from x\n"), "{}", copied.stderr);
    davit.ok(["tag", "y", "z"]);
    davit.ok(["rmi", "y"]);
    let rows = davit.ok(["images"]);
    davit.ok(["copy", "-q", "z", &format!("docker://{}/x/y:1", registry.host())]);
    assert_eq!(davit.ok(["images"]), rows);

    let layout = format!("oci:{}", dir.join("layout").display());
    davit.ok(["copy", "-q", &source, &layout]);
    // Folders of images take more of them; one of anything else takes none.
    let folder = format!("dir:{}", dir.join("folder").display());
    for _ in 0..2 {
        davit.ok(["copy", "-q", &source, &folder]);
    }
    for place in [folder.replace("dir:", "oci:"), layout.replace("oci:", "dir:")] {
        let refused = davit.run(["copy", "-q", &source, &place]);
        let words = "is neither empty nor a folder of images";
        assert!(refused.code == 1 && refused.stderr.contains(words), "{refused:?}");
    }
    assert!(!dir.join("folder/blobs").exists() && !dir.join("layout/version").exists());
    let (none, bad) = (format!("docker://{host}/x:empty"), format!("docker://{host}/Bad"));
    let denied = format!("docker://{host}/x:none");
    let other = ["--platform", "linux/s390x"];
    for (arguments, words) in [
        (vec!["copy", &bad, &layout], "caused by: repository name `Bad` must be lower case"),
        (vec!["copy", "oci-archive:s.tar", "zz"], "`oci-archive` is no known kind of place"),
        (vec!["copy", "containers-storage:x", "zz"], "docker-archive:, dir:"),
        (vec!["copy", &none, "zz"], "has no image for"),
        (vec!["copy", &denied, "zz"], "does not exist"),
        (["copy", &source, "zz"].into_iter().chain(other).collect(), "hint: choose one, as by"),
        (["copy", &layout, "zz"].into_iter().chain(other).collect(), "hint: choose one, as by"),
    ] {
        let refused = davit.run(&arguments);
        assert!(refused.code != 0 && refused.stderr.contains(words), "{}", refused.stderr);
        for wrong in ["davit pull", "(it has )", "both are names"] {
            assert!(!refused.stderr.contains(wrong), "{arguments:?}: {}", refused.stderr);
        }
    }
}

/// Neither a failure nor a kill leaves anything of what is not whole.
#[test]
fn a_copy_that_ends_early_leaves_nothing() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[tar_of(&[("noise", &noise(100_000))])]);
    let blob = format!("/blobs/{}", image.layers[0].digest);
    let stalls = Arc::new(AtomicBool::new(true));
    let stalling = Arc::clone(&stalls);
    let server = HttpServer::start(move |request| {
        let reply = content.serve(request);
        let is_slow = request.path.ends_with(&blob) && stalling.load(Ordering::Relaxed);
        if is_slow { reply.end(End::Stall(50_000)) } else { reply }
    });
    let (davit, dir) = (davit(), TempDir::new());
    let (source, none) = ("docker://{}/x:1", "docker://{}/x:none");
    let [source, none] = [source, none].map(|name| name.replace("{}", &server.host()));
    for form in ["oci", "dir", "docker-archive"] {
        let place = format!("{form}:{}", dir.join("new/made").display());
        assert_eq!(davit.run(["copy", &none, &place]).code, 1, "{form}");
        assert!(names(dir.path()).is_empty(), "{form}: {:?}", files(dir.path()));
        if form == "docker-archive" {
            fs_err::create_dir(dir.join("new")).unwrap();
        }
        stalls.store(true, Ordering::Relaxed);
        let mut child = davit.command(["copy", "-q", &source, &place]).spawn().unwrap();
        until("a file is written there", || has_file_below(&child, dir.path()));
        child.kill().unwrap();
        child.wait().unwrap();
        stalls.store(false, Ordering::Relaxed);
        davit.ok(["copy", "-q", &source, &place]);
        let left = files(dir.path());
        let is_hidden = |path: &String| path.contains("/.") || path.ends_with(".unfinished");
        assert!(!left.iter().any(is_hidden), "{form}: {left:?}");
        fs_err::remove_dir_all(dir.join("new")).unwrap();
    }
    davit.ok(["copy", "-q", &source, "kept:1"]);
    let archive = dir.join("nowhere/x.tar").display().to_string();
    let failed = davit.run(["save", "-o", &archive, "kept:1"]);
    assert!(failed.code == 1 && failed.stderr.contains(&archive), "{}", failed.stderr);
    assert!(!failed.stderr.contains("/."), "{}", failed.stderr);
}

/// Tells whether a process has a file of the folder open, named or not.
fn has_file_below(child: &Child, folder: &Path) -> bool {
    let Ok(entries) = fs_err::read_dir(format!("/proc/{}/fd", child.id())) else { return false };
    let links = entries.flatten().filter_map(|entry| fs_err::read_link(entry.path()).ok());
    links.into_iter().any(|link| link.starts_with(folder) && !link.is_dir())
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
