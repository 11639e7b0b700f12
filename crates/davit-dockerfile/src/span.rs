//! Where in a Dockerfile something stands.

/// A range of a Dockerfile, by bytes and by lines.
///
/// The bytes count from the start of the file as given, a byte order mark included. The text of a
/// span that crosses a continuation still holds the escape character, line ends and comments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
    /// First line, counted from 1.
    pub first_line: u32,
    /// Last line, counted from 1.
    pub last_line: u32,
}

impl Span {
    /// The smallest span that holds both.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
            first_line: self.first_line.min(other.first_line),
            last_line: self.last_line.max(other.last_line),
        }
    }

    /// The bytes of the span in `source`; empty where `source` is another, shorter text.
    #[must_use]
    pub fn text(self, source: &[u8]) -> &[u8] {
        source.get(self.start..self.end).unwrap_or_default()
    }
}
