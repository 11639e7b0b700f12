//! Clients that push, pull, tag, delete, mount and refer, while the collector runs with short leases.
//!
//! The suite makes a few hundred operations; `DAVIT_TEST_SOAK=100000` asks for more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use davit_image::Digest;
use davit_registry::{
    blobs,
    check::Repair,
    fault::Fault,
    gc::{self, GcSettings, Mode, Scan},
    lists, manifests,
    manifests::Target,
    registry::Registry,
    uploads,
};
use futures_util::{TryStreamExt as _, stream};

use crate::bench::{Backends, Bench, Share, image, name, runtime, to_put};

const CLIENTS: usize = 8;
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

fn soak(share: Share, has_objects: bool) {
    let backends = Backends::start(&[share]);
    runtime().block_on(async {
        let Some(bench) = Bench::on(&backends, (share, has_objects), SETTINGS).await else { return };
        let mut nodes = vec![bench.registry.clone()];
        if share == Share::Database {
            nodes.push(bench.node().await);
        }
        let counts = Arc::new(Counts::default());
        let most = davit_test::soak_operations(USUAL);
        let collectors: Vec<_> =
            nodes.iter().map(|node| tokio::spawn(collect(node.clone(), Arc::clone(&counts)))).collect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let client = Client {
                    node: nodes[number % nodes.len()].clone(),
                    random: number as u64 + 1,
                    counts: Arc::clone(&counts),
                };
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
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        eprintln!(
            "{} operations: {} manifests pushed as promised, {} refused after it, {} pulled, {} rows and objects collected",
            count(&counts.operations),
            count(&counts.promised),
            count(&counts.refused_later),
            count(&counts.pulled),
            count(&counts.collected)
        );
        // How many are in time is the machine's affair.
        assert!(count(&counts.promised) + count(&counts.refused_later) > 0);
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

/// Collects each second.
async fn collect(node: Registry, counts: Arc<Counts>) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    while !counts.done.load(Ordering::SeqCst) {
        second.tick().await;
        let report = gc::run_once(&node.database, &node.store, &SETTINGS, Mode::Collect).await;
        let report = report.unwrap();
        assert_eq!((report.orphans, report.lost), (0, 0));
        let removed = report.manifests + report.links + report.blobs + report.objects;
        counts.collected.fetch_add(usize::try_from(removed).unwrap(), Ordering::SeqCst);
    }
}

struct Client {
    node: Registry,
    random: u64,
    counts: Arc<Counts>,
}

impl Client {
    async fn work(mut self, most: usize) {
        while self.counts.operations.fetch_add(1, Ordering::SeqCst) < most {
            match self.below(10) {
                0..=3 => self.push(None).await,
                4 | 5 => self.pull().await,
                6 => self.tag().await,
                7 => self.delete().await,
                8 => self.mount().await,
                _ => self.refer().await,
            }
        }
        self.counts.operations.fetch_sub(1, Ordering::SeqCst);
    }

    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % end as u64).unwrap()
    }

    fn repository(&mut self) -> &'static str {
        REPOSITORIES[self.below(REPOSITORIES.len())]
    }

    fn any_tag(&mut self) -> String {
        format!("t{}", self.below(TAGS))
    }

    fn layer(&mut self) -> String {
        let number = self.below(LAYERS);
        format!("layer {number} ").repeat(number * 100 + 1)
    }

    /// Asks for a blob, and pushes it if the repository lacks it; tells until when it is promised.
    async fn have(&mut self, repository: &str, content: &str) -> Instant {
        let digest = Digest::of(content.as_bytes());
        let asked = Instant::now();
        match blobs::find(&self.node, &name(repository), &digest).await {
            Ok(_) => return asked + LEASE / 2,
            Err(Fault::Unknown(_)) => {}
            Err(fault) => panic!("{fault}"),
        }
        let asked = Instant::now();
        let body = stream::iter([Ok(content.to_owned().into())]);
        uploads::whole(&self.node, &name(repository), digest, body).await.unwrap();
        asked + LEASE
    }

    async fn put(&self, repository: &str, tags: &[&str], body: String, promised: Instant) -> bool {
        let outcome = manifests::put(&self.node, to_put(repository, tags, body)).await;
        let in_time = Instant::now() < promised;
        match outcome {
            Ok(_) => {
                self.counts.promised.fetch_add(usize::from(in_time), Ordering::SeqCst);
                true
            }
            Err(Fault::Missing(_)) if !in_time => {
                self.counts.refused_later.fetch_add(1, Ordering::SeqCst);
                false
            }
            Err(fault) => panic!("a promise was broken: {fault:?}"),
        }
    }

    async fn push(&mut self, subject: Option<String>) {
        let (repository, tag, layer) = (self.repository(), self.any_tag(), self.layer());
        let promised = self.have(repository, "{}").await.min(self.have(repository, &layer).await);
        let body = image(&layer, subject.as_deref());
        self.put(repository, &[&tag], body, promised).await;
    }

    async fn refer(&mut self) {
        let (repository, layer, of) = (self.repository(), self.layer(), self.layer());
        let subject = image(&of, None);
        let promised = self.have(repository, "{}").await.min(self.have(repository, &layer).await);
        let body = image(&layer, Some(&subject));
        let digest = Digest::of(body.as_bytes());
        if !self.put(repository, &[], body, promised).await {
            return;
        }
        let subject = Digest::of(subject.as_bytes());
        let repository = name(repository);
        let page = lists::referrers(&self.node, &repository, &subject, ("", None)).await.unwrap();
        if Instant::now() < promised {
            assert!(page.entries.iter().any(|one| one.digest == digest), "a referrer is listed");
        }
    }

    async fn mount(&mut self) {
        let (from, to, layer) = (self.repository(), self.repository(), self.layer());
        self.have(from, &layer).await;
        let asked = Instant::now();
        let digest = Digest::of(layer.as_bytes());
        let mounted = blobs::mount(&self.node, name(from), name(to), digest).await.unwrap();
        if mounted {
            let promised = self.have(to, "{}").await.min(asked + LEASE);
            let tag = self.any_tag();
            self.put(to, &[&tag], image(&layer, None), promised).await;
        }
    }

    /// The manifest of a tag, if there is one.
    async fn manifest(&mut self, repository: &str) -> Option<(Digest, String)> {
        let target = Target::Tag(self.any_tag().parse().unwrap());
        match manifests::find(&self.node, &name(repository), &target).await {
            Ok(stored) => Some((stored.digest, String::from_utf8(stored.body.to_vec()).unwrap())),
            Err(Fault::Unknown(_)) => None,
            Err(fault) => panic!("{fault}"),
        }
    }

    async fn tag(&mut self) {
        let repository = self.repository();
        let asked = Instant::now();
        let Some((_, body)) = self.manifest(repository).await else { return };
        let tag = self.any_tag();
        self.put(repository, &[&tag], body, asked + LEASE / 2).await;
    }

    async fn delete(&mut self) {
        let repository = self.repository();
        if self.below(2) == 0 {
            let tag = self.any_tag().parse().unwrap();
            let repository = name(repository);
            let gone = manifests::delete_tag(&self.node, &repository, &tag, (None, None)).await;
            assert!(matches!(gone, Ok(()) | Err(Fault::Unknown(_))));
        } else if let Some((digest, _)) = self.manifest(repository).await {
            let gone = manifests::delete(&self.node, &name(repository), &digest, None).await;
            assert!(matches!(gone, Ok(()) | Err(Fault::Unknown(_))), "{gone:?}");
        }
    }

    async fn pull(&mut self) {
        let repository = self.repository();
        let asked = Instant::now();
        let Some((_, body)) = self.manifest(repository).await else { return };
        let manifest: serde_json::Value = serde_json::from_str(&body).unwrap();
        let named =
            std::iter::once(&manifest["config"]).chain(manifest["layers"].as_array().unwrap());
        for blob in named {
            let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            let found = blobs::find(&self.node, &name(repository), &digest).await;
            // The tag may have moved since; what it named has a lease then.
            if asked.elapsed() >= LEASE / 2 {
                return;
            }
            let found = found.unwrap();
            let stored = self.node.store.read(&found.key).unwrap();
            let pieces = stored.part(0..found.size_bytes).await.unwrap();
            let content: Vec<_> = pieces.try_collect().await.unwrap();
            assert_eq!(Digest::of(&content.concat()), digest);
        }
        self.counts.pulled.fetch_add(1, Ordering::SeqCst);
    }
}
