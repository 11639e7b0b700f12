//! `RUN --device`, and `run --device` by name.

use std::{fs, path::PathBuf};

use davit_test::Outcome;

use super::bench::{Bench, alpine, list};

const SPEC: &str = "cdiVersion: '0.6.0'\nkind: acme.com/thing\n\
    containerEdits:\n  env: [THING=yes]\n\
    devices:\n\
    - name: one\n  containerEdits:\n    env: [ONE=1]\n    deviceNodes:\n    - path: /dev/thing\n      \
        hostPath: /dev/zero\n      permissions: r\n    mounts:\n    - hostPath: MOUNT\n      \
        containerPath: /opt/thing\n      options: [ro, bind]\n\
    - name: two\n  annotations:\n    org.mobyproject.buildkit.device.class: fast\n    \
        org.mobyproject.buildkit.device.autoallow: 'true'\n  containerEdits:\n    env: [TWO=2]\n\
    - name: hooked\n  containerEdits:\n    hooks:\n    - hookName: createRuntime\n      path: /x\n";

/// A bench whose davit knows devices, and what is mounted for one.
fn bench(dockerfile: &str) -> Option<Bench> {
    let bench = alpine(dockerfile)?;
    let directory = directory(&bench);
    fs::create_dir_all(directory.join("mount")).unwrap();
    fs::write(directory.join("mount/driver"), "d").unwrap();
    let mount = directory.join("mount").display().to_string();
    fs::write(directory.join("acme.yaml"), SPEC.replace("MOUNT", &mount)).unwrap();
    fs::write(directory.join("broken.json"), "{").unwrap();
    let config = bench.davit.dir().join(".config/davit");
    fs::create_dir_all(&config).unwrap();
    let text = format!("[cdi]\nspec_dirs = [\"{}\"]\n", directory.display());
    fs::write(config.join("config.toml"), text).unwrap();
    Some(bench)
}

fn directory(bench: &Bench) -> PathBuf {
    bench.davit.dir().join("cdi")
}

fn try_device(bench: &Bench, device: &str, args: &[&str]) -> Outcome {
    let text = format!(
        "FROM scratch\nADD alpine.tar.gz /\nRUN --device={device} env > /env && \
         if test -e /dev/thing; then head -c 3 /dev/thing | od -An -tx1 && cat /opt/thing/driver; fi > /seen\n"
    );
    bench.write("Dockerfile", &text);
    bench.run(args)
}

/// `testDeviceRunEnv` and the rest of what a device comes with.
#[test]
fn a_command_gets_a_device_that_it_may_have() {
    let Some(bench) = bench("") else { return };
    let seen = |device: &str, args: &[&str]| {
        let target = bench.davit.dir().join("seen");
        let spec = target.to_str().unwrap();
        let outcome = try_device(&bench, device, &[args, &["--no-cache", "-o", spec]].concat());
        assert_eq!(outcome.code, 0, "{device}: {}", outcome.stderr);
        let env = fs::read_to_string(target.join("env")).unwrap();
        let names = ["THING=yes", "ONE=1", "TWO=2"];
        let names = names.into_iter().filter(|name| env.lines().any(|line| line == *name));
        let names: Vec<&str> = names.collect();
        let nodes = list(&target).iter().filter(|line| line.contains("opt/thing")).count();
        assert_eq!(nodes, 0, "a mount point is no change");
        (names.join(" "), fs::read_to_string(target.join("seen")).unwrap())
    };
    let whole = " 00 00 00\nd".to_owned();
    let first = seen("acme.com/thing=one", &["--allow", "device=acme.com/thing=one"]);
    assert_eq!(first, ("THING=yes ONE=1".to_owned(), whole.clone()));
    let all = ["--allow", "device"];
    assert_eq!(seen("acme.com/thing=fast", &[]), ("THING=yes TWO=2".to_owned(), String::new()));
    assert_eq!(seen("acme.com/thing=two", &[]).0, "THING=yes TWO=2", "its vendor allows it");
    assert_eq!(seen("name=acme.com/thing=one,required=true", &all).1, whole);
    // What the machine does not have is left out.
    assert_eq!(seen("acme.com/other=one", &[]), (String::new(), String::new()));
    let cached = try_device(&bench, "acme.com/other=one", &[]);
    assert!(!cached.stderr.contains("DONE"), "{}", cached.stderr);
    let other = try_device(&bench, "acme.com/thing=two,required", &["--explain"]);
    assert!(other.stderr.contains("device acme.com/"), "{}", other.stderr);
}

#[test]
fn a_command_gets_no_other_device() {
    let Some(bench) = bench("") else { return };
    let all = ["--allow", "device"];
    for (device, args, words) in [
        ("acme.com/thing=one", &[][..], "device acme.com/thing=one is not allowed"),
        (
            "acme.com/thing=one",
            &["--allow", "device=acme.com/thing=two"],
            "--allow device=acme.com",
        ),
        ("acme.com/thing=*", &all, "asks for hooks"),
        ("acme.com/other=one,required", &all, "required device acme.com/other=one is not known"),
        ("acme.com/other=one,required", &all, "broken.json"),
        ("/dev/null", &all, "`/dev/null` is no name of a device"),
    ] {
        let outcome = try_device(&bench, device, args);
        assert_eq!(outcome.code, 1, "{device}");
        assert!(outcome.stderr.contains(words), "{device}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("Dockerfile:3"), "{device}: {}", outcome.stderr);
    }
}

#[test]
fn a_container_gets_a_device_by_its_name() {
    let Some(bench) = bench("CMD cat /opt/thing/driver\n") else { return };
    bench.build(&["-t", "named:1"]);
    let run = |device: &str, command: &[&str]| {
        let fixed = ["run", "--network", "none", "--rm", "--device", device, "named:1"];
        bench.davit.run(fixed.iter().chain(command))
    };
    let outcome =
        run("acme.com/thing=one", &["sh", "-c", "echo $ONE; head -c 1 /dev/thing | od -An -tx1"]);
    assert_eq!(outcome.stdout, "1\n 00\n", "{}", outcome.stderr);
    for (device, words) in [
        ("acme.com/thing=none", "unresolvable CDI devices acme.com/thing=none"),
        ("acme.com/thing=hooked", "asks for hooks"),
    ] {
        let outcome = run(device, &[]);
        assert_eq!(outcome.code, 125, "{device}");
        assert!(outcome.stderr.contains(words), "{device}: {}", outcome.stderr);
    }
    let create = ["create", "--name", "named-1", "--device", "acme.com/thing=two", "named:1"];
    bench.davit.ok(create);
    let format = ["inspect", "-f", "{{json .HostConfig.DeviceRequests}}", "named-1"];
    let requests = bench.davit.ok(format);
    assert!(requests.contains("\"DeviceIDs\":[\"acme.com/thing=two\"]"), "{requests}");
}
