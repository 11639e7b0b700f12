//! `--build-context`: what a name stands for, and what it takes the place of.

use std::fs;

use davit_test::{HttpServer, Reply};

use super::{
    bench::{Bench, alpine, list},
    git_server::GitServer,
};

/// A bench with two local images: `first`, with a file and a variable, and `second`.
fn images() -> Option<Bench> {
    let bench = Bench::new(&[("f", "main"), ("one", "1"), ("two", "2")])?;
    bench.write("Dockerfile", "FROM scratch\nCOPY one /image\nENV NAME=first\nWORKDIR /w\n");
    bench.build(&["-t", "first"]);
    bench.write("Dockerfile", "FROM scratch\nCOPY two /image\nENV NAME=second\n");
    bench.build(&["-t", "second:v2"]);
    Some(bench)
}

fn directory(bench: &Bench, name: &str, files: &[(&str, &str)]) -> String {
    let root = bench.davit.dir().join(name);
    for (path, content) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root.display().to_string()
}

#[test]
fn images_take_the_place_of_names() {
    let Some(bench) = images() else { return };
    let context = "docker-image://second:v2";
    let replaced = |dockerfile: &str, name: &str| {
        bench.write("Dockerfile", dockerfile);
        let flag = format!("{name}={context}");
        list(&bench.files(&["--pull=never", "--build-context", &flag]))
    };
    // A base, by each of its names.
    for (from, name) in [
        ("first", "first"),
        ("first", "docker.io/library/first:latest"),
        ("docker.io/library/first:latest", "first"),
        ("nosuch/image:1", "nosuch/image:1"),
    ] {
        assert_eq!(replaced(&format!("FROM {from}\n"), name), ["image 644 2"], "{from} {name}");
    }
    // One that nothing names is not looked for.
    bench.write("Dockerfile", "FROM first\n");
    let unused = ["--pull=never", "--build-context", "other=docker-image://nosuch:1"];
    assert_eq!(list(&bench.files(&unused)), ["image 644 1", "w/ 755"]);
    // Nor is one that only a stage names which nothing needs.
    bench.write("Dockerfile", "FROM other AS unneeded\nRUN false\nFROM first\n");
    assert_eq!(list(&bench.files(&unused)), ["image 644 1", "w/ 755"]);
    assert_eq!(bench.run(&[&unused[..], &["--target", "unneeded"]].concat()).code, 1);
    // A stage, with all that it does; as a base, for a copy and as the target.
    let stage = "FROM nosuch AS Base\nRUN false\n";
    let whole = ["image 644 2"];
    assert_eq!(replaced(&format!("{stage}FROM base\n"), "base"), whole);
    assert_eq!(replaced(&format!("{stage}FROM scratch\nCOPY --from=Base / /\n"), "base"), whole);
    assert_eq!(replaced(&format!("{stage}FROM scratch\nCOPY --from=0 / /\n"), "base"), whole);
    assert_eq!(replaced(stage, "base"), whole);
    // What a copy names.
    assert_eq!(replaced("FROM scratch\nCOPY --from=nosuch /image /\n", "nosuch"), whole);
    let later = "FROM scratch AS t\nCOPY --from=later /image /\nFROM nosuch AS later\n";
    bench.write("Dockerfile", later);
    let flag = format!("later={context}");
    let args = ["--pull=never", "--target=t", "--build-context", &flag];
    assert_eq!(list(&bench.files(&args)), whole);
    // The config is the image's.
    bench.write("Dockerfile", "FROM nosuch AS base\nFROM base\n");
    let config = bench.build(&["--build-context", &format!("base={context}")]);
    let environment = config["config"]["Env"].as_array().unwrap();
    assert!(environment.contains(&"NAME=second".into()), "{environment:?}");
    assert_eq!(
        replaced("FROM first\nCOPY f /\n", "other"),
        ["f 644 main", "image 644 1", "w/ 755"]
    );
    let empty = ["--build-context", "first=docker-image://scratch"];
    bench.write("Dockerfile", "FROM first\nCOPY f /\n");
    assert_eq!(list(&bench.files(&empty)), ["f 644 main"]);
}

#[test]
fn one_for_the_platform_comes_first() {
    let Some(bench) = images() else { return };
    bench.write("Dockerfile", "FROM nosuch AS base\nFROM base\n");
    let host = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };
    let own = format!("base::linux/{host}=docker-image://second:v2");
    for flags in [
        ["--build-context", &own, "--build-context", "base=docker-image://first"],
        ["--build-context", "base::linux/s390x=docker-image://first", "--build-context", &own],
    ] {
        assert_eq!(list(&bench.files(&flags)), ["image 644 2"], "{flags:?}");
    }
}

#[test]
fn directories_have_an_ignore_file_of_their_own() {
    let Some(bench) = Bench::new(&[("f", "main"), (".dockerignore", "g\n")]) else { return };
    let other = directory(
        &bench,
        "other",
        &[("g", "other"), ("skipped", "x"), ("d/h", "deep"), (".dockerignore", "skipped\n")],
    );
    let flag = format!("other={other}");
    let with = |dockerfile: &str| {
        bench.write("Dockerfile", dockerfile);
        bench.run(&["--build-context", &flag])
    };
    let files = |dockerfile: &str| {
        bench.write("Dockerfile", dockerfile);
        list(&bench.files(&["--build-context", &flag]))
    };
    let both = "FROM scratch\nCOPY f /\nCOPY --from=other g d* /o/\n";
    let expected = ["f 644 main", "o/ 755", "o/g 644 other", "o/h 644 deep"];
    assert_eq!(files(both), expected);
    let again = with(both);
    assert!(again.stderr.contains("(2 of 2 steps cached)"), "{}", again.stderr);
    // As a base, all of it.
    let base = [".dockerignore 644 skipped", "d/ 755", "d/h 644 deep", "f 644 main", "g 644 other"];
    assert_eq!(files("FROM other\nCOPY f /\n"), base);
    assert_eq!(files("FROM nosuch AS other\nRUN false\nFROM other AS x\nCOPY f /\n"), base);
    // A change there is a miss here.
    fs::write(format!("{other}/d/h"), "changed").unwrap();
    let changed = with(both);
    assert!(changed.stderr.contains("(1 of 2 steps cached)"), "{}", changed.stderr);
    for (copy, message, hint) in [
        ("skipped", "is excluded by", "remove the pattern `skipped`"),
        ("G", "is not in the context `other`", "did you mean `g`?"),
        ("f", "is not in the context `other`", ""),
        ("n*", "", ""),
        ("no/*", "matches nothing in the context `other`", ""),
    ] {
        let outcome = with(&format!("FROM scratch\nCOPY f /\nCOPY --from=other {copy} /x/\n"));
        assert_eq!(outcome.code, i32::from(!message.is_empty()), "{copy}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{copy}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{copy}: {}", outcome.stderr);
    }
    // Nobody reads what no stage of the target names.
    bench.write("Dockerfile", "FROM scratch\nCOPY f /\n");
    fs::write(format!("{other}/.dockerignore"), "[\n").unwrap();
    bench.build(&["--build-context", &flag]);
    let wrong = with(both);
    assert!(wrong.code == 1 && wrong.stderr.contains("other/.dockerignore"), "{}", wrong.stderr);
}

#[test]
fn layouts_are_contexts() {
    let Some(bench) = images() else { return };
    let layout = bench.davit.dir().join("layout");
    let copy = |name: &str, tag: &str| {
        let target = format!("oci:{}:{tag}", layout.display());
        bench.davit.ok(["copy", &format!("store:{name}"), &target]);
    };
    copy("first", "v1");
    bench.write("Dockerfile", "FROM nosuch AS base\nFROM base\nCOPY f /\n");
    let files = |suffix: &str| {
        let flag = format!("base=oci-layout://{}{suffix}", layout.display());
        bench.run(&["--build-context", &flag, "-t", "result"])
    };
    let environment = |outcome: &davit_test::Outcome| {
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        bench.config(outcome)["config"]["Env"].to_string()
    };
    // The only one needs no name.
    assert!(environment(&files("")).contains("NAME=first"));
    copy("second:v2", "latest");
    assert!(environment(&files("")).contains("NAME=second"));
    assert!(environment(&files(":v1")).contains("NAME=first"));
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let named = |tag: &str| {
        let entries = index["manifests"].as_array().unwrap().iter();
        let mut found =
            entries.filter(|it| it["annotations"]["org.opencontainers.image.ref.name"] == tag);
        found.next().unwrap()["digest"].as_str().unwrap().to_owned()
    };
    assert!(environment(&files(&format!("@{}", named("v1")))).contains("NAME=first"));
    assert!(environment(&files(&format!(":latest@{}", named("v1")))).contains("NAME=first"));
    let missing = files(&format!("@sha256:{}", "0".repeat(64)));
    assert!(missing.code == 1 && missing.stderr.contains("is not there"), "{}", missing.stderr);
    let unknown = files(":v9");
    assert!(unknown.code == 1 && unknown.stderr.contains("no image `v9`"), "{}", unknown.stderr);
}

#[test]
fn remote_sources_are_contexts() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = Bench::new(&[("f", "main")]) else { return };
    git.repository("r.git").commit("d/g", "git");
    let server = HttpServer::start(|_| Reply::ok("from the web"));
    bench.write(
        "Dockerfile",
        "FROM repository\nCOPY --from=web context /w\nCOPY --from=repository d /copied\n",
    );
    let repository = format!("repository={}", git.url("r.git#main"));
    let web = format!("web=http://{}/some/file", server.host());
    let args = ["--build-context", repository.as_str(), "--build-context", &web];
    let expected =
        ["copied/ 755", "copied/g 644 git", "d/ 755", "d/g 644 git", "w 600 from the web"];
    assert_eq!(list(&bench.files(&args)), expected);
    assert_eq!(git.fetches(), 1);
    bench.write("Dockerfile", "# syntax=my/frontend:1\nFROM scratch\nCOPY f /\n");
    let frontend = ["--build-context", "my/frontend:1=docker-image://docker/dockerfile:1"];
    assert_eq!(list(&bench.files(&frontend)), ["f 644 main"]);
    for (flag, message) in [
        ("x", "it is not NAME=VALUE"),
        ("x=/nosuch", "it is no directory"),
        ("X=/", "not that of an image"),
        ("x=git://h/r?nosuch=1", "`nosuch` is no key"),
    ] {
        let refused = bench.run(&["--build-context", flag]);
        assert_ne!(refused.code, 0, "{flag}");
        assert!(refused.stderr.contains(message), "{flag}: {}", refused.stderr);
    }
}

#[test]
fn mounts_show_contexts() {
    let Some(git) = GitServer::start(|_| true) else { return };
    let Some(bench) = alpine(
        "FROM alpine AS base\n\
         RUN --mount=from=other,target=/m cp -r /m /other\n\
         RUN --mount=from=repository,source=d,target=/m,rw touch /m/new && cp -r /m /git\n\
         RUN --mount=type=cache,from=other,target=/m cp /m/g /cached\n\
         FROM scratch\nCOPY --from=base /other /other\nCOPY --from=base /git /git\n\
         COPY --from=base /cached /\n",
    ) else {
        return;
    };
    git.repository("r.git").commit("d/f", "git");
    let other = directory(&bench, "other", &[("g", "other"), ("no", ""), (".dockerignore", "no")]);
    let flags = [format!("other={other}"), format!("repository={}", git.url("r.git"))];
    let args = ["--build-context", &flags[0], "--build-context", &flags[1]];
    let files = list(&bench.files(&args));
    let expected = [
        "cached 644 other",
        "git/ 755",
        "git/f 644 git",
        "git/new 644 ",
        "other/ 755",
        "other/.dockerignore 644 no",
        "other/g 644 other",
    ];
    assert_eq!(files, expected);
    let again = bench.run(&args);
    let counts = again.stderr.split(" steps cached").next().unwrap().rsplit('(').next().unwrap();
    let (cached, all) = counts.split_once(" of ").unwrap();
    assert_eq!(cached, all, "{}", again.stderr);
    // The context itself may be a repository.
    let repository = git.repository("main.git");
    repository.commit("f", "mounted");
    let archive = bench.context.join("alpine.tar.gz");
    fs::copy(archive, repository.tree().join("alpine.tar.gz")).unwrap();
    let dockerfile = "FROM scratch AS alpine\nADD alpine.tar.gz /\nFROM alpine AS base\n\
                      RUN --mount=target=/m cp /m/f /f\nFROM scratch\nCOPY --from=base /f /\n";
    repository.commit("Dockerfile", dockerfile);
    let out = bench.davit.dir().join("main-out");
    let url = git.url("main.git");
    bench.davit.ok(["build", "-q", "--network", "none", "-o", out.to_str().unwrap(), &url]);
    assert_eq!(list(&out), ["f 644 mounted"]);
}
