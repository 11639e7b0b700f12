//! Clients that push, pull, tag, delete, mount and refer, while the collector runs with short leases.
//!
//! The suite makes a few hundred operations; `DAVIT_TEST_SOAK=100000` asks for more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use davit_registry::{
    check::Repair,
    fault::Fault,
    gc::{self, GcSettings, Mode, Scan},
    manifests,
    registry::Registry,
};
use davit_test::{TempDir, kills};
use tokio::time::Interval;

use crate::bench::{Backends, Bench, Share, name, runtime};

mod client;
mod door;
mod servers;
mod wire;

use client::Client;
use door::Door;
use servers::Servers;
pub(crate) use servers::serve;
use wire::Wire;

const CLIENTS: usize = 8;
const SERVERS: usize = 2;
const REPOSITORIES: [&str; 3] = ["soak/a", "soak/b", "soak/a/b"];
const TAGS: usize = 6;
const LAYERS: usize = 24;
const USUAL: usize = 400;
const LEASE: Duration = Duration::from_secs(2);

const SETTINGS: GcSettings = GcSettings {
    lease: LEASE,
    trash_delay: LEASE,
    undo: Duration::ZERO,
    referrers: LEASE,
    orphan_age: Duration::from_secs(300),
    scan: Scan::Always,
};

#[test]
fn clients_and_collector_on_one_node() {
    soak(Share::Nothing, false);
}

#[test]
fn clients_and_collectors_on_two_nodes() {
    soak(Share::Database, false);
}

#[test]
fn clients_and_collectors_on_two_nodes_and_an_object_store() {
    soak(Share::Database, true);
}

#[derive(Default)]
struct Counts {
    operations: AtomicUsize,
    /// Manifests that were pushed while a promise held.
    promised: AtomicUsize,
    refused_later: AtomicUsize,
    pulled: AtomicUsize,
    collected: AtomicUsize,
    done: AtomicBool,
}

impl Counts {
    fn tell(&self) {
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        eprintln!(
            "{} operations: {} manifests pushed as promised, {} refused after it, {} pulled, {} rows and objects collected",
            count(&self.operations),
            count(&self.promised),
            count(&self.refused_later),
            count(&self.pulled),
            count(&self.collected)
        );
        // How many are in time is the machine's affair.
        assert!(count(&self.promised) + count(&self.refused_later) > 0);
    }
}

/// Two processes, which clients reach by HTTP as behind a load balancer; now and then one is killed, and
/// another takes its place.
#[test]
fn clients_and_servers_that_are_killed() {
    let backends = Backends::start(&[Share::Database]);
    runtime().block_on(async {
        let on = (Share::Database, true);
        let Some(bench) = Bench::on(&backends, on, SETTINGS).await else { return };
        let folder = TempDir::new();
        bench.write_places(folder.path());
        let counts = Arc::new(Counts::default());
        let mut servers = Servers::start(folder.path(), Arc::clone(&counts), SERVERS);
        let (most, kills) = (davit_test::soak_operations(USUAL), kills(2));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let door = Door::Servers(Wire::new(Arc::clone(&servers.addresses), number));
                let counts = Arc::clone(&counts);
                let client = Client { door, random: number as u64 + 1, counts };
                tokio::spawn(client.work(most))
            })
            .collect();
        for round in 0..kills {
            let enough = most * (round + 1) / (kills + 1);
            let is_over = || clients.iter().any(|client| client.is_finished());
            while counts.operations.load(Ordering::SeqCst) < enough && !is_over() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::task::block_in_place(|| servers.replace(round % SERVERS));
        }
        for client in clients {
            client.await.unwrap();
        }
        drop(servers);
        counts.tell();
        // What a killed server had stored and not noted is an orphan, as soon as it is old.
        bench.pass(SETTINGS.orphan_age);
        the_end_is_clean(&bench).await;
        assert!(bench.left_over().is_empty(), "{:?}", bench.left_over());
    });
}

fn soak(share: Share, has_objects: bool) {
    let backends = Backends::start(&[share]);
    runtime().block_on(async {
        let Some(bench) = Bench::on(&backends, (share, has_objects), SETTINGS).await else {
            return;
        };
        let mut nodes = vec![bench.registry.clone()];
        if share == Share::Database {
            nodes.push(bench.node().await);
        }
        let counts = Arc::new(Counts::default());
        let most = davit_test::soak_operations(USUAL);
        let collectors: Vec<_> = nodes
            .iter()
            .map(|node| tokio::spawn(collect(node.clone(), Arc::clone(&counts))))
            .collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let door = Door::Node(Box::new(nodes[number % nodes.len()].clone()));
                let counts = Arc::clone(&counts);
                let client = Client { door, random: number as u64 + 1, counts };
                tokio::spawn(client.work(most))
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        counts.done.store(true, Ordering::SeqCst);
        for collector in collectors {
            collector.await.unwrap();
        }
        counts.tell();
        the_end_is_clean(&bench).await;
    });
}

async fn the_end_is_clean(bench: &Bench) {
    assert_eq!(bench.check(Repair::No).await, []);
    // When no tag is left, nothing is.
    for repository in REPOSITORIES {
        for tag in 0..TAGS {
            let tag = format!("t{tag}").parse().unwrap();
            let repository = name(repository);
            let gone =
                manifests::delete_tag(&bench.registry, &repository, &tag, (None, None)).await;
            assert!(matches!(gone, Ok(()) | Err(Fault::Unknown(_))));
        }
    }
    for _ in 0..6 {
        bench.pass(2 * LEASE);
        bench.collect().await;
    }
    assert_eq!(bench.check(Repair::No).await, []);
    for sql in
        ["SELECT id FROM manifest", "SELECT repo_id FROM repo_blob", "SELECT size_bytes FROM blob"]
    {
        assert!(bench.ask(sql, Vec::new()).await.is_empty(), "{sql}");
    }
    assert!(bench.objects().is_empty());
}

/// Ticks each second; what comes late is not made up for.
fn second() -> Interval {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    second
}

/// Collects each second.
async fn collect(node: Registry, counts: Arc<Counts>) {
    let mut second = second();
    while !counts.done.load(Ordering::SeqCst) {
        second.tick().await;
        let report = gc::run_once(&node.database, &node.store, &SETTINGS, Mode::Collect).await;
        let report = report.unwrap();
        assert_eq!((report.orphans, report.lost), (0, 0));
        let removed = report.manifests + report.links + report.blobs + report.objects;
        counts.collected.fetch_add(usize::try_from(removed).unwrap(), Ordering::SeqCst);
    }
}
