//! `davit builder history inspect attachment`

use std::io;

use davit_engine::{build::BuildResult, image::Digest};

use super::find;
use crate::{
    cli::Context,
    error::{CliError, io_error},
};

/// Short words for types.
const TYPES: [(&str, &str); 3] = [
    ("index", "application/vnd.oci.image.index.v1+json"),
    ("manifest", "application/vnd.oci.image.manifest.v1+json"),
    ("image", "application/vnd.oci.image.config.v1+json"),
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
    /// Its type: index, manifest, image or a media type
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
    let mut file = fs_err::File::open(path).map_err(io_error)?;
    io::copy(&mut file, &mut io::stdout().lock()).map_err(io_error)?;
    Ok(0)
}

impl AttachmentArgs {
    fn fits(&self, result: &BuildResult) -> bool {
        let kind = self.kind.as_deref().map(|kind| {
            TYPES.iter().find(|(word, _)| *word == kind).map_or(kind, |(_, media_type)| *media_type)
        });
        self.digest.is_none_or(|digest| digest == result.digest)
            && kind.is_none_or(|kind| kind == result.kind)
            && self.platform.as_ref().is_none_or(|it| result.platform.as_ref() == Some(it))
    }
}
