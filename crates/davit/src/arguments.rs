//! From words to [`Cli`]: what Docker's command line takes and clap does not.
//!
//! Docker's boolean options take a value behind `=`, as Go's `strconv.ParseBool` reads it, and its
//! other options take the next word even where that begins with a hyphen. Clap parses the words
//! first; only those that it refuses are looked through for both, so they cost nothing where there
//! are none.

use std::{any::TypeId, ffi::OsString};

use clap::{
    Arg, ArgAction, Command, CommandFactory as _, FromArgMatches as _, builder::Resettable,
    error::ErrorKind as ClapKind,
};

use crate::{cli::Cli, environment};

/// Parses the arguments of a process, its own name first.
///
/// # Errors
/// What clap says, also where help or version is asked for.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let error = match read(arguments) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => Err(error),
        ClapKind::InvalidSubcommand => Err(help_verb(arguments).unwrap_or(error)),
        _ => match Spelling::default().of(arguments)? {
            Some(words) => read(&words),
            None => Err(error),
        },
    }
}

fn read(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    // A variable that is set to nothing is not set.
    let mut command = ["root", "run_root"].into_iter().fold(Cli::command(), |command, root| {
        command.mut_arg(root, |flag| match flag.get_env().is_some_and(environment::is_empty) {
            true => flag.env(Resettable::Reset),
            false => flag,
        })
    });
    if verb(arguments).is_some_and(|at| arguments[at] == "registry") {
        // A registry's folder is another than that of images and containers.
        command = command.mut_arg("root", |flag| {
            let help = "Folder of the registry (default /var/lib/davit-registry)";
            flag.env(Resettable::Reset).help(help)
        });
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// The help of `davit help VERB…`.
fn help_verb(arguments: &[OsString]) -> Option<clap::Error> {
    let index = verb(arguments).filter(|&index| arguments[index] == "help")?;
    let mut words = arguments.to_vec();
    words.remove(index);
    words.push("--help".into());
    let error = read(&words).err()?;
    if error.kind() == ClapKind::DisplayHelp {
        return Some(error);
    }
    let topic = arguments[index + 1..].join(" ".as_ref());
    let text = format!("unknown help topic: {}", topic.to_string_lossy());
    Some(clap::Error::raw(ClapKind::InvalidSubcommand, text))
}

/// The help of the noun that arguments without a verb name.
pub(crate) fn noun_help(arguments: &[OsString]) -> Option<String> {
    let mut words = arguments.to_vec();
    words.push("--help".into());
    let error = read(&words).err().filter(|error| error.kind() == ClapKind::DisplayHelp)?;
    Some(error.render().to_string())
}

/// Where the verb is among arguments that may not be parsable: the first word that is no global
/// option.
pub(crate) fn verb(arguments: &[OsString]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = arguments.get(at)?;
        if !word.to_string_lossy().starts_with('-') {
            return Some(at);
        }
        let takes_value = ["--root", "--run-root", "--config"].iter().any(|option| word == option);
        at += if takes_value { 2 } else { 1 };
    }
}

/// Go's `strconv.ParseBool`.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Arguments on their way to a form that clap understands.
#[derive(Default)]
struct Spelling {
    /// The program, then each verb that was met.
    commands: Vec<Command>,
    words: Vec<OsString>,
    changed: bool,
}

impl Spelling {
    /// The words as clap takes them; `None` if they were so from the start.
    fn of(mut self, arguments: &[OsString]) -> Result<Option<Vec<OsString>>, clap::Error> {
        self.commands.push(Cli::command());
        let mut rest = arguments.iter();
        self.words.extend(rest.next().cloned());
        while let Some(word) = rest.next() {
            let text = word.to_str().unwrap_or_default();
            let value_follows = match text.strip_prefix("--") {
                Some("") => {
                    self.words.push(word.clone());
                    break;
                }
                Some(option) => self.long(option, word)?,
                None if text.starts_with('-') && text.len() > 1 => self.cluster(text)?,
                None => {
                    self.words.push(word.clone());
                    if !self.descend(text) {
                        break;
                    }
                    false
                }
            };
            if value_follows && let Some(value) = rest.next() {
                self.value(value);
            }
        }
        self.words.extend(rest.cloned());
        Ok(Some(self.words).filter(|_| self.changed))
    }

    /// Adds the value of the last word; to Docker it is one whatever it looks like.
    fn value(&mut self, value: &OsString) {
        match self.words.last_mut() {
            Some(option) if value.to_string_lossy().starts_with('-') => {
                option.push("=");
                option.push(value);
                self.changed = true;
            }
            _ => self.words.push(value.clone()),
        }
    }

    /// Enters a verb; whether options may follow the word.
    fn descend(&mut self, word: &str) -> bool {
        let Some(command) = self.commands.last() else { return false };
        if let Some(verb) = command.find_subcommand(word) {
            let mut verb = verb.clone();
            verb.build();
            self.commands.push(verb);
            return true;
        }
        !command.get_positionals().any(Arg::is_trailing_var_arg_set)
    }

    fn option(&self, is: impl Fn(&Arg) -> bool) -> Option<Arg> {
        let mut all = self.commands.iter().rev().flat_map(Command::get_arguments);
        all.find(|option| is(option)).cloned()
    }

    /// Takes `--NAME` or `--NAME=VALUE`; whether the next word is its value.
    fn long(&mut self, text: &str, word: &OsString) -> Result<bool, clap::Error> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let option = self.option(|option| {
            let mut aliases = option.get_all_aliases().into_iter().flatten();
            option.get_long() == Some(name) || aliases.any(|alias| alias == name)
        });
        match (option, value) {
            (Some(option), Some(value)) if is_boolean(&option) => {
                self.set(&option, value)?;
                Ok(false)
            }
            (option, value) => {
                self.words.push(word.clone());
                Ok(value.is_none() && option.is_some_and(|option| needs_value(&option)))
            }
        }
    }

    /// Takes letters apart, `-it=false` being `-i` and `-t=false`; whether the next word is the
    /// last one's value.
    fn cluster(&mut self, text: &str) -> Result<bool, clap::Error> {
        let mut letters = text[1..].chars();
        while let Some(letter) = letters.next() {
            let rest = letters.as_str();
            let option = self.option(|option| option.get_short() == Some(letter));
            match option {
                Some(option) if is_boolean(&option) => {
                    if let Some(value) = rest.strip_prefix('=') {
                        self.set(&option, value)?;
                        return Ok(false);
                    }
                    self.words.push(option_word(&option));
                }
                option => {
                    self.words.push(format!("-{letter}{rest}").into());
                    return Ok(rest.is_empty() && option.is_some_and(|it| needs_value(&it)));
                }
            }
        }
        Ok(false)
    }

    /// Sets a boolean option; the last value counts.
    fn set(&mut self, option: &Arg, value: &str) -> Result<(), clap::Error> {
        self.changed = true;
        let word = option_word(option);
        let value = boolean(value).ok_or_else(|| {
            let text = format!(
                "invalid value '{value}' for '{}': true or false is expected",
                word.to_string_lossy()
            );
            clap::Error::raw(ClapKind::InvalidValue, text)
        })?;
        if takes_value(option) {
            self.words.push(format!("{}={value}", word.to_string_lossy()).into());
        } else if value {
            self.words.push(word);
        } else {
            let short = option.get_short().map(|letter| OsString::from(format!("-{letter}")));
            self.words.retain(|known| *known != word && Some(known) != short.as_ref());
        }
        Ok(())
    }
}

fn option_word(option: &Arg) -> OsString {
    format!("--{}", option.get_long().unwrap_or_else(|| option.get_id().as_str())).into()
}

fn is_boolean(option: &Arg) -> bool {
    match option.get_action() {
        ArgAction::SetTrue => true,
        ArgAction::Set => option.get_value_parser().type_id() == TypeId::of::<bool>(),
        _ => false,
    }
}

fn takes_value(option: &Arg) -> bool {
    // What the program's own options take is not worked out yet.
    let takes = option.get_num_args().map(|number| number.takes_values());
    takes.unwrap_or_else(|| option.get_action().takes_values())
}

fn needs_value(option: &Arg) -> bool {
    takes_value(option) && !option.is_require_equals_set()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn parsed(line: &str) -> Result<String, String> {
        let parsed = parse(&words(&format!("davit {line}")));
        parsed.map(|cli| format!("{cli:?}")).map_err(|error| error.render().to_string())
    }

    /// Both lines are understood, as the same.
    fn same(line: &str, plain: &str) {
        assert_eq!(parsed(line), Ok(parsed(plain).expect(plain)), "{line}");
    }

    #[test]
    fn a_value_may_be_attached_to_its_letter() {
        same(
            "run --rm -p18099:80 -eA=1 -w/tmp -v/tmp:/t -u1000 -m64m -la=b alpine",
            "run --rm --publish 18099:80 --env A=1 --workdir /tmp --volume /tmp:/t --user 1000 \
             --memory 64m --label a=b alpine",
        );
        same("create -p=80 -itw/tmp a", "create --publish 80 -i -t --workdir /tmp a");
        same("exec -uroot -eA=1 c true", "exec --user root --env A=1 c true");
        same("run -hbox alpine", "run --hostname box alpine");
        same("container create -h box alpine", "container create --hostname box alpine");
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        for (line, words) in [
            ("run --rm alpine ls -la", r#"["alpine", "ls", "-la"]"#),
            ("run alpine -- x", r#"["alpine", "--", "x"]"#),
            ("run -it alpine sh -c x", r#"["alpine", "sh", "-c", "x"]"#),
            ("run alpine --rm=false -d", r#"["alpine", "--rm=false", "-d"]"#),
            ("run --rm=true alpine --rm=false", r#"["alpine", "--rm=false"]"#),
            ("run -e A -- alpine --x", r#"["alpine", "--x"]"#),
            ("run alpine -h", r#"["alpine", "-h"]"#),
            ("run alpine --help", r#"["alpine", "--help"]"#),
            ("run --disable-content-trust alpine true", r#"["alpine", "true"]"#),
            ("exec -it c sh -c x", r#"["c", "sh", "-c", "x"]"#),
            ("exec c -i", r#"["c", "-i"]"#),
            ("exec -- c sh", r#"["c", "sh"]"#),
        ] {
            let cli = parsed(line).expect(line);
            assert!(cli.contains(words), "{line}: {cli}");
        }
    }

    #[test]
    fn a_value_may_begin_with_a_hyphen() {
        same("run --name -bad -e --rm=0 alpine", "run --name=-bad --env=--rm=0 alpine");
        same("run -it --label -- --rm alpine", "run -it --label=-- --rm alpine");
        same("exec -w -x c true", "exec --workdir=-x c true");
        same("build -t - .", "build --tag=- .");
    }

    #[test]
    fn boolean_options_take_a_value_as_dockers() {
        for (line, plain) in [
            ("run --rm=false alpine", "run alpine"),
            ("run --rm --rm=false alpine", "run alpine"),
            ("run --rm=false --rm alpine", "run --rm alpine"),
            ("run --detach=true --read-only=1 --privileged=F a", "run --detach --read-only a"),
            ("run -dit=true alpine", "run -d -i -t alpine"),
            ("run -it -t=0 alpine", "run -i alpine"),
            ("run -i=true --name x alpine", "run -i --name x alpine"),
            ("run --sig-proxy=0 alpine", "run --sig-proxy=false alpine"),
            ("run --disable-content-trust=T a", "run --disable-content-trust=true a"),
            ("exec -i=t --tty=FALSE c x", "exec -i c x"),
            ("ps -a=true --no-trunc=false -q", "ps -a -q"),
            ("container ls --all=TRUE", "container ls -a"),
            ("logs --follow=false -t=True c", "logs -t c"),
            ("rm c --force=true", "rm -f c"),
            ("build --no-cache=true -q=f .", "build --no-cache ."),
            ("--root /x -D=1 ps --size=0", "--root /x -D ps"),
            ("history -H=0 a", "history --human=false a"),
            ("commit -p=f c", "commit --pause=false c"),
        ] {
            same(line, plain);
        }
        for (line, named) in [
            ("run --rm=maybe alpine", "invalid value 'maybe' for '--rm'"),
            ("run --rm= alpine", "invalid value '' for '--rm'"),
            ("run -i=x alpine", "invalid value 'x' for '--interactive'"),
            ("run --rm=false --bad=true alpine", "unexpected argument '--bad'"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn options_and_names_may_be_mixed() {
        for (line, plain) in [
            ("rm c1 -f", "rm -f c1"),
            ("rm -- c1", "rm c1"),
            ("ps -a -q", "ps -aq"),
            ("logs c -f", "logs -f c"),
            ("logs -n5 c", "logs --tail 5 c"),
            ("stop c -t3", "stop --time 3 c"),
            ("images -q alpine --no-trunc", "images --no-trunc -q alpine"),
            ("build . -tname -fDockerfile", "build -t name -f Dockerfile ."),
        ] {
            same(line, plain);
        }
    }

    #[test]
    fn help_is_a_verb_too() {
        let help = |line| {
            let error = parse(&words(line)).expect_err(line);
            (error.kind(), error.render().to_string())
        };
        for (line, plain) in [
            ("davit help", "davit --help"),
            ("/x/other help run", "davit run --help"),
            ("davit --root x help container ls", "davit container ls -h"),
        ] {
            assert_eq!(help(line), help(plain), "{line}");
        }
        for (line, plain) in [("davit", "davit -h"), ("x -D container", "davit container -h")] {
            assert_eq!(noun_help(&words(line)), Some(help(plain).1), "{line}");
        }
        assert!(help("davit help bogus").1.contains("unknown help topic: bogus"));
        assert!(help("davit run --help").1.contains("Usage: davit run [OPTIONS] IMAGE [COMMAND]"));
        assert_eq!(help("davit -v"), help("davit --version"));
    }

    #[test]
    fn finds_the_verb() {
        let verb_of = |line: &str| {
            let words = words(line);
            verb(&words).map(|index| words[index].to_string_lossy().into_owned())
        };
        assert_eq!(verb_of("davit --root copy -D run --bad").as_deref(), Some("run"));
        assert_eq!(verb_of("davit --root=copy man").as_deref(), Some("man"));
        assert_eq!(verb_of("davit --bad"), None);
    }
}
