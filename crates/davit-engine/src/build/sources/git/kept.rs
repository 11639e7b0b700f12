//! A `.git` that goes into a layer: what is of the commit, and nothing of this fetch.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{GitError, SourceError, program::Program};

/// What a fetch leaves: when it was, and by whom.
const TRACES: [&str; 3] = ["FETCH_HEAD", "ORIG_HEAD", "logs"];
/// How deep submodules may lie in each other.
const DEEPEST: usize = 64;

/// Takes the traces of this fetch out of a repository's directory and out of those of its submodules.
pub(super) fn clean(program: &Program<'_>, git: &Path) -> Result<(), SourceError> {
    let mut found = vec![git.to_path_buf()];
    modules(&git.join("modules"), DEEPEST, &mut found).map_err(SourceError::Keep)?;
    for directory in found {
        for name in TRACES {
            remove(&directory.join(name)).map_err(SourceError::Keep)?;
        }
        index(program, &directory)?;
    }
    Ok(())
}

/// The directories of submodules, whose names may have several parts.
fn modules(below: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let is_directory = |path: &Path| path.symlink_metadata().is_ok_and(|facts| facts.is_dir());
    if depth == 0 || !is_directory(below) {
        return Ok(());
    }
    for entry in fs_err::read_dir(below)? {
        let path = entry?.path();
        if !is_directory(&path) {
            continue;
        }
        if path.join("HEAD").symlink_metadata().is_ok() {
            modules(&path.join("modules"), depth - 1, found)?;
            found.push(path);
        } else {
            modules(&path, depth - 1, found)?;
        }
    }
    Ok(())
}

/// Writes the index anew, as it is for whoever did not look at the files yet: git keeps the numbers
/// and times of these there.
fn index(program: &Program<'_>, directory: &Path) -> Result<(), SourceError> {
    remove(&directory.join("index")).map_err(SourceError::Keep)?;
    let Some(path) = directory.to_str() else {
        return Err(GitError::Failed("a submodule's name is no text".to_owned()).into());
    };
    program.run([&format!("--git-dir={path}"), "read-tree", "HEAD"])?;
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(facts) if facts.is_dir() => fs_err::remove_dir_all(path),
        Ok(_) => fs_err::remove_file(path),
        Err(_) => Ok(()),
    }
}
