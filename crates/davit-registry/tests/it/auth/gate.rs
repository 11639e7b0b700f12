//! Every route of the registry for every sort of caller, on private, public and absent repositories.

use axum::body::Body;
use davit_distribution::wire::{Catalog, Challenge};
use davit_registry::{
    config::Limits,
    oci::{Oci, Operation, ROUTES},
    ratelimit::PullLimits,
    registry::Registry,
    server::Metrics,
    store::{Store, StoreLocation},
};
use http::{HeaderMap, Method, Request, StatusCode, header};
use serde_json::Value as Json;

use super::*;

mod mirrors;
mod mounts;
mod pulls;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// SHA-256 of nothing; no manifest has it.
const ABSENT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn code(&self) -> String {
        let body: Json = serde_json::from_slice(&self.body).unwrap_or_default();
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl Site {
    pub(super) fn oci(&self) -> Oci {
        self.oci_with(PullLimits::default())
    }

    fn oci_with(&self, pulls: PullLimits) -> Oci {
        Oci::new(self.registry(pulls), Arc::clone(&self.auth), Arc::new(Metrics::default()))
    }

    fn registry(&self, pulls: PullLimits) -> Registry {
        let store = Store::open(&StoreLocation::Directory(self.dir.join("store"))).unwrap();
        // The tests push no layers.
        let limits = Limits { sparse: true, pulls, ..Limits::default() };
        Registry::new(self.database.clone(), store, limits)
    }
}

async fn send(
    oci: &Oci,
    (method, path): (&Method, &str),
    authorization: Option<&HeaderValue>,
    body: &'static str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(header::HOST, "registry.test").header(header::CONTENT_TYPE, MANIFEST);
    if let Some(value) = authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    let response = oci.serve(request.body(Body::from(body)).unwrap()).await;
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer { status: parts.status, headers: parts.headers, body }
}

fn bearer(token: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Bearer {token}")).unwrap()
}

/// The least role for an operation on one repository; `None`: it is not about one.
///
/// Written down once more, apart from the gate's own table.
const fn least_role(operation: Operation) -> Option<Role> {
    match operation {
        Operation::Ping | Operation::Catalog => None,
        Operation::Tags | Operation::Referrers | Operation::GetManifest | Operation::GetBlob => {
            Some(Role::Pull)
        }
        Operation::PutManifest
        | Operation::BeginUpload
        | Operation::UploadStatus
        | Operation::AppendUpload
        | Operation::FinishUpload
        | Operation::CancelUpload => Some(Role::Push),
        Operation::DeleteManifest | Operation::DeleteBlob => Some(Role::Maintain),
    }
}

pub(super) struct Someone {
    pub(super) who: &'static str,
    pub(super) authorization: Option<HeaderValue>,
    /// Whether the credential is one.
    pub(super) is_valid: bool,
    pub(super) is_account: bool,
    /// On `acme/*`.
    pub(super) role: Option<Role>,
}

/// A company whose members have each of the roles on `acme/*`, strangers, and what is no credential.
pub(super) async fn people(site: &Site) -> Vec<Someone> {
    site.add("acme", Kind::Organisation).await;
    site.add("umbrella", Kind::Organisation).await;
    let mut people = Vec::new();
    let mut someone = |who, authorization: Option<HeaderValue>, role| {
        let is_account = authorization.is_some();
        people.push(Someone { who, authorization, is_valid: true, is_account, role });
    };
    for (name, role) in [
        ("owner", None),
        ("pulls", Some(Role::Pull)),
        ("pushes", Some(Role::Push)),
        ("maintains", Some(Role::Maintain)),
        ("administers", Some(Role::Admin)),
        ("member", None),
        ("stranger", None),
        ("other-owner", None),
    ] {
        site.add(name, Kind::User).await;
        match role {
            Some(role) => {
                site.member("acme", name, OrgRole::Member).await;
                site.team("acme", name, &[name]).await;
                let team = Subject::Team("acme".to_owned(), name.to_owned());
                site.grant(team, "acme/*", role).await;
            }
            None if name == "owner" => site.member("acme", name, OrgRole::Owner).await,
            None if name == "member" => site.member("acme", name, OrgRole::Member).await,
            None if name == "other-owner" => site.member("umbrella", name, OrgRole::Owner).await,
            None => {}
        }
        let role = if name == "owner" { Some(Role::Admin) } else { role };
        someone(name, Some(basic(name, PASSWORD)), role);
    }
    site.add("acme+ci", Kind::Robot).await;
    site.grant(Subject::Account("acme+ci".to_owned()), "acme/*", Role::Push).await;
    let (_, robot) = site.token("acme+ci", "", None).await;
    someone("robot", Some(basic("acme+ci", &robot)), Some(Role::Push));
    site.add("umbrella+ci", Kind::Robot).await;
    let (_, robot) = site.token("umbrella+ci", "", None).await;
    someone("other robot", Some(bearer(&robot)), None);
    someone("anonymous", None, None);
    let (_, expired) = site.token("owner", "", Some(-1)).await;
    for (who, header) in
        [("expired", bearer(&expired)), ("no token", bearer("eyJhbGciOiJub25lIn0.e30."))]
    {
        let (is_valid, is_account) = (false, false);
        people.push(Someone { who, authorization: Some(header), is_valid, is_account, role: None });
    }
    people
}

/// The route's path with what no repository has.
fn path(template: &str, name: &str, reference: &str) -> String {
    template
        .replace("{name}", name)
        .replace("{reference}", reference)
        .replace("{digest}", ABSENT)
        .replace("{session}", "01890a5d-ac96-774b-bcce-b302099a8057")
}

/// What reading from an absent repository answers.
const fn unknown(operation: Operation) -> &'static str {
    match operation {
        Operation::GetManifest => "MANIFEST_UNKNOWN",
        Operation::GetBlob => "BLOB_UNKNOWN",
        _ => "NAME_UNKNOWN",
    }
}

fn check_refusal(answer: &Answer, is_account: bool, operation: Operation, sees: bool, told: &str) {
    let reads = least_role(operation) == Some(Role::Pull);
    let expected = match (is_account, reads) {
        (false, _) => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
        (true, true) if !sees => (StatusCode::NOT_FOUND, unknown(operation)),
        (true, _) => (StatusCode::FORBIDDEN, "DENIED"),
    };
    assert_eq!((answer.status, answer.code().as_str()), expected, "{told}");
    let challenge = answer.headers.get(header::WWW_AUTHENTICATE);
    assert_eq!(challenge.is_some(), !is_account, "{told}");
    if let Some(challenge) = challenge {
        let challenge = &Challenge::parse(challenge.to_str().unwrap())[0];
        assert_eq!(challenge.parameter("realm"), Some("http://registry.test/token"), "{told}");
        let scope = challenge.parameter("scope").unwrap();
        assert!(scope.starts_with("repository:acme/"), "{told}: {scope}");
    }
}

#[tokio::test]
async fn every_route_for_every_caller() {
    let site = Site::with(throttled(u32::MAX, u32::MAX)).await;
    let people = people(&site).await;
    site.repository("acme/private", "private").await;
    site.repository("acme/public", "public").await;
    let oci = site.oci();
    let routes = ROUTES.iter().filter(|(.., operation)| least_role(*operation).is_some());
    let (mut allowed, mut refused) = (0, 0);
    for (method, template, operation) in routes {
        let least = least_role(*operation).unwrap();
        for someone in &people {
            for name in ["acme/private", "acme/public", "acme/absent"] {
                for reference in ["none", ABSENT] {
                    let path = path(template, name, reference);
                    let authorization = someone.authorization.as_ref();
                    let answer = send(&oci, (method, &path), authorization, "").await;
                    let told = format!("{}: {method} {path}: {answer:?}", someone.who);
                    let public = (name == "acme/public").then_some(Role::Pull);
                    // A credential that is none does not make anyone anonymous.
                    let role = if someone.is_valid { someone.role.max(public) } else { None };
                    if role >= Some(least) {
                        let codes = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
                        assert!(!codes.contains(&answer.status), "{told}");
                        let is_hidden = answer.code() == "NAME_UNKNOWN" && name != "acme/absent";
                        assert!(!is_hidden, "{told}");
                        allowed += 1;
                    } else {
                        check_refusal(
                            &answer,
                            someone.is_account,
                            *operation,
                            role.is_some(),
                            &told,
                        );
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(allowed > 200 && refused > 400, "{allowed} {refused}");
}

#[tokio::test]
async fn private_and_absent_names_answer_alike() {
    let site = Site::with(throttled(u32::MAX, u32::MAX)).await;
    let people = people(&site).await;
    site.repository("acme/secret", "private").await;
    let oci = site.oci();
    let replace = |answer: &mut Answer, name: &str| {
        let challenge = answer.headers.get(header::WWW_AUTHENTICATE).cloned();
        if let Some(challenge) = challenge {
            let text = challenge.to_str().unwrap().replace(name, "NAME");
            answer.headers.insert(header::WWW_AUTHENTICATE, text.parse().unwrap());
        }
    };
    let mut compared = 0;
    for (method, template, operation) in ROUTES {
        let Some(least) = least_role(*operation) else { continue };
        for someone in people.iter().filter(|someone| someone.role < Some(least)) {
            // Who has some role there may know the name.
            if someone.role.is_some() {
                continue;
            }
            let mut answers = Vec::new();
            for name in ["acme/secret", "acme/absent"] {
                let path = path(template, name, "v1");
                let mut answer =
                    send(&oci, (method, &path), someone.authorization.as_ref(), "").await;
                replace(&mut answer, name);
                answers.push(answer);
            }
            assert_eq!(answers[0], answers[1], "{}: {method} {template}", someone.who);
            compared += 1;
        }
    }
    assert!(compared > 80, "{compared}");
}

#[tokio::test]
async fn the_base_needs_any_valid_credential() {
    let site = Site::new().await;
    let people = people(&site).await;
    let oci = site.oci();
    for someone in &people {
        for path in ["/v2/", "/v2"] {
            let authorization = someone.authorization.as_ref();
            let answer = send(&oci, (&Method::GET, path), authorization, "").await;
            let is_in = someone.is_valid && someone.is_account;
            let expected = if is_in { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
            assert_eq!(answer.status, expected, "{}", someone.who);
            assert_eq!(answer.headers.contains_key(header::WWW_AUTHENTICATE), !is_in);
        }
    }
    // Nobody gets a token too, and is let in with it.
    let token = bearer(site.get("service=davit-registry", None).await.bearer().unwrap().expose());
    let answer = send(&oci, (&Method::GET, "/v2/"), Some(&token), "").await;
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test]
async fn the_catalog_names_what_may_be_read() {
    let site = Site::new().await;
    let people = people(&site).await;
    site.repository("acme/public", "public").await;
    for at in 0..5 {
        let path = format!("acme/private{at}");
        let sql = "INSERT INTO repo (path, created_at) VALUES ($1, 0)";
        site.sql(sql, vec![path.as_str().into()]).await;
    }
    site.repository("zebra/public", "public").await;
    let oci = site.oci();
    for someone in people.iter().filter(|someone| someone.is_valid) {
        let (mut names, mut next) = (Vec::new(), Some("/v2/_catalog?n=1".to_owned()));
        while let Some(path) = next {
            let authorization = someone.authorization.as_ref();
            let answer = send(&oci, (&Method::GET, &path), authorization, "").await;
            if !someone.is_account {
                assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
                break;
            }
            let link = answer.headers.get(header::LINK).map(|link| link.to_str().unwrap());
            // Not even the link to the next page names a repository that is not listed.
            assert!(someone.role.is_some() || link.is_none_or(|link| !link.contains("private")));
            next = link.map(|link| link[1..link.find('>').unwrap()].to_owned());
            let page: Catalog = serde_json::from_slice(&answer.body).unwrap();
            names.extend(page.repositories);
        }
        let expected = match (someone.is_account, someone.role) {
            (false, _) => 0,
            (true, None) => 2,
            (true, Some(_)) => 7,
        };
        assert_eq!(names.len(), expected, "{}: {names:?}", someone.who);
    }
    let token = site.get("scope=registry:catalog:*", None).await;
    let token = bearer(token.bearer().unwrap().expose());
    let answer = send(&oci, (&Method::GET, "/v2/_catalog"), Some(&token), "").await;
    let page: Catalog = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(page.repositories, ["acme/public", "zebra/public"]);
}

fn manifest(number: u32) -> &'static str {
    let config = format!("sha256:{number:064x}");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":1}},"layers":[]}}"#
    );
    Box::leak(text.into_boxed_str())
}

/// CVE-2026-31801 and zot #4266: whether a tag is made or moved is what counts, by whatever route.
#[tokio::test]
async fn tags_are_moved_only_by_those_who_may() {
    let site = Site::new().await;
    site.add("alice", Kind::User).await;
    site.add("alice+ci", Kind::Robot).await;
    let glob: RepositoryGlob = "alice/*".parse().unwrap();
    let grant = SetGrant {
        by: Actor::operator(),
        subject: Subject::Account("alice+ci".to_owned()),
        glob,
        role: Some(Role::Push),
        is_adding_only: true,
    };
    site.database.write(grant).await.unwrap();
    let (_, robot) = site.token("alice+ci", "", None).await;
    let (_, create) = site.token("alice", "repository:alice/*:pull,create", None).await;
    let oci = site.oci();
    let digest = davit_image::Digest::of(manifest(2).as_bytes());
    let by_digest = format!("/v2/alice/app/manifests/{digest}?tag=latest");
    let put = |path: &'static str| (Method::PUT, path.to_owned());
    let (forbidden, unauthorized) = (StatusCode::FORBIDDEN, StatusCode::UNAUTHORIZED);
    // A token that is too narrow asks for another before it begins; what shows later is refused.
    for (credential, no_delete) in [(bearer(&robot), forbidden), (bearer(&create), unauthorized)] {
        let refused = forbidden;
        let send = |(method, path): (Method, String), body| {
            let (oci, credential) = (&oci, &credential);
            async move { send(oci, (&method, &path), Some(credential), body).await }
        };
        let latest = put("/v2/alice/app/manifests/latest");
        let made = send(latest.clone(), manifest(1)).await;
        assert_eq!(made.status, StatusCode::CREATED, "{made:?}");
        // The same again moves nothing.
        assert_eq!(send(latest.clone(), manifest(1)).await.status, StatusCode::CREATED);
        let moved = send(latest, manifest(2)).await;
        assert_eq!(moved.status, refused, "{moved:?}");
        let moved = send((Method::PUT, by_digest.clone()), manifest(2)).await;
        assert_eq!(moved.status, refused, "{moved:?}");
        let got = send((Method::GET, "/v2/alice/app/manifests/latest".to_owned()), "").await;
        assert_eq!(got.body, manifest(1).as_bytes());
        // All tags of a push, or none.
        let both = format!("/v2/alice/app/manifests/{digest}?tag=fresh&tag=latest");
        assert_eq!(send((Method::PUT, both), manifest(2)).await.status, refused);
        let got = send((Method::GET, "/v2/alice/app/manifests/fresh".to_owned()), "").await;
        assert_eq!(got.status, StatusCode::NOT_FOUND);
        let delete = (Method::DELETE, "/v2/alice/app/manifests/latest".to_owned());
        assert_eq!(send(delete, "").await.status, no_delete);
    }
    let alice = basic("alice", PASSWORD);
    let path = "/v2/alice/app/manifests/latest";
    let moved = send(&oci, (&Method::PUT, path), Some(&alice), manifest(2)).await;
    assert_eq!(moved.status, StatusCode::CREATED);
}

/// A session belongs to whoever began it, also among those who may push.
#[tokio::test]
async fn sessions_are_their_owners() {
    let site = Site::new().await;
    for name in ["alice", "bob"] {
        site.add(name, Kind::User).await;
    }
    site.grant(Subject::Account("bob".to_owned()), "alice/*", Role::Push).await;
    let oci = site.oci();
    let (alice, bob) = (basic("alice", PASSWORD), basic("bob", PASSWORD));
    let begun = send(&oci, (&Method::POST, "/v2/alice/app/blobs/uploads/"), Some(&alice), "").await;
    assert_eq!(begun.status, StatusCode::ACCEPTED);
    let place = begun.headers[header::LOCATION].to_str().unwrap().to_owned();
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        let answer = send(&oci, (&method, &place), Some(&bob), "").await;
        let told = (answer.status, answer.code());
        assert_eq!(told, (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN".to_owned()), "{method}");
    }
    let answer = send(&oci, (&Method::GET, &place), Some(&alice), "").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
}
