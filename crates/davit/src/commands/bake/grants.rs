//! `--allow`: what a definition may touch that a build of this folder does not.

use std::path::{Component, Path, PathBuf};

use davit_bake::{Plan, Target};

use crate::{
    commands::build::variables,
    error::{CliError, io_error},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// Refuses what is not allowed: entitlements, SSH agents, and files outside of the working
/// directory.
pub(super) fn check(plan: &Plan, allowed: &[String], origin: Origin) -> Result<(), CliError> {
    let here = std::env::current_dir().map_err(io_error)?;
    let are_guarded = are_files_guarded(origin)?;
    for (name, target) in &plan.targets {
        for needed in target.words("entitlements") {
            if !allowed.contains(&needed) {
                return Err(refused(name, &needed, &needed));
            }
        }
        if !target.words("ssh").is_empty() && !allowed.iter().any(|it| it == "ssh") {
            return Err(refused(name, "an SSH agent or key", "ssh"));
        }
        for (access, path) in paths(target).into_iter().filter(|_| are_guarded) {
            if is_within(&path, &here) || is_allowed(allowed, access, &path) {
                continue;
            }
            let (verb, path) = match access {
                Access::Read => ("fs.read", path.display()),
                Access::Write => ("fs.write", path.display()),
            };
            return Err(refused(name, &format!("the path {path}"), &format!("{verb}={path}")));
        }
    }
    Ok(())
}

/// Where a definition comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Here,
    Elsewhere,
}

/// Whether files outside of the working directory need a word.
fn are_files_guarded(origin: Origin) -> Result<bool, CliError> {
    let is_free = origin == Origin::Elsewhere && variables::is_on(variables::REMOTE_FILES)?;
    Ok(variables::truth(variables::GUARDS_FILES)?.unwrap_or(!is_free))
}

fn refused(target: &str, what: &str, word: &str) -> CliError {
    CliError::user(format!("the target `{target}` asks for {what}"))
        .hint(format!("allow it by --allow {word}"))
}

fn is_allowed(allowed: &[String], access: Access, path: &Path) -> bool {
    let verb = if access == Access::Read { "fs.read=" } else { "fs.write=" };
    allowed.iter().any(|word| {
        let root = word.strip_prefix(verb).or_else(|| word.strip_prefix("fs="));
        root.is_some_and(|root| root == "*" || is_within(path, Path::new(root)))
    })
}

fn is_within(path: &Path, root: &Path) -> bool {
    resolved(path).starts_with(resolved(root))
}

/// The path without links and `..`, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let mut out = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
        if let Ok(real) = fs_err::canonicalize(&out) {
            out = real;
        }
    }
    out
}

/// The files of this machine that a target reads and writes.
fn paths(target: &Target) -> Vec<(Access, PathBuf)> {
    let is_local = |text: &String| !text.contains("://") && !text.starts_with("target:");
    let mut read: Vec<String> = Vec::new();
    let context = super::words::context(target).to_owned();
    let is_remote = !Path::new(&context).exists() && !is_local(&context);
    let dockerfile = super::words::dockerfile(target);
    // A remote context has its own, but for what begins at the root.
    let is_here = !is_remote || Path::new(&dockerfile).is_absolute();
    if is_here && target.text("dockerfile-inline").is_none() {
        read.push(dockerfile);
    }
    if !is_remote {
        read.push(context);
    }
    read.extend(target.pairs("contexts").into_iter().map(|(_, value)| value).filter(is_local));
    read.extend(target.fields("secret", "src"));
    // A secret without a source may be the file of its name.
    read.extend(target.fields("secret", "id"));
    read.extend(target.fields("ssh", "paths"));
    read.extend(target.fields("cache-from", "src"));
    let layouts = target.pairs("contexts").into_iter().map(|(_, value)| value);
    let layouts = layouts.filter_map(|it| Some(it.strip_prefix("oci-layout://")?.to_owned()));
    let without_name = |text: String| text.split([':', '@']).next().unwrap_or("").to_owned();
    read.extend(layouts.map(without_name));
    let read = read.into_iter().map(|path| (Access::Read, PathBuf::from(path)));
    let outputs = target.fields("output", "dest").into_iter().filter(|path| path != "-");
    let write = outputs.chain(target.fields("cache-to", "dest"));
    read.chain(write.map(|path| (Access::Write, PathBuf::from(path)))).collect()
}
