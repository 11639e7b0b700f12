//! Images that go to another registry, and come from it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use davit_image::Digest;
use davit_registry::{
    events::{
        AddSubscription, EventKind, RemoveSubscription, Subscription, SubscriptionKind, fan_out,
        subscriptions,
    },
    jobs, lists, manifests,
    registry::Registry,
    replication::{self, Direction, Report, RuleSettings, run_one, schedule},
};
use davit_test::Access;

use crate::{
    bench::{Bench, image, index, name, on_each, runtime},
    fixture::{TestRegistry, bytes},
};

/// A registry for each pair of database and store that a test runs on; each has a runtime of its own, which must
/// not end within the test's.
struct Registries {
    all: Vec<TestRegistry>,
    taken: AtomicUsize,
}

impl Registries {
    fn start() -> Self {
        Self { all: (0..4).map(|_| TestRegistry::start()).collect(), taken: AtomicUsize::new(0) }
    }

    fn next(&self) -> &TestRegistry {
        &self.all[self.taken.fetch_add(1, Ordering::SeqCst)]
    }
}

fn rule(direction: Direction, registry: &str, glob: &str) -> AddSubscription {
    let settings = RuleSettings {
        direction,
        registry: registry.to_owned(),
        prefix: "copy".to_owned(),
        insecure: false,
        account: None,
        every_seconds: None,
        deletions: false,
        bytes_per_second: None,
    };
    AddSubscription {
        name: "rule".to_owned(),
        kind: SubscriptionKind::Replication,
        repositories: glob.parse().unwrap(),
        tags: "v*".parse().unwrap(),
        events: match direction {
            Direction::Push => vec![EventKind::Push],
            Direction::Pull => Vec::new(),
        },
        settings: settings.to_json(),
        first_run_ms: None,
    }
}

/// Sets what [`rule`] does not.
fn set(rule: &mut AddSubscription, name: &str, value: serde_json::Value) {
    let mut settings: serde_json::Value = serde_json::from_str(rule.settings.expose()).unwrap();
    settings[name] = value;
    rule.settings = settings.to_string().into();
}

/// Hands events on and does all jobs that are due; what came of each.
async fn work(registry: &Registry) -> Vec<Report> {
    fan_out(&registry.database).await.unwrap();
    let mut reports = Vec::new();
    while let Some(report) = run_one(registry).await.unwrap() {
        reports.push(report);
    }
    reports
}

async fn the_rule(bench: &Bench) -> Subscription {
    let kind = SubscriptionKind::Replication;
    subscriptions(&bench.registry.database, kind).await.unwrap().remove(0)
}

fn counts(reports: &[Report]) -> Vec<(u64, u64, u64)> {
    reports.iter().map(|report| (report.copied, report.same, report.failed)).collect()
}

#[test]
fn pushed_images_go_on() {
    let targets = Registries::start();
    on_each(async |bench| {
        let target = targets.next();
        let add = rule(Direction::Push, &target.host(), "alice/*");
        bench.registry.database.write(add).await.unwrap();
        for tag in ["v1", "v2", "v1", "latest"] {
            bench.push_image("alice/app", &[tag], "one").await;
        }
        bench.push_image("bob/app", &["v1"], "one").await;
        let reports = work(&bench.registry).await;
        assert_eq!(counts(&reports), [(1, 0, 0), (1, 0, 0)], "{reports:?}");
        assert!(reports[0].sent_bytes > 0 && reports[1].sent_bytes == 0, "{reports:?}");
        let get = |target: &TestRegistry, path: &str| target.get(path).status;
        assert_eq!(get(target, "/v2/copy/alice/app/manifests/v1"), 200);
        assert_eq!(get(target, "/v2/copy/alice/app/manifests/v2"), 200);
        assert_eq!(get(target, "/v2/copy/alice/app/manifests/latest"), 404, "of no rule");
        assert_eq!(get(target, "/v2/copy/bob/app/manifests/v1"), 404, "of no rule");
        // What lies in another repository there is mounted.
        bench.push_image("alice/other", &["v1"], "one").await;
        let reports = work(&bench.registry).await;
        assert_eq!((reports.len(), reports[0].copied, reports[0].sent_bytes), (1, 1, 0));
        // An index with its images, and what refers to it.
        let top = index(&[&image("one", None)]);
        bench.put("alice/app", &["v3"], top.clone()).await.unwrap();
        let referrer = image("one", Some(&top));
        let referrer = bench.put("alice/app", &[], referrer).await.unwrap();
        let reports = work(&bench.registry).await;
        assert!(reports.iter().all(|report| report.failed == 0), "{reports:?}");
        assert_eq!(target.get("/v2/copy/alice/app/manifests/v3").body, top.as_bytes());
        let path = format!("/v2/copy/alice/app/referrers/{}", Digest::of(top.as_bytes()));
        let list = target.get(&path).json();
        assert_eq!(list["manifests"][0]["digest"], referrer.to_string());
        replication::request(&bench.registry.database, "rule").await.unwrap();
        let reports = work(&bench.registry).await;
        assert_eq!(counts(&reports), [(0, 4, 0)], "all that it means, and all is there");
        let rule = the_rule(bench).await;
        assert!(rule.result.unwrap().contains("4 there already"));
    });
}

#[test]
fn the_docker_registry_takes_what_is_pushed() {
    let Some(target) = davit_test::Registry::start(Access::Open) else { return };
    let bench_target = target.host();
    on_each(async |bench| {
        let add = rule(Direction::Push, &bench_target, "alice/*");
        bench.registry.database.write(add).await.unwrap();
        bench.push_image("alice/app", &[], "one").await;
        bench.put("alice/app", &["v1"], index(&[&image("one", None)])).await.unwrap();
        let reports = work(&bench.registry).await;
        let copied: u64 = reports.iter().map(|report| report.copied + report.same).sum();
        assert_eq!(copied, 1, "{reports:?}");
        assert!(reports.iter().all(|report| report.failed == 0), "{reports:?}");
    });
    assert!(target.storage().join("docker/registry/v2/repositories/copy/alice/app").exists());
}

/// A process that dies leaves its job to the next; what fails is tried again.
#[test]
fn jobs_outlive_those_who_do_them() {
    let targets = Registries::start();
    on_each(async |bench| {
        let target = targets.next();
        let add = rule(Direction::Push, &target.host(), "alice/*");
        bench.registry.database.write(add).await.unwrap();
        for _ in 0..3 {
            bench.push_image("alice/app", &["v1"], "one").await;
        }
        fan_out(&bench.registry.database).await.unwrap();
        let lease = Duration::from_secs(60);
        let database = &bench.registry.database;
        let taken = jobs::claim(database, "replicate", lease).await.unwrap().unwrap();
        let other = bench.node().await;
        assert!(run_one(&other).await.unwrap().is_none(), "somebody has it");
        bench.pass(lease);
        other.database.advance_clock(lease + Duration::from_secs(1));
        let report = run_one(&other).await.unwrap().unwrap();
        assert_eq!(report.copied, 1, "{report:?}");
        let mut late = taken;
        assert!(!jobs::renew(database, &mut late, lease).await.unwrap(), "it was lost");

        // Port 1 is nobody's.
        let mut dead = rule(Direction::Push, "127.0.0.1:1", "alice/*");
        dead.name = "dead".to_owned();
        let remove = RemoveSubscription { kind: dead.kind, name: "rule".to_owned() };
        database.write(remove).await.unwrap();
        database.write(dead).await.unwrap();
        bench.push_image("alice/app", &["v2"], "two").await;
        let reports = work(&bench.registry).await;
        assert_eq!(counts(&reports), [(0, 0, 1)], "{reports:?}");
        assert!(the_rule(bench).await.failing_since.is_some());
        assert!(run_one(&bench.registry).await.unwrap().is_none(), "it is not due");
        let again = bench.ask("SELECT attempts FROM job WHERE state = 'waiting'", vec![]).await;
        assert_eq!(again, [1]);
    });
}

#[test]
fn images_come_by_the_clock() {
    let sources = Registries::start();
    for source in &sources.all {
        for name in ["team/a", "team/b", "other/a"] {
            source.push_blob(name, b"{}");
            source.push_blob(name, b"one");
            let manifest = crate::fixture::image(b"{}", &[b"one"]);
            for tag in ["v1", "v2", "latest"] {
                assert_eq!(source.push_manifest(name, tag, &manifest).status, 201);
            }
        }
    }
    let manifest = bytes(&crate::fixture::image(b"{}", &[b"one"]));
    on_each(async |bench| {
        let source = sources.next();
        let mut add = rule(Direction::Pull, &source.host(), "team/*");
        add.first_run_ms = Some(0);
        set(&mut add, "every_seconds", 3600.into());
        let database = &bench.registry.database;
        database.write(add).await.unwrap();
        let other = bench.node().await;
        bench.pass(Duration::ZERO);
        other.database.advance_clock(Duration::from_secs(1));
        for database in [database, &other.database, database] {
            schedule(database).await.unwrap();
        }
        let reports = work(&bench.registry).await;
        assert_eq!(counts(&reports), [(4, 0, 0)], "{reports:?}");
        assert_eq!(reports[0].sent_bytes, 5, "each blob crossed the network once");
        let digest = Digest::of(&manifest);
        assert!(bench.has_manifest("copy/team/a", &digest).await);
        assert!(!bench.has_manifest("copy/other/a", &digest).await);
        schedule(database).await.unwrap();
        assert!(work(&bench.registry).await.is_empty(), "it is not due");
        bench.pass(Duration::from_secs(3600));
        schedule(database).await.unwrap();
        let reports = work(&bench.registry).await;
        assert_eq!(counts(&reports), [(0, 4, 0)], "{reports:?}");
    });
}

/// A rule that takes deletions along.
fn rule_with_deletions(direction: Direction, registry: &str, glob: &str) -> AddSubscription {
    let mut add = rule(direction, registry, glob);
    set(&mut add, "deletions", true.into());
    if direction == Direction::Push {
        add.events.extend([EventKind::TagDelete, EventKind::Delete]);
    }
    add
}

async fn delete_tag(bench: &Bench, repository: &str, tag: &str) {
    let (repository, tag) = (name(repository), tag.parse().unwrap());
    manifests::delete_tag(&bench.registry, &repository, &tag, (None, None)).await.unwrap();
}

#[test]
fn deletions_go_on_where_a_rule_says_so() {
    let targets = Registries::start();
    on_each(async |bench| {
        let target = targets.next();
        let tags = |repository: &str| {
            target.get(&format!("/v2/copy/{repository}/tags/list")).json()["tags"].clone()
        };
        let database = &bench.registry.database;
        database
            .write(rule_with_deletions(Direction::Push, &target.host(), "alice/*"))
            .await
            .unwrap();
        let mut without = rule(Direction::Push, &target.host(), "bob/*");
        without.name = "without".to_owned();
        database.write(without).await.unwrap();
        let mut whole = rule_with_deletions(Direction::Push, &target.host(), "carol/*");
        (whole.name, whole.tags) = ("whole".to_owned(), "*".parse().unwrap());
        database.write(whole).await.unwrap();
        for repository in ["alice/app", "bob/app", "carol/app"] {
            bench.push_image(repository, &["v1"], "one").await;
            bench.push_image(repository, &["v2"], "two").await;
        }
        let one = Digest::of(image("one", None).as_bytes());
        work(&bench.registry).await;
        // Somebody else's, which the first rule does not mean.
        let same = serde_json::from_str(&image("one", None)).unwrap();
        assert_eq!(target.push_manifest("copy/alice/app", "other", &same).status, 201);
        for repository in ["alice/app", "bob/app"] {
            delete_tag(bench, repository, "v1").await;
        }
        let reports = work(&bench.registry).await;
        assert_eq!(reports.iter().map(|report| report.deleted).collect::<Vec<_>>(), [1]);
        assert!(reports.iter().all(|report| report.failed == 0), "{reports:?}");
        assert_eq!(tags("alice/app"), serde_json::json!(["other", "v2"]));
        assert_eq!(tags("bob/app"), serde_json::json!(["v1", "v2"]), "its rule does not say so");
        // A manifest takes its tags along, and goes itself where a rule means every tag.
        for repository in ["alice/app", "carol/app"] {
            bench.push_image(repository, &["v3"], "one").await;
            work(&bench.registry).await;
            manifests::delete(&bench.registry, &name(repository), &one, None).await.unwrap();
        }
        let reports = work(&bench.registry).await;
        assert!(reports.iter().all(|report| report.failed == 0), "{reports:?}");
        assert_eq!(
            tags("alice/app"),
            serde_json::json!(["other", "v2"]),
            "another rule's tag stays"
        );
        assert_eq!(tags("carol/app"), serde_json::json!(["v2"]));
        let gone = target.get(&format!("/v2/copy/carol/app/manifests/{one}"));
        assert_eq!(gone.status, 404);
        // What was deleted and pushed again before anybody came to it is there.
        delete_tag(bench, "alice/app", "v2").await;
        bench.push_image("alice/app", &["v2"], "two").await;
        let reports = work(&bench.registry).await;
        assert!(reports.iter().all(|report| (report.failed, report.deleted) == (0, 0)));
        assert_eq!(tags("alice/app"), serde_json::json!(["other", "v2"]));
    });
}

#[test]
fn what_has_gone_elsewhere_goes_here_where_a_rule_says_so() {
    let sources = Registries::start();
    let manifest = crate::fixture::image(b"{}", &[b"one"]);
    for source in &sources.all {
        source.push_blob("team/a", b"{}");
        source.push_blob("team/a", b"one");
        for tag in ["v1", "v2", "latest"] {
            assert_eq!(source.push_manifest("team/a", tag, &manifest).status, 201);
        }
    }
    on_each(async |bench| {
        let source = sources.next();
        let database = &bench.registry.database;
        let mut with = rule_with_deletions(Direction::Pull, &source.host(), "team/a");
        with.name = "with".to_owned();
        database.write(with).await.unwrap();
        let mut without = rule(Direction::Pull, &source.host(), "team/a");
        set(&mut without, "prefix", "kept".into());
        database.write(without).await.unwrap();
        let all = async || {
            for rule in ["with", "rule"] {
                replication::request(database, rule).await.unwrap();
            }
            let reports = work(&bench.registry).await;
            assert!(reports.iter().all(|report| report.failed == 0), "{reports:?}");
            reports.iter().map(|report| report.deleted).sum::<u64>()
        };
        let tags = async |repository: &str| {
            lists::tags(&bench.registry, &name(repository), "", 10).await.unwrap().entries
        };
        assert_eq!(all().await, 0);
        bench.push_image("copy/team/a", &["own", "v9"], "mine").await;
        assert_eq!(source.send("DELETE", "/v2/team/a/manifests/v1", &[], b"").status, 202);
        assert_eq!(all().await, 2, "v1, and v9 that is only here");
        assert_eq!(tags("copy/team/a").await, ["own", "v2"], "`own` is not meant");
        assert_eq!(tags("kept/team/a").await, ["v1", "v2"]);
        assert_eq!(all().await, 0);
        // A repository that is not there, or not shown, takes nothing along.
        let digest = Digest::of(&bytes(&manifest));
        let path = format!("/v2/team/a/manifests/{digest}");
        assert_eq!(source.send("DELETE", &path, &[], b"").status, 202);
        assert_eq!(all().await, 1, "its last tag");
    });
}

#[test]
fn a_rule_takes_no_more_of_the_network_than_it_may() {
    let target = TestRegistry::start();
    let source = TestRegistry::start();
    let layer = davit_test::noise(160 << 10);
    source.push_blob("team/a", b"{}");
    source.push_blob("team/a", &layer);
    let manifest = crate::fixture::image(b"{}", &[&layer]);
    assert_eq!(source.push_manifest("team/a", "v1", &manifest).status, 201);
    runtime().block_on(async {
        let bench = Bench::new(None, crate::bench::SETTINGS).await;
        let database = &bench.registry.database;
        for (name, direction, host, glob) in [
            ("in", Direction::Pull, source.host(), "team/a"),
            ("out", Direction::Push, target.host(), "copy/team/*"),
        ] {
            let mut add = rule(direction, &host, glob);
            add.name = name.to_owned();
            set(&mut add, "bytes_per_second", (64 << 10).into());
            database.write(add).await.unwrap();
        }
        for name in ["in", "out"] {
            let begun = Instant::now();
            replication::request(database, name).await.unwrap();
            // What was pulled is pushed on as an event, too.
            while let Some(report) = run_one(&bench.registry).await.unwrap() {
                assert_eq!((report.copied, report.failed), (1, 0), "{report:?}");
            }
            // After what crosses at once, 64 KiB a second: it cannot be quicker, however slow the machine.
            assert!(begun.elapsed() >= Duration::from_millis(1400), "{:?}", begun.elapsed());
        }
    });
    let there = target.get("/v2/copy/copy/team/a/manifests/v1");
    assert_eq!(there.body, bytes(&manifest));
}
