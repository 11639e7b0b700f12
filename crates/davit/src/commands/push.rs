//! `davit push`

use davit_engine::{
    BlobAccess, CompressionScope, LayerCompression, PushRequest, RemoteName,
    image::{Compression, Platform},
};

use crate::{
    cli::Context,
    commands::ContentTrust,
    error::CliError,
    printer,
    progress::ProgressMode,
    reference::{self, TagNote},
};

// Arguments of `davit push`.
#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// Image to push
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
    /// Push all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Push the image for this platform alone, without its index
    #[arg(long)]
    platform: Option<Platform>,
    /// Print the image's name alone
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, conflicts_with = "quiet")]
    progress: ProgressMode,
    /// How layers that were built here are compressed
    #[arg(long, value_enum, default_value_t)]
    compression: CompressionFormat,
    /// Level of the compression: gzip and estargz 0 to 9, zstd 0 to 22
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=22))]
    compression_level: Option<u32>,
    #[command(flatten)]
    content_trust: ContentTrust,
}

/// Values of `--compression`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
enum CompressionFormat {
    /// Understood by everyone.
    #[default]
    Gzip,
    /// Smaller and faster.
    Zstd,
    /// gzip of which files can be read alone; the image has another id there.
    Estargz,
    /// Plain tars.
    Uncompressed,
}

/// Runs `davit push`.
///
/// # Errors
/// No such image, or the registry does not take it.
pub(crate) fn run(args: &PushArgs, context: &Context) -> Result<u8, CliError> {
    let format = match args.compression {
        CompressionFormat::Gzip | CompressionFormat::Estargz => Compression::Gzip,
        CompressionFormat::Zstd => Compression::Zstd,
        CompressionFormat::Uncompressed => Compression::None,
    };
    if format == Compression::Gzip && args.compression_level.is_some_and(|level| level > 9) {
        return Err(CliError::usage("gzip and estargz have levels 0 to 9"));
    }
    let engine = context.engine()?;
    let reference = if args.all_tags {
        reference::repository(&args.name)?.with_tag(davit_engine::image::Tag::latest())
    } else {
        reference::parse(&args.name, TagNote::unless(args.quiet))?
    };
    if reference.digest().is_some() {
        return Err(CliError::user("cannot push a digest reference"));
    }
    let request = PushRequest {
        referrers: davit_engine::Referrers::Needed,
        reference,
        source: None,
        all_tags: args.all_tags,
        platform: args.platform.clone(),
        compression: LayerCompression {
            format,
            level: args.compression_level,
            scope: CompressionScope::New,
            access: match args.compression {
                CompressionFormat::Estargz => BlobAccess::Files,
                _ => BlobAccess::Whole,
            },
        },
        name: RemoteName::Tag,
    };
    let mode = if args.quiet { ProgressMode::Quiet } else { args.progress };
    let pushed = engine.push(&request, &*context.progress(mode))?;
    for pushed in pushed {
        if args.quiet {
            printer::line(&pushed.reference.to_string())?;
        } else {
            let tag = pushed.reference.tag().map(ToString::to_string).unwrap_or_default();
            let (digest, size) = (pushed.digest, pushed.size_bytes);
            printer::line(&format!("{tag}: digest: {digest} size: {size}"))?;
        }
    }
    Ok(0)
}
