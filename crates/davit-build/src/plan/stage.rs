//! Plans one stage: its instructions change the config, the environment and the file system.

use davit_dockerfile::{
    ArgDefinition, CommandForm, CommandLine, ExpandError, ExposedPorts, HealthTest, Healthcheck,
    Instruction, KeyValue, Kind, Span, StageScope, VariableList, Word, history,
};
use davit_image::{
    ContainerConfig, Empty, HealthConfig, HistoryEntry, ImageConfig, Platform, Timestamp,
};

use super::{
    MakeDirectory, Node, NodeId, Op, Ownership, StageId,
    planner::{Base, Planner},
};
use crate::{CachePolicy, error::BuildError};

/// `PATH` of an image that sets none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a stage gives to those that build upon it.
#[derive(Clone, Debug)]
pub(crate) struct StageState {
    pub(crate) node: NodeId,
    pub(crate) config: ImageConfig,
    pub(crate) history: Vec<(HistoryEntry, Option<NodeId>)>,
    /// The environment of `RUN`, and the declared arguments.
    pub(crate) scope: StageScope,
    pub(crate) platform: Platform,
}

/// Plans one stage.
pub(crate) struct StageBuilder<'p, 'a> {
    pub(crate) planner: &'p mut Planner<'a>,
    pub(crate) index: usize,
    pub(crate) state: StageState,
    /// Whether this stage has set `CMD`.
    cmd_set: bool,
    step: usize,
    steps: usize,
}

impl<'p, 'a> StageBuilder<'p, 'a> {
    /// Starts a stage upon its base.
    pub(crate) fn start(
        planner: &'p mut Planner<'a>,
        index: usize,
        base: Base,
        platform: &Platform,
        triggers: &[Instruction],
    ) -> Result<Self, BuildError> {
        let own = planner.instructions(index);
        let all = triggers.iter().chain(own);
        let layers = all.filter(|instruction| makes_layer(&instruction.kind)).count();
        // Only an image with files of its own is a step.
        let own = match &base {
            Base::Image(key) => !planner.images[key].0.config.rootfs.diff_ids.is_empty(),
            _ => false,
        };
        let steps = usize::from(own) + layers;
        let state = match base {
            Base::Stage(below) => {
                let below = planner.stages[below].as_ref();
                let mut state = below.expect("stages are planned in order").clone();
                state.config.config.on_build = None;
                state.scope = state.scope.child(environment(&state.config));
                state
            }
            Base::Scratch => bare(planner.push(scratch_node(index)), platform),
            Base::Context(_) | Base::Source(_) => {
                let span = planner.dockerfile.stages[index].base.span;
                bare(planner.state_of(&base, index, span), platform)
            }
            Base::Image(key) => {
                let image = planner.images[&key].0.clone();
                if image.config.rootfs.diff_ids.is_empty() {
                    from_image(image.config, planner.push(scratch_node(index)), platform)
                } else {
                    let position = position((planner, index), platform, (1, steps));
                    let name = format!("[{position}] FROM {}", image.name);
                    let node = planner.image_node(&key, stage_id(index), name);
                    from_image(image.config, node, platform)
                }
            }
        };
        Ok(Self { planner, index, state, cmd_set: false, step: usize::from(own), steps })
    }

    /// Plans the base's triggers and the stage's instructions.
    pub(crate) fn build(mut self, triggers: &[Instruction]) -> Result<StageState, BuildError> {
        let stage = &self.planner.dockerfile.stages[self.index];
        for trigger in triggers {
            // Its span is of another text: the FROM stands for it.
            let span = stage.span;
            self.planner.trigger = Some(span);
            self.dispatch(&trigger.kind, &trigger.text, span)?;
        }
        self.planner.trigger = None;
        for instruction in self.planner.instructions(self.index) {
            self.dispatch(&instruction.kind, &instruction.text, instruction.span)?;
        }
        Ok(self.state)
    }

    fn dispatch(&mut self, kind: &Kind, text: &str, span: Span) -> Result<(), BuildError> {
        match kind {
            Kind::Add(add) => self.add(add, text, span),
            Kind::Arg(definitions) => self.arg(definitions),
            Kind::Cmd(command) => self.cmd(command),
            Kind::Copy(copy) => self.copy(copy, text, span),
            Kind::Entrypoint(command) => self.entrypoint(command),
            Kind::Env(pairs) => self.env(pairs),
            Kind::Expose(ports) => self.expose(ports),
            Kind::Healthcheck(check) => {
                self.healthcheck(check);
                Ok(())
            }
            Kind::Label(pairs) => self.label(pairs),
            Kind::Maintainer(name) => {
                self.state.config.author = Some(name.text.clone());
                self.record(history::word("MAINTAINER", &name.text));
                Ok(())
            }
            Kind::Onbuild(onbuild) => {
                let triggers = self.config().on_build.get_or_insert_default();
                triggers.push(onbuild.trigger.clone());
                Ok(())
            }
            Kind::Run(run) => self.run(run, text, span),
            Kind::Shell(words) => {
                let shell: Vec<String> = words.iter().map(|word| word.text.clone()).collect();
                self.record(history::list("SHELL", &shell));
                self.config().shell = Some(shell);
                Ok(())
            }
            Kind::StopSignal(word) => self.stop_signal(word),
            Kind::User(word) => {
                let user = self.expand(word)?;
                self.record(history::word("USER", &user));
                self.config().user = user;
                Ok(())
            }
            Kind::Volume(words) => self.volume(words),
            Kind::Workdir(word) => self.workdir(word, text, span),
        }
    }

    pub(crate) fn config(&mut self) -> &mut ContainerConfig {
        &mut self.state.config.config
    }

    /// Expands a word in the stage's environment.
    pub(crate) fn expand(&self, word: &Word) -> Result<String, BuildError> {
        self.planner.expand(&word.text, word.span, self.state.scope.variables())
    }

    pub(crate) fn expand_failed(&self, error: &ExpandError, span: Span) -> BuildError {
        self.planner.expand_failed(error, span, self.state.scope.variables())
    }

    /// Adds a history entry without a layer.
    fn record(&mut self, created_by: String) {
        let entry = HistoryEntry { empty_layer: true, ..self.entry(created_by) };
        self.state.history.push((entry, None));
    }

    /// Adds a node upon the present state and its history entry.
    pub(crate) fn layer(&mut self, op: Op, more: &[NodeId], text: LayerText) -> NodeId {
        self.step += 1;
        let steps = (self.step, self.steps);
        let position = position((self.planner, self.index), &self.state.platform, steps);
        let name = format!("[{position}] {}", text.name);
        let mut inputs = vec![self.state.node];
        inputs.extend_from_slice(more);
        let (stage, span) = (stage_id(self.index), Some(text.span));
        let id = self.planner.push(Node { op, inputs, stage, name, span, cache: CachePolicy::Use });
        self.state.node = id;
        self.state.history.push((self.entry(text.created_by), Some(id)));
        id
    }

    fn entry(&self, created_by: String) -> HistoryEntry {
        let epoch = self.planner.epoch;
        HistoryEntry {
            created: epoch.and_then(|seconds| Timestamp::from_unix_seconds(seconds).ok()),
            created_by: Some(created_by),
            comment: Some(history::COMMENT.to_owned()),
            ..HistoryEntry::default()
        }
    }

    fn arg(&mut self, definitions: &[ArgDefinition]) -> Result<(), BuildError> {
        let given = &self.planner.request.build_args;
        let mut declared = Vec::new();
        for definition in definitions {
            let scope = &mut self.state.scope;
            let (globals, lexer) = (&self.planner.globals, &self.planner.lexer);
            let argument = scope.declare(definition, globals, given, lexer);
            let span = definition.default.as_ref().unwrap_or(&definition.name).span;
            let argument = argument.map_err(|error| self.expand_failed(&error, span))?;
            if given.contains_key(&argument.name) {
                self.planner.consumed.insert(argument.name.clone());
            }
            declared.push((argument.name, argument.value));
        }
        self.record(history::arg(&declared));
        Ok(())
    }

    fn cmd(&mut self, command: &CommandLine) -> Result<(), BuildError> {
        let args = self.command(command);
        self.record(history::command("CMD", &args));
        let config = self.config();
        config.cmd = not_empty(args);
        config.args_escaped = Some(true);
        self.cmd_set = true;
        Ok(())
    }

    fn entrypoint(&mut self, command: &CommandLine) -> Result<(), BuildError> {
        let args = self.command(command);
        self.record(history::command("ENTRYPOINT", &args));
        let keep_cmd = self.cmd_set;
        let config = self.config();
        config.entrypoint = not_empty(args);
        if !keep_cmd {
            config.cmd = None;
        }
        Ok(())
    }

    fn command(&mut self, command: &CommandLine) -> Vec<String> {
        match &command.form {
            CommandForm::Shell(line) => self.with_shell(&line.text),
            CommandForm::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
        }
    }

    /// The shell's arguments and a line for it.
    pub(crate) fn with_shell(&self, line: &str) -> Vec<String> {
        let shell = self.state.config.config.shell.clone().filter(|shell| !shell.is_empty());
        let mut args = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
        args.push(line.to_owned());
        args
    }

    /// Expands names and values; all see the environment from before the instruction.
    fn pairs(&self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, BuildError> {
        let expand = |pair: &KeyValue| Ok((self.expand(&pair.key)?, self.expand(&pair.value)?));
        pairs.iter().map(expand).collect()
    }

    fn env(&mut self, pairs: &[KeyValue]) -> Result<(), BuildError> {
        let expanded = self.pairs(pairs)?;
        if let Some(at) = expanded.iter().position(|(name, _)| name.is_empty()) {
            return Err(self.planner.fail(pairs[at].key.span, "the variable's name is empty"));
        }
        self.record(history::pairs("ENV", &expanded));
        for (name, value) in &expanded {
            self.state.scope.set(name, value);
            set_env(self.state.config.config.env.get_or_insert_default(), name, value);
        }
        Ok(())
    }

    fn label(&mut self, pairs: &[KeyValue]) -> Result<(), BuildError> {
        let expanded = self.pairs(pairs)?;
        self.record(history::pairs("LABEL", &expanded));
        self.config().labels.get_or_insert_default().extend(expanded);
        Ok(())
    }

    fn expose(&mut self, words: &[Word]) -> Result<(), BuildError> {
        let mut found = Vec::new();
        for word in words {
            let parts = self.planner.lexer.words(&word.text, self.state.scope.variables());
            let (parts, _) = parts.map_err(|error| self.expand_failed(&error, word.span))?;
            for part in parts {
                let ports = ExposedPorts::parse(&part)
                    .map_err(|error| self.planner.fail(word.span, error.to_string()))?;
                found.extend(ports.ports);
            }
        }
        self.record(history::list("EXPOSE", &found));
        if !found.is_empty() {
            let exposed = self.config().exposed_ports.get_or_insert_default();
            exposed.extend(found.into_iter().map(|port| (port, Empty {})));
        }
        Ok(())
    }

    fn healthcheck(&mut self, check: &Healthcheck) {
        let test: Vec<String> = match &check.test {
            HealthTest::None => vec!["NONE".to_owned()],
            HealthTest::Shell(line) => vec!["CMD-SHELL".to_owned(), line.text.clone()],
            HealthTest::Exec(args) => {
                let args = args.iter().map(|word| word.text.clone());
                std::iter::once("CMD".to_owned()).chain(args).collect()
            }
        };
        let config = HealthConfig {
            test: Some(test),
            interval: check.interval_ns,
            timeout: check.timeout_ns,
            start_period: check.start_period_ns,
            start_interval: check.start_interval_ns,
            retries: check.retries.into(),
            ..HealthConfig::default()
        };
        self.record(history::healthcheck(check));
        self.config().healthcheck = Some(config);
    }

    fn stop_signal(&mut self, word: &Word) -> Result<(), BuildError> {
        let signal = self.expand(word)?;
        if davit_dockerfile::parse_signal(&signal).is_none() {
            let message = format!("`{signal}` is no signal");
            return Err(self.planner.fail(word.span, message));
        }
        self.record(history::word("STOPSIGNAL", &signal));
        self.config().stop_signal = Some(signal);
        Ok(())
    }

    fn volume(&mut self, words: &[Word]) -> Result<(), BuildError> {
        let mut paths = Vec::new();
        for word in words {
            let path = self.expand(word)?;
            if path.is_empty() {
                return Err(self.planner.fail(word.span, "the volume's path is empty"));
            }
            paths.push(path);
        }
        self.record(history::list("VOLUME", &paths));
        let volumes = self.config().volumes.get_or_insert_default();
        volumes.extend(paths.into_iter().map(|path| (path, Empty {})));
        Ok(())
    }

    fn workdir(&mut self, word: &Word, text: &str, span: Span) -> Result<(), BuildError> {
        let path = self.expand(word)?;
        let before = &self.state.config.config.working_dir;
        let cleaned = absolute(before, &path);
        // One that begins at the root stays as it is written, `/x/` or `/x/../y`.
        let directory = match path.as_str() {
            "" if !before.is_empty() => before.clone(),
            path if path.starts_with('/') => path.to_owned(),
            _ => format!("/{cleaned}"),
        };
        self.config().working_dir.clone_from(&directory);
        // The same place in other words gets a layer, as with BuildKit: an empty one.
        if directory == "/" {
            self.record(history::word("WORKDIR", &directory));
            return Ok(());
        }
        let user = self.state.config.config.user.clone();
        let op = Op::MakeDirectory(MakeDirectory {
            path: cleaned,
            owner: (!user.is_empty()).then_some(Ownership(user)),
            epoch: self.planner.epoch,
        });
        let name = self.display(text);
        let created_by = history::word("WORKDIR", &directory);
        self.layer(op, &[], LayerText { name, created_by, span });
        Ok(())
    }

    /// An instruction as people read it: variables that are set expanded, quotes kept.
    pub(crate) fn display(&self, text: &str) -> String {
        self.display_in(text, self.state.scope.variables())
    }

    /// The same with other variables.
    pub(crate) fn display_in(&self, text: &str, variables: &VariableList) -> String {
        let lexer = davit_dockerfile::Lexer {
            quotes: davit_dockerfile::Quotes::KeepAll,
            unset: davit_dockerfile::Unset::Keep,
            ..self.planner.lexer
        };
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim_start();
        let expanded = lexer.word(rest, variables);
        let rest = expanded.map_or_else(|_| rest.to_owned(), |expanded| expanded.text);
        format!("{} {rest}", keyword.to_ascii_uppercase())
    }
}

/// What people and history read of a layer.
pub(crate) struct LayerText {
    pub(crate) name: String,
    pub(crate) created_by: String,
    pub(crate) span: Span,
}

pub(super) fn stage_id(index: usize) -> StageId {
    StageId(u32::try_from(index).expect("a Dockerfile has few stages"))
}

/// Name of a stage in step names; empty if there is but one.
fn stage_label(planner: &Planner<'_>, index: usize) -> String {
    let stages = &planner.dockerfile.stages;
    match &stages[index].name {
        _ if stages.len() == 1 => String::new(),
        Some(name) => name.text.clone(),
        None => format!("stage-{index}"),
    }
}

/// `1/4`, with the stage's name where there are several, and its platform where it is built for more
/// than one.
fn position(
    (planner, index): (&Planner<'_>, usize),
    platform: &Platform,
    (step, steps): (usize, usize),
) -> String {
    let label = stage_label(planner, index);
    let mut words = Vec::new();
    if !planner.request.more_platforms.is_empty() {
        words.push(platform.to_string());
    }
    words.extend((!label.is_empty()).then_some(label));
    words.push(format!("{step}/{steps}"));
    words.join(" ")
}

pub(super) fn scratch_node(index: usize) -> Node {
    let name = String::from("FROM scratch");
    Node {
        op: Op::Scratch,
        inputs: vec![],
        stage: stage_id(index),
        name,
        span: None,
        cache: CachePolicy::Use,
    }
}

/// A stage upon files that no image's config belongs to.
fn bare(node: NodeId, platform: &Platform) -> StageState {
    let mut config = ImageConfig::new(platform);
    config.config.working_dir = "/".to_owned();
    from_image(config, node, platform)
}

fn from_image(mut config: ImageConfig, node: NodeId, platform: &Platform) -> StageState {
    let entries = environment_of(Some(&config));
    let scope = StageScope::new(entries.iter().map(String::as_str));
    config.config.env = Some(entries);
    let history = std::mem::take(&mut config.history);
    let history = history.into_iter().map(|entry| (entry, None)).collect();
    config.created = None;
    config.config.on_build = None;
    StageState { node, config, history, scope, platform: platform.clone() }
}

/// The environment that a stage begins with upon an image: it always has a `PATH`.
pub(super) fn environment_of(config: Option<&ImageConfig>) -> Vec<String> {
    let mut entries = config.and_then(|config| config.config.env.clone()).unwrap_or_default();
    if !entries.iter().any(|entry| entry.starts_with("PATH=")) {
        entries.push(format!("PATH={DEFAULT_PATH}"));
    }
    entries
}

fn environment(config: &ImageConfig) -> impl Iterator<Item = &str> {
    config.config.env.iter().flatten().map(String::as_str)
}

const fn makes_layer(kind: &Kind) -> bool {
    matches!(kind, Kind::Add(_) | Kind::Copy(_) | Kind::Run(_) | Kind::Workdir(_))
}

/// Joins a path to the working directory and cleans it; without leading `/`.
pub(crate) fn absolute(working_dir: &str, path: &str) -> String {
    let whole =
        if path.starts_with('/') { path.to_owned() } else { format!("{working_dir}/{path}") };
    let cleaned = crate::files::clean(whole.as_bytes());
    String::from_utf8(cleaned).expect("components of text are text")
}

fn not_empty(args: Vec<String>) -> Option<Vec<String>> {
    (!args.is_empty()).then_some(args)
}

/// Sets a variable in an image's list: in its place, else at the end.
fn set_env(entries: &mut Vec<String>, name: &str, value: &str) {
    let new = format!("{name}={value}");
    let same = |entry: &&mut String| entry.split_once('=').map_or(&***entry, |(it, _)| it) == name;
    match entries.iter_mut().find(same) {
        Some(entry) => *entry = new,
        None => entries.push(new),
    }
}
