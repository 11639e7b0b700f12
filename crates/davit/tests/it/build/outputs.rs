//! What a build shows and where its result goes.

use std::{
    fs,
    io::Read as _,
    os::fd::OwnedFd,
    path::Path,
    process::{Command, Stdio},
};

use davit_test::{Access, Registry, need_tool};
use serde_json::Value;

use super::bench::{Bench, alpine, list};
use crate::davit;

const DOCKERFILE: &str =
    "FROM scratch\nCOPY f /f\nCOPY --chmod=700 d /d\nWORKDIR /w\nCOPY link /followed\n";

fn bench() -> Option<Bench> {
    let bench = Bench::new(&[("f", "1"), ("d/g", "2"), ("Dockerfile", DOCKERFILE)])?;
    std::os::unix::fs::symlink("f", bench.context.join("link")).unwrap();
    Some(bench)
}

fn untar(tar: &Path, target: &Path) {
    fs::create_dir_all(target).unwrap();
    let mut command = Command::new("tar");
    command.arg("-C").arg(target).arg("-xpf").arg(tar);
    assert!(command.status().unwrap().success(), "{}", tar.display());
}

#[test]
fn every_output_holds_the_same_tree() {
    let (Some(bench), Some(_)) = (bench(), need_tool("tar")) else { return };
    let dir = bench.davit.dir().to_path_buf();
    let expected = list(&bench.files(&[]));
    assert!(expected.contains(&"d/g 700 2".to_owned()), "{expected:?}");
    // A name alone is a directory.
    let outcome = bench.run(&["-o", dir.join("short").to_str().unwrap()]);
    assert_eq!((outcome.code, list(&dir.join("short"))), (0, expected.clone()));
    for (name, spec) in [("file", "type=tar,dest=FILE"), ("pipe", "-"), ("dash", "type=tar,dest=-")]
    {
        let tar = dir.join(format!("{name}.tar"));
        let spec = spec.replace("FILE", tar.to_str().unwrap());
        let context = bench.context.to_str().unwrap();
        let mut command = bench.davit.command(["build", "-q", "-o", &spec, context]);
        if name != "file" {
            command.stdout(fs::File::create(&tar).unwrap());
        }
        assert!(command.status().unwrap().success(), "{name}");
        untar(&tar, &dir.join(name));
        assert_eq!(list(&dir.join(name)), expected, "{name}");
    }
    for kind in ["docker", "oci"] {
        let tar = dir.join(format!("{kind}.tar"));
        let spec = format!("type={kind},dest={}", tar.display());
        assert_eq!(bench.run(&["-t", "out:1", "-o", &spec]).code, 0, "{kind}");
        let other = davit();
        let loaded = other.ok(["load", "-i", tar.to_str().unwrap()]);
        assert!(loaded.contains("out:1"), "{kind}: {loaded}");
        fs::create_dir_all(other.dir().join("c")).unwrap();
        fs::write(other.dir().join("c/Dockerfile"), "FROM out:1\n").unwrap();
        let target = other.dir().join("tree");
        let context = other.dir().join("c");
        other.ok(["build", "-q", "-o", target.to_str().unwrap(), context.to_str().unwrap()]);
        assert_eq!(list(&target), expected, "{kind}");
    }
    let refused = bench.run(&["-o", "type=local"]);
    assert!(refused.code != 0 && refused.stderr.contains("dest="), "{}", refused.stderr);
}

#[test]
fn a_failure_changes_no_file_and_no_name() {
    let Some(bench) = alpine("RUN exit 3\n") else { return };
    let file = bench.davit.dir().join("file");
    fs::write(&file, "as it was").unwrap();
    for kind in ["tar", "oci", "docker"] {
        let failed = bench.run(&["-o", &format!("type={kind},dest={}", file.display())]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert_eq!(fs::read_to_string(&file).unwrap(), "as it was", "{kind}");
    }
    let cache = fs::read_dir(bench.davit.root().join("cache")).unwrap().flatten();
    let names: Vec<_> = cache.map(|it| it.file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name.starts_with("context-")), "digests stay: {names:?}");
    bench.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let nowhere = format!("type=local,dest={}/below", file.display());
    let failed = bench.run(&["-t", "new:1", "--load", "-o", &nowhere]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    assert_eq!(bench.davit.ok(["images", "-aq"]), "");
}

#[test]
fn names_go_where_the_result_goes() {
    let Some(bench) = bench() else { return };
    let dir = bench.davit.dir().to_path_buf();
    let run = |flags: &[&str]| {
        let outcome = bench.run(flags);
        assert_eq!(outcome.code, 0, "{flags:?}: {}", outcome.stderr);
        bench.davit.ok(["images", "-a", "--format", "{{.Repository}}:{{.Tag}}"])
    };
    let file = format!("type=docker,dest={}", dir.join("file.tar").display());
    assert_eq!(run(&["-o", &file, "-t", "file:1"]), "", "names and image are the file's");
    let layout = dir.join("layout");
    let spec = format!("type=oci,tar=false,name=lay:1,dest={}", layout.display());
    assert_eq!(run(&["-o", &spec]), "");
    assert_eq!(run(&["-o", &spec, "-t", "lay:2", "--load"]), "lay:2", "tags come before names");
    assert_eq!(run(&["-o", "type=image,\"name=img:1,img:2\",push=false"]), "img:1\nimg:2\nlay:2");
    let other = davit();
    for name in ["lay:1", "lay:2"] {
        let source = format!("oci:{}:docker.io/library/{name}", layout.display());
        other.ok(["copy", "-q", &source, name]);
        assert_eq!(other.ok(["images", "-q", "--no-trunc", name]).lines().count(), 1);
    }
    for (flags, words) in [
        (&["-o", "type=oci,tar=false"][..], "dest=DIRECTORY"),
        (&["-o", "type=image,bogus=1"], "`bogus` is not supported"),
        (&["--platform", "linux/amd64,a/b/c/d"], "a/b/c/d"),
        (&["-t", "BAD:tag:x"], "\"BAD:tag:x\" for \"-t, --tag\" flag: repository name `BAD`"),
    ] {
        let refused = bench.run(flags);
        assert!(refused.code != 0 && refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[test]
fn an_image_of_its_own_goes_to_a_registry_and_back() {
    let (Some(bench), Some(registry)) = (bench(), Registry::start(Access::Open)) else { return };
    let name = format!("{}/made:1", registry.host());
    let built = bench.build(&["-t", &name, "--label", "k=v"]);
    let pushed = bench.davit.ok(["push", &name]);
    let digest = pushed.split("sha256:").last().unwrap().get(..64).unwrap().to_owned();
    let other = davit();
    other.ok(["pull", &name]);
    let pulled = other.ok(["image", "inspect", "-f", "{{json .RepoDigests}}", &name]);
    assert!(pulled.contains(&digest), "{pushed}\n{pulled}");
    let id = |davit: &davit_test::Davit| davit.ok(["images", "-q", "--no-trunc", &name]);
    assert_eq!(id(&other), id(&bench.davit));
    let config = fs::read(other.root().join("blobs/sha256").join(&id(&other)[7..])).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&config).unwrap(), built);
    // Again, from where it was pulled to: nothing is new.
    let again = other.ok(["push", &name]);
    assert!(again.contains(&digest), "{again}");
    let source = format!("docker://{name}");
    if let Some(skopeo) = need_tool("skopeo") {
        let mut command = Command::new(skopeo);
        command.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}", &source]);
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("sha256:{digest}"));
        let mut command = Command::new("skopeo");
        let target = format!("dir:{}", bench.davit.dir().join("copied").display());
        command.args(["--insecure-policy", "copy", "--src-tls-verify=false", &source, &target]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    if let Some(podman) = need_tool("podman") {
        podman_reads(&podman, &bench, &name, &id(&other));
    }
}

/// Pulls with podman, in a store of the test's own; the image's id is davit's.
fn podman_reads(podman: &Path, bench: &Bench, name: &str, id: &str) {
    let dir = bench.davit.dir();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let mut command = Command::new(podman);
    command.args(["--root", &at("podman"), "--runroot", &at("podman-run")]);
    command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]);
    command.args(["--events-backend", "file", "pull", "--quiet", "--tls-verify=false", name]);
    let output = command.env("HOME", dir).env("TMPDIR", dir).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), &id[7..], "{stderr}");
}

#[test]
fn rawjson_is_buildkits() {
    let Some(bench) = alpine("RUN echo out; echo err >&2\nRUN exit 3\n") else { return };
    let context = bench.context.to_str().unwrap().to_owned();
    let base = ["build", "--network", "none", "--progress", "rawjson"];
    let outcome = bench.davit.run([&base[..], &["--target", "alpine", &context]].concat());
    assert_eq!(outcome.code, 1);
    let lines: Vec<Value> = outcome
        .stderr
        .lines()
        .take_while(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let all = |list: &str| -> Vec<Value> {
        lines.iter().flat_map(|line| line[list].as_array().cloned().unwrap_or_default()).collect()
    };
    let keys: Vec<&String> =
        lines.iter().flat_map(|line| line.as_object().unwrap().keys()).collect();
    let known = ["vertexes", "statuses", "logs", "warnings"];
    assert!(keys.iter().all(|key| known.contains(&key.as_str())), "{keys:?}");
    let vertexes = all("vertexes");
    let of = |name: &str| -> Vec<&Value> {
        vertexes.iter().filter(|it| it["name"].as_str().unwrap().contains(name)).collect()
    };
    let echo = of("RUN echo out");
    let digest = echo[0]["digest"].as_str().unwrap();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
    assert!(echo.iter().all(|it| it["digest"] == digest));
    let last = echo.last().unwrap();
    for time in ["started", "completed"] {
        assert!(last[time].as_str().unwrap().ends_with('Z'), "{last}");
    }
    assert!(of("RUN exit 3").last().unwrap()["error"].is_string());
    let logs = all("logs");
    let text = |stream: u64| -> Vec<&str> {
        let mine = logs.iter().filter(|log| log["vertex"] == digest && log["stream"] == stream);
        mine.map(|log| log["data"].as_str().unwrap()).collect()
    };
    // "out\n" and "err\n"
    assert_eq!((text(1), text(2)), (vec!["b3V0Cg=="], vec!["ZXJyCg=="]));
}

#[test]
fn a_name_of_100_kb_does_not_flood_the_progress() {
    let long = "\u{20ac}".repeat(10_000);
    let Some(bench) = Bench::new(&[("f", "1")]) else { return };
    bench.write("Dockerfile", &format!("FROM scratch\nARG A={long}\nCOPY f /$A/../f\n"));
    let context = bench.context.to_str().unwrap();
    for progress in ["plain", "rawjson", "tty"] {
        let outcome =
            bench.davit.run(["build", "--no-cache", "--explain", "--progress", progress, context]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let lines = outcome.stderr.lines().filter(|line| line.contains("COPY f /"));
        let longest = lines.map(|line| line.chars().count()).max().unwrap();
        let most = if progress == "tty" { 80 } else { 1400 };
        assert!(longest > 70 && longest <= most, "{progress}: {longest}");
        assert!(!outcome.stderr.contains('\u{fffd}'), "no character is cut");
    }
}

#[test]
fn a_terminal_shows_running_steps_and_then_lines() {
    let Some(bench) = alpine("RUN echo told; echo more >&2\n") else { return };
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let context = bench.context.to_str().unwrap().to_owned();
    for progress in ["auto", "tty"] {
        let arguments = ["build", "--no-cache", "--network", "none", "--progress", progress];
        let mut command = bench.davit.command(arguments.iter().copied().chain([context.as_str()]));
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.stdout(Stdio::null()).stderr(OwnedFd::from(slave.try_clone().unwrap()));
        let mut child = command.spawn().unwrap();
        let mut terminal = fs::File::from(master.try_clone().unwrap());
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        // The slave stays open here, so there is no end: the last line is it.
        while !String::from_utf8_lossy(&seen).contains("Built sha256:") {
            let length = terminal.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..length]);
        }
        assert!(child.wait().unwrap().success());
        let seen = String::from_utf8_lossy(&seen).into_owned();
        assert!(
            seen.contains(" => [3/3] RUN echo told") || seen.contains("RUN echo told"),
            "{seen}"
        );
        assert!(seen.contains("\u{1b}["), "{progress} draws\n{seen}");
        assert!(!seen.contains("\"vertexes\""), "{seen}");
    }
}
