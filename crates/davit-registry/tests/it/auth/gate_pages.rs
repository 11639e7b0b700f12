//! Every operation of the API, every form and every page, for every sort of caller.

use axum::body::Body;
use davit_registry::{
    api::{self, Api, Rule},
    auth::accounts::{AddAccount, SetVisibility},
    config::Limits,
    registry::Registry,
    store::Store,
    web::{PAGES, Page, Web},
};
use http::{HeaderMap, Method, Request, StatusCode, header};

use super::{
    gate::{Someone, people},
    *,
};

/// SHA-256 of nothing; no manifest has it.
const ABSENT: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What each operation needs, written down once more, apart from the API's own table.
#[allow(clippy::too_many_lines, reason = "a flat table")]
fn wanted(id: &str) -> Rule {
    use Action::{ChangeAccess, ChangeSettings, DeleteManifest, DeleteTag, Pull, Push};
    match id {
        "getServer" | "getDocument" | "getHealth" | "signUp" | "listRepositories" => Rule::Open,
        "getMe" | "listOrganisations" => Rule::Credential,
        "createOrganisation" => Rule::User,
        "getStorage"
        | "getSettings"
        | "setSettings"
        | "getGc"
        | "runGc"
        | "explainDigest"
        | "runCheck"
        | "listAudit"
        | "checkAudit"
        | "createInvitation"
        | "listUsers"
        | "createUser"
        | "changeAccount"
        | "deleteAccount"
        | "listAllGrants"
        | "setAnyGrant"
        | "removeAnyGrant"
        | "listAllBuilds"
        | "listServerWebhooks"
        | "getServerWebhook"
        | "createServerWebhook"
        | "deleteServerWebhook"
        | "enableServerWebhook"
        | "testServerWebhook"
        | "listServerDeliveries"
        | "redeliverForServer"
        | "listMirrors"
        | "createMirror"
        | "deleteMirror"
        | "listReplicationRules"
        | "createReplicationRule"
        | "deleteReplicationRule"
        | "runReplicationRule"
        | "listProviders"
        | "setProvider"
        | "deleteProvider"
        | "listDirectories"
        | "setDirectory"
        | "deleteDirectory"
        | "syncDirectory"
        | "getComparison"
        | "listGroupMaps"
        | "createGroupMap"
        | "deleteGroupMap"
        | "listTrustRules"
        | "createTrustRule"
        | "deleteTrustRule" => Rule::SiteAdmin,
        "getAccount" | "getUsage" | "getOrganisation" => Rule::SeeAccount,
        "setPassword" | "listAccountAudit" | "deleteOrganisation" | "setMember"
        | "removeMember" | "createTeam" | "deleteTeam" | "addTeamMember" | "removeTeamMember"
        | "listTokens" | "createToken" | "revokeToken" | "listRobots" | "createRobot"
        | "deleteRobot" | "listDeleted" | "restoreRepository" | "listGrants" | "setGrant"
        | "removeGrant" | "listWebhooks" | "getWebhook" | "createWebhook" | "deleteWebhook"
        | "enableWebhook" | "testWebhook" | "listDeliveries" | "redeliver" | "listIdentities"
        | "removeIdentity" => Rule::ManageAccount,
        "getRepository" | "listTags" | "getTag" | "getTagHistory" | "getImage" | "getManifest"
        | "getConfig" | "listReferrers" | "getSbom" => Rule::Repository(Pull),
        "listBuilds" | "runBuild" | "getBuild" | "getBuildLog" | "cancelBuild" | "retryBuild" => {
            Rule::Repository(Push)
        }
        "deleteTag" => Rule::Repository(DeleteTag),
        "deleteImage" => Rule::Repository(DeleteManifest),
        "undoTag" | "getRepositorySettings" | "setRepositorySettings" | "tryRetention" => {
            Rule::Repository(ChangeSettings)
        }
        "setRepository"
        | "deleteRepository"
        | "listRepositoryGrants"
        | "setRepositoryGrant"
        | "removeRepositoryGrant"
        | "getSource"
        | "createSource"
        | "setSource"
        | "deleteSource"
        | "getSourceHook"
        | "createBuildRule"
        | "deleteBuildRule"
        | "setBuildVariable"
        | "deleteBuildVariable" => Rule::Repository(ChangeAccess),
        _ => panic!("operation {id} has no rule in this test"),
    }
}

/// What each page needs, written down once more.
const fn wanted_page(page: Page) -> Rule {
    match page {
        Page::Home
        | Page::Login
        | Page::SignUp
        | Page::OidcCallback
        | Page::ApiTable
        | Page::Account => Rule::Open,
        Page::Members | Page::Usage => Rule::SeeAccount,
        Page::Access | Page::AccountAudit | Page::AccountWebhooks | Page::Webhook => {
            Rule::ManageAccount
        }
        Page::Repository | Page::Tags | Page::Tag | Page::Image | Page::RepositoryLive => {
            Rule::Repository(Action::Pull)
        }
        Page::Builds | Page::Build | Page::BuildsLive | Page::BuildLive => {
            Rule::Repository(Action::Push)
        }
        Page::RepositoryAccess | Page::RepositoryWebhooks | Page::Source => {
            Rule::Repository(Action::ChangeAccess)
        }
        Page::RepositorySettings => Rule::Repository(Action::ChangeSettings),
        Page::Settings | Page::Tokens | Page::NewRepository | Page::NewOrganisation => Rule::User,
        Page::Admin
        | Page::Users
        | Page::Audit
        | Page::AdminBuilds
        | Page::Identity
        | Page::ServerWebhooks
        | Page::ServerWebhook
        | Page::Mirrors
        | Page::Replication
        | Page::AdminSettings
        | Page::AdminLive => Rule::SiteAdmin,
    }
}

/// What the gate answers: `None` lets the request through.
fn refusal(someone: &Someone, rule: Rule, is_public: bool) -> Option<StatusCode> {
    let (is_robot, who) = (someone.who.ends_with("robot"), someone.who);
    let is_admin = who == "site admin";
    let is_in = someone.role.is_some() && !is_robot || who == "member" || is_admin;
    let let_through = match rule {
        Rule::Open => true,
        Rule::Credential => someone.is_account,
        Rule::User => someone.is_account && !is_robot,
        Rule::SiteAdmin => is_admin,
        Rule::SeeAccount => is_in,
        Rule::ManageAccount => who == "owner" || is_admin,
        Rule::Repository(action) => {
            let public = is_public && action == Action::Pull;
            public || is_admin || someone.role.is_some_and(|role| role.rights().allows(action))
        }
    };
    if !someone.is_valid {
        return Some(StatusCode::UNAUTHORIZED);
    }
    if let_through {
        return None;
    }
    if !someone.is_account {
        return Some(StatusCode::UNAUTHORIZED);
    }
    Some(match rule {
        Rule::SeeAccount => StatusCode::NOT_FOUND,
        Rule::ManageAccount if !is_in => StatusCode::NOT_FOUND,
        Rule::Repository(Action::Pull) => StatusCode::NOT_FOUND,
        _ => StatusCode::FORBIDDEN,
    })
}

struct Served {
    api: Api,
    web: Web,
}

impl Site {
    fn served(&self) -> Served {
        let store =
            Store::open(&davit_registry::store::StoreLocation::Directory(self.dir.join("store")))
                .unwrap();
        let registry = Registry::new(self.database.clone(), store, Limits::default());
        let (_, stopped) = tokio::sync::watch::channel(false);
        let base = "http://registry.test";
        let site = api::Site::new(registry, Arc::clone(&self.auth), stopped, base);
        let api = Api::new(Arc::clone(&site));
        Served { web: Web::new(site, api.clone()), api }
    }

    /// The people of the gate's test, and someone who manages the server.
    async fn everyone(&self) -> Vec<Someone> {
        let mut people = people(self).await;
        let add = AddAccount {
            by: Actor::operator(),
            name: "boss".to_owned(),
            kind: Kind::User,
            password: Some(password_hash()),
            is_admin: true,
        };
        self.database.write(add).await.unwrap();
        people.push(Someone {
            who: "site admin",
            authorization: Some(basic("boss", PASSWORD)),
            is_valid: true,
            is_account: true,
            role: None,
        });
        for (path, is_public) in [("acme/private", false), ("acme/public", true)] {
            self.repository(path, "private").await;
            let (by, path) = (Actor::operator(), path.to_owned());
            self.database.write(SetVisibility { by, path, is_public }).await.unwrap();
        }
        people
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

async fn answer(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap().to_vec();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body).unwrap() }
}

/// A path of the table with what is not there, but for the account and the repository.
fn fill(template: &str, repository: &str) -> String {
    template
        .replace("{account}", "acme")
        .replace("{repository}", repository)
        .replace("{user}", "nobody-here")
        .replace("{team}", "none")
        .replace("{robot}", "acme+none")
        .replace("{tag}", "none")
        .replace("{digest}", ABSENT)
        .replace("{reference}", ABSENT)
        .replace("{id}", "1")
        .replace("{webhook}", "none")
        .replace("{rule}", "none")
        .replace("{mirror}", "none.example")
        .replace("{variable}", "NONE")
        .replace("{provider}", "none")
        .replace("{directory}", "none")
}

async fn call(served: &Served, method: &Method, path: &str, someone: &Someone) -> Answer {
    let mut request = Request::builder().method(method).uri(format!("{}{path}", api::BASE));
    request = request.header(header::HOST, "registry.test");
    request = request.header(header::CONTENT_TYPE, "application/json");
    if let Some(value) = &someone.authorization {
        request = request.header(header::AUTHORIZATION, value);
    }
    answer(served.api.serve(request.body(Body::from("{}")).unwrap()).await).await
}

#[tokio::test]
async fn every_operation_for_every_caller() {
    let site = Site::with(throttled(u32::MAX, u32::MAX)).await;
    let people = site.everyone().await;
    let served = site.served();
    let (mut allowed, mut refused) = (0, 0);
    for endpoint in api::endpoints() {
        assert_eq!(endpoint.rule, wanted(endpoint.id), "{}", endpoint.id);
        for someone in &people {
            for name in ["private", "public", "absent"] {
                let expected = refusal(someone, endpoint.rule, name == "public");
                // It would be made, or those who come later would miss it.
                let is_last = endpoint.id == "deleteRepository";
                if expected.is_none() && (name == "absent" || is_last) {
                    continue;
                }
                let path = fill(endpoint.path, &format!("acme%2F{name}"));
                let answer = call(&served, &endpoint.method, &path, someone).await;
                let told = format!("{}: {} {path}: {answer:?}", someone.who, endpoint.method);
                match expected {
                    Some(status) => assert_eq!(answer.status, status, "{told}"),
                    None => {
                        let codes = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
                        assert!(!codes.contains(&answer.status), "{told}");
                        assert!(!answer.status.is_server_error(), "{told}");
                    }
                }
                let is_challenged = answer.headers.contains_key(header::WWW_AUTHENTICATE);
                assert_eq!(is_challenged, answer.status == StatusCode::UNAUTHORIZED, "{told}");
                *(if expected.is_none() { &mut allowed } else { &mut refused }) += 1;
            }
        }
    }
    assert!(allowed > 300 && refused > 1000, "{allowed} {refused}");
}

#[tokio::test]
async fn hidden_things_answer_as_absent_ones() {
    let site = Site::with(throttled(u32::MAX, u32::MAX)).await;
    let people = site.everyone().await;
    let served = site.served();
    let mut compared = 0;
    for endpoint in api::endpoints() {
        let replace = |mut answer: Answer, name: &str| {
            if let Some(challenge) = answer.headers.get(header::WWW_AUTHENTICATE) {
                let text = challenge.to_str().unwrap().replace(name, "NAME");
                answer.headers.insert(header::WWW_AUTHENTICATE, text.parse().unwrap());
            }
            answer
        };
        for someone in people.iter().filter(|someone| someone.role.is_none()) {
            if refusal(someone, endpoint.rule, false).is_none() {
                continue;
            }
            let (method, path) = (&endpoint.method, endpoint.path);
            let mut answers = Vec::new();
            for (account, repository) in [("acme", "acme/private"), ("nobody", "nobody/absent")] {
                // Who is in it may know it.
                let is_known = path.contains("{account}") && someone.who == "member";
                let path = fill(path, &repository.replace('/', "%2F"))
                    .replace("/acme", &format!("/{account}"));
                let answer = call(&served, method, &path, someone).await;
                answers.push((is_known, replace(answer, repository)));
            }
            if !answers[0].0 {
                assert_eq!(answers[0].1, answers[1].1, "{}: {method} {path}", someone.who);
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

/// Cookie and CSRF token of a session.
async fn session(site: &Site, name: &str) -> (String, String) {
    let password = Secret::new(PASSWORD);
    let token = site.auth.log_in(name, &password, HERE).await.unwrap();
    let cookie = format!("davit_session={}", token.secret().expose());
    let csrf = davit_registry::auth::TokenHash::of(
        format!("davit csrf {}", token.secret().expose()).as_bytes(),
    );
    (cookie, csrf.to_string())
}

fn account(someone: &Someone) -> Option<&'static str> {
    let is_person = someone.is_account && !someone.who.ends_with("robot");
    is_person.then_some(if someone.who == "site admin" { "boss" } else { someone.who })
}

#[tokio::test]
async fn every_page_and_form_for_every_caller() {
    let site = Site::with(throttled(u32::MAX, u32::MAX)).await;
    let people = site.everyone().await;
    let served = site.served();
    let mut seen = 0;
    for someone in people.iter().filter(|s| account(s).is_some() || s.who == "anonymous") {
        let session = match account(someone) {
            Some(name) => Some(session(&site, name).await),
            None => None,
        };
        let request = |method: Method, path: String, body: String| {
            let mut request = Request::builder().method(method).uri(path);
            request = request.header(header::HOST, "registry.test");
            if let Some((cookie, _)) = &session {
                request = request.header(header::COOKIE, cookie);
            }
            request.body(Body::from(body)).unwrap()
        };
        for (template, rule, page) in PAGES {
            assert_eq!(*rule, wanted_page(*page), "{template}");
            // They do not end by themselves.
            let ends = !matches!(
                page,
                Page::RepositoryLive | Page::BuildsLive | Page::BuildLive | Page::AdminLive
            );
            if !ends {
                continue;
            }
            for name in ["private", "public", "absent"] {
                let path = fill(template, &format!("acme/{name}"));
                let reply = served.web.serve(request(Method::GET, path.clone(), String::new()));
                let answer = answer(reply.await).await;
                let told = format!("{}: {path}: {answer:?}", someone.who);
                match refusal(someone, *rule, name == "public") {
                    Some(StatusCode::UNAUTHORIZED) => {
                        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{told}");
                        let to = answer.headers[header::LOCATION].to_str().unwrap();
                        assert!(to.starts_with("/login?next="), "{told}");
                    }
                    Some(status) => assert_eq!(answer.status, status, "{told}"),
                    None => {
                        assert_ne!(answer.status, StatusCode::FORBIDDEN, "{told}");
                        assert!(!answer.status.is_server_error(), "{told}");
                    }
                }
                seen += 1;
            }
        }
        let Some((_, csrf)) = &session else { continue };
        for endpoint in api::endpoints().iter().filter(|e| e.method != Method::GET) {
            // A form that names all that the path names, and nothing else.
            let Some(status) = refusal(someone, endpoint.rule, false) else { continue };
            let body = format!(
                "csrf={csrf}&account=acme&repository=acme/private&user=nobody-here&team=none&\
                 robot=acme%2Bnone&tag=none&reference={ABSENT}&id=1&webhook=none&rule=none&\
                 mirror=none.example&variable=NONE&provider=none&directory=none&next=/"
            );
            let path = format!("/do/{}", endpoint.id);
            let reply = answer(served.web.serve(request(Method::POST, path, body)).await).await;
            assert_eq!(reply.status, status, "{}: {}", someone.who, endpoint.id);
            seen += 1;
        }
    }
    assert!(seen > 400, "{seen}");
}

/// A limited token manages nothing, whosever it is, and sees only what it is limited to.
#[tokio::test]
async fn limited_tokens_stay_limited() {
    let site = Site::with(throttled(u32::MAX, u32::MAX)).await;
    site.everyone().await;
    let served = site.served();
    let (_, token) = site.token("owner", "repository:acme/public:pull", None).await;
    let header = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
    let someone = Someone {
        who: "owner's limited token",
        authorization: Some(header),
        is_valid: true,
        is_account: true,
        role: None,
    };
    for (method, path) in [
        (Method::GET, "/accounts/acme/tokens"),
        (Method::POST, "/accounts/owner/tokens"),
        (Method::POST, "/organisations"),
        (Method::GET, "/organisations/acme"),
        (Method::GET, "/repositories/acme%2Fprivate"),
        (Method::PUT, "/repositories/acme%2Fpublic"),
    ] {
        let answer = call(&served, &method, path, &someone).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path} {answer:?}");
    }
    let list = call(&served, &Method::GET, "/repositories", &someone).await;
    assert!(list.body.contains("acme/public") && !list.body.contains("acme/private"), "{list:?}");
}
