//! Spans of requests for OpenTelemetry: OTLP over HTTP in its JSON encoding (opentelemetry-proto
//! § OTLP/HTTP), gathered and sent in batches. What cannot be sent is dropped: a registry does not wait
//! for those who watch it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use davit_distribution::{Client, ClientConfig, WebRequest};
use http::{HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::fault::in_words;

/// Spans that wait to be sent.
const WAITING: usize = 4096;
/// Spans of one message.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const GATHER: Duration = Duration::from_secs(2);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// `SPAN_KIND_SERVER` and `STATUS_CODE_ERROR`.
const SERVER: u32 = 2;
const ERROR: u32 = 2;

/// Takes spans; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Traces {
    sender: mpsc::Sender<Value>,
    dropped: Arc<AtomicU64>,
}

/// A span that has begun.
#[derive(Debug)]
pub(super) struct Traced {
    trace: String,
    parent: String,
    span: String,
    began: SystemTime,
}

impl Traced {
    /// Begins a span, as a part of the caller's trace where there is one; `None` when the caller has
    /// decided that it is not recorded (W3C Trace Context § 3.2).
    pub(super) fn begin(parent: Option<&HeaderValue>) -> Option<Self> {
        let parent = parent.and_then(|parent| parse(parent.to_str().ok()?));
        let (trace, parent) = match parent {
            Some((_, _, false)) => return None,
            Some((trace, parent, true)) => (trace, parent),
            None => (uuid::Uuid::now_v7().simple().to_string(), String::new()),
        };
        // The second half of such an identifier is random.
        let span = uuid::Uuid::now_v7().simple().to_string().split_off(16);
        Some(Self { trace, parent, span, began: SystemTime::now() })
    }
}

/// Trace, span and whether it is recorded, of `traceparent`.
fn parse(header: &str) -> Option<(String, String, bool)> {
    let parts: Vec<&str> = header.split('-').collect();
    let [version, trace, span, flags, ..] = parts[..] else { return None };
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_good = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
    let is_zero = |text: &str| text.bytes().all(|byte| byte == b'0');
    if !is_good || version == "ff" || is_zero(trace) || is_zero(span) {
        return None;
    }
    let is_recorded = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1);
    Some((trace.to_owned(), span.to_owned(), is_recorded))
}

impl Traces {
    /// Sends spans to the collector at this base URL until all takers are gone.
    pub(super) fn start(base_url: &str) -> (Self, JoinHandle<()>) {
        let (sender, spans) = mpsc::channel(WAITING);
        let url = format!("{}/v1/traces", base_url.trim_end_matches('/'));
        let task = tokio::spawn(export(url, spans));
        (Self { sender, dropped: Arc::default() }, task)
    }

    /// Ends a span.
    pub(super) fn end(
        &self,
        traced: Traced,
        (method, path): (&Method, &str),
        (status, length): (StatusCode, Option<u64>),
        (request_id, peer): (&str, SocketAddr),
    ) {
        let text =
            |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
        // 64-bit numbers are strings in the JSON encoding.
        let number = |key: &str, value: u64| json!({ "key": key, "value": { "intValue": value.to_string() } });
        let mut attributes = vec![
            text("http.request.method", known(method)),
            text("url.path", path),
            number("http.response.status_code", status.as_u16().into()),
            text("client.address", &peer.ip().to_string()),
            text("http.request.header.x-request-id", request_id),
        ];
        attributes.extend(length.map(|length| number("http.response.body.size", length)));
        let code = if status.is_server_error() { ERROR } else { 0 };
        let span = json!({
            "traceId": traced.trace, "spanId": traced.span, "parentSpanId": traced.parent,
            "name": name(method, path), "kind": SERVER,
            "startTimeUnixNano": nanoseconds(traced.began),
            "endTimeUnixNano": nanoseconds(SystemTime::now()),
            "attributes": attributes, "status": { "code": code },
        });
        if self.sender.try_send(span).is_err() {
            let dropped = self.dropped.fetch_add(1, Ordering::Relaxed) + 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "spans were dropped: the collector does not follow");
            }
        }
    }
}

/// A name of few values: the operation, not the repository.
fn name(method: &Method, path: &str) -> String {
    let mut name = known(method).to_owned();
    let shown = match crate::oci::route(method, path) {
        Ok(route) => format!(" {:?}", route.operation()),
        Err(_) => String::new(),
    };
    name.push_str(&shown);
    name
}

/// The method's word; one of a client's own could be any text (OpenTelemetry's conventions for HTTP spans).
fn known(method: &Method) -> &str {
    match method.as_str() {
        word @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT"
        | "TRACE") => word,
        _ => "_OTHER",
    }
}

fn nanoseconds(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

async fn export(url: String, mut spans: mpsc::Receiver<Value>) {
    let client = Client::new(ClientConfig::default());
    let shown = shown(&url);
    let mut is_silent = false;
    loop {
        let Some(first) = spans.recv().await else { return };
        let mut batch = vec![first];
        let gather = async {
            while batch.len() < BATCH {
                let Some(span) = spans.recv().await else { return };
                batch.push(span);
            }
        };
        // What has come until then is sent.
        let _gathered = tokio::time::timeout(GATHER, gather).await;
        let sent = tokio::time::timeout(PATIENCE, send(&client, &url, batch)).await;
        let problem = match sent {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(_elapsed) => Some("no answer in time".to_owned()),
        };
        if let Some(problem) = &problem
            && !is_silent
        {
            tracing::warn!(url = shown, problem, "traces cannot be sent");
        }
        is_silent = problem.is_some();
    }
}

/// A URL without account and query, in which secrets may be.
fn shown(url: &str) -> String {
    let Ok(mut parsed) = url.parse::<url::Url>() else { return String::new() };
    // What has no host has no account either.
    let _without = parsed.set_username("").and_then(|()| parsed.set_password(None));
    parsed.set_query(None);
    parsed.into()
}

async fn send(client: &Client, url: &str, spans: Vec<Value>) -> Result<(), String> {
    let message = json!({ "resourceSpans": [{
        "resource": { "attributes": [
            { "key": "service.name", "value": { "stringValue": "davit-registry" } },
            { "key": "service.version", "value": { "stringValue": env!("CARGO_PKG_VERSION") } },
        ] },
        "scopeSpans": [{ "scope": { "name": "davit-registry" }, "spans": spans }],
    }] });
    let mut request = WebRequest::new("POST", url).header("content-type", "application/json");
    request.body = message.to_string().into();
    match client.ask_once(&request).await {
        Ok(reply) if (200..300).contains(&reply.status()) => Ok(()),
        Ok(reply) => Err(format!("status {}", reply.status())),
        Err(error) => Err(in_words(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_name_the_collector_without_its_secrets() {
        let url = "https://me:secret@otel.test:4318/v1/traces?key=secret";
        assert_eq!(shown(url), "https://otel.test:4318/v1/traces");
    }

    #[test]
    fn names_of_spans_are_few() {
        let method: Method = "BREW".parse().unwrap();
        assert_eq!(name(&method, "/v2/a/manifests/b"), "_OTHER");
        assert_eq!(name(&Method::GET, "/v2/a/manifests/b"), "GET GetManifest");
        assert_eq!(name(&Method::GET, "/elsewhere"), "GET");
    }

    #[test]
    fn traces_of_callers_are_continued() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let begin = |text: &str| Traced::begin(Some(&text.parse().unwrap()));
        let traced = begin(&format!("00-{trace}-{span}-01")).unwrap();
        assert_eq!((&*traced.trace, &*traced.parent), (trace, span));
        assert!(begin(&format!("00-{trace}-{span}-00")).is_none());
        let zeros = "0".repeat(32);
        for bad in ["", "00", &format!("ff-{trace}-{span}-01"), &format!("00-{zeros}-{span}-01")] {
            let traced = begin(bad).unwrap();
            assert!(traced.parent.is_empty() && traced.trace.len() == 32, "{bad}");
        }
    }
}
