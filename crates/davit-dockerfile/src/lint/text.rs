//! Rules about how a Dockerfile is written.

use std::collections::BTreeSet;

use super::{Linter, Place, Rule, place};
use crate::{Instruction, Kind, Span, Stage, Word};

pub(super) fn check(linter: &mut Linter<'_>) {
    let file = linter.file;
    empty_lines(linter);
    let mut names = BTreeSet::new();
    for stage in &file.stages {
        stage_name(linter, stage, &mut names);
        as_case(linter, stage);
        if let Some(name) = &stage.name {
            describes(linter, "FROM", &[name.text.as_str()], Place::of_stage(stage));
        }
    }
    keyword_case(linter);
    let in_stages = file.stages.iter().flat_map(|stage| &stage.instructions);
    for instruction in file.global_args.iter().chain(in_stages) {
        words(linter, instruction);
    }
}

/// The line that is named is the last one of the instruction's text, whichever is empty.
fn empty_lines(linter: &mut Linter<'_>) {
    for continuation in &linter.file.empty_continuations {
        let Some(&focus) = continuation.lines.first() else { continue };
        let place = place::around(linter.file, focus);
        let (first_line, last_line) = (continuation.last_line, continuation.last_line);
        let span = Span { first_line, last_line, ..focus };
        let detail = match continuation.lines.len() {
            1 => "an empty line within the instruction".to_owned(),
            count => format!("{count} empty lines within the instruction"),
        };
        linter.note(Rule::NoEmptyContinuation, &Place { span, ..place }, detail);
    }
}

fn is_lower(text: &str) -> bool {
    text == text.to_lowercase()
}

fn is_upper(text: &str) -> bool {
    text == text.to_uppercase()
}

fn stage_name<'a>(linter: &mut Linter<'_>, stage: &'a Stage, names: &mut BTreeSet<&'a str>) {
    let (Some(name), Some(written)) = (&stage.name, &stage.written_name) else { return };
    let place = Place::of_stage(stage).at(written.span);
    if !is_lower(&written.text) {
        let detail = format!("the stage's name `{written}` has capitals");
        linter.note(Rule::StageNameCasing, &place, detail);
    }
    let meaning = match name.text.as_str() {
        "scratch" => "the empty image",
        "context" => "the build context",
        _ => "",
    };
    if !meaning.is_empty() {
        let detail = format!("`{name}` means {meaning}, not a stage");
        linter.note(Rule::ReservedStageName, &place, detail);
    }
    if !names.insert(&name.text) {
        let detail = format!("a stage above is named `{name}` too");
        linter.note(Rule::DuplicateStageName, &place, detail);
    }
}

fn as_case(linter: &mut Linter<'_>, stage: &Stage) {
    let Some(word) = &stage.as_keyword else { return };
    let from = &stage.keyword.text;
    let right = match (is_lower(from), is_upper(from)) {
        (true, _) => is_lower(&word.text),
        (_, true) => is_upper(&word.text),
        // The other rule speaks of the keyword itself.
        _ => true,
    };
    if !right {
        let place = Place::of_stage(stage).at(word.span);
        linter.note(Rule::FromAsCasing, &place, format!("`{word}` beside `{from}`"));
    }
}

/// All keywords of stages in the case of the majority; capitals win a tie.
fn keyword_case(linter: &mut Linter<'_>) {
    let file = linter.file;
    let keywords = || {
        file.stages.iter().flat_map(|stage| {
            let from: (&Word, Place<'_>) = (&stage.keyword, Place::of_stage(stage));
            let rest = stage.instructions.iter();
            std::iter::once(from).chain(rest.map(|one| (&one.keyword, Place::of(one))))
        })
    };
    let lower = keywords().filter(|(word, _)| is_lower(&word.text)).count();
    let upper = keywords().filter(|(word, _)| is_upper(&word.text)).count();
    for (word, place) in keywords() {
        let (right, case) = if lower > upper {
            (is_lower(&word.text), "lower case")
        } else {
            (is_upper(&word.text), "capitals")
        };
        if !right {
            let detail = format!("`{word}`, and most keywords are in {case}");
            linter.note(Rule::ConsistentInstructionCasing, &place.at(word.span), detail);
        }
    }
}

fn words(linter: &mut Linter<'_>, instruction: &Instruction) {
    let place = Place::of(instruction);
    match &instruction.kind {
        Kind::Maintainer(_) => {
            let detail = "use LABEL org.opencontainers.image.authors=… instead".to_owned();
            linter.note(Rule::MaintainerDeprecated, &place, detail);
        }
        Kind::Arg(definitions) => {
            let names: Vec<&str> = definitions.iter().map(|one| one.name.text.as_str()).collect();
            describes(linter, "ARG", &names, place);
        }
        _ => {}
    }
}

/// The last comment above must begin with one of `names`.
fn describes(linter: &mut Linter<'_>, keyword: &str, names: &[&str], place: Place<'_>) {
    let (Some(last), [first, rest @ ..]) = (place.comments.last(), names) else { return };
    let word = last.text.split(' ').next().unwrap_or_default();
    if names.contains(&word) {
        return;
    }
    let example = if rest.is_empty() { first } else { "NAME" };
    let detail = format!(
        "a comment right above {keyword} is its description: `# {example} …`; an empty comment line \
         below it makes it one of its own"
    );
    linter.note(Rule::InvalidDefinitionDescription, &place.at(last.span), detail);
}
