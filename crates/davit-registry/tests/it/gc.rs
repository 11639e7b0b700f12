//! Garbage collection, retention and the check, on every pair of database and store.

use std::time::Duration;

use davit_image::Digest;
use davit_registry::{
    check::{Finding, Repair},
    gc::{self, GcReport, Mode},
    manifests, uploads,
};

use crate::bench::{Bench, LEASE, ORPHAN, REFERRERS, TRASH, UNDO, image, index, name, on_each};

async fn clean(bench: &Bench) {
    assert_eq!(bench.check(Repair::No).await, []);
}

#[test]
fn what_a_tag_holds_stays_for_ever() {
    on_each(async |bench| {
        let old = bench.push_image("a/b", &["latest"], "layer").await;
        let child = image("other", None);
        bench.push_blob("a/b", b"other").await;
        let child_digest = bench.put("a/b", &[], child.clone()).await.unwrap();
        bench.put("a/b", &["both"], index(&[&child])).await.unwrap();
        for _ in 0..3 {
            bench.pass(10 * ORPHAN);
            assert_eq!(bench.collect().await, GcReport::default());
        }
        assert!(bench.has_manifest("a/b", &old).await);
        assert!(bench.has_manifest("a/b", &child_digest).await);
        assert_eq!(bench.objects().len(), 3);
        clean(bench).await;
    });
}

#[test]
fn what_nothing_holds_goes_step_by_step() {
    on_each(async |bench| {
        let old = bench.push_image("a/b", &["latest"], "old").await;
        bench.push_image("a/b", &["latest"], "new").await;
        bench.pass(LEASE);
        assert_eq!(bench.collect().await, GcReport::default(), "the move can be undone");
        bench.pass(UNDO);
        assert_eq!(bench.collect().await, GcReport { manifests: 1, ..GcReport::default() });
        assert!(!bench.has_manifest("a/b", &old).await);
        assert!(bench.has_blob("a/b", &Digest::of(b"old")).await, "its layers have a lease");
        bench.pass(LEASE);
        let expected = GcReport { links: 1, blobs: 1, blob_bytes: 3, ..GcReport::default() };
        assert_eq!(bench.collect().await, expected);
        assert!(!bench.has_blob("a/b", &Digest::of(b"old")).await);
        assert_eq!(bench.objects().len(), 3, "its bytes are in the trash");
        clean(bench).await;
        bench.pass(TRASH);
        assert_eq!(bench.collect().await, GcReport { objects: 1, ..GcReport::default() });
        assert_eq!(bench.objects().len(), 2);
        clean(bench).await;
    });
}

#[test]
fn what_a_client_was_told_holds() {
    on_each(async |bench| {
        let blob = bench.push_blob("a/b", b"old").await;
        let most = LEASE * 3 / 4;
        for _ in 0..4 {
            bench.pass(most);
            bench.collect().await;
            assert!(bench.has_blob("a/b", &blob).await, "HEAD renews the lease");
        }
        bench.push_blob("a/b", b"{}").await;
        let manifest = bench.put("a/b", &["t"], image("old", None)).await.unwrap();
        bench.pass(10 * LEASE);
        // Referenced, so HEAD writes nothing; then the reference goes.
        assert!(bench.has_blob("a/b", &blob).await);
        manifests::delete(&bench.registry, &name("a/b"), &manifest, None).await.unwrap();
        bench.collect().await;
        bench.pass(most);
        bench.collect().await;
        bench.put("a/b", &["t"], image("old", None)).await.unwrap();
        clean(bench).await;
    });
}

#[test]
fn referrers_go_after_their_subject() {
    on_each(async |bench| {
        let subject = image("subject", None);
        bench.push_image("a/b", &["t"], "subject").await;
        bench.push_blob("a/b", b"sbom").await;
        let referrer = bench.put("a/b", &[], image("sbom", Some(&subject))).await.unwrap();
        bench.pass(10 * REFERRERS);
        bench.collect().await;
        assert!(bench.has_manifest("a/b", &referrer).await);
        let digest = Digest::of(subject.as_bytes());
        manifests::delete(&bench.registry, &name("a/b"), &digest, None).await.unwrap();
        bench.pass(LEASE);
        bench.collect().await;
        bench.pass(REFERRERS);
        bench.collect().await;
        assert!(!bench.has_manifest("a/b", &referrer).await);
        bench.pass(LEASE);
        bench.collect().await;
        bench.pass(TRASH);
        bench.collect().await;
        assert!(bench.objects().is_empty());
        clean(bench).await;
    });
}

#[test]
fn the_scan_finds_orphans_and_lost_objects() {
    on_each(async |bench| {
        bench.push_image("a/b", &["t"], "layer").await;
        let there = bench.objects();
        // A crash between the object and its row.
        let mut incoming = bench
            .registry
            .store
            .receive(davit_image::Digester::new(davit_image::Algorithm::Sha256));
        incoming.write(b"orphan".as_slice().into()).await.unwrap();
        let received = incoming.finish().await.unwrap();
        bench.registry.store.publish(received, Digest::of(b"orphan")).await.unwrap();
        assert_eq!(bench.collect().await.orphans, 0, "it is young");
        bench.pass(ORPHAN);
        assert_eq!(bench.collect().await.orphans, 1);
        bench.pass(TRASH);
        assert_eq!(bench.collect().await.objects, 1);
        let mut left = bench.objects();
        left.sort();
        let mut expected = there.clone();
        expected.sort();
        assert_eq!(left, expected);

        let layer = Digest::of(b"layer");
        fs_err::remove_file(bench.object(&layer).await).unwrap();
        assert_eq!(bench.check(Repair::No).await, [Finding::Lost(layer)]);
        assert_eq!(bench.collect().await.lost, 1);
        assert_eq!(bench.check(Repair::No).await, [Finding::Suspect(layer)]);
        heal(bench, layer).await;
    });
}

async fn heal(bench: &Bench, layer: Digest) {
    assert!(!bench.has_blob("a/b", &layer).await, "clients are asked to push it again");
    bench.push_blob("a/b", b"layer").await;
    assert!(bench.has_blob("a/b", &layer).await);
    clean(bench).await;
    bench.pass(TRASH);
    bench.collect().await;
    clean(bench).await;
    assert_eq!(bench.objects().len(), 2);
}

#[test]
fn corrupt_bytes_are_found_and_healed_by_a_push() {
    on_each(async |bench| {
        bench.push_image("a/b", &["t"], "layer").await;
        let layer = Digest::of(b"layer");
        fs_err::write(bench.object(&layer).await, b"LAYER").unwrap();
        assert_eq!(bench.check(Repair::Yes).await, [Finding::Corrupt(layer)]);
        assert_eq!(bench.check(Repair::Yes).await, [Finding::Suspect(layer)]);
        heal(bench, layer).await;
    });
}

#[test]
fn expired_uploads_end() {
    on_each(async |bench| {
        let owner = uploads::Owner { name: name("a/b"), account: None };
        let algorithm = davit_image::Algorithm::Sha256;
        let session = uploads::begin(&bench.registry, &owner, algorithm).await.unwrap();
        let body = futures_util::stream::iter([Ok(b"part".as_slice().into())]);
        uploads::append(&bench.registry, &owner, session.id, None, body).await.unwrap();
        assert_eq!(bench.collect().await.uploads, 0);
        let files = bench.registry.store.sessions().await.unwrap().len();
        assert_eq!(files, usize::from(!bench.has_objects()), "few bytes wait in the row");
        bench.pass(Duration::from_secs(25 * 3600));
        assert_eq!(bench.collect().await.uploads, 1);
        assert!(bench.registry.store.sessions().await.unwrap().is_empty());
    });
}

#[test]
fn rules_remove_tags_and_a_dry_run_says_why() {
    on_each(async |bench| {
        for tag in ["pr-1", "pr-2", "v1"] {
            bench.push_image("a/b", &[tag], tag).await;
            bench.pass(Duration::ZERO);
        }
        let rules = r#"{"retention":[{"tags":"pr-.*","newest":1},{"tags":"v.*","newest":0}],
                        "immutable_tags":["v.*"]}"#;
        bench.tell("UPDATE repo SET settings = $1", vec![rules.into()]).await;
        let database = &bench.registry.database;
        let verdicts = gc::retention_verdicts(database).await.unwrap();
        let mut words: Vec<_> = verdicts
            .iter()
            .map(|one| {
                (one.verdict.tag.as_str(), one.verdict.kept.as_ref().map(ToString::to_string))
            })
            .collect();
        words.sort();
        let kept = |why: &str| Some(why.to_owned());
        let expected = [
            ("pr-1", None),
            ("pr-2", kept("number 1 of the newest 1 of `pr-.*`")),
            ("v1", kept("it is immutable")),
        ];
        assert_eq!(words, expected);
        let store = &bench.registry.store;
        for _ in 0..2 {
            let dry = gc::run_once(database, store, &bench.settings, Mode::DryRun).await.unwrap();
            assert_eq!(dry, GcReport { tags: 1, ..GcReport::default() });
        }
        assert_eq!(bench.collect().await, dry_and_done(1));
        assert_eq!(bench.collect().await, GcReport::default());
        bench.pass(UNDO);
        assert_eq!(bench.collect().await.manifests, 1);
        clean(bench).await;
    });
}

const fn dry_and_done(tags: u64) -> GcReport {
    GcReport {
        repositories: 0,
        tags,
        manifests: 0,
        links: 0,
        blobs: 0,
        blob_bytes: 0,
        objects: 0,
        orphans: 0,
        lost: 0,
        uploads: 0,
    }
}

#[test]
fn a_digest_is_explained() {
    on_each(async |bench| {
        let manifest = bench.push_image("a/b", &["t"], "layer").await;
        bench.push_blob("c/d", b"layer").await;
        let database = &bench.registry.database;
        let layer = Digest::of(b"layer");
        let mut lines = gc::explain(database, &bench.settings, &layer).await.unwrap();
        assert!(lines[0].starts_with("blob of 5 bytes, live, stored as blobs/"), "{lines:?}");
        if bench.has_objects() {
            // Names in an object store do not tell the digest.
            lines.insert(1, "in the trash, removed in".to_owned());
        }
        let copy = "in the trash, removed in";
        assert!(lines[1].starts_with(copy), "the second push left a copy: {lines:?}");
        assert_eq!(lines[2], format!("linked to a/b, used by {manifest}"));
        let leased = "linked to c/d, used by no manifest, removed in ";
        assert!(lines[3].starts_with(leased), "{lines:?}");
        let lines = gc::explain(database, &bench.settings, &manifest).await.unwrap();
        assert_eq!(lines, ["manifest of a/b, tagged t"]);
        bench.push_image("a/b", &["t"], "new").await;
        bench.pass(UNDO);
        let lines = gc::explain(database, &bench.settings, &manifest).await.unwrap();
        assert_eq!(lines, ["manifest of a/b, held by nothing, removed by the next run"]);
        let unknown = gc::explain(database, &bench.settings, &Digest::of(b"?")).await.unwrap();
        assert!(unknown.is_empty());
    });
}
