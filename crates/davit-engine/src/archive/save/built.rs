//! What a build made, as an archive or a layout: its names are those of the file alone.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use davit_build::Cancellable;
use davit_image::{Digest, Reference};
use davit_store::{
    Lease, StoreError, Target,
    archive::{LayoutDirWriter, named_descriptor},
};

use super::{FileError, Named, Plan, blob_path};
use crate::{Engine, build::Formed};

/// Where an image is saved.
pub(crate) enum SavedForm<'a> {
    /// As `davit save` does.
    Tar(&'a mut dyn Write),
    /// A directory, made if it is missing; images that it has stay. Ends once the flag is set.
    Layout(&'a Path, &'a AtomicBool),
}

/// What is saved, under names that the store need not know.
pub(crate) struct BuiltImages<'a> {
    pub(crate) formed: &'a Formed,
    /// Layers that are not in the store.
    pub(crate) files: BTreeMap<Digest, PathBuf>,
    pub(crate) names: Vec<Reference>,
}

impl Engine {
    /// Saves the images of a build.
    pub(crate) fn save_built(
        &self,
        lease: &Lease<'_>,
        images: BuiltImages<'_>,
        form: SavedForm<'_>,
    ) -> Result<(), FileError> {
        let plan = self.plan_built(images)?;
        match form {
            SavedForm::Tar(sink) => self.write_plan(lease, &plan, sink),
            SavedForm::Layout(path, cancelled) => self.write_layout(lease, plan, (path, cancelled)),
        }
    }

    fn plan_built(&self, images: BuiltImages<'_>) -> Result<Plan, FileError> {
        let BuiltImages { formed, files, names } = images;
        let name = formed.descriptor.digest.to_string();
        let mut plan = Plan::default();
        let documents = formed.documents().into_iter();
        plan.made = documents.map(|document| (document.digest, document.bytes)).collect();
        for image in &formed.images {
            let layers = image.manifest.layers.iter().map(|layer| layer.digest);
            for digest in layers.filter(|digest| !files.contains_key(digest)) {
                if !self.has_content(&digest)? {
                    return Err(FileError::Missing { name, digest });
                }
                plan.blobs.insert(digest);
            }
        }
        plan.files = files;
        // What knows no index loads the image that fits here.
        let own = formed.own();
        let layers = own.manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let target = Target::new(&formed.descriptor, None);
        let named = Named { target, references: names, name };
        plan.add_docker(&named, blob_path(&own.config.digest), layers);
        let named = named.references.iter().map(Some);
        let none = std::iter::once(None).filter(|_| named.len() == 0);
        plan.index = named
            .clone()
            .chain(none)
            .map(|name| named_descriptor(&formed.descriptor, name))
            .collect();
        plan.referrers = formed.referrers().map(|it| it.descriptor.clone()).collect();
        Ok(plan)
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
        for (digest, path) in &plan.files {
            let file = fs_err::File::open(path).map_err(FileError::Read)?;
            writer.add_blob(digest, &mut Cancellable { inner: file, cancelled })?;
        }
        Ok(writer.finish(plan.entries())?)
    }
}
