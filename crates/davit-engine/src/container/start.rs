//! Starting a container: its files, its monitor, and the first words from it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use davit_image::{ImageId, Platform};
use davit_network::Bridge;
use davit_runtime::{
    Emulator, Execution, Identity,
    emulation::execution,
    monitor::{
        protocol::{Reply, Request, StreamSet},
        spec::{Network, Spec, Stdin, Stdio, StdioKind},
        state::Summary,
    },
};
use davit_snapshot::{
    Durability as UpperDurability, InodeNumbers, Mountpoints, OverlayOptions, PrepareOptions,
};
use davit_store::{ClaimError, Claimed, Durability};

use super::{
    Connection, Container, ContainerError, ContainerSpec, CreateRequest, Created, NetworkMode,
    Phase, StdinMode,
    create::Follow,
    files,
    monitor::Birth,
    network::{claimed_addresses, claims, mappings},
    newborn::Newborn,
    plan::{self, Planned, Surroundings},
};
use crate::Engine;

/// How long a monitor whose connection has ended may hold its lock.
const LEAVING_PATIENCE: Duration = Duration::from_secs(10);

/// How the command that starts a container goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// It leaves once the container runs.
    Detached,
    /// It stays attached to these streams until the end and settles it.
    Attached {
        /// The streams.
        streams: StreamSet,
        /// Rows and columns of its terminal.
        size: Option<(u16, u16)>,
    },
}

/// A container that was started.
#[derive(Debug)]
pub struct Started {
    /// The container.
    pub container: Container,
    /// Its first process.
    pub process: Identity,
    /// The connection to its monitor.
    pub connection: Connection,
}

impl Engine {
    /// Starts a created container that nobody saw before: `cidfile` may be written in between.
    ///
    /// # Errors
    /// [`ContainerError::Start`] when the command cannot be run: the container then stays, created,
    /// unless it was to be removed by its end.
    pub fn begin(&self, created: Created, mode: StartMode) -> Result<Started, ContainerError> {
        let Created { container, claimed, newborn, .. } = created;
        let newborn = match newborn {
            Some(newborn) => newborn,
            None => self.monitor_of(&container)?.ok_or_else(|| runs_already(&container.id))?,
        };
        let result = self.launch(container.clone(), claimed.unwrap_or_default(), mode, newborn);
        result.inspect_err(|error| self.abandon(container, error))
    }

    /// Creates a container that [`Engine::begin`] starts.
    ///
    /// # Errors
    /// As [`Engine::create_container`].
    pub fn create_to_run(&self, request: &CreateRequest) -> Result<Created, ContainerError> {
        self.create(request, Follow::Start)
    }

    /// Starts an existing container.
    ///
    /// # Errors
    /// [`ContainerError::Start`]; [`ContainerError::Conflict`] when it is paused. `Ok(None)` when it
    /// runs already.
    pub fn start_container(
        &self,
        name: &str,
        mode: StartMode,
    ) -> Result<Option<Started>, ContainerError> {
        let container = self.container(name)?;
        match container.status.phase {
            Phase::Running | Phase::Restarting => Ok(None),
            Phase::Paused => {
                Err(ContainerError::invalid("cannot start a paused container, try unpause instead"))
            }
            _ => self.start_ended(container, mode),
        }
    }

    /// Starts a container that was seen not to run; `None` when another command was faster.
    pub(crate) fn start_ended(
        &self,
        mut container: Container,
        mode: StartMode,
    ) -> Result<Option<Started>, ContainerError> {
        let Some(newborn) = self.monitor_of(&container)? else { return Ok(None) };
        let claimed = match self.prepare_start(&mut container) {
            Ok(claimed) => claimed,
            Err(error) => {
                newborn.dismiss();
                return match self.lock_row(&container.id) {
                    // The lock was made in vain, and has gone with the question.
                    Err(removed) if removed.is_not_found() => Err(removed),
                    _ => Err(error),
                };
            }
        };
        let result = self.launch(container.clone(), claimed, mode, newborn);
        result.inspect_err(|error| self.abandon(container, error)).map(Some)
    }

    /// Claims what an existing container needs of the network, and records that it runs.
    fn prepare_start(&self, container: &mut Container) -> Result<Claimed, ContainerError> {
        // The row as it is now that nobody else changes it.
        *container = Container::of_row(self.store().container(&container.id)?)?;
        let claimed = self.claim(container)?;
        container.status.phase = Phase::Running;
        container.status.error.clear();
        self.forget_records(&container.id)?;
        self.record_status(&container.id, &container.status, Durability::Durable)?;
        Ok(claimed)
    }

    fn claim(&self, container: &Container) -> Result<Claimed, ContainerError> {
        self.store().release_endpoints(&container.id)?;
        let Some(network) = container.spec.network.bridge() else {
            return Ok(Claimed::default());
        };
        let (addresses, ports) = claims(&container.spec, &self.network_row(network)?)?;
        let store = self.store();
        let claim = || store.claim_endpoints(&container.id, &addresses, &ports, Durability::Lazy);
        match claim() {
            Err(error) if self.has_made_way(&error)? => Ok(claim()?),
            result => Ok(result?),
        }
    }

    fn forget_records(&self, id: &str) -> Result<(), ContainerError> {
        let path = self.store().layout().container(id).join("state");
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(ContainerError::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// After a failed start: the row says why, or goes.
    fn abandon(&self, mut container: Container, error: &ContainerError) {
        let Some(_lock) = self.lock_failed(&container.id) else { return };
        if let Err(error) = self.end_half_started(&container) {
            tracing::warn!(%error, "cannot end what a failed start left");
        }
        container.status.phase = Phase::Created;
        // Docker's state has 128 for what is not the command's fault, `run` ends with 125.
        let code = error.run_code();
        container.status.exit_code = if code == 125 { 128 } else { i32::from(code) };
        container.status.error = match error {
            ContainerError::Start { reason, .. } => reason.clone(),
            error => error.to_string(),
        };
        if let Err(error) = self.finish(container) {
            tracing::warn!(%error, "cannot record a failed start");
        }
    }

    /// The lock of a container whose monitor has failed, or been killed, and may not have left yet;
    /// `None` when another command has started or removed it since.
    fn lock_failed(&self, id: &str) -> Option<OwnedFd> {
        let monitor = || self.records(id).map(|records| Summary::of(&records).monitor).ok();
        let (ours, deadline) = (monitor(), Instant::now() + LEAVING_PATIENCE);
        loop {
            match self.lock_row(id) {
                Ok(Some((_, lock))) => return Some(lock),
                Ok(None) if monitor() == ours && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                _ => return None,
            }
        }
    }

    /// Ends what a monitor left that died on the way; others end their own.
    fn end_half_started(&self, container: &Container) -> Result<(), ContainerError> {
        let summary = Summary::of(&self.records(&container.id)?);
        match (summary.monitor, summary.ended) {
            (Some(_), None) => self.end_orphan(container, &summary),
            _ => Ok(()),
        }
    }

    fn launch(
        &self,
        container: Container,
        claimed: Claimed,
        mode: StartMode,
        newborn: Newborn,
    ) -> Result<Started, ContainerError> {
        let wishes = match mode {
            StartMode::Detached => Vec::new(),
            StartMode::Attached { streams, .. } => vec![Request::Attach(streams), Request::Settle],
        };
        let birth = match self.birth(&container, &claimed, mode) {
            Ok(birth) => birth,
            Err(error) => {
                newborn.dismiss();
                return Err(error);
            }
        };
        let mut connection = newborn.instruct(&wishes, &birth)?;
        match connection.first_word() {
            Ok(Reply::Started(process)) => {
                self.append_event(
                    "container",
                    "start",
                    &container.id,
                    &[("image", container.spec.image.clone()), ("name", container.name.clone())],
                );
                Ok(Started { container, process, connection })
            }
            Ok(Reply::Failed(code, reason)) => {
                Err(ContainerError::Start { id: container.short_id().to_owned(), code, reason })
            }
            Ok(_) | Err(_) => Err(ContainerError::Start {
                id: container.short_id().to_owned(),
                code: 125,
                reason: "its monitor ended without a word".to_owned(),
            }),
        }
    }

    /// Everything that the monitor is told.
    fn birth(
        &self,
        container: &Container,
        claimed: &Claimed,
        mode: StartMode,
    ) -> Result<Birth, ContainerError> {
        let (id, spec) = (&container.id, &container.spec);
        let directory = self.store().layout().container(id);
        self.store().make_dir(&directory)?;
        let run_directory = self.store().layout().run_container(id);
        let platform = self.image_platform(container)?;
        let Planned { mut plan, joins } = self.plan(spec, id)?;
        plan.emulator = match &platform {
            Some(platform) => self.emulator(platform, spec)?,
            None => None,
        };
        let joins = self.join_paths(&joins)?;
        let network = self.network(container, claimed)?;
        let addresses: Vec<IpAddr> = match &network {
            Network::Bridge { ipv4, ipv6, .. } => {
                std::iter::once((*ipv4).into()).chain(ipv6.map(Into::into)).collect()
            }
            Network::Shared | Network::Loopback => Vec::new(),
        };
        match &spec.network {
            NetworkMode::Container(other) => {
                files::share(&run_directory, &self.store().layout().run_container(other))?;
            }
            _ => files::write(&run_directory, &self.host_files(container, &addresses)?)?,
        }
        let size = match mode {
            StartMode::Attached { size, .. } => size,
            StartMode::Detached => None,
        };
        let monitor = Spec {
            id: id.clone(),
            run_directory,
            plan,
            joins,
            stdio: stdio(spec, size),
            network,
            log: self.log_config(container)?,
            restart: spec.restart,
            health: plan::health(&spec.config),
            settle: self.helper_command("__settle", id),
            directory: directory.clone(),
        };
        let (stack, upper, options) =
            self.root_filesystem(container, platform.as_ref(), directory)?;
        Ok(Birth {
            monitor,
            stack,
            upper,
            volatile: options.durability == UpperDurability::Volatile,
            narrow: options.inode_numbers == InodeNumbers::Narrow,
            volumes: self.volume_mounts(spec)?,
            copy_up: self.copies(spec),
        })
    }

    /// What a container's root filesystem is mounted from.
    pub(crate) fn root_filesystem(
        &self,
        container: &Container,
        platform: Option<&Platform>,
        directory: PathBuf,
    ) -> Result<(davit_snapshot::Stack, davit_snapshot::Upper, OverlayOptions), ContainerError>
    {
        let snapshots = self.snapshots()?;
        let stack = self.stack(container.image_id.as_ref())?;
        let durability = if container.spec.auto_remove.is_on() {
            UpperDurability::Volatile
        } else {
            UpperDurability::Durable
        };
        let narrow = match container.spec.storage_options.get("xino").map(String::as_str) {
            Some("off") => true,
            Some(_) => false,
            None => platform.is_some_and(is_narrow),
        };
        let inode_numbers = if narrow { InodeNumbers::Narrow } else { InodeNumbers::Unique };
        Ok((
            stack,
            snapshots.upper(directory)?,
            OverlayOptions { inode_numbers, durability, ..Default::default() },
        ))
    }

    pub(crate) fn stack(
        &self,
        image: Option<&ImageId>,
    ) -> Result<davit_snapshot::Stack, ContainerError> {
        let layers = match image {
            Some(id) => self.store().image_layers(id)?,
            None => Vec::new(),
        };
        let options = PrepareOptions::new(Mountpoints::Container);
        Ok(self.snapshots()?.prepare(&layers, &options)?)
    }

    /// What a container's programs are for.
    pub(crate) fn image_platform(
        &self,
        container: &Container,
    ) -> Result<Option<Platform>, ContainerError> {
        let Some(id) = &container.image_id else { return Ok(None) };
        Ok(Some(self.stored_config(id)?.platform()))
    }

    /// What executes programs that the machine does not execute. Where there is nothing, the kernel
    /// says so when the command is to run.
    fn emulator(
        &self,
        platform: &Platform,
        spec: &ContainerSpec,
    ) -> Result<Option<Emulator>, ContainerError> {
        match execution(platform, &self.config().programs) {
            Execution::Private(_) if spec.security.privileged => Err(ContainerError::invalid(
                "a privileged container of another architecture needs an emulator that the \
                 machine has registered",
            )),
            Execution::Private(emulator) => Ok(Some(emulator)),
            Execution::Machine | Execution::Impossible(_) => Ok(None),
        }
    }

    pub(crate) fn plan(&self, spec: &ContainerSpec, id: &str) -> Result<Planned, ContainerError> {
        let around = Surroundings {
            id,
            run_directory: &self.store().layout().run_container(id),
            cgroup: self.cgroup_of(id),
            devices: &self.config().settings.cdi.directories(),
            volume: &|name| self.store().layout().volume_data(name),
        };
        plan::plan(spec, &around)
    }

    fn network(&self, container: &Container, claimed: &Claimed) -> Result<Network, ContainerError> {
        match &container.spec.network {
            NetworkMode::Host | NetworkMode::Container(_) => Ok(Network::Shared),
            NetworkMode::None => Ok(Network::Loopback),
            mode @ (NetworkMode::Bridge | NetworkMode::Network(_)) => {
                let (row, bridge) = self.ensure_network(mode.bridge().unwrap_or_default())?;
                let claimed_ones = davit_network::both_families(&claimed_addresses(claimed));
                let (ipv4, ipv6) = match claimed_ones {
                    Some(addresses) if bridge.ipv4.contains(addresses.0) => addresses,
                    _ => self.moved_addresses(container, &row.network.id, &bridge)?,
                };
                let ipv6 = ipv6.filter(|_| bridge.ipv6.is_some());
                let ports = mappings(claimed.ports.iter().copied());
                let names = self.names(&row, &container.spec)?;
                if names.is_some() {
                    self.write_network_names(&row)?;
                }
                Ok(Network::Bridge { bridge: Box::new(bridge), ipv4, ipv6, ports, names })
            }
        }
    }

    /// What a container holds since its network has moved.
    fn moved_addresses(
        &self,
        container: &Container,
        network: &str,
        bridge: &Bridge,
    ) -> Result<(Ipv4Addr, Option<Ipv6Addr>), ContainerError> {
        let lost = |address: &&IpAddr| match address {
            IpAddr::V4(address) => !bridge.ipv4.contains(*address),
            IpAddr::V6(_) => false,
        };
        if let Some(&address) = container.spec.addresses.iter().find(lost) {
            return Err(ClaimError::NoPool { network: network.to_owned(), address }.into());
        }
        let held = self.endpoint(&container.id)?.filter(|held| bridge.ipv4.contains(held.ipv4));
        held.map(|held| (held.ipv4, held.ipv6))
            .ok_or_else(|| ContainerError::Conflict("the network gave no address".to_owned()))
    }

    fn join_paths(&self, joins: &[(String, &'static str)]) -> Result<Vec<PathBuf>, ContainerError> {
        let path = |(id, kind): &(String, &'static str)| {
            let other = self.container(id)?;
            let process = other.status.process.ok_or_else(|| {
                ContainerError::Conflict(format!(
                    "cannot join namespace of a non running container: {id}"
                ))
            })?;
            Ok(PathBuf::from(format!("/proc/{}/ns/{kind}", process.pid)))
        };
        joins.iter().map(path).collect()
    }

    fn host_files(
        &self,
        container: &Container,
        addresses: &[IpAddr],
    ) -> Result<files::HostFiles, ContainerError> {
        let gateway = match container.spec.network.bridge() {
            Some(network) => Some(self.bridge(&self.network_row(network)?)?.gateway.into()),
            None => None,
        };
        Ok(files::HostFiles::of(&container.spec, &container.id, addresses, gateway))
    }

    /// A helper of the installed davit on this root.
    pub(crate) fn helper_command(&self, verb: &str, id: &str) -> Vec<String> {
        let path = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        vec![
            text(path(&self.config().executable)),
            verb.to_owned(),
            text(path(&self.config().root)),
            text(path(&self.config().run_root)),
            id.to_owned(),
        ]
    }
}

/// For a container that was to be changed and was started meanwhile.
pub(crate) fn runs_already(id: &str) -> ContainerError {
    ContainerError::Conflict(format!("container {id} is running"))
}

/// Whether programs may fail on inode numbers of 2^63 and more.
fn is_narrow(platform: &Platform) -> bool {
    matches!(platform.architecture.as_str(), "386" | "arm")
}

fn stdio(spec: &ContainerSpec, size: Option<(u16, u16)>) -> Stdio {
    Stdio {
        kind: if spec.tty.is_on() { StdioKind::Terminal } else { StdioKind::Pipes },
        stdin: match spec.stdin {
            StdinMode::Closed => Stdin::Closed,
            StdinMode::Once => Stdin::Once,
            StdinMode::Open => Stdin::Open,
        },
        size,
    }
}
