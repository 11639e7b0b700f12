//! Upload sessions: begin, go on, status, cancel, finish. The row holds how far a session came and the
//! state of its digest, so that any node goes on from there, also after a crash.

use bytes::Bytes;
use davit_image::{Algorithm, Digest, Digester};
use futures_util::{Stream, StreamExt as _};
use uuid::Uuid;

use crate::{
    blobs::{self, Commit},
    db::{Connection, DbError, Transaction, ms, values},
    fault::Fault,
    name::RepositoryName,
    registry::{Registry, ensure_repo},
    store::{Incoming, Kept, Place, Received, StoreError},
};

mod begun;
mod claim;

pub(crate) use begun::{Begun, write_all};
use claim::{Claim, claim};

/// An upload session that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its name.
    pub id: Uuid,
    /// Bytes that it has.
    pub offset: u64,
    algorithm: Algorithm,
    hash_state: Vec<u8>,
    version: i64,
    kept: Kept,
    /// Whether another request has it; where one then gets it, that one did not let it go.
    is_taken_over: bool,
}

/// Whose session is meant: another's answers as an absent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The repository.
    pub name: RepositoryName,
    /// Account that began it; `None` without one.
    pub account: Option<i64>,
}

/// Begins a session.
///
/// # Errors
/// [`Fault::Busy`] when the account has too many open ones.
pub async fn begin(
    registry: &Registry,
    owner: &Owner,
    algorithm: Algorithm,
) -> Result<Session, Fault> {
    let session = Session {
        id: Uuid::now_v7(),
        offset: 0,
        algorithm,
        hash_state: Digester::new(algorithm).state(),
        version: 0,
        kept: Kept::default(),
        is_taken_over: false,
    };
    let now = registry.database.now_ms();
    let until_ms = now + ms(registry.limits.upload_idle);
    let most = i64::from(registry.limits.open_uploads);
    if !registry.database.is_shared() {
        if let Some(account) = owner.account {
            let others = registry.begun.count(account, now);
            let mut reader = registry.database.lookup().await?;
            check_open(&mut reader, account, most.saturating_sub_unsigned(others as u64)).await?;
        }
        if registry.begun.keep(owner, &session, (now, until_ms)) {
            return Ok(session);
        }
    }
    let begin = Begin { owner: owner.clone(), session: session.clone(), until_ms, most };
    registry.database.write(begin).await?;
    Ok(session)
}

/// Refuses an account that has as many sessions as it may have.
async fn check_open(connection: &mut Connection, account: i64, most: i64) -> Result<(), Fault> {
    let sql = "SELECT COUNT(*) FROM upload WHERE account_id = $1";
    let row = connection.row(sql, values![account]).await?;
    if row.map_or(Ok(0), |row| row.get::<i64>(0))? >= most {
        return Err(Fault::Busy);
    }
    Ok(())
}

/// Gives a session its row, and makes the repository if it is new.
struct Begin {
    owner: Owner,
    session: Session,
    until_ms: i64,
    most: i64,
}

impl Transaction for Begin {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        if let Some(account) = self.owner.account {
            check_open(connection, account, self.most).await?;
        }
        let repo = ensure_repo(connection, &self.owner.name).await?;
        let sql = "INSERT INTO upload (id, repo_id, account_id, offset_bytes, algorithm, \
                   hash_state, store_ref, version, busy_until, created_at, expires_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let (session, now) = (&self.session, connection.now_ms());
        let row = values![
            session.id,
            repo.id,
            self.owner.account,
            0_u64,
            session.algorithm.name(),
            session.hash_state.as_slice(),
            "",
            0_i64,
            0_i64,
            now,
            self.until_ms
        ];
        connection.execute(sql, row).await?;
        Ok(())
    }
}

/// Finds a session of this owner.
///
/// # Errors
/// [`Fault::UPLOAD_UNKNOWN`]: absent, expired, or another's.
pub async fn find(registry: &Registry, owner: &Owner, id: Uuid) -> Result<Session, Fault> {
    if let Some(session) = registry.begun.find(owner, id, registry.database.now_ms()) {
        return Ok(session);
    }
    let sql = "SELECT u.offset_bytes, u.algorithm, u.hash_state, u.version, u.account_id, u.parts, \
               u.store_ref, u.tail, u.busy_until \
               FROM upload u JOIN repo r ON r.id = u.repo_id \
               WHERE u.id = $1 AND r.path = $2 AND u.expires_at > $3";
    let mut reader = registry.database.lookup().await?;
    let now = reader.now_ms();
    let row = reader.row(sql, values![id, owner.name.as_str(), now]).await?;
    let row = row.ok_or(Fault::UPLOAD_UNKNOWN)?;
    if row.get::<Option<i64>>(4)? != owner.account {
        return Err(Fault::UPLOAD_UNKNOWN);
    }
    let algorithm: String = row.get(1)?;
    Ok(Session {
        id,
        offset: row.get(0)?,
        algorithm: algorithm.parse().map_err(|_error| Fault::UPLOAD_UNKNOWN)?,
        hash_state: row.get(2)?,
        version: row.get(3)?,
        kept: Kept {
            parts: row.get(5)?,
            key: row.get(6)?,
            tail: row.get::<Option<Vec<u8>>>(7)?.unwrap_or_default(),
        },
        is_taken_over: row.get::<i64>(8)? > 0,
    })
}

/// Takes the bytes of one `PATCH`; `start` is where the client says that they belong.
///
/// What arrived before a disconnection is kept.
///
/// # Errors
/// [`Fault::OutOfOrder`] when they do not follow, or another request works on the session.
pub async fn append<S>(
    registry: &Registry,
    owner: &Owner,
    id: Uuid,
    start: Option<u64>,
    body: S,
) -> Result<Session, Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let (session, claim) = claim(registry, owner, id, start).await?;
    begun::write_down(registry, id).await?;
    let outcome = extend(registry, session, &claim, body).await;
    ended(registry, (owner, id), claim, outcome).await
}

async fn extend<S>(
    registry: &Registry,
    mut session: Session,
    claim: &Claim,
    body: S,
) -> Result<Session, Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let (mut received, end) = receive(registry, &session, claim, body).await?;
    session.kept = registry.store.keep(&mut received).await?;
    session.offset = received.size_bytes;
    session.hash_state = received.digester.state();
    let idle_ms = ms(registry.limits.upload_idle);
    registry.database.write(Advance { session: session.clone(), idle_ms }).await?;
    received.noted();
    end.map(|()| session)
}

/// Lets a session go: one that failed goes on where it was, or is over when its parts are lost.
async fn ended<T>(
    registry: &Registry,
    (owner, id): (&Owner, Uuid),
    claim: Claim,
    outcome: Result<T, Fault>,
) -> Result<T, Fault> {
    match outcome {
        Err(Fault::Store(StoreError::PartsGone)) => {
            cancel(registry, owner, id).await?;
            Err(Fault::UPLOAD_UNKNOWN)
        }
        Err(fault) => {
            claim.release().await;
            Err(fault)
        }
        Ok(done) => Ok(done),
    }
}

/// Takes the bytes of the last request of a session, and makes the whole a blob of the repository.
///
/// A session with other bytes than `digest` names ends as well.
///
/// # Errors
/// As [`append`], and a digest that is not the content's.
pub async fn finish<S>(
    registry: &Registry,
    owner: &Owner,
    (id, start): (Uuid, Option<u64>),
    digest: Digest,
    body: S,
) -> Result<(), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let claimed = claim(registry, owner, id, start).await;
    if matches!(claimed, Err(Fault::Unknown(_)))
        && blobs::find(registry, &owner.name, &digest).await.is_ok()
    {
        // The reply to an earlier try was lost: what was asked for is so.
        return Ok(());
    }
    let (session, claim) = claimed?;
    let outcome = complete(registry, owner, session, (&claim, digest), body).await;
    ended(registry, (owner, id), claim, outcome).await
}

async fn complete<S>(
    registry: &Registry,
    owner: &Owner,
    mut session: Session,
    (claim, digest): (&Claim, Digest),
    body: S,
) -> Result<(), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    if session.offset == 0 && session.algorithm != digest.algorithm() {
        session.algorithm = digest.algorithm();
        session.hash_state = Digester::new(session.algorithm).state();
    }
    let (mut received, end) = if session.offset == 0 {
        // A session that gets everything at once needs no file of its own.
        let incoming = registry.store.receive(Digester::new(session.algorithm));
        pump(registry, (incoming, 0), Some(claim), body).await?
    } else {
        receive(registry, &session, claim, body).await?
    };
    end?;
    let sized = received.size_bytes;
    let actual = if session.algorithm == digest.algorithm() {
        received.digester.clone().finish()
    } else {
        received.digest_again(digest.algorithm()).await?
    };
    if actual != digest {
        cancel(registry, owner, session.id).await?;
        return Err(Fault::digest(format!("the content has digest {actual}")));
    }
    if session.offset > 0 {
        claim.confirm().await?;
    }
    // Nothing but memory knew of it, unless it was cancelled meanwhile.
    let is_in_memory = registry.begun.forget(session.id);
    let session = (!is_in_memory).then_some((session.id, session.version));
    commit(registry, &owner.name, received, (digest, sized), session).await
}

/// Takes a whole blob in one request, without a session.
///
/// # Errors
/// A digest that is not the content's.
pub async fn whole<S>(
    registry: &Registry,
    name: &RepositoryName,
    digest: Digest,
    body: S,
) -> Result<(), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let incoming = registry.store.receive(Digester::new(digest.algorithm()));
    let (received, end) = pump(registry, (incoming, 0), None, body).await?;
    end?;
    let (sized, actual) = (received.size_bytes, received.digester.clone().finish());
    if actual != digest {
        return Err(Fault::digest(format!("the content has digest {actual}")));
    }
    commit(registry, name, received, (digest, sized), None).await
}

/// Ends a session, and forgets its bytes.
///
/// # Errors
/// [`Fault::UPLOAD_UNKNOWN`].
pub async fn cancel(registry: &Registry, owner: &Owner, id: Uuid) -> Result<(), Fault> {
    let session = find(registry, owner, id).await?;
    if registry.begun.forget(id) {
        return Ok(());
    }
    registry.database.write(Cancel { id }).await?;
    Ok(registry.store.remove_session(id, &session.kept.parts).await?)
}

struct Cancel {
    id: Uuid,
}

impl Transaction for Cancel {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        connection.execute("DELETE FROM upload WHERE id = $1", values![self.id]).await
    }
}

/// Writes down how far a session came, and lets it go.
struct Advance {
    session: Session,
    idle_ms: i64,
}

impl Transaction for Advance {
    type Output = ();
    type Error = Fault;

    async fn run(&self, connection: &mut Connection) -> Result<(), Fault> {
        let sql = "UPDATE upload SET offset_bytes = $1, hash_state = $2, version = version + 1, \
                   busy_until = 0, expires_at = $3, parts = $6, store_ref = $7, tail = $8 \
                   WHERE id = $4 AND version = $5";
        let (session, until) = (&self.session, connection.now_ms() + self.idle_ms);
        let values = values![
            session.offset,
            session.hash_state.as_slice(),
            until,
            session.id,
            session.version,
            &session.kept.parts,
            &session.kept.key,
            session.kept.tail.as_slice()
        ];
        if connection.execute(sql, values).await? == 0 {
            return Err(Fault::UPLOAD_UNKNOWN);
        }
        Ok(())
    }
}

async fn receive<S>(
    registry: &Registry,
    session: &Session,
    claim: &Claim,
    body: S,
) -> Result<(Received, Result<(), Fault>), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let digester = Digester::resume(session.algorithm, &session.hash_state);
    let digester = digester.ok_or(Fault::UPLOAD_UNKNOWN)?;
    let Session { id, offset, is_taken_over, ref kept, .. } = *session;
    let place = Place { offset, kept, is_taken_over };
    let incoming = registry.store.resume(id, digester, &place);
    pump(registry, (incoming, session.offset), Some(claim), body).await
}

/// Moves the body to the store; tells how the body ended beside what arrived.
async fn pump<S>(
    registry: &Registry,
    (mut incoming, offset): (Incoming, u64),
    claim: Option<&Claim>,
    mut body: S,
) -> Result<(Received, Result<(), Fault>), Fault>
where
    S: Stream<Item = Result<Bytes, Fault>> + Send + Unpin,
{
    let most = registry.limits.blob_bytes;
    let end = loop {
        match body.next().await {
            None => break Ok(()),
            Some(Err(fault)) => break Err(fault),
            Some(Ok(piece)) => {
                let sum = offset + incoming.received_bytes() + piece.len() as u64;
                if sum > most {
                    break Err(Fault::TooLarge(format!("a blob may have {most} bytes")));
                }
                if claim.is_some_and(Claim::is_lost) {
                    return Err(Fault::Disconnected);
                }
                incoming.write(piece).await?;
            }
        }
    };
    registry.count_received(incoming.received_bytes());
    Ok((incoming.finish().await?, end))
}

async fn commit(
    registry: &Registry,
    name: &RepositoryName,
    received: Received,
    (digest, size_bytes): (Digest, u64),
    session: Option<(Uuid, i64)>,
) -> Result<(), Fault> {
    let key = registry.store.publish(received, digest).await?;
    let trash_ms = ms(registry.limits.trash_delay);
    let commit = Commit {
        name: name.clone(),
        digest,
        size_bytes,
        key: key.clone(),
        session,
        lease_ms: registry.lease_ms(),
        trash_ms,
    };
    let outcome = registry.database.write(commit).await;
    if matches!(outcome, Err(Fault::Unknown(_))) {
        // Nothing names the object: the session was cancelled or taken meanwhile.
        registry.store.remove(&key).await?;
    }
    outcome
}
