//! Turns a Dockerfile into a plan: which stages are needed, upon which bases, in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use davit_dockerfile::{
    ArgDefinition, Dockerfile, ExpandError, GlobalScope, Instruction, Kind, Lexer, Patterns, Span,
    Stage, VariableList, Variables, Word, is_predefined, lint::Linter, nearest,
};
use davit_image::Platform;

use super::{
    BaseImage, ContextId, NodeId, Plan, Target,
    images::ImageKey,
    stage::{StageBuilder, StageState},
};
use crate::{
    BaseImages, BuildRequest,
    error::{BuildError, BuildErrorKind, Excerpt},
    source::RemoteSource,
};

/// The argument that bounds the times of a result.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What everything that makes a plan needs.
pub(crate) struct Planner<'a> {
    pub(crate) request: &'a BuildRequest,
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) lexer: Lexer,
    /// What `FROM` lines know.
    pub(crate) globals: GlobalScope,
    pub(crate) nodes: Vec<super::Node>,
    /// States of the stages that are planned.
    pub(crate) stages: Vec<Option<StageState>>,
    /// Stages in whose place a named context is.
    pub(crate) replaced: BTreeSet<usize>,
    pub(crate) images: BTreeMap<ImageKey, (BaseImage, Option<NodeId>)>,
    /// Nodes of what is fetched from elsewhere.
    pub(crate) sources: BTreeMap<RemoteSource, NodeId>,
    /// States that hold a whole context.
    pub(crate) context_states: BTreeMap<ContextId, NodeId>,
    pub(crate) warnings: Vec<String>,
    pub(super) linter: Linter<'a>,
    /// `SOURCE_DATE_EPOCH`: the request's, else that of an `ARG` before the first `FROM`.
    pub(crate) epoch: Option<i64>,
    /// The `FROM` whose triggers are read: their own spans are of another text.
    pub(crate) trigger: Option<Span>,
    /// Build arguments that an `ARG` took.
    pub(crate) consumed: BTreeSet<String>,
}

/// Where a stage begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    Stage(usize),
    Image(ImageKey),
    /// A directory among the named contexts.
    Context(ContextId),
    /// What is fetched from elsewhere.
    Source(RemoteSource),
}

/// Where the files of a `COPY --from` come from.
pub(crate) type From = Base;

/// What the planner knows of a stage before it is planned.
#[derive(Debug)]
pub(super) struct Outline {
    pub(super) base: Base,
    pub(super) platform: Platform,
    /// Instructions that the base wants to run first.
    pub(super) triggers: Vec<Instruction>,
}

impl<'a> Planner<'a> {
    /// Starts without nodes.
    ///
    /// # Errors
    /// If the options of the checks are wrong.
    pub(crate) fn new(
        request: &'a BuildRequest,
        dockerfile: &'a Dockerfile,
    ) -> Result<Self, BuildError> {
        let mut stages = Vec::new();
        stages.resize_with(dockerfile.stages.len(), || None);
        Ok(Self {
            request,
            dockerfile,
            lexer: Lexer::new(dockerfile.directives.escape()),
            globals: super::checks::platform_scope(request, dockerfile),
            nodes: Vec::new(),
            stages,
            replaced: BTreeSet::new(),
            images: BTreeMap::new(),
            sources: BTreeMap::new(),
            context_states: BTreeMap::new(),
            warnings: Vec::new(),
            linter: super::checks::linter(request, dockerfile)?,
            epoch: request.source_date_epoch,
            trigger: None,
            consumed: BTreeSet::new(),
        })
    }

    /// Makes the plan of a build; what the checks found stays here, however it ends.
    ///
    /// # Errors
    /// Whatever the Dockerfile asks for that cannot be, with the place.
    pub(crate) fn plan(
        &mut self,
        images: &dyn BaseImages,
        ignore: Option<&Patterns>,
    ) -> Result<Plan, BuildError> {
        self.read_globals()?;
        self.check_bases();
        let target = self.target()?;
        let outlines = self.outline([target], images)?;
        self.check_stages(&outlines, ignore);
        self.build_stages(&outlines)?;
        self.warn_of_unused();
        let fresh = self.fresh_stages();
        let scans = self.scans(target, images)?;
        let state = self.stages[target].take().expect("the target is among the outlines");
        let mut config = state.config;
        if !self.request.labels.is_empty() {
            let labels = config.config.labels.get_or_insert_default();
            labels.extend(self.request.labels.clone());
        }
        let target = Target { state: state.node, config, history: state.history, scans };
        let (nodes, warnings) =
            (std::mem::take(&mut self.nodes), std::mem::take(&mut self.warnings));
        Ok(Plan { nodes, target, more_targets: Vec::new(), fresh, epoch: self.epoch, warnings })
    }

    pub(super) fn build_stages(
        &mut self,
        outlines: &BTreeMap<usize, Outline>,
    ) -> Result<(), BuildError> {
        for (index, outline) in outlines {
            let (base, triggers) = (outline.base.clone(), &outline.triggers);
            let stage = StageBuilder::start(self, *index, base, &outline.platform, triggers)?;
            let state = stage.build(triggers)?;
            self.stages[*index] = Some(state);
        }
        Ok(())
    }
}

impl Planner<'_> {
    /// An error that points at a place of the Dockerfile.
    pub(crate) fn fail(&self, span: Span, message: impl Into<String>) -> BuildError {
        BuildError::new(BuildErrorKind::Plan(message.into())).at(self.excerpt(span))
    }

    pub(crate) fn excerpt(&self, span: Span) -> Excerpt {
        let text = &self.request.dockerfile;
        Excerpt::new(&text.name, &text.bytes, self.trigger.unwrap_or(span), "")
    }

    /// Expands a word; a variable that is not set gets a hint if the expansion fails.
    pub(crate) fn expand(
        &self,
        word: &str,
        span: Span,
        variables: &VariableList,
    ) -> Result<String, BuildError> {
        let expanded = self.lexer.word(word, variables);
        expanded.map(|it| it.text).map_err(|error| self.expand_failed(&error, span, variables))
    }

    pub(crate) fn expand_failed(
        &self,
        error: &ExpandError,
        span: Span,
        variables: &VariableList,
    ) -> BuildError {
        self.hint_unset(self.fail(span, error.to_string()), &error.unmatched, variables)
    }

    /// Adds, for each variable that is not set, the nearest one that is.
    pub(crate) fn hint_unset(
        &self,
        error: BuildError,
        unset: &BTreeSet<String>,
        variables: &VariableList,
    ) -> BuildError {
        let declared = declared_args(self.dockerfile);
        unset.iter().fold(error, |error, name| match nearest(name, variables.names()) {
            _ if declared.contains(name) && self.globals.variables().value(name).is_none() => {
                error.hint(format!("give it by `--build-arg {name}=VALUE`"))
            }
            Some(near) => error.hint(format!("`{name}` is not set; did you mean `{near}`?")),
            None if self.globals.variables().value(name).is_some() => error.hint(format!(
                "`{name}` is set before the first FROM; declare it in the stage by `ARG {name}`"
            )),
            None => error.hint(format!("`{name}` is not set; declare it by `ARG {name}`")),
        })
    }

    pub(super) fn read_globals(&mut self) -> Result<(), BuildError> {
        let given = &self.request.build_args;
        for instruction in &self.dockerfile.global_args {
            let Kind::Arg(definitions) = &instruction.kind else { continue };
            for definition in definitions {
                let declared = self.globals.declare(definition, &self.lexer, given);
                let span = definition.default.as_ref().unwrap_or(&definition.name).span;
                declared
                    .map_err(|error| self.expand_failed(&error, span, self.globals.variables()))?;
            }
        }
        let names = self.globals.declared().filter(|name| given.contains_key(*name));
        self.consumed.extend(names.map(str::to_owned));
        let epoch = self.globals.variables().value(EPOCH).filter(|value| !value.is_empty());
        if let (None, Some(value)) = (self.epoch, epoch) {
            let number = value.parse().map_err(|_| {
                let message = format!("{EPOCH} `{value}` is no number of seconds since 1970");
                self.fail(self.global_arg(EPOCH), message)
            })?;
            self.epoch = Some(number);
        }
        Ok(())
    }

    /// Where an `ARG` before the first `FROM` last sets this name.
    fn global_arg(&self, name: &str) -> Span {
        let args = self.dockerfile.global_args.iter().rev();
        let sets = |definitions: &[ArgDefinition]| {
            definitions.iter().any(|definition| definition.name.text == name)
        };
        let mut args =
            args.filter(|arg| matches!(&arg.kind, Kind::Arg(definitions) if sets(definitions)));
        args.next().map_or_else(Span::default, |arg| arg.span)
    }

    pub(super) fn target(&self) -> Result<usize, BuildError> {
        let stages = &self.dockerfile.stages;
        let Some(name) = &self.request.target else { return Ok(stages.len() - 1) };
        self.dockerfile.stage_index(name, stages.len()).ok_or_else(|| {
            let names: Vec<&str> = stage_names(stages).collect();
            let error = BuildError::new(BuildErrorKind::Target(name.clone()));
            match nearest(name, names.iter().copied()) {
                Some(near) => error.hint(format!("did you mean `--target {near}`?")),
                None if names.is_empty() => error.hint("the Dockerfile's stages have no names"),
                None => error.hint(format!("its stages are: {}", names.join(", "))),
            }
        })
    }

    /// Finds what stages need, resolving images until their triggers ask for nothing new.
    pub(super) fn outline(
        &mut self,
        stages: impl IntoIterator<Item = usize>,
        images: &dyn BaseImages,
    ) -> Result<BTreeMap<usize, Outline>, BuildError> {
        let mut outlines = BTreeMap::new();
        let mut queue = VecDeque::from_iter(stages);
        while !queue.is_empty() {
            let wave: BTreeSet<usize> =
                queue.drain(..).filter(|index| !outlines.contains_key(index)).collect();
            let mut wanted: Vec<(ImageKey, Platform, Span)> = Vec::new();
            let mut found = Vec::new();
            for &index in &wave {
                let (base, platform) = self.base(index)?;
                let stage = &self.dockerfile.stages[index];
                if let Base::Image(key) = &base {
                    wanted.push((key.clone(), platform.clone(), stage.base.span));
                }
                found.push((index, base, platform));
            }
            self.resolve_images(wanted, images)?;
            let mut wanted = Vec::new();
            for (index, base, platform) in found {
                let triggers = if self.replacement(index, &platform).is_some() {
                    self.replaced.insert(index);
                    Vec::new()
                } else {
                    self.triggers(index, &base)?
                };
                if let Base::Stage(below) = base {
                    queue.push_back(below);
                }
                let own = self.instructions(index);
                let place = self.dockerfile.stages[index].span;
                for (at, instruction) in triggers.iter().chain(own).enumerate() {
                    self.trigger = (at < triggers.len()).then_some(place);
                    for (from, span) in self.origins(index, instruction)? {
                        match from {
                            Base::Stage(other) => queue.push_back(other),
                            Base::Image(key) => {
                                let span = self.trigger.unwrap_or(span);
                                wanted.push((key, self.request.platform.clone(), span));
                            }
                            Base::Scratch | Base::Context(_) | Base::Source(_) => {}
                        }
                    }
                }
                self.trigger = None;
                outlines.insert(index, Outline { base, platform, triggers });
            }
            self.resolve_images(wanted, images)?;
        }
        Ok(outlines)
    }

    /// Reads the `FROM` of a stage.
    fn base(&self, index: usize) -> Result<(Base, Platform), BuildError> {
        let stage = &self.dockerfile.stages[index];
        let platform = self.platform_of(stage)?;
        if let Some(base) = self.replacement(index, &platform) {
            return Ok((base, platform));
        }
        let name =
            self.expand_global(&stage.base.text, stage.base.span, "the base image's name")?;
        if let Some(below) = self.stage_named(&name, index) {
            return Ok((self.stage_or_replacement(below)?, platform));
        }
        if name == "scratch" {
            return Ok((Base::Scratch, platform));
        }
        if let Some(base) = self.named(&name, &platform) {
            return Ok((base, platform));
        }
        let key = self.image_key(&name, &platform).map_err(|message| {
            let error = self.hint_stage(self.fail(stage.base.span, message), &name, index);
            self.hint_unset_in(error, &stage.base)
        })?;
        Ok((Base::Image(key), platform))
    }

    fn platform_of(&self, stage: &Stage) -> Result<Platform, BuildError> {
        let Some(word) = &stage.platform else { return Ok(self.request.platform.clone()) };
        let text = self.expand_global(&word.text, word.span, "the platform")?;
        text.parse().map_err(|error: davit_image::PlatformError| {
            self.hint_unset_in(self.fail(word.span, error.to_string()), word)
        })
    }

    pub(super) fn stage_or_replacement(&self, stage: usize) -> Result<Base, BuildError> {
        if self.request.named_contexts.is_empty() {
            return Ok(Base::Stage(stage));
        }
        let platform = self.platform_of(&self.dockerfile.stages[stage])?;
        Ok(self.replacement(stage, &platform).unwrap_or(Base::Stage(stage)))
    }

    /// A stage before `before` with this name; `FROM` knows no numbers.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let stages = &self.dockerfile.stages[..before];
        stages.iter().rposition(|stage| {
            stage.name.as_ref().is_some_and(|known| known.text.eq_ignore_ascii_case(name))
        })
    }

    pub(super) fn expand_global(
        &self,
        word: &str,
        span: Span,
        what: &str,
    ) -> Result<String, BuildError> {
        let expanded = self
            .lexer
            .word(word, self.globals.variables())
            .map_err(|error| self.expand_failed(&error, span, self.globals.variables()))?;
        if expanded.text.is_empty() {
            let word = Word { text: word.to_owned(), span };
            return Err(self.hint_unset_in(self.fail(span, format!("{what} is empty")), &word));
        }
        Ok(expanded.text)
    }

    /// Adds, for each variable of a word of `FROM` that is not set, the nearest one that is.
    pub(super) fn hint_unset_in(&self, error: BuildError, word: &Word) -> BuildError {
        let Ok(expanded) = self.lexer.word(&word.text, self.globals.variables()) else {
            return error;
        };
        expanded.unmatched.iter().fold(error, |error, name| {
            match nearest(name, self.globals.variables().names()) {
                Some(near) => error.hint(format!("`{name}` is not set; did you mean `{near}`?")),
                None => error.hint(format!(
                    "`{name}` is not set; FROM sees only an `ARG {name}=...` before the first FROM"
                )),
            }
        })
    }

    pub(super) fn hint_stage(&self, error: BuildError, name: &str, before: usize) -> BuildError {
        let earlier = stage_names(&self.dockerfile.stages[..before]);
        match nearest(name, earlier) {
            Some(near) => error.hint(format!("did you mean the stage `{near}`?")),
            None => error,
        }
    }

    pub(crate) fn push(&mut self, node: super::Node) -> NodeId {
        let id = NodeId(u32::try_from(self.nodes.len()).expect("a plan has few nodes"));
        self.nodes.push(node);
        id
    }

    fn warn_of_unused(&mut self) {
        let known: BTreeSet<String> = self.globals.variables().names().map(str::to_owned).collect();
        for name in self.request.build_args.keys() {
            if self.consumed.contains(name) || is_predefined(name) || known.contains(name) {
                continue;
            }
            let declared: Vec<String> = declared_args(self.dockerfile);
            let near = nearest(name, declared.iter().map(String::as_str));
            let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
            self.warnings.push(format!("build argument `{name}` is not used by any ARG{hint}"));
        }
    }
}

pub(super) fn stage_names(stages: &[Stage]) -> impl Iterator<Item = &str> {
    stages.iter().filter_map(|stage| stage.name.as_ref()).map(|name| name.text.as_str())
}

pub(super) fn last_stage_name(dockerfile: &Dockerfile) -> Option<&str> {
    dockerfile.stages.last()?.name.as_ref().map(|name| name.text.as_str())
}

fn declared_args(dockerfile: &Dockerfile) -> Vec<String> {
    let in_stages = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    in_stages
        .chain(&dockerfile.global_args)
        .filter_map(|instruction| match &instruction.kind {
            Kind::Arg(definitions) => Some(definitions),
            _ => None,
        })
        .flatten()
        .map(|definition| definition.name.text.clone())
        .collect()
}
