//! Challenges, tokens and where credentials go.

use std::sync::{Arc, Mutex};

use davit_distribution::{Access, Client, Credential, Error, Secret, Target};
use davit_image::{MediaType, Repository, Tag};
use davit_test::{HttpServer, Reply, Request};

use crate::fixture::{Content, Counter, config, manifest, session};

fn tag() -> Target {
    Target::Tag(Tag::latest())
}

fn alice() -> Credential {
    Credential::Password { username: "alice".into(), password: Secret::new("wonderland") }
}

const BASIC: &str = "Basic YWxpY2U6d29uZGVybGFuZA==";

/// A registry behind `challenge`, which lets in who shows `proof`.
fn guarded(challenge: &'static str, proof: &'static str) -> HttpServer {
    let content = manifests();
    HttpServer::start(move |request| {
        if request.header("authorization") == Some(proof) {
            return content.serve(request);
        }
        Reply::status(401).header("WWW-Authenticate", challenge)
    })
}

fn manifests() -> Content {
    Content::default().manifest("latest", MediaType::OCI_MANIFEST, manifest().bytes())
}

async fn client_with(server: &HttpServer, credential: Credential) -> (Client, Repository) {
    let repository: Repository = format!("{}/a/b", server.host()).parse().unwrap();
    let client = Client::new(config());
    client.use_credential(&repository, credential).await.unwrap();
    (client, repository)
}

#[tokio::test]
async fn basic_is_answered_and_remembered() {
    let server = guarded("Negotiate, Basic realm=\"x\"", BASIC);
    let (client, repository) = client_with(&server, alice()).await;
    let session = client.session(&repository, Access::Pull);
    session.manifest(&tag()).await.unwrap();
    session.manifest(&tag()).await.unwrap();
    let manifests = server.lines().iter().filter(|line| line.contains("manifests")).count();
    assert_eq!(manifests, 3, "one refusal, then the proof from the start");
}

#[tokio::test]
async fn wrong_basic_credentials_are_denied_once() {
    let server = guarded("Basic realm=\"x\"", "Basic other");
    let (client, repository) = client_with(&server, alice()).await;
    let error = client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { with_credentials: true, .. }), "{error}");
    assert_eq!(server.lines().iter().filter(|line| line.contains("manifests")).count(), 2);
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { with_credentials: false, .. }), "{error}");
    assert!(error.to_string().ends_with("refused access without login"), "{error}");
}

/// A registry with Bearer tokens and its token server, which `tokens` plays.
fn bearer(tokens: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> (HttpServer, HttpServer) {
    let token_server = HttpServer::start(tokens);
    let realm = format!("http://{}/token", token_server.host());
    let content = manifests();
    let registry = HttpServer::start(move |request| {
        if request.header("authorization") == Some("Bearer good") {
            return content.serve(request);
        }
        let challenge =
            format!("Bearer realm=\"{realm}\",service=\"reg\",scope=\"repository:a/b:pull\"");
        Reply::status(401).header("WWW-Authenticate", challenge)
    });
    (registry, token_server)
}

#[tokio::test]
async fn anonymous_tokens_are_fetched_once() {
    let (server, tokens) = bearer(|_| Reply::ok(r#"{"token":"good","expires_in":300}"#));
    let session = session(&server);
    session.manifest(&tag()).await.unwrap();
    session.manifest(&tag()).await.unwrap();
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].query, "service=reg&scope=repository%3Aa%2Fb%3Apull&client_id=davit");
    assert_eq!(asked[0].header("authorization"), None);
}

#[tokio::test]
async fn passwords_go_to_the_token_server_and_not_to_the_registry() {
    let (server, tokens) = bearer(|request| match request.header("authorization") {
        Some(BASIC) => Reply::ok(r#"{"access_token":"good"}"#),
        _ => Reply::status(401),
    });
    let (client, repository) = client_with(&server, alice()).await;
    client.session(&repository, Access::Push).manifest(&tag()).await.unwrap();
    assert!(tokens.requests()[0].query.contains("account=alice"));
    assert!(tokens.requests()[0].query.contains("scope=repository%3Aa%2Fb%3Apull%2Cpush"));
    for request in server.requests() {
        assert_ne!(request.header("authorization"), Some(BASIC));
    }
}

#[tokio::test]
async fn wrong_passwords_are_denied_by_the_token_server() {
    let (server, _tokens) =
        bearer(|_| Reply::status(401).body(r#"{"details":"incorrect username or password"}"#));
    let (client, repository) = client_with(&server, alice()).await;
    let error = client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap_err();
    assert!(matches!(error, Error::Denied { with_credentials: true, .. }), "{error}");
    assert!(error.to_string().contains("incorrect username or password"), "{error}");
}

/// A token server that is down fails the request that needs it: one series of tries, not one
/// within another.
#[tokio::test]
async fn a_broken_token_server_is_tried_like_any_other() {
    let (server, tokens) = bearer(|_| Reply::status(503).body("in repair"));
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(error.to_string().ends_with("/token answered 503: in repair"), "{error}");
    assert_eq!(tokens.requests().len(), 3);

    let (server, tokens) = bearer(|_| Reply::status(503));
    let client = Client::new(config());
    client.login(&server.host(), "alice", Secret::new("wonderland")).await.unwrap_err();
    assert_eq!(tokens.requests().len(), 3);

    // A short failure is got over, also of the request for a refresh token.
    let counter = Counter::default();
    let (server, _tokens) = bearer(move |_| match counter.next() {
        0 | 2 => Reply::status(503),
        _ => Reply::ok(r#"{"token":"good","refresh_token":"refresh"}"#),
    });
    let client = Client::new(config());
    let login = client.login(&server.host(), "alice", Secret::new("wonderland")).await.unwrap();
    assert_eq!(login.credential, Credential::Identity(Secret::new("refresh")));
}

#[tokio::test]
async fn identity_tokens_are_changed_by_post() {
    let (server, tokens) = bearer(|request| {
        let form = String::from_utf8_lossy(&request.body).into_owned();
        let good = request.method == "POST"
            && form.contains("grant_type=refresh_token&refresh_token=refresh")
            && form.contains("service=reg")
            && form.contains("scope=repository%3Aa%2Fb%3Apull");
        if good { Reply::ok(r#"{"access_token":"good"}"#) } else { Reply::status(401) }
    });
    let (client, repository) =
        client_with(&server, Credential::Identity(Secret::new("refresh"))).await;
    client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap();
    assert_eq!(tokens.lines(), ["POST /token"]);
}

#[tokio::test]
async fn token_servers_without_oauth_are_asked_by_get_and_the_other_way_round() {
    let (server, tokens) = bearer(|request| match request.method.as_str() {
        "POST" => Reply::status(404),
        _ => Reply::ok(r#"{"token":"good"}"#),
    });
    let identity = Credential::Identity(Secret::new("refresh"));
    let (client, repository) = client_with(&server, identity).await;
    client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap();
    assert_eq!(tokens.lines(), ["POST /token", "GET /token"]);

    let (server, tokens) = bearer(|request| match request.method.as_str() {
        "GET" => Reply::status(405),
        _ => Reply::ok(r#"{"token":"good"}"#),
    });
    let (client, repository) = client_with(&server, alice()).await;
    client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap();
    assert_eq!(tokens.lines(), ["GET /token", "POST /token"]);
}

#[tokio::test]
async fn registry_tokens_are_sent_as_they_are() {
    let (server, tokens) = bearer(|_| Reply::status(500));
    let (client, repository) =
        client_with(&server, Credential::Registry(Secret::new("good"))).await;
    client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap();
    assert!(tokens.requests().is_empty());
}

#[tokio::test]
async fn a_token_that_ended_is_renewed() {
    let counter = Counter::default();
    let valid = Arc::new(Mutex::new(String::new()));
    let issued = Arc::clone(&valid);
    let tokens = HttpServer::start(move |_| {
        let token = format!("token{}", counter.next());
        *issued.lock().unwrap() = token.clone();
        Reply::ok(format!(r#"{{"token":"{token}","expires_in":3600}}"#))
    });
    let realm = format!("http://{}/token", tokens.host());
    let (content, current) = (manifests(), Arc::clone(&valid));
    let server = HttpServer::start(move |request| {
        let expected = format!("Bearer {}", current.lock().unwrap());
        if request.header("authorization") == Some(&expected) {
            return content.serve(request);
        }
        Reply::status(401).header("WWW-Authenticate", format!("Bearer realm=\"{realm}\""))
    });
    let session = session(&server);
    session.manifest(&tag()).await.unwrap();
    *valid.lock().unwrap() = "revoked".into();
    session.manifest(&tag()).await.unwrap();
    assert_eq!(tokens.requests().len(), 2);
}

#[tokio::test]
async fn an_insufficient_scope_is_asked_for_first() {
    let counter = Counter::default();
    let (server, tokens) = {
        let tokens = HttpServer::start(|request| {
            let wide = request.query.contains("repository%3Abase%3Apull");
            Reply::ok(if wide { r#"{"token":"wide"}"# } else { r#"{"token":"narrow"}"# })
        });
        let realm = format!("http://{}/token", tokens.host());
        let content = manifests();
        let server = HttpServer::start(move |request| {
            if request.header("authorization") == Some("Bearer wide") {
                return content.serve(request);
            }
            let scope =
                if counter.next() < 1 { "repository:a/b:pull" } else { "repository:base:pull" };
            Reply::status(401).header(
                "WWW-Authenticate",
                format!("Bearer realm=\"{realm}\",scope=\"{scope}\",error=\"insufficient_scope\""),
            )
        });
        (server, tokens)
    };
    session(&server).manifest(&tag()).await.unwrap();
    let last = tokens.requests().pop().unwrap().query;
    assert!(
        last.contains("scope=repository%3Abase%3Apull&scope=repository%3Aa%2Fb%3Apull"),
        "{last}"
    );
}

#[tokio::test]
async fn challenges_without_end_are_an_error() {
    let (server, tokens) = bearer(|_| Reply::ok(r#"{"token":"bad"}"#));
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert_eq!(tokens.requests().len(), 1, "the same again is not answered");
    // A HEAD, and the GET that brings the words, whose token may have ended meanwhile.
    let error = session(&server).resolve(&tag()).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert_eq!(tokens.requests().len(), 1 + 2);

    let counter = Counter::default();
    let tokens = HttpServer::start(|_| Reply::ok(r#"{"token":"bad"}"#));
    let realm = format!("http://{}/token", tokens.host());
    let server = HttpServer::start(move |_| {
        let scope = format!("repository:a{}:pull", counter.next());
        let challenge = format!("Bearer realm=\"{realm}\",scope=\"{scope}\"");
        Reply::status(401).header("WWW-Authenticate", challenge)
    });
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(error.is_denied(), "{error}");
    assert!(tokens.requests().len() <= 4);
}

#[tokio::test]
async fn useless_token_servers_are_named() {
    for body in ["{}", r#"{"token":""}"#, "<html>", ""] {
        let (server, _tokens) = bearer(move |_| Reply::ok(body));
        let error = session(&server).manifest(&tag()).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{body}: {error}");
    }
    let (server, _tokens) = bearer(move |_| Reply::ok(vec![b'x'; 100_000]));
    let error = session(&server).manifest(&tag()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn unsafe_realms_get_nothing() {
    for challenge in [
        "Bearer realm=\"file:///etc/passwd\"",
        "Bearer realm=\"\"",
        "Bearer",
        "Bearer realm=\"http://u:p@127.0.0.2/token\"",
    ] {
        let server = guarded(challenge, "none");
        let (client, repository) = client_with(&server, alice()).await;
        let error = client.session(&repository, Access::Pull).manifest(&tag()).await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{challenge}: {error}");
    }
}

#[tokio::test]
async fn unknown_schemes_are_denied() {
    let server = guarded("Negotiate", "none");
    assert!(session(&server).manifest(&tag()).await.unwrap_err().is_denied());
}

#[tokio::test]
async fn logging_in_checks_and_may_bring_an_identity_token() {
    let (server, tokens) = bearer(|request| {
        if request.header("authorization") != Some(BASIC) {
            return Reply::status(401);
        }
        let offline = request.query.contains("offline_token=true");
        let refresh = if offline { r#","refresh_token":"refresh""# } else { "" };
        Reply::ok(format!(r#"{{"token":"good"{refresh}}}"#))
    });
    let client = Client::new(config());
    let login = client.login(&server.host(), "alice", Secret::new("wonderland")).await.unwrap();
    assert_eq!(login.credential, Credential::Identity(Secret::new("refresh")));
    assert!(login.checked);
    assert_eq!(tokens.requests().len(), 2);
    let wrong = Client::new(config()).login(&server.host(), "alice", Secret::new("x")).await;
    assert!(wrong.unwrap_err().is_denied());

    let server = guarded("Basic realm=\"x\"", BASIC);
    let client = Client::new(config());
    let login = client.login(&server.host(), "alice", Secret::new("wonderland")).await.unwrap();
    assert_eq!(login.credential, alice());
    let wrong = Client::new(config()).login(&server.host(), "alice", Secret::new("x")).await;
    assert!(wrong.unwrap_err().is_denied());

    let open = HttpServer::start(|_| Reply::ok("{}"));
    let login = Client::new(config()).login(&open.host(), "alice", Secret::new("x")).await.unwrap();
    assert!(!login.checked);
}
