//! Expansion of words: quotes, escapes, variables and their operators.
//!
//! The rules are those of the Dockerfile frontend, which are nearly those of a POSIX shell:
//! `$name`, `${name}`, `${name:-word}` with `-`, `+`, `?`, `#`, `##`, `%`, `%%`, `/` and `//`.

mod pattern;
mod substitution;
mod variables;

use std::collections::BTreeSet;

pub use variables::{NoVariables, VariableList, Variables};

use crate::{Escape, in_short};

/// Deepest nesting of `${…${…}…}`.
const DEPTH_LIMIT: usize = 64;
/// Longest result in bytes. The kernel refuses variables over 128 KiB.
const SIZE_LIMIT: usize = 16 << 20;
/// Bytes of a word that its error shows; it may be as long as a result.
const SHOWN: usize = 200;

/// What quotes and escapes become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quotes {
    /// Quotes and escapes are resolved.
    #[default]
    Resolve,
    /// Quotes group words but stay in the result; escapes are resolved.
    Keep,
    /// Quotes and escapes both stay in the result.
    KeepAll,
    /// Quotes are characters like others (bodies of heredocs); escapes are resolved.
    Plain,
}

/// What a variable becomes that is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unset {
    /// Nothing.
    #[default]
    Empty,
    /// It stays as written.
    Keep,
}

/// Expands words.
///
/// ```
/// use davit_dockerfile::{Lexer, VariableList};
///
/// let mut variables = VariableList::new();
/// variables.set("dir", "/srv");
/// let word = Lexer::default().word(r#"${dir}/"a b"${name:-x}"#, &variables)?;
/// assert_eq!(word.text, "/srv/a bx");
/// # Ok::<(), davit_dockerfile::ExpandError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Lexer {
    /// The escape character.
    pub escape: Escape,
    /// What quotes become.
    pub quotes: Quotes,
    /// What unset variables become.
    pub unset: Unset,
}

/// An expanded word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The result.
    pub text: String,
    /// Names of the variables that were looked up and found.
    pub matched: BTreeSet<String>,
    /// Names of the variables that were looked up and not found.
    pub unmatched: BTreeSet<String>,
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot expand `{}`: {kind}", in_short(word, SHOWN))]
pub struct ExpandError {
    /// The word.
    pub word: String,
    /// What is wrong with it.
    pub kind: ExpandErrorKind,
    /// Names of the variables that were looked up and not found before the error.
    pub unmatched: BTreeSet<String>,
}

/// What is wrong with a word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandErrorKind {
    /// A quote has no end.
    #[error("a quote ({0}) is not closed")]
    OpenQuote(char),
    /// `${` has no `}`, or `${name/` no second `/`.
    #[error("`{0}` is missing after `${{`")]
    Missing(char),
    /// Nothing that could be a name follows `${`.
    #[error("no variable name after `${{`")]
    BadSubstitution,
    /// The operator behind the name is unknown.
    #[error("`{0}` is no operator of a substitution")]
    Operator(String),
    /// `${name?message}` with no such variable, or `${name:?message}` with an empty one.
    #[error("variable `{}`: {}", in_short(name, SHOWN), in_short(message, 5 * SHOWN))]
    Required {
        /// Its name.
        name: String,
        /// The message given, or `is not set` or `is empty`.
        message: String,
    },
    /// A pattern is wrong.
    #[error("pattern `{}` {problem}", in_short(pattern, SHOWN))]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Substitutions are nested too deeply.
    #[error("substitutions are nested more than {DEPTH_LIMIT} deep")]
    Depth,
    /// The result grows too long.
    #[error("the result is longer than {SIZE_LIMIT} bytes")]
    Size,
}

impl Lexer {
    /// A lexer for the words of a Dockerfile with this escape character.
    #[must_use]
    pub fn new(escape: Escape) -> Self {
        Self { escape, ..Self::default() }
    }

    /// A lexer for the bodies of heredocs: `\` escapes, quotes mean nothing.
    #[must_use]
    pub fn heredoc_body() -> Self {
        Self { escape: Escape::Backslash, quotes: Quotes::Plain, unset: Unset::Empty }
    }

    /// Expands `word` without splitting it.
    ///
    /// # Errors
    /// As [`ExpandErrorKind`] says; `${name:?}` is an error by itself.
    pub fn word(&self, word: &str, variables: &dyn Variables) -> Result<Expanded, ExpandError> {
        let mut run = Run::new(self, word, variables);
        match run.until(None, self.raw_escapes()) {
            Ok(output) => {
                Ok(Expanded { text: output.text, matched: run.matched, unmatched: run.unmatched })
            }
            Err(kind) => Err(ExpandError { word: word.to_owned(), kind, unmatched: run.unmatched }),
        }
    }

    /// Expands `word` and splits it at blanks that are neither quoted nor escaped; blanks in
    /// variables split too. Words that become empty vanish.
    ///
    /// # Errors
    /// As [`Lexer::word`].
    pub fn words(
        &self,
        word: &str,
        variables: &dyn Variables,
    ) -> Result<(Vec<String>, Expanded), ExpandError> {
        let mut run = Run::new(self, word, variables);
        match run.until(None, self.raw_escapes()) {
            Ok(output) => {
                let mut words = output.words;
                if !output.current.is_empty() {
                    words.push(output.current);
                }
                let Run { matched, unmatched, .. } = run;
                Ok((words, Expanded { text: output.text, matched, unmatched }))
            }
            Err(kind) => Err(ExpandError { word: word.to_owned(), kind, unmatched: run.unmatched }),
        }
    }

    fn raw_escapes(&self) -> bool {
        self.quotes == Quotes::KeepAll
    }
}

/// Text in the making, whole and as words.
#[derive(Default)]
struct Output {
    text: String,
    words: Vec<String>,
    current: String,
    /// Whether the current word has begun, be it empty so far.
    in_word: bool,
}

impl Output {
    /// A character that splits if it is blank.
    fn push(&mut self, c: char) {
        self.text.push(c);
        if !c.is_whitespace() {
            self.current.push(c);
            self.in_word = true;
        } else if self.in_word && !self.current.is_empty() {
            self.words.push(std::mem::take(&mut self.current));
            self.in_word = false;
        }
    }

    /// Text that does not split.
    fn push_whole(&mut self, text: &str) {
        self.text.push_str(text);
        self.current.push_str(text);
        self.in_word = true;
    }
}

struct Run<'a> {
    lexer: &'a Lexer,
    chars: std::iter::Peekable<std::str::Chars<'a>>,
    variables: &'a dyn Variables,
    raw_escapes: bool,
    depth: usize,
    size: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

impl<'a> Run<'a> {
    fn new(lexer: &'a Lexer, word: &'a str, variables: &'a dyn Variables) -> Self {
        // A byte order mark at the start of a word counts for nothing.
        let chars = word.strip_prefix('\u{feff}').unwrap_or(word).chars().peekable();
        Self {
            lexer,
            chars,
            variables,
            raw_escapes: false,
            depth: 0,
            size: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        }
    }

    fn account(&mut self, text: &str) -> Result<(), ExpandErrorKind> {
        self.size = self.size.saturating_add(text.len());
        if self.size > SIZE_LIMIT { Err(ExpandErrorKind::Size) } else { Ok(()) }
    }

    /// Expands up to `stop`, which is taken, or to the end where `stop` is `None`.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Output, ExpandErrorKind> {
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let result = self.until_raw(stop);
        self.raw_escapes = outer;
        result
    }

    fn until_raw(&mut self, stop: Option<char>) -> Result<Output, ExpandErrorKind> {
        let mut output = Output::default();
        let quotes = self.lexer.quotes != Quotes::Plain;
        while let Some(&c) = self.chars.peek() {
            if Some(c) == stop {
                self.chars.next();
                return Ok(output);
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    self.account(&value)?;
                    value.chars().for_each(|c| output.push(c));
                }
                '\'' if quotes => output.push_whole(&self.single_quoted()?),
                '"' if quotes => output.push_whole(&self.double_quoted()?),
                '<' => output.push_whole(&self.redirection()),
                _ => self.plain(c, &mut output),
            }
        }
        stop.map_or(Ok(output), |stop| Err(ExpandErrorKind::Missing(stop)))
    }

    fn plain(&mut self, c: char, output: &mut Output) {
        self.chars.next();
        if c != self.lexer.escape.as_char() {
            output.push(c);
            return;
        }
        if self.raw_escapes {
            output.push_whole(c.encode_utf8(&mut [0; 4]));
        }
        if let Some(next) = self.chars.next() {
            output.push_whole(next.encode_utf8(&mut [0; 4]));
        }
    }

    fn keeps_quotes(&self) -> bool {
        matches!(self.lexer.quotes, Quotes::Keep | Quotes::KeepAll)
    }

    fn single_quoted(&mut self) -> Result<String, ExpandErrorKind> {
        self.chars.next();
        let mut text = String::new();
        if self.keeps_quotes() {
            text.push('\'');
        }
        for c in self.chars.by_ref() {
            if c == '\'' {
                if self.keeps_quotes() {
                    text.push('\'');
                }
                return Ok(text);
            }
            text.push(c);
        }
        Err(ExpandErrorKind::OpenQuote('\''))
    }

    fn double_quoted(&mut self) -> Result<String, ExpandErrorKind> {
        self.chars.next();
        let mut text = String::new();
        if self.keeps_quotes() {
            text.push('"');
        }
        let escape = self.lexer.escape.as_char();
        while let Some(&c) = self.chars.peek() {
            if c == '$' {
                let value = self.dollar()?;
                self.account(&value)?;
                text.push_str(&value);
                continue;
            }
            self.chars.next();
            if c == '"' {
                if self.keeps_quotes() {
                    text.push('"');
                }
                return Ok(text);
            }
            if c != escape {
                text.push(c);
                continue;
            }
            if self.raw_escapes {
                text.push(c);
            }
            match self.chars.peek().copied() {
                None => {}
                Some(next) if matches!(next, '"' | '$') || next == escape => {
                    self.chars.next();
                    text.push(next);
                }
                Some(_) => text.push(c),
            }
        }
        Err(ExpandErrorKind::OpenQuote('"'))
    }

    /// `<`, or `<<` with the blanks behind it: the delimiter of a heredoc may stand apart.
    fn redirection(&mut self) -> String {
        self.chars.next();
        if self.chars.next_if_eq(&'<').is_none() {
            return "<".to_owned();
        }
        let mut text = "<<".to_owned();
        while let Some(c) = self.chars.next_if(|c| matches!(c, '\t' | '\r' | ' ')) {
            text.push(c);
        }
        text
    }
}

#[cfg(test)]
mod tests;
