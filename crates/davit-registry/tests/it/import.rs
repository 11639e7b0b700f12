//! Repositories that come from the directories of other registries and tools.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use davit_image::Digest;
use davit_registry::{
    check::Repair,
    import::{ImportReport, Layout, LayoutError, Naming, import},
};
use davit_test::TempDir;
use fs_err as fs;

use crate::{
    bench::{Bench, SETTINGS, image, index, on_each, runtime},
    failures::{say, start},
};

fn write(path: PathBuf, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
}

/// A directory as distribution keeps it.
struct Distribution(TempDir);

impl Distribution {
    fn v2(&self) -> PathBuf {
        self.0.join("docker/registry/v2")
    }

    fn data(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.v2().join(format!("blobs/{}/{}/{hex}/data", digest.algorithm(), &hex[..2]))
    }

    fn link(&self, repository: &str, below: &str, digest: &Digest) {
        let path = self.v2().join("repositories").join(repository).join(below).join("link");
        write(path, digest.to_string());
    }

    fn blob(&self, repository: &str, content: &str) -> Digest {
        let digest = Digest::of(content.as_bytes());
        write(self.data(&digest), content);
        self.link(repository, &format!("_layers/sha256/{}", digest.hex()), &digest);
        digest
    }

    fn manifest(&self, repository: &str, content: &str, tag: Option<&str>) -> Digest {
        let digest = Digest::of(content.as_bytes());
        write(self.data(&digest), content);
        self.link(repository, &format!("_manifests/revisions/sha256/{}", digest.hex()), &digest);
        if let Some(tag) = tag {
            self.link(repository, &format!("_manifests/tags/{tag}/current"), &digest);
        }
        digest
    }
}

async fn imported(bench: &Bench, path: &Path, naming: &Naming) -> ImportReport {
    import(&bench.registry, &Layout::open(path).unwrap(), naming).await.unwrap()
}

async fn tags(bench: &Bench) -> i64 {
    bench.ask("SELECT COUNT(*) FROM tag", Vec::new()).await[0]
}

#[test]
fn the_directory_of_distribution() {
    on_each(async |bench| {
        let from = Distribution(TempDir::new());
        from.blob("a/b", "{}");
        let layer = from.blob("a/b", "layer");
        let child = image("layer", None);
        let child_digest = from.manifest("a/b", &child, Some("v1"));
        from.link("a/b", "_manifests/tags/v1.0/current", &child_digest);
        let both = from.manifest("a/b", &index(&[&child]), Some("multi"));
        from.blob("c", "{}");
        from.blob("c", "other");
        from.manifest("c", &image("other", None), None);
        let report = imported(bench, from.0.path(), &Naming::default()).await;
        let (linked, copied) = if bench.has_objects() { (0, 3) } else { (3, 0) };
        let expected = ImportReport {
            repositories: 2,
            manifests: 3,
            tags: 3,
            linked,
            copied,
            ..ImportReport::default()
        };
        assert_eq!(report, expected);
        assert!(bench.has_manifest("a/b", &child_digest).await);
        assert!(bench.has_manifest("a/b", &both).await);
        assert_eq!(tags(bench).await, 3);
        if !bench.has_objects() {
            let file = fs::metadata(from.data(&layer)).unwrap();
            let object = fs::metadata(bench.object(&layer).await).unwrap();
            assert_eq!(file.ino(), object.ino(), "in place");
        }
        assert_eq!(bench.check(Repair::No).await, []);
        // Once more, and from the directory within: nothing is new.
        let again = imported(bench, &from.v2(), &Naming::default()).await;
        assert_eq!((again.manifests, again.linked, again.copied), (3, 0, 0));
        assert_eq!(bench.objects().len(), 3);
        let naming = Naming { under: Some("mirror".to_owned()), ..Naming::default() };
        imported(bench, from.0.path(), &naming).await;
        assert!(bench.has_manifest("mirror/a/b", &both).await);
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

#[test]
fn hostile_layouts_give_nothing_away() {
    on_each(async |bench| {
        let from = Distribution(TempDir::new());
        let repository = |name: &str, layer: &str| {
            from.blob(name, "{}");
            let layer = from.blob(name, layer);
            let content = image(&from_text(layer), None);
            (layer, content)
        };
        fn from_text(layer: Digest) -> String {
            // The layers' texts are short words whose digests name them.
            ["outside", "changed", "of another", "open to all", "a pipe"]
                .into_iter()
                .find(|word| Digest::of(word.as_bytes()) == layer)
                .unwrap()
                .to_owned()
        }
        let outside = TempDir::new();
        write(outside.join("secret"), "outside");
        let (layer, manifest) = repository("link/a", "outside");
        fs::remove_file(from.data(&layer)).unwrap();
        symlink(outside.join("secret"), from.data(&layer)).unwrap();
        from.manifest("link/a", &manifest, Some("t"));

        let (layer, manifest) = repository("wrong/a", "changed");
        write(from.data(&layer), "CHANGED");
        from.manifest("wrong/a", &manifest, Some("t"));

        // A blob of another repository, which this one does not have.
        from.blob("private/a", "of another");
        from.blob("thief/a", "{}");
        from.manifest("thief/a", &image("of another", None), Some("t"));

        // A manifest that is not what it is called.
        let called = Digest::of(b"else");
        write(from.data(&called), image("changed", None));
        from.link("wrong/b", &format!("_manifests/revisions/sha256/{}", called.hex()), &called);
        // Names that are none.
        from.manifest("Upper/Case", &manifest, Some("t"));
        from.manifest("tags/a", &manifest, Some("..%2f"));

        // Bytes that others may change later are copied, and sound.
        let (open, manifest) = repository("open/a", "open to all");
        fs::set_permissions(from.data(&open), std::fs::Permissions::from_mode(0o666)).unwrap();
        let sound = from.manifest("open/a", &manifest, Some("t"));
        let (layer, manifest) = repository("pipe/a", "a pipe");
        fs::remove_file(from.data(&layer)).unwrap();
        rustix_fifo(&from.data(&layer));
        from.manifest("pipe/a", &manifest, Some("t"));

        let report = imported(bench, from.0.path(), &Naming::default()).await;
        assert_eq!((report.tags, tags(bench).await), (1, 1), "{report:#?}");
        assert!(bench.has_manifest("open/a", &sound).await);
        for name in ["link/a", "wrong/a", "wrong/b", "thief/a", "Upper/Case", "tags/a", "pipe/a"] {
            let told = report.skipped.iter().any(|line| line.contains(name));
            assert!(told, "{name}: {:#?}", report.skipped);
        }
        if !bench.has_objects() {
            let file = fs::metadata(from.data(&open)).unwrap();
            let object = fs::metadata(bench.object(&open).await).unwrap();
            assert_ne!(file.ino(), object.ino());
        }
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

fn rustix_fifo(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
    assert!(made.success());
}

/// Imports the layout in a folder into the registry beside it, and says what it left out.
pub(crate) async fn import_beside(folder: &Path) {
    let bench = Bench::at(folder, SETTINGS).await;
    let report = imported(&bench, &folder.join("layout"), &Naming::default()).await;
    for digest in &report.unreadable {
        say(&format!("unreadable {digest}"));
    }
    for line in &report.skipped {
        say(line);
    }
    bench.registry.database.clone().close().await;
}

#[test]
fn what_cannot_be_read_costs_what_needs_it_only() {
    if davit_test::need_tool("strace").is_none() {
        return;
    }
    let (from, folder) = (Distribution(TempDir::new()), TempDir::new());
    symlink(from.0.path(), folder.join("layout")).unwrap();
    from.blob("a/b", "{}");
    let bad = from.blob("a/b", "bad");
    from.blob("a/b", "good");
    let needs = image("bad", None);
    let left_out = [
        from.manifest("a/b", &needs, Some("bad")),
        from.manifest("a/b", &index(&[&needs]), Some("index")),
    ];
    let good = from.manifest("a/b", &image("good", None), Some("good"));
    from.blob("c", "{}");
    from.blob("c", "other");
    let other = from.manifest("c", &image("other", None), Some("t"));
    let data = fs::canonicalize(from.data(&bad)).unwrap();
    let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-P", data.to_str().unwrap()];
    let strace = [&strace[..], &["-e", "trace=read", "-e", "inject=read:error=EIO"]].concat();
    let output = start("import", folder.path(), &strace).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(&format!("unreadable {bad}")), "{said}");
    for digest in &left_out {
        assert!(said.contains(&format!("a/b@{digest}: the bytes of {bad} cannot")), "{said}");
    }
    runtime().block_on(async {
        let bench = Bench::at(folder.path(), SETTINGS).await;
        assert!(bench.has_manifest("a/b", &good).await && bench.has_manifest("c", &other).await);
        for digest in &left_out {
            assert!(!bench.has_manifest("a/b", digest).await);
        }
        assert!(!bench.has_blob("a/b", &bad).await);
        assert_eq!(tags(&bench).await, 2);
        assert_eq!(bench.check(Repair::No).await, []);
        bench.registry.database.clone().close().await;
    });
}

#[test]
fn oci_image_layouts() {
    on_each(async |bench| {
        let from = TempDir::new();
        let layout = |below: &str, layer: &str, name: &str| {
            let manifest = image(layer, None);
            for content in ["{}", layer, &manifest] {
                let hex = Digest::of(content.as_bytes()).hex();
                write(from.join(below).join(format!("blobs/sha256/{hex}")), content);
            }
            write(from.join(below).join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
            let entry = index(&[&manifest]);
            let named = format!(
                r#""annotations":{{"org.opencontainers.image.ref.name":"{name}"}},"digest""#
            );
            write(from.join(below).join("index.json"), entry.replacen(r#""digest""#, &named, 1));
            Digest::of(manifest.as_bytes())
        };
        let one = layout("zot/a", "one", "v1");
        let two = layout("zot/a/b", "two", "docker.io/library/two:v2");
        let report = imported(bench, &from.join("zot"), &Naming::default()).await;
        assert_eq!((report.repositories, report.tags, &*report.skipped), (2, 2, &[][..]));
        assert!(bench.has_manifest("a", &one).await && bench.has_manifest("a/b", &two).await);
        let naming = Naming { repository: Some("named/x".to_owned()), under: None };
        let single = layout("single", "three", "latest");
        imported(bench, &from.join("single"), &naming).await;
        assert!(bench.has_manifest("named/x", &single).await);
        assert_eq!(tags(bench).await, 3);
        assert_eq!(bench.check(Repair::No).await, []);
    });
    let empty = TempDir::new();
    assert!(matches!(Layout::open(empty.path()), Err(LayoutError::Unknown(_))));
    assert!(matches!(Layout::open(&empty.join("absent")), Err(LayoutError::Read(..))));
}
