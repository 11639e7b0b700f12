//! Replies of token servers (distribution `auth/token.md`, `auth/oauth.md`).

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// A token server's reply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenResponse {
    /// The token, by its older name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// The token, by OAuth 2's name; this one counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_token: Option<Secret>,
    /// Life of the token in seconds, from `issued_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
    /// When the token's life began, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<String>,
    /// A token that buys further tokens, given on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<Secret>,
    /// What was granted, where it differs from what was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl TokenResponse {
    /// Shortest life that is believed: a server that says less is asked again too often.
    const SHORTEST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(24 * 3600);

    /// The token, unless the server sent none or an empty one.
    #[must_use]
    pub fn bearer(&self) -> Option<&Secret> {
        let given = |token: &&Secret| !token.expose().is_empty();
        self.access_token.as_ref().filter(given).or(self.token.as_ref().filter(given))
    }

    /// Life of the token, counted from receipt: 60 s where the server does not say, at least 60 s,
    /// at most a day. `issued_at` is not used, since clocks differ.
    #[must_use]
    pub fn life(&self) -> Duration {
        let seconds = self.expires_in.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0);
        Duration::from_secs(seconds).clamp(Self::SHORTEST, Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_servers_send() {
        let cases = [
            (r#"{"token":"a"}"#, Some("a"), 60),
            (r#"{"access_token":"b","token":"a","expires_in":300}"#, Some("b"), 300),
            (r#"{"access_token":"","token":"a","expires_in":5}"#, Some("a"), 60),
            (r#"{"token":"a","expires_in":-7}"#, Some("a"), 60),
            (r#"{"token":"a","expires_in":9223372036854775807}"#, Some("a"), 86_400),
            (r#"{"token":null}"#, None, 60),
            ("{}", None, 60),
        ];
        for (text, token, life) in cases {
            let reply: TokenResponse = serde_json::from_str(text).unwrap();
            assert_eq!(reply.bearer().map(Secret::expose), token, "{text}");
            assert_eq!(reply.life().as_secs(), life, "{text}");
        }
    }
}
