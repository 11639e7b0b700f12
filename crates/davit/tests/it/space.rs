//! Room on the disk: what takes it is counted, and what failed for want of it gives it back.

use davit_engine::image::{Digest, Platform};
use davit_test::{Content, HttpServer, need_image, need_root, need_tool, noise, tar_of};

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
        // Of a layer, or of its table, whichever did not fit.
        assert!(told.to_lowercase().contains("no space left"), "{told}");
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

/// The database's shared index is made anew by whoever opens it first: with every block taken.
#[test]
fn a_disk_without_a_free_block_can_be_emptied() {
    let (true, Some(image)) = (need_root(), need_image("busybox-musl-amd64")) else { return };
    let Some(_) = need_tool("mkfs.ext4") else { return };
    let image = image.display();
    // Where blocks are smaller than pages, a page can have a hole that nothing fills any more.
    let disks = [
        "mount -t tmpfs -o size=12m davit-test $0/disk",
        "truncate -s 12M $0/file; mkfs.ext4 -q -b 1024 -F $0/file; mount -o loop $0/file $0/disk",
    ];
    for disk in disks {
        let davit = davit();
        let script = format!(
            "mkdir $0/disk; {disk}
             export DAVIT_ROOT=$0/disk/root
             $1 copy -q oci:{image} store:busybox:latest >/dev/null
             $1 run --network none --name done busybox true
             fill() {{
                 : > $DAVIT_ROOT/davit.db-shm
                 head -c 12k /dev/zero > $0/disk/spare; sync -f $0/disk
                 dd if=/dev/zero bs=1k oflag=append conv=notrunc of=$0/disk/fill 2>/dev/null || :
                 rm $0/disk/spare
             }}
             fill; $1 ps -a --format '{{{{.Names}}}}'
             fill; $1 ps -aq --filter name=none
             fill; $1 container prune -f | head -n 1
             for verb in 'rmi busybox' 'system prune -f' 'system check'; do
                 : > $DAVIT_ROOT/davit.db-shm; $1 $verb >$0/out 2>&1 || {{ echo $?; cat $0/out; }}
             done
             rm -f $DAVIT_ROOT/reserve; fill
             $1 ps -a 2>&1 || echo $?
             rm $0/disk/fill; $1 ps -aq; stat -c %s $DAVIT_ROOT/reserve
             $1 system reset --force >/dev/null 2>&1"
        );
        let outcome = in_namespace(&davit, &script);
        let database = davit.dir().join("disk/root/davit.db");
        let expected = format!(
            "done\nDeleted Containers:\n\
             error: cannot open the store at {root}\n\
             caused by: no space left to open {database}\n\
             caused by: No space left on device (os error 28)\n1\n1048576\n",
            root = davit.dir().join("disk/root").display(),
            database = database.display(),
        );
        assert_eq!(outcome.stdout, expected, "{disk}: {}", outcome.stderr);
        assert_eq!(outcome.code, 0, "{disk}: {}", outcome.stderr);
    }
}
