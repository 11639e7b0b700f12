//! Room on the disk: what takes it is counted, and what failed for want of it gives it back.

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, HttpServer, need_image, need_root, noise, tar_of};

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

#[test]
fn a_container_that_fills_the_disk_can_be_removed() {
    let (true, Some(image)) = (need_root(), need_image("busybox-musl-amd64")) else { return };
    let davit = davit();
    fs_err::create_dir_all(davit.root()).unwrap();
    let script = format!(
        "mount -t tmpfs -o size=20m davit-test $0/root
         $1 copy -q oci:{} store:busybox:latest >/dev/null
         $1 run -d --network none --name up busybox sleep 600 >/dev/null
         for name in live dead; do
             $1 run --network none --name $name busybox dd if=/dev/zero of=/big bs=1M count=50 \
                 2>/dev/null || echo $name $?
             $1 ps -a --format '{{{{.Names}}}} {{{{.State}}}}'
             $1 inspect -f '{{{{.State.ExitCode}}}}' $name
             $1 logs $name >/dev/null 2>&1
             case $name in
                 live) $1 rm -f up live;;
                 dead) $1 container prune -f | tail -n 1 | sed 's/ [0-9.]*MB/ some/';;
             esac
         done
         $1 run --rm --network none busybox echo room
         $1 system reset --force >/dev/null 2>&1",
        image.display()
    );
    let outcome = in_namespace(&davit, &script);
    let expected = "live 1\nlive exited\nup running\n1\nup\nlive\n\
                    dead 1\ndead exited\n1\nTotal reclaimed space: some\nroom\n";
    assert_eq!(outcome.stdout, expected, "{}", outcome.stderr);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}
