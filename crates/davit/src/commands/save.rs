//! `davit save`, `davit load`, `davit import`

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
};

use davit_engine::{ImportRequest, LoadRequest, Loaded, SaveRequest, image::Platform};
use fs_err as fs;

use crate::{
    cli::Context,
    error::{CliError, io_error},
    printer,
    progress::ProgressMode,
    reference,
};

// Arguments of `davit save`.
#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// Images to save; a repository without a tag stands for all its tags
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save only this platform of a multi-platform image
    #[arg(long)]
    platform: Option<Platform>,
}

// Arguments of `davit load`.
#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// Read from an archive or an OCI layout folder, instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Suppress the progress output
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, conflicts_with = "quiet")]
    progress: ProgressMode,
    /// Platform to choose of a multi-platform image
    #[arg(long)]
    platform: Option<Platform>,
}

// Arguments of `davit import`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Archive of a root file system: a file, an HTTP address, or - for standard input
    #[arg(value_name = "FILE|URL|-")]
    source: PathBuf,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
    /// Apply a Dockerfile instruction to the image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Remark for the image's history
    #[arg(short, long)]
    message: Option<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressMode,
    /// What the image runs on
    #[arg(long)]
    platform: Option<Platform>,
}

/// Runs `davit save`.
///
/// # Errors
/// No such image, or a file that cannot be written.
pub(crate) fn save(args: &SaveArgs, context: &Context) -> Result<u8, CliError> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::user("cowardly refusing to save to a terminal")
            .hint("use the -o flag or redirect"));
    }
    let engine = context.engine()?;
    let request = SaveRequest { names: args.images.clone(), platform: args.platform.clone() };
    match &args.output {
        Some(path) => engine.save_images_to(&request, path)?,
        None => engine.save_images(&request, &mut io::stdout().lock())?,
    }
    Ok(0)
}

/// Runs `davit load`.
///
/// # Errors
/// An archive that is refused.
pub(crate) fn load(args: &LoadArgs, context: &Context) -> Result<u8, CliError> {
    if args.input.is_none() && io::stdin().is_terminal() {
        return Err(CliError::user("requested load from stdin, but stdin is a terminal")
            .hint("use the -i flag or redirect"));
    }
    let engine = context.engine()?;
    let mode = if args.quiet { ProgressMode::Quiet } else { args.progress };
    let progress = context.progress(mode);
    let request = LoadRequest { platform: args.platform.clone() };
    let loaded = match &args.input {
        Some(path) if path.is_dir() => engine.load_layout(path, &request, &*progress),
        Some(path) => {
            let file = fs::File::open(path).map_err(io_error)?;
            engine.load_images(file, &request, &*progress)
        }
        None => engine.load_images(io::stdin(), &request, &*progress),
    };
    drop(progress);
    for image in loaded? {
        print_loaded(&image)?;
    }
    Ok(0)
}

fn print_loaded(image: &Loaded) -> Result<(), CliError> {
    for (reference, former) in &image.replaced {
        printer::line(&format!(
            "The image {} already exists, renaming the old one with ID {former} to empty string",
            reference.familiar()
        ))?;
    }
    for reference in &image.references {
        printer::line(&format!("Loaded image: {}", reference.familiar()))?;
    }
    if image.references.is_empty() {
        let id = image.image_id.map_or_else(|| image.digest.to_string(), |id| id.to_string());
        printer::line(&format!("Loaded image ID: {id}"))?;
    }
    Ok(())
}

/// Runs `davit import`.
///
/// # Errors
/// An archive or a change that is refused.
pub(crate) fn import(args: &ImportArgs, context: &Context) -> Result<u8, CliError> {
    let text = args.source.to_string_lossy();
    let is_address = text.starts_with("http://") || text.starts_with("https://");
    let request = ImportRequest {
        source: if is_address { without_account(&text) } else { text.clone().into_owned() },
        reference: args.name.as_deref().map(reference::new_name).transpose()?,
        changes: args.change.clone(),
        message: args.message.clone(),
        platform: args.platform.clone(),
    };
    let engine = context.engine()?;
    let progress = context.progress(args.progress);
    let id = if is_address {
        engine.import_address(&text, &request, &*progress)
    } else if text == "-" {
        engine.import_image(&mut io::stdin(), &request, &*progress)
    } else {
        let mut file = fs::File::open(&args.source).map_err(io_error)?;
        engine.import_image(&mut file, &request, &*progress)
    };
    drop(progress);
    printer::line(&id?.to_string())?;
    Ok(0)
}

/// An address for others to read: an image's history is no place for a password.
fn without_account(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let (server, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    format!("{scheme}://{}{path}", server.rsplit('@').next().unwrap_or(server))
}
