//! Values of options in Docker's grammars.

mod numbers;

use std::{collections::BTreeMap, path::PathBuf};

use davit_engine::{
    container::{
        DeviceSpec, ExposedPorts, LogConfig, LogDriver, NetworkMode, PublishSpec, RestartPolicy,
        SecuritySpec, StreamSet, sysctl_namespace,
    },
    image::Empty,
};

pub(crate) use self::numbers::{bytes, duration_nanoseconds, nano_cpus, size};
use crate::error::{CliError, io_error};

/// Most files of one log: each rotation renames all of them, and a reader opens all.
const MOST_LOG_FILES: u32 = 500;

/// `NAME=value` as it is, a bare `NAME` with the caller's own value if it has one.
///
/// # Errors
/// One without a name, or whose own value is not UTF-8.
pub(crate) fn environment(pairs: &[String]) -> Result<Vec<String>, CliError> {
    let complete = |pair: &String| {
        if pair.is_empty() || pair.starts_with('=') {
            let text = format!("invalid environment variable: {pair}");
            return Some(Err(CliError::usage(text)));
        }
        if pair.contains('=') {
            return Some(Ok(pair.clone()));
        }
        match std::env::var(pair) {
            Ok(value) => Some(Ok(format!("{pair}={value}"))),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                let text = format!("the value of environment variable {pair} is not UTF-8");
                Some(Err(CliError::usage(text)))
            }
        }
    };
    pairs.iter().filter_map(complete).collect()
}

/// Lines of `--env-file`s.
///
/// # Errors
/// A file that cannot be read, or a line that is no variable.
pub(crate) fn env_files(paths: &[PathBuf]) -> Result<Vec<String>, CliError> {
    let mut all = Vec::new();
    for path in paths {
        let text = fs_err::read_to_string(path).map_err(|error| io_error(error).with_code(125))?;
        for line in text.trim_start_matches('\u{feff}').lines() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split('=').next().unwrap_or_default();
            let refuse = |reason: String| {
                let path = path.display();
                Err(CliError::usage(format!("invalid env file ({path}): {reason}")))
            };
            if name.is_empty() {
                return refuse(format!("no variable name on line '{line}'"));
            }
            if name.contains(char::is_whitespace) {
                return refuse(format!("variable '{name}' contains whitespaces"));
            }
            all.extend(environment(&[line.to_owned()])?);
        }
    }
    Ok(all)
}

/// `KEY=VALUE` options.
///
/// # Errors
/// One without `=`.
pub(crate) fn pairs(option: &str, texts: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(CliError::usage(format!(
            "invalid value {text:?} for --{option}: expected KEY=VALUE"
        ))),
    };
    texts.iter().map(pair).collect()
}

/// Reads `--network`, of which the last one counts; beside one that a user made there is no other.
///
/// # Errors
/// Several of them, or a container without a name.
pub(crate) fn network_mode(names: &[String]) -> Result<NetworkMode, CliError> {
    let modes = names.iter().map(|name| one_network(name)).collect::<Result<Vec<_>, _>>()?;
    let is_made = |mode: &NetworkMode| matches!(mode, NetworkMode::Network(_));
    let are_several = modes.iter().any(|mode| Some(mode) != modes.first());
    if are_several && modes.iter().any(is_made) {
        let message = format!("a container is in one network, not in {}", names.join(", "));
        return Err(CliError::usage(message));
    }
    Ok(modes.into_iter().next_back().unwrap_or_default())
}

fn one_network(name: &str) -> Result<NetworkMode, CliError> {
    Ok(match name {
        "bridge" | "default" => NetworkMode::Bridge,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other => match other.strip_prefix("container:") {
            Some("") => {
                let error = CliError::usage(format!("network {other} not found"));
                return Err(error.hint("davit network ls"));
            }
            Some(name) => NetworkMode::Container(name.to_owned()),
            None => NetworkMode::Network(other.to_owned()),
        },
    })
}

/// Labels of files and options; one without value has an empty one.
///
/// # Errors
/// A file that cannot be read, or an empty key.
pub(crate) fn labels(
    files: &[PathBuf],
    texts: &[String],
) -> Result<BTreeMap<String, String>, CliError> {
    let mut labels = BTreeMap::new();
    let mut add = |text: &str| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(CliError::usage(format!("invalid label format: {text:?}")));
        }
        labels.insert(key.to_owned(), value.to_owned());
        Ok(())
    };
    for path in files {
        let text = fs_err::read_to_string(path).map_err(|error| io_error(error).with_code(125))?;
        let lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.into_iter().try_for_each(&mut add)?;
    }
    texts.iter().try_for_each(|text| add(text))?;
    Ok(labels)
}

/// Exposed and published ports as the keys of an image config.
///
/// # Errors
/// What is no port.
pub(crate) fn exposed(
    expose: &[String],
    publish: &[String],
) -> Result<BTreeMap<String, Empty>, CliError> {
    let mut ports = BTreeMap::new();
    let usage = |error: &dyn std::fmt::Display| {
        CliError::usage(format!("invalid range format for --expose: {error}"))
    };
    for text in expose {
        let range: ExposedPorts = text.parse().map_err(|error| usage(&error))?;
        ports.extend(
            (range.first..=range.last).map(|port| (format!("{port}/{}", range.protocol), Empty {})),
        );
    }
    for text in publish {
        let spec: PublishSpec =
            text.parse().map_err(|error| CliError::usage(format!("{error}")))?;
        let (first, last) = spec.container_ports;
        ports.extend((first..=last).map(|port| (format!("{port}/{}", spec.protocol), Empty {})));
    }
    Ok(ports)
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`.
///
/// # Errors
/// Anything else.
pub(crate) fn extra_hosts(texts: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let host = |text: &String| {
        let invalid = || CliError::usage(format!("bad format for add-host: {text:?}"));
        let at = text.find(['=', ':']).ok_or_else(invalid)?;
        let (name, address) = (&text[..at], &text[at + 1..]);
        let inner = address.trim_start_matches('[').trim_end_matches(']');
        if name.is_empty()
            || (address != "host-gateway" && inner.parse::<std::net::IpAddr>().is_err())
        {
            return Err(CliError::usage(format!("invalid IP address in add-host: {address:?}")));
        }
        Ok((name.to_owned(), inner.to_owned()))
    };
    texts.iter().map(host).collect()
}

/// `nofile=1024:2048`.
///
/// # Errors
/// An unknown name, no numbers, or a soft limit above the hard one.
pub(crate) fn ulimit(text: &str) -> Result<(String, u64, u64), CliError> {
    const NAMES: [&str; 16] = [
        "as",
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let invalid = || CliError::usage(format!("invalid ulimit argument: {text}"));
    let (name, limits) = text.split_once('=').ok_or_else(invalid)?;
    if !NAMES.contains(&name) {
        return Err(CliError::usage(format!("invalid ulimit type: {name}")));
    }
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        digits => digits.parse().map_err(|_| invalid()),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if soft > hard {
        return Err(CliError::usage(format!(
            "ulimit soft limit must be less than or equal to hard limit: {text}"
        )));
    }
    Ok((name.to_owned(), soft, hard))
}

/// `HOST[:CONTAINER[:rwm]]`, or the name of a device.
///
/// # Errors
/// Relative paths, unknown permissions.
pub(crate) fn device(text: &str) -> Result<DeviceSpec, CliError> {
    if davit_engine::container::is_cdi_device(text) {
        let (container, permissions) = (String::new(), String::new());
        return Ok(DeviceSpec { host: text.to_owned(), container, permissions });
    }
    let parts: Vec<&str> = text.split(':').collect();
    // Each letter once.
    let permissions = |text: &str| {
        let known = |(at, byte): (usize, u8)| {
            b"rwm".contains(&byte) && !text[..at].contains(char::from(byte))
        };
        !text.is_empty() && text.bytes().enumerate().all(known)
    };
    let (host, container, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if permissions(mode) => (host, host, mode),
        [host, container] => (host, container, "rwm"),
        [host, container, mode] if permissions(mode) => (host, container, mode),
        [_, _, mode] => return Err(CliError::usage(format!("bad mode specified: {mode}"))),
        _ => return Err(CliError::usage(format!("invalid device specification: {text}"))),
    };
    if !host.starts_with('/') || !container.starts_with('/') {
        return Err(CliError::usage(format!("{text} is not an absolute path")));
    }
    Ok(DeviceSpec {
        host: host.to_owned(),
        container: container.to_owned(),
        permissions: access.to_owned(),
    })
}

/// `no`, `always`, `unless-stopped`, `on-failure[:N]`.
///
/// # Errors
/// Anything else.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, CliError> {
    let (name, count) =
        text.split_once(':').map_or((text, None), |(name, count)| (name, Some(count)));
    match (name, count) {
        ("" | "no", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", None) => Ok(RestartPolicy::OnFailure(0)),
        ("on-failure", Some(count)) => {
            let word = "invalid restart policy format: maximum retry count must be an integer";
            let count: i64 = count.parse().map_err(|_| CliError::usage(word))?;
            u32::try_from(count).map(RestartPolicy::OnFailure).map_err(|_| {
                CliError::user(format!(
                    "invalid restart policy: maximum retry count cannot be {count}"
                ))
            })
        }
        (_, Some(_)) if matches!(name, "no" | "always" | "unless-stopped") => Err(CliError::user(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        )),
        _ => Err(CliError::user(format!("invalid restart policy: unknown policy '{name}'"))),
    }
}

/// A stream of `-a`, in any case.
///
/// # Errors
/// There are but three.
pub(crate) fn stream(name: &str) -> Result<StreamSet, CliError> {
    match name.to_ascii_lowercase().as_str() {
        "stdin" => Ok(StreamSet::STDIN),
        "stdout" => Ok(StreamSet::STDOUT),
        "stderr" => Ok(StreamSet::STDERR),
        _ => Err(CliError::usage("valid streams are STDIN, STDOUT and STDERR")),
    }
}

/// Kernel parameters.
///
/// # Errors
/// No pair, or a parameter that is no container's own.
pub(crate) fn sysctls(texts: &[String]) -> Result<BTreeMap<String, String>, CliError> {
    let parameters = pairs("sysctl", texts)?;
    match parameters.keys().find(|name| sysctl_namespace(name).is_none()) {
        Some(name) => Err(CliError::usage(format!("sysctl '{name}' is not allowed"))),
        None => Ok(parameters),
    }
}

/// Log driver and its options.
///
/// # Errors
/// An unknown driver, option or value.
pub(crate) fn log(
    driver: Option<&str>,
    options: &[String],
) -> Result<(LogConfig, BTreeMap<String, String>), CliError> {
    let options = pairs("log-opt", options)?;
    let mut config = LogConfig::default();
    match driver.unwrap_or("json-file") {
        "json-file" => {}
        "local" => {
            config.driver = LogDriver::Local;
            (config.max_size_bytes, config.max_files) = (Some(20 << 20), 5);
        }
        "none" => config.driver = LogDriver::None,
        other => {
            let hint = "json-file, local and none are known";
            return Err(CliError::usage(format!(
                "logger: no log driver named '{other}' is registered"
            ))
            .hint(hint));
        }
    }
    if config.driver == LogDriver::None && !options.is_empty() {
        return Err(CliError::usage("invalid logging opts for driver none"));
    }
    for (key, value) in &options {
        match key.as_str() {
            "max-size" if value == "-1" => config.max_size_bytes = None,
            "max-size" => config.max_size_bytes = Some(bytes(value)?.max(1)),
            "max-file" => {
                let count = value.parse().ok().filter(|count| (1..=MOST_LOG_FILES).contains(count));
                let hint = format!("1 to {MOST_LOG_FILES} files can be kept");
                config.max_files = count.ok_or_else(|| {
                    CliError::usage(format!("invalid max-file: {value}")).hint(hint)
                })?;
            }
            // The engine makes attributes of them once it knows the container.
            "labels" | "labels-regex" | "env" | "env-regex" | "tag" => {}
            // Compression and buffering have no meaning for uncompressed files written at once.
            "compress" | "mode" | "max-buffer-size" => {}
            other => {
                return Err(CliError::usage(format!(
                    "unknown log opt '{other}' for {} log driver",
                    driver.unwrap_or("json-file")
                )));
            }
        }
    }
    Ok((config, options))
}

/// `--security-opt`s.
///
/// # Errors
/// An unknown one, or a profile that cannot be read.
pub(crate) fn security(options: &[String], security: &mut SecuritySpec) -> Result<(), CliError> {
    for option in options {
        let (key, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
        match (key, value) {
            ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
            ("no-new-privileges", "false") => security.no_new_privileges = false,
            ("seccomp", "unconfined") => security.seccomp = Some("unconfined".to_owned()),
            ("seccomp", "builtin") => security.seccomp = None,
            ("seccomp", path) if !path.is_empty() => {
                let profile = fs_err::read_to_string(path).map_err(|error| {
                    CliError::usage(format!("opening seccomp profile ({path}) failed: {error}"))
                })?;
                security.seccomp = Some(profile);
            }
            ("systempaths", "unconfined") => security.system_paths_unconfined = true,
            ("apparmor", "unconfined") => security.apparmor = None,
            ("apparmor", profile) if !profile.is_empty() => {
                security.apparmor = Some(profile.to_owned());
            }
            // Labels of SELinux, which Docker's daemon ignores too unless it is told to use them.
            ("label", value) if !value.is_empty() => {}
            _ => {
                let text = format!("invalid --security-opt: {option:?}");
                // With a value, it is Docker's daemon that does not know it.
                let is_pair = option.contains(['=', ':']);
                return Err(if is_pair { CliError::user(text) } else { CliError::usage(text) });
            }
        }
    }
    security.options = options.to_vec();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hosts_devices_and_policies() {
        assert_eq!(ulimit("nofile=1024:2048").unwrap(), ("nofile".to_owned(), 1024, 2048));
        assert_eq!(ulimit("core=-1").unwrap().1, u64::MAX);
        for bad in ["nofile", "x=1", "nofile=2:1", "nofile=a"] {
            assert!(ulimit(bad).is_err(), "{bad:?}");
        }
        let hosts = extra_hosts(&[
            "db:10.0.0.1".to_owned(),
            "six=[::1]".to_owned(),
            "h:host-gateway".to_owned(),
        ]);
        assert_eq!(hosts.unwrap()[1], ("six".to_owned(), "::1".to_owned()));
        assert!(
            extra_hosts(&["db".to_owned()]).is_err() && extra_hosts(&["db:x".to_owned()]).is_err()
        );
        assert_eq!(device("/dev/null:/dev/x:r").unwrap().permissions, "r");
        assert_eq!(device("/dev/null:rw").unwrap().container, "/dev/null");
        assert!(device("null").is_err() && device("/a:/b:q").is_err());
        assert_eq!(restart("on-failure:3").unwrap(), RestartPolicy::OnFailure(3));
        for bad in ["sometimes", "always:3", "on-failure:x"] {
            assert!(restart(bad).is_err(), "{bad:?}");
        }
    }
}
