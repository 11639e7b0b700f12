//! How a build is shown while it runs.

pub(super) mod json;
mod plain;
mod tail;
mod tty;

use std::sync::Arc;

use davit_engine::{
    build::{BuildEvent, Miss, StepId, StepInfo},
    image::Timestamp,
};

use crate::{format::visible, printer};

/// What a second build that gave the same is told by.
const SAME: &str = "Reproducible: a second build gave the same";
/// Longest name of a step that is shown, in characters. The log on disk has all of it.
const LONGEST: usize = 1024;
/// Longest value in a reason, in characters.
const LONGEST_VALUE: usize = 60;
/// What stands for the rest of a text.
const CUT: &str = "...";

/// `--progress`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BuildProgress {
    /// As on a terminal if there is one, else plain
    #[default]
    Auto,
    /// Steps that run, with the last lines of their output
    Tty,
    /// Every line of output
    Plain,
    /// One JSON object per line, in BuildKit's form; pulls in that of Docker's API
    #[value(alias = "json")]
    Rawjson,
    /// Nothing but the image's id
    Quiet,
    /// Nothing
    None,
}

/// Shows the events of one build on standard error.
pub(in crate::commands) trait Display: Sync {
    /// Shows one event of now.
    fn show(&self, event: BuildEvent) {
        self.show_at(Timestamp::now(), event);
    }
    /// Shows one event of another time.
    fn show_at(&self, at: Timestamp, event: BuildEvent);
    /// Removes what is only for the time of the build, and shows what is for its end.
    fn end(&self) {}
}

struct Nothing;

impl Display for Nothing {
    fn show_at(&self, _at: Timestamp, _event: BuildEvent) {}
}

pub(in crate::commands) fn open(progress: BuildProgress) -> Box<dyn Display> {
    match progress {
        BuildProgress::Quiet | BuildProgress::None => Box::new(Nothing),
        BuildProgress::Rawjson => Box::new(json::Json::default()),
        BuildProgress::Tty => Box::new(tty::Tty::new()),
        BuildProgress::Auto if printer::can_draw() => Box::new(tty::Tty::new()),
        BuildProgress::Auto | BuildProgress::Plain => Box::new(plain::Plain::default()),
    }
}

/// A step's name; a Dockerfile may come from anywhere.
fn name(steps: &Arc<[StepInfo]>, id: StepId) -> String {
    steps.iter().find(|step| step.id == id).map_or_else(String::new, |step| shown(&step.name))
}

/// A name or a value that may be anything, and as long as a file.
fn shown(text: &str) -> String {
    // What is escaped is longer, not shorter.
    let end = text.char_indices().nth(LONGEST + 1).map_or(text.len(), |(at, _)| at);
    cut(&visible(&text[..end]), LONGEST)
}

/// The beginning of a text, in so many characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().nth(most).is_none() {
        return text.to_owned();
    }
    let beginning = text.chars().take(most.saturating_sub(CUT.len()));
    beginning.chain(CUT.chars()).take(most).collect()
}

/// Tells that a shell has the terminal from now on.
fn by_hand(failed: Option<String>) {
    if let Some(step) = failed {
        let step = shown(&step);
        printer::note(&format!("A shell in what {step} left; the build fails when it ends"));
    }
}

/// Why a step has to run, in words; names and values may come from anywhere.
pub(super) fn reason(miss: &Miss) -> String {
    let value = |value: &Option<String>| match value {
        Some(value) => format!("`{}`", visible(&cut(value, LONGEST_VALUE))),
        None => "nothing".to_owned(),
    };
    match miss {
        Miss::NotAsked => "the cache is not used".to_owned(),
        Miss::First => "it was never built".to_owned(),
        Miss::Component { label, before, now } => {
            let label = shown(label);
            match (before, now) {
                (None, _) => format!("{label} is new: {}", value(now)),
                (_, None) => format!("{label} is gone: {}", value(before)),
                _ => format!("{label} changed from {} to {}", value(before), value(now)),
            }
        }
        Miss::File { path, difference } => format!("file {}: {difference}", shown(path)),
        Miss::Before(step) => format!("{} gave another result", shown(step)),
        Miss::Expired { age } => {
            let age = crate::units::duration(*age).to_lowercase();
            format!("its result is too old for --cache-ttl: {age}")
        }
        Miss::Gone => "its result is not stored any more".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut() {
        assert_eq!(cut("12345", 5), "12345");
        assert_eq!(cut("123456", 5), "12...");
        assert_eq!((cut("123456", 2), cut("", 0)), ("..".to_owned(), String::new()));
        assert_eq!(cut(&"\u{20ac}".repeat(9), 8), format!("{}...", "\u{20ac}".repeat(5)));
        for letter in ["x", "\u{20ac}", "\x07"] {
            let text = shown(&letter.repeat(100_000));
            assert!(text.chars().count() == LONGEST && text.ends_with(CUT), "{text}");
            assert!(text.starts_with(&visible(letter)), "{text}");
        }
    }

    #[test]
    fn a_reason_holds_no_escapes() {
        let text = |text: &str| format!("{text}\x1b]0;title\x07");
        let long = |letter: &str| format!("{}{}", text(letter), letter.repeat(80));
        let component = |before: Option<String>, now: Option<String>| Miss::Component {
            label: text("variable"),
            before,
            now,
        };
        for (miss, expected) in [
            (component(None, Some(text("b"))), "variable\\x1b]0;title\\x07 is new: `b\\x1b"),
            (component(Some(text("a")), None), "variable\\x1b]0;title\\x07 is gone: `a\\x1b"),
            (component(Some(long("a")), Some(long("b"))), "changed from `a\\x1b"),
            (Miss::Before(text("RUN")), "RUN\\x1b]0;title\\x07 gave"),
            (
                Miss::File { path: text("f"), difference: "new".to_owned() },
                "file f\\x1b]0;title\\x07: new",
            ),
        ] {
            let reason = reason(&miss);
            assert!(reason.contains(expected), "{reason}");
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
    }
}
