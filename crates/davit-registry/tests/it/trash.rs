//! What was deleted and is had back, and what is known of pulls.

use davit_image::Digest;
use davit_registry::{
    auth::audit::Actor,
    check::Repair,
    fault::Fault,
    gc::GcReport,
    lists, manifests,
    trash::{self, DeleteRepository, Keep, RestoreRepository},
};

use crate::{
    bench::{Bench, LEASE, TRASH, UNDO, image, index, name, on_each},
    fixture::TestRegistry,
};

async fn delete(bench: &Bench, repository: &str, keep: Keep) -> Result<(), Fault> {
    let delete = DeleteRepository { by: Actor::operator(), name: name(repository), keep };
    bench.registry.database.write(delete).await
}

async fn restore(bench: &Bench, repository: &str, to: &str) -> Result<(), Fault> {
    let restore = RestoreRepository { by: Actor::operator(), name: name(repository), to: name(to) };
    bench.registry.database.write(restore).await
}

async fn tags(bench: &Bench, repository: &str) -> Vec<String> {
    let page = lists::tags(&bench.registry, &name(repository), "", 100).await;
    page.map(|page| page.entries).unwrap_or_default()
}

#[test]
fn a_deleted_repository_comes_back_whole() {
    on_each(async |bench| {
        let digest = bench.push_image("a/b", &["t"], "one").await;
        delete(bench, "a/b", Keep::Usual).await.unwrap();
        assert!(!bench.has_blob("a/b", &Digest::of(b"one")).await);
        assert!(!bench.has_manifest("a/b", &digest).await);
        let again = delete(bench, "a/b", Keep::Usual).await;
        assert!(matches!(again, Err(Fault::Unknown(_))));
        bench.pass(UNDO / 2);
        bench.collect().await;
        // The name is free meanwhile.
        let other = bench.push_image("a/b", &["u"], "two").await;
        let taken = restore(bench, "a/b", "a/b").await;
        assert!(matches!(taken, Err(Fault::Unsupported(_))));
        let foreign = restore(bench, "a/b", "c/b").await;
        assert!(matches!(foreign, Err(Fault::Unsupported(_))));
        restore(bench, "a/b", "a/old").await.unwrap();
        assert_eq!(tags(bench, "a/old").await, ["t"]);
        assert!(bench.has_manifest("a/old", &digest).await);
        assert!(bench.has_blob("a/old", &Digest::of(b"one")).await);
        assert!(bench.has_manifest("a/b", &other).await);
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

#[test]
fn what_nobody_wants_back_goes_at_last() {
    on_each(async |bench| {
        let sql = "INSERT INTO account (name, kind, created_at) VALUES ('alice', 'user', 0)";
        bench.tell(sql, Vec::new()).await;
        // More rows than one transaction takes.
        for number in 0..210 {
            bench.push_blob("alice/b", format!("blob {number}").as_bytes()).await;
        }
        let one = image("one", None);
        bench.push_image("alice/b", &["t"], "one").await;
        bench.put("alice/b", &["all"], index(&[&one])).await.unwrap();
        delete(bench, "alice/b", Keep::Usual).await.unwrap();
        bench.push_image("alice/c", &["t"], "one").await;
        delete(bench, "alice/c", Keep::Nothing).await.unwrap();
        assert_eq!(bench.collect().await.repositories, 1, "the one that nobody keeps");
        assert!(matches!(restore(bench, "alice/c", "alice/c").await, Err(Fault::Unknown(_))));
        bench.pass(UNDO);
        assert_eq!(bench.collect().await.repositories, 1);
        assert!(matches!(restore(bench, "alice/b", "alice/b").await, Err(Fault::Unknown(_))));
        assert_eq!(bench.ask("SELECT used_bytes FROM account", Vec::new()).await, [0]);
        bench.pass(TRASH);
        bench.collect().await;
        assert_eq!(bench.objects().len(), 0);
        for table in ["SELECT 1 FROM repo", "SELECT 1 FROM tag_event", "SELECT 1 FROM gc_queue"] {
            let rows = bench.ask(table, Vec::new()).await;
            assert!(rows.is_empty(), "{table}");
        }
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

#[test]
fn a_deleted_manifest_comes_back_with_its_tags() {
    on_each(async |bench| {
        let digest = bench.push_image("a/b", &["t", "u", "v"], "one").await;
        let repository = name("a/b");
        let node = &bench.registry;
        manifests::delete(node, &repository, &digest, None).await.unwrap();
        bench.push_image("a/b", &["u"], "two").await;
        // Longer than a lease: its blobs are kept for as long as it can be had back.
        bench.pass(UNDO - LEASE);
        for _ in 0..2 {
            bench.collect().await;
        }
        let listed = trash::deleted(&node.database).await.unwrap();
        let listed: Vec<_> = listed.into_iter().map(|one| (one.repository, one.digest)).collect();
        assert_eq!(listed, [("a/b".to_owned(), Some(digest))]);
        let back = trash::restore_manifest(node, &repository, &digest, None).await.unwrap();
        let back: Vec<_> = back.iter().map(ToString::to_string).collect();
        assert_eq!(back, ["t", "v"], "u is another image's now");
        assert_eq!(tags(bench, "a/b").await, ["t", "u", "v"]);
        assert_eq!(trash::deleted(&node.database).await.unwrap(), []);
        assert_eq!(bench.check(Repair::No).await, []);

        manifests::delete(node, &repository, &digest, None).await.unwrap();
        bench.pass(UNDO);
        let report = bench.collect().await;
        assert_eq!(report, GcReport { links: 1, blobs: 1, blob_bytes: 3, ..GcReport::default() });
        let gone = trash::restore_manifest(node, &repository, &digest, None).await;
        assert!(matches!(gone, Err(Fault::Unknown(_))));
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

/// Case 10: a repository is deleted during a push.
#[test]
fn a_push_into_a_deleted_repository_ends_cleanly() {
    let server = TestRegistry::start();
    let session = server.begin("a/b", "");
    let part = server.send("PATCH", &session, &[], b"half");
    assert_eq!(part.status, 202);
    let delete = DeleteRepository { by: Actor::operator(), name: name("a/b"), keep: Keep::Usual };
    server.run(server.registry().database.write(delete)).unwrap();
    let digest = Digest::of(b"half");
    let end = server.send("PUT", &format!("{session}?digest={digest}"), &[], b"");
    assert_eq!(end.error(), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    let blob = format!("/v2/a/b/blobs/{digest}");
    assert_eq!(server.send("HEAD", &blob, &[], b"").status, 404);
    server.push_blob("a/b", b"half");
    assert_eq!(server.send("HEAD", &blob, &[], b"").status, 200);
}

#[test]
fn pulls_are_written_together_and_keep_a_tag() {
    on_each(async |bench| {
        let old = bench.push_image("a/b", &["old"], "one").await;
        bench.push_image("a/b", &["unused"], "two").await;
        let rules = r#"{"retention":[{"tags":".*","pulled_within_days":30}]}"#;
        bench.tell("UPDATE repo SET settings = $1", vec![rules.into()]).await;
        let node = &bench.registry;
        for _ in 0..3 {
            node.pulls.note(&name("a/b"), &old);
        }
        node.pulls.note(&name("a/gone"), &old);
        assert_eq!(node.pulls.waiting(), 2);
        node.pulls.write(&node.database).await.unwrap();
        assert_eq!(node.pulls.waiting(), 0);
        let pulled = "SELECT pulled_at FROM manifest WHERE pulled_at IS NOT NULL";
        let first = bench.ask(pulled, Vec::new()).await;
        assert_eq!(first.len(), 1);
        node.pulls.note(&name("a/b"), &old);
        node.pulls.write(&node.database).await.unwrap();
        assert_eq!(bench.ask(pulled, Vec::new()).await, first, "within a minute it is not written");
        bench.pass(LEASE);
        node.pulls.note(&name("a/b"), &old);
        node.pulls.write(&node.database).await.unwrap();
        assert!(bench.ask(pulled, Vec::new()).await > first);
        assert_eq!(bench.collect().await.tags, 1, "what nobody pulled goes");
        assert_eq!(tags(bench, "a/b").await, ["old"]);
    });
}

#[test]
fn a_server_notes_what_is_pulled_and_writes_it_at_its_end() {
    let server = TestRegistry::start();
    server.push_blob("a/b", b"{}");
    server.push_blob("a/b", b"layer");
    let body = image("layer", None);
    let kind = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
    assert_eq!(server.send("PUT", "/v2/a/b/manifests/t", &kind, body.as_bytes()).status, 201);
    assert_eq!(server.send("HEAD", "/v2/a/b/manifests/t", &[], b"").status, 200);
    assert_eq!(server.registry().pulls.waiting(), 0, "to ask is not to pull");
    assert_eq!(server.get("/v2/a/b/manifests/t").status, 200);
    assert_eq!(server.registry().pulls.waiting(), 1);
    let server = TestRegistry::at(server.stop(), davit_registry::config::Limits::default());
    let pulled = server.run(async {
        let registry = server.registry();
        let mut reader = registry.database.reader().await.unwrap();
        let sql = "SELECT COUNT(*) FROM manifest WHERE pulled_at IS NOT NULL";
        reader.row(sql, Vec::new()).await.unwrap().unwrap().get::<i64>(0).unwrap()
    });
    assert_eq!(pulled, 1);
}
