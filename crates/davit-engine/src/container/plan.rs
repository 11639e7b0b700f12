//! From what a container was asked to be to what its monitor launches.

mod device;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use davit_image::ContainerConfig;
use davit_runtime::{
    capability::Capabilities,
    monitor::spec::HealthCheck,
    plan::{
        Access, Atime, BindSource, Init, Mount, MountKind, MountOptions, Namespace, Origin, Plan,
        Propagation, Rlimit, UserChoice,
    },
    seccomp::Profile,
};

use super::{
    ContainerError, ContainerSpec, MountSource, MountSpec, NamespaceMode, NetworkMode, propagation,
};
pub use device::device_rule;
use device::{add_device, add_named, devices_below};

const APPARMOR_ENABLED: &str = "/sys/module/apparmor/parameters/enabled";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where things of one container lie, and which namespaces it joins.
pub(crate) struct Surroundings<'a> {
    /// Id of the container.
    pub(crate) id: &'a str,
    /// `RUN_ROOT/ROOTID/c/ID`: the files that each start makes anew lie there.
    pub(crate) run_directory: &'a Path,
    /// Path of its cgroup.
    pub(crate) cgroup: String,
    /// Directories of what is known of devices.
    pub(crate) devices: &'a [PathBuf],
    /// Content of a volume by its name.
    pub(crate) volume: &'a dyn Fn(&str) -> PathBuf,
}

/// A launch plan and the namespaces that it refers to by number.
#[derive(Debug)]
pub(crate) struct Planned {
    /// The plan.
    pub(crate) plan: Plan,
    /// Ids of the containers and names (`net`) of their namespaces, by number.
    pub(crate) joins: Vec<(String, &'static str)>,
}

/// Makes the plan.
///
/// # Errors
/// [`ContainerError::Invalid`]: an option that means nothing; [`ContainerError::Io`]: a device of
/// the host that is not there.
pub(crate) fn plan(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
) -> Result<Planned, ContainerError> {
    let arguments = spec.arguments();
    if arguments.is_empty() {
        return Err(ContainerError::invalid("no command specified"));
    }
    let mut plan = Plan::container(arguments, around.cgroup.clone());
    let mut joins = Vec::new();
    plan.namespaces.network = match &spec.network {
        NetworkMode::Bridge | NetworkMode::Network(_) | NetworkMode::None => Namespace::New,
        NetworkMode::Host => Namespace::Host,
        NetworkMode::Container(id) => join(&mut joins, id, "net"),
    };
    plan.namespaces.pid = namespace(&spec.pid, &mut joins, "pid");
    plan.namespaces.ipc = namespace(&spec.ipc, &mut joins, "ipc");
    plan.namespaces.uts = namespace(&spec.uts, &mut joins, "uts");
    plan.namespaces.cgroup = namespace(&spec.cgroup, &mut joins, "cgroup");
    process(spec, around, &mut plan)?;
    if plan.namespaces.network != Namespace::New {
        plan.sysctls.retain(|name, _| !name.starts_with("net."));
    }
    plan.sysctls.extend(spec.sysctls.clone());
    plan.read_only_root = spec.root.is_on();
    plan.init = if spec.init.is_on() { Init::Reaper } else { Init::Command };
    plan.cgroup.limits = spec.limits.clone();
    propagation::check(&spec.mounts)?;
    mounts(spec, around, &mut plan);
    security(spec, around, &mut plan)?;
    Ok(Planned { plan, joins })
}

fn namespace(
    mode: &NamespaceMode,
    joins: &mut Vec<(String, &'static str)>,
    name: &'static str,
) -> Namespace {
    match mode {
        NamespaceMode::Private | NamespaceMode::Bare | NamespaceMode::Shareable => Namespace::New,
        NamespaceMode::Host => Namespace::Host,
        NamespaceMode::Container(id) => join(joins, id, name),
    }
}

fn join(joins: &mut Vec<(String, &'static str)>, id: &str, name: &'static str) -> Namespace {
    joins.push((id.to_owned(), name));
    Namespace::Join(joins.len() - 1)
}

fn process(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
    plan: &mut Plan,
) -> Result<(), ContainerError> {
    let hostname = hostname(spec, around.id);
    plan.process.env = environment(spec, &hostname);
    if !spec.config.working_dir.is_empty() {
        spec.config.working_dir.clone_into(&mut plan.process.cwd);
    }
    if !plan.process.cwd.starts_with('/') {
        return Err(ContainerError::Invalid(format!(
            "the working directory {:?} is invalid, it needs to be an absolute path",
            plan.process.cwd
        )));
    }
    let (user, groups) = (spec.config.user.clone(), spec.security.groups.clone());
    plan.process.user = UserChoice::Named { user, groups };
    if plan.namespaces.uts == Namespace::New {
        plan.hostname = Some(hostname);
        plan.domainname = Some(spec.domainname.clone()).filter(|name| !name.is_empty());
    }
    let rlimit = |(name, soft, hard): &(String, u64, u64)| Rlimit {
        name: name.clone(),
        soft: *soft,
        hard: *hard,
        origin: Origin::Asked,
    };
    plan.process.rlimits = spec.ulimits.iter().map(rlimit).collect();
    plan.process.oom_score_adj = spec.oom_score_adj;
    Ok(())
}

/// Host name of a container: in the host's network, or with its names, the host's own.
pub(crate) fn hostname(spec: &ContainerSpec, id: &str) -> String {
    let is_hosts = spec.network == NetworkMode::Host || spec.uts == NamespaceMode::Host;
    match spec.hostname.as_str() {
        "" if is_hosts => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        "" => id.chars().take(12).collect(),
        name => name.to_owned(),
    }
}

/// Docker's variables, then those of image and user, a later one replacing an earlier.
pub(crate) fn environment(spec: &ContainerSpec, hostname: &str) -> Vec<String> {
    let mut environment = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}")];
    if spec.tty.is_on() {
        environment.push("TERM=xterm".to_owned());
    }
    merge_environment(&mut environment, spec.config.env.iter().flatten());
    environment
}

/// Adds `NAME=value` pairs, replacing those of the same name; a bare `NAME` removes.
pub(crate) fn merge_environment<'a>(
    environment: &mut Vec<String>,
    more: impl Iterator<Item = &'a String>,
) {
    for variable in more {
        let name = variable.split('=').next().unwrap_or_default();
        let same = |known: &String| known.split('=').next() == Some(name);
        let place = environment.iter().position(same);
        match (variable.contains('='), place) {
            (true, Some(index)) => variable.clone_into(&mut environment[index]),
            (true, None) => environment.push(variable.clone()),
            (false, Some(index)) => drop(environment.remove(index)),
            (false, None) => {}
        }
    }
}

fn mounts(spec: &ContainerSpec, around: &Surroundings<'_>, plan: &mut Plan) {
    if spec.ipc == NamespaceMode::Bare {
        plan.mounts.retain(|mount| mount.target != "/dev/shm");
    }
    if let Some(size) = spec.shm_size_bytes {
        for mount in plan.mounts.iter_mut().filter(|mount| mount.target == "/dev/shm") {
            if let MountKind::Tmpfs { size_bytes, .. } = &mut mount.kind {
                *size_bytes = Some(size);
            }
        }
    }
    // Of a root that cannot be written these files are a part.
    let access = if spec.root.is_on() { Access::ReadOnly } else { Access::ReadWrite };
    for name in ["hosts", "hostname", "resolv.conf"] {
        plan.mounts.push(Mount {
            target: format!("/etc/{name}"),
            kind: bind(around.run_directory.join(name)),
            options: MountOptions { access, ..MountOptions::default() },
        });
    }
    for wish in &spec.mounts {
        plan.mounts.retain(|mount| mount.target != wish.target);
        plan.mounts.push(mount(wish, around.volume));
    }
    plan.mounts.sort_by_key(depth);
}

/// What mounts are sorted by: none may hide one that lies below it.
pub(super) fn depth(mount: &Mount) -> usize {
    Path::new(&mount.target).components().count()
}

fn bind(path: PathBuf) -> MountKind {
    MountKind::Bind { source: BindSource::Path(path), recursive: true }
}

/// What is mounted for a wish; volumes lie where `volume` says.
pub(super) fn mount(wish: &MountSpec, volume: &dyn Fn(&str) -> PathBuf) -> Mount {
    let access = if wish.access.is_on() { Access::ReadOnly } else { Access::ReadWrite };
    let propagation = match wish.propagation.trim_start_matches('r') {
        "shared" => Propagation::Shared,
        "slave" => Propagation::Slave,
        _ => Propagation::Private,
    };
    let mut options = MountOptions { access, propagation, ..MountOptions::default() };
    let kind = match &wish.source {
        MountSource::Bind { path, recursive, writable_below, .. } => {
            if *writable_below && options.access == Access::ReadOnly {
                options.access = Access::ReadOnlyTop;
            }
            MountKind::Bind { source: BindSource::Path(path.into()), recursive: *recursive }
        }
        MountSource::Volume { name, subpath, .. } => {
            let root = volume(name);
            let source = match subpath {
                Some(path) => BindSource::Subpath { root, path: path.clone() },
                None => BindSource::Path(root),
            };
            MountKind::Bind { source, recursive: true }
        }
        MountSource::Tmpfs { size_bytes, mode, flags, options: more, .. } => {
            tmpfs_flags(flags, &mut options);
            let (size_bytes, mode, options) = (*size_bytes, *mode, more.clone());
            MountKind::Tmpfs { size_bytes, mode, owner: None, options }
        }
    };
    Mount { target: wish.target.clone(), kind, options }
}

/// Docker's defaults for a tmpfs, changed by what was asked.
fn tmpfs_flags(flags: &[String], options: &mut MountOptions) {
    (options.nosuid, options.nodev, options.noexec) = (true, true, true);
    for flag in flags {
        match flag.as_str() {
            "suid" => options.nosuid = false,
            "nosuid" => options.nosuid = true,
            "dev" => options.nodev = false,
            "nodev" => options.nodev = true,
            "exec" => options.noexec = false,
            "noexec" => options.noexec = true,
            "noatime" => options.atime = Atime::Never,
            "strictatime" => options.atime = Atime::Strict,
            "atime" | "relatime" => options.atime = Atime::Relative,
            _ => {}
        }
    }
}

fn security(
    spec: &ContainerSpec,
    around: &Surroundings<'_>,
    plan: &mut Plan,
) -> Result<(), ContainerError> {
    let wishes = &spec.security;
    plan.process.capabilities = Capabilities::DEFAULT
        .adjust(&wishes.cap_add, &wishes.cap_drop)
        .map_err(|error| ContainerError::invalid(error.to_string()))?;
    if wishes.privileged {
        // All capabilities, whatever was added and dropped.
        plan.make_privileged();
        devices_below(Path::new("/dev"), "/dev", &mut plan.devices);
    }
    plan.process.no_new_privileges = wishes.no_new_privileges;
    match wishes.seccomp.as_deref() {
        None => {}
        Some("unconfined") => plan.process.seccomp = Profile::Unconfined,
        Some(json) => plan.process.seccomp = Profile::Json(json.to_owned()),
    }
    plan.process.apparmor = apparmor(wishes.apparmor.as_ref(), Path::new(APPARMOR_ENABLED));
    if wishes.system_paths_unconfined {
        plan.masked_paths.clear();
        plan.readonly_paths.clear();
    }
    let (named, paths): (Vec<_>, Vec<_>) =
        wishes.devices.iter().partition(|wish| wish.container.is_empty());
    for wish in paths {
        add_device(wish, plan)?;
    }
    if !named.is_empty() {
        add_named(&named, around.devices, plan)?;
    }
    for rule in &wishes.device_rules {
        plan.cgroup.devices.push(device_rule(rule)?);
    }
    Ok(())
}

/// The profile that is asked for, where the kernel has AppArmor at all.
fn apparmor(wish: Option<&String>, enabled: &Path) -> Option<String> {
    wish.filter(|_| fs_err::read(enabled).is_ok_and(|text| text.starts_with(b"Y"))).cloned()
}

/// Docker's defaults where the image names none; a line is run by the image's `SHELL`.
pub(crate) fn health(config: &ContainerConfig) -> Option<HealthCheck> {
    let shell = config.shell.clone().filter(|shell| !shell.is_empty());
    let config = config.healthcheck.as_ref()?;
    let command = match config.test.as_deref()? {
        [kind, line] if kind == "CMD-SHELL" => {
            let shell = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
            shell.into_iter().chain([line.clone()]).collect()
        }
        [kind, command @ ..] if kind == "CMD" && !command.is_empty() => command.to_vec(),
        _ => return None,
    };
    let or = |nanoseconds: i64, seconds: u64| match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => Duration::from_secs(seconds),
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds),
    };
    Some(HealthCheck {
        command,
        interval: or(config.interval, 30),
        timeout: or(config.timeout, 30),
        start_period: or(config.start_period, 0),
        start_interval: or(config.start_interval, 5),
        retries: u32::try_from(config.retries).ok().filter(|retries| *retries > 0).unwrap_or(3),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around() -> Surroundings<'static> {
        Surroundings {
            id: "0123456789abcdef",
            run_directory: Path::new("/c"),
            cgroup: "davit/x".to_owned(),
            devices: &[],
            volume: &|name| PathBuf::from("/v").join(name),
        }
    }

    fn spec() -> ContainerSpec {
        let mut spec = ContainerSpec::default();
        spec.config.cmd = Some(vec!["true".to_owned()]);
        spec
    }

    #[test]
    fn environment_is_dockers() {
        let mut spec = spec();
        spec.config.env = Some(vec!["A=1".to_owned(), "PATH=/bin".to_owned(), "A=2".to_owned()]);
        let plan = plan(&spec, &around()).unwrap().plan;
        assert_eq!(plan.process.env, ["PATH=/bin", "HOSTNAME=0123456789ab", "A=2"]);
    }

    #[test]
    fn profiles_of_apparmor_need_apparmor() {
        let temp = davit_test::TempDir::new();
        let (enabled, profile) = (temp.join("enabled"), "docker-default".to_owned());
        assert_eq!(apparmor(Some(&profile), &enabled), None);
        for (text, expected) in [("N\n", None), ("Y\n", Some(profile.clone()))] {
            fs_err::write(&enabled, text).unwrap();
            assert_eq!(apparmor(Some(&profile), &enabled), expected, "{text}");
        }
        assert_eq!(apparmor(None, &enabled), None);
    }

    #[test]
    fn parents_are_mounted_before_children() {
        let mut spec = spec();
        let volume = |target: &str| MountSpec {
            source: MountSource::Bind {
                path: "/x".to_owned(),
                recursive: true,
                writable_below: false,
                made: false,
            },
            target: target.to_owned(),
            access: false.into(),
            propagation: String::new(),
            mode: String::new(),
        };
        spec.mounts = vec![volume("/a/b/c"), volume("/a"), volume("/etc/hosts"), volume("/a/b")];
        let plan = plan(&spec, &around()).unwrap().plan;
        let at =
            |target: &str| plan.mounts.iter().position(|mount| mount.target == target).unwrap();
        assert!(at("/a") < at("/a/b") && at("/a/b") < at("/a/b/c") && at("/dev") < at("/dev/pts"));
        assert_eq!(plan.mounts.iter().filter(|mount| mount.target == "/etc/hosts").count(), 1);
    }

    #[test]
    fn a_command_is_needed() {
        assert!(plan(&ContainerSpec::default(), &around()).is_err());
    }
}
