//! Mending: cases as data (`tests/data/lint/mended.cases`), and properties over all other files.
//!
//! A case is a file, `+++`, the mended file, and behind `---` what was mended.

use std::collections::HashMap;

use davit_dockerfile::{
    Dockerfile, GlobalScope, Instruction, Kind, Lexer, VariableList,
    lint::{CheckOptions, Linter, Mended, StageFacts, Surroundings, Warning, mend},
};
use davit_image::Platform;

use crate::{book, generate};

/// What is found in a file whose base images are empty.
fn found(source: &[u8], file: &Dockerfile) -> Vec<Warning> {
    let (platform, given) = (Platform::new("linux", "amd64"), Default::default());
    let mut globals = GlobalScope::new(&platform, &platform, None, &given);
    let mut linter = Linter::new(source, file, CheckOptions::default());
    linter.text();
    for instruction in &file.global_args {
        let Kind::Arg(definitions) = &instruction.kind else { continue };
        for definition in definitions {
            if globals.declare(definition, &Lexer::default(), &given).is_err() {
                return linter.warnings();
            }
        }
    }
    linter.bases(&globals, Some(&globals));
    let mut names: HashMap<&str, usize> = HashMap::new();
    let facts = |stage: usize| {
        let name = file.stages[stage].name.as_ref();
        let below = names.get(file.stages[stage].base.text.as_str()).copied();
        names.extend(name.map(|name| (name.text.as_str(), stage)));
        let environment = vec!["PATH=/bin".to_owned()];
        StageFacts { stage, below, environment, ..StageFacts::default() }
    };
    linter.stages(&Surroundings {
        globals: &globals,
        build_args: &given,
        ignore: None,
        stages: (0..file.stages.len()).map(facts).collect(),
    });
    linter.warnings()
}

pub(crate) fn mended(source: &[u8]) -> Option<Mended> {
    let file = Dockerfile::parse(source).ok()?;
    Some(mend(source, &file, &found(source, &file)))
}

fn check(name: &str, before: &str, after: &str, expected: &str) {
    let Some(result) = mended(before.as_bytes()) else { panic!("{name} is no Dockerfile") };
    assert_eq!(String::from_utf8(result.text).unwrap(), after, "{name}");
    let words = |warning: &Warning| format!("{}:{}", warning.rule, warning.span.first_line);
    let list: Vec<String> = result.mended.iter().map(words).collect();
    assert_eq!(list.join(" "), expected, "{name}");
    let again = mended(after.as_bytes()).unwrap();
    assert_eq!(again.mended, [], "{name}");
    assert_eq!(String::from_utf8(again.text).unwrap(), after, "{name}");
}

#[test]
fn mends_what_needs_no_decision() {
    let path = book::folder().join("../lint/mended.cases");
    let text = fs_err::read_to_string(path).unwrap();
    let mut count = 0;
    for case in text.split("=== ").skip(1) {
        let (name, case) = case.split_once('\n').unwrap();
        let (before, rest) = case.split_once("+++\n").unwrap();
        let (after, expected) = rest.rsplit_once("---").unwrap();
        let ends = |text: &str| match name.ends_with(" crlf") {
            true => text.replace('\n', "\r\n"),
            false => text.to_owned(),
        };
        check(name, &ends(before), &ends(after), expected.trim());
        count += 1;
    }
    assert!(count >= 15, "{count}");
}

/// All comments, wherever they stand.
fn comments(source: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(source);
    let lines = text.lines().map(str::trim_start);
    lines.filter(|line| line.starts_with('#')).map(str::to_owned).collect()
}

/// What is surely no matter of a rule: everything behind the keyword.
fn body(instruction: &Instruction) -> Option<String> {
    let text = &instruction.text;
    let behind = text.trim_start_matches(|c: char| !c.is_whitespace()).to_owned();
    match &instruction.kind {
        Kind::Cmd(_)
        | Kind::Entrypoint(_)
        | Kind::Expose(_)
        | Kind::Label(_)
        | Kind::Maintainer(_)
        | Kind::Workdir(_) => None,
        Kind::Env(pairs) => {
            let variables = VariableList::from_entries(["a=1", "v=x y", "X=", "A=$b'\""]);
            let lexer = Lexer::default();
            let word = |text: &str| lexer.word(text, &variables).map(|it| it.text);
            let pairs: Vec<_> =
                pairs.iter().map(|it| (word(&it.key.text), word(&it.value.text))).collect();
            let of_word = |it: Result<String, davit_dockerfile::ExpandError>| {
                it.map_err(|error| error.kind.to_string())
            };
            let pairs = pairs.into_iter().map(|(key, value)| (of_word(key), of_word(value)));
            Some(format!("{:?}", pairs.collect::<Vec<_>>()))
        }
        _ => Some(behind),
    }
}

fn bodies(file: &Dockerfile) -> Vec<Option<String>> {
    let stages = file.stages.iter().flat_map(|stage| &stage.instructions);
    file.global_args.iter().chain(stages).map(body).collect()
}

/// Mends one file again and again; gives how many warnings were mended.
fn settle(name: &str, source: &[u8]) -> usize {
    let Ok(file) = Dockerfile::parse(source) else { return 0 };
    let (mut text, mut count, mut rounds) = (source.to_vec(), 0, 0);
    loop {
        let result = mended(&text).unwrap_or_else(|| panic!("{name} is no Dockerfile any more"));
        if result.mended.is_empty() {
            assert_eq!(result.text, text, "{name}");
            break;
        }
        assert_ne!(result.text, text, "{name}: {:?}", result.mended);
        count += result.mended.len();
        rounds += 1;
        assert!(rounds <= 2, "{name} does not settle: {:?}", result.mended);
        text = result.text;
    }
    let after = Dockerfile::parse(&text).unwrap();
    assert_eq!(bodies(&after), bodies(&file), "{name}");
    let names = |file: &Dockerfile| -> Vec<Option<String>> {
        file.stages.iter().map(|it| it.name.as_ref().map(|name| name.text.clone())).collect()
    };
    assert_eq!(names(&after), names(&file), "{name}");
    if !source.contains(&b'<') {
        let whole = || String::from_utf8_lossy(source).into_owned();
        assert_eq!(comments(&text), comments(source), "{name}: {}", whole());
    }
    count
}

#[test]
fn mending_settles_and_changes_no_meaning() {
    let mut count = 0;
    for (index, case) in book::cases().iter().enumerate() {
        count += settle(&case.name, case.text.as_bytes());
        let seed = u64::try_from(index).unwrap();
        let mutated = generate::mutate(&case.text, seed);
        count += settle(&format!("{} mutated", case.name), mutated.as_bytes());
    }
    for seed in 0..3_000 {
        let text = format!("FROM scratch\n{}", generate::file(seed));
        count += settle(&format!("generated {seed}"), text.as_bytes());
    }
    assert!(count > 300, "{count}");
}

#[test]
fn hostile_files_are_checked_at_once() {
    let names: String = (0..4_000).map(|number| format!("ENV N{number}=$M{number}\n")).collect();
    let stages: String =
        (1..4_000).map(|it| format!("FROM s{} AS s{it}\nENV N{it}=1\n", it - 1)).collect();
    let same = "FROM scratch AS s\n".repeat(4_000);
    let words = format!("COPY {} /x/\n", "$A\\\n".repeat(20_000));
    let body = format!("COPY <<E /x\n{}E\n", "$A $B $C\n".repeat(20_000));
    let lines = format!("RUN a \\\n{} b\n", "\n".repeat(20_000));
    for text in [names, format!("FROM scratch AS s0\n{stages}"), same, words, body, lines] {
        let text = if text.starts_with("FROM") { text } else { format!("FROM scratch\n{text}") };
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let warnings = found(text.as_bytes(), &file);
        assert!(warnings.len() <= 10_000);
        drop(mend(text.as_bytes(), &file, &warnings));
    }
}
