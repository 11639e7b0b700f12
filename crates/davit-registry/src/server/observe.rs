//! What is told of a request: an id, which the reply carries and each line of the log about it; a line
//! of its own; a span of a trace.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use tracing::Instrument as _;

use super::otlp::{Traced, Traces};

/// Header with the id, in requests and replies.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that a client chose.
const LONGEST_ID: usize = 128;
/// Letters of a path that are told: the longest one that names anything is shorter.
const LONGEST_PATH: usize = 1024;

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The id of the request that this task answers; empty where it answers none.
pub(crate) fn request_id() -> String {
    let id = CURRENT.try_with(|id| id.to_str().unwrap_or_default().to_owned());
    id.unwrap_or_default()
}

/// Sees all requests of a server; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Observer {
    ids: Arc<Ids>,
    traces: Option<Traces>,
}

#[derive(Debug)]
struct Ids {
    /// Tells servers and their starts apart.
    start: u128,
    next: AtomicU64,
}

/// A request that is being answered.
#[derive(Debug)]
pub(super) struct Observed {
    id: HeaderValue,
    started: Instant,
    /// What the log and the trace say of it, where anybody reads them.
    told: Option<Box<Told>>,
}

#[derive(Debug)]
struct Told {
    method: Method,
    path: String,
    peer: SocketAddr,
    traced: Option<(Traces, Traced)>,
}

impl Observer {
    pub(super) fn new(traces: Option<Traces>) -> Self {
        let start = uuid::Uuid::now_v7().as_u128() & 0xffff_ffff;
        Self { ids: Arc::new(Ids { start, next: AtomicU64::new(1) }), traces }
    }

    pub(super) fn begin(&self, peer: SocketAddr, parts: &Parts) -> Observed {
        let traced = self.traces.as_ref().and_then(|traces| {
            Some((traces.clone(), Traced::begin(parts.headers.get("traceparent"))?))
        });
        let is_told = traced.is_some() || tracing::enabled!(tracing::Level::INFO);
        let told = is_told.then(|| {
            let method = parts.method.clone();
            let path = shown(parts.uri.path());
            Box::new(Told { method, path, peer, traced })
        });
        Observed { id: self.id(&parts.headers), started: Instant::now(), told }
    }

    /// The client's id, if it is one that a line of a log can bear, or a new one.
    fn id(&self, headers: &HeaderMap) -> HeaderValue {
        let given = headers.get(&REQUEST_ID).filter(|id| is_sound(id.as_bytes()));
        given.cloned().unwrap_or_else(|| {
            let number = self.ids.next.fetch_add(1, Ordering::Relaxed);
            let text = format!("{:08x}-{number:x}", self.ids.start);
            HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("-"))
        })
    }
}

/// The path as it is told: without the key of a webhook, by which whoever reads logs could call it.
fn shown(path: &str) -> String {
    if path.trim_start_matches('/').starts_with("hooks/") {
        return "/hooks/****".to_owned();
    }
    path.chars().take(LONGEST_PATH).collect()
}

fn is_sound(id: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
    (1..=LONGEST_ID).contains(&id.len()) && id.iter().all(is_word)
}

impl Observed {
    /// Answers it, under its id.
    pub(super) async fn answer<R>(&self, answer: impl Future<Output = R>) -> R {
        let span = match &self.told {
            Some(_) => tracing::info_span!("request", id = self.id.to_str().unwrap_or_default()),
            None => tracing::Span::none(),
        };
        CURRENT.scope(self.id.clone(), answer.instrument(span)).await
    }

    /// Puts the id into the reply, and tells how the request ended: when the head of the reply is known.
    pub(super) fn end(self, status: StatusCode, headers: &mut HeaderMap) {
        if let Some(told) = self.told {
            let length = headers.get(header::CONTENT_LENGTH);
            let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
            let id = self.id.to_str().unwrap_or_default();
            tracing::info!(
                request_id = id,
                method = told.method.as_str(),
                path = told.path,
                status = status.as_u16(),
                bytes = length,
                microseconds = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
                peer = %told.peer,
                "request"
            );
            if let Some((traces, traced)) = told.traced {
                traces.end(traced, (&told.method, &told.path), (status, length), (id, told.peer));
            }
        }
        headers.insert(REQUEST_ID, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_break_a_line_are_not_taken() {
        let observer = Observer::new(None);
        let long = "a".repeat(LONGEST_ID + 1);
        for (given, is_taken) in
            [("req-1.a/b:c", true), ("", false), ("a b", false), ("a\"b", false), (&*long, false)]
        {
            let headers = HeaderMap::from_iter([(REQUEST_ID, given.parse().unwrap())]);
            assert_eq!(observer.id(&headers) == given, is_taken, "{given}");
        }
        let none = HeaderMap::new();
        assert_ne!(observer.id(&none), observer.id(&none));
    }
}
