//! Where a build's result goes: into the store, a file or a directory.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use davit_build::{
    BuildError, BuildErrorKind, Built, Cancellable, ExportError, export_directory, export_tar,
};
use davit_image::{Descriptor, MediaType, Reference};
use davit_store::{ImageCommit, Lease, TagUpdate, Target, archive::WholeFile, is_no_space};

use super::BuildFailure;
use crate::{Engine, FileError, archive::SavedForm};

/// As Docker's: everyone may read it, as far as the umask goes.
const FILE_MODE: u32 = 0o666;
const BUFFER: usize = 1 << 20;

/// Where a result goes.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub enum BuildOutput {
    /// Into the store, under these names; without one it is kept all the same.
    Image(Vec<Reference>),
    /// A tar that Docker loads and that is an OCI layout as well, with these names in it.
    Archive(Vec<Reference>, BuildSink),
    /// An OCI layout directory, with these names in its index.
    Layout(Vec<Reference>, PathBuf),
    /// Its files, into a directory.
    Directory(PathBuf),
    /// Its files, as a tar.
    Tar(BuildSink),
    /// Nowhere: only the cache is filled.
    CacheOnly,
}

/// What a tar is written to.
#[expect(missing_debug_implementations, reason = "a stream has nothing to show")]
pub enum BuildSink {
    /// A pipe or the like.
    Stream(Box<dyn Write + Send>),
    /// A file.
    File(BufWriter<WholeFile>),
}

impl BuildSink {
    /// A file: one with the name is whole, and what had the name has it until then.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn file(path: &Path) -> Result<Self, FileError> {
        let file = WholeFile::output(path, FILE_MODE)?;
        Ok(Self::File(BufWriter::with_capacity(BUFFER, file)))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stream(stream) => stream,
            Self::File(file) => file,
        }
    }

    fn finish(self) -> Result<(), BuildFailure> {
        let failed = |source: io::Error| ExportError::Write { path: "the output".into(), source };
        match self {
            Self::Stream(mut stream) => stream.flush().map_err(failed)?,
            Self::File(file) => {
                let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
                file.finish().map_err(FileError::from)?;
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Puts a result where it is to go; names come last, when nothing can fail any more.
    pub(super) fn deliver(
        &self,
        lease: &Lease<'_>,
        built: &Built,
        outputs: Vec<BuildOutput>,
        cancelled: &AtomicBool,
    ) -> Result<(), BuildFailure> {
        let descriptor = Descriptor::of(MediaType::OCI_MANIFEST, &built.manifest.bytes);
        let target = Target::new(&descriptor, Some(built.outcome.image));
        let store = self.store();
        let epoch = built.outcome.epoch;
        let layers: Vec<_> = built.outcome.layers.iter().map(|layer| layer.diff_id).collect();
        let is_saved = |output: &BuildOutput| {
            matches!(output, BuildOutput::Archive(..) | BuildOutput::Layout(..))
        };
        let is_saved = outputs.iter().any(is_saved);
        if is_saved {
            // What goes to a file is the file's alone.
            self.commit_built(lease, built, ImageCommit::default())?;
        }
        let mut names: Option<Vec<Reference>> = None;
        for output in outputs {
            match output {
                BuildOutput::Image(new) => names.get_or_insert_default().extend(new),
                BuildOutput::CacheOnly => {}
                BuildOutput::Directory(path) => {
                    export_directory(store, lease, &layers, epoch, &path, cancelled)?;
                }
                BuildOutput::Tar(mut sink) => {
                    let mut writer = Cancellable { inner: sink.writer(), cancelled };
                    export_tar(store, lease, &layers, epoch, &mut writer)?;
                    sink.finish()?;
                }
                BuildOutput::Archive(names, mut sink) => {
                    let mut writer = Cancellable { inner: sink.writer(), cancelled };
                    self.save_built(lease, &target, names, SavedForm::Tar(&mut writer))?;
                    sink.finish()?;
                }
                BuildOutput::Layout(names, path) => {
                    self.save_built(lease, &target, names, SavedForm::Layout(&path, cancelled))?;
                }
            }
        }
        // The last moment at which nothing is named yet.
        if cancelled.load(Ordering::Relaxed) {
            return Err(BuildError::new(BuildErrorKind::Cancelled).into());
        }
        if let Some(names) = &names {
            let update = |reference: &Reference| TagUpdate {
                reference: reference.clone(),
                target: target.clone(),
            };
            let untagged = if names.is_empty() { vec![target.clone()] } else { Vec::new() };
            let tags = names.iter().map(update).collect();
            self.commit_built(lease, built, ImageCommit { tags, untagged, ..Default::default() })?;
        }
        if is_saved || names.is_some() {
            match built.remember(store, lease) {
                // The result is there and named; only the next build has more to do.
                Err(error) if is_no_space(&error.kind) => {}
                remembered => remembered?,
            }
        }
        Ok(())
    }

    fn commit_built(
        &self,
        lease: &Lease<'_>,
        built: &Built,
        commit: ImageCommit,
    ) -> Result<(), BuildFailure> {
        let documents = vec![built.config.clone(), built.manifest.clone()];
        self.store().commit_images(lease, &ImageCommit { documents, ..commit })?;
        Ok(())
    }
}
