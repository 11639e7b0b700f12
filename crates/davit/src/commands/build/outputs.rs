//! Where the results of a build go, and what is told of them.

use std::{
    io,
    path::{Path, PathBuf},
};

use davit_engine::{
    build::{Annotation, BuildOutput, BuildReport, Squash},
    image::{Platform, Reference},
};

use super::{
    attest::Report,
    metadata,
    output::{OutputSpec, annotation},
    variables,
};
use crate::error::{CliError, io_error};

/// The entitlement for an output that removes files.
const DELETE: &str = "buildx.local.delete";

// Options of a build's results.
#[derive(Debug, clap::Args)]
pub(super) struct OutputArgs {
    /// Platforms to build for, as os/architecture[/variant],... (several give an index)
    #[arg(long = "platform", value_name = "PLATFORM,...", env = "DOCKER_DEFAULT_PLATFORM",
          hide_env = true, value_delimiter = ',', value_parser = platform)]
    platforms: Vec<Platform>,
    /// Where the result goes: type=image|registry|docker|oci|local|tar|cacheonly[,KEY=VALUE]... or a
    /// directory; may be given several times
    ///
    /// Keys of every one: source-date-epoch; of files: dest; of images: name (--tag takes its place),
    /// annotation[-LEVEL].KEY, compression=gzip|zstd|estargz|uncompressed, compression-level,
    /// force-compression, oci-mediatypes, rewrite-timestamp, attestation-inline, oci-artifact; of image:
    /// push, push-by-digest, store; of oci and docker: tar; of local and tar: platform-split,
    /// attestation-prefix; of local: mode=copy|delete.
    #[arg(short, long = "output", value_name = "SPEC")]
    outputs: Vec<OutputSpec>,
    /// Into the store (as without --output)
    #[arg(long)]
    load: bool,
    /// To the registry of its names, and into the store (as --output type=registry)
    #[arg(long)]
    push: bool,
    /// Annotate the image, at LEVEL manifest (the default), manifest-descriptor, index or
    /// index-descriptor
    #[arg(long = "annotation", value_name = "[LEVEL:]KEY=VALUE", value_parser = annotation::parse)]
    annotations: Vec<Annotations>,
    /// Merge layers of the image into one: those that the build adds (new, also for a bare
    /// --squash), or all
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, value_name = "WHICH",
          default_value = "false", default_missing_value = "new", hide_default_value = true)]
    squash: Merged,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write digests and names of the image to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
}

/// What one `--annotation` says.
type Annotations = Vec<Annotation>;

/// The outputs of a build, and what they mean for it.
#[derive(Debug)]
pub(super) struct Outputs {
    specs: Vec<OutputSpec>,
    annotations: Vec<Annotation>,
    /// `SOURCE_DATE_EPOCH`, if an output names it.
    pub(super) epoch: Option<i64>,
    /// Whether the times in layers are rewritten.
    pub(super) rewrite_timestamp: bool,
    /// Which layers become one.
    pub(super) squash: Squash,
}

/// `--squash`; Docker's is true or false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Merged {
    #[value(alias = "true")]
    New,
    All,
    #[value(name = "false", hide = true)]
    Nothing,
}

impl OutputArgs {
    /// Reads what all outputs together ask for.
    pub(super) fn plan(&self, tags: &[Reference], allowed: &[String]) -> Result<Outputs, CliError> {
        let mut specs = self.outputs.clone();
        let is_allowed = allowed.iter().any(|it| it == DELETE);
        if !is_allowed && specs.iter().any(OutputSpec::deletes) {
            let message = "mode=delete removes what the result does not have from its destination";
            return Err(CliError::usage(message).hint(format!("allow it by --allow {DELETE}")));
        }
        if self.push {
            let pushed = specs.iter_mut().filter_map(|spec| spec.push().then_some(())).count();
            if pushed == 0 {
                specs.push(OutputSpec::pushed());
            }
        }
        let only = |name: &str, values: Vec<Option<i64>>| match &values[..] {
            [] => Ok(None),
            [first, rest @ ..] if rest.iter().all(|value| value == first) => Ok(*first),
            _ => Err(CliError::usage(format!("outputs of one build have the same {name}"))),
        };
        let epochs = specs.iter().map(OutputSpec::epoch).filter(Option::is_some).collect();
        let rewrites = specs.iter().filter_map(OutputSpec::rewrite_timestamp);
        let rewrites: Vec<_> = rewrites.map(|it| Some(i64::from(it))).collect();
        if specs.is_empty() && !self.load && variables::is_on(variables::NO_LOAD)? {
            specs.push(OutputSpec::cache_only());
        }
        if self.load || specs.is_empty() {
            specs.push(OutputSpec::loaded());
        }
        if variables::is_on(variables::NO_ARTIFACT)? {
            specs.iter_mut().for_each(OutputSpec::without_artifact);
        }
        let outputs = Outputs {
            annotations: self.annotations.iter().flatten().cloned().collect(),
            epoch: only("source-date-epoch", epochs)?,
            rewrite_timestamp: only("rewrite-timestamp", rewrites)? == Some(1),
            squash: match self.squash {
                Merged::New => Squash::New,
                Merged::All => Squash::All,
                Merged::Nothing => Squash::Nothing,
            },
            specs,
        };
        outputs.check_names(tags)?;
        Ok(outputs)
    }

    /// The platforms to build for, each once.
    pub(super) fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<Platform> = Vec::new();
        for platform in &self.platforms {
            if !platforms.contains(platform) {
                platforms.push(platform.clone());
            }
        }
        platforms
    }

    /// Nobody is to take what an earlier build wrote for what one wrote that failed.
    pub(super) fn remove_stale(&self) -> Result<(), CliError> {
        self.iidfile.iter().chain(&self.metadata_file).try_for_each(|path| remove_stale(path))
    }

    /// Whether a file tells where the result comes from.
    pub(super) const fn reports(&self) -> Report {
        if self.metadata_file.is_some() { Report::File } else { Report::Nothing }
    }

    /// Writes the files that tell of a build.
    pub(super) fn report(
        &self,
        report: &BuildReport,
        warnings: &metadata::Warnings,
    ) -> Result<(), CliError> {
        if let Some(path) = &self.iidfile {
            fs_err::write(path, id(report)).map_err(io_error)?;
        }
        self.metadata_file.as_ref().map_or(Ok(()), |path| metadata::write(path, report, warnings))
    }
}

impl Outputs {
    fn check_names(&self, tags: &[Reference]) -> Result<(), CliError> {
        self.specs.iter().try_for_each(|spec| spec.check_names(tags))
    }

    /// Opens all destinations.
    pub(super) fn open(&self, tags: &[Reference]) -> Result<Vec<BuildOutput>, CliError> {
        let specs = self.specs.iter();
        specs.map(|spec| spec.open(tags, &self.annotations)).collect()
    }
}

/// The id of what was built: an image's config, or the index of several.
pub(super) fn id(report: &BuildReport) -> String {
    match (&report.images[..], &report.exported) {
        ([only], _) => only.image.to_string(),
        (_, Some(exported)) => exported.descriptor.digest.to_string(),
        (images, None) => images.first().map_or_else(String::new, |it| it.image.to_string()),
    }
}

/// Removes what an earlier build wrote. What is no file of its own, as `/dev/stdout`, stays.
fn remove_stale(path: &Path) -> Result<(), CliError> {
    if !path.symlink_metadata().is_ok_and(|facts| facts.is_file()) {
        return Ok(());
    }
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(error)),
        _ => Ok(()),
    }
}

fn platform(text: &str) -> Result<Platform, String> {
    if text == "local" {
        return Ok(Platform::host());
    }
    let platform = text.parse::<Platform>().map_err(|error| error.to_string())?;
    Ok(platform.normalized())
}
