//! Shows the part of a Dockerfile that an error speaks of.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use davit_engine::build::{BuildError, BuildErrorKind, Excerpt};

use crate::{format::visible, printer};

/// Renders the lines around the place, the place underlined.
pub(super) fn render(excerpt: &Excerpt) -> String {
    let (text, first_line, range) = around(&excerpt.text, &excerpt.range);
    let mut annotation = AnnotationKind::Primary.span(range);
    let label = visible(&excerpt.label);
    if !label.is_empty() {
        annotation = annotation.label(&label);
    }
    let file = visible(&excerpt.file);
    let snippet = Snippet::source(text).line_start(first_line).path(&file).annotation(annotation);
    let group = Group::with_level(Level::ERROR).element(snippet);
    let renderer = if printer::use_color() { Renderer::styled() } else { Renderer::plain() };
    // It shows the escapes of the text as symbols; those that are there are its own colours.
    let keep_colors = |line: &str| line.split('\x1b').map(visible).collect::<Vec<_>>().join("\x1b");
    renderer.render(&[group]).lines().map(keep_colors).collect::<Vec<_>>().join("\n")
}

/// The text from the line before `range` to the one behind it, the number of its first line, and
/// the range in it: the renderer takes many times the memory of the text that it gets.
fn around<'t>(text: &'t str, range: &Range<usize>) -> (&'t str, usize, Range<usize>) {
    let line_before = |end: usize| text[..end].rfind('\n');
    let start = line_before(range.start).and_then(line_before).map_or(0, |at| at + 1);
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
    let end = line_end(line_end(range.end));
    let first_line = text[..start].bytes().filter(|byte| *byte == b'\n').count() + 1;
    (&text[start..end], first_line, range.start - start..range.end - start)
}

/// The last lines of a failed command's output.
pub(super) fn tail(error: &BuildError) -> String {
    let BuildErrorKind::Command { tail, .. } = &error.kind else { return String::new() };
    tail.iter().map(|line| format!("\n  > {}", visible(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_far_away_are_left_out() {
        let text = "1\n2\n3\n4\n5\n6\n";
        assert_eq!(around(text, &(6..7)), ("3\n4\n5\n", 3, 2..3));
        assert_eq!(around(text, &(0..1)), ("1\n2\n", 1, 0..1));
        assert_eq!(around(text, &(12..12)), ("6\n", 6, 2..2));
        assert_eq!(around("", &(0..0)), ("", 1, 0..0));
    }
}
