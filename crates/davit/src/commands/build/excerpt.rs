//! Shows the part of a Dockerfile that an error or a warning speaks of.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use davit_engine::build::{BuildError, BuildErrorKind, Excerpt};

use crate::{format::visible, printer};

/// Renders the lines around the place of an error for standard error.
pub(super) fn of_error(excerpt: &Excerpt) -> String {
    let renderer = if printer::use_color() { Renderer::styled() } else { Renderer::plain() };
    render(excerpt, Level::ERROR, &renderer)
}

/// Renders the lines around a place, the place underlined.
pub(super) fn render(excerpt: &Excerpt, level: Level<'_>, renderer: &Renderer) -> String {
    let mut annotation = AnnotationKind::Primary.span(excerpt.range.clone());
    let label = visible(&excerpt.label);
    if !label.is_empty() {
        annotation = annotation.label(&label);
    }
    let file = visible(&excerpt.file);
    let snippet = Snippet::source(&excerpt.text).line_start(excerpt.first_line);
    let snippet = snippet.path(&file).annotation(annotation);
    let group = Group::with_level(level).element(snippet);
    // It shows the escapes of the text as symbols; those that are there are its own colours.
    let keep_colors = |line: &str| line.split('\x1b').map(visible).collect::<Vec<_>>().join("\x1b");
    renderer.render(&[group]).lines().map(keep_colors).collect::<Vec<_>>().join("\n")
}

/// The last lines of a failed command's output.
pub(super) fn tail(error: &BuildError) -> String {
    let BuildErrorKind::Command { tail, .. } = &error.kind else { return String::new() };
    tail.iter().map(|line| format!("\n  > {}", visible(line))).collect()
}
