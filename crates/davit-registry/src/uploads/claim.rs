//! Who works on an upload session: one request at a time, of all nodes.
//!
//! Within a process a set knows it. Where nodes share a database, the session's row does too: a claim
//! raises its version, so that whoever lost the claim can write nothing down, and is renewed while the
//! request lasts. The claim of a node that died lapses.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{Owner, Session, find};
use crate::{
    db::{Connection, Database, DbError, Transaction, ms, values},
    fault::Fault,
    registry::{Busy, Registry},
};

/// A session that no other request works on until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    _busy: Busy,
    shared: Option<Shared>,
}

#[derive(Debug)]
struct Shared {
    database: Database,
    renewal: Renew,
    is_lost: Arc<AtomicBool>,
    renewing: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Claim {
    /// Tells whether another node has taken the session: then nothing of it may be touched.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_lost.load(Ordering::Relaxed))
    }

    /// Asks whether the session is still this node's, before what cannot be taken back.
    ///
    /// # Errors
    /// [`Fault::Disconnected`] when it is not.
    pub(super) async fn confirm(&self) -> Result<(), Fault> {
        let Some(shared) = &self.shared else { return Ok(()) };
        if shared.database.write(shared.renewal.clone()).await? {
            return Ok(());
        }
        Err(Fault::Disconnected)
    }

    /// Lets the session go when nothing was written down, so that the client may try again at once.
    pub(super) async fn release(self) {
        let Some(shared) = &self.shared else { return };
        let Renew { id, version, .. } = shared.renewal;
        if let Err(error) = shared.database.write(Release { id, version }).await {
            tracing::warn!(%error, session = %id, "an upload session waits for its claim to lapse");
        }
    }
}

/// Finds a session and keeps others from it; refuses bytes that do not follow.
pub(super) async fn claim(
    registry: &Registry,
    owner: &Owner,
    id: Uuid,
    start: Option<u64>,
) -> Result<(Session, Claim), Fault> {
    let busy = registry.claim(id);
    let mut session = find(registry, owner, id).await?;
    let refused = Fault::OutOfOrder { session: id, offset: session.offset };
    let Some(busy) = busy else { return Err(refused) };
    if start.is_some_and(|start| start != session.offset) {
        return Err(refused);
    }
    if !registry.database.is_shared() {
        return Ok((session, Claim { _busy: busy, shared: None }));
    }
    let claim_ms = ms(registry.limits.claim);
    let take = Take { id, version: session.version, claim_ms };
    if !registry.database.write(take).await? {
        return Err(refused);
    }
    session.version += 1;
    let is_lost = Arc::new(AtomicBool::new(false));
    let renewal = Renew { id, version: session.version, claim_ms };
    let renewing = tokio::spawn(renew(registry.clone(), renewal.clone(), Arc::clone(&is_lost)));
    let database = registry.database.clone();
    let shared = Shared { database, renewal, is_lost, renewing };
    Ok((session, Claim { _busy: busy, shared: Some(shared) }))
}

/// Gives signs of life until the claim ends.
async fn renew(registry: Registry, renewal: Renew, is_lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(registry.limits.claim_renewal).await;
        match registry.database.write(renewal.clone()).await {
            Ok(true) => {}
            Ok(false) => return is_lost.store(true, Ordering::Relaxed),
            // The database may come back before the claim lapses.
            Err(error) => tracing::warn!(%error, "the claim on an upload session is not renewed"),
        }
    }
}

/// Takes a session for this node.
struct Take {
    id: Uuid,
    version: i64,
    claim_ms: i64,
}

impl Transaction for Take {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "UPDATE upload SET busy_until = $1, version = version + 1 \
                   WHERE id = $2 AND version = $3 AND busy_until <= $4";
        let now = connection.now_ms();
        let values = values![now + self.claim_ms, self.id, self.version, now];
        Ok(connection.execute(sql, values).await? == 1)
    }
}

#[derive(Clone, Debug)]
struct Renew {
    id: Uuid,
    version: i64,
    claim_ms: i64,
}

impl Transaction for Renew {
    type Output = bool;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<bool, DbError> {
        let sql = "UPDATE upload SET busy_until = $1 WHERE id = $2 AND version = $3";
        let until = connection.now_ms() + self.claim_ms;
        Ok(connection.execute(sql, values![until, self.id, self.version]).await? == 1)
    }
}

struct Release {
    id: Uuid,
    version: i64,
}

impl Transaction for Release {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let sql = "UPDATE upload SET busy_until = 0 WHERE id = $1 AND version = $2";
        connection.execute(sql, values![self.id, self.version]).await?;
        Ok(())
    }
}
