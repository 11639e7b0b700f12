//! Whether the host shares the mounts below a bind source, as `bind-propagation` asks.

use std::path::{Path, PathBuf};

use super::{ContainerError, MountSource, MountSpec};

/// A line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`).
#[derive(Debug, PartialEq, Eq)]
struct HostMount {
    point: PathBuf,
    is_shared: bool,
    is_slave: bool,
}

/// Refuses a shared or slave bind whose source is on a mount that sends no events.
///
/// # Errors
/// [`ContainerError::Invalid`] with Docker's sentence.
pub(super) fn check(mounts: &[MountSpec]) -> Result<(), ContainerError> {
    let asking = mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Bind { path, .. } => match mount.propagation.trim_start_matches('r') {
            "shared" => Some((path, "shared")),
            "slave" => Some((path, "shared or slave")),
            _ => None,
        },
        _ => None,
    });
    let asking: Vec<_> = asking.collect();
    if asking.is_empty() {
        return Ok(());
    }
    let path = "/proc/self/mountinfo";
    let table =
        fs_err::read_to_string(path).map_err(|error| ContainerError::io("read", path, error))?;
    let host: Vec<HostMount> = table.lines().filter_map(parse).collect();
    for (path, wanted) in asking {
        let Some(mount) = holder(&host, &existing(Path::new(path))) else { continue };
        let sends = mount.is_shared || (mount.is_slave && wanted != "shared");
        if !sends {
            let point = mount.point.display();
            return Err(ContainerError::Invalid(format!(
                "path {path} is mounted on {point} but it is not a {wanted} mount"
            )));
        }
    }
    Ok(())
}

/// The part of a path that is there; the rest is made by the start.
fn existing(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|path| fs_err::canonicalize(path).ok());
    found.unwrap_or_else(|| "/".into())
}

/// The mount that a path is on: of those at one point the last covers the others.
fn holder<'a>(mounts: &'a [HostMount], path: &Path) -> Option<&'a HostMount> {
    let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    above.max_by_key(|mount| mount.point.components().count())
}

fn parse(line: &str) -> Option<HostMount> {
    let mut fields = line.split(' ');
    let point = fields.nth(4)?;
    let (mut is_shared, mut is_slave) = (false, false);
    for field in fields.skip(1).take_while(|field| *field != "-") {
        is_shared |= field.starts_with("shared:");
        is_slave |= field.starts_with("master:");
    }
    // The kernel writes these four of a path as numbers.
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    let point = escapes.iter().fold(point.to_owned(), |text, (from, to)| text.replace(from, to));
    Some(HostMount { point: point.into(), is_shared, is_slave })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_and_last_mount_counts() {
        let table = "21 1 8:1 / / rw shared:1 - ext4 /dev/sda rw\n\
                     22 21 0:5 / /a rw - tmpfs a rw\n\
                     23 22 0:6 / /a rw master:7 - tmpfs b rw\n\
                     24 21 0:7 / /a\\040b rw shared:3 master:4 - tmpfs c rw";
        let mounts: Vec<HostMount> = table.lines().filter_map(parse).collect();
        let kinds = |path: &str| {
            let mount = holder(&mounts, Path::new(path)).unwrap();
            (mount.is_shared, mount.is_slave)
        };
        assert_eq!(kinds("/b"), (true, false));
        assert_eq!(kinds("/a/x"), (false, true));
        assert_eq!(kinds("/a b"), (true, true));
    }
}
