//! Upload sessions that several nodes work on.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use davit_image::{Algorithm, Digest};
use davit_registry::{
    blobs,
    check::Repair,
    fault::Fault,
    registry::Registry,
    uploads::{self, Owner, Session},
};
use davit_test::TempDir;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future::join, stream};
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::{
    bench::{Bench, LEASE, ORPHAN, SETTINGS, name, on_each, on_shared, read_places},
    failures::{say, start},
};

type Piece = Result<Bytes, Fault>;

fn owner() -> Owner {
    Owner { name: name("a/b"), account: None }
}

fn body(content: &[u8]) -> impl Stream<Item = Piece> + Send + Unpin + use<> {
    let pieces: Vec<Piece> =
        content.chunks(300_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

/// A body that the test sends piece by piece; it ends when the sender is dropped.
fn slow_body() -> (UnboundedSender<Piece>, impl Stream<Item = Piece> + Send + Unpin) {
    let (sender, pieces) = mpsc::unbounded_channel();
    let next = |mut pieces: mpsc::UnboundedReceiver<Piece>| async move {
        let piece = pieces.recv().await?;
        Some((piece, pieces))
    };
    (sender, Box::pin(stream::unfold(pieces, next)))
}

async fn begin(node: &Registry) -> Session {
    uploads::begin(node, &owner(), Algorithm::Sha256).await.unwrap()
}

async fn append(
    node: &Registry,
    session: &Session,
    start: u64,
    content: &[u8],
) -> Result<u64, Fault> {
    let outcome = uploads::append(node, &owner(), session.id, Some(start), body(content)).await;
    outcome.map(|session| session.offset)
}

async fn finish(node: &Registry, session: &Session, digest: Digest) -> Result<(), Fault> {
    uploads::finish(node, &owner(), (session.id, None), digest, body(b"")).await
}

async fn content(node: &Registry, digest: &Digest) -> Vec<u8> {
    let blob = blobs::find(node, &name("a/b"), digest).await.unwrap();
    let pieces = node.store.read(&blob.key).unwrap().part(0..blob.size_bytes).await.unwrap();
    pieces.try_collect::<Vec<_>>().await.unwrap().concat()
}

fn is_refused<T>(outcome: &Result<T, Fault>) -> bool {
    matches!(outcome, Err(Fault::OutOfOrder { .. }))
}

/// Waits until the session's row says so; each look is a query, so this does not spin.
async fn until(bench: &Bench, session: &Session, enough: impl Fn(i64) -> bool) -> i64 {
    loop {
        let busy = "SELECT busy_until FROM upload WHERE id = $1";
        let busy = bench.ask(busy, vec![session.id.into()]).await[0];
        if enough(busy) {
            return busy;
        }
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_session_goes_on_at_another_node() {
    on_each(async |bench| {
        let first = bench.registry.clone();
        // SQLite has one node.
        let second = if first.database.is_shared() { bench.node().await } else { first.clone() };
        let nodes = [&first, &second];
        // Less than a part, about a part, several parts, and a rest that is no part.
        for sizes in [&[3_usize, 5][..], &[6 << 20, 100], &[9 << 20, 1 << 20, 17 << 20], &[1, 0, 1]]
        {
            let parts: Vec<Vec<u8>> = sizes.iter().map(|size| davit_test::noise(*size)).collect();
            let whole = parts.concat();
            for digest in [Digest::of(&whole), Digest::of_with(Algorithm::Sha512, &whole)] {
                let session = begin(&first).await;
                let mut sent = 0;
                for (number, part) in parts.iter().enumerate() {
                    sent = append(nodes[number % 2], &session, sent, part).await.unwrap();
                }
                assert_eq!(sent, whole.len() as u64);
                finish(nodes[parts.len() % 2], &session, digest).await.unwrap();
                assert!(content(&second, &digest).await == whole, "{sizes:?} {digest}");
            }
        }
        assert_eq!(bench.check(Repair::No).await, []);
        bench.pass(ORPHAN);
        let report = bench.collect().await;
        assert_eq!((report.orphans, report.lost), (0, 0));
    });
}

#[test]
fn of_two_patches_at_once_one_wins() {
    on_shared(async |bench| {
        let (first, second) = (&bench.registry, &bench.node().await);
        let session = begin(first).await;
        for round in 0..10_u64 {
            let (one, other) = (vec![1; 100], vec![2; 100]);
            let (one, other) = join(
                append(first, &session, round * 100, &one),
                append(second, &session, round * 100, &other),
            )
            .await;
            assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
            assert!(is_refused(&one) || is_refused(&other), "{one:?} {other:?}");
        }
        let session = uploads::find(second, &owner(), session.id).await.unwrap();
        assert_eq!(session.offset, 1000);
    });
}

#[test]
fn a_patch_that_lasts_keeps_its_claim() {
    on_shared(async |bench| {
        let mut first = bench.registry.clone();
        first.limits.claim_renewal = Duration::from_millis(1);
        let second = bench.node().await;
        let session = begin(&first).await;
        let (sender, slow) = slow_body();
        let patch = async { uploads::append(&first, &owner(), session.id, Some(0), slow).await };
        let meanwhile = async {
            sender.send(Ok(Bytes::from_static(b"first "))).unwrap();
            let taken = until(bench, &session, |busy| busy > 0).await;
            // Past the claim as it was taken, had it not been renewed since.
            first.database.advance_clock(Duration::from_secs(50));
            until(bench, &session, |busy| busy >= taken + 50_000).await;
            second.database.advance_clock(Duration::from_secs(80));
            let refused = append(&second, &session, 0, b"other").await;
            assert!(is_refused(&refused), "{refused:?}");
            sender.send(Ok(Bytes::from_static(b"second"))).unwrap();
            drop(sender);
        };
        let (patched, ()) = join(patch, meanwhile).await;
        assert_eq!(patched.unwrap().offset, 12);
        finish(&second, &session, Digest::of(b"first second")).await.unwrap();
    });
}

#[test]
fn who_lost_the_claim_changes_nothing() {
    on_shared(async |bench| {
        let mut first = bench.registry.clone();
        // A node that stands still gives no signs of life.
        first.limits.claim_renewal = Duration::from_secs(3600);
        let second = bench.node().await;
        for is_last in [false, true] {
            let session = begin(&first).await;
            let same = davit_test::noise(9 << 20);
            append(&first, &session, 0, &same).await.unwrap();
            let (sender, slow) = slow_body();
            let stale = [&same[..], b"stale bytes"].concat();
            let patch = async {
                let place = (session.id, None);
                if is_last {
                    let digest = Digest::of(&stale);
                    return uploads::finish(&first, &owner(), place, digest, slow).await;
                }
                uploads::append(&first, &owner(), session.id, None, slow).await.map(drop)
            };
            let fresh = [&same[..], b"fresh"].concat();
            let meanwhile = async {
                sender.send(Ok(Bytes::from_static(b"stale"))).unwrap();
                until(bench, &session, |busy| busy > 0).await;
                second.database.advance_clock(Duration::from_secs(70));
                append(&second, &session, same.len() as u64, b"fresh").await.unwrap();
                sender.send(Ok(Bytes::from_static(b" bytes"))).unwrap();
                drop(sender);
            };
            let (lost, ()) = join(patch, meanwhile).await;
            assert!(lost.is_err(), "{lost:?}");
            finish(&second, &session, Digest::of(&fresh)).await.unwrap();
            assert!(content(&first, &Digest::of(&fresh)).await == fresh);
            assert_eq!(bench.check(Repair::No).await, []);
        }
    });
}

#[test]
fn a_refused_upload_can_be_tried_again_at_once() {
    on_shared(async |bench| {
        let mut small = bench.registry.clone();
        small.limits.blob_bytes = 10;
        let session = begin(&small).await;
        let too_large = append(&small, &session, 0, &[0; 20]).await;
        assert!(matches!(too_large, Err(Fault::TooLarge(_))), "{too_large:?}");
        let node = bench.node().await;
        let offset = uploads::find(&node, &owner(), session.id).await.unwrap().offset;
        append(&node, &session, offset, b"small").await.unwrap();
    });
}

/// Sends more than two parts, of which the first has arrived then, and waits.
pub(crate) async fn send_for_ever(folder: &Path) {
    let places = read_places(folder);
    let bench = Bench::open(places, folder.to_owned(), SETTINGS).await;
    let pieces = stream::iter(0..17_u8).map(|number| Ok(vec![number; 1 << 20].into()));
    let more = stream::poll_fn(|_context| {
        say("sent");
        std::task::Poll::Pending
    });
    let body = pieces.chain(more);
    let digest = Digest::of(b"never");
    uploads::whole(&bench.registry, &name("a/b"), digest, body).await.unwrap();
}

#[test]
fn what_a_killed_server_had_sent_is_removed() {
    on_shared(async |bench| {
        if !bench.has_objects() {
            return;
        }
        let node = &bench.registry;
        let head = davit_test::noise(10 << 20);
        let session = begin(node).await;
        append(node, &session, 0, &head).await.unwrap();
        let sessions = bench.left_over();
        let folder = TempDir::new();
        bench.write_places(folder.path());
        let mut child = start("send", folder.path(), &[]);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("sent")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(bench.left_over().len() > sessions.len(), "parts are in the bucket");
        assert_eq!(bench.collect().await.uploads, 0, "somebody may be at work on it");
        bench.pass(LEASE);
        assert_eq!(bench.collect().await.uploads, 1);
        assert_eq!(bench.left_over(), sessions, "what a session has stays");
        assert_eq!(bench.collect().await.uploads, 0);
        let digest = Digest::of(&head);
        finish(node, &session, digest).await.unwrap();
        assert!(content(node, &digest).await == head);
        assert!(bench.left_over().is_empty());
        let rows = bench.ask("SELECT alive_at FROM multipart", Vec::new()).await;
        assert!(rows.is_empty(), "what has ended is forgotten");
    });
}

#[test]
fn a_cancelled_session_leaves_nothing() {
    on_each(async |bench| {
        let node = &bench.registry;
        let session = begin(node).await;
        append(node, &session, 0, &davit_test::noise(10 << 20)).await.unwrap();
        uploads::cancel(node, &owner(), session.id).await.unwrap();
        let wrong = Digest::of(b"else");
        let session = begin(node).await;
        append(node, &session, 0, &davit_test::noise(10 << 20)).await.unwrap();
        let refused = finish(node, &session, wrong).await;
        assert!(matches!(refused, Err(Fault::Invalid(..))), "{refused:?}");
        assert!(matches!(append(node, &session, 0, b"").await, Err(Fault::Unknown(_))));
        assert!(bench.objects().is_empty());
        assert!(bench.left_over().is_empty(), "{:?}", bench.left_over());
    });
}
