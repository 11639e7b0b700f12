//! Workloads of the builder: Dockerfiles of several stages on real bases.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use anyhow::Result;

use super::{
    Setting, Workload,
    bases::Bases,
    build::{rebuilds, true_steps},
    builders::{Builder, Job, Kind, contenders, contenders_of_kind},
    contexts,
    images::davit,
    measure::{prepare, timed},
};

/// Rebuild of twelve stages with nothing to do, 10,000 files in the context.
pub(super) fn noop_stages(setting: &Setting) -> Result<Workload> {
    let bases = Rc::new(Bases::serve(setting, &["busybox"])?);
    let source = setting.corpus.context();
    let count = if setting.is_quick() { 100 } else { 10_000 };
    let contenders = contenders(setting, &Kind::ALL, move |builder, folder| {
        let context = contexts::part(&source, folder, count, &twelve_stages(&bases))?;
        rebuilds(builder, &context, 3)
    });
    Ok(Workload::new("noop-stages", "at most 0.050 s; not slower than any", contenders))
}

fn twelve_stages(bases: &Bases) -> String {
    let busybox = bases.name("busybox");
    let mut text = format!("FROM {busybox} AS stage0\nCOPY . /src\nRUN true\n");
    for stage in 1..11 {
        let before = stage - 1;
        text += &format!(
            "FROM {busybox} AS stage{stage}\nWORKDIR /work\nCOPY --from=stage{before} /bin /bin{stage}\nRUN true\n"
        );
    }
    text + &format!("FROM {busybox}\nCOPY --from=stage0 /src /src\nCOPY --from=stage10 /bin10 /x\n")
}

/// Thirty `RUN true` steps.
pub(super) fn steps(setting: &Setting) -> Result<Workload> {
    let dockerfile = |bases: &Bases| {
        true_steps(&format!("FROM {}\nARG N\nRUN true\n", bases.name("busybox")), 30)
    };
    stages(setting, "steps", "at least 3 times as fast as BuildKit", &["busybox"], dockerfile)
}

/// Eight stages that do not need each other, each a wait and some work.
pub(super) fn parallel(setting: &Setting) -> Result<Workload> {
    let megabytes = if setting.is_quick() { 1 } else { 100 };
    let dockerfile = move |bases: &Bases| {
        let busybox = bases.name("busybox");
        let mut text = String::new();
        let mut last = format!("FROM {busybox}\n");
        for stage in 0..8 {
            text += &format!(
                "FROM {busybox} AS stage{stage}\nARG N\nRUN sleep 0.5; echo $N >/out; busybox dd if=/dev/zero bs=1M count={megabytes} 2>/dev/null | busybox sha256sum >>/out\n"
            );
            last += &format!("COPY --from=stage{stage} /out /out{stage}\n");
        }
        text + &last
    };
    stages(setting, "parallel", "not slower than any", &["busybox"], dockerfile)
}

/// Three stages that copy big trees.
pub(super) fn three_stages(setting: &Setting) -> Result<Workload> {
    let (image, more) = (setting.image(), ["base", setting.image()]);
    let dockerfile = move |bases: &Bases| {
        format!(
            "FROM {0} AS one\nARG N\nRUN echo $N; cp -a /usr /copy\n\
             FROM {0} AS two\nARG N\nRUN echo $N; cp -a /usr/share /copy\n\
             FROM {1}\nCOPY --from=one /copy /one\nCOPY --from=two /copy /two\n",
            bases.name(image),
            bases.name("base"),
        )
    };
    stages(setting, "stages", "at least 2 times as fast as BuildKit", &more, dockerfile)
}

/// A first build with its bases warm: of the same Dockerfile with another argument.
fn stages(
    setting: &Setting,
    name: &'static str,
    promise: &'static str,
    images: &[&str],
    dockerfile: impl Fn(&Bases) -> String,
) -> Result<Workload> {
    let bases = Bases::serve(setting, images)?;
    let text = dockerfile(&bases);
    let warm: String = bases.names().map(|base| format!("FROM {base}\nRUN true\n")).collect();
    let contenders = contenders(setting, &Kind::ALL, move |builder, folder| {
        // The registry lives as long as the workload.
        let _running = &bases;
        warm_up(builder, folder, &warm)?;
        let context = contexts::empty(folder, &text)?;
        rustix::fs::sync();
        let job = Job { number: Some("1".to_owned()), ..Job::of(&context) };
        timed(&mut builder.build(&job), &builder.daemons())
    });
    Ok(Workload::new(name, promise, contenders))
}

/// Brings the bases into the store; each is the last stage once, for those that build no other.
fn warm_up(builder: &dyn Builder, folder: &Path, stages: &str) -> Result<()> {
    for (number, stage) in stages.split_inclusive("RUN true\n").enumerate() {
        let context = folder.join(format!("warm{number}"));
        fs_err::create_dir_all(&context)?;
        fs_err::write(context.join("Dockerfile"), stage)?;
        prepare(&mut builder.build(&Job::of(&context)))?;
    }
    Ok(())
}

/// A program in C built in one stage, and put beside packages in another.
pub(super) fn application(setting: &Setting) -> Result<Workload> {
    // A smoke run has no image with a compiler.
    let (image, make) =
        if setting.is_quick() { ("base", "cp main.c application") } else { ("app", "make -j2") };
    let bases = Bases::serve(setting, &["base", image])?;
    let warm: String = bases.names().map(|base| format!("FROM {base}\nRUN true\n")).collect();
    let text = format!(
        "FROM {} AS build\nWORKDIR /src\nCOPY src .\nRUN {make}\n\
         FROM {}\nRUN --mount=type=bind,source=packages,target=/packages dpkg --install /packages/*.deb\n\
         COPY --from=build /src/application /usr/local/bin/\nRUN test -s /usr/local/bin/application\n\
         CMD [\"application\"]\n",
        bases.name(image),
        bases.name("base"),
    );
    let packages = setting.corpus.packages();
    let contenders = contenders(setting, &Kind::ALL, move |builder, folder| {
        let _running = &bases;
        warm_up(builder, folder, &warm)?;
        let context = contexts::application(&packages, folder, &text)?;
        rustix::fs::sync();
        timed(&mut builder.build(&Job::of(&context)), &builder.daemons())
    });
    Ok(Workload::new("application", "not slower than any", contenders))
}

/// A build with an empty store that finds all its steps in a registry's cache.
pub(super) fn cache_import(setting: &Setting) -> Result<Workload> {
    let bases = Bases::serve(setting, &["busybox"])?;
    let source = setting.corpus.context();
    let count = if setting.is_quick() { 100 } else { 10_000 };
    let text = format!(
        "FROM {}\nCOPY . /src\n{}",
        bases.name("busybox"),
        (0..10).map(|step| format!("RUN echo {step} >/step{step}\n")).collect::<String>()
    );
    let contenders = contenders_of_kind(setting, &Kind::EXPORTING, move |kind, program, folder| {
        // The time in the folder's name makes it another cache in each repetition.
        let cache = bases.name(&format!("cache-{}", folder_name(folder)));
        let context = contexts::part(&source, folder, count, &text)?;
        let machine = |name: &str| -> Result<PathBuf> {
            let machine = folder.join(name);
            fs_err::create_dir_all(&machine)?;
            Ok(machine)
        };
        let archive = |name: &str| Some((folder.join(name), "gzip"));
        let first = kind.start(program, &machine("first")?)?;
        let job = Job { archive: archive("first.tar"), ..Job::of(&context) };
        prepare(&mut first.build(&Job { cache_to: Some(cache.clone()), ..job }))?;
        let second = kind.start(program, &machine("second")?)?;
        rustix::fs::sync();
        let job = Job { archive: archive("second.tar"), ..Job::of(&context) };
        let job = Job { cache_from: Some(cache), ..job };
        let measured = timed(&mut second.build(&job), &second.daemons());
        for name in ["first", "second"] {
            if folder.join(name).join("root/format").exists() {
                let reset = ["system", "reset", "--force"];
                prepare(&mut davit(program, &folder.join(name), &reset))?;
            }
        }
        measured
    });
    Ok(Workload::new("cache-import", "at least 2 times as fast as BuildKit", contenders))
}

fn folder_name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().to_lowercase()
}
