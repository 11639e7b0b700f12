//! What a build makes of a file, whatever way it is written.

use super::edits::AUTHORS;
use crate::{
    CommandForm, CommandLine, Directives, Dockerfile, Escape, HealthTest, Instruction, KeyValue,
    Kind, Lexer, NoVariables, Span, Stage, Variables, Word,
};

/// A file without spans, comments, cases, quotes: two of the same meaning are built alike.
#[derive(Debug, PartialEq)]
pub(super) struct Meaning {
    directives: [Option<String>; 3],
    arguments: Vec<Kind>,
    stages: Vec<StageMeaning>,
}

#[derive(Debug, PartialEq)]
struct StageMeaning {
    name: Option<String>,
    base: String,
    platform: Option<String>,
    instructions: Vec<Kind>,
}

impl Meaning {
    pub(super) fn of(file: &Dockerfile) -> Self {
        let Directives { syntax, escape, check } = &file.directives;
        let lexer = Lexer::new(file.directives.escape());
        let kinds = |instructions: &[Instruction]| {
            instructions.iter().map(|it| kind(&it.kind, &lexer)).collect()
        };
        Self {
            directives: [syntax, escape, check].map(|it| it.as_ref().map(|it| it.value.clone())),
            arguments: kinds(&file.global_args),
            stages: file.stages.iter().map(|it| stage(it, kinds(&it.instructions))).collect(),
        }
    }
}

fn stage(stage: &Stage, instructions: Vec<Kind>) -> StageMeaning {
    let platform = stage.platform.as_ref().map(|it| it.text.clone());
    StageMeaning {
        name: stage.name.as_ref().map(|name| name.text.clone()),
        base: stage.base.text.clone(),
        platform: platform.filter(|platform| !is_default_platform(platform)),
        instructions,
    }
}

/// Whether `--platform` says what is so without it.
pub(super) fn is_default_platform(text: &str) -> bool {
    matches!(text, "$TARGETPLATFORM" | "${TARGETPLATFORM}")
}

fn kind(kind: &Kind, lexer: &Lexer) -> Kind {
    let mut kind = kind.clone();
    forget_places(&mut kind);
    match kind {
        Kind::Env(pairs) => Kind::Env(normal_pairs(pairs, lexer)),
        Kind::Label(pairs) => Kind::Label(normal_pairs(pairs, lexer)),
        Kind::Maintainer(name) => {
            let word = |text: &str| Word { text: text.to_owned(), ..Word::default() };
            let (key, value) = (literal(AUTHORS), literal(&name.text));
            Kind::Label(vec![KeyValue { key: word(&key), value: word(&value), legacy: false }])
        }
        Kind::Cmd(line) => Kind::Cmd(normal_command(line)),
        Kind::Entrypoint(line) => Kind::Entrypoint(normal_command(line)),
        Kind::Workdir(mut path) => {
            let text = path.text.trim_start_matches('/');
            path.text = text.strip_prefix("./").unwrap_or(text).to_owned();
            Kind::Workdir(path)
        }
        Kind::Expose(mut ports) => {
            for port in ports.iter_mut().filter(|port| !port.text.contains('$')) {
                port.text = port.text.to_lowercase();
            }
            ports.sort_by(|one, other| one.text.cmp(&other.text));
            Kind::Expose(ports)
        }
        other => other,
    }
}

fn normal_pairs(pairs: Vec<KeyValue>, lexer: &Lexer) -> Vec<KeyValue> {
    let pair = |mut pair: KeyValue| {
        pair.key.text = expansions(&pair.key.text, lexer);
        pair.value.text = expansions(&pair.value.text, lexer);
        KeyValue { legacy: false, ..pair }
    };
    pairs.into_iter().map(pair).collect()
}

/// A command of plain words is the same as an array of them.
fn normal_command(line: CommandLine) -> CommandLine {
    let form = match line.form {
        CommandForm::Exec(words)
            if !words.is_empty() && words.iter().all(|word| is_plain(&word.text)) =>
        {
            let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            CommandForm::Shell(Word { text: words.join(" "), ..Word::default() })
        }
        CommandForm::Shell(word) => {
            let words: Vec<&str> = word.text.split_ascii_whitespace().collect();
            if words.iter().all(|word| is_plain(word)) {
                CommandForm::Shell(Word { text: words.join(" "), ..Word::default() })
            } else {
                CommandForm::Shell(word)
            }
        }
        exec @ CommandForm::Exec(_) => exec,
    };
    CommandLine { form, ..line }
}

/// Whether neither a shell nor JSON sees more than letters in a word.
pub(super) fn is_plain(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:=@%+,-".contains(c);
    !word.is_empty() && word.chars().all(plain)
}

/// Every variable is set, to a text that nobody writes.
struct AllSet;

impl Variables for AllSet {
    fn value(&self, _name: &str) -> Option<&str> {
        Some("\u{1}set\u{2}")
    }
}

/// What a word becomes where all variables are set, and where none is; the text itself where it
/// cannot be expanded.
fn expansions(word: &str, lexer: &Lexer) -> String {
    let set = lexer.word(word, &AllSet);
    let names = set.as_ref().map_or_else(|_| Vec::new(), |it| it.matched.iter().cloned().collect());
    let unset = lexer.word(word, &NoVariables);
    match (set, unset) {
        (Err(_), Err(_)) => format!("{word}\0\0"),
        (set, unset) => {
            let text =
                |it: Result<crate::Expanded, _>| it.map_or_else(|_| String::new(), |it| it.text);
            format!("{}\0{}\0{}", text(set), text(unset), names.join(" "))
        }
    }
}

/// What a text without variables becomes.
fn literal(text: &str) -> String {
    format!("{text}\0{text}\0")
}

/// Whether `KEYWORD name=value` is one pair of the same meaning as `pair`, written `name value`.
pub(super) fn pair_means(
    escape: Escape,
    instruction: &Instruction,
    pair: &KeyValue,
    value: &str,
) -> bool {
    let directive = match escape {
        Escape::Backslash => "",
        Escape::Backtick => "# escape=`\n",
    };
    let keyword = &instruction.keyword.text;
    let text = format!("{directive}FROM x\n{keyword} {}={value}\n", pair.key.text);
    let Ok(file) = Dockerfile::parse(text.as_bytes()) else { return false };
    let [stage] = &file.stages[..] else { return false };
    let [found] = &stage.instructions[..] else { return false };
    let lexer = Lexer::new(escape);
    kind(&found.kind, &lexer) == kind(&instruction.kind, &lexer)
}

/// Sets all spans to nothing.
fn forget_places(kind: &mut Kind) {
    fn words<'w>(words: impl IntoIterator<Item = &'w mut Word>) {
        words.into_iter().for_each(|word| word.span = Span::default());
    }
    let command = |line: &mut CommandLine| {
        match &mut line.form {
            CommandForm::Shell(word) => words([word]),
            CommandForm::Exec(list) => words(list),
        }
        line.heredocs.iter_mut().for_each(|heredoc| heredoc.span = Span::default());
    };
    let sources = |sources: &mut crate::Sources| {
        words(sources.paths.iter_mut().chain([&mut sources.destination]));
        sources.files.iter_mut().for_each(|file| file.span = Span::default());
    };
    match kind {
        Kind::Add(add) => {
            sources(&mut add.sources);
            words([&mut add.chown, &mut add.chmod, &mut add.checksum].into_iter().flatten());
            words(&mut add.exclude);
        }
        Kind::Arg(definitions) => {
            for definition in definitions {
                words([&mut definition.name].into_iter().chain(&mut definition.default));
            }
        }
        Kind::Cmd(line) | Kind::Entrypoint(line) => command(line),
        Kind::Copy(copy) => {
            sources(&mut copy.sources);
            words([&mut copy.from, &mut copy.chown, &mut copy.chmod].into_iter().flatten());
            words(&mut copy.exclude);
        }
        Kind::Env(pairs) | Kind::Label(pairs) => {
            pairs.iter_mut().for_each(|pair| words([&mut pair.key, &mut pair.value]));
        }
        Kind::Expose(list) | Kind::Shell(list) | Kind::Volume(list) => words(list),
        Kind::Healthcheck(check) => match &mut check.test {
            HealthTest::None => {}
            HealthTest::Shell(word) => words([word]),
            HealthTest::Exec(list) => words(list),
        },
        Kind::Maintainer(word)
        | Kind::StopSignal(word)
        | Kind::User(word)
        | Kind::Workdir(word) => words([word]),
        Kind::Onbuild(onbuild) => words([&mut onbuild.keyword]),
        Kind::Run(run) => {
            command(&mut run.command);
            words(&mut run.mounts);
            run.devices.iter_mut().for_each(|device| device.span = Span::default());
        }
    }
}
