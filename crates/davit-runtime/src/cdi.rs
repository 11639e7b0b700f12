//! Devices of the machine by their names, as vendors describe them in files
//! (Container Device Interface 1.1).
//!
//! ```text
//! vendor.com/class=name     one device; a name that none has may be the class of some
//! vendor.com/class          the first one of its kind
//! vendor.com/class=*        all of its kind
//! ```

mod inject;
mod spec;
mod yaml;

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use inject::inject;
use spec::{Edits, Spec};

/// Where specifications are, a later directory before an earlier one.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Largest file in bytes.
const FILE_BYTES: u64 = 4 << 20;
/// Most files of a directory.
const FILES: usize = 1000;
/// Newest version of the specification that is understood.
const VERSION: (u32, u32) = (1, 1);
/// The annotation that names a device's class (of BuildKit).
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// The annotation that lets a build have a device without being asked (of BuildKit).
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CdiDevice {
    /// Its qualified name, `vendor.com/class=name`.
    pub name: String,
    annotations: BTreeMap<String, String>,
    /// What each device of its file comes with.
    shared: Arc<Edits>,
    own: Edits,
}

impl CdiDevice {
    /// Whether its vendor lets every build have it.
    #[must_use]
    pub fn is_for_all(&self) -> bool {
        self.annotations.get(AUTO_ALLOW).is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }

    /// Where files of the machine are mounted for it.
    pub fn mount_targets(&self) -> impl Iterator<Item = &str> {
        let edits = [&*self.shared, &self.own].into_iter();
        edits.flat_map(|edits| &edits.mounts).map(|mount| mount.container_path.as_str())
    }
}

/// Why a device cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    /// It is no name of one.
    #[error("`{0}` is no name of a device, which is of the form vendor.com/class=name")]
    Name(String),
    /// Files of the same rank both have it.
    #[error("device {device} is described by both {one} and {other}")]
    Conflict {
        /// Its name.
        device: String,
        /// A file.
        one: String,
        /// The other.
        other: String,
    },
    /// It asks for what davit does not do.
    #[error("device {device} asks for {what}, which is not supported")]
    Unsupported {
        /// Its name.
        device: String,
        /// What it asks for.
        what: String,
    },
    /// A device node of the machine that it stands for.
    #[error("cannot use the device node {path}")]
    Node {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// The devices of a machine.
#[derive(Debug, Default)]
pub struct Devices {
    known: BTreeMap<String, (PathBuf, Result<CdiDevice, PathBuf>)>,
    problems: Vec<String>,
}

impl Devices {
    /// Reads the specifications of all directories; those that cannot be read are left out.
    #[must_use]
    pub fn read(directories: &[PathBuf]) -> Self {
        let mut devices = Self::default();
        for directory in directories {
            let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.retain(|path| {
                path.extension().is_some_and(|it| matches!(it.to_str(), Some("json" | "yaml")))
            });
            files.sort();
            files.truncate(FILES);
            for file in files {
                match read_spec(&file) {
                    Ok(spec) => devices.add(directory, &file, spec),
                    Err(problem) => devices.problems.push(format!("{}: {problem}", file.display())),
                }
            }
        }
        devices
    }

    fn add(&mut self, directory: &Path, file: &Path, spec: Spec) {
        let shared = Arc::new(spec.container_edits);
        for device in spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            let (annotations, own) = (device.annotations, device.container_edits);
            let mut all = spec.annotations.clone();
            all.extend(annotations);
            let shared = Arc::clone(&shared);
            let new = CdiDevice { name: name.clone(), annotations: all, shared, own };
            // A later directory counts more; of one directory's files none does.
            let value = match self.known.get(&name) {
                Some((known, _)) if known.parent() == Some(directory) => Err(known.clone()),
                _ => Ok(new),
            };
            self.known.insert(name, (file.to_owned(), value));
        }
    }

    /// What was wrong with files that were left out.
    #[must_use]
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The devices that a name stands for, perhaps none.
    ///
    /// # Errors
    /// [`CdiError::Name`], [`CdiError::Conflict`].
    pub fn find(&self, name: &str) -> Result<Vec<CdiDevice>, CdiError> {
        let (kind, wanted) = match name.split_once('=') {
            Some((kind, wanted)) => (kind, Some(wanted)),
            None => (name, None),
        };
        if !is_kind(kind) || wanted.is_some_and(|it| it != "*" && !is_device_name(it)) {
            return Err(CdiError::Name(name.to_owned()));
        }
        let start = format!("{kind}=");
        let of_kind = || self.known.iter().filter(|(known, _)| known.starts_with(&start));
        let found: Vec<_> = match wanted {
            None => of_kind().take(1).collect(),
            Some("*") => of_kind().collect(),
            Some(wanted) => match self.known.get_key_value(name) {
                Some(one) => vec![one],
                None => of_kind().filter(|(_, (_, it))| has_class(it, wanted)).collect(),
            },
        };
        let known = |(name, (file, device)): (&String, &(PathBuf, Result<CdiDevice, PathBuf>))| {
            device.clone().map_err(|other| CdiError::Conflict {
                device: name.clone(),
                one: other.display().to_string(),
                other: file.display().to_string(),
            })
        };
        found.into_iter().map(known).collect()
    }
}

fn has_class(device: &Result<CdiDevice, PathBuf>, class: &str) -> bool {
    device.as_ref().is_ok_and(|device| device.annotations.get(CLASS).is_some_and(|it| it == class))
}

/// Whether a text names a device, or some, rather than a path.
#[must_use]
pub fn is_device(text: &str) -> bool {
    text.split_once('=').is_some_and(|(kind, name)| is_kind(kind) && is_device_name(name))
}

/// Whether a text is `vendor/class`.
fn is_kind(text: &str) -> bool {
    let word = |text: &str, more: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic())
            && text.ends_with(|last: char| last.is_ascii_alphanumeric())
            && text.chars().all(|it| it.is_ascii_alphanumeric() || more.contains(it))
    };
    text.split_once('/').is_some_and(|(vendor, class)| word(vendor, "_-.") && word(class, "_-"))
}

fn is_device_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.ends_with(|last: char| last.is_ascii_alphanumeric())
        && text.chars().all(|it| it.is_ascii_alphanumeric() || "_-.:".contains(it))
}

fn read_spec(path: &Path) -> Result<Spec, String> {
    let mut text = String::new();
    let file = fs_err::File::open(path).map_err(|error| error.to_string())?;
    let is_file = file.metadata().is_ok_and(|facts| facts.is_file());
    if !is_file {
        return Err("it is no file".to_owned());
    }
    file.take(FILE_BYTES + 1).read_to_string(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > FILE_BYTES {
        return Err("it is too large".to_owned());
    }
    let is_json = path.extension().is_some_and(|it| it == "json");
    let spec: Spec = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        serde_json::from_value(yaml::parse(&text)?).map_err(|error| error.to_string())?
    };
    check(&spec)?;
    Ok(spec)
}

fn check(spec: &Spec) -> Result<(), String> {
    let mut numbers = spec.version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => return Err(format!("`{}` is no version", spec.version)),
    };
    if version > VERSION {
        return Err(format!("version {} is not supported", spec.version));
    }
    if !is_kind(&spec.kind) {
        return Err(format!("`{}` is no kind of device", spec.kind));
    }
    match spec.devices.iter().find(|device| !is_device_name(&device.name)) {
        Some(device) => Err(format!("`{}` is no name of a device", device.name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
