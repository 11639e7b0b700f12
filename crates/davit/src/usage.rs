//! Wrong command lines in the form of every other error: `error:`, then `hint:` with what was
//! probably meant and where the help is.

use std::{error::Error, ffi::OsString};

use clap::{
    Arg, Command, CommandFactory as _,
    error::{ContextKind, ContextValue, ErrorKind as ClapKind},
};
use davit_engine::nearest;

use crate::{arguments, cli::Cli, error::CliError};

/// Keys whose values are secrets.
const SECRET_KEYS: [&str; 3] = ["secret_access_key=", "session_token=", "token="];

/// Makes an error of what clap says.
pub(crate) fn explain(error: &clap::Error, arguments: &[OsString]) -> CliError {
    let rendered = without_secrets(&error.render().to_string());
    let text = rendered.strip_prefix("error: ").unwrap_or(&rendered);
    let (mut said, mut verb) = (Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(usage) = line.strip_prefix("Usage: davit") {
            let words = usage.split_whitespace();
            verb = words.take_while(|word| !word.starts_with(['-', '<', '['])).collect();
        } else if !line.is_empty()
            && !line.starts_with("For more information")
            // What clap takes for similar is often far off, and how to pass a flag as a word is
            // hardly ever what was meant.
            && !line.trim_start().starts_with("tip: ")
        {
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
    let mut told = CliError::usage(said.join("\n")).with_code(exit_code(error, arguments));
    let near = match error.kind() {
        ClapKind::InvalidSubcommand => quoted(text).and_then(|word| near_verb(word, &verb)),
        ClapKind::UnknownArgument => quoted(text).and_then(|word| near_option(word, &verb)),
        _ => None,
    };
    if let Some(near) = near {
        told = told.hint(near);
    }
    if !verb.is_empty() || error.kind() == ClapKind::InvalidSubcommand {
        told = told.hint(help_of(&verb));
    }
    told
}

/// A text without what the keys of caches and the like say to nobody else.
fn without_secrets(text: &str) -> String {
    let mut shown = text.to_owned();
    for key in SECRET_KEYS {
        let mut parts = shown.split(key);
        let mut masked = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find([',', '\'', '"', '`', '&']).unwrap_or(part.len());
            let mark = if end == 0 { "" } else { "****" };
            masked = format!("{masked}{key}{mark}{}", &part[end..]);
        }
        shown = masked;
    }
    shown
}

/// Docker's codes: 1 for words too many or too few and unknown verbs, 125 for flags. What a flag
/// of text may be is judged by its engine, or by the verb, with 1; but `run` knows only 125.
fn exit_code(error: &clap::Error, arguments: &[OsString]) -> u8 {
    let at = arguments::verb(arguments).unwrap_or(arguments.len());
    let is_run = arguments.iter().skip(at).take(2).any(|word| word == "run");
    let is_judged_late = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => {
            word.starts_with("--platform ") || word.starts_with("--type ")
        }
        _ => false,
    };
    let is_word = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(word)) => !word.starts_with('-'),
        Some(ContextValue::Strings(words)) => words.iter().all(|word| !word.starts_with('-')),
        _ => true,
    };
    match error.kind() {
        ClapKind::InvalidSubcommand => 1,
        ClapKind::ValueValidation | ClapKind::InvalidValue if is_judged_late && !is_run => 1,
        ClapKind::UnknownArgument | ClapKind::MissingRequiredArgument if is_word => 1,
        ClapKind::TooFewValues if is_word => 1,
        _ => 125,
    }
}

fn help_of(verb: &[&str]) -> String {
    let words = ["davit"].iter().chain(verb).chain(&["--help"]);
    words.copied().collect::<Vec<_>>().join(" ")
}

/// The first word in quotes.
fn quoted(text: &str) -> Option<&str> {
    text.split('\'').nth(1)
}

/// The verb of that path, without options that all verbs have.
fn command(path: &[&str]) -> Option<Command> {
    let mut command = Cli::command();
    for name in path {
        command = command.find_subcommand(name)?.clone();
        command.build();
    }
    Some(command)
}

/// The nearest verb below `noun`.
fn near_verb(word: &str, noun: &[&str]) -> Option<String> {
    let command = command(noun)?;
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    nearest(word, names).map(|name| format!("a similar subcommand exists: '{name}'"))
}

/// The nearest long option of `verb`.
fn near_option(word: &str, verb: &[&str]) -> Option<String> {
    let (program, command) = (Cli::command(), command(verb)?);
    let global = program.get_arguments().filter(|option| option.is_global_set());
    let options = command.get_arguments().chain(global).filter(|option| !option.is_hide_set());
    let names: Vec<&str> = options.filter_map(Arg::get_long).collect();
    let near = nearest(word.strip_prefix("--")?.split('=').next()?, names)?;
    Some(format!("a similar argument exists: '--{near}'"))
}
