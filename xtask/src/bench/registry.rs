//! Workloads of the registry server: davit with and without authentication, and its peers, each on a
//! directory of its own, over plain HTTP on the loopback.

mod load;
mod million;
mod servers;
mod throttle;

use std::{io::Write, path::Path, time::Duration};

use anyhow::Result;
use davit_sys::bulk::BulkFile;

use self::{
    load::{Blobs, Clients, Connection},
    servers::{Program, Server},
    throttle::Throttle,
};
use super::{Contender, Setting, Workload, measure::Measured};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Pushes after which memory is looked at.
const PUSHES: usize = 1264;
/// Tags of a page.
const PAGE: usize = 1000;
/// Bytes per second of the disk that is slower than this machine's processors.
const SLOW_DISK: usize = 1000 * MIB;
/// The repository of all workloads.
const REPOSITORY: &str = "bench/app";

/// Work with a server that has just been started.
type Work = fn(&Server, Extent) -> Result<f64>;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Extent {
    is_quick: bool,
}

impl Extent {
    /// A number of pushes.
    const fn of(self, count: usize) -> usize {
        if self.is_quick { 4 } else { count }
    }

    /// Tags of a long list.
    const fn tags(self) -> usize {
        if self.is_quick { 2 * PAGE } else { 100 * PAGE }
    }

    /// How long a server that rests is left alone.
    const fn rest(self) -> Duration {
        Duration::from_secs(if self.is_quick { 0 } else { 30 })
    }

    /// Seconds of one run of wrk.
    const fn seconds(self) -> u32 {
        if self.is_quick { 1 } else { 5 }
    }
}

/// The workloads.
pub(super) const NAMES: &[&str] = &[
    "registry-push",
    "registry-push-4",
    "registry-push-100m",
    "registry-push-disk",
    "registry-manifest-tag",
    "registry-manifest-digest",
    "registry-blob-10k",
    "registry-blob-1m",
    "registry-blob-100m",
    "registry-mixed",
    "registry-list",
    "registry-idle",
    "registry-pushed",
    "registry-peak",
    "registry-million-push",
    "registry-million-manifest",
    "registry-million-blob",
];

/// The workload of this name; figures are per second unless its promise says otherwise.
pub(super) fn workload(name: &'static str, setting: &Setting) -> Result<Workload> {
    if name.starts_with("registry-million") {
        return million::workload(name, setting);
    }
    if name == "registry-push-disk" {
        return Ok(on_slow_disk(setting));
    }
    let (promise, work): (&str, Work) = match name {
        "registry-push" => ("1 MiB blobs per second by 1 client", |server, extent| {
            push(server, MIB, extent.of(400), 1)
        }),
        "registry-push-4" => (
            "1 MiB blobs per second by 4 clients: at least 1.3 times zot's, 2.4 times distribution's, durable",
            |server, extent| push(server, MIB, extent.of(PUSHES), 4),
        ),
        "registry-push-100m" => (
            "MiB per second of 100 MiB blobs by 2 clients: what the disk takes, or the processors",
            push_large,
        ),
        "registry-manifest-tag" => (
            "manifests per second by tag, 8 clients: at least 2 times zot's, 6.5 times distribution's",
            |server, extent| server.manifest(extent, "latest"),
        ),
        "registry-manifest-digest" => {
            ("manifests per second by digest, 8 clients: as by tag", |server, extent| {
                let digest = server.push_image(&Blobs::of(10 * KIB))?;
                server.wrk(&format!("/v2/{REPOSITORY}/manifests/{digest}"), extent.seconds())
            })
        }
        "registry-blob-10k" => {
            ("10 KiB blobs per second, 8 clients", |server, extent| server.blob(extent, 10 * KIB))
        }
        "registry-blob-1m" => (
            "1 MiB blobs per second, 8 clients: at least zot's, 3.6 times distribution's",
            |server, extent| server.blob(extent, MIB),
        ),
        "registry-blob-100m" => {
            ("100 MiB blobs per second, 8 clients", |server, extent| server.blob(extent, 100 * MIB))
        }
        "registry-mixed" => (
            "requests per second, of 4 clients, of which each pulls a manifest, 10 KiB and 1 MiB and pushes 1 MiB in turn",
            mixed,
        ),
        "registry-list" => ("pages of 1,000 of 100,000 tags per second: at least 20", list),
        "registry-idle" => (
            "resident MiB when nobody has asked for half a minute: at most 25",
            |server, extent| {
                std::thread::sleep(extent.rest());
                server.resident()
            },
        ),
        "registry-pushed" => ("resident MiB after 1,264 pushes of 1 MiB", |server, extent| {
            push(server, MIB, extent.of(PUSHES), 4)?;
            server.resident()
        }),
        _ => ("most resident MiB of pushes and pulls: at most 48", |server, extent| {
            push(server, MIB, extent.of(PUSHES), 4)?;
            push(server, 100 * MIB, 2, 2)?;
            server.blob(extent, MIB)?;
            server.manifest(extent, "latest")?;
            server.peak()
        }),
    };
    let mut contenders = contenders(setting, name, work);
    if name == "registry-push-100m" {
        let written = |folder: &Path| disk(folder, Cache::Through).map(Measured::of);
        contenders.push(Contender::new("the disk", written));
    }
    Ok(Workload::new(name, promise, contenders).repeated(5).sweeping())
}

/// Large pushes where the disk, and not the processors, is what they wait for. The peers write through
/// the page cache, which is not bounded with them.
fn on_slow_disk(setting: &Setting) -> Workload {
    let promise = "MiB per second of 100 MiB blobs by 2 clients, where the disk takes 1,000: at \
                   least 0.9 times the disk's";
    if !Throttle::is_possible() {
        eprintln!("note: registry-push-disk needs blkio of cgroup v1; it is left out");
        return Workload::new("registry-push-disk", promise, Vec::new());
    }
    let (program, extent) = (setting.davit.clone(), Extent { is_quick: setting.is_quick() });
    let pushed = move |folder: &Path| {
        let _slow = Throttle::start(folder, SLOW_DISK)?;
        measured(&Program::Davit(program.clone()), folder, (push_large, extent))
    };
    let written = |folder: &Path| {
        let _slow = Throttle::start(folder, SLOW_DISK)?;
        disk(folder, Cache::Past).map(Measured::of)
    };
    let contenders = vec![Contender::new("davit", pushed), Contender::new("the disk", written)];
    Workload::new("registry-push-disk", promise, contenders).repeated(5).sweeping()
}

/// Those who have what the workload needs.
fn contenders(setting: &Setting, name: &'static str, work: Work) -> Vec<Contender> {
    let extent = Extent { is_quick: setting.is_quick() };
    let programs = Program::all(&setting.davit)
        .into_iter()
        .filter(|program| name != "registry-list" || program.can_list_many_tags());
    let contender = |program: Program| {
        Contender::new(program.name(), move |folder| measured(&program, folder, (work, extent)))
    };
    programs.map(contender).collect()
}

/// Starts a server, lets it work, and ends it.
fn measured(program: &Program, folder: &Path, (work, extent): (Work, Extent)) -> Result<Measured> {
    let server = Server::start(program, folder)?;
    let value = work(&server, extent)?;
    let (peak_bytes, cpu_seconds) = server.cost();
    server.stop()?;
    Ok(Measured { value, peak_bytes, cpu_seconds })
}

/// MiB per second of 100 MiB blobs.
fn push_large(server: &Server, extent: Extent) -> Result<f64> {
    Ok(push(server, 100 * MIB, extent.of(12), 2)? * 100.0)
}

/// Blobs per second.
fn push(server: &Server, size: usize, count: usize, clients: usize) -> Result<f64> {
    let blobs = Blobs::of(size);
    Clients::run(server, clients, count, |connection, number| {
        connection.push(&blobs.number(number))
    })
}

fn mixed(server: &Server, extent: Extent) -> Result<f64> {
    let (small, large) = (Blobs::of(10 * KIB), Blobs::of(MIB));
    server.push_image(&small)?;
    let mut first = Connection::open(server)?;
    first.push(&large.number(0))?;
    let path = |blobs: &Blobs| format!("/v2/{REPOSITORY}/blobs/{}", blobs.number(0).digest);
    let paths = [format!("/v2/{REPOSITORY}/manifests/latest"), path(&small), path(&large)];
    Clients::run(server, 4, extent.of(PUSHES) * 4, |connection, number| {
        match paths.get(number % 4) {
            Some(path) => connection.get(path),
            None => connection.push(&large.number(number)),
        }
    })
}

fn list(server: &Server, extent: Extent) -> Result<f64> {
    server.push_tags(extent.tags())?;
    let mut connection = Connection::open(server)?;
    let start = std::time::Instant::now();
    let (mut last, mut pages) = (String::new(), 0_u32);
    loop {
        let path = format!("/v2/{REPOSITORY}/tags/list?n={PAGE}&last={last}");
        let page: serde_json::Value = serde_json::from_slice(&connection.fetch(&path)?)?;
        let tags = page["tags"].as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(tag) = tags.last().and_then(|tag| tag.as_str()) else { break };
        anyhow::ensure!(tag > last.as_str(), "the list does not go on after {last}");
        last = tag.to_owned();
        pages += 1;
    }
    anyhow::ensure!(pages as usize == extent.tags() / PAGE, "{pages} pages");
    Ok(f64::from(pages) / start.elapsed().as_secs_f64())
}

/// Whether a file is written through the kernel's page cache.
#[derive(Clone, Copy)]
enum Cache {
    Through,
    Past,
}

/// What the disk takes of two writers that flush their files at the end, in MiB per second.
fn disk(folder: &Path, cache: Cache) -> Result<f64> {
    let start = std::time::Instant::now();
    std::thread::scope(|scope| {
        let writer = |name: usize| {
            scope.spawn(move || -> std::io::Result<()> {
                let piece = davit_test::noise(MIB);
                for number in 0..6 {
                    let path = folder.join(format!("{name}-{number}"));
                    let file = fs_err::File::create(path)?.into_parts().0;
                    let mut to: Box<dyn Write> = match cache {
                        Cache::Through => Box::new(&file),
                        Cache::Past => Box::new(BulkFile::new(file.try_clone()?)),
                    };
                    (0..100).try_for_each(|_| to.write_all(&piece))?;
                    to.flush()?;
                    file.sync_data()?;
                }
                Ok(())
            })
        };
        let writers = [0, 1].map(writer);
        writers.into_iter().try_for_each(|writer| writer.join().expect("it does not panic"))
    })?;
    Ok(1200.0 / start.elapsed().as_secs_f64())
}
