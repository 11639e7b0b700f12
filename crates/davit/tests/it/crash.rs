//! A real `davit`, killed at random instants: the next command works, what was reported done is
//! there, and nothing that is there is wrong. The same for power loss.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use davit_test::{Content, Davit, HttpServer, need_root, need_tool, noise, tar_of};

use crate::davit;

/// Over all verbs; `cargo xtask test --kills N` makes a longer run.
const KILLS: usize = 200;
const IMAGES: usize = 4;

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Pull,
    Load,
    Build,
    Rmi,
    Prune,
}

/// The verbs that this binary has.
fn verbs(davit: &Davit) -> Vec<Verb> {
    let builds = davit.run(["build", "--help"]).code == 0;
    [Verb::Pull, Verb::Load, Verb::Build, Verb::Rmi, Verb::Prune]
        .into_iter()
        .filter(|verb| builds || *verb != Verb::Build)
        .collect()
}

/// Images in a registry, in archives, and as Dockerfiles.
struct Source {
    server: HttpServer,
    archives: Vec<PathBuf>,
    contexts: Vec<PathBuf>,
}

impl Source {
    fn new(davit: &Davit) -> Self {
        let mut content = Content::default();
        let shared = tar_of(&[("shared", &noise(400_000))]);
        let (mut archives, mut contexts) = (Vec::new(), Vec::new());
        for number in 0..IMAGES {
            let own = tar_of(&[(&format!("file-{number}"), &noise(300_000 + 50_000 * number))]);
            let platform = davit_engine::image::Platform::host();
            content.add_image(&number.to_string(), &platform, &[shared.clone(), own.clone()]);
            archives.push(archive(davit, number, &own));
            contexts.push(context(davit, number));
        }
        let server = HttpServer::start(move |request| content.serve(request));
        Self { server, archives, contexts }
    }

    /// Name and arguments of one run of `verb` on image `number`.
    fn arguments(&self, verb: Verb, number: usize) -> (String, Vec<String>) {
        let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match verb {
            Verb::Pull => {
                let name = format!("{}/pulled:{number}", self.server.host());
                (name.clone(), words(&["pull", "-q", &name]))
            }
            Verb::Load => {
                let path = self.archives[number].to_str().unwrap();
                (format!("loaded:{number}"), words(&["load", "-q", "-i", path]))
            }
            Verb::Build => {
                let name = format!("built:{number}");
                let path = self.contexts[number].to_str().unwrap();
                (name.clone(), words(&["build", "-q", "-t", &name, path]))
            }
            Verb::Rmi => {
                let name = match number % 3 {
                    0 => format!("{}/pulled:{number}", self.server.host()),
                    1 => format!("loaded:{number}"),
                    _ => format!("built:{number}"),
                };
                (name.clone(), words(&["rmi", "-f", &name]))
            }
            Verb::Prune => (String::new(), words(&["system", "prune", "-f"])),
        }
    }
}

/// An archive with one image, made by another davit root.
fn archive(davit: &Davit, number: usize, layer: &[u8]) -> PathBuf {
    let maker = crate::davit();
    let tar = davit.dir().join(format!("layer-{number}.tar"));
    fs_err::write(&tar, layer).unwrap();
    let name = format!("loaded:{number}");
    maker.ok(["import", tar.to_str().unwrap(), &name]);
    let path = davit.dir().join(format!("image-{number}.tar"));
    maker.ok(["save", "-o", path.to_str().unwrap(), &name]);
    path
}

fn context(davit: &Davit, number: usize) -> PathBuf {
    let path = davit.dir().join(format!("context-{number}"));
    fs_err::create_dir(&path).unwrap();
    let dockerfile = "FROM scratch\nCOPY one /one\nCOPY two /two\nLABEL a=b\n";
    fs_err::write(path.join("Dockerfile"), dockerfile).unwrap();
    fs_err::write(path.join("one"), noise(200_000)).unwrap();
    fs_err::write(path.join("two"), noise(100_000 + number)).unwrap();
    path
}

fn names(davit: &Davit) -> BTreeMap<String, String> {
    let list = davit.ok(["images", "--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"]);
    let pairs = list.lines().filter_map(|line| line.rsplit_once(' '));
    pairs
        .filter(|(name, _)| !name.contains("<none>"))
        .map(|(name, id)| (name.to_owned(), id.to_owned()))
        .collect()
}

/// A small generator: the instants must differ from run to run, and be known after a failure.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound.max(1)
    }
}

/// Starts a command and kills it after `delay`, if it still runs; true when it ended well.
fn run_and_kill(davit: &Davit, arguments: &[String], delay: Duration) -> (bool, bool) {
    let mut child =
        davit.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // The instant of the kill is the test's input, so that time must pass here.
    std::thread::sleep(delay);
    let done = child.try_wait().unwrap();
    if done.is_none() {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    (status.success(), done.is_none())
}

#[test]
fn killed_at_random_instants() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let source = Source::new(&davit);
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);
    let verbs = verbs(&davit);
    // How long each verb takes decides when it is killed.
    let mut usual = BTreeMap::new();
    for &verb in &verbs {
        let (_, arguments) = source.arguments(verb, 0);
        let start = Instant::now();
        assert_eq!(davit.run(&arguments).code, 0, "{verb:?} {}", davit.run(&arguments).stderr);
        usual.insert(verb, start.elapsed());
    }
    let mut done = names(&davit);
    let (mut killed, mut tries, kills) = (0, 0, davit_test::kills(KILLS));
    while killed < kills {
        let verb = verbs[tries % verbs.len()];
        let number = usize::try_from(random.below(IMAGES as u64)).unwrap();
        tries += 1;
        assert!(tries < 20 * kills, "commands end before they are killed: {usual:?}");
        let (name, arguments) = source.arguments(verb, number);
        let span = u64::try_from(usual[&verb].as_micros()).unwrap();
        let delay = Duration::from_micros(random.below(span));
        let (succeeded, was_killed) = run_and_kill(&davit, &arguments, delay);
        killed += usize::from(was_killed);
        let now = names(&davit);
        let told = format!("seed {seed}, {verb:?} of {name} killed after {delay:?}");
        for (known, id) in &done {
            let in_flight = *known == name;
            match now.get(known) {
                Some(found) => assert!(found == id || in_flight, "{told}: {known} changed"),
                // A name may be gone when its removal, or its move to another image, was under way.
                None => assert!(in_flight && verb == Verb::Rmi, "{told}: {known} is gone"),
            }
        }
        if succeeded && verb == Verb::Rmi {
            assert!(!now.contains_key(&name), "{told}: it is still there");
        } else if succeeded && verb != Verb::Prune {
            assert!(now.contains_key(&name), "{told}: it is not there");
        }
        let check = davit.run(["system", "check"]);
        assert_eq!(check.code, 0, "{told}: {}", check.stdout);
        done = now;
    }
    for number in 0..IMAGES {
        for &verb in verbs.iter().filter(|verb| **verb <= Verb::Build) {
            davit.ok(source.arguments(verb, number).1);
        }
    }
    davit.ok(["system", "check"]);
    davit.ok(["system", "prune", "-af"]);
    assert_empty(&davit);
}

/// Nothing is left of what was pulled, built and killed.
fn assert_empty(davit: &Davit) {
    for folder in ["tmp", "blobs/sha256", "layers/sha256", "trees"] {
        let left: Vec<_> = fs_err::read_dir(davit.root().join(folder)).unwrap().flatten().collect();
        assert!(left.is_empty(), "{folder}: {left:?}");
    }
}

/// A build, a pull, a load, a prune and a removal at the same time never break each other.
#[test]
fn all_at_once() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let source = Source::new(&davit);
    std::thread::scope(|scope| {
        for verb in verbs(&davit) {
            let (davit, source) = (&davit, &source);
            scope.spawn(move || {
                for round in 0..6 {
                    let (name, arguments) = source.arguments(verb, round % IMAGES);
                    let outcome = davit.run(&arguments);
                    assert_eq!(outcome.code, 0, "{verb:?} {name}: {}", outcome.stderr);
                }
            });
        }
    });
    davit.ok(["system", "check"]);
    davit.ok(["system", "prune", "-af"]);
    assert_empty(&davit);
}

/// Runs a script in a mount namespace of its own; `$0` is the test's folder, `$1` the binary.
pub(crate) fn in_namespace(davit: &Davit, script: &str) -> davit_test::Outcome {
    let unshare = need_tool("unshare").expect("util-linux is part of every system");
    let output = Command::new(unshare)
        .args(["--mount", "--propagation", "private", "sh", "-euc", script])
        .arg(davit.dir())
        .arg(env!("CARGO_BIN_EXE_davit"))
        .env("DAVIT_ROOT", davit.root())
        .env("DAVIT_RUN_ROOT", davit.run_root())
        .env("HOME", davit.dir())
        .output()
        .unwrap();
    davit_test::Outcome::from(output)
}

/// What power loss does to a file whose data was never synced.
type Loss = (&'static str, fn(&Path));

const LOSSES: [Loss; 4] = [
    ("half of it", |path| {
        let length = path.metadata().unwrap().len();
        open_for_loss(path).set_len(length / 2).unwrap();
    }),
    ("all of it", |path| open_for_loss(path).set_len(0).unwrap()),
    ("zeros", |path| {
        let length = path.metadata().unwrap().len();
        open_for_loss(path).set_len(0).unwrap();
        open_for_loss(path).set_len(length).unwrap();
    }),
    ("its name", |path| fs_err::remove_file(path).unwrap()),
];

fn open_for_loss(path: &Path) -> fs_err::File {
    fs_err::OpenOptions::new().write(true).open(path).unwrap()
}

/// The machine restarts (another boot id) after a build was killed; what it had not synced is cut.
#[test]
fn power_loss_costs_only_what_was_not_reported() {
    if !need_root() {
        return;
    }
    for (position, (loss, cut)) in LOSSES.iter().enumerate() {
        let davit = davit();
        let source = Source::new(&davit);
        let (kept, arguments) = source.arguments(Verb::Load, 0);
        davit.ok(&arguments);
        let (built, arguments) = source.arguments(Verb::Build, 0);
        davit.ok(&arguments);
        let reported = names(&davit);
        let unsynced = kill_between_steps(&davit, &source);
        unsynced.iter().for_each(|path| cut(path));
        fs_err::write(davit.dir().join("boot"), "11111111-2222-3333-4444-555555555555\n").unwrap();
        let again = source.contexts[1].display();
        // Whichever command is the first to see the loss takes it for what it is.
        let first = ["$1 system check", "$1 images", "$1 system prune -f", "true"][position];
        let script = format!(
            "mount --bind $0/boot /proc/sys/kernel/random/boot_id
             {first} >&2
             $1 images --format '{{{{.Repository}}}}:{{{{.Tag}}}}'
             $1 build -q -t again:1 {again} >/dev/null
             $1 system check >&2"
        );
        let outcome = in_namespace(&davit, &script);
        assert_eq!(outcome.code, 0, "{loss}: {}{}", outcome.stdout, outcome.stderr);
        for name in [&kept, &built] {
            assert!(reported.contains_key(name), "{name}");
            assert!(outcome.stdout.lines().any(|line| line == name), "{loss}: {}", outcome.stdout);
        }
    }
}

/// Kills builds until one had committed a step and not yet reported: yields the files of such
/// steps, which are not synced.
fn kill_between_steps(davit: &Davit, source: &Source) -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(600);
    for attempt in 0.. {
        let number = 1 + attempt % (IMAGES - 1);
        let (name, arguments) = source.arguments(Verb::Build, number);
        let before = layers(davit).len();
        let mut build =
            davit.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while layers(davit).len() == before && build.try_wait().unwrap().is_none() {
            std::hint::spin_loop();
        }
        build.kill().unwrap();
        build.wait().unwrap();
        let unsynced = unsynced(davit);
        if !unsynced.is_empty() {
            return unsynced;
        }
        assert!(Instant::now() < deadline, "no build was killed between two of its steps");
        // It was too late, or too early: once more, with nothing cached.
        assert!(davit.run(["rmi", "-f", &name]).code <= 1);
        davit.ok(["system", "prune", "-f"]);
    }
    unreachable!("the loop ends by its deadline")
}

/// Tars, tables and blobs that the database marks as not yet safe from power loss.
fn unsynced(davit: &Davit) -> Vec<PathBuf> {
    let database = rusqlite::Connection::open(davit.root().join("davit.db")).unwrap();
    let digests = |query: &str| -> Vec<String> {
        let mut statement = database.prepare(query).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    };
    let path =
        |folder: &str, digest: &str| davit.root().join(folder).join(digest.replacen(':', "/", 1));
    let layers = digests("SELECT diff_id FROM layers WHERE durable_boot IS NOT NULL");
    let blobs = digests("SELECT digest FROM blobs WHERE durable_boot IS NOT NULL");
    let mut found: Vec<PathBuf> = blobs.iter().map(|digest| path("blobs", digest)).collect();
    for layer in layers.iter().map(|digest| path("layers", digest)) {
        found.extend([layer.join("tar"), layer.join("table")]);
    }
    found
}

fn layers(davit: &Davit) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(davit.root().join("layers/sha256")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The order of system calls of a whole `load`: what an image needs is synced before the commit.
#[test]
fn a_load_syncs_before_it_reports() {
    let Some(strace) = need_tool("strace") else { return };
    if !need_root() {
        return;
    }
    let davit = davit();
    let source = Source::new(&davit);
    let trace = davit.dir().join("trace");
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2,write";
    let mut command = Command::new(strace);
    command.args(["-f", "-y", "-s", "0", "-e", calls, "-o"]).arg(&trace);
    command.arg(env!("CARGO_BIN_EXE_davit")).args(source.arguments(Verb::Load, 0).1);
    command.env("DAVIT_ROOT", davit.root()).env("DAVIT_RUN_ROOT", davit.run_root());
    assert!(command.stdout(Stdio::null()).status().unwrap().success());
    let trace = fs_err::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let last = |wanted: &dyn Fn(&str) -> bool| {
        lines.iter().rposition(|line| wanted(line)).unwrap_or_else(|| panic!("not in {trace}"))
    };
    let synced =
        |path: &'static str| move |line: &str| line.contains("sync(") && line.contains(path);
    let reported = last(&|line| line.contains("write(1<"));
    let commit = lines[..reported].iter().rposition(|line| synced("davit.db-wal>")(line)).unwrap();
    for path in ["/tar>", "/table>", "/layers/sha256>", "/blobs/sha256/", "/blobs/sha256>"] {
        assert!(last(&synced(path)) < commit, "{path} is synced after the commit: {trace}");
    }
    let rename = last(&|line| line.contains("rename") && line.contains("/layers/sha256/"));
    let parent = lines.iter().position(|line| synced("/layers/sha256>")(line)).unwrap();
    assert!(rename < parent, "the directory is synced after the rename: {trace}");
}
