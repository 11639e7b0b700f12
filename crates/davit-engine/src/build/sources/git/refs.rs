//! Which commit a reference names, by what `git ls-remote` lists.

use serde::{Deserialize, Serialize};

/// What a repository's HEAD is called in the list.
pub(super) const HEAD: &str = "HEAD";
/// What a tag of its own object leads to.
const PEELED: &str = "^{}";

/// A commit and the reference that names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resolved {
    /// Name of the commit.
    pub(super) commit: String,
    /// Name of the tag's own object, where there is one.
    pub(super) tag: Option<String>,
    /// Full name of the reference; `None` if a commit was asked for, or a HEAD that names none.
    pub(super) reference: Option<String>,
}

/// Finds a reference in a list; `None` asks for HEAD. Of a branch and a tag of one name the branch
/// counts, as git's own `checkout` has it.
pub(super) fn resolve(list: &str, wanted: Option<&str>) -> Option<Resolved> {
    let lines: Vec<(&str, &str)> = list.lines().filter_map(|line| line.split_once('\t')).collect();
    let object = |name: &str| {
        let found = lines.iter().find(|(object, known)| *known == name && is_object(object));
        found.map(|(object, _)| (*object).to_owned())
    };
    let Some(wanted) = wanted else {
        let named = lines.iter().find_map(|(left, known)| {
            left.strip_prefix("ref: ").filter(|_| *known == HEAD).map(str::to_owned)
        });
        let reference = named.filter(|name| name.starts_with("refs/"));
        return object(HEAD).map(|commit| Resolved { commit, tag: None, reference });
    };
    let short = wanted.strip_prefix("refs/");
    let full = format!("refs/{}", short.unwrap_or(wanted));
    let heads = format!("refs/heads/{wanted}");
    let tags = format!("refs/tags/{wanted}");
    let names = [full, heads, tags];
    let names = if short.is_some() { &names[..1] } else { &names[..] };
    names.iter().find_map(|name| {
        let found = object(name)?;
        let (commit, tag) = match object(&format!("{name}{PEELED}")) {
            Some(commit) => (commit, Some(found)),
            None => (found, None),
        };
        Some(Resolved { commit, tag, reference: Some(name.clone()) })
    })
}

/// Patterns that make the list hold what [`resolve`] looks for.
pub(super) fn patterns(wanted: Option<&str>) -> Vec<String> {
    match wanted {
        None => vec![HEAD.to_owned()],
        Some(name) => vec![name.to_owned(), format!("{name}{PEELED}")],
    }
}

fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_branches_tags_and_head() {
        let id = |digit: &str| digit.repeat(40);
        let list = format!(
            "ref: refs/heads/main\tHEAD\n{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/heads/both\n\
             {c}\trefs/tags/both\n{d}\trefs/tags/v1\n{a}\trefs/tags/v1^{{}}\n\
             {c}\trefs/pull/1/head\nbroken\trefs/heads/bad\n",
            a = id("a"),
            b = id("b"),
            c = id("c"),
            d = id("d"),
        );
        let found = |wanted| resolve(&list, wanted).map(|it| (it.commit, it.tag, it.reference));
        let plain = |digit: &str, name: &str| Some((id(digit), None, Some(name.to_owned())));
        assert_eq!(found(None), plain("a", "refs/heads/main"));
        assert_eq!(found(Some("main")), plain("a", "refs/heads/main"));
        assert_eq!(found(Some("both")), plain("b", "refs/heads/both"));
        assert_eq!(found(Some("refs/tags/both")), plain("c", "refs/tags/both"));
        assert_eq!(found(Some("refs/pull/1/head")), plain("c", "refs/pull/1/head"));
        assert_eq!(found(Some("pull/1/head")), plain("c", "refs/pull/1/head"));
        let tag = Some((id("a"), Some(id("d")), Some("refs/tags/v1".to_owned())));
        assert_eq!(found(Some("v1")), tag);
        for other in ["none", "bad", "heads/none", "ain"] {
            assert_eq!(found(Some(other)), None, "{other}");
        }
        let detached = format!("{}\tHEAD\n", id("a"));
        assert_eq!(resolve(&detached, None).unwrap().reference, None);
    }
}
