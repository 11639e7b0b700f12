//! Runs the host's `git` on repositories that nobody vouches for.
//!
//! - Nothing of the user's or the system's configuration is read; what is set here comes by the
//!   environment, so that no argument shows a secret.
//! - No hook runs: a new repository has none, and `core.hooksPath` leads nowhere.
//! - Three protocols are allowed, for submodules too, and ssh where an agent was given for it; no helper
//!   is asked for accounts.
//! - What is given by others stands behind `--` or `--end-of-options`, or was checked to be no option.

use std::{
    cell::OnceCell,
    ffi::OsStr,
    io::{self, Read},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::ceiling::{Ceiling, Growth},
    GitError,
    guard::Guard,
};

/// Where programs are looked for, as in a build's commands.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Protocols that every fetch may use.
pub(super) const PROTOCOLS: &str = "http:https:git";
/// How soon the end of git, or a wish to stop it, is seen.
const LOOK: Duration = Duration::from_millis(5);
/// How often what git writes is measured.
const MEASURE: Duration = Duration::from_millis(250);
/// Largest answer that is kept; a list of a few references is far smaller.
const ANSWER_BYTES: u64 = 4 << 20;
/// Of what git says of its failures, the end.
const MESSAGE_BYTES: usize = 4 << 10;

/// How git is run for one source.
pub(super) struct Program<'a> {
    /// A directory of the build; git's work tree is `tree` in it.
    pub(super) scratch: &'a Path,
    /// Further settings, as `name` and value; they may be secret.
    pub(super) settings: Vec<(String, String)>,
    /// Variables of the network: proxies and certificates.
    pub(super) environment: Vec<(String, String)>,
    pub(super) cancelled: &'a AtomicBool,
    /// This program.
    pub(super) executable: &'a Path,
    /// Started for the first run.
    pub(super) guard: OnceCell<Guard>,
    /// What it may take, once that is known.
    pub(super) growth: OnceCell<Growth>,
}

impl Program<'_> {
    /// Runs git in the work tree; gives what it wrote.
    pub(super) fn run<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, GitError> {
        let guard = self.guard().map_err(GitError::Run)?;
        let mut command = self.command();
        // Whoever stops git stops what it started, too.
        command.process_group(guard.group()).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::Missing,
            _ => GitError::Run(error),
        })?;
        let (answer, message, status) = thread::scope(|scope| {
            let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
            let answer = scope.spawn(move || stdout.map(first_bytes).transpose());
            let message = scope.spawn(move || stderr.map(last_bytes).transpose());
            let status = self.wait(&mut child, guard);
            let join = "reading a pipe does not panic";
            (answer.join().expect(join), message.join().expect(join), status)
        });
        let (answer, message) = (answer.map_err(GitError::Run)?, message.map_err(GitError::Run)?);
        let status = status.map_err(GitError::Run)?;
        if let Some(Ceiling { bytes, reason }) = self.exceeded() {
            return Err(GitError::TooLarge { bytes, reason });
        }
        if status.success() {
            return Ok(String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned());
        }
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(GitError::Stopped);
        }
        Err(GitError::Failed(shown(&message.unwrap_or_default())))
    }

    /// Stops git once what it writes is too large.
    pub(super) fn limit(&self, growth: Growth) {
        drop(self.growth.set(growth));
    }

    fn exceeded(&self) -> Option<Ceiling> {
        self.growth.get().and_then(Growth::exceeded)
    }

    fn guard(&self) -> io::Result<&Guard> {
        if let Some(guard) = self.guard.get() {
            return Ok(guard);
        }
        let guard = Guard::start(self.executable)?;
        Ok(self.guard.get_or_init(|| guard))
    }

    fn wait(&self, child: &mut Child, guard: &Guard) -> io::Result<ExitStatus> {
        let mut measured = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if self.cancelled.load(Ordering::Relaxed) {
                guard.kill();
            }
            if measured.elapsed() > MEASURE {
                if self.exceeded().is_some() {
                    guard.kill();
                }
                measured = Instant::now();
            }
            thread::sleep(LOOK);
        }
    }

    fn command(&self) -> Command {
        let tree = self.scratch.join("tree");
        let mut command = Command::new("git");
        command.current_dir(&tree).env_clear();
        let home = self.scratch.join("home");
        command.env("PATH", PATH).env("HOME", &home).env("XDG_CONFIG_HOME", &home);
        for (name, value) in [
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ALLOW_PROTOCOL", PROTOCOLS),
            // Without a way of ours, ssh would read the user's configuration and ask at the terminal.
            ("GIT_SSH_COMMAND", "false"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_LFS_SKIP_SMUDGE", "1"),
        ] {
            command.env(name, value);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let fixed = FIXED.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let settings: Vec<_> = fixed.chain(self.settings.iter().cloned()).collect();
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (number, (name, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), name);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        command
    }
}

/// Settings of every run.
const FIXED: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.autocrlf", "false"),
    ("core.symlinks", "true"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("credential.helper", ""),
    ("init.defaultBranch", "master"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("fetch.recurseSubmodules", "false"),
    // As a pack, what is fetched is there whole or not at all; unpacked, a commit may be there
    // without its files when git is stopped.
    ("fetch.unpackLimit", "1"),
    // The tree is ours, whoever runs this.
    ("safe.directory", "*"),
    // A server that sends next to nothing for a minute is given up.
    ("http.lowSpeedLimit", "100"),
    ("http.lowSpeedTime", "60"),
];

/// The beginning of a stream, which is read to its end.
fn first_bytes(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.by_ref().take(ANSWER_BYTES).read_to_end(&mut bytes)?;
    io::copy(&mut stream, &mut io::sink())?;
    Ok(bytes)
}

/// The end of a stream.
fn last_bytes(mut stream: impl Read) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; MESSAGE_BYTES]);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => bytes.extend_from_slice(&buffer[..length]),
        }
        let surplus = bytes.len().saturating_sub(MESSAGE_BYTES);
        bytes.drain(..surplus);
    }
    Ok(bytes)
}

/// What git says, without what could steer a terminal, and without accounts in addresses.
fn shown(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<String> = lines.map(without_accounts).collect();
    let from = lines.len().saturating_sub(5);
    let text = lines[from..].join("; ");
    text.chars().map(|it| if it.is_control() { '?' } else { it }).collect()
}

/// `scheme://account@host` as `scheme://host`.
fn without_accounts(line: &str) -> String {
    let mut parts = line.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(['/', '\'', '"', ' ']).unwrap_or(part.len());
        let host = part[..end].rfind('@').map_or(0, |at| at + 1);
        shown.push_str("://");
        shown.push_str(&part[host..]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hide_secrets_and_escapes() {
        let message =
            b"remote: \x1b[31mno\n\nfatal: unable to access 'https://u:p@h/r.git/': 403\n";
        let expected = "remote: ?[31mno; fatal: unable to access 'https://h/r.git/': 403";
        assert_eq!(shown(message), expected);
        assert_eq!(without_accounts("git://a@b/x@y and http://h"), "git://b/x@y and http://h");
    }

    #[test]
    fn of_a_long_stream_the_end_is_kept() {
        let long = vec![b'x'; 3 * MESSAGE_BYTES];
        assert_eq!(last_bytes(&[&long[..], b"end"].concat()[..]).unwrap().len(), MESSAGE_BYTES);
        assert!(last_bytes(&[&long[..], b"end"].concat()[..]).unwrap().ends_with(b"xend"));
    }
}
