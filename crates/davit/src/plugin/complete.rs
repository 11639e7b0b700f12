//! What a shell offers after `docker buildx`: Docker asks its plugin, in the words of cobra, the
//! library of its own command line.

use std::ffi::OsString;

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::Cli;

/// Directive: these are all.
const NOTHING_ELSE: &str = ":4\n";
/// Directive: files.
const FILES: &str = ":0\n";

/// Candidates for the last word, one a line with what it means behind a tab, then a directive.
pub(super) fn candidates(words: &[OsString]) -> String {
    let Some((last, before)) = words.split_last() else { return FILES.to_owned() };
    let last = last.to_string_lossy();
    let Some(command) = command(before) else { return FILES.to_owned() };
    let line = |name: &str, about: Option<String>| {
        let about = about.unwrap_or_default();
        format!("{name}\t{}\n", about.lines().next().unwrap_or_default())
    };
    let lines: String = if last.starts_with('-') {
        let options = command.get_arguments().filter(|option| !option.is_hide_set());
        let named = options.filter_map(|it: &Arg| {
            let name = format!("--{}", it.get_long()?);
            name.starts_with(&*last).then(|| line(&name, it.get_help().map(ToString::to_string)))
        });
        named.collect()
    } else if command.has_subcommands() {
        let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
        let named = verbs.filter(|verb| verb.get_name().starts_with(&*last));
        named.map(|it| line(it.get_name(), it.get_about().map(ToString::to_string))).collect()
    } else {
        return FILES.to_owned();
    };
    lines + NOTHING_ELSE
}

/// The verb that the words have come to.
fn command(words: &[OsString]) -> Option<Command> {
    let built = |command: &Command| {
        let mut command = command.clone();
        command.build();
        command
    };
    let mut command = built(Cli::command().find_subcommand("builder")?);
    for word in words.iter().filter(|word| *word != "buildx") {
        if let Some(verb) = command.find_subcommand(word) {
            command = built(verb);
        }
    }
    Some(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_options_are_offered() {
        let of = |words: &[&str]| candidates(&words.iter().map(OsString::from).collect::<Vec<_>>());
        let verbs = of(&["buildx", ""]);
        assert!(verbs.contains("build\tBuild an image") && verbs.ends_with(":4\n"), "{verbs}");
        let options = of(&["buildx", "build", "-q", "--ta"]);
        let names: Vec<&str> =
            options.lines().map(|line| line.split('\t').next().unwrap()).collect();
        assert_eq!(names, ["--tag", "--target", ":4"]);
        assert_eq!(of(&["buildx", "imagetools", "cr"]).lines().count(), 2);
        assert_eq!((of(&["buildx", "build", ""]), of(&[])), (FILES.to_owned(), FILES.to_owned()));
    }
}
