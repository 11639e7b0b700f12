//! `# syntax=IMAGE`: the program that a Dockerfile wants to be read by.

use davit_dockerfile::{Span, detect_syntax};

use crate::{
    BuildRequest,
    error::{BuildError, BuildErrorKind, Excerpt},
    request::{NamedContext, NamedSource, context_name},
};

/// Build argument that names the frontend, too.
const ARGUMENT: &str = "BUILDKIT_SYNTAX";

/// Refuses a definition that another frontend than Docker's is to read.
pub(crate) fn check(request: &BuildRequest) -> Result<(), BuildError> {
    let text = &request.dockerfile;
    let given = request.build_args.get(ARGUMENT).filter(|image| !image.is_empty());
    let Some(syntax) = given.cloned().or_else(|| detect_syntax(&text.bytes)) else {
        return Ok(());
    };
    let image = syntax.split_whitespace().next().unwrap_or_default();
    if is_dockerfile(image) || is_replaced(request, image) {
        return Ok(());
    }
    let message = format!("the frontend `{image}` is not supported: davit reads Dockerfiles alone");
    let error = BuildError::new(BuildErrorKind::Plan(message));
    let error = match place(&text.bytes, image).filter(|_| given.is_none()) {
        Some(span) => error.at(Excerpt::new(&text.name, &text.bytes, span, "")),
        None => error,
    };
    Err(error.hint("if it is a plain Dockerfile, remove the syntax directive"))
}

/// Whether a named context puts Docker's frontend in the place of an image.
fn is_replaced(request: &BuildRequest, image: &str) -> bool {
    let name = context_name(image);
    let replaces = |context: &NamedContext| match &context.source {
        NamedSource::Image(source) => is_dockerfile(&source.to_string()),
        _ => false,
    };
    let mut named = request.named_contexts.iter().filter(|it| Some(&it.name) == name.as_ref());
    named.any(replaces)
}

/// Whether an image is Docker's frontend, of whatever registry: `docker/dockerfile:1-labs`.
fn is_dockerfile(image: &str) -> bool {
    let name = image.split('@').next().unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or_default();
    last.split(':').next().unwrap_or_default().starts_with("dockerfile")
}

fn place(bytes: &[u8], image: &str) -> Option<Span> {
    let start = std::str::from_utf8(bytes).ok()?.find(image)?;
    let lines = bytes[..start].iter().filter(|byte| **byte == b'\n').count();
    let line = u32::try_from(lines + 1).ok()?;
    Some(Span { start, end: start + image.len(), first_line: line, last_line: line })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_dockers_frontend() {
        for image in [
            "docker/dockerfile",
            "docker/dockerfile:1.7-labs",
            "docker.io/docker/dockerfile-upstream:master",
            "host:5000/mirror/dockerfile:1@sha256:00",
        ] {
            assert!(is_dockerfile(image), "{image}");
        }
        for image in ["my/frontend", "docker/dockerfile/other", "dock", ""] {
            assert!(!is_dockerfile(image), "{image}");
        }
    }
}
