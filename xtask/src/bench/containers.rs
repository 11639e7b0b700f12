//! Workloads of running containers.

use std::{path::Path, process::Command, time::Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    Contender, Setting, Workload,
    images::davit,
    measure::{Measured, median_of, prepare, private_bytes},
    peers::{self, Nerdctl, Network, Podman},
};

/// Makes the image `busybox` of the static busybox alone.
pub(super) fn import_busybox(program: &Path, folder: &Path, archive: &Path) -> Result<()> {
    prepare(davit(program, folder, &["import"]).arg(archive).arg("busybox"))
}

/// Adds the engines that are here; each runs `arguments` `count` times beside a running container.
fn with_peers(contenders: &mut Vec<Contender>, setting: &Setting, arguments: &'static str) {
    let count = if setting.is_quick() { 1 } else { 11 };
    let archive = setting.corpus.busybox();
    if peers::find("podman").is_some() {
        let archive = archive.clone();
        contenders.push(Contender::new("podman", move |folder| {
            let podman = Podman::start(folder, Network::Own)?;
            beside_sleeper(&archive, count, arguments, |arguments| podman.command(arguments))
        }));
    }
    if Nerdctl::is_here() {
        contenders.push(Contender::new("nerdctl", move |folder| {
            let nerdctl = Nerdctl::start(folder)?;
            beside_sleeper(&archive, count, arguments, |arguments| nerdctl.command(arguments))
        }));
    }
}

fn beside_sleeper(
    archive: &Path,
    count: usize,
    arguments: &str,
    peer: impl Fn(&str) -> Command,
) -> Result<Measured> {
    prepare(&mut peer(&format!("import {} busybox", archive.display())))?;
    prepare(&mut peer("run --detach --name sleeper busybox sleep 600"))?;
    let result = median_of(count, || peer(arguments));
    prepare(&mut peer("kill sleeper"))?;
    prepare(&mut peer("rm --force sleeper"))?;
    result
}

/// `run --rm` of a static `true` on the bridge.
pub(super) fn run(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let count = if setting.is_quick() { 3 } else { 41 };
    let mut contenders = vec![Contender::new("davit", move |folder| {
        import_busybox(&program, folder, &archive)?;
        let arguments = ["run", "--rm", "busybox", "true"];
        prepare(&mut davit(&program, folder, &arguments))?;
        median_of(count, || davit(&program, folder, &arguments))
    })];
    with_peers(&mut contenders, setting, "run --rm busybox true");
    Workload::new(
        "run",
        "at most 0.010 s; at least 30 times as fast as nerdctl, 50 as Podman 4.3",
        contenders,
    )
}

/// `exec` of a static `true`.
pub(super) fn exec(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let count = if setting.is_quick() { 3 } else { 41 };
    let mut contenders = vec![Contender::new("davit", move |folder| {
        import_busybox(&program, folder, &archive)?;
        prepare(&mut davit(
            &program,
            folder,
            &["run", "-d", "--name", "sleeper", "busybox", "sleep", "600"],
        ))?;
        let result = median_of(count, || davit(&program, folder, &["exec", "sleeper", "true"]));
        prepare(&mut davit(&program, folder, &["rm", "--force", "sleeper"]))?;
        result
    })];
    with_peers(&mut contenders, setting, "exec sleeper true");
    Workload::new("exec", "at most 0.005 s", contenders)
}

/// The program's own start: `version`, beside a static `true`.
pub(super) fn start(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let count = if setting.is_quick() { 3 } else { 101 };
    let own = Contender::new("davit", move |folder| {
        median_of(count, || davit(&program, folder, &["version"]))
    });
    let empty = Contender::new("static true", move |folder| {
        prepare(Command::new("tar").arg("-C").arg(folder).arg("-xf").arg(&archive))?;
        median_of(count, || Command::new(folder.join("bin/true")))
    });
    Workload::new(
        "start",
        "`davit version` takes at most 0.001 s more than a static `true`",
        vec![own, empty],
    )
}

/// `ps` with one container.
pub(super) fn list(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let count = if setting.is_quick() { 3 } else { 41 };
    let mut contenders = vec![Contender::new("davit", move |folder| {
        import_busybox(&program, folder, &archive)?;
        prepare(&mut davit(
            &program,
            folder,
            &["run", "-d", "--name", "sleeper", "busybox", "sleep", "600"],
        ))?;
        let mut slowest = Measured::default();
        for verb in ["ps", "images", "version"] {
            let measured = median_of(count, || davit(&program, folder, &[verb]))?;
            eprintln!("list: {verb} {measured}");
            if measured.value > slowest.value {
                slowest = measured;
            }
        }
        prepare(&mut davit(&program, folder, &["rm", "--force", "sleeper"]))?;
        Ok(slowest)
    })];
    with_peers(&mut contenders, setting, "ps");
    Workload::new("list", "at most 0.003 s for the slowest of ps, images and version", contenders)
}

/// Containers per second, four at a time.
pub(super) fn rate(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let count: usize = if setting.is_quick() { 8 } else { 200 };
    let job = move |folder: &Path| {
        import_busybox(&program, folder, &archive)?;
        let arguments = ["run", "--rm", "busybox", "true"];
        prepare(&mut davit(&program, folder, &arguments))?;
        let start = Instant::now();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    let program = &program;
                    scope.spawn(move || {
                        (0..count / 4)
                            .try_for_each(|_| prepare(&mut davit(program, folder, &arguments)))
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?
            })
        })?;
        #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
        let value = count as f64 / start.elapsed().as_secs_f64();
        Ok(Measured::of(value))
    };
    Workload::new(
        "rate",
        "at least 80 containers per second (crun alone: 54, Podman: 6.3)",
        vec![Contender::new("davit", job)],
    )
}

/// Private memory of the process that stays with a running container, in MB: the mean of four, which
/// share the pages of the program.
pub(super) fn memory(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let job = move |folder: &Path| {
        import_busybox(&program, folder, &archive)?;
        let names = ["one", "two", "three", "four"];
        for name in names {
            let arguments = ["run", "-d", "--name", name, "busybox", "sleep", "600"];
            prepare(&mut davit(&program, folder, &arguments))?;
        }
        let ids = davit(&program, folder, &["ps", "--quiet", "--no-trunc"]).output()?.stdout;
        let bytes = monitor_memory(String::from_utf8(ids)?.lines().collect());
        prepare(davit(&program, folder, &["rm", "--force"]).args(names))?;
        #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
        let value = bytes? as f64 / 1e6 / names.len() as f64;
        Ok(Measured::of(value))
    };
    Workload::new(
        "memory",
        "at most 0.5 MB private per running container (a containerd shim: 12.8–15.7)",
        vec![Contender::new("davit", job)],
    )
}

/// Private memory of the monitors of these containers.
fn monitor_memory(containers: Vec<&str>) -> Result<u64> {
    let mut bytes = Vec::new();
    for entry in fs_err::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let command = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        if command.split('\0').any(|word| containers.contains(&word)) {
            bytes.push(private_bytes(pid).context("a monitor ended")?);
        }
    }
    let found = bytes.len();
    ensure!(found == containers.len(), "{found} monitors of {} containers", containers.len());
    Ok(bytes.iter().sum())
}
