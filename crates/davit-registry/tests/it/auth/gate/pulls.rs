//! Pulls: what is in memory, and how many are allowed.

use davit_registry::auth::accounts::{SetState, SetVisibility};

use super::*;

/// Manifests come from memory: what makes them unreadable counts all the same.
#[tokio::test]
async fn what_is_kept_in_memory_is_behind_the_gate() {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    let oci = site.oci();
    let alice = basic("alice", PASSWORD);
    let path = "/v2/alice/app/manifests/v1";
    let pushed = send(&oci, (&Method::PUT, path), Some(&alice), manifest(1)).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    let get = async |who: Option<&HeaderValue>| send(&oci, (&Method::GET, path), who, "").await;
    assert_eq!(get(None).await.status, StatusCode::UNAUTHORIZED);
    for (is_public, expected) in
        [(true, StatusCode::OK), (false, StatusCode::UNAUTHORIZED), (true, StatusCode::OK)]
    {
        let (by, path) = (Actor::operator(), "alice/app".to_owned());
        site.database.write(SetVisibility { by, path, is_public }).await.unwrap();
        assert_eq!(get(None).await.status, expected);
    }
    assert_eq!(get(Some(&alice)).await.status, StatusCode::OK);
    let set = SetState { by: Actor::operator(), name: "alice".to_owned(), is_active: false };
    site.database.write(set).await.unwrap();
    assert_eq!(get(Some(&alice)).await.status, StatusCode::UNAUTHORIZED);
}

/// Pulls are counted by account, and for nobody by address; `HEAD` is free.
#[tokio::test]
async fn pulls_have_a_limit() {
    let site = Site::new().await;
    for name in ["alice", "bob"] {
        site.add(name, Kind::User).await;
    }
    let (account, address) = (Some("2/6h".parse().unwrap()), Some("1/6h".parse().unwrap()));
    let oci = site.oci_with(PullLimits { account, address });
    let alice = basic("alice", PASSWORD);
    let path = "/v2/alice/app/manifests/v1";
    let pushed = send(&oci, (&Method::PUT, path), Some(&alice), manifest(1)).await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    let (by, name) = (Actor::operator(), "alice/app".to_owned());
    site.database.write(SetVisibility { by, path: name, is_public: true }).await.unwrap();
    let told = |answer: &Answer| {
        let header = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap());
        let names = ["ratelimit-limit", "ratelimit-remaining", "docker-ratelimit-source"];
        let [limit, left, source] = names.map(|name| header(name).unwrap_or("-").to_owned());
        (answer.status.as_u16(), limit, left, source)
    };
    let of = |status: u16, limit: &str, left: &str, source: &str| {
        (status, limit.to_owned(), left.to_owned(), source.to_owned())
    };
    let ask = async |method: Method, path: &str, who: Option<&HeaderValue>| {
        send(&oci, (&method, path), who, "").await
    };
    let limit = "2;w=21600";
    for (method, left) in [(Method::HEAD, "2"), (Method::GET, "1"), (Method::HEAD, "1")] {
        let answer = ask(method, path, Some(&alice)).await;
        assert_eq!(told(&answer), of(200, limit, &format!("{left};w=21600"), "alice"));
    }
    // What is not there counts too, and tells the same.
    let absent = ask(Method::GET, "/v2/alice/app/manifests/v2", Some(&alice)).await;
    assert_eq!(told(&absent), of(404, limit, "0;w=21600", "alice"));
    let over = ask(Method::GET, path, Some(&alice)).await;
    assert_eq!(told(&over), of(429, limit, "0;w=21600", "alice"));
    assert_eq!(over.code(), "TOOMANYREQUESTS");
    let wait: u64 = over.headers[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
    assert!((10_000..=10_800).contains(&wait), "{wait}");
    // Tokens of the account are counted with it; other accounts, addresses and requests are not.
    let (_, pat) = site.token("alice", "", None).await;
    assert_eq!(ask(Method::GET, path, Some(&bearer(&pat))).await.status.as_u16(), 429);
    assert_eq!(ask(Method::HEAD, path, Some(&alice)).await.status, StatusCode::OK);
    assert_eq!(
        ask(Method::GET, "/v2/alice/app/tags/list", Some(&alice)).await.status.as_u16(),
        200
    );
    let bob = ask(Method::GET, path, Some(&basic("bob", PASSWORD))).await;
    assert_eq!(told(&bob), of(200, limit, "1;w=21600", "bob"));
    let nobody = [ask(Method::GET, path, None).await, ask(Method::GET, path, None).await];
    assert_eq!(told(&nobody[0]), of(200, "1;w=21600", "0;w=21600", "0.0.0.0"));
    assert_eq!(nobody[1].status.as_u16(), 429);
    let unlimited = send(&site.oci(), (&Method::GET, path), Some(&alice), "").await;
    assert_eq!(told(&unlimited), of(200, "-", "-", "-"));
}
