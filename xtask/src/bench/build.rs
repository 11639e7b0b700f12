//! Workloads of the builder: contexts, steps, exports.

use std::path::Path;

use anyhow::Result;

use super::{
    Contender, Setting, Workload,
    builders::{Builder, Job, Kind, contenders},
    containers, contexts,
    measure::{Measured, median_of, prepare, timed},
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
pub(super) fn copy_first(setting: &Setting) -> Workload {
    copy(
        setting,
        "copy-first",
        "at least 10 times as fast as BuildKit, 25 as buildah; at most 96 MiB",
        Change::First,
    )
}

/// The same again, nothing changed.
pub(super) fn copy_unchanged(setting: &Setting) -> Workload {
    copy(
        setting,
        "copy-unchanged",
        "at least 10 times as fast as BuildKit, 100 as buildah",
        Change::Nothing,
    )
}

/// The same again, one file changed.
pub(super) fn copy_changed(setting: &Setting) -> Workload {
    copy(
        setting,
        "copy-changed",
        "at least 6 times as fast as BuildKit, 35 as buildah",
        Change::OneFile,
    )
}

fn copy(setting: &Setting, name: &'static str, promise: &'static str, change: Change) -> Workload {
    let source = setting.corpus.context();
    let contenders = contenders(setting, &Kind::ALL, move |builder, folder| {
        let context = contexts::copied(&source, folder, COPY)?;
        around(&context, change, builder)
    });
    Workload::new(name, promise, contenders)
}

/// Builds as often as `change` asks before the clock starts, then once more under it.
fn around(context: &Path, change: Change, builder: &dyn Builder) -> Result<Measured> {
    let job = Job::of(context);
    if !matches!(change, Change::First) {
        prepare(&mut builder.build(&job))?;
    }
    if matches!(change, Change::OneFile) {
        contexts::change_one(context)?;
    }
    rustix::fs::sync();
    timed(&mut builder.build(&job), &builder.daemons())
}

/// `COPY` of one file of 4 GiB.
pub(super) fn copy_big(setting: &Setting) -> Workload {
    let bytes = if setting.is_quick() { 16 << 20 } else { 4 << 30 };
    let archive = setting.corpus.archive(setting.image());
    let contenders = contenders(setting, &Kind::ALL, move |builder, folder| {
        let context = contexts::one_big_file(&archive, folder, bytes, COPY)?;
        around(&context, Change::First, builder)
    });
    Workload::new("copy-big", "not slower than any; at most 96 MiB", contenders).sweeping()
}

/// First build of a context of 100,000 files of which nine tenths are ignored.
pub(super) fn copy_ignored(setting: &Setting) -> Workload {
    let source = setting.corpus.context();
    let contenders = contenders(setting, &Kind::ALL, move |builder, folder| {
        let context = contexts::mostly_ignored(&source, folder, COPY)?;
        around(&context, Change::First, builder)
    });
    Workload::new(
        "copy-ignored",
        "at least 2 times as fast as BuildKit; at most 96 MiB",
        contenders,
    )
}

/// Rebuild with nothing to do, 10,000 files in the context.
pub(super) fn noop(setting: &Setting) -> Workload {
    let source = setting.corpus.context();
    let count = if setting.is_quick() { 100 } else { 10_000 };
    let contenders = contenders(setting, &[Kind::Davit], move |builder, folder| {
        rebuilds(builder, &contexts::part(&source, folder, count, COPY)?, 21)
    });
    Workload::new("noop", "at most 0.050 s", contenders)
}

/// Builds twice, then `count` times more with nothing to do.
pub(super) fn rebuilds(builder: &dyn Builder, context: &Path, count: usize) -> Result<Measured> {
    let job = Job::of(context);
    prepare(&mut builder.build(&job))?;
    prepare(&mut builder.build(&job))?;
    median_of(count, || builder.build(&job))
}

/// One `RUN true` step: what twenty of them take, divided by twenty.
pub(super) fn step(setting: &Setting) -> Workload {
    let (program, archive) = (setting.davit.clone(), setting.corpus.busybox());
    let job = move |folder: &Path| {
        let context = folder.join("context");
        fs_err::create_dir_all(&context)?;
        containers::import_busybox(&program, folder, &archive)?;
        let builder = Kind::Davit.start(&program, folder)?;
        let mut seconds = Vec::new();
        for count in [0, 20] {
            fs_err::write(context.join("Dockerfile"), true_steps(STEP, count))?;
            // A fresh argument makes every step a miss.
            let mut number = 0;
            let measured = median_of(5, || {
                number += 1;
                let job = Job::of(&context);
                builder.build(&Job { number: Some(format!("{count}-{number}")), ..job })
            })?;
            seconds.push(measured.value);
        }
        Ok(Measured::of((seconds[1] - seconds[0]) / 20.0))
    };
    Workload::new("step", "at most 0.015 s (BuildKit: 0.055)", vec![Contender::new("davit", job)])
}

/// A Dockerfile whose `RUN true` is there `count` times, dependent on the argument `N`.
pub(super) fn true_steps(dockerfile: &str, count: usize) -> String {
    dockerfile.replace("RUN true\n", &"RUN true $N\n".repeat(count))
}

/// Export of 5 GiB that are built already, as a gzip archive.
pub(super) fn export_gzip(setting: &Setting) -> Workload {
    export(setting, "export-gzip", "gzip")
}

/// The same with zstd.
pub(super) fn export_zstd(setting: &Setting) -> Workload {
    export(setting, "export-zstd", "zstd")
}

fn export(setting: &Setting, name: &'static str, compression: &'static str) -> Workload {
    let bytes = if setting.is_quick() { 16 << 20 } else { 5 << 30 };
    let archive = setting.corpus.archive(setting.image());
    let contenders = contenders(setting, &Kind::EXPORTING, move |builder, folder| {
        let context = contexts::one_big_file(&archive, folder, bytes, COPY)?;
        prepare(&mut builder.build(&Job::of(&context)))?;
        rustix::fs::sync();
        let archive = Some((folder.join("image.tar"), compression));
        let job = Job { archive, ..Job::of(&context) };
        timed(&mut builder.build(&job), &builder.daemons())
    });
    Workload::new(name, "at least 2 times as fast as BuildKit; at most 96 MiB", contenders)
        .sweeping()
}
