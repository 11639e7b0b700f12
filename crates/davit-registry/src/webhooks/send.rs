//! One try of one delivery.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::{
    Client, ClientConfig, RegistryConfig, TimeoutConfig, WebReply, WebRequest,
};
use ring::hmac;
use uuid::Uuid;

use super::{Format, GuardError, WebhookSecretError, WebhookSettings, check_address, secret_bytes};
use crate::events::{About, Event, EventKind};

/// What a receiver may take in all, name and connection included.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of an answer that are kept.
const ANSWER_BYTES: usize = 4 << 10;
/// Longest wait that a receiver may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// What a receiver said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The beginning of its body.
    pub body: String,
    /// How long it asks to wait (`Retry-After`).
    pub wait: Option<Duration>,
}

impl Answer {
    /// Tells whether the receiver took it.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It may not be sent to.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// Its secret is none.
    #[error(transparent)]
    Secret(#[from] WebhookSecretError),
    /// The connection failed.
    #[error(transparent)]
    Client(#[from] davit_distribution::Error),
    /// It took too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Timeout,
}

/// Sends events.
#[derive(Debug)]
pub struct Sender {
    base_url: String,
}

impl Sender {
    /// A sender of a registry that clients reach by this URL.
    #[must_use]
    pub fn new(base_url: &str) -> Self {
        Self { base_url: base_url.trim_end_matches('/').to_owned() }
    }

    /// Sends one event once; redirects are answers.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(
        &self,
        settings: &WebhookSettings,
        event: &Event,
    ) -> Result<Answer, SendError> {
        let sent = tokio::time::timeout(PATIENCE, self.exchange(settings, event)).await;
        sent.unwrap_or(Err(SendError::Timeout))
    }

    async fn exchange(
        &self,
        settings: &WebhookSettings,
        event: &Event,
    ) -> Result<Answer, SendError> {
        let (url, address) = check_address(&settings.url, settings.allow_private).await?;
        let host = url.host_str().unwrap_or_default().to_owned();
        // No name is looked up any more: the connection goes to the address that was checked.
        let pinned = RegistryConfig { address: Some(address), ..RegistryConfig::default() };
        let timeouts = TimeoutConfig { reply: PATIENCE, ..TimeoutConfig::default() };
        let client = Client::new(ClientConfig {
            registries: [(host, pinned)].into(),
            timeouts,
            ..ClientConfig::default()
        });
        let request = self.request(settings, event)?;
        answer(client.ask_once(&request).await?).await
    }

    fn request(&self, settings: &WebhookSettings, event: &Event) -> Result<WebRequest, SendError> {
        let message = settings.format.write(event, &self.base_url);
        let (id, seconds) = (event.id.as_str(), unix_seconds());
        let key = secret_bytes(&settings.secret)?;
        let signature = signature(&key, id, seconds, &message.body);
        let mut request = WebRequest::new("POST", &settings.url)
            .header("content-type", message.content_type)
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds.to_string())
            .header("webhook-signature", signature);
        request.headers.extend(message.headers);
        request.body = message.body.into();
        Ok(request)
    }
}

/// `v1,` and Base64 of HMAC-SHA256 over `id.timestamp.body` (Standard Webhooks § Signature scheme).
#[must_use]
pub fn signature(key: &[u8], id: &str, unix_seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(format!("{id}.{unix_seconds}.").as_bytes());
    context.update(body);
    format!("v1,{}", BASE64.encode(context.sign()))
}

/// An event by which a webhook is tried; it is about no repository that could be.
#[must_use]
pub fn test_event(format: Format) -> Event {
    let digest = davit_image::Digest::of(b"").to_string();
    Event {
        id: Uuid::now_v7().to_string(),
        kind: if format == Format::DockerHub { EventKind::Push } else { EventKind::Test },
        at_ms: i64::try_from(unix_seconds() * 1000).unwrap_or(i64::MAX),
        repository: "webhook/test".to_owned(),
        digest: Some(digest),
        tag: Some("test".to_owned()),
        previous: None,
        source: None,
        media_type: None,
        size_bytes: Some(0),
        actor: None,
        about: About::default(),
    }
}

/// Reads as much of an answer as is kept.
async fn answer(mut reply: WebReply) -> Result<Answer, SendError> {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES {
        // What a receiver says beside its status is a courtesy: it may break off.
        let Ok(Some(piece)) = reply.next_chunk().await else { break };
        body.extend_from_slice(&piece[..piece.len().min(ANSWER_BYTES - body.len())]);
    }
    let wait = reply.header("retry-after").and_then(|text| text.trim().parse().ok());
    Ok(Answer {
        status: reply.status(),
        // PostgreSQL's texts have no zero bytes.
        body: String::from_utf8_lossy(&body).replace('\0', "\u{fffd}"),
        wait: wait.map(|seconds| Duration::from_secs(seconds).min(LONGEST_WAIT)),
    })
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn signatures_are_the_specifications() {
        let key = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
