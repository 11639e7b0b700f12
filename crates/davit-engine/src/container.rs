//! Containers: create, start, look at, stop and remove them.
//!
//! ```text
//! create: image config + wishes -> ContainerSpec -> row with name, addresses, ports, volumes (one transaction)
//! start:  row -> launch plan -> monitor (davit __monitor) with lock, socket pair and Spec
//! end:    monitor appends the record -> the waiting command, or davit __settle, finishes the row
//! ```
//!
//! **Invariant:** a row that says `running` is believed only while the container's lock is held.

mod attach;
mod boot;
mod changes;
mod copy;
mod copy_up;
mod create;
mod error;
mod exec;
pub(crate) mod files;
pub(crate) mod inspect;
mod list;
mod log_attributes;
mod logs;
mod monitor;
mod name;
mod network;
mod newborn;
mod plan;
mod platform;
mod propagation;
mod remove;
mod spec;
mod start;
mod status;
mod stop;
mod top;
mod validate;
mod volume;
mod volume_mount;

use davit_image::{ImageId, Timestamp};
use davit_store::{ContainerRow, NewEvent, StoreError};

pub use attach::Connection;
pub(crate) use changes::thaw_helper;
pub use changes::{ChangedPath, ChangesError, CommitRequest, PathChange, Pause};
pub(crate) use copy::root_helper;
pub use copy::{ContainerFiles, Copied, FollowLink, Ownership};
pub use create::{CreateRequest, Created};
pub use davit_network::{ExposedPorts, PortMapping, Protocol, PublishSpec};
pub use davit_runtime::cdi::is_device as is_cdi_device;
pub use davit_runtime::{
    Executed, LaunchError, Process, StdioPlan, Streams,
    launch::StdinPlan,
    monitor::{
        log::{LogConfig, LogDriver, LogLine, Stream},
        protocol::{Reply, Request, StreamSet},
        spec::RestartPolicy,
        state::Health,
    },
    plan::{Limits, sysctl_namespace},
    process::{ExitStatus, Identity},
};
pub use davit_store::NetworkRow;
pub use error::ContainerError;
pub use exec::{ExecOrder, ExecRequest};
pub use list::{ContainerSummary, ListFilter, ListRequest};
pub use logs::{LogFollow, LogRequest, Logs};
pub(crate) use monitor::{monitor_helper, settle_helper};
pub(crate) use network::BRIDGE;
pub use network::{NetworkRequest, NetworkSpec, is_built_in};
pub use plan::device_rule;
pub use remove::RemoveRequest;
pub(crate) use remove::written_bytes;
pub use spec::{
    AutoRemove, ContainerSpec, DeviceSpec, InitMode, MountSource, MountSpec, NamespaceMode,
    NetworkMode, PublishAll, RootAccess, SecuritySpec, StdinMode, Tty, VolumeMaking,
};
pub use start::{StartMode, Started};
pub use status::{Phase, Status};
pub use stop::StopRequest;
pub use top::Top;
pub use volume::{VolumeRequest, VolumeSummary};

use crate::Engine;

/// A container as its row and the kernel tell.
#[derive(Clone, Debug)]
pub struct Container {
    /// 64 lower-case hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// Its image.
    pub image_id: Option<ImageId>,
    /// What it was asked to be.
    pub spec: ContainerSpec,
    /// What became of it.
    pub status: Status,
    /// When it was created.
    pub created: Timestamp,
}

impl Container {
    fn of_row(row: ContainerRow) -> Result<Self, ContainerError> {
        let damaged = |source| ContainerError::Row { id: row.id.clone(), source };
        let spec = serde_json::from_value(row.spec).map_err(damaged)?;
        let mut status: Status = serde_json::from_value(row.state).map_err(damaged)?;
        status.phase = match row.status.as_str() {
            "running" => Phase::Running,
            "exited" => Phase::Exited,
            "removing" => Phase::Removing,
            _ => Phase::Created,
        };
        let seconds = row.created.div_euclid(1_000_000_000);
        let nanoseconds = u32::try_from(row.created.rem_euclid(1_000_000_000)).unwrap_or(0);
        let created = Timestamp::from_unix(seconds, nanoseconds).unwrap_or(Timestamp::EPOCH);
        Ok(Self { id: row.id, name: row.name, image_id: row.image_id, spec, status, created })
    }

    /// The first twelve digits of the id.
    #[must_use]
    pub fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }
}

impl Engine {
    /// Finds a container by name, id, or the beginning of its id, with its present state.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; [`ContainerError::Conflict`] when several fit.
    pub fn container(&self, name: &str) -> Result<Container, ContainerError> {
        let not_found = || ContainerError::NotFound { kind: "container", name: name.to_owned() };
        let row = self.store().container(name).map_err(|error| match error {
            StoreError::NotFound { .. } => not_found(),
            StoreError::Ambiguous { .. } => {
                ContainerError::Conflict(format!("Multiple IDs found with provided prefix: {name}"))
            }
            error => error.into(),
        })?;
        if row.run_root != self.store().run_root() {
            return Err(ContainerError::Conflict(format!(
                "container {name} was created with --run-root {}",
                row.run_root.display()
            )));
        }
        self.examine(row)?.ok_or_else(not_found)
    }

    /// Records an event; that it cannot be recorded fails nothing.
    fn append_event(&self, kind: &str, action: &str, actor: &str, attributes: &[(&str, String)]) {
        let event = NewEvent {
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor: actor.to_owned(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
        };
        if let Err(error) = self.store().append_events(&[event]) {
            tracing::warn!(%error, "cannot record an event");
        }
    }
}
