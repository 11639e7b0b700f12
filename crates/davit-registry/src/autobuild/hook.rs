//! What git hosts send: who they are, whether it is theirs, and what happened.
//!
//! | host | event | proof |
//! |---|---|---|
//! | Gitea, Forgejo | `X-Gitea-Event` | `X-Gitea-Signature`: HMAC-SHA256 of the body |
//! | GitHub | `X-GitHub-Event` | `X-Hub-Signature-256`: `sha256=` and the same |
//! | GitLab | `X-Gitlab-Event` | `X-Gitlab-Token`: the secret itself |
//! | Bitbucket | `X-Event-Key` | `X-Hub-Signature`: `sha256=` and the HMAC |
//! | any other | none | `Authorization: Bearer SECRET`; means: look now |
//!
//! Proofs are compared in constant time. Of a payload only names of references, commits and who
//! pushed are taken: where the repository is, its owner has said.

use http::HeaderMap;
use ring::hmac;
use serde_json::Value as Json;

use super::rules::{RefKind, Revision};

/// References of one payload.
const MOST: usize = 100;
/// Bytes of a reference's name.
const NAME_BYTES: usize = 512;
/// Characters of who pushed.
const ACTOR_CHARS: usize = 80;

/// Who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Gitea, Forgejo or Codeberg.
    Gitea,
    /// GitHub.
    Github,
    /// GitLab.
    Gitlab,
    /// Bitbucket's cloud.
    Bitbucket,
    /// Anything that knows the secret.
    Other,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing that matters here.
    Nothing,
    /// The sender only says that there is something to look at.
    Look,
    /// These are new.
    New {
        /// What is new.
        revisions: Vec<Revision>,
        /// Who pushed.
        actor: String,
    },
    /// A pull request was closed; what git fetched of it.
    Closed(String),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// No proof, or a wrong one.
    #[error("the webhook's secret is another one")]
    Proof,
    /// The body is not what the sender documents.
    #[error("the payload cannot be read")]
    Payload,
}

/// Finds out who sent the body, if it has the secret.
///
/// # Errors
/// [`HookError::Proof`].
pub fn sender(headers: &HeaderMap, body: &[u8], secret: &str) -> Result<Sender, HookError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let is_signed = |name: &str, prefix: &str| {
        let signature = text(name).and_then(|value| value.strip_prefix(prefix)).and_then(unhex);
        signature.is_some_and(|signature| hmac::verify(&key, body, &signature).is_ok())
    };
    // Digests of both are compared, since texts of another length would end sooner.
    let is_secret = |shown: &str| {
        hmac::verify(&key, secret.as_bytes(), hmac::sign(&key, shown.as_bytes()).as_ref()).is_ok()
    };
    // Gitea sends GitHub's headers as well.
    let (sender, is_proved) = if text("x-gitea-event").is_some() {
        (Sender::Gitea, is_signed("x-gitea-signature", ""))
    } else if text("x-github-event").is_some() {
        (Sender::Github, is_signed("x-hub-signature-256", "sha256="))
    } else if text("x-gitlab-event").is_some() {
        (Sender::Gitlab, text("x-gitlab-token").is_some_and(is_secret))
    } else if text("x-event-key").is_some() {
        (Sender::Bitbucket, is_signed("x-hub-signature", "sha256="))
    } else {
        let bearer = text("authorization").and_then(|value| value.split_once(' '));
        let bearer = bearer.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        (Sender::Other, bearer.is_some_and(|(_, token)| is_secret(token.trim())))
    };
    if is_proved { Ok(sender) } else { Err(HookError::Proof) }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Reads what happened.
///
/// # Errors
/// [`HookError::Payload`].
pub fn event(sender: Sender, headers: &HeaderMap, body: &[u8]) -> Result<Event, HookError> {
    let name = match sender {
        Sender::Gitea => "x-gitea-event",
        Sender::Github => "x-github-event",
        Sender::Gitlab => "x-gitlab-event",
        Sender::Bitbucket => "x-event-key",
        Sender::Other => return Ok(Event::Look),
    };
    let kind = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let payload = || payload(headers, body);
    Ok(match (sender, kind) {
        (Sender::Gitea | Sender::Github, "push") => github_push(&payload()?),
        (Sender::Gitea | Sender::Github, "pull_request") => github_pull(&payload()?),
        (Sender::Gitlab, "Push Hook" | "Tag Push Hook") => gitlab_push(&payload()?),
        (Sender::Gitlab, "Merge Request Hook") => gitlab_merge(&payload()?),
        (Sender::Bitbucket, "repo:push") => bitbucket_push(&payload()?),
        _ => Event::Nothing,
    })
}

/// The body's JSON, or that of a form's field `payload`.
fn payload(headers: &HeaderMap, body: &[u8]) -> Result<Json, HookError> {
    let kind = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if kind.is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded")) {
        let field = url::form_urlencoded::parse(body).find(|(name, _)| name == "payload");
        let (_, text) = field.ok_or(HookError::Payload)?;
        return serde_json::from_str(&text).map_err(|_| HookError::Payload);
    }
    serde_json::from_slice(body).map_err(|_| HookError::Payload)
}

fn github_push(payload: &Json) -> Event {
    let actor = first_text(payload, &["/pusher/name", "/pusher/login", "/sender/login"]);
    let commit = payload["after"].as_str().unwrap_or_default();
    let head = payload.pointer("/head_commit/id").and_then(Json::as_str);
    // Of an annotated tag `after` is the tag itself; the head is the commit.
    let commit = head.filter(|_| commit.bytes().any(|byte| byte != b'0')).unwrap_or(commit);
    news(payload["ref"].as_str().and_then(|name| pushed(name, commit)), &actor)
}

fn gitlab_push(payload: &Json) -> Event {
    let actor = first_text(payload, &["/user_username", "/user_name"]);
    let after = payload["after"].as_str().unwrap_or_default();
    let checkout = payload["checkout_sha"].as_str().unwrap_or(after);
    let commit = if is_commit(after) { checkout } else { after };
    news(payload["ref"].as_str().and_then(|name| pushed(name, commit)), &actor)
}

fn bitbucket_push(payload: &Json) -> Event {
    let actor = first_text(payload, &["/actor/nickname", "/actor/display_name"]);
    let changes = payload.pointer("/push/changes").and_then(Json::as_array);
    let revision = |change: &Json| {
        let new = change.get("new")?;
        let kind = match new["type"].as_str()? {
            "branch" => "heads",
            "tag" => "tags",
            _ => return None,
        };
        let name = format!("refs/{kind}/{}", new["name"].as_str()?);
        pushed(&name, new.pointer("/target/hash")?.as_str()?)
    };
    news(changes.into_iter().flatten().take(MOST).filter_map(revision), &actor)
}

fn github_pull(payload: &Json) -> Event {
    let Some(number) = payload["number"].as_u64() else { return Event::Nothing };
    let pull = &payload["pull_request"];
    let repository = |side: &str| {
        let id = pull.pointer(&format!("/{side}/repo/id")).and_then(Json::as_u64);
        id.or_else(|| pull.pointer(&format!("/{side}/repo_id")).and_then(Json::as_u64))
    };
    let (head, base) = (repository("head"), repository("base"));
    let asked = Pull {
        reference: format!("refs/pull/{number}/head"),
        number,
        branch: pull.pointer("/head/ref").and_then(Json::as_str),
        commit: pull.pointer("/head/sha").and_then(Json::as_str),
        // What has no repository any more was somebody else's.
        is_fork: head.is_none() || head != base,
        action: payload["action"].as_str().unwrap_or_default(),
    };
    asked.event(&first_text(payload, &["/sender/login"]))
}

fn gitlab_merge(payload: &Json) -> Event {
    let merge = &payload["object_attributes"];
    let Some(number) = merge["iid"].as_u64() else { return Event::Nothing };
    let project = |side: &str| merge[side].as_u64();
    let (source, target) = (project("source_project_id"), project("target_project_id"));
    let asked = Pull {
        reference: format!("refs/merge-requests/{number}/head"),
        number,
        branch: merge["source_branch"].as_str(),
        commit: merge.pointer("/last_commit/id").and_then(Json::as_str),
        is_fork: source.is_none() || source != target,
        // `update` without a new commit is of the words alone.
        action: match merge["action"].as_str().unwrap_or_default() {
            "update" if merge["oldrev"].is_null() => "edited",
            "update" => "synchronize",
            "open" | "reopen" => "opened",
            "close" | "merge" => "closed",
            other => other,
        },
    };
    asked.event(&first_text(payload, &["/user/username", "/user/name"]))
}

/// A pull or merge request.
struct Pull<'a> {
    reference: String,
    number: u64,
    branch: Option<&'a str>,
    commit: Option<&'a str>,
    is_fork: bool,
    action: &'a str,
}

impl Pull<'_> {
    fn event(self, actor: &str) -> Event {
        match self.action {
            "closed" => return Event::Closed(self.reference),
            "opened" | "reopened" | "synchronize" | "synchronized" => {}
            _ => return Event::Nothing,
        }
        let (Some(branch), Some(commit)) = (self.branch, self.commit) else {
            return Event::Nothing;
        };
        let is_good = is_commit(commit) && branch.len() <= NAME_BYTES;
        let revision = is_good.then(|| Revision {
            kind: RefKind::Pull,
            name: branch.to_owned(),
            reference: self.reference,
            commit: Some(commit.to_owned()),
            number: Some(self.number),
            is_fork: self.is_fork,
        });
        news(revision, actor)
    }
}

/// A branch or tag that names this commit; `None` for others, and for one that was deleted.
#[must_use]
pub fn pushed(reference: &str, commit: &str) -> Option<Revision> {
    let (kind, name) = match reference.strip_prefix("refs/heads/") {
        Some(name) => (RefKind::Branch, name),
        None => (RefKind::Tag, reference.strip_prefix("refs/tags/")?),
    };
    if !is_commit(commit) || !is_reference(reference) {
        return None;
    }
    Some(Revision {
        kind,
        name: name.to_owned(),
        reference: reference.to_owned(),
        commit: Some(commit.to_owned()),
        number: None,
        is_fork: false,
    })
}

/// Tells whether git would take the name (git-check-ref-format(1)), so that it can be fetched.
#[must_use]
pub fn is_reference(name: &str) -> bool {
    let is_bad = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    let is_part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.starts_with("refs/")
        && name.len() <= NAME_BYTES
        && !name.contains(is_bad)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
        && name.split('/').all(is_part)
}

/// Tells whether a text is a commit in full that exists: zeros stand for none.
#[must_use]
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && text.bytes().any(|byte| byte != b'0')
}

fn news(revisions: impl IntoIterator<Item = Revision>, actor: &str) -> Event {
    let revisions: Vec<Revision> = revisions.into_iter().collect();
    if revisions.is_empty() {
        return Event::Nothing;
    }
    Event::New { revisions, actor: actor.to_owned() }
}

fn first_text(payload: &Json, places: &[&str]) -> String {
    let found = places.iter().find_map(|place| payload.pointer(place)?.as_str());
    found.unwrap_or_default().chars().filter(|c| !c.is_control()).take(ACTOR_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use serde_json::json;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const ZEROS: &str = "0000000000000000000000000000000000000000";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn signature(secret: &str, body: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        hmac::sign(&key, body).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_signature_is_that_of_the_documentation() {
        // "Testing the webhook payload validation" of GitHub's documentation.
        let signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        let prefixed = format!("sha256={signature}");
        let (body, secret) = (b"Hello, World!", "It's a Secret to Everybody");
        let given = [("x-github-event", "ping"), ("x-hub-signature-256", &prefixed)];
        assert_eq!(sender(&headers(&given), body, secret), Ok(Sender::Github));
        assert_eq!(sender(&headers(&given), b"Hello, World?", secret), Err(HookError::Proof));
    }

    #[test]
    fn only_who_knows_the_secret_is_heard() {
        let body = b"{}";
        let plain = signature("secret", body);
        let prefixed = format!("sha256={plain}");
        for (given, expected) in [
            (vec![("x-gitea-event", "push"), ("x-gitea-signature", &*plain)], Some(Sender::Gitea)),
            (vec![("x-gitea-event", "push"), ("x-hub-signature-256", &*prefixed)], None),
            (vec![("x-github-event", "push"), ("x-hub-signature-256", &*plain)], None),
            (vec![("x-github-event", "push"), ("x-hub-signature-256", "sha256=")], None),
            (vec![("x-github-event", "push"), ("x-hub-signature-256", "sha256=zz")], None),
            (vec![("x-github-event", "push")], None),
            (vec![("x-gitlab-event", "x"), ("x-gitlab-token", "secret")], Some(Sender::Gitlab)),
            (vec![("x-gitlab-event", "x"), ("x-gitlab-token", "secre")], None),
            (vec![("x-gitlab-event", "x"), ("x-gitlab-token", "")], None),
            (vec![("x-event-key", "x"), ("x-hub-signature", &*prefixed)], Some(Sender::Bitbucket)),
            (vec![("x-event-key", "x"), ("x-hub-signature", "sha1=00")], None),
            (vec![("authorization", "Bearer secret")], Some(Sender::Other)),
            (vec![("authorization", "Bearer secret2")], None),
            (vec![("authorization", "Basic secret")], None),
            (vec![], None),
        ] {
            assert_eq!(sender(&headers(&given), body, "secret").ok(), expected, "{given:?}");
        }
    }

    fn told(sender: Sender, kind: (&'static str, &str), payload: &Json) -> String {
        let body = payload.to_string();
        match event(sender, &headers(&[kind]), body.as_bytes()).unwrap() {
            Event::New { revisions, actor } => {
                let told = revisions.iter().map(|it| {
                    let commit = it.commit.as_ref().unwrap();
                    assert_eq!(commit, COMMIT);
                    let number = it.number.map(|number| format!("#{number}"));
                    let fork = if it.is_fork { " fork" } else { "" };
                    let number = number.unwrap_or_default();
                    format!("{:?} {}{number} {}{fork}", it.kind, it.name, it.reference)
                });
                format!("{} by {actor}", told.collect::<Vec<_>>().join(", "))
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn pushes_are_understood() {
        let github = |name: &str, after: &str| {
            let payload = json!({ "ref": name, "after": after, "head_commit": { "id": after },
                                  "pusher": { "name": "ann" } });
            told(Sender::Github, ("x-github-event", "push"), &payload)
        };
        assert_eq!(github("refs/heads/a/b", COMMIT), "Branch a/b refs/heads/a/b by ann");
        assert_eq!(github("refs/tags/v1", COMMIT), "Tag v1 refs/tags/v1 by ann");
        assert_eq!(github("refs/heads/main", ZEROS), "Nothing", "deleted");
        assert_eq!(github("refs/heads/--upload-pack=x", COMMIT).split(' ').next(), Some("Branch"));
        for bad in ["refs/heads/a b", "refs/heads/a..b", "refs/heads/", "refs/notes/x", "main", ""]
        {
            assert_eq!(github(bad, COMMIT), "Nothing", "{bad}");
        }
        let gitea =
            json!({ "ref": "refs/heads/main", "after": COMMIT, "pusher": { "login": "ann" } });
        let gitea = told(Sender::Gitea, ("x-gitea-event", "push"), &gitea);
        assert_eq!(gitea, "Branch main refs/heads/main by ann");
        let gitlab = json!({ "ref": "refs/tags/v1", "after": "f".repeat(40),
                             "checkout_sha": COMMIT, "user_username": "ann\n" });
        let gitlab = told(Sender::Gitlab, ("x-gitlab-event", "Tag Push Hook"), &gitlab);
        assert_eq!(gitlab, "Tag v1 refs/tags/v1 by ann");
        let bitbucket = json!({ "actor": { "nickname": "ann" }, "push": { "changes": [
            { "new": { "type": "branch", "name": "main", "target": { "hash": COMMIT } } },
            { "new": null },
            { "new": { "type": "tag", "name": "v1", "target": { "hash": COMMIT } } },
        ] } });
        let bitbucket = told(Sender::Bitbucket, ("x-event-key", "repo:push"), &bitbucket);
        assert_eq!(bitbucket, "Branch main refs/heads/main, Tag v1 refs/tags/v1 by ann");
    }

    #[test]
    fn pull_requests_are_understood() {
        let github = |action: &str, head: Json| {
            let payload = json!({ "action": action, "number": 7, "sender": { "login": "ann" },
                "pull_request": { "head": { "ref": "fix", "sha": COMMIT, "repo": head },
                                  "base": { "repo": { "id": 1 } } } });
            told(Sender::Github, ("x-github-event", "pull_request"), &payload)
        };
        let own = || json!({ "id": 1 });
        assert_eq!(github("opened", own()), "Pull fix#7 refs/pull/7/head by ann");
        assert_eq!(github("synchronize", own()), "Pull fix#7 refs/pull/7/head by ann");
        let fork = "Pull fix#7 refs/pull/7/head fork by ann";
        assert_eq!(github("opened", json!({ "id": 2 })), fork);
        assert_eq!(github("opened", Json::Null), fork);
        assert_eq!(github("labeled", own()), "Nothing");
        assert_eq!(github("closed", own()), "Closed(\"refs/pull/7/head\")");
        let gitlab = |action: &str, oldrev: Json, source: u64| {
            let payload = json!({ "user": { "username": "ann" }, "object_attributes": {
                "iid": 3, "action": action, "oldrev": oldrev, "source_branch": "fix",
                "last_commit": { "id": COMMIT }, "source_project_id": source,
                "target_project_id": 1 } });
            told(Sender::Gitlab, ("x-gitlab-event", "Merge Request Hook"), &payload)
        };
        let open = "Pull fix#3 refs/merge-requests/3/head by ann";
        assert_eq!(gitlab("open", Json::Null, 1), open);
        assert_eq!(gitlab("update", json!(COMMIT), 1), open);
        assert_eq!(gitlab("update", Json::Null, 1), "Nothing");
        assert_eq!(gitlab("merge", Json::Null, 1), "Closed(\"refs/merge-requests/3/head\")");
        assert!(gitlab("open", Json::Null, 2).contains("fork"));
    }

    #[test]
    fn forms_are_read_and_nonsense_is_refused() {
        let payload = json!({ "ref": "refs/heads/main", "after": COMMIT }).to_string();
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("payload", &payload)
            .finish();
        let given = headers(&[
            ("x-github-event", "push"),
            ("content-type", "application/x-www-form-urlencoded"),
        ]);
        let found = event(Sender::Github, &given, form.as_bytes()).unwrap();
        assert!(matches!(found, Event::New { .. }), "{found:?}");
        let given = headers(&[("x-github-event", "push")]);
        assert_eq!(event(Sender::Github, &given, b"x"), Err(HookError::Payload));
        for odd in ["[]", "null", "{\"ref\":7}", "{\"after\":[]}"] {
            assert_eq!(event(Sender::Github, &given, odd.as_bytes()), Ok(Event::Nothing));
        }
        assert_eq!(event(Sender::Other, &given, b""), Ok(Event::Look));
    }
}
