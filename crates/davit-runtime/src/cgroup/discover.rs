//! Finding the hierarchies of the machine.

use std::path::PathBuf;

use davit_sys::mount::{FsContext, MountAttributes};

use super::directory::Directory;
use super::{CgroupError, Cgroups, Hierarchy};

/// `CGROUP_SUPER_MAGIC` of version 1.
const CGROUP_MAGIC: rustix::fs::FsWord = 0x0027_e0eb;

/// A cgroup mount of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    /// `None` for version 2.
    controllers: Option<Vec<String>>,
}

pub(super) fn discover() -> Result<Cgroups, CgroupError> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let text = fs_err::read_to_string(MOUNTINFO)
        .map_err(|source| CgroupError::Io { path: MOUNTINFO.into(), source })?;
    let mut unified = None;
    let mut v1 = Vec::new();
    for mounted in parse(&text) {
        match mounted.controllers {
            None if unified.is_none() => unified = Some(Directory::at(mounted.point)?),
            None => {}
            Some(controllers) => v1.extend(hierarchy(mounted.point, controllers)),
        }
    }
    let unified = match unified {
        Some(unified) => unified,
        None => mount_unified()?,
    };
    let controllers =
        unified.read("cgroup.controllers")?.split_whitespace().map(str::to_owned).collect();
    Ok(Cgroups { unified, controllers, v1 })
}

/// A hierarchy of version 1 that a limit may need. One that cannot be opened, as it may be hidden by
/// another mount, is none: only who asks for a limit of its controllers hears of it.
fn hierarchy(point: PathBuf, controllers: Vec<String>) -> Option<Hierarchy> {
    let directory = Directory::at(point).ok().filter(|_| !controllers.is_empty())?;
    let kind = rustix::fs::fstatfs(&directory).ok()?.f_type;
    (kind == CGROUP_MAGIC).then_some(Hierarchy { controllers, directory })
}

/// The kernel always has the unified hierarchy; a mount that is attached nowhere gives access.
fn mount_unified() -> Result<Directory, CgroupError> {
    let mount = FsContext::open(c"cgroup2")
        .and_then(|context| context.mount(MountAttributes::empty()))
        .map_err(|_| CgroupError::NoHierarchy)?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let directory = rustix::fs::openat(&mount, ".", flags, rustix::fs::Mode::empty())
        .map_err(|_| CgroupError::NoHierarchy)?;
    Ok(Directory::from_parts(directory, "/sys/fs/cgroup".into()))
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS…] - TYPE SOURCE SUPER-OPTIONS`.
fn parse(text: &str) -> Vec<Mounted> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mounted> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let kind = filesystem.next()?;
    let point = PathBuf::from(unescape(mount.split(' ').nth(4)?));
    match kind {
        "cgroup2" => Some(Mounted { point, controllers: None }),
        "cgroup" => {
            let options = filesystem.nth(1)?;
            let controllers = options
                .split(',')
                .filter(|option| !matches!(*option, "rw" | "ro" | "xattr" | "clone_children"))
                .filter(|option| !option.contains('='))
                .map(str::to_owned)
                .collect();
            Some(Mounted { point, controllers: Some(controllers) })
        }
        _ => None,
    }
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_hierarchies_are_none() {
        for point in ["/nonexistent/memory", "/proc"] {
            assert!(hierarchy(point.into(), vec!["memory".to_owned()]).is_none(), "{point}");
        }
    }

    #[test]
    fn mountinfo_is_understood() {
        let text = "\
            29 23 0:25 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            30 23 0:26 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            31 23 0:27 / /odd\\040name rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n\
            32 23 0:28 / /tmp rw - tmpfs tmpfs rw\nbroken\n";
        let names = |list: &[&str]| Some(list.iter().map(|name| (*name).to_owned()).collect());
        let at = |point: &str, controllers| Mounted { point: point.into(), controllers };
        assert_eq!(
            parse(text),
            [
                at("/sys/fs/cgroup/cpu,cpuacct", names(&["cpu", "cpuacct"])),
                at("/sys/fs/cgroup/systemd", names(&[])),
                at("/odd name", None),
            ]
        );
    }
}
