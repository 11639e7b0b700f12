//! The log of a build as it is written: a stream of server-sent events (HTML § 9.2).
//!
//! An event `log` has the next text as JSON, and its place as the event's id: a browser whose stream broke
//! off says which one it has seen. `change` says that the build has another state, `end` that nothing
//! comes any more.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::Response;

use super::{
    Visit,
    build_pages::{number, plain},
    live::{self, CHANGE, NOTHING, Reader, SILENT},
};
use crate::{
    api::{self, Problem},
    auth::Action,
    name::RepositoryName,
};

/// How often a log is looked at.
const LOOK: Duration = Duration::from_secs(1);
const END: Bytes = Bytes::from_static(b"event: end\ndata:\n\n");

/// Who follows a log, and how far.
struct Follower {
    reader: Reader,
    name: RepositoryName,
    id: i64,
    at: i64,
    /// The state that the page shows.
    state: String,
    is_first: bool,
    is_over: bool,
}

/// Events of one build.
pub(super) async fn build(visit: &Visit) -> Result<Response<Body>, Problem> {
    let name = visit.names.get("repository").parse().map_err(|_error| Problem::absent())?;
    let (id, reader) = (number(visit)?, live::begin(visit)?);
    api::build(&visit.site, &name, id).await?;
    let from = visit.last_event.as_deref().unwrap_or_else(|| visit.field("from"));
    let follower = Follower {
        at: from.parse().unwrap_or(0).max(0),
        state: visit.field("state").to_owned(),
        is_first: true,
        is_over: false,
        reader,
        name,
        id,
    };
    Ok(live::stream(Body::from_stream(stream::unfold(follower, |mut follower| async {
        let piece = follower.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), follower))
    }))))
}

impl Follower {
    /// The next piece of the stream; `None` is its end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        loop {
            if !std::mem::take(&mut self.is_first) {
                self.reader.wait(LOOK).await?;
            }
            if !self.reader.still_may(Action::Push).await.ok()? {
                return None;
            }
            let site = &self.reader.visit.site;
            // Before the log: what is read after that is all, once it is over.
            let build = api::build(site, &self.name, self.id).await.ok()?;
            let log = api::build_log(site, &self.name, (self.id, self.at)).await.ok()?;
            if log.next > self.at {
                self.at = log.next;
                // There may be more of it.
                self.is_first = true;
                let text = serde_json::Value::String(plain(&log.text));
                return Some(format!("id: {}\nevent: log\ndata: {text}\n\n", self.at).into());
            }
            if build.state != self.state {
                self.state = build.state;
                self.is_first = true;
                return Some(CHANGE);
            }
            if build.is_over {
                self.is_over = true;
                return Some(END);
            }
            if self.reader.looks.is_multiple_of(SILENT) {
                return Some(NOTHING);
            }
        }
    }
}
