//! Workloads that move images: pull, load, remove.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{
    Contender, Setting, Workload,
    bases::Bases,
    measure::{prepare, timed},
    peers::{self, Containerd, Network, Podman},
};

/// A davit command with its root in `folder`, and its run root on a tmpfs, as /run is on most
/// machines (and for the podman of the bench).
pub(super) fn davit(program: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(folder.join("root"));
    command.arg("--run-root").arg(run_folder(folder));
    command.args(arguments);
    command
}

/// Where the boot-bound state of the roots below a folder lies.
pub(super) fn run_folder(folder: &Path) -> PathBuf {
    let shared = Path::new("/dev/shm");
    let name = folder.strip_prefix("/").unwrap_or(folder).to_string_lossy().replace('/', "-");
    if shared.is_dir() { shared.join(name) } else { folder.join("run") }
}

/// Pull into an empty store from a registry on the loopback.
pub(super) fn pull(setting: &Setting) -> Result<Workload> {
    let bases = Bases::serve(setting, &[setting.image()])?;
    let reference = bases.name(setting.image());
    let program = setting.davit.clone();
    let ours = reference.clone();
    let mut contenders = vec![Contender::new("davit", move |folder| {
        // The registry lives as long as the workload.
        let _running = &bases;
        timed(&mut davit(&program, folder, &["pull", "--quiet", &ours]), &[])
    })];
    if let (Some(daemon), Some(ctr)) = (peers::find("containerd"), peers::find("ctr")) {
        let reference = reference.clone();
        contenders.push(Contender::new("containerd", move |folder| {
            let daemon = Containerd::start(&daemon, folder)?;
            let mut command = daemon.ctr(&ctr);
            timed(command.args(["image", "pull", "--plain-http", &reference]), &[daemon.pid()])
        }));
    }
    if peers::find("podman").is_some() {
        contenders.push(Contender::new("podman", move |folder| {
            let arguments = format!("pull --quiet --tls-verify=false {reference}");
            let podman = Podman::start(folder, Network::Host)?;
            timed(&mut podman.command(&arguments), &[])
        }));
    }
    Ok(Workload::new(
        "pull",
        "at least 3.5 times as fast as containerd 2.4, at most 64 MiB",
        contenders,
    )
    .repeated(5))
}

/// Load a `docker save` archive into an empty store.
pub(super) fn load(setting: &Setting) -> Workload {
    let archive = setting.corpus.archive(setting.image()).display().to_string();
    let mut contenders = vec![loader(&setting.davit, &archive)];
    if peers::find("podman").is_some() {
        contenders.push(Contender::new("podman", move |folder| {
            let podman = Podman::start(folder, Network::Own)?;
            timed(&mut podman.command(&format!("load --quiet --input {archive}")), &[])
        }));
    }
    Workload::new("load", "at least 9 times as fast as Podman", contenders)
}

fn loader(program: &Path, archive: &str) -> Contender {
    let (program, archive) = (program.to_owned(), archive.to_owned());
    Contender::new("davit", move |folder| {
        timed(&mut davit(&program, folder, &["load", "--quiet", "--input", &archive]), &[])
    })
}

/// Remove that image again.
pub(super) fn remove(setting: &Setting) -> Workload {
    let archive = setting.corpus.archive(setting.image()).display().to_string();
    let name = format!("{}:latest", setting.image());
    let mut contenders = vec![remover(setting.davit.clone(), archive.clone(), name.clone())];
    if peers::find("podman").is_some() {
        contenders.push(Contender::new("podman", move |folder| {
            let podman = Podman::start(folder, Network::Own)?;
            prepare(&mut podman.command(&format!("load --quiet --input {archive}")))?;
            rustix::fs::sync();
            timed(&mut podman.command(&format!("rmi {name}")), &[])
        }));
    }
    Workload::new("remove", "at most 0.1 s", contenders)
}

fn remover(program: PathBuf, archive: String, name: String) -> Contender {
    Contender::new("davit", move |folder| {
        prepare(&mut davit(&program, folder, &["load", "--quiet", "--input", &archive]))?;
        rustix::fs::sync();
        timed(&mut davit(&program, folder, &["rmi", &name]), &[])
    })
}
