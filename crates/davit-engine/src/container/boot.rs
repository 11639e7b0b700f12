//! After the machine's boot: containers whose restart policy asks for it run again.

use davit_runtime::monitor::state::BootId;
use davit_store::ContainerFilter;

use super::{Container, ContainerError, RestartPolicy, StartMode};
use crate::Engine;

impl Engine {
    /// Names of the containers that another boot left and that are to run again, the oldest first:
    /// with `always` all that ever ran, with `unless-stopped` those that nobody stopped, with
    /// `on-failure` those that did not end well. One that was started or stopped since the boot is
    /// left alone, so that asking twice does nothing.
    ///
    /// # Errors
    /// What the store says.
    pub fn containers_to_boot(&self) -> Result<Vec<String>, ContainerError> {
        let now = BootId::current().map_err(|error| ContainerError::io("read", "/proc", error))?;
        let mut names = Vec::new();
        for row in self.store().containers(&ContainerFilter::default())?.into_iter().rev() {
            let records = self.records(&row.id)?;
            // A row without records never ran; the next start writes new ones.
            if records.is_empty() {
                continue;
            }
            let was_here = records.iter().any(|record| record.boot == now);
            // Looking at one that lost its monitor in this boot starts it again.
            let container = self.examine(row)?;
            if let Some(container) = container.filter(|found| !was_here && is_wanted(found)) {
                names.push(container.name);
            }
        }
        Ok(names)
    }

    /// Starts a container that [`Engine::containers_to_boot`] has named.
    ///
    /// # Errors
    /// As [`Engine::start_container`].
    pub fn boot_container(&self, name: &str) -> Result<(), ContainerError> {
        self.start_container(name, StartMode::Detached).map(drop)
    }
}

/// Whether the policy starts it again, as Docker's daemon decides when it starts.
pub(super) fn is_wanted(container: &Container) -> bool {
    let status = &container.status;
    match container.spec.restart {
        _ if status.phase.is_alive() => false,
        RestartPolicy::No => false,
        RestartPolicy::UnlessStopped => !status.stopped,
        policy => policy.restarts(status.exit_code, status.restarts),
    }
}
