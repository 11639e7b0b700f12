//! `--repro`: two builds of the same, and the first difference.

use serde_json::Value;

use super::bench::{Bench, alpine};

const FIXED: [&str; 3] = ["--repro", "--build-arg", "SOURCE_DATE_EPOCH=1000"];
const REWRITTEN: &str = "type=image,rewrite-timestamp=true";

fn repro(bench: &Bench, steps: &str, args: &[&str]) -> (i32, String) {
    bench.write("Dockerfile", &format!("FROM scratch AS alpine\nADD alpine.tar.gz /\n{steps}"));
    let outcome = bench.run(&[args, &["-t", "twice:1"]].concat());
    (outcome.code, outcome.stderr)
}

#[test]
fn equal_builds_are_told_so() {
    let Some(bench) = alpine("") else { return };
    bench.write("f", "1");
    let steps = "COPY f /f\nWORKDIR /w\nRUN echo fixed > /w/x; mkdir /w/d\n";
    let args = [&FIXED[..], &["-o", REWRITTEN]].concat();
    let (code, told) = repro(&bench, steps, &args);
    assert!(code == 0 && told.contains("Reproducible: a second build gave the same"), "{told}");
    // What the cache has is compared, too; merged layers and several platforms.
    let (code, told) = repro(&bench, steps, &[&args[..], &["--squash"]].concat());
    assert!(code == 0 && told.contains("CACHED") && told.contains("Reproducible"), "{told}");
    bench.write("Dockerfile", "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n");
    let platforms = ["--platform", "linux/amd64,linux/arm64", "--progress", "rawjson"];
    let outcome = bench.run(&[&args[..], &platforms].concat());
    assert!(outcome.code == 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(r#"{"repro":{"equal":true}}"#), "{}", outcome.stderr);
    // A context that is read but once serves both.
    let piped = bench.feed(b"FROM scratch\nCOPY <<a /a\nx\na\n", &FIXED);
    assert!(piped.code == 0 && piped.stderr.contains("Reproducible"), "{}", piped.stderr);
}

#[test]
fn the_first_difference_is_shown() {
    let Some(bench) = alpine("") else { return };
    let random = "head -c 9 /dev/urandom | md5sum";
    let content =
        format!("RUN echo same > /a\nRUN (echo prefix; {random}) > /b\nRUN echo c > /c\n");
    let (code, told) = repro(&bench, &content, &[&FIXED[..], &["-o", REWRITTEN]].concat());
    assert_eq!(code, 1, "{told}");
    for words in [
        "not reproducible: layer 3 of `[3/4] RUN (echo",
        "content of `/b` from byte ",
        " on: \"prefix\\n",
        "Dockerfile:4",
        "hint:",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    // What is random may begin alike.
    let offset = told.split("from byte ").nth(1).and_then(|rest| rest.split(' ').next());
    assert!((7..40).contains(&offset.unwrap().parse::<u64>().unwrap()), "{told}");
    assert_eq!(bench.davit.ok(["images", "-q", "twice:1"]), "", "nothing is named");
    let presence = format!("RUN touch /x-$({random} | cut -c1-8)\n");
    let time = "RUN touch /t\n";
    let owner = "RUN touch /o; chown $(($(date +%s) % 1000 + 1)) /o\n";
    let link = format!("RUN ln -s $({random} | cut -c1-8) /l\n");
    for (steps, fixed, words, hint) in [
        (presence.as_str(), true, "presence of `/x-", "ARG SOURCE_DATE_EPOCH"),
        (time, false, "mtime of `/", "rewrite-timestamp=true"),
        (time, true, "mtime of `/", "rewrite-timestamp=true"),
        (owner, true, "owner of `/o`", ""),
        (link.as_str(), true, "target of `/l`", ""),
        ("ENV A=b\nCOPY <<f /f\nx\nf\n", false, "mtime of `/f`", "SOURCE_DATE_EPOCH=SECONDS"),
        ("ENV A=b\n", false, "", "SOURCE_DATE_EPOCH=SECONDS"),
    ] {
        let args: &[&str] = if fixed { &FIXED } else { &FIXED[..1] };
        let (code, told) = repro(&bench, steps, args);
        assert_eq!(code, 1, "{steps}: {told}");
        assert!(told.contains(words) && told.contains(hint), "{steps}: {told}");
    }
    // Of merged layers, the step that last wrote the path.
    let merged = [&FIXED[..], &["--squash", "--progress", "rawjson", "-o", REWRITTEN]].concat();
    let (code, told) = repro(&bench, &content, &merged);
    assert_eq!(code, 1, "{told}");
    let line = told.lines().find(|line| line.contains(r#""repro""#)).unwrap();
    let found: Value = serde_json::from_str(line).unwrap();
    let found = &found["repro"];
    assert_eq!((&found["equal"], &found["path"]), (&false.into(), &"/b".into()));
    assert_eq!(found["what"], "content");
    assert!((7..40).contains(&found["offset"].as_u64().unwrap()), "{found}");
    assert_eq!((&found["layer"], &found["line"]), (&1.into(), &4.into()));
    assert!(found["first"].as_str().unwrap().starts_with("\"prefix\\n"), "{found}");
    assert_ne!(found["first"], found["second"]);
}
