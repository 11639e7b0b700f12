//! `davit ps`.

use std::collections::BTreeMap;

use davit_image::Timestamp;
use davit_network::{ExposedPorts, PortMapping};
use davit_runtime::monitor::state::Health;
use davit_store::{ContainerFilter, StoreError};

use super::{
    Container, ContainerError, ContainerSpec, MountSource, NetworkMode, Phase, Status,
    network::mappings,
};
use crate::Engine;

/// Which containers to list, by Docker's filters: values of one key are alternatives, except labels.
#[derive(Clone, Debug, Default)]
pub struct ListFilter {
    /// Key and value pairs as given.
    pub terms: Vec<(String, String)>,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct ListRequest {
    /// Also those that do not run.
    pub all: bool,
    /// At most so many, newest first.
    pub last: Option<usize>,
    /// Only those that fit.
    pub filter: ListFilter,
    /// Whether sizes are measured.
    pub size: bool,
}

/// A container as a list shows it.
#[derive(Clone, Debug)]
pub struct ContainerSummary {
    /// Id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Image as the user named it; its id where that names another one by now, or none.
    pub image: String,
    /// Command and arguments.
    pub command: Vec<String>,
    /// When it was created.
    pub created: Timestamp,
    /// What became of it.
    pub status: Status,
    /// Published ports.
    pub ports: Vec<PortMapping>,
    /// Ports that are exposed, published or not: in order and each once.
    pub exposed: Vec<ExposedPorts>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Names of volumes and paths of binds.
    pub mounts: Vec<String>,
    /// Names of networks.
    pub networks: Vec<String>,
    /// Bytes written, and bytes with the image, if measured.
    pub size: Option<(u64, u64)>,
    /// Whether it has a health check.
    pub health: Option<Health>,
}

impl Engine {
    /// Lists containers, newest first.
    ///
    /// # Errors
    /// An unknown filter; what the store says.
    pub fn list_containers(
        &self,
        request: &ListRequest,
    ) -> Result<Vec<ContainerSummary>, ContainerError> {
        let filter = Filter::new(self, &request.filter)?;
        let all = request.all || request.last.is_some() || filter.asks_for_state();
        let mut found = Vec::new();
        for row in self.store().containers(&ContainerFilter::default())? {
            if !all && row.status != "running" {
                continue;
            }
            let Some(container) = self.examine(row)? else { continue };
            if (all || container.status.phase.is_alive()) && filter.fits(self, &container)? {
                found.push(container);
            }
            if request.last.is_some_and(|last| found.len() >= last) {
                break;
            }
        }
        found.into_iter().map(|container| self.summary(container, request.size)).collect()
    }

    fn summary(
        &self,
        container: Container,
        size: bool,
    ) -> Result<ContainerSummary, ContainerError> {
        let published = if container.status.phase.is_alive() {
            self.store().ports(Some(&container.id))?
        } else {
            Vec::new()
        };
        let size = if size { Some(self.sizes(&container)?) } else { None };
        let health = container.status.health.map(|(health, _)| health);
        let image = self.image_shown(&container)?;
        let Container { id, name, spec, status, created, .. } = container;
        Ok(ContainerSummary {
            command: spec.arguments(),
            ports: mappings(published.into_iter().map(|row| row.port)),
            exposed: spec.exposed_ports(),
            labels: spec.config.labels.clone().unwrap_or_default(),
            mounts: spec.mounts.iter().filter_map(mount_name).collect(),
            networks: vec![network_name(&spec.network)],
            image,
            id,
            name,
            created,
            status,
            size,
            health,
        })
    }

    /// The image's name as long as it names the same image, else its id.
    fn image_shown(&self, container: &Container) -> Result<String, ContainerError> {
        let name = &container.spec.image;
        let Some(id) = container.image_id else { return Ok(name.clone()) };
        let still = match self.store().find_image(name) {
            Ok(found) if found.target.image_id == Some(id) => true,
            // The container may be of another platform than the one that the name stands for. A
            // name whose documents cannot be read leads nowhere: the list shows the id.
            Ok(found) => self.store().image(&id)?.is_some_and(|image| {
                matches!(self.image_for(&found.target, &image.platform), Ok(Some(own)) if own == id)
            }),
            Err(StoreError::NotFound { .. } | StoreError::Ambiguous { .. }) => false,
            Err(error) => return Err(error.into()),
        };
        Ok(if still { name.clone() } else { id.to_string() })
    }

    /// Bytes that a container has written, and bytes with its image.
    pub(crate) fn sizes(&self, container: &Container) -> Result<(u64, u64), ContainerError> {
        let own = self.size_of(&container.id);
        let image = match &container.image_id {
            Some(id) => self.store().image(id)?.map_or(0, |row| row.size),
            None => 0,
        };
        Ok((own, own + image))
    }
}

fn mount_name(mount: &super::MountSpec) -> Option<String> {
    match &mount.source {
        MountSource::Bind { path, .. } => Some(path.clone()),
        MountSource::Volume { name, .. } => Some(name.clone()),
        MountSource::Tmpfs { .. } => None,
    }
}

/// Docker's name of a network mode.
pub(crate) fn network_name(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Bridge => "bridge".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Container(id) => format!("container:{id}"),
        NetworkMode::Network(name) => name.clone(),
    }
}

const KEYS: [&str; 13] = [
    "ancestor", "before", "exited", "expose", "health", "id", "is-task", "label", "name",
    "network", "publish", "since", "status",
];

/// Filters with what they refer to looked up.
struct Filter {
    terms: BTreeMap<String, Vec<String>>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    names: Vec<regex::Regex>,
}

impl Filter {
    fn new(engine: &Engine, filter: &ListFilter) -> Result<Self, ContainerError> {
        let mut terms: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (key, value) in &filter.terms {
            if !KEYS.contains(&key.as_str()) && key != "volume" {
                return Err(ContainerError::Invalid(format!("invalid filter '{key}'")));
            }
            if !is_valid(key, value) {
                return Err(ContainerError::Invalid(format!("invalid filter '{key}={value}'")));
            }
            terms.entry(key.clone()).or_default().push(value.clone());
        }
        let time = |key: &str| match terms.get(key).and_then(|values| values.first()) {
            Some(name) => engine.container(name).map(|container| Some(container.created)),
            None => Ok(None),
        };
        let pattern = |text: &String| {
            regex::Regex::new(text).map_err(|error| {
                ContainerError::Invalid(format!("invalid filter 'name={text}': {error}"))
            })
        };
        let (before, since) = (time("before")?, time("since")?);
        let names =
            terms.get("name").into_iter().flatten().map(pattern).collect::<Result<_, _>>()?;
        Ok(Self { terms, before, since, names })
    }

    fn asks_for_state(&self) -> bool {
        self.terms.contains_key("status") || self.terms.contains_key("exited")
    }

    /// Whether one of the values of `key` fits, or there is none.
    fn any(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.terms.get(key).is_none_or(|values| values.iter().any(|value| fits(value)))
    }

    fn fits(&self, engine: &Engine, container: &Container) -> Result<bool, ContainerError> {
        let Container { id, name, spec, status, .. } = container;
        let labels = spec.config.labels.clone().unwrap_or_default();
        let wanted = self.terms.get("label").into_iter().flatten();
        let by_state = self.any("id", |value| id.starts_with(value))
            && self.fits_name(name)
            && wanted.clone().all(|term| label_fits(&labels, term))
            && self.any("status", |value| value == status.phase.word())
            && self.any("exited", |value| {
                status.phase == Phase::Exited && value.parse() == Ok(status.exit_code)
            })
            && self.any("health", |value| value == health_word(status))
            && self.before.is_none_or(|time| container.created < time)
            && self.since.is_none_or(|time| container.created > time);
        Ok(by_state
            && self.fits_spec(spec)
            && self.fits_image(engine, container)
            && self.fits_ports(engine, container)?)
    }

    /// Docker's names begin with a slash, which users leave out.
    fn fits_name(&self, name: &str) -> bool {
        let whole = format!("/{name}");
        let fits = |pattern: &regex::Regex| pattern.is_match(name) || pattern.is_match(&whole);
        self.names.is_empty() || self.names.iter().any(fits)
    }

    fn fits_spec(&self, spec: &ContainerSpec) -> bool {
        self.any("network", |value| network_name(&spec.network) == value)
            && self.any("is-task", |value| !matches!(value, "true" | "1"))
            && self.any("expose", |value| {
                value.parse().is_ok_and(|wanted: ExposedPorts| {
                    spec.exposed_ports().iter().any(|ports| {
                        ports.protocol == wanted.protocol
                            && ports.first <= wanted.last
                            && wanted.first <= ports.last
                    })
                })
            })
            && self.any("volume", |value| {
                let named = |mount: &super::MountSpec| mount_name(mount).as_deref() == Some(value);
                spec.mounts.iter().any(|mount| named(mount) || mount.target == value)
            })
    }

    fn fits_image(&self, engine: &Engine, container: &Container) -> bool {
        self.any("ancestor", |value| {
            let found =
                engine.store().find_image(value).ok().and_then(|found| found.target.image_id);
            container.spec.image == value || (found.is_some() && found == container.image_id)
        })
    }

    fn fits_ports(&self, engine: &Engine, container: &Container) -> Result<bool, ContainerError> {
        if !self.terms.contains_key("publish") {
            return Ok(true);
        }
        let ports = engine.store().ports(Some(&container.id))?;
        let ports = mappings(ports.into_iter().map(|row| row.port));
        Ok(self.any("publish", |value| {
            value.parse().is_ok_and(|wanted: ExposedPorts| {
                let fits = |port: &PortMapping| {
                    port.protocol == wanted.protocol
                        && (wanted.first..=wanted.last).contains(&port.host_port)
                };
                ports.iter().any(fits)
            })
        }))
    }
}

/// Whether the value of a filter can be one at all.
fn is_valid(key: &str, value: &str) -> bool {
    const STATES: [&str; 7] =
        ["created", "dead", "exited", "paused", "removing", "restarting", "running"];
    match key {
        "status" => STATES.contains(&value),
        "health" => ["healthy", "none", "starting", "unhealthy"].contains(&value),
        "exited" => value.parse::<i32>().is_ok(),
        "is-task" => ["0", "1", "false", "true"].contains(&value),
        "expose" | "publish" => value.parse::<ExposedPorts>().is_ok(),
        _ => true,
    }
}

/// Whether labels hold `key` or `key=value`.
#[must_use]
pub(crate) fn label_fits(labels: &BTreeMap<String, String>, term: &str) -> bool {
    match term.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(term),
    }
}

fn health_word(status: &Status) -> &'static str {
    match status.health.map(|(health, _)| health) {
        None => "none",
        Some(Health::Starting) => "starting",
        Some(Health::Healthy) => "healthy",
        Some(Health::Unhealthy) => "unhealthy",
    }
}
