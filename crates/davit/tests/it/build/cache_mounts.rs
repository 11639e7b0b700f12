//! `RUN --mount=type=cache`: what stays, who shares it, and how it goes.

use std::fs;

use super::bench::{Bench, alpine};
use crate::forms::configure;

const BASE: &str = "FROM scratch AS alpine\nADD alpine.tar.gz /\n";

/// Builds a Dockerfile on Alpine and gives what its last command wrote to `/out`.
fn out(bench: &Bench, steps: &str, args: &[&str]) -> String {
    bench.write("Dockerfile", &format!("{BASE}{steps}\nFROM scratch\nCOPY --from=alpine /out /\n"));
    fs::read_to_string(bench.files(args).join("out")).unwrap()
}

fn cache(bench: &Bench) -> Vec<String> {
    let filter = ["--filter", "type=exec.cachemount", "--format", "{{.Description}}"];
    let all = bench.davit.ok(["builder", "du"].iter().chain(&filter));
    all.lines().map(str::to_owned).collect()
}

#[test]
fn a_cache_outlives_builds_and_whatever_does_not_ask_for_it() {
    let Some(bench) = alpine("") else { return };
    let count = "RUN --mount=type=cache,target=/c echo x >>/c/n && wc -l </c/n >/out";
    assert_eq!(out(&bench, count, &[]), "1\n");
    assert_eq!(out(&bench, count, &["--no-cache"]), "2\n");
    for words in ["system prune --all --force --volumes", "builder prune --force"] {
        bench.davit.ok(words.split(' '));
    }
    assert_eq!(out(&bench, count, &["--no-cache"]), "3\n");
    // The id is the target unless there is one, and a namespace keeps projects apart.
    let by_id = "RUN --mount=type=cache,id=/c,target=/other/ wc -l </other/n >/out";
    assert_eq!(out(&bench, by_id, &[]), "3\n");
    let own = "RUN --mount=type=cache,target=/c ls -A /c | wc -l >/out";
    assert_eq!(out(&bench, own, &["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=p"]), "0\n");
    let read = "RUN --mount=type=cache,target=/c,ro ! touch /c/x 2>/dev/null && echo ro >/out";
    assert_eq!(out(&bench, read, &[]), "ro\n");
    assert_eq!(cache(&bench), ["p//c", "//c"]);
    assert!(bench.davit.ok(["system", "check"]).contains("no faults"));
    // A name is the Dockerfile's; it is not the terminal's.
    let coloured = "RUN --mount=type=cache,id=\u{1b}[31m,target=/c echo 1 >/out";
    assert_eq!(out(&bench, coloured, &[]), "1\n");
    for words in
        ["builder du", "builder prune --force --filter type=exec.cachemount --filter id=/\u{1b}"]
    {
        let told = bench.davit.ok(words.split(' '));
        assert!(told.contains("[31m") && !told.contains('\u{1b}'), "{told:?}");
    }
    let prune = |filter: &str| {
        let args = ["builder", "prune", "--force", "--filter", "type=exec.cachemount"];
        bench.davit.ok(args.iter().chain(&["--filter", filter]))
    };
    assert!(prune("until=24h").ends_with(": 0B"), "it was used since");
    let pruned = prune("id=p/");
    assert!(pruned.contains("exec.cachemount p//c\n") && !pruned.ends_with(": 0B"), "{pruned}");
    assert_eq!(cache(&bench), ["//c"]);
    let pruned = bench.davit.ok(["builder", "prune", "--all", "--force"]);
    assert!(pruned.contains("exec.cachemount //c\n"), "{pruned}");
    assert_eq!(cache(&bench), [""; 0]);
    assert_eq!(out(&bench, count, &[]), "1\n");
}

#[test]
fn a_new_cache_is_the_users_or_what_it_is_asked_to_be() {
    let Some(bench) = alpine("") else { return };
    let stat = |target: &str| format!("stat -c '%u:%g %a' {target}");
    let asked = format!(
        "RUN --mount=type=cache,target=/m,uid=1001,gid=1002,mode=0751 {stat} >/out && touch /m/f\n\
         RUN --mount=type=cache,target=/m,uid=1001,gid=1002 {stat} >>/out && ls /m >>/out\n\
         RUN --mount=type=cache,target=/m,uid=1003 {stat} >>/out && ls /m >>/out\n\
         RUN --mount=type=cache,target=/m {stat} >>/out && ls /m >>/out",
        stat = stat("/m")
    );
    // Neither an owner nor a mode that is asked for makes another cache of it.
    let expected = "1001:1002 751\n1001:1002 751\nf\n1003:0 751\nf\n0:0 751\nf\n";
    assert_eq!(out(&bench, &asked, &[]), expected);
    assert_eq!(cache(&bench), ["//m"]);
    let user = format!(
        "RUN install -d -m 2770 /shown && touch /out && chmod 666 /out\nUSER guest\n\
         RUN --mount=type=cache,target=/u {} >/out && touch /u/mine\n\
         RUN --mount=type=cache,target=/shown {} >>/out",
        stat("/u"),
        stat("/shown")
    );
    let guest = "405:100";
    assert_eq!(out(&bench, &user, &[]), format!("{guest} 755\n{guest} 2770\n"));
    // Other files to begin with are another cache.
    for seed in ["s", "other"] {
        let seeded = format!(
            "RUN mkdir /seed && echo {seed} >/seed/f && chown 7:8 /seed/f\n\
             FROM alpine AS seeded\n\
             RUN --mount=type=cache,id=seed,from=alpine,source=/seed,target=/c \
                 cat /c/f >/o && stat -c %u:%g /c/f >>/o && echo t >/c/f\n\
             RUN --mount=type=cache,id=seed,from=alpine,target=/c cat /c/seed/f >>/o"
        );
        let last = "FROM scratch\nCOPY --from=seeded /o /\n";
        bench.write("Dockerfile", &format!("{BASE}{seeded}\n{last}"));
        let files = bench.files(&[]);
        assert_eq!(fs::read_to_string(files.join("o")).unwrap(), format!("{seed}\n7:8\nt\n"));
    }
}

#[test]
fn caches_keep_within_their_own_budget() {
    let Some(bench) = alpine("") else { return };
    let write = |id: u32| {
        let steps = format!(
            "RUN --mount=type=cache,id={id},target=/c head -c 1m /dev/zero >/c/f && \\\n\
                 du -s /c | cut -f1 >/out"
        );
        out(&bench, &steps, &["--no-cache"]);
    };
    configure(&bench.davit, "[gc]\nkeep_storage = 1\n");
    for id in [1, 2, 1, 3] {
        write(id);
    }
    assert_eq!(cache(&bench), ["/2", "/1", "/3"], "they are no build records");
    configure(&bench.davit, "[gc]\nkeep_cache_mounts = 2500000\n");
    write(3);
    assert_eq!(cache(&bench), ["/1", "/3"]);
}

/// Commands that wait for each other: they end only if they run at the same time.
#[test]
fn steps_share_a_cache_as_they_ask() {
    let Some(bench) = alpine("") else { return };
    let meet = |own: &str, other: &str| {
        format!(
            "touch /r/{own} && for i in $(seq 6000); do [ -e /r/{other} ] && break; sleep 0.05; \
             done && [ -e /r/{other} ]"
        )
    };
    let stage = |own: &str, other: &str| {
        let meet = meet(own, other);
        format!(
            "FROM alpine AS {own}\n\
             RUN --mount=type=cache,id=r,target=/r \
                 --mount=type=cache,id=p,sharing=private,target=/p \
                 {meet} && touch /p/{own} && ls /p >/ls-{own} && touch /r/done-{own} \
                 && for i in $(seq 6000); do [ -e /r/done-{other} ] && break; sleep 0.05; done\n\
             RUN --mount=type=cache,id=l,sharing=locked,target=/l \
                 mkdir /l/busy && for i in $(seq 200); do ls /l >/dev/null; done && rmdir /l/busy\n"
        )
    };
    let last = "FROM scratch\nCOPY --from=a /ls-a /\nCOPY --from=b /ls-b /\n";
    bench.write("Dockerfile", &format!("{BASE}{}{}{last}", stage("a", "b"), stage("b", "a")));
    let files = bench.files(&["--jobs", "2"]);
    for name in ["a", "b"] {
        let seen = fs::read_to_string(files.join(format!("ls-{name}"))).unwrap();
        assert_eq!(seen, format!("{name}\n"), "each has its own");
    }
    assert_eq!(cache(&bench).iter().filter(|name| *name == "/p").count(), 2);
}

#[test]
fn cache_mounts_go_to_other_machines_and_come_from_them() {
    let Some(bench) = alpine("") else { return };
    let folder = bench.davit.dir().join("shared");
    let to = format!("type=local,dest={},mounts=true", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let with = format!("{from},mounts=true");
    let fill = "RUN --mount=type=cache,target=/c mkdir -p /c/d && echo 1 >/c/d/f && \
                ln /c/d/f /c/g && chown 7:8 /c/g && ln -s d /c/s && chmod 2750 /c/d && echo >/out";
    out(&bench, fill, &["--cache-to", &to]);
    let show = "RUN --mount=type=cache,target=/c ls -lnA /c /c/d | awk '{print $1,$3,$4,$9}' >/out";
    let one = out(&bench, show, &[]);
    assert!(one.contains("-rw-r--r-- 7 8 g") && one.contains("drwxr-s--- 0 0 d"), "{one}");
    let machine = || Bench { davit: crate::davit(), context: bench.context.clone() };
    assert_eq!(out(&machine(), show, &["--cache-from", &with]), one);
    let count = "RUN --mount=type=cache,target=/c ls -A /c | wc -l >/out";
    // Only who asks for them gets them, and one that is here stays as it is.
    let other = machine();
    assert_eq!(out(&other, count, &["--cache-from", &from]), "0\n");
    assert_eq!(out(&other, count, &["--cache-from", &with, "--no-cache"]), "0\n");
    assert_eq!(out(&other, count, &["--no-cache", "--no-cache-mounts"]), "0\n");
    assert_eq!(out(&bench, count, &["--no-cache"]), "3\n");
    // Nothing changed: nothing is written.
    let index = fs::read(folder.join("index.json")).unwrap();
    out(&bench, show, &["--cache-to", &format!("{to},ignore-error=false")]);
    out(&bench, show, &["--cache-to", &to]);
    let before = fs::read_dir(folder.join("blobs/sha256")).unwrap().count();
    out(&bench, fill, &["--cache-to", &to]);
    assert_eq!(fs::read_dir(folder.join("blobs/sha256")).unwrap().count(), before);
    assert!(!index.is_empty());
    // What is damaged is told, and the mount begins empty.
    let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap().flatten();
    for blob in blobs.filter(|blob| fs::read(blob.path()).unwrap().starts_with(&[0x1f, 0x8b])) {
        fs::write(blob.path(), "x").unwrap();
    }
    let third = machine();
    let outcome = third.run(&["--cache-from", &with]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("is of no use"), "{}", outcome.stderr);
}

#[test]
fn a_pinned_cache_mount_goes_by_its_name_alone() {
    let Some(bench) = alpine("") else { return };
    let fill = "RUN --mount=type=cache,target=/p --mount=type=cache,target=/c \
                dd if=/dev/zero of=/p/f bs=1M count=2 2>/dev/null && echo 1 >/c/f && echo >/out";
    configure(&bench.davit, "[gc]\nkeep_cache_mounts = 1000\npinned_cache_mounts = [\"/p\"]\n");
    out(&bench, fill, &[]);
    assert_eq!(cache(&bench), ["//p"], "the other one is over the budget");
    bench.davit.ok(["builder", "prune", "--all", "--force"]);
    assert_eq!(cache(&bench), ["//p"]);
    let named = ["--filter", "type=exec.cachemount", "--filter", "id=//p"];
    bench.davit.ok(["builder", "prune", "--force"].iter().chain(&named));
    assert_eq!(cache(&bench), [""; 0]);
    // --no-cache-mounts is asking.
    let count = "RUN --mount=type=cache,target=/p echo x >>/p/n && wc -l </p/n >/out";
    for (args, expected) in [(&[][..], "1\n"), (&["--no-cache"], "2\n")] {
        assert_eq!(out(&bench, count, args), expected);
    }
    assert_eq!(out(&bench, count, &["--no-cache", "--no-cache-mounts"]), "1\n");
    let policy = bench.davit.ok(["builder", "inspect"]);
    assert!(policy.contains("GC Policy rule#1:\n Filters:        type==exec.cachemount\n"));
}

/// What each user of a cache mount sees there is their own.
#[test]
fn users_of_a_cache_write_to_what_the_others_left() {
    let Some(bench) = alpine("") else { return };
    let (cache, stat) = ("--mount=type=cache,target=/c,id=shared", "stat -c '%n %u:%g'");
    let steps = format!(
        "RUN touch /out && chmod 666 /out && adduser -D -u 1000 app\n\
         RUN {cache} mkdir /c/d && echo root >/c/d/f && touch /c/third && chown 7:8 /c/third\n\
         USER app\n\
         RUN {cache} echo app >>/c/d/f && touch /c/d/new && cd /c && {stat} . d/f third >/out\n\
         USER guest\n\
         RUN {cache},uid=405,gid=100,mode=0700 rm /c/d/new && cd /c && {stat} d/f >>/out\n\
         USER 0\n\
         RUN {cache} cd /c && cat d/f >>/out && {stat} . d d/f third >>/out && chown -R 1000 d"
    );
    let first = ". 1000:1000\nd/f 1000:1000\nthird 7:8\nd/f 405:100\n";
    let last = "root\napp\n. 0:0\nd 0:0\nd/f 0:0\nthird 7:8\n";
    assert_eq!(out(&bench, &steps, &[]), format!("{first}{last}"));
    // What a user gave away is somebody else's, and theirs as soon as they use it.
    let steps = format!(
        "RUN touch /out && chmod 666 /out && adduser -D -u 1000 app\n\
         RUN {cache} cd /c && {stat} . d d/f >/out"
    );
    assert_eq!(out(&bench, &steps, &[]), ". 0:0\nd 1000:0\nd/f 1000:0\n");
}
