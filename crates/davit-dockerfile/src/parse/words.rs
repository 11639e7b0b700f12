//! Splitting an instruction into keyword, flags and words.
//!
//! None of these steps expands anything; the quotes that they leave in place are taken away when
//! the word is expanded.

use crate::{Escape, Word, text::Part};

/// Blanks that separate the keyword and plain words: ASCII, vertical tab included.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\x0b' | b'\x0c' | b'\r' | b' ')
}

/// Splits at the first run of blanks; `None` where there is none.
pub(super) fn split_once(part: Part<'_>) -> Option<(Part<'_>, Part<'_>)> {
    let bytes = part.as_str().as_bytes();
    let start = bytes.iter().position(|&byte| is_blank(byte))?;
    let length = bytes[start..].iter().take_while(|&&byte| is_blank(byte)).count();
    Some((part.slice(0..start), part.skip(start + length)))
}

/// Splits at every run of blanks, without regard to quotes. `part` is trimmed.
pub(super) fn plain(part: Part<'_>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut rest = part;
    if rest.as_str().is_empty() {
        return words;
    }
    while let Some((word, behind)) = split_once(rest) {
        words.push(word.word());
        rest = behind;
    }
    words.push(rest.word());
    words
}

/// Takes the flags off the front: words that begin with `--`, up to a lone `--`.
///
/// Quotes and escapes within a flag are resolved.
pub(super) fn flags(part: Part<'_>, escape: Escape) -> (Vec<Word>, Part<'_>) {
    let mut flags = Vec::new();
    let mut rest = part;
    loop {
        let text = rest.as_str();
        let blanks = text.bytes().take_while(|&byte| is_blank(byte) || byte == b'\n').count();
        rest = rest.skip(blanks);
        if !rest.as_str().starts_with("--") {
            return (flags, rest);
        }
        let (text, length) = flag(rest.as_str(), escape);
        let span = rest.slice(0..length).span();
        let last = length == rest.as_str().len();
        rest = rest.skip(length);
        if text == "--" {
            return (flags, rest);
        }
        flags.push(Word { text, span });
        if last {
            return (flags, rest);
        }
    }
}

/// One flag without its quotes, and how many bytes it takes.
fn flag(text: &str, escape: Escape) -> (String, usize) {
    let mut value = String::new();
    let mut quote = None;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match quote {
            None if c.is_ascii() && (c == '\n' || u8::try_from(c).is_ok_and(is_blank)) => {
                return (value, at);
            }
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ if c == escape.as_char() => value.extend(chars.next().map(|(_, next)| next)),
            _ => value.push(c),
        }
    }
    (value, text.len())
}

/// Splits at blanks outside quotes. Quotes and escapes are kept, but for an escape at the very end.
pub(super) fn quoted(part: Part<'_>, escape: Escape) -> Vec<Word> {
    let text = part.as_str();
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut end = text.len();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            words.extend(start.take().map(|start| part.slice(start..at).word()));
            continue;
        }
        start.get_or_insert(at);
        let escapes = c == escape.as_char() && quote != Some('\'');
        match quote {
            _ if escapes && chars.next().is_none() => end = at,
            _ if escapes => {}
            None if matches!(c, '\'' | '"') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
    }
    words.extend(start.filter(|&start| start < end).map(|start| part.slice(start..end).word()));
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::Joined;

    fn joined(text: &str) -> Joined {
        let mut joined = Joined::default();
        joined.push(text, 0, 1);
        joined
    }

    fn texts(words: &[Word]) -> Vec<&str> {
        words.iter().map(|word| word.text.as_str()).collect()
    }

    #[test]
    fn takes_flags() {
        let cases: [(&str, &[&str], &str); 12] = [
            ("a --b", &[], "a --b"),
            ("--a b", &["--a"], "b"),
            ("  --a=1 --b  c", &["--a=1", "--b"], "c"),
            ("--a='x y' z", &["--a=x y"], "z"),
            ("--a=\"x\\\" y\" z", &["--a=x\" y"], "z"),
            ("--a=x\\ y z", &["--a=x y"], "z"),
            ("-- --a b", &[], " --a b"),
            ("--a -- --b", &["--a"], " --b"),
            ("--", &[], ""),
            ("--a\\", &["--a"], ""),
            ("--a='x", &["--a=x"], ""),
            ("--ä=ö à", &["--ä=ö"], "à"),
        ];
        for (text, expected, rest) in cases {
            let joined = joined(text);
            let (flags, behind) = flags(joined.whole(), Escape::Backslash);
            assert_eq!(texts(&flags), expected, "{text}");
            assert_eq!(behind.as_str(), rest, "{text}");
        }
    }

    #[test]
    fn splits_with_quotes() {
        let cases: [(&str, &[&str]); 12] = [
            ("", &[]),
            ("a b", &["a", "b"]),
            ("a='b c' d", &["a='b c'", "d"]),
            ("a=\"b \\\" c\" d", &["a=\"b \\\" c\"", "d"]),
            ("a='b\\' c' d", &["a='b\\'", "c' d"]),
            ("a=b\\ c d", &["a=b\\ c", "d"]),
            ("a\\", &["a"]),
            ("\\", &[]),
            ("a \"b\\", &["a", "\"b"]),
            ("a\\\"b c", &["a\\\"b", "c"]),
            ("a\u{a0}b", &["a", "b"]),
            ("'' a", &["''", "a"]),
        ];
        for (text, expected) in cases {
            let joined = joined(text);
            assert_eq!(texts(&quoted(joined.whole(), Escape::Backslash)), expected, "{text}");
        }
    }

    #[test]
    fn splits_plainly() {
        let joined = joined("a\t\x0bb 'c d'");
        assert_eq!(texts(&plain(joined.whole())), ["a", "b", "'c", "d'"]);
    }
}
