//! Webhooks: events by HTTP, signed, tried again, with a history.
//!
//! Three formats, each as its documentation has it ([`Format`]). Signed by the Standard Webhooks
//! specification 1.0: `webhook-id` is the event's name and the same in every try, `webhook-timestamp`
//! the try's time, `webhook-signature` is `v1,` and Base64 of HMAC-SHA256 over `id.timestamp.body`.
//! A receiver that refuses old timestamps and ids that it has seen cannot be replayed to.
//!
//! **Invariants:** a connection goes to an address that was checked, not to a name that may change its
//! mind ([`check_address`]); redirects are answers, and failures; deliveries of one repository to one
//! webhook keep their order.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::Secret;
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::events::{Event, Subscription};

mod deliveries;
mod format;
mod guard;
mod manage;
mod send;

pub use deliveries::{DeliveryRow, Redeliver, forget_old, history, history_before, start};
pub use format::{Format, FormatError, Message};
pub use guard::{GuardError, check_address, check_url, is_public};
pub use manage::{NewWebhook, WebhookError, add, remove, test};
pub use send::{Answer, SendError, Sender, signature, test_event};

/// What a secret begins with (Standard Webhooks § Signature scheme).
const SECRET_PREFIX: &str = "whsec_";
/// Bytes of a secret: the specification asks for 24 to 64.
const SECRET_BYTES: usize = 32;

/// Settings of a webhook, in `subscription.settings`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WebhookSettings {
    /// Where to.
    pub url: String,
    /// How an event is written.
    pub format: Format,
    /// What signs it: `whsec_` and Base64.
    pub secret: Secret,
    /// Whether addresses of private networks and of this machine may be sent to.
    #[serde(default)]
    pub allow_private: bool,
}

/// The text is no secret of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook's secret is `{SECRET_PREFIX}` and Base64 of 24 to 64 bytes")]
pub struct WebhookSecretError;

impl WebhookSettings {
    /// Reads the settings of a subscription; `None` if a later version wrote them.
    #[must_use]
    pub fn of(subscription: &Subscription) -> Option<Self> {
        serde_json::from_str(subscription.settings.expose()).ok()
    }

    /// What is kept of them.
    #[must_use]
    pub fn to_json(&self) -> Secret {
        // Only maps with keys that are no strings fail, and settings have none.
        Secret::new(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Makes a secret.
///
/// # Panics
/// If the kernel gives no random bytes.
#[must_use]
pub fn new_secret() -> Secret {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut bytes).expect("the kernel gives random bytes");
    Secret::new(format!("{SECRET_PREFIX}{}", BASE64.encode(bytes)))
}

/// The bytes of a secret.
///
/// # Errors
/// It is malformed, too short or too long.
pub fn secret_bytes(secret: &Secret) -> Result<Vec<u8>, WebhookSecretError> {
    let text = secret.expose().strip_prefix(SECRET_PREFIX).ok_or(WebhookSecretError)?;
    let bytes = BASE64.decode(text).map_err(|_error| WebhookSecretError)?;
    if (24..=64).contains(&bytes.len()) { Ok(bytes) } else { Err(WebhookSecretError) }
}

/// Tells whether a webhook's format has words for an event.
pub(crate) fn tells(subscription: &Subscription, event: &Event) -> bool {
    WebhookSettings::of(subscription).is_some_and(|settings| settings.format.tells(event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_have_a_form() {
        let secret = new_secret();
        assert_eq!(secret_bytes(&secret).unwrap().len(), SECRET_BYTES);
        assert_ne!(new_secret(), secret);
        for bad in ["", "whsec_", "whsec_AAAA", "secret", &format!("whsec_{}", "A".repeat(120))] {
            assert!(secret_bytes(&Secret::new(bad)).is_err(), "{bad}");
        }
    }
}
