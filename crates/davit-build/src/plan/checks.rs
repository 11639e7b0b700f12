//! The build checks, asked as their facts become known.

use std::collections::{BTreeMap, BTreeSet};

use davit_dockerfile::{
    BuildArguments, Dockerfile, GlobalScope, Kind, Lexer, Patterns, Span,
    lint::{CheckOptions, Linter, StageFacts, Surroundings, Warning},
    outline,
};
use davit_image::Platform;

use super::{
    BaseImage, NodeId,
    images::ImageKey,
    planner::{Base, Outline, Planner, last_stage_name},
    stage::environment_of,
};
use crate::{
    BaseImages, BuildRequest,
    error::{BuildError, BuildErrorKind, Excerpt},
};

/// Build argument that takes the place of the directive.
const ARGUMENT: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// A linter that has looked at the text.
pub(super) fn linter<'a>(
    request: &'a BuildRequest,
    dockerfile: &'a Dockerfile,
) -> Result<Linter<'a>, BuildError> {
    let given = request.build_args.get(ARGUMENT);
    let directive = dockerfile.directives.check.as_ref();
    // What stands behind a blank in the directive is a remark.
    let first = |text: &'a str| text.split(' ').next().unwrap_or_default();
    let text = given.map(String::as_str);
    let text = text.or_else(|| directive.map(|directive| first(&directive.value)));
    let options = CheckOptions::parse(text.unwrap_or_default());
    let options = options.map_err(|error| {
        let failed = BuildError::new(BuildErrorKind::Plan(error.to_string()));
        match (given, directive) {
            (None, Some(directive)) => {
                let text = &request.dockerfile;
                failed.at(Excerpt::new(&text.name, &text.bytes, directive.span, ""))
            }
            _ => failed.hint(format!("it stands in the build argument {ARGUMENT}")),
        }
    })?;
    let mut linter = Linter::new(&request.dockerfile.bytes, dockerfile, options);
    linter.text();
    Ok(linter)
}

/// What `FROM` lines know before any `ARG`.
pub(super) fn platform_scope(request: &BuildRequest, dockerfile: &Dockerfile) -> GlobalScope {
    GlobalScope::new(
        &request.build_platform,
        &request.platform,
        request.target.as_deref().or_else(|| last_stage_name(dockerfile)),
        &request.build_args,
    )
}

impl Planner<'_> {
    /// Looks at all that a build would look at before it runs anything, and at every stage if none
    /// is asked for.
    pub(crate) fn check(
        &mut self,
        images: &dyn BaseImages,
        ignore: Option<&Patterns>,
    ) -> Result<(), BuildError> {
        self.read_globals()?;
        self.check_bases();
        let target = self.target()?;
        let first = if self.request.target.is_some() { target } else { 0 };
        let outlines = self.outline(first..=target, images)?;
        self.check_stages(&outlines, ignore);
        self.build_stages(&outlines)
    }

    /// What the checks found so far, in the file's order.
    pub(crate) fn found(&self) -> Vec<Warning> {
        self.linter.warnings()
    }

    /// Fails if warnings are to be errors.
    pub(crate) fn refuse_found(&self) -> Result<(), BuildError> {
        if !self.linter.fails() {
            return Ok(());
        }
        let mut rules: Vec<_> = self.found().into_iter().map(|warning| warning.rule).collect();
        rules.sort();
        rules.dedup();
        let error = BuildError::new(BuildErrorKind::Checks(rules));
        Err(error.hint("`error=true` of the check options makes warnings errors"))
    }

    pub(super) fn check_bases(&mut self) {
        let defaults = default_scope(self.request, self.dockerfile, &self.lexer);
        self.linter.bases(&self.globals, defaults.as_ref());
    }

    pub(super) fn check_stages(
        &mut self,
        outlines: &BTreeMap<usize, Outline>,
        ignore: Option<&Patterns>,
    ) {
        let surroundings = Surroundings {
            globals: &self.globals,
            build_args: &self.request.build_args,
            ignore,
            stages: facts(&self.images, &self.replaced, outlines),
        };
        self.linter.stages(&surroundings);
    }

    /// What the target takes; fails where a build would fail before it runs anything, be it for
    /// warnings that are errors.
    pub(crate) fn outline_target(
        &mut self,
        images: &dyn BaseImages,
        ignore: Option<&Patterns>,
    ) -> Result<outline::Outline, BuildError> {
        self.read_globals()?;
        self.check_bases();
        let target = self.target()?;
        let outlines = self.outline([target], images)?;
        self.check_stages(&outlines, ignore);
        self.build_stages(&outlines)?;
        self.refuse_found()?;
        let surroundings = Surroundings {
            globals: &self.globals,
            build_args: &self.request.build_args,
            ignore: None,
            stages: facts(&self.images, &self.replaced, &outlines),
        };
        outline::outline(self.dockerfile, &surroundings, target)
            .map_err(|error| BuildError::new(BuildErrorKind::Plan(error.to_string())))
    }

    /// An image without files is for no platform.
    pub(super) fn check_platform(&mut self, key: &ImageKey, wanted: &Platform, word: Span) {
        let config = &self.images[key].0.config;
        let own = config.platform();
        if !config.rootfs.diff_ids.is_empty() && wanted.rank(&own).is_none() {
            self.linter.base_platform(word, &own, wanted);
        }
    }
}

/// What is known of the bases of stages.
fn facts<'a>(
    images: &BTreeMap<ImageKey, (BaseImage, Option<NodeId>)>,
    replaced: &BTreeSet<usize>,
    outlines: &'a BTreeMap<usize, Outline>,
) -> Vec<StageFacts<'a>> {
    let facts = |(&stage, outline): (&usize, &'a Outline)| {
        let (config, below) = match &outline.base {
            Base::Image(key) => (Some(&images[key].0.config), None),
            Base::Stage(below) => (None, Some(*below)),
            Base::Scratch | Base::Context(_) | Base::Source(_) => (None, None),
        };
        let shell = config.and_then(|config| config.config.shell.as_ref());
        StageFacts {
            stage,
            below,
            environment: environment_of(config),
            has_shell: shell.is_some_and(|shell| !shell.is_empty()),
            is_replaced: replaced.contains(&stage),
            triggers: &outline.triggers,
        }
    };
    outlines.iter().map(facts).collect()
}

/// The global scope as it is without build arguments; `None` where a default cannot be expanded.
fn default_scope(
    request: &BuildRequest,
    dockerfile: &Dockerfile,
    lexer: &Lexer,
) -> Option<GlobalScope> {
    let mut scope = platform_scope(request, dockerfile);
    for instruction in &dockerfile.global_args {
        let Kind::Arg(definitions) = &instruction.kind else { continue };
        for definition in definitions {
            scope.declare(definition, lexer, &BuildArguments::new()).ok()?;
        }
    }
    Some(scope)
}

#[cfg(test)]
mod tests;
