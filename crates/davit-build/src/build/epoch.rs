//! `SOURCE_DATE_EPOCH` that names a source in place of a number: the time is that source's.
//!
//! | value | time |
//! |---|---|
//! | `context` | of the main context |
//! | name of a context | of that one |
//! | name of a stage | of the one remote source that the stage adds to nothing |
//!
//! Of a git repository it is the commit's, of a file what its server says, else that of the newest
//! entry if the file is an archive. A directory has none: then there is no epoch.

use std::path::Path;

use davit_dockerfile::{Dockerfile, Instruction, Kind, Stage};

use super::{call::CallEnvironment, remote::Remote};
use crate::{
    BuildRequest,
    copy::Archive,
    error::{BuildError, BuildErrorKind, Excerpt},
    request::{NamedSource, context_name},
    source::{GitSource, HttpSource, RemoteSource},
};

const EPOCH: &str = "SOURCE_DATE_EPOCH";
const CONTEXT: &str = "context";

/// Where the time is from.
enum Origin {
    /// Nothing that has one.
    Nothing,
    /// The main context.
    Context,
    Source(RemoteSource),
}

/// Puts the number in the place of the name, before there is a plan; `archive` is what a context
/// that is a tar held.
pub(super) fn resolve(
    request: &mut BuildRequest,
    dockerfile: &Dockerfile,
    environment: &CallEnvironment<'_, '_>,
    (remote, archive, scratch): (&mut Remote, Option<&Archive>, &Path),
) -> Result<(), BuildError> {
    if request.source_date_epoch.is_some() {
        return Ok(());
    }
    let given = request.build_args.get(EPOCH).cloned();
    let value = given.clone().or_else(|| default_of(dockerfile));
    let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(()) };
    if value.parse::<i64>().is_ok() {
        return Ok(());
    }
    let Some(origin) = origin(&value, request, dockerfile)? else {
        // What the Dockerfile says is refused with its place, later.
        return given.map_or(Ok(()), |_| Err(unknown(&value)));
    };
    let newest = |archive: &Archive| archive.table.iter().map(|entry| entry.mtime.seconds).max();
    let time = match origin {
        Origin::Nothing => None,
        Origin::Context => remote.context_time.or_else(|| archive.and_then(newest)),
        Origin::Source(source) => {
            let time = remote.time_of(&source, environment)?;
            match (time, &source) {
                (None, RemoteSource::Http(_)) => {
                    remote.unpacked(&source, environment, scratch)?.as_ref().and_then(newest)
                }
                (time, _) => time,
            }
        }
    };
    request.source_date_epoch = time;
    let unset = time.is_none() && default_of(dockerfile).is_none();
    if unset {
        request.build_args.remove(EPOCH);
    } else {
        let number = time.map_or_else(String::new, |time| time.to_string());
        request.build_args.insert(EPOCH.to_owned(), number);
    }
    Ok(())
}

fn unknown(value: &str) -> BuildError {
    let message = format!("{EPOCH} `{value}` is no number of seconds since 1970");
    let hint = "or write `context`, or the name of a context or of a stage that adds a source";
    BuildError::new(BuildErrorKind::Plan(message)).hint(hint)
}

/// The default that an `ARG` before the first `FROM` gives, if it is plain.
fn default_of(dockerfile: &Dockerfile) -> Option<String> {
    let definitions =
        dockerfile.global_args.iter().filter_map(|instruction| match &instruction.kind {
            Kind::Arg(definitions) => Some(definitions),
            _ => None,
        });
    let mut found = definitions.flatten().filter(|definition| definition.name.text == EPOCH);
    let text = found.next_back()?.default.as_ref()?.text.clone();
    (!text.contains(['$', '"', '\''])).then_some(text)
}

fn origin(
    value: &str,
    request: &BuildRequest,
    dockerfile: &Dockerfile,
) -> Result<Option<Origin>, BuildError> {
    if value == CONTEXT {
        return Ok(Some(Origin::Context));
    }
    let name = context_name(value);
    if let Some(named) = request.named_contexts.iter().find(|it| Some(&it.name) == name.as_ref()) {
        return Ok(Some(match &named.source {
            NamedSource::Remote(source) => Origin::Source(source.clone()),
            _ => Origin::Nothing,
        }));
    }
    let stages = &dockerfile.stages;
    let is_named = |stage: &&Stage| {
        stage.name.as_ref().is_some_and(|name| name.text.eq_ignore_ascii_case(value))
    };
    let Some(stage) = stages.iter().rev().find(is_named) else { return Ok(None) };
    let Some(source) = only_source(stage) else {
        let message = format!(
            "{EPOCH} names the stage `{value}`, which does more than to add one remote source"
        );
        let text = &request.dockerfile;
        let excerpt = Excerpt::new(&text.name, &text.bytes, stage.base.span, "");
        let error = BuildError::new(BuildErrorKind::Plan(message)).at(excerpt);
        return Err(error.hint("such a stage is `FROM scratch AS NAME` and one `ADD SOURCE /`"));
    };
    Ok(Some(Origin::Source(source)))
}

/// The one source of a stage that is nothing else.
fn only_source(stage: &Stage) -> Option<RemoteSource> {
    let ([Instruction { kind: Kind::Add(add), .. }], "scratch") =
        (&stage.instructions[..], stage.base.text.as_str())
    else {
        return None;
    };
    let [path] = &add.sources.paths[..] else { return None };
    if !add.sources.files.is_empty() || path.text.contains('$') {
        return None;
    }
    match GitSource::parse(&path.text) {
        Some(git) => git.ok().map(RemoteSource::Git),
        None => HttpSource::parse(&path.text).map(RemoteSource::Http),
    }
}
