//! Workloads of the builder.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{
    Contender, Setting, Workload,
    images::davit,
    measure::{Measured, median_of, prepare, timed},
    peers::{self, Buildkit},
};

const COPY: &str = "FROM scratch\nCOPY . /src\n";
const STEP: &str = "FROM busybox\nARG N\nRUN true\n";

/// What is done to the context before the measured build.
#[derive(Clone, Copy)]
enum Change {
    First,
    Nothing,
    OneFile,
}

/// First build of `COPY . /src`.
pub(super) fn copy_first(setting: &Setting) -> Result<Workload> {
    copy(
        setting,
        "copy-first",
        "at least 10 times as fast as BuildKit, 25 as buildah; at most 96 MiB",
        Change::First,
    )
}

/// The same again, nothing changed.
pub(super) fn copy_unchanged(setting: &Setting) -> Result<Workload> {
    copy(
        setting,
        "copy-unchanged",
        "at least 10 times as fast as BuildKit, 100 as buildah",
        Change::Nothing,
    )
}

/// The same again, one file changed.
pub(super) fn copy_changed(setting: &Setting) -> Result<Workload> {
    copy(
        setting,
        "copy-changed",
        "at least 6 times as fast as BuildKit, 35 as buildah",
        Change::OneFile,
    )
}

fn copy(
    setting: &Setting,
    name: &'static str,
    promise: &'static str,
    change: Change,
) -> Result<Workload> {
    let source = setting.corpus.context();
    let program = setting.davit.clone();
    let ours = source.clone();
    let mut contenders = vec![Contender::new("davit", move |folder| {
        let context = context(&ours, folder)?;
        around(&context, change, &[], || davit_build(&program, folder, &context, &[]))
    })];
    if peers::find("buildkitd").is_some() {
        contenders.push(Contender::new("BuildKit", move |folder| {
            let context = context(&source, folder)?;
            let buildkit = Buildkit::start(folder)?;
            around(&context, change, &[buildkit.pid()], || buildkit.build(&context))
        }));
    } else if peers::find("buildah").is_some() {
        contenders.push(Contender::new("buildah", move |folder| {
            let context = context(&source, folder)?;
            around(&context, change, &[], || buildah_build(folder, &context))
        }));
    }
    Ok(Workload { name, promise, repetitions: 3, contenders })
}

/// Builds as often as `change` asks before the clock starts, then once more under it.
fn around(
    context: &Path,
    change: Change,
    daemons: &[u32],
    command: impl Fn() -> Command,
) -> Result<Measured> {
    if !matches!(change, Change::First) {
        prepare(&mut command())?;
    }
    if matches!(change, Change::OneFile) {
        let file = first_file(context)?;
        fs_err::write(&file, "changed\n")?;
    }
    rustix::fs::sync();
    timed(&mut command(), daemons)
}

/// Rebuild with nothing to do, 10,000 files in the context.
pub(super) fn noop(setting: &Setting) -> Result<Workload> {
    let source = setting.corpus.context();
    let program = setting.davit.clone();
    let count = if setting.is_quick() { 100 } else { 10_000 };
    let job = move |folder: &Path| {
        let context = part_of_context(&source, folder, count)?;
        prepare(&mut davit_build(&program, folder, &context, &[]))?;
        prepare(&mut davit_build(&program, folder, &context, &[]))?;
        median_of(21, || davit_build(&program, folder, &context, &[]))
    };
    Ok(Workload {
        name: "noop",
        promise: "at most 0.050 s",
        repetitions: 3,
        contenders: vec![Contender::new("davit", job)],
    })
}

/// One `RUN true` step: what twenty of them take, divided by twenty.
pub(super) fn step(setting: &Setting) -> Result<Workload> {
    let program = setting.davit.clone();
    let job = move |folder: &Path| {
        let context = folder.join("context");
        fs_err::create_dir_all(&context)?;
        let steps = |count: usize| STEP.replace("RUN true\n", &"RUN true $N\n".repeat(count));
        super::containers::import_busybox(&program, folder)?;
        let mut seconds = Vec::new();
        for count in [0, 20] {
            fs_err::write(context.join("Dockerfile"), steps(count))?;
            // A fresh argument makes every step a miss.
            let mut number = 0;
            let measured = median_of(5, || {
                number += 1;
                davit_build(
                    &program,
                    folder,
                    &context,
                    &["--build-arg", &format!("N={count}-{number}")],
                )
            })?;
            seconds.push(measured.value);
        }
        Ok(Measured { value: (seconds[1] - seconds[0]) / 20.0, peak_bytes: 0 })
    };
    Ok(Workload {
        name: "step",
        promise: "at most 0.015 s (BuildKit: 0.055)",
        repetitions: 3,
        contenders: vec![Contender::new("davit", job)],
    })
}

fn davit_build(program: &Path, folder: &Path, context: &Path, more: &[&str]) -> Command {
    let mut command = davit(program, folder, &["build", "--progress", "quiet", "--tag", "bench"]);
    command.args(more).arg(context);
    command
}

fn buildah_build(folder: &Path, context: &Path) -> Command {
    let mut command = Command::new("buildah");
    command.arg("--root").arg(folder.join("buildah"));
    command.arg("--runroot").arg(folder.join("buildah-run"));
    command.args(["bud", "--layers", "--quiet", "--isolation", "chroot", "--tag", "bench"]);
    command.arg(context);
    command
}

fn context(source: &Path, folder: &Path) -> Result<PathBuf> {
    let context = folder.join("context");
    prepare(Command::new("cp").arg("--archive").arg(source).arg(&context))?;
    fs_err::write(context.join("Dockerfile"), COPY)?;
    Ok(context)
}

/// Copies whole packages until the context holds `count` files.
fn part_of_context(source: &Path, folder: &Path, count: usize) -> Result<PathBuf> {
    let context = folder.join("context");
    fs_err::create_dir_all(&context)?;
    fs_err::write(context.join("Dockerfile"), COPY)?;
    let mut packages: Vec<PathBuf> = fs_err::read_dir(source.join("app/node_modules"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    packages.sort();
    let mut files = 0;
    for package in packages {
        if files >= count {
            break;
        }
        files += walk(&package)?.len();
        prepare(Command::new("cp").arg("--archive").arg(&package).arg(&context))?;
    }
    Ok(context)
}

fn first_file(context: &Path) -> Result<PathBuf> {
    let mut files = walk(context)?;
    files.sort();
    let file = files.into_iter().find(|path| path.extension().is_some_and(|suffix| suffix == "js"));
    file.ok_or_else(|| anyhow::anyhow!("{} holds no file to change", context.display()))
}

fn walk(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs_err::read_dir(folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    Ok(files)
}
