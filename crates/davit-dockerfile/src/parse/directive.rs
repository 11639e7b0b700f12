//! Parser directives: `# name=value` at the very top of a file.

use crate::{
    Directive, Directives, ParseError, ParseErrorKind,
    text::{Line, Lines},
};

/// Whether directives may still come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    closed: bool,
}

impl Zone {
    /// Ends the zone: what follows is no directive, whatever its form.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// Reads a comment line; `false` if it is an ordinary comment.
    pub(super) fn read(
        &mut self,
        line: Line<'_>,
        directives: &mut Directives,
    ) -> Result<bool, ParseError> {
        if self.closed {
            return Ok(false);
        }
        let content = String::from_utf8_lossy(line.content());
        let parsed = content.trim_start().strip_prefix('#').and_then(name_and_value);
        let Some((name, value)) = parsed else {
            self.close();
            return Ok(false);
        };
        let slot = match name.as_str() {
            "syntax" => &mut directives.syntax,
            "escape" => &mut directives.escape,
            "check" => &mut directives.check,
            _ => {
                self.close();
                return Ok(false);
            }
        };
        let wrong = |problem| {
            let kind = ParseErrorKind::Directive { name: name.clone(), problem };
            Err(ParseError::new(kind, line.span()))
        };
        if slot.is_some() {
            return wrong("is given twice");
        }
        if name == "escape" && value != "\\" && value != "`" {
            return wrong("takes \\ or ` only");
        }
        *slot = Some(Directive { value, span: line.span() });
        Ok(true)
    }
}

/// Splits `name = value`; the name comes in lower case.
pub(crate) fn name_and_value(text: &str) -> Option<(String, String)> {
    const BLANKS: [char; 5] = ['\t', '\n', '\x0c', '\r', ' '];
    let text = text.trim_start();
    let length = text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let (name, rest) = text.split_at(length);
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    let rest = rest.trim_start_matches(BLANKS).strip_prefix('=')?;
    let value = rest.trim_matches(BLANKS);
    // A value must have a character; of blanks alone the last one counts.
    let value = if value.is_empty() { rest.get(rest.len().checked_sub(1)?..)? } else { value };
    Some((name.to_ascii_lowercase(), value.to_owned()))
}

/// The frontend that a build definition asks for, if it names one: `# syntax=…`, `// syntax=…` or
/// a JSON object with a field `syntax`. A first line `#!…` is passed over.
///
/// The name of the frontend is the first word of the result.
#[must_use]
pub fn detect_syntax(source: &[u8]) -> Option<String> {
    let source = source.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(source);
    let source = match source.iter().position(|&byte| byte == b'\n') {
        Some(end) if source.starts_with(b"#!") => &source[end + 1..],
        _ => source,
    };
    for comment in ["#", "//"] {
        let mut lines = Lines::new(source);
        while let Ok(Some(line)) = lines.next() {
            let content = String::from_utf8_lossy(line.content());
            match content.strip_prefix(comment).and_then(name_and_value) {
                Some((name, value)) if name == "syntax" => return Some(value),
                Some((name, _)) if matches!(name.as_str(), "escape" | "check") => {}
                _ => break,
            }
        }
    }
    let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(source).ok()?;
    object.get("syntax")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directives(text: &str) -> Result<Directives, ParseError> {
        let mut lines = Lines::new(text.as_bytes());
        let mut zone = Zone::default();
        let mut directives = Directives::default();
        while let Some(line) = lines.next()? {
            zone.read(line, &mut directives)?;
        }
        Ok(directives)
    }

    fn value(directive: Option<&Directive>) -> Option<&str> {
        directive.map(|directive| directive.value.as_str())
    }

    #[test]
    fn reads_directives() {
        let cases = [
            ("# syntax=docker/dockerfile:1\n# escape=`\n", Some("docker/dockerfile:1"), Some("`")),
            ("#SYNTAX = a b \n", Some("a b"), None),
            ("#\tescape\t=\t\\\r\n", None, Some("\\")),
            ("# other=1\n# escape=`\n", None, None),
            ("# words\n# escape=`\n", None, None),
            ("#\n# escape=`\n", None, None),
            ("# check=skip=all\n#syntax=x\n", Some("x"), None),
            ("# 1syntax=x\n", None, None),
            ("# syn-tax=x\n", None, None),
        ];
        for (text, syntax, escape) in cases {
            let read = directives(text).unwrap();
            assert_eq!(value(read.syntax.as_ref()), syntax, "{text}");
            assert_eq!(value(read.escape.as_ref()), escape, "{text}");
        }
        for text in ["# escape=x\n", "# escape=` \n# ESCAPE=`\n", "#syntax=a\n#syntax=b\n"] {
            assert!(directives(text).is_err(), "{text}");
        }
    }

    #[test]
    fn detects_the_syntax() {
        let cases: [(&str, Option<&str>); 8] = [
            ("# syntax=a/b:1 --x\nFROM x", Some("a/b:1 --x")),
            ("#!/usr/bin/env x\n# syntax=a\n", Some("a")),
            ("\u{feff}# check=skip=all\n# syntax=a\n", Some("a")),
            ("// syntax=a\n{}", Some("a")),
            (r#"{"syntax": "a", "b": 1}"#, Some("a")),
            (r#"{"syntax": 1}"#, None),
            ("FROM x\n# syntax=a", None),
            ("# comment\n# syntax=a", None),
        ];
        for (text, expected) in cases {
            assert_eq!(detect_syntax(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
