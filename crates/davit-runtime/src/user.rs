//! Users and groups looked up in a root filesystem's own files, never through the host's database.
//!
//! The rules are Docker's: a name or number in `/etc/passwd` gives group and home; a group after
//! the colon replaces the primary group and drops the others; numbers need no entry.

use std::{
    collections::BTreeSet,
    io::{self, Read as _},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use rustix::fs::{FileType, OFlags};
use thiserror::Error;

use crate::child::resolve::{Links, open_in_root};
use crate::plan::UserChoice;

/// Largest file that is read; an image decides its size (CVE-2024-9676).
const MAX_FILE_BYTES: u64 = 8 << 20;

/// Largest number of a user or group, as Docker has it; the kernel's -1 means "unchanged".
const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// Who a process runs as, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups with the primary one (CVE-2022-36109), sorted, without repeats.
    pub groups: Vec<u32>,
    /// Home directory; `/` if the user has no entry.
    pub home: String,
}

/// A user that cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name is not in the image's `/etc/passwd`.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// The name is not in the image's `/etc/group`.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number beyond what is permitted.
    #[error("user or group id {0} is out of range 0-2147483647")]
    OutOfRange(String),
    /// The file is there and cannot be read, is no regular file, or is larger than davit reads.
    #[error("{path} of the root filesystem")]
    Read {
        /// Path in the root filesystem.
        path: &'static str,
        /// Cause.
        source: io::Error,
    },
}

/// An entry of `/etc/passwd`.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// An entry of `/etc/group`.
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Looks a user up in `/etc/passwd` and `/etc/group` below `root` (any descriptor of a directory),
/// without leaving it.
///
/// # Errors
/// [`UserError`].
pub fn resolve(root: BorrowedFd<'_>, choice: &UserChoice) -> Result<User, UserError> {
    match choice {
        UserChoice::Ids { uid, gid, groups } => by_numbers(root, *uid, *gid, groups),
        UserChoice::Named { user, groups } => by_name(root, user, groups),
    }
}

fn by_numbers(root: BorrowedFd<'_>, uid: u32, gid: u32, groups: &[u32]) -> Result<User, UserError> {
    for id in [uid, gid].iter().chain(groups) {
        if *id > MAX_ID {
            return Err(UserError::OutOfRange(id.to_string()));
        }
    }
    let accounts = accounts(&read(root, c"etc/passwd", "/etc/passwd")?);
    let home = accounts.into_iter().find(|account| account.uid == uid).map(|account| account.home);
    let groups: BTreeSet<u32> = groups.iter().copied().chain([gid]).collect();
    Ok(User { uid, gid, groups: groups.into_iter().collect(), home: home_or_root(home) })
}

fn by_name(root: BorrowedFd<'_>, text: &str, more: &[String]) -> Result<User, UserError> {
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let accounts = accounts(&read(root, c"etc/passwd", "/etc/passwd")?);
    let wanted = if name.is_empty() { "0" } else { name };
    let account = accounts
        .into_iter()
        .find(|account| account.name == wanted || account.uid.to_string() == wanted);
    let uid = match &account {
        Some(account) => account.uid,
        None => number(wanted, UserError::UnknownUser)?,
    };
    let known = groups(&read(root, c"etc/group", "/etc/group")?);
    let mut set = BTreeSet::new();
    let gid = match (group, &account) {
        (Some(group), _) => group_id(&known, group)?,
        (None, Some(account)) => {
            let is_member = |group: &&Group| group.members.contains(&account.name);
            set.extend(known.iter().filter(is_member).map(|group| group.gid));
            account.gid
        }
        (None, None) => 0,
    };
    set.insert(gid);
    for group in more {
        set.insert(group_id(&known, group)?);
    }
    let home = home_or_root(account.map(|account| account.home));
    Ok(User { uid, gid, groups: set.into_iter().collect(), home })
}

fn home_or_root(home: Option<String>) -> String {
    home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
}

fn group_id(known: &[Group], text: &str) -> Result<u32, UserError> {
    let found = known.iter().find(|group| group.name == text || group.gid.to_string() == text);
    match found {
        Some(group) => Ok(group.gid),
        None => number(text, UserError::UnknownGroup),
    }
}

fn number(text: &str, unknown: impl FnOnce(String) -> UserError) -> Result<u32, UserError> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        return Err(unknown(text.to_owned()));
    }
    text.parse()
        .ok()
        .filter(|id| *id <= MAX_ID)
        .ok_or_else(|| UserError::OutOfRange(text.to_owned()))
}

/// Reads a small regular file of the root; a missing one is empty. It is never opened before it is
/// known to be regular: opening a device or a pipe would act.
fn read(
    root: BorrowedFd<'_>,
    relative: &std::ffi::CStr,
    path: &'static str,
) -> Result<String, UserError> {
    let failed = |source: io::Error| UserError::Read { path, source };
    let found = match open_in_root(root, relative, OFlags::PATH, Links::Follow) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(failed(errno.into())),
    };
    let status = rustix::fs::fstat(&found).map_err(|errno| failed(errno.into()))?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "not a regular file")));
    }
    let link = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
    let mut bytes = Vec::new();
    let file = fs_err::File::open(link).map_err(failed)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `name:password:uid:gid:comment:home:shell`; lines that are not so are skipped.
fn accounts(text: &str) -> Vec<Account> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
            let uid = id(fields.nth(1)?)?;
            let gid = id(fields.next()?)?;
            let home = fields.nth(1).unwrap_or_default();
            Some(Account { name: name.to_owned(), uid, gid, home: home.to_owned() })
        })
        .collect()
}

/// `name:password:gid:members`.
fn groups(text: &str) -> Vec<Group> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.trim().split(':');
            let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
            let gid = id(fields.nth(1)?)?;
            let members = fields.next().unwrap_or_default();
            let members = members.split(',').filter(|member| !member.is_empty());
            Some(Group {
                name: name.to_owned(),
                gid,
                members: members.map(str::to_owned).collect(),
            })
        })
        .collect()
}

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use davit_test::TempDir;
    use rustix::fs::{CWD, Mode};

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n\
        app:x:1000:1000::/home/app:/bin/sh\n1234:x:77:77::/seven:\n\
        big:x:4294967295:0::/:\nnohome:x:5:6\n";
    const GROUP: &str = "root:x:0:\napp:x:1000:\nwheel:x:10:root,app\naudio:x:29:app\n";

    fn look(root: &TempDir, user: &str, more: &[&str]) -> Result<User, UserError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, root.path(), flags, Mode::empty()).unwrap();
        let groups = more.iter().map(|group| (*group).to_owned()).collect();
        resolve(root.as_fd(), &UserChoice::Named { user: user.to_owned(), groups })
    }

    fn image() -> TempDir {
        let root = TempDir::new();
        fs_err::create_dir(root.join("etc")).unwrap();
        fs_err::write(root.join("etc/passwd"), PASSWD).unwrap();
        fs_err::write(root.join("etc/group"), GROUP).unwrap();
        root
    }

    #[test]
    fn users_are_found_as_docker_finds_them() {
        let root = image();
        for (text, uid, gid, groups, home) in [
            ("", 0, 0, vec![0, 10], "/root"),
            ("root", 0, 0, vec![0, 10], "/root"),
            ("0", 0, 0, vec![0, 10], "/root"),
            ("app", 1000, 1000, vec![10, 29, 1000], "/home/app"),
            ("1000", 1000, 1000, vec![10, 29, 1000], "/home/app"),
            ("app:audio", 1000, 29, vec![29], "/home/app"),
            ("app:4711", 1000, 4711, vec![4711], "/home/app"),
            ("app:", 1000, 1000, vec![10, 29, 1000], "/home/app"),
            ("4711", 4711, 0, vec![0], "/"),
            (":audio", 0, 29, vec![29], "/root"),
            ("1234", 77, 77, vec![77], "/seven"),
            ("nohome", 5, 6, vec![6], "/"),
        ] {
            let expected = User { uid, gid, groups, home: home.to_owned() };
            assert_eq!(look(&root, text, &[]).unwrap(), expected, "{text:?}");
        }
        assert_eq!(look(&root, "app:0", &["audio", "9"]).unwrap().groups, [0, 9, 29]);
    }

    #[test]
    fn impossible_users_are_refused() {
        let root = image();
        assert!(matches!(look(&root, "nobody", &[]), Err(UserError::UnknownUser(_))));
        assert!(matches!(look(&root, "big", &[]), Err(UserError::UnknownUser(_))));
        assert!(matches!(look(&root, "app:none", &[]), Err(UserError::UnknownGroup(_))));
        assert!(matches!(look(&root, "app", &["none"]), Err(UserError::UnknownGroup(_))));
        for text in ["4294967295", "4294967296", "2147483648", "app:4294967295"] {
            assert!(matches!(look(&root, text, &[]), Err(UserError::OutOfRange(_))), "{text}");
        }
        assert!(matches!(look(&root, "-1", &[]), Err(UserError::UnknownUser(_))));
    }

    #[test]
    fn hostile_files_do_no_harm() {
        let root = TempDir::new();
        assert_eq!(look(&root, "", &[]).unwrap().home, "/");
        fs_err::create_dir(root.join("etc")).unwrap();
        // A link that leaves the root stays in it.
        symlink("../../../../../../etc/passwd", root.join("etc/passwd")).unwrap();
        assert!(matches!(look(&root, "root", &[]), Err(UserError::Read { .. })));
        fs_err::remove_file(root.join("etc/passwd")).unwrap();
        let fifo = root.join("etc/passwd");
        let mode = Mode::from_raw_mode(0o644);
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
        assert!(matches!(look(&root, "root", &[]), Err(UserError::Read { .. })));
        fs_err::remove_file(&fifo).unwrap();
        let huge = fs_err::File::create(&fifo).unwrap();
        huge.set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(look(&root, "root", &[]), Err(UserError::Read { .. })));
    }
}
