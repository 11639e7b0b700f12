//! One stage, instruction by instruction.

use std::collections::BTreeSet;

use super::{StageFacts, Surroundings};
use crate::{
    CommandForm, CommandLine, ExpandError, Expanded, ExposedPorts, Instruction, KeyValue, Kind,
    Lexer, Mount, Patterns, Run, Sources, Span, Stage, StageScope, VariableList, Variables as _,
    Word, ignore,
    lint::{Linter, Place, Rule},
};

/// Words that make a name that of a secret, between `_`.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "password",
    "pword",
    "passwd",
    "secret",
    "token",
];
/// Words that make it none nevertheless.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// The build ends here with an error.
pub(super) struct Failed;

/// An instruction on its way through a stage.
#[derive(Clone, Copy)]
pub(super) struct Step<'a> {
    pub(super) stage: &'a Stage,
    pub(super) instruction: &'a Instruction,
    /// Whether it stands in the base: its spans are of another text then.
    pub(super) is_trigger: bool,
}

impl<'a> Step<'a> {
    fn place(&self) -> Place<'a> {
        if self.is_trigger {
            Place { comments: &[], ..Place::of_stage(self.stage) }
        } else {
            Place::of(self.instruction)
        }
    }

    /// The instruction with one of its parts underlined.
    fn at(&self, part: Span) -> Place<'a> {
        if self.is_trigger { self.place() } else { self.place().at(part) }
    }
}

/// What is known at one point of a stage.
#[derive(Clone, Debug, Default)]
pub(super) struct Walk {
    scope: StageScope,
    /// The image's environment, without arguments.
    environment: VariableList,
    /// Arguments that this stage has declared, which may hide variables of the image.
    declared: BTreeSet<String>,
    has_shell: bool,
    has_workdir: bool,
    /// The last `CMD`, `ENTRYPOINT` and `HEALTHCHECK`: its span and its keyword's.
    last: [Option<(Span, Span)>; 3],
}

impl Walk {
    pub(super) fn upon(facts: &StageFacts<'_>) -> Self {
        let entries = || facts.environment.iter().map(String::as_str);
        Self {
            scope: StageScope::new(entries()),
            environment: VariableList::from_entries(entries()),
            has_shell: facts.has_shell,
            ..Self::default()
        }
    }

    /// Begins a stage that builds upon this one's end.
    pub(super) fn above(mut self) -> Self {
        for name in std::mem::take(&mut self.declared) {
            if let Some(value) = self.environment.value(&name) {
                self.scope.set(&name, value);
            }
        }
        Self { last: [None; 3], ..self }
    }

    pub(super) fn instruction(
        &mut self,
        linter: &mut Linter<'_>,
        around: &Surroundings<'_>,
        step: Step<'_>,
    ) -> Result<(), Failed> {
        let mut words = Words { linter, scope: &self.scope, step };
        match &step.instruction.kind {
            Kind::Arg(_) => self.arguments(linter, around, step)?,
            Kind::Env(pairs) => self.pairs(linter, step, pairs)?,
            Kind::Label(pairs) => {
                words.pairs(pairs)?;
                words.legacy(pairs);
            }
            Kind::Copy(copy) => {
                let ignore = around.ignore.filter(|_| copy.from.is_none());
                words.all([&copy.chown, &copy.chmod].into_iter().flatten())?;
                words.sources(&copy.sources, ignore)?;
            }
            Kind::Add(add) => {
                words.all([&add.chown, &add.chmod, &add.checksum].into_iter().flatten())?;
                words.sources(&add.sources, around.ignore)?;
            }
            Kind::Workdir(word) => {
                let path = words.word(word)?;
                if !self.has_workdir && !path.starts_with('/') {
                    let detail = format!("where `{path}` is depends on the base image");
                    linter.note(Rule::WorkdirRelativePath, &step.at(word.span), detail);
                }
                self.has_workdir = true;
            }
            Kind::User(word) | Kind::StopSignal(word) => drop(words.word(word)?),
            Kind::Volume(list) => words.all(list)?,
            Kind::Expose(list) => words.ports(list)?,
            Kind::Run(run) => words.mounts(run)?,
            Kind::Shell(_) => self.has_shell = true,
            Kind::Cmd(line) => {
                self.once(linter, step, 0);
                self.shell_form(linter, step, line);
            }
            Kind::Entrypoint(line) => {
                self.once(linter, step, 1);
                self.shell_form(linter, step, line);
            }
            Kind::Healthcheck(_) => self.once(linter, step, 2),
            Kind::Maintainer(_) | Kind::Onbuild(_) => {}
        }
        Ok(())
    }

    fn arguments(
        &mut self,
        linter: &mut Linter<'_>,
        around: &Surroundings<'_>,
        step: Step<'_>,
    ) -> Result<(), Failed> {
        let Kind::Arg(definitions) = &step.instruction.kind else { return Ok(()) };
        let lexer = Lexer::new(linter.file.directives.escape());
        for definition in definitions {
            secret(linter, "ARG", &definition.name, step);
            let own = definition.name.text.as_str();
            let is_new = !self.scope.declares(own);
            let declared =
                self.scope.declare(definition, around.globals, around.build_args, &lexer);
            let (unmatched, failed) = match declared {
                Ok(argument) => {
                    self.declared.insert(argument.name);
                    (argument.unmatched, false)
                }
                Err(error) => (error.unmatched, true),
            };
            if let Some(default) = &definition.default {
                let mut words = Words { linter, scope: &self.scope, step };
                words.undefined(&unmatched, default.span);
                // A default does not see what it is the default of.
                if is_new && !failed && unmatched.contains(own) {
                    words.not_set(own, default.span);
                }
            }
            if failed {
                return Err(Failed);
            }
        }
        Ok(())
    }

    fn pairs(
        &mut self,
        linter: &mut Linter<'_>,
        step: Step<'_>,
        pairs: &[KeyValue],
    ) -> Result<(), Failed> {
        let mut words = Words { linter, scope: &self.scope, step };
        let expanded = words.pairs(pairs)?;
        words.legacy(pairs);
        for (pair, (name, value)) in pairs.iter().zip(expanded) {
            let key = Word { text: name, span: pair.key.span };
            secret(linter, "ENV", &key, step);
            self.scope.set(&key.text, &value);
            self.environment.set(&key.text, &value);
        }
        Ok(())
    }

    /// Reports the earlier one of two instructions of which the last counts.
    fn once(&mut self, linter: &mut Linter<'_>, step: Step<'_>, which: usize) {
        let place = step.place();
        if let Some((span, focus)) = self.last[which] {
            let keyword = step.instruction.keyword.text.to_ascii_uppercase();
            let detail = format!("a {keyword} below takes the place of this one");
            let comments = place.comments;
            let earlier = Place { span, focus, comments };
            linter.note(Rule::MultipleInstructionsDisallowed, &earlier, detail);
        }
        self.last[which] = Some((place.span, place.focus));
    }

    fn shell_form(&self, linter: &mut Linter<'_>, step: Step<'_>, line: &CommandLine) {
        let CommandForm::Shell(command) = &line.form else { return };
        if self.has_shell {
            return;
        }
        let place = if command.text.is_empty() { step.place() } else { step.at(command.span) };
        let detail = "a shell runs this and keeps the container's signals from it; write a JSON \
                      array, or choose the shell by SHELL";
        linter.note(Rule::JsonArgsRecommended, &place, detail.to_owned());
    }
}

fn secret(linter: &mut Linter<'_>, keyword: &str, name: &Word, step: Step<'_>) {
    let has = |words: &[&str]| {
        let mut parts = name.text.split('_');
        parts.any(|part| words.iter().any(|word| word.eq_ignore_ascii_case(part)))
    };
    if has(&SECRET) && !has(&HARMLESS) {
        let detail = format!(
            "`{name}` is named like a secret, and {keyword} leaves its value in the image: use \
             `RUN --mount=type=secret`"
        );
        linter.note(Rule::SecretsUsedInArgOrEnv, &step.at(name.span), detail);
    }
}

/// Expands the words of one instruction and reports variables that nothing sets.
struct Words<'w, 'l> {
    linter: &'w mut Linter<'l>,
    scope: &'w StageScope,
    step: Step<'w>,
}

impl Words<'_, '_> {
    fn lexer(&self) -> Lexer {
        Lexer::new(self.linter.file.directives.escape())
    }

    fn word(&mut self, word: &Word) -> Result<String, Failed> {
        let expanded = self.lexer().word(&word.text, self.scope.variables());
        self.expanded(expanded, word.span)
    }

    fn expanded(
        &mut self,
        expanded: Result<Expanded, ExpandError>,
        span: Span,
    ) -> Result<String, Failed> {
        match expanded {
            Ok(expanded) => {
                self.undefined(&expanded.unmatched, span);
                Ok(expanded.text)
            }
            Err(error) => {
                self.undefined(&error.unmatched, span);
                Err(Failed)
            }
        }
    }

    fn undefined(&mut self, unmatched: &BTreeSet<String>, span: Span) {
        for name in self.scope.undefined(unmatched) {
            self.not_set(name, span);
        }
    }

    fn not_set(&mut self, name: &str, span: Span) {
        let near = if self.linter.may_search() { self.scope.suggest(name) } else { None };
        let near = near.map_or(String::new(), |near| format!("; is `${near}` meant?"));
        let used = self.linter.use_of(name, span);
        let detail = format!("nothing sets `${name}`{near}");
        self.linter.note(Rule::UndefinedVar, &self.step.at(used), detail);
    }

    fn all<'x>(&mut self, words: impl IntoIterator<Item = &'x Word>) -> Result<(), Failed> {
        words.into_iter().try_for_each(|word| self.word(word).map(drop))
    }

    fn pairs(&mut self, pairs: &[KeyValue]) -> Result<Vec<(String, String)>, Failed> {
        let expand = |pair: &KeyValue| Ok((self.word(&pair.key)?, self.word(&pair.value)?));
        pairs.iter().map(expand).collect()
    }

    fn legacy(&mut self, pairs: &[KeyValue]) {
        for pair in pairs.iter().filter(|pair| pair.legacy) {
            let keyword = self.step.instruction.keyword.text.to_ascii_uppercase();
            let detail = format!("write `{keyword} {}=…`", pair.key);
            let place = self.step.at(pair.key.span.join(pair.value.span));
            self.linter.note(Rule::LegacyKeyValueFormat, &place, detail);
        }
    }

    fn sources(&mut self, sources: &Sources, ignore: Option<&Patterns>) -> Result<(), Failed> {
        let paths: Vec<(String, Span)> = sources
            .paths
            .iter()
            .map(|word| Ok((self.word(word)?, word.span)))
            .collect::<Result<_, Failed>>()?;
        self.word(&sources.destination)?;
        for file in sources.files.iter().filter(|file| file.expand) {
            let lexer = Lexer::heredoc_body();
            let expanded = lexer.word(&file.content, self.scope.variables());
            self.expanded(expanded, file.span)?;
        }
        for (path, span) in paths {
            self.ignored(&path, span, ignore);
        }
        Ok(())
    }

    /// Whether a source is excluded cannot be told of a list with `!`: a file below an excluded
    /// directory may be wanted again.
    fn ignored(&mut self, source: &str, span: Span, ignore: Option<&Patterns>) {
        let Some(ignore) = ignore.filter(|ignore| !ignore.has_negated()) else { return };
        if ["http://", "https://"].iter().any(|scheme| source.starts_with(scheme)) {
            return;
        }
        let path = ignore::clean(source.as_bytes());
        let is_root = matches!(&path[..], b"." | b"/");
        let takes_all = |text: &str| matches!(text, "*" | "**" | "**/*");
        if is_root && !ignore.list().iter().any(|pattern| takes_all(&pattern.text)) {
            return;
        }
        let Some(pattern) = ignore.deciding(&path) else { return };
        let by = match pattern.line {
            0 => format!("the pattern `{}`", pattern.text),
            line => format!("line {line} of the ignore file, `{}`", pattern.text),
        };
        let detail = format!("`{source}` is excluded by {by}");
        self.linter.note(Rule::CopyIgnoredFile, &self.step.at(span), detail);
    }

    fn ports(&mut self, words: &[Word]) -> Result<(), Failed> {
        for word in words {
            let (parts, _) =
                self.lexer().words(&word.text, self.scope.variables()).map_err(|_| Failed)?;
            for part in parts {
                let ports = ExposedPorts::parse(&part).map_err(|_| Failed)?;
                let place = self.step.at(word.span);
                if ports.upper_case {
                    let detail = format!("the protocol of `{part}` has capitals");
                    self.linter.note(Rule::ExposeProtoCasing, &place, detail);
                }
                if ports.mapped {
                    let detail = format!(
                        "`{part}` names an address or port of the host, which counts for nothing: \
                         `run --publish` does that"
                    );
                    self.linter.note(Rule::ExposeInvalidFormat, &place, detail);
                }
            }
        }
        Ok(())
    }

    fn mounts(&mut self, run: &Run) -> Result<(), Failed> {
        let lexer = self.lexer();
        for mount in &run.mounts {
            let mut unmatched = BTreeSet::new();
            let mut expand = |text: &str| match lexer.word(text, self.scope.variables()) {
                Ok(mut expanded) => {
                    unmatched.append(&mut expanded.unmatched);
                    Ok(expanded.text)
                }
                Err(error) => {
                    unmatched.extend(error.unmatched.iter().cloned());
                    Err(error)
                }
            };
            let parsed = Mount::parse(&mount.text, &mut expand);
            self.undefined(&unmatched, mount.span);
            parsed.map_err(|_| Failed)?;
        }
        Ok(())
    }
}
