//! Stages: `FROM` and the instructions that belong to it.

use super::{
    Node, Syntax,
    flags::{Flags, Takes},
    instruction, keyword_name,
};
use crate::{Dockerfile, Kind, ParseError, ParseErrorKind, Span, Stage, Word};

/// Gives the words their meaning and sorts the instructions into stages.
pub(super) fn assemble(syntax: Syntax) -> Result<Dockerfile, ParseError> {
    let whole = whole_span(&syntax.nodes);
    let mut file = Dockerfile {
        directives: syntax.directives,
        global_args: Vec::new(),
        stages: Vec::new(),
        empty_continuations: syntax.empty_continuations,
    };
    for node in syntax.nodes {
        if node.keyword.text.eq_ignore_ascii_case("FROM") {
            file.stages.push(stage(node, file.stages.len())?);
            continue;
        }
        let span = node.span;
        let name = keyword_name(&node.keyword.text);
        let instruction = instruction::read(node)?;
        match (file.stages.last_mut(), &instruction.kind) {
            (Some(stage), _) => stage.instructions.push(instruction),
            (None, Kind::Arg(_)) => file.global_args.push(instruction),
            (None, _) => return Err(ParseError::new(ParseErrorKind::BeforeFrom(name), span)),
        }
    }
    if file.stages.is_empty() {
        return Err(ParseError::new(ParseErrorKind::NoStage, whole));
    }
    Ok(file)
}

fn whole_span(nodes: &[Node]) -> Span {
    let spans = nodes.iter().map(|node| node.span);
    spans.reduce(Span::join).unwrap_or_default()
}

fn stage(node: Node, index: usize) -> Result<Stage, ParseError> {
    let (base, as_keyword, written_name) = match <[Word; 3]>::try_from(node.arguments) {
        Ok([base, keyword, name]) if keyword.text.eq_ignore_ascii_case("as") => {
            (base, Some(keyword), Some(name))
        }
        Ok(_) => return Err(wrong_number(node.span)),
        Err(arguments) => match <[Word; 1]>::try_from(arguments) {
            Ok([base]) => (base, None, None),
            Err(_) => return Err(wrong_number(node.span)),
        },
    };
    let name = written_name.as_ref().map(stage_name).transpose()?;
    let flags = Flags::read("FROM", &node.flags, &[("platform", Takes::Text)])?;
    Ok(Stage {
        index,
        name,
        base,
        platform: flags.filled("platform"),
        keyword: node.keyword,
        as_keyword,
        written_name,
        text: node.text,
        span: node.span,
        comments: node.comments,
        instructions: Vec::new(),
    })
}

fn wrong_number(span: Span) -> ParseError {
    ParseError::arguments("FROM", "takes `image` or `image AS name`", span)
}

/// The name in lower case, if it is one: a letter, then letters, digits, `-`, `_` and `.`.
fn stage_name(written: &Word) -> Result<Word, ParseError> {
    let text = written.text.to_lowercase();
    let first = text.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if first && text.chars().all(rest) {
        return Ok(Word { text, span: written.span });
    }
    let kind = ParseErrorKind::Value {
        instruction: "FROM",
        what: "stage name",
        value: written.text.clone(),
        problem: "must begin with a letter and go on with letters, digits, - _ .".to_owned(),
    };
    Err(ParseError::new(kind, written.span))
}
