//! What the engine must be told before it starts.

use std::path::PathBuf;

use serde::Deserialize;

/// Paths and settings of one engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Durable state (`--root`).
    pub root: PathBuf,
    /// State of this boot (`--run-root`).
    pub run_root: PathBuf,
    /// Absolute path of the installed `davit`, which monitors execute.
    pub executable: PathBuf,
    /// Folder of Docker's `config.json` (`$DOCKER_CONFIG`, else `~/.docker`).
    pub docker_config: Option<PathBuf>,
    /// Podman's `auth.json` files, the first found counts.
    pub auth_files: Vec<PathBuf>,
    /// Docker's first credential file (`~/.dockercfg`), asked last.
    pub legacy_auth_file: Option<PathBuf>,
    /// Podman's folder of certificates by host (`~/.config/containers/certs.d`).
    pub certificates_by_host: Option<PathBuf>,
    /// PEM bundles of trusted authorities (`$SSL_CERT_FILE`), instead of the system's.
    pub certificate_file: Option<PathBuf>,
    /// Folder of trusted authorities (`$SSL_CERT_DIR`).
    pub certificate_dir: Option<PathBuf>,
    /// Directories in which programs are looked for (`$PATH`); empty: where they usually are.
    pub programs: Vec<PathBuf>,
    /// Proxy variables as found (`HTTP_PROXY`, … in either case).
    pub proxies: Vec<(String, String)>,
    /// Settings from the configuration file.
    pub settings: Settings,
}

impl Config {
    /// What a helper process needs to open a root: nothing of the user's.
    pub(crate) fn for_helper(root: &std::path::Path, run_root: &std::path::Path) -> Self {
        Self {
            root: root.to_owned(),
            run_root: run_root.to_owned(),
            executable: PathBuf::new(),
            docker_config: None,
            auth_files: Vec::new(),
            legacy_auth_file: None,
            certificates_by_host: None,
            certificate_file: None,
            certificate_dir: None,
            programs: Vec::new(),
            proxies: Vec::new(),
            settings: Settings::default(),
        }
    }
}

/// Settings of `/etc/davit/config.toml` or `$XDG_CONFIG_HOME/davit/config.toml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// `[store]`
    pub store: StoreSettings,
    /// `[gc]`
    pub gc: GcSettings,
    /// `[build]`
    pub build: BuildSettings,
    /// `[cdi]`
    pub cdi: CdiSettings,
    /// `[registry."HOST"]`
    pub registry: std::collections::BTreeMap<String, RegistrySettings>,
}

/// `[store]`: how images are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// Whether received compressed layers are kept, so that a push repeats their digest.
    pub keep_blobs: KeepBlobs,
    /// Forces how root filesystems are made (`erofs`, `dirs`, `dirs-volume`, `copy`), for tests.
    pub snapshot: Option<davit_snapshot::Form>,
    /// Directory on a volume for what containers write, used where the root is on an overlay.
    pub upper: Option<PathBuf>,
    /// Bytes of the tmpfs that takes its place where none is set; 1 GiB by default.
    pub upper_bytes: Option<u64>,
}

/// Whether received compressed layers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepBlobs {
    /// Kept as received.
    #[default]
    Always,
    /// Dropped once unpacked.
    Never,
}

/// `[gc]`: how much the build cache may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GcSettings {
    /// Bytes that the build cache may take; 20 % of the file system where not set.
    pub keep_storage: Option<u64>,
    /// Bytes that repositories of git sources may take; 2 GiB where not set.
    pub keep_git_repositories: Option<u64>,
    /// Bytes that cache mounts may take; as many as they like where not set.
    pub keep_cache_mounts: Option<u64>,
    /// Ids of cache mounts that go by their id alone.
    pub pinned_cache_mounts: Vec<String>,
    /// Builds that are remembered; 100 where not set.
    pub keep_builds: Option<u32>,
    /// Days that a build is remembered; 30 where not set.
    pub keep_build_days: Option<u32>,
    /// Bytes on disk that logs of builds may take; 256 MiB where not set.
    pub keep_build_logs: Option<u64>,
}

/// `[build]`: what a build may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildSettings {
    /// Bytes that one source may take that is fetched (http, git); what the disk has room for where
    /// not set.
    pub source_bytes: Option<u64>,
}

/// `[cdi]`: where devices are described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CdiSettings {
    /// Directories of specifications, a later one before an earlier one; `/etc/cdi` and
    /// `/var/run/cdi` where not set.
    pub spec_dirs: Option<Vec<PathBuf>>,
}

impl CdiSettings {
    /// The directories.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let usual = || davit_runtime::cdi::DIRECTORIES.map(PathBuf::from).to_vec();
        self.spec_dirs.clone().unwrap_or_else(usual)
    }
}

/// `[registry."HOST"]`: how one registry is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistrySettings {
    /// Whether plain HTTP and unverified TLS are accepted.
    pub insecure: bool,
    /// Base addresses that are asked first when pulling, in this order.
    pub mirrors: Vec<String>,
}
