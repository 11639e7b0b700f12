//! The instructions of a Dockerfile that a build goes through, as the classic builder counts them.

use std::collections::BTreeSet;

use davit_dockerfile::{Dockerfile, Instruction, Span, Stage};

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// What is shown of it.
    pub(super) text: String,
    /// Its first line.
    pub(super) line: u32,
    /// Whether it executes a command.
    pub(super) is_run: bool,
}

/// The instructions of the stages that the target is made of; empty if the text is no Dockerfile.
pub(super) fn of(text: &[u8], target: Option<&str>) -> Vec<Step> {
    let Ok(file) = Dockerfile::parse(text) else { return Vec::new() };
    let wanted = target.map(str::to_ascii_lowercase);
    let is_wanted = |stage: &Stage| {
        let number = stage.index.to_string();
        wanted.as_deref().is_some_and(|it| named(stage) == Some(it) || it == number)
    };
    let last = file.stages.iter().position(is_wanted).unwrap_or(file.stages.len() - 1);
    let needed = needed(&file.stages[..=last]);
    let mut steps: Vec<Step> = file.global_args.iter().map(step).collect();
    for stage in file.stages.iter().filter(|stage| needed.contains(&stage.index)) {
        steps.push(from(stage));
        steps.extend(stage.instructions.iter().map(step));
    }
    steps
}

fn named(stage: &Stage) -> Option<&str> {
    stage.name.as_ref().map(|name| name.text.as_str())
}

fn from(stage: &Stage) -> Step {
    Step { text: stage.text.clone(), line: first(stage.span), is_run: false }
}

fn step(instruction: &Instruction) -> Step {
    Step {
        text: instruction.text.clone(),
        line: first(instruction.span),
        is_run: instruction.keyword.text.eq_ignore_ascii_case("run"),
    }
}

const fn first(span: Span) -> u32 {
    span.first_line
}

/// The stages that the last one is made of, by what their words name.
fn needed(stages: &[Stage]) -> BTreeSet<usize> {
    let mut needed: BTreeSet<usize> =
        stages.iter().map(|stage| stage.index).next_back().into_iter().collect();
    for stage in stages.iter().rev() {
        if !needed.contains(&stage.index) {
            continue;
        }
        let mut words = vec![stage.base.text.clone()];
        for instruction in &stage.instructions {
            words.extend(origins(&instruction.text));
        }
        let earlier = &stages[..stage.index.min(stages.len())];
        for word in words.iter().map(|word| word.to_ascii_lowercase()) {
            let found = earlier.iter().rev().find(|other| {
                named(other) == Some(word.as_str()) || other.index.to_string() == word
            });
            needed.extend(found.map(|other| other.index));
        }
    }
    needed
}

/// What an instruction takes from other stages: `--from=NAME`, and `from=NAME` of a mount.
fn origins(text: &str) -> Vec<String> {
    let flags = text.split_whitespace().skip(1).take_while(|word| word.starts_with("--"));
    let fields =
        flags.flat_map(|flag| flag.trim_start_matches("--").split([',', '=']).collect::<Vec<_>>());
    let fields: Vec<&str> = fields.collect();
    let pairs = fields.windows(2).filter(|pair| pair[0] == "from");
    pairs.map(|pair| pair[1].trim_matches('"').to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_of_needed_stages_are_steps() {
        let text = b"ARG V=1\nFROM a AS one\nRUN x\nFROM b AS unused\nRUN y\nFROM c AS two\n\
                     COPY --from=one /x /\nRUN --mount=type=bind,from=0,target=/m z \\\n  more\nFROM d\nRUN last\n";
        let shown = |target| {
            let steps =
                of(text, target).into_iter().map(|step| (step.text, step.line, step.is_run));
            steps.collect::<Vec<_>>()
        };
        let all = shown(Some("TWO"));
        let lines: Vec<u32> = all.iter().map(|(_, line, _)| *line).collect();
        assert_eq!(lines, [1, 2, 3, 6, 7, 8]);
        assert_eq!(all[1], ("FROM a AS one".to_owned(), 2, false));
        assert!(all[5].2 && all[5].0.ends_with("z   more"), "{all:?}");
        assert_eq!(shown(None).len(), 3);
        assert_eq!(of(b"NOPE", None), []);
    }
}
