//! `/token`: what clients ask, what they get, and what the tokens are good for.

use axum::body::Body;
use davit_distribution::wire::{Challenge, TokenResponse};
use davit_registry::auth::{
    Claims, Keys,
    accounts::{SetPassword, SetState},
    refused, rotate_keys, routes,
};
use http::{HeaderMap, Request, StatusCode, header};
use tower::ServiceExt as _;

use super::*;

impl Site {
    async fn ask(&self, request: Request<Body>) -> (StatusCode, Vec<u8>) {
        let response = routes(Arc::clone(&self.auth)).oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let status = response.status();
        (status, axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec())
    }

    pub(super) async fn get(&self, query: &str, account: Option<(&str, &str)>) -> TokenResponse {
        let mut request = Request::get(format!("/token?{query}"));
        if let Some((name, password)) = account {
            request = request.header(header::AUTHORIZATION, basic(name, password));
        }
        let (status, body) = self.ask(request.body(Body::empty()).unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).unwrap()
    }

    /// Posts a form; status and reply.
    pub(super) async fn form(&self, form: &str) -> (u16, serde_json::Value) {
        let request = Request::post("/token").body(Body::from(form.to_owned())).unwrap();
        let (status, body) = self.ask(request).await;
        (status.as_u16(), serde_json::from_slice(&body).unwrap())
    }

    async fn post(&self, form: &str) -> (StatusCode, TokenResponse) {
        let request = Request::post("/token").body(Body::from(form.to_owned())).unwrap();
        let (status, body) = self.ask(request).await;
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Decisions on pull and push of `alice/web`, as a client with this token gets them.
    async fn may(&self, token: &str) -> [Decision; 2] {
        let caller = self.bearer(token).await.unwrap();
        [
            self.decide(&caller, Action::Pull, "alice/web").await,
            self.decide(&caller, Action::Push, "alice/web").await,
        ]
    }
}

fn token(reply: &TokenResponse) -> &str {
    reply.bearer().unwrap().expose()
}

fn refresh(reply: &TokenResponse) -> Option<&str> {
    reply.refresh_token.as_ref().map(Secret::expose)
}

async fn alice() -> Site {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    site.add("bob", Kind::User).await;
    site.repository("alice/web", "private").await;
    site.repository("bob/open", "public").await;
    site
}

const ALICE: Option<(&str, &str)> = Some(("alice", PASSWORD));

#[tokio::test]
async fn tokens_are_cut_to_what_was_asked_and_may_be() {
    use Decision::{Absent, Allow, Challenge, Denied};
    let site = alice().await;
    let cases = [
        ("", ALICE, [Challenge, Challenge]),
        ("scope=repository:alice/web:pull", ALICE, [Allow, Challenge]),
        ("scope=repository:alice/web:pull,push", ALICE, [Allow, Allow]),
        (
            "scope=repository:bob/open:pull&scope=repository:alice/web:push,pull",
            ALICE,
            [Allow, Allow],
        ),
        ("scope=repository:bob/open:pull%20repository:alice/web:*", ALICE, [Allow, Allow]),
        ("scope=repository(plugin):alice/web:pull", ALICE, [Allow, Challenge]),
        ("scope=repository:alice/*:pull", ALICE, [Challenge, Challenge]),
        ("scope=repository:alice/web:*", Some(("bob", PASSWORD)), [Absent, Denied]),
        ("scope=repository:alice/web:*", None, [Challenge, Challenge]),
    ];
    for (query, account, expected) in cases {
        let reply = site.get(&format!("service=davit-registry&{query}"), account).await;
        assert_eq!(reply.expires_in, Some(300));
        assert_eq!(refresh(&reply), None);
        assert_eq!(site.may(token(&reply)).await, expected, "{query} {account:?}");
    }
}

#[tokio::test]
async fn nobody_gets_a_token_for_what_is_public() {
    let site = alice().await;
    let scopes = "scope=repository:bob/open:pull,push&scope=registry:catalog:*";
    let caller = site.bearer(token(&site.get(scopes, None).await)).await.unwrap();
    assert!(caller.has_credential && caller.account().is_none());
    assert_eq!(site.decide(&caller, Action::Pull, "bob/open").await, Decision::Allow);
    assert_eq!(site.decide(&caller, Action::Push, "bob/open").await, Decision::Challenge);
    assert_eq!(site.auth.gate(&caller, Need::Catalog).await.unwrap(), Decision::Allow);
    assert_eq!(site.auth.gate(&caller, Need::Credential).await.unwrap(), Decision::Allow);
    assert_eq!(site.auth.gate(&caller, Need::SiteAdmin).await.unwrap(), Decision::Challenge);
}

/// What a token was given for is asked again at each use: rights that went are gone.
#[tokio::test]
async fn a_token_is_worth_no_more_than_its_account() {
    let site = alice().await;
    site.grant(Subject::Account("bob".to_owned()), "alice/*", Role::Push).await;
    let reply = site.get("scope=repository:alice/web:*", Some(("bob", PASSWORD))).await;
    assert_eq!(site.may(token(&reply)).await, [Decision::Allow, Decision::Allow]);
    let glob: RepositoryGlob = "alice/*".parse().unwrap();
    let subject = Subject::Account("bob".to_owned());
    let by = Actor::operator();
    let take = SetGrant { by, subject, glob, role: None, is_adding_only: false };
    site.database.write(take).await.unwrap();
    assert_eq!(site.may(token(&reply)).await, [Decision::Absent, Decision::Denied]);
    let set = SetState { by: Actor::operator(), name: "bob".to_owned(), is_active: false };
    site.database.write(set).await.unwrap();
    assert!(matches!(site.bearer(token(&reply)).await, Err(Refusal::Wrong)));
}

#[tokio::test]
async fn refresh_tokens_stay_with_a_device_until_the_password_changes() {
    let site = alice().await;
    let query = "offline_token=true&client_id=docker&scope=repository:alice/web:pull";
    let reply = site.get(query, ALICE).await;
    let kept = refresh(&reply).unwrap().to_owned();
    assert!(kept.starts_with("davit_ref_"));
    // It buys tokens, by form or as a password, and is none itself.
    let form = format!(
        "grant_type=refresh_token&refresh_token={kept}&service=x&scope=repository:alice/web:pull,push"
    );
    let (status, bought) = site.post(&form).await;
    assert_eq!((status, refresh(&bought)), (StatusCode::OK, None));
    assert_eq!(site.may(token(&bought)).await, [Decision::Allow, Decision::Allow]);
    site.get("", Some(("<token>", &kept))).await;
    assert!(matches!(site.bearer(&kept).await, Err(Refusal::Wrong)));
    assert!(matches!(site.basic("alice", &kept).await, Err(Refusal::Wrong)));

    let password = PasswordHash::new(&Secret::new("looking-glass")).unwrap();
    let set = SetPassword { by: Actor::operator(), name: "alice".to_owned(), password };
    site.database.write(set).await.unwrap();
    assert_eq!(site.post(&form).await.0, StatusCode::UNAUTHORIZED);
    assert!(matches!(site.bearer(token(&bought)).await, Err(Refusal::Wrong)));
}

#[tokio::test]
async fn access_tokens_fall_with_the_token_that_bought_them() {
    let site = alice().await;
    let (id, pat) = site.token("alice", "repository:alice/web:pull", None).await;
    let reply =
        site.get("offline_token=true&scope=repository:alice/web:*", Some(("alice", &pat))).await;
    assert_eq!(refresh(&reply), None, "it would outlive the token's limits");
    assert_eq!(site.may(token(&reply)).await, [Decision::Allow, Decision::Challenge]);
    let revoke = davit_registry::auth::accounts::RevokeToken {
        by: Actor::operator(),
        account: "alice".to_owned(),
        id,
    };
    site.database.write(revoke).await.unwrap();
    assert!(matches!(site.bearer(token(&reply)).await, Err(Refusal::Wrong)));
}

#[tokio::test]
async fn passwords_by_form() {
    let site = alice().await;
    let form = |password: &str| {
        format!(
            "grant_type=password&username=alice&password={password}&access_type=offline&scope=repository:alice/web:pull"
        )
    };
    let (status, reply) = site.post(&form(PASSWORD)).await;
    assert_eq!(status, StatusCode::OK);
    assert!(refresh(&reply).is_some());
    assert_eq!(site.post(&form("wrong-password")).await.0, StatusCode::UNAUTHORIZED);
    for (form, status) in [
        ("", StatusCode::BAD_REQUEST),
        ("grant_type=authorization_code", StatusCode::BAD_REQUEST),
        ("grant_type=refresh_token", StatusCode::UNAUTHORIZED),
        ("grant_type=refresh_token&refresh_token=x", StatusCode::UNAUTHORIZED),
        ("grant_type=password&scope=x", StatusCode::BAD_REQUEST),
        ("grant_type=password&grant_type=refresh_token", StatusCode::UNAUTHORIZED),
    ] {
        assert_eq!(site.post(form).await.0, status, "{form}");
    }
    let large = format!("grant_type=password&x={}", "a".repeat(70_000));
    assert_eq!(site.post(&large).await.0, StatusCode::BAD_REQUEST);
    let many = format!("grant_type=password&scope={}", "repository:a/b:pull%20".repeat(65));
    assert_eq!(site.post(&many).await.0, StatusCode::BAD_REQUEST);
}

/// Whether an account exists is told by neither status nor body.
#[tokio::test]
async fn refusals_are_alike() {
    let site = alice().await;
    let mut answers = Vec::new();
    for (name, password) in [("alice", "wrong-password"), ("nobody", "wrong-password"), ("", "")] {
        let request = Request::get("/token").header(header::AUTHORIZATION, basic(name, password));
        answers.push(site.ask(request.body(Body::empty()).unwrap()).await);
    }
    assert_eq!(answers[0].0, StatusCode::UNAUTHORIZED);
    assert!(answers.iter().all(|answer| answer == &answers[0]), "{answers:?}");
    let response = refused(&Refusal::Throttled(std::time::Duration::from_secs(7)));
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()[header::RETRY_AFTER], "7");
}

#[tokio::test]
async fn tokens_end_and_are_for_this_service_only() {
    let site = alice().await;
    let reply = site.get("scope=repository:alice/web:pull", ALICE).await;
    assert!(site.bearer(token(&reply)).await.is_ok());
    site.database.advance_clock(std::time::Duration::from_secs(301));
    assert!(matches!(site.bearer(token(&reply)).await, Err(Refusal::Wrong)), "known, but over");
    // The same keys and accounts under another name.
    let settings = AuthSettings { service: "other".to_owned(), ..AuthSettings::default() };
    let keys = site.dir.join("keys.json");
    let other = Auth::open(&site.database, &keys, settings).await.unwrap();
    let reply = site.get("scope=repository:alice/web:pull", ALICE).await;
    let header = HeaderValue::from_str(&format!("Bearer {}", token(&reply))).unwrap();
    let refused = other.authenticate(Some(&header), HERE).await;
    assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");
}

#[tokio::test]
async fn nodes_with_keys_of_their_own_trust_each_other() {
    let site = alice().await;
    let keys = site.dir.join("other-keys.json");
    let other = Auth::open(&site.database, &keys, AuthSettings::default()).await.unwrap();
    let reply = site.get("scope=repository:alice/web:pull", ALICE).await;
    let header = HeaderValue::from_str(&format!("Bearer {}", token(&reply))).unwrap();
    for _ in 0..2 {
        let caller = other.authenticate(Some(&header), HERE).await.unwrap();
        let need = Need::Repository(Action::Pull, "alice/web");
        assert_eq!(other.gate(&caller, need).await.unwrap(), Decision::Allow);
    }
    // A node of another registry is not trusted.
    let foreign = alice().await;
    assert!(matches!(foreign.bearer(token(&reply)).await, Err(Refusal::Wrong)));
}

/// A key is made beside two servers that share the file, and one that does not; all go on.
#[tokio::test]
async fn keys_change_while_servers_run() {
    let site = alice().await;
    let file = site.dir.join("keys.json");
    let shares = Auth::open(&site.database, &file, AuthSettings::default()).await.unwrap();
    let apart = site.dir.join("other-keys.json");
    let apart = Auth::open(&site.database, &apart, AuthSettings::default()).await.unwrap();
    let all = [&*site.auth, &shares, &apart];
    let query = "scope=repository:alice/web:pull";
    let good = async |text: &str| {
        let header = HeaderValue::from_str(&format!("Bearer {text}")).unwrap();
        let mut good = Vec::new();
        for auth in all {
            good.push(auth.authenticate(Some(&header), HERE).await.is_ok());
        }
        good
    };
    let kid = |token: &str| token.split_once('.').unwrap().0.to_owned();
    let old_keys = Keys::open(&file, 0).unwrap();
    let before = site.get(query, ALICE).await;
    let id = rotate_keys(&site.database, &file).await.unwrap();
    assert_ne!(id, old_keys.newest_id());
    // The server learns of it, and signs with the new key; what the old one signed still counts.
    site.auth.refresh_keys().await.unwrap();
    let after = site.get(query, ALICE).await;
    assert_ne!(kid(token(&before)), kid(token(&after)));
    assert_eq!(good(token(&before)).await, [true; 3]);
    assert_eq!(good(token(&after)).await, [true; 3]);
    for auth in all {
        auth.refresh_keys().await.unwrap();
    }
    // Eleven minutes later nothing that the old key signs counts, however new it says it is.
    site.database.advance_clock(std::time::Duration::from_secs(660));
    assert_eq!(good(token(&before)).await, [false; 3]);
    let now = site.database.now_ms() / 1000;
    let claims = |keys: &Keys| {
        let claims = Claims {
            issuer: "davit-registry".to_owned(),
            subject: String::new(),
            audience: "davit-registry".to_owned(),
            expires: now + 300,
            not_before: now,
            issued: now,
            id: "1".to_owned(),
            account: None,
            credential: None,
            epoch: 0,
            access: Vec::new(),
        };
        claims.sign(keys)
    };
    assert_eq!(good(&claims(&old_keys)).await, [false; 3]);
    assert_eq!(good(&claims(&Keys::open(&file, 0).unwrap())).await, [true; 3]);
    // A month later the servers make a key themselves, and those that share a file only one.
    site.database.advance_clock(std::time::Duration::from_secs(31 * 24 * 3600));
    for auth in all {
        auth.refresh_keys().await.unwrap();
    }
    let newest = Keys::open(&file, 0).unwrap();
    assert_ne!(newest.newest_id(), id);
    assert_eq!(newest.ids().count(), 2, "the first has ended");
    assert_eq!(good(token(&site.get(query, ALICE).await)).await, [true; 3]);
}

#[tokio::test]
async fn challenges_name_the_token_server_and_the_scope() {
    let site = alice().await;
    let mut headers = HeaderMap::new();
    headers.insert(header::HOST, HeaderValue::from_static("registry.test:5000"));
    let scopes = Auth::scope_of(Need::Repository(Action::MoveTag, "alice/web"));
    let text = site.auth.challenge(&headers, &scopes, Some("insufficient_scope"));
    let challenge = &Challenge::parse(text.to_str().unwrap())[0];
    assert_eq!(challenge.scheme(), "bearer");
    let parameter = |name| challenge.parameter(name).unwrap();
    assert_eq!(parameter("realm"), "http://registry.test:5000/token");
    assert_eq!(parameter("service"), "davit-registry");
    assert_eq!(parameter("scope"), "repository:alice/web:pull,push");
    assert_eq!(parameter("error"), "insufficient_scope");
    // What a client puts into `Host` cannot break out of the header's quotes.
    headers.insert(header::HOST, HeaderValue::from_static("a\",realm=\"http://evil"));
    let text = site.auth.challenge(&headers, &[], None);
    let challenge = &Challenge::parse(text.to_str().unwrap())[0];
    assert_eq!(challenge.parameter("realm"), Some("http://localhost/token"));
}
