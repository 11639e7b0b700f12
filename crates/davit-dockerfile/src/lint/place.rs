//! What a warning points at.

use crate::{Comment, Dockerfile, Instruction, Span, Stage};

/// An instruction, the part of it that is meant, and the comments above it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) span: Span,
    pub(super) focus: Span,
    pub(super) comments: &'a [Comment],
}

impl<'a> Place<'a> {
    /// A `FROM`, its base underlined.
    pub(super) fn of_stage(stage: &'a Stage) -> Self {
        Self { span: stage.span, focus: stage.base.span, comments: &stage.comments }
    }

    /// Another instruction, its keyword underlined.
    pub(super) fn of(instruction: &'a Instruction) -> Self {
        let (span, focus) = (instruction.span, instruction.keyword.span);
        Self { span, focus, comments: &instruction.comments }
    }

    /// The same instruction with another part underlined.
    pub(super) fn at(self, focus: Span) -> Self {
        Self { focus, ..self }
    }
}

/// The instruction that holds `span`.
pub(super) fn around(file: &Dockerfile, span: Span) -> Place<'_> {
    let stages = file.stages.partition_point(|stage| stage.span.start <= span.start);
    let Some(stage) = stages.checked_sub(1).map(|at| &file.stages[at]) else {
        let args = file.global_args.iter().map(Place::of);
        let found = args.take_while(|place| place.span.start <= span.start).last();
        return found.unwrap_or(Place { span, focus: span, comments: &[] }).at(span);
    };
    let at = stage.instructions.partition_point(|one| one.span.start <= span.start);
    let instruction = at.checked_sub(1).map(|at| Place::of(&stage.instructions[at]));
    instruction.unwrap_or_else(|| Place::of_stage(stage)).at(span)
}

/// Where `$name` or `${name` stands within `span`; `span` where it does not.
pub(super) fn use_of(source: &[u8], name: &str, span: Span) -> Span {
    let text = span.text(source);
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    let mut dollars = text.iter().enumerate().filter(|(_, byte)| **byte == b'$');
    let found = dollars.find_map(|(at, _)| {
        let brace = usize::from(text.get(at + 1) == Some(&b'{'));
        let end = at + 1 + brace + name.len();
        let is_it = text.get(at + 1 + brace..end) == Some(name.as_bytes())
            && !text.get(end).is_some_and(is_part);
        let close = usize::from(brace == 1 && text.get(end) == Some(&b'}'));
        is_it.then_some(at..end + close)
    });
    let Some(range) = found else { return span };
    let lines = text[..range.start].iter().filter(|byte| **byte == b'\n').count();
    let line = span.first_line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
    Span {
        start: span.start + range.start,
        end: span.start + range.end,
        first_line: line,
        last_line: line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_instruction_and_the_variable() {
        let source = b"ARG A\nFROM x\nENV a=$AB \\\n b=${A}\nRUN y\n";
        let file = Dockerfile::parse(source).unwrap();
        let env = &file.stages[0].instructions[0];
        let used = use_of(source, "A", env.span);
        assert_eq!(used.text(source), b"${A}");
        assert_eq!(used.first_line, 4);
        assert_eq!(around(&file, used).span, env.span);
        assert_eq!(use_of(source, "B", env.span), env.span);
        let from = &file.stages[0];
        assert_eq!(around(&file, from.base.span).span, from.span);
        assert_eq!(around(&file, file.global_args[0].span).span, file.global_args[0].span);
    }
}
