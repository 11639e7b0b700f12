//! Shows the part of a Dockerfile that an error speaks of.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use davit_engine::build::{BuildError, BuildErrorKind, Excerpt};

use crate::{format::visible, printer};

/// Renders the lines around the place, the place underlined.
pub(super) fn render(excerpt: &Excerpt) -> String {
    let range = excerpt.range.clone();
    let mut annotation = AnnotationKind::Primary.span(range);
    let label = visible(&excerpt.label);
    if !label.is_empty() {
        annotation = annotation.label(&label);
    }
    let file = visible(&excerpt.file);
    let snippet = Snippet::source(&excerpt.text).path(&file).annotation(annotation);
    let group = Group::with_level(Level::ERROR).element(snippet);
    let renderer = if printer::use_color() { Renderer::styled() } else { Renderer::plain() };
    // It shows the escapes of the text as symbols; those that are there are its own colours.
    let keep_colors = |line: &str| line.split('\x1b').map(visible).collect::<Vec<_>>().join("\x1b");
    renderer.render(&[group]).lines().map(keep_colors).collect::<Vec<_>>().join("\n")
}

/// The last lines of a failed command's output.
pub(super) fn tail(error: &BuildError) -> String {
    let BuildErrorKind::Command { tail, .. } = &error.kind else { return String::new() };
    tail.iter().map(|line| format!("\n  > {}", visible(line))).collect()
}
