//! What commands have of the machine: volumes, a container's network, processors.

use std::{fs, process::Stdio};

use davit_test::Outcome;

use super::{
    bench::{Bench, alpine, list},
    cancel::interrupt,
};

fn with_network(bench: &Bench, network: &str) -> Outcome {
    let context = bench.context.to_str().unwrap();
    bench.davit.run(["build", "--progress", "plain", "--network", network, context])
}

#[test]
fn a_volume_counts_by_its_content_unless_it_can_be_written() {
    let Some(bench) = alpine(
        "RUN cp /v/in /out && if touch /v/new 2> /dev/null; then echo y; fi > /written\n\
         FROM scratch\nCOPY --from=alpine /out /written /\n",
    ) else {
        return;
    };
    let directory = bench.davit.dir().join("files");
    fs::create_dir(&directory).unwrap();
    let write = |text: &str| fs::write(directory.join("in"), text).unwrap();
    write("1");
    // An ignore file is one of its files.
    fs::write(directory.join(".dockerignore"), "*\n").unwrap();
    let [read_only, writable] = ["", ":rw"].map(|mode| format!("{}:/v{mode}", directory.display()));
    let built = |spec: &str| {
        let target = bench.davit.dir().join("built");
        let outcome = bench.run(&["-v", spec, "-o", target.to_str().unwrap()]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        list(&target).join(" ")
    };
    assert_eq!(built(&read_only), "out 644 1 written 644 ");
    assert!(!directory.join("new").exists(), "it is read-only");
    write("2");
    assert_eq!(built(&read_only), "out 644 2 written 644 ", "its content counts");
    write("1");
    assert_eq!(built(&read_only), "out 644 1 written 644 ");
    let again = bench.run(&["-v", &read_only]);
    assert!(!again.stderr.contains("DONE"), "{}", again.stderr);
    assert_eq!(built(&writable), "out 644 1 written 644 y");
    assert!(directory.join("new").exists(), "it can be written");
    write("3");
    assert_eq!(built(&writable), "out 644 1 written 644 y", "its content does not count");
    // Nothing of where it was is in the image.
    assert!(
        !list(&bench.files(&["-v", &read_only, "--target", "alpine"]))
            .contains(&"v/ 755".to_owned())
    );
}

#[test]
fn volumes_have_names_and_must_be_there() {
    let Some(bench) = alpine("RUN ls /v > /seen && echo x > /v/f || true\n") else { return };
    bench.davit.ok(["volume", "create", "things"]);
    let refused = |spec: &str, words: &str| {
        let outcome = bench.run(&["-v", spec]);
        assert_ne!(outcome.code, 0, "{spec}");
        assert!(outcome.stderr.contains(words), "{spec}: {}", outcome.stderr);
    };
    bench.build(&["-v", "things:/v:rw"]);
    let files = list(&bench.files(&["-v", "things:/v"]));
    assert!(files.contains(&"seen 644 f".to_owned()), "what an earlier build wrote");
    let file = bench.context.join("Dockerfile").display().to_string();
    for (spec, words) in [
        ("nothing:/v", "get nothing: no such volume"),
        ("/nonexistent/x:/v", "No such file"),
        (&*format!("{file}:/v"), "a volume of a build is a directory"),
        ("things:/v:z", "`z` is nothing that a volume of a build can be"),
        ("things:/", "can't be '/'"),
        ("things:v", "must be absolute"),
        ("/v", "a volume of a build has a source"),
    ] {
        refused(spec, words);
    }
    bench.davit.ok(["volume", "create", "-o", "type=tmpfs", "-o", "device=tmpfs", "memory"]);
    refused("memory:/v", "its driver's options");
}

/// `docker buildx build` has no such option.
#[test]
fn docker_gives_no_volumes() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\n")]) else { return };
    let plugin = bench.davit.dir().join("docker-buildx");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_davit"), &plugin).unwrap();
    let context = bench.context.to_str().unwrap();
    let mut command = std::process::Command::new(&plugin);
    command.env("DAVIT_ROOT", bench.davit.root()).env("DAVIT_RUN_ROOT", bench.davit.run_root());
    command.env("HOME", bench.davit.dir()).args(["buildx", "build", "-v", "/tmp:/v", context]);
    let outcome = Outcome::from(command.output().unwrap());
    assert_ne!(outcome.code, 0);
    assert!(outcome.stderr.contains("unknown flag: --volume"), "{}", outcome.stderr);
}

#[test]
fn a_mount_of_the_dockerfile_takes_the_place_of_a_volume() {
    let Some(bench) = alpine("RUN --mount=type=tmpfs,target=/v test -z \"$(ls /v)\"\n") else {
        return;
    };
    let directory = bench.context.display().to_string();
    bench.build(&["-v", &format!("{directory}:/v")]);
}

#[test]
fn commands_join_the_network_of_a_container() {
    let Some(bench) = alpine("CMD sleep 900\n") else { return };
    bench.build(&["-t", "base:1"]);
    let run = ["run", "-d", "--network", "none", "--add-host", "peer:10.9.8.7"];
    let name = "joined-1";
    bench.davit.ok(run.iter().chain(&["--name", name, "base:1"]));
    bench.write(
        "Dockerfile",
        "FROM base:1\nRUN echo space=$(readlink /proc/self/ns/net) && grep -w peer /etc/hosts\n\
         RUN --network=none echo own=$(readlink /proc/self/ns/net)\n",
    );
    let theirs = bench.davit.ok(["exec", name, "readlink", "/proc/1/ns/net"]);
    let network = format!("container:{name}");
    let outcome = with_network(&bench, &network);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let text = &outcome.stderr;
    assert!(text.contains(&format!("space={theirs}")), "{text}");
    assert!(text.contains("own=net:") && !text.contains(&format!("own={theirs}")), "{text}");
    assert!(text.contains("10.9.8.7"), "{text}");
    assert!(with_network(&bench, &network).stderr.contains("CACHED"));
    bench.davit.ok(["kill", name]);
    bench.davit.ok(["wait", name]);
    for (network, words) in [
        (&*network, "it is not running"),
        ("container:nobody", "No such container: nobody"),
        ("elsewhere", "network elsewhere not found"),
        ("container:", "network container: not found"),
    ] {
        let outcome = with_network(&bench, network);
        assert_ne!(outcome.code, 0, "{network}");
        assert!(outcome.stderr.contains(words), "{network}: {}", outcome.stderr);
    }
    bench.davit.ok(["rm", "-f", name]);
}

#[test]
fn as_many_commands_run_as_are_asked_for() {
    let meet = |number: u32| {
        format!(
            "FROM alpine AS s{number}\nRUN --mount=type=cache,id=meet,target=/c touch /c/{number}; \
             n=0; until [ $(ls /c | wc -l) = 8 ]; do n=$((n+1)); [ $n -lt 6000 ] || exit 1; \
             sleep 0.1; done\n"
        )
    };
    let stages: String = (0..8).map(meet).collect();
    let copies: String =
        (0..8).map(|number| format!("COPY --from=s{number} /etc/hostname /{number}\n")).collect();
    let Some(bench) = alpine(&format!("{stages}FROM scratch\n{copies}")) else { return };
    bench.build(&["--jobs", "8"]);
}

/// A command that waits for a cache of another build takes the place of none.
#[test]
fn who_waits_keeps_nobody_out() {
    let cache = "RUN --mount=type=cache,id=l,sharing=locked,target=/c";
    let Some(bench) = alpine(&format!("{cache} touch /c/there && sleep 900\n")) else { return };
    let mounts = bench.davit.root().join("cache/mounts");
    let is_there = |name: &str| {
        let directories = fs::read_dir(&mounts).into_iter().flatten().flatten();
        directories.map(|it| it.path()).any(|path| path.join("data").join(name).exists())
    };
    let spawn = || {
        let context = bench.context.to_str().unwrap();
        let fixed = ["build", "--progress", "plain", "--network", "none", "--jobs", "1", context];
        let mut command = bench.davit.command(fixed);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut first = spawn();
    davit_test::until("the first build has it", || is_there("there"));
    bench.write(
        "Dockerfile",
        &format!(
            "FROM scratch AS alpine\nADD alpine.tar.gz /\n\
             FROM alpine AS waits\n{cache} ls /c\nRUN true\nRUN true\nRUN true\n\
             FROM alpine AS goes\nRUN --mount=type=cache,id=m,target=/m touch /m/ran\n\
             FROM scratch\nCOPY --from=waits /etc/hostname /a\nCOPY --from=goes /etc/hostname /b\n"
        ),
    );
    let outcome = interrupt(spawn(), |_| is_there("ran"));
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    first.kill().unwrap();
    first.wait().unwrap();
}
