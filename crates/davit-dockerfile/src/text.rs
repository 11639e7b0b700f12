//! The text of one instruction, joined from physical lines, and the way back to the file.

use std::ops::Range;

use crate::{ParseError, ParseErrorKind, Span, Word};

/// Longest physical line in bytes, its line end not counted.
const LINE_LIMIT: usize = 65_535;

/// One physical line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line<'a> {
    /// The bytes, line end included.
    pub(crate) bytes: &'a [u8],
    /// Offset of the first byte in the file.
    pub(crate) offset: usize,
    /// Number of the line, from 1.
    pub(crate) number: u32,
}

impl<'a> Line<'a> {
    /// The bytes without the line end; all carriage returns before it go too.
    pub(crate) fn content(&self) -> &'a [u8] {
        let ends = self.bytes.iter().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        &self.bytes[..self.bytes.len() - ends]
    }

    /// The content as text.
    pub(crate) fn text(&self) -> Result<&'a str, ParseError> {
        decode(self.content(), self.span())
    }

    /// Where the content stands.
    pub(crate) fn span(&self) -> Span {
        Span {
            start: self.offset,
            end: self.offset + self.content().len(),
            first_line: self.number,
            last_line: self.number,
        }
    }

    /// Whether the first character that is no blank is `#`. Comments need not be UTF-8.
    pub(crate) fn is_comment(&self) -> bool {
        let content = self.content();
        let valid = match std::str::from_utf8(content) {
            Ok(text) => text,
            Err(error) => std::str::from_utf8(&content[..error.valid_up_to()]).unwrap_or_default(),
        };
        valid.trim_start().starts_with('#')
    }
}

/// Reads `bytes` as UTF-8, naming `span` where they are none.
pub(crate) fn decode(bytes: &[u8], span: Span) -> Result<&str, ParseError> {
    std::str::from_utf8(bytes).map_err(|_| ParseError::new(ParseErrorKind::Encoding, span))
}

/// Physical lines of a file, in order.
#[derive(Debug)]
pub(crate) struct Lines<'a> {
    source: &'a [u8],
    offset: usize,
    number: u32,
}

impl<'a> Lines<'a> {
    /// Starts at the first line, behind a byte order mark.
    pub(crate) fn new(source: &'a [u8]) -> Self {
        let offset = if source.starts_with(b"\xEF\xBB\xBF") { 3 } else { 0 };
        Self { source, offset, number: 0 }
    }

    /// The next line; `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Line<'a>>, ParseError> {
        let rest = &self.source[self.offset..];
        if rest.is_empty() {
            return Ok(None);
        }
        let length = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
        self.number = self.number.saturating_add(1);
        let line = Line { bytes: &rest[..length], offset: self.offset, number: self.number };
        self.offset += length;
        let without_end = line.bytes.strip_suffix(b"\n").unwrap_or(line.bytes);
        if without_end.len() > LINE_LIMIT {
            let kind = ParseErrorKind::LineLength { limit: LINE_LIMIT };
            return Err(ParseError::new(kind, line.span()));
        }
        Ok(Some(line))
    }

    /// Number of the last line that was read.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Offset behind the last line that was read.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }
}

/// Text joined from pieces of physical lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Joined {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    /// Offset in the joined text.
    at: usize,
    /// Offset in the file.
    offset: usize,
    /// Line in the file.
    line: u32,
}

impl Joined {
    /// Adds `text`, which stands at `offset` in line `line`.
    pub(crate) fn push(&mut self, text: &str, offset: usize, line: u32) {
        self.pieces.push(Piece { at: self.text.len(), offset, line });
        self.text.push_str(text);
    }

    /// The whole text.
    pub(crate) fn whole(&self) -> Part<'_> {
        Part { joined: self, start: 0, end: self.text.len() }
    }

    fn piece(&self, at: usize) -> Piece {
        let index = self.pieces.partition_point(|piece| piece.at <= at).saturating_sub(1);
        self.pieces.get(index).copied().unwrap_or(Piece { at: 0, offset: 0, line: 0 })
    }

    fn span(&self, range: Range<usize>) -> Span {
        let first = self.piece(range.start);
        let last = self.piece(range.end.saturating_sub(1).max(range.start));
        Span {
            start: first.offset + (range.start - first.at),
            end: last.offset + (range.end - last.at),
            first_line: first.line,
            last_line: last.line,
        }
    }
}

/// A part of a joined text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    joined: &'a Joined,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    /// Its text.
    pub(crate) fn as_str(self) -> &'a str {
        &self.joined.text[self.start..self.end]
    }

    /// The bytes `range` of it.
    pub(crate) fn slice(self, range: Range<usize>) -> Self {
        Self { start: self.start + range.start, end: self.start + range.end, ..self }
    }

    /// Without the first `length` bytes.
    pub(crate) fn skip(self, length: usize) -> Self {
        Self { start: (self.start + length).min(self.end), ..self }
    }

    /// Without blanks around it.
    pub(crate) fn trim(self) -> Self {
        let text = self.as_str();
        let start = text.len() - text.trim_start().len();
        self.slice(start..start.max(text.trim_end().len()))
    }

    /// Where it stands.
    pub(crate) fn span(self) -> Span {
        self.joined.span(self.start..self.end)
    }

    /// Its text and where it stands.
    pub(crate) fn word(self) -> Word {
        Word { text: self.as_str().to_owned(), span: self.span() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_way_back() {
        let mut joined = Joined::default();
        joined.push("RUN a ", 0, 1);
        joined.push("", 8, 2);
        joined.push("  b", 10, 3);
        let part = joined.whole().slice(8..9);
        assert_eq!(part.as_str(), "b");
        assert_eq!(part.span(), Span { start: 12, end: 13, first_line: 3, last_line: 3 });
        let both = joined.whole().slice(4..9).span();
        assert_eq!(both, Span { start: 4, end: 13, first_line: 1, last_line: 3 });
        assert_eq!(joined.whole().slice(5..9).trim().as_str(), "b");
        assert_eq!(joined.whole().slice(5..8).trim().as_str(), "");
    }

    #[test]
    fn limits_lines() {
        let mut long = vec![b'#'; LINE_LIMIT];
        long.push(b'\n');
        assert!(Lines::new(&long).next().unwrap().is_some());
        long.insert(0, b'#');
        assert!(Lines::new(&long).next().is_err());
    }
}
