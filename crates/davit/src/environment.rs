//! Builds the engine's configuration from the environment and the configuration file.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use davit_engine::{Config, Settings};

use crate::{cli::Global, error::CliError, printer};

const SYSTEM_SETTINGS: &str = "/etc/davit/config.toml";
const DOCKER_SOCKET: &str = "unix:///var/run/docker.sock";
const PROXY_VARIABLES: [&str; 5] =
    ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Gathers what the engine must know; flags win over variables, these over the file.
///
/// # Errors
/// A configuration file that cannot be read or has unknown keys; no home for the roots.
pub(crate) fn config(global: &Global) -> Result<Config, CliError> {
    let home = variable("HOME").map(PathBuf::from);
    Ok(Config {
        root: global.root.clone().unwrap_or_else(|| PathBuf::from("/var/lib/davit")),
        run_root: global.run_root.clone().unwrap_or_else(|| PathBuf::from("/run/davit")),
        executable: env::current_exe()
            .map_err(|error| CliError::user(format!("cannot find davit's own path: {error}")))?,
        docker_config: docker_folder(global.config.as_deref()),
        auth_files: auth_files(home.as_deref()),
        legacy_auth_file: home.as_ref().map(|home| home.join(".dockercfg")),
        certificates_by_host: configuration_folder(home.as_deref())
            .map(|dir| dir.join("containers/certs.d")),
        certificate_file: variable("SSL_CERT_FILE").map(PathBuf::from),
        certificate_dir: variable("SSL_CERT_DIR").map(PathBuf::from),
        programs: programs(),
        proxies: proxies(),
        settings: settings()?,
    })
}

/// The directories of `PATH`.
pub(crate) fn programs() -> Vec<PathBuf> {
    variable("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default()
}

/// The folder of Docker's client configuration: the given one, else the user's.
pub(crate) fn docker_folder(given: Option<&Path>) -> Option<PathBuf> {
    given
        .map(Path::to_owned)
        .or_else(|| variable("DOCKER_CONFIG").map(PathBuf::from))
        .or_else(|| variable("HOME").map(|home| Path::new(&home).join(".docker")))
}

/// A text of Docker's `config.json`.
pub(crate) fn docker_setting(config: &Config, key: &str) -> Option<String> {
    docker_settings(config)?.get(key)?.as_str().map(str::to_owned)
}

/// Variables that `proxies` of Docker's `config.json` gives to containers and builds: those of this
/// daemon's address, else the default ones, in capitals and in small letters.
pub(crate) fn container_proxies(config: &Config) -> Vec<(String, String)> {
    const KEYS: [(&str, &str); 5] = [
        ("httpProxy", "HTTP_PROXY"),
        ("httpsProxy", "HTTPS_PROXY"),
        ("noProxy", "NO_PROXY"),
        ("ftpProxy", "FTP_PROXY"),
        ("allProxy", "ALL_PROXY"),
    ];
    let Some(settings) = docker_settings(config) else { return Vec::new() };
    let host = variable_text("DOCKER_HOST").unwrap_or_else(|| DOCKER_SOCKET.to_owned());
    let proxies = &settings["proxies"];
    let own = proxies.get(&host).unwrap_or(&proxies["default"]);
    let given = KEYS.iter().filter_map(|(key, name)| {
        let value = own[*key].as_str().filter(|value| !value.is_empty())?;
        Some([name.to_string(), name.to_lowercase()].map(|name| (name, value.to_owned())))
    });
    given.flatten().collect()
}

/// A file that cannot be read is told of, and counts as empty.
fn docker_settings(config: &Config) -> Option<serde_json::Value> {
    let path = config.docker_config.as_ref()?.join("config.json");
    let text = fs_err::read_to_string(&path).ok()?;
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(settings) => Some(settings),
        Err(error) => {
            printer::note(&format!("warning: {} is malformed: {error}", path.display()));
            None
        }
    }
}

/// A variable's value, where it is set and not empty.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether a variable is set, but to nothing.
pub(crate) fn is_empty(name: &OsStr) -> bool {
    env::var_os(name).is_some_and(|value| value.is_empty())
}

/// A variable's value as text, where it is set.
pub(crate) fn variable_text(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// The value of a variable, even if it is empty.
pub(crate) fn variable_bytes(name: &str) -> Option<OsString> {
    if name.is_empty() || name.contains(['=', '\0']) { None } else { env::var_os(name) }
}

/// Podman's places, in its order (containers-auth.json(5)).
fn auth_files(home: Option<&Path>) -> Vec<PathBuf> {
    let explicit = variable("REGISTRY_AUTH_FILE").map(PathBuf::from);
    let run = variable("XDG_RUNTIME_DIR").map(|dir| Path::new(&dir).join("containers/auth.json"));
    let config = configuration_folder(home).map(|dir| dir.join("containers/auth.json"));
    explicit.into_iter().chain(run).chain(config).collect()
}

/// `~/.config`, or where it is said to be.
fn configuration_folder(home: Option<&Path>) -> Option<PathBuf> {
    variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| home.map(|home| home.join(".config")))
}

/// Variables that name proxies.
pub(crate) fn proxies() -> Vec<(String, String)> {
    let names = PROXY_VARIABLES.iter().flat_map(|name| [(*name).to_owned(), name.to_lowercase()]);
    names
        .filter_map(|name| {
            let value = variable(&name)?.into_string().ok()?;
            Some((name, value))
        })
        .collect()
}

/// Variables that name the certificates of authorities.
pub(crate) fn certificates() -> Vec<(String, String)> {
    let named = |name: &str| Some((name.to_owned(), variable(name)?.into_string().ok()?));
    ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().filter_map(named).collect()
}

/// The configuration file that counts: the user's, else the system's.
pub(crate) fn settings_file() -> Option<PathBuf> {
    let home = variable("HOME").map(PathBuf::from);
    let user = configuration_folder(home.as_deref()).map(|dir| dir.join("davit/config.toml"));
    let system = Some(PathBuf::from(SYSTEM_SETTINGS));
    [user, system].into_iter().flatten().find(|path| path.exists())
}

fn settings() -> Result<Settings, CliError> {
    let Some(path) = settings_file() else { return Ok(Settings::default()) };
    let text = fs_err::read_to_string(&path).map_err(|error| CliError::user(error.to_string()))?;
    toml::from_str(&text).map_err(|error| {
        CliError::user(format!("configuration file {} is malformed: {error}", path.display()))
    })
}
