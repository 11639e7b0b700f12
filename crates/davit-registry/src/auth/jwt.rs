//! Access tokens: JSON Web Tokens with an EdDSA signature (RFC 7519, RFC 8037).
//!
//! Of a token's header nothing is believed but the key id, and that only picks among keys which
//! this server holds: `alg` must be `EdDSA`, `jwk`, `jku`, `x5c` and the rest are never looked at.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use davit_distribution::wire::Scope;
use serde::{Deserialize, Serialize};

use super::Keys;

/// Longest token that is read: a thousand scopes fit.
const LONGEST: usize = 64 << 10;
/// How far another node's clock may be ahead, in seconds.
const SKEW_SECONDS: i64 = 60;
const ALGORITHM: &str = "EdDSA";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who made it.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// Name of the account; empty for nobody.
    #[serde(rename = "sub")]
    pub subject: String,
    /// For which service it is.
    #[serde(rename = "aud")]
    pub audience: String,
    /// First second in which it is no longer valid.
    #[serde(rename = "exp")]
    pub expires: i64,
    /// First second in which it is valid.
    #[serde(rename = "nbf")]
    pub not_before: i64,
    /// When it was made, in seconds.
    #[serde(rename = "iat")]
    pub issued: i64,
    /// Differs for each.
    #[serde(rename = "jti")]
    pub id: String,
    /// Row of the account; `None` for nobody.
    #[serde(rename = "davit_account", default, skip_serializing_if = "Option::is_none")]
    pub account: Option<i64>,
    /// Row of the credential that it was given for; `None` for a password.
    #[serde(rename = "davit_credential", default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<i64>,
    /// State of the account's password when it was given.
    #[serde(rename = "davit_epoch", default)]
    pub epoch: i64,
    /// To what it is limited.
    pub access: Vec<Access>,
}

/// One scope of a token (distribution `auth/jwt.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path of the repository, or `catalog`.
    pub name: String,
    /// What may be done.
    pub actions: Vec<String>,
}

impl From<&Scope> for Access {
    fn from(scope: &Scope) -> Self {
        Self {
            kind: scope.kind().to_owned(),
            name: scope.name().to_owned(),
            actions: scope.actions().iter().cloned().collect(),
        }
    }
}

/// Why a token is not believed. The client is told no more than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// It is no token of ours by its form.
    #[error("malformed token")]
    Malformed,
    /// It names another algorithm.
    #[error("token with another algorithm than EdDSA")]
    Algorithm,
    /// No key of ours has its key id.
    #[error("token of an unknown key")]
    UnknownKey,
    /// The signature is not that of its key.
    #[error("token with a wrong signature")]
    Signature,
    /// It is for another service, or by another issuer.
    #[error("token for another service")]
    Audience,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// Its time has not come.
    #[error("token is not valid yet")]
    NotYet,
}

#[derive(Serialize)]
struct Header<'a> {
    typ: &'a str,
    alg: &'a str,
    kid: &'a str,
}

/// The only members of a header that are read.
#[derive(Deserialize)]
struct ReadHeader {
    alg: String,
    kid: String,
}

impl Claims {
    /// Signs with the newest key.
    ///
    /// # Panics
    /// Never: claims are plain JSON.
    #[must_use]
    pub fn sign(&self, keys: &Keys) -> String {
        let json = |value| BASE64.encode(value);
        let header = Header { typ: "JWT", alg: ALGORITHM, kid: keys.newest_id() };
        let header = serde_json::to_vec(&header).expect("a header is plain JSON");
        let claims = serde_json::to_vec(self).expect("claims are plain JSON");
        let message = format!("{}.{}", json(header), json(claims));
        let signature = BASE64.encode(keys.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// Believes a token, or does not. `now` is in seconds since 1970.
    ///
    /// # Errors
    /// See [`JwtError`].
    pub fn verify(token: &str, keys: &Keys, service: &str, now: i64) -> Result<Self, JwtError> {
        if token.len() > LONGEST {
            return Err(JwtError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = message.split_once('.').ok_or(JwtError::Malformed)?;
        let decode = |part: &str| BASE64.decode(part).map_err(|_| JwtError::Malformed);
        let header: ReadHeader =
            serde_json::from_slice(&decode(header)?).map_err(|_| JwtError::Malformed)?;
        if header.alg != ALGORITHM {
            return Err(JwtError::Algorithm);
        }
        let is_good = keys
            .verify(&header.kid, now, (message.as_bytes(), &decode(signature)?))
            .ok_or(JwtError::UnknownKey)?;
        if !is_good {
            return Err(JwtError::Signature);
        }
        let claims: Self =
            serde_json::from_slice(&decode(claims)?).map_err(|_| JwtError::Malformed)?;
        claims.check(service, now)?;
        Ok(claims)
    }

    /// Compares service and times, again at each use of a token that was verified before.
    ///
    /// # Errors
    /// [`JwtError::Audience`], [`JwtError::Expired`], [`JwtError::NotYet`]
    pub fn check(&self, service: &str, now: i64) -> Result<(), JwtError> {
        if self.audience != service || self.issuer != service {
            return Err(JwtError::Audience);
        }
        if self.expires <= now {
            return Err(JwtError::Expired);
        }
        if self.not_before > now.saturating_add(SKEW_SECONDS) {
            return Err(JwtError::NotYet);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn claims() -> Claims {
        Claims {
            issuer: "here".to_owned(),
            subject: "alice".to_owned(),
            audience: "here".to_owned(),
            expires: NOW + 300,
            not_before: NOW,
            issued: NOW,
            id: "1".to_owned(),
            account: Some(7),
            credential: None,
            epoch: 0,
            access: vec![Access::from(&Scope::repository("alice/web", &["pull", "push"]))],
        }
    }

    /// A token whose header and claims are as given, signed by the newest of the keys.
    fn forge(header: &str, claims: &str, keys: &Keys) -> String {
        let message = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = BASE64.encode(keys.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    #[test]
    fn round_trips() {
        let keys = Keys::ephemeral();
        let token = claims().sign(&keys);
        assert_eq!(Claims::verify(&token, &keys, "here", NOW), Ok(claims()));
    }

    #[test]
    fn times_and_service_are_checked() {
        let keys = Keys::ephemeral();
        let verify = |claims: &Claims, service: &str, now| {
            Claims::verify(&claims.sign(&keys), &keys, service, now).map(drop)
        };
        assert_eq!(verify(&claims(), "here", NOW + 299), Ok(()));
        assert_eq!(verify(&claims(), "here", NOW + 300), Err(JwtError::Expired));
        assert_eq!(verify(&claims(), "here", NOW - 60), Ok(()));
        assert_eq!(verify(&claims(), "here", NOW - 61), Err(JwtError::NotYet));
        assert_eq!(verify(&claims(), "there", NOW), Err(JwtError::Audience));
        let foreign = Claims { issuer: "there".to_owned(), ..claims() };
        assert_eq!(verify(&foreign, "here", NOW), Err(JwtError::Audience));
    }

    /// CVE-2025-24976: a key in the header must not be believed, whatever its key id.
    #[test]
    fn keys_of_the_header_are_never_believed() {
        let keys = Keys::ephemeral();
        let mine = Keys::ephemeral();
        let random = ring::rand::SystemRandom::new();
        let pair = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap();
        let x = BASE64.encode(pair.public_key());
        let kid = keys.newest_id();
        let body = serde_json::to_string(&claims()).unwrap();
        let cases = [
            (format!(r#"{{"alg":"EdDSA","kid":"{kid}"}}"#), JwtError::Signature),
            (
                format!(
                    r#"{{"alg":"EdDSA","kid":"{kid}","jwk":{{"kty":"OKP","crv":"Ed25519","x":"{x}","kid":"{kid}"}}}}"#
                ),
                JwtError::Signature,
            ),
            (
                format!(r#"{{"alg":"EdDSA","kid":"{kid}","jku":"http://127.0.0.1/keys"}}"#),
                JwtError::Signature,
            ),
            (format!(r#"{{"alg":"EdDSA","kid":"{}"}}"#, mine.newest_id()), JwtError::UnknownKey),
            (format!(r#"{{"alg":"none","kid":"{kid}"}}"#), JwtError::Algorithm),
            (format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), JwtError::Algorithm),
            (format!(r#"{{"alg":"eddsa","kid":"{kid}"}}"#), JwtError::Algorithm),
            (r#"{"alg":"EdDSA"}"#.to_owned(), JwtError::Malformed),
            (format!(r#"{{"alg":["EdDSA"],"kid":"{kid}"}}"#), JwtError::Malformed),
        ];
        for (header, expected) in cases {
            let token = forge(&header, &body, &mine);
            assert_eq!(Claims::verify(&token, &keys, "here", NOW), Err(expected), "{header}");
        }
    }

    #[test]
    fn every_changed_byte_is_seen() {
        let keys = Keys::ephemeral();
        let token = claims().sign(&keys);
        for at in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(Claims::verify(&changed, &keys, "here", NOW).is_err(), "{at}");
        }
        for text in ["", ".", "..", "a.b.c", "a.b", &"a".repeat(LONGEST + 1), &format!("{token}.x")]
        {
            assert!(Claims::verify(text, &keys, "here", NOW).is_err());
        }
    }
}
