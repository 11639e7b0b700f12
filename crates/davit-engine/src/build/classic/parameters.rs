//! The parameters of `POST /build` and its header `X-Registry-Config`.

use std::{collections::BTreeMap, io::Write as _, os::fd::AsRawFd as _, path::PathBuf};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use davit_build::{
    BuildRequest, CachePolicy, ContextSource, DockerfilePlace, DockerfileText, Entitlement,
    GitSource, HttpSource, Network, RemoteSource, Repeat, Sandbox, Squash, TarStream,
};
use davit_image::{Platform, Reference};
use davit_runtime::plan::{Origin, Rlimit};
use serde_json::{Value, json};

use crate::{
    OpenError,
    build::{CacheImport, CachePlace, MountSharing},
};

/// Largest header with accounts in bytes.
const ACCOUNTS_LIMIT: usize = 1 << 20;
/// Name of a remote context that is a file.
const CONTEXT: &str = "context";

/// What is wrong with a request, before its stream begins.
#[derive(Debug, thiserror::Error)]
pub enum ClassicError {
    /// A parameter that cannot be read.
    #[error("the parameter `{name}`: {problem}")]
    Parameter {
        /// The parameter.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// A parameter for what davit does not do.
    #[error("`{0}` is not supported")]
    Unsupported(&'static str),
    /// The header with accounts is not what it should be.
    #[error("the header X-Registry-Config cannot be read")]
    Accounts,
    /// The accounts cannot be kept for the build.
    #[error("cannot keep the accounts of a build")]
    Keep(#[source] std::io::Error),
    /// An engine with these accounts cannot be opened.
    #[error(transparent)]
    Open(OpenError),
}

/// The parameters, read and checked.
#[derive(Debug, Default)]
pub struct ClassicParameters {
    dockerfile: String,
    names: Vec<Reference>,
    remote: Option<RemoteSource>,
    target: Option<String>,
    platform: Option<Platform>,
    build_args: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    hosts: Vec<(String, String)>,
    network: Network,
    squash: Squash,
    sandbox: Sandbox,
    is_quiet: bool,
    ignores_cache: bool,
    pulls: bool,
    keeps: bool,
    has_outputs: bool,
    cache_from: Vec<String>,
    /// The header, as it came.
    accounts: Option<String>,
}

impl ClassicParameters {
    /// Reads the pairs of a query, decoded, and the header.
    ///
    /// # Errors
    /// [`ClassicError::Parameter`], [`ClassicError::Unsupported`].
    pub fn read(
        query: &[(String, String)],
        registry_config: Option<&str>,
    ) -> Result<Self, ClassicError> {
        let mut read = Self {
            dockerfile: "Dockerfile".to_owned(),
            accounts: registry_config.map(str::to_owned),
            ..Self::default()
        };
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            read.take(name, value).map_err(|fault| match fault {
                Fault::Wrong(problem) => ClassicError::Parameter { name: name.clone(), problem },
                Fault::Unsupported(what) => ClassicError::Unsupported(what),
            })?;
        }
        Ok(read)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Fault> {
        let limits = &mut self.sandbox.limits;
        match name {
            "dockerfile" => value.clone_into(&mut self.dockerfile),
            "t" => self.names.push(reference(value)?),
            "remote" => self.remote = Some(remote(value)?),
            "target" => self.target = Some(value.to_owned()),
            "platform" => self.platform = Some(value.parse().map_err(Fault::of)?),
            "q" => self.is_quiet = flag(value),
            "nocache" => self.ignores_cache = flag(value),
            "pull" => self.pulls = flag(value),
            // Nothing is left of a step in any case; it is only told differently.
            "rm" => self.keeps = !flag(value),
            "isolation" if value != "default" => {
                return Err(Fault::Unsupported("an isolation other than `default`"));
            }
            "forcerm" | "isolation" | "buildid" | "session" => {}
            "securityopt" => return Err(Fault::Unsupported("a security option of a build")),
            "cachefrom" => {
                let images: Option<Vec<String>> = serde_json::from_str(value).map_err(Fault::of)?;
                self.cache_from = images.unwrap_or_default();
                self.cache_from.retain(|image| !image.is_empty());
            }
            "buildargs" => self.build_args = pairs(value)?,
            "labels" => self.labels = pairs(value)?,
            "extrahosts" => self.hosts.extend(hosts(value)?),
            "networkmode" => self.network(value)?,
            "cgroupparent" => self.sandbox.cgroup_parent = cgroup(value)?,
            "shmsize" => self.sandbox.shm_size_bytes = size(value)?,
            "ulimits" => self.sandbox.ulimits = ulimits(value)?,
            "memory" => limits.memory_bytes = size(value)?,
            "memswap" => limits.memory_swap_bytes = Some(number(value)?).filter(|it| *it != 0),
            "cpushares" => limits.cpu_shares = size(value)?,
            "cpuperiod" => limits.cpu_period_us = size(value)?,
            "cpuquota" => limits.cpu_quota_us = Some(number(value)?).filter(|it| *it != 0),
            "cpusetcpus" => limits.cpuset_cpus = Some(value.to_owned()),
            "cpusetmems" => limits.cpuset_mems = Some(value.to_owned()),
            "squash" => self.squash = if flag(value) { Squash::New } else { Squash::Nothing },
            "outputs" => {
                let outputs: Option<Vec<Value>> = serde_json::from_str(value).map_err(Fault::of)?;
                self.has_outputs = outputs.is_some_and(|outputs| !outputs.is_empty());
            }
            "version" if value != "1" => return Err(Fault::Unsupported("a session of BuildKit")),
            "version" => {}
            _ => return Err(Fault::Wrong("there is no such parameter".to_owned())),
        }
        Ok(())
    }

    fn network(&mut self, mode: &str) -> Result<(), Fault> {
        self.network = match mode {
            "default" | "bridge" => Network::Default,
            "none" => Network::None,
            "host" => {
                // The classic builder has no entitlements: whoever may call it may do this.
                self.sandbox.entitlements.insert(Entitlement::NetworkHost);
                Network::Host
            }
            _ => match mode.strip_prefix("container:") {
                Some(name) if !name.is_empty() => Network::Container(name.to_owned()),
                Some(_) => return Err(Fault::Wrong("no container is named".to_owned())),
                None => Network::Named(mode.to_owned()),
            },
        };
        Ok(())
    }

    pub(super) const fn is_quiet(&self) -> bool {
        self.is_quiet
    }

    pub(super) const fn removes(&self) -> bool {
        !self.keeps
    }

    /// Whether the client wants the result elsewhere, which is BuildKit's matter alone.
    pub(super) const fn has_outputs(&self) -> bool {
        self.has_outputs
    }

    /// The images that tell of steps. As with Docker, none is fetched for that.
    pub(super) fn cache_from(&self) -> Vec<CacheImport> {
        let import = |name: &String| CacheImport {
            place: CachePlace::Image(name.clone()),
            mounts: MountSharing::Stay,
        };
        self.cache_from.iter().map(import).collect()
    }

    pub(super) const fn pulls(&self) -> bool {
        self.pulls
    }

    pub(super) fn names(&self) -> &[Reference] {
        &self.names
    }

    pub(super) fn target(&self) -> Option<&str> {
        self.target.as_deref()
    }

    /// The build itself.
    pub(super) fn request(self, context: TarStream) -> BuildRequest {
        let host = Platform::host();
        let context = match self.remote {
            Some(remote) => ContextSource::Remote(remote),
            None => ContextSource::Tar(context),
        };
        let name = self.dockerfile.trim_start_matches("./").trim_start_matches('/').to_owned();
        BuildRequest {
            dockerfile: DockerfileText {
                name,
                bytes: Vec::new(),
                place: DockerfilePlace::Context,
                ignore: None,
            },
            context,
            named_contexts: Vec::new(),
            target: self.target,
            build_args: self.build_args,
            labels: self.labels,
            platform: self.platform.unwrap_or_else(|| host.clone()),
            more_platforms: Vec::new(),
            build_platform: host,
            network: self.network,
            cache: if self.ignores_cache { CachePolicy::Ignore } else { CachePolicy::Use },
            cache_mounts: CachePolicy::Use,
            context_modes: davit_build::ContextModes::default(),
            no_cache_stages: Vec::new(),
            no_cache_from: Vec::new(),
            cache_ttl: None,
            source_date_epoch: None,
            rewrite_timestamp: false,
            squash: self.squash,
            repeat: Repeat::Never,
            add_hosts: self.hosts,
            sandbox: self.sandbox,
            attest: davit_build::Attest::default(),
            explain: false,
            jobs: 0,
        }
    }

    /// The accounts of the header.
    pub(super) fn accounts(&self) -> Result<Option<Accounts>, ClassicError> {
        let Some(header) = self.accounts.as_deref().map(str::trim).filter(|it| !it.is_empty())
        else {
            return Ok(None);
        };
        let auths = auths(header).ok_or(ClassicError::Accounts)?;
        if auths.as_object().is_none_or(serde_json::Map::is_empty) {
            return Ok(None);
        }
        let text = json!({ "auths": auths }).to_string();
        Accounts::keep(&text).map(Some).map_err(ClassicError::Keep)
    }
}

/// What is wrong with one parameter.
enum Fault {
    Wrong(String),
    Unsupported(&'static str),
}

impl Fault {
    fn of(error: impl std::fmt::Display) -> Self {
        Self::Wrong(error.to_string())
    }
}

/// As the API reads flags: all but these are true.
fn flag(value: &str) -> bool {
    !matches!(value.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

fn number(value: &str) -> Result<i64, Fault> {
    value.parse().map_err(Fault::of)
}

/// A size or count; 0 says nothing.
fn size(value: &str) -> Result<Option<u64>, Fault> {
    value.parse().map(|size| Some(size).filter(|size| *size > 0)).map_err(Fault::of)
}

fn reference(value: &str) -> Result<Reference, Fault> {
    let name: Reference = value.parse().map_err(Fault::of)?;
    if name.digest().is_some() {
        return Err(Fault::Wrong("a name that is given has no digest".to_owned()));
    }
    Ok(name)
}

fn remote(value: &str) -> Result<RemoteSource, Fault> {
    match GitSource::parse_context(value) {
        Some(Ok(git)) => Ok(RemoteSource::Git(git)),
        Some(Err(error)) => Err(Fault::of(error)),
        None => HttpSource::parse(value)
            .map(|http| RemoteSource::Http(http.named(CONTEXT)))
            .ok_or_else(|| Fault::Wrong("it is no address".to_owned())),
    }
}

/// A JSON object of texts; what is null is not there.
fn pairs(value: &str) -> Result<BTreeMap<String, String>, Fault> {
    let all: BTreeMap<String, Option<String>> = serde_json::from_str(value).map_err(Fault::of)?;
    Ok(all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// Hosts as `NAME:ADDRESS`, with commas between them or as a JSON list.
fn hosts(value: &str) -> Result<Vec<(String, String)>, Fault> {
    let all: Vec<String> = if value.starts_with('[') {
        serde_json::from_str(value).map_err(Fault::of)?
    } else {
        value.split(',').map(str::to_owned).collect()
    };
    let pairs = all.iter().map(|text| {
        let pair = text.split_once(':').or_else(|| text.split_once('='));
        let (name, address) = pair.ok_or_else(|| Fault::Wrong(format!("`{text}` is no host")))?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let is_address = address == "host-gateway" || address.parse::<std::net::IpAddr>().is_ok();
        if name.is_empty() || !is_address {
            return Err(Fault::Wrong(format!("`{text}` is no host")));
        }
        Ok((name.to_owned(), address.to_owned()))
    });
    pairs.collect()
}

fn cgroup(value: &str) -> Result<Option<String>, Fault> {
    let parts: Vec<&str> = value.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| matches!(*part, "." | "..")) {
        return Err(Fault::Wrong("it leads out of the hierarchy".to_owned()));
    }
    Ok(Some(parts.join("/")).filter(|path| !path.is_empty()))
}

fn ulimits(value: &str) -> Result<Vec<Rlimit>, Fault> {
    let all: Vec<Value> = serde_json::from_str(value).map_err(Fault::of)?;
    let read = all.iter().map(|limit| {
        let number = |key: &str| match limit[key].as_i64() {
            Some(-1) => Ok(u64::MAX),
            Some(number) => u64::try_from(number).map_err(Fault::of),
            None => Err(Fault::Wrong(format!("a limit has no number `{key}`"))),
        };
        let name = limit["Name"].as_str();
        let name = name.ok_or_else(|| Fault::Wrong("a limit has no `Name`".to_owned()))?;
        let (soft, hard) = (number("Soft")?, number("Hard")?);
        Ok(Rlimit { name: name.to_owned(), soft, hard, origin: Origin::Asked })
    });
    read.collect()
}

/// The header's accounts in the form of `config.json`.
fn auths(header: &str) -> Option<Value> {
    if header.len() > ACCOUNTS_LIMIT {
        return None;
    }
    let engines = [&URL_SAFE, &URL_SAFE_NO_PAD, &STANDARD];
    let bytes = engines.into_iter().find_map(|engine| engine.decode(header).ok())?;
    let given: BTreeMap<String, Value> = serde_json::from_slice(&bytes).ok()?;
    let auths = given.into_iter().map(|(registry, account)| {
        let text = |key: &str| account[key].as_str().filter(|text| !text.is_empty());
        let mut auth = serde_json::Map::new();
        let pair = text("username").zip(text("password"));
        let encoded = pair.map(|(name, password)| STANDARD.encode(format!("{name}:{password}")));
        let encoded = encoded.or_else(|| text("auth").map(str::to_owned));
        auth.extend(encoded.map(|encoded| ("auth".to_owned(), encoded.into())));
        for key in ["identitytoken", "registrytoken"] {
            auth.extend(text(key).map(|token| (key.to_owned(), token.into())));
        }
        (registry, Value::Object(auth))
    });
    Some(Value::Object(auths.collect()))
}

/// The accounts of one build, in memory that has no name: nothing is left of them.
#[derive(Debug)]
pub(super) struct Accounts(fs_err::File);

impl Accounts {
    fn keep(text: &str) -> Result<Self, std::io::Error> {
        let memory = rustix::fs::memfd_create("accounts", rustix::fs::MemfdFlags::CLOEXEC)?;
        let mut file = fs_err::File::from_parts(memory.into(), "accounts");
        file.write_all(text.as_bytes())?;
        Ok(Self(file))
    }

    /// Where this process can read them.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<ClassicParameters, String> {
        let query: Vec<(String, String)> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ClassicParameters::read(&query, None).map_err(|error| error.to_string())
    }

    #[test]
    fn parameters_are_read() {
        let read = read(&[
            ("dockerfile", "./sub/Dockerfile"),
            ("t", "app"),
            ("t", "app:1"),
            ("extrahosts", "a:1.2.3.4,b:::1"),
            ("nocache", "1"),
            ("pull", "true"),
            ("rm", "0"),
            ("memory", "1048576"),
            ("memswap", "-1"),
            ("cpushares", "0"),
            ("cpuquota", "50000"),
            ("cpusetcpus", "0-1"),
            ("buildargs", "{\"A\":\"1\",\"B\":null}"),
            ("labels", "{\"l\":\"v\"}"),
            ("ulimits", "[{\"Name\":\"nofile\",\"Hard\":2,\"Soft\":-1}]"),
            ("networkmode", "host"),
            ("platform", "linux/arm64"),
            ("target", "t"),
            ("version", "1"),
            ("cachefrom", "[\"app\", \"\"]"),
            ("outputs", "[{\"Type\":\"local\"}]"),
            ("isolation", "default"),
            ("shmsize", "64"),
            ("q", ""),
        ])
        .unwrap();
        assert!(!read.removes() && read.pulls() && !read.is_quiet() && read.has_outputs());
        let place = CachePlace::Image("app".to_owned());
        assert_eq!(read.cache_from(), [CacheImport { place, mounts: MountSharing::Stay }]);
        let request = read.request(TarStream(Box::new(std::io::empty())));
        assert_eq!(request.dockerfile.name, "sub/Dockerfile");
        assert_eq!(request.build_args, BTreeMap::from([("A".to_owned(), "1".to_owned())]));
        assert_eq!(request.add_hosts[1], ("b".to_owned(), "::1".to_owned()));
        assert_eq!(request.sandbox.limits.memory_swap_bytes, Some(-1));
        assert_eq!(request.sandbox.limits.cpu_shares, None);
        assert_eq!(request.sandbox.ulimits[0].soft, u64::MAX);
        assert!(request.sandbox.entitlements.contains(&Entitlement::NetworkHost));
        assert_eq!(request.platform.to_string(), "linux/arm64");
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        for (name, value, problem) in [
            ("version", "2", "a session of BuildKit"),
            ("outputs", "{}", "the parameter `outputs`"),
            ("cachefrom", "[1]", "the parameter `cachefrom`"),
            ("networkmode", "container:", "no container is named"),
            ("securityopt", "x", "a security option"),
            ("isolation", "hyperv", "an isolation"),
            ("nope", "1", "the parameter `nope`: there is no such parameter"),
            ("t", "A B", "the parameter `t`"),
            ("memory", "much", "the parameter `memory`"),
            ("buildargs", "[]", "the parameter `buildargs`"),
            ("extrahosts", "a", "`a` is no host"),
            ("cgroupparent", "../x", "leads out"),
            ("remote", "/etc", "it is no address"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.contains(problem), "{name}: {error}");
        }
        assert!(auths("!").is_none());
        let header = URL_SAFE.encode("{\"r:5000\":{\"username\":\"u\",\"password\":\"p\"}}");
        assert_eq!(auths(&header).unwrap()["r:5000"]["auth"], STANDARD.encode("u:p"));
    }
}
