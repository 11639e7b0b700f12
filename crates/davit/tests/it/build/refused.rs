//! What a build refuses, and how it says so.

use std::fs;

use super::bench::{Bench, list, tar_file};

/// Names of heredocs are resolved as in the root of a context, and a name that no file system
/// holds makes no layer.
#[test]
fn no_path_of_a_layer_leads_out_of_it() {
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    let dockerfile = |steps: &str| bench.write("Dockerfile", &format!("FROM scratch\n{steps}\n"));
    dockerfile("COPY <<../../z /d/\nq\n../../z\nADD <</abs <<./dot /d/\n1\n/abs\n2\n./dot\n");
    let config = bench.build(&["-t", "t"]);
    let history = &config["history"][0]["created_by"];
    assert_eq!(history, "COPY <<../../z /d/ # buildkit");
    let files = ["d/ 755", "d/abs 644 1", "d/dot 644 2", "d/z 644 q"];
    assert_eq!(list(&bench.files(&[])), files);
    let long = "a".repeat(256);
    let deep = vec!["d".repeat(255); 17].join("/");
    for (steps, message) in [
        ("COPY <<. /d/\nq\n.\n".to_owned(), "`.` is no name of a file"),
        ("COPY <<a//b /d/\nq\na//b\n".to_owned(), "`a//b` is no name of a file"),
        (format!("WORKDIR /{long}"), "longer than 255 bytes"),
        (format!("COPY f /d/{long}"), "longer than 255 bytes"),
        (format!("COPY <<{long} /d/\nq\n{long}\n"), "longer than 255 bytes"),
        (format!("WORKDIR /{deep}"), "longer than 4096 bytes"),
    ] {
        dockerfile(&steps);
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{steps}");
        assert!(outcome.stderr.contains(message), "{steps}: {}", outcome.stderr);
    }
    assert!(bench.davit.ok(["system", "check"]).contains("no faults"));
}

#[test]
fn a_dockerfile_has_a_largest_size() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\n")]) else { return };
    let large = vec![0; (16 << 20) + 1];
    fs::write(bench.context.join("large"), &large).unwrap();
    fs::copy(bench.context.join("large"), bench.context.join("Dockerfile.dockerignore")).unwrap();
    let path = bench.context.join("large").display().to_string();
    for (outcome, name) in [
        (bench.feed(&large, &[]), "the Dockerfile"),
        (bench.run(&["-f", &path]), "large"),
        (bench.run(&[]), "Dockerfile.dockerignore"),
    ] {
        let message = "is larger than 16 MiB";
        assert_eq!(outcome.code, 1, "{name}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(name), "{name}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{name}: {}", outcome.stderr);
    }
    let many = "a\n".repeat(100_001);
    let outcome = bench.feed(many.as_bytes(), &[]);
    assert!(outcome.stderr.contains("more than 100000 instructions"), "{}", outcome.stderr);
}

#[test]
fn options_ask_for_what_can_be() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nLABEL a=b\n")]) else { return };
    let id = bench.context.join("id").display().to_string();
    fs::write(&id, "sha256:stale").unwrap();
    for (args, message) in [
        (&["-o", ""][..], "dest is required for local exporter"),
        (&["-o", "type=local,dest="], "`dest` names nothing"),
        (&["-o", "type=tar,dest="], "`dest` names nothing"),
        (&["--build-arg", "=x"], "invalid key-value pair \"=x\": empty key"),
        (&["--label", "=x"], "invalid key-value pair \"=x\": empty key"),
        (&["--provenance", "mode=full"], "mode `full` is neither min nor max"),
        (&["--attest", "type=vex"], "type `vex` is neither provenance nor sbom"),
        (&["--sbom=1", "--attest", "type=sbom"], "duplicate attestation field sbom"),
        (&["--policy", "filename=x.rego"], "source policies are not evaluated"),
        (&["--iidfile", &id, "--target", "none"], "none"),
    ] {
        let outcome = bench.run(args);
        assert_ne!(outcome.code, 0, "{args:?}");
        assert!(outcome.stderr.contains(message), "{args:?}: {}", outcome.stderr);
    }
    assert!(fs::metadata(&id).is_err(), "a failed build leaves no id");
    // A mistyped word is no build; what is no file is not davit's to remove.
    fs::write(&id, "sha256:kept").unwrap();
    assert_eq!(bench.run(&["--iidfile", &id, "--label", "=x"]).code, 1);
    assert_eq!(fs::read_to_string(&id).unwrap(), "sha256:kept");
    let link = bench.context.join("link");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    bench.build(&["--iidfile", link.to_str().unwrap()]);
    assert!(link.is_symlink(), "a symlink stays");
    // What Docker's own clients take and do not do.
    let ignored = "--rm=true --rm --force-rm --compress --cgroup-parent x --builder b \
                   --isolation default --security-opt a --sbom=false \
                   --policy disabled=true --attest type=provenance,disabled=true -D";
    let words: Vec<&str> = ignored.split_whitespace().collect();
    // A policy that lies there would be evaluated by buildx.
    bench.write("Dockerfile.rego", "package docker\n");
    let judged = bench.run(&[]);
    assert!(judged.code == 1 && judged.stderr.contains("Dockerfile.rego is one"), "{judged:?}");
    bench.build(&words);
    fs::remove_file(bench.context.join("Dockerfile.rego")).unwrap();
    bench.write("Dockerfile", "# syntax=my/frontend:1\nany text\n");
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("frontend `my/frontend:1` is not"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("Dockerfile:1:10"), "{}", outcome.stderr);
    bench.write("Dockerfile", "# syntax=docker/dockerfile:1-labs\nFROM scratch\n");
    bench.build(&[]);
}

#[test]
fn an_error_says_what_helps() {
    let Some(bench) = Bench::new(&[("README.md", "1"), ("x.tar", "")]) else { return };
    let mut tar = tar_file("../out", b"1");
    tar.extend_from_slice(&[0; 1024]);
    fs::write(bench.context.join("x.tar"), &tar).unwrap();
    for (steps, message, hint) in [
        ("ADD x.tar /", "../out", "`..`"),
        ("ARG A\nENV B=\"${A:?please set A}\"", "please set A", "--build-arg A=VALUE"),
        ("COPY readme.md /", "is not in the context", "did you mean `README.md`?"),
        ("COPY http://host/f /", "source can't be a URL for COPY", "Dockerfile:3"),
        ("COPY --from=$FOO /a /b", "--from is empty", "`FOO` is not set"),
        ("COPY --from=x$VERSION /a /b", "x1", ""),
        ("FROM img:${VERSON}", "`img:`", "did you mean `VERSION`?"),
        ("FROM --platform=a/b/c/$VERSON/e scratch", "platform", "did you mean `VERSION`?"),
        ("COPY x.tar /f\nWORKDIR /f", "WORKDIR: `/f` is there and is no directory", ""),
    ] {
        let first = "ARG VERSION=1\nFROM scratch AS only";
        bench.write("Dockerfile", &format!("{first}\n{steps}\n"));
        let outcome = bench.run(&[]);
        assert_eq!(outcome.code, 1, "{steps}");
        assert!(outcome.stderr.contains(message), "{steps}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{steps}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("[only "), "a single stage is not named");
    }
    bench.write("Dockerfile", "ARG A\nARG SOURCE_DATE_EPOCH=then\nFROM scratch\nWORKDIR /a\n");
    let outcome = bench.run(&[]);
    assert!(outcome.stderr.contains("SOURCE_DATE_EPOCH `then` is no"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("Dockerfile:2:"), "{}", outcome.stderr);
    let file = bench.context.join("Dockrfile").display().to_string();
    let outcome = bench.run(&["-f", &file]);
    assert!(outcome.stderr.contains("did you mean `-f "), "{}", outcome.stderr);
}
