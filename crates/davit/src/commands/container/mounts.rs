//! `--volume`, `--mount` and `--tmpfs`.

pub(crate) mod long;
mod tmpfs;

use std::collections::BTreeMap;

use davit_engine::{
    container::{MountSource, MountSpec, VolumeMaking},
    image::Empty,
};

use crate::error::CliError;

/// How mounts of the host and the container reach each other.
const PROPAGATIONS: [&str; 6] = ["shared", "slave", "private", "rshared", "rslave", "rprivate"];

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
        let mount = volume(text)?;
        // The same words twice are no conflict.
        if !all.contains(&mount) {
            all.push(mount);
        }
    }
    for text in mounts {
        all.push(long::mount(text)?);
    }
    // An unnamed volume makes room for what has a name.
    let is_unnamed = |mount: &MountSpec| matches!(&mount.source, MountSource::Volume { name, .. } if name.is_empty());
    let (unnamed, named): (Vec<_>, Vec<_>) = all.iter().cloned().partition(is_unnamed);
    all.retain(|mount| {
        !unnamed.contains(mount) || !named.iter().any(|other| other.target == mount.target)
    });
    for text in tmpfs {
        let mount = tmpfs::mount(text)?;
        // Of two on one path Docker takes the later one.
        all.retain(|known: &MountSpec| {
            known.target != mount.target || !matches!(known.source, MountSource::Tmpfs { .. })
        });
        all.push(mount);
    }
    for (index, one) in all.iter().enumerate() {
        if all[..index].iter().any(|other| other.target == one.target) {
            return Err(CliError::user(format!("Duplicate mount point: {}", one.target)));
        }
    }
    Ok(all)
}

/// Targets of volumes without a name, which belong to the config as those of the image do.
///
/// # Errors
/// As [`parse`].
pub(crate) fn anonymous(volumes: &[String]) -> Result<Option<BTreeMap<String, Empty>>, CliError> {
    let targets = volumes.iter().filter(|text| !text.contains(':'));
    let targets = targets.map(|text| Ok((volume(text)?.target, Empty {})));
    let targets = targets.collect::<Result<BTreeMap<_, _>, CliError>>()?;
    Ok(Some(targets).filter(|targets| !targets.is_empty()))
}

/// Parses `[SOURCE:]TARGET[:OPTIONS]`.
fn volume(text: &str) -> Result<MountSpec, CliError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, given) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(CliError::user(format!("invalid volume specification: '{text}'"))),
    };
    if (parts.len() > 1 && source.is_empty()) || target.is_empty() {
        return Err(CliError::usage(format!("invalid spec: {text}: empty section between colons")));
    }
    let kind = if is_path(source) { "bind" } else { "volume" };
    let specification = |reason: &str| {
        let config = config_of(kind);
        CliError::user(format!("invalid volume specification: '{text}': {config}: {reason}"))
    };
    let target = absolute(target).map_err(|reason| specification(&reason))?;
    let mut options = Options::default();
    for option in given.split(',').filter(|option| !option.is_empty()) {
        options.add(option).map_err(|()| CliError::user(format!("invalid mode: {given}")))?;
    }
    let foreign = match kind {
        "bind" if options.no_copy => Some("VolumeOptions"),
        "volume" if !options.propagation.is_empty() => Some("BindOptions"),
        _ => None,
    };
    if let Some(field) = foreign {
        return Err(specification(&format!("field {field} must not be specified")));
    }
    let mode = given.to_owned();
    let source = if is_path(source) {
        let path = host_path(source)?;
        MountSource::Bind { path, recursive: true, writable_below: false, made: true }
    } else {
        MountSource::Volume {
            name: source.to_owned(),
            copy_up: !options.no_copy,
            subpath: None,
            anonymous: source.is_empty(),
            making: VolumeMaking::default(),
            listed: false,
        }
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
    /// Kinds that were given: of each there is one at most.
    kinds: Vec<&'static str>,
}

impl Options {
    fn add(&mut self, option: &str) -> Result<(), ()> {
        let kind = match option {
            "rw" | "ro" | "readonly" => "access",
            "nocopy" => "copy",
            // Labels of SELinux, and consistency hints of another platform: no meaning here.
            "z" | "Z" => "label",
            "consistent" | "cached" | "delegated" | "default" => "consistency",
            _ if PROPAGATIONS.contains(&option) => "propagation",
            _ => return Err(()),
        };
        if self.kinds.contains(&kind) {
            return Err(());
        }
        self.kinds.push(kind);
        match kind {
            "access" => self.read_only = option != "rw",
            "copy" => self.no_copy = true,
            "propagation" => option.clone_into(&mut self.propagation),
            _ => {}
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

/// A path of the host, absolute.
fn host_path(source: &str) -> Result<String, CliError> {
    let path = std::path::absolute(source).map_err(crate::error::io_error)?;
    let text = path.to_str().ok_or_else(|| CliError::usage(format!("{source:?} is not UTF-8")))?;
    Ok(text.to_owned())
}

/// A target without needless slashes; otherwise why it is none.
fn absolute(target: &str) -> Result<String, String> {
    if !target.starts_with('/') {
        return Err(format!("invalid mount path: '{target}' mount path must be absolute"));
    }
    let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.is_empty() {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    if parts.contains(&"..") {
        return Err(format!("invalid mount path: '{target}' has a '..'"));
    }
    Ok(format!("/{}", parts.join("/")))
}

/// What is invalid about a mount, in the words of Docker's daemon.
fn config_of(kind: &str) -> String {
    format!("invalid mount config for type {kind:?}")
}

/// A mount that nothing can make, where `create` ends with 1.
fn refused(kind: &str, reason: &str) -> CliError {
    CliError::user(format!("{}: {reason}", config_of(kind)))
}

/// A value that is none, and why.
fn invalid(what: &str, reason: &str) -> CliError {
    CliError::usage(format!("invalid {what}: {reason}"))
}

/// The mode of a tmpfs in octal digits; the kernel takes its last twelve bits.
fn tmpfs_mode(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 8).ok().map(|mode| mode & 0o7777)
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
            matches!(bind.source, MountSource::Bind { ref path, recursive: true, .. } if path == "/tmp")
        );
        for bad in [
            "",
            ":",
            "a:b",
            "/a:/",
            "/a:/b:xx",
            "a:b:c:d",
            "n:/b:ro,rw",
            "n:/b:rshared",
            "/tmp:/b:nocopy",
            "/a:",
            "/a:/../b",
        ] {
            assert!(volume(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn duplicates_are_refused() {
        let one = |text: &str| vec![text.to_owned()];
        assert!(parse(&one("/a"), &[], &one("/a")).is_err());
        assert!(parse(&["/tmp:/a".to_owned(), "/:/a".to_owned()], &[], &[]).is_err());
        let twice = ["/tmp:/a".to_owned(), "/tmp:/a".to_owned()];
        assert_eq!(parse(&twice, &[], &[]).unwrap().len(), 1);
    }
}
