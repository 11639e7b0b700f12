//! The registry's client of HTTP, as the protocol's crate wants it.

use std::pin::Pin;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use davit_distribution::{Client, WebRequest};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};

/// Headers that mean something to the protocol.
const HEADERS: [&str; 4] = ["content-type", "location", "replay-nonce", "retry-after"];
/// Bytes of a message; a chain of certificates has some thousand.
const LONGEST: u32 = 256 << 10;

pub(super) struct Http(pub(super) Client);

impl HttpClient for Http {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(exchange(self.0.clone(), request))
    }
}

async fn exchange(
    client: Client,
    request: http::Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Error> {
    let (parts, body) = request.into_parts();
    let method = match parts.method {
        http::Method::POST => "POST",
        http::Method::HEAD => "HEAD",
        _ => "GET",
    };
    let mut sent = WebRequest::new(method, parts.uri.to_string());
    if let Some(kind) = parts.headers.get("content-type").and_then(|kind| kind.to_str().ok()) {
        sent = sent.header("content-type", kind);
    }
    let body = to_bytes(Body::new(body), LONGEST as usize).await;
    sent.body = body.map_err(|error| Error::Other(Box::new(error)))?;
    let fault = |error: davit_distribution::Error| Error::Other(Box::new(error));
    // Whatever is sent again needs another nonce.
    let mut reply = client.ask_once(&sent).await.map_err(fault)?;
    let mut response = http::Response::builder().status(reply.status());
    for name in HEADERS {
        if let Some(value) = reply.header(name) {
            response = response.header(name, value);
        }
    }
    let body = reply.read(LONGEST.into()).await.map_err(fault)?;
    let (parts, ()) = response.body(())?.into_parts();
    Ok(BytesResponse { parts, body: Box::new(body) })
}
