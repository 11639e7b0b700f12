//! `--volume`, `--mount` and `--tmpfs`.

use davit_engine::container::{MountSource, MountSpec};

use super::values;
use crate::error::CliError;

/// Parses all mounts of a command line.
///
/// # Errors
/// What Docker refuses: relative targets, unknown keys, two mounts on one target.
pub(crate) fn parse(
    volumes: &[String],
    mounts: &[String],
    tmpfs: &[String],
) -> Result<Vec<MountSpec>, CliError> {
    let mut all = Vec::new();
    for text in volumes {
        all.push(volume(text)?);
    }
    for text in mounts {
        all.push(mount(text)?);
    }
    for text in tmpfs {
        all.push(tmpfs_mount(text)?);
    }
    for (index, one) in all.iter().enumerate() {
        if all[..index].iter().any(|other| other.target == one.target) {
            return Err(CliError::usage(format!("Duplicate mount point: {}", one.target)));
        }
    }
    Ok(all)
}

/// Parses `[SOURCE:]TARGET[:OPTIONS]`.
fn volume(text: &str) -> Result<MountSpec, CliError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, given) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(CliError::usage(format!("invalid volume specification: '{text}'"))),
    };
    if (parts.len() > 1 && source.is_empty()) || target.is_empty() {
        return Err(CliError::usage(format!("invalid spec: {text}: empty section between colons")));
    }
    let target = absolute(target, text)?;
    let mut options = Options::default();
    for option in given.split(',').filter(|option| !option.is_empty()) {
        options.add(option).map_err(|()| CliError::usage(format!("invalid mode: {option}")))?;
    }
    let mode = given.to_owned();
    let source = if is_path(source) {
        MountSource::Bind { path: host_path(source)?, recursive: true }
    } else {
        let (name, anonymous) = (source.to_owned(), source.is_empty());
        MountSource::Volume { name, copy_up: !options.no_copy, subpath: None, anonymous }
    };
    let (access, propagation) = (options.read_only.into(), options.propagation);
    Ok(MountSpec { source, target, access, propagation, mode })
}

/// Options of `--volume`.
#[derive(Debug, Default)]
struct Options {
    read_only: bool,
    no_copy: bool,
    propagation: String,
}

impl Options {
    fn add(&mut self, option: &str) -> Result<(), ()> {
        match option {
            "rw" => self.read_only = false,
            "ro" | "readonly" => self.read_only = true,
            "nocopy" => self.no_copy = true,
            // Labels of SELinux, and consistency hints of another platform: no meaning here.
            "z" | "Z" | "consistent" | "cached" | "delegated" | "default" => {}
            "shared" | "slave" | "private" | "rshared" | "rslave" | "rprivate" => {
                option.clone_into(&mut self.propagation);
            }
            _ => return Err(()),
        }
        Ok(())
    }
}

fn is_path(source: &str) -> bool {
    source.starts_with('/')
        || source.starts_with("./")
        || source.starts_with("../")
        || matches!(source, "." | "..")
        || source.starts_with('~')
}

/// A path of the host, absolute; `-v` makes a missing one, as Docker does.
fn host_path(source: &str) -> Result<String, CliError> {
    let path = std::path::absolute(source).map_err(crate::error::io_error)?;
    let text = path.to_str().ok_or_else(|| CliError::usage(format!("{source:?} is not UTF-8")))?;
    if fs_err::symlink_metadata(&path).is_err() {
        fs_err::create_dir_all(&path)
            .map_err(|error| crate::error::io_error(error).with_code(125))?;
    }
    Ok(text.to_owned())
}

fn absolute(target: &str, text: &str) -> Result<String, CliError> {
    if !target.starts_with('/') {
        return Err(CliError::usage(format!(
            "invalid volume specification: '{text}': invalid mount config: mount path must be absolute"
        )));
    }
    let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() {
        return Err(CliError::usage(format!(
            "invalid volume specification: '{text}': destination can't be '/'"
        )));
    }
    if parts.contains(&"..") {
        return Err(CliError::usage(format!(
            "invalid volume specification: '{text}': path with '..'"
        )));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Fields of `--mount` as they are given.
#[derive(Debug, Default)]
struct Fields {
    kind: String,
    source: String,
    target: String,
    read_only: bool,
    propagation: String,
    no_copy: bool,
    subpath: Option<String>,
    recursive: bool,
    size: Option<u64>,
    mode: Option<u32>,
}

/// Parses `type=…,source=…,target=…`.
fn mount(text: &str) -> Result<MountSpec, CliError> {
    let mut fields = Fields { kind: "volume".to_owned(), recursive: true, ..Fields::default() };
    for field in split_csv(text) {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        set(&mut fields, &key.to_ascii_lowercase(), value)?;
    }
    if fields.target.is_empty() {
        return Err(CliError::usage("invalid argument for --mount: target is required"));
    }
    let target = absolute(&fields.target, text)?;
    let (access, propagation) = (fields.read_only.into(), fields.propagation.clone());
    Ok(MountSpec { source: source(fields)?, target, access, propagation, mode: String::new() })
}

fn set(fields: &mut Fields, key: &str, value: Option<&str>) -> Result<(), CliError> {
    let needed = || {
        value.map(str::to_owned).ok_or_else(|| {
            CliError::usage(format!("invalid field '{key}' must be a key=value pair"))
        })
    };
    let switch = || match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(CliError::usage(format!("invalid value for {key}: {other}"))),
    };
    match key {
        "type" => fields.kind = needed()?.to_ascii_lowercase(),
        "source" | "src" => fields.source = needed()?,
        "target" | "dst" | "destination" => fields.target = needed()?,
        "readonly" | "ro" => fields.read_only = switch()?,
        "bind-propagation" => fields.propagation = needed()?,
        "bind-nonrecursive" => fields.recursive = !switch()?,
        "bind-recursive" => fields.recursive = needed()? != "disabled",
        "volume-nocopy" => fields.no_copy = switch()?,
        "volume-subpath" => fields.subpath = Some(needed()?),
        "volume-label" | "volume-driver" | "volume-opt" | "consistency" => drop(needed()?),
        "tmpfs-size" => fields.size = Some(values::bytes(&needed()?)?),
        "tmpfs-mode" => {
            let text = needed()?;
            let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
            fields.mode =
                Some(mode.ok_or_else(|| {
                    CliError::usage(format!("invalid value for tmpfs-mode: {text}"))
                })?);
        }
        _ => {
            return Err(CliError::usage(format!(
                "unexpected key '{key}' in '{key}={}'",
                value.unwrap_or_default()
            )));
        }
    }
    Ok(())
}

fn source(fields: Fields) -> Result<MountSource, CliError> {
    match fields.kind.as_str() {
        "bind" => {
            if !std::path::Path::new(&fields.source).is_absolute() {
                return Err(CliError::usage(
                    "invalid mount config for type \"bind\": source path must be absolute",
                ));
            }
            if fs_err::symlink_metadata(&fields.source).is_err() {
                return Err(CliError::usage(format!(
                    "invalid mount config for type \"bind\": bind source path does not exist: {}",
                    fields.source
                )));
            }
            Ok(MountSource::Bind { path: fields.source, recursive: fields.recursive })
        }
        "volume" => {
            let anonymous = fields.source.is_empty();
            let (name, subpath) = (fields.source, fields.subpath);
            Ok(MountSource::Volume { name, copy_up: !fields.no_copy, subpath, anonymous })
        }
        "tmpfs" if fields.source.is_empty() => {
            Ok(MountSource::Tmpfs { size_bytes: fields.size, mode: fields.mode, flags: Vec::new() })
        }
        "tmpfs" => Err(CliError::usage(
            "invalid mount config for type \"tmpfs\": source must not be specified",
        )),
        other => Err(CliError::usage(format!(
            "invalid argument for --mount: mount type unknown: {other:?}"
        ))),
    }
}

/// Splits at commas outside double quotes (RFC 4180).
fn split_csv(text: &str) -> Vec<String> {
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

/// Parses `PATH[:OPTIONS]`.
fn tmpfs_mount(text: &str) -> Result<MountSpec, CliError> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let (mut size_bytes, mut mode, mut flags) = (None, None, Vec::new());
    let mut access = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => size_bytes = Some(values::bytes(value)?),
            Some(("mode", value)) => {
                let parsed = u32::from_str_radix(value, 8)
                    .map_err(|_| CliError::usage(format!("invalid mode: {value}")))?;
                mode = Some(parsed & 0o7777);
            }
            None if option == "ro" => access = true,
            None if matches!(
                option,
                "rw" | "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev"
            ) =>
            {
                flags.push(option.to_owned());
            }
            _ => return Err(CliError::usage(format!("invalid tmpfs option {option:?}"))),
        }
    }
    Ok(MountSpec {
        source: MountSource::Tmpfs { size_bytes, mode, flags },
        target: absolute(target, text)?,
        access: access.into(),
        propagation: String::new(),
        mode: options.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_parse() {
        let named = volume("data:/var/lib:ro,z").unwrap();
        assert!(named.access.is_on() && named.target == "/var/lib");
        assert!(
            matches!(named.source, MountSource::Volume { ref name, copy_up: true, .. } if name == "data")
        );
        let anonymous = volume("/cache/").unwrap();
        assert!(matches!(anonymous.source, MountSource::Volume { anonymous: true, .. }));
        assert_eq!(anonymous.target, "/cache");
        let bind = volume("/tmp:/x:rslave").unwrap();
        assert_eq!(bind.propagation, "rslave");
        assert!(
            matches!(bind.source, MountSource::Bind { ref path, recursive: true } if path == "/tmp")
        );
        for bad in ["", ":", "a:b", "/a:/", "/a:/b:xx", "a:b:c:d", "/a:", "/a:/../b"] {
            assert!(volume(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn mounts_parse() {
        let bind = mount("type=bind,source=/tmp,target=/x,readonly").unwrap();
        assert!(bind.access.is_on());
        let tmpfs = mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700").unwrap();
        assert!(matches!(
            tmpfs.source,
            MountSource::Tmpfs { size_bytes: Some(1_048_576), mode: Some(0o700), .. }
        ));
        let quoted = mount("type=volume,\"src=a\",dst=\"/with,comma\"").unwrap();
        assert_eq!(quoted.target, "/with,comma");
        for bad in [
            "type=bind,source=/tmp",
            "type=x,dst=/a",
            "dst=/a,foo=1",
            "type=bind,src=rel,dst=/a",
            "type=bind,src=/nonexistent/x,dst=/a",
            "type=tmpfs,src=/a,dst=/b",
        ] {
            assert!(mount(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_and_duplicates() {
        let one = tmpfs_mount("/run:size=64k,exec,ro").unwrap();
        assert!(one.access.is_on());
        assert!(tmpfs_mount("run").is_err() && tmpfs_mount("/run:bogus").is_err());
        let twice = parse(&["/a".to_owned()], &[], &["/a".to_owned()]);
        assert!(twice.is_err());
    }
}
