//! What a build is asked to do.

use std::{collections::BTreeMap, error::Error, fmt, io::Read, path::PathBuf, time::Duration};

use davit_image::{Digest, Platform, Reference};

use crate::{
    plan::{BaseImage, ContextId, MountAccess, Network},
    provenance::Attest,
    sandbox::{Sandbox, StepVolume, VolumeSource},
    source::{HttpSource, RemoteSource},
};

/// One build, complete: nothing else is read from the environment.
#[derive(Debug)]
pub struct BuildRequest {
    /// The Dockerfile.
    pub dockerfile: DockerfileText,
    /// What `COPY` and `ADD` read.
    pub context: ContextSource,
    /// Contexts by name, which take the place of stages and images of that name.
    pub named_contexts: Vec<NamedContext>,
    /// Stage to build, by name or number; `None` = the last one.
    pub target: Option<String>,
    /// `--build-arg`; a name without a value has been looked up by the caller.
    pub build_args: BTreeMap<String, String>,
    /// `--label`: labels of the result, not expanded and without history.
    pub labels: BTreeMap<String, String>,
    /// What the result runs on.
    pub platform: Platform,
    /// Further platforms to build for, each once; every one gives an image of its own.
    pub more_platforms: Vec<Platform>,
    /// What the build runs on.
    pub build_platform: Platform,
    /// Network of `RUN` steps that name none.
    pub network: Network,
    /// Which modes files of contexts have.
    pub context_modes: ContextModes,
    /// Whether earlier results are used.
    pub cache: CachePolicy,
    /// Whether what cache mounts hold is used; else each begins empty, if nobody else uses it.
    pub cache_mounts: CachePolicy,
    /// Stages, by name or number, whose steps run again whatever the cache has.
    pub no_cache_stages: Vec<String>,
    /// Stages, by name, and lines of the Dockerfile: what is done there, what follows in the stage and
    /// whatever reads that runs again.
    pub no_cache_from: Vec<String>,
    /// Age from which on an earlier result does not count; `None` = it always does.
    pub cache_ttl: Option<Duration>,
    /// `SOURCE_DATE_EPOCH`, in seconds: when the image and its history were made, and the time of
    /// what `WORKDIR` and `COPY` make; `None` leaves it to an `ARG` of the Dockerfile.
    pub source_date_epoch: Option<i64>,
    /// Whether no time in the layers that the build adds may be later than `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
    /// Which layers of the result become one.
    pub squash: Squash,
    /// Whether it is built twice.
    pub repeat: Repeat,
    /// Hosts that `RUN` steps know beside those of the network, as (name, address).
    pub add_hosts: Vec<(String, String)>,
    /// Limits, entitlements, secrets and agents of `RUN` steps.
    pub sandbox: Sandbox,
    /// What is told of where the result comes from and what it holds.
    pub attest: Attest,
    /// Whether the first difference of every miss is looked for, down to the file.
    pub explain: bool,
    /// Largest number of steps at a time; 0 = one per core.
    pub jobs: usize,
}

impl BuildRequest {
    /// Makes contexts of the volumes whose content counts, so that it is known to the keys.
    pub(crate) fn open_volumes(&mut self) {
        for volume in &self.sandbox.volumes {
            if let (VolumeSource::Directory(path), MountAccess::ReadOnly) =
                (&volume.source, volume.access)
            {
                let source = NamedSource::Volume(path.clone());
                // A path is the name of no context.
                let name = volume.target.clone();
                self.named_contexts.push(NamedContext { name, platform: None, source });
            }
        }
    }

    /// The context that a volume's content is known by.
    pub(crate) fn volume_context(&self, volume: &StepVolume) -> Option<ContextId> {
        let is_its = |context: &NamedContext| {
            context.name == volume.target && matches!(context.source, NamedSource::Volume(_))
        };
        self.named_contexts.iter().position(is_its).map(ContextId::named)
    }
}

/// Which modes files of contexts have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContextModes {
    /// Those of the disk or the archive.
    #[default]
    AsTheyAre,
    /// Those that git keeps: 0755 for directories and what is executable, 0644 for the rest.
    Git,
}

/// A Dockerfile's bytes and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerfileText {
    /// Name for messages, as the user gave it.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where the bytes are, if not here.
    pub place: DockerfilePlace,
    /// The ignore file that stands beside it (`NAME.dockerignore`), which wins over the context's.
    pub ignore: Option<IgnoreText>,
}

/// Where the bytes of a Dockerfile are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DockerfilePlace {
    /// Here.
    #[default]
    Given,
    /// In the context, a tar or a remote one; the name is a path there.
    Context,
    /// On a web server.
    Remote(HttpSource),
}

/// An ignore file's text and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreText {
    /// Name for messages.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

/// What `COPY` and `ADD` read without `--from`.
#[derive(Debug)]
pub enum ContextSource {
    /// A directory.
    Directory(PathBuf),
    /// A tar, compressed or not; read once, from the present position.
    Tar(TarStream),
    /// A git repository, or what a web server has: an archive, or a Dockerfile.
    Remote(RemoteSource),
    /// Nothing (a Dockerfile on standard input).
    Empty,
}

/// A context with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedContext {
    /// Its name in the form of [`context_name`].
    pub name: String,
    /// The platform that it is for; `None` = each that has none of its own.
    pub platform: Option<Platform>,
    /// What it holds.
    pub source: NamedSource,
}

/// What a named context holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedSource {
    /// A directory, with an ignore file of its own.
    Directory(PathBuf),
    /// An image.
    Image(ImageSource),
    /// A directory that is mounted as it is: nothing of it is left out, and no name of a Dockerfile
    /// is its own.
    Volume(PathBuf),
    /// Nothing.
    Scratch,
    /// A git repository, or a file of a web server, which is named `context`.
    Remote(RemoteSource),
}

/// An image and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageSource {
    /// In the store or a registry.
    Reference(Reference),
    /// In an OCI layout directory.
    Layout(LayoutImage),
}

/// An image of an OCI layout directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayoutImage {
    /// The directory.
    pub path: PathBuf,
    /// Its name there; without name and digest `latest`, or the only one.
    pub name: Option<String>,
    /// Digest of its manifest or index, which decides.
    pub digest: Option<Digest>,
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reference(reference) => reference.fmt(f),
            Self::Layout(LayoutImage { path, name, digest }) => {
                write!(f, "oci-layout://{}", path.display())?;
                name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))?;
                digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
            }
        }
    }
}

/// The one form of a context's name that all ways to write it share (`docker.io/library/a:latest`
/// is `a`); `None` if it can be none.
#[must_use]
pub fn context_name(text: &str) -> Option<String> {
    let name = text.parse::<Reference>().ok()?.familiar();
    Some(name.strip_suffix(":latest").map_or_else(|| name.clone(), str::to_owned))
}

/// A stream that holds an archive.
pub struct TarStream(pub Box<dyn Read + Send>);

impl fmt::Debug for TarStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TarStream")
    }
}

/// Whether earlier results are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CachePolicy {
    /// Yes.
    #[default]
    Use,
    /// Every step runs again; its result is recorded.
    Ignore,
}

/// Which layers of a result become one; the cache keeps each step's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Squash {
    /// None.
    #[default]
    Nothing,
    /// Those that the build adds to its base.
    New,
    /// All, those of the base, too.
    All,
}

/// Whether a build is done twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeat {
    /// No.
    #[default]
    Never,
    /// Yes, and a difference is an error.
    Compared,
}

/// When base images are looked for in a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the store has none.
    #[default]
    Missing,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Finds base images; the engine looks in the store and then in the registry.
///
/// One call may come from several threads at a time.
pub trait BaseImages: Sync {
    /// Makes the image present (config and layers) for as long as the build's lease lives.
    ///
    /// # Errors
    /// What the store, the registry or the layout says.
    fn resolve(
        &self,
        image: &ImageSource,
        platform: &Platform,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_contexts_have_one_form() {
        for (text, name) in [
            ("base", Some("base")),
            ("base:latest", Some("base")),
            ("docker.io/library/alpine", Some("alpine")),
            ("alpine:3.20", Some("alpine:3.20")),
            ("docker/dockerfile:1", Some("docker/dockerfile:1")),
            ("host:5000/a", Some("host:5000/a")),
            ("Base", None),
            ("", None),
            ("a b", None),
        ] {
            assert_eq!(context_name(text).as_deref(), name, "{text}");
        }
    }
}
