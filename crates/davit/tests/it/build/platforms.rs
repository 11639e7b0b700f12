//! Builds for several platforms at once.

use std::fs;

use davit_test::{Access, Registry};
use serde_json::Value;

use super::bench::{Bench, list, tar_file};
use crate::davit;

const BOTH: [&str; 2] = ["--platform", "linux/amd64,linux/arm64"];

/// A file that is the same everywhere, made once, and one that is not.
const DOCKERFILE: &str = "FROM --platform=$BUILDPLATFORM scratch AS build\nCOPY common /c\n\
    FROM scratch\nARG TARGETARCH\nCOPY --from=build /c /common\nCOPY ${TARGETARCH} /own\n";

fn bench() -> Option<Bench> {
    Bench::new(&[("common", "c"), ("amd64", "1"), ("arm64", "2"), ("Dockerfile", DOCKERFILE)])
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let (Some(bench), Some(registry)) = (bench(), Registry::start(Access::Open)) else { return };
    let dir = bench.davit.dir().to_path_buf();
    let facts = dir.join("facts.json").display().to_string();
    let name = format!("{}/multi:1", registry.host());
    let told = ["-t", &name, "--push", "--metadata-file", &facts];
    let first = bench.run(&[&BOTH[..], &told].concat());
    assert_eq!(first.code, 0, "{}", first.stderr);
    // What does not depend on the platform is done once.
    assert_eq!(first.stderr.matches("COPY common /c\n").count(), 1, "{}", first.stderr);
    for step in ["[linux/amd64 stage-1 2/2]", "[linux/arm64 stage-1 2/2]"] {
        assert!(first.stderr.contains(step), "{step}: {}", first.stderr);
    }
    let again = bench.run(&[&BOTH[..], &["-t", &name]].concat());
    assert!(again.stderr.contains("(4 of 4 steps cached)"), "{}", again.stderr);
    // An order of its own, and words that mean the same.
    let other = bench.run(&["--platform", "linux/arm64/v8", "--platform", "local,linux/arm64"]);
    assert!(other.stderr.contains("(4 of 4 steps cached)"), "{}", other.stderr);
    let told: Value = serde_json::from_slice(&fs::read(&facts).unwrap()).unwrap();
    assert_eq!(told["containerimage.config.digest"], Value::Null);
    let media_type = &told["containerimage.descriptor"]["mediaType"];
    assert_eq!(media_type, "application/vnd.oci.image.index.v1+json");
    for (platform, own) in [("linux/amd64", "1"), ("linux/arm64", "2")] {
        let puller = davit();
        puller.ok(["pull", "-q", "--platform", platform, &name]);
        let digests = puller.ok(["image", "inspect", "-f", "{{json .RepoDigests}}", &name]);
        assert!(digests.contains(told["containerimage.digest"].as_str().unwrap()), "{digests}");
        for davit in [&puller, &bench.davit] {
            let target = davit.dir().join(format!("tree-{own}"));
            let context = davit.dir().join(format!("from-{own}"));
            fs::create_dir_all(&context).unwrap();
            fs::write(context.join("Dockerfile"), format!("FROM {name}\n")).unwrap();
            let (target, context) = (target.to_str().unwrap(), context.to_str().unwrap());
            davit.ok([
                "build",
                "-q",
                "--pull=never",
                "--platform",
                platform,
                "-o",
                target,
                context,
            ]);
            let expected = ["common 644 c".to_owned(), format!("own 644 {own}")];
            assert_eq!(list(std::path::Path::new(target)), expected, "{platform}");
        }
    }
    // Each platform has its own base, brought here from the registry.
    let other = Bench::new(&[("f", "f"), ("Dockerfile", &format!("FROM {name}\nCOPY f /g\n"))]);
    let files = list(&other.unwrap().files(&BOTH));
    for line in ["linux_amd64/own 644 1", "linux_arm64/own 644 2", "linux_arm64/g 644 f"] {
        assert!(files.contains(&line.to_owned()), "{line}: {files:?}");
    }
    // All of it survives what is not needed any more, and a second push of the index.
    bench.davit.ok(["builder", "prune", "-af"]);
    assert!(bench.davit.ok(["system", "check"]).contains("no faults"));
    let pushed = bench.davit.ok(["push", &name]);
    assert!(pushed.contains(told["containerimage.digest"].as_str().unwrap()), "{pushed}");
}

#[test]
fn files_of_platforms_have_folders() {
    let Some(bench) = bench() else { return };
    let dir = bench.davit.dir().to_path_buf();
    let split = [
        "linux_amd64/ 755",
        "linux_amd64/common 644 c",
        "linux_amd64/own 644 1",
        "linux_arm64/ 755",
        "linux_arm64/common 644 c",
        "linux_arm64/own 644 2",
    ];
    assert_eq!(list(&bench.files(&BOTH)), split);
    let at = |name: &str| dir.join(name).display().to_string();
    let run = |args: &[&str], spec: &str| bench.run(&[args, &["-o", spec]].concat());
    let tar = run(&BOTH, &format!("type=tar,dest={}", at("all.tar")));
    assert_eq!(tar.code, 0, "{}", tar.stderr);
    fs::create_dir(dir.join("untarred")).unwrap();
    let mut command = std::process::Command::new("tar");
    assert!(
        command.args(["-xpf", &at("all.tar"), "-C", &at("untarred")]).status().unwrap().success()
    );
    assert_eq!(list(&dir.join("untarred")), split);
    let one = ["--platform", "linux/arm/v7", "--build-arg", "TARGETARCH=arm64"];
    let always = run(&one, &format!("type=local,platform-split=true,dest={}", at("one")));
    assert_eq!(always.code, 0, "{}", always.stderr);
    assert!(dir.join("one/linux_arm_v7/own").exists());
    for kind in ["local", "tar"] {
        let spec = format!("type={kind},platform-split=false,dest={}", at(kind));
        let refused = run(&BOTH, &spec);
        assert_eq!(refused.code, 1, "{kind}");
        assert!(refused.stderr.contains("two platforms have /common"), "{}", refused.stderr);
        assert!(!dir.join(kind).join("own").exists(), "{kind}");
    }
    bench.write(
        "Dockerfile",
        "FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /bin/${TARGETARCH}\n",
    );
    for kind in ["local", "tar"] {
        let spec = format!("type={kind},platform-split=false,dest={}", at(&format!("{kind}-2")));
        assert_eq!(run(&BOTH, &spec).code, 0, "{kind}");
    }
    assert_eq!(list(&dir.join("local-2")), ["bin/ 755", "bin/amd64 644 1", "bin/arm64 644 2"]);
}

#[test]
fn a_tar_context_serves_all_platforms() {
    let Some(bench) = bench() else { return };
    let mut tar = tar_file("Dockerfile", b"FROM scratch\nARG TARGETARCH\nCOPY ${TARGETARCH} /f\n");
    tar.extend(tar_file("amd64", b"1"));
    tar.extend(tar_file("arm64", b"2"));
    tar.extend([0; 1024]);
    let target = bench.davit.dir().join("out");
    let outcome = bench.feed(&tar, &[&BOTH[..], &["-o", target.to_str().unwrap()]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let expected =
        ["linux_amd64/ 755", "linux_amd64/f 644 1", "linux_arm64/ 755", "linux_arm64/f 644 2"];
    assert_eq!(list(&target), expected);
}
