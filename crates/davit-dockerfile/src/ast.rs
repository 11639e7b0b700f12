//! What a Dockerfile says, as plain data.
//!
//! Values are as written: variables are not expanded and quotes are kept wherever the instruction
//! expands its words later. What removes them is [`crate::Lexer`].

use crate::Span;

/// A whole Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// Parser directives at the top.
    pub directives: Directives,
    /// `ARG` instructions before the first `FROM`.
    pub global_args: Vec<Instruction>,
    /// Build stages in order; never empty.
    pub stages: Vec<Stage>,
    /// Instructions with empty lines in them.
    pub empty_continuations: Vec<EmptyContinuation>,
}

/// An instruction whose continued text has empty lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmptyContinuation {
    /// The empty lines, without their line ends.
    pub lines: Vec<Span>,
    /// Number of the last line of the instruction's text; heredocs come behind it.
    pub last_line: u32,
}

impl Dockerfile {
    /// Index of the stage that `name` means for a stage with index `before` and for targets:
    /// a stage's name (any case; of two the last one wins) or else its number.
    ///
    /// `before` = `stages.len()` looks at all stages.
    #[must_use]
    pub fn stage_index(&self, name: &str, before: usize) -> Option<usize> {
        let stages = &self.stages[..before.min(self.stages.len())];
        let named = |stage: &Stage| {
            stage.name.as_ref().is_some_and(|known| known.text.eq_ignore_ascii_case(name))
        };
        stages
            .iter()
            .rposition(named)
            .or_else(|| name.parse().ok().filter(|&index: &usize| index < stages.len()))
    }
}

/// Parser directives: comments of the form `# name=value` before anything else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// Frontend that the file asks for.
    pub syntax: Option<Directive>,
    /// Escape character.
    pub escape: Option<Directive>,
    /// Configuration of the build checks.
    pub check: Option<Directive>,
}

impl Directives {
    /// The escape character in force.
    #[must_use]
    pub fn escape(&self) -> Escape {
        match &self.escape {
            Some(directive) if directive.value == "`" => Escape::Backtick,
            _ => Escape::Backslash,
        }
    }
}

/// One parser directive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Text behind the `=`, trimmed.
    pub value: String,
    /// The whole line.
    pub span: Span,
}

/// The character that continues lines and escapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Escape {
    /// `\`
    #[default]
    Backslash,
    /// A backtick.
    Backtick,
}

impl Escape {
    /// The character.
    #[must_use]
    pub const fn as_char(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// A piece of text and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The text, continuations removed.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl std::fmt::Display for Word {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// One line of comment above an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// Text behind the `#`, trimmed.
    pub text: String,
    /// The line.
    pub span: Span,
}

/// A build stage: `FROM` and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Number of the stage, from 0.
    pub index: usize,
    /// Name behind `AS`, in lower case.
    pub name: Option<Word>,
    /// Base as written: `scratch`, a reference, an earlier stage or a named context.
    pub base: Word,
    /// Value of `--platform`.
    pub platform: Option<Word>,
    /// `FROM` as written.
    pub keyword: Word,
    /// `AS` as written.
    pub as_keyword: Option<Word>,
    /// Name as written.
    pub written_name: Option<Word>,
    /// The whole `FROM` instruction, continuations removed.
    pub text: String,
    /// The `FROM` instruction.
    pub span: Span,
    /// Comments directly above.
    pub comments: Vec<Comment>,
    /// Instructions of the stage in order.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// What the comments above say of the stage: the rest of the first line that begins with its name.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        describe(&self.comments, &self.name.as_ref()?.text)
    }
}

/// An instruction other than `FROM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its meaning.
    pub kind: Kind,
    /// The keyword as written.
    pub keyword: Word,
    /// The whole instruction, continuations removed and trimmed; without heredoc bodies.
    pub text: String,
    /// From the keyword to the end, heredoc bodies included.
    pub span: Span,
    /// Comments directly above.
    pub comments: Vec<Comment>,
}

impl Instruction {
    /// What the comments above say of the argument `name`.
    #[must_use]
    pub fn description(&self, name: &str) -> Option<&str> {
        describe(&self.comments, name)
    }
}

fn describe<'a>(comments: &'a [Comment], name: &str) -> Option<&'a str> {
    comments.iter().find_map(|comment| comment.text.strip_prefix(name)?.strip_prefix(' '))
}

/// What an instruction does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Vec<ArgDefinition>),
    /// `CMD`
    Cmd(CommandLine),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(CommandLine),
    /// `ENV`
    Env(Vec<KeyValue>),
    /// `EXPOSE`: ports as written, sorted; each is expanded and then split into words.
    Expose(Vec<Word>),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Vec<KeyValue>),
    /// `MAINTAINER`
    Maintainer(Word),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`
    Run(Run),
    /// `SHELL`
    Shell(Vec<Word>),
    /// `STOPSIGNAL`: name or number as written.
    StopSignal(Word),
    /// `USER`
    User(Word),
    /// `VOLUME`: paths as written.
    Volume(Vec<Word>),
    /// `WORKDIR`
    Workdir(Word),
}

/// One `name=value` of `ENV` and `LABEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// Name as written.
    pub key: Word,
    /// Value as written, quotes kept.
    pub value: Word,
    /// Whether it was written in the old form `name value`.
    pub legacy: bool,
}

/// One `name` or `name=value` of `ARG`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDefinition {
    /// Name as written.
    pub name: Word,
    /// Default as written, quotes kept.
    pub default: Option<Word>,
}

/// How a command is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandForm {
    /// One line for the shell; empty where nothing was written.
    Shell(Word),
    /// Program and arguments, from a JSON array; may be empty.
    Exec(Vec<Word>),
}

/// The command of `RUN`, `CMD` and `ENTRYPOINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The command.
    pub form: CommandForm,
    /// Heredocs in order (`RUN` only; never in exec form).
    pub heredocs: Vec<Heredoc>,
}

/// A heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// Delimiter without quotes.
    pub name: String,
    /// File descriptor before the `<<`; 0 where none is written.
    pub descriptor: u32,
    /// Whether variables in the body are expanded: no part of the delimiter was quoted.
    pub expand: bool,
    /// Whether leading tabs of the body are dropped: `<<-`.
    pub strip_tabs: bool,
    /// Body as written, with its line ends, without the terminator.
    pub content: String,
    /// The body and its terminator.
    pub span: Span,
}

/// The command of a `RUN`, its sandbox and its mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// Values of `--mount` in order; [`Mount::parse`] reads one when variables are known.
    pub mounts: Vec<Word>,
    /// Value of `--network`.
    pub network: Network,
    /// Value of `--security`.
    pub security: Security,
    /// Values of `--device` in order.
    pub devices: Vec<Device>,
}

/// Network of a `RUN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// That of the build.
    #[default]
    Default,
    /// Loopback only.
    None,
    /// The host's.
    Host,
}

/// Sandbox of a `RUN`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    /// The usual one.
    #[default]
    Sandbox,
    /// All capabilities and devices; needs an entitlement.
    Insecure,
}

/// A CDI device of a `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its qualified name, or a class.
    pub name: String,
    /// Whether the build fails without it.
    pub required: bool,
    /// The flag's value.
    pub span: Span,
}

/// One `--mount` of a `RUN`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Kind of mount.
    pub kind: MountKind,
    /// Stage, image or context that it comes from.
    pub from: Option<String>,
    /// Path within its origin; for a secret its name.
    pub source: Option<String>,
    /// Path in the container, relative to the working directory.
    pub target: Option<String>,
    /// Whether it is read-only, defaults applied.
    pub read_only: bool,
    /// Size limit in bytes (tmpfs).
    pub size_bytes: Option<u64>,
    /// Name of the cache, secret or agent.
    pub id: Option<String>,
    /// How builds share a cache.
    pub sharing: Option<Sharing>,
    /// Whether a missing secret or agent is an error.
    pub required: bool,
    /// Variable that gets a secret; `Some("")` stands for its default name.
    pub environment: Option<String>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
}

/// Kind of a `RUN` mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// An empty file system in memory.
    Tmpfs,
    /// A file or variable that leaves no trace.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

/// How builds that run at the same time share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All write at once.
    #[default]
    Shared,
    /// Each gets a directory of its own.
    Private,
    /// One after the other.
    Locked,
}

/// Sources and destination of `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Paths, patterns and URLs as written.
    pub paths: Vec<Word>,
    /// Files written in the Dockerfile itself.
    pub files: Vec<InlineFile>,
    /// Destination as written.
    pub destination: Word,
}

/// A file that stands in the Dockerfile as a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineFile {
    /// Name of the file: the delimiter.
    pub name: String,
    /// Content, leading tabs dropped for `<<-`; variables not expanded.
    pub content: String,
    /// Whether variables in it are expanded.
    pub expand: bool,
    /// The body and its terminator.
    pub span: Span,
}

/// `COPY`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// What is copied and where.
    pub sources: Sources,
    /// Value of `--from`.
    pub from: Option<Word>,
    /// Value of `--chown`.
    pub chown: Option<Word>,
    /// Value of `--chmod`.
    pub chmod: Option<Word>,
    /// Whether the layer is independent of the layers below.
    pub link: bool,
    /// Whether the sources keep their parent directories.
    pub parents: bool,
    /// Values of `--exclude` in order.
    pub exclude: Vec<Word>,
}

/// `ADD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// What is added and where.
    pub sources: Sources,
    /// Value of `--chown`.
    pub chown: Option<Word>,
    /// Value of `--chmod`.
    pub chmod: Option<Word>,
    /// Value of `--checksum`.
    pub checksum: Option<Word>,
    /// Whether the layer is independent of the layers below.
    pub link: bool,
    /// Whether a git source keeps `.git`; `None` where not written.
    pub keep_git_dir: Option<bool>,
    /// Whether archives are unpacked; `None` unpacks local ones only.
    pub unpack: Option<bool>,
    /// Values of `--exclude` in order.
    pub exclude: Vec<Word>,
}

/// `HEALTHCHECK`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// The check.
    pub test: HealthTest,
    /// Time between two checks in ns; 0 = default.
    pub interval_ns: i64,
    /// Time after which a check has failed in ns; 0 = default.
    pub timeout_ns: i64,
    /// Time in which failures do not count in ns; 0 = default.
    pub start_period_ns: i64,
    /// Time between two checks in the start period in ns; 0 = default.
    pub start_interval_ns: i64,
    /// Failures in a row that make the container unhealthy; 0 = default.
    pub retries: u32,
}

/// The check of a `HEALTHCHECK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthTest {
    /// `NONE`: no check, not even the base's.
    None,
    /// `CMD` with a line for the shell.
    Shell(Word),
    /// `CMD` with a JSON array.
    Exec(Vec<Word>),
}

/// `ONBUILD`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Onbuild {
    /// The trigger's text as the image config stores it, heredoc bodies appended.
    pub trigger: String,
    /// Keyword of the trigger as written.
    pub keyword: Word,
}
