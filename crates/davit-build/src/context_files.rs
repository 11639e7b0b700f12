//! The context of a build in each of its forms: a directory, a tar, nothing.

use std::{
    fs::File,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use davit_dockerfile::Patterns;
use davit_layer::Merged;

use crate::{
    cancel::Cancellable,
    context::{Context, ContextOptions, Selectors},
    copy::{Archive, PasswdFiles, Ranges, files_of},
    error::BuildErrorKind,
    files::{Data, FileEntry, FileKind, FileSet},
    layers::{OpenLayer, StateFiles, source_of},
    request::{ContextModes, ContextSource},
};

/// What `COPY` and `ADD` read.
pub(crate) enum ContextFiles {
    Directory(Context),
    Archive { set: FileSet, layer: Arc<OpenLayer> },
    Empty(FileSet),
}

impl ContextFiles {
    /// Gives the files the modes that are asked for.
    pub(crate) fn set_modes(&mut self, modes: ContextModes) {
        if modes == ContextModes::AsTheyAre {
            return;
        }
        let set = match self {
            Self::Directory(context) => context.set_mut(),
            Self::Archive { set, .. } | Self::Empty(set) => set,
        };
        for entry in &mut set.entries {
            entry.mode = match entry.kind {
                FileKind::Symlink => entry.mode,
                FileKind::Directory => 0o755,
                _ if entry.mode & 0o111 != 0 => 0o755,
                _ => 0o644,
            };
        }
    }

    /// Opens the context as far as the sources reach; `archive` is what a tar context held.
    pub(crate) fn open(
        source: &ContextSource,
        options: ContextOptions<'_>,
        archive: Option<Archive>,
    ) -> Result<Self, BuildErrorKind> {
        match source {
            ContextSource::Directory(path) => Self::directory(path, options),
            ContextSource::Tar(_) if archive.is_some() => {
                Self::archive(archive.expect("it was looked at"), options.ignore)
                    .map_err(|source| BuildErrorKind::Context { path: "-".into(), source })
            }
            ContextSource::Tar(_) | ContextSource::Remote(_) | ContextSource::Empty => {
                let merged = Merged::new(Vec::new()).map_err(|error| {
                    let source = io::Error::other(error);
                    BuildErrorKind::Context { path: "-".into(), source }
                })?;
                Ok(Self::Empty(files_of(&merged, &Selectors::new([""]))))
            }
        }
    }

    /// Opens a directory as far as the sources reach.
    pub(crate) fn directory(
        path: &Path,
        options: ContextOptions<'_>,
    ) -> Result<Self, BuildErrorKind> {
        Context::open(ContextOptions { path, ..options }).map(Self::Directory)
    }

    fn archive(archive: Archive, ignore: Option<&Patterns>) -> io::Result<Self> {
        let merged = Merged::new(vec![Arc::clone(&archive.table)]).map_err(io::Error::other)?;
        let mut set = files_of(&merged, &Selectors::new([""]));
        if let Some(patterns) = ignore {
            let kept: Vec<bool> =
                set.entries.iter().map(|entry| !patterns.matches(&entry.path)).collect();
            let mut needed = kept.clone();
            for (index, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
                let mut above = crate::files::parent(&set.entries[index].path);
                while let Some(directory) = above {
                    if let Some(at) = set.index(directory) {
                        needed[at] = true;
                    }
                    above = crate::files::parent(directory);
                }
            }
            let mut needed = needed.into_iter();
            set.entries.retain(|entry| needed.next().unwrap_or(true) || entry.path.is_empty());
        }
        let layer = Arc::new(OpenLayer { tar: archive.tar, table: archive.table });
        Ok(Self::Archive { set, layer })
    }

    pub(crate) const fn set(&self) -> &FileSet {
        match self {
            Self::Directory(context) => &context.set,
            Self::Archive { set, .. } | Self::Empty(set) => set,
        }
    }

    /// The layers that entries of the set may lie in.
    pub(crate) fn layers(&self) -> &[Arc<OpenLayer>] {
        match self {
            Self::Archive { layer, .. } => std::slice::from_ref(layer),
            Self::Directory(_) | Self::Empty(_) => &[],
        }
    }

    /// Computes the digests of the regular files in these ranges of the set.
    pub(crate) fn digest(
        &mut self,
        ranges: &[Range<usize>],
        cancelled: &AtomicBool,
    ) -> Result<(), BuildErrorKind> {
        match self {
            Self::Directory(context) => context.digest(ranges, cancelled),
            Self::Archive { set, layer } => {
                for index in ranges.iter().cloned().flatten() {
                    digest_archived(&mut set.entries[index], layer, cancelled)
                        .map_err(|source| BuildErrorKind::Context { path: "-".into(), source })?;
                }
                Ok(())
            }
            Self::Empty(_) => Ok(()),
        }
    }

    /// Opens a file of the set for reading from its start.
    pub(crate) fn open_file(
        &self,
        entry: &FileEntry,
        scratch: (&Path, &AtomicBool),
    ) -> io::Result<File> {
        match self {
            Self::Directory(context) => context.open_file(entry).map_err(io::Error::from),
            Self::Archive { layer, .. } => extract(entry, layer, scratch),
            Self::Empty(_) => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Remembers digests for the next build.
    pub(crate) fn save(&self) {
        if let Self::Directory(context) = self {
            context.save();
        }
    }
}

/// Content of a small file of an archive; `None` if there is no such file.
pub(crate) fn read_archived(archive: &Archive, path: &str) -> io::Result<Option<Vec<u8>>> {
    let merged = Merged::new(vec![Arc::clone(&archive.table)]).map_err(io::Error::other)?;
    let tars = [Arc::clone(&archive.tar)];
    PasswdFiles::read(&StateFiles { merged: &merged, tars: &tars }, path)
}

fn ranges_of<'a>(entry: &FileEntry, layer: &'a OpenLayer) -> Option<Ranges<'a>> {
    let Data::Layer { entry: index, .. } = entry.data else { return None };
    let davit_layer::Source::Tar { extents, .. } = source_of(layer, index) else { return None };
    Some(Ranges::new(&layer.tar, entry.size, extents))
}

/// Computes the digest of a regular file that lies in a layer, if it is not known.
pub(crate) fn digest_archived(
    entry: &mut FileEntry,
    layer: &OpenLayer,
    cancelled: &AtomicBool,
) -> io::Result<()> {
    if entry.kind != FileKind::Regular || entry.digest.is_some() {
        return Ok(());
    }
    let Some(content) = ranges_of(entry, layer) else { return Ok(()) };
    let mut content = Cancellable { inner: content, cancelled };
    let mut digester = davit_image::Digester::new(davit_image::Algorithm::Sha256);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match io::Read::read(&mut content, &mut buffer)? {
            0 => break,
            length => digester.update(&buffer[..length]),
        }
    }
    entry.digest = digester.finish().bytes().try_into().ok();
    Ok(())
}

/// A file of an archive as a file of its own, for what must seek in it. `cancelled` is set by another
/// thread to end that.
pub(crate) fn extract(
    entry: &FileEntry,
    layer: &OpenLayer,
    (scratch, cancelled): (&Path, &AtomicBool),
) -> io::Result<File> {
    let mut file = crate::archives::unnamed(scratch)?;
    if let Some(inner) = ranges_of(entry, layer) {
        io::copy(&mut Cancellable { inner, cancelled }, &mut file)?;
    }
    io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
    Ok(file)
}
