//! Image archives: OCI layouts (directory and tar) and Docker's `save` format, old and new.
//!
//! ```text
//! tar stream --TarReader--> members --caller--> layers to the store, small files to ArchiveContents
//! ArchiveContents::images --> manifests, configs, names; checked against what the layers are
//! ```
//!
//! A stream cannot be searched, and `docker save` writes layers before what names them. So the
//! caller ingests every member that looks like a layer as it comes, remembers its digests here,
//! keeps small files, and asks in the end which images that makes. Whatever an archive says about
//! a layer is compared with what the layer turned out to be.

mod contents;
mod docker;
mod layout_dir;
mod tar_reader;
mod tar_writer;
mod whole_file;

pub use contents::{ArchiveContents, ArchiveImage, ArchiveLayer, MAX_DOCUMENT_BYTES};
pub use docker::{
    CONTAINERD_NAME, DockerImage, LAYOUT_VERSION, REF_NAME, layout_file, name_of, named_descriptor,
};
pub use layout_dir::{LayoutDir, LayoutDirWriter, write_verified};
pub use tar_reader::{Member, MemberKind, TarReader};
pub use tar_writer::TarWriter;
pub use whole_file::{MadeDirs, WholeFile};

use std::{
    io,
    path::{Path, PathBuf},
};

use davit_image::{DiffId, Digest, DocumentError, ReferenceError};

/// Why an archive is refused or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stream or file cannot be read.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// The stream or file cannot be written.
    #[error("cannot write the archive")]
    Write(#[source] io::Error),
    /// A file of a layout directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The tar structure is broken.
    #[error("archive is malformed at byte {offset}: {problem}")]
    Malformed {
        /// Where the broken header begins.
        offset: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A bound against hostile archives is passed.
    #[error("archive has more than {limit} {what}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: u64,
    },
    /// Neither `manifest.json` nor `index.json`.
    #[error("archive holds no image: it has neither index.json nor manifest.json")]
    NoImages,
    /// It is not laid out as the specification says.
    #[error("no OCI layout {LAYOUT_VERSION}: {0}")]
    Layout(String),
    /// A name in it breaks the grammar.
    #[error("invalid reference format: `{name}` of the archive")]
    Name {
        /// The name.
        name: String,
        /// Why.
        source: ReferenceError,
    },
    /// A JSON file of the archive is refused.
    #[error("{name} of the archive is malformed")]
    Json {
        /// The file.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A manifest or index is refused.
    #[error("{name} of the archive is refused")]
    Document {
        /// The file.
        name: String,
        /// Why.
        source: DocumentError,
    },
    /// Something that the archive names is not in it.
    #[error("archive names {0}, which is not in it")]
    Missing(String),
    /// A file does not have the digest that is its name.
    #[error("{name} of the archive has digest {actual}")]
    Digest {
        /// The file.
        name: String,
        /// Digest of its content.
        actual: Digest,
    },
    /// A layer is not what its image's config says.
    #[error("layer {name} has DiffID {actual}, its image's config says {expected}")]
    DiffId {
        /// The layer's file.
        name: String,
        /// DiffID by the config.
        expected: Box<DiffId>,
        /// DiffID of the content.
        actual: Box<DiffId>,
    },
    /// An image has another number of layers than DiffIDs.
    #[error("image {name} has {layers} layers, but its config names {diff_ids}")]
    LayerCount {
        /// The image's config or manifest.
        name: String,
        /// Number of layers.
        layers: usize,
        /// Number of DiffIDs.
        diff_ids: usize,
    },
}

fn file_error(action: &'static str, path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::File { action, path: path.to_path_buf(), source }
}
