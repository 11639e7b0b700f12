//! Others read what davit pushed and wrote, and davit what others did: same digests, same bytes.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use davit_engine::image::Platform;
use davit_test::{
    Access, Content, Davit, Registry, TempDir, need_debian_root, need_image, need_tool,
};

use super::{davit, layer, serve};

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

    fn copy(&self, from: &str, to: &str) {
        let insecure = ["--insecure-policy", "copy", "--all", "--src-tls-verify=false"];
        run(&self.0, &[&insecure[..], &["--dest-tls-verify=false", from, to]].concat());
    }

    /// The manifest's bytes, from any place that skopeo knows.
    fn manifest(&self, place: &str) -> Vec<u8> {
        run(&self.0, &["inspect", "--raw", "--tls-verify=false", place])
    }
}

/// Pulls, renames and pushes; the manifest must arrive as it was, with all its blobs.
fn round_trip(davit: &Davit, skopeo: &Skopeo, source: &str, target: &str) {
    davit.ok(["pull", source]);
    davit.ok(["tag", source, target]);
    let pushed = davit.ok(["push", target]);
    let (from, to) = (format!("docker://{source}"), format!("docker://{target}"));
    let manifest = skopeo.manifest(&from);
    assert_eq!(manifest, skopeo.manifest(&to), "{source}");
    let digest = davit_engine::image::Digest::of(&manifest);
    assert!(pushed.contains(&digest.to_string()), "{pushed}");
    let dir = TempDir::new();
    skopeo.copy(&to, &format!("dir:{}", dir.join("all").display()));
}

#[test]
fn busybox_comes_back_as_it_was() {
    let (Some(registry), Some(skopeo)) = (Registry::start(Access::Open), Skopeo::find()) else {
        return;
    };
    let Some(other) = Registry::start(Access::Open) else { return };
    for name in IMAGES {
        let Some(layout) = need_image(name) else { return };
        let source = format!("{}/{name}:1", registry.host());
        skopeo.copy(&format!("oci:{}", layout.display()), &format!("docker://{source}"));
        let davit = davit();
        round_trip(&davit, &skopeo, &source, &format!("{}/again/{name}:2", registry.host()));
        // A second registry has nothing to mount from.
        round_trip(&davit, &skopeo, &source, &format!("{}/{name}:3", other.host()));
    }
}

#[test]
fn an_index_goes_whole_or_as_the_one_image_that_is_here() {
    let (Some(registry), Some(skopeo)) = (Registry::start(Access::Open), Skopeo::find()) else {
        return;
    };
    let (host, other) = (Platform::host(), "linux/s390x".parse::<Platform>().unwrap());
    let mut content = Content::default();
    let ours = content.add_image("ours", &host, &[layer("ours")]);
    let theirs = content.add_image("theirs", &other, &[layer("theirs")]);
    let index = content.add_index("all", &[(&other, &theirs), (&host, &ours)]);
    let server = serve(content);
    let davit = davit();
    let source = format!("docker://{}/x:all", server.host());
    let target = format!("{}/x:all", registry.host());

    // Registry to registry nothing is left out.
    assert_eq!(davit.ok(["copy", "-q", &source, &format!("docker://{target}")]), index.to_string());
    let bytes = skopeo.manifest(&format!("docker://{target}"));
    assert_eq!(davit_engine::image::Digest::of(&bytes), index);
    let dir = TempDir::new();
    skopeo.copy(&format!("docker://{target}"), &format!("dir:{}", dir.join("all").display()));

    // A pull leaves the other platform's layers out; a push to where they are names the index.
    davit.ok(["pull", &target]);
    assert!(davit.ok(["push", &target]).contains(&index.to_string()));
    // Elsewhere only the image that is here can go.
    let alone = format!("{}/alone:1", registry.host());
    davit.ok(["tag", &target, &alone]);
    let pushed = davit.run(["push", &alone]);
    assert!(pushed.stdout.contains(&ours.manifest.digest.to_string()), "{}", pushed.stdout);
    assert!(pushed.stderr.contains("only the image for"), "{}", pushed.stderr);
}

#[test]
fn copies_go_between_all_places_and_back() {
    let (Some(registry), Some(skopeo)) = (Registry::start(Access::Open), Skopeo::find()) else {
        return;
    };
    let Some(layout) = need_image(IMAGES[0]) else { return };
    let (davit, dir) = (davit(), TempDir::new());
    let at = |name: &str| dir.join(name).display().to_string();
    let first = format!("oci:{}", layout.display());
    let digest = davit_engine::image::Digest::of(&skopeo.manifest(&first)).to_string();
    let places = [
        format!("docker://{}/c:1", registry.host()),
        format!("oci:{}:v1", at("layout")),
        format!("docker-archive:{}:example.org/c:1", at("archive.tar")),
        format!("dir:{}", at("folder")),
        "store:c:1".to_owned(),
        format!("oci:{}:v1", at("again")),
    ];
    let mut source = first;
    for place in &places {
        assert_eq!(davit.ok(["copy", "-q", &source, place]), digest, "{source} -> {place}");
        source.clone_from(place);
    }
    for place in [&places[0], &places[1], &places[3], &places[5]] {
        let manifest = skopeo.manifest(place);
        assert_eq!(davit_engine::image::Digest::of(&manifest).to_string(), digest, "{place}");
        let copy = format!("dir:{}", at("judged"));
        skopeo.copy(place, &copy);
        fs_err::remove_dir_all(dir.join("judged")).unwrap();
    }
    // skopeo's own forms come back.
    skopeo.copy(&places[0], &format!("dir:{}", at("theirs")));
    assert_eq!(davit.ok(["copy", "-q", &format!("dir:{}", at("theirs")), "theirs"]), digest);
    skopeo.copy(&places[0], &format!("docker-archive:{}:c:2", at("theirs.tar")));
    davit.ok(["copy", "-q", &format!("docker-archive:{}", at("theirs.tar")), "c:2"]);
    let both = davit.run(["copy", "c:1", "c:2"]);
    assert!(both.stderr.contains("hint: davit tag SOURCE TARGET"), "{}", both.stderr);
}

#[test]
fn podman_and_crane_read_what_davit_pushed() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let Some(layout) = need_image(IMAGES[0]) else { return };
    let image = format!("{}/judged:1", registry.host());
    let davit = davit();
    davit.ok(["copy", "-q", &format!("oci:{}", layout.display()), "local:1"]);
    davit.ok(["tag", "local:1", &image]);
    davit.ok(["push", &image]);
    if let Some(crane) = need_tool("crane") {
        run(&crane, &["validate", "--insecure", "--remote", &image]);
    }
    let Some(podman) = need_tool("podman") else { return };
    let dir = TempDir::new();
    let (root, run_root) = (dir.join("root"), dir.join("run"));
    let (root, run_root) = (root.display().to_string(), run_root.display().to_string());
    let own = ["--root", &root, "--runroot", &run_root, "--storage-driver", "vfs"];
    run(&podman, &[&own[..], &["pull", "--tls-verify=false", &image]].concat());
}

/// Root file systems that others published: Alpine's, and Debian's made of its packages.
fn distributions() -> Vec<(&'static str, PathBuf)> {
    let alpine = need_image("alpine-minirootfs-3.20.3-x86_64.tar.gz");
    let found = [("alpine", alpine), ("debian", need_debian_root())];
    found.into_iter().filter_map(|(name, path)| Some((name, path?))).collect()
}

/// Each tool takes the image from where the one before it put it; davit is the first and the last.
#[test]
fn distributions_go_through_every_tool() {
    let (Some(registry), Some(skopeo)) = (Registry::start(Access::Open), Skopeo::find()) else {
        return;
    };
    let (Some(crane), Some(regctl)) = (need_tool("crane"), need_tool("regctl")) else { return };
    for (name, root) in distributions() {
        let (davit, dir, host) = (davit(), TempDir::new(), registry.host());
        let at = |step: &str| format!("{host}/{name}/{step}:1");
        let id = davit.ok(["import", root.to_str().unwrap(), &at("davit")]);
        davit.ok(["push", "-q", &at("davit")]);
        let digest = run(&crane, &["digest", "--insecure", &at("davit")]);
        let digest = String::from_utf8(digest).unwrap().trim().to_owned();
        skopeo.copy(&format!("docker://{}", at("davit")), &format!("docker://{}", at("skopeo")));
        run(&crane, &["copy", "--insecure", &at("skopeo"), &at("crane")]);
        let quiet = |arguments: &[&str]| {
            let mut command = Command::new(&regctl);
            command.env("HOME", dir.path()).args(arguments);
            let output = command.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        quiet(&["registry", "set", "--tls", "disabled", "--skip-check", &host]);
        let layout = format!("ocidir://{}", dir.join("layout").display());
        quiet(&["image", "copy", &at("crane"), &format!("{layout}:1")]);
        quiet(&["image", "copy", &format!("{layout}:1"), &at("regctl")]);
        assert_eq!(quiet(&["manifest", "head", &at("regctl")]).trim(), digest, "{name}");
        run(&crane, &["validate", "--insecure", "--remote", &at("regctl")]);
        let other = super::davit();
        other.ok(["pull", "-q", &at("regctl")]);
        assert_eq!(other.ok(["images", "-q", "--no-trunc"]), id, "{name}");
        let known = other.ok(["inspect", "-f", "{{index .RepoDigests 0}}", &at("regctl")]);
        assert!(known.ends_with(&digest), "{known}");
        // The layout that regctl wrote, and the archive that crane writes.
        let third = super::davit();
        let place = format!("oci:{}", dir.join("layout").display());
        assert_eq!(third.ok(["copy", "-q", &place, "layout:1"]), digest);
        let archive = dir.join("crane.tar");
        run(&crane, &["pull", "--insecure", &at("regctl"), archive.to_str().unwrap()]);
        third.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
        let ids = third.ok(["images", "-q", "--no-trunc"]);
        assert!(ids.lines().all(|line| line == id), "{name}: {ids}");
    }
}
