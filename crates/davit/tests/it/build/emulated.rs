//! Commands for another instruction set, by an emulator of `PATH` that davit registers for each
//! container alone.

use std::{fs, process::Stdio};

use davit_test::{need_image, need_tool};

use super::{
    bench::{Bench, list},
    cancel::interrupt,
};

const ARM64: [&str; 2] = ["--platform", "linux/arm64"];

/// A bench with Alpine for both platforms, where there is an emulator and a kernel that lets one
/// container have it.
fn bench(dockerfile: &str) -> Option<Bench> {
    need_tool("qemu-aarch64-static")?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(6), Some(7)) {
        davit_test::skip("needs binfmt_misc of a user namespace (Linux 6.7)");
        return None;
    }
    let bench = Bench::new(&[("Dockerfile", dockerfile)])?;
    for (platform, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let archive = need_image(&format!("alpine-minirootfs-3.20.3-{machine}.tar.gz"))?;
        fs::copy(archive, bench.context.join(format!("{platform}.tar.gz"))).unwrap();
    }
    Some(bench)
}

fn is_registered() -> bool {
    fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| entries.count() > 2)
}

#[test]
fn an_index_of_commands_for_each_platform() {
    let cross = "FROM --platform=$BUILDPLATFORM scratch AS cross\nARG BUILDARCH TARGETARCH\n\
        ADD ${BUILDARCH}.tar.gz /\nRUN echo \"$(uname -m) for $TARGETARCH\" > /built\n";
    let own = "FROM scratch\nARG TARGETARCH\nADD ${TARGETARCH}.tar.gz /\n\
        COPY --from=cross /built /out/built\nENV PATH=/usr/bin:/bin\n\
        RUN uname -m > /out/machine && sh -c 'uname -m; id -u' > /out/child\n\
        RUN touch /out/owned && chown 70000:1001 /out/owned && chmod 4755 /out/owned \\\n\
          && stat -c '%u:%g %a' /out/owned > /out/owner && rm /out/owned && mkfifo /out/f \\\n\
          && rm /out/f && hostname > /out/host && grep CapEff /proc/self/status > /out/powers \\\n\
          && ping -c 1 127.0.0.1 > /dev/null && cat /proc/self/uid_map > /out/map\n\
        RUN rm -r /etc/motd /etc/apk && mkdir /etc/apk && mv /etc/issue /etc/other\n\
        RUN test ! -e /etc/motd && test -z \"$(ls /etc/apk)\" && test -s /etc/other\n\
        RUN --mount=type=tmpfs,target=/t --mount=type=cache,target=/c touch /t/f /c/f \\\n\
          && if sh -c 'echo x > /proc/1/exe' 2> /out/emulator; then exit 3; fi\n\
        USER 1000:1001\nWORKDIR /out\nRUN id -u > /tmp/user && cat /tmp/user && test ! -w /out\n";
    let last = "FROM scratch\nCOPY --from=own /out /\n";
    let dockerfile = format!("{cross}{}{last}", own.replacen("scratch", "scratch AS own", 1));
    let Some(bench) = bench(&dockerfile) else { return };
    let was_registered = is_registered();
    let both = ["--platform", "linux/amd64,linux/arm64"];
    let host = davit_engine::image::Platform::host();
    let machine = if host.architecture == "amd64" { "x86_64" } else { "aarch64" };
    let files = list(&bench.files(&both));
    for (platform, own) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let file = |name: &str| {
            let start = format!("linux_{platform}/{name} 644 ");
            let found = files.iter().find_map(|line| line.strip_prefix(&start));
            found.unwrap_or_else(|| panic!("{start}: {files:?}")).to_owned()
        };
        assert_eq!(file("built"), format!("{machine} for {platform}"));
        assert_eq!(file("machine"), own);
        assert_eq!(file("child"), format!("{own}\n0"));
        assert_eq!(file("owner"), "70000:1001 4755");
        assert_eq!(file("host"), "buildkitsandbox");
        assert_eq!(file("powers"), "CapEff:\t00000000a80425fb");
        let map: Vec<String> = file("map").split_whitespace().map(str::to_owned).collect();
        let first = fs::read_to_string("/proc/self/uid_map").unwrap();
        assert_eq!(map[0], map[1], "everybody is who they are");
        assert_eq!(map.last().map(String::as_str), first.split_whitespace().last());
        if own != machine {
            // The machine's emulator is not theirs to write.
            let refused = file("emulator");
            assert!(refused.contains("Read-only file system"), "{refused}");
        }
    }
    let again = bench.run(&both);
    assert!(!again.stderr.contains("DONE"), "{}", again.stderr);
    let platforms = bench.davit.ok(["builder", "inspect"]);
    assert!(platforms.contains("linux/amd64") && platforms.contains("linux/arm64"), "{platforms}");
    // The machine itself has learned nothing.
    assert_eq!(is_registered(), was_registered);
}

#[test]
fn a_container_for_another_platform() {
    let Some(bench) = bench("FROM scratch\nADD arm64.tar.gz /\nCMD uname -m\n") else { return };
    bench.build(&[&ARM64[..], &["-t", "foreign:1"]].concat());
    let run = |args: &[&str]| {
        let fixed = ["run", "--network", "none", "--platform", "linux/arm64"];
        bench.davit.ok(fixed.iter().chain(args))
    };
    assert_eq!(run(&["--rm", "foreign:1"]), "aarch64");
    if !is_registered() {
        let fixed = ["run", "--rm", "--platform", "linux/arm64", "--privileged", "foreign:1"];
        let refused = bench.davit.run(fixed);
        assert_eq!(refused.code, 125, "{}", refused.stderr);
        assert!(refused.stderr.contains("that the machine has registered"), "{}", refused.stderr);
    }
    assert_eq!(run(&["--rm", "--init", "-u", "1:1", "foreign:1", "id", "-u"]), "1");
    let name = "foreign-1";
    run(&["-d", "--name", name, "foreign:1", "sleep", "900"]);
    for _ in 0..2 {
        assert_eq!(bench.davit.ok(["exec", name, "uname", "-m"]), "aarch64");
        let id = ["exec", "-u", "7:8", name, "sh", "-c", "id -u; hostname x || echo no"];
        assert_eq!(bench.davit.ok(id), "7\nno");
        bench.davit.ok(["restart", "-t", "0", name]);
    }
    bench.davit.ok(["rm", "-f", name]);
}

#[test]
fn a_foreign_command_needs_an_emulator() {
    let Some(archive) = need_image("alpine-minirootfs-3.20.3-aarch64.tar.gz") else { return };
    if is_registered() {
        davit_test::skip("the machine has emulators registered");
        return;
    }
    let Some(bench) = Bench::new(&[]) else { return };
    fs::copy(archive, bench.context.join("alpine.tar.gz")).unwrap();
    bench.write("Dockerfile", "FROM scratch\nADD alpine.tar.gz /\nRUN uname -m > /machine\n");
    let run = |path: &str, first: &[&str], last: &[&str]| {
        let mut command = bench.davit.command(first.iter().chain(&ARM64).chain(last));
        davit_test::Outcome::from(command.env("PATH", path).output().unwrap())
    };
    let context = bench.context.to_str().unwrap();
    // A directory without any, and one whose emulator would need a library of the container.
    let bin = bench.davit.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    for place in ["/nonexistent", bin.to_str().unwrap()] {
        let outcome =
            run(place, &["build", "--progress", "plain", "--network", "none"], &[context]);
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        for words in [
            "a command for linux/arm64 cannot run here",
            "there is no emulator for arm64",
            "install Debian's qemu-user-static",
            "Dockerfile:3",
        ] {
            assert!(outcome.stderr.contains(words), "{words}: {}", outcome.stderr);
        }
        if let Some(dynamic) = davit_test::find_tool("sh") {
            let _linked = fs::copy(dynamic, bin.join("qemu-aarch64"));
        }
    }
    bench.write("Dockerfile", "FROM scratch\nADD alpine.tar.gz /\nCMD uname -m\n");
    bench.build(&[&ARM64[..], &["-t", "foreign:1"]].concat());
    let outcome = run("/nonexistent", &["run", "--rm", "--network", "none"], &["foreign:1"]);
    assert_eq!(outcome.code, 126, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("Exec format error"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("qemu-user-static"), "{}", outcome.stderr);
}

#[test]
fn an_insecure_command_has_no_emulator_of_its_own() {
    let text = "FROM scratch\nADD arm64.tar.gz /\nRUN --security=insecure true\n";
    let Some(bench) = bench(text) else { return };
    if is_registered() {
        return;
    }
    let outcome = bench.run(&[&ARM64[..], &["--allow", "security.insecure"]].concat());
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.contains("needs an emulator that the machine has"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn an_emulated_command_ends_with_its_build() {
    let text = "FROM scratch\nADD arm64.tar.gz /\n\
        RUN --mount=type=cache,target=/c sh -c 'sleep 977 & touch /c/there; sleep 978'\n";
    let Some(bench) = bench(text) else { return };
    let mounts = bench.davit.root().join("cache/mounts");
    let context = bench.context.to_str().unwrap();
    let fixed = ["build", "--progress", "plain", "--network", "none"];
    let mut command = bench.davit.command(fixed.iter().chain(&ARM64).chain([&context]));
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let outcome = interrupt(child, |_| {
        let directories = fs::read_dir(&mounts).into_iter().flatten().flatten();
        directories.map(|it| it.path()).any(|path| path.join("data/there").exists())
    });
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    // They would sleep for longer.
    davit_test::until("nothing of it goes on", || sleepers() == 0);
    let left: Vec<_> = fs::read_dir(bench.davit.root().join("tmp")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Processes of the interrupted command.
fn sleepers() -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.ends_with(b"\x00977\0") || line.ends_with(b"\x00978\0")).count()
}
