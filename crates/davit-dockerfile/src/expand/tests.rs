//! Tables of words and what becomes of them.

use super::*;

fn variables() -> VariableList {
    VariableList::from_entries([
        "DIR=/srv/www",
        "NAME=web",
        "EMPTY=",
        "HANGUL=한국어",
        "FILE=lib.tar.gz",
        "PATHS=/a/b/c/d.txt",
        "STARS=a*b*c",
        "SPACES=one  two",
        "GREEK=αβγαβγ",
        "DOLLAR=$0",
        "GROUP=<${0}>$$$x$",
        "SLASHES=a\\b\\c",
        "BRACE=x}y",
    ])
}

fn expand(word: &str) -> Result<String, ExpandErrorKind> {
    let result = Lexer::default().word(word, &variables());
    result.map(|expanded| expanded.text).map_err(|error| error.kind)
}

#[test]
fn resolves_quotes_and_escapes() {
    for (word, expected) in [
        ("", ""),
        ("plain", "plain"),
        ("한글", "한글"),
        ("two words", "two words"),
        (r"\a\b", "ab"),
        (r"\\", r"\"),
        (r"a\", "a"),
        (r"\$NAME", "$NAME"),
        (r"\\$NAME", r"\web"),
        (r"\'a\'", "'a'"),
        ("'a b'", "a b"),
        ("a'b'c", "abc"),
        (r"'\$NAME\n'", r"\$NAME\n"),
        ("'\"'", "\""),
        (r#""a b""#, "a b"),
        (r#""it's""#, "it's"),
        (r#""\"\$\\""#, r#""$\"#),
        (r#""\a\'""#, r"\a\'"),
        ("\"$NAME-'$NAME'\"", "web-'web'"),
        ("''", ""),
        ("a<b", "a<b"),
        ("a<<  b", "a<<  b"),
        ("\u{feff}a\u{feff}", "a\u{feff}"),
    ] {
        assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
    }
    for (word, quote) in [("'a", '\''), ("a\"b", '"'), ("\"a\\\"", '"'), ("'a\\''", '\'')] {
        assert_eq!(expand(word), Err(ExpandErrorKind::OpenQuote(quote)), "{word}");
    }
}

#[test]
fn resolves_names() {
    for (word, expected) in [
        ("$NAME", "web"),
        ("${NAME}", "web"),
        ("$NAME.x", "web.x"),
        ("$NAMEx", ""),
        ("${NAME}x", "webx"),
        ("$HANGUL", "한국어"),
        ("a$NONE", "a"),
        ("a${NONE}b", "ab"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$$", ""),
        ("$.", "$."),
        ("$1x", "x"),
        ("$12x", "x"),
        ("${1}x", "x"),
        ("$@$*$#$?$-$!$0", ""),
        ("${@}${#}${*}", ""),
        ("$NAME$DIR", "web/srv/www"),
        ("'$NAME'$NAME", "$NAMEweb"),
    ] {
        assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
    }
    for word in ["${}", "${{x}", "${:-x}", "${:}"] {
        assert_eq!(expand(word), Err(ExpandErrorKind::BadSubstitution), "{word}");
    }
    for word in ["${", "${NAME", "a${NAME-x", "${NAME:-'x}", "\"${NAME\""] {
        let error = expand(word).unwrap_err();
        let expected = [ExpandErrorKind::Missing('}'), ExpandErrorKind::Operator("\"".to_owned())];
        assert!(expected.contains(&error), "{word}: {error}");
    }
    for word in
        ["${NAME!}", "${NAME:}", "${NAME:=x}", "${NAME=x}", "${NAME:#x}", "${ NAME}", "${NAME x}"]
    {
        assert!(matches!(expand(word), Err(ExpandErrorKind::Operator(_))), "{word}");
    }
}

#[test]
fn resolves_conditions() {
    for (word, expected) in [
        ("${NAME:-x}", "web"),
        ("${NAME-x}", "web"),
        ("${NONE:-x}", "x"),
        ("${NONE-x}", "x"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${NAME:+x}", "x"),
        ("${NAME+x}", "x"),
        ("${NONE:+x}", ""),
        ("${NONE+x}", ""),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NAME:?x}", "web"),
        ("${EMPTY?x}", ""),
        ("${NONE:-$NAME}", "web"),
        ("${NONE:-${EMPTY:-${NAME}}}", "web"),
        ("${NONE:-'a}b'}", "a}b"),
        (r"${NONE:-a\}b}", "a}b"),
        ("${NONE:-a b}", "a b"),
        ("${NONE:-}", ""),
        ("a${NONE:-b}c${NONE:-d}", "abcd"),
        ("\"${NONE:-\"x\"}\"", "x"),
    ] {
        assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
    }
    for (word, expected) in [
        ("${NONE?}", "is not set"),
        ("${NONE:?}", "is not set"),
        ("${EMPTY:?}", "is empty"),
        ("${NONE?give one}", "give one"),
        ("${EMPTY:?give $NAME}", "give web"),
    ] {
        let Err(ExpandErrorKind::Required { message, .. }) = expand(word) else { panic!("{word}") };
        assert_eq!(message, expected, "{word}");
    }
}

#[test]
fn trims_patterns() {
    for (word, expected) in [
        ("${FILE#*.}", "tar.gz"),
        ("${FILE##*.}", "gz"),
        ("${FILE%.*}", "lib.tar"),
        ("${FILE%%.*}", "lib"),
        ("${FILE#x}", "lib.tar.gz"),
        ("${FILE%x}", "lib.tar.gz"),
        ("${FILE#l?b}", ".tar.gz"),
        ("${FILE%g?}", "lib.tar."),
        ("${FILE#[l]}", "lib.tar.gz"),
        ("${PATHS##*/}", "d.txt"),
        ("${PATHS%/*}", "/a/b/c"),
        ("${PATHS%%/*}", ""),
        ("${PATHS#/}", "a/b/c/d.txt"),
        (r"${STARS#a\*}", "b*c"),
        (r"${STARS%\**}", "a*b"),
        ("${STARS#?\\*}", "b*c"),
        (r"${SLASHES##*\\}", "c"),
        (r"${BRACE#*\}}", "y"),
        ("${GREEK%γ*}", "αβγαβ"),
        ("${GREEK%%γ*}", "αβ"),
        ("${NONE#x}", ""),
        ("${NAME#$NAME}", ""),
        ("${NAME%}", "web"),
    ] {
        assert_eq!(expand(word).as_deref(), Ok(expected), "{word}");
    }
    for word in [r"${NAME#\a}", r"${NONE%\a}", r"${NAME#a\"] {
        assert!(expand(word).is_err(), "{word}");
    }
}

#[test]
fn replaces_patterns() {
    for (word, expected) in [
        ("${GREEK/β/x}", "αxγαβγ"),
        ("${GREEK//β/x}", "αxγαxγ"),
        ("${GREEK/β/}", "αγαβγ"),
        ("${PATHS//\\//_}", "_a_b_c_d.txt"),
        (r"${PATHS/\/*\//-}", "-d.txt"),
        ("${FILE/?i?/x}", "x.tar.gz"),
        (r"${STARS//\*/+}", "a+b+c"),
        ("${FILE/.*/}", "lib"),
        ("${FILE/none/x}", "lib.tar.gz"),
        ("${NONE/a/b}", ""),
        ("${NAME/$NAME/x y}", "x y"),
        // Only the doubled slash hands the replacement to the expression engine.
        ("${NAME/e/$DOLLAR}", "w$0b"),
        ("${NAME//e/$DOLLAR}", "web"),
        ("${NAME//e/<$DOLLAR>}", "w<e>b"),
        ("${NAME//e/$GROUP}", "w<e>$$b"),
        ("${NAME//*/x}", "x"),
        (r"${NAME//\e/x}", "?"),
    ] {
        match expand(word) {
            Ok(text) => assert_eq!(text, expected, "{word}"),
            Err(error) => assert_eq!(expected, "?", "{word}: {error}"),
        }
    }
    assert_eq!(expand("${NAME/a}"), Err(ExpandErrorKind::Missing('/')));
    assert_eq!(expand("${NAME/a/b"), Err(ExpandErrorKind::Missing('}')));
}

#[test]
fn splits_after_expansion() {
    let cases: [(&str, &[&str]); 14] = [
        ("a b", &["a", "b"]),
        ("  a\t b ", &["a", "b"]),
        ("$SPACES", &["one", "two"]),
        ("x${SPACES}y", &["xone", "twoy"]),
        ("\"$SPACES\"", &["one  two"]),
        ("'a b'c", &["a bc"]),
        (r"a\ b", &["a b"]),
        ("$NONE a $EMPTY", &["a"]),
        ("'' a", &["a"]),
        ("a\u{a0}b\u{2003}c", &["a", "b", "c"]),
        ("8${NONE:-0 9}0", &["80", "90"]),
        ("", &[]),
        ("a<< b", &["a<< b"]),
        ("$HANGUL x", &["한국어", "x"]),
    ];
    for (word, expected) in cases {
        let (words, _) = Lexer::default().words(word, &variables()).unwrap();
        assert_eq!(words, expected, "{word}");
    }
}

#[test]
fn obeys_the_escape_directive() {
    let lexer = Lexer::new(Escape::Backtick);
    for (word, expected) in [
        (r"C:\dir\$NAME", r"C:\dir\web"),
        ("`$NAME", "$NAME"),
        ("\"`$NAME`\"`x\"", "$NAME\"`x"),
        ("${NONE:-a`}b}", "a}b"),
    ] {
        assert_eq!(lexer.word(word, &variables()).unwrap().text, expected, "{word}");
    }
}

#[test]
fn keeps_what_it_is_told_to_keep() {
    let keep = |quotes, word: &str| {
        let lexer = Lexer { quotes, unset: Unset::Keep, ..Lexer::default() };
        lexer.word(word, &variables()).unwrap().text
    };
    for (quotes, word, expected) in [
        (Quotes::Keep, "'a'\"$NAME\"\\x", "'a'\"web\"x"),
        (Quotes::KeepAll, "'a'\"$NAME\"\\x", "'a'\"web\"\\x"),
        (Quotes::KeepAll, r#""\"""#, r#""\"""#),
        (Quotes::Plain, "it's \"$NAME\" \\$NAME", "it's \"web\" $NAME"),
        (
            Quotes::Resolve,
            "$NONE ${NONE} ${NONE:-x} ${NONE#y} ${NONE/a/b}",
            "$NONE ${NONE} ${NONE:-x} ${NONE#y} ${NONE/a/b}",
        ),
        (Quotes::Resolve, "$NAME", "web"),
    ] {
        assert_eq!(keep(quotes, word), expected, "{word}");
    }
    let body = Lexer::heredoc_body().word("'$NAME' \\$NAME \\\\ \"", &variables()).unwrap();
    assert_eq!(body.text, "'web' $NAME \\ \"");
}

#[test]
fn reports_what_it_looked_up() {
    let expanded = Lexer::default().word("$NAME ${NONE:-$OTHER} '$QUOTED'", &variables()).unwrap();
    assert_eq!(expanded.matched, BTreeSet::from(["NAME".to_owned()]));
    assert_eq!(expanded.unmatched, BTreeSet::from(["NONE".to_owned(), "OTHER".to_owned()]));
    let error = Lexer::default().word("$NONE'", &variables()).unwrap_err();
    assert_eq!(error.unmatched, BTreeSet::from(["NONE".to_owned()]));
}

#[test]
fn bounds_depth_and_size() {
    let deep = format!("{}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    assert_eq!(expand(&deep), Err(ExpandErrorKind::Depth));
    let mut list = VariableList::new();
    list.set("a", &"x".repeat(1 << 20));
    let word = "$a".repeat(17);
    let error = Lexer::default().word(&word, &list).unwrap_err();
    assert_eq!(error.kind, ExpandErrorKind::Size);
    let error = Lexer::default().word("${a//x/${a}}", &list).unwrap_err();
    assert_eq!(error.kind, ExpandErrorKind::Size);
    for (length, fits) in [(1_000, true), (60_000, false)] {
        let word = format!("${{a#{}}}", "?".repeat(length));
        assert_eq!(Lexer::default().word(&word, &list).is_ok(), fits, "{length}");
    }
}

#[test]
fn an_error_shows_the_beginning_of_a_word() {
    let long = "x".repeat(1 << 20);
    let mut list = VariableList::new();
    list.set("long", &long);
    let words = [
        format!("'{long}"),
        format!("{long}\nb'"),
        format!("${{{long}?}}"),
        format!("${{none?{long}}}"),
        "${none?$long}".to_owned(),
        format!("${{long#[{long}}}"),
        "${long".to_owned(),
    ];
    for word in words {
        let error = Lexer::default().word(&word, &list).unwrap_err();
        let told = error.to_string();
        assert!(told.len() < 1500, "{}", told.len());
        assert!(error.word == word, "it is known whole");
    }
    let error = Lexer::default().word("a\nb'", &list).unwrap_err();
    assert_eq!(error.to_string(), "cannot expand `a…`: a quote (') is not closed");
}
