//! Heredocs: finding their delimiters in a line and reading their bodies.

use crate::{
    Escape, Heredoc, Lexer, NoVariables, ParseError, ParseErrorKind, Quotes, Span, Unset, Word,
    text::{Lines, decode},
};

/// A heredoc's beginning as a word shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delimiter {
    pub(super) name: String,
    pub(super) descriptor: u32,
    pub(super) expand: bool,
    pub(super) strip_tabs: bool,
}

/// Lexers of heredoc words escape with `\` whatever the directive says.
fn lexer(quotes: Quotes) -> Lexer {
    Lexer { escape: Escape::Backslash, quotes, unset: Unset::Keep }
}

/// Reads a word of the form `[n]<<[-]name`; `Ok(None)` where it is something else.
pub(super) fn delimiter(word: &str) -> Result<Option<Delimiter>, crate::ExpandError> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (descriptor, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches(['\t', '\n', '\x0c', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let (names, _) = lexer(Quotes::Resolve).words(rest, &NoVariables)?;
    let [name] = &names[..] else { return Ok(None) };
    // A quote that vanishes is one that quotes the delimiter.
    let (raw, _) = lexer(Quotes::Keep).words(rest, &NoVariables)?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    let expand = raw.first().is_some_and(|raw| quotes(raw) == quotes(name));
    let descriptor = if descriptor.is_empty() { 0 } else { descriptor.parse().unwrap_or(u32::MAX) };
    Ok(Some(Delimiter { name: name.clone(), descriptor, expand, strip_tabs }))
}

/// The heredocs that a joined line begins, in order. A line with an open quote begins none.
pub(super) fn in_line(line: &str) -> Result<Vec<Delimiter>, crate::ExpandError> {
    let Ok((words, _)) = lexer(Quotes::KeepAll).words(line, &NoVariables) else {
        return Ok(Vec::new());
    };
    words.iter().filter_map(|word| delimiter(word).transpose()).collect()
}

/// Reads the body of one heredoc up to the line that ends it.
pub(super) fn body(
    delimiter: Delimiter,
    lines: &mut Lines<'_>,
    begin: &Word,
) -> Result<Heredoc, ParseError> {
    let start = lines.offset();
    let first_line = lines.number().saturating_add(1);
    let mut content = Vec::new();
    while let Some(line) = lines.next()? {
        let mut end = line.content();
        if delimiter.strip_tabs {
            while let Some(rest) = end.strip_prefix(b"\t") {
                end = rest;
            }
        }
        let span = Span { start, end: line.span().end, first_line, last_line: line.number };
        if end == delimiter.name.as_bytes() {
            let content = decode(&content, span)?.to_owned();
            let Delimiter { name, descriptor, expand, strip_tabs } = delimiter;
            return Ok(Heredoc { name, descriptor, expand, strip_tabs, content, span });
        }
        content.extend_from_slice(line.bytes);
    }
    Err(ParseError::new(ParseErrorKind::UnterminatedHeredoc(delimiter.name), begin.span))
}

impl Heredoc {
    /// The body as the command or file gets it: leading tabs dropped for `<<-`.
    #[must_use]
    pub fn body(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_delimiters() {
        let cases = [
            ("<<EOF", Some(("EOF", 0, true, false))),
            ("<<-EOF", Some(("EOF", 0, true, true))),
            ("3<<EOF", Some(("EOF", 3, true, false))),
            ("<<'EOF'", Some(("EOF", 0, false, false))),
            ("<<\"EOF\"", Some(("EOF", 0, false, false))),
            ("<<E'O'F", Some(("EOF", 0, false, false))),
            ("<<\\EOF", Some(("EOF", 0, true, false))),
            ("<< EOF", Some(("EOF", 0, true, false))),
            ("<<$EOF", Some(("$EOF", 0, true, false))),
            ("<<${EOF:-x}", Some(("${EOF:-x}", 0, true, false))),
            ("<<'a b'", Some(("a b", 0, false, false))),
            ("99999999999<<E", Some(("E", u32::MAX, true, false))),
            ("<<", None),
            ("<<-", None),
            ("<<<EOF", None),
            ("x<<EOF", None),
            ("<<a<b", None),
            ("<<a b", None),
            ("<<''", None),
            ("<EOF", None),
            ("", None),
        ];
        for (word, expected) in cases {
            let found = delimiter(word).unwrap();
            let found =
                found.as_ref().map(|d| (d.name.as_str(), d.descriptor, d.expand, d.strip_tabs));
            assert_eq!(found, expected, "{word}");
        }
        assert!(delimiter("<<'EOF").is_err());
    }

    #[test]
    fn finds_them_in_lines() {
        let cases: [(&str, &[&str]); 8] = [
            ("RUN cat <<A <<B > x", &["A", "B"]),
            ("RUN cat <<  A", &["A"]),
            ("RUN cat <<-  A", &[]),
            ("RUN echo '<<A' \"<<B\" \\<<C", &[]),
            ("RUN echo $((1<<2))", &[]),
            ("RUN echo \"it's\" it's <<A", &[]),
            ("COPY <<a 3<<b /x", &["a", "b"]),
            ("RUN a<<A", &[]),
        ];
        for (line, expected) in cases {
            let names: Vec<String> = in_line(line).unwrap().into_iter().map(|d| d.name).collect();
            assert_eq!(names, expected, "{line}");
        }
    }
}
