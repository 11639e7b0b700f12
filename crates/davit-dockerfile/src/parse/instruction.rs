//! The meaning of each instruction's words.

use super::{
    KEYWORDS, Node,
    duration::parse_duration,
    flags::{
        Flags,
        Takes::{Switch, Text, Texts},
    },
    heredoc, keyword_name, mount,
    node::split_word,
};
use crate::{
    Add, ArgDefinition, CommandForm, CommandLine, Copy, HealthTest, Healthcheck, InlineFile,
    Instruction, KeyValue, Kind, Network, Onbuild, ParseError, ParseErrorKind, Run, Security,
    Sources, Span, Word,
};

/// Reads any instruction but `FROM`.
pub(super) fn read(node: Node) -> Result<Instruction, ParseError> {
    let name = keyword_name(&node.keyword.text);
    let kind = match name {
        "ADD" => Kind::Add(add(&node)?),
        "ARG" => Kind::Arg(args(&node)?),
        "CMD" => Kind::Cmd(command(&node, name)?),
        "COPY" => Kind::Copy(copy(&node)?),
        "ENTRYPOINT" => Kind::Entrypoint(command(&node, name)?),
        "ENV" => Kind::Env(pairs(&node, name)?),
        "EXPOSE" => Kind::Expose(ports(&node)?),
        "HEALTHCHECK" => Kind::Healthcheck(healthcheck(&node)?),
        "LABEL" => Kind::Label(pairs(&node, name)?),
        "MAINTAINER" => Kind::Maintainer(single(&node, name)?),
        "ONBUILD" => Kind::Onbuild(onbuild(&node)?),
        "RUN" => Kind::Run(run(&node)?),
        "SHELL" => Kind::Shell(shell(&node)?),
        "STOPSIGNAL" => Kind::StopSignal(only(&node, name)?),
        "USER" => Kind::User(single(&node, name)?),
        "VOLUME" => Kind::Volume(volumes(&node)?),
        "WORKDIR" => Kind::Workdir(single(&node, name)?),
        _ => {
            let kind = ParseErrorKind::UnknownInstruction(node.keyword.text.clone());
            let error = ParseError::new(kind, node.keyword.span);
            return Err(error.suggest(&node.keyword.text, KEYWORDS));
        }
    };
    let Node { keyword, text, span, comments, .. } = node;
    Ok(Instruction { kind, keyword, text, span, comments })
}

fn no_flags(node: &Node, name: &'static str) -> Result<(), ParseError> {
    Flags::read(name, &node.flags, &[]).map(drop)
}

/// Exactly one argument; flags are passed over, as the frontend does for `STOPSIGNAL`.
fn only(node: &Node, name: &'static str) -> Result<Word, ParseError> {
    match &node.arguments[..] {
        [word] => Ok(word.clone()),
        _ => Err(ParseError::arguments(name, "takes exactly one argument", node.span)),
    }
}

fn single(node: &Node, name: &'static str) -> Result<Word, ParseError> {
    let word = only(node, name)?;
    no_flags(node, name)?;
    Ok(word)
}

fn some(node: &Node, name: &'static str) -> Result<(), ParseError> {
    if node.arguments.is_empty() {
        return Err(ParseError::arguments(name, "needs an argument", node.span));
    }
    Ok(())
}

fn pairs(node: &Node, name: &'static str) -> Result<Vec<KeyValue>, ParseError> {
    no_flags(node, name)?;
    some(node, name)?;
    node.arguments
        .chunks_exact(2)
        .map(|pair| {
            let (key, value) = (pair[0].clone(), pair[1].clone());
            if key.text.is_empty() {
                return Err(ParseError::arguments(name, "has a blank name", value.span));
            }
            Ok(KeyValue { key, value, legacy: node.legacy })
        })
        .collect()
}

/// Flags of `ARG` are passed over, as the frontend does.
fn args(node: &Node) -> Result<Vec<ArgDefinition>, ParseError> {
    some(node, "ARG")?;
    node.arguments
        .iter()
        .map(|word| match split_word(word, '=') {
            None => Ok(ArgDefinition { name: word.clone(), default: None }),
            Some((name, _)) if name.text.is_empty() => {
                Err(ParseError::arguments("ARG", "has a blank name", word.span))
            }
            Some((name, value)) => Ok(ArgDefinition { name, default: Some(value) }),
        })
        .collect()
}

fn ports(node: &Node) -> Result<Vec<Word>, ParseError> {
    some(node, "EXPOSE")?;
    no_flags(node, "EXPOSE")?;
    let mut ports = node.arguments.clone();
    ports.sort_by(|one, other| one.text.cmp(&other.text));
    Ok(ports)
}

fn volumes(node: &Node) -> Result<Vec<Word>, ParseError> {
    some(node, "VOLUME")?;
    no_flags(node, "VOLUME")?;
    node.arguments
        .iter()
        .map(|word| match word.text.trim() {
            "" => Err(ParseError::arguments("VOLUME", "has an empty path", node.span)),
            path => Ok(Word { text: path.to_owned(), span: word.span }),
        })
        .collect()
}

fn shell(node: &Node) -> Result<Vec<Word>, ParseError> {
    no_flags(node, "SHELL")?;
    some(node, "SHELL")?;
    if !node.json {
        let problem = "takes a JSON array, such as [\"/bin/sh\", \"-c\"]";
        return Err(ParseError::arguments("SHELL", problem, node.span));
    }
    Ok(node.arguments.clone())
}

fn command_line(node: &Node) -> CommandLine {
    let form = if node.json {
        CommandForm::Exec(node.arguments.clone())
    } else {
        let empty = Word { text: String::new(), span: node.keyword.span };
        CommandForm::Shell(node.arguments.first().cloned().unwrap_or(empty))
    };
    CommandLine { form, heredocs: node.heredocs.clone() }
}

fn command(node: &Node, name: &'static str) -> Result<CommandLine, ParseError> {
    no_flags(node, name)?;
    Ok(command_line(node))
}

fn run(node: &Node) -> Result<Run, ParseError> {
    const KNOWN: [(&str, super::flags::Takes); 4] =
        [("mount", Texts), ("network", Text), ("security", Text), ("device", Texts)];
    let flags = Flags::read("RUN", &node.flags, &KNOWN)?;
    let mounts = flags.texts("mount");
    for mount in &mounts {
        mount::check(mount)?;
    }
    let network = match flags.text("network") {
        None => Network::Default,
        Some(word) => match word.text.as_str() {
            "default" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            _ => return Err(not_one_of("network", &word, &["default", "none", "host"])),
        },
    };
    let security = match flags.text("security") {
        None => Security::Sandbox,
        Some(word) => match word.text.as_str() {
            "sandbox" => Security::Sandbox,
            "insecure" => Security::Insecure,
            _ => return Err(not_one_of("security", &word, &["sandbox", "insecure"])),
        },
    };
    let devices = flags.texts("device").iter().map(mount::device).collect::<Result<_, _>>()?;
    Ok(Run { command: command_line(node), mounts, network, security, devices })
}

fn not_one_of(flag: &str, word: &Word, values: &[&'static str]) -> ParseError {
    let kind = ParseErrorKind::Flag {
        instruction: "RUN",
        flag: flag.to_owned(),
        problem: format!("takes {}, not `{}`", values.join(", "), word.text),
    };
    ParseError::new(kind, word.span).suggest(&word.text, values.iter().copied())
}

fn copy(node: &Node) -> Result<Copy, ParseError> {
    const KNOWN: [(&str, super::flags::Takes); 6] = [
        ("from", Text),
        ("chown", Text),
        ("chmod", Text),
        ("link", Switch),
        ("parents", Switch),
        ("exclude", Texts),
    ];
    enough(node, "COPY")?;
    let flags = Flags::read("COPY", &node.flags, &KNOWN)?;
    Ok(Copy {
        sources: sources(node, "COPY")?,
        from: flags.filled("from"),
        chown: flags.filled("chown"),
        chmod: flags.filled("chmod"),
        link: flags.switch("link").unwrap_or_default(),
        parents: flags.switch("parents").unwrap_or_default(),
        exclude: flags.texts("exclude"),
    })
}

fn add(node: &Node) -> Result<Add, ParseError> {
    const KNOWN: [(&str, super::flags::Takes); 7] = [
        ("chown", Text),
        ("chmod", Text),
        ("checksum", Text),
        ("link", Switch),
        ("keep-git-dir", Switch),
        ("unpack", Switch),
        ("exclude", Texts),
    ];
    enough(node, "ADD")?;
    let flags = Flags::read("ADD", &node.flags, &KNOWN)?;
    Ok(Add {
        sources: sources(node, "ADD")?,
        chown: flags.filled("chown"),
        chmod: flags.filled("chmod"),
        checksum: flags.filled("checksum"),
        link: flags.switch("link").unwrap_or_default(),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
        exclude: flags.texts("exclude"),
    })
}

fn enough(node: &Node, name: &'static str) -> Result<(), ParseError> {
    if node.arguments.len() < 2 {
        return Err(ParseError::arguments(name, "needs a source and a destination", node.span));
    }
    Ok(())
}

fn sources(node: &Node, name: &'static str) -> Result<Sources, ParseError> {
    let delimiter = |word: &Word| heredoc::delimiter(&word.text).ok().flatten();
    let Some((destination, sources)) = node.arguments.split_last() else {
        return Err(ParseError::arguments(name, "needs a source and a destination", node.span));
    };
    if delimiter(destination).is_some() {
        let problem = "cannot have a heredoc as destination";
        return Err(ParseError::arguments(name, problem, destination.span));
    }
    let mut paths = Vec::new();
    let mut files = Vec::new();
    for source in sources {
        let Some(delimiter) = delimiter(source) else {
            paths.push(source.clone());
            continue;
        };
        // Of two bodies with one name the last one counts, as for the frontend.
        let body = node.heredocs.iter().rfind(|heredoc| heredoc.name == delimiter.name);
        let content = body.map(crate::Heredoc::body).unwrap_or_default();
        let span = body.map_or(source.span, |heredoc| heredoc.span);
        let (name, expand) = (delimiter.name, delimiter.expand);
        files.push(InlineFile { name, content, expand, span });
    }
    Ok(Sources { paths, files, destination: destination.clone() })
}

fn healthcheck(node: &Node) -> Result<Healthcheck, ParseError> {
    const KNOWN: [(&str, super::flags::Takes); 5] = [
        ("interval", Text),
        ("timeout", Text),
        ("start-period", Text),
        ("start-interval", Text),
        ("retries", Text),
    ];
    some(node, "HEALTHCHECK")?;
    let (kind, rest) = (&node.arguments[0], &node.arguments[1..]);
    let mut check = Healthcheck {
        test: HealthTest::None,
        interval_ns: 0,
        timeout_ns: 0,
        start_period_ns: 0,
        start_interval_ns: 0,
        retries: 0,
    };
    if kind.text.eq_ignore_ascii_case("NONE") {
        if !rest.is_empty() {
            let problem = "NONE takes no arguments";
            return Err(ParseError::arguments("HEALTHCHECK", problem, node.span));
        }
        return Ok(check);
    }
    let flags = Flags::read("HEALTHCHECK", &node.flags, &KNOWN)?;
    check.test = health_test(node, kind, rest)?;
    check.interval_ns = interval(&flags, "interval")?;
    check.timeout_ns = interval(&flags, "timeout")?;
    check.start_period_ns = interval(&flags, "start-period")?;
    check.start_interval_ns = interval(&flags, "start-interval")?;
    if let Some(word) = flags.filled("retries") {
        let number = word.text.strip_prefix('+').unwrap_or(&word.text);
        let retries = number.parse::<u32>().ok().filter(|&retries| i32::try_from(retries).is_ok());
        let wrong = || wrong_health_flag("retries", &word, "is no number from 0 to 2147483647");
        check.retries = retries.ok_or_else(wrong)?;
    }
    Ok(check)
}

fn health_test(node: &Node, kind: &Word, rest: &[Word]) -> Result<HealthTest, ParseError> {
    if !kind.text.eq_ignore_ascii_case("CMD") {
        let problem = "takes CMD or NONE";
        let error = ParseError::arguments("HEALTHCHECK", problem, kind.span);
        return Err(error.suggest(&kind.text, ["CMD", "NONE"]));
    }
    match rest {
        [] => Err(ParseError::arguments("HEALTHCHECK", "has no command behind CMD", node.span)),
        words if node.json => Ok(HealthTest::Exec(words.to_vec())),
        [line, ..] => Ok(HealthTest::Shell(line.clone())),
    }
}

fn wrong_health_flag(flag: &str, word: &Word, problem: &str) -> ParseError {
    let kind = ParseErrorKind::Flag {
        instruction: "HEALTHCHECK",
        flag: flag.to_owned(),
        problem: format!("value `{}` {problem}", word.text),
    };
    ParseError::new(kind, word.span)
}

/// Nanoseconds of a duration flag: 0, or at least a millisecond.
fn interval(flags: &Flags, flag: &'static str) -> Result<i64, ParseError> {
    let Some(word) = flags.filled(flag) else { return Ok(0) };
    match parse_duration(&word.text) {
        Some(0) => Ok(0),
        Some(nanoseconds) if nanoseconds >= 1_000_000 => Ok(nanoseconds),
        Some(_) => Err(wrong_health_flag(flag, &word, "is less than 1ms")),
        None => Err(wrong_health_flag(flag, &word, "is no duration such as 1m30s")),
    }
}

fn onbuild(node: &Node) -> Result<Onbuild, ParseError> {
    let Some(trigger) = &node.trigger else {
        return Err(ParseError::arguments("ONBUILD", "needs an instruction", node.span));
    };
    no_flags(node, "ONBUILD")?;
    let refused = |problem| Err(ParseError::arguments("ONBUILD", problem, trigger_span(trigger)));
    match trigger.keyword.text.to_ascii_uppercase().as_str() {
        "ONBUILD" => return refused("cannot trigger another ONBUILD"),
        "FROM" => return refused("cannot trigger FROM"),
        "MAINTAINER" => return refused("cannot trigger MAINTAINER"),
        _ => {}
    }
    let mut text = node.rest.clone();
    for heredoc in &node.heredocs {
        text.push('\n');
        text.push_str(&heredoc.content);
        text.push_str(&heredoc.name);
    }
    Ok(Onbuild { trigger: text, keyword: trigger.keyword.clone() })
}

fn trigger_span(trigger: &Node) -> Span {
    trigger.keyword.span
}
