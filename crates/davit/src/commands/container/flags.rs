//! The options that `run` and `create` share, with Docker's meaning.

use davit_engine::{
    container::{ContainerSpec, CreateRequest, InitMode, NamespaceMode, StdinMode, device_rule},
    image::{ContainerConfig, Empty, HealthConfig},
};

use super::{mounts, values};
use crate::{commands::ContentTrust, error::CliError};

// Options of `run` and `create`.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ContainerFlags {
    /// Add a custom host-to-IP mapping (host:ip)
    #[arg(long, value_name = "HOST:IP")]
    add_host: Vec<String>,
    /// Attach to STDIN, STDOUT or STDERR
    #[arg(short, long, value_name = "STREAM")]
    pub(crate) attach: Vec<String>,
    /// Add Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Drop Linux capabilities
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// Cgroup namespace to use (host|private)
    #[arg(long, value_name = "MODE")]
    cgroupns: Option<String>,
    /// Write the container ID to the file
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<std::path::PathBuf>,
    /// Number of CPUs
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// CPU shares (relative weight)
    #[arg(short, long, value_name = "N")]
    cpu_shares: Option<u64>,
    /// Limit CPU CFS (Completely Fair Scheduler) period
    #[arg(long, value_name = "US")]
    cpu_period: Option<u64>,
    /// Limit CPU CFS (Completely Fair Scheduler) quota
    #[arg(long, value_name = "US")]
    cpu_quota: Option<i64>,
    /// CPUs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// MEMs in which to allow execution (0-3, 0,1)
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Add a host device to the container
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    device: Vec<String>,
    /// Add a rule to the cgroup allowed devices list
    #[arg(long, value_name = "RULE")]
    device_cgroup_rule: Vec<String>,
    /// Set custom DNS servers
    #[arg(long, value_name = "IP")]
    dns: Vec<std::net::IpAddr>,
    /// Set DNS options
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Set custom DNS search domains
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Container NIS domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Overwrite the default ENTRYPOINT of the image
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Read in a file of environment variables
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Expose a port or a range of ports
    #[arg(long, value_name = "PORT")]
    expose: Vec<String>,
    /// Add additional groups to join
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Command to run to check health
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Time between running the check (ms|s|m|h)
    #[arg(long, value_name = "DURATION")]
    health_interval: Option<String>,
    /// Consecutive failures needed to report unhealthy
    #[arg(long, value_name = "N")]
    health_retries: Option<i64>,
    /// Start period for the container to initialize before failures count (ms|s|m|h)
    #[arg(long, value_name = "DURATION")]
    health_start_period: Option<String>,
    /// Time between checks within the start period (ms|s|m|h)
    #[arg(long, value_name = "DURATION")]
    health_start_interval: Option<String>,
    /// Maximum time to allow one check to run (ms|s|m|h)
    #[arg(long, value_name = "DURATION")]
    health_timeout: Option<String>,
    /// Container host name
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Run an init inside the container that forwards signals and reaps processes
    #[arg(long)]
    init: bool,
    /// Keep STDIN open even if not attached
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<std::net::Ipv6Addr>,
    /// IPC mode to use (host|private|shareable|none|container:NAME)
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// Set meta data on a container
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Read in a line delimited file of labels
    #[arg(long, value_name = "FILE")]
    label_file: Vec<std::path::PathBuf>,
    /// Logging driver for the container (json-file|local|none)
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Log driver options
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// Memory limit
    #[arg(short, long, value_name = "BYTES")]
    memory: Option<String>,
    /// Memory soft limit
    #[arg(long, value_name = "BYTES")]
    memory_reservation: Option<String>,
    /// Memory plus swap; -1 to enable unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Tune container memory swappiness (0 to 100)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    memory_swappiness: Option<i64>,
    /// Attach a filesystem mount to the container
    #[arg(long, value_name = "type=TYPE,…")]
    mount: Vec<String>,
    /// Assign a name to the container
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Connect a container to a network (bridge|host|none|container:NAME|NETWORK)
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Vec<String>,
    /// Add network-scoped alias for the container
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Disable any container-specified HEALTHCHECK
    #[arg(long)]
    no_healthcheck: bool,
    /// Tune host's OOM preferences (-1000 to 1000)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    oom_score_adj: Option<i32>,
    /// PID namespace to use (host|container:NAME)
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// Tune container pids limit (-1 for unlimited)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pids_limit: Option<i64>,
    /// Platform to choose from a multi-platform image
    #[arg(long, env = "DOCKER_DEFAULT_PLATFORM", hide_env = true, value_name = "OS/ARCH")]
    pub(crate) platform: Option<davit_engine::image::Platform>,
    /// Give extended privileges to this container
    #[arg(long)]
    privileged: bool,
    /// Publish a container's ports to the host
    #[arg(short, long, value_name = "[[IP:]HOST:]PORT[/PROTOCOL]")]
    publish: Vec<String>,
    /// Publish all exposed ports to random ports
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Pull the image before running (always|missing|never)
    #[arg(long, value_name = "POLICY", default_value = "missing")]
    pub(crate) pull: String,
    /// Suppress the pull output
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Mount the container's root filesystem as read only
    #[arg(long)]
    read_only: bool,
    /// Restart policy to apply when a container exits (no|on-failure[:N]|always|unless-stopped)
    #[arg(long, value_name = "POLICY", default_value = "no")]
    restart: String,
    /// Automatically remove the container and its anonymous volumes when it exits
    #[arg(long)]
    rm: bool,
    /// Security options
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Signal to stop the container
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Timeout (in seconds) to stop a container
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    stop_timeout: Option<i64>,
    /// Storage driver options (xino=on|off|auto)
    #[arg(long, value_name = "KEY=VALUE")]
    storage_opt: Vec<String>,
    /// Sysctl options
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// Mount a tmpfs directory
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    tmpfs: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Ulimit options
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Username or UID (format: <name|uid>[:<group|gid>])
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// UTS namespace to use (host)
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// Bind mount a volume
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    volume: Vec<String>,
    /// Mount volumes from the specified container(s)
    #[arg(long, value_name = "CONTAINER[:ro]")]
    pub(crate) volumes_from: Vec<String>,
    /// Working directory inside the container
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    #[command(flatten)]
    content_trust: ContentTrust,
}

/// `--help` without a letter: `-h` is the host name.
pub(crate) fn help() -> clap::Arg {
    let help = clap::Arg::new("help").long("help").help("Print help");
    help.action(clap::ArgAction::Help).display_order(999)
}

/// Whether the command stays attached, which decides what standard input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attachment {
    /// In the foreground, or `create`, which leaves it to `start`.
    Foreground,
    /// `-d`.
    Detached,
}

impl ContainerFlags {
    /// Makes the request for `image` and the words after it.
    ///
    /// # Errors
    /// An option that means nothing, with exit code 125.
    pub(crate) fn request(
        &self,
        image: &str,
        command: &[String],
        attachment: Attachment,
    ) -> Result<CreateRequest, CliError> {
        let mut spec = ContainerSpec { image: image.to_owned(), ..ContainerSpec::default() };
        spec.config = self.config(command)?;
        self.process(&mut spec, attachment)?;
        self.network(&mut spec)?;
        self.resources(&mut spec)?;
        self.security(&mut spec)?;
        spec.mounts = mounts::parse(&self.volume, &self.mount, &self.tmpfs)?;
        let (log, options) = values::log(self.log_driver.as_deref(), &self.log_opt)?;
        (spec.log, spec.log_options) = (log, options);
        spec.restart = values::restart(&self.restart)?;
        if self.rm && self.restart != "no" {
            return Err(CliError::usage(
                "conflicting options: cannot specify both --restart and --rm",
            ));
        }
        spec.config.volumes = mounts::anonymous(&self.volume)?;
        let name = self.name.clone().filter(|name| !name.is_empty());
        Ok(CreateRequest { name, spec })
    }

    fn config(&self, command: &[String]) -> Result<ContainerConfig, CliError> {
        let mut env = values::env_files(&self.env_file)?;
        env.extend(values::environment(&self.env)?);
        let exposed: std::collections::BTreeMap<String, Empty> =
            values::exposed(&self.expose, &self.publish)?;
        let labels = values::labels(&self.label_file, &self.label)?;
        Ok(ContainerConfig {
            user: self.user.clone().unwrap_or_default(),
            exposed_ports: Some(exposed).filter(|ports| !ports.is_empty()),
            env: Some(env).filter(|env| !env.is_empty()),
            entrypoint: self.entrypoint.clone().map(|word| vec![word]),
            cmd: Some(command.to_vec()).filter(|command| !command.is_empty()),
            healthcheck: self.health()?,
            working_dir: self.workdir.clone().unwrap_or_default(),
            labels: Some(labels).filter(|labels| !labels.is_empty()),
            stop_signal: self.stop_signal.clone(),
            stop_timeout: self.stop_timeout,
            ..ContainerConfig::default()
        })
    }

    fn health(&self) -> Result<Option<HealthConfig>, CliError> {
        let given = [
            &self.health_cmd,
            &self.health_interval,
            &self.health_timeout,
            &self.health_start_period,
            &self.health_start_interval,
        ];
        if self.no_healthcheck {
            if given.iter().any(|flag| flag.is_some()) || self.health_retries.is_some() {
                return Err(CliError::usage("--no-healthcheck conflicts with --health-* options"));
            }
            return Ok(Some(HealthConfig {
                test: Some(vec!["NONE".to_owned()]),
                ..HealthConfig::default()
            }));
        }
        if self.health_retries.is_some_and(|retries| retries < 0) {
            return Err(CliError::usage("--health-retries cannot be negative"));
        }
        let time =
            |text: &Option<String>| text.as_deref().map_or(Ok(0), values::duration_nanoseconds);
        let health = HealthConfig {
            test: self.health_cmd.clone().map(|command| vec!["CMD-SHELL".to_owned(), command]),
            interval: time(&self.health_interval)?,
            timeout: time(&self.health_timeout)?,
            start_period: time(&self.health_start_period)?,
            start_interval: time(&self.health_start_interval)?,
            retries: self.health_retries.unwrap_or(0),
            ..HealthConfig::default()
        };
        Ok(Some(health).filter(|health| *health != HealthConfig::default()))
    }

    fn process(&self, spec: &mut ContainerSpec, attachment: Attachment) -> Result<(), CliError> {
        spec.hostname = self.hostname.clone().unwrap_or_default();
        spec.domainname = self.domainname.clone().unwrap_or_default();
        spec.tty = self.tty.into();
        spec.stdin = match (self.interactive, attachment) {
            (false, _) => StdinMode::Closed,
            (true, Attachment::Foreground) => StdinMode::Once,
            (true, Attachment::Detached) => StdinMode::Open,
        };
        self.attach.iter().try_for_each(|name| values::stream(name).map(drop))?;
        spec.attach = self.attached(attachment);
        spec.auto_remove = self.rm.into();
        spec.init = if self.init { InitMode::Reaper } else { InitMode::Command };
        spec.root = self.read_only.into();
        spec.pid = namespace("pid", self.pid.as_deref())?;
        spec.ipc = namespace("ipc", self.ipc.as_deref())?;
        spec.uts = namespace("uts", self.uts.as_deref())?;
        spec.cgroup = namespace("cgroupns", self.cgroupns.as_deref())?;
        spec.platform = self.platform.as_ref().map(ToString::to_string);
        spec.storage_options = values::pairs("storage-opt", &self.storage_opt)?;
        Ok(())
    }

    /// Docker's three: those of `-a`, standard input with `-i`; none with `-d`.
    pub(super) fn attached(&self, attachment: Attachment) -> Vec<String> {
        if attachment == Attachment::Detached {
            return Vec::new();
        }
        let mut streams = self.attach.clone();
        if streams.is_empty() {
            streams = vec!["stdout".to_owned(), "stderr".to_owned()];
        }
        if self.interactive {
            streams.push("stdin".to_owned());
        }
        streams
    }

    fn network(&self, spec: &mut ContainerSpec) -> Result<(), CliError> {
        spec.network = values::network_mode(&self.network)?;
        spec.aliases.clone_from(&self.network_alias);
        for text in &self.publish {
            spec.publish.push(text.parse().map_err(|error| CliError::usage(format!("{error}")))?);
        }
        spec.publish_all = self.publish_all.into();
        spec.extra_hosts = values::extra_hosts(&self.add_host)?;
        spec.dns.clone_from(&self.dns);
        spec.dns_search.clone_from(&self.dns_search);
        spec.dns_options.clone_from(&self.dns_option);
        spec.addresses =
            self.ip.map(Into::into).into_iter().chain(self.ip6.map(Into::into)).collect();
        spec.sysctls = values::sysctls(&self.sysctl)?;
        Ok(())
    }

    fn resources(&self, spec: &mut ContainerSpec) -> Result<(), CliError> {
        let bytes = |flag: &str, text: &Option<String>| {
            text.as_deref().map(|text| values::size(flag, text)).transpose()
        };
        let limits = &mut spec.limits;
        limits.memory_bytes = bytes("-m, --memory", &self.memory)?.filter(|bytes| *bytes > 0);
        limits.memory_reservation_bytes =
            bytes("--memory-reservation", &self.memory_reservation)?.filter(|bytes| *bytes > 0);
        limits.memory_swap_bytes = match self.memory_swap.as_deref() {
            None | Some("0") => None,
            Some("-1") => Some(-1),
            Some(text) => {
                let bytes = values::size("--memory-swap", text)?;
                Some(i64::try_from(bytes).unwrap_or(i64::MAX))
            }
        };
        if let Some(value) = self.memory_swappiness.filter(|value| !(-1..=100).contains(value)) {
            return Err(CliError::usage(format!(
                "invalid value: {value}, valid memory swappiness range is 0-100"
            )));
        }
        limits.memory_swappiness =
            self.memory_swappiness.and_then(|value| u64::try_from(value).ok());
        limits.cpu_shares = self.cpu_shares.filter(|shares| *shares > 0);
        limits.cpu_period_us = self.cpu_period.filter(|period| *period > 0);
        limits.cpu_quota_us = self.cpu_quota.filter(|quota| *quota != 0);
        limits.cpuset_cpus.clone_from(&self.cpuset_cpus);
        limits.cpuset_mems.clone_from(&self.cpuset_mems);
        limits.pids = self.pids_limit.filter(|pids| *pids > 0);
        if let Some(cpus) = &self.cpus {
            let nano = values::nano_cpus(cpus)?;
            spec.nano_cpus = nano;
            if nano != 0 && (limits.cpu_period_us.is_some() || limits.cpu_quota_us.is_some()) {
                let other = if limits.cpu_period_us.is_some() { "Period" } else { "Quota" };
                return Err(CliError::usage(format!(
                    "Conflicting options: Nano CPUs and CPU {other} cannot both be set"
                )));
            }
            if nano > 0 {
                limits.cpu_period_us = Some(100_000);
                limits.cpu_quota_us = Some(nano / 10_000);
            }
        }
        spec.ulimits =
            self.ulimit.iter().map(|text| values::ulimit(text)).collect::<Result<_, _>>()?;
        spec.shm_size_bytes = bytes("--shm-size", &self.shm_size)?.filter(|bytes| *bytes > 0);
        spec.oom_score_adj = self.oom_score_adj;
        Ok(())
    }

    fn security(&self, spec: &mut ContainerSpec) -> Result<(), CliError> {
        let security = &mut spec.security;
        security.privileged = self.privileged;
        security.cap_add.clone_from(&self.cap_add);
        security.cap_drop.clone_from(&self.cap_drop);
        security.groups.clone_from(&self.group_add);
        for rule in &self.device_cgroup_rule {
            device_rule(rule).map_err(|error| CliError::usage(error.to_string()))?;
        }
        security.device_rules.clone_from(&self.device_cgroup_rule);
        security.devices =
            self.device.iter().map(|text| values::device(text)).collect::<Result<_, _>>()?;
        values::security(&self.security_opt, security)
    }
}

fn namespace(kind: &str, text: Option<&str>) -> Result<NamespaceMode, CliError> {
    match text {
        None | Some("") => Ok(NamespaceMode::Private),
        Some("host") => Ok(NamespaceMode::Host),
        Some("private") if matches!(kind, "ipc" | "cgroupns") => Ok(NamespaceMode::Private),
        Some("shareable") if kind == "ipc" => Ok(NamespaceMode::Shareable),
        Some("none") if kind == "ipc" => Ok(NamespaceMode::Bare),
        Some(other) => match other.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Ok(NamespaceMode::Container(name.to_owned())),
            _ => {
                let name = kind.trim_end_matches("ns").to_uppercase();
                Err(CliError::usage(format!("--{kind}: invalid {name} mode")))
            }
        },
    }
}
