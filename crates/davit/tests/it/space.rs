//! Room on the disk: what takes it is counted, and what failed for want of it gives it back.

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, HttpServer, need_root, noise, tar_of};

use crate::{crash::in_namespace, davit};

#[test]
fn what_a_killed_pull_leaves_is_counted() {
    if !need_root() {
        return;
    }
    let davit = davit();
    davit.ok(["images"]);
    let partial = format!("blob-sha256-{}", Digest::of(b"some layer").hex());
    let partial = davit.root().join("tmp").join(partial);
    fs_err::write(&partial, noise(300_000)).unwrap();
    let used = davit.ok(["system", "df", "--format", "{{.Type}} {{.Size}} {{.Reclaimable}}"]);
    assert!(used.starts_with("Images 303.1kB 303.1kB (100%)\n"), "{used}");
    let pruned = davit.ok(["system", "prune", "-af"]);
    assert!(pruned.ends_with("Total reclaimed space: 303.1kB"), "{pruned}");
    assert!(!partial.exists());
}

#[test]
fn what_a_prune_would_free_is_counted() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[tar_of(&[("noise", &noise(500_000))])]);
    let server = HttpServer::start(move |request| content.serve(request));
    let davit = davit();
    davit.ok(["pull", "-q", &format!("{}/x:1", server.host())]);
    let used = davit.ok(["system", "df", "--format", "{{.Type}} {{.Size}} {{.Reclaimable}}"]);
    let pruned = davit.ok(["image", "prune", "-af"]);
    let freed = pruned.rsplit(' ').next().unwrap();
    let expected = format!("Images {freed} {freed} (100%)\n");
    assert!(used.starts_with(&expected) && freed != "0B", "{used} {pruned}");
}

#[test]
fn what_finds_no_room_leaves_nothing() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let layers = [2_000_000, 300_000, 9_000_000].map(|size| tar_of(&[("noise", &noise(size))]));
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &layers);
    let server = HttpServer::start(move |request| content.serve(request));
    let name = format!("{}/x:1", server.host());
    let archive = davit.dir().join("archive.tar");
    davit.ok(["pull", "-q", &name]);
    davit.ok(["save", "-o", archive.to_str().unwrap(), &name]);
    for verb in [format!("pull {name}"), "load -i $0/archive.tar".to_owned()] {
        let script = format!(
            "mount -t tmpfs -o size=10m davit-test $0/root
             $1 images -q >/dev/null
             $1 {verb} 2>&1 && exit 90
             ls $0/root/layers/sha256 $0/root/blobs/sha256
             ls $0/root/tmp"
        );
        let outcome = in_namespace(&davit, &script);
        let told = &outcome.stdout;
        assert_eq!(outcome.code, 0, "{verb}: {told}{}", outcome.stderr);
        assert!(told.contains("no space left to keep layer"), "{told}");
        assert!(told.contains("\nhint: davit system prune\n"), "{told}");
        assert!(!told.contains("is refused"), "{told}");
        let (_, left) = told.split_once("root/layers/sha256:\n").unwrap_or_default();
        let is_name = |line: &&str| !line.is_empty() && !line.ends_with(":");
        let left: Vec<_> = left.lines().filter(is_name).collect();
        assert_eq!(left, Vec::<&str>::new(), "{told}");
    }
}
