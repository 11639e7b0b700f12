//! Layers of a result as one.

use std::{fs::File, sync::Arc};

use davit_image::DiffId;
use davit_layer::{Lower, Merged, WriteOptions, XattrPolicy, diff_merged};

use super::{Session, clamp::NoFiles, store_failed};
use crate::{
    error::{BuildError, BuildErrorKind},
    key::KeyBuilder,
    layers::{LayerError, State},
};

impl Session<'_, '_> {
    /// The layer that turns the first `kept` of `layers` into what all of them show, with its size;
    /// no time in it is later than `epoch`. Of layers below only what lies at the same paths with the
    /// same metadata is read.
    pub(crate) fn squash(
        &self,
        layers: &[DiffId],
        kept: usize,
        epoch: Option<i64>,
    ) -> Result<(DiffId, u64), BuildError> {
        let mut key = KeyBuilder::new("squash");
        let names: Vec<String> = layers.iter().map(ToString::to_string).collect();
        key.push("layers", names.join(" "));
        key.push("kept", kept.to_string());
        key.push("epoch", format!("{epoch:?}"));
        let (definition, components) = key.finish();
        // The result follows from the key alone, so it counts whatever the cache policy is.
        if let Some(record) = self.cache().step(definition).map_err(store_failed)? {
            return Ok((record.layer, record.size_bytes));
        }
        let (below, above) = (self.shown(&layers[..kept])?, self.shown(layers)?);
        let lower = Lower { merged: &below.0, tars: &below.1, xattrs: XattrPolicy::All };
        let changes = diff_merged(&lower, &above.0, &above.1).map_err(failed)?;
        let options = WriteOptions { epoch, xattrs: XattrPolicy::All, readers: self.threads };
        let written = self.writer().write(&changes, &NoFiles, &options).map_err(failed)?;
        let step = self.record(written.diff_id, written.size_bytes);
        self.remember_derived("squash", (definition, &components), &step)?;
        Ok((step.layer, step.size_bytes))
    }

    /// What layers show, and their tars.
    fn shown(&self, layers: &[DiffId]) -> Result<(Arc<Merged>, Vec<Arc<File>>), BuildError> {
        let state = State::image(layers.to_vec());
        let merged = self.layers.merged(&state).map_err(failed)?;
        let tars: Result<_, LayerError> = self.layers.tars(&state);
        Ok((merged, tars.map_err(failed)?))
    }
}

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    let what = "merge the layers of the image";
    BuildError::new(BuildErrorKind::Result { what, source: Box::new(source) })
}
