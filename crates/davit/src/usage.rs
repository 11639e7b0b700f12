//! Wrong command lines in the form of every other error: `error:`, then `hint:` with what was
//! probably meant and where the help is.

use std::error::Error;

use clap::{CommandFactory as _, error::ErrorKind as ClapKind};
use davit_engine::nearest;

use crate::{cli::Cli, error::CliError};

/// Makes an error of what clap says.
pub(crate) fn explain(error: &clap::Error) -> CliError {
    let rendered = error.render().to_string();
    let text = rendered.strip_prefix("error: ").unwrap_or(&rendered);
    let (mut said, mut hints, mut verb) = (Vec::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(usage) = line.strip_prefix("Usage: davit") {
            let words = usage.split_whitespace();
            verb = words.take_while(|word| !word.starts_with(['-', '<', '['])).collect();
        } else if let Some(tip) = line.trim_start().strip_prefix("tip: ") {
            // How to pass a flag as a word is hardly ever what was meant.
            if !tip.starts_with("to pass ") {
                hints.push(tip.to_owned());
            }
        } else if !line.is_empty() && !line.starts_with("For more information") {
            said.push(line.trim_end());
        }
    }
    let mut cause = error.source().and_then(Error::source);
    let mut causes = Vec::new();
    while let Some(error) = cause {
        causes.push(format!("caused by: {error}"));
        cause = error.source();
    }
    said.extend(causes.iter().map(String::as_str));
    if error.kind() == ClapKind::InvalidSubcommand
        && hints.is_empty()
        && let Some(word) = quoted(text)
    {
        hints.extend(near_verb(word, &verb));
    }
    if !verb.is_empty() || error.kind() == ClapKind::InvalidSubcommand {
        hints.push(help_of(&verb));
    }
    hints.into_iter().fold(CliError::usage(said.join("\n")), CliError::hint)
}

/// Refuses a word where a name is expected and that looks like a flag: `verb` takes words as they
/// are from there on, so clap does not see it.
///
/// # Errors
/// The word begins with `-`.
pub(crate) fn refuse_flag(verb: &str, word: &str) -> Result<(), CliError> {
    if !word.starts_with('-') {
        return Ok(());
    }
    let mut error = CliError::usage(format!("unexpected argument '{word}' found"));
    let cli = Cli::command();
    if let Some(mut command) = cli.find_subcommand(verb).cloned() {
        command.build();
        let flags: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).collect();
        let name = word.trim_start_matches('-').split('=').next().unwrap_or_default();
        if let Some(flag) = nearest(name, flags) {
            error = error.hint(format!("a similar argument exists: '--{flag}'"));
        }
    }
    Err(error.hint(help_of(&[verb])))
}

fn help_of(verb: &[&str]) -> String {
    let words = ["davit"].iter().chain(verb).chain(&["--help"]);
    words.copied().collect::<Vec<_>>().join(" ")
}

/// The first word in quotes.
fn quoted(text: &str) -> Option<&str> {
    text.split('\'').nth(1)
}

/// The nearest verb below `noun`.
fn near_verb(word: &str, noun: &[&str]) -> Option<String> {
    let mut command = Cli::command();
    for name in noun {
        command = command.find_subcommand(name)?.clone();
        command.build();
    }
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    nearest(word, names).map(|name| format!("a similar subcommand exists: '{name}'"))
}
