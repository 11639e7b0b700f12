//! The last lines of what a step writes, for a terminal.

use std::collections::VecDeque;

/// Lines that are shown of all steps together, unless somebody wants another number.
pub(super) const SHOWN: usize = 6;
/// Longest part of a line that is kept, in bytes.
const LONGEST: usize = 1024;

/// The last lines of one step's output.
#[derive(Debug)]
pub(super) struct Tail {
    lines: VecDeque<String>,
    /// What has no line end yet.
    open: Vec<u8>,
    /// How many lines are shown of all steps together; each has one at least.
    shown: usize,
}

impl Tail {
    /// Shows nothing so far, and so many lines of all steps later.
    pub(super) const fn new(shown: usize) -> Self {
        Self { lines: VecDeque::new(), open: Vec::new(), shown }
    }

    /// Takes more output.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            // The rest of a line as long as this is not shown in any case.
            let room = LONGEST.saturating_sub(self.open.len());
            self.open.extend_from_slice(&line[..line.len().min(room)]);
            // Whoever returns to the beginning of a line writes it anew.
            let before = &self.open[..self.open.len().saturating_sub(1)];
            let ends = line.ends_with(b"\n");
            if let Some(at) = before.iter().rposition(|byte| *byte == b'\r').filter(|_| !ends) {
                self.open.drain(..=at);
            }
            if ends {
                let text = shown(&self.open);
                self.open.clear();
                if !text.trim().is_empty() {
                    self.lines.push_back(text);
                }
                if self.lines.len() > self.shown {
                    self.lines.pop_front();
                }
            }
        }
    }

    /// The last lines, where `steps` steps run on a terminal of so many columns.
    pub(super) fn text(&self, steps: usize, columns: usize) -> String {
        let open = Some(shown(&self.open)).filter(|text| !text.trim().is_empty());
        let lines: Vec<&String> = self.lines.iter().chain(&open).collect();
        let most = (self.shown / steps.max(1)).max(1);
        let last = &lines[lines.len().saturating_sub(most)..];
        let cut = |line: &&String| line.chars().take(columns.saturating_sub(5)).collect::<String>();
        last.iter().map(|line| format!("    {}", cut(line))).collect::<Vec<_>>().join("\n")
    }
}

/// A line without what would steer the terminal, and without what it overwrote itself.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.trim_end_matches(['\n', '\r']);
    let line = line.rsplit('\r').next().unwrap_or_default();
    let mut shown = String::with_capacity(line.len());
    let mut rest = line.chars();
    while let Some(letter) = rest.next() {
        match letter {
            // Colours and the like have no place in a line that has one.
            '\x1b' => {
                if rest.as_str().starts_with('[') {
                    rest.by_ref().skip(1).find(|it| ('\x40'..='\x7e').contains(it));
                }
            }
            '\t' => shown.push_str("  "),
            letter if letter.is_control() => shown.push(' '),
            letter => shown.push(letter),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_as_text() {
        let mut tail = Tail::new(SHOWN);
        assert_eq!(tail.text(1, 80), "");
        tail.push(b"one\n\ntw");
        assert_eq!(tail.text(1, 80), "    one\n    tw");
        tail.push(b"o\n\x1b[31mred\x1b[0m\x07\tx\n 1%\r 50%");
        assert_eq!(tail.text(1, 80), "    one\n    two\n    red   x\n     50%");
        tail.push(b"\r100%\r\nlast \xff\n");
        assert_eq!(tail.text(3, 80), "    100%\n    last \u{fffd}");
        assert_eq!(tail.text(9, 10), "    last ");
        for number in 0..20 {
            tail.push(format!("{number}\n").as_bytes());
        }
        assert_eq!(tail.text(1, 80).lines().count(), SHOWN);
        for _ in 0..10_000 {
            tail.push(&[b'x'; 100]);
        }
        assert!(tail.open.len() <= LONGEST && tail.text(1, 200).ends_with("xxx"));
        tail.push(b"\n");
        for percent in 0..10_000 {
            tail.push(format!("{percent} done\r").as_bytes());
        }
        assert_eq!(tail.text(9, 80), "    9999 done");
        tail.push(b"\n\x1b[");
        assert_eq!(tail.text(9, 80), "    9999 done");
    }
}
