//! Live parts: a stream of server-sent events (HTML § 9.2) that only says "look again".
//!
//! What is new a page fetches by itself, through the gate; the stream tells nothing but that there is
//! something, and ends when its reader may not see the page any more.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Visit;
use crate::{
    api::{GcState, Problem},
    auth::{Action, Need},
    db::values,
};

/// How often a repository is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Looks after which the stream ends; the browser begins another.
const LOOKS: u32 = 300;
/// Looks after which something is sent, so that a reader who has gone is noticed.
const SILENT: u32 = 10;

const CHANGE: Bytes = Bytes::from_static(b"event: change\ndata:\n\n");
const NOTHING: Bytes = Bytes::from_static(b":\n\n");

struct Reader {
    visit: Visit,
    _stream: OwnedSemaphorePermit,
    stopped: watch::Receiver<bool>,
    looks: u32,
    seen: Option<Seen>,
}

/// What a repository's tags were at the last look: how many there are, and the newest move.
type Seen = (i64, Option<i64>);

/// Events of a repository: a tag was made, moved or removed.
pub(super) async fn repository(visit: &Visit) -> Result<Response<Body>, Problem> {
    let mut reader = begin(visit)?;
    reader.seen = look(&reader.visit).await?;
    Ok(stream(Body::from_stream(stream::unfold(reader, |mut reader| async {
        let piece = reader.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), reader))
    }))))
}

impl Reader {
    /// The next piece of the stream; `None` is its end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = self.stopped.changed() => return None,
            }
            self.looks += 1;
            if self.looks > LOOKS {
                return None;
            }
            // A failure ends the stream; the browser comes back later.
            let now = look(&self.visit).await.ok()?;
            now?;
            if now != self.seen {
                self.seen = now;
                return Some(CHANGE);
            }
            if self.looks.is_multiple_of(SILENT) {
                return Some(NOTHING);
            }
        }
    }
}

/// `None` where the reader may not see the repository any more.
async fn look(visit: &Visit) -> Result<Option<Seen>, Problem> {
    const TAGS: &str = "SELECT (SELECT COUNT(*) FROM tag WHERE repo_id = repo.id), \
         (SELECT MAX(id) FROM tag_event WHERE repo_id = repo.id) FROM repo WHERE path = $1";
    let path = visit.names.get("repository");
    let visitor = visit.site.visitor(&visit.cookies).await?;
    let caller = visitor.unwrap_or_else(|| match visit.caller.account() {
        // The session is over.
        Some(_) => crate::auth::Caller::anonymous(),
        None => visit.caller.clone(),
    });
    let visit = &Visit { caller, ..visit.clone() };
    if !visit.may(Need::Repository(Action::Pull, path)).await? {
        return Ok(None);
    }
    let mut reader = visit.site.registry.database.reader().await?;
    let row = reader.row(TAGS, values![path]).await?;
    Ok(row.map(|row| Ok::<_, crate::db::DbError>((row.get(0)?, row.get(1)?))).transpose()?)
}

/// Events of garbage collection: a phase began, or it ended.
pub(super) fn collection(visit: &Visit) -> Result<Response<Body>, Problem> {
    let reader = begin(visit)?;
    let states: watch::Receiver<GcState> = visit.site.collector.watch();
    Ok(stream(Body::from_stream(stream::unfold(
        (reader, states),
        |(mut reader, mut states)| async {
            let piece = tokio::select! {
                changed = states.changed() => { changed.ok()?; CHANGE }
                () = tokio::time::sleep(LOOK * SILENT) => NOTHING,
                _ = reader.stopped.changed() => return None,
            };
            reader.looks += 1;
            let is_over = reader.looks > LOOKS;
            (!is_over).then_some((Ok::<_, std::convert::Infallible>(piece), (reader, states)))
        },
    ))))
}

fn begin(visit: &Visit) -> Result<Reader, Problem> {
    let stream = visit.site.streams.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages watch this server")
    })?;
    let stopped = visit.site.stopped.clone();
    Ok(Reader { visit: visit.clone(), _stream: stream, stopped, looks: 0, seen: None })
}

fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
