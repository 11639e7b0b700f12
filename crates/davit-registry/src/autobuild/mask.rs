//! Secrets are taken out of logs, and logs are bounded.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

/// What stands in a secret's place.
const STARS: &[u8] = b"****";
/// Shortest secret, or line of one, that is looked for: shorter ones are in every second word.
pub const SHORTEST: usize = 4;
/// A line that is longer goes on without its end.
const LINE: usize = 16 << 10;

/// Takes secrets out of a stream, also where a piece ends within one.
#[derive(Debug)]
pub(super) struct Mask {
    /// Longest first, since one may be part of another.
    words: Vec<Vec<u8>>,
    rest: Vec<u8>,
}

impl Mask {
    /// Knows these, each line of them, and their base64.
    pub(super) fn new<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Self {
        let mut words = Vec::new();
        for secret in secrets {
            words.push(secret.as_bytes().to_vec());
            words.push(BASE64.encode(secret).into_bytes());
            words.extend(secret.lines().map(|line| line.trim().as_bytes().to_vec()));
        }
        words.retain(|word| word.len() >= SHORTEST);
        words.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        words.dedup();
        Self { words, rest: Vec::new() }
    }

    /// What can be shown now; the end of a line that is not over is kept back.
    pub(super) fn push(&mut self, piece: &[u8]) -> Vec<u8> {
        self.rest.extend_from_slice(piece);
        let end = match self.rest.iter().rposition(|&byte| byte == b'\n') {
            Some(last) => last + 1,
            None if self.rest.len() > LINE => {
                let shown = self.masked(&self.rest);
                // An unfinished secret at the end is no longer than the longest.
                let longest = self.words.first().map_or(0, Vec::len);
                let keep = shown.len().min(longest);
                self.rest = shown[shown.len() - keep..].to_vec();
                return shown[..shown.len() - keep].to_vec();
            }
            None => return Vec::new(),
        };
        let rest = self.rest.split_off(end);
        let whole = std::mem::replace(&mut self.rest, rest);
        self.masked(&whole)
    }

    /// What is left.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let rest = std::mem::take(&mut self.rest);
        self.masked(&rest)
    }

    /// One text.
    pub(super) fn text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.masked(text.as_bytes())).into_owned()
    }

    fn masked(&self, text: &[u8]) -> Vec<u8> {
        let mut shown = Vec::with_capacity(text.len());
        let mut at = 0;
        while at < text.len() {
            match self.words.iter().find(|word| text[at..].starts_with(word)) {
                Some(word) => {
                    shown.extend_from_slice(STARS);
                    at += word.len();
                }
                None => {
                    shown.push(text[at]);
                    at += 1;
                }
            }
        }
        shown
    }
}

/// Passes the beginning of a log on, and keeps its end.
#[derive(Debug)]
pub(super) struct Bounded {
    room: usize,
    tail: VecDeque<u8>,
    tail_bytes: usize,
    left_out: u64,
}

impl Bounded {
    /// At most so many bytes, of which the last ones are kept for the end.
    pub(super) const fn new(bytes: usize, tail_bytes: usize) -> Self {
        Self { room: bytes - tail_bytes, tail: VecDeque::new(), tail_bytes, left_out: 0 }
    }

    /// What goes on.
    pub(super) fn push(&mut self, mut piece: Vec<u8>) -> Vec<u8> {
        let beyond = piece.split_off(piece.len().min(self.room));
        self.room -= piece.len();
        self.tail.extend(beyond);
        let surplus = self.tail.len().saturating_sub(self.tail_bytes);
        self.tail.drain(..surplus);
        self.left_out += surplus as u64;
        piece
    }

    /// The end.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut end = Vec::new();
        if self.left_out > 0 {
            end.extend(format!("\n[{} bytes are left out here]\n", self.left_out).into_bytes());
        }
        end.extend(std::mem::take(&mut self.tail));
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(secrets: &[&str], pieces: &[&str]) -> String {
        let mut mask = Mask::new(secrets.iter().copied());
        let mut all: Vec<u8> = pieces.iter().flat_map(|text| mask.push(text.as_bytes())).collect();
        all.extend(mask.end());
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn secrets_are_never_shown() {
        assert_eq!(shown(&["hunter22"], &["a hunter22 b\nhunt", "er22"]), "a **** b\n****");
        assert_eq!(shown(&["hunter"], &["aHVudGVy\n"]), "****\n", "base64");
        assert_eq!(shown(&["hunter", "hunter22"], &["hunter22 hunter\n"]), "**** ****\n");
        assert_eq!(shown(&["key-1\nkey-2\n}"], &["key-2 and key-1}\n"]), "**** and ****}\n");
        assert_eq!(shown(&["abc", ""], &["abc\n"]), "abc\n", "too short to look for");
        // Far longer than a line, with the secret where any piece may end.
        for at in LINE - 12..LINE + 12 {
            let text = format!("{}hunter22{}", "x".repeat(at), "y".repeat(LINE));
            let pieces: Vec<String> =
                text.as_bytes().chunks(7).map(|c| String::from_utf8_lossy(c).into()).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let shown = shown(&["hunter22"], &pieces);
            assert!(!shown.contains("hunter"), "{at}");
            assert_eq!(shown.len(), at + 4 + LINE, "{at}");
        }
    }

    #[test]
    fn of_a_long_log_both_ends_stay() {
        let mut log = Bounded::new(10, 4);
        let mut all = Vec::new();
        for piece in ["abc", "defg", "hijk", "lmno"] {
            all.extend(log.push(piece.into()));
        }
        all.extend(log.end());
        assert_eq!(all, b"abcdef\n[5 bytes are left out here]\nlmno");
        let mut short = Bounded::new(10, 4);
        let mut all = short.push(b"abcdefgh".to_vec());
        all.extend(short.end());
        assert_eq!(all, b"abcdefgh");
    }
}
