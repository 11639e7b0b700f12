//! Modes of `--chmod`: octal, or the grammar of chmod(1) with an empty umask.

use crate::files::FileKind;

/// A mode that is given, or a change of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Octal(u16),
    Symbolic(Vec<Clause>),
}

/// `ugo` and what happens to them, as `u+rwX` or `g=u`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// 0o700, 0o070 and 0o007 for `u`, `g` and `o`.
    who: u16,
    actions: Vec<(Operator, Right)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Right {
    /// Letters of `rwxXst`.
    Letters(String),
    /// The present bits of `u`, `g` or `o`: how far they stand to the left.
    Copy(u16),
}

impl Mode {
    /// Reads a mode; `None` if it is none.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let octal = u16::from_str_radix(text, 8).ok()?;
            return (octal <= 0o7777).then_some(Self::Octal(octal));
        }
        if text.is_empty() {
            return None;
        }
        text.split(',').map(Clause::parse).collect::<Option<_>>().map(Self::Symbolic)
    }

    /// The mode of a file of this kind that has `mode` before.
    pub(crate) fn apply(&self, mode: u16, kind: FileKind) -> u16 {
        match self {
            Self::Octal(octal) => *octal,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, kind))
            }
        }
    }

    /// The mode itself, if it depends on nothing.
    pub(crate) const fn octal(&self) -> Option<u16> {
        match self {
            Self::Octal(octal) => Some(*octal),
            Self::Symbolic(_) => None,
        }
    }
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let split = text.find(['+', '-', '='])?;
        let (who, mut rest) = text.split_at(split);
        let mut mask = 0;
        for character in who.chars() {
            mask |= match character {
                'u' => 0o700,
                'g' => 0o070,
                'o' => 0o007,
                'a' => 0o777,
                _ => return None,
            };
        }
        let mut actions = Vec::new();
        while let Some(operator) = rest.chars().next() {
            let operator = match operator {
                '+' => Operator::Add,
                '-' => Operator::Remove,
                '=' => Operator::Set,
                _ => return None,
            };
            rest = &rest[1..];
            let end = rest.find(['+', '-', '=']).unwrap_or(rest.len());
            actions.push((operator, right(&rest[..end])?));
            rest = &rest[end..];
        }
        Some(Self { who: if mask == 0 { 0o777 } else { mask }, actions })
    }

    fn apply(&self, mode: u16, kind: FileKind) -> u16 {
        self.actions.iter().fold(mode, |mode, (operator, right)| {
            let bits = self.bits(right, mode, kind);
            match operator {
                Operator::Add => mode | bits,
                Operator::Remove => mode & !bits,
                Operator::Set => (mode & !self.cleared(kind)) | bits,
            }
        })
    }

    /// What `=` clears; a directory keeps its set-id bits, as with chmod(1).
    const fn cleared(&self, kind: FileKind) -> u16 {
        let special = if matches!(kind, FileKind::Directory) {
            0
        } else {
            (if self.who & 0o700 != 0 { 0o4000 } else { 0 })
                | (if self.who & 0o070 != 0 { 0o2000 } else { 0 })
        };
        self.who | special | (if self.who == 0o777 { 0o1000 } else { 0 })
    }

    fn bits(&self, right: &Right, mode: u16, kind: FileKind) -> u16 {
        match right {
            Right::Copy(shift) => {
                let triple = (mode >> shift) & 7;
                (triple * 0o111) & self.who
            }
            Right::Letters(letters) => letters.chars().fold(0, |bits, letter| {
                bits | match letter {
                    'r' => 0o444 & self.who,
                    'w' => 0o222 & self.who,
                    'x' => 0o111 & self.who,
                    'X' if kind == FileKind::Directory || mode & 0o111 != 0 => 0o111 & self.who,
                    's' => ((self.who & 0o100) << 5) | ((self.who & 0o010) << 7),
                    't' if self.who & 0o007 != 0 => 0o1000,
                    _ => 0,
                }
            }),
        }
    }
}

fn right(text: &str) -> Option<Right> {
    match text {
        "u" => Some(Right::Copy(6)),
        "g" => Some(Right::Copy(3)),
        "o" => Some(Right::Copy(0)),
        letters => letters
            .chars()
            .all(|letter| "rwxXst".contains(letter))
            .then(|| Right::Letters(letters.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: FileKind = FileKind::Regular;
    const DIRECTORY: FileKind = FileKind::Directory;

    #[test]
    fn changes_as_chmod_does() {
        // (mode, before, kind, after); the right column is what chmod(1) gives.
        let cases = [
            ("0755", 0o4644, FILE, 0o755),
            ("4755", 0o644, FILE, 0o4755),
            ("u+x", 0o644, FILE, 0o744),
            ("+x", 0o644, FILE, 0o755),
            ("a+X", 0o644, FILE, 0o644),
            ("a+X", 0o744, FILE, 0o755),
            ("a+X", 0o644, DIRECTORY, 0o755),
            ("go-rwx", 0o777, FILE, 0o700),
            ("u=rwX,go=rX", 0o600, FILE, 0o644),
            ("u=rwX,go=rX", 0o600, DIRECTORY, 0o755),
            ("g=u", 0o640, FILE, 0o660),
            ("o=g-w", 0o664, FILE, 0o664),
            ("u+s,g+s", 0o755, FILE, 0o6755),
            ("+t", 0o755, DIRECTORY, 0o1755),
            ("u+t", 0o755, DIRECTORY, 0o755),
            ("u-s", 0o4755, FILE, 0o755),
            ("u=rw", 0o4755, FILE, 0o655),
            ("u=rwx", 0o4755, DIRECTORY, 0o4755),
            ("=", 0o777, FILE, 0),
            ("u+r-w+x", 0o200, FILE, 0o500),
        ];
        for (text, before, kind, after) in cases {
            let mode = Mode::parse(text).unwrap();
            assert_eq!(mode.apply(before, kind), after, "{text} on {before:o}");
        }
    }

    #[test]
    fn refuses_what_is_no_mode() {
        for text in ["", "8", "17777", "u", "x+r", "u+z", "u+r,", "rwx", "0o755", "u~r"] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn stays_a_mode(text in "[ugoa]{0,2}[+=-][rwxXst]{0,3}(,[ugo][+=-][ugo]){0,2}", before in 0_u16..0o10000, directory: bool) {
            let kind = if directory { DIRECTORY } else { FILE };
            let mode = Mode::parse(&text).unwrap();
            prop_assert!(mode.apply(before, kind) <= 0o7777);
        }
    }
}
