//! What instructions read beside their stage and the context: other stages and images.

use davit_dockerfile::{Instruction, Kind, Mount, Span, Word};

use super::planner::{Base, From, Planner};
use crate::error::BuildError;

impl Planner<'_> {
    /// What an instruction reads beside its stage and the context.
    pub(super) fn origins(
        &self,
        index: usize,
        instruction: &Instruction,
    ) -> Result<Vec<(From, Span)>, BuildError> {
        let Kind::Run(run) = &instruction.kind else {
            return Ok(self.copies_from(index, instruction)?.into_iter().collect());
        };
        let from = |word: &Word| {
            let from = self.mounts_from(index, word)?;
            Ok(from.map(|from| (from, word.span)))
        };
        run.mounts.iter().filter_map(|word| from(word).transpose()).collect()
    }

    /// What the `from` of a mount names.
    pub(crate) fn mounts_from(
        &self,
        index: usize,
        word: &Word,
    ) -> Result<Option<From>, BuildError> {
        let Some(name) = Mount::origin(&word.text) else { return Ok(None) };
        let name = self.origin_name(&name, word.span)?;
        self.origin(index, (&name, word.span), "mount from").map(Some)
    }

    /// What a `COPY --from` reads.
    pub(crate) fn copies_from(
        &self,
        index: usize,
        instruction: &Instruction,
    ) -> Result<Option<(From, Span)>, BuildError> {
        let Kind::Copy(copy) = &instruction.kind else { return Ok(None) };
        let Some(word) = &copy.from else { return Ok(None) };
        let span = word.span;
        let name = self.origin_name(&word.text, span)?;
        Ok(Some((self.origin(index, (&name, span), "copy from")?, span)))
    }

    /// What `from` says, with the variables that `FROM` knows: stages depend on it, so that it must
    /// be known before any of them.
    fn origin_name(&self, written: &str, span: Span) -> Result<String, BuildError> {
        if !written.contains('$') {
            return Ok(written.to_owned());
        }
        self.expand_global(written, span, "--from")
    }

    /// The stage or image that a name stands for in the stage `index`.
    fn origin(
        &self,
        index: usize,
        (name, span): (&str, Span),
        verb: &str,
    ) -> Result<From, BuildError> {
        if let Some(stage) = self.dockerfile.stage_index(name, index) {
            return self.stage_or_replacement(stage);
        }
        let all = self.dockerfile.stages.len();
        if let Some(named) = self.named(name, &self.request.platform) {
            return Ok(named);
        }
        if let Some(later) = self.dockerfile.stage_index(name, all) {
            let problem = if later == index {
                format!("a stage cannot {verb} itself (`{name}`)")
            } else {
                format!("stage `{name}` is defined after this one")
            };
            return Err(self.fail(span, problem).hint("only stages that stand above can be named"));
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if name.parse::<usize>().is_ok() {
            let message = format!("there is no stage number {name}");
            return Err(self.fail(span, message).hint("stages count from 0 in the file's order"));
        }
        let key = self
            .image_key(name, &self.request.platform)
            .map_err(|message| self.hint_stage(self.fail(span, message), name, index))?;
        Ok(Base::Image(key))
    }
}
