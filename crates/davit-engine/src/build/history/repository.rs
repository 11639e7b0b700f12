//! The git repository that a context is part of, read from its files: a build that does nothing has
//! no time to start a program.

use std::{
    io::Read as _,
    path::{Path, PathBuf},
};

use davit_build::public_address;
use serde::{Deserialize, Serialize};

/// Largest file of a repository that is read.
const LIMIT: u64 = 1 << 20;
/// Longest address that is told, in bytes.
const LONGEST_URL: usize = 2048;
/// Most directories that are climbed.
const DEPTH: usize = 64;
/// Remotes in the order in which they are asked for, after that of the branch.
const REMOTES: [&str; 2] = ["origin", "upstream"];

/// A repository and its state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Repository {
    /// Its address, without account and query; empty if it has none.
    pub url: String,
    /// The commit that is checked out; empty if there is none.
    pub revision: String,
    /// The directory that is checked out; nothing that is kept.
    #[serde(skip)]
    pub root: PathBuf,
}

impl Repository {
    /// Where a path lies in it: `.` for all of it, `None` if it lies elsewhere.
    #[must_use]
    pub fn place(&self, path: &Path) -> Option<String> {
        let path = fs_err::canonicalize(path).ok()?;
        let below = path.strip_prefix(&self.root).ok()?;
        Some(if below.as_os_str().is_empty() {
            ".".to_owned()
        } else {
            below.display().to_string()
        })
    }
}

/// Finds the repository that a directory is part of.
#[must_use]
pub fn repository_of(directory: &Path) -> Option<Repository> {
    let directory = fs_err::canonicalize(directory).ok()?;
    let mut folders = directory.ancestors().take(DEPTH);
    let (root, git) = folders.find_map(|folder| Some((folder, git_directory(folder)?)))?;
    let common = match text(&git.join("commondir")) {
        Some(path) => git.join(path.trim()),
        None => git.clone(),
    };
    let head = text(&git.join("HEAD"))?;
    let branch = head.trim().strip_prefix("ref: ");
    let revision = match branch {
        None => head.trim().to_owned(),
        Some(name) => commit_of(&common, name).unwrap_or_default(),
    };
    let config = text(&common.join("config")).unwrap_or_default();
    let branch = branch.and_then(|name| name.strip_prefix("refs/heads/"));
    let url = remote_url(&config, branch).map(|url| public_address(&url));
    // A checkout may come from anywhere.
    let is_line = |url: &String| url.len() <= LONGEST_URL && !url.contains(char::is_control);
    let url = url.filter(is_line).unwrap_or_default();
    let is_commit = revision.len() >= 40 && revision.bytes().all(|it| it.is_ascii_hexdigit());
    let revision = if is_commit { revision } else { String::new() };
    let root = root.to_path_buf();
    (!url.is_empty() || is_commit).then_some(Repository { url, revision, root })
}

/// The directory `.git` below a folder, or what a file of that name points at.
fn git_directory(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(".git");
    let facts = fs_err::metadata(&path).ok()?;
    if facts.is_dir() {
        return Some(path);
    }
    let target = text(&path)?;
    Some(folder.join(target.trim().strip_prefix("gitdir: ")?))
}

fn commit_of(common: &Path, name: &str) -> Option<String> {
    let is_odd = name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if is_odd || name.starts_with('/') {
        return None;
    }
    if let Some(commit) = text(&common.join(name)) {
        return Some(commit.trim().to_owned());
    }
    let packed = text(&common.join("packed-refs"))?;
    let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(_, packed)| *packed == name).map(|(commit, _)| commit.to_owned())
}

/// The address of the remote that counts, as `git remote get-url` gives it.
fn remote_url(config: &str, branch: Option<&str>) -> Option<String> {
    let (mut remotes, mut tracked) = (Vec::<(String, String)>::new(), None);
    let mut section = String::new();
    for line in config.lines().map(str::trim) {
        if let Some(head) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            head.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"').to_owned();
            let name = |kind: &str| {
                section.strip_prefix(kind)?.trim().strip_prefix('"')?.strip_suffix('"')
            };
            match (key.trim(), name("remote"), name("branch")) {
                ("url", Some(name), _) => remotes.push((name.to_owned(), value)),
                ("remote", _, Some(name)) if Some(name) == branch => tracked = Some(value),
                _ => {}
            }
        }
    }
    let tracked = tracked.iter().map(String::as_str);
    let names = tracked.chain(REMOTES);
    let mut found = names.filter_map(|name| remotes.iter().find(|(remote, _)| remote == name));
    found.next().or(remotes.first()).map(|(_, url)| url.clone())
}

/// The text of a file that is no larger than any of its kind; nothing else is waited for.
fn text(path: &Path) -> Option<String> {
    if !fs_err::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    fs_err::File::open(path).ok()?.take(LIMIT).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_remote_that_counts() {
        let both = "[remote \"upstream\"]\nurl=u\n[remote \"origin\"]\nurl=o";
        assert_eq!(remote_url(both, None).as_deref(), Some("o"));
        let config = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = https://u:p@h/o.git?x=1\n\
                      [remote \"mine\"]\n url = \"git@h:m.git\"\n[branch \"dev\"]\n\tremote = mine\n";
        let url = |branch| remote_url(config, branch).unwrap();
        assert_eq!(url(Some("dev")), "git@h:m.git");
        assert_eq!(url(Some("main")), "https://u:p@h/o.git?x=1");
        assert_eq!(url(None), "https://u:p@h/o.git?x=1");
        assert_eq!(remote_url("[remote \"x\"]\nurl=a", None).as_deref(), Some("a"));
        assert_eq!(remote_url("url = x\n[remote]\n[", None), None);
    }

    #[test]
    fn reads_what_is_checked_out() {
        let temp = davit_test::TempDir::new();
        let (commit, other) = ("a".repeat(40), "b".repeat(40));
        let write = |path: &str, text: &str| {
            let path = temp.join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        assert_eq!(repository_of(temp.path()), None);
        write("a/.git/HEAD", "ref: refs/heads/main\n");
        write("a/.git/config", "[remote \"origin\"]\nurl = https://u:p@h/o.git\n");
        write("a/.git/packed-refs", &format!("# x\n{other} refs/heads/main\n"));
        write("a/sub/f", "");
        let found = repository_of(&temp.join("a/sub")).unwrap();
        assert_eq!(found.place(&temp.join("a/sub")).as_deref(), Some("sub"));
        assert_eq!(found.place(&temp.join("a")).as_deref(), Some("."));
        assert_eq!(found.place(&temp.join("w")), None);
        assert_eq!((found.url.as_str(), &found.revision), ("https://h/o.git", &other));
        write("a/.git/refs/heads/main", &commit);
        assert_eq!(repository_of(&temp.join("a")).unwrap().revision, commit);
        // A work tree of its own.
        write("a/.git/worktrees/w/HEAD", &other);
        write("a/.git/worktrees/w/commondir", "../..\n");
        write("w/.git", &format!("gitdir: {}\n", temp.join("a/.git/worktrees/w").display()));
        let found = repository_of(&temp.join("w")).unwrap();
        assert_eq!((found.url.as_str(), &found.revision), ("https://h/o.git", &other));
        // An address that is no line is none.
        for odd in ["x".repeat(LONGEST_URL + 1), "a\u{1b}[2J".to_owned()] {
            write("a/.git/config", &format!("[remote \"origin\"]\nurl = {odd}\n"));
            assert_eq!(repository_of(&temp.join("a")).unwrap().url, "");
        }
        // What would lead elsewhere leads nowhere.
        write("a/.git/config", "[remote \"origin\"]\nurl = https://h/o.git\n");
        write("a/.git/HEAD", "ref: ../../../x\n");
        write("x", &commit);
        assert_eq!(repository_of(&temp.join("a")).unwrap().revision, "");
    }
}
