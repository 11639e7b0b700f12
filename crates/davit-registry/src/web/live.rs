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
pub(super) const SILENT: u32 = 10;

pub(super) const CHANGE: Bytes = Bytes::from_static(b"event: change\ndata:\n\n");
pub(super) const NOTHING: Bytes = Bytes::from_static(b":\n\n");

/// Who reads a stream.
pub(super) struct Reader {
    pub(super) visit: Visit,
    _stream: OwnedSemaphorePermit,
    stopped: watch::Receiver<bool>,
    pub(super) looks: u32,
}

/// What a repository's tags or builds were at a look; it has changed when the numbers have.
type Seen = Vec<Option<i64>>;

/// What is looked at.
#[derive(Clone, Copy)]
struct Part {
    action: Action,
    columns: usize,
    sql: &'static str,
}

/// How many tags there are, and the newest move.
const TAGS: Part = Part {
    action: Action::Pull,
    columns: 2,
    sql: "SELECT (SELECT COUNT(*) FROM tag WHERE repo_id = repo.id), \
          (SELECT MAX(id) FROM tag_event WHERE repo_id = repo.id) FROM repo WHERE path = $1",
};
/// The newest build, and how many wait and run.
const BUILDS: Part = Part {
    action: Action::Push,
    columns: 3,
    sql: "SELECT (SELECT MAX(id) FROM build WHERE repo_id = repo.id), \
          (SELECT COUNT(*) FROM build WHERE repo_id = repo.id AND state = 'waiting'), \
          (SELECT COUNT(*) FROM build WHERE repo_id = repo.id AND state = 'running') \
          FROM repo WHERE path = $1",
};

/// Events of a repository: a tag was made, moved or removed.
pub(super) async fn repository(visit: &Visit) -> Result<Response<Body>, Problem> {
    changes(visit, TAGS).await
}

/// Events of a repository: a build was asked for, began or ended.
pub(super) async fn builds(visit: &Visit) -> Result<Response<Body>, Problem> {
    changes(visit, BUILDS).await
}

async fn changes(visit: &Visit, part: Part) -> Result<Response<Body>, Problem> {
    let reader = begin(visit)?;
    let seen = look(&reader.visit, part).await?;
    let state = (reader, seen);
    Ok(stream(Body::from_stream(stream::unfold(state, move |(mut reader, mut seen)| async move {
        let piece = reader.next(part, &mut seen).await?;
        Some((Ok::<_, std::convert::Infallible>(piece), (reader, seen)))
    }))))
}

impl Reader {
    /// The next piece of a stream that tells of changes; `None` is its end.
    async fn next(&mut self, part: Part, seen: &mut Option<Seen>) -> Option<Bytes> {
        loop {
            self.wait(LOOK).await?;
            // A failure ends the stream; the browser comes back later.
            let now = Some(look(&self.visit, part).await.ok()??);
            if now != *seen {
                *seen = now;
                return Some(CHANGE);
            }
            if self.looks.is_multiple_of(SILENT) {
                return Some(NOTHING);
            }
        }
    }

    /// Waits for the next look; `None` where the stream ends.
    pub(super) async fn wait(&mut self, time: Duration) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            _ = self.stopped.changed() => return None,
        }
        self.looks += 1;
        (self.looks <= LOOKS).then_some(())
    }

    /// Tells whether the reader may still do this with the repository.
    pub(super) async fn still_may(&self, action: Action) -> Result<bool, Problem> {
        still_may(&self.visit, action).await
    }
}

async fn still_may(visit: &Visit, action: Action) -> Result<bool, Problem> {
    let visitor = visit.site.visitor(&visit.cookies).await?;
    let caller = visitor.unwrap_or_else(|| match visit.caller.account() {
        // The session is over.
        Some(_) => crate::auth::Caller::anonymous(),
        None => visit.caller.clone(),
    });
    let visit = Visit { caller, ..visit.clone() };
    visit.may(Need::Repository(action, visit.names.get("repository"))).await
}

/// `None` where the reader may not see the repository any more.
async fn look(visit: &Visit, part: Part) -> Result<Option<Seen>, Problem> {
    if !still_may(visit, part.action).await? {
        return Ok(None);
    }
    let mut reader = visit.site.registry.database.reader().await?;
    let row = reader.row(part.sql, values![visit.names.get("repository")]).await?;
    let seen = |row: crate::db::Row| (0..part.columns).map(|column| row.get(column)).collect();
    Ok(row.map(seen).transpose().map_err(|error: crate::db::DbError| error)?)
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

pub(super) fn begin(visit: &Visit) -> Result<Reader, Problem> {
    let stream = visit.site.streams.clone().try_acquire_owned().map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages watch this server")
    })?;
    let stopped = visit.site.stopped.clone();
    Ok(Reader { visit: visit.clone(), _stream: stream, stopped, looks: 0 })
}

pub(super) fn stream(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
