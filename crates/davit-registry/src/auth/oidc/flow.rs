//! The request that turns a code into tokens (RFC 6749 § 4.1.3, § 2.3.1; RFC 7636 § 4.5).

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use davit_distribution::WebRequest;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::{
    issuer::{IssuerError, Metadata},
    store::{Flow, Provider},
};

/// Asks for the tokens of a code; the client proves itself as the provider wants it.
pub(super) fn token_request(
    provider: &Provider,
    metadata: &Metadata,
    flow: &Flow,
    code: &str,
) -> Result<WebRequest, IssuerError> {
    let fault = IssuerError::Provider(provider.issuer.clone(), "has no place that gives tokens");
    let place = metadata.token_endpoint.as_deref().ok_or(fault)?;
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", &flow.redirect)
        .append_pair("code_verifier", flow.verifier.expose());
    let methods = metadata.token_endpoint_auth_methods_supported.as_deref();
    let takes = |method: &str| methods.is_some_and(|all| all.iter().any(|it| it == method));
    let mut request = WebRequest::new("POST", place)
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json");
    match &provider.client_secret {
        None => drop(form.append_pair("client_id", &provider.client_id)),
        // Without a word of it, Basic is what it takes.
        Some(secret) if takes("client_secret_post") && !takes("client_secret_basic") => {
            form.append_pair("client_id", &provider.client_id)
                .append_pair("client_secret", secret.expose());
        }
        Some(secret) => {
            let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = format!("{}:{}", encode(&provider.client_id), encode(secret.expose()));
            request = request.header("authorization", format!("Basic {}", BASE64.encode(pair)));
        }
    }
    request.body = form.finish().into();
    // A code is good once: a second try would end what the first began.
    request.attempts = Some(1);
    Ok(request)
}
