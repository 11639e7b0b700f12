//! `davit builder history inspect attachment`

use std::io::{self, Write as _};

use davit_engine::{build::BuildResult, image::Digest};

use super::find;
use crate::{
    cli::Context,
    error::{CliError, io_error},
};

/// Short words for types.
const TYPES: [(&str, &str); 6] = [
    ("index", "application/vnd.oci.image.index.v1+json"),
    ("manifest", "application/vnd.oci.image.manifest.v1+json"),
    ("image", "application/vnd.oci.image.config.v1+json"),
    ("provenance", "https://slsa.dev/provenance/v1"),
    ("provenance", "https://slsa.dev/provenance/v0.2"),
    ("sbom", "https://spdx.dev/Document"),
];

// Arguments of `davit builder history inspect attachment`.
#[derive(Debug, clap::Args)]
pub(super) struct AttachmentArgs {
    /// The build
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// The document
    #[arg(value_name = "DIGEST", required_unless_present_any = ["kind", "platform"])]
    digest: Option<Digest>,
    /// Its type: index, manifest, image, provenance, sbom, or a media or predicate type
    #[arg(long = "type", value_name = "TYPE", id = "kind")]
    kind: Option<String>,
    /// Its platform
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    #[command(flatten)]
    named: crate::commands::builder::Named,
}

pub(super) fn run(args: &AttachmentArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let build = find(&engine, args.reference.as_deref())?;
    let found = build.spec.results.iter().find(|result| args.fits(result));
    let found = found.ok_or_else(|| {
        CliError::user(format!("no matching attachment found for the build `{}`", build.id))
    })?;
    let path = engine.build_document(&found.digest).ok_or_else(|| {
        let text = format!("`{}` is not stored: it went elsewhere, or was removed", found.digest);
        CliError::user(text)
    })?;
    let mut bytes = fs_err::read(path).map_err(io_error)?;
    // By its digest the document itself is meant.
    if let (None, Some(predicate)) = (args.digest, predicate(&bytes)) {
        bytes = predicate;
    }
    io::stdout().lock().write_all(&bytes).map_err(io_error)?;
    Ok(0)
}

/// What a statement says; `None` of another document.
fn predicate(bytes: &[u8]) -> Option<Vec<u8>> {
    let statement: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    statement.get("predicateType")?;
    let mut predicate = serde_json::to_vec_pretty(statement.get("predicate")?).ok()?;
    predicate.push(b'\n');
    Some(predicate)
}

impl AttachmentArgs {
    fn fits(&self, result: &BuildResult) -> bool {
        let is_kind = |kind: &str| {
            kind == result.kind || TYPES.iter().any(|known| *known == (kind, &result.kind))
        };
        self.digest.is_none_or(|digest| digest == result.digest)
            && self.kind.as_deref().is_none_or(is_kind)
            && self.platform.as_ref().is_none_or(|it| result.platform.as_ref() == Some(it))
    }
}
