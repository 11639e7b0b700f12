//! Selects what the sources of copies reach, symlinks among them included.

use crate::{
    context::Selectors,
    files::{FileKind, FileSet, Unresolved, split_wildcards},
};

/// How often the files are loaded again because a symlink leads to a part that was not selected.
const ROUNDS: usize = 40;

/// Loads the files that the sources reach; `load` may be asked several times.
///
/// # Errors
/// What `load` says.
pub(crate) fn select<E>(
    sources: &[String],
    mut load: impl FnMut(&Selectors) -> Result<FileSet, E>,
) -> Result<FileSet, E> {
    let mut selectors = Selectors::new(sources.iter().map(String::as_str));
    let mut set = load(&selectors)?;
    for _ in 0..ROUNDS {
        let missing: Vec<String> =
            sources.iter().flat_map(|source| unselected(&set, source, &selectors)).collect();
        let grown = missing.iter().fold(false, |grown, path| selectors.add(path) | grown);
        if !grown {
            break;
        }
        set = load(&selectors)?;
    }
    Ok(set)
}

/// Paths behind symlinks that a source needs and that are not selected.
fn unselected(set: &FileSet, source: &str, selectors: &Selectors) -> Vec<String> {
    let (prefix, rest) = split_wildcards(source);
    let mut needed = Vec::new();
    match set.resolve(prefix.as_bytes()) {
        Ok(found) => {
            let target = &set.entries[found].path;
            // The way there was walked, but not what lies below it.
            needed.push(pattern(target, &rest));
        }
        Err(Unresolved::Missing(missing)) => needed.push(pattern(&missing, &rest)),
        Err(Unresolved::Loop) => {}
    }
    for matched in
        if rest.is_empty() { Vec::new() } else { set.matches(source).unwrap_or_default() }
    {
        if set.entries[matched].kind != FileKind::Symlink {
            continue;
        }
        match set.resolve(&set.entries[matched].path) {
            Ok(found) => needed.push(pattern(&set.entries[found].path, "")),
            Err(Unresolved::Missing(missing)) => needed.push(pattern(&missing, "")),
            Err(Unresolved::Loop) => {}
        }
    }
    needed.retain(|needed| !selectors.covers(needed.as_bytes()));
    needed
}

/// Writes a path as a pattern that matches nothing else, with a pattern below it.
pub(crate) fn pattern(path: &[u8], rest: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for character in String::from_utf8_lossy(path).chars() {
        if matches!(character, '*' | '?' | '[' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    if !rest.is_empty() {
        pattern.push('/');
        pattern.push_str(rest);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{components, tests::set};

    /// What a load gives: everything that the selectors reach, symlinks on the way included.
    fn select_from(all: &FileSet, sources: &[&str]) -> Vec<String> {
        let sources: Vec<String> = sources.iter().map(|&it| it.to_owned()).collect();
        let load = |selectors: &Selectors| {
            let reach = |path: &[u8]| {
                components(path)
                    .try_fold(selectors.root()?, |reach, part| selectors.child(&reach, part))
            };
            let entries = all.entries.iter().filter(|entry| reach(&entry.path).is_some());
            Ok::<_, ()>(FileSet { entries: entries.cloned().collect() })
        };
        let set = select(&sources, load).unwrap();
        let name =
            |entry: &crate::files::FileEntry| String::from_utf8(entry.path.to_vec()).unwrap();
        set.entries.iter().map(name).filter(|name| !name.is_empty()).collect()
    }

    #[test]
    fn follows_symlinks_out_of_the_selection() {
        let all = set(&[
            "a/",
            "a/f",
            "a/l -> ../real/deep",
            "b/",
            "b/x",
            "real/",
            "real/deep/",
            "real/deep/f",
            "real/other",
            "dir -> real",
            "two -> dir",
        ]);
        assert_eq!(select_from(&all, &["b"]), ["b", "b/x"]);
        assert_eq!(select_from(&all, &["a/l"]), ["a", "a/l", "real", "real/deep", "real/deep/f"]);
        let through = ["dir", "real", "real/deep", "real/deep/f", "two"];
        assert_eq!(select_from(&all, &["two/deep"]), through);
        assert_eq!(select_from(&all, &["two/d*"]), through);
        let matched = select_from(&all, &["a/l*"]);
        assert_eq!(matched, ["a", "a/l", "real", "real/deep", "real/deep/f"]);
        assert_eq!(select_from(&all, &["nothing"]), [""; 0]);
    }

    #[test]
    fn links_that_lead_nowhere_or_in_circles_are_selected_themselves() {
        let all = set(&["me -> me", "one -> two", "two -> one", "other", "gone -> not/here"]);
        assert_eq!(select_from(&all, &["me", "one"]), ["me", "one", "two"]);
        assert_eq!(select_from(&all, &["gone"]), ["gone"]);
        assert_eq!(select_from(&all, &["not/here", "n*/h*"]), [""; 0]);
    }

    #[test]
    fn absolute_links_and_those_above_the_root_stay_within() {
        for up in ["..", "../../../..", "/", "/../.."] {
            let up = format!("home/up -> {up}");
            let all = set(&["bin/", "bin/tool -> /home/up/real", "home/", &up, "real", "else"]);
            let found = select_from(&all, &["bin/tool"]);
            assert_eq!(found, ["bin", "bin/tool", "home", "home/up", "real"], "{up}");
        }
    }

    #[test]
    fn a_link_to_the_root_selects_everything() {
        for target in [".", "/", "./", "x/.."] {
            let link = format!("link -> {target}");
            let all = set(&[&link, "a", "b", "x/", "x/y"]);
            assert_eq!(select_from(&all, &["link"]), ["a", "b", "link", "x", "x/y"], "{target}");
        }
    }

    #[test]
    fn what_patterns_match_is_followed_and_what_a_directory_holds_is_not() {
        let all = set(&[
            "conf/",
            "conf/l1 -> /store/one",
            "conf/l2 -> /store/two",
            "conf/other-link -> /store/three",
            "store/",
            "store/one",
            "store/two -> ../base",
            "store/three",
            "store/unused",
            "base",
        ]);
        let links = ["conf", "conf/l1", "conf/l2", "store", "store/one", "store/two"];
        let all_links = [&["base"][..], &links].concat();
        assert_eq!(select_from(&all, &["conf/l*"]), all_links);
        let conf = ["conf", "conf/l1", "conf/l2", "conf/other-link"];
        assert_eq!(select_from(&all, &["conf"]), conf);
        let more = [&conf[..], &["store", "store/three"]].concat();
        assert_eq!(select_from(&all, &["conf", "conf/*link"]), more);
        // What lies below something that is selected adds nothing.
        assert_eq!(select_from(&all, &["conf", "conf/nothing", "conf/."]), conf);
    }
}
