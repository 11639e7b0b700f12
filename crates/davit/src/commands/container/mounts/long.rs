//! `--mount type=…,source=…,target=…`

use davit_engine::container::{MountSource, MountSpec, VolumeMaking};

use super::{PROPAGATIONS, absolute, invalid, refused, tmpfs_mode};
use crate::{commands::container::values, error::CliError};

/// What happens to mounts below a bind mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Below {
    /// They come along, read-only where it is.
    #[default]
    Enabled,
    /// They do not come along.
    Disabled,
    /// They come along and stay writable.
    Writable,
    /// They come along read-only, or the mount fails.
    ReadOnly,
}

/// Fields as they are given.
#[derive(Debug, Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    propagation: String,
    no_copy: bool,
    subpath: Option<String>,
    making: VolumeMaking,
    below: Below,
    size: Option<u64>,
    mode: Option<u32>,
    /// Types whose own keys were given: `bind`, `volume`, `tmpfs`.
    groups: Vec<&'static str>,
}

/// Parses one.
///
/// # Errors
/// What Docker refuses: unknown keys, keys of another type, no target.
pub(super) fn mount(text: &str) -> Result<MountSpec, CliError> {
    let mut fields = Fields { kind: "volume".to_owned(), ..Fields::default() };
    for field in split_csv(text) {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        set(&mut fields, &key.to_ascii_lowercase(), value)?;
    }
    if fields.target.is_empty() {
        return Err(CliError::usage("invalid argument for --mount: target is required"));
    }
    if let Some(group) = fields.groups.iter().find(|group| **group != fields.kind) {
        return Err(CliError::usage(format!(
            "cannot mix '{group}-*' options with mount type '{}'",
            fields.kind
        )));
    }
    let config = |reason: String| refused(&fields.kind, &reason);
    let target = absolute(&fields.target).map_err(config)?;
    let (access, propagation) = (fields.read_only.into(), fields.propagation.clone());
    Ok(MountSpec { source: source(fields)?, target, access, propagation, mode: String::new() })
}

fn set(fields: &mut Fields, key: &str, value: Option<&str>) -> Result<(), CliError> {
    if let Some(group) = ["bind", "volume", "tmpfs"]
        .into_iter()
        .find(|group| key.strip_prefix(group).is_some_and(|rest| rest.starts_with('-')))
    {
        fields.groups.push(group);
    }
    match key {
        "type" => fields.kind = needed(key, value)?.to_ascii_lowercase(),
        "source" | "src" => fields.source = needed(key, value)?,
        "target" | "dst" | "destination" => fields.target = needed(key, value)?,
        "readonly" | "ro" => fields.read_only = switch(key, value)?,
        "consistency" => drop(needed(key, value)?),
        _ if key.starts_with("bind-") => set_bind(fields, key, value)?,
        _ if key.starts_with("volume-") => set_volume(fields, key, value)?,
        "tmpfs-size" => fields.size = Some(values::bytes(&needed(key, value)?)?),
        "tmpfs-mode" => {
            let text = needed(key, value)?;
            let mode = tmpfs_mode(&text);
            fields.mode = Some(mode.ok_or_else(|| invalid("value for tmpfs-mode", &text))?);
        }
        _ => return Err(unexpected(key, value)),
    }
    Ok(())
}

fn set_bind(fields: &mut Fields, key: &str, value: Option<&str>) -> Result<(), CliError> {
    match key {
        "bind-propagation" => {
            let propagation = needed(key, value)?;
            if !PROPAGATIONS.contains(&propagation.as_str()) {
                let reason = format!("invalid propagation mode: {propagation}");
                return Err(refused("bind", &reason));
            }
            fields.propagation = propagation;
        }
        "bind-nonrecursive" if switch(key, value)? => fields.below = Below::Disabled,
        "bind-nonrecursive" => {}
        "bind-recursive" => {
            fields.below = match needed(key, value)?.as_str() {
                "enabled" => Below::Enabled,
                "disabled" => Below::Disabled,
                "writable" => Below::Writable,
                "readonly" => Below::ReadOnly,
                other => {
                    return Err(CliError::usage(format!("invalid value for {key}: {other}")));
                }
            }
        }
        _ => return Err(unexpected(key, value)),
    }
    Ok(())
}

fn set_volume(fields: &mut Fields, key: &str, value: Option<&str>) -> Result<(), CliError> {
    match key {
        "volume-nocopy" => fields.no_copy = switch(key, value)?,
        "volume-subpath" => fields.subpath = Some(needed(key, value)?),
        "volume-driver" => fields.making.driver = needed(key, value)?,
        "volume-label" => {
            let (name, value) = pair(&needed(key, value)?);
            fields.making.labels.insert(name, value);
        }
        "volume-opt" => {
            let (name, value) = pair(&needed(key, value)?);
            fields.making.options.insert(name, value);
        }
        _ => return Err(unexpected(key, value)),
    }
    Ok(())
}

fn needed(key: &str, value: Option<&str>) -> Result<String, CliError> {
    value
        .map(str::to_owned)
        .ok_or_else(|| CliError::usage(format!("invalid field '{key}' must be a key=value pair")))
}

fn switch(key: &str, value: Option<&str>) -> Result<bool, CliError> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(CliError::usage(format!("invalid value for {key}: {other}"))),
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.to_owned(), value.to_owned())
}

fn unexpected(key: &str, value: Option<&str>) -> CliError {
    CliError::usage(format!("unexpected key '{key}' in '{key}={}'", value.unwrap_or_default()))
}

fn source(fields: Fields) -> Result<MountSource, CliError> {
    match fields.kind.as_str() {
        "bind" => bind(fields),
        "volume" => Ok(MountSource::Volume {
            anonymous: fields.source.is_empty(),
            name: fields.source,
            copy_up: !fields.no_copy,
            subpath: fields.subpath,
            making: fields.making,
            listed: true,
        }),
        "tmpfs" if fields.source.is_empty() => Ok(MountSource::Tmpfs {
            size_bytes: fields.size,
            mode: fields.mode,
            flags: Vec::new(),
            options: Vec::new(),
            listed: true,
        }),
        "tmpfs" => Err(refused("tmpfs", "field Source must not be specified")),
        other => Err(refused(other, "mount type unknown")),
    }
}

fn bind(fields: Fields) -> Result<MountSource, CliError> {
    let refuse = |reason: &str| Err(refused("bind", reason));
    if !std::path::Path::new(&fields.source).is_absolute() {
        return refuse(&format!(
            "invalid mount path: '{}' mount path must be absolute",
            fields.source
        ));
    }
    if fs_err::symlink_metadata(&fields.source).is_err() {
        return refuse(&format!("bind source path does not exist: {}", fields.source));
    }
    let below = fields.below;
    if matches!(below, Below::Writable | Below::ReadOnly) && !fields.read_only {
        return refuse("option 'bind-recursive=writable|readonly' requires 'readonly'");
    }
    if below == Below::ReadOnly && fields.propagation != "rprivate" {
        return refuse("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate'");
    }
    let (recursive, writable_below) = (below != Below::Disabled, below == Below::Writable);
    Ok(MountSource::Bind { path: fields.source, recursive, writable_below, made: false })
}

/// Splits at commas outside double quotes (RFC 4180).
pub(crate) fn split_csv(text: &str) -> Vec<String> {
    let (mut fields, mut quoted) = (vec![String::new()], false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let field = fields.last_mut().expect("there is always one");
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_parse() {
        let bind = mount("type=bind,source=/tmp,target=/x,readonly").unwrap();
        assert!(bind.access.is_on());
        let tmpfs = mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700").unwrap();
        assert!(matches!(
            tmpfs.source,
            MountSource::Tmpfs { size_bytes: Some(1_048_576), mode: Some(0o700), .. }
        ));
        let quoted = mount("type=volume,\"src=a\",dst=\"/with,comma\"").unwrap();
        assert_eq!(quoted.target, "/with,comma");
        let made =
            mount("src=a,dst=/a,volume-label=k=v,volume-label=e,volume-opt=o=bind,ro").unwrap();
        let MountSource::Volume { making, .. } = made.source else { panic!() };
        assert_eq!(making.labels.len(), 2);
        assert_eq!(making.options["o"], "bind");
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "type=bind,source=/tmp",
            "type=x,dst=/a",
            "dst=/a,foo=1",
            "type=bind,src=rel,dst=/a",
            "type=bind,src=/nonexistent/x,dst=/a",
            "type=tmpfs,src=/a,dst=/b",
            "type=tmpfs,dst=/a,volume-nocopy",
            "type=volume,dst=/a,tmpfs-size=1",
            "type=bind,src=/tmp,dst=/a,bind-propagation=x",
            "type=bind,src=/tmp,dst=/a,bind-recursive=writable",
            "type=bind,src=/tmp,dst=/a,bind-bogus=1",
            "dst=/a,ro=maybe",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
        assert!(mount("type=bind,src=/tmp,dst=/a,ro,bind-recursive=writable").is_ok());
    }
}
