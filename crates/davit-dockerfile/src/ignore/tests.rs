//! Tables of patterns and paths.

use super::*;

fn matches(pattern: &str, path: &str) -> bool {
    Patterns::new([pattern]).unwrap().matches(path.as_bytes())
}

#[test]
fn matches_single_patterns() {
    for (pattern, yes, no) in [
        ("**", "a a/b .a a/.b/c", ""),
        ("**/", "a a/b", ""),
        ("**/*", "a a/b/c", ""),
        ("**/**", "a a/b/c", ""),
        ("*", "a a/b .a", ""),
        ("a", "a a/b a/b/c", "b b/a ab"),
        ("/a", "/a", "a b/a"),
        ("./a", "a a/b", "b/a"),
        ("a/", "a a/b", "ab"),
        ("a//b/../c", "a/c a/c/d", "a/b c"),
        ("a/*", "a/b a/b/c a/.x", "a ab/c"),
        ("a/**", "a/b a/b/c", "a ab"),
        ("a**", "a ab a/b ab/c", "b b/a"),
        ("**a", "a ba b/a b/ca a/b ba/c", "b ab/c"),
        ("**/a", "a b/a b/c/a a/b b/a/c", "ba b/ca"),
        ("**/a*", "a ab b/a b/ab/c", "b ba"),
        ("**/a/**", "a/b b/a/c b/a/c/d", "a b/a ab"),
        ("a/**/b", "a/b a/c/b a/c/d/b a/b/e", "a b ab a/cb"),
        ("a/**/*.txt", "a/x.txt a/b/x.txt a/b/c/.txt", "x.txt a/x.md b/a/x.txt"),
        ("*.md", "x.md .md x.md/a", "a/x.md x.mdx"),
        ("**/*.md", "x.md a/x.md a/b/x.md a.md/b", "x.mdx"),
        ("*/*", "a/b a/b/c", "a"),
        ("*/*/x", "a/b/x", "a/x x a/b/c/x"),
        ("a?c", "abc a.c a?c a?c/d", "ac a/c abbc"),
        ("a[b-d]e", "abe ace", "ae aee abce"),
        ("a[^b]c", "adc a-c", "abc ac"),
        ("[ab", "", ""),
        ("a[b\\-d]e", "a-e abe ade", "ace"),
        ("a\\*b", "a*b", "axb a\\*b"),
        ("a\\?b", "a?b", "axb"),
        ("a\\b", "", "ab"),
        ("a.b", "a.b", "axb"),
        ("a+b", "a+b", "aab ab"),
        ("a(b|c)d", "a(b|c)d", "abd"),
        ("a{b}$", "a{b}$", "ab"),
        ("a$b*", "a$b a$bc", "ab"),
        ("^a", "^a", "a"),
        ("é*", "é éa", "e"),
        ("?", "é a", "ab"),
        ("***", "a a/b", ""),
        ("**/***/x", "a/x a/b/x", "x y"),
        ("[[:alpha:]]x", "", ""),
    ] {
        let Ok(patterns) = Patterns::new([pattern]) else {
            assert!(yes.is_empty() && no.is_empty(), "{pattern}");
            continue;
        };
        for path in yes.split(' ').filter(|path| !path.is_empty()) {
            assert!(patterns.matches(path.as_bytes()), "{pattern} {path}");
        }
        for path in no.split(' ').filter(|path| !path.is_empty()) {
            assert!(!patterns.matches(path.as_bytes()), "{pattern} {path}");
        }
    }
    assert!(matches("a b", "a b") && !matches("a b", "a"));
}

#[test]
fn follows_expressions_where_brackets_lead() {
    // The class holds what `*` and `?` became, and what follows stands outside.
    assert!(matches("[a*b]", "a*b]") || !matches("[a*b]", "a"));
    assert!(matches("x\\d", "x1") && !matches("x\\d", "xd"));
    assert!(matches("[&&~~]x", "&x") && !matches("[&&~~]x", "ax"));
    assert!(matches("[.]x", ".x"));
    assert!(matches("\\<a", "<a"));
    assert!(Patterns::new(["\\y"]).is_err());
    assert!(Patterns::new(["[b-a]"]).is_err());
}

#[test]
fn refuses_patterns() {
    for pattern in ["!", " ! ", "[", "a\\", "[]a]", "[^", "![", "[-a]"] {
        assert!(Patterns::new([pattern]).is_err(), "{pattern}");
    }
    let error = Patterns::read(b"a\n\n!\n").unwrap_err();
    assert_eq!(error, IgnoreError::LoneNegation { line: 3 });
    assert!(matches!(Patterns::read(b"a\n[\n"), Err(IgnoreError::Pattern { line: 2, .. })));
    let long = vec![b'a'; LINE_LIMIT + 1];
    assert!(matches!(Patterns::read(&long), Err(IgnoreError::LineLength { line: 1 })));
}

#[test]
fn lets_the_last_pattern_win() {
    for (patterns, yes, no) in [
        ("* !a", "b c/d", "a a/b"),
        ("* !a/b", "a a/c b", "a/b a/b/c"),
        ("a !a/b a/b/c", "a a/x a/b/c", "a/b a/b/d"),
        ("!a a", "a a/b", "b"),
        ("a !a", "", "a a/b"),
        ("**/*.go !vendor/**", "x.go a/x.go", "vendor/x.go x"),
        ("docs !docs/README.md", "docs docs/x", "docs/README.md"),
        ("a !*", "", "a b"),
        (
            "util/docker/web !util/docker/web/foo",
            "util/docker/web util/docker/web/x",
            "util/docker/web/foo util/docker/web/foo/x",
        ),
    ] {
        let list = Patterns::new(patterns.split(' ')).unwrap();
        for path in yes.split(' ').filter(|path| !path.is_empty()) {
            assert!(list.matches(path.as_bytes()), "{patterns}: {path}");
        }
        for path in no.split(' ').filter(|path| !path.is_empty()) {
            assert!(!list.matches(path.as_bytes()), "{patterns}: {path}");
        }
    }
}

#[test]
fn reads_ignore_files() {
    let file =
        b"\xEF\xBB\xBF# comment\n  # no comment\n\n /a/ \n! b \r\n!/c//d/.\n/\n\t..\\-x\n./e\n#x";
    let list = Patterns::read(file).unwrap();
    let read: Vec<_> = list
        .list()
        .iter()
        .map(|pattern| (pattern.text.as_str(), pattern.negated, pattern.line))
        .collect();
    assert_eq!(
        read,
        [
            ("# no comment", false, 2),
            ("a", false, 4),
            ("b", true, 5),
            ("c/d", true, 6),
            ("/", false, 7),
            ("..\\-x", false, 8),
            ("e", false, 9),
        ]
    );
    assert_eq!(list.deciding(b"a/x").unwrap().line, 4);
    assert_eq!(list.deciding(b"z").map(|pattern| pattern.line), None);
}

/// All paths that a walk keeps.
fn walk(patterns: &str, files: &str) -> (String, usize) {
    let list = Patterns::new(patterns.split(' ').filter(|p| !p.is_empty())).unwrap();
    let mut kept = Vec::new();
    let mut pruned = 0;
    'files: for path in files.split(' ') {
        let mut above = Above::default();
        for (at, _) in path.match_indices('/') {
            let (verdict, below) = list.directory(&path.as_bytes()[..at], &above);
            if verdict == Verdict::Matched {
                pruned += 1;
                continue 'files;
            }
            above = below;
        }
        if !list.file(path.as_bytes(), &above) {
            kept.push(path);
        }
    }
    (kept.join(" "), pruned)
}

#[test]
fn walks_trees() {
    let files = "a b/c b/d/e b/d/f g/h.md";
    for (patterns, kept, pruned) in [
        ("", "a b/c b/d/e b/d/f g/h.md", 0),
        ("b", "a g/h.md", 3),
        ("b !b/d", "a b/d/e b/d/f g/h.md", 0),
        ("b !b/d/e", "a b/d/e g/h.md", 0),
        ("* !b/d/**", "b/d/e b/d/f", 1),
        ("* !**/*.md", "g/h.md", 0),
        ("b g !g/*", "a g/h.md", 3),
        // A pattern that repeats one above it is not asked for the directory, so it cannot match
        // by it either; this is what the reference walk does.
        ("b !b/c b", "a b/c g/h.md", 2),
    ] {
        let (left, count) = walk(patterns, files);
        assert_eq!(left, kept, "{patterns}");
        assert_eq!(count, pruned, "{patterns}");
    }
    assert!(Patterns::new(["b", "!b/c", "b"]).unwrap().matches(b"b/c"));
}

#[test]
fn takes_paths_that_are_no_text() {
    let list = Patterns::new([&b"a\xFF"[..], b"b/?c", b"**/\xFE"]).unwrap();
    assert!(list.matches(b"a\xFF"));
    assert!(!list.matches(b"a\xFE"));
    assert!(list.matches(b"b/\xFFc"));
    assert!(list.matches(b"x/\xFE"));
    assert!(!list.matches(b"x/y"));
}

#[test]
fn cleans_paths() {
    for (path, expected) in [
        ("", "."),
        (".", "."),
        ("/", "/"),
        ("a/", "a"),
        ("a//b/./c", "a/b/c"),
        ("a/../b", "b"),
        ("a/../..", ".."),
        ("../a", "../a"),
        ("/../a", "/a"),
        ("./a/..", "."),
        ("!a/../b", "b"),
    ] {
        assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path}");
    }
}
