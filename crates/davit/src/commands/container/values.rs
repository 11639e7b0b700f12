//! Values of options in Docker's grammars.

use std::{collections::BTreeMap, path::PathBuf};

use davit_engine::{
    container::{
        DeviceSpec, ExposedPorts, LogConfig, LogDriver, PublishSpec, RestartPolicy, SecuritySpec,
    },
    image::Empty,
};

use crate::error::{CliError, io_error};

/// Most files of one log: each rotation renames all of them, and a reader opens all.
const MOST_LOG_FILES: u32 = 500;

/// Bytes as `512`, `64k`, `1.5g`, `10MiB`; units are binary.
///
/// # Errors
/// Anything else.
pub(crate) fn bytes(text: &str) -> Result<u64, CliError> {
    let invalid = || CliError::usage(format!("invalid size: '{text}'"));
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.trim().trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(invalid()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(invalid);
    }
    let value: f64 = number.parse().map_err(|_| invalid())?;
    let scaled =
        value * f64::from(1_u32 << (shift % 32)) * if shift >= 32 { 4_294_967_296.0 } else { 1.0 };
    if !scaled.is_finite() || !(0.0..9e18).contains(&scaled) {
        return Err(invalid());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "in range by the check above"
    )]
    Ok(scaled as u64)
}

/// Bytes of an option, which a refusal names.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn size(flag: &str, text: &str) -> Result<u64, CliError> {
    bytes(text).map_err(|_| {
        CliError::usage(format!(
            "invalid argument {text:?} for \"{flag}\" flag: invalid size: '{text}'"
        ))
    })
}

/// Go's durations (`1m30s`, `500ms`) in nanoseconds.
///
/// # Errors
/// Anything else, negative ones too.
pub(crate) fn duration_nanoseconds(text: &str) -> Result<i64, CliError> {
    let invalid = || CliError::usage(format!("invalid duration: {text:?}"));
    let (mut rest, mut total) = (text, 0_f64);
    if rest == "0" {
        return Ok(0);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return Err(invalid()),
        };
        total += number.parse::<f64>().map_err(|_| invalid())? * factor;
        rest = tail;
    }
    if text.is_empty() || total >= 9e18 {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 9e18")]
    Ok(total as i64)
}

/// `--cpus` in billionths.
///
/// # Errors
/// No decimal number of at most nine places.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, CliError> {
    let invalid = || CliError::usage(format!("failed to parse {text} as a rational number"));
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let whole: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
    let fraction: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    whole
        .checked_mul(1_000_000_000)
        .and_then(|n| n.checked_add(fraction))
        .filter(|n| *n >= 0)
        // The engine knows which range this machine has.
        .map(|n| if negative { -n } else { n })
        .ok_or_else(invalid)
}

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

/// `HOST[:CONTAINER[:rwm]]`.
///
/// # Errors
/// Relative paths, unknown permissions.
pub(crate) fn device(text: &str) -> Result<DeviceSpec, CliError> {
    let parts: Vec<&str> = text.split(':').collect();
    let permissions =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let (host, container, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if permissions(mode) => (host, host, mode),
        [host, container] => (host, container, "rwm"),
        [host, container, mode] if permissions(mode) => (host, container, mode),
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
        ("on-failure", Some(count)) => count.parse().map(RestartPolicy::OnFailure).map_err(|_| {
            CliError::usage("invalid restart policy format: maximum retry count must be an integer")
        }),
        (_, Some(_)) if matches!(name, "no" | "always" | "unless-stopped") => Err(CliError::usage(
            "invalid restart policy: maximum retry count can only be used with 'on-failure'",
        )),
        _ => Err(CliError::usage(format!("invalid restart policy: unknown policy '{name}'"))),
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
            _ => return Err(CliError::usage(format!("invalid --security-opt: {option:?}"))),
        }
    }
    security.options = options.to_vec();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let cases = [
            ("0", 0),
            ("512", 512),
            ("64k", 65_536),
            ("1.5g", 1_610_612_736),
            ("10MiB", 10_485_760),
            ("2GB", 2 << 30),
            ("1T", 1 << 40),
        ];
        for (text, expected) in cases {
            assert_eq!(bytes(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "x", "1x", "-1", "1..5k", "99999999999999999999"] {
            assert!(bytes(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations_and_cpus() {
        for (text, expected) in
            [("1m30s", 90_000_000_000), ("500ms", 500_000_000), ("0", 0), ("1.5s", 1_500_000_000)]
        {
            assert_eq!(duration_nanoseconds(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1x"] {
            assert!(duration_nanoseconds(bad).is_err(), "{bad:?}");
        }
        for (text, expected) in
            [("1", 1_000_000_000), ("1.5", 1_500_000_000), (".25", 250_000_000), ("0", 0)]
        {
            assert_eq!(nano_cpus(text).unwrap(), expected, "{text}");
        }
        assert_eq!(nano_cpus("-1").unwrap(), -1_000_000_000);
        for bad in ["x", "1.2.3", "--1", "1.-2", "0.0000000001"] {
            assert!(nano_cpus(bad).is_err(), "{bad:?}");
        }
    }

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
