//! Properties: nothing panics, and spans name the text that they stand for.

use davit_dockerfile::{
    Dockerfile, Escape, Glob, Instruction, Kind, Lexer, Mount, NoVariables, Patterns, Quotes, Span,
    Syntax, Unset, VariableList, detect_syntax, parse_duration,
};
use proptest::prelude::*;

use crate::{book, generate, mend};

/// Feeds every door of the crate.
fn feed(bytes: &[u8]) {
    drop(Dockerfile::parse(bytes));
    drop(mend::mended(bytes));
    drop(detect_syntax(bytes));
    if let Ok(patterns) = Patterns::read(bytes) {
        for path in [&b"a/b"[..], b"", bytes] {
            let _unused = patterns.matches(path);
        }
    }
    if let Ok(glob) = Glob::new(bytes) {
        let _unused = glob.matches(bytes) || glob.matches(b"a/b");
    }
    let text = String::from_utf8_lossy(bytes);
    let variables = VariableList::from_entries(["a=1", "b=x y", "c=a*b/c"]);
    for quotes in [Quotes::Resolve, Quotes::Keep, Quotes::KeepAll, Quotes::Plain] {
        for escape in [Escape::Backslash, Escape::Backtick] {
            for unset in [Unset::Empty, Unset::Keep] {
                let lexer = Lexer { escape, quotes, unset };
                drop(lexer.words(&text, &variables));
            }
        }
    }
    let mut same = |word: &str| Ok(word.to_owned());
    drop(Mount::parse(&text, &mut same));
    let _unused = parse_duration(&text);
}

fn check_span(source: &[u8], span: Span) {
    assert!(span.start <= span.end && span.end <= source.len(), "{span:?}");
    let line = |offset: usize| 1 + source[..offset].iter().filter(|&&byte| byte == b'\n').count();
    assert_eq!(line(span.start), usize::try_from(span.first_line).unwrap(), "{span:?}");
    assert!(line(span.end) <= usize::try_from(span.last_line).unwrap() + 1, "{span:?}");
}

fn check_word(source: &[u8], word: &davit_dockerfile::Word) {
    check_span(source, word.span);
    if word.span.end - word.span.start == word.text.len() {
        assert_eq!(word.span.text(source), word.text.as_bytes(), "{word:?}");
    }
}

fn check_spans(source: &[u8]) {
    let Ok(syntax) = Syntax::parse(source) else { return };
    let mut last = 0;
    for node in &syntax.nodes {
        check_span(source, node.span);
        assert!(node.span.start >= last, "{node:?}");
        last = node.span.end;
        check_word(source, &node.keyword);
        node.flags.iter().for_each(|flag| check_span(source, flag.span));
        if !node.json {
            node.arguments.iter().for_each(|word| check_word(source, word));
        }
        node.arguments.iter().for_each(|word| check_span(source, word.span));
        node.comments.iter().for_each(|comment| check_span(source, comment.span));
        for heredoc in &node.heredocs {
            check_span(source, heredoc.span);
            assert!(heredoc.span.text(source).starts_with(heredoc.content.as_bytes()));
        }
    }
}

#[test]
fn spans_name_their_text() {
    for case in book::cases() {
        check_spans(case.text.as_bytes());
    }
    for seed in 0..3_000 {
        check_spans(generate::file(seed).as_bytes());
    }
}

#[test]
fn spans_point_into_continued_words() {
    let source = b"FROM a\nCOPY one \\\n  # comment\n  two \\\n  /dest/\n";
    let file = Dockerfile::parse(source).unwrap();
    let Instruction { kind: Kind::Copy(copy), span, .. } = &file.stages[0].instructions[0] else {
        panic!("no COPY");
    };
    assert_eq!(copy.sources.paths[1].span.text(source), b"two");
    assert_eq!(copy.sources.paths[1].span.first_line, 4);
    assert_eq!(copy.sources.destination.span.text(source), b"/dest/");
    assert_eq!((span.first_line, span.last_line), (2, 5));
}

/// The doors that are fuzzed, over the corpus, its mutations and bytes that are no text.
#[test]
fn nothing_panics() {
    for (index, case) in book::cases().iter().enumerate() {
        feed(case.text.as_bytes());
        let mut bytes = case.text.clone().into_bytes();
        let at = index * 7 % (bytes.len() + 1);
        bytes.insert(at, 0xFF);
        feed(&bytes);
        feed(generate::mutate(&case.text, u64::try_from(index).unwrap()).as_bytes());
    }
}

#[test]
fn hostile_files_stay_cheap() {
    let nested = format!("FROM a\n{}RUN x\n", "ONBUILD \\\n".repeat(50_000));
    assert!(Dockerfile::parse(nested.as_bytes()).is_err());
    let deep = format!("FROM a\nENV a={}{}\n", "${a:-\\\n".repeat(50_000), "}".repeat(50_000));
    assert!(Dockerfile::parse(deep.as_bytes()).is_ok());
    let brackets = format!("FROM a\nCMD {}\n", "[\\\n".repeat(200_000));
    assert!(Dockerfile::parse(brackets.as_bytes()).is_ok());
    let heredocs = format!("FROM a\nRUN {}\n{}", "<<a ".repeat(10_000), "a\n".repeat(10_000));
    assert!(Dockerfile::parse(heredocs.as_bytes()).is_ok());
    let flags = format!("FROM a\nCOPY {} b c\n", "--exclude=x \\\n".repeat(50_000));
    assert!(Dockerfile::parse(flags.as_bytes()).is_ok());
    let patterns = "**/a*b*c*d*e*f\n".repeat(2_000);
    let patterns = Patterns::read(patterns.as_bytes()).unwrap();
    assert!(!patterns.matches("a".repeat(4_096).as_bytes()));
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        feed(text.as_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        feed(&bytes);
        check_spans(&bytes);
    }

    /// Quoting with single quotes keeps any text without them.
    #[test]
    fn single_quotes_keep_text(text in "[^'\u{feff}]{0,40}") {
        let word = Lexer::default().word(&format!("'{text}'"), &NoVariables).unwrap();
        prop_assert_eq!(word.text, text);
    }

    /// Escaping every character keeps any text.
    #[test]
    fn escapes_keep_text(text in "\\PC{0,40}") {
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        let word = Lexer::default().word(&escaped, &NoVariables).unwrap();
        prop_assert_eq!(word.text, text);
    }

    /// A glob without special characters matches itself alone.
    #[test]
    fn plain_globs_match_themselves(text in "[a-z/.]{0,20}", other in "[a-z/.]{0,20}") {
        let glob = Glob::new(text.as_bytes()).unwrap();
        prop_assert!(glob.matches(text.as_bytes()));
        prop_assert_eq!(glob.matches(other.as_bytes()), text == other);
    }
}
