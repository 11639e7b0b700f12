//! Others read what davit pushed, and davit what others pushed: same digests, same bytes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use davit_test::{Access, Davit, Registry, TempDir, need_image, need_tool};

use super::davit;

const IMAGES: [&str; 2] = ["busybox-glibc-amd64", "busybox-musl-amd64"];

fn run(program: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {args:?}: {stderr}", program.display());
    output.stdout
}

/// skopeo as pusher and reader.
struct Skopeo(PathBuf);

impl Skopeo {
    fn find() -> Option<Self> {
        need_tool("skopeo").map(Self)
    }

    fn push(&self, layout: &Path, image: &str) {
        let (from, to) = (format!("oci:{}", layout.display()), format!("docker://{image}"));
        let all = ["--insecure-policy", "copy", "--all", "--dest-tls-verify=false", &from, &to];
        run(&self.0, &all);
    }

    /// The manifest's bytes as the registry serves them.
    fn manifest(&self, image: &str) -> Vec<u8> {
        let image = format!("docker://{image}");
        run(&self.0, &["inspect", "--raw", "--tls-verify=false", &image])
    }

    /// Copies an image into a folder, all blobs verified.
    fn fetch(&self, image: &str, folder: &Path) {
        let (from, to) = (format!("docker://{image}"), format!("dir:{}", folder.display()));
        run(&self.0, &["--insecure-policy", "copy", "--all", "--src-tls-verify=false", &from, &to]);
    }
}

fn round_trip(davit: &Davit, skopeo: &Skopeo, source: &str, target: &str) {
    davit.ok(["pull", source]);
    retag(davit, source, target);
    davit.ok(["push", target]);
    assert_eq!(skopeo.manifest(source), skopeo.manifest(target), "{source}");
    let dir = TempDir::new();
    skopeo.fetch(target, dir.path());
}

fn retag(davit: &Davit, source: &str, target: &str) {
    davit.ok(["tag", source, target]);
}

#[test]
fn busybox_comes_back_as_it_was() {
    let (Some(registry), Some(skopeo)) = (Registry::start(Access::Open), Skopeo::find()) else {
        return;
    };
    for name in IMAGES {
        let Some(layout) = need_image(name) else { return };
        let source = format!("{}/{name}:1", registry.host());
        skopeo.push(&layout, &source);
        let davit = davit();
        let target = format!("{}/again/{name}:2", registry.host());
        round_trip(&davit, &skopeo, &source, &target);
        // A second registry has nothing to mount from.
        let Some(other) = Registry::start(Access::Open) else { return };
        let target = format!("{}/{name}:3", other.host());
        round_trip(&davit, &skopeo, &source, &target);
    }
}
