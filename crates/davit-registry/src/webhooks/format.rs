//! How an event is written for its receiver.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::events::{Event, EventKind};

/// Type of the notification envelope (distribution, `about/notifications` § Envelope).
const ENVELOPE: &str = "application/vnd.docker.distribution.events.v2+json";
/// Type of a CloudEvent in structured mode (HTTP Protocol Binding 1.0.2 § 3.2.1).
const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";
const JSON: &str = "application/json";
/// A receiver tells kinds of events apart by this and the kind's word.
const TYPE_PREFIX: &str = "davit.registry.";

/// Form of a delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// CloudEvents 1.0, all in the body.
    #[default]
    Cloudevents,
    /// CloudEvents 1.0, attributes as `ce-` headers.
    CloudeventsBinary,
    /// The notification envelope of the distribution registry.
    Distribution,
    /// Docker Hub's webhook: pushes of tags only.
    DockerHub,
}

/// The text names no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no format; there are cloudevents, cloudevents-binary, distribution, docker-hub")]
pub struct FormatError(pub String);

/// An event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `Content-Type`.
    pub content_type: &'static str,
    /// Other headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, FormatError> {
        let quoted = Json::String(text.to_owned());
        serde_json::from_value(quoted).map_err(|_| FormatError(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloudevents => "cloudevents",
            Self::CloudeventsBinary => "cloudevents-binary",
            Self::Distribution => "distribution",
            Self::DockerHub => "docker-hub",
        })
    }
}

impl Format {
    /// Tells whether it has words for an event.
    #[must_use]
    pub const fn tells(self, event: &Event) -> bool {
        match self {
            Self::Cloudevents | Self::CloudeventsBinary => true,
            Self::Distribution => {
                !matches!(event.kind, EventKind::RepositoryCreate | EventKind::RepositoryDelete)
            }
            Self::DockerHub => {
                matches!(event.kind, EventKind::Push | EventKind::Test) && event.tag.is_some()
            }
        }
    }

    /// Writes an event; `base_url` is how clients reach the registry.
    #[must_use]
    pub fn write(self, event: &Event, base_url: &str) -> Message {
        let (content_type, headers, body) = match self {
            Self::Cloudevents => {
                let mut whole = Map::new();
                for (name, value) in attributes(event, base_url) {
                    whole.insert(name.trim_start_matches("ce-").to_owned(), value.into());
                }
                whole.insert("datacontenttype".to_owned(), JSON.into());
                whole.insert("data".to_owned(), data(event, base_url));
                (STRUCTURED, Vec::new(), Json::Object(whole))
            }
            Self::CloudeventsBinary => {
                let headers = attributes(event, base_url).into_iter();
                let headers = headers.map(|(name, value)| (name, header_text(&value))).collect();
                (JSON, headers, data(event, base_url))
            }
            Self::Distribution => {
                (ENVELOPE, Vec::new(), json!({ "events": [notification(event, base_url)] }))
            }
            Self::DockerHub => (JSON, Vec::new(), hub(event, base_url)),
        };
        Message { content_type, headers, body: body.to_string().into_bytes() }
    }
}

/// Attributes of a CloudEvent by their headers (CloudEvents 1.0 § Context Attributes).
fn attributes(event: &Event, base_url: &str) -> Vec<(&'static str, String)> {
    let subject = match (&event.tag, &event.digest) {
        (Some(tag), _) => format!("{}:{tag}", event.repository),
        (None, Some(digest)) => format!("{}@{digest}", event.repository),
        (None, None) => event.repository.clone(),
    };
    vec![
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", event.id.clone()),
        ("ce-source", base_url.to_owned()),
        ("ce-type", format!("{TYPE_PREFIX}{}", event.kind)),
        ("ce-subject", subject),
        ("ce-time", date(event.at_ms)),
    ]
}

/// Encodes an attribute for its header (HTTP Protocol Binding 1.0.2 § 3.1.3.2).
fn header_text(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if matches!(byte, b'!' | b'#'..=b'$' | b'&'..=b'~') {
            text.push(char::from(byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

fn data(event: &Event, base_url: &str) -> Json {
    let mut data = json!({ "repository": event.repository });
    let facts = [
        ("digest", &event.digest),
        ("tag", &event.tag),
        ("previousDigest", &event.previous),
        ("fromRepository", &event.source),
        ("mediaType", &event.media_type),
        ("actor", &event.actor),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            data[name] = value.as_str().into();
        }
    }
    if let Some(size) = event.size_bytes {
        data["size"] = size.into();
    }
    if let Some(url) = url(event, base_url) {
        data["url"] = url.into();
    }
    data
}

/// One event of the envelope (distribution, `about/notifications` § Events).
fn notification(event: &Event, base_url: &str) -> Json {
    let (action, method) = match event.kind {
        EventKind::Pull => ("pull", "GET"),
        EventKind::BlobMount => ("mount", "POST"),
        EventKind::Delete | EventKind::TagDelete | EventKind::BlobDelete => ("delete", "DELETE"),
        _ => ("push", "PUT"),
    };
    let mut target = Map::new();
    // Of what is deleted only digest, repository and tag are told.
    if method != "DELETE" {
        let kind = event.media_type.clone();
        target.insert(
            "mediaType".to_owned(),
            kind.unwrap_or_else(|| "application/octet-stream".to_owned()).into(),
        );
        if let Some(size) = event.size_bytes {
            target.insert("size".to_owned(), size.into());
            target.insert("length".to_owned(), size.into());
        }
        if let Some(url) = url(event, base_url) {
            target.insert("url".to_owned(), url.into());
        }
    }
    // A tag's deletion is told by the tag alone there.
    let digest = event.digest.clone().filter(|_| event.kind != EventKind::TagDelete);
    let texts = [("digest", digest), ("tag", event.tag.clone())];
    for (name, value) in texts.into_iter().chain([("fromRepository", event.source.clone())]) {
        if let Some(value) = value {
            target.insert(name.to_owned(), value.into());
        }
    }
    target.insert("repository".to_owned(), event.repository.clone().into());
    let host = base_url.split_once("://").map_or(base_url, |(_, host)| host);
    let actor = event.actor.as_ref().map_or_else(|| json!({}), |name| json!({ "name": name }));
    json!({
        "id": event.id,
        "timestamp": date(event.at_ms),
        "action": action,
        "target": target,
        "request": { "id": event.id, "host": host, "method": method, "useragent": "" },
        "actor": actor,
        "source": { "addr": host },
    })
}

/// Docker Hub's payload (Docker's manual, `docker-hub/repos/manage/webhooks`).
fn hub(event: &Event, base_url: &str) -> Json {
    let (namespace, name) = event.repository.split_once('/').unwrap_or(("", &event.repository));
    let pusher = event.actor.as_deref().unwrap_or_default();
    json!({
        // A legacy field, which nobody may call any more.
        "callback_url": "",
        "push_data": {
            "pushed_at": event.at_ms / 1000,
            "pusher": pusher,
            "tag": event.tag,
        },
        "repository": {
            "comment_count": 0,
            "date_created": event.about.created_at_ms / 1000,
            "description": event.about.description,
            "dockerfile": "",
            "full_description": "",
            "is_official": false,
            "is_private": !event.about.is_public,
            "is_trusted": false,
            "name": name,
            "namespace": namespace,
            "owner": namespace,
            "repo_name": event.repository,
            "repo_url": format!("{base_url}/{}", event.repository),
            "star_count": 0,
            "status": "Active",
        },
    })
}

/// Where the manifest or blob is.
fn url(event: &Event, base_url: &str) -> Option<String> {
    let digest = event.digest.as_ref()?;
    let part = match event.kind {
        EventKind::Push | EventKind::Pull => "manifests",
        EventKind::BlobPush | EventKind::BlobMount => "blobs",
        _ => return None,
    };
    Some(format!("{base_url}/v2/{}/{part}/{digest}", event.repository))
}

/// RFC 3339 with milliseconds.
fn date(milliseconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(milliseconds) * 1_000_000);
    time.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::About;

    const BASE: &str = "https://registry.example";

    fn event(kind: EventKind) -> Event {
        Event {
            id: "0192f0c1-0000-7000-8000-000000000001".to_owned(),
            kind,
            at_ms: 1_700_000_000_123,
            repository: "alice/app".to_owned(),
            digest: Some("sha256:ab".to_owned()),
            tag: Some("v1".to_owned()),
            previous: Some("sha256:cd".to_owned()),
            source: None,
            media_type: Some("application/x".to_owned()),
            size_bytes: Some(7),
            actor: Some("alice".to_owned()),
            about: About { created_at_ms: 1_600_000_000_000, ..About::default() },
        }
    }

    fn body(format: Format, kind: EventKind) -> Json {
        serde_json::from_slice(&format.write(&event(kind), BASE).body).unwrap()
    }

    #[test]
    fn cloud_events_have_their_attributes() {
        let message = Format::Cloudevents.write(&event(EventKind::Push), BASE);
        assert_eq!(message.content_type, "application/cloudevents+json; charset=utf-8");
        let whole = body(Format::Cloudevents, EventKind::Push);
        assert_eq!(whole["specversion"], "1.0");
        assert_eq!(whole["type"], "davit.registry.push");
        assert_eq!(whole["subject"], "alice/app:v1");
        assert_eq!(whole["time"], "2023-11-14T22:13:20.123Z");
        assert_eq!(whole["data"]["previousDigest"], "sha256:cd");
        assert_eq!(whole["data"]["url"], format!("{BASE}/v2/alice/app/manifests/sha256:ab"));

        let binary = Format::CloudeventsBinary.write(&event(EventKind::Push), BASE);
        assert_eq!(binary.content_type, "application/json");
        let data: Json = serde_json::from_slice(&binary.body).unwrap();
        assert_eq!(data, whole["data"]);
        for (name, value) in &binary.headers {
            assert_eq!(whole[name.trim_start_matches("ce-")], *value);
        }
        assert_eq!(binary.headers.len(), 6);
    }

    #[test]
    fn headers_are_encoded_as_the_binding_says() {
        assert_eq!(header_text("Euro € 😀"), "Euro%20%E2%82%AC%20%F0%9F%98%80");
        assert_eq!(header_text("a\"b%~!\r"), "a%22b%25~!%0D");
    }

    #[test]
    fn the_envelope_is_distributions() {
        let push = &body(Format::Distribution, EventKind::Push)["events"][0];
        assert_eq!(push["action"], "push");
        let target = &push["target"];
        assert_eq!((&target["size"], &target["length"]), (&json!(7), &json!(7)));
        assert_eq!((&target["tag"], &target["repository"]), (&json!("v1"), &json!("alice/app")));
        assert_eq!(push["actor"]["name"], "alice");
        assert_eq!(push["request"]["method"], "PUT");
        let gone = &body(Format::Distribution, EventKind::Delete)["events"][0];
        let expected = json!({ "digest": "sha256:ab", "repository": "alice/app", "tag": "v1" });
        assert_eq!((&gone["action"], &gone["target"]), (&json!("delete"), &expected));
    }

    #[test]
    fn the_hub_tells_of_pushed_tags_only() {
        let push = body(Format::DockerHub, EventKind::Push);
        assert_eq!(
            push["push_data"],
            json!({"pushed_at": 1_700_000_000, "pusher": "alice", "tag": "v1"})
        );
        assert_eq!(push["repository"]["repo_name"], "alice/app");
        assert_eq!(push["repository"]["date_created"], 1_600_000_000);
        assert_eq!(push["repository"]["is_private"], true);
        assert!(!Format::DockerHub.tells(&event(EventKind::Delete)));
        assert!(!Format::DockerHub.tells(&Event { tag: None, ..event(EventKind::Push) }));
    }

    #[test]
    fn formats_round_trip() {
        for text in ["cloudevents", "cloudevents-binary", "distribution", "docker-hub"] {
            assert_eq!(text.parse::<Format>().unwrap().to_string(), text);
        }
        assert!("hub".parse::<Format>().is_err());
    }
}
