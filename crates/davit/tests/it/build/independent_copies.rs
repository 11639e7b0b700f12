//! Copies that depend on no more of the state below than they meet there.

use std::fs;

use super::bench::Bench;
use crate::davit;

const EPOCH: [&str; 2] = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];

/// What a build gives that nothing before it has a part in.
fn afresh(bench: &Bench) -> String {
    let other = Bench { davit: davit(), context: bench.context.clone() };
    image(&other).0
}

/// The image's id, and what was told.
fn image(bench: &Bench) -> (String, String) {
    let outcome = bench.run(&EPOCH);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let id = outcome.stderr.split("Built sha256:").nth(1).unwrap()[..64].to_owned();
    (id, outcome.stderr)
}

/// Builds twice with a change of `a` in between; gives what the second build tells of the last
/// step, whose image is what a build without a cache gives.
fn second(dockerfile: &str) -> Option<bool> {
    let files = [("a", "1"), ("b", "2"), ("tree/x", "3"), ("tree/y/z", "4")];
    let bench = Bench::new(&files)?;
    bench.write("Dockerfile", dockerfile);
    image(&bench);
    bench.write("a", "changed");
    let (id, told) = image(&bench);
    assert_eq!(id, afresh(&bench), "{dockerfile}");
    assert_eq!(image(&bench).0, id);
    let instruction = dockerfile.trim_end().rsplit('\n').next().unwrap();
    let line = told.lines().find(|line| line.ends_with(instruction)).unwrap();
    let number = line.split(' ').next().unwrap();
    Some(told.contains(&format!("{number} CACHED\n")))
}

#[test]
fn a_copy_stays_cached_whatever_was_copied_before() {
    for (dockerfile, cached) in [
        ("FROM scratch\nCOPY a /a\nCOPY b /b\n", true),
        ("FROM scratch\nWORKDIR /w\nCOPY a a\nCOPY tree .\n", true),
        ("FROM scratch\nCOPY a /w/a\nCOPY --chown=1:2 tree /w/x/\n", true),
        ("FROM scratch\nCOPY tree /from\nCOPY a /w/a\nCOPY --chmod=600 b /w/\n", true),
        // It replaces a file, whatever that holds.
        ("FROM scratch\nCOPY a /w\nCOPY b /w\n", true),
        (
            "FROM scratch AS one\nCOPY tree /t\nFROM scratch\nCOPY a /\nCOPY --from=one /t /w\n",
            true,
        ),
        // What changed is what it meets: the way to it, or what it merges with.
        ("FROM scratch\nCOPY a /w/y/a\nCOPY tree /w\n", false),
        ("FROM scratch\nCOPY a /a\nADD b /b\n", false),
    ] {
        let Some(found) = second(dockerfile) else { return };
        assert_eq!(found, cached, "{dockerfile}");
    }
}

#[test]
fn a_copy_runs_again_where_it_meets_something_else() {
    let Some(bench) = Bench::new(&[("b", "2"), ("one/w/x", "1"), ("Dockerfile", "")]) else {
        return;
    };
    for first in [
        "COPY one /",
        "COPY --chown=7:8 one /",
        "COPY --chmod=700 one /",
        "COPY one/w/x /w",
        "COPY one/w/x /w/b",
        "COPY link /",
        "WORKDIR /w/b",
    ] {
        let _absent = fs::remove_file(bench.context.join("link/w"));
        fs::create_dir_all(bench.context.join("link")).unwrap();
        std::os::unix::fs::symlink("/elsewhere", bench.context.join("link/w")).unwrap();
        bench.write("Dockerfile", &format!("FROM scratch\n{first}\nCOPY b /w/\n"));
        let outcome = bench.run(&EPOCH);
        let other = Bench { davit: davit(), context: bench.context.clone() };
        let expected = other.run(&EPOCH);
        assert_eq!(outcome.code, expected.code, "{first}: {}", outcome.stderr);
        if outcome.code == 0 {
            assert_eq!(bench.config(&outcome), other.config(&expected), "{first}");
        }
    }
}
