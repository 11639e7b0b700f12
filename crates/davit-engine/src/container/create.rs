//! Making a container's row: the image's defaults merged with the user's wishes.

mod defaults;

use std::{
    net::Ipv6Addr,
    time::{Duration, Instant},
};

use davit_image::{ImageConfig, ImageId};
use davit_store::{ClaimError, Claimed, Durability, NewContainer, StoreError};

use self::defaults::merge;
use super::{
    Container, ContainerError, ContainerSpec, MountSource, MountSpec, NamespaceMode, NetworkMode,
    name,
    network::{BRIDGE, NetworkSpec, claims},
    newborn::Newborn,
    plan, platform,
    remove::remove_tree,
    validate,
};
use crate::{Engine, ImageError};

/// Names tried before a number is added in earnest.
const NAME_ATTEMPTS: u32 = 10;
/// How long a monitor may take to leave after its container's end.
const CLEANING_PATIENCE: Duration = Duration::from_secs(5);

/// A container to be created.
#[derive(Clone, Debug, Default)]
pub struct CreateRequest {
    /// Its name; generated when `None`.
    pub name: Option<String>,
    /// The user's wishes. `config.entrypoint` is `None` unless given; `config.cmd` likewise.
    pub spec: ContainerSpec,
}

/// What was created.
#[derive(Debug)]
pub struct Created {
    /// The container.
    pub container: Container,
    /// Remarks for the user.
    pub warnings: Vec<String>,
    /// What it holds of the network from the start.
    pub(crate) claimed: Option<Claimed>,
    /// Its monitor if it is to be started: with its lock, nobody takes it for one that died.
    pub(crate) newborn: Option<Newborn>,
}

/// Whether the container is started by the same command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Follow {
    /// `create`: nothing is held but the name.
    Nothing,
    /// `run`: addresses and ports are held in the same transaction.
    Start,
}

impl Engine {
    /// Creates a container that is not started.
    ///
    /// # Errors
    /// [`ContainerError::NoImage`]; [`ContainerError::Claim`] when the name is taken;
    /// [`ContainerError::Invalid`].
    pub fn create_container(&self, request: &CreateRequest) -> Result<Created, ContainerError> {
        self.create(request, Follow::Nothing)
    }

    /// Where the name got another image, or lost its own, on the way, it is made once more: then
    /// that is what is told.
    pub(crate) fn create(
        &self,
        request: &CreateRequest,
        follow: Follow,
    ) -> Result<Created, ContainerError> {
        let named =
            || self.store().find_image(&request.spec.image).map(|found| found.target.image_id);
        let before = named();
        let made = self.make(request, follow);
        let (
            Err(
                ContainerError::Store(_)
                | ContainerError::Snapshot(_)
                | ContainerError::Claim(ClaimError::Store(_)),
            ),
            Ok(before),
        ) = (&made, before)
        else {
            return made;
        };
        let has_changed = match named() {
            Ok(now) => now != before,
            Err(error) => error.is_not_found(),
        };
        if has_changed { self.make(request, follow) } else { made }
    }

    fn make(&self, request: &CreateRequest, follow: Follow) -> Result<Created, ContainerError> {
        let (image_id, image) = self.image_config(&request.spec)?;
        let id = name::random_id()?;
        let mut spec = request.spec.clone();
        merge(&mut spec, &image.config);
        check_names(&spec)?;
        platform::check(&spec, &image)?;
        validate::check(&spec)?;
        self.resolve_namespaces(&mut spec)?;
        if let Some(name) = &request.name {
            name::check("container", name.trim_start_matches('/'))?;
        }
        // The plan is made now for its errors only.
        self.plan(&spec, &id)?;
        let unnamed = unnamed_volumes(&spec);
        let placed = self
            .make_volumes(&mut spec)
            .and_then(|()| self.place(request, &spec, &id, image_id, follow));
        let (claimed, newborn) = placed.inspect_err(|_| self.forget(&id, &spec, &unnamed))?;
        let container = Container::of_row(self.store().container(&id)?)?;
        self.append_event(
            "container",
            "create",
            &id,
            &[("image", spec.image.clone()), ("name", container.name.clone())],
        );
        let claimed = (follow == Follow::Start).then_some(claimed);
        let mut warnings: Vec<_> = platform::warning(&spec, &image).into_iter().collect();
        warnings.extend(self.warnings(&spec));
        Ok(Created { container, warnings, claimed, newborn })
    }

    /// After a container that came to nothing: what was made for it alone.
    fn forget(&self, id: &str, spec: &ContainerSpec, unnamed: &[usize]) {
        if let Err(error) = remove_tree(&self.store().layout().run_container(id)) {
            tracing::warn!(%error, "cannot remove the run directory of a container without row");
        }
        for mount in unnamed.iter().map(|index| &spec.mounts[*index]) {
            if let MountSource::Volume { name, .. } = &mount.source
                && !name.is_empty()
                && let Err(error) = self.remove_volume(name)
            {
                tracing::warn!(%error, "cannot remove the volume of a container without row");
            }
        }
    }

    /// The row and, for one that is to be started, its monitor.
    fn place(
        &self,
        request: &CreateRequest,
        spec: &ContainerSpec,
        id: &str,
        image_id: ImageId,
        follow: Follow,
    ) -> Result<(Claimed, Option<Newborn>), ContainerError> {
        // Before the row, which says `running` from its first moment.
        let spawn = || self.spawn_monitor(id, Some(&image_id), spec);
        let newborn = (follow == Follow::Start).then(spawn).transpose()?.flatten();
        let row = self.new_row(spec, id, image_id, follow);
        match row.and_then(|row| self.insert(row, request.name.as_deref())) {
            Ok(claimed) => Ok((claimed, newborn)),
            Err(error) => {
                if let Some(newborn) = newborn {
                    newborn.dismiss();
                }
                Err(error)
            }
        }
    }

    /// The row of a container, yet without a name.
    fn new_row(
        &self,
        spec: &ContainerSpec,
        id: &str,
        image_id: ImageId,
        follow: Follow,
    ) -> Result<NewContainer, ContainerError> {
        let (addresses, ports) = match (follow, spec.network.bridge()) {
            (Follow::Start, Some(network)) => claims(spec, &self.network_row(network)?)?,
            _ => (Vec::new(), Vec::new()),
        };
        let json = serde_json::to_value(spec)
            .map_err(|source| ContainerError::Row { id: id.to_owned(), source })?;
        Ok(NewContainer {
            id: id.to_owned(),
            name: String::new(),
            image_id: Some(image_id),
            layers: Vec::new(),
            auto_remove: spec.auto_remove.is_on(),
            labels: spec.config.labels.clone().unwrap_or_default(),
            status: match follow {
                Follow::Nothing => "created".to_owned(),
                Follow::Start => "running".to_owned(),
            },
            spec: json,
            volumes: spec.volume_names().map(str::to_owned).collect(),
            addresses,
            ports,
        })
    }

    /// Writes the row under the name, or under one that is made for it.
    fn insert(
        &self,
        mut row: NewContainer,
        wanted: Option<&str>,
    ) -> Result<Claimed, ContainerError> {
        // One that goes with its end has nothing to lose in a power loss.
        let durability = if row.auto_remove { Durability::Lazy } else { Durability::Durable };
        let (mut attempt, mut has_waited) = (0, false);
        loop {
            row.name = match wanted {
                Some(name) => name.trim_start_matches('/').to_owned(),
                None => name::generated(&row.id, attempt),
            };
            match self.store().create_container(&row, durability) {
                Err(ClaimError::Name { .. }) if wanted.is_none() && attempt + 1 < NAME_ATTEMPTS => {
                    attempt += 1;
                }
                Err(error) if !has_waited && self.has_made_way(&error)? => has_waited = true,
                result => return result.map_err(|error| docker_words(error, &row.name)),
            }
        }
    }

    /// Whether the container that stood in the way of a claim has ended: what it held is given back
    /// a little later, and is when this returns.
    pub(crate) fn has_made_way(&self, error: &ClaimError) -> Result<bool, ContainerError> {
        let (ClaimError::Name { holder, .. }
        | ClaimError::Address { holder, .. }
        | ClaimError::Port { holder, .. }) = error
        else {
            return Ok(false);
        };
        let look = || match self.container(holder) {
            Err(error) if error.is_not_found() => Ok(None),
            found => found.map(Some),
        };
        if look()?.is_some_and(|container| container.status.phase.is_alive()) {
            return Ok(false);
        }
        self.await_end(holder, Some(Instant::now() + CLEANING_PATIENCE))?;
        // Nobody holds its lock: looking at it settles it.
        look().map(|_| true)
    }

    /// The id and config of the image that is asked for, by any of its names; for a platform, of
    /// the one that its index has here.
    fn image_config(&self, spec: &ContainerSpec) -> Result<(ImageId, ImageConfig), ContainerError> {
        let name = &spec.image;
        let target = self.store().find_image(name).map(|found| found.target);
        let target = target.map_err(|error| match error {
            StoreError::NotFound { .. } => ContainerError::NoImage(name.clone()),
            error => error.into(),
        })?;
        let wanted = spec.platform.as_ref().and_then(|platform| platform.parse().ok());
        let chosen = match wanted {
            Some(wanted) => self.image_for(&target, &wanted).map_err(|error| match error {
                ImageError::Store(error) => error.into(),
                error => ContainerError::Invalid(error.to_string()),
            })?,
            None => None,
        };
        let id = chosen.or(target.image_id).ok_or_else(|| {
            ContainerError::Invalid(format!("{name} has no image for this machine's platform"))
        })?;
        Ok((id, self.stored_config(&id)?))
    }

    pub(crate) fn stored_config(&self, id: &ImageId) -> Result<ImageConfig, ContainerError> {
        let bytes = self.store().read_blob(&id.digest(), crate::origin::DOCUMENT_BYTES)?;
        serde_json::from_slice(&bytes)
            .map_err(|source| ContainerError::Row { id: id.to_string(), source })
    }

    /// Replaces names of other containers by their ids, and ids of networks by their names.
    fn resolve_namespaces(&self, spec: &mut ContainerSpec) -> Result<(), ContainerError> {
        if let NetworkMode::Network(name) = &spec.network {
            let network = self.find_network(name)?.network;
            spec.network = match network.name.as_str() {
                BRIDGE => NetworkMode::Bridge,
                "host" => NetworkMode::Host,
                "none" => NetworkMode::None,
                _ => NetworkMode::Network(network.name),
            };
        }
        if !spec.aliases.is_empty() && !matches!(spec.network, NetworkMode::Network(_)) {
            let message =
                "network-scoped aliases are only supported for user-defined networks".to_owned();
            return Err(ContainerError::Invalid(message));
        }
        if let NetworkMode::Container(name) = &mut spec.network {
            let other = self.container(name)?;
            spec.hostname = plan::hostname(&other.spec, &other.id);
            spec.domainname = other.spec.domainname;
            *name = other.id;
        }
        if let NamespaceMode::Container(name) = &mut spec.ipc {
            let other = self.container(name)?;
            validate::shares_ipc(name, &other.spec)?;
            *name = other.id;
        }
        for mode in [&mut spec.pid, &mut spec.uts, &mut spec.cgroup] {
            if let NamespaceMode::Container(name) = mode {
                *name = self.container(name)?.id;
            }
        }
        Ok(())
    }

    fn warnings(&self, spec: &ContainerSpec) -> Vec<String> {
        let mut warnings = Vec::new();
        if spec.network == NetworkMode::Host && !spec.publish.is_empty() {
            warnings.push("Published ports are discarded when using host network mode".to_owned());
        }
        if let NetworkMode::Network(name) = &spec.network
            && !spec.publish.is_empty()
            && let Ok(row) = self.network_row(name)
            && NetworkSpec::of(&row.network).is_ok_and(|network| network.internal)
        {
            let warning =
                format!("Published ports are discarded, since network {name} is internal");
            warnings.push(warning);
        }
        let is_loopback6 = |publish: &davit_network::PublishSpec| {
            publish.host_address.is_some_and(|address| address == Ipv6Addr::LOCALHOST)
        };
        if spec.network.bridge().is_some() && spec.publish.iter().any(is_loopback6) {
            // The kernel routes ::1 to no other interface, and there is no proxy process yet.
            warnings.push(
                "Ports published on [::1] are held, but not reachable; publish on 127.0.0.1"
                    .to_owned(),
            );
        }
        warnings
    }
}

/// Names that go into `/etc/hosts` and `/etc/hostname` are one word.
fn check_names(spec: &ContainerSpec) -> Result<(), ContainerError> {
    let hosts = spec.extra_hosts.iter().flat_map(|(name, address)| [name, address]);
    let is_word = |name: &str| !name.contains(|c: char| c.is_whitespace() || c.is_control());
    let own = [&spec.hostname, &spec.domainname];
    match hosts.chain(own).chain(&spec.aliases).find(|name| !is_word(name)) {
        Some(name) => Err(ContainerError::Invalid(format!("invalid hostname format: {name:?}"))),
        None => Ok(()),
    }
}

/// Docker's sentence for a name that is taken.
fn docker_words(error: ClaimError, name: &str) -> ContainerError {
    match error {
        ClaimError::Name { holder, .. } => ContainerError::Conflict(format!(
            "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". \
             You have to remove (or rename) that container to be able to reuse that name."
        )),
        error => error.into(),
    }
}

/// Indices of the mounts whose volumes get their names when they are made.
fn unnamed_volumes(spec: &ContainerSpec) -> Vec<usize> {
    let is_unnamed = |mount: &MountSpec| match &mount.source {
        MountSource::Volume { name, .. } => name.is_empty(),
        _ => false,
    };
    (0..spec.mounts.len()).filter(|index| is_unnamed(&spec.mounts[*index])).collect()
}
