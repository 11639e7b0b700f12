//! What many clients do at one moment.

use davit_image::Digest;
use davit_registry::{check::Repair, fault::Fault, gc::GcReport, manifests};
use futures_util::future::join_all;

use crate::bench::{Bench, LEASE, TRASH, UNDO, image, name, on_each, to_put};

#[test]
fn many_push_one_digest() {
    on_each(async |bench| {
        let pushes = (0..50).map(|n| {
            let repository = if n % 2 == 0 { "a/b" } else { "c/d" };
            bench.push_blob(repository, b"same")
        });
        join_all(pushes).await;
        assert_eq!(bench.ask("SELECT size_bytes FROM blob", Vec::new()).await, [4]);
        bench.pass(TRASH);
        assert_eq!(
            bench.collect().await,
            GcReport { links: 2, blobs: 1, blob_bytes: 4, objects: 49, ..GcReport::default() }
        );
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

#[test]
fn one_hundred_move_one_tag() {
    on_each(async |bench| {
        let bodies = bodies(bench).await;
        let node = bench.node().await;
        let puts = bodies.iter().enumerate().map(|(number, body)| {
            let node = if number % 2 == 0 { &bench.registry } else { &node };
            manifests::put(node, to_put("a/b", &["t"], body.clone()))
        });
        for outcome in join_all(puts).await {
            outcome.unwrap();
        }
        let history = "SELECT CAST(CASE WHEN e.old_digest = p.new_digest \
             OR (e.old_digest IS NULL AND p.id IS NULL) THEN 1 ELSE 0 END AS BIGINT) \
             FROM tag_event e LEFT JOIN tag_event p ON p.id = \
             (SELECT MAX(id) FROM tag_event WHERE id < e.id) ORDER BY e.id";
        let each_follows = bench.ask(history, Vec::new()).await;
        assert_eq!(each_follows, vec![1; 100], "the history is whole and in order");
        let last = "SELECT CAST(COUNT(*) AS BIGINT) FROM tag t JOIN manifest m ON m.id = t.manifest_id \
             JOIN tag_event e ON e.new_digest = m.digest WHERE e.id = (SELECT MAX(id) FROM tag_event)";
        assert_eq!(bench.ask(last, Vec::new()).await, [1], "the last one wins");
    });
}

#[test]
fn an_immutable_tag_has_one_winner() {
    on_each(async |bench| {
        let bodies = bodies(bench).await;
        let rules = r#"{"immutable_tags":["v.*"]}"#;
        bench.tell("UPDATE repo SET settings = $1", vec![rules.into()]).await;
        let node = bench.node().await;
        let puts = bodies.iter().enumerate().map(|(number, body)| {
            let node = if number % 2 == 0 { &bench.registry } else { &node };
            manifests::put(node, to_put("a/b", &["v1"], body.clone()))
        });
        let outcomes = join_all(puts).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        let denied = |outcome: &&Result<Digest, Fault>| matches!(outcome, Err(Fault::Denied(_)));
        assert_eq!(outcomes.iter().filter(denied).count(), 99);
        let winner = outcomes.into_iter().find_map(Result::ok).unwrap();
        let (repository, tag) = (name("a/b"), "v1".parse().unwrap());
        let gone = manifests::delete_tag(&bench.registry, &repository, &tag, (None, None)).await;
        assert!(matches!(gone, Err(Fault::Denied(_))));
        let gone = manifests::delete(&bench.registry, &repository, &winner, None).await;
        assert!(matches!(gone, Err(Fault::Denied(_))));
    });
}

#[test]
fn a_move_of_a_tag_can_be_taken_back() {
    on_each(async |bench| {
        let one = bench.push_image("a/b", &["t"], "one").await;
        let two = bench.push_image("a/b", &["t"], "two").await;
        bench.pass(UNDO / 2);
        bench.collect().await;
        let (repository, tag) = (name("a/b"), "t".parse().unwrap());
        let undo = async || manifests::undo(&bench.registry, &repository, &tag, None).await;
        assert_eq!(undo().await.unwrap(), Some(one));
        assert_eq!(undo().await.unwrap(), Some(two));
        manifests::delete_tag(&bench.registry, &repository, &tag, (None, None)).await.unwrap();
        assert_eq!(undo().await.unwrap(), Some(two));
        let moves = manifests::history(&bench.registry, &repository, &tag, 10).await.unwrap();
        let moves: Vec<_> = moves.into_iter().map(|one| (one.old, one.new)).collect();
        let expected = [
            (None, Some(two)),
            (Some(two), None),
            (Some(one), Some(two)),
            (Some(two), Some(one)),
            (Some(one), Some(two)),
            (None, Some(one)),
        ];
        assert_eq!(moves, expected);
        bench.push_image("a/b", &["t"], "three").await;
        for _ in 0..2 {
            bench.pass(UNDO + LEASE);
            bench.collect().await;
        }
        assert!(matches!(undo().await, Err(Fault::Unsupported(_))), "it was collected");
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

/// One hundred images that differ, with all blobs pushed.
async fn bodies(bench: &Bench) -> Vec<String> {
    bench.push_blob("a/b", b"{}").await;
    bench.push_blob("a/b", b"layer").await;
    let plain = image("layer", None);
    let other = |n| plain.replacen('{', &format!(r#"{{"annotations":{{"n":"{n}"}},"#), 1);
    (0..100).map(other).collect()
}

#[test]
fn a_quota_is_never_exceeded() {
    on_each(async |bench| {
        bench
            .tell("INSERT INTO account (name, kind, quota_bytes, created_at) VALUES ('alice', 'user', 10, 0)", Vec::new())
            .await;
        let contents: Vec<String> = (0..8).map(|n| format!("{n}{n}{n}")).collect();
        let pushes =
            contents.iter().map(|content| bench.try_push_blob("alice/a", content.as_bytes()));
        let outcomes = join_all(pushes).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 3);
        let used = "SELECT used_bytes FROM account WHERE name = 'alice'";
        assert_eq!(bench.ask(used, Vec::new()).await, [9]);
        // The same blob in another repository of the account costs nothing.
        let kept = contents.iter().zip(&outcomes).find(|(_, outcome)| outcome.is_ok()).unwrap().0;
        bench.push_blob("alice/b", kept.as_bytes()).await;
        assert_eq!(bench.ask(used, Vec::new()).await, [9]);
        assert_eq!(bench.check(Repair::No).await, []);
        bench.pass(LEASE);
        bench.collect().await;
        assert_eq!(bench.ask(used, Vec::new()).await, [0]);
        assert_eq!(bench.check(Repair::No).await, []);
    });
}
