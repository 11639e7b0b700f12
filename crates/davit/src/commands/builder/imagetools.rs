//! `davit builder imagetools create|inspect`

mod show;

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use davit_engine::{
    IndexRequest, IndexSource, PlannedIndex, Remotes, SingleImage,
    build::Annotation,
    image::{Descriptor, Digest, Platform, Reference, Repository},
};
use serde_json::json;

use super::Named;
use crate::{
    cli::Context,
    commands::build::output::annotation,
    error::{CliError, io_error},
    plugin, printer,
    progress::ProgressMode,
    reference::{self, TagNote},
};

/// Largest file that describes a source.
const DESCRIPTOR_BYTES: u64 = 1 << 20;

/// Exit code after a `SIGTERM`.
const TERMINATED: i32 = 128 + 15;

/// Verbs of `davit builder imagetools`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum ImagetoolsCommand {
    /// Show an image of a registry without pulling it
    Inspect(InspectArgs),
    /// Make an index, in a registry, of images and indexes that are in registries
    Create(Box<CreateArgs>),
}

// Arguments of `davit builder imagetools inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Its name in the registry
    name: String,
    /// Print the manifest or index as it is
    #[arg(long, conflicts_with = "format")]
    raw: bool,
    /// Format output using a Go template over .Name, .Manifest, .Image, .Provenance and .SBOM, or
    /// 'json'
    #[arg(long)]
    format: Option<String>,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder imagetools create`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A source is a name in a registry, or a digest or a descriptor as JSON in the one repository that the
others and --tag name. Of an index, all entries are taken; blobs are mounted within a registry and copied between two.
One index alone stays as it is.")]
pub(crate) struct CreateArgs {
    /// Images and indexes that it is made of
    #[arg(value_name = "SOURCE")]
    sources: Vec<String>,
    /// What it is called; may be given several times
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Read a source from a file that has its descriptor
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Add the sources to what the first --tag names
    #[arg(long)]
    append: bool,
    /// Print the index instead of pushing it
    #[arg(long)]
    dry_run: bool,
    /// Annotate it, at LEVEL index (the default) or manifest-descriptor, or
    /// manifest-descriptor[PLATFORM]
    #[arg(long = "annotation", value_name = "[LEVEL:]KEY=VALUE", value_parser = level_and_fact)]
    annotations: Vec<Annotations>,
    /// Take the images for these platforms alone
    #[arg(long = "platform", value_name = "PLATFORM,...", value_delimiter = ',')]
    platforms: Vec<Platform>,
    /// Make an index of a single image, too (default); with =false, it is copied as it is
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_value = "true", default_missing_value = "true", hide_default_value = true,
          action = clap::ArgAction::Set)]
    prefer_index: bool,
    /// Write the descriptor and names of the index to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
    #[command(flatten)]
    named: Named,
}

/// What one `--annotation` says.
type Annotations = Vec<Annotation>;

/// Runs `davit builder imagetools VERB`.
///
/// # Errors
/// What the verb says.
pub(super) fn run(command: &ImagetoolsCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        ImagetoolsCommand::Inspect(args) => inspect(args, context),
        ImagetoolsCommand::Create(args) => create(args, context),
    }
}

/// An index is annotated unless something else is said.
fn level_and_fact(text: &str) -> Result<Annotations, String> {
    let name = text.split('=').next().unwrap_or_default();
    if name.contains(':') {
        annotation::parse(text)
    } else {
        annotation::parse(&format!("index:{text}"))
    }
}

fn inspect(args: &InspectArgs, context: &Context) -> Result<u8, CliError> {
    let reference = reference::parse(&args.name, TagNote::Silent)?;
    let format = args.format.as_deref().filter(|format| !format.is_empty());
    let remotes = Remotes::open(&context.config()?)?;
    let found = remotes.document(&reference)?;
    match format {
        _ if args.raw => printer::bytes(found.document.bytes())?,
        Some(format) => printer::line(&show::formatted(format, &found, &remotes)?)?,
        None => printer::data(&show::text(&found))?,
    }
    Ok(0)
}

fn create(args: &CreateArgs, context: &Context) -> Result<u8, CliError> {
    let tags = args.tags.iter().map(|tag| reference::new_name(tag));
    let tags: Vec<Reference> = tags.collect::<Result<_, _>>()?;
    if tags.is_empty() && !args.dry_run {
        return Err(CliError::user("there is no name to push to").hint("--tag NAME, or --dry-run"));
    }
    let mut texts = args.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    texts.extend(args.sources.iter().cloned());
    if texts.is_empty() {
        let error = CliError::user("there is no source");
        return Err(error.hint("davit builder imagetools create --help"));
    }
    let mut sources = sources(&texts, &tags)?;
    if args.append {
        let first = tags.first().ok_or_else(|| CliError::user("--append needs a --tag"))?;
        sources.insert(0, IndexSource { reference: first.clone(), said: None });
    }
    let request = IndexRequest {
        sources,
        annotations: args.annotations.concat(),
        platforms: args.platforms.clone(),
        single: if args.prefer_index { SingleImage::Index } else { SingleImage::Copy },
    };
    let remotes = Remotes::open(&context.config()?)?;
    let index = remotes.plan(&request)?;
    if args.dry_run {
        printer::bytes(&index.bytes)?;
        printer::line("")?;
        return Ok(0);
    }
    plugin::at_end(|| {
        #[allow(clippy::exit, reason = "as the signal that Docker got does")]
        std::process::exit(TERMINATED)
    });
    remotes.publish(&index, &tags, &*context.progress(args.progress))?;
    if let Some(path) = &args.metadata_file {
        write_metadata(path, &index, &tags)?;
    }
    printer::line(&index.descriptor.digest.to_string())?;
    Ok(0)
}

/// Reads sources; a digest or descriptor without a name is in the one repository that is spoken of.
fn sources(texts: &[String], tags: &[Reference]) -> Result<Vec<IndexSource>, CliError> {
    let sources = texts.iter().map(|text| text.trim().parse());
    let sources: Vec<Source> = sources.collect::<Result<_, CliError>>()?;
    let named = sources.iter().filter_map(|source| match source {
        Source::Named(reference) => Some(reference),
        Source::Nameless(..) => None,
    });
    let mut repositories: Vec<&Repository> =
        tags.iter().chain(named).map(Reference::repository).collect();
    repositories.sort_by_key(ToString::to_string);
    repositories.dedup();
    let within = |digest: Digest| match &repositories[..] {
        [only] => Ok(only.with_digest(digest)),
        _ => {
            let text = format!("`{digest}` has no repository");
            Err(CliError::user(text).hint(format!("REPOSITORY@{digest}")))
        }
    };
    let source = |source: &Source| {
        Ok(match source {
            Source::Named(reference) => IndexSource { reference: reference.clone(), said: None },
            Source::Nameless(digest, said) => {
                IndexSource { reference: within(*digest)?, said: said.as_deref().cloned() }
            }
        })
    };
    sources.iter().map(source).collect()
}

/// What a source's text names.
enum Source {
    Named(Reference),
    Nameless(Digest, Option<Box<Descriptor>>),
}

impl FromStr for Source {
    type Err = CliError;

    fn from_str(text: &str) -> Result<Self, CliError> {
        if text.starts_with('{') {
            let said: Descriptor = serde_json::from_str(text)
                .map_err(|error| CliError::user(format!("`{text}` is no descriptor: {error}")))?;
            return Ok(Self::Nameless(said.digest, Some(Box::new(said))));
        }
        if let Ok(digest) = text.strip_prefix('@').unwrap_or(text).parse() {
            return Ok(Self::Nameless(digest, None));
        }
        reference::parse(text, TagNote::Silent).map(Self::Named)
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    use std::io::Read as _;
    let mut text = String::new();
    let file = fs_err::File::open(path).map_err(io_error)?;
    file.take(DESCRIPTOR_BYTES).read_to_string(&mut text).map_err(io_error)?;
    Ok(text)
}

/// The facts under the names that buildx gives them.
fn write_metadata(path: &Path, index: &PlannedIndex, tags: &[Reference]) -> Result<(), CliError> {
    let names: Vec<String> = tags.iter().map(ToString::to_string).collect();
    let facts = json!({
        "containerimage.descriptor": index.descriptor,
        "containerimage.digest": index.descriptor.digest.to_string(),
        "image.name": names.join(","),
    });
    let text = serde_json::to_string_pretty(&facts).expect("JSON values are JSON");
    fs_err::write(path, text + "\n").map_err(io_error)
}
