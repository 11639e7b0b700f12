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
    // An owner that is asked for has a cache of its own, a mode has none.
    let expected = "1001:1002 751\n1001:1002 751\nf\n1003:0 755\n0:0 755\n";
    assert_eq!(out(&bench, &asked, &[]), expected);
    assert_eq!(cache(&bench), ["//m of 1001:1002", "//m of 1003:0", "//m"]);
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
            "touch /r/{own} && for i in $(seq 600); do [ -e /r/{other} ] && break; sleep 0.05; \
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
                 && for i in $(seq 600); do [ -e /r/done-{other} ] && break; sleep 0.05; done\n\
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
