//! `POST /hooks/KEY`: git hosts tell of pushes.
//!
//! The key is a source's own; whoever does not know it is told what an unknown one is told. What the
//! sender proves is that it knows the source's secret.

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State},
    response::{IntoResponse as _, Response},
    routing::post,
};
use davit_distribution::Secret;
use http::StatusCode;

use super::{
    AutobuildError,
    hook::{self, Event},
    queue::{Announce, Announced, Cause},
};
use crate::db::{Connection, Database, DbError, Transaction, values};

/// Largest payload; GitHub's own limit is 25 MB, which tells of pushes that no list holds.
const BODY_BYTES: usize = 8 << 20;
/// Length of a key.
const KEY_LENGTH: usize = 48;

/// The route.
pub fn routes(database: Database) -> Router {
    Router::new().route("/hooks/{key}", post(serve)).with_state(database)
}

async fn serve(
    State(database): State<Database>,
    Path(key): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let source = match find(&database, &key).await {
        Ok(Some(source)) => source,
        Ok(None) => return answer(StatusCode::NOT_FOUND, "there is no such webhook"),
        Err(error) => return broken(&error.into()),
    };
    let Ok(body) = to_bytes(body, BODY_BYTES).await else {
        return answer(StatusCode::PAYLOAD_TOO_LARGE, "the payload is too large");
    };
    let sender = match hook::sender(&parts.headers, &body, source.secret.expose()) {
        Ok(sender) => sender,
        Err(error) => return answer(StatusCode::UNAUTHORIZED, &error.to_string()),
    };
    let event = match hook::event(sender, &parts.headers, &body) {
        Ok(event) => event,
        Err(error) => return answer(StatusCode::BAD_REQUEST, &error.to_string()),
    };
    match source.take(&database, event).await {
        Ok(announced) => (StatusCode::OK, axum::Json(announced)).into_response(),
        Err(error) => broken(&error),
    }
}

fn answer(status: StatusCode, words: &str) -> Response {
    (status, format!("{words}\n")).into_response()
}

fn broken(error: &AutobuildError) -> Response {
    tracing::error!(error = error as &dyn std::error::Error, "a webhook cannot be served");
    answer(StatusCode::INTERNAL_SERVER_ERROR, "the server cannot do that now")
}

/// The source that a key belongs to.
struct Source {
    id: i64,
    secret: Secret,
}

async fn find(database: &Database, key: &str) -> Result<Option<Source>, DbError> {
    if key.len() != KEY_LENGTH {
        return Ok(None);
    }
    let sql = "SELECT id, hook_secret FROM build_source WHERE hook_key = $1";
    let row = database.reader().await?.row(sql, values![key]).await?;
    row.map(|row| Ok(Source { id: row.get(0)?, secret: Secret::new(row.get::<String>(1)?) }))
        .transpose()
}

impl Source {
    async fn take(&self, database: &Database, event: Event) -> Result<Announced, AutobuildError> {
        match event {
            Event::Nothing => {}
            Event::Look => database.write(LookNow(self.id)).await?,
            Event::Closed(reference) => {
                database.write(Expire { source: self.id, reference }).await?;
            }
            Event::New { revisions, actor } => {
                let cause = Cause::Push;
                let announce = Announce { source: self.id, revisions, cause, actor };
                return database.write(announce).await;
            }
        }
        Ok(Announced::default())
    }
}

/// Lets the next poll come at once.
struct LookNow(i64);

impl Transaction for LookNow {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        let sql = "UPDATE build_source SET poll_at = $1 WHERE id = $2";
        connection.execute(sql, values![now, self.0]).await.map(drop)
    }
}

/// Ends the previews of a pull request that was closed, and what would make new ones.
struct Expire {
    source: i64,
    reference: String,
}

impl Transaction for Expire {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        for sql in [
            "UPDATE build_expiry SET expires_at = $1 WHERE reference = $2 \
             AND repo_id = (SELECT repo_id FROM build_source WHERE id = $3)",
            "UPDATE build SET state = 'cancelled', error = 'the pull request was closed', \
             finished_at = $1 WHERE reference = $2 AND state = 'waiting' \
             AND repo_id = (SELECT repo_id FROM build_source WHERE id = $3)",
        ] {
            let values = values![now, &self.reference, self.source];
            connection.execute(sql, values).await?;
        }
        Ok(())
    }
}
