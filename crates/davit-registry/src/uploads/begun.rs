//! Sessions that nothing was sent to yet, kept in memory: most clients send all of it in their next
//! request, and then the session never needs a row.
//!
//! Only where one process serves the database. A crash forgets them, as far as they had come: their
//! clients begin again. The server's end writes them down.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use uuid::Uuid;

use super::{Begin, Owner, Session};
use crate::{fault::Fault, registry::Registry};

/// Sessions that are kept; more get their row at once.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Begun(Mutex<HashMap<Uuid, Kept>>);

#[derive(Debug)]
struct Kept {
    owner: Owner,
    session: Session,
    until_ms: i64,
}

impl Begun {
    /// Keeps a session until a time; `false` when there are too many.
    pub(super) fn keep(
        &self,
        owner: &Owner,
        session: &Session,
        (now_ms, until_ms): (i64, i64),
    ) -> bool {
        let mut kept = self.kept();
        if kept.len() >= MOST {
            kept.retain(|_, kept| kept.until_ms > now_ms);
        }
        let has_room = kept.len() < MOST;
        if has_room {
            let (owner, session) = (owner.clone(), session.clone());
            kept.insert(session.id, Kept { owner, session, until_ms });
        }
        has_room
    }

    /// A session of this owner.
    pub(super) fn find(&self, owner: &Owner, id: Uuid, now_ms: i64) -> Option<Session> {
        let kept = self.kept();
        let found = kept.get(&id).filter(|kept| kept.owner == *owner && kept.until_ms > now_ms);
        found.map(|kept| kept.session.clone())
    }

    /// Forgets a session; tells whether it was there.
    pub(super) fn forget(&self, id: Uuid) -> bool {
        self.kept().remove(&id).is_some()
    }

    /// Sessions of an account.
    pub(super) fn count(&self, account: i64, now_ms: i64) -> usize {
        let kept = self.kept();
        let is_its = |kept: &&Kept| kept.owner.account == Some(account) && kept.until_ms > now_ms;
        kept.values().filter(is_its).count()
    }

    /// All sessions.
    pub(crate) fn open(&self, now_ms: i64) -> usize {
        self.kept().values().filter(|kept| kept.until_ms > now_ms).count()
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<Uuid, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a session its row, if it has none yet.
pub(super) async fn write_down(registry: &Registry, id: Uuid) -> Result<(), Fault> {
    let begin = registry.begun.kept().get(&id).map(|kept| Begin {
        owner: kept.owner.clone(),
        session: kept.session.clone(),
        until_ms: kept.until_ms,
        most: i64::MAX,
    });
    let Some(begin) = begin else { return Ok(()) };
    registry.database.write(begin).await?;
    registry.begun.forget(id);
    Ok(())
}

/// Gives all sessions their rows.
///
/// # Errors
/// The database's.
pub(crate) async fn write_all(registry: &Registry) -> Result<(), Fault> {
    let ids: Vec<Uuid> = registry.begun.kept().keys().copied().collect();
    for id in ids {
        write_down(registry, id).await?;
    }
    Ok(())
}
