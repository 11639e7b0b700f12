//! Secrets, agents, entitlements and limits of `RUN`.

use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    process::Command,
};

use davit_test::{Outcome, need_tool};

use super::bench::{Bench, alpine};

/// All files at or below a path that hold one of these words.
fn holding(root: &Path, words: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![root.to_path_buf()];
    while let Some(path) = stack.pop() {
        let facts = path.symlink_metadata().unwrap();
        if facts.is_dir() {
            stack.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if facts.is_file() {
            // What is no text leaves the text in it as it is.
            let bytes = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            if words.iter().any(|word| text.contains(word)) {
                found.push(path);
            }
        }
    }
    found
}

/// Builds with variables of the environment.
fn run_with(bench: &Bench, variables: &[(&str, &str)], args: &[&str]) -> Outcome {
    let fixed = ["build", "--progress", "plain", "--network", "none"];
    let context = bench.context.to_str().unwrap();
    let mut command = bench.davit.command(fixed.iter().chain(args).chain([&context]));
    command.envs(variables.iter().copied());
    Outcome::from(command.output().unwrap())
}

#[test]
fn secrets_reach_commands_and_nothing_else() {
    const FILE: &str = "vaicu9Ohbeiz0Eefie-file";
    const VARIABLE: &str = "ahkoo7Aoy4aiPh8xee-variable";
    let Some(bench) = alpine(
        "ARG TOKEN=argument\n\
         RUN --mount=type=secret,id=f,required [ $(wc -c </run/secrets/f) = 23 ] \
             && stat -c '%u:%g %a' /run/secrets/f && ! touch /run/secrets/f 2>/dev/null\n\
         RUN --mount=type=secret,id=f,target=/s/t,uid=5,gid=6,mode=0440 \
             --mount=type=secret,source=none --mount=type=secret,target=v \
             stat -c '%u:%g %a' /s/t && [ ! -e /run/secrets/none ] && [ -s /v ] \
             && grep ' /s/t tmpfs ro,nosuid,nodev,noexec' /proc/mounts | cut -d' ' -f2\n\
         RUN --mount=type=secret,id=v,env=TOKEN echo \"env $TOKEN\" | wc -c\n\
         RUN --mount=type=secret,id=v,env=V,target=/both [ \"$V\" = \"$(cat /both)\" ] \
             && [ ! -e /run/secrets ]\n\
         RUN [ ! -e /run/secrets ] && [ ! -e /s ] && [ ! -e /both ] && [ -z \"$V\" ]\n",
    ) else {
        return;
    };
    // Beside the context: what is in there is the user's own business.
    let file = bench.davit.dir().join("secret");
    fs::write(&file, FILE).unwrap();
    let from_file = format!("id=f,src={}", file.display());
    let args = ["--secret", &from_file, "--secret", "id=v,env=OUTSIDE", "-t", "t"];
    let variables = [("OUTSIDE", VARIABLE)];
    let outcome = run_with(&bench, &variables, &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    for words in ["0:0 400", "5:6 440", " /s/t\n", " 32\n", "echo \"env ****\""] {
        assert!(outcome.stderr.contains(words), "{words:?}: {}", outcome.stderr);
    }
    for (secret, place) in [FILE, VARIABLE].iter().flat_map(|secret| {
        [bench.davit.root(), bench.davit.run_root()].map(|place| (secret, place))
    }) {
        assert_eq!(holding(&place, &[secret]), Vec::<PathBuf>::new(), "{secret}");
    }
    // The value is in no key, its absence neither, unless it is asked for.
    fs::write(&file, "another").unwrap();
    let cached = run_with(&bench, &[], &[]);
    assert!(cached.stderr.contains("(6 of 6 steps cached)"), "{}", cached.stderr);
    let salted = format!("{from_file},invalidate");
    let cached_steps = |value: &str| {
        fs::write(&file, value).unwrap();
        let args = ["--secret", &salted, "--secret", "id=v,env=OUTSIDE"];
        let outcome = run_with(&bench, &variables, &args);
        assert_eq!(outcome.code, if value.len() == 23 { 0 } else { 1 }, "{}", outcome.stderr);
        outcome.stderr.contains("(6 of 6 steps cached)")
    };
    assert!(!cached_steps(FILE));
    assert!(cached_steps(FILE));
    assert!(!cached_steps(&FILE.replace("file", "elif")));
    assert_eq!(holding(&bench.davit.root(), &[FILE]), Vec::<PathBuf>::new());
}

/// What a value looks like where somebody kept it: as it is, as a digest without salt, which tells a
/// short one, and in base64 within other bytes.
fn traces(value: &str) -> Vec<String> {
    let digest = davit_engine::image::Digest::of(value.as_bytes());
    let mut traces = vec![value.to_owned(), digest.hex()];
    traces.extend((0..3).map(|skipped| base64_of(&value.as_bytes()[skipped..])));
    traces
}

/// The whole groups of bytes in base64, which has no end then.
fn base64_of(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let bits = group.iter().fold(0, |bits, byte| (bits << 8) | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(LETTERS[(bits >> shift) & 63]))
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

#[test]
fn what_a_build_gives_and_remembers_holds_no_secret() {
    const FILE: &str = "Eeng4ohBah6ieWoo3quo-file";
    const VARIABLE: &str = "eu7zeep0OhYoo4aeL9no-variable";
    let Some(bench) = alpine(
        "RUN --mount=type=secret,id=f,required --mount=type=cache,target=/c \
             [ -s /run/secrets/f ] && touch /c/used && echo u''sed > /used\n\
         RUN --mount=type=secret,id=v,env=TOKEN,required [ -n \"$TOKEN\" ] && touch /too\n\
         FROM alpine AS broken\nRUN --mount=type=secret,id=f cat /run/secrets/f | wc -c && false\n\
         FROM alpine\n",
    ) else {
        return;
    };
    let there = |name: &str| bench.davit.dir().join(name).display().to_string();
    fs::write(there("secret"), FILE).unwrap();
    let file = format!("id=f,invalidate,src={}", there("secret"));
    let secrets = ["--secret", &file, "--secret", "id=v,env=OUTSIDE"];
    // Whatever is written is plain, so that it can be looked through.
    let plain = "compression=uncompressed";
    let cache = format!("type=local,dest={},mode=max,mounts=true,{plain}", there("cache"));
    let image = format!("type=oci,tar=false,dest={},{plain}", there("image"));
    let results = ["--cache-to", &cache, "-o", &image, "--metadata-file", &there("metadata")];
    let attested = ["--provenance=mode=max", "--sbom=true", "-t", "t", "--explain"];
    let told = ["--progress", "rawjson", "--target", "alpine"];
    let build = |args: &[&[&str]]| {
        let args = [&[&secrets[..]], args].concat().concat();
        run_with(&bench, &[("OUTSIDE", VARIABLE)], &args)
    };
    let built = build(&[&results, &attested, &told]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let failed = build(&[&["--target", "broken"]]);
    assert!(failed.code == 1 && failed.stderr.contains(" 25\n"), "{}", failed.stderr);
    let context = bench.context.to_str().unwrap();
    let fixed = ["build", "--progress", "rawjson", "--network", "none", "--at", "alpine"];
    let by_hand = ["cat", "/run/secrets/f", "/run/secrets/v"];
    let all = [&fixed[..], &secrets, &[context, "--"], &by_hand].concat();
    let shown = bench.davit.command(all).env("OUTSIDE", VARIABLE).output().map(Outcome::from);
    let shown = shown.unwrap();
    assert_eq!((shown.code, shown.stdout), (0, format!("{FILE}{VARIABLE}")), "{}", shown.stderr);
    // Records are compressed; what they hold is what is told of them.
    let mut words = [built.stdout, built.stderr, failed.stderr, shown.stderr].concat();
    let refs = bench.davit.ok(["builder", "history", "ls", "--format", "{{.Ref}}"]);
    assert_eq!(refs.lines().count(), 3, "{refs}");
    for record in refs.lines() {
        let inspect = ["inspect", "--format", "json", record];
        for verb in [&["logs", record][..], &["trace", record], &inspect] {
            let told = bench.davit.run([&["builder", "history"], verb].concat());
            assert_eq!(told.code, 0, "{verb:?}: {}", told.stderr);
            words.push_str(&[told.stdout, told.stderr].concat());
        }
    }
    assert!(words.contains("/run/secrets/f"), "the steps themselves are told");
    fs::write(there("words"), words).unwrap();
    let traces: Vec<String> = [FILE, VARIABLE].into_iter().flat_map(traces).collect();
    let traces: Vec<&str> = traces.iter().map(String::as_str).collect();
    for place in ["root", "run", "cache", "image", "metadata", "words"] {
        assert_eq!(holding(there(place).as_ref(), &traces), Vec::<PathBuf>::new());
    }
    assert!(!holding(there("secret").as_ref(), &traces).is_empty(), "what is there is found");
}

#[test]
fn a_secret_or_agent_that_is_missing_or_wrong_is_named() {
    let Some(bench) = alpine("") else { return };
    let large = bench.davit.dir().join("large");
    fs::write(&large, vec![b'x'; 513 << 10]).unwrap();
    let large = format!("id=x,src={}", large.display());
    let binary = bench.davit.dir().join("binary");
    fs::write(&binary, [0xff, 0]).unwrap();
    let binary = format!("id=x,src={}", binary.display());
    let secret = "RUN --mount=type=secret,id=x,required true";
    for (steps, args, message, hint) in [
        (secret, &[][..], "secret `x` was not given", "--secret id=x,src=FILE"),
        (secret, &["--secret", "id=x,src=/none"], "secret `x` cannot be read", ""),
        (secret, &["--secret", "src=/none"], "a secret needs an id", ""),
        (secret, &["--secret", "id=x,file=/none"], "unexpected key 'file'", "id, type, src"),
        (secret, &["--secret", &large], "larger than 500 KiB", ""),
        ("RUN --mount=type=secret,id=x,env=A true", &["--secret", &binary], "no text", ""),
        ("RUN --mount=type=ssh,required true", &[], "no SSH agent `default`", "--ssh default"),
        ("RUN --mount=type=ssh true", &["--ssh", "default"], "SSH_AUTH_SOCK is not set", ""),
        ("RUN true", &["--ssh", "a=/etc/passwd"], "no private key", "key of ssh-keygen"),
        ("RUN true", &["--ssh", "a=/none"], "SSH agent `a`", ""),
        ("RUN true", &["--allow", "all"], "unknown entitlement all", "network.host"),
        ("RUN true", &["--shm-size", "x"], "invalid size", ""),
        ("RUN true", &["--ulimit", "files=1"], "invalid ulimit type: files", ""),
        ("RUN true", &["--resource", "disk=1g"], "invalid resource limit", "cpu-quota"),
        ("RUN true", &["--cgroup-parent", "../x"], "no path of a cgroup", ""),
    ] {
        let first = "FROM scratch AS alpine\nADD alpine.tar.gz /\n";
        bench.write("Dockerfile", &format!("{first}{steps}\n"));
        let context = bench.context.to_str().unwrap();
        let fixed = ["build", "--progress", "plain", "--network", "none"];
        let mut command = bench.davit.command(fixed.iter().chain(args).chain([&context]));
        command.env_remove("SSH_AUTH_SOCK");
        let outcome = Outcome::from(command.output().unwrap());
        assert_ne!(outcome.code, 0, "{steps} {args:?}");
        assert!(outcome.stderr.contains(message), "{steps} {args:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(hint), "{steps} {args:?}: {}", outcome.stderr);
    }
}

#[test]
fn an_agent_is_a_socket_in_the_sandbox() {
    let Some(bench) = alpine(
        "RUN --mount=type=ssh [ \"$SSH_AUTH_SOCK\" = /run/buildkit/ssh_agent.0 ] \
             && [ -S $SSH_AUTH_SOCK ] && stat -c '%u:%g %a' $SSH_AUTH_SOCK\n\
         RUN --mount=type=ssh,id=b,target=/a/s,uid=4,gid=5,mode=0666 --mount=type=ssh,id=none \
             [ $SSH_AUTH_SOCK = /a/s ] && stat -c '%u:%g %a' /a/s && [ ! -e /run/buildkit ]\n\
         ENV SSH_AUTH_SOCK=/mine\n\
         RUN --mount=type=ssh [ $SSH_AUTH_SOCK = /mine ] && [ -S /run/buildkit/ssh_agent.0 ]\n\
         RUN [ ! -e /run/buildkit ] && [ ! -e /a ]\n",
    ) else {
        return;
    };
    let socket = bench.davit.dir().join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let socket = socket.to_str().unwrap();
    let other = format!("b={socket}");
    let args = ["--ssh", "default", "--ssh", &other];
    let outcome = run_with(&bench, &[("SSH_AUTH_SOCK", socket)], &args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    for words in ["0:0 600", "4:5 666"] {
        assert!(outcome.stderr.contains(words), "{words:?}: {}", outcome.stderr);
    }
}

/// Copies a program of this machine with all that it loads into a directory.
fn pack(program: &Path, directory: &Path) {
    fs::create_dir_all(directory).unwrap();
    let loads = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(loads.stdout).unwrap();
    let words = text.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new);
    for path in words.chain([program]) {
        fs::copy(path, directory.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn a_key_signs_for_commands_that_never_see_it() {
    let (Some(keygen), Some(add)) = (need_tool("ssh-keygen"), need_tool("ssh-add")) else { return };
    let run = "/t/ld-linux-x86-64.so.2 --library-path /t /t/ssh-add";
    let Some(bench) = alpine(&format!(
        "RUN --mount=type=ssh,required --mount=source=tools,target=/t \
             {run} -l && {run} -T /t/key.pub && ! {run} -D\n"
    )) else {
        return;
    };
    let tools = bench.context.join("tools");
    pack(&add, &tools);
    let key = bench.davit.dir().join("key");
    let mut make = Command::new(keygen);
    make.args(["-q", "-t", "ed25519", "-N", "", "-C", "someone", "-f"]);
    assert!(make.arg(&key).status().unwrap().success());
    fs::copy(key.with_extension("pub"), tools.join("key.pub")).unwrap();
    let outcome = bench.run(&["--ssh", &format!("default={}", key.display())]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("someone (ED25519)"), "{}", outcome.stderr);
    let text = fs::read_to_string(&key).unwrap();
    let secret = text.lines().nth(4).unwrap();
    assert_eq!(holding(&bench.davit.root(), &[secret]), Vec::<PathBuf>::new());
}

#[test]
fn what_needs_an_entitlement_is_refused_without() {
    let Some(bench) = alpine("") else { return };
    let build = |steps: &str, args: &[&str]| {
        let first = "FROM scratch AS alpine\nADD alpine.tar.gz /\n";
        bench.write("Dockerfile", &format!("{first}{steps}\n"));
        bench.run(args)
    };
    let host = "RUN --network=host readlink /proc/self/ns/net";
    let insecure = "RUN --security=insecure grep CapEff /proc/self/status && ls -l /dev/fuse \
                    /dev/loop0 /dev/kmsg && [ -w /proc/sys/kernel/hostname ] && grep '^Seccomp:' \
                    /proc/self/status";
    for (steps, entitlement) in [(host, "network.host"), (insecure, "security.insecure")] {
        let refused = build(steps, &[]);
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        let words = format!("{entitlement} is not allowed");
        assert!(refused.stderr.contains(&words), "{}", refused.stderr);
        assert!(refused.stderr.contains("Dockerfile:3"), "{}", refused.stderr);
        assert!(refused.stderr.contains(&format!("--allow {entitlement}")), "{}", refused.stderr);
        let other = format!("FROM scratch AS unused\n{steps}\nFROM alpine\nRUN true");
        assert_eq!(build(&other, &[]).code, 0, "a stage that nobody needs asks for nothing");
    }
    let own = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    let allowed = build(host, &["--allow", "network.host"]);
    assert!(allowed.stderr.contains(&own), "{}", allowed.stderr);
    let command_line = build(host, &["--network", "host", "--no-cache"]);
    assert!(command_line.stderr.contains(&own), "{}", command_line.stderr);
    let allowed = build(insecure, &["--allow", "security.insecure"]);
    assert_eq!(allowed.code, 0, "{}", allowed.stderr);
    // All that this process has itself.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let all = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    for words in [&format!("CapEff:{all}"), "10, 229", "7,   0", "Seccomp:\t0"] {
        assert!(allowed.stderr.contains(words), "{words}: {}", allowed.stderr);
    }
    let usual = "RUN --security=sandbox grep CapEff /proc/self/status; [ ! -e /dev/fuse ]";
    let usual = build(usual, &["--allow", "security.insecure"]);
    assert!(usual.stderr.contains("CapEff:\t00000000a80425fb"), "{}", usual.stderr);
}

#[test]
fn commands_have_the_limits_that_are_given() {
    let Some(bench) = alpine(
        "RUN df -k /dev/shm | tail -1; ulimit -n; ulimit -Hn; \
         ! head -c 120m /dev/zero | tail -c 120m >/dev/null\n",
    ) else {
        return;
    };
    let parent = format!("davit-test-parent-{}", std::process::id());
    let args = ["--shm-size", "32m", "--ulimit", "nofile=1021:1022", "--cgroup-parent", &parent];
    let limit = ["--resource", "memory=40m,memory-swap=40m"];
    let older = ["-m", "40m", "--memory-swap", "40m", "--no-cache"];
    let with_older = bench.run(&[&args[..], &older].concat());
    assert_eq!(with_older.code, 0, "{}", with_older.stderr);
    let unlimited = bench.run(&[&args[..], &["--no-cache"]].concat());
    assert_eq!(unlimited.code, 1, "{}", unlimited.stderr);
    let limited = bench.run(&[&args[..], &limit, &["--no-cache"]].concat());
    assert_eq!(limited.code, 0, "{}", limited.stderr);
    for words in [" 32768 ", " 1021\n", " 1022\n"] {
        assert!(limited.stderr.contains(words), "{words:?}: {}", limited.stderr);
    }
    assert!(remove_cgroups(&parent) > 0, "the parent is where it was asked for");
    // What a step may use is in no key, what it sees is.
    let cached = bench.run(&args);
    assert!(cached.stderr.contains("(2 of 2 steps cached)"), "{}", cached.stderr);
    for other in [&args[2..], &[&["--shm-size", "16m"], &args[2..]].concat()] {
        let run = bench.run(&[other, &limit].concat());
        assert!(!run.stderr.contains("(2 of 2 steps cached)"), "{}", run.stderr);
    }
    remove_cgroups(&parent);
}

#[test]
fn kernel_parameters_are_the_kernels_own() {
    let Some(bench) = alpine(
        "RUN cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range\n",
    ) else {
        return;
    };
    let outcome = bench.run(&[]);
    // An unprivileged program that listens at port 80 fails here, too, as it does with BuildKit.
    assert!(outcome.stderr.contains(" 1024\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(" 1\t0\n"), "{}", outcome.stderr);
}

/// Removes a cgroup from each hierarchy; gives their number.
fn remove_cgroups(name: &str) -> usize {
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).unwrap().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([root]).map(|hierarchy| hierarchy.join(name));
    all.filter(|path| path.is_dir() && fs::remove_dir(path).is_ok()).count()
}
