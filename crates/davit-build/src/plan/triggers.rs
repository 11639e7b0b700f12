//! `ONBUILD`: the instructions that a base wants to run first.

use davit_dockerfile::{Dockerfile, Escape, Instruction, Kind};

use super::planner::{Base, Planner};
use crate::error::BuildError;

impl Planner<'_> {
    /// The instructions that a stage's base wants to run first.
    pub(super) fn triggers(
        &self,
        index: usize,
        base: &Base,
    ) -> Result<Vec<Instruction>, BuildError> {
        let texts: Vec<String> = match base {
            Base::Scratch | Base::Context(_) | Base::Source(_) => Vec::new(),
            Base::Stage(below) => self.dockerfile.stages[*below]
                .instructions
                .iter()
                .filter_map(|instruction| match &instruction.kind {
                    Kind::Onbuild(onbuild) => Some(onbuild.trigger.clone()),
                    _ => None,
                })
                .collect(),
            Base::Image(key) => {
                let config = &self.images[key].0.config;
                config.config.on_build.clone().unwrap_or_default()
            }
        };
        let escape = match base {
            Base::Stage(_) => self.lexer.escape,
            _ => Escape::Backslash,
        };
        texts
            .iter()
            .map(|text| {
                parse_trigger(text, escape).map_err(|problem| {
                    let span = self.dockerfile.stages[index].base.span;
                    self.fail(span, format!("the base's ONBUILD trigger `{text}`: {problem}"))
                })
            })
            .collect()
    }
}

/// Reads the text of an `ONBUILD` trigger: one instruction.
fn parse_trigger(text: &str, escape: Escape) -> Result<Instruction, String> {
    let directive = match escape {
        Escape::Backslash => "",
        Escape::Backtick => "# escape=`\n",
    };
    let file = format!("{directive}FROM scratch\n{text}\n");
    let parsed = Dockerfile::parse(file.as_bytes()).map_err(|error| error.to_string())?;
    match <[_; 1]>::try_from(parsed.stages) {
        Ok([stage]) => match <[_; 1]>::try_from(stage.instructions) {
            Ok([instruction]) => Ok(instruction),
            Err(_) => Err("it is not one instruction".to_owned()),
        },
        Err(_) => Err("FROM is no trigger".to_owned()),
    }
}
