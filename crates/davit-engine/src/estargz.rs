//! Layers in the form of eStargz: what is known of their blobs, and the images that they make.

use std::{fs::File, io};

use davit_image::{Compression, Descriptor, DiffId, Digest, ImageConfig};
use davit_layer::{
    CompressError, CompressOptions, Compressed, Estargz, EstargzPlan, Table, TableError,
    estargz_name,
};
use davit_store::{Layout, Store};
use serde::{Deserialize, Serialize};

use crate::push::layer::layer_type;

/// Annotation of a layer: digest of its table of contents.
const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation of a layer: size in bytes of what its blob decompresses to.
const PLAIN_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// A note is a few digests.
const NOTE_BYTES: u64 = 4 << 10;

/// Why a layer cannot be brought into the form.
#[derive(Debug, thiserror::Error)]
pub enum EstargzError {
    /// Its tar or table cannot be read.
    #[error("cannot read the layer")]
    Read(#[from] io::Error),
    /// Its table is damaged.
    #[error("the layer's table is damaged")]
    Table(#[from] TableError),
    /// It cannot be compressed.
    #[error(transparent)]
    Compress(#[from] CompressError),
}

/// What is known of a blob from an earlier time.
#[derive(Serialize, Deserialize)]
struct Note {
    digest: Digest,
    size: u64,
    diff_id: DiffId,
    plain_size: u64,
    toc: Digest,
}

/// What the blob of a layer was, the last time that it was made with these options.
pub(crate) fn known(store: &Store, diff_id: &DiffId, options: &CompressOptions) -> Option<Estargz> {
    let path = store.layout().layer_note(diff_id, &estargz_name(options));
    let small = fs_err::metadata(&path).is_ok_and(|facts| facts.len() <= NOTE_BYTES);
    let bytes = fs_err::read(&path).ok().filter(|_| small)?;
    let note: Note = serde_json::from_slice(&bytes).ok()?;
    let blob = Compressed { digest: note.digest, size: note.size };
    Some(Estargz { blob, diff_id: note.diff_id, plain_size: note.plain_size, toc: note.toc })
}

/// Remembers what the blob of a layer is. The next time can do without.
pub(crate) fn remember(store: &Store, diff_id: &DiffId, options: &CompressOptions, made: &Estargz) {
    let note = Note {
        digest: made.blob.digest,
        size: made.blob.size,
        diff_id: made.diff_id,
        plain_size: made.plain_size,
        toc: made.toc,
    };
    let bytes = serde_json::to_vec(&note).expect("digests are JSON");
    if let Err(error) = store.put_layer_note(diff_id, &estargz_name(options), &bytes) {
        tracing::debug!(%error, "the layer is compressed again the next time");
    }
}

/// Whether a layer can have the form.
pub(crate) fn fits(layout: &Layout, diff_id: &DiffId) -> Result<bool, EstargzError> {
    let (tar, table) = open(layout, diff_id)?;
    Ok(EstargzPlan::new(&table, &tar)?.is_some())
}

/// Compresses a layer; `None` if it cannot have the form.
pub(crate) fn compress(
    (layout, diff_id): (&Layout, &DiffId),
    sink: &mut dyn io::Write,
    options: &CompressOptions,
) -> Result<Option<Estargz>, EstargzError> {
    let (tar, table) = open(layout, diff_id)?;
    let Some(plan) = EstargzPlan::new(&table, &tar)? else { return Ok(None) };
    Ok(Some(plan.compress(&tar, sink, options)?))
}

fn open(layout: &Layout, diff_id: &DiffId) -> Result<(File, Table), EstargzError> {
    let tar = fs_err::File::open(layout.layer_tar(diff_id))?;
    let table = fs_err::File::open(layout.layer_table(diff_id))?;
    Ok((tar.into_parts().0, Table::open(table.file())?))
}

/// What names a blob in a manifest.
pub(crate) fn descriptor(made: &Estargz, is_docker: bool) -> Descriptor {
    let media_type = layer_type(Compression::Gzip, is_docker);
    let mut descriptor = Descriptor::new(media_type, made.blob.digest, made.blob.size);
    descriptor.annotations.insert(TOC_DIGEST.to_owned(), made.toc.to_string());
    descriptor.annotations.insert(PLAIN_SIZE.to_owned(), made.plain_size.to_string());
    descriptor
}

/// The config of an image with other layers; `None` if they are the same.
pub(crate) fn with_layers(config: &ImageConfig, layers: Vec<DiffId>) -> Option<Vec<u8>> {
    if config.rootfs.diff_ids == layers {
        return None;
    }
    let mut config = config.clone();
    config.rootfs.diff_ids = layers;
    Some(serde_json::to_vec(&config).expect("a config is JSON"))
}
