//! `RUN --mount=type=bind|tmpfs`: what commands see, what is left of it, and what it is keyed by.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    time::{Duration, SystemTime},
};

use super::bench::{alpine, list, tar_file};
use crate::forms::{FORMS, force};

/// DiffID of a layer without entries.
const EMPTY: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

#[test]
fn commands_see_files_of_the_context_stages_and_images() {
    let Some(bench) = alpine(
        "RUN mkdir -p /out/sub && echo made >/out/sub/f && ln -s /out /link\n\
         FROM alpine AS made\n\
         FROM alpine AS on\n\
         WORKDIR /w\n\
         ARG T=arg\n\
         ENV D=/env\n\
         RUN --mount=target=. cat src/a >/1 && ! touch src/x 2>/dev/null \
             && stat -c '%u:%g %a' src/a >>/1 && [ ! -e ignored ] && [ -e alpine.tar.gz ]\n\
         RUN --mount=source=src/a,target=/tmp/one --mount=source=/,target=/tmp/all \
             cat /tmp/one /tmp/all/src/a >/2\n\
         RUN --mount=type=bind,source=src,dst=/$T,rw echo b >>/arg/a && cat /arg/a >/3\n\
         RUN --mount=source=src,target=/arg cat /arg/a >>/3 && stat -c %a /arg >>/3\n\
         RUN --mount=from=alpine,source=link/sub,target=${D}/deep/x,readonly \
             cat /env/deep/x/f >/4 && ! rm /env/deep/x/f 2>/dev/null\n\
         RUN --mount=from=base:1,source=/etc,target=/image cat /image/alpine-release >/5\n\
         RUN --mount=source=to-a,target=/linked cat /linked >/6\n\
         RUN --mount=type=tmpfs,target=mem,size=1m echo x >/w/mem/f \
             && ! dd if=/dev/zero of=mem/big bs=1k count=2048 2>/dev/null \
             && grep ' /w/mem tmpfs rw,nosuid' /proc/mounts | grep -c size=1024k >/7\n\
         RUN --mount=source=src,target=/twice --mount=type=tmpfs,target=/twice/ \
             ls /twice | wc -l >/8\n\
         RUN for i in /arg /env /image /linked /twice; do [ ! -e $i ] || exit 1; done; \
             ls -A /tmp /w >/left\n\
         FROM alpine AS parent\n\
         ONBUILD RUN --mount=source=src,target=/x --mount=from=made,source=/out/sub,target=/y \
             --mount=type=cache,target=/c cat /x/a /y/f >/9 && hostname >>/9\n\
         FROM parent AS child\n\
         FROM scratch\n\
         COPY --from=on /1 /2 /3 /4 /5 /6 /7 /8 /left /\n\
         COPY --from=child /9 /\n",
    ) else {
        return;
    };
    bench.write("src/a", "a\n");
    bench.write("ignored", "");
    bench.write(".dockerignore", "ignored\n");
    fs::set_permissions(bench.context.join("src"), fs::Permissions::from_mode(0o711)).unwrap();
    symlink("src/a", bench.context.join("to-a")).unwrap();
    bench.build(&["--target", "alpine", "-t", "base:1"]);
    let files = bench.files(&["--pull=never", "--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=own"]);
    let read = |name: &str| fs::read_to_string(files.join(name)).unwrap();
    let found: Vec<String> = ["1", "2", "3", "4", "5", "6", "7", "8", "left"].map(read).to_vec();
    let expected =
        ["a\n0:0 644\n", "a\na\n", "a\nb\na\n711\n", "made\n", "3.20.3\n", "a\n", "1\n", "0\n"];
    assert_eq!(found[..8], expected);
    assert_eq!(found[8], "/tmp:\n\n/w:\n", "mount points are gone");
    assert_eq!(read("9"), "a\nmade\nown\n", "a trigger mounts as any other");
}

#[test]
fn a_mount_that_is_wrong_is_refused_at_its_place() {
    let Some(bench) = alpine("") else { return };
    let many: String = (0..1001).map(|n| format!(" --mount=target=/x{n}")).collect();
    let many = format!("RUN{many} true");
    for (steps, message, hint) in [
        (many.as_str(), "more than 1000 mounts", ""),
        ("RUN --mount=target=/ true", "the root directory", "target=/x"),
        ("RUN --mount=type=tmpfs true", "the root directory", ""),
        ("RUN --mount=tpye=tmpfs,target=/x true", "mount key `tpye` is unknown", "`type`"),
        ("ARG t=tmfps\nRUN --mount=type=$t,target=/x true", "value `tmfps`", "`tmpfs`"),
        ("RUN --mount=from=$X,target=/x true", "--from is empty", "`X` is not set"),
        ("RUN --mount=from=last,target=/x true\nFROM scratch AS last\nFROM alpine", "", ""),
        ("RUN --mount=from=7,target=/x true", "no stage number 7", ""),
        ("RUN --mount=from=alpine,source=none,target=/x true", "`/none` does not exist", ""),
        ("RUN --mount=source=none,target=/x true", "\"none\" is not in the context", ""),
        ("RUN --mount=source=alpine.tar.g,target=/x true", "", "did you mean `alpine.tar.gz`"),
        ("RUN --mount=type=cache,target=/x,uid=4294967295 true", "nobody's number", ""),
        ("RUN --mount=type=ssh,source=/x true", "an ssh mount has no `source`", ""),
        ("RUN --mount=target=/proc/x true", "inside /proc", ""),
        ("RUN --mount=target=/etc/passwd true", "mounting /etc/passwd", "where there is a file"),
        ("RUN --mount=source=Dockerfile,target=/etc true", "mounting /etc", "name the file"),
        ("RUN --mount=target=/x --mount=target=/x/y true", "mounting /x/y", "add `rw` to that"),
        ("ONBUILD RUN --mount=type=cahce,target=/x true\nFROM here", "5 | FROM here", "`cache`"),
    ] {
        let first = "FROM scratch AS alpine\nADD alpine.tar.gz /\nFROM alpine AS here";
        bench.write("Dockerfile", &format!("{first}\n{steps}\n"));
        let target = if steps.contains("AS last") { &["--target", "here"][..] } else { &[] };
        let outcome = bench.run(target);
        assert_eq!(outcome.code, 1, "{steps}");
        let message = if steps.contains("AS last") { "defined after this one" } else { message };
        assert!(outcome.stderr.contains(message), "{steps}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{steps}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("Dockerfile:"), "{steps}: {}", outcome.stderr);
    }
}

/// Nothing of a mount is in a layer: not its mount point, not the way there, no time of a directory.
#[test]
fn a_mount_point_is_not_in_the_layer() {
    let Some(bench) = alpine(
        "RUN ln -s /root /r\n\
         RUN --mount=type=tmpfs,target=/a/b/c --mount=type=cache,target=/etc/x \
             --mount=source=Dockerfile,target=/r/file --mount=type=tmpfs,target=/tmp true\n\
         RUN --mount=type=tmpfs,target=/a/b echo kept >/a/f\n",
    ) else {
        return;
    };
    let config = bench.build(&["-t", "t"]);
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(layers[2], EMPTY);
    let shown = bench.davit.ok(["run", "--rm", "--network", "none", "t", "ls", "-AR", "/a"]);
    assert_eq!(shown, "/a:\nf");
}

#[test]
fn mounts_are_the_same_in_every_form() {
    let Some(bench) = alpine(
        "RUN mkdir /out && echo s >/out/f\n\
         FROM alpine\n\
         RUN --mount=target=/a/b --mount=from=alpine,source=out,target=/o,rw \
             --mount=type=tmpfs,target=/t --mount=type=cache,target=/etc/c \
             --mount=type=secret,id=s echo x >>/o/f && touch /etc/c/f /t/f \
             && cat /a/b/f /o/f /run/secrets/s | tr '\\n' ,\n\
         RUN --mount=from=alpine,source=out,target=/o cat /o/f && echo kept >/f\n",
    ) else {
        return;
    };
    bench.write("f", "f\n");
    let secret = bench.davit.dir().join("secret");
    fs::write(&secret, "secret\n").unwrap();
    let secret = format!("id=s,src={}", secret.display());
    let info = bench.davit.ok(["info"]);
    let best = FORMS.iter().position(|form| info.contains(&format!("Snapshot form: {form}\n")));
    for form in &FORMS[best.unwrap()..] {
        force(&bench.davit, form);
        let outcome = bench.run(&["--no-cache", "--secret", &secret]);
        assert_eq!(outcome.code, 0, "{form}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(" f,s,x,secret,"), "{form}: {}", outcome.stderr);
        let config = bench.config(&outcome);
        let layers = config["rootfs"]["diff_ids"].as_array().unwrap();
        assert_eq!((layers.len(), layers[2].as_str()), (4, Some(EMPTY)), "{form}");
        let left = fs::read_dir(bench.davit.dir().join("volume"));
        assert_eq!(left.map_or(0, Iterator::count), 0, "{form}");
    }
}

#[test]
fn a_bind_is_keyed_by_what_it_shows_and_shows_the_times_of_now() {
    let dockerfile = |n: u32| {
        format!(
            "FROM scratch AS alpine\nADD alpine.tar.gz /\n\
             RUN --mount=source=src,target=/s stat -c %Y /s/f >/time{n}\n"
        )
    };
    let Some(bench) = alpine("") else { return };
    bench.write("src/f", "1");
    bench.write("other", "1");
    bench.write("Dockerfile", &dockerfile(1));
    let touch = |seconds: u64| {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(seconds * 1000 - 500);
        fs::File::options()
            .write(true)
            .open(bench.context.join("src/f"))
            .unwrap()
            .set_modified(time)
            .unwrap();
    };
    let time = |n: u32| {
        let files = bench.files(&[]);
        fs::read_to_string(files.join(format!("time{n}"))).unwrap().trim().to_owned()
    };
    touch(1_000_000);
    assert_eq!(time(1), "1000000", "a part of a second counts as a whole one");
    touch(2_000_000);
    bench.write("other", "2");
    let again = bench.run(&["--explain"]);
    assert!(again.stderr.contains("(2 of 2 steps cached)"), "{}", again.stderr);
    bench.write("Dockerfile", &dockerfile(2));
    assert_eq!(time(2), "2000000", "not those of files that were the same once");
    bench.write("src/f", "2");
    let changed = bench.run(&["--explain"]);
    assert!(changed.stderr.contains("content of /s"), "{}", changed.stderr);
    // A context that is a tar holds times and content of its own.
    bench.write("Dockerfile", &dockerfile(3).replace("stat -c %Y", "cat"));
    let mut tar = Vec::new();
    for name in ["Dockerfile", "alpine.tar.gz", "src/f"] {
        tar.extend(tar_file(name, &fs::read(bench.context.join(name)).unwrap()));
    }
    tar.extend([0; 1024]);
    let target = bench.davit.dir().join("from-tar");
    let spec = format!("type=local,dest={}", target.display());
    let outcome = bench.feed(&tar, &["-o", &spec]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(target.join("time3")).unwrap(), "2");
}

#[test]
fn a_stage_is_mounted_by_what_is_seen_of_it() {
    let Some(bench) = alpine("") else { return };
    let build = |other: &str, seen: &str| {
        bench.write(
            "Dockerfile",
            &format!(
                "FROM scratch AS alpine\nADD alpine.tar.gz /\n\
                 FROM alpine AS made\n\
                 RUN mkdir -p /out && echo {other} >/other && echo {seen} >/out/f\n\
                 FROM alpine\n\
                 RUN --mount=from=made,source=/out,target=/m cat /m/f && cat /m/f >/f\n"
            ),
        );
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stderr
    };
    assert!(build("1", "one").contains("(0 of 3 steps cached)"));
    let same = build("2", "one");
    assert!(same.contains("(2 of 3 steps cached)"), "{same}");
    let changed = build("2", "two");
    assert!(changed.contains("(1 of 3 steps cached)"), "{changed}");
}

/// What an image makes of its own paths stays within it.
#[test]
fn a_link_of_the_image_leads_nowhere_else() {
    let Some(bench) = alpine(
        "RUN ln -s /../../../../../../etc /up\n\
         RUN --mount=source=f,target=/up/stub cat /etc/stub\n\
         RUN --mount=type=cache,id=e,target=/c ln -s /etc /c/sel && ln -s ../../../../.. /c/out\n\
         RUN --mount=type=cache,id=e,source=out,target=/v ls -A /v >/seen\n\
         RUN ! ls /etc/stub 2>/dev/null\n\
         FROM scratch\nCOPY --from=alpine /seen /\n",
    ) else {
        return;
    };
    bench.write("f", "f\n");
    let files = bench.files(&[]);
    assert_eq!(fs::read_to_string(files.join("seen")).unwrap(), "out\nsel\n", "its own root");
    assert_eq!(list(&files).len(), 1);
    let steps = "RUN --mount=type=cache,id=e,source=sel,target=/v cat /v/hostname\n";
    bench.write("Dockerfile", &format!("FROM scratch AS alpine\nADD alpine.tar.gz /\n{steps}"));
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("`/sel` does not exist in the cache"), "{}", outcome.stderr);
}
