//! Mends what can be mended without a decision, and leaves every other byte as it is.
//!
//! ```text
//! warnings -> edits of byte ranges -> new text -> parsed again -> same meaning? -> done
//! ```
//!
//! Keywords, names of stages, `AS` and protocols change their case; `name value` becomes
//! `name=value`; MAINTAINER becomes a label; a command of plain words becomes a JSON array; a
//! platform that is the default, and empty lines within an instruction, go.

mod edits;
mod meaning;

use std::ops::Range;

use super::{Rule, Warning};
use crate::Dockerfile;
use meaning::Meaning;

/// Most warnings that are tried one by one where all together change the meaning.
const SINGLE_LIMIT: usize = 100;

/// A mended file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mended {
    /// The new text.
    pub text: Vec<u8>,
    /// What is mended.
    pub mended: Vec<Warning>,
    /// What is not, and why.
    pub left: Vec<(Warning, &'static str)>,
}

/// A piece of text that takes the place of a part of the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edit {
    start: usize,
    end: usize,
    text: String,
}

impl Edit {
    fn new(range: Range<usize>, text: impl Into<String>) -> Self {
        Self { start: range.start, end: range.end, text: text.into() }
    }
}

/// Mends what `warnings` say of `file`, which was read from `source`.
///
/// The new text means the same to a build, but for what the rules are about: MAINTAINER becomes a
/// label, and a command runs without a shell.
#[must_use]
pub fn mend(source: &[u8], file: &Dockerfile, warnings: &[Warning]) -> Mended {
    let editor = edits::Editor::new(source, file, warnings);
    let mut left = Vec::new();
    let mut planned: Vec<(Warning, Vec<Edit>)> = Vec::new();
    for warning in warnings {
        match editor.edits(warning) {
            Ok(edits) => planned.push((warning.clone(), edits)),
            Err(why) => left.push((warning.clone(), why)),
        }
    }
    let before = Meaning::of(file);
    let keeps =
        |text: &[u8]| Dockerfile::parse(text).is_ok_and(|file| Meaning::of(&file) == before);
    let mut text = apply(source, &planned);
    if !keeps(&text) {
        // Something that no rule here foresaw: what does no harm alone may be kept.
        let unsafe_ones = "it would change what is built";
        let is_safe = |one: &(Warning, Vec<Edit>)| keeps(&apply(source, std::slice::from_ref(one)));
        let few = planned.len() <= SINGLE_LIMIT;
        let (safe, others): (Vec<_>, Vec<_>) =
            planned.into_iter().partition(|one| few && is_safe(one));
        left.extend(others.into_iter().map(|(warning, _)| (warning, unsafe_ones)));
        planned = safe;
        text = apply(source, &planned);
        if !keeps(&text) {
            left.extend(planned.drain(..).map(|(warning, _)| (warning, unsafe_ones)));
            text = source.to_vec();
        }
    }
    left.sort();
    Mended { text, mended: planned.into_iter().map(|(warning, _)| warning).collect(), left }
}

/// Applies edits; of several that touch the same place the first one counts.
fn apply(source: &[u8], planned: &[(Warning, Vec<Edit>)]) -> Vec<u8> {
    let mut edits: Vec<&Edit> = planned.iter().flat_map(|(_, edits)| edits).collect();
    edits.sort();
    edits.dedup();
    let mut text = Vec::with_capacity(source.len());
    let mut done = 0;
    for edit in edits.into_iter().filter(|edit| edit.end <= source.len()) {
        if edit.start >= done {
            text.extend_from_slice(&source[done..edit.start]);
            text.extend_from_slice(edit.text.as_bytes());
            done = edit.end;
        }
    }
    text.extend_from_slice(&source[done..]);
    text
}

/// Why a rule's findings are never mended; `None` where they may be.
const fn never(rule: Rule) -> Option<&'static str> {
    Some(match rule {
        Rule::DuplicateStageName => "it must be decided which stage keeps the name",
        Rule::ReservedStageName => "a new name must be chosen, here and where the stage is used",
        Rule::UndefinedArgInFrom | Rule::UndefinedVar | Rule::InvalidDefaultArgInFrom => {
            "a value must be chosen"
        }
        Rule::MultipleInstructionsDisallowed => "it must be decided which one is meant",
        Rule::SecretsUsedInArgOrEnv => "the commands that use it must change as well",
        Rule::InvalidBaseImagePlatform | Rule::FromPlatformFlagConstDisallowed => {
            "it must be decided which platform is meant"
        }
        Rule::CopyIgnoredFile => "it must be decided whether the file belongs to the context",
        Rule::InvalidDefinitionDescription => "the comment must be written anew, or moved",
        Rule::ArgTooEarly => "it must be known that no command between reads it",
        Rule::ExposeInvalidFormat => "who starts the container must publish the port",
        _ => return None,
    })
}
