use super::*;

fn parsed(text: &str) -> GitSource {
    GitSource::parse(text).unwrap_or_else(|| panic!("{text}")).unwrap()
}

#[test]
fn tells_git_from_other_sources() {
    for text in [
        "https://h/u/r.git",
        "http://h/r.git#x",
        "git://h/r",
        "ssh://git@h/u/r",
        "git@h:u/r.git",
        "me@h.example:r",
    ] {
        assert!(GitSource::parse(text).is_some(), "{text}");
    }
    for text in [
        "https://h/u/r",
        "https://h/r.git/x",
        "https://h/x?y=.git",
        "file:///r.git",
        "ext::sh -c x",
        "h:r.git",
        "./git@h:r",
        "github.com/u/r",
        "a b@h:r",
        "",
    ] {
        assert!(GitSource::parse(text).is_none(), "{text}");
    }
    let github = GitSource::parse_context("github.com/u/r#v1").unwrap().unwrap();
    assert_eq!(github.remote, "https://github.com/u/r");
    assert_eq!(github.reference.as_deref(), Some("v1"));
}

#[test]
fn reads_fragment_and_query() {
    let plain = parsed("https://h/r.git");
    assert_eq!((plain.reference.as_deref(), plain.directory.as_deref()), (None, None));
    assert!(plain.submodules && plain.keep_git_dir.is_none() && plain.commit().is_none());
    let (commit, long) = ("1".repeat(40), "a".repeat(64));
    for (text, reference, directory) in [
        ("https://h/r.git#v1", Some("v1"), None),
        ("https://h/r.git#feature/x:a/b", Some("feature/x"), Some("a/b")),
        ("https://h/r.git#:/a/./b/", None, Some("a/b")),
        ("https://h/r.git#v1:../../etc", Some("v1"), Some("etc")),
        ("https://h/r.git#:/", None, None),
        ("git@h:r.git#v1:d", Some("v1"), Some("d")),
        ("https://h/r.git?ref=v1&subdir=a%2Fb", Some("v1"), Some("a/b")),
        ("https://h/r.git?tag=v1", Some("refs/tags/v1"), None),
        ("https://h/r.git?tag=refs/tags/v1", Some("refs/tags/v1"), None),
        ("https://h/r.git?branch=x", Some("refs/heads/x"), None),
        ("https://h/r.git?branch=x#refs/heads/x", Some("refs/heads/x"), None),
        ("https://h/r.git?ref=v1#v1", Some("v1"), None),
        ("https://h/r.git?commit=abc", None, None),
        ("https://h/r.git?commit=abc#v1", Some("v1"), None),
        ("https://h/r.git?subdir=/a/./b#:/a/b", None, Some("a/b")),
    ] {
        let source = parsed(text);
        assert_eq!(source.reference.as_deref(), reference, "{text}");
        assert_eq!(source.directory.as_deref(), directory, "{text}");
    }
    for commit in [&commit, &long] {
        assert_eq!(parsed(&format!("git://h/r#{commit}")).commit(), Some(commit.as_str()));
    }
    let text = format!("git://h/r?branch=x&commit={commit}&fetch-by-commit=true");
    assert_eq!(parsed(&text).commit(), Some(commit.as_str()));
    let all = parsed("git://h/r?keep-git-dir&submodules=0&mtime=commit&checksum=abc");
    assert_eq!((all.keep_git_dir, all.submodules), (Some(true), false));
    assert_eq!((all.mtime, all.checksum.as_deref()), (GitMtime::Commit, Some("abc")));
    assert_eq!(all.remote, "git://h/r");
    assert_eq!(parsed("https://u:p@h:1/r.git?ref=x#x").remote, "https://u:p@h:1/r.git");
}

#[test]
fn refuses_what_git_could_take_for_something_else() {
    for text in [
        "https://h/r.git#--upload-pack=x",
        "https://h/r.git?ref=-x",
        "https://h/r.git#a..b",
        "https://h/r.git#a%20b",
        "https://h/r.git#x*",
        "https://h/r.git#+x",
        "https://h/r.git#x%0ay",
        "ssh://-oProxyCommand=x/r",
        "ssh://-o@h/r",
        "-o@h:r",
        "git@-h:r",
        "git://h/r?nosuch=1",
        "git://h/r?ref=",
        "git://h/r?ref=a&ref=a",
        "git://h/r?ref=a#b",
        "git://h/r?subdir=a#:b",
        "git://h/r?tag=a&branch=a",
        "git://h/r?tag=a#a",
        "git://h/r?submodules=maybe",
        "git://h/r?mtime=now",
        "git://h/r?checksum=xyz",
        "git://h/r?checksum=ABC",
        "git://h/r?checksum=abc&commit=def",
        "git://h/r?fetch-by-commit&checksum=abc",
        "git://h/r?fetch-by-commit",
    ] {
        assert!(GitSource::parse(text).is_some_and(|it| it.is_err()), "{text}");
    }
}

/// Rows of the table: an address, where it is fetched from, and how davit writes it: as
/// `URL#REFERENCE:DIRECTORY`, whichever of the two forms it came in.
#[test]
fn is_written_with_a_fragment_in_either_form() {
    for (text, remote, written) in [
        ("https://h.example/r.git", "https://h.example/r.git", "https://h.example/r.git"),
        ("https://h/r.git#deadbeef", "https://h/r.git", "https://h/r.git#deadbeef"),
        ("https://h/r.git#release/1.2", "https://h/r.git", "https://h/r.git#release/1.2"),
        ("https://h/r.git#a/b:c/d", "https://h/r.git", "https://h/r.git#a/b:c/d"),
        ("https://h/r.git#:folder", "https://h/r.git", "https://h/r.git#:folder"),
        ("https://h/r.git#v1:", "https://h/r.git", "https://h/r.git#v1"),
        ("https://h/r.git#", "https://h/r.git", "https://h/r.git"),
        ("https://h/r.git#v1:a:b", "https://h/r.git", "https://h/r.git#v1:a:b"),
        ("https://h/r.git?ref=v1&subdir=/d", "https://h/r.git", "https://h/r.git#v1:d"),
        ("https://h/r.git?subdir=/d#v1", "https://h/r.git", "https://h/r.git#v1:d"),
        ("https://h/r.git?tag=v1", "https://h/r.git", "https://h/r.git#refs/tags/v1"),
        ("https://h/r.git?branch=v1", "https://h/r.git", "https://h/r.git#refs/heads/v1"),
        ("https://h/r.git?mtime=commit", "https://h/r.git", "https://h/r.git"),
        ("https://h/r.git?checksum=abc", "https://h/r.git", "https://h/r.git"),
        (
            "https://h/r.git?checksum=abc#refs/heads/x",
            "https://h/r.git",
            "https://h/r.git#refs/heads/x",
        ),
        ("http://h:8080/a/r.git#v1", "http://h:8080/a/r.git", "http://h:8080/a/r.git#v1"),
        // An account is for the server, and for nobody's eyes.
        ("https://me:word@h/r.git#v1", "https://me:word@h/r.git", "https://h/r.git#v1"),
        ("git://h/r", "git://h/r", "git://h/r"),
        ("git://h/r.git#v1:d", "git://h/r.git", "git://h/r.git#v1:d"),
        ("ssh://git@h:2222/~u/r#v1", "ssh://git@h:2222/~u/r", "ssh://h:2222/~u/r#v1"),
        ("git@h.example:u/r", "git@h.example:u/r", "git@h.example:u/r"),
        ("git@h:u/r.git#v1", "git@h:u/r.git", "git@h:u/r.git#v1"),
        ("git@h:u/r.git?subdir=/d#v1", "git@h:u/r.git", "git@h:u/r.git#v1:d"),
        ("git@h:u/r.git?ref=v1&subdir=d", "git@h:u/r.git", "git@h:u/r.git#v1:d"),
        ("git@h:/srv/u/r.git", "git@h:/srv/u/r.git", "git@h:/srv/u/r.git"),
        ("github.com/u/r", "https://github.com/u/r", "https://github.com/u/r"),
        ("github.com/u/r#main", "https://github.com/u/r", "https://github.com/u/r#main"),
        ("github.com/u/r?tag=v1", "https://github.com/u/r", "https://github.com/u/r#refs/tags/v1"),
        ("github.com/u/r.git#:d", "https://github.com/u/r.git", "https://github.com/u/r.git#:d"),
    ] {
        let source = GitSource::parse_context(text).unwrap_or_else(|| panic!("{text}")).unwrap();
        assert_eq!(source.remote, remote, "{text}");
        assert_eq!(crate::RemoteSource::Git(source).to_string(), written, "{text}");
    }
    for text in [
        "https://h/",
        "https://h/r",
        "https://h/r.git/",
        "https://h/r.git.bar",
        "https://github.com/u/r",
        "custom.example/u/r.git",
        "http://h/u/r.git:#branch",
        "https://h/r?ref=x.git",
        "./.git",
        "../r.git",
        ".git",
        "github.com",
        "file://h/r.git",
        "ftp://h/r.git",
    ] {
        assert_eq!(GitSource::parse_context(text), None, "{text}");
    }
}

#[test]
fn tells_what_is_wrong_with_an_address() {
    for (text, problem) in [
        ("https://h/r.git?ref=v1#v2", "`ref` is given as `v2` and as `v1`"),
        ("https://h/r.git?ref=v1&tag=v2", "`tag` is given as `v1` and as `refs/tags/v2`"),
        (
            "https://h/r.git?tag=v1&branch=v1",
            "`branch` is given as `refs/tags/v1` and as `refs/heads/v1`",
        ),
        ("https://h/r.git?subdir=a#:b", "`subdir` is given as `b` and as `a`"),
        ("https://h/r.git?commit=abc&checksum=abd", "`checksum` is given as `abc` and as `abd`"),
        ("https://h/r.git?ref=a&ref=a", "`ref` is given twice"),
        ("https://h/r.git?mtime=invalid", "`mtime` cannot be `invalid`"),
        ("https://h/r.git?mtime=", "`mtime` cannot be ``"),
        ("https://h/r.git?tag", "`tag` cannot be ``"),
        ("https://h/r.git?fetch-by-commit=no", "`fetch-by-commit` cannot be `no`"),
        ("https://h/r.git?keep-git-dir=2", "`keep-git-dir` cannot be `2`"),
        ("https://h/r.git?submodules=maybe", "`submodules` cannot be `maybe`"),
        ("git@h:u/r.git?submodules=maybe", "`submodules` cannot be `maybe`"),
        ("https://h/r.git?checksum=v1", "`checksum` cannot be `v1`"),
        ("https://h/r.git?commit=DEADBEEF", "`commit` cannot be `DEADBEEF`"),
        ("https://h/r.git?fetch-by-commit", "fetch-by-commit needs the full commit as `checksum`"),
        ("https://h/r.git#a..b", "`a..b` can be no branch, tag or commit"),
        ("ssh://-oProxyCommand=x/r", "`-oProxyCommand=x` can be no host"),
        ("https://h/r.git?in%1bvalid=123", "`invalid` is no key of a git source"),
    ] {
        let error = GitSource::parse_context(text).unwrap_or_else(|| panic!("{text}")).unwrap_err();
        assert!(error.to_string().starts_with(problem), "{text}: {error}");
    }
}

/// A checksum says what the commit must be, not which one it is; only the full name of a commit
/// names it, and then nobody has to be asked.
#[test]
fn a_checksum_is_no_reference_unless_it_is_the_whole_name() {
    let whole = "5".repeat(40);
    for (text, reference, commit) in [
        (format!("git://h/r?checksum={}", &whole[..12]), None, None),
        (format!("git://h/r?commit={}", &whole[..39]), None, None),
        (format!("git://h/r?checksum={}0", &whole), None, None),
        (format!("git://h/r?checksum={whole}"), Some(&*whole), Some(&*whole)),
        (format!("git://h/r?checksum={whole}#v1"), Some("v1"), None),
        (format!("git://h/r?checksum={whole}&fetch-by-commit#v1"), Some("v1"), Some(&*whole)),
        (format!("git://h/r#{whole}"), Some(&*whole), Some(&*whole)),
    ] {
        let source = parsed(&text);
        assert_eq!((source.reference.as_deref(), source.commit()), (reference, commit), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn nothing_that_is_given_to_git_looks_like_an_option(
        text in "(https?://|git://|ssh://|[-a-z]{1,3}@)[-a-z:/.@]{0,12}(.git)?(\\?[-a-z=&%0-9]{0,20})?(#.{0,12})?",
    ) {
        let Some(Ok(source)) = GitSource::parse(&text) else { return Ok(()) };
        let words = [Some(&source.remote), source.reference.as_ref(), source.checksum.as_ref()];
        for word in words.into_iter().flatten() {
            proptest::prop_assert!(!word.starts_with('-'), "{text}");
            proptest::prop_assert!(!word.chars().any(char::is_control), "{text}");
        }
        let directory = source.directory.unwrap_or_default();
        proptest::prop_assert!(!directory.starts_with('/'), "{text}");
        proptest::prop_assert!(directory.split('/').all(|part| part != ".."), "{text}");
    }
}
