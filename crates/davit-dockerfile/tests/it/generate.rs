//! Dockerfiles made by a grammar and by mutation, the same for the same seed.

/// Small random numbers (xorshift64*).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap() % limit
    }

    pub(crate) fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

const KEYWORDS: [&str; 26] = [
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
    "run",
    "Copy",
    "eNv",
    "RUN",
    "COPY",
    "ONBUILD RUN",
    "ONBUILD COPY",
    "FOO",
];
const WORDS: [&str; 44] = [
    "a",
    "b=c",
    "a=",
    "=",
    "\"x y\"",
    "'x y'",
    "\"x \\\" y\"",
    "'it\\'",
    "\\",
    "\\\\",
    "a\\ b",
    "$v",
    "${v}",
    "${v:-w x}",
    "$",
    "é",
    "한",
    "`",
    "a`b",
    "#",
    "a#b",
    "[",
    "]",
    "[\"a\"]",
    "[\"a\", \"b c\"]",
    "[\"a\", 1]",
    "['a']",
    "[]",
    "{}",
    "AS",
    "as",
    "NONE",
    "CMD",
    "--",
    "-x",
    "--y",
    "/a/b",
    "c:\\d",
    "80/tcp",
    "\"",
    "'",
    "a\"b",
    "<",
    "\u{a0}",
];
const FLAGS: [&str; 14] = [
    "--from=b",
    "--link",
    "--chown=1:2",
    "--mount=type=cache,target=/x",
    "--mount=\"a b\"",
    "--x='y z'",
    "--x=\\\"",
    "--interval=1s",
    "--platform=linux/amd64",
    "--",
    "--a=\"b",
    "--x\\ y",
    "--x=`",
    "---",
];
const HEREDOCS: [&str; 14] = [
    "<<E", "<<-E", "<<'E'", "<<\"F\"", "3<<E", "<< E", "<<-  E", "<<<E", "<<E'F'", "<<\\E", "<<$E",
    "<<", "<<''", "a<<E",
];
const BLANKS: [&str; 8] = [" ", " ", " ", "  ", "\t", " \t ", "\x0b", "\x0c"];
const CONTINUATIONS: [&str; 12] = [
    "\\\n",
    "\\\n",
    " \\\n",
    " \\  \n",
    "\\\\\n",
    "\\\n\\\n",
    "\\\n# c\n",
    "\\\n\n",
    " \\\r\n",
    "`\n",
    "\\\n  # d \\\n",
    "\\\n \t \n",
];
const DIRECTIVES: [&str; 10] = [
    "# escape=`\n",
    "# escape=\\\n",
    "#escape = ` \n",
    "# syntax=x\n",
    "# escape=x\n",
    "# unknown=x\n",
    "#\n",
    "# c\n",
    "\n",
    "\u{feff}",
];

/// A Dockerfile made by the grammar.
pub(crate) fn file(seed: u64) -> String {
    let dice = &mut Dice::new(seed);
    let mut text = String::new();
    while dice.one_in(3) {
        text.push_str(dice.pick(&DIRECTIVES));
    }
    for _ in 0..1 + dice.below(4) {
        match dice.below(12) {
            0 => text.push_str("# comment\n"),
            1 => text.push('\n'),
            _ => instruction(dice, &mut text),
        }
    }
    text
}

fn instruction(dice: &mut Dice, text: &mut String) {
    if dice.one_in(10) {
        text.push_str(dice.pick(&BLANKS));
    }
    text.push_str(dice.pick(&KEYWORDS));
    let mut heredocs = Vec::new();
    while dice.one_in(4) {
        text.push_str(dice.pick(&BLANKS));
        text.push_str(dice.pick(&FLAGS));
    }
    for _ in 0..dice.below(6) {
        text.push_str(dice.pick(&BLANKS));
        if dice.one_in(6) {
            text.push_str(dice.pick(&CONTINUATIONS));
        }
        if dice.one_in(8) {
            let heredoc = dice.pick(&HEREDOCS);
            heredocs.push(heredoc);
            text.push_str(heredoc);
        } else {
            text.push_str(dice.pick(&WORDS));
        }
    }
    if dice.one_in(12) {
        text.push_str(dice.pick(&CONTINUATIONS));
    }
    text.push_str(dice.pick(&["\n", "\n", "\n", " \n", "\r\n"]));
    for _ in heredocs {
        bodies(dice, text);
    }
}

fn bodies(dice: &mut Dice, text: &mut String) {
    for _ in 0..dice.below(3) {
        text.push_str(dice.pick(&[
            "one\n",
            "\ttwo\n",
            "# three\n",
            "\n",
            "four \\\n",
            "E \n",
            "é\n",
        ]));
    }
    text.push_str(dice.pick(&["E\n", "E\n", "\tE\n", "F\n", "EF\n", "$E\n", "E\r\n", ""]));
}

/// A text with a few places changed.
pub(crate) fn mutate(original: &str, seed: u64) -> String {
    const PIECES: [&str; 26] = [
        "\\", "\n", "\r", " ", "\t", "\"", "'", "$", "{", "}", "#", "<", "<<E", "-", "--", "=",
        "[", "]", ",", "`", "é", "\\\n", "\u{a0}", "ONBUILD ", "\\\n\n", ":",
    ];
    let dice = &mut Dice::new(seed);
    let mut chars: Vec<char> = original.chars().collect();
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(chars.len() + 1);
        match dice.below(4) {
            0 => {
                let piece = dice.pick(&PIECES);
                chars.splice(at..at, piece.chars());
            }
            1 => {
                let end = (at + 1 + dice.below(6)).min(chars.len());
                chars.drain(at..end);
            }
            2 => {
                let end = (at + dice.below(30)).min(chars.len());
                let copy: Vec<char> = chars[at..end].to_vec();
                chars.splice(at..at, copy);
            }
            _ => {
                let end = (at + 1).min(chars.len());
                let piece = dice.pick(&PIECES);
                chars.splice(at..end, piece.chars());
            }
        }
    }
    chars.into_iter().collect()
}
