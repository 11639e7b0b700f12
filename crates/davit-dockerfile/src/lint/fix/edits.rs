//! Which bytes change for a warning.

use std::{collections::BTreeSet, ops::Range};

use super::{Edit, meaning, never};
use crate::{
    CommandForm, Dockerfile, Instruction, KeyValue, Kind, Span, Stage, Word,
    lint::{Rule, Warning},
};

/// The label that takes the place of MAINTAINER.
pub(super) const AUTHORS: &str = "org.opencontainers.image.authors";
/// Commands that a shell has itself: another program of the name may do something else.
const BUILTINS: [&str; 44] = [
    ".", ":", "[", "alias", "bg", "break", "case", "cd", "command", "continue", "do", "echo",
    "eval", "exec", "exit", "export", "fg", "for", "function", "getopts", "hash", "if", "jobs",
    "kill", "local", "printf", "pwd", "read", "readonly", "return", "select", "set", "shift",
    "source", "test", "time", "times", "trap", "type", "ulimit", "umask", "unset", "until",
    "while",
];

const LINES: &str = "it goes over several lines";
const TRIGGER: &str = "it comes from ONBUILD of the base";
const VARIABLES: &str = "it is made of variables or quotes";

type Edits = Result<Vec<Edit>, &'static str>;

/// Makes the edits of one file.
pub(super) struct Editor<'a> {
    source: &'a [u8],
    file: &'a Dockerfile,
    /// Where keywords begin that are to be in the case of the others.
    recased: BTreeSet<usize>,
    /// Where MAINTAINERs begin that become labels.
    relabelled: BTreeSet<usize>,
    case: Case,
    /// Whether both CMD and ENTRYPOINT occur: the form of one changes what the other means.
    has_both: bool,
    has_authors: bool,
}

#[derive(Clone, Copy)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    fn apply(self, word: &str) -> String {
        match self {
            Self::Lower => word.to_lowercase(),
            Self::Upper => word.to_uppercase(),
        }
    }

    fn of(word: &str) -> Self {
        if word == word.to_lowercase() { Self::Lower } else { Self::Upper }
    }
}

/// The instruction that a warning is about.
enum Subject<'a> {
    From(&'a Stage),
    Other(&'a Instruction),
}

impl<'a> Editor<'a> {
    pub(super) fn new(source: &'a [u8], file: &'a Dockerfile, warnings: &[Warning]) -> Self {
        let starts = |rule: Rule| {
            let found = warnings.iter().filter(|warning| warning.rule == rule);
            found.map(|warning| warning.focus.start).collect()
        };
        let all = || file.stages.iter().flat_map(|stage| &stage.instructions);
        let keywords = file.stages.iter().map(|stage| &stage.keyword);
        let keywords = keywords.chain(all().map(|instruction| &instruction.keyword));
        let (mut lower, mut upper) = (0, 0);
        for word in keywords.map(|word| word.text.as_str()) {
            lower += usize::from(word == word.to_lowercase());
            upper += usize::from(word == word.to_uppercase());
        }
        let is_authors = |pair: &KeyValue| pair.key.text.contains(AUTHORS);
        Self {
            source,
            file,
            recased: starts(Rule::ConsistentInstructionCasing),
            relabelled: starts(Rule::MaintainerDeprecated),
            case: if lower > upper { Case::Lower } else { Case::Upper },
            has_both: all().any(|it| matches!(it.kind, Kind::Cmd(_)))
                && all().any(|it| matches!(it.kind, Kind::Entrypoint(_))),
            has_authors: all()
                .any(|it| matches!(&it.kind, Kind::Label(pairs) if pairs.iter().any(is_authors))),
        }
    }

    /// The edits that mend what a warning is about, or why there are none.
    pub(super) fn edits(&self, warning: &Warning) -> Edits {
        if let Some(why) = never(warning.rule) {
            return Err(why);
        }
        if warning.rule == Rule::NoEmptyContinuation {
            return self.empty_lines(warning);
        }
        let subject = self.subject(warning.span).ok_or(TRIGGER)?;
        match (warning.rule, subject) {
            (Rule::StageNameCasing, Subject::From(stage)) => {
                let name = stage.written_name.as_ref().ok_or(TRIGGER)?;
                Ok(vec![self.replace(name, name.text.to_lowercase())?])
            }
            (Rule::FromAsCasing, Subject::From(stage)) => {
                Ok(self.as_edit(stage)?.into_iter().collect())
            }
            (Rule::ConsistentInstructionCasing, Subject::From(stage)) => {
                let mut edits = vec![self.recase(&stage.keyword)?];
                edits.extend(self.as_edit(stage)?);
                Ok(edits)
            }
            (Rule::ConsistentInstructionCasing, Subject::Other(instruction)) => {
                match (&instruction.kind, self.relabelled.contains(&warning.focus.start)) {
                    // One edit serves both warnings.
                    (Kind::Maintainer(name), true) => self.maintainer(instruction, name),
                    _ => Ok(vec![self.recase(&instruction.keyword)?]),
                }
            }
            (Rule::RedundantTargetPlatform, Subject::From(stage)) => {
                let flag = stage.platform.as_ref().ok_or(TRIGGER)?;
                if !meaning::is_default_platform(&flag.text) {
                    return Err(VARIABLES);
                }
                let span = flag.span;
                let blanks = self.source[span.end..].iter().take_while(|it| is_blank(**it));
                Ok(vec![Edit::new(span.start..span.end + blanks.count(), "")])
            }
            (_, Subject::From(_)) => Err(TRIGGER),
            (_, Subject::Other(instruction)) => {
                self.of_kind(&instruction.kind, instruction, warning)
            }
        }
    }

    fn of_kind(&self, kind: &Kind, instruction: &Instruction, warning: &Warning) -> Edits {
        match (warning.rule, kind) {
            (Rule::LegacyKeyValueFormat, Kind::Env(pairs) | Kind::Label(pairs)) => {
                let pair = pairs.first().ok_or(TRIGGER)?;
                self.legacy(instruction, pair)
            }
            (Rule::MaintainerDeprecated, Kind::Maintainer(name)) => {
                self.maintainer(instruction, name)
            }
            (Rule::JsonArgsRecommended, Kind::Cmd(line) | Kind::Entrypoint(line)) => {
                let CommandForm::Shell(command) = &line.form else { return Err(TRIGGER) };
                self.json(command)
            }
            (Rule::WorkdirRelativePath, Kind::Workdir(path)) => self.workdir(warning.span, path),
            (Rule::ExposeProtoCasing, Kind::Expose(ports)) => {
                let port = ports.iter().find(|port| port.span == warning.focus).ok_or(LINES)?;
                if port.text.contains(['$', '"', '\'', '\\', '`']) {
                    return Err(VARIABLES);
                }
                Ok(vec![self.replace(port, port.text.to_lowercase())?])
            }
            _ => Err(TRIGGER),
        }
    }

    fn subject(&self, span: Span) -> Option<Subject<'a>> {
        let stages = &self.file.stages;
        let at = stages.partition_point(|stage| stage.span.start <= span.start);
        let stage = &stages[at.checked_sub(1)?];
        if stage.span == span {
            return Some(Subject::From(stage));
        }
        let at = stage.instructions.binary_search_by_key(&span.start, |one| one.span.start);
        at.ok().map(|at| Subject::Other(&stage.instructions[at]))
    }

    /// Where a word stands, if it stands in one piece.
    fn piece(&self, word: &Word) -> Result<Range<usize>, &'static str> {
        let is_whole = word.span.text(self.source) == word.text.as_bytes();
        if is_whole { Ok(word.span.start..word.span.end) } else { Err(LINES) }
    }

    /// What is between two words, if it is blanks alone.
    fn gap(&self, left: &Word, right: &Word) -> Result<Range<usize>, &'static str> {
        let gap = left.span.end..right.span.start;
        let between = self.source.get(gap.clone()).ok_or(LINES)?;
        if between.iter().all(|byte| is_blank(*byte)) { Ok(gap) } else { Err(LINES) }
    }

    fn replace(&self, word: &Word, text: String) -> Result<Edit, &'static str> {
        Ok(Edit::new(self.piece(word)?, text))
    }

    fn recase(&self, keyword: &Word) -> Result<Edit, &'static str> {
        self.replace(keyword, self.case.apply(&keyword.text))
    }

    /// `AS` in the case that `FROM` will have.
    fn as_edit(&self, stage: &Stage) -> Result<Option<Edit>, &'static str> {
        let Some(word) = &stage.as_keyword else { return Ok(None) };
        let case = if self.recased.contains(&stage.keyword.span.start) {
            self.case
        } else {
            Case::of(&stage.keyword.text)
        };
        self.replace(word, case.apply(&word.text)).map(Some)
    }

    fn empty_lines(&self, warning: &Warning) -> Edits {
        let all = &self.file.empty_continuations;
        let found = all.binary_search_by_key(&Some(&warning.focus), |it| it.lines.first());
        let line = |span: &Span| {
            let end = self.source[span.end..].iter().position(|byte| *byte == b'\n');
            Edit::new(span.start..end.map_or(self.source.len(), |at| span.end + at + 1), "")
        };
        Ok(all[found.map_err(|_| LINES)?].lines.iter().map(line).collect())
    }

    /// `name value` as `name=value`, in quotes where that is needed.
    fn legacy(&self, instruction: &Instruction, pair: &KeyValue) -> Edits {
        let gap = self.gap(&pair.key, &pair.value)?;
        let (value, span) = (&pair.value.text, pair.value.span);
        let means_same = |value: &str| {
            meaning::pair_means(self.file.directives.escape(), instruction, pair, value)
        };
        if means_same(value) {
            return Ok(vec![Edit::new(gap, "=")]);
        }
        if means_same(&format!("\"{value}\"")) {
            // Whatever continuations and comments stand within stay.
            let close = Edit::new(span.end..span.end, "\"");
            return Ok(vec![Edit::new(gap, "=\""), close]);
        }
        let escaped = self.escape_blanks(value);
        if means_same(&escaped) {
            return Ok(vec![Edit::new(gap, "="), self.replace(&pair.value, escaped)?]);
        }
        Err(VARIABLES)
    }

    /// Escapes blanks that stand in no quotes.
    fn escape_blanks(&self, text: &str) -> String {
        let escape = self.file.directives.escape().as_char();
        let (mut escaped, mut quote) = (String::new(), None);
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match quote {
                None if c.is_whitespace() => escaped.push(escape),
                None if matches!(c, '\'' | '"') => quote = Some(c),
                Some(open) if c == open => quote = None,
                _ => {}
            }
            escaped.push(c);
            if c == escape && quote != Some('\'') {
                escaped.extend(chars.next());
            }
        }
        escaped
    }

    fn maintainer(&self, instruction: &Instruction, name: &Word) -> Edits {
        if self.has_authors {
            return Err("the file has a label of that name already");
        }
        self.gap(&instruction.keyword, name)?;
        let (start, end) = (self.piece(&instruction.keyword)?.start, self.piece(name)?.end);
        let keyword = self.case.apply("LABEL");
        let value = quote(&name.text, self.file.directives.escape().as_char());
        Ok(vec![Edit::new(start..end, format!("{keyword} {AUTHORS}={value}"))])
    }

    fn json(&self, command: &Word) -> Edits {
        if self.has_both {
            return Err("CMD and ENTRYPOINT must be looked at together");
        }
        let range = self.piece(command)?;
        let words: Vec<&str> = command.text.split_ascii_whitespace().collect();
        let Some(first) = words.first() else { return Err("there is no command") };
        if !words.iter().all(|word| meaning::is_plain(word)) {
            return Err("the shell does more than run a program");
        }
        if BUILTINS.contains(first) || first.contains('=') {
            return Err("it is a command of the shell itself");
        }
        let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
        Ok(vec![Edit::new(range, format!("[{}]", words.join(", ")))])
    }

    /// Only of an empty image it is certain where a stage begins.
    fn workdir(&self, span: Span, path: &Word) -> Edits {
        let at = self.file.stages.partition_point(|stage| stage.span.start <= span.start);
        let mut stage = at.checked_sub(1).map(|at| &self.file.stages[at]);
        while let Some(above) = stage {
            let name = above.base.text.as_str();
            stage = self.file.stages[..above.index].iter().rfind(|stage| {
                stage.name.as_ref().is_some_and(|it| it.text.eq_ignore_ascii_case(name))
            });
            if stage.is_none() && name != "scratch" {
                return Err("the base image's own directory may change");
            }
        }
        let text = path.text.strip_prefix("./").unwrap_or(&path.text);
        if !meaning::is_plain(text) || text.starts_with('.') {
            return Err(VARIABLES);
        }
        Ok(vec![self.replace(path, format!("/{text}"))?])
    }
}

const fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\x0b' | b'\x0c')
}

/// A literal text as a word.
fn quote(text: &str, escape: char) -> String {
    let special = |c: char| matches!(c, '"' | '$') || c == escape;
    if !text.contains(special) {
        return format!("\"{text}\"");
    }
    if !text.contains('\'') {
        return format!("'{text}'");
    }
    let mut quoted = String::from('"');
    for c in text.chars() {
        if special(c) {
            quoted.push(escape);
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}
