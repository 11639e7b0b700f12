//! From bytes to a [`Dockerfile`].

mod directive;
mod duration;
mod flags;
mod heredoc;
mod instruction;
mod json;
mod mount;
mod node;
mod stage;
mod words;

pub use directive::detect_syntax;
pub(crate) use directive::name_and_value;
pub use duration::{format_duration, parse_duration};
pub use mount::MountError;
pub use node::Node;

use crate::{
    Comment, Directives, Dockerfile, EmptyContinuation, ParseError, ParseErrorKind, Span,
    text::{Joined, Line, Lines},
};

/// Most instructions of a Dockerfile: what is read of one is much larger than its text.
const INSTRUCTION_LIMIT: usize = 100_000;

/// Keywords of all instructions.
pub const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// The keyword in upper case; `instruction` for an unknown one.
fn keyword_name(keyword: &str) -> &'static str {
    KEYWORDS.into_iter().find(|known| known.eq_ignore_ascii_case(keyword)).unwrap_or("instruction")
}

/// A Dockerfile as its instructions' words, before their meaning is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syntax {
    /// Parser directives at the top.
    pub directives: Directives,
    /// All instructions in order.
    pub nodes: Vec<Node>,
    /// Instructions with empty lines in them.
    pub empty_continuations: Vec<EmptyContinuation>,
}

impl Syntax {
    /// Splits a Dockerfile into instructions and words.
    ///
    /// # Errors
    /// For lines and instructions over the limit, text that is no UTF-8 (comments may be), wrong directives,
    /// heredocs without end, wrong arrays and pairs; and for a file without instructions.
    pub fn parse(source: &[u8]) -> Result<Self, ParseError> {
        let mut lines = Lines::new(source);
        let mut reader = Reader::default();
        while let Some(line) = lines.next()? {
            reader.line(line, &mut lines)?;
        }
        if reader.syntax.nodes.is_empty() {
            let number = lines.number().max(1);
            let span = Span { start: 0, end: source.len(), first_line: 1, last_line: number };
            return Err(ParseError::new(ParseErrorKind::Empty, span));
        }
        Ok(reader.syntax)
    }
}

#[derive(Default)]
struct Reader {
    syntax: Syntax,
    zone: directive::Zone,
    comments: Vec<Comment>,
}

impl Reader {
    /// Reads a line and, if an instruction begins with it, all of that.
    fn line(&mut self, line: Line<'_>, lines: &mut Lines<'_>) -> Result<(), ParseError> {
        if line.is_comment() {
            if !self.zone.read(line, &mut self.syntax.directives)? {
                self.comment(line);
            }
            return Ok(());
        }
        self.zone.close();
        let text = line.text()?;
        let stripped = text.trim_start();
        let offset = line.offset + (text.len() - stripped.len());
        let mut joined = Joined::default();
        let (kept, mut more) = self.continued(stripped);
        if !more && kept.is_empty() {
            return Ok(());
        }
        let start = Span { start: offset, end: offset, ..line.span() };
        joined.push(kept, offset, line.number);
        let mut empty = Vec::new();
        while more {
            let Some(line) = lines.next()? else { break };
            if line.is_comment() {
                continue;
            }
            let text = line.text()?;
            if text.trim().is_empty() {
                empty.push(line.span());
                continue;
            }
            let (kept, again) = self.continued(text);
            joined.push(kept, line.offset, line.number);
            more = again;
        }
        if !empty.is_empty() {
            let continuation = EmptyContinuation { lines: empty, last_line: lines.number() };
            self.syntax.empty_continuations.push(continuation);
        }
        self.instruction(&joined, start, lines)
    }

    /// The line without its continuation, and whether it has one: an escape character with blanks
    /// behind it at most, alone or behind another character.
    fn continued<'a>(&self, text: &'a str) -> (&'a str, bool) {
        let escape = self.syntax.directives.escape().as_char();
        let Some(kept) = text.trim_end_matches([' ', '\t']).strip_suffix(escape) else {
            return (text, false);
        };
        if kept.ends_with(escape) { (text, false) } else { (kept, true) }
    }

    /// Reads the instruction that begins at `start`, which may be a continuation without words.
    fn instruction(
        &mut self,
        joined: &Joined,
        start: Span,
        lines: &mut Lines<'_>,
    ) -> Result<(), ParseError> {
        if self.syntax.nodes.len() == INSTRUCTION_LIMIT {
            let kind = ParseErrorKind::Instructions { limit: INSTRUCTION_LIMIT };
            return Err(ParseError::new(kind, start));
        }
        let mut node = Node::read(joined, self.syntax.directives.escape())?;
        node.span = node.span.join(start);
        for delimiter in node.delimiters(joined.whole().as_str())? {
            let heredoc = heredoc::body(delimiter, lines, &node.keyword)?;
            node.span = node.span.join(heredoc.span);
            node.heredocs.push(heredoc);
        }
        node.span.last_line = node.span.last_line.max(lines.number());
        node.comments = std::mem::take(&mut self.comments);
        self.syntax.nodes.push(node);
        Ok(())
    }

    /// Keeps a comment for the instruction below; an empty one drops those above.
    fn comment(&mut self, line: Line<'_>) {
        let content = String::from_utf8_lossy(line.content());
        let text = content.trim_start();
        let text = text.strip_prefix('#').unwrap_or(text).trim();
        if text.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(Comment { text: text.to_owned(), span: line.span() });
        }
    }
}

impl Dockerfile {
    /// Reads a whole Dockerfile.
    ///
    /// ```
    /// use davit_dockerfile::{Dockerfile, Kind};
    ///
    /// let file = Dockerfile::parse(b"FROM alpine AS base\nRUN apk add curl\n")?;
    /// assert_eq!(file.stages[0].base.text, "alpine");
    /// assert!(matches!(file.stages[0].instructions[0].kind, Kind::Run(_)));
    /// # Ok::<(), davit_dockerfile::ParseError>(())
    /// ```
    ///
    /// # Errors
    /// For everything that the frontend refuses before a build begins; the first error wins.
    pub fn parse(source: &[u8]) -> Result<Self, ParseError> {
        stage::assemble(Syntax::parse(source)?)
    }
}
