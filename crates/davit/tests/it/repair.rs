//! `system check --repair`: what a registry has comes back, what can be made again is made again,
//! and nothing healthy goes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, Davit, HttpServer, Outcome, Reply, TestImage, need_root, tar_of};

use crate::davit;

/// Where something lies, by the image that is harmed.
type Find = fn(&Davit, &Harmed) -> Vec<PathBuf>;

struct Harmed {
    /// Whether the registry has nothing for the time being.
    away: Arc<AtomicBool>,
    image: TestImage,
    tars: [Vec<u8>; 2],
}

struct Case {
    name: &'static str,
    files: Find,
    harm: fn(&Path),
    /// What the only registry is asked for when it is there.
    asked: fn(&Harmed) -> Vec<Digest>,
    /// Whether the image stays when no registry is there.
    stays: bool,
}

fn blob(davit: &Davit, digest: &Digest) -> PathBuf {
    davit.root().join("blobs/sha256").join(digest.hex())
}

fn layer(davit: &Davit, tar: &[u8]) -> PathBuf {
    davit.root().join("layers/sha256").join(Digest::of(tar).hex())
}

/// Same length, other bytes.
fn flip(path: &Path) {
    let mut bytes = fs_err::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs_err::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(path.metadata().unwrap().len() / 2).unwrap();
}

fn remove(path: &Path) {
    fs_err::remove_file(path).unwrap();
}

fn remove_layer(path: &Path) {
    fs_err::remove_dir_all(path).unwrap();
}

const CASES: &[Case] = &[
    Case {
        name: "a damaged compressed layer",
        files: |davit, harmed| vec![blob(davit, &harmed.image.layers[0].digest)],
        harm: flip,
        asked: |harmed| vec![harmed.image.layers[0].digest],
        stays: true,
    },
    Case {
        name: "a damaged layer",
        files: |davit, harmed| vec![layer(davit, &harmed.tars[0]).join("tar")],
        harm: flip,
        asked: |_| Vec::new(),
        stays: true,
    },
    Case {
        name: "no layer at all",
        files: |davit, harmed| vec![layer(davit, &harmed.tars[0])],
        harm: remove_layer,
        asked: |_| Vec::new(),
        stays: true,
    },
    Case {
        name: "a cut layer in both forms",
        files: |davit, harmed| {
            let blob = blob(davit, &harmed.image.layers[0].digest);
            vec![layer(davit, &harmed.tars[0]).join("tar"), blob]
        },
        harm: cut,
        asked: |harmed| vec![harmed.image.layers[0].digest],
        stays: false,
    },
    Case {
        name: "a damaged table",
        files: |davit, harmed| vec![layer(davit, &harmed.tars[0]).join("table")],
        harm: flip,
        asked: |_| Vec::new(),
        stays: true,
    },
    Case {
        name: "no tree",
        files: |davit, _| {
            let trees = fs_err::read_dir(davit.root().join("trees")).unwrap();
            trees.map(|tree| tree.unwrap().path()).collect()
        },
        harm: remove,
        asked: |_| Vec::new(),
        stays: true,
    },
    Case {
        name: "a damaged config",
        files: |davit, harmed| vec![blob(davit, &harmed.image.id)],
        harm: flip,
        asked: |harmed| vec![harmed.image.id],
        stays: false,
    },
    Case {
        name: "no manifest",
        files: |davit, harmed| vec![blob(davit, &harmed.image.manifest.digest)],
        harm: remove,
        asked: |harmed| vec![harmed.image.manifest.digest],
        stays: false,
    },
];

/// A registry with a harmed and a healthy image, which share a layer; both are pulled.
fn prepare(davit: &Davit) -> (HttpServer, Harmed) {
    let tars = [tar_of(&[("one", b"one")]), tar_of(&[("shared", b"shared")])];
    let other = tar_of(&[("two", b"two")]);
    let mut content = Content::default();
    let image = content.add_image("harmed", &Platform::host(), &tars);
    content.add_image("healthy", &Platform::host(), &[tars[1].clone(), other]);
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let server = HttpServer::start(move |request| {
        if is_away.load(Ordering::Relaxed) { Reply::status(404) } else { content.serve(request) }
    });
    for tag in ["harmed", "healthy"] {
        davit.ok(["pull", "-q", &format!("{}/x:{tag}", server.host())]);
    }
    (server, Harmed { away, image, tars })
}

fn harm(davit: &Davit, harmed: &Harmed, case: &Case) {
    let files = (case.files)(davit, harmed);
    assert!(!files.is_empty(), "{}", case.name);
    files.iter().for_each(|file| (case.harm)(file));
    let found = davit.run(["system", "check"]);
    assert_eq!(found.code, 1, "{}: {}", case.name, found.stdout);
    assert!(found.stderr.contains("hint: davit system check --repair"), "{}", found.stderr);
}

/// Repairs; `code` is that of the repair and of the check after it.
fn repair(davit: &Davit, case: &Case, code: i32) -> Outcome {
    let before = contents(davit);
    let outcome = davit.run(["system", "check", "--repair"]);
    let told = format!("{}: {}{}", case.name, outcome.stdout, outcome.stderr);
    assert_eq!(outcome.code, code, "{told}");
    assert_eq!(outcome.stdout.contains("mended"), code == 0, "{told}");
    let after = contents(davit);
    let lost: Vec<_> = before.iter().filter(|path| !after.contains(*path)).collect();
    assert!(lost.len() <= 2, "{told}: {lost:?} went");
    let check = davit.run(["system", "check"]);
    assert_eq!(check.code, code, "{told}{}", check.stdout);
    outcome
}

/// Blobs and layers that are there.
fn contents(davit: &Davit) -> Vec<PathBuf> {
    let folders = ["blobs/sha256", "layers/sha256"].map(|folder| davit.root().join(folder));
    let entries = folders.into_iter().flat_map(|folder| fs_err::read_dir(folder).unwrap());
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn has(davit: &Davit, name: &str) -> bool {
    davit.run(["inspect", "--type", "image", name]).code == 0
}

#[test]
fn a_registry_gives_back_what_is_broken() {
    if !need_root() {
        return;
    }
    for case in CASES {
        let davit = davit();
        let (server, harmed) = prepare(&davit);
        let before = contents(&davit);
        harm(&davit, &harmed, case);
        let asked = server.requests().len();
        let outcome = repair(&davit, case, 0);
        let told = format!("{}: {}{}", case.name, outcome.stdout, outcome.stderr);
        let requests = server.requests().split_off(asked);
        let mut got: Vec<String> = requests
            .iter()
            .filter(|request| request.method == "GET" && request.path.contains("sha256:"))
            .map(|request| request.path.rsplit('/').next().unwrap().to_owned())
            .collect();
        got.sort();
        let expected: Vec<String> = (case.asked)(&harmed).iter().map(ToString::to_string).collect();
        assert_eq!(got, expected, "{told}");
        assert!(has(&davit, &format!("{}/x:harmed", server.host())), "{told}");
        assert!(!outcome.stdout.contains("Untagged"), "{told}");
        for path in &before {
            assert!(path.exists(), "{told}: {} did not come back", path.display());
        }
        // All of it: a registry of its own gets the same bytes.
        let folder = davit.dir().join("copy");
        let name = format!("{}/x:harmed", server.host());
        davit.ok(["copy", &name, &format!("oci:{}", folder.display())]);
    }
}

#[test]
fn without_a_registry_only_what_is_broken_goes() {
    if !need_root() {
        return;
    }
    for case in CASES {
        let davit = davit();
        let (server, harmed) = prepare(&davit);
        harm(&davit, &harmed, case);
        let host = server.host();
        drop(server);
        let needed_registry = !(case.asked)(&harmed).is_empty();
        // The image runs, but a push of it would give another digest.
        let is_lacking = needed_registry && case.stays;
        let outcome = repair(&davit, case, i32::from(is_lacking));
        let told = format!("{}: {}{}", case.name, outcome.stdout, outcome.stderr);
        let name = format!("{host}/x:harmed");
        assert_eq!(has(&davit, &name), case.stays, "{told}");
        assert!(has(&davit, &format!("{host}/x:healthy")), "{told}");
        if !case.stays {
            assert!(outcome.stdout.contains(&format!("Untagged: {name}\n")), "{told}");
            assert!(outcome.stderr.contains(&format!("hint: davit pull {name}\n")), "{told}");
        }
        let warned = outcome.stderr.contains(&format!("warning: {name} is not whole: "));
        assert_eq!(warned, needed_registry, "{told}");
    }
}

/// The loss of what a registry gave is told by every check until it is here again.
#[test]
fn a_lost_blob_is_not_forgotten() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let (server, harmed) = prepare(&davit);
    let name = format!("{}/x:harmed", server.host());
    let file = blob(&davit, &harmed.image.layers[0].digest);
    let lose = || {
        harmed.away.store(true, Ordering::Relaxed);
        fs_err::remove_file(&file).unwrap();
        let repaired = davit.run(["system", "check", "--repair"]);
        assert_eq!(repaired.code, 1, "{}", repaired.stdout);
        assert!(repaired.stdout.contains("missing blob"), "{}", repaired.stdout);
        assert!(repaired.stdout.ends_with(": 1 fault\n"), "{}", repaired.stdout);
        assert!(repaired.stderr.contains(&format!("{name} is not whole")), "{}", repaired.stderr);
        let found = davit.run(["system", "check"]);
        let told = format!(
            "image without a compressed layer {name}: {} is not there\n",
            harmed.image.layers[0].digest
        );
        assert!(found.code == 1 && found.stdout.starts_with(&told), "{}", found.stdout);
    };
    lose();
    if let Some(registry) = davit_test::Registry::start(davit_test::Access::Open) {
        let other = format!("{}/other:1", registry.host());
        davit.ok(["tag", &name, &other]);
        let pushed = davit.run(["push", &other]);
        let told = "is not here as it was received";
        assert!(pushed.code == 0, "{}", pushed.stderr);
        assert!((pushed.stdout + &pushed.stderr).contains(told));
        davit.ok(["rmi", &other]);
    }
    // What need not be kept is not missed.
    let settings = davit.dir().join(".config/davit");
    fs_err::create_dir_all(&settings).unwrap();
    fs_err::write(settings.join("config.toml"), "[store]\nkeep_blobs = \"never\"\n").unwrap();
    davit.ok(["system", "check"]);
    fs_err::remove_dir_all(&settings).unwrap();
    harmed.away.store(false, Ordering::Relaxed);
    let pulled = davit.ok(["pull", &name]);
    assert!(!pulled.contains("up to date"), "{pulled}");
    assert!(file.exists());
    davit.ok(["system", "check"]);
    lose();
    harmed.away.store(false, Ordering::Relaxed);
    let repaired = davit.ok(["system", "check", "--repair"]);
    assert!(repaired.contains("[restored]"), "{repaired}");
    assert!(file.exists());
    davit.ok(["system", "check"]);
}

/// What a killed repair had dropped is fetched by the next.
#[test]
fn an_interrupted_repair_goes_on() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let (server, harmed) = prepare(&davit);
    for file in [layer(&davit, &harmed.tars[0]), blob(&davit, &harmed.image.layers[0].digest)] {
        if file.is_dir() { fs_err::remove_dir_all(&file) } else { fs_err::remove_file(&file) }
            .unwrap();
    }
    let database = davit.root().join("davit.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    let diff_id = Digest::of(&harmed.tars[0]).to_string();
    connection.execute("DELETE FROM layers WHERE diff_id = ?", [diff_id]).unwrap();
    let digest = harmed.image.layers[0].digest.to_string();
    connection.execute("DELETE FROM blobs WHERE digest = ?", [digest]).unwrap();
    drop(connection);
    let found = davit.run(["system", "check"]);
    assert!(found.stdout.contains("image without a layer"), "{}", found.stdout);
    let repaired = davit.ok(["system", "check", "--repair"]);
    assert!(repaired.contains("image without a layer"), "{repaired}");
    assert!(repaired.contains("[restored]"), "{repaired}");
    davit.ok(["system", "check"]);
    assert!(has(&davit, &format!("{}/x:harmed", server.host())));
}

/// An image that was built here has no source but the build.
#[test]
fn what_nobody_has_is_dropped_with_a_hint() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let tar = tar_of(&[("own", b"own")]);
    let path = davit.dir().join("own.tar");
    fs_err::write(&path, &tar).unwrap();
    davit.ok(["import", path.to_str().unwrap(), "own:1"]);
    flip(&layer(&davit, &tar).join("tar"));
    let outcome = davit.run(["system", "check", "--repair"]);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("Untagged: own:1\n"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("no registry is known to have it"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("hint: build or load own:1 again"), "{}", outcome.stderr);
    davit.ok(["system", "check"]);
    davit.ok(["import", path.to_str().unwrap(), "own:1"]);
}

/// A pushed build comes back from where it was pushed.
#[test]
fn a_pushed_image_comes_back() {
    if !need_root() {
        return;
    }
    let Some(registry) = davit_test::Registry::start(davit_test::Access::Open) else { return };
    let davit = davit();
    let tar = tar_of(&[("own", b"own")]);
    let path = davit.dir().join("own.tar");
    fs_err::write(&path, &tar).unwrap();
    let name = format!("{}/own:1", registry.host());
    davit.ok(["import", path.to_str().unwrap(), &name]);
    // The digest that is shown is that of the last push.
    for compression in ["uncompressed", "zstd", "gzip"] {
        let pushed = davit.run(["push", "--compression", compression, &name]);
        let told = pushed.stdout + &pushed.stderr;
        let shown = davit.ok(["images", "--digests", "--format", "{{.Digest}}", &name]);
        assert!(told.contains(&format!("digest: {shown}")), "{shown}\n{told}");
    }
    flip(&layer(&davit, &tar).join("tar"));
    let outcome = davit.run(["system", "check", "--repair"]);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("[restored]"), "{}{}", outcome.stdout, outcome.stderr);
    assert!(has(&davit, &name), "{}{}", outcome.stdout, outcome.stderr);
    davit.ok(["system", "check"]);
}

/// What refers to an image is kept by a row alone; where that is lost, what refers to it says so.
#[test]
fn what_refers_to_an_image_is_kept_again() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let context = davit.dir().join("context");
    fs_err::create_dir(&context).unwrap();
    fs_err::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let build = |provenance: &str| {
        let context = context.to_str().unwrap();
        davit.ok(["build", "-q", "-t", "attested:1", "--provenance", provenance, context]);
    };
    let connection = || rusqlite::Connection::open(davit.root().join("davit.db")).unwrap();
    let kept = || -> Vec<(String, String)> {
        let connection = connection();
        let mut rows = connection
            .prepare(
                "SELECT parent, child FROM blob_refs JOIN blobs ON digest = child
                 WHERE media_type LIKE '%manifest%'",
            )
            .unwrap();
        let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    build("mode=min");
    let former = kept();
    build("mode=max");
    let whole = kept();
    assert!(whole.len() == 1 && former.len() == 1 && whole != former, "{former:?} {whole:?}");
    // What another one took the place of is not missed.
    davit.ok(["system", "check"]);
    connection().execute("DELETE FROM blob_refs WHERE child = ?", [&whole[0].1]).unwrap();
    let found = davit.run(["system", "check"]);
    assert_eq!(found.code, 1, "{}", found.stdout);
    assert!(found.stdout.contains("which refers to it"), "{}", found.stdout);
    let repaired = davit.ok(["system", "check", "--repair"]);
    assert!(repaired.contains("[made again]"), "{repaired}");
    assert_eq!(kept(), whole, "the newest one, and no other");
    davit.ok(["system", "check"]);
    davit.ok(["system", "prune", "-f"]);
    assert_eq!(kept(), whole);
}
