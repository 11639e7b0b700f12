//! One Ctrl-C ends a build, whatever it does.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use davit_engine::image::Platform;
use davit_test::{Content, End, HttpServer, Outcome, Reply, need_tool, noise, tar_of, until};
use rustix::process::{Pid, Signal, kill_process};

use super::bench::{Bench, alpine, tar_file};

/// How long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks: who looks without a break is kept waiting on a busy machine.
const LOOK: Duration = Duration::from_millis(1);

/// Waits until the build is where it is to be interrupted, interrupts it once, and sees its end.
pub(super) fn interrupt(mut child: Child, is_there: impl Fn(&Child) -> bool) -> Outcome {
    let begun = Instant::now();
    while !is_there(&child) {
        assert!(begun.elapsed() < PATIENCE, "it does not come so far");
        std::thread::sleep(LOOK);
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let interrupted = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if interrupted.elapsed() > PATIENCE {
            child.kill().unwrap();
        }
        std::thread::sleep(LOOK);
    }
    Outcome::from(child.wait_with_output().unwrap())
}

#[test]
fn a_registry_that_is_silent_does_not_hold_it() {
    let mut content = Content::default();
    let image = content.add_image("1", &Platform::host(), &[tar_of(&[("a", &noise(100_000))])]);
    let manifest = image.manifest.digest.to_string();
    let layer = image.layers[0].digest.to_string();
    for (silent, end) in [(manifest, End::Silence), (layer, End::Stall(1000))] {
        let (content, path) = (content.clone(), silent.clone());
        let server = HttpServer::start(move |request| {
            let reply = content.serve(request);
            if request.path.ends_with(&path) { reply.end(end) } else { reply }
        });
        let dockerfile = format!("FROM {}/x:1\n", server.host());
        let Some(bench) = Bench::new(&[("Dockerfile", &dockerfile)]) else { return };
        let context = bench.context.to_str().unwrap().to_owned();
        let mut command = bench.davit.command(["build", "--progress", "plain", &context]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let asked = |_: &Child| server.requests().iter().any(|it| it.path.ends_with(&silent));
        let outcome = interrupt(child, asked);
        assert_eq!(outcome.code, 130, "{silent}: {}", outcome.stderr);
    }
}

#[test]
fn a_push_to_a_registry_that_is_silent_does_not_hold_it() {
    let server = HttpServer::start(|request| {
        let content = Content::default();
        let reply = content.serve(request);
        if request.path == "/v2/" { reply } else { reply.end(End::Silence) }
    });
    let dockerfile = "FROM scratch\nCOPY Dockerfile /\n";
    let Some(bench) = Bench::new(&[("Dockerfile", dockerfile)]) else { return };
    let (context, name) = (bench.context.to_str().unwrap(), format!("{}/x:1", server.host()));
    let arguments = ["build", "--progress", "plain", "--push", "-t", &name, context];
    let mut command = bench.davit.command(arguments);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let outcome = interrupt(child, |_| server.requests().iter().any(|it| it.path.contains("/x/")));
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    assert_eq!(bench.davit.ok(["images", "-q", &name]), "", "nothing is named");
}

/// A web server, and one that git asks: silent, in the midst of an answer, and without an end.
#[test]
fn sources_elsewhere_do_not_hold_it() {
    let ends = [End::Silence, End::Stall(1000), End::Endless];
    for (end, name) in ends.into_iter().flat_map(|end| [(end, "f"), (end, "r.git")]) {
        let server = HttpServer::start(move |_| Reply::ok(noise(100_000)).end(end));
        let dockerfile = format!("FROM scratch\nADD http://{}/{name} /\n", server.host());
        let Some(bench) = Bench::new(&[("Dockerfile", &dockerfile)]) else { return };
        let context = bench.context.to_str().unwrap();
        let mut command = bench.davit.command(["build", "--progress", "plain", context]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let outcome = interrupt(child, |_| !server.requests().is_empty());
        assert_eq!(outcome.code, 130, "{end:?} {name}: {}", outcome.stderr);
        let root = bench.davit.root();
        // Nothing that it asks ends it by itself.
        until("git has ended", || !works_below(&root));
        let left: Vec<_> = fs::read_dir(root.join("tmp")).unwrap().flatten().collect();
        assert!(left.is_empty(), "{end:?} {name}: {left:?}");
    }
}

/// Tells whether a process has its working directory there.
fn works_below(root: &Path) -> bool {
    let place = |entry: fs::DirEntry| fs::read_link(entry.path().join("cwd")).ok();
    let mut places = fs::read_dir("/proc").unwrap().flatten().filter_map(place);
    places.any(|place| place.starts_with(root))
}

#[test]
fn git_ends_with_a_build_that_is_killed() {
    let server = HttpServer::start(|_| Reply::ok("x").end(End::Silence));
    let dockerfile = format!("FROM scratch\nADD http://{}/r.git /\n", server.host());
    let Some(bench) = Bench::new(&[("Dockerfile", &dockerfile)]) else { return };
    let context = bench.context.to_str().unwrap();
    let mut command = bench.davit.command(["build", "--progress", "plain", context]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let root = bench.davit.root();
    until("git asks", || !server.requests().is_empty());
    assert!(works_below(&root));
    child.kill().unwrap();
    child.wait().unwrap();
    until("git has ended", || !works_below(&root));
}

#[test]
fn files_that_are_written_do_not_hold_it() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nADD many.tar /\n")]) else {
        return;
    };
    let mut tar = fs::File::create(bench.context.join("many.tar")).unwrap();
    for number in 0..5000 {
        tar.write_all(&tar_file(&format!("f{number}"), &[7; 4096])).unwrap();
    }
    tar.write_all(&[0; 1024]).unwrap();
    bench.build(&[]);
    let target = bench.davit.dir().join("target");
    let is_there = |target: &Path| match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => false,
    };
    for kind in ["type=local", "type=oci,tar=false"] {
        let spec = format!("{kind},dest={}", target.display());
        let context = bench.context.to_str().unwrap();
        let arguments = ["build", "--progress", "plain", "-t", "x:1", "--load", "-o", &spec];
        let attempt = || {
            let mut command = bench.davit.command(arguments.iter().chain([&context]));
            let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            interrupt(child, |_| is_there(&target))
        };
        let mut outcome = attempt();
        for _ in 0..20 {
            if outcome.code != 0 {
                break;
            }
            // Whoever looks was kept from it until all was written.
            fs::remove_dir_all(&target).unwrap();
            bench.davit.ok(["rmi", "x:1"]);
            outcome = attempt();
        }
        assert_eq!(outcome.code, 130, "{kind}: {}", outcome.stderr);
        assert_eq!(bench.davit.ok(["images", "-q", "x:1"]), "", "{kind}: nothing is named");
        if kind == "type=local" {
            assert!(!is_there(&target), "nothing is left");
        } else {
            assert!(!target.join("index.json").exists(), "nothing is in the layout");
        }
    }
}

#[test]
fn a_context_without_end_does_not_hold_it() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY big /\n")]) else { return };
    let big = fs::File::create(bench.context.join("big")).unwrap();
    big.set_len(1 << 43).unwrap();
    let context = bench.context.to_str().unwrap().to_owned();
    let mut command = bench.davit.command(["build", "--progress", "plain", &context]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let reads = |child: &Child| {
        let files = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        let mut names = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        names.any(|name| name.ends_with("context/big"))
    };
    let outcome = interrupt(child, reads);
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);

    let mut command = bench.davit.command(["build", "--progress", "plain", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let (begun, has_begun) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let piece = tar_file("f", &noise(1 << 20));
        for number in 0..256 {
            if stdin.write_all(&piece).is_err() {
                return;
            }
            if number == 16 {
                begun.send(()).unwrap();
            }
        }
    });
    let outcome = interrupt(child, |_| has_begun.try_recv().is_ok());
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    writer.join().unwrap();
}

#[test]
fn a_sender_that_says_nothing_more_does_not_hold_it() {
    let Some(bench) = Bench::new(&[]) else { return };
    let mut command = bench.davit.command(["build", "--progress", "plain", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut sender = child.stdin.take().unwrap();
    sender.write_all(&tar_file("f", &noise(1 << 20))).unwrap();
    let tmp = bench.davit.root().join("tmp");
    let receives = |_: &Child| {
        let directories = fs::read_dir(&tmp).into_iter().flatten().flatten();
        let mut files =
            directories.filter_map(|it| fs::read_dir(it.path()).ok()).flatten().flatten();
        files.any(|file| file.metadata().is_ok_and(|it| it.is_file() && it.len() > 0))
    };
    let outcome = interrupt(child, receives);
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    // It could still send.
    drop(sender);
    let left: Vec<_> = fs::read_dir(tmp).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_cache_of_another_build_is_waited_for_until_that_is_gone() {
    let cache = "RUN --mount=type=cache,id=l,sharing=locked,target=/c";
    let Some(bench) = alpine(&format!("{cache} touch /c/there && sleep 900\n")) else { return };
    let mounts = bench.davit.root().join("cache/mounts");
    let held = || {
        let directories = fs::read_dir(&mounts).into_iter().flatten().flatten();
        directories.map(|it| it.path()).find(|path| path.join("data/there").exists())
    };
    let log = bench.davit.dir().join("log");
    let spawn = || {
        let context = bench.context.to_str().unwrap();
        let fixed = ["build", "--progress", "plain", "--network", "none", context];
        let mut command = bench.davit.command(fixed);
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap()
    };
    let mut first = spawn();
    until("the first build has it", || held().is_some());
    let directory = held().unwrap();
    let dockerfile = fs::read_to_string(bench.context.join("Dockerfile")).unwrap();
    let other = dockerfile.replace("touch /c/there && sleep 900", "ls /c");
    bench.write("Dockerfile", &other);
    // What it is told of comes before the cache is asked for, which it cannot have.
    let tries = |_: &Child| fs::read_to_string(&log).is_ok_and(|log| log.contains("] RUN "));
    let outcome = interrupt(spawn(), tries);
    assert_eq!(outcome.code, 130, "{}", fs::read_to_string(&log).unwrap());
    let mut pruned = bench.davit.ok(["builder", "prune", "--all", "--force"]);
    assert!(!pruned.contains("exec.cachemount"), "it is in use: {pruned}");
    // Whoever is killed gives back what it has.
    first.kill().unwrap();
    first.wait().unwrap();
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains(" there\n"), "{}", outcome.stderr);
    pruned = bench.davit.ok(["builder", "prune", "--all", "--force"]);
    assert!(pruned.contains("exec.cachemount"), "{pruned}");
    assert!(!directory.exists());
}

#[test]
fn a_cache_that_another_build_writes_does_not_hold_it() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]) else {
        return;
    };
    let (folder, log) = (bench.davit.dir().join("cache"), bench.davit.dir().join("log"));
    fs::create_dir(&folder).unwrap();
    let writer = fs::File::open(&folder).unwrap();
    writer.lock().unwrap();
    let to = format!("type=local,dest={}", folder.display());
    let context = bench.context.to_str().unwrap();
    for to in [to.clone(), format!("{to},ignore-error=true")] {
        let arguments = ["build", "--progress", "plain", "--cache-to", &to, context];
        let mut command = bench.davit.command(arguments);
        command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let told = || fs::read_to_string(&log).unwrap();
        let waits = |_: &Child| told().contains("Writing the");
        let outcome = interrupt(command.spawn().unwrap(), waits);
        assert_eq!(outcome.code, 130, "{to}: {}", told());
    }
    drop(writer);
    let outcome = bench.run(&["--cache-to", &to]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

/// davit as somebody executes it who ignores a signal, which it is born with then.
fn ignoring(signal: &str, bench: &Bench) -> Option<std::process::Command> {
    let inner = bench.davit.command(["build", "--progress", "plain", "--network", "none"]);
    let mut command = std::process::Command::new(need_tool("env")?);
    command.arg(format!("--ignore-signal={signal}")).arg(inner.get_program());
    command.args(inner.get_args()).arg(&bench.context).stdin(Stdio::null());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    Some(command)
}

#[test]
fn an_end_of_the_terminal_ends_no_build_under_nohup() {
    let (sent, may_answer) = std::sync::mpsc::channel::<()>();
    let may_answer = std::sync::Mutex::new(may_answer);
    let server = HttpServer::start(move |_| {
        may_answer.lock().unwrap().recv().unwrap();
        Reply::ok("there")
    });
    let dockerfile = format!("FROM scratch\nADD http://{}/f /\n", server.host());
    let Some(bench) = Bench::new(&[("Dockerfile", &dockerfile)]) else { return };
    let Some(mut command) = ignoring("HUP", &bench) else { return };
    let child = command.spawn().unwrap();
    until("the server is asked", || !server.requests().is_empty());
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    // Requests are as many as it likes to make.
    (0..9).for_each(|_| sent.send(()).unwrap());
    let outcome = Outcome::from(child.wait_with_output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}

#[test]
fn whoever_ignores_the_end_of_children_can_build() {
    let Some(bench) = alpine("RUN echo it runs\n") else { return };
    let Some(mut command) = ignoring("CHLD", &bench) else { return };
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}
