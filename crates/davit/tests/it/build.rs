//! `davit build` end to end: contexts and Dockerfiles in, files and configs out.

mod attest;
mod bake;
pub(crate) mod bench;
mod buildx_variables;
mod by_hand;
mod cache;
mod cache_mounts;
mod cache_names;
mod cancel;
mod checks;
mod classic;
mod compose_door;
mod contexts;
mod copies;
mod devices;
pub(crate) mod docker;
mod early;
mod emulated;
mod epoch;
mod estargz;
mod exports;
mod first_copies;
mod git_plain;
pub(crate) mod git_server;
mod git_ssh;
mod history;
mod independent_copies;
mod inline_caches;
mod instructions;
mod leftovers;
mod linked_copies;
mod machine;
mod mounts;
mod named_contexts;
mod object_caches;
mod outputs;
mod platforms;
mod rebuilds;
mod refused;
mod remote;
mod remote_contexts;
mod repositories;
mod repro;
mod results;
mod sandbox;
mod shared_cache;
mod squash;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Stdio,
};

use davit_test::Outcome;
use rustix::process::Signal;
use serde_json::Value;

use self::bench::{Bench, alpine, list, tar_file};

#[test]
fn copies_by_the_rules_of_docker() {
    let Some(bench) = Bench::new(&[
        ("a.txt", "a"),
        ("b.txt", "b"),
        ("dir/x", "x"),
        ("dir/sub/y", "y"),
        (
            "Dockerfile",
            "FROM scratch\n\
             COPY a.txt /renamed\n\
             COPY a.txt /into/\n\
             COPY *.txt /all/\n\
             COPY dir /tree\n\
             WORKDIR /work\n\
             COPY --chmod=600 a.txt .\n\
             COPY dir/link /followed\n\
             COPY <<EOF /inline\n\
             hello $X\n\
             EOF\n\
             COPY none* /nothing/\n",
        ),
    ]) else {
        return;
    };
    symlink("../a.txt", bench.context.join("dir/link")).unwrap();
    fs::set_permissions(bench.context.join("dir/sub"), fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["a.txt", "b.txt", "dir/x", "dir/sub/y"] {
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(bench.context.join(name), mode).unwrap();
    }
    let expected = [
        "all/ 755",
        "all/a.txt 644 a",
        "all/b.txt 644 b",
        "followed 644 a",
        "inline 644 hello",
        "into/ 755",
        "into/a.txt 644 a",
        "renamed 644 a",
        "tree/ 755",
        "tree/link -> ../a.txt",
        "tree/sub/ 700",
        "tree/sub/y 644 y",
        "tree/x 644 x",
        "work/ 755",
        "work/a.txt 600 a",
    ];
    assert_eq!(list(&bench.files(&[])), expected);
}

#[test]
fn config_and_history_are_buildkits() {
    let Some(bench) = Bench::new(&[
        ("f", "1"),
        (
            "Dockerfile",
            "ARG V=1\nFROM scratch\nARG V\nENV A=$V B=\"x y\"\nLABEL l=m\nUSER 5:6\nWORKDIR /w\n\
             COPY f .\nEXPOSE 80 53/udp\nVOLUME /data\nSTOPSIGNAL TERM\nCMD [\"/x\", \"y\"]\n\
             ENTRYPOINT /e\nHEALTHCHECK --interval=5s CMD /check\n",
        ),
    ]) else {
        return;
    };
    let config = bench.build(&["--label", "extra=1", "-t", "t:1"]);
    let inner = &config["config"];
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(inner["Env"], serde_json::json!([path, "A=1", "B=x y"]));
    assert_eq!(inner["Labels"], serde_json::json!({"extra": "1", "l": "m"}));
    assert_eq!(inner["User"], "5:6");
    assert_eq!(inner["WorkingDir"], "/w");
    assert_eq!(inner["Cmd"], serde_json::json!(["/x", "y"]));
    assert_eq!(inner["Entrypoint"], serde_json::json!(["/bin/sh", "-c", "/e"]));
    assert_eq!(inner["Healthcheck"]["Interval"], 5_000_000_000_u64);
    assert_eq!(inner["ExposedPorts"], serde_json::json!({"53/udp": {}, "80/tcp": {}}));
    let history: Vec<&str> = config["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["created_by"].as_str().unwrap())
        .collect();
    assert_eq!(history[..5], ["ARG V=1", "ENV A=1 B=x y", "LABEL l=m", "USER 5:6", "WORKDIR /w"]);
    assert_eq!(history[5], "COPY f . # buildkit");
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
    let with_layer = |entry: &&Value| entry["empty_layer"] != true;
    assert_eq!(config["history"].as_array().unwrap().iter().filter(with_layer).count(), layers);
    assert_eq!(layers, 2);
}

#[test]
fn an_unchanged_build_is_cached_and_a_change_is_explained() {
    let Some(bench) = Bench::new(&[
        ("src/a", "a"),
        ("src/b", "b"),
        ("last", "l"),
        ("Dockerfile", "FROM scratch\nCOPY src /src\nCOPY last /last\n"),
    ]) else {
        return;
    };
    let first = bench.build(&[]);
    let again = bench.run(&[]);
    assert!(again.stderr.contains("(2 of 2 steps cached)"), "{}", again.stderr);
    assert_eq!(bench.config(&again), first);
    // Times alone change nothing.
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options()
        .write(true)
        .open(bench.context.join("src/a"))
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_eq!(bench.build(&[]), first);
    bench.write("src/b", "B");
    let changed = bench.run(&["--explain"]);
    assert!(changed.stderr.contains("file src/b: content"), "{}", changed.stderr);
    // The second copy does not depend on the first one's layer.
    assert!(changed.stderr.contains("(1 of 2 steps cached)"), "{}", changed.stderr);
    let layers = |config: &Value| config["rootfs"]["diff_ids"].as_array().unwrap().clone();
    let now = bench.config(&changed);
    assert_ne!(layers(&now)[0], layers(&first)[0]);
    assert_eq!(layers(&now)[1], layers(&first)[1]);
    // Back to what it was: everything is there.
    bench.write("src/b", "b");
    assert_eq!(bench.build(&[]), first);
}

/// A rebuild takes what did not change from the layer that it made before.
#[test]
fn a_rebuild_gives_the_layer_of_a_fresh_build() {
    let large = "x".repeat(6 << 20);
    let Some(bench) = Bench::new(&[
        // A folder that COPY makes has the time of the build.
        ("Dockerfile", "FROM scratch\nCOPY . /\n"),
        ("a/changes", "one"),
        ("a/goes", "1"),
        ("a/grows", "1"),
        ("a/stays", "1"),
        ("empty", ""),
        ("large", &large),
    ]) else {
        return;
    };
    fs::hard_link(bench.context.join("a/stays"), bench.context.join("link")).unwrap();
    let first = bench.build(&[]);
    let layer = first["rootfs"]["diff_ids"][0].as_str().unwrap().replace(':', "/");
    assert!(bench.davit.root().join("layers").join(layer).join("digests").exists());
    bench.write("a/changes", "two");
    bench.write("a/grows", "22");
    bench.write("new", "1");
    fs::remove_file(bench.context.join("a/goes")).unwrap();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(bench.context.join("large"), mode).unwrap();
    let rebuilt = bench.build(&[]);
    let fresh = bench.build(&["--no-cache"]);
    assert_ne!(rebuilt["rootfs"], first["rootfs"]);
    assert_eq!(rebuilt["rootfs"], fresh["rootfs"]);
}

#[test]
fn only_reachable_stages_are_built() {
    let Some(bench) = Bench::new(&[
        ("f", "1"),
        (
            "Dockerfile",
            "FROM scratch AS one\nCOPY f /from-one\n\
             FROM no-such-registry.invalid/image AS broken\nRUN false\n\
             FROM one AS two\nCOPY f /two\n\
             FROM scratch\nCOPY --from=two / /all\nCOPY --from=0 /from-one /zero\n",
        ),
    ]) else {
        return;
    };
    assert_eq!(
        list(&bench.files(&[])),
        ["all/ 755", "all/from-one 644 1", "all/two 644 1", "zero 644 1"]
    );
    let one = bench.files(&["--target", "ONE"]);
    assert_eq!(list(&one), ["from-one 644 1"]);
}

#[test]
fn errors_show_the_place_and_help() {
    let Some(bench) = Bench::new(&[
        ("package.json", "{}"),
        ("dist/x", "x"),
        (".dockerignore", "# nothing built\n\ndist\n"),
    ]) else {
        return;
    };
    let cases = [
        (
            "FROM scratch\nCOPY dist /d\n",
            "is excluded by .dockerignore:3",
            "remove the pattern `dist`",
        ),
        (
            "FROM scratch\nCOPY pakage.json /\n",
            "is not in the context",
            "did you mean `package.json`?",
        ),
        (
            "FROM scratch AS base\nFROM scratch\nCOPY --from=bsae /x /\n",
            "bsae",
            "did you mean the stage `base`?",
        ),
        (
            "FROM scratch\nCOPY out /o\n",
            "source \"out\" is a symlink to \"../outside\", which is not in the context",
            "",
        ),
        ("FROM scratch\nCOPPY a b\n", "unknown instruction `COPPY`", "did you mean `COPY`?"),
        ("FROM scratch\nCOPY --form=x a b\n", "flag `--form`", "did you mean `--from`?"),
        ("ARG IMAGE=x\nFROM $IMGAE\n", "is empty", "did you mean `IMAGE`?"),
        ("FROM scratch\nCOPY --chown=web dist* /\n", "there is no user `web`", "give its number"),
        ("FROM scratch\nCOPY --chmod=9 dist* /\n", "is no mode", "octal"),
    ];
    symlink("../outside", bench.context.join("out")).unwrap();
    for (dockerfile, message, hint) in cases {
        bench.write("Dockerfile", dockerfile);
        let outcome = bench.run(&["--pull=never"]);
        assert_eq!(outcome.code, 1, "{dockerfile}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains(message), "{dockerfile}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{dockerfile}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains("Dockerfile:"), "{dockerfile}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains('^'), "{dockerfile}\n{}", outcome.stderr);
        // What stands beside the place is not said again.
        let count = outcome.stderr.matches(message).count();
        assert!(count == 1 || message == "bsae", "{dockerfile}\n{}", outcome.stderr);
    }
    bench.write("Dockerfile", "FROM scratch AS release\nCOPY package.json /\n");
    let outcome = bench.run(&["--target", "relaese"]);
    assert!(outcome.stderr.contains("did you mean `--target release`?"), "{}", outcome.stderr);
}

#[test]
fn standard_input_is_a_dockerfile_or_a_tar() {
    let Some(bench) = Bench::new(&[]) else { return };
    let text = bench.feed(b"FROM scratch\nCOPY <<E /f\nx\nE\n", &[]);
    assert_eq!(text.code, 0, "{}", text.stderr);
    let mut tar = Vec::new();
    for (name, content) in [
        ("Dockerfile", "FROM scratch\nCOPY . /c\n"),
        ("d/f", "file"),
        (".dockerignore", "no\n"),
        ("no", ""),
    ] {
        tar.extend_from_slice(&tar_file(name, content.as_bytes()));
    }
    tar.extend_from_slice(&[0; 1024]);
    let target = bench.davit.dir().join("out");
    let spec = format!("type=local,dest={}", target.display());
    let outcome = bench.feed(&tar, &["-o", &spec]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let files = list(&target);
    assert!(files.contains(&"c/d/f 644 file".to_owned()), "{files:?}");
    // Whoever packs a tar leaves out what is not wanted.
    assert!(files.contains(&"c/no 644 ".to_owned()), "{files:?}");
    assert_eq!(bench.feed(b"\x1f\x8b\x08 no gzip", &[]).code, 1);
}

#[test]
fn add_unpacks_archives() {
    let Some(bench) = Bench::new(&[
        ("plain.txt", "no archive"),
        (
            "Dockerfile",
            "FROM scratch\nADD a.data plain.txt /to/\nADD --unpack=false a.data /kept/\n",
        ),
    ]) else {
        return;
    };
    let tar = [tar_file("in/x", b"x"), tar_file("y", b"y"), vec![0; 1024]].concat();
    fs::write(bench.context.join("a.data"), &tar).unwrap();
    let files = list(&bench.files(&[]));
    for expected in ["to/in/x 644 x", "to/y 644 y", "to/plain.txt 644 no archive"] {
        assert!(files.contains(&expected.to_owned()), "{expected} {files:?}");
    }
    assert!(files.iter().any(|line| line.starts_with("kept/a.data ")), "{files:?}");
}

#[test]
fn archives_and_ids_go_where_they_are_sent() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /f\n")]) else {
        return;
    };
    let dir = bench.davit.dir().to_path_buf();
    let (oci, tar, iid) = (dir.join("oci.tar"), dir.join("files.tar"), dir.join("iid"));
    let oci_spec = format!("type=oci,dest={}", oci.display());
    let tar_spec = format!("type=tar,dest={}", tar.display());
    let args = ["-o", &oci_spec, "-o", &tar_spec, "--iidfile", iid.to_str().unwrap(), "-t", "x:1"];
    let config = bench.build(&args);
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
    let id = fs::read_to_string(&iid).unwrap();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let holds = |path: &Path, name: &[u8]| {
        fs::read(path).unwrap().windows(name.len()).any(|window| window == name)
    };
    assert!(holds(&oci, b"oci-layout") && holds(&oci, b"manifest.json"));
    assert!(holds(&tar, b"f\0"));
    let quiet = bench.run(&["-q"]);
    assert_eq!((quiet.stdout.trim_end(), quiet.stderr.as_str()), (id.as_str(), ""));
}

#[test]
fn source_date_epoch_makes_equal_images() {
    let dockerfile = "FROM scratch\nWORKDIR /w\nCOPY f .\n";
    let build = || {
        let bench = Bench::new(&[("f", "1"), ("Dockerfile", dockerfile)])?;
        Some(bench.build(&["--build-arg", "SOURCE_DATE_EPOCH=1234567890"]))
    };
    let (Some(one), Some(two)) = (build(), build()) else { return };
    assert_eq!(one, two);
    assert_eq!(one["created"], "2009-02-13T23:31:30Z");
}

#[test]
fn run_changes_the_file_system() {
    let Some(bench) = alpine(
        "RUN echo hi > /made && rm /etc/motd && mkdir -m 700 /d && ln /made /d/link\n\
         RUN [\"/bin/sh\", \"-c\", \"echo exec >> /made\"]\n\
         ENV NAME=value\n\
         RUN <<EOF\nset -e\necho \"$NAME\" > /name\nid -u >> /name\nEOF\n\
         USER nobody\n\
         WORKDIR /home/me\n\
         RUN echo $HOME > /tmp/home && pwd >> /tmp/home && hostname >> /tmp/home\n\
         RUN --network=none ls /sys/class/net > /tmp/net\n\
         FROM scratch\nCOPY --from=alpine /made /name /tmp/home /tmp/net /d /etc/os-release /out/\n",
    ) else {
        return;
    };
    let out = bench.files(&[]).join("out");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert_eq!(read("made"), "hi\nexec\n");
    assert_eq!(
        read("link"),
        "hi\n",
        "a file below that is written is copied up, its links are not"
    );
    assert_eq!(read("name"), "value\n0\n");
    assert_eq!(read("home"), "/\n/home/me\nbuildkitsandbox\n");
    assert_eq!(read("net"), "lo\n");
    assert!(read("os-release").contains("3.20.3"));
}

#[test]
fn run_leaves_no_stubs_and_fails_with_its_output() {
    let Some(bench) = alpine("RUN true\nRUN echo out; echo err >&2; exit 7\n") else {
        return;
    };
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 1);
    for text in ["ended with exit code 7", "> out", "> err", "Dockerfile:4", "RUN echo out"] {
        assert!(outcome.stderr.contains(text), "{text}\n{}", outcome.stderr);
    }
    let bench = alpine("RUN true\n").unwrap();
    let config = bench.build(&[]);
    let empty = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
    assert_eq!(config["rootfs"]["diff_ids"][1], empty);
}

#[test]
fn an_equal_result_cuts_the_rest_off() {
    let Some(bench) = alpine("ARG X\nRUN echo constant > /f # $X\nRUN date +%N > /when\n") else {
        return;
    };
    let first = bench.build(&["--build-arg", "X=1"]);
    let second = bench.build(&["--build-arg", "X=2"]);
    // The command ran again (its argument differs), gave the same, and what follows is untouched.
    assert_eq!(first["rootfs"], second["rootfs"]);
    assert_ne!(first["history"], second["history"]);
}

#[test]
fn ctrl_c_leaves_nothing() {
    let Some(bench) = alpine("RUN sleep 86395\n") else { return };
    let context = bench.context.to_str().unwrap().to_owned();
    let mut command = bench.davit.command(["build", "--network", "none", &context]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let sleeping = || {
        fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let root = fs::read(entry.path().join("cgroup")).unwrap_or_default();
            line == b"sleep\x0086395\0" && String::from_utf8_lossy(&root).contains("build-")
        })
    };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let child = command.spawn().unwrap();
        davit_test::until("it sleeps", sleeping);
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, signal).unwrap();
        let outcome = Outcome::from(child.wait_with_output().unwrap());
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        davit_test::until("nobody sleeps", || !sleeping());
    }
    let left: Vec<_> = fs::read_dir(bench.davit.root().join("tmp"))
        .unwrap()
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
