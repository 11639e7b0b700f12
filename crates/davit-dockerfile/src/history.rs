//! The `created_by` texts of an image's history, as the frontend writes them.
//!
//! Words are given expanded. Values of arguments are written out: Docker's history does so too.

use std::sync::LazyLock;

use regex::Regex;

use crate::{HealthTest, Healthcheck, format_duration};

/// The comment of every entry that a build adds.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// `RUN`: the arguments in scope, then the command with its shell.
#[must_use]
pub fn run(arguments: &[String], command: &[String]) -> String {
    let mut words = Vec::new();
    if !arguments.is_empty() {
        words.push(format!("|{}", arguments.len()));
        words.extend_from_slice(arguments);
    }
    words.extend_from_slice(command);
    format!("RUN {} # buildkit", words.join(" "))
}

/// What a `COPY` or `ADD` says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyWords<'a> {
    /// `COPY` or `ADD`.
    pub keyword: &'a str,
    /// Whether `--parents` was given.
    pub parents: bool,
    /// Value of `--chown`.
    pub chown: &'a str,
    /// Value of `--chmod`.
    pub chmod: &'a str,
    /// Paths and URLs.
    pub paths: &'a [String],
    /// Names of heredocs.
    pub files: &'a [String],
    /// Destination.
    pub destination: &'a str,
}

/// `COPY` and `ADD`.
#[must_use]
pub fn copy(words: &CopyWords<'_>) -> String {
    let mut text = words.keyword.to_owned();
    if words.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", words.chown), ("chmod", words.chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for path in words.paths {
        text.push_str(&format!(" {path}"));
    }
    for file in words.files {
        text.push_str(&format!(" <<{file}"));
    }
    format!("{text} {} # buildkit", words.destination)
}

/// `ARG`: names, with values where there are any.
#[must_use]
pub fn arg(arguments: &[(String, Option<String>)]) -> String {
    let words = arguments.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    });
    format!("ARG {}", words.collect::<Vec<_>>().join(" "))
}

/// `ENV` and `LABEL`.
#[must_use]
pub fn pairs(keyword: &str, pairs: &[(String, String)]) -> String {
    let words = pairs.iter().map(|(name, value)| format!(" {name}={value}"));
    format!("{keyword}{}", words.collect::<String>())
}

/// `CMD` and `ENTRYPOINT`: the words as Go quotes them.
#[must_use]
pub fn command(keyword: &str, words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    format!("{keyword} [{}]", quoted.join(" "))
}

/// `EXPOSE`, `VOLUME` and `SHELL`: a list as Go prints it.
#[must_use]
pub fn list(keyword: &str, words: &[String]) -> String {
    format!("{keyword} [{}]", words.join(" "))
}

/// `WORKDIR`, `USER`, `STOPSIGNAL` and `MAINTAINER`.
#[must_use]
pub fn word(keyword: &str, word: &str) -> String {
    format!("{keyword} {word}")
}

/// `HEALTHCHECK`: the fields of the check as Go prints them with their names.
#[must_use]
pub fn healthcheck(check: &Healthcheck) -> String {
    let test: Vec<&str> = match &check.test {
        HealthTest::None => vec!["NONE"],
        HealthTest::Shell(line) => vec!["CMD-SHELL", &line.text],
        HealthTest::Exec(words) => {
            std::iter::once("CMD").chain(words.iter().map(|word| word.text.as_str())).collect()
        }
    };
    format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        test.join(" "),
        format_duration(check.interval_ns),
        format_duration(check.timeout_ns),
        format_duration(check.start_period_ns),
        format_duration(check.start_interval_ns),
        check.retries
    )
}

/// Quotes a text as Go's `%q` does.
fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        escape(c, &mut quoted);
    }
    quoted.push('"');
    quoted
}

fn escape(c: char, into: &mut String) {
    match c {
        '"' | '\\' => {
            into.push('\\');
            into.push(c);
        }
        '\x07' => into.push_str("\\a"),
        '\x08' => into.push_str("\\b"),
        '\x0b' => into.push_str("\\v"),
        '\x0c' => into.push_str("\\f"),
        '\n' => into.push_str("\\n"),
        '\r' => into.push_str("\\r"),
        '\t' => into.push_str("\\t"),
        '\0'..' ' | '\x7f' => into.push_str(&format!("\\x{:02x}", u32::from(c))),
        _ if printable(c) => into.push(c),
        '\0'..='\u{ffff}' => into.push_str(&format!("\\u{:04x}", u32::from(c))),
        _ => into.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Letters, marks, numbers, punctuation and symbols; of blanks only the space.
fn printable(c: char) -> bool {
    // Marks are word characters for the expression but not for `char`'s methods.
    static WORD: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\w$").expect("the expression is constant and valid"));
    if c.is_ascii() {
        return c == ' ' || c.is_ascii_graphic();
    }
    let symbol = !c.is_whitespace() && !c.is_control() && c.escape_debug().len() == 1;
    symbol || c.is_alphanumeric() || WORD.is_match(c.encode_utf8(&mut [0; 4]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Word;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn writes_history() {
        let shell = ["/bin/sh".to_owned(), "-c".to_owned(), "echo \"hi\"".to_owned()];
        assert_eq!(run(&[], &shell), "RUN /bin/sh -c echo \"hi\" # buildkit");
        assert_eq!(
            run(&words("A=1 B=2"), &shell),
            "RUN |2 A=1 B=2 /bin/sh -c echo \"hi\" # buildkit"
        );
        assert_eq!(command("CMD", &shell), r#"CMD ["/bin/sh" "-c" "echo \"hi\""]"#);
        assert_eq!(command("ENTRYPOINT", &[]), "ENTRYPOINT []");
        assert_eq!(list("EXPOSE", &words("80/tcp 81/udp")), "EXPOSE [80/tcp 81/udp]");
        assert_eq!(word("USER", "1000:100"), "USER 1000:100");
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs("ENV", &[pair("A", "1 2"), pair("B", "")]), "ENV A=1 2 B=");
        let declared = [("A".to_owned(), Some("1".to_owned())), ("B".to_owned(), None)];
        assert_eq!(arg(&declared), "ARG A=1 B");
    }

    #[test]
    fn writes_copies() {
        let (paths, files) = (words("a b"), words("EOF"));
        let copied = CopyWords {
            keyword: "COPY",
            parents: true,
            chown: "1:2",
            chmod: "644",
            paths: &paths,
            files: &files,
            destination: "/x/",
        };
        assert_eq!(
            copy(&copied),
            "COPY --parents --chown=1:2 --chmod=644 a b <<EOF /x/ # buildkit"
        );
    }

    #[test]
    fn writes_healthchecks() {
        let check = Healthcheck {
            test: HealthTest::Shell(Word { text: "curl -f x".to_owned(), ..Word::default() }),
            interval_ns: 90_000_000_000,
            timeout_ns: 0,
            start_period_ns: 500_000_000,
            start_interval_ns: 0,
            retries: 3,
        };
        assert_eq!(
            healthcheck(&check),
            "HEALTHCHECK {Test:[CMD-SHELL curl -f x] Interval:1m30s Timeout:0s StartPeriod:500ms \
             StartInterval:0s Retries:3}"
        );
    }

    #[test]
    fn quotes_as_go() {
        for (text, quoted) in [
            ("", r#""""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("\n\t\r\x07\x08\x0b\x0c", r#""\n\t\r\a\b\v\f""#),
            ("\0\x1b\x7f", r#""\x00\x1b\x7f""#),
            ("é한😀", r#""é한😀""#),
            ("\u{a0}\u{200b}\u{feff}", r#""\u00a0\u200b\ufeff""#),
            ("\u{e000}", r#""\ue000""#),
            ("e\u{301}", "\"e\u{301}\""),
        ] {
            assert_eq!(quote(text), quoted, "{text:?}");
        }
    }
}
