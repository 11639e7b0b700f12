//! Flags of `COPY` and `ADD`: what they select, and what of it is a reason to copy again.

use std::os::unix::fs::MetadataExt as _;

use super::bench::{Bench, alpine, list, with_owners};

fn cached(bench: &Bench, args: &[&str]) -> String {
    let outcome = bench.run(args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let line = outcome.stderr.lines().find(|line| line.starts_with("Built ")).unwrap();
    line.split_once('(').unwrap().1.to_owned()
}

#[test]
fn only_what_is_copied_is_a_reason_to_copy_again() {
    let dockerfile = "FROM scratch\nCOPY --exclude=skip --exclude=**/*.log src /s\n\
                      COPY --parents src/**/*.txt /p/\n";
    let files = [
        ("src/a", "1"),
        ("src/x.log", "1"),
        ("src/deep/t.txt", "1"),
        ("src/skip/b", "1"),
        ("Dockerfile", dockerfile),
    ];
    let Some(bench) = Bench::new(&files) else { return };
    let expected = [
        "p/ 755",
        "p/src/ 755",
        "p/src/deep/ 755",
        "p/src/deep/t.txt 644 1",
        "s/ 755",
        "s/a 644 1",
        "s/deep/ 755",
        "s/deep/t.txt 644 1",
    ];
    assert_eq!(list(&bench.files(&[])), expected);
    bench.build(&[]);
    for (file, text) in [("src/skip/b", "2"), ("src/x.log", "2"), ("src/skip/new", "2")] {
        bench.write(file, text);
        assert_eq!(cached(&bench, &[]), "2 of 2 steps cached)", "{file}");
    }
    bench.write("src/a", "2");
    let outcome = bench.run(&["--explain"]);
    assert!(outcome.stderr.contains("file s/a: content"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("(0 of 2 steps cached)"), "{}", outcome.stderr);
    bench.write("src/deep/t.txt", "2");
    assert_eq!(cached(&bench, &[]), "0 of 2 steps cached)");
    assert!(list(&bench.files(&[])).contains(&"p/src/deep/t.txt 644 2".to_owned()));
    // Another pattern is another copy.
    bench.write("Dockerfile", &dockerfile.replace("skip", "deep"));
    assert!(list(&bench.files(&[])).contains(&"s/skip/b 644 2".to_owned()));
}

#[test]
fn a_linked_copy_does_not_depend_on_what_lies_below() {
    let dockerfile = "FROM scratch\nCOPY f /f\nCOPY --link g /d/g\nCOPY --link --chmod=600 g /h\n";
    let Some(bench) = Bench::new(&[("f", "1"), ("g", "1"), ("Dockerfile", dockerfile)]) else {
        return;
    };
    let first = bench.build(&[]);
    bench.write("f", "2");
    // With --chmod it is no link, as with BuildKit, and meets nothing of what changed.
    let outcome = bench.run(&["--explain"]);
    assert!(outcome.stderr.contains("(2 of 3 steps cached)"), "{}", outcome.stderr);
    let now = bench.config(&outcome);
    let layer = |config: &serde_json::Value, at: usize| config["rootfs"]["diff_ids"][at].clone();
    assert_ne!(layer(&now, 0), layer(&first, 0));
    assert_eq!(layer(&now, 1), layer(&first, 1));
    bench.write("g", "2");
    assert_eq!(cached(&bench, &[]), "1 of 3 steps cached)");
    // Names of owners are those of the image.
    bench.write("passwd", "root:x:0:0::/:/\nweb:x:33:34::/:/\n");
    bench.write("group", "www:x:35:\n");
    bench.write(
        "Dockerfile",
        "FROM scratch\nCOPY passwd group /etc/\nCOPY --link --chown=web:www g /d/g\n",
    );
    let context = bench.context.to_str().unwrap();
    let build = |spec: &str| bench.davit.run(["build", "-q", "-o", spec, context]);
    let Some(target) = with_owners(&bench.davit, build) else { return };
    for path in ["d", "d/g"] {
        let facts = target.join(path).metadata().unwrap();
        assert_eq!((facts.uid(), facts.gid()), (33, 35), "{path}");
    }
    bench.write("Dockerfile", "FROM scratch\nCOPY passwd /etc/\nCOPY --link --chown=wep g /g\n");
    let outcome = bench.run(&[]);
    assert!(outcome.stderr.contains("did you mean `web`?"), "{}", outcome.stderr);
}

#[test]
fn a_path_that_another_step_wrote_or_removed_is_told() {
    let Some(bench) = Bench::new(&[("src/f", "1")]) else { return };
    bench.write(
        "Dockerfile",
        "FROM scratch AS a\nCOPY src /d\nFROM scratch AS b\nCOPY --from=a /d /e\n\
         FROM scratch\nCOPY --from=b /d/f /\n",
    );
    let told = bench.run(&[]);
    let hint = "hint: line 2, `[a 1/1] COPY src /d`, wrote it, which is not what is copied from";
    assert!(told.code == 1 && told.stderr.contains(hint), "{}", told.stderr);
    let steps = "RUN touch /made\nRUN rm /made\nFROM scratch\nCOPY --from=alpine /made /\n";
    let Some(bench) = alpine(steps) else { return };
    let told = bench.run(&[]);
    assert!(told.stderr.contains("RUN rm /made`, removed it"), "{}", told.stderr);
}

#[test]
fn a_source_of_parents_must_be_there() {
    let Some(bench) = Bench::new(&[("a/b/file", "1"), (".dockerignore", "gone\n")]) else { return };
    bench.write("gone/x", "1");
    std::os::unix::fs::symlink("a", bench.context.join("link")).unwrap();
    for (steps, message, hint) in [
        ("COPY --parents a/b/fil /", "source \"a/b/fil\" is not in", "did you mean `a/b/file`?"),
        ("COPY --parents a/./b/fil /", "source \"a/b/fil\" is not in", "Dockerfile:2"),
        ("COPY --parents gone/x /", "is excluded by .dockerignore:1", "`!gone/x`"),
        ("COPY --parents no/./*/x /", "source \"no/*/x\" matches nothing", "Dockerfile:2"),
        ("COPY --parents a/b/./*.x /", "source \"a/b/*.x\" matches nothing", "Dockerfile:2"),
        ("COPY --parents link/b/file /", "source \"link/b/file\" is not in", "Dockerfile:2"),
        ("COPY --parents --exclude=a a/b/file /", "\"a/b/file\" is excluded by --exclude", ":2:28"),
        ("COPY --parents a/[ /", "`a/[` is no valid pattern", "Dockerfile:2"),
        ("COPY --exclude=a/[ a /", "`a/[` is no valid pattern", "Dockerfile:2"),
    ] {
        bench.write("Dockerfile", &format!("FROM scratch\n{steps}\n"));
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{steps}");
        assert!(outcome.stderr.contains(message), "{steps}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{steps}: {}", outcome.stderr);
    }
    let from = "FROM scratch AS a\nCOPY a /a\nFROM scratch\nCOPY --from=a --parents /a/./none /\n";
    bench.write("Dockerfile", from);
    let outcome = bench.run(&[]);
    assert!(outcome.stderr.contains("source `a/./none` does not exist"), "{}", outcome.stderr);
    bench.write("Dockerfile", "FROM scratch\nCOPY --parents a/**/none /out/\n");
    assert_eq!(list(&bench.files(&[])), ["out/ 755"]);
    // What BuildKit refuses: a pivot behind a symlink, and all there is.
    let steps = "COPY --parents link/./b/file /p/\nCOPY --parents a/./ /q/\nCOPY --parents . /r/\n";
    bench.write("Dockerfile", &format!("FROM scratch\n{steps}"));
    let files = list(&bench.files(&[]));
    for line in ["p/b/file 644 1", "q/b/file 644 1", "r/a/b/file 644 1", "r/link -> a"] {
        assert!(files.contains(&line.to_owned()), "{line}: {files:?}");
    }
}

/// Checkouts of one commit have the modes of their umasks.
#[test]
fn modes_of_a_context_may_be_those_of_git() {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    let files = [("d/f", "1"), ("d/x", "2"), ("Dockerfile", "FROM scratch\nCOPY d /d\n")];
    let Some(bench) = Bench::new(&files) else { return };
    let set = |modes: [u32; 3]| {
        for (name, mode) in ["d", "d/f", "d/x"].into_iter().zip(modes) {
            let path = bench.context.join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    let args = ["--context-perms", "git"];
    set([0o775, 0o664, 0o775]);
    assert_eq!(list(&bench.files(&args)), ["d/ 755", "d/f 644 1", "d/x 755 2"]);
    set([0o700, 0o600, 0o700]);
    assert_eq!(cached(&bench, &args), "1 of 1 steps cached)");
    assert_eq!(list(&bench.files(&[])), ["d/ 755", "d/f 600 1", "d/x 700 2"]);
    assert_ne!(bench.run(&["--context-perms", "x"]).code, 0);
}
