//! A layer that goes to a registry in the form of eStargz.

use std::sync::{Arc, Mutex, PoisonError};

use davit_distribution::{BlobSource, SourceReader};
use davit_image::{Compression, Descriptor, DiffId, Manifest};
use davit_layer::{CompressOptions, Estargz};
use davit_store::Layout;

use super::{
    BlobAccess, Push, PushError,
    layer::is_docker,
    source::{Pieces, start},
};
use crate::estargz::{compress, descriptor, fits, known, remember};

impl Push<'_> {
    /// Sends a layer if that is asked for and the layer can have the form.
    pub(super) fn push_estargz(
        &self,
        item: &str,
        diff_id: DiffId,
        manifest: &Manifest,
    ) -> Result<Option<(Descriptor, DiffId)>, PushError> {
        let compression = self.request.compression;
        if (compression.access, compression.format) != (BlobAccess::Files, Compression::Gzip) {
            return Ok(None);
        }
        let (store, options) = (self.engine.store(), self.compress_options());
        let failed = |source| PushError::Form { diff_id, source };
        let before = known(store, &diff_id, &options);
        let name = |made: &Estargz| descriptor(made, is_docker(manifest));
        if let Some(before) = &before
            && self.is_there(item, &name(before), diff_id)?
        {
            return Ok(Some((name(before), before.diff_id)));
        }
        if store.layer(&diff_id).map_err(|e| self.store_error(e))?.is_none() {
            return Err(self.missing(diff_id.digest()));
        }
        if before.is_none() && !fits(store.layout(), &diff_id).map_err(failed)? {
            self.message(&format!("layer {item} cannot have the form of estargz; it goes as gzip"));
            return Ok(None);
        }
        let source =
            EstargzTar { layout: store.layout().clone(), diff_id, options, made: Arc::default() };
        self.send(item, &source, before.as_ref().map(name).as_ref())?;
        let made = *source.made.lock().unwrap_or_else(PoisonError::into_inner);
        let made = made.or(before).ok_or_else(|| self.missing(diff_id.digest()))?;
        remember(store, &diff_id, &options, &made);
        Ok(Some((name(&made), made.diff_id)))
    }
}

/// A layer's tar, brought into the form while it is sent. The bytes are the same each time.
struct EstargzTar {
    layout: Layout,
    diff_id: DiffId,
    options: CompressOptions,
    /// What came out, once all of it was written.
    made: Arc<Mutex<Option<Estargz>>>,
}

impl BlobSource for EstargzTar {
    fn open(&self, offset: u64) -> SourceReader {
        let (layout, diff_id, options) = (self.layout.clone(), self.diff_id, self.options);
        let place = Arc::clone(&self.made);
        start(move |sender| {
            let mut sink = Pieces::new(sender, offset);
            match compress((&layout, &diff_id), &mut sink, &options) {
                Err(_) if sink.is_closed => Ok(()),
                Ok(made) => {
                    *place.lock().unwrap_or_else(PoisonError::into_inner) = made;
                    Ok(())
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    fn size(&self) -> Option<u64> {
        None
    }
}
