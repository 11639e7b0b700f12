//! Token exchange (RFC 8693): a build system's own token stands for a robot, by a trust rule.
//!
//! ```text
//! POST /token
//! grant_type=urn:ietf:params:oauth:grant-type:token-exchange
//! subject_token_type=urn:ietf:params:oauth:token-type:jwt   (or …:id_token)
//! subject_token=…  scope=repository:acme/web:push,pull
//! account=acme+ci                        where rules of several robots fit
//! requested_token_type=…:refresh_token   for a robot's key of an hour, to log in with, instead of a
//!                                        bearer token of five minutes
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use axum::response::{IntoResponse as _, Response};
use davit_distribution::{Secret, wire::Scope};
use serde_json::{Map, Value, json};

use super::{
    issuer::{IssuerError, audiences, text},
    jose,
    store::{KEY, KEY_LIFE_MS, TrustRow, rules_of},
};
use crate::auth::{
    AccountError, AddToken, Auth, OpaqueKind, OpaqueToken, Refusal, service::Proved,
    token_server::bad_request,
};

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";

/// Answers an exchange.
pub(in crate::auth) async fn exchange(
    auth: &Auth,
    fields: &HashMap<String, String>,
    scopes: &[Scope],
    peer: IpAddr,
) -> Result<Response, Refusal> {
    let field = |name: &str| fields.get(name).map_or("", String::as_str);
    let kind = |name: &str| field(name).strip_prefix(TOKEN_TYPE).unwrap_or("unknown");
    if !["jwt", "id_token"].contains(&kind("subject_token_type"))
        || !field("actor_token").is_empty()
    {
        return Ok(bad_request("invalid_request"));
    }
    let wants_key = match (field("requested_token_type"), kind("requested_token_type")) {
        ("", _) | (_, "access_token" | "jwt") => false,
        (_, "refresh_token") => true,
        _ => return Ok(bad_request("invalid_request")),
    };
    let proved = match auth.prove_foreign(field("subject_token"), field("account"), peer).await? {
        Ok(proved) => proved,
        Err(error) => return Ok(bad_request(error)),
    };
    if wants_key {
        return auth.robot_key(&proved, scopes, peer).await;
    }
    let reply = auth.issue(Some(&proved), scopes, None, peer).await?;
    let mut reply = json!(reply);
    reply["issued_token_type"] = format!("{TOKEN_TYPE}access_token").into();
    reply["token_type"] = "Bearer".into();
    Ok(axum::Json(reply).into_response())
}

impl Auth {
    /// Knows a robot by a token of an issuer that a rule trusts; `Ok(Err)` is the protocol's error.
    async fn prove_foreign(
        &self,
        token: &str,
        account: &str,
        peer: IpAddr,
    ) -> Result<Result<Proved, &'static str>, Refusal> {
        const WRONG: &str = "invalid_grant";
        let attempt = self.attempt((None, peer)).await?;
        let now_ms = self.database().now_ms();
        let claims = jose::peek(token).unwrap_or_default();
        let issuer = text(&claims, "iss").unwrap_or_default();
        // Only issuers that a rule names are asked for anything.
        let rules = rules_of(self.database(), issuer).await?;
        let robots: Vec<&TrustRow> = match rules.first() {
            None => Vec::new(),
            Some(_) => {
                let is_meant = |rule: &&TrustRow| audiences(&claims).any(|it| it == rule.audience);
                let outcome = match rules.iter().find(is_meant) {
                    Some(rule) => {
                        let whom = (issuer, rule.audience.as_str());
                        self.issuers.verify(token, whom, now_ms).await
                    }
                    None => Err(IssuerError::Token("is for no rule's audience")),
                };
                match outcome {
                    Ok(claims) => rules.iter().filter(|rule| fits(rule, &claims)).collect(),
                    Err(IssuerError::Token(why)) => {
                        tracing::info!(issuer, why, "a token is not exchanged");
                        Vec::new()
                    }
                    Err(error) => {
                        attempt.forgive();
                        tracing::warn!(error = &error as &dyn std::error::Error, "no exchange");
                        return Ok(Err("temporarily_unavailable"));
                    }
                }
            }
        };
        let mut named: BTreeMap<&str, i64> =
            robots.iter().map(|rule| (rule.robot.1.as_str(), rule.robot.0)).collect();
        if !account.is_empty() {
            named.retain(|name, _| *name == account);
        }
        let robot = match named.into_values().collect::<Vec<_>>()[..] {
            [robot] => self.directory.account(robot).await?.filter(|account| account.is_active),
            [] => None,
            // A token must not get more by chance than its build needs.
            _ => return Ok(Err("invalid_target")),
        };
        let Some(account) = robot else {
            drop(attempt);
            self.note_failure(peer).await?;
            return Ok(Err(WRONG));
        };
        attempt.forgive();
        Ok(Ok(Proved { account, credential: None }))
    }

    /// A key of the robot for an hour, for clients that log in by password.
    async fn robot_key(
        &self,
        proved: &Proved,
        scopes: &[Scope],
        peer: IpAddr,
    ) -> Result<Response, Refusal> {
        let token = OpaqueToken::new(OpaqueKind::Robot);
        let added = AddToken {
            by: proved.actor(peer),
            account: proved.account.name.clone(),
            kind: OpaqueKind::Robot,
            name: KEY.to_owned(),
            hash: token.hash(),
            scopes: scopes.to_vec(),
            life_ms: Some(KEY_LIFE_MS),
        };
        match self.database().write(added).await {
            Ok(_) => {}
            Err(AccountError::Database(error)) => return Err(error.into()),
            Err(_) => return Ok(bad_request("invalid_grant")),
        }
        let secret: &Secret = token.secret();
        Ok(axum::Json(json!({
            "access_token": secret.expose(),
            "issued_token_type": format!("{TOKEN_TYPE}refresh_token"),
            "token_type": "N_A",
            "expires_in": KEY_LIFE_MS / 1000,
            "account": proved.account.name,
        }))
        .into_response())
    }
}

/// Tells whether a verified token is one that the rule means.
fn fits(rule: &TrustRow, claims: &Map<String, Value>) -> bool {
    let is_claim = |name: &str, pattern: &str| match claims.get(name) {
        Some(Value::Array(values)) => values.iter().any(|value| is_match(pattern, value)),
        Some(value) => is_match(pattern, value),
        None => false,
    };
    !rule.claims.is_empty()
        && audiences(claims).any(|audience| audience == rule.audience)
        && rule.claims.iter().all(|(name, pattern)| is_claim(name, pattern))
}

/// Compares a value with a pattern, in which `*` is any text.
fn is_match(pattern: &str, value: &Value) -> bool {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return false,
    };
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = pieces.next_back() else { return rest.is_empty() };
    for piece in pieces {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_whole_claims() {
        let cases = [
            ("repo:acme/web:*", "repo:acme/web:ref:refs/heads/main", true),
            ("repo:acme/web:*", "repo:acme/website:ref:refs/heads/main", false),
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/web:ref:refs/heads/main", true),
            ("repo:acme/*:ref:refs/heads/main", "repo:acme/web:ref:refs/heads/mainx", false),
            ("*main", "x:main", true),
            ("a*a", "a", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("exact", "exact", true),
            ("exact", "inexact", false),
            ("", "", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(is_match(pattern, &json!(text)), expected, "{pattern} {text}");
        }
        assert!(is_match("7", &json!(7)) && is_match("true", &json!(true)));
        assert!(!is_match("*", &json!({})) && !is_match("*", &Value::Null));
    }
}
