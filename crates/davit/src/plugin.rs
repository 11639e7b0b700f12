//! davit as `docker-buildx`, a plugin of Docker's command line.
//!
//! The name that the program is called by decides. `docker buildx VERB`, and `docker build` as long
//! as Docker's builder is BuildKit, call the plugin with Docker's own options, the word `buildx` and
//! the rest; all of that is one more spelling of `davit builder VERB`. Besides, Docker asks once for
//! metadata, tells hooks what was run, and holds a socket whose end means: stop.

mod complete;
mod daemon;

use std::{
    ffi::{OsStr, OsString},
    io::Read as _,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
};

use serde_json::json;

pub(crate) use self::daemon::is_elsewhere;

use crate::{environment, error::CliError};

/// Name of the program in a folder of plugins.
const NAME: &str = "docker-buildx";
/// The version of buildx whose command line davit takes; Compose wants 0.17 or later.
pub(crate) const BUILDX: &str = "v0.36.0";
/// Where Docker listens for plugins that it may have to end.
const SOCKET: &str = "DOCKER_CLI_PLUGIN_SOCKET";
/// Docker's options with a value, which say where its daemon is or what it logs.
const VALUED: [&str; 7] =
    ["--context", "--host", "--log-level", "--tlscacert", "--tlscert", "--tlskey", "--builder"];
const VALUED_LETTERS: [char; 3] = ['c', 'H', 'l'];

/// Verbs that are the same wherever the builder is.
const NO_BUILDER: [&str; 3] = ["imagetools", "version", "--help"];

/// What a plugin is called for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// An answer to Docker itself.
    Answer(String),
    /// A command line of davit.
    Verb(Vec<OsString>),
}

/// Reads the arguments of a process if it is the plugin.
///
/// # Errors
/// Docker is told to use a daemon on another machine.
pub(crate) fn call(arguments: &[OsString]) -> Result<Option<Call>, CliError> {
    let name = arguments.first().map(Path::new).and_then(Path::file_name);
    if name != Some(OsStr::new(NAME)) {
        return Ok(None);
    }
    let words = &arguments[1..];
    match words.first().and_then(|word| word.to_str()) {
        Some("docker-cli-plugin-metadata") => return Ok(Some(Call::Answer(metadata()))),
        // Nothing is to be said after another command.
        Some("docker-cli-plugin-hooks") => return Ok(Some(Call::Answer(String::new()))),
        Some("__complete" | "__completeNoDesc") => {
            return Ok(Some(Call::Answer(complete::candidates(&words[1..]))));
        }
        _ => {}
    }
    let read = Words::read(words);
    let needs_builder =
        !read.verb.first().is_some_and(|verb| NO_BUILDER.iter().any(|it| verb == it));
    if needs_builder && let Some(address) = daemon::address(&read).filter(|it| is_elsewhere(it)) {
        let text = format!("davit builds on this machine, not at `{address}`");
        let hint =
            "choose a daemon of this machine (DOCKER_HOST, docker context), or run davit there";
        return Err(CliError::user(text).hint(hint));
    }
    let program = [OsString::from("davit")].into_iter();
    Ok(Some(Call::Verb(
        program.chain(read.before).chain(["builder".into()]).chain(read.verb).collect(),
    )))
}

/// Whether this process is the plugin.
pub(crate) fn is_called() -> bool {
    let first = std::env::args_os().next();
    first.as_deref().map(Path::new).and_then(Path::file_name) == Some(OsStr::new(NAME))
}

/// The words that a user of this program begins the builder's verbs with.
pub(crate) fn words() -> &'static str {
    if is_called() { "docker buildx" } else { "davit builder" }
}

fn metadata() -> String {
    let version = format!("{BUILDX}+davit-{}", env!("CARGO_PKG_VERSION"));
    let metadata = json!({
        "SchemaVersion": "0.1.0",
        "Vendor": "davit",
        "Version": version,
        "ShortDescription": "Builds with davit",
    });
    format!("{metadata}\n")
}

/// A plugin's words, put into davit's order.
#[derive(Default)]
struct Words {
    /// Options of davit as a whole.
    before: Vec<OsString>,
    /// The verb and all that follows.
    verb: Vec<OsString>,
    /// The folder of Docker's configuration, if it is given.
    config: Option<PathBuf>,
    /// The address of the daemon that Docker is told to use.
    host: Option<String>,
    /// The context that Docker is told to use.
    context: Option<String>,
}

impl Words {
    fn read(words: &[OsString]) -> Self {
        let mut read = Self::default();
        let (mut wants_help, mut is_named) = (false, false);
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            let text = word.to_str().unwrap_or_default();
            match text {
                "buildx" if !is_named => is_named = true,
                "help" if !wants_help => wants_help = true,
                "-D" | "--debug" => read.before.push("--debug".into()),
                "--config" => read.config = rest.next().map(PathBuf::from),
                _ if text.starts_with("--config=") => {
                    read.config = text.strip_prefix("--config=").map(PathBuf::from);
                }
                _ if text.starts_with("--tls") && !VALUED.contains(&text) => {}
                _ => match valued(text) {
                    Some((option, attached)) => {
                        let value = attached.map(str::to_owned);
                        let next = || rest.next().map(|it| it.to_string_lossy().into_owned());
                        let value = value.or_else(next);
                        match option {
                            "--host" | "-H" => read.host = value,
                            "--context" | "-c" => read.context = value,
                            _ => {}
                        }
                    }
                    None => {
                        read.verb.push(word.clone());
                        break;
                    }
                },
            }
        }
        read.verb.extend(rest.cloned());
        if let Some(folder) = &read.config {
            read.before.extend(["--config".into(), folder.into()]);
        }
        if wants_help {
            read.verb.push("--help".into());
        }
        read
    }
}

/// An option of Docker that has a value, and the value if it is in the same word.
fn valued(word: &str) -> Option<(&str, Option<&str>)> {
    if let Some((option, value)) = word.split_once('=')
        && VALUED.contains(&option)
    {
        return Some((option, Some(value)));
    }
    if VALUED.contains(&word) {
        return Some((word, None));
    }
    let mut letters = word.strip_prefix('-')?.char_indices();
    let (_, letter) = letters.next()?;
    if !VALUED_LETTERS.contains(&letter) {
        return None;
    }
    let (option, value) = word.split_at(2);
    let value = value.strip_prefix('=').unwrap_or(value);
    Some((option, Some(value).filter(|value| !value.is_empty())))
}

/// Calls `end` when Docker closes the plugin's socket, because it was told to end or is gone; does
/// nothing if this is no plugin. Starts a thread, which has the caller's signal mask.
pub(crate) fn at_end(end: impl FnOnce() + Send + 'static) {
    let Some(name) = environment::variable(SOCKET) else { return };
    // What is not `@name` is a path on systems without abstract names.
    let Some(name) = name.to_str().and_then(|name| name.strip_prefix('@')) else { return };
    let connected =
        SocketAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address));
    let mut socket = match connected {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "Docker does not listen"),
    };
    std::thread::spawn(move || {
        // Docker sends nothing.
        while socket.read(&mut [0; 64]).is_ok_and(|length| length > 0) {}
        end();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn dockers_words_become_davits() {
        for (line, expected) in [
            ("buildx build -t x .", "builder build -t x ."),
            ("build -t x .", "builder build -t x ."),
            ("buildx", "builder"),
            ("buildx --help", "builder --help"),
            ("help buildx", "builder --help"),
            ("help buildx du", "builder du --help"),
            ("buildx --builder x ls", "builder ls"),
            ("buildx --builder=x -D ls", "--debug builder ls"),
            ("buildx ls --builder x", "builder ls --builder x"),
            ("buildx build buildx", "builder build buildx"),
            (
                "-D --config /c -H unix:///s -l debug -c default --tls --tlscacert a buildx ls --format json",
                "--debug --config /c builder ls --format json",
            ),
            (
                "--config=/c -Hunix:///s -ldebug --host=unix:///s buildx b .",
                "--config /c builder b .",
            ),
            ("--tlsverify=false buildx prune -f", "builder prune -f"),
        ] {
            let read = Words::read(&words(line));
            let all = [read.before, vec!["builder".into()], read.verb].concat();
            assert_eq!(all, words(expected), "{line}");
        }
        assert_eq!(
            Words::read(&words("-H tcp://a:1 buildx ls")).host.as_deref(),
            Some("tcp://a:1")
        );
        assert_eq!(call(&words("/usr/bin/davit buildx ls")).unwrap(), None);
        let asked = call(&words("/p/docker-buildx docker-cli-plugin-hooks {}")).unwrap();
        assert_eq!(asked, Some(Call::Answer(String::new())));
    }
}
