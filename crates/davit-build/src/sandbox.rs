//! What the caller gives to `RUN` steps beside the Dockerfile: limits, entitlements, secrets and
//! agents.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use davit_image::{Algorithm, Digester};
use davit_runtime::plan::{Limits, Rlimit};

use crate::{plan::MountAccess, run::agent::Agent};

/// Limits, entitlements, secrets and agents of a build's commands.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// Size of `/dev/shm` in bytes; `None` = 64 MiB.
    pub shm_size_bytes: Option<u64>,
    /// Resource limits of processes.
    pub ulimits: Vec<Rlimit>,
    /// Cgroup below which commands run, from the root of the hierarchy; `None` = davit's own.
    pub cgroup_parent: Option<String>,
    /// Limits of each command; they are in no key.
    pub limits: Limits,
    /// What the Dockerfile may ask for beyond the usual.
    pub entitlements: BTreeSet<Entitlement>,
    /// Directories of the machine that each command has.
    pub volumes: Vec<StepVolume>,
    /// Secrets by their ids.
    pub secrets: BTreeMap<String, Secret>,
    /// SSH agents by their ids.
    pub agents: BTreeMap<String, Agent>,
}

impl Sandbox {
    /// Whether a key depends on a secret.
    pub(crate) fn needs_salt(&self) -> bool {
        self.secrets.values().any(|secret| secret.invalidation == Invalidation::OnChange)
    }

    /// Lets secrets that invalidate be told apart; the salt never leaves the machine.
    pub(crate) fn salt(&mut self, salt: &[u8]) {
        for secret in self.secrets.values_mut() {
            secret.fingerprint = (secret.invalidation == Invalidation::OnChange).then(|| {
                let mut digester = Digester::new(Algorithm::Sha256);
                digester.update(salt);
                digester.update(&secret.value);
                digester.finish().hex()
            });
        }
    }
}

/// A directory of the machine in each command of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepVolume {
    /// Where it is.
    pub source: VolumeSource,
    /// Absolute path in the command's root, cleaned; never the root itself.
    pub target: String,
    /// Whether it can be written. One that cannot is part of the command by its content, one that
    /// can is not: what a command finds there may be the work of another.
    pub access: MountAccess,
}

/// Where a volume of a build is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory.
    Directory(PathBuf),
    /// The volume of this name; whoever has the store puts its directory in its place.
    Named(String),
}

/// What a build may do only if its caller says so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entitlement {
    /// Commands in the host's network.
    NetworkHost,
    /// Commands with all capabilities and devices.
    SecurityInsecure,
    /// Commands with every device that the machine describes.
    AllDevices,
    /// Commands with what this name stands for.
    Device(String),
}

impl fmt::Display for Entitlement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NetworkHost => f.write_str("network.host"),
            Self::SecurityInsecure => f.write_str("security.insecure"),
            Self::AllDevices => f.write_str("device"),
            Self::Device(name) => write!(f, "device={name}"),
        }
    }
}

/// Whether another value of a secret makes its steps run again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invalidation {
    /// No: nothing of the value is in a key.
    #[default]
    Never,
    /// Yes: a salted digest of it is in the key.
    OnChange,
}

/// The value of a secret; it is in memory alone.
#[derive(Clone)]
pub struct Secret {
    pub(crate) value: Vec<u8>,
    invalidation: Invalidation,
    pub(crate) fingerprint: Option<String>,
}

impl Secret {
    /// A secret with this value.
    #[must_use]
    pub const fn new(value: Vec<u8>, invalidation: Invalidation) -> Self {
        Self { value, invalidation, fingerprint: None }
    }

    /// The value, to be used and not kept.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("****")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_secret_that_invalidates_has_a_fingerprint() {
        let secret = |value: &[u8], how| Secret::new(value.to_vec(), how);
        let mut sandbox = Sandbox::default();
        sandbox.secrets.insert("a".to_owned(), secret(b"x", Invalidation::Never));
        assert!(!sandbox.needs_salt());
        sandbox.secrets.insert("b".to_owned(), secret(b"x", Invalidation::OnChange));
        assert!(sandbox.needs_salt());
        let mut print = |salt: &[u8]| {
            sandbox.salt(salt);
            assert_eq!(sandbox.secrets["a"].fingerprint, None);
            sandbox.secrets["b"].fingerprint.clone().expect("it invalidates")
        };
        assert_ne!(print(b"1"), print(b"2"), "without the salt nothing can be guessed");
        assert_eq!(print(b"1"), print(b"1"));
        assert_eq!(format!("{:?}", sandbox.secrets["b"]), "****");
    }
}
