//! Rules that follow the instructions of the stages with their variables.

mod walk;

use crate::{BuildArguments, Dockerfile, GlobalScope, Instruction, Patterns};

use super::Linter;
use walk::{Failed, Walk};

/// What surrounds the stages that are checked.
#[derive(Clone, Debug)]
pub struct Surroundings<'a> {
    /// What `FROM` lines know.
    pub globals: &'a GlobalScope,
    /// `--build-arg`.
    pub build_args: &'a BuildArguments,
    /// The ignore file of the context; `None` where it has none.
    pub ignore: Option<&'a Patterns>,
    /// The stages to check, in the file's order; those that others build upon are among them.
    pub stages: Vec<StageFacts<'a>>,
}

/// What is known of a stage's base.
#[derive(Clone, Debug, Default)]
pub struct StageFacts<'a> {
    /// Index of the stage in the file.
    pub stage: usize,
    /// The stage that it builds upon; `None` for an image and for nothing.
    pub below: Option<usize>,
    /// Environment of its base image, `PATH` included, as `NAME=value`.
    pub environment: Vec<String>,
    /// Whether its base image chooses a shell.
    pub has_shell: bool,
    /// Whether a named context takes the stage's place: its instructions count for nothing.
    pub is_replaced: bool,
    /// Instructions that the base wants to run first.
    pub triggers: &'a [Instruction],
}

pub(super) fn check(linter: &mut Linter<'_>, surroundings: &Surroundings<'_>) {
    let file = linter.file;
    let mut waiting = users(file, surroundings);
    let mut ends: Vec<Option<Walk>> = vec![None; file.stages.len()];
    for facts in &surroundings.stages {
        let mut walk = match facts.below {
            Some(below) => {
                waiting[below] -= 1;
                // The last one takes it: a long chain of stages holds one state, not all.
                let end = &mut ends[below];
                let end = if waiting[below] == 0 { end.take() } else { end.clone() };
                end.map(Walk::above).unwrap_or_default()
            }
            None => Walk::upon(facts),
        };
        let stage = &file.stages[facts.stage];
        let triggers = facts.triggers.iter().map(|trigger| (trigger, true));
        let own = if facts.is_replaced { &[][..] } else { &stage.instructions };
        let own = own.iter().map(|instruction| (instruction, false));
        for (instruction, is_trigger) in triggers.chain(own) {
            let step = walk::Step { stage, instruction, is_trigger };
            if let Err(Failed) = walk.instruction(linter, surroundings, step) {
                return;
            }
        }
        if waiting[facts.stage] > 0 {
            ends[facts.stage] = Some(walk);
        }
    }
}

/// How many stages build upon each.
pub(crate) fn users(file: &Dockerfile, surroundings: &Surroundings<'_>) -> Vec<usize> {
    let mut users = vec![0; file.stages.len()];
    for below in surroundings.stages.iter().filter_map(|facts| facts.below) {
        users[below] += 1;
    }
    users
}
