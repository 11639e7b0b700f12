//! What a build is asked to do.

use std::{collections::BTreeMap, error::Error, fmt, io::Read, path::PathBuf};

use davit_image::{Platform, Reference};

use crate::{
    plan::{BaseImage, Network},
    sandbox::Sandbox,
};

/// One build, complete: nothing else is read from the environment.
#[derive(Debug)]
pub struct BuildRequest {
    /// The Dockerfile.
    pub dockerfile: DockerfileText,
    /// What `COPY` and `ADD` read.
    pub context: ContextSource,
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
    /// Whether earlier results are used.
    pub cache: CachePolicy,
    /// Stages, by name or number, whose steps run again whatever the cache has.
    pub no_cache_stages: Vec<String>,
    /// `SOURCE_DATE_EPOCH`, in seconds: when the image and its history were made, and the time of
    /// what `WORKDIR` and `COPY` make; `None` leaves it to an `ARG` of the Dockerfile.
    pub source_date_epoch: Option<i64>,
    /// Whether no time in the layers that the build adds may be later than `SOURCE_DATE_EPOCH`.
    pub rewrite_timestamp: bool,
    /// Hosts that `RUN` steps know beside those of the network, as (name, address).
    pub add_hosts: Vec<(String, String)>,
    /// Limits, entitlements, secrets and agents of `RUN` steps.
    pub sandbox: Sandbox,
    /// Whether the first difference of every miss is looked for, down to the file.
    pub explain: bool,
    /// Largest number of steps at a time; 0 = one per core.
    pub jobs: usize,
}

/// A Dockerfile's bytes and where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerfileText {
    /// Name for messages, as the user gave it.
    pub name: String,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether the name is a path in the context, a tar, and the bytes are read from there.
    pub in_context: bool,
    /// The ignore file that stands beside it (`NAME.dockerignore`), which wins over the context's.
    pub ignore: Option<IgnoreText>,
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
    /// Nothing (a Dockerfile on standard input).
    Empty,
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
    /// What the store or the registry says.
    fn resolve(
        &self,
        reference: &Reference,
        platform: &Platform,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>>;
}
