//! What a build can be given: the arguments, secrets and SSH agents that a target takes.
//!
//! An argument counts where an `ARG` of a stage declares it, or where `FROM` uses one that stands
//! above the first stage; what the default of such an argument uses counts, too.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Dockerfile, ExpandError, Expanded, Instruction, Kind, Lexer, Mount, MountKind, Run, Span,
    Stage, StageScope, VariableList, Variables as _, Word,
    lint::{StageFacts, Surroundings, stage::users},
};

/// What a target takes, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Name of the target, if it has one.
    pub name: Option<String>,
    /// What the comment above the target says of it.
    pub description: Option<String>,
    /// Build arguments.
    pub arguments: Vec<OutlineArgument>,
    /// Secrets.
    pub secrets: Vec<OutlineInput>,
    /// SSH agents.
    pub ssh: Vec<OutlineInput>,
}

/// A build argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineArgument {
    /// Its name.
    pub name: String,
    /// What the comment above says of it.
    pub description: Option<String>,
    /// Its value; `None` where it has none.
    pub value: Option<String>,
    /// The `ARG` that declares it.
    pub span: Span,
    /// Its name there.
    pub word: Span,
}

/// A secret or an SSH agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineInput {
    /// Its id.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The `RUN` that mounts it.
    pub span: Span,
}

/// Finds what the stages of `around` take; of names that several stages declare, that of `target`
/// counts first, then those of the stages below it.
///
/// # Errors
/// If a word that matters cannot be expanded.
pub fn outline(
    file: &Dockerfile,
    around: &Surroundings<'_>,
    target: usize,
) -> Result<Outline, ExpandError> {
    let lexer = Lexer::new(file.directives.escape());
    let globals = Globals::read(file, around, &lexer)?;
    let mut found: BTreeMap<usize, Found> = BTreeMap::new();
    let mut ends: BTreeMap<usize, (StageScope, VariableList)> = BTreeMap::new();
    let mut waiting = users(file, around);
    for facts in &around.stages {
        let stage = &file.stages[facts.stage];
        let below = facts.below.and_then(|below| {
            waiting[below] -= 1;
            if waiting[below] == 0 { ends.remove(&below) } else { ends.get(&below).cloned() }
        });
        let mut walk = Walk::begin(facts, below, (&lexer, around));
        walk.found.used = globals.used_by(stage, around, &lexer)?;
        for instruction in facts.triggers {
            walk.instruction(instruction, stage.span)?;
        }
        let own = if facts.is_replaced { &[][..] } else { &stage.instructions };
        for instruction in own {
            walk.instruction(instruction, instruction.span)?;
        }
        if waiting[facts.stage] > 0 {
            ends.insert(facts.stage, (walk.scope, walk.environment));
        }
        found.insert(facts.stage, walk.found);
    }
    let stage = &file.stages[target];
    Ok(Outline {
        name: stage.name.as_ref().map(|name| name.text.clone()),
        description: stage.description().map(str::to_owned),
        ..gather(&globals, &found, order(around, target))
    })
}

/// The target, the stages below it, then the others from the last to the first.
fn order(around: &Surroundings<'_>, target: usize) -> Vec<usize> {
    let mut order = Vec::new();
    let mut next = Some(target);
    while let Some(stage) = next {
        order.push(stage);
        let facts = around.stages.iter().find(|facts| facts.stage == stage);
        next = facts.and_then(|facts| facts.below);
    }
    let seen: BTreeSet<usize> = order.iter().copied().collect();
    let others = around.stages.iter().rev().map(|facts| facts.stage);
    order.extend(others.filter(|stage| !seen.contains(stage)));
    order
}

fn gather(globals: &Globals, found: &BTreeMap<usize, Found>, order: Vec<usize>) -> Outline {
    let mut outline = Outline::default();
    let mut names: [BTreeSet<String>; 3] = Default::default();
    for stage in order {
        let Some(found) = found.get(&stage) else { continue };
        let of_globals = globals.with_needs(&found.used);
        let declared = found.arguments.values();
        for argument in declared.chain(of_globals.into_iter().filter_map(|name| globals.get(name)))
        {
            if names[0].insert(argument.name.clone()) {
                outline.arguments.push(argument.clone());
            }
        }
        for (input, list, seen) in
            [(&found.secrets, &mut outline.secrets, 1), (&found.ssh, &mut outline.ssh, 2)]
        {
            list.extend(input.iter().filter(|it| names[seen].insert(it.name.clone())).cloned());
        }
    }
    outline.arguments.sort_by_key(|argument| (argument.span, argument.word));
    outline.secrets.sort_by_key(|input| input.span);
    outline.ssh.sort_by_key(|input| input.span);
    outline
}

/// Arguments above the first stage, and which of them each default needs.
#[derive(Default)]
struct Globals {
    arguments: BTreeMap<String, (OutlineArgument, BTreeSet<String>)>,
}

impl Globals {
    fn read(
        file: &Dockerfile,
        around: &Surroundings<'_>,
        lexer: &Lexer,
    ) -> Result<Self, ExpandError> {
        let mut globals = Self::default();
        let variables = around.globals.variables();
        for instruction in &file.global_args {
            let Kind::Arg(definitions) = &instruction.kind else { continue };
            for definition in definitions {
                let name = definition.name.text.clone();
                let is_given = around.build_args.contains_key(&name);
                let mut needs = match &definition.default {
                    Some(default) if !is_given => lexer.word(&default.text, variables)?.matched,
                    _ => BTreeSet::new(),
                };
                // A default that uses the argument itself goes on from the one above.
                if needs.remove(&name)
                    && let Some((_, above)) = globals.arguments.get(&name)
                {
                    needs.extend(above.iter().cloned());
                }
                let argument = OutlineArgument {
                    description: instruction.description(&name).map(str::to_owned),
                    value: variables.value(&name).map(str::to_owned),
                    span: instruction.span,
                    word: definition.name.span,
                    name: name.clone(),
                };
                globals.arguments.insert(name, (argument, needs));
            }
        }
        Ok(globals)
    }

    fn get(&self, name: &str) -> Option<&OutlineArgument> {
        self.arguments.get(name).map(|(argument, _)| argument)
    }

    /// The variables that a `FROM` uses.
    fn used_by(
        &self,
        stage: &Stage,
        around: &Surroundings<'_>,
        lexer: &Lexer,
    ) -> Result<BTreeSet<String>, ExpandError> {
        let variables = around.globals.variables();
        let mut used = lexer.word(&stage.base.text, variables)?.matched;
        if let Some(platform) = &stage.platform {
            used.append(&mut lexer.word(&platform.text, variables)?.matched);
        }
        Ok(used)
    }

    /// `names` and all that their defaults need.
    fn with_needs<'s>(&'s self, names: &'s BTreeSet<String>) -> BTreeSet<&'s str> {
        let mut all = BTreeSet::new();
        let mut stack: Vec<&str> = names.iter().map(String::as_str).collect();
        while let Some(name) = stack.pop() {
            if all.insert(name) {
                let needs = self.arguments.get(name).map(|(_, needs)| needs);
                stack.extend(needs.into_iter().flatten().map(String::as_str));
            }
        }
        all
    }
}

/// What one stage takes.
#[derive(Default)]
struct Found {
    /// Arguments that it declares with a value of its own.
    arguments: BTreeMap<String, OutlineArgument>,
    /// Names of arguments that stand above the first stage.
    used: BTreeSet<String>,
    secrets: Vec<OutlineInput>,
    ssh: Vec<OutlineInput>,
}

struct Walk<'a> {
    lexer: &'a Lexer,
    around: &'a Surroundings<'a>,
    scope: StageScope,
    environment: VariableList,
    found: Found,
}

impl<'a> Walk<'a> {
    fn begin(
        facts: &StageFacts<'_>,
        below: Option<(StageScope, VariableList)>,
        (lexer, around): (&'a Lexer, &'a Surroundings<'a>),
    ) -> Self {
        let entries = || facts.environment.iter().map(String::as_str);
        let (mut scope, environment) = below
            .unwrap_or_else(|| (StageScope::new(entries()), VariableList::from_entries(entries())));
        scope.inherit(&environment);
        Self { lexer, around, scope, environment, found: Found::default() }
    }

    fn expand(&self, word: &Word) -> Result<Expanded, ExpandError> {
        self.lexer.word(&word.text, self.scope.variables())
    }

    fn instruction(&mut self, instruction: &Instruction, span: Span) -> Result<(), ExpandError> {
        match &instruction.kind {
            Kind::Arg(definitions) => {
                let Surroundings { globals, build_args, .. } = self.around;
                for definition in definitions {
                    let argument =
                        self.scope.declare(definition, globals, build_args, self.lexer)?;
                    let name = argument.name;
                    let is_own = definition.default.is_some() || build_args.contains_key(&name);
                    if !is_own && globals.variables().value(&name).is_some() {
                        self.found.arguments.remove(&name);
                        self.found.used.insert(name);
                        continue;
                    }
                    let description = instruction.description(&name).map(str::to_owned);
                    let (value, word) = (argument.value, definition.name.span);
                    let argument =
                        OutlineArgument { name: name.clone(), description, value, span, word };
                    self.found.arguments.insert(name, argument);
                }
            }
            Kind::Env(pairs) => {
                let expanded = self.scope.expand_pairs(pairs, self.lexer)?;
                for (name, value) in expanded {
                    self.scope.set(&name.text, &value.text);
                    self.environment.set(&name.text, &value.text);
                }
            }
            Kind::Run(run) => self.mounts(run, span),
            _ => {}
        }
        Ok(())
    }

    /// A mount that cannot be read is the build's matter.
    fn mounts(&mut self, run: &Run, span: Span) {
        for mount in &run.mounts {
            let mut expand = |text: &str| {
                let word = Word { text: text.to_owned(), ..Word::default() };
                self.expand(&word).map(|expanded| expanded.text)
            };
            let Ok(mount) = Mount::parse(&mount.text, &mut expand) else { continue };
            let file = || mount.target.as_deref()?.rsplit('/').next().map(str::to_owned);
            let input = |name: String| OutlineInput { name, required: mount.required, span };
            match mount.kind {
                MountKind::Secret => {
                    let name = mount.source.clone().or_else(|| mount.id.clone()).or_else(file);
                    self.found.secrets.extend(name.map(input));
                }
                MountKind::Ssh => {
                    let name = mount.id.clone().unwrap_or_else(|| "default".to_owned());
                    self.found.ssh.push(input(name));
                }
                _ => {}
            }
        }
    }
}
