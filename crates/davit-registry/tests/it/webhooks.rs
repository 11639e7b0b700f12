//! Events on their way from a transaction to a receiver.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use davit_registry::{
    auth::audit::Actor,
    db::values,
    events::{
        AddSubscription, EventKind, RemoveSubscription, Resume, SubscriptionKind, fan_out, find,
        round,
    },
    manifests,
    registry::Registry,
    trash::{DeleteRepository, Keep, RestoreRepository},
    webhooks::{
        DeliveryRow, Format, Redeliver, Sender, WebhookSettings, history, new_secret, secret_bytes,
        signature,
    },
};
use davit_test::{HttpServer, Reply as HttpReply, Request as HttpRequest, until};
use serde_json::Value as Json;

use crate::{
    bench::{Bench, image, name, on_each},
    fixture::{self, TestRegistry},
};

const BASE: &str = "https://registry.example";
const EVENTS: &str = "SELECT id FROM event_outbox";

/// A receiver that answers with a status that may change.
struct Receiver {
    server: HttpServer,
    status: Arc<AtomicU16>,
}

impl Receiver {
    fn start() -> Self {
        let status = Arc::new(AtomicU16::new(204));
        let answered = Arc::clone(&status);
        let server = HttpServer::start(move |_| {
            let status = answered.load(Ordering::SeqCst);
            let reply = HttpReply::status(status);
            // Where a client that follows would go.
            if status == 302 { reply.header("Location", "/elsewhere") } else { reply.body("so") }
        });
        Self { server, status }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn requests(&self) -> Vec<HttpRequest> {
        self.server.requests()
    }

    fn settings(&self) -> WebhookSettings {
        WebhookSettings {
            url: format!("http://{}/hook", self.server.host()),
            format: Format::Cloudevents,
            secret: new_secret(),
            allow_private: true,
        }
    }
}

fn webhook(glob: &str, settings: &WebhookSettings) -> AddSubscription {
    AddSubscription {
        name: "hook".to_owned(),
        kind: SubscriptionKind::Webhook,
        repositories: glob.parse().unwrap(),
        tags: "*".parse().unwrap(),
        events: EventKind::USUAL.to_vec(),
        settings: settings.to_json(),
        first_run_ms: None,
    }
}

async fn add(bench: &Bench, glob: &str, settings: &WebhookSettings) {
    bench.registry.database.write(webhook(glob, settings)).await.unwrap();
}

async fn rounds(bench: &Bench) {
    let sender = Arc::new(Sender::new(BASE));
    while round(&bench.registry, &sender).await.unwrap() > 0 {}
}

async fn deliveries(bench: &Bench) -> Vec<DeliveryRow> {
    history(&bench.registry.database, "hook", 100).await.unwrap()
}

fn told(request: &HttpRequest) -> (String, String) {
    let event: Json = serde_json::from_slice(&request.body).unwrap();
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    (text(&event["type"]).replace("davit.registry.", ""), text(&event["subject"]))
}

#[test]
fn changes_are_told_in_order_and_signed() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        let settings = receiver.settings();
        add(bench, "alice/**", &settings).await;
        let first = bench.push_image("alice/app", &["v1"], "one").await;
        let second = bench.push_image("alice/app", &["v1"], "two").await;
        let other = bench.push_image("alice/app", &[], "three").await;
        bench.push_image("bob/app", &["v1"], "one").await;
        let (registry, app) = (&bench.registry, name("alice/app"));
        manifests::delete_tag(registry, &app, &"v1".parse().unwrap(), (None, None)).await.unwrap();
        manifests::delete(registry, &app, &other, None).await.unwrap();
        rounds(bench).await;
        let requests = receiver.requests();
        let subjects: Vec<_> = requests.iter().map(told).collect();
        let expected = [
            ("repository.create", "alice/app".to_owned()),
            ("push", "alice/app:v1".to_owned()),
            ("push", "alice/app:v1".to_owned()),
            ("push", format!("alice/app@{other}")),
            ("tag.delete", "alice/app:v1".to_owned()),
            ("delete", format!("alice/app@{other}")),
        ];
        assert_eq!(subjects, expected.map(|(kind, subject)| (kind.to_owned(), subject)));
        let move_: Json = serde_json::from_slice(&requests[2].body).unwrap();
        assert_eq!(move_["data"]["digest"], second.to_string());
        assert_eq!(move_["data"]["previousDigest"], first.to_string());
        assert_eq!(move_["data"]["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(move_["source"], BASE);
        let key = secret_bytes(&settings.secret).unwrap();
        for request in &requests {
            let header = |name| request.header(name).unwrap();
            let event: Json = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(header("webhook-id"), event["id"]);
            let seconds = header("webhook-timestamp").parse().unwrap();
            let signed = signature(&key, header("webhook-id"), seconds, &request.body);
            assert_eq!(header("webhook-signature"), signed);
            assert_eq!(request.line(), "POST /hook");
        }
        assert!(bench.ask(EVENTS, vec![]).await.is_empty());
        assert!(deliveries(bench).await.iter().all(|one| one.state == "delivered"));
    });
}

/// An event is there exactly when its change is, and only where somebody listens.
#[test]
fn events_share_the_fate_of_their_change() {
    on_each(async |bench| {
        bench.push_image("alice/app", &["v1"], "one").await;
        assert!(bench.ask(EVENTS, vec![]).await.is_empty(), "nobody listens");
        let settings = Receiver::start().settings();
        add(bench, "alice/*", &settings).await;
        bench.push_image("bob/app", &["v1"], "one").await;
        assert!(bench.ask(EVENTS, vec![]).await.is_empty(), "nobody listens there");
        let lacking = bench.put("alice/app", &["v2"], image("nowhere", None)).await;
        assert!(lacking.is_err());
        assert!(bench.ask(EVENTS, vec![]).await.is_empty(), "nothing changed");
        bench.push_image("alice/app", &["v1"], "one").await;
        assert!(bench.ask(EVENTS, vec![]).await.is_empty(), "the same again");
        bench.push_image("alice/app", &["v2"], "one").await;
        assert_eq!(bench.ask(EVENTS, vec![]).await.len(), 1, "no blobs: nobody asked for them");
        let remove =
            RemoveSubscription { kind: SubscriptionKind::Webhook, name: "hook".to_owned() };
        bench.registry.database.write(remove).await.unwrap();
        bench.push_image("alice/app", &["v3"], "one").await;
        assert_eq!(bench.ask(EVENTS, vec![]).await.len(), 1, "nobody listens any more");
        fan_out(&bench.registry.database).await.unwrap();
        assert!(bench.ask(EVENTS, vec![]).await.is_empty());
    });
}

#[test]
fn blobs_are_told_to_those_who_ask() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        let mut hook = webhook("alice/*", &receiver.settings());
        hook.events = vec![EventKind::BlobPush, EventKind::BlobMount, EventKind::BlobDelete];
        bench.registry.database.write(hook).await.unwrap();
        let digest = bench.push_blob("alice/app", b"content").await;
        bench.push_blob("alice/app", b"content").await;
        let (from, to) = (name("alice/app"), name("alice/other"));
        davit_registry::blobs::mount(&bench.registry, from, to, digest).await.unwrap();
        rounds(bench).await;
        // Of two repositories: in any order.
        let mut kinds: Vec<_> = receiver.requests().iter().map(|one| told(one).0).collect();
        kinds.sort();
        assert_eq!(kinds, ["blob.mount", "blob.push"]);
    });
}

#[test]
fn repositories_that_go_and_come_back_are_told() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        bench.push_image("alice/app", &["v1"], "one").await;
        add(bench, "alice/*", &receiver.settings()).await;
        let (by, app) = (Actor::operator(), name("alice/app"));
        let delete = DeleteRepository { by: by.clone(), name: app.clone(), keep: Keep::Usual };
        bench.registry.database.write(delete).await.unwrap();
        let restore = RestoreRepository { by, name: app.clone(), to: app };
        bench.registry.database.write(restore).await.unwrap();
        rounds(bench).await;
        let kinds: Vec<_> = receiver.requests().iter().map(|one| told(one).0).collect();
        assert_eq!(kinds, ["repository.delete", "repository.create"]);
    });
}

#[test]
fn what_fails_is_tried_again_and_nothing_overtakes_it() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        add(bench, "alice/**", &receiver.settings()).await;
        receiver.answers(503);
        bench.push_image("alice/app", &["v1"], "one").await;
        bench.push_image("alice/app", &["v2"], "two").await;
        rounds(bench).await;
        assert_eq!(receiver.requests().len(), 1, "later events of the repository wait");
        let oldest = deliveries(bench).await.pop().unwrap();
        assert_eq!((oldest.status, oldest.attempts, &*oldest.state), (Some(503), 1, "waiting"));
        assert_eq!(oldest.reply.as_deref(), Some("so"));
        let hook = find(&bench.registry.database, SubscriptionKind::Webhook, "hook").await.unwrap();
        assert!(hook.failing_since.is_some());
        receiver.answers(200);
        rounds(bench).await;
        assert_eq!(receiver.requests().len(), 1, "it is not due");
        bench.pass(Duration::from_secs(10));
        rounds(bench).await;
        let all = receiver.requests();
        let subjects: Vec<_> = all.iter().map(|request| told(request).1).collect();
        assert_eq!(subjects, ["alice/app", "alice/app", "alice/app:v1", "alice/app:v2"]);
        // The same event by its name, sent at another time: a receiver can tell.
        assert_eq!(all[0].header("webhook-id"), all[1].header("webhook-id"));
        let hook = find(&bench.registry.database, SubscriptionKind::Webhook, "hook").await.unwrap();
        assert!(hook.failing_since.is_none());
    });
}

#[test]
fn what_a_later_version_wrote_is_passed_over() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        add(bench, "alice/**", &receiver.settings()).await;
        for (name, kind, glob) in [("a", "webhook", "?new"), ("z", "replication", "?")] {
            let sql = "INSERT INTO subscription \
                       (name, kind, repositories, prefix, tags, events, level, settings, created_at) \
                       VALUES ($1, $2, $3, '', '*', 'push', 1, '{}', 0)";
            bench.tell(sql, values![name, kind, glob]).await;
        }
        bench.push_image("alice/app", &["v1"], "one").await;
        rounds(bench).await;
        assert_eq!(receiver.requests().len(), 2, "who is known is told");
    });
}

#[test]
fn redirects_are_not_followed() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        add(bench, "alice/**", &receiver.settings()).await;
        receiver.answers(302);
        bench.push_image("alice/app", &["v1"], "one").await;
        rounds(bench).await;
        let lines: Vec<_> = receiver.requests().iter().map(HttpRequest::line).collect();
        assert_eq!(lines, ["POST /hook"]);
        assert_eq!(deliveries(bench).await.pop().unwrap().status, Some(302));
    });
}

#[test]
fn private_addresses_are_refused_unless_allowed() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        let settings = WebhookSettings { allow_private: false, ..receiver.settings() };
        add(bench, "alice/**", &settings).await;
        bench.push_image("alice/app", &["v1"], "one").await;
        rounds(bench).await;
        assert!(receiver.requests().is_empty());
        let refused = deliveries(bench).await.pop().unwrap();
        let reason = refused.reply.unwrap();
        assert!(reason.contains("127.0.0.1 is an address of a private network"), "{reason}");
    });
}

#[test]
fn a_webhook_that_fails_for_days_is_given_up_and_can_be_resumed() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        add(bench, "alice/**", &receiver.settings()).await;
        receiver.answers(500);
        bench.push_image("alice/app", &["v1"], "one").await;
        rounds(bench).await;
        bench.pass(Duration::from_secs(4 * 24 * 3600));
        rounds(bench).await;
        let find = || find(&bench.registry.database, SubscriptionKind::Webhook, "hook");
        assert!(!find().await.unwrap().is_active);
        let tried = receiver.requests().len();
        bench.push_image("alice/app", &["v2"], "two").await;
        bench.pass(Duration::from_secs(24 * 3600));
        rounds(bench).await;
        assert_eq!(receiver.requests().len(), tried, "it hears nothing any more");
        receiver.answers(200);
        let resume = Resume { kind: SubscriptionKind::Webhook, name: "hook".to_owned() };
        bench.registry.database.write(resume).await.unwrap();
        rounds(bench).await;
        let subjects: Vec<_> = receiver.requests()[tried..].iter().map(told).collect();
        assert_eq!(subjects.len(), 2, "what waited is sent: {subjects:?}");
        receiver.answers(410);
        bench.push_image("alice/app", &["v3"], "three").await;
        rounds(bench).await;
        assert!(!find().await.unwrap().is_active, "who is gone wants nothing");
    });
}

#[test]
fn a_delivery_is_sent_once_more_when_asked() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        add(bench, "alice/**", &receiver.settings()).await;
        bench.push_image("alice/app", &["v1"], "one").await;
        rounds(bench).await;
        let newest = deliveries(bench).await.remove(0);
        let ask = |id| Redeliver { webhook: "hook".to_owned(), id };
        bench.registry.database.write(ask(newest.id)).await.unwrap();
        assert!(bench.registry.database.write(ask(newest.id + 100)).await.is_err());
        rounds(bench).await;
        let requests = receiver.requests();
        assert_eq!(requests.len(), 3);
        assert_eq!(requests[1].body, requests[2].body);
    });
}

/// A pull changes nothing that would tell the server at once who listens: it learns by and by.
#[test]
fn a_server_tells_of_pulls() {
    let receiver = Receiver::start();
    let server = TestRegistry::start();
    server.push_blob("alice/app", b"{}");
    server.push_blob("alice/app", b"one");
    let manifest = fixture::image(b"{}", &[b"one"]);
    assert_eq!(server.push_manifest("alice/app", "v1", &manifest).status, 201);
    let mut hook = webhook("alice/*", &receiver.settings());
    hook.events = vec![EventKind::Pull];
    server.run(server.registry().database.write(hook)).unwrap();
    until("somebody is told", || {
        assert_eq!(server.get_once("/v2/alice/app/manifests/v1").status, 200);
        !receiver.requests().is_empty()
    });
    let first = told(&receiver.requests()[0]);
    assert_eq!(first, ("pull".to_owned(), "alice/app:v1".to_owned()));
}

/// Two processes on one database: nobody hears anything twice, and order holds.
#[test]
fn many_processes_deliver_without_doubles() {
    on_each(async |bench| {
        let receiver = Receiver::start();
        add(bench, "**", &receiver.settings()).await;
        let other = bench.node().await;
        for round in 0..8 {
            for repository in ["a/a", "a/b", "a/c", "a/d"] {
                bench.push_image(repository, &["v1"], &format!("{repository}{round}")).await;
            }
        }
        let sender = Arc::new(Sender::new(BASE));
        let work = async |registry: &Registry| {
            while !bench.ask("SELECT id FROM event_outbox", vec![]).await.is_empty()
                || !bench
                    .ask("SELECT id FROM delivery WHERE state = 'waiting'", values![])
                    .await
                    .is_empty()
            {
                round(registry, &sender).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(work(&bench.registry), work(&other));
        let mut pushed: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for request in receiver.requests() {
            let event: Json = serde_json::from_slice(&request.body).unwrap();
            let data = &event["data"];
            let previous = data["previousDigest"].as_str().unwrap_or_default().to_owned();
            let digest = data["digest"].as_str().unwrap_or_default().to_owned();
            let repository = data["repository"].as_str().unwrap().to_owned();
            let chain = pushed.entry(repository).or_default();
            if let Some(last) = chain.last() {
                assert_eq!(*last, previous, "each follows the one before");
            }
            chain.push(digest);
        }
        // Made, and pushed eight times.
        assert_eq!(pushed.values().map(Vec::len).collect::<Vec<_>>(), [9; 4]);
    });
}
