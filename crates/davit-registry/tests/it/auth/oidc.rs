//! Log-in by an OpenID provider, and tokens of build systems: both against npm's `oidc-provider`.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use davit_distribution::Secret;
use davit_registry::auth::{
    AccountError,
    accounts::SetState,
    oidc::{
        AddTrust, Begin, Begun, Callback, Finished, ForeignIdentity, OidcError, Provider,
        RemoveTrust, SetProvider, identities, providers, trust_rules,
    },
};
use davit_test::need_node_package;
use serde_json::{Value as Json, json};

use super::*;

const REDIRECT: &str = "http://127.0.0.1:5000/oidc/idp/callback";
const SCRIPT: &str = include_str!("../../data/oidc_provider.mjs");

/// The provider's process; it ends with its standard input.
pub(crate) struct Idp {
    child: Child,
    pub(crate) issuer: String,
    /// Where it sends browsers back.
    redirect: &'static str,
    /// Open as long as it may print warnings.
    _output: BufReader<ChildStdout>,
    _dir: TempDir,
}

impl Idp {
    fn start() -> Option<Self> {
        Self::start_for(REDIRECT)
    }

    /// Makes it known to a registry, as `idp`.
    pub(crate) fn known(&self, signs_up: bool) -> SetProvider {
        let provider = Provider {
            issuer: self.issuer.clone(),
            client_id: "davit".to_owned(),
            client_secret: Some(Secret::new("a+b/c %:d")),
            signs_up,
        };
        SetProvider { by: Actor::operator(), name: "idp".to_owned(), provider }
    }

    pub(crate) fn start_for(redirect: &'static str) -> Option<Self> {
        let (node, modules) = need_node_package("oidc-provider@9.13.3")?;
        let dir = TempDir::new();
        let script = dir.join("provider.mjs");
        fs_err::write(&script, SCRIPT).unwrap();
        fs_err::os::unix::fs::symlink(modules, dir.join("node_modules")).unwrap();
        let mut command = Command::new(node);
        command.arg(script).arg(redirect).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        let mut issuer = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut issuer).unwrap();
        let issuer = issuer.trim().to_owned();
        assert!(issuer.starts_with("http://127.0.0.1:"), "{issuer}");
        Some(Self { child, issuer, redirect, _output: output, _dir: dir })
    }

    fn control(&self, what: &str, body: &str) -> String {
        let (status, _, answer) =
            http("POST", &format!("{}/control/{what}", self.issuer), "", body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Signs a build's token; `None` takes a claim out.
    fn mint(&self, site: &Site, changes: &[(&str, Option<Json>)]) -> String {
        let now = site.database.now_ms() / 1000;
        let mut claims = json!({
            "iss": self.issuer, "sub": "repo:acme/web:ref:refs/heads/main", "aud": "davit-ci",
            "exp": now + 300, "iat": now, "ref_protected": "true",
        });
        for (name, value) in changes {
            match value {
                Some(value) => claims[*name] = value.clone(),
                None => drop(claims.as_object_mut().unwrap().remove(*name)),
            }
        }
        self.control("mint", &claims.to_string())
    }

    /// What the browser comes back with after it logged in there.
    fn visit(&self, begun: &Begun, who: (&str, &str)) -> Callback {
        let url: url::Url = self.visit_page(&begun.location, who).parse().unwrap();
        let field = |name: &str| {
            url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        };
        let state = field("state").unwrap();
        Callback { state, code: field("code").map(Secret::new), issuer: field("iss") }
    }

    /// Where the browser is sent after it logged in there.
    pub(crate) fn visit_page(&self, location: &str, (who, name): (&str, &str)) -> String {
        self.control(&format!("as?who={who}&name={name}"), "");
        let (mut place, mut cookies) = (location.to_owned(), BTreeMap::new());
        for _ in 0..10 {
            if place.starts_with(self.redirect) {
                return place;
            }
            let jar: Vec<String> =
                cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let (status, headers, body) = http("GET", &place, &jar.join("; "), "");
            for (name, value) in &headers {
                let (key, rest) = value.split_once('=').unwrap_or((value, ""));
                match (name.as_str(), rest.split(';').next().unwrap()) {
                    ("set-cookie", "") => drop(cookies.remove(key)),
                    ("set-cookie", value) => drop(cookies.insert(key.to_owned(), value.to_owned())),
                    _ => {}
                }
            }
            let next = headers.iter().find(|(name, _)| name == "location");
            let next = next.unwrap_or_else(|| panic!("{place}: {status} {body}"));
            let base: url::Url = place.parse().unwrap();
            place = base.join(&next.1).unwrap().into();
        }
        panic!("the provider goes in circles");
    }
}

impl Drop for Idp {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

type HttpReply = (u16, Vec<(String, String)>, String);

fn http(method: &str, address: &str, cookie: &str, body: &str) -> HttpReply {
    let url: url::Url = address.parse().unwrap();
    let host = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let mut stream = TcpStream::connect(&host).unwrap();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nCookie: {cookie}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let header = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    (status, lines.map(header).collect(), body.to_owned())
}

/// A site that knows the provider, with `alice`.
async fn site(idp: &Idp, signs_up: bool) -> Site {
    let site = Site::with(throttled(1000, 1000)).await;
    site.add("alice", Kind::User).await;
    site.database.write(idp.known(signs_up)).await.unwrap();
    site
}

async fn begin(site: &Site, link: Option<i64>) -> Begun {
    let (provider, redirect) = ("idp".to_owned(), REDIRECT.to_owned());
    let begin = Begin { provider, redirect, link, invitation: None };
    site.auth.oidc_begin(begin, HERE).await.unwrap()
}

async fn finish(site: &Site, begun: &Begun, callback: &Callback) -> Result<Finished, OidcError> {
    site.auth.oidc_finish(callback, (begun.browser.expose(), None), HERE).await
}

async fn log_in(site: &Site, idp: &Idp, who: (&str, &str)) -> Result<Finished, OidcError> {
    let begun = begin(site, None).await;
    finish(site, &begun, &idp.visit(&begun, who)).await
}

/// The name of the account of a session.
async fn name(site: &Site, finished: &Finished) -> String {
    let Finished::Session(token) = finished else { panic!("{finished:?}") };
    let caller = site.auth.session(token.secret().expose()).await.unwrap().unwrap();
    let davit_registry::auth::Identity::Account { name, .. } = caller.identity else { panic!() };
    name
}

/// Who comes back with the provider's word was no attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_ins_that_succeed_throttle_nobody() {
    let Some(idp) = Idp::start() else { return };
    let site = Site::with(throttled(1000, 1)).await;
    site.database.write(idp.known(true)).await.unwrap();
    for _ in 0..3 {
        log_in(&site, &idp, ("s-nina", "Nina")).await.unwrap();
    }
    begin(&site, None).await;
    let (provider, redirect) = ("idp".to_owned(), REDIRECT.to_owned());
    let again = Begin { provider, redirect, link: None, invitation: None };
    let refused = site.auth.oidc_begin(again, HERE).await;
    assert!(matches!(refused, Err(OidcError::Refused(Refusal::Throttled(_)))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_log_in_by_a_provider() {
    let Some(idp) = Idp::start() else { return };
    let site = site(&idp, true).await;
    assert_eq!(providers(&site.database).await.unwrap()[0].client_id, "davit");
    let first = log_in(&site, &idp, ("s-nina", "Nina")).await.unwrap();
    assert_eq!(name(&site, &first).await, "nina");
    // The provider's name for someone may change, the account stays.
    let second = log_in(&site, &idp, ("s-nina", "alice")).await.unwrap();
    assert_eq!(name(&site, &second).await, "nina");
    let known = identities(&site.database, "nina").await.unwrap();
    let nina = ForeignIdentity { issuer: idp.issuer.clone(), subject: "s-nina".to_owned() };
    assert_eq!(known, [nina]);
    // Without a password there is none to log in with.
    assert!(matches!(site.basic("nina", "").await, Err(Refusal::Wrong)));

    // Who is called as someone here at the provider does not become that one.
    let begun = begin(&site, None).await;
    let callback = idp.visit(&begun, ("s-mallory", "alice"));
    let finished = finish(&site, &begun, &callback).await.unwrap();
    let Finished::NeedsName { ticket, suggestion } = finished else { panic!("{finished:?}") };
    assert_eq!(suggestion.as_deref(), Some("alice"));
    assert!(identities(&site.database, "alice").await.unwrap().is_empty());
    let browser = begun.browser.expose();
    let choose = async |ticket: &Secret, name: &str, browser: &str| {
        site.auth.oidc_sign_up(ticket.expose(), name, (browser, HERE)).await
    };
    let taken = choose(&ticket, "alice", browser).await.unwrap();
    let Finished::NeedsName { ticket: second, .. } = taken else { panic!("{taken:?}") };
    assert!(matches!(choose(&ticket, "mallory", browser).await, Err(OidcError::Flow)), "used");
    let stolen = choose(&second, "mallory", "another").await;
    assert!(matches!(stolen, Err(OidcError::Flow)), "{stolen:?}");
    // What another browser tried is over; from the start, then.
    let begun = begin(&site, None).await;
    let callback = idp.visit(&begun, ("s-mallory", "alice"));
    let finished = finish(&site, &begun, &callback).await.unwrap();
    let Finished::NeedsName { ticket, .. } = finished else { panic!("{finished:?}") };
    let chosen = choose(&ticket, "mallory", begun.browser.expose()).await.unwrap();
    assert_eq!(name(&site, &chosen).await, "mallory");
    // Nor does anybody get a robot's name, or one that is reserved.
    for (who, asked) in [("s-robot", "alice+ci"), ("s-admin", "admin"), ("s-none", "%20")] {
        let finished = log_in(&site, &idp, (who, asked)).await.unwrap();
        assert!(matches!(finished, Finished::NeedsName { .. }), "{finished:?}");
    }

    let set = SetState { by: Actor::operator(), name: "nina".to_owned(), is_active: false };
    site.database.write(set).await.unwrap();
    let refused = log_in(&site, &idp, ("s-nina", "Nina")).await;
    assert!(matches!(refused, Err(OidcError::Refused(Refusal::Wrong))), "{refused:?}");
    // New keys of the provider are learned from the first token that names one.
    idp.control("rotate", "");
    site.database.advance_clock(Duration::from_secs(61));
    let again = log_in(&site, &idp, ("s-mallory", "x")).await.unwrap();
    assert_eq!(name(&site, &again).await, "mallory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomers_need_leave_to_sign_up() {
    let Some(idp) = Idp::start() else { return };
    let site = site(&idp, false).await;
    let refused = log_in(&site, &idp, ("s-nina", "nina")).await;
    let is_closed = matches!(refused, Err(OidcError::Account(AccountError::Closed(_))));
    assert!(is_closed, "{refused:?}");
    // An identity comes to an account by its owner, who is logged in on both sides.
    let alice = site.basic("alice", PASSWORD).await.unwrap().account().unwrap();
    site.add("bob", Kind::User).await;
    let bob = site.basic("bob", PASSWORD).await.unwrap().account().unwrap();
    let link = async |account: i64, now: Option<i64>, who: (&str, &str)| {
        let begun = begin(&site, Some(account)).await;
        let callback = idp.visit(&begun, who);
        site.auth.oidc_finish(&callback, (begun.browser.expose(), now), HERE).await
    };
    for now in [None, Some(bob)] {
        let refused = link(alice, now, ("s-alice", "a")).await;
        assert!(matches!(refused, Err(OidcError::Flow)), "{refused:?}");
    }
    for _ in 0..2 {
        let linked = link(alice, Some(alice), ("s-alice", "a")).await.unwrap();
        assert!(matches!(linked, Finished::Linked), "{linked:?}");
    }
    let refused = link(bob, Some(bob), ("s-alice", "a")).await;
    let is_taken = matches!(refused, Err(OidcError::Account(AccountError::Exists(_))));
    assert!(is_taken, "{refused:?}");
    let session = log_in(&site, &idp, ("s-alice", "someone")).await.unwrap();
    assert_eq!(name(&site, &session).await, "alice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_were_not_asked_for_are_refused() {
    let Some(idp) = Idp::start() else { return };
    let site = site(&idp, true).await;
    let who = ("s-nina", "nina");
    let refused = async |change: &str, edit: &dyn Fn(&mut Begun, &mut Callback)| {
        let mut begun = begin(&site, None).await;
        let mut callback = idp.visit(&begun, who);
        edit(&mut begun, &mut callback);
        let outcome = finish(&site, &begun, &callback).await;
        assert!(outcome.is_err(), "{change}: {outcome:?}");
        outcome.unwrap_err()
    };
    let error = refused("another browser", &|begun, _| begun.browser = Secret::new("x")).await;
    assert!(matches!(error, OidcError::Flow), "{error:?}");
    let error = refused("no such state", &|_, callback| callback.state.push('x')).await;
    assert!(matches!(error, OidcError::Flow), "{error:?}");
    let error = refused("gave up", &|_, callback| callback.code = None).await;
    assert!(matches!(error, OidcError::Flow), "{error:?}");
    for issuer in [None, Some("https://evil.test".to_owned())] {
        let error = refused("mixed up", &|_, callback| callback.issuer.clone_from(&issuer)).await;
        assert!(matches!(error, OidcError::Issuer(_)), "{error:?}");
    }
    refused("a wrong code", &|_, callback| callback.code = Some(Secret::new("x"))).await;
    // What is in the database of the log-in: another nonce, another PKCE verifier.
    for (field, told) in [("nonce", "another log-in"), ("verifier", "cannot be reached")] {
        site.sql("DELETE FROM login_flow", Vec::new()).await;
        let begun = begin(&site, None).await;
        let callback = idp.visit(&begun, who);
        let mut reader = site.database.reader().await.unwrap();
        let row = reader.row("SELECT flow FROM login_flow", Vec::new()).await.unwrap().unwrap();
        drop(reader);
        let mut flow: Json = serde_json::from_str(&row.get::<String>(0).unwrap()).unwrap();
        flow[field] = "x".repeat(43).into();
        let text = flow.to_string();
        site.sql("UPDATE login_flow SET flow = $1", vec![text.as_str().into()]).await;
        let error = finish(&site, &begun, &callback).await.unwrap_err();
        assert!(error.to_string().contains(told), "{field}: {error}");
    }
    // Once, and within a quarter of an hour.
    let begun = begin(&site, None).await;
    let callback = idp.visit(&begun, who);
    finish(&site, &begun, &callback).await.unwrap();
    let again = finish(&site, &begun, &callback).await;
    assert!(matches!(again, Err(OidcError::Flow)), "{again:?}");
    let begun = begin(&site, None).await;
    let callback = idp.visit(&begun, who);
    site.database.advance_clock(Duration::from_secs(901));
    let late = finish(&site, &begun, &callback).await;
    assert!(matches!(late, Err(OidcError::Flow)), "{late:?}");
    let begin = Begin {
        provider: "other".to_owned(),
        redirect: REDIRECT.to_owned(),
        link: None,
        invitation: None,
    };
    assert!(matches!(site.auth.oidc_begin(begin, HERE).await, Err(OidcError::NoProvider)));
}

async fn trust(site: &Site, robot: &str, issuer: &str, sub: &str) -> Result<i64, String> {
    let claims = [("sub", sub), ("ref_protected", "true")];
    let add = AddTrust {
        by: Actor::operator(),
        robot: robot.to_owned(),
        issuer: issuer.to_owned(),
        audience: "davit-ci".to_owned(),
        claims: claims.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    };
    site.database.write(add).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn builds_exchange_their_tokens() {
    let Some(idp) = Idp::start() else { return };
    let site = site(&idp, false).await;
    site.add("acme", Kind::Organisation).await;
    for robot in ["acme+ci", "acme+release"] {
        site.add(robot, Kind::Robot).await;
        site.grant(Subject::Account(robot.to_owned()), "acme/*", Role::Push).await;
    }
    let id = trust(&site, "acme+ci", &idp.issuer, "repo:acme/web:*").await.unwrap();
    assert!(trust(&site, "alice", &idp.issuer, "x").await.is_err(), "people are not robots");
    assert!(trust(&site, "acme+ci", "http://idp.test", "x").await.is_err());
    let exchange = async |token: &str, more: &str| {
        let kind = "urn:ietf:params:oauth:token-type:jwt";
        let grant = "urn:ietf:params:oauth:grant-type:token-exchange";
        let form = format!(
            "grant_type={grant}&subject_token={token}&subject_token_type={kind}\
             &scope=repository:acme/web:pull,push&{more}"
        );
        site.form(&form).await
    };
    let good = idp.mint(&site, &[]);
    let (status, reply) = exchange(&good, "").await;
    assert_eq!(status, 200, "{reply}");
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    assert_eq!(
        (&reply["issued_token_type"], &reply["token_type"]),
        (&json!(kind), &json!("Bearer"))
    );
    let caller = site.bearer(reply["access_token"].as_str().unwrap()).await.unwrap();
    assert_eq!(site.decide(&caller, Action::Push, "acme/web").await, Decision::Allow);
    assert_eq!(site.decide(&caller, Action::Push, "acme/db").await, Decision::Challenge);
    assert_eq!(site.decide(&caller, Action::DeleteTag, "acme/web").await, Decision::Denied);
    // A key for an hour, for clients that log in by password.
    let key = "requested_token_type=urn:ietf:params:oauth:token-type:refresh_token";
    let (status, reply) = exchange(&good, key).await;
    assert_eq!((status, &reply["account"]), (200, &json!("acme+ci")), "{reply}");
    let password = reply["access_token"].as_str().unwrap().to_owned();
    site.basic("acme+ci", &password).await.unwrap();

    let now = site.database.now_ms() / 1000;
    let unsigned = format!("{}.{}.", "eyJhbGciOiJub25lIn0", good.split('.').nth(1).unwrap());
    // The first character of a signature has six bits of it, the last one fewer.
    let (message, rest) = good.rsplit_once('.').unwrap();
    let first = if rest.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{message}.{first}{}", &rest[1..]);
    let (head, signature) = (good.split('.').next().unwrap(), good.rsplit('.').next().unwrap());
    let other = idp.mint(&site, &[("sub", Some(json!("repo:evil/web:x")))]);
    let spliced = format!("{head}.{}.{signature}", other.split('.').nth(1).unwrap());
    let mint = |changes: &[(&str, Option<Json>)]| idp.mint(&site, changes);
    let cases = [
        ("another repository", other.clone()),
        ("another audience", mint(&[("aud", Some(json!("others")))])),
        ("no audience", mint(&[("aud", None)])),
        ("expired", mint(&[("exp", Some(json!(now - 61)))])),
        ("endless", mint(&[("exp", None)])),
        ("not yet", mint(&[("nbf", Some(json!(now + 120)))])),
        ("a branch that is not protected", mint(&[("ref_protected", Some(json!("false")))])),
        ("a claim is missing", mint(&[("ref_protected", None)])),
        ("an issuer that nobody trusts", mint(&[("iss", Some(json!("http://127.0.0.1:1")))])),
        ("no issuer", mint(&[("iss", None)])),
        ("unsigned", unsigned),
        ("tampered", tampered),
        ("spliced", spliced),
        ("no token", "x".to_owned()),
        ("nothing", String::new()),
    ];
    for (what, token) in cases {
        let (status, reply) = exchange(&token, "").await;
        assert_eq!((status, &reply["error"]), (400, &json!("invalid_grant")), "{what}: {reply}");
    }
    for more in ["actor_token=x", "requested_token_type=x"] {
        assert_eq!(exchange(&good, more).await.1["error"], "invalid_request", "{more}");
    }
    // Rules of two robots fit: the build says which it means.
    trust(&site, "acme+release", &idp.issuer, "repo:acme/*:ref:refs/heads/main").await.unwrap();
    assert_eq!(exchange(&good, "").await.1["error"], "invalid_target");
    for (account, status) in [("acme%2Bci", 200), ("acme%2Brelease", 200), ("alice", 400)] {
        let (got, reply) = exchange(&good, &format!("account={account}")).await;
        assert_eq!(got, status, "{account}: {reply}");
    }
    // The issuer's new key, then the end of each: rule, robot, key.
    idp.control("rotate", "");
    site.database.advance_clock(Duration::from_secs(61));
    let fresh = idp.mint(&site, &[]);
    assert_eq!(exchange(&fresh, "account=acme%2Bci").await.0, 200);
    assert_eq!(exchange(&good, "account=acme%2Bci").await.0, 400, "its key is gone");
    let (status, reply) = exchange(&fresh, &format!("{key}&account=acme%2Brelease")).await;
    assert_eq!(status, 200, "{reply}");
    let other_password = reply["access_token"].as_str().unwrap().to_owned();
    site.basic("acme+ci", &password).await.unwrap();
    let remove = RemoveTrust { by: Actor::operator(), robot: "acme+ci".to_owned(), id };
    site.database.write(remove).await.unwrap();
    assert!(site.basic("acme+ci", &password).await.is_err(), "a key outlives its rule");
    assert_eq!(trust_rules(&site.database, "acme+ci").await.unwrap(), []);
    assert_eq!(exchange(&fresh, "account=acme%2Bci").await.0, 400);
    let set = |is_active| {
        let name = "acme+release".to_owned();
        site.database.write(SetState { by: Actor::operator(), name, is_active })
    };
    set(false).await.unwrap();
    assert_eq!(exchange(&fresh, "").await.0, 400);
    assert!(site.basic("acme+release", &other_password).await.is_err());
    set(true).await.unwrap();
    site.basic("acme+release", &other_password).await.unwrap();
    site.database.advance_clock(Duration::from_secs(3600));
    assert!(site.basic("acme+release", &other_password).await.is_err());
}

#[tokio::test]
async fn rules_that_trust_everyone_are_refused() {
    let site = Site::new().await;
    site.add("acme", Kind::Organisation).await;
    site.add("acme+ci", Kind::Robot).await;
    let add = |claims: &[(&str, &str)]| AddTrust {
        by: Actor::operator(),
        robot: "acme+ci".to_owned(),
        issuer: "https://token.actions.example".to_owned(),
        audience: "davit".to_owned(),
        claims: claims.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
    };
    for claims in [&[][..], &[("sub", "*")], &[("sub", "**"), ("ref", "")]] {
        assert!(site.database.write(add(claims)).await.is_err(), "{claims:?}");
    }
    site.database.write(add(&[("sub", "repo:acme/*")])).await.unwrap();
    let rules = trust_rules(&site.database, "acme+ci").await.unwrap();
    assert_eq!(rules[0].claims, BTreeMap::from([("sub".to_owned(), "repo:acme/*".to_owned())]));
}
