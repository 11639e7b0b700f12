//! `COPY`, `ADD` and `WORKDIR`: from files and the state below to the changes of a layer.
//!
//! Nothing is mounted and nothing is written here: the result is a list of changes that
//! `davit-layer` turns into a tar and its table, and a digest of what they hold.
//!
//! ```text
//! sources (FileSet) --.
//! archives (Table) ----+-> Target (what is there already, and what this copy adds) -> Outputs
//! inline files -------'
//! ```

mod archive;
mod key;
mod outputs;
mod owner;
mod part;
mod reuse;
mod source;
mod target;

use std::sync::Arc;

use davit_dockerfile::Glob;
use davit_layer::{Merged, Mtime, XattrMap};

use self::target::Target;
pub(crate) use self::{
    archive::{Archive, Archives, NoArchives},
    key::{
        Facts, Keeps, Ranges, Times, content_key, parts_key, same_content, same_file,
        selection_key, shape_key,
    },
    outputs::{Content, Finished, Output},
    owner::{OwnerError, PasswdFiles, resolve_owner},
    part::{Part, Role, Selection},
    reuse::reuse,
    source::files_of,
};
use crate::{
    files::{FileEntry, FileKind, FileSet, Unresolved, file_name, join},
    plan::{CopySpec, MakeDirectory, Unpack},
    symbolic_mode::Mode,
};

/// Owner as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What a copy works on.
pub(crate) struct CopyJob<'a> {
    pub(crate) spec: &'a CopySpec,
    /// The files that its sources name.
    pub(crate) files: &'a FileSet,
    /// The copies of its remote sources.
    pub(crate) remotes: &'a [Self],
    /// The state below; `None` if there is none or it counts for nothing.
    pub(crate) below: Option<&'a Merged>,
    /// `--chown`, looked up.
    pub(crate) owner: Option<Owner>,
    /// Archives among the files that `ADD` unpacks.
    pub(crate) archives: &'a dyn Archives,
    /// Time of what has none of its own, in seconds.
    pub(crate) now: i64,
}

/// Why files cannot be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CopyProblem {
    /// Nothing has the path that a source names.
    Missing { source: String },
    /// Symlinks lead in a circle.
    Loop { path: String },
    /// A directory would replace something else.
    NotADirectory { path: String },
    /// Something else would replace a directory.
    Directory { path: String },
    /// An archive cannot be unpacked.
    Archive { path: String, problem: String },
}

impl CopyProblem {
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Missing { source } => format!("source `{source}` does not exist"),
            Self::Loop { path } => format!("symlinks of `{path}` lead in a circle"),
            Self::NotADirectory { path } => {
                format!("`/{path}` is there and is no directory")
            }
            Self::Directory { path } => {
                format!("cannot replace the directory `/{path}` with something else")
            }
            Self::Archive { path, problem } => format!("cannot unpack `{path}`: {problem}"),
        }
    }
}

/// What a copy gives.
#[derive(Debug)]
pub(crate) struct Copied {
    pub(crate) outputs: Vec<Output>,
    /// Whether times are content: an archive was unpacked.
    pub(crate) unpacked: bool,
}

/// Computes the changes of a copy.
pub(crate) fn copy(job: &CopyJob<'_>) -> Result<Copied, CopyProblem> {
    let mode = job.spec.mode.as_deref().and_then(Mode::parse);
    let target = Target::new(job.below, job.now, job.files.entries.len());
    let mut copier = Copier { job, mode, target, group: 0, unpacked: false };
    let mut remotes = job.spec.remotes.iter().zip(job.remotes).peekable();
    for position in 0..=job.spec.sources.len() {
        while let Some((_, remote)) = remotes.next_if(|(it, _)| it.after <= position) {
            copier.job = remote;
            copier.source(0)?;
        }
        copier.job = job;
        if position < job.spec.sources.len() {
            copier.source(position)?;
        }
    }
    for file in &job.spec.files {
        copier.inline(&file.name, &file.content)?;
    }
    Ok(Copied { outputs: copier.target.finish(), unpacked: copier.unpacked })
}

/// Computes the changes of a `WORKDIR`.
pub(crate) fn make_directory(
    spec: &MakeDirectory,
    below: Option<&Merged>,
    owner: Owner,
    now: i64,
) -> Result<Vec<Output>, CopyProblem> {
    let mut target = Target::new(below, now, 0);
    let path = target.follow(spec.path.as_bytes())?;
    target.make_directories(&path, 0o755, owner)?;
    Ok(target.finish_made())
}

struct Copier<'a, 'j> {
    /// What the present source belongs to.
    job: &'j CopyJob<'a>,
    mode: Option<Mode>,
    target: Target<'a>,
    /// Counts copies: hard links are kept within one.
    group: u32,
    unpacked: bool,
}

impl Copier<'_, '_> {
    fn owner(&self) -> Owner {
        self.job.owner.unwrap_or_default()
    }

    /// Mode of directories that are made on the way: without the bits beyond permissions.
    fn parent_mode(&self) -> u16 {
        self.mode.as_ref().and_then(Mode::octal).map_or(0o755, |mode| mode & 0o777)
    }

    fn source(&mut self, position: usize) -> Result<(), CopyProblem> {
        let (files, spec) = (self.job.files, self.job.spec);
        let source = &spec.sources[position];
        let unresolved = |error: Unresolved| match error {
            Unresolved::Missing(_) => CopyProblem::Missing { source: spec.shown(position) },
            Unresolved::Loop => CopyProblem::Loop { path: source.clone() },
        };
        let selection = Selection::new(spec, position);
        if !Glob::has_wildcards(source) {
            let path = Glob::unescape(source);
            let index = files.resolve(path.as_bytes()).map_err(unresolved)?;
            if spec.is_required(position) && selection.is_empty(files, index) {
                return Err(CopyProblem::Missing { source: spec.shown(position) });
            }
            return self.one(file_name(path.as_bytes()), index, &selection);
        }
        for matched in files.matches(source).map_err(unresolved)? {
            let path = &files.entries[matched].path;
            let index = files.resolve(path).map_err(unresolved)?;
            self.one(file_name(path), index, &selection)?;
        }
        Ok(())
    }

    /// Copies one file, or the content of one directory; `name` is what it is called.
    fn one(&mut self, name: &[u8], index: usize, selection: &Selection) -> Result<(), CopyProblem> {
        self.group += 1;
        let files = self.job.files;
        let entry = &files.entries[index];
        let destination = &self.job.spec.destination;
        let base = self.target.follow(destination.path.as_bytes())?;
        if self.job.spec.unpack == Unpack::Archives
            && let Some(archive) = self.job.archives.open(entry)?
        {
            self.target.make_directories(&base, 0o755, self.owner())?;
            let how = (self.job.owner, self.group);
            self.unpacked = true;
            return archive::unpack(&mut self.target, &base, &archive, how);
        }
        if entry.kind == FileKind::Directory {
            self.target.make_directories(&base, self.parent_mode(), self.owner())?;
            return self.directory(&base, index, selection);
        }
        let path = if destination.directory || self.target.is_directory(&base) {
            self.target.make_directories(&base, self.parent_mode(), self.owner())?;
            join(&base, name)
        } else {
            if let Some(parent) = crate::files::parent(&base) {
                self.target.make_directories(parent, self.parent_mode(), self.owner())?;
            }
            base
        };
        self.put(path, index, entry)
    }

    fn directory(
        &mut self,
        base: &[u8],
        index: usize,
        selection: &Selection,
    ) -> Result<(), CopyProblem> {
        let files = self.job.files;
        let root = files.entries[index].path.len();
        let skip = if root == 0 { 0 } else { root + 1 };
        match selection.parts(files, index) {
            None => {
                for (at, entry) in (index + 1..).zip(&files.subtree(index)[1..]) {
                    self.put(join(base, &entry.path[skip..]), at, entry)?;
                }
            }
            Some(parts) => {
                for Part { index, role } in parts {
                    let entry = &files.entries[index];
                    let path = join(base, &entry.path[skip..]);
                    if role == Role::Way && self.target.is_directory(&path) {
                        // What is there keeps its owner and time.
                        self.target.set_mode(&path, entry.mode);
                    } else {
                        self.put(path, index, entry)?;
                    }
                }
            }
        }
        // The root of a context has no time of its own.
        if root == 0 {
            return Ok(());
        }
        let time = mtime_of(files.entries[index].mtime_ns);
        self.target.set_time(base, self.job.spec.epoch.map_or(time, Mtime::from_seconds));
        Ok(())
    }

    fn put(&mut self, path: Vec<u8>, index: usize, entry: &FileEntry) -> Result<(), CopyProblem> {
        let mode = match (&self.mode, entry.kind) {
            (_, FileKind::Symlink) => 0o777,
            (Some(mode), _) => mode.apply(entry.mode, entry.kind),
            (None, _) => entry.mode,
        };
        let owner = self.job.owner.unwrap_or(Owner { uid: entry.uid, gid: entry.gid });
        let output = Output {
            path,
            content: Content::of(entry, index, self.group),
            mode,
            owner,
            mtime: self.job.spec.epoch.map_or(mtime_of(entry.mtime_ns), Mtime::from_seconds),
            xattrs: capability(entry),
        };
        self.target.put(output)
    }

    fn inline(&mut self, name: &str, content: &str) -> Result<(), CopyProblem> {
        let destination = &self.job.spec.destination;
        let base = self.target.follow(destination.path.as_bytes())?;
        let inside = destination.directory || self.target.is_directory(&base);
        let path = if inside { join(&base, name.as_bytes()) } else { base };
        if let Some(parent) = crate::files::parent(&path) {
            self.target.make_directories(parent, self.parent_mode(), self.owner())?;
        }
        self.target.put(Output {
            path,
            content: Content::Inline(Arc::from(content.as_bytes())),
            mode: self.mode.as_ref().map_or(0o644, |mode| mode.apply(0o644, FileKind::Regular)),
            owner: self.owner(),
            mtime: Mtime::from_seconds(self.job.now),
            xattrs: XattrMap::new(),
        })
    }
}

/// Times are whole seconds in layers; what lies before 1970 rounds down.
pub(crate) const fn mtime_of(nanoseconds: i64) -> Mtime {
    Mtime::from_seconds(nanoseconds.div_euclid(1_000_000_000))
}

fn capability(entry: &FileEntry) -> XattrMap {
    let value = entry.capability.iter();
    value.map(|value| (b"security.capability".to_vec(), value.to_vec())).collect()
}

#[cfg(test)]
mod tests;
