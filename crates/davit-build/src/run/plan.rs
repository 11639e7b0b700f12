//! The runtime's plan of a command.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use davit_dockerfile::Security;
use davit_runtime::plan::{
    Access, BindSource, Device, DeviceKind, Mount, MountKind, MountOptions, Namespace, Plan,
    UserChoice,
};

use super::{StepCommand, Supervisor, network::Place};
use crate::plan::{Network, RunSpec};

/// Stands for the machine's address in `--add-host`, as Docker's.
const HOST_GATEWAY: &str = "host-gateway";
/// Where programs share memory.
const SHARED_MEMORY: &str = "/dev/shm";
/// Character devices of an insecure command beside the usual ones, as BuildKit's.
const INSECURE_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/kmsg", 1, 11),
    ("/dev/cuse", 10, 203),
    ("/dev/fuse", 10, 229),
    ("/dev/kvm", 10, 232),
    ("/dev/net/tun", 10, 200),
    ("/dev/loop-control", 10, 237),
];
/// Major number of loop devices.
const LOOP: u32 = 7;
/// Loop devices beyond those that are there.
const SPARE_LOOPS: u32 = 8;

impl Supervisor {
    /// The runtime's plan, and the files that it binds.
    pub(super) fn plan(&self, command: &StepCommand<'_>, id: u32) -> io::Result<Plan> {
        let spec = command.spec;
        let mut plan = Plan::container(spec.args.clone(), self.cgroup(spec, id));
        let env = spec.env.iter().chain(&spec.proxy_env).chain(command.secrets);
        plan.process.env = env.cloned().collect();
        plan.process.cwd.clone_from(&spec.working_dir);
        // Root, too, has the groups that the image gives it.
        plan.process.user = UserChoice::Named { user: spec.user.clone(), groups: Vec::new() };
        // Nobody could follow it any more.
        plan.process.dies_with_parent = true;
        plan.process.rlimits.clone_from(&spec.ulimits);
        plan.hostname = Some(spec.hostname.clone());
        // Those of containers are Docker's; BuildKit leaves the kernel's.
        plan.sysctls.clear();
        plan.cgroup.limits = command.limits.clone();
        plan.emulator.clone_from(&command.emulator);
        set_shared_memory(&mut plan, spec.shm_size_bytes);
        let resolv_conf = self.set_network(&mut plan, command);
        if spec.security == Security::Insecure {
            plan.make_privileged();
            plan.devices = insecure_devices();
        }
        let mut bind = |name: &str, content: &[u8], mode, target: String| -> io::Result<()> {
            let path = command.directory.join(name);
            write_file(&path, content, mode)?;
            plan.mounts.push(bind_read_only(path, target));
            Ok(())
        };
        let gateway = command.place.map(Place::gateway);
        let mut hosts = hosts(spec, gateway).into_bytes();
        // Those that the container knows it knows, too.
        hosts.extend(command.joined.iter().flat_map(|joined| joined.hosts.iter().copied()));
        bind("hosts", &hosts, 0o644, "/etc/hosts".to_owned())?;
        bind("resolv.conf", resolv_conf, 0o644, "/etc/resolv.conf".to_owned())?;
        for (index, script) in spec.scripts.iter().enumerate() {
            let target = format!("/dev/pipes/{}", script.name);
            bind(&format!("script-{index}"), script.content.as_bytes(), 0o755, target)?;
        }
        Ok(plan)
    }

    /// Sets the network namespace; gives the text of `/etc/resolv.conf` there.
    fn set_network<'a>(&'a self, plan: &mut Plan, command: &'a StepCommand<'_>) -> &'a [u8] {
        let [private, shared] = &self.resolv_conf;
        let (namespace, resolv_conf) = match (&command.spec.network, command.joined) {
            (Network::Host, _) => (Namespace::Host, shared.as_slice()),
            (Network::Container(_), Some(joined)) => {
                (Namespace::Join(0), joined.resolv_conf.as_slice())
            }
            _ => {
                let own = command.place.and_then(Place::resolv_conf);
                (Namespace::New, own.unwrap_or(private))
            }
        };
        plan.namespaces.network = namespace;
        resolv_conf
    }

    fn cgroup(&self, spec: &RunSpec, id: u32) -> String {
        let own = format!("{}-{id}", self.cgroup);
        match &spec.cgroup_parent {
            // Names of other roots' builds are told apart by the build's id.
            Some(parent) => {
                let name = own.rsplit('/').next().unwrap_or(&own);
                format!("{parent}/davit-{name}")
            }
            None => own,
        }
    }
}

fn set_shared_memory(plan: &mut Plan, bytes: Option<u64>) {
    let Some(bytes) = bytes else { return };
    for mount in &mut plan.mounts {
        if let MountKind::Tmpfs { size_bytes, .. } = &mut mount.kind
            && mount.target == SHARED_MEMORY
        {
            *size_bytes = Some(bytes);
        }
    }
}

fn insecure_devices() -> Vec<Device> {
    let device = |path: String, kind, major, minor| Device {
        path,
        kind,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let fixed = INSECURE_DEVICES
        .iter()
        .map(|(path, major, minor)| device((*path).to_owned(), DeviceKind::Char, *major, *minor));
    let loops = (0..highest_loop() + SPARE_LOOPS)
        .map(|number| device(format!("/dev/loop{number}"), DeviceKind::Block, LOOP, number));
    fixed.chain(loops).collect()
}

/// One more than the number of the machine's last loop device.
fn highest_loop() -> u32 {
    let entries = fs_err::read_dir("/sys/block").into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix("loop").and_then(|rest| rest.parse::<u32>().ok());
    let numbers = entries.filter_map(|entry| number(&entry.file_name().to_string_lossy()));
    numbers.filter(|number| *number < 256).max().map_or(0, |last| last + 1)
}

fn bind_read_only(source: PathBuf, target: String) -> Mount {
    Mount {
        target,
        kind: MountKind::Bind { source: BindSource::Path(source), recursive: false },
        options: MountOptions { access: Access::ReadOnly, ..MountOptions::default() },
    }
}

fn write_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs_err::write(path, content)?;
    // The process's umask must not show inside.
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// What commands find in `/etc/hosts`; `gateway` is where they reach the machine, by themselves
/// without one.
fn hosts(spec: &RunSpec, gateway: Option<IpAddr>) -> String {
    let own = &spec.hostname;
    let mut text =
        format!("127.0.0.1\tlocalhost {own}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let gateway = gateway.unwrap_or(Ipv4Addr::LOCALHOST.into()).to_string();
    for (name, address) in &spec.hosts {
        text.push_str(if address == HOST_GATEWAY { &gateway } else { address });
        text.push('\t');
        text.push_str(name);
        text.push('\n');
    }
    text
}
