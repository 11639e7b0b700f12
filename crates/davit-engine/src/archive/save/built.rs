//! What a build made, as an archive or a layout: its names are those of the file alone.

use std::{io::Write, path::Path, sync::atomic::AtomicBool};

use davit_build::Cancellable;
use davit_image::{Digest, Reference};
use davit_store::{Lease, StoreError, Target, archive::LayoutDirWriter};

use super::{FileError, Named, Plan};
use crate::Engine;

/// Where an image is saved.
pub(crate) enum SavedForm<'a> {
    /// As `davit save` does.
    Tar(&'a mut dyn Write),
    /// A directory, made if it is missing; images that it has stay. Ends once the flag is set.
    Layout(&'a Path, &'a AtomicBool),
}

impl Engine {
    /// Saves an image of the store under names that the store need not know.
    pub(crate) fn save_built(
        &self,
        lease: &Lease<'_>,
        target: &Target,
        references: Vec<Reference>,
        form: SavedForm<'_>,
    ) -> Result<(), FileError> {
        let mut plan = Plan::default();
        let name = target.digest.to_string();
        self.add_image(&mut plan, &Named { target: target.clone(), references, name })?;
        match form {
            SavedForm::Tar(sink) => self.write_plan(lease, &plan, sink),
            SavedForm::Layout(path, cancelled) => self.write_layout(lease, plan, (path, cancelled)),
        }
    }

    fn write_layout(
        &self,
        lease: &Lease<'_>,
        plan: Plan,
        (path, cancelled): (&Path, &AtomicBool),
    ) -> Result<(), FileError> {
        let digests: Vec<Digest> = plan.blobs.iter().copied().collect();
        lease.keep(&digests)?;
        let writer = LayoutDirWriter::create(path)?;
        for (digest, bytes) in &plan.made {
            writer.add_blob(digest, &mut bytes.as_slice())?;
        }
        for digest in &digests {
            let found = self.store().open_content(digest)?;
            let (file, _) = found
                .ok_or_else(|| StoreError::NotFound { kind: "blob", name: digest.to_string() })?;
            writer.add_blob(digest, &mut Cancellable { inner: file, cancelled })?;
        }
        Ok(writer.finish(plan.index)?)
    }
}
