//! `--call` and `--check`: questions about a Dockerfile instead of a build.

mod check;
mod fix;
mod outline;
mod sarif;

use std::{
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_engine::{
    Engine,
    build::{BuildFailure, Question, Span},
};
use serde_json::{Value, json};

use super::{
    BuildArgs, add_proxies, cancel_on_interrupt, contexts::dockerfile_on_disk, request::request,
};
use crate::{cli::Context, error::CliError, printer, progress::ProgressMode};

/// Most lines that are ranges of their own: a heredoc may have millions.
const MOST_RANGES: usize = 1000;

/// `--call`, read: a method and how its answer is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::commands) struct Call {
    pub(in crate::commands) method: Method,
    pub(in crate::commands) format: Format,
    /// Whether the exit code tells of the answer.
    pub(in crate::commands) status: Status,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::commands) enum Method {
    #[default]
    Build,
    Check,
    Outline,
    Targets,
    Describe,
}

impl Method {
    /// The method as it is named.
    pub(in crate::commands) const fn name(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Check => "check",
            Self::Outline => "outline",
            Self::Targets => "targets",
            Self::Describe => "subrequests.describe",
        }
    }
}

/// How an answer is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::commands) enum Format {
    #[default]
    Text,
    Json,
    Sarif,
}

/// What the exit code says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::commands) enum Status {
    /// 1 where there is something to say.
    #[default]
    Answer,
    /// 0 whatever the answer is.
    Ignored,
}

impl FromStr for Call {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut call = Self::default();
        let mut is_named = false;
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("format", "json")) => call.format = Format::Json,
                Some(("format", "sarif")) => call.format = Format::Sarif,
                Some(("format", "text" | "")) => call.format = Format::Text,
                Some(("format", other)) => return Err(format!("there is no format `{other}`")),
                Some(("ignorestatus", "true" | "1")) => call.status = Status::Ignored,
                Some(("ignorestatus", "false" | "0")) => call.status = Status::Answer,
                Some(_) => return Err(format!("`{field}` is neither format=… nor ignorestatus=…")),
                None if is_named => return Err(format!("`{field}` is a second method")),
                None => {
                    is_named = true;
                    call.method = match field {
                        "build" => Method::Build,
                        "check" | "lint" => Method::Check,
                        "outline" => Method::Outline,
                        "targets" => Method::Targets,
                        "subrequests.describe" => Method::Describe,
                        _ => return Err(format!("there is no method `{field}`")),
                    };
                }
            }
        }
        match call.format {
            _ if !is_named => Err("the method is missing".to_owned()),
            Format::Sarif if call.method != Method::Check => {
                Err("only check has the format `sarif`".to_owned())
            }
            _ => Ok(call),
        }
    }
}

/// What answering a question needs.
struct Asked<'a> {
    engine: &'a Engine,
    call: Call,
    signal: &'a AtomicU8,
    /// What becomes of an answer that is JSON.
    show: &'a Show<'a>,
}

/// Shows an answer that is JSON.
pub(in crate::commands) type Show<'s> = dyn Fn(&Value) -> Result<(), CliError> + 's;

/// What several questions share.
pub(in crate::commands) struct Session {
    pub(in crate::commands) engine: Engine,
    pub(in crate::commands) cancelled: Arc<AtomicBool>,
    pub(in crate::commands) signal: Arc<AtomicU8>,
}

impl Session {
    /// Opens the engine, with Ctrl-C as the end of what is asked.
    pub(in crate::commands) fn open(context: &Context) -> Result<Self, CliError> {
        // Before any thread: all of them leave the signals to one.
        let (cancelled, signal) = cancel_on_interrupt()?;
        Ok(Self { engine: context.engine()?, cancelled, signal })
    }
}

impl Asked<'_> {
    /// An error of the engine as the user sees it.
    fn failed(&self, error: impl Into<BuildFailure>) -> CliError {
        super::failed(error.into(), self.signal.load(Ordering::Relaxed), None)
    }
}

/// Answers a question; returns the exit code.
///
/// # Errors
/// Whatever keeps it from being answered.
pub(super) fn run(call: Call, args: &BuildArgs, context: &Context) -> Result<u8, CliError> {
    if call.method == Method::Describe {
        return outline::describe(call.format);
    }
    ask(call, args, context, (&Session::open(context)?, &print_json))
}

/// Answers a question of a session, with what becomes of JSON; returns the exit code.
///
/// # Errors
/// Whatever keeps it from being answered.
pub(in crate::commands) fn ask(
    call: Call,
    args: &BuildArgs,
    context: &Context,
    (session, show): (&Session, &Show<'_>),
) -> Result<u8, CliError> {
    let file = if args.fix { Some(file_to_fix(call, args)?) } else { None };
    let (mut request, ..) = request(args)?;
    add_proxies(&mut request, context)?;
    let mode = if args.quiet { ProgressMode::Quiet } else { ProgressMode::Plain };
    let progress = context.progress(mode);
    let mut question = Question {
        request,
        pull: args.pull.policy(),
        reach: args.reach(),
        progress: &*progress,
        cancelled: &session.cancelled,
    };
    let asked = Asked { engine: &session.engine, call, signal: &session.signal, show };
    match call.method {
        Method::Outline => outline::outline(&asked, &mut question),
        Method::Targets => outline::targets(&asked, &mut question),
        Method::Build | Method::Check | Method::Describe => {
            check::run(&asked, &mut question, file.as_deref())
        }
    }
}

/// The Dockerfile that `--fix` writes to.
fn file_to_fix(call: Call, args: &BuildArgs) -> Result<PathBuf, CliError> {
    if call.method != Method::Check {
        return Err(CliError::usage("--fix goes with --check"));
    }
    let path = dockerfile_on_disk(args);
    path.ok_or_else(|| CliError::usage("--fix needs a Dockerfile that is a file on this machine"))
}

fn print_json(value: &Value) -> Result<(), CliError> {
    printer::line(&format!("{value:#}"))
}

pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Lines of a file in the form of BuildKit's messages: a range for each.
pub(super) fn location(span: Span) -> Value {
    let range = |first: u32, last: u32| json!({"start": {"line": first}, "end": {"line": last}});
    let lines = span.first_line..=span.last_line;
    let ranges: Vec<Value> = match lines.size_hint().0 {
        ..=MOST_RANGES => lines.map(|line| range(line, line)).collect(),
        _ => vec![range(span.first_line, span.last_line)],
    };
    json!({"ranges": ranges})
}

/// A file in the form of BuildKit's messages.
pub(super) fn source(name: &str, bytes: &[u8]) -> Value {
    json!({"filename": name, "data": base64(bytes), "language": "Dockerfile"})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_calls() {
        let check = Call { method: Method::Check, ..Call::default() };
        for (text, expected) in [
            ("build", Call::default()),
            ("check", check),
            ("lint,format=json", Call { format: Format::Json, ..check }),
            ("ignorestatus=true,check", Call { status: Status::Ignored, ..check }),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "chek",
            "check,build",
            "format=json",
            "check,format=xml",
            "check,a=b",
            "outline,format=sarif",
        ] {
            assert!(text.parse::<Call>().is_err(), "{text}");
        }
    }
}
