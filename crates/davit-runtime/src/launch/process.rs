//! A [`ProcessPlan`] in the form that the child needs.

use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use davit_sys::process::CStringArray;
use rustix::{
    fs::{Gid, Mode, Uid},
    io::Errno,
    pipe::PipeFlags,
    process::Resource,
    thread::CapabilitySet,
};

use super::{StdinPlan, StdioPlan, Streams, paths};
use crate::error::LaunchError;
use crate::plan::{Origin, ProcessPlan, Rlimit};
use crate::seccomp::{self, Filter};
use crate::user::User;

/// Everything that `child::finish` needs, without anything left to allocate.
#[derive(Debug)]
pub(crate) struct PreparedProcess<'a> {
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: CStringArray,
    pub(crate) environment: CStringArray,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
    pub(crate) capabilities: CapabilitySet,
    pub(crate) no_new_privileges: bool,
    pub(crate) filter: Option<Arc<Filter>>,
    pub(crate) rlimits: Vec<PreparedRlimit>,
    pub(crate) oom_score: Option<CString>,
    pub(crate) apparmor: Option<CString>,
    pub(crate) keyring: CString,
    pub(crate) umask: Mode,
    pub(crate) stdio: PreparedStdio,
    pub(crate) reaper: bool,
    pub(crate) dies_with_parent: bool,
    /// Entered last, since it may no longer do what the caller may.
    pub(crate) user_namespace: Option<BorrowedFd<'a>>,
    cwd: CString,
    create_cwd: bool,
}

/// A resource limit.
#[derive(Debug)]
pub(crate) struct PreparedRlimit {
    pub(crate) resource: Resource,
    pub(crate) soft: Option<u64>,
    pub(crate) hard: Option<u64>,
    pub(crate) clamps: bool,
}

/// Standard streams, the child's ends.
#[derive(Debug)]
pub(crate) enum PreparedStdio {
    /// A pseudo-terminal that the child opens.
    Terminal { size: Option<(u16, u16)> },
    /// Input, output, error; none of them is 0, 1 or 2.
    Descriptors([OwnedFd; 3]),
}

impl PreparedProcess<'_> {
    /// Prepares `plan` for `user`.
    pub(crate) fn new(
        plan: &ProcessPlan,
        user: &User,
        stdio: PreparedStdio,
    ) -> Result<Self, LaunchError> {
        let Some(command) = plan.args.first() else {
            return Err(LaunchError::Plan { what: "no command was given".to_owned() });
        };
        let environment = environment(plan, user);
        Ok(Self {
            candidates: candidates(command, &environment)?,
            arguments: array(&plan.args, "an argument")?,
            environment: array(&environment, "an environment variable")?,
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().map(|group| Gid::from_raw(*group)).collect(),
            capabilities: permitted(plan)?,
            no_new_privileges: plan.no_new_privileges,
            filter: seccomp::filter(&plan.seccomp, plan.capabilities)?,
            rlimits: plan.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?,
            oom_score: plan.oom_score_adj.map(|score| decimal(score.into())),
            apparmor: plan
                .apparmor
                .as_ref()
                .map(|profile| paths::text(&format!("exec {profile}")))
                .transpose()?,
            keyring: CString::from(c"_ses.davit"),
            umask: Mode::from_raw_mode(plan.umask.unwrap_or(0o022) & 0o777),
            stdio,
            reaper: false,
            dies_with_parent: plan.dies_with_parent,
            user_namespace: None,
            cwd: paths::in_root(&plan.cwd)?,
            create_cwd: plan.create_cwd,
        })
    }

    /// The working directory, relative to the root.
    pub(crate) fn cwd_in_root(&self) -> &CStr {
        &self.cwd
    }

    /// Whether a missing working directory is made.
    pub(crate) fn creates_cwd(&self) -> bool {
        self.create_cwd
    }

    /// Whether something is written through procfs.
    pub(crate) fn needs_procfs(&self) -> bool {
        self.oom_score.is_some() || self.apparmor.is_some()
    }

    /// The terminal's size (itself optional) if there is a terminal.
    #[expect(clippy::option_option, reason = "a terminal may have no size yet")]
    pub(crate) fn terminal_size(&self) -> Option<Option<(u16, u16)>> {
        match &self.stdio {
            PreparedStdio::Terminal { size } => Some(*size),
            PreparedStdio::Descriptors(_) => None,
        }
    }
}

fn decimal(number: i64) -> CString {
    CString::new(number.to_string()).expect("digits hold no NUL")
}

fn array(strings: &[String], what: &str) -> Result<CStringArray, LaunchError> {
    CStringArray::new(strings)
        .map_err(|_| LaunchError::Plan { what: format!("{what} holds a NUL") })
}

/// The plan's environment, with `HOME` of the user if there is none.
fn environment(plan: &ProcessPlan, user: &User) -> Vec<String> {
    let mut environment = plan.env.clone();
    if !environment.iter().any(|variable| variable.starts_with("HOME=")) {
        environment.push(format!("HOME={}", user.home));
    }
    environment
}

/// Where the command may lie: itself if it has a slash, else below each directory of `PATH`.
fn candidates(command: &str, environment: &[String]) -> Result<Vec<CString>, LaunchError> {
    if command.contains('/') {
        return Ok(vec![paths::text(command)?]);
    }
    if command.is_empty() {
        return Ok(Vec::new());
    }
    let path = environment.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or_default()
        .split(':')
        // A relative directory would look into the working directory.
        .filter(|directory| directory.starts_with('/'))
        .map(|directory| paths::text(&format!("{directory}/{command}")))
        .collect()
}

/// What was asked of what the caller itself may hand on.
fn permitted(plan: &ProcessPlan) -> Result<CapabilitySet, LaunchError> {
    let own = rustix::thread::capabilities(None).map_err(|errno| LaunchError::Prepare {
        object: "capabilities of the calling process".to_owned(),
        source: errno.into(),
    })?;
    Ok(CapabilitySet::from_bits_retain(plan.capabilities.bits()) & own.permitted)
}

fn rlimit(limit: &Rlimit) -> Result<PreparedRlimit, LaunchError> {
    let unlimited = |value: u64| (value != u64::MAX).then_some(value);
    if limit.soft > limit.hard {
        let what = format!("limit {}: soft {} exceeds hard {}", limit.name, limit.soft, limit.hard);
        return Err(LaunchError::Plan { what });
    }
    Ok(PreparedRlimit {
        resource: resource(&limit.name)?,
        soft: unlimited(limit.soft),
        hard: unlimited(limit.hard),
        clamps: limit.origin == Origin::Default,
    })
}

fn resource(name: &str) -> Result<Resource, LaunchError> {
    Ok(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return Err(LaunchError::Plan { what: format!("unknown limit {name:?}") }),
    })
}

/// Makes both ends of the standard streams. The terminal's master comes from the child later.
pub(crate) fn streams(plan: StdioPlan) -> Result<(PreparedStdio, Streams), Errno> {
    match plan {
        StdioPlan::Terminal { size } => Ok((PreparedStdio::Terminal { size }, Streams::None)),
        StdioPlan::Descriptors([input, output, error]) => {
            let descriptors = [above(input)?, above(output)?, above(error)?];
            Ok((PreparedStdio::Descriptors(descriptors), Streams::None))
        }
        StdioPlan::Pipes { stdin } => {
            let (input, stdin) = match stdin {
                StdinPlan::Null => (null()?, None),
                StdinPlan::Pipe => {
                    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
                    (read, Some(write))
                }
            };
            let (stdout, output) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let (stderr, error) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
            let descriptors = [above(input)?, above(output)?, above(error)?];
            Ok((PreparedStdio::Descriptors(descriptors), Streams::Pipes { stdin, stdout, stderr }))
        }
    }
}

fn null() -> Result<OwnedFd, Errno> {
    use rustix::fs::OFlags;
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// The descriptor under a number that the child's streams do not overwrite.
fn above(descriptor: OwnedFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(descriptor.as_fd(), 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(command: &str, environment: &[&str]) -> Vec<String> {
        let environment: Vec<_> = environment.iter().map(|text| (*text).to_owned()).collect();
        let found = candidates(command, &environment).unwrap();
        found.into_iter().map(|path| path.into_string().unwrap()).collect()
    }

    #[test]
    fn commands_are_searched_in_the_containers_path() {
        assert_eq!(names("sh", &["PATH=/a:/b"]), ["/a/sh", "/b/sh"]);
        assert_eq!(names("sh", &["PATH=/a", "PATH=/b"]), ["/b/sh"]);
        assert_eq!(names("./sh", &["PATH=/a"]), ["./sh"]);
        assert_eq!(names("/bin/sh", &[]), ["/bin/sh"]);
        assert_eq!(names("sh", &["PATH=.::rel:/ok"]), ["/ok/sh"]);
        assert!(names("sh", &[]).is_empty());
        assert!(names("", &["PATH=/a"]).is_empty());
    }

    #[test]
    fn limits_are_checked() {
        let limit = |name: &str, soft, hard| Rlimit {
            name: name.to_owned(),
            soft,
            hard,
            origin: Origin::Asked,
        };
        assert!(rlimit(&limit("nofile", 2, 1)).is_err());
        assert!(rlimit(&limit("files", 1, 1)).is_err());
        let unlimited = rlimit(&limit("core", u64::MAX, u64::MAX)).unwrap();
        assert_eq!((unlimited.soft, unlimited.hard), (None, None));
    }
}
