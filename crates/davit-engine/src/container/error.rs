//! What can go wrong with containers, in Docker's words.

use std::{io, path::PathBuf};

use davit_image::DocumentError;
use davit_network::NetworkError;
use davit_snapshot::SnapshotError;
use davit_store::{ClaimError, StoreError};

use crate::Hint;

/// How a monitor begins that it has no root filesystem.
/// The kernel's words for a program of another machine.
const NOT_EXECUTABLE: &str = "Exec format error";
const NO_ROOTFS: &str = "cannot mount the root filesystem: cannot open ";

/// Why something about a container, volume or network failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// There is no such object.
    #[error("{}", not_found(kind, name))]
    NotFound {
        /// `container`, `image`, …
        kind: &'static str,
        /// As the user wrote it.
        name: String,
    },
    /// The image is not in the store.
    #[error("No such image: {0}")]
    NoImage(String),
    /// The image in the store is of another platform.
    #[error(
        "image with reference {image} was found but does not match the specified platform: \
         wanted {wanted}, actual: {actual}"
    )]
    NoPlatform {
        /// As the user named it.
        image: String,
        /// The platform that was asked for.
        wanted: String,
        /// That of the image.
        actual: String,
    },
    /// The object's state forbids it.
    #[error("{0}")]
    Conflict(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The command could not be started: Docker's exit code.
    #[error("failed to start container {id}: {reason}")]
    Start {
        /// Id of the container, abbreviated.
        id: String,
        /// 125, 126 or 127.
        code: u8,
        /// Why.
        reason: String,
    },
    /// A name, address or port is taken.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The root filesystem cannot be made.
    #[error("cannot prepare the root filesystem")]
    Snapshot(#[from] SnapshotError),
    /// The network cannot be made.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// While the bridge was away, somebody else got its addresses.
    #[error(
        "the addresses {subnet} of network {network} are those of {rival} by now, and container {} \
         has one of them", container.get(..12).unwrap_or(container)
    )]
    PoolLost {
        /// Its name.
        network: String,
        /// Of the network.
        subnet: String,
        /// Who has it.
        rival: String,
        /// Id of a container that runs.
        container: String,
    },
    /// The addresses that a user chose for a network are somebody else's.
    #[error("the addresses {subnet} of network {network} are those of {rival}")]
    PoolTaken {
        /// Its name.
        network: String,
        /// Of the network.
        subnet: String,
        /// Who has it.
        rival: String,
    },
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] davit_runtime::LaunchError),
    /// A cgroup cannot be used.
    #[error(transparent)]
    Cgroup(#[from] davit_runtime::cgroup::CgroupError),
    /// A stored document is refused.
    #[error("stored config of {0}")]
    Document(String, #[source] DocumentError),
    /// A stored row is refused.
    #[error("stored specification of container {id}")]
    Row {
        /// Id of the container.
        id: String,
        /// Why the JSON is refused.
        #[source]
        source: serde_json::Error,
    },
    /// A file or process of the machine.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The object.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// Docker's sentence for each kind of object.
fn not_found(kind: &str, name: &str) -> String {
    match kind {
        "volume" => format!("get {name}: no such volume"),
        "network" => format!("network {name} not found"),
        _ => format!("No such {kind}: {name}"),
    }
}

impl ContainerError {
    /// An error of a file.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { action, path: path.into(), source: source.into() }
    }

    /// A refused request.
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// The exit code that Docker's `run` ends with.
    #[must_use]
    pub fn run_code(&self) -> u8 {
        match self {
            Self::Start { code, .. } => *code,
            Self::Runtime(error) => u8::try_from(error.exit_code()).unwrap_or(125),
            _ => 125,
        }
    }

    /// Whether the object was not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::NoImage(_))
    }
}

impl Hint for ContainerError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NoImage(name) => vec![format!("davit pull {name}")],
            Self::NoPlatform { image, wanted, .. } => {
                vec![format!("davit pull --platform {wanted} {image}")]
            }
            Self::NotFound { kind: "container", .. } => vec!["davit ps -a".to_owned()],
            Self::NotFound { kind: "volume", .. } => vec!["davit volume ls".to_owned()],
            Self::NotFound { kind: "network", .. } => vec!["davit network ls".to_owned()],
            Self::Claim(ClaimError::Name { name, .. }) => {
                vec![format!("davit rm {name}"), format!("davit rename {name} NEW_NAME")]
            }
            Self::Store(error) => error.hints(),
            Self::Snapshot(error) => error.hints(),
            // The monitor, which mounts, has words alone to tell it by.
            Self::Start { reason, .. } if reason.starts_with(NO_ROOTFS) => {
                vec!["davit system check --repair".to_owned()]
            }
            Self::Start { reason, .. } if reason.contains(NOT_EXECUTABLE) => {
                vec![
                    "an image for another architecture runs with a static emulator on PATH, such \
                      as those of Debian's qemu-user-static"
                        .to_owned(),
                ]
            }
            Self::PoolTaken { subnet, rival, .. } => vec![
                "another --subnet, or none: then one is chosen that nobody has".to_owned(),
                format!("or take {subnet} from {rival} (`ip address`, `ip route`)"),
            ],
            Self::PoolLost { subnet, rival, container, .. } => {
                let container = container.get(..12).unwrap_or(container);
                vec![
                    format!("davit stop {container}, and the network gets other addresses"),
                    format!("or take {subnet} from {rival} (`ip address`, `ip route`)"),
                ]
            }
            Self::Network(NetworkError::PortTaken { .. }) => {
                vec!["publish another port, or find its holder with `ss -tulpn`".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}
