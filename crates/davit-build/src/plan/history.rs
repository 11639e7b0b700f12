//! Texts of history entries, letter for letter as BuildKit's Dockerfile frontend writes them.

use std::{collections::BTreeSet, fmt::Write as _};

use davit_image::HealthConfig;

/// The comment of every entry that a build adds.
pub(crate) const COMMENT: &str = "buildkit.dockerfile.v0";

/// Go's `%q` of a list of strings: `["a" "b"]`.
pub(crate) fn quoted_list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Go's `%v` of a list of strings: `[a b]`.
pub(crate) fn plain_list(items: &[String]) -> String {
    format!("[{}]", items.join(" "))
}

/// Go's `%v` of a set: `map[80/tcp:{}]`.
pub(crate) fn set(items: &BTreeSet<String>) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("{item}:{{}}")).collect();
    format!("map[{}]", items.join(" "))
}

/// Go's `%q` of a pointer to a health check.
pub(crate) fn health(check: &HealthConfig) -> String {
    let test = check.test.as_deref().unwrap_or_default();
    let durations: Vec<String> =
        [check.interval, check.timeout, check.start_period, check.start_interval]
            .map(|time| quoted(&duration(time)))
            .to_vec();
    let retries = u32::try_from(check.retries).ok().and_then(char::from_u32);
    let retries = rune(retries.unwrap_or(char::REPLACEMENT_CHARACTER));
    format!("&{{{} {} {retries}}}", quoted_list(test), durations.join(" "))
}

/// The command of a `RUN` with the build arguments before it.
pub(crate) fn run(args: &[String], build_args: &[(String, String)]) -> String {
    let mut text = String::from("RUN ");
    if !build_args.is_empty() {
        let _infallible = write!(text, "|{} ", build_args.len());
        for (name, value) in build_args {
            let _infallible = write!(text, "{name}={value} ");
        }
    }
    text + &args.join(" ") + " # buildkit"
}

/// Go's `strconv.Quote`.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        if character == '"' {
            quoted.push('\\');
            quoted.push('"');
        } else {
            escape(character, &mut quoted);
        }
    }
    quoted.push('"');
    quoted
}

/// Go's `strconv.QuoteRune`.
fn rune(character: char) -> String {
    let mut quoted = String::from("'");
    if character == '\'' {
        quoted.push('\\');
        quoted.push('\'');
    } else {
        escape(character, &mut quoted);
    }
    quoted.push('\'');
    quoted
}

fn escape(character: char, into: &mut String) {
    match character {
        '\\' => into.push_str("\\\\"),
        '\u{7}' => into.push_str("\\a"),
        '\u{8}' => into.push_str("\\b"),
        '\u{c}' => into.push_str("\\f"),
        '\n' => into.push_str("\\n"),
        '\r' => into.push_str("\\r"),
        '\t' => into.push_str("\\t"),
        '\u{b}' => into.push_str("\\v"),
        ' ' => into.push(' '),
        _ if character < ' ' || character == '\u{7f}' => {
            let _infallible = write!(into, "\\x{:02x}", u32::from(character));
        }
        _ if is_printable(character) => into.push(character),
        _ if u32::from(character) < 0x10000 => {
            let _infallible = write!(into, "\\u{:04x}", u32::from(character));
        }
        _ => {
            let _infallible = write!(into, "\\U{:08x}", u32::from(character));
        }
    }
}

/// Nearly Go's `strconv.IsPrint`: no control, format or space character but the plain blank.
fn is_printable(character: char) -> bool {
    !character.is_control()
        && !character.is_whitespace()
        && !matches!(u32::from(character),
            0xad | 0x600..=0x605 | 0x61c | 0x200b..=0x200f | 0x2028..=0x202e
            | 0x2060..=0x206f | 0xd800..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0xfffe..=0xffff
            | 0xe0000..=0x10_ffff)
}

/// Go's `time.Duration.String`.
pub(crate) fn duration(nanoseconds: i64) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let total = nanoseconds.unsigned_abs();
    let small = |unit: u64, name: &str| format!("{sign}{}{name}", decimal(total, unit));
    match total {
        0 => "0s".to_owned(),
        1..1_000 => small(1, "ns"),
        1_000..1_000_000 => small(1_000, "\u{b5}s"),
        1_000_000..1_000_000_000 => small(1_000_000, "ms"),
        _ => {
            let minutes = total / 60_000_000_000;
            let seconds = decimal(total % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// `value / unit` without trailing zeros.
fn decimal(value: u64, unit: u64) -> String {
    let (whole, rest) = (value / unit, value % unit);
    if rest == 0 {
        return whole.to_string();
    }
    let digits = unit.ilog10() as usize;
    let fraction = format!("{rest:0digits$}");
    format!("{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(items: &[&str]) -> Vec<String> {
        items.iter().map(|&item| item.to_owned()).collect()
    }

    #[test]
    fn quotes_as_go_does() {
        let items = strings(&["a b", "\"q\" \\", "\t\n\u{1}", "\u{e9}\u{200b}", ""]);
        let expected = r#"["a b" "\"q\" \\" "\t\n\x01" "é\u200b" ""]"#;
        assert_eq!(quoted_list(&items), expected);
        assert_eq!(quoted_list(&[]), "[]");
        assert_eq!(plain_list(&strings(&["/a", "/b c"])), "[/a /b c]");
    }

    #[test]
    fn writes_durations_as_go_does() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5\u{b5}s"),
            (2_000_000, "2ms"),
            (1_500_000_000, "1.5s"),
            (30_000_000_000, "30s"),
            (60_000_000_000, "1m0s"),
            (3_661_000_000_001, "1h1m1.000000001s"),
            (-1_000_000_000, "-1s"),
        ];
        for (nanoseconds, expected) in cases {
            assert_eq!(duration(nanoseconds), expected);
        }
    }

    #[test]
    fn writes_whole_entries() {
        let check = HealthConfig {
            test: Some(strings(&["CMD-SHELL", "true"])),
            interval: 30_000_000_000,
            retries: 3,
            ..HealthConfig::default()
        };
        assert_eq!(health(&check), r#"&{["CMD-SHELL" "true"] "30s" "0s" "0s" "0s" '\x03'}"#);
        let ports = BTreeSet::from(["80/tcp".to_owned(), "443/tcp".to_owned()]);
        assert_eq!(set(&ports), "map[443/tcp:{} 80/tcp:{}]");
        let args = strings(&["/bin/sh", "-c", "make"]);
        assert_eq!(run(&args, &[]), "RUN /bin/sh -c make # buildkit");
        let build_args = [("A".to_owned(), "1".to_owned()), ("B".to_owned(), String::new())];
        assert_eq!(run(&args, &build_args), "RUN |2 A=1 B= /bin/sh -c make # buildkit");
    }
}
