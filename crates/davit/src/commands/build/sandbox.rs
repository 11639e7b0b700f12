//! What `davit build` gives to `RUN` steps: secrets, agents, entitlements, limits.

use std::{
    collections::BTreeMap,
    io::Read as _,
    os::unix::{ffi::OsStringExt, fs::FileTypeExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use davit_engine::build::{
    Agent, Entitlement, Invalidation, KeyError, Keys, Limits, MountAccess, Origin, Rlimit, Sandbox,
    Secret, StepVolume, VolumeSource,
};
use davit_engine::container::{MountSource, MountSpec};

use crate::{
    commands::container::{
        mounts::{self, long::split_csv},
        values,
    },
    environment,
    error::{CliError, io_error},
    plugin,
};

/// Largest secret in bytes, as BuildKit's.
const SECRET_LIMIT: u64 = 500 << 10;
/// Where an agent's socket is named.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";
/// The agent of repositories.
const DEFAULT_AGENT: &str = "default";

// Arguments of `davit build` for its commands.
#[derive(Debug, clap::Args)]
pub(super) struct SandboxArgs {
    /// Give RUN steps a secret: id=ID[,src=FILE|,env=VARIABLE][,invalidate=true]
    #[arg(long = "secret", value_name = "SPEC")]
    secrets: Vec<String>,
    /// Let RUN steps use an SSH agent (that of SSH_AUTH_SOCK) or keys
    #[arg(long = "ssh", value_name = "ID[=SOCKET[,raw=true]|KEY,...]")]
    agents: Vec<String>,
    /// Allow what a Dockerfile may not ask for otherwise: network.host, security.insecure, device or
    /// device=NAME
    #[arg(long = "allow", value_name = "ENTITLEMENT")]
    allowed: Vec<String>,
    /// Mount a directory or volume into RUN steps: read-only, its content part of their cache keys, or
    /// rw, then not
    #[arg(short, long = "volume", value_name = "SOURCE:TARGET[:ro|rw]")]
    volumes: Vec<String>,
    /// Size of /dev/shm of RUN steps
    #[arg(long, value_name = "BYTES")]
    shm_size: Option<String>,
    /// Limit of the processes of RUN steps
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// Cgroup below which RUN steps run
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Limit each RUN step: memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus or
    /// cpuset-mems
    #[arg(long = "resource", value_name = "KEY=VALUE")]
    resources: Vec<String>,
    #[command(flatten)]
    older: OlderLimits,
}

// The names that limits had before `--resource`, which comes after all of them.
#[derive(Debug, clap::Args)]
struct OlderLimits {
    #[arg(long, short, hide = true, value_name = "VALUE")]
    memory: Vec<String>,
    #[arg(long, hide = true, value_name = "VALUE")]
    memory_swap: Vec<String>,
    #[arg(long, short, hide = true, value_name = "VALUE")]
    cpu_shares: Vec<String>,
    #[arg(long, hide = true, value_name = "VALUE")]
    cpu_period: Vec<String>,
    #[arg(long, hide = true, value_name = "VALUE")]
    cpu_quota: Vec<String>,
    #[arg(long, hide = true, value_name = "VALUE")]
    cpuset_cpus: Vec<String>,
    #[arg(long, hide = true, value_name = "VALUE")]
    cpuset_mems: Vec<String>,
}

impl OlderLimits {
    /// As `--resource` says them.
    fn fields(&self) -> impl Iterator<Item = String> {
        let named = [
            ("memory", &self.memory),
            ("memory-swap", &self.memory_swap),
            ("cpu-shares", &self.cpu_shares),
            ("cpu-period", &self.cpu_period),
            ("cpu-quota", &self.cpu_quota),
            ("cpuset-cpus", &self.cpuset_cpus),
            ("cpuset-mems", &self.cpuset_mems),
        ];
        named
            .into_iter()
            .flat_map(|(key, values)| values.iter().map(move |value| format!("{key}={value}")))
    }
}

impl SandboxArgs {
    /// What a Dockerfile or an output may do that is not allowed otherwise.
    pub(super) fn allowed(&self) -> &[String] {
        &self.allowed
    }

    /// Reads all of it, files and variables with secrets included. A context that comes `over_ssh`
    /// does so by the agent of the session, if none is given.
    ///
    /// # Errors
    /// What is mistyped; a secret or socket that is not there.
    pub(super) fn read(&self, over_ssh: bool) -> Result<Sandbox, CliError> {
        let shm_size = self.shm_size.as_deref().map(|text| values::size("--shm-size", text));
        let ulimit = |text: &String| {
            let (name, soft, hard) = values::ulimit(text)?;
            Ok(Rlimit { name, soft, hard, origin: Origin::Asked })
        };
        let mut sandbox = Sandbox {
            shm_size_bytes: shm_size.transpose()?.filter(|bytes| *bytes > 0),
            ulimits: self.ulimits.iter().map(ulimit).collect::<Result<_, CliError>>()?,
            cgroup_parent: self.cgroup_parent.as_deref().map(cgroup_parent).transpose()?.flatten(),
            limits: limits(self.older.fields().chain(fields(&self.resources)))?,
            volumes: volumes(&self.volumes)?,
            secrets: self.secrets.iter().map(|text| secret(text)).collect::<Result<_, _>>()?,
            agents: match (&self.agents[..], over_ssh, environment::variable(AGENT_VARIABLE)) {
                ([], true, Some(_)) => agents(&[DEFAULT_AGENT.to_owned()])?,
                (given, ..) => agents(given)?,
            },
            ..Sandbox::default()
        };
        for text in &self.allowed {
            sandbox.entitlements.extend(entitlement(text)?);
        }
        Ok(sandbox)
    }
}

fn volumes(texts: &[String]) -> Result<Vec<StepVolume>, CliError> {
    if let Some(text) = texts.first().filter(|_| plugin::is_called()) {
        // It knows no such option.
        let refused = CliError::usage(format!("unknown flag: --volume {text}"));
        return Err(refused.hint("davit build --volume takes it"));
    }
    let read = mounts::parse(texts, &[], &[])?;
    read.into_iter().map(|mount| volume(mount, texts)).collect()
}

/// A volume of a build among those of a container.
fn volume(mount: MountSpec, texts: &[String]) -> Result<StepVolume, CliError> {
    let access = match mount.mode.as_str() {
        "" | "ro" => MountAccess::ReadOnly,
        "rw" => MountAccess::ReadWrite,
        other => {
            let message = format!("`{other}` is nothing that a volume of a build can be");
            return Err(CliError::usage(message).hint("ro (the default) or rw"));
        }
    };
    let source = match mount.source {
        MountSource::Bind { path, .. } => VolumeSource::Directory(path.into()),
        MountSource::Volume { name, .. } if !name.is_empty() => VolumeSource::Named(name),
        _ => {
            let shown = texts.join(" ");
            let message = format!("a volume of a build has a source: {shown}");
            return Err(CliError::usage(message).hint("--volume SOURCE:TARGET"));
        }
    };
    Ok(StepVolume { source, target: mount.target, access })
}

/// `None` for what is known and asks for nothing here.
fn entitlement(text: &str) -> Result<Option<Entitlement>, CliError> {
    match text {
        "network.host" => Ok(Some(Entitlement::NetworkHost)),
        "security.insecure" => Ok(Some(Entitlement::SecurityInsecure)),
        "device" => Ok(Some(Entitlement::AllDevices)),
        "buildx.local.delete" => Ok(None),
        _ => match text.strip_prefix("device=") {
            Some(name) if !name.is_empty() && !name.contains(',') => {
                Ok(Some(Entitlement::Device(name.to_owned())))
            }
            _ => Err(CliError::usage(format!("unknown entitlement {text}"))
                .hint("--allow takes network.host, security.insecure, device and device=NAME")),
        },
    }
}

fn cgroup_parent(text: &str) -> Result<Option<String>, CliError> {
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(CliError::usage(format!("`{text}` is no path of a cgroup")));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// The fields of several values of `--resource`.
fn fields(texts: &[String]) -> impl Iterator<Item = String> {
    texts.iter().flat_map(|text| split_csv(text))
}

fn limits(fields: impl Iterator<Item = String>) -> Result<Limits, CliError> {
    let mut limits = Limits::default();
    for field in fields {
        let wrong = || CliError::usage(format!("invalid resource limit: {field:?}"));
        let (key, value) = field.split_once('=').ok_or_else(wrong)?;
        let bytes = || values::bytes(value).map_err(|_| wrong());
        match key.to_ascii_lowercase().as_str() {
            "memory" => limits.memory_bytes = Some(bytes()?),
            "memory-swap" if value == "-1" => limits.memory_swap_bytes = Some(-1),
            "memory-swap" => {
                limits.memory_swap_bytes = Some(i64::try_from(bytes()?).map_err(|_| wrong())?);
            }
            "cpu-shares" => limits.cpu_shares = Some(value.parse().map_err(|_| wrong())?),
            "cpu-period" => limits.cpu_period_us = Some(value.parse().map_err(|_| wrong())?),
            "cpu-quota" => limits.cpu_quota_us = Some(value.parse().map_err(|_| wrong())?),
            "cpuset-cpus" => limits.cpuset_cpus = Some(value.to_owned()),
            "cpuset-mems" => limits.cpuset_mems = Some(value.to_owned()),
            _ => {
                return Err(wrong().hint(
                    "memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus and \
                     cpuset-mems can be limited",
                ));
            }
        }
    }
    Ok(limits)
}

/// What one `--secret` says.
#[derive(Default)]
struct SecretSpec {
    id: String,
    kind: Option<String>,
    source: Option<String>,
    variable: Option<String>,
    invalidation: Invalidation,
}

fn secret(text: &str) -> Result<(String, Secret), CliError> {
    let mut spec = SecretSpec::default();
    for field in split_csv(text) {
        let (key, value) = field.split_once('=').unwrap_or((&field, "true"));
        match (key.to_ascii_lowercase().as_str(), field.contains('=')) {
            ("invalidate", _) => spec.invalidation = invalidation(value)?,
            (_, false) => {
                let message = format!("invalid field '{field}' must be a key=value pair");
                return Err(CliError::usage(message));
            }
            ("id", _) => value.clone_into(&mut spec.id),
            ("type", _) if matches!(value, "file" | "env") => spec.kind = Some(value.to_owned()),
            ("type", _) => {
                return Err(CliError::usage(format!("unsupported secret type {value:?}")));
            }
            ("source" | "src", _) => spec.source = Some(value.to_owned()),
            ("env", _) => spec.variable = Some(value.to_owned()),
            (key, _) => {
                let message = format!("unexpected key '{key}' in '{field}'");
                return Err(
                    CliError::usage(message).hint("a secret has id, type, src, env and invalidate")
                );
            }
        }
    }
    let value = spec.value()?;
    Ok((spec.id, Secret::new(value, spec.invalidation)))
}

fn invalidation(value: &str) -> Result<Invalidation, CliError> {
    match value {
        "true" | "1" => Ok(Invalidation::OnChange),
        "false" | "0" => Ok(Invalidation::Never),
        _ => Err(CliError::usage(format!("invalidate={value} is neither true nor false"))),
    }
}

impl SecretSpec {
    fn value(&self) -> Result<Vec<u8>, CliError> {
        if self.id.is_empty() {
            return Err(CliError::usage("a secret needs an id").hint("--secret id=ID,src=FILE"));
        }
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (mut source, mut variable) = (filled(&self.source), filled(&self.variable));
        if self.kind.as_deref() == Some("env") && variable.is_none() {
            variable = source.take();
        }
        if source.is_none() && variable.is_none() {
            // The id names a variable, or else a file.
            let is_file = self.kind.as_deref() == Some("file");
            let is_set = !is_file && environment::variable_bytes(&self.id).is_some();
            let name = Some(self.id.clone());
            if is_set { variable = name } else { source = name }
        }
        match (variable, source) {
            (Some(name), _) => Ok(environment::variable_bytes(&name)
                .map(OsStringExt::into_vec)
                .unwrap_or_default()),
            (None, Some(path)) => read_small(&format!("secret `{}`", self.id), Path::new(&path)),
            (None, None) => Ok(Vec::new()),
        }
    }
}

fn read_small(what: &str, path: &Path) -> Result<Vec<u8>, CliError> {
    let mut value = Vec::new();
    let file = fs_err::File::open(path)
        .map_err(|error| CliError::user(format!("{what} cannot be read: {error}")))?;
    file.take(SECRET_LIMIT + 1).read_to_end(&mut value).map_err(io_error)?;
    if value.len() as u64 > SECRET_LIMIT {
        return Err(CliError::user(format!("{what} is larger than {} KiB", SECRET_LIMIT >> 10)));
    }
    Ok(value)
}

fn agents(texts: &[String]) -> Result<BTreeMap<String, Agent>, CliError> {
    let mut agents = BTreeMap::new();
    for text in texts {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        let id = if id.is_empty() { DEFAULT_AGENT } else { id };
        let paths: Vec<PathBuf> = match paths {
            "" => vec![own_agent(id)?],
            paths => paths.split(',').map(PathBuf::from).collect(),
        };
        if agents.insert(id.to_owned(), agent(id, paths)?).is_some() {
            return Err(CliError::usage(format!("SSH agent `{id}` is given twice")));
        }
    }
    Ok(agents)
}

fn own_agent(id: &str) -> Result<PathBuf, CliError> {
    environment::variable(AGENT_VARIABLE).map(PathBuf::from).ok_or_else(|| {
        CliError::user(format!("there is no SSH agent: {AGENT_VARIABLE} is not set"))
            .hint(format!("--ssh {id}=SOCKET or --ssh {id}=KEY"))
    })
}

/// One socket, perhaps `raw=true`, or any number of keys.
fn agent(id: &str, mut paths: Vec<PathBuf>) -> Result<Agent, CliError> {
    let is = |path: &Path, word: &str| path == Path::new(word);
    let raw = paths.iter().any(|path| is(path, "raw=true"));
    paths.retain(|path| !is(path, "raw=true") && !is(path, "raw=false"));
    if raw && paths.len() != 1 {
        return Err(CliError::usage(format!("`{id}` is raw: it takes one socket")));
    }
    let mut keys = Vec::new();
    for path in &paths {
        let facts = fs_err::metadata(path)
            .map_err(|error| CliError::user(format!("SSH agent `{id}`: {error}")))?;
        if !facts.file_type().is_socket() {
            keys.push(read_small(&format!("key of SSH agent `{id}`"), path)?);
            continue;
        }
        if paths.len() > 1 {
            let message = format!("SSH agent `{id}` is one socket, or keys");
            return Err(CliError::usage(message));
        }
        let path = path.clone();
        return Ok(if raw { Agent::Raw(path) } else { Agent::Socket(path) });
    }
    if raw {
        return Err(CliError::usage(format!("`{id}` is raw: it takes a socket, not a key")));
    }
    for (key, path) in keys.iter().zip(&paths) {
        if let Err(error) = Keys::parse([key.as_slice()]) {
            let shown = path.display();
            let failed = CliError::user(format!("SSH agent `{id}`: {shown}: {error}"));
            let hint = match error {
                KeyError::Encrypted => format!("ssh-add {shown}, and --ssh {id}"),
                _ => format!("--ssh {id}=FILE takes a socket or a key of ssh-keygen"),
            };
            return Err(failed.hint(hint));
        }
    }
    let keys = Keys::parse(keys.iter().map(Vec::as_slice))
        .map_err(|error| CliError::user(format!("SSH agent `{id}`: {error}")))?;
    Ok(Agent::Keys(Arc::new(keys)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_limits() {
        let read = |texts: &[&str]| {
            let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
            limits(fields(&texts)).ok()
        };
        let limits = read(&["memory=1g,cpu-quota=50000", "\"cpuset-cpus=0,1\"", "memory-swap=-1"]);
        let limits = limits.unwrap();
        assert_eq!((limits.memory_bytes, limits.cpu_quota_us), (Some(1 << 30), Some(50_000)));
        assert_eq!(limits.memory_swap_bytes, Some(-1));
        assert_eq!(limits.cpuset_cpus.as_deref(), Some("0,1"));
        for wrong in ["memory", "memory=x", "disk=1g", "cpu-shares=-1", ""] {
            assert_eq!(read(&[wrong]), None, "{wrong}");
        }
    }

    #[test]
    fn reads_entitlements_and_parents() {
        assert_eq!(entitlement("network.host").unwrap(), Some(Entitlement::NetworkHost));
        let device = Entitlement::Device("vendor.com/x".to_owned());
        assert_eq!(entitlement("device=vendor.com/x").unwrap(), Some(device));
        assert_eq!(entitlement("device").unwrap(), Some(Entitlement::AllDevices));
        assert_eq!(entitlement("buildx.local.delete").unwrap(), None);
        assert!(entitlement("device=a/b,alias=c").is_err());
        assert!(entitlement("network").is_err());
        assert_eq!(cgroup_parent("/a//b/").unwrap().as_deref(), Some("a/b"));
        assert_eq!(cgroup_parent("/").unwrap(), None);
        assert!(cgroup_parent("a/../b").is_err());
    }

    #[test]
    fn a_raw_agent_is_one_socket() {
        let temp = davit_test::TempDir::new();
        let socket = temp.join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let socket = socket.display();
        let read = |text: &str| agents(&[text.to_owned()]).ok()?.remove("x");
        assert!(matches!(read(&format!("x={socket}")), Some(Agent::Socket(_))));
        assert!(matches!(read(&format!("x={socket},raw=false")), Some(Agent::Socket(_))));
        assert!(matches!(read(&format!("x={socket},raw=true")), Some(Agent::Raw(_))));
        for wrong in ["x=raw=true".to_owned(), "x=/etc/passwd,raw=true".to_owned()] {
            assert!(read(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn refuses_secrets() {
        for wrong in
            ["", "id=", "src=f", "id=a,b", "id=a,type=x", "id=a,key=b", "id=a,invalidate=x"]
        {
            assert!(secret(wrong).is_err(), "{wrong}");
        }
    }
}
