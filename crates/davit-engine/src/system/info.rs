//! What `davit info` tells of this machine and root.

use davit_runtime::Cgroups;
use serde::Serialize;

use crate::{
    ContainerError, Engine,
    container::{ListRequest, Phase},
};

/// Facts on this machine and root, in the words of Docker's `info`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SystemInfo {
    /// Id of the root.
    #[serde(rename = "ID")]
    pub id: String,
    /// All containers.
    pub containers: usize,
    /// Those that run.
    pub containers_running: usize,
    /// Those whose processes are frozen.
    pub containers_paused: usize,
    /// All others.
    pub containers_stopped: usize,
    /// Images, each counted once.
    pub images: usize,
    /// `davit`.
    pub driver: &'static str,
    /// Names and values: how root file systems are made.
    pub driver_status: Vec<(&'static str, String)>,
    /// Log driver of containers that ask for none.
    pub logging_driver: &'static str,
    /// Who makes cgroups.
    pub cgroup_driver: &'static str,
    /// `1` or `2`; empty where there are no cgroups.
    pub cgroup_version: String,
    /// Release of the kernel.
    pub kernel_version: String,
    /// As the distribution calls itself.
    pub operating_system: String,
    /// `linux`.
    #[serde(rename = "OSType")]
    pub os_type: &'static str,
    /// The machine, in the kernel's word.
    pub architecture: String,
    /// Processors that davit may use.
    #[serde(rename = "NCPU")]
    pub processors: usize,
    /// Memory in bytes.
    pub mem_total: u64,
    /// Folder of durable state.
    pub docker_root_dir: String,
    /// Folder of this boot's state.
    pub run_root: String,
    /// Host name.
    pub name: String,
    /// Version of davit.
    pub server_version: &'static str,
    /// What starts containers.
    pub default_runtime: &'static str,
    /// Kernel features that confine containers.
    pub security_options: Vec<String>,
    /// What is amiss.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Describes this machine and root.
    ///
    /// What cannot be found out becomes a warning of the answer.
    ///
    /// # Errors
    /// What the store says.
    pub fn info(&self) -> Result<SystemInfo, ContainerError> {
        let all = ListRequest { all: true, ..ListRequest::default() };
        let containers = self.list_containers(&all)?;
        let count = |phases: &[Phase]| {
            containers.iter().filter(|it| phases.contains(&it.status.phase)).count()
        };
        let running = count(&[Phase::Running, Phase::Restarting]);
        let paused = count(&[Phase::Paused]);
        let mut warnings = Vec::new();
        let form = self.snapshot_form().map(|form| form.to_string());
        let form = form.unwrap_or_else(|error| {
            warnings.push(format!("WARNING: {error}"));
            "none".to_owned()
        });
        let cgroup_version = match Cgroups::discover() {
            Ok(cgroups) => cgroups.version().to_string(),
            Err(error) => {
                warnings.push(format!("WARNING: {error}"));
                String::new()
            }
        };
        let host = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Ok(SystemInfo {
            id: self.store().format().root_id.to_string(),
            containers: containers.len(),
            containers_running: running,
            containers_paused: paused,
            containers_stopped: containers.len() - running - paused,
            images: self.store().images()?.len(),
            driver: "davit",
            driver_status: vec![("Snapshot form", form)],
            logging_driver: "json-file",
            cgroup_driver: "cgroupfs",
            cgroup_version,
            kernel_version: text(host.release()),
            operating_system: operating_system(),
            os_type: "linux",
            architecture: text(host.machine()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            mem_total: memory_bytes(),
            docker_root_dir: self.config().root.display().to_string(),
            run_root: self.config().run_root.display().to_string(),
            name: text(host.nodename()),
            server_version: env!("CARGO_PKG_VERSION"),
            default_runtime: "davit",
            security_options: vec!["name=seccomp,profile=builtin".to_owned()],
            warnings,
        })
    }
}

fn operating_system() -> String {
    let text = fs_err::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
}

fn memory_bytes() -> u64 {
    let text = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
