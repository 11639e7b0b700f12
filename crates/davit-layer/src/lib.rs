//! Layers: tar streams, entry tables, changesets and compression.
//!
//! ```text
//! compressed stream --ingest--> tar file + Table ---Merged---> trees, COPY --from, scan
//! files, other layers --LayerWriter--> tar file + Table        |
//! overlay upperdir, two trees --diff--> LayerWriter <----------+ (the lower side)
//! tar file --compress--> blob for push and save
//! Merged --extract--> a directory (where EROFS cannot be mounted)
//! ```
//!
//! A layer is the uncompressed tar, byte for byte as its DiffID says, and beside it the
//! [`Table`] of its entries. Nothing is unpacked: a file's content stays where it lies in the tar.
//!
//! **Invariant:** what an archive says is never followed on the host's file system; names are
//! checked once, when they enter a [`TableBuilder`], and stay inside the root from there on.
//!
//! **Invariant:** memory is bounded by [`Limits`], never by what an archive claims.

#![forbid(unsafe_code)]

mod compress;
mod decode;
mod diff;
mod digests;
mod entry;
mod estargz;
mod extract;
mod merge;
mod ordered;
pub mod path;
mod read;
mod table;
mod tar;
mod write;

pub use compress::{CompressError, CompressOptions, Compressed, compress, compressor_name};
pub use decode::{Decoder, GzipChecksum, decompressed, is_compressed};
pub use diff::{Changes, DiffError, Lower, diff_directory, diff_merged, diff_upper};
pub use digests::{Digests, digest_content};
pub use entry::{Entry, Extent, Extents, Kind, Mtime, XattrIter, XattrMap, Xattrs};
pub use estargz::{Estargz, EstargzPlan, estargz_name};
pub use extract::{ExtractError, ExtractOptions, Privilege, extract};
pub use merge::{MergeError, Merged, Node, NodeId, TooManySymlinks};
pub use read::{
    Expected, Limits, Progress, ReadError, ReadLayer, ReadOptions, WhiteoutNames, read_layer,
    read_table, verify_tar,
};
pub use table::{BuildError, LayerFacts, Table, TableBuilder, TableError, TableLimits, Visibility};
pub use tar::ArchiveError;
pub use write::{
    Change, ChangeKind, Opener, Source, WriteError, WriteOptions, XattrPolicy, write_layer,
};
