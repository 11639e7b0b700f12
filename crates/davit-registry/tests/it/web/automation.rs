//! Pages of builds and webhooks: forms, the live log, what a reader without JavaScript gets.

use std::io::{Read as _, Write as _};

use davit_registry::autobuild::claim::Outcome;

use super::Browser;
use crate::{
    automation::{connect, run_build},
    fixture::TestRegistry,
};

/// A stream of events that is read piece by piece.
struct Stream {
    connection: std::net::TcpStream,
    text: String,
}

impl Stream {
    fn open(browser: &Browser<'_>, path: &str, headers: &str) -> Self {
        let mut connection = browser.registry.connect();
        let cookie = browser.cookie();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n{headers}\r\n");
        connection.write_all(head.as_bytes()).unwrap();
        Self { connection, text: String::new() }
    }

    /// Reads until this text has come; what came after the last such text.
    fn until(&mut self, text: &str) {
        let mut piece = [0; 1024];
        while !self.text.contains(text) {
            let length = self.connection.read(&mut piece).unwrap();
            assert!(length > 0, "the stream ended: {}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        let end = self.text.find(text).unwrap() + text.len();
        self.text.drain(..end);
    }
}

#[test]
fn a_git_repository_is_connected_and_built_by_forms() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("alice", false);
    let mut browser = Browser::logged_in(&registry, "alice");
    let form = [("repository", "alice/app"), ("next", "/r/{repository}")];
    assert_eq!(browser.post("/do/setRepository", &form).status, 303);
    let page = browser.get("/r/alice/app/-/builds");
    assert!(page.text().contains("Connect a git repository"), "{}", page.text());
    let form = [
        ("repository", "alice/app"),
        ("url", "https://git.example/app.git"),
        ("token", "git-token"),
        ("poll_minutes", ""),
        ("pulls", ""),
        ("next", "/r/{repository}/-/source"),
    ];
    let reply = browser.post("/do/createSource", &form);
    assert_eq!(reply.header("location"), Some("/r/alice/app/-/source"), "{reply:?}");
    let page = browser.get("/r/alice/app/-/source");
    for text in ["http://localhost/hooks/", "with a credential", "Without a rule nothing is built"]
    {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
    assert!(!page.text().contains("git-token"));
    let form = [
        ("repository", "alice/app"),
        ("kind", "branch"),
        ("source", "main"),
        ("tag", ""),
        ("platforms", ""),
        ("paths", "src\r\n!docs"),
        ("autobuild", "false"),
        ("caching", "false"),
        ("caching", "true"),
        ("next", "/"),
    ];
    assert_eq!(browser.post("/do/createBuildRule", &form).status, 303);
    let page = browser.get("/r/alice/app/-/source");
    for text in ["only when asked", "<code>src</code>", "<code>!docs</code>", "<code>latest</code>"]
    {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
    assert!(!page.text().contains("no cache"));
    let form = [
        ("repository", "alice/app"),
        ("kind", "branch"),
        ("name", "main"),
        ("next", "/r/{repository}/-/builds/{build}"),
    ];
    let reply = browser.post("/do/runBuild", &form);
    assert_eq!(reply.header("location"), Some("/r/alice/app/-/builds/1"), "{reply:?}");
    let page = browser.get("/r/alice/app/-/builds/1");
    assert!(
        page.text().contains("End this build") && page.text().contains("http-equiv=\"refresh\"")
    );
    let form =
        [("repository", "alice/app"), ("id", "1"), ("next", "/r/{repository}/-/builds/{build}")];
    assert_eq!(browser.post("/do/cancelBuild", &form).status, 303);
    let page = browser.get("/r/alice/app/-/builds/1");
    assert!(
        page.text().contains("cancelled by alice")
            && !page.text().contains("http-equiv=\"refresh\"")
    );
    let reply = browser.post("/do/retryBuild", &form);
    assert_eq!(reply.header("location"), Some("/r/alice/app/-/builds/2"), "{reply:?}");
    assert!(browser.get("/r/alice/app/-/builds").text().contains("/-/builds/2"));
    assert_eq!(browser.get("/r/alice/app/-/builds/3").status, 404);
    assert_eq!(browser.get("/r/alice/app/-/builds/x").status, 404);
}

#[test]
fn a_log_comes_as_it_is_written() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    connect(&registry, &alice);
    run_build(&registry, &alice);
    let browser = Browser::logged_in(&registry, "alice");
    let place = "/r/alice/app/-/live/builds";
    let mut list = Stream::open(&browser, place, "");
    list.until("text/event-stream");
    let mut log = Stream::open(&browser, &format!("{place}/1?from=0&state=waiting"), "");
    log.until("text/event-stream");
    let claimed = registry.claim();
    list.until("event: change");
    log.until("event: change");
    let end = registry.write_log(&claimed, 0, b"\x1b[1mone\x1b[0m\n<two>\n");
    log.until("id: 18\nevent: log\ndata: \"one\\n<two>\\n\"\n\n");
    // A browser whose stream broke off goes on where it was.
    let mut again =
        Stream::open(&browser, &format!("{place}/1?from=0&state=running"), "Last-Event-ID: 12\r\n");
    again.until("data: \"<two>\\n\"\n\n");
    registry.write_log(&claimed, end, b"three\n");
    log.until("data: \"three\\n\"\n\n");
    registry.finish_build(&claimed, Outcome::Failed);
    log.until("event: change");
    log.until("event: end");
    list.until("event: change");
    // The page has the same, at once and without any of it.
    let mut browser = Browser::logged_in(&registry, "alice");
    let page = browser.get("/r/alice/app/-/builds/1");
    for text in
        ["one\n&#60;two&#62;\nthree\n</pre>", "state-failed", "the build failed", "1 min 05 s"]
    {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
}

#[test]
fn webhooks_are_made_tried_and_removed_by_forms() {
    let registry = TestRegistry::with_accounts(None);
    let alice = registry.user("alice", false);
    registry.user("boss", true);
    connect(&registry, &alice);
    let mut browser = Browser::logged_in(&registry, "alice");
    let page = browser.get("/r/alice/app/-/webhooks");
    assert!(page.text().contains("value=\"alice/app\"") && !page.text().contains("allow_private"));
    let form = [
        ("account", "alice"),
        ("name", "ci"),
        ("url", "http://127.0.0.1:1/hook"),
        ("repositories", "alice/app"),
        ("tags", ""),
        ("format", "cloudevents"),
        ("events", ""),
        ("events", "push"),
        ("events", "pull"),
        ("next", "/a/{account}/webhooks/{name}"),
    ];
    let made = browser.post("/do/createWebhook", &form);
    assert!(made.text().contains("data-copy=\"whsec_"), "{}", made.text());
    let page = browser.get("/a/alice/webhooks/ci");
    assert!(
        page.text().contains(">push</span> <span class=\"chip\">pull</span>"),
        "{}",
        page.text()
    );
    for path in ["/a/alice/webhooks", "/r/alice/app/-/webhooks"] {
        assert!(browser.get(path).text().contains("/a/alice/webhooks/ci"), "{path}");
    }
    let form =
        [("account", "alice"), ("webhook", "ci"), ("next", "/a/{account}/webhooks/{webhook}")];
    let reply = browser.post("/do/testWebhook", &form);
    assert_eq!(reply.header("location"), Some("/a/alice/webhooks/ci"), "{reply:?}");
    assert!(browser.get("/a/alice/webhooks/ci").text().contains("There was no answer."));
    // Whoever runs the server may let it reach private networks.
    let mut boss = Browser::logged_in(&registry, "boss");
    assert!(boss.get("/a/alice/webhooks").text().contains("allow_private"));
    assert_eq!(browser.post("/do/deleteWebhook", &form).status, 303);
    assert!(browser.get("/a/alice/webhooks").text().contains("Nobody is told"));
}

#[test]
fn mirrors_and_replication_are_managed_by_forms() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("boss", true);
    let mut boss = Browser::logged_in(&registry, "boss");
    let form = [
        ("name", "docker.io"),
        ("upstream", ""),
        ("username", ""),
        ("password", ""),
        ("pull", "everyone"),
        ("fill", "accounts"),
        ("ttl_seconds", "60"),
        ("keep_days", "7"),
        ("is_default", "true"),
        ("next", "/admin/mirrors"),
    ];
    assert_eq!(boss.post("/do/createMirror", &form).status, 303);
    let page = boss.get("/admin/mirrors");
    for text in ["docker.io", "default", "60 s", "7 days", "everyone"] {
        assert!(page.text().contains(text), "{text}: {}", page.text());
    }
    assert_eq!(
        boss.post("/do/deleteMirror", &[("mirror", "docker.io"), ("next", "/")]).status,
        303
    );
    assert!(boss.get("/admin/mirrors").text().contains("No registry is mirrored"));
    let form = [
        ("name", "base"),
        ("direction", "pull"),
        ("registry", "127.0.0.1:1"),
        ("repositories", "base/*"),
        ("tags", ""),
        ("prefix", ""),
        ("username", ""),
        ("password", ""),
        ("every_minutes", ""),
        ("next", "/admin/replication"),
    ];
    assert_eq!(boss.post("/do/createReplicationRule", &form).status, 303);
    assert!(boss.get("/admin/replication").text().contains("from 127.0.0.1:1"));
    let form = [("rule", "base"), ("next", "/admin/replication")];
    assert_eq!(boss.post("/do/runReplicationRule", &form).status, 303);
    assert_eq!(boss.post("/do/deleteReplicationRule", &form).status, 303);
    assert!(boss.get("/admin/replication").text().contains("Nothing is copied"));
}
