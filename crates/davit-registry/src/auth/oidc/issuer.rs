//! Issuers: what they say of themselves (OpenID Connect Discovery), their keys, and tokens by them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as StdMutex, PoisonError},
};

use davit_distribution::{Client, ClientConfig, Error as WebError, WebRequest};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::Mutex;

use super::jose::{self, JoseError, Key};

/// Largest document of an issuer.
const DOCUMENT_BYTES: u64 = 512 << 10;
/// How long documents are good, in milliseconds.
const GOOD_MS: i64 = 60 * 60 * 1000;
/// How soon after the last time an issuer is asked again for keys that a token names.
const ASK_AGAIN_MS: i64 = 60 * 1000;
/// How far clocks may differ, in seconds.
const SKEW_SECONDS: i64 = 60;
/// Issuers remembered; beyond that it starts anew.
const MOST: usize = 256;
/// Characters of a subject (OpenID Connect Core § 2).
const LONGEST_SUBJECT: usize = 255;

/// Why an issuer's token is not believed, or the issuer cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The issuer cannot be reached.
    #[error("the identity provider `{0}` cannot be reached")]
    Unreachable(String, #[source] Box<WebError>),
    /// What it says of itself cannot be used.
    #[error("the identity provider `{0}` {1}")]
    Provider(String, &'static str),
    /// The token is none of the issuer's, or not for us, or not now.
    #[error("the token {0}")]
    Token(&'static str),
}

/// What an issuer says of itself.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Metadata {
    pub(super) issuer: String,
    #[serde(default)]
    pub(super) authorization_endpoint: Option<String>,
    #[serde(default)]
    pub(super) token_endpoint: Option<String>,
    jwks_uri: String,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    #[serde(default)]
    pub(super) token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// Issuers that were asked, and what they said.
#[derive(Debug)]
pub(in crate::auth) struct Issuers {
    client: Client,
    known: StdMutex<HashMap<String, Arc<Mutex<Known>>>>,
}

#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, i64)>,
    keys: Option<(Arc<Vec<Key>>, i64)>,
}

impl Default for Issuers {
    fn default() -> Self {
        Self { client: Client::new(ClientConfig::default()), known: StdMutex::default() }
    }
}

impl Issuers {
    fn known(&self, issuer: &str) -> Arc<Mutex<Known>> {
        // Each change is one call.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST && !known.contains_key(issuer) {
            known.clear();
        }
        Arc::clone(known.entry(issuer.to_owned()).or_default())
    }

    /// What the issuer says of itself.
    pub(super) async fn metadata(
        &self,
        issuer: &str,
        now_ms: i64,
    ) -> Result<Arc<Metadata>, IssuerError> {
        let known = self.known(issuer);
        let mut known = known.lock().await;
        self.metadata_in(&mut known, issuer, now_ms).await
    }

    async fn metadata_in(
        &self,
        known: &mut Known,
        issuer: &str,
        now_ms: i64,
    ) -> Result<Arc<Metadata>, IssuerError> {
        if let Some((metadata, at)) = &known.metadata
            && is_fresh(*at, now_ms, GOOD_MS)
        {
            return Ok(Arc::clone(metadata));
        }
        check_address(issuer, issuer)?;
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let bytes = self.fetch(issuer, &WebRequest::new("GET", place)).await?;
        let fault = |what| IssuerError::Provider(issuer.to_owned(), what);
        let metadata: Metadata = serde_json::from_slice(&bytes)
            .map_err(|_error| fault("does not describe itself as OpenID Connect has it"))?;
        // Otherwise one issuer could speak in the name of another.
        if metadata.issuer != issuer {
            return Err(fault("calls itself by another name"));
        }
        let endpoints = [&metadata.authorization_endpoint, &metadata.token_endpoint];
        for place in endpoints.into_iter().flatten().chain([&metadata.jwks_uri]) {
            check_address(issuer, place)?;
        }
        let metadata = Arc::new(metadata);
        known.metadata = Some((Arc::clone(&metadata), now_ms));
        Ok(metadata)
    }

    /// Believes a token of the issuer for this audience, and tells its claims. Keys that the issuer made
    /// since it was last asked are learned.
    pub(super) async fn verify(
        &self,
        token: &str,
        (issuer, audience): (&str, &str),
        now_ms: i64,
    ) -> Result<Map<String, Value>, IssuerError> {
        let known = self.known(issuer);
        let mut known = known.lock().await;
        let mut is_asked = false;
        if !known.keys.as_ref().is_some_and(|(_, at)| is_fresh(*at, now_ms, GOOD_MS)) {
            self.learn_keys(&mut known, issuer, now_ms).await?;
            is_asked = true;
        }
        loop {
            let (keys, at) = known.keys.clone().unwrap_or_default();
            match jose::verify(token, &keys) {
                Ok(claims) => {
                    check_claims(&claims, issuer, audience, now_ms / 1000)?;
                    return Ok(claims);
                }
                Err(JoseError::UnknownKey) if !is_asked && !is_fresh(at, now_ms, ASK_AGAIN_MS) => {
                    self.learn_keys(&mut known, issuer, now_ms).await?;
                    is_asked = true;
                }
                Err(_) => return Err(IssuerError::Token("is not signed by its issuer")),
            }
        }
    }

    async fn learn_keys(
        &self,
        known: &mut Known,
        issuer: &str,
        now_ms: i64,
    ) -> Result<(), IssuerError> {
        let metadata = self.metadata_in(known, issuer, now_ms).await?;
        let bytes = self.fetch(issuer, &WebRequest::new("GET", &metadata.jwks_uri)).await?;
        let keys = jose::keys(&bytes);
        let keys =
            keys.ok_or_else(|| IssuerError::Provider(issuer.to_owned(), "has no set of keys"))?;
        known.keys = Some((Arc::new(keys), now_ms));
        Ok(())
    }

    /// Asks, once more after a passing fault; what redirects elsewhere is no answer.
    pub(super) async fn fetch(
        &self,
        issuer: &str,
        request: &WebRequest,
    ) -> Result<bytes::Bytes, IssuerError> {
        let attempts = request.attempts.or(Some(2));
        let request = WebRequest { attempts, ..request.clone() };
        let fault = |error| IssuerError::Unreachable(issuer.to_owned(), Box::new(error));
        let reply = self.client.ask(&request).await.map_err(fault)?;
        reply.success().await.map_err(fault)?.read(DOCUMENT_BYTES).await.map_err(fault)
    }
}

fn is_fresh(at: i64, now_ms: i64, life_ms: i64) -> bool {
    (at..at.saturating_add(life_ms)).contains(&now_ms)
}

/// Takes HTTPS; plain HTTP only on this machine, for an issuer that is there too.
pub(super) fn check_address(issuer: &str, place: &str) -> Result<(), IssuerError> {
    let is_local = |url: &url::Url| match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    };
    let parse = |text: &str| text.parse::<url::Url>().ok();
    let is_good = match (parse(issuer), parse(place)) {
        (Some(_), Some(place)) if place.scheme() == "https" => place.has_host(),
        (Some(issuer), Some(place)) => {
            issuer.scheme() == "http"
                && place.scheme() == "http"
                && is_local(&issuer)
                && is_local(&place)
        }
        _ => false,
    };
    let fault = "must be reached by HTTPS (or by HTTP on this machine)";
    if is_good { Ok(()) } else { Err(IssuerError::Provider(issuer.to_owned(), fault)) }
}

/// Issuer, audience, times and subject (OpenID Connect Core § 3.1.3.7).
fn check_claims(
    claims: &Map<String, Value>,
    issuer: &str,
    audience: &str,
    now: i64,
) -> Result<(), IssuerError> {
    let time = |name: &str| -> Option<i64> {
        #[allow(clippy::cast_possible_truncation, reason = "a time far off is far off")]
        let whole = |seconds: f64| seconds as i64;
        claims.get(name)?.as_f64().map(whole)
    };
    let refuse = |what| Err(IssuerError::Token(what));
    if text(claims, "iss") != Some(issuer) {
        return refuse("is of another issuer");
    }
    if !audiences(claims).any(|it| it == audience) {
        return refuse("is for another audience");
    }
    if time("exp").is_none_or(|end| end.saturating_add(SKEW_SECONDS) <= now) {
        return refuse("has ended");
    }
    let is_early = |name| time(name).is_some_and(|start| start > now.saturating_add(SKEW_SECONDS));
    if is_early("nbf") || is_early("iat") {
        return refuse("is not valid yet");
    }
    let is_subject = |it: &str| !it.is_empty() && it.len() <= LONGEST_SUBJECT;
    if !text(claims, "sub").is_some_and(is_subject) {
        return refuse("names nobody");
    }
    Ok(())
}

/// A claim that is a text.
pub(super) fn text<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c str> {
    claims.get(name).and_then(Value::as_str)
}

/// For whom a token is: one, or a list.
pub(super) fn audiences(claims: &Map<String, Value>) -> impl Iterator<Item = &str> {
    let audience = claims.get("aud");
    let list = audience.and_then(Value::as_array).into_iter().flatten();
    audience.into_iter().chain(list).filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_judged() {
        let good = json!({ "iss": "https://a", "aud": "us", "exp": 1000, "iat": 900, "sub": "x" });
        let check = |name: &str, value: Value| {
            let mut claims = good.as_object().unwrap().clone();
            claims.insert(name.to_owned(), value);
            check_claims(&claims, "https://a", "us", 950).is_ok()
        };
        assert!(check("x", json!(1)));
        assert!(check("aud", json!(["them", "us"])));
        assert!(check("exp", json!(891)), "within the skew of clocks");
        assert!(check("nbf", json!(1010)));
        for (name, value) in [
            ("iss", json!("https://a/")),
            ("iss", json!(["https://a"])),
            ("aud", json!("them")),
            ("aud", json!([])),
            ("aud", json!({ "us": true })),
            ("exp", json!(890)),
            ("exp", json!("1000")),
            ("exp", Value::Null),
            ("nbf", json!(1011)),
            ("iat", json!(1011)),
            ("sub", json!("")),
            ("sub", json!(7)),
            ("sub", json!("x".repeat(256))),
        ] {
            assert!(!check(name, value.clone()), "{name} {value}");
        }
    }

    #[test]
    fn issuers_are_reached_safely() {
        for (issuer, place, expected) in [
            ("https://a", "https://b/keys", true),
            ("https://a", "http://a/keys", false),
            ("http://127.0.0.1:1", "http://127.0.0.1:1/keys", true),
            ("http://127.0.0.1:1", "http://169.254.169.254/", false),
            ("http://a", "http://a/keys", false),
            ("https://a", "http://127.0.0.1/keys", false),
            ("https://a", "file:///etc/passwd", false),
            ("https://a", "", false),
        ] {
            assert_eq!(check_address(issuer, place).is_ok(), expected, "{issuer} {place}");
        }
    }
}
