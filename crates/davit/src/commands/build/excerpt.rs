//! Shows the part of a Dockerfile that an error speaks of.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use davit_engine::build::{BuildError, BuildErrorKind, Excerpt};

use crate::printer;

/// Renders the lines around the place, the place underlined.
pub(super) fn render(excerpt: &Excerpt) -> String {
    let range = excerpt.range.clone();
    let mut annotation = AnnotationKind::Primary.span(range);
    if !excerpt.label.is_empty() {
        annotation = annotation.label(&excerpt.label);
    }
    let snippet = Snippet::source(&excerpt.text).path(&excerpt.file).annotation(annotation);
    let group = Group::with_level(Level::ERROR).element(snippet);
    let renderer = if printer::use_color() { Renderer::styled() } else { Renderer::plain() };
    renderer.render(&[group])
}

/// The last lines of a failed command's output.
pub(super) fn tail(error: &BuildError) -> String {
    let BuildErrorKind::Command { tail, .. } = &error.kind else { return String::new() };
    tail.iter().map(|line| format!("\n  > {line}")).collect()
}
