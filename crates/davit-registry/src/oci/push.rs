//! Uploads of blobs, and mounts.

use axum::body::Body;
use davit_distribution::wire::{ErrorCode, UPLOAD_UUID};
use davit_image::{Algorithm, Digest};
use http::{HeaderName, StatusCode, header, request::Parts};
use uuid::Uuid;

use super::{
    Oci, ranges,
    reply::Reply,
    request::{Query, digest, pieces, session, text},
};
use crate::{
    auth::Caller,
    blobs,
    fault::Fault,
    name::RepositoryName,
    uploads::{self, Owner, Session},
};

impl Oci {
    /// `POST …/blobs/uploads/`: a mount, a whole blob, or a session.
    pub(super) async fn begin(
        &self,
        caller: &Caller,
        name: &RepositoryName,
        (parts, body): (&Parts, Body),
    ) -> Result<Reply, Fault> {
        let query = Query::of(parts);
        if let Some(wanted) = query.digest("mount")?
            && let Some(reply) = self.mount(caller, name, wanted, parts).await?
        {
            return Ok(reply);
        }
        if let Some(wanted) = query.digest("digest")? {
            let (registry, name) = (self.registry.clone(), name.clone());
            let ending = self.ending.clone();
            return to_the_end(async move {
                uploads::whole(&registry, &name, wanted, pieces(body, ending)).await?;
                Ok(created(&name, &wanted))
            })
            .await;
        }
        let algorithm = match query.get("digest-algorithm") {
            None => Algorithm::Sha256,
            Some(text) => text.parse().map_err(|_error| {
                Fault::digest("the registry has sha256 and sha512 as digest-algorithm")
            })?,
        };
        let owner = Owner { name: name.clone(), account: caller.account() };
        let session = uploads::begin(&self.registry, &owner, algorithm).await?;
        Ok(progress(StatusCode::ACCEPTED, name, session.id, session.offset))
    }

    /// Links a blob of another repository that the caller may pull from, or asks for a token with which
    /// it may; `None` asks for an upload.
    async fn mount(
        &self,
        caller: &Caller,
        name: &RepositoryName,
        digest: Digest,
        parts: &Parts,
    ) -> Result<Option<Reply>, Fault> {
        let sources: Vec<RepositoryName> = match Query::of(parts).get("from") {
            // A name that breaks the grammar has no blobs.
            Some(from) => from.parse().into_iter().collect(),
            None => blobs::holders(&self.registry, &digest).await?,
        };
        let mut refused = Vec::new();
        for from in sources {
            if !self.may_pull(caller, &from).await? {
                refused.push(from);
            } else if blobs::mount(&self.registry, from, name.clone(), digest).await? {
                return Ok(Some(created(name, &digest)));
            }
        }
        for from in &refused {
            if let Some(challenge) = self.ask_for_source(caller, (name, from), parts).await? {
                return Ok(Some(challenge));
            }
        }
        Ok(None)
    }

    /// `PATCH`, `PUT`, `GET` and `DELETE` of a session.
    pub(super) async fn append(
        &self,
        owner: Owner,
        id: &str,
        (parts, body): (&Parts, Body),
    ) -> Result<Reply, Fault> {
        let (id, start) = (session(id)?, start(parts)?);
        let (registry, ending) = (self.registry.clone(), self.ending.clone());
        to_the_end(async move {
            let session = uploads::append(&registry, &owner, id, start, pieces(body, ending)).await;
            with_place(
                &owner,
                session.map(|Session { id, offset, .. }| {
                    progress(StatusCode::ACCEPTED, &owner.name, id, offset)
                }),
            )
        })
        .await
    }

    pub(super) async fn finish(
        &self,
        owner: Owner,
        id: &str,
        (parts, body): (&Parts, Body),
    ) -> Result<Reply, Fault> {
        let (id, start) = (session(id)?, start(parts)?);
        let wanted = Query::of(parts).get("digest").map(digest);
        let wanted = wanted.unwrap_or_else(|| Err(Fault::digest("the query lacks digest")))?;
        let (registry, ending) = (self.registry.clone(), self.ending.clone());
        to_the_end(async move {
            let done =
                uploads::finish(&registry, &owner, (id, start), wanted, pieces(body, ending)).await;
            with_place(&owner, done.map(|()| created(&owner.name, &wanted)))
        })
        .await
    }

    pub(super) async fn status(&self, owner: &Owner, id: &str) -> Result<Reply, Fault> {
        let session = uploads::find(&self.registry, owner, session(id)?).await?;
        Ok(progress(StatusCode::NO_CONTENT, &owner.name, session.id, session.offset))
    }

    pub(super) async fn cancel(&self, owner: &Owner, id: &str) -> Result<Reply, Fault> {
        uploads::cancel(&self.registry, owner, session(id)?).await?;
        Ok(Reply::new(StatusCode::NO_CONTENT))
    }
}

/// Runs an upload in a task of its own: when the client goes, what arrived is still written down.
async fn to_the_end(
    upload: impl Future<Output = Result<Reply, Fault>> + Send + 'static,
) -> Result<Reply, Fault> {
    tokio::spawn(upload).await.unwrap_or(Err(Fault::Disconnected))
}

/// Where the body belongs, when the request says so.
fn start(parts: &Parts) -> Result<Option<u64>, Fault> {
    let Some(header) = text(&parts.headers, &header::CONTENT_RANGE) else { return Ok(None) };
    let invalid = |words: &str| Fault::Invalid(ErrorCode::BlobUploadInvalid, words.to_owned());
    let (first, last) = ranges::upload(header)
        .ok_or_else(|| invalid("Content-Range must be the first and last byte, as `0-99`"))?;
    let length = text(&parts.headers, &header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
    let sent = last.checked_sub(first).and_then(|length| length.checked_add(1));
    if length.is_some_and(|length: u64| sent != Some(length)) {
        let words = "Content-Range and Content-Length differ".to_owned();
        return Err(Fault::Invalid(ErrorCode::SizeInvalid, words));
    }
    Ok(Some(first))
}

/// A refusal of bytes that do not follow says where the session goes on.
fn with_place(owner: &Owner, outcome: Result<Reply, Fault>) -> Result<Reply, Fault> {
    match outcome {
        Err(fault @ Fault::OutOfOrder { session, offset }) => {
            Ok(placed(Reply::from(fault), &owner.name, session, offset))
        }
        outcome => outcome,
    }
}

fn created(name: &RepositoryName, digest: &Digest) -> Reply {
    Reply::new(StatusCode::CREATED)
        .with(header::LOCATION, &format!("/v2/{name}/blobs/{digest}"))
        .with_digest(digest)
}

fn progress(status: StatusCode, name: &RepositoryName, id: Uuid, offset: u64) -> Reply {
    let reply = placed(Reply::new(status), name, id, offset);
    reply.with(HeaderName::from_static(UPLOAD_UUID), &id.to_string())
}

/// Names the session and its last byte; a session without bytes says `0-0`, as clients expect.
fn placed(reply: Reply, name: &RepositoryName, id: Uuid, offset: u64) -> Reply {
    reply
        .with(header::LOCATION, &format!("/v2/{name}/blobs/uploads/{id}"))
        .with(header::RANGE, &format!("0-{}", offset.saturating_sub(1)))
}
