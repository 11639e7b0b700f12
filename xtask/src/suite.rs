//! `cargo xtask test`: build the tests as the user, run them as root, count them.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{packages, process};

/// How long a program of tests may say nothing before it counts as hanging.
const SILENCE: Duration = Duration::from_secs(1200);

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// Only these packages
    #[arg(short, long)]
    package: Vec<String>,
    /// Only tests whose name holds this text
    filter: Option<String>,
    /// Kill davit so many times at random instants; the suite's own number is 200
    #[arg(long, value_name = "N")]
    kills: Option<u32>,
    /// Do not install Debian packages
    #[arg(long)]
    offline: bool,
}

/// What libtest counted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Adds what another binary counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

/// A program of tests.
#[derive(Debug)]
pub(crate) struct TestBinary {
    /// Folder of its package and name of its target.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    /// The package's folder, in which it is run.
    pub(crate) folder: PathBuf,
}

/// Tests and the programs that they run.
#[derive(Debug)]
pub(crate) struct Binaries {
    pub(crate) tests: Vec<TestBinary>,
    pub(crate) programs: Vec<PathBuf>,
}

/// Runs the suite; fails where a test fails.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    if !args.offline {
        packages::install_for_suite()?;
    }
    let binaries = binaries(&args.package)?.tests;
    ensure!(!binaries.is_empty(), "there are no tests to run");
    let skips = std::env::temp_dir().join(format!("davit-skips-{}", std::process::id()));
    fs_err::write(&skips, "")?;
    let result = run_all(&binaries, args, &skips).and_then(|mut counts| {
        counts.add(&timed("examples", || run_examples(args))?);
        Ok(counts)
    });
    let skipped = fs_err::read_to_string(&skips)?;
    fs_err::remove_file(&skips)?;
    report(result?, &skipped)
}

fn run_all(binaries: &[TestBinary], args: &TestArgs, skips: &Path) -> Result<Counts> {
    let mut total = Counts::default();
    for binary in binaries {
        total.add(&timed(&binary.name, || run_one(binary, args, skips))?);
    }
    Ok(total)
}

/// Counts tests and prints how long they took.
fn timed(name: &str, tests: impl FnOnce() -> Result<Counts>) -> Result<Counts> {
    let start = Instant::now();
    let counts = tests()?;
    let Counts { passed, failed, .. } = counts;
    println!("{:>7.1} s  {name}: {passed} passed, {failed} failed", start.elapsed().as_secs_f64());
    Ok(counts)
}

/// Runs the examples of the documentation, which need no root. All packages at once: of some of
/// them alone cargo would compile what they depend on anew, with fewer features.
fn run_examples(args: &TestArgs) -> Result<Counts> {
    let has_library = |name: &&String| Path::new("crates").join(name).join("src/lib.rs").exists();
    let libraries: Vec<&String> = args.package.iter().filter(has_library).collect();
    if libraries.is_empty() && !args.package.is_empty() {
        return Ok(Counts::default());
    }
    let mut command = test_command(&libraries);
    command.args(["--doc", "--no-fail-fast"]);
    if let Some(filter) = &args.filter {
        command.args(["--", filter]);
    }
    count(&mut command, "examples", SILENCE)
}

/// Names what was skipped and prints the counts; an error where a test failed.
pub(crate) fn report(mut counts: Counts, skipped: &str) -> Result<()> {
    let skips: BTreeSet<&str> = skipped.lines().collect();
    for skip in &skips {
        let (name, reason) = skip.split_once('\t').unwrap_or((skip, "no reason given"));
        println!("skipped: {name}: {reason}");
    }
    // One test may skip for several reasons, but it is one test.
    let names: BTreeSet<&str> = skips.iter().filter_map(|line| line.split('\t').next()).collect();
    let skipped = names.len() as u64;
    counts.passed = counts.passed.saturating_sub(skipped);
    let Counts { passed, failed, ignored } = counts;
    println!("{passed} passed, {failed} failed, {} skipped", skipped + ignored);
    if failed > 0 {
        bail!("{failed} tests failed");
    }
    Ok(())
}

/// Builds the tests of these packages, of all where none is named, and the programs that they run.
pub(crate) fn binaries<P: AsRef<str>>(packages: &[P]) -> Result<Binaries> {
    let mut command = test_command(packages);
    command.args(["--no-run", "--message-format=json-render-diagnostics"]);
    let output = process::output(command.stderr(Stdio::inherit()))?;
    let messages = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut tests, mut programs) = (Vec::new(), Vec::new());
    for message in messages.filter(|message| message["reason"] == "compiler-artifact") {
        let Some(executable) = message["executable"].as_str() else { continue };
        if message["profile"]["test"] == true {
            tests.extend(test_binary(&message));
        } else if message["target"]["kind"][0] != "custom-build" {
            programs.push(PathBuf::from(executable));
        }
    }
    Ok(Binaries { tests, programs })
}

/// `cargo test` of these packages, of all where none is named.
fn test_command<P: AsRef<str>>(packages: &[P]) -> Command {
    let mut command = process::cargo();
    command.arg("test");
    if packages.is_empty() {
        command.arg("--workspace");
    }
    for package in packages {
        command.arg("--package").arg(package.as_ref());
    }
    command
}

fn test_binary(message: &Value) -> Option<TestBinary> {
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let folder = manifest.parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy();
    Some(TestBinary {
        name: format!("{package}/{}", message["target"]["name"].as_str()?),
        path: PathBuf::from(message["executable"].as_str()?),
        folder,
    })
}

fn run_one(binary: &TestBinary, args: &TestArgs, skips: &Path) -> Result<Counts> {
    // What starts a suite in the background has it ignore these, and davit would with it.
    let mut command = process::as_root("env");
    command
        .arg("--default-signal=HUP,INT,QUIT")
        .arg(&binary.path)
        .args(&args.filter)
        .current_dir(&binary.folder)
        .env("CARGO_MANIFEST_DIR", &binary.folder)
        .env(davit_test::SKIPS_ENV, skips)
        .envs(args.kills.map(|kills| (davit_test::KILLS_ENV, kills.to_string())));
    set_images(&mut command);
    count(&mut command, &binary.name, SILENCE)
}

/// Runs a program of tests, or several, and shows what is not as it should be. One that says nothing
/// for `silence` is killed and has failed: libtest has named what hangs by then.
fn count(command: &mut Command, name: &str, silence: Duration) -> Result<Counts> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
    let (sender, lines) = mpsc::channel();
    // Ends with the program's output; what it started may hold that open for longer.
    let _reader = std::thread::spawn(move || {
        stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let mut counts: Option<Counts> = None;
    loop {
        let line = match lines.recv_timeout(silence) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("{name}: killed after {} s without a word", silence.as_secs());
                child.kill()?;
                break;
            }
        };
        if let Some(found) = parse_counts(&line) {
            counts.get_or_insert_default().add(&found);
        } else if !(line.ends_with("... ok")
            || line.starts_with("running 0 ")
            || line.trim().is_empty())
        {
            println!("{line}");
            std::io::stdout().flush()?;
        }
    }
    let status = child.wait()?;
    match counts {
        // A suite that died in the middle has failed, whatever it counted.
        Some(counts) if status.success() || counts.failed > 0 => Ok(counts),
        _ => {
            println!("{name}: ended with {status} and no count");
            Ok(Counts { failed: 1, ..Counts::default() })
        }
    }
}

/// Names the folder of real images for the tests, where it lies beside the repository.
fn set_images(command: &mut Command) {
    if let Some(folder) = images() {
        command.env(davit_test::IMAGES_ENV, folder);
    }
}

/// The folder of real images: named by the environment, or beside the repository.
pub(crate) fn images() -> Option<PathBuf> {
    std::env::var_os(davit_test::IMAGES_ENV)
        .map(PathBuf::from)
        .or_else(|| Path::new("../shared/images").canonicalize().ok())
}

/// Reads libtest's closing line.
pub(crate) fn parse_counts(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let before = rest.split(&format!(" {word}")).next()?;
        before.rsplit([' ', ';']).next()?.parse().ok()
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        ignored: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_closing_line() {
        let line =
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 0 filtered out";
        assert_eq!(parse_counts(line), Some(Counts { passed: 12, failed: 3, ignored: 1 }));
        assert_eq!(parse_counts("test x ... ok"), None);
    }

    #[test]
    fn what_hangs_has_failed() {
        let mut hanging = Command::new("sh");
        hanging
            .args(["-c", "echo 'test result: ok. 1 passed; 0 failed; 0 ignored'; exec sleep 60"]);
        let counts = count(&mut hanging, "hanging", Duration::from_millis(300)).unwrap();
        assert_eq!(counts, Counts { failed: 1, ..Counts::default() });
    }

    #[test]
    fn a_failure_fails_the_suite() {
        assert!(report(Counts { passed: 1, failed: 1, ignored: 0 }, "").is_err());
        assert!(report(Counts { passed: 2, failed: 0, ignored: 0 }, "a\tx\na\ty\n").is_ok());
    }
}
