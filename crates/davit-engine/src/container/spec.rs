//! What a container was asked to be, as its row keeps it.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
};

use davit_image::ContainerConfig;
use davit_network::{ExposedPorts, PortRequest, PublishSpec};
use davit_runtime::{
    monitor::{log::LogConfig, spec::RestartPolicy},
    plan::Limits,
};
use serde::{Deserialize, Serialize};

/// A container's specification: the image's defaults merged with the user's wishes.
///
/// Unknown fields of a newer davit are ignored, missing ones have defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    /// The image as the user named it.
    pub image: String,
    /// Docker's `Config`: command, environment, user and so on, after the merge.
    pub config: ContainerConfig,
    /// Host name; empty for the id's beginning.
    pub hostname: String,
    /// NIS domain name.
    pub domainname: String,
    /// Whether there is a terminal.
    pub tty: Tty,
    /// Standard input.
    pub stdin: StdinMode,
    /// Streams that `run` and `create` attach (`-a`), for `inspect` and `start`.
    pub attach: Vec<String>,
    /// Removed by its end.
    pub auto_remove: AutoRemove,
    /// Mounts of every kind, in the order of the command line.
    pub mounts: Vec<MountSpec>,
    /// Which network.
    pub network: NetworkMode,
    /// Ports that `--publish` asks for.
    pub publish: Vec<PublishSpec>,
    /// Whether exposed ports are published too.
    pub publish_all: PublishAll,
    /// Lines for `/etc/hosts`: name and address (`host-gateway` is the bridge).
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers.
    pub dns: Vec<IpAddr>,
    /// Search domains.
    pub dns_search: Vec<String>,
    /// Resolver options.
    pub dns_options: Vec<String>,
    /// Addresses that were asked for.
    pub addresses: Vec<IpAddr>,
    /// Names beside its own that containers of its network find it by.
    pub aliases: Vec<String>,
    /// Resource limits.
    pub limits: Limits,
    /// `--cpus` in billionths of a CPU, for `inspect`.
    pub nano_cpus: i64,
    /// Limits of `setrlimit`: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Size of `/dev/shm` in bytes.
    pub shm_size_bytes: Option<u64>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// What may be done inside.
    pub security: SecuritySpec,
    /// Kernel parameters.
    pub sysctls: BTreeMap<String, String>,
    /// Whether the root filesystem is read-only.
    pub root: RootAccess,
    /// Whether a reaper is process 1.
    pub init: InitMode,
    /// PID namespace.
    pub pid: NamespaceMode,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// UTS namespace.
    pub uts: NamespaceMode,
    /// Cgroup namespace.
    pub cgroup: NamespaceMode,
    /// What happens after its end.
    pub restart: RestartPolicy,
    /// How output is kept.
    pub log: LogConfig,
    /// `--log-opt` as given, for `inspect`.
    pub log_options: BTreeMap<String, String>,
    /// Platform that was asked for.
    pub platform: Option<String>,
    /// Inode numbers and other options of the root filesystem (`--storage-opt`).
    pub storage_options: BTreeMap<String, String>,
}

impl Default for ContainerSpec {
    fn default() -> Self {
        Self {
            image: String::new(),
            config: ContainerConfig::default(),
            hostname: String::new(),
            domainname: String::new(),
            tty: Tty::No,
            stdin: StdinMode::Closed,
            attach: Vec::new(),
            auto_remove: AutoRemove::No,
            mounts: Vec::new(),
            network: NetworkMode::Bridge,
            publish: Vec::new(),
            publish_all: PublishAll::No,
            extra_hosts: Vec::new(),
            dns: Vec::new(),
            dns_search: Vec::new(),
            dns_options: Vec::new(),
            addresses: Vec::new(),
            aliases: Vec::new(),
            limits: Limits::default(),
            nano_cpus: 0,
            ulimits: Vec::new(),
            shm_size_bytes: None,
            oom_score_adj: None,
            security: SecuritySpec::default(),
            sysctls: BTreeMap::new(),
            root: RootAccess::ReadWrite,
            init: InitMode::Command,
            pid: NamespaceMode::Private,
            ipc: NamespaceMode::Private,
            uts: NamespaceMode::Private,
            cgroup: NamespaceMode::Private,
            restart: RestartPolicy::No,
            log: LogConfig::default(),
            log_options: BTreeMap::new(),
            platform: None,
            storage_options: BTreeMap::new(),
        }
    }
}

macro_rules! switch {
    ($(#[$doc:meta])* $name:ident { $(#[$no_doc:meta])* $no:ident, $(#[$yes_doc:meta])* $yes:ident }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name {
            $(#[$no_doc])*
            #[default]
            $no,
            $(#[$yes_doc])*
            $yes,
        }

        impl From<bool> for $name {
            fn from(yes: bool) -> Self {
                if yes { Self::$yes } else { Self::$no }
            }
        }

        impl $name {
            /// Whether it is the second of the two.
            #[must_use]
            pub fn is_on(self) -> bool {
                self == Self::$yes
            }
        }
    };
}

switch!(
    /// Whether a container has a terminal.
    Tty {
        /// Pipes.
        No,
        /// A pseudo-terminal.
        Yes
    }
);
switch!(
    /// Whether a container is removed by its end.
    AutoRemove {
        /// It stays.
        No,
        /// It goes (`--rm`).
        Yes
    }
);
switch!(
    /// Whether all exposed ports are published.
    PublishAll {
        /// Only those that were asked for.
        No,
        /// All (`-P`).
        Yes
    }
);
switch!(
    /// Whether the root filesystem may be written.
    RootAccess {
        /// It may.
        ReadWrite,
        /// It may not (`--read-only`).
        ReadOnly
    }
);
switch!(
    /// What process 1 is.
    InitMode {
        /// The command.
        Command,
        /// A reaper (`--init`).
        Reaper
    }
);

/// Standard input of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StdinMode {
    /// Empty.
    #[default]
    Closed,
    /// Open until the first client ends it (`-i` in the foreground).
    Once,
    /// Open (`-i` detached).
    Open,
}

/// Which network a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkMode {
    /// The root's own bridge.
    #[default]
    Bridge,
    /// The host's.
    Host,
    /// Loopback only.
    None,
    /// Another container's, by id.
    Container(String),
    /// One that a user made, by name.
    Network(String),
}

impl NetworkMode {
    /// Name of the network, if it is one with a bridge.
    #[must_use]
    pub fn bridge(&self) -> Option<&str> {
        match self {
            Self::Bridge => Some("bridge"),
            Self::Network(name) => Some(name),
            Self::Host | Self::None | Self::Container(_) => None,
        }
    }
}

/// Which namespace of one kind a container is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by id.
    Container(String),
    /// Its own, without `/dev/shm`: for IPC alone.
    Bare,
    /// Its own, which others may join: for IPC alone, whose private ones nobody may.
    Shareable,
}

/// What may be done inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecuritySpec {
    /// No protection but the namespaces (`--privileged`).
    pub privileged: bool,
    /// Capabilities added.
    pub cap_add: Vec<String>,
    /// Capabilities dropped.
    pub cap_drop: Vec<String>,
    /// `--security-opt` as given.
    pub options: Vec<String>,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// The filter: `None` is the default one, `unconfined`, or a profile's JSON.
    pub seccomp: Option<String>,
    /// AppArmor profile; `None` is unconfined. Ignored on a machine without AppArmor, as Docker does.
    pub apparmor: Option<String>,
    /// `systempaths=unconfined`: nothing below `/proc` and `/sys` is hidden.
    pub system_paths_unconfined: bool,
    /// Devices as `HOST:CONTAINER:PERMISSIONS`.
    pub devices: Vec<DeviceSpec>,
    /// Rules as of `--device-cgroup-rule`.
    pub device_rules: Vec<String>,
    /// Supplementary groups.
    pub groups: Vec<String>,
}

/// A device of the host shown in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Path on the host, of which a directory stands for the devices in it; or the name of a device
    /// (CDI), whose path and permissions are empty.
    pub host: String,
    /// Path in the container.
    pub container: String,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

/// One mount that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    /// Whether it may be written.
    pub access: RootAccess,
    /// Propagation: `rprivate` unless asked.
    pub propagation: String,
    /// The option string as given (`ro,z`), for `inspect`.
    pub mode: String,
}

/// How a volume is made that a mount names and that is not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeMaking {
    /// Its driver; empty for `local`.
    pub driver: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// What a mount shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountSource {
    /// A path of the host.
    Bind {
        /// Absolute path.
        path: String,
        /// Whether mounts below come along.
        recursive: bool,
        /// Whether these stay writable where the mount itself is read-only.
        #[serde(default)]
        writable_below: bool,
        /// Whether a missing one is made a directory when the container is created: `--volume`
        /// asked for it, not `--mount`.
        #[serde(default)]
        made: bool,
    },
    /// A volume.
    Volume {
        /// Its name; empty for an anonymous one that is still to be made.
        name: String,
        /// Whether an empty one is filled with the image's files.
        copy_up: bool,
        /// A path below the volume.
        subpath: Option<String>,
        /// Whether it was made for this container.
        anonymous: bool,
        /// How it is made if it is not there (`--mount volume-…`).
        #[serde(default)]
        making: VolumeMaking,
        /// Whether `--mount` asked for it: Docker lists those of `--volume` apart.
        #[serde(default)]
        listed: bool,
    },
    /// A tmpfs.
    Tmpfs {
        /// Size limit in bytes.
        size_bytes: Option<u64>,
        /// Mode of its root.
        mode: Option<u32>,
        /// Mount flags as given (`noexec`, `exec`, …); a later one wins.
        flags: Vec<String>,
        /// More options of the filesystem (`uid`, `nr_inodes`, …), as they are.
        #[serde(default)]
        options: Vec<(String, String)>,
        /// Whether `--mount` asked for it: Docker lists those of `--tmpfs` apart.
        #[serde(default)]
        listed: bool,
    },
}

impl MountSource {
    /// Whether `--mount` asked for it.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        match self {
            Self::Bind { made, .. } => !made,
            Self::Volume { listed, .. } | Self::Tmpfs { listed, .. } => *listed,
        }
    }
}

impl ContainerSpec {
    /// Path and arguments that the container runs: entrypoint, then command.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let entrypoint = self.config.entrypoint.iter().flatten();
        entrypoint.chain(self.config.cmd.iter().flatten()).cloned().collect()
    }

    /// Every container port that wants a host port.
    #[must_use]
    pub fn port_requests(&self) -> Vec<PortRequest> {
        let mut requests: Vec<_> = self.publish.iter().flat_map(PublishSpec::requests).collect();
        if self.publish_all.is_on() {
            let known: HashSet<_> =
                requests.iter().map(|request| (request.container_port, request.protocol)).collect();
            let exposed = self.exposed_ports().into_iter().flat_map(ExposedPorts::ports);
            let further = exposed.filter(|port| !known.contains(port));
            requests.extend(further.map(|(container_port, protocol)| PortRequest {
                host_address: None,
                host_ports: None,
                container_port,
                protocol,
            }));
        }
        requests
    }

    /// The exposed ports, in order and each once; what is no port specification is passed over.
    #[must_use]
    pub fn exposed_ports(&self) -> Vec<ExposedPorts> {
        let names = self.config.exposed_ports.iter().flat_map(|ports| ports.keys());
        ExposedPorts::merged(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// Names of the volumes that the container uses.
    pub fn volume_names(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => Some(name.as_str()),
            _ => None,
        })
    }
}
