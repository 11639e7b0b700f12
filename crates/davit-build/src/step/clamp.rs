//! Layers of a result with no time later than `SOURCE_DATE_EPOCH`.

use std::{fs::File, io};

use davit_image::{DiffId, Digest};
use davit_layer::{Change, Entry, Kind, Opener, WriteOptions, XattrPolicy};

use super::{Session, store_failed};
use crate::{
    cache::{Made, StepRecord},
    error::{BuildError, BuildErrorKind},
    key::KeyBuilder,
    layers::{OpenLayer, source_of},
};

impl Session<'_, '_> {
    /// A layer with its size as it goes into the image: the same, if nothing in it is newer, or one
    /// that holds the same with older times.
    pub(crate) fn clamp(
        &self,
        (diff_id, size_bytes): (DiffId, u64),
        epoch: i64,
    ) -> Result<(DiffId, u64), BuildError> {
        let mut key = KeyBuilder::new("clamp");
        key.push("layer", diff_id.to_string());
        key.push("epoch", epoch.to_string());
        let (definition, components) = key.finish();
        // The result follows from the key alone, so it counts whatever the cache policy is.
        if let Some(record) = self.cache().step(definition).map_err(store_failed)? {
            return Ok((record.layer, record.size_bytes));
        }
        let layer = self.layers.open(diff_id).map_err(failed)?;
        if layer.table.iter().all(|entry| entry.mtime.seconds <= epoch) {
            return Ok((diff_id, size_bytes));
        }
        let entries = (0..).zip(layer.table.iter());
        let changes: Vec<Change> =
            entries.filter_map(|(index, entry)| change(&layer, index, &entry)).collect();
        let options =
            WriteOptions { epoch: Some(epoch), xattrs: XattrPolicy::All, readers: self.threads };
        let written = self.writer().write(&changes, &NoFiles, &options).map_err(failed)?;
        let step = self.record(written.diff_id, written.size_bytes);
        self.remember_derived("clamp", (definition, &components), &step)?;
        Ok((step.layer, step.size_bytes))
    }

    /// Remembers a layer that follows from others.
    pub(super) fn remember_derived(
        &self,
        kind: &str,
        (definition, components): (crate::DefinitionKey, &[crate::Component]),
        step: &StepRecord,
    ) -> Result<(), BuildError> {
        let made = Made {
            definition,
            kind,
            name: "",
            components,
            family: Digest::of(kind.as_bytes()),
            content: None,
            shape: None,
            step,
            cost_us: 0,
        };
        self.cache().remember(&made).map_err(store_failed)
    }
}

/// An entry as a change of a layer; none for what the layer only implies.
fn change(layer: &OpenLayer, index: u32, entry: &Entry<'_>) -> Option<Change> {
    let is_implied = matches!(entry.kind, Kind::Directory { implied: true, .. });
    let is_named = !entry.path.is_empty() && !is_implied;
    is_named.then(|| Change::of_entry(entry, || source_of(layer, index)))
}

/// All content is in the layer's tar.
pub(super) struct NoFiles;

impl Opener for NoFiles {
    fn open(&self, _position: usize, _change: &Change) -> io::Result<File> {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    let what = "rewrite the times of a layer";
    BuildError::new(BuildErrorKind::Result { what, source: Box::new(source) })
}
