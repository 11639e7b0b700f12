//! Files of variables, as `.env`: a dialect of its own.

use std::collections::BTreeMap;

use crate::{error::ComposeError, interpolate::interpolate};

/// Most bytes of all names and values.
const MOST_BYTES: usize = 8 << 20;

/// Reads the variables of a file in their order; `lookup` has those that are set outside, which
/// win where a value names them.
///
/// # Errors
/// A line that is none.
pub fn read(
    file: &str,
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, ComposeError> {
    let text = text.replace("\r\n", "\n");
    let mut reader = Reader {
        file,
        rest: text.strip_prefix('\u{feff}').unwrap_or(&text),
        line: 1,
        found: BTreeMap::new(),
        bytes: 0,
        lookup,
    };
    while reader.statement()? {}
    Ok(reader.found)
}

struct Reader<'t> {
    file: &'t str,
    rest: &'t str,
    line: usize,
    found: BTreeMap<String, String>,
    bytes: usize,
    lookup: &'t dyn Fn(&str) -> Option<String>,
}

const fn is_blank(letter: char) -> bool {
    matches!(letter, '\t' | '\x0b' | '\x0c' | '\r' | ' ' | '\u{85}' | '\u{a0}')
}

impl<'t> Reader<'t> {
    fn wrong(&self, problem: impl Into<String>) -> ComposeError {
        let (file, problem) = (self.file.to_owned(), problem.into());
        ComposeError::Dotenv { file, line: self.line, problem }
    }

    fn skip(&mut self, bytes: usize) -> &'t str {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
        skipped
    }

    /// Reads one variable; says whether there was one.
    fn statement(&mut self) -> Result<bool, ComposeError> {
        loop {
            let space = self.rest.len() - self.rest.trim_start().len();
            self.skip(space);
            if !self.rest.starts_with('#') {
                break;
            }
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
        if self.rest.is_empty() {
            return Ok(false);
        }
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with(char::is_whitespace)
        {
            self.skip("export".len() + after.len() - after.trim_start_matches(is_blank).len());
        }
        let (name, has_value) = self.name()?;
        let value = if has_value { Some(self.value()?) } else { (self.lookup)(&name) };
        if let Some(value) = value {
            self.bytes += name.len() + value.len();
            if self.bytes > MOST_BYTES {
                return Err(self.wrong("all values together are too long"));
            }
            self.found.insert(name, value);
        }
        Ok(true)
    }

    fn name(&mut self) -> Result<(String, bool), ComposeError> {
        let is_part =
            |letter: char| letter.is_alphanumeric() || "_.-[]".contains(letter) || is_blank(letter);
        let end = self.rest.find(|letter| !is_part(letter)).unwrap_or(self.rest.len());
        let sign = self.rest[end..].chars().next();
        if !matches!(sign, Some('=' | ':' | '\n') | None) {
            return Err(self.wrong("a variable's name has letters, digits, `_`, `.` and `-`"));
        }
        let name = self.rest[..end].trim_end().to_owned();
        if name.contains(' ') {
            return Err(self.wrong("a variable's name has no space"));
        }
        self.skip(end + sign.map_or(0, char::len_utf8));
        self.skip(self.rest.len() - self.rest.trim_start_matches(is_blank).len());
        Ok((name, matches!(sign, Some('=' | ':'))))
    }

    fn value(&mut self) -> Result<String, ComposeError> {
        match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => {
                let line = self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
                let value = line.split(" #").next().unwrap_or_default().trim_end();
                self.expanded(value)
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, ComposeError> {
        let (mut text, mut is_escape) = (String::new(), false);
        for (at, letter) in self.rest.char_indices().skip(1) {
            if letter == quote && !is_escape {
                self.skip(at + 1);
                return if quote == '"' { self.expanded(&escapes(&text)) } else { Ok(text) };
            }
            match (letter, is_escape) {
                ('\\', false) => {
                    is_escape = true;
                    continue;
                }
                (letter, true) if letter != quote => text.push('\\'),
                _ => {}
            }
            is_escape = false;
            text.push(letter);
        }
        Err(self.wrong("the quote is not closed"))
    }

    fn expanded(&self, text: &str) -> Result<String, ComposeError> {
        let known = |name: &str| (self.lookup)(name).or_else(|| self.found.get(name).cloned());
        interpolate(text, &known).map_err(|problem| self.wrong(problem))
    }
}

/// Replaces escapes of a shell's; others stay as they are.
fn escapes(text: &str) -> String {
    let (mut out, mut letters) = (String::new(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        let plain = match (letter, letters.peek()) {
            ('\\', Some('a')) => '\x07',
            ('\\', Some('b')) => '\x08',
            ('\\', Some('f')) => '\x0c',
            ('\\', Some('n')) => '\n',
            ('\\', Some('r')) => '\r',
            ('\\', Some('t')) => '\t',
            ('\\', Some('v')) => '\x0b',
            ('\\', Some('"')) => '"',
            ('\\', Some('\\')) => '\\',
            ('\\', Some('$')) => {
                letters.next();
                out.push_str("$$");
                continue;
            }
            (letter, _) => {
                out.push(letter);
                continue;
            }
        };
        letters.next();
        out.push(plain);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_variables_are_read() {
        let text = "\u{feff}# comment\nA=1\nexport B = two # said\nC: three\n\nD='$A # x'\nE=\"$A\\n\\$A\"\n\
                    F=\"a\nb\"\nG=${A}${OUT}\nOUT\nUNSET\nH=\nI=a#b";
        let found = read(".env", text, &|name| (name == "OUT").then(|| "out".to_owned())).unwrap();
        let expected = [
            ("A", "1"),
            ("B", "two"),
            ("C", "three"),
            ("D", "$A # x"),
            ("E", "1\n$A"),
            ("F", "a\nb"),
            ("G", "1out"),
            ("H", ""),
            ("I", "a#b"),
            ("OUT", "out"),
        ];
        let found: Vec<_> = found.iter().map(|(key, value)| (&**key, &**value)).collect();
        assert_eq!(found, expected);
        for (text, problem) in [
            ("A=1\nB+=2\n", ".env:2: a variable's name has letters"),
            ("A='x\n", ".env:1: the quote is not closed"),
            ("a b\n", "no space"),
            ("A=${\n", "no template"),
        ] {
            let error = read(".env", text, &|_| None).unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
