//! Leases: what work in flight needs stays, as long as its process lives.

use std::net::IpAddr;

use davit_image::{DiffId, Digest};
use rusqlite::{Transaction, params};

use crate::{
    ClaimError, Durability, LayerRow, Store, StoreError,
    database::Class,
    format::random_hex,
    layer,
    lock::Lock,
    network::{choose_addresses, octets},
    store::now,
};

/// Keeps content from the garbage collection while a command works with it.
///
/// Live while its process holds the lock file and the machine has not rebooted; no clock is
/// asked. Dropping it ends it.
#[derive(Debug)]
pub struct Lease<'a> {
    store: &'a Store,
    id: String,
    lock: Option<Lock>,
}

impl Store {
    /// Starts a lease; `purpose` is shown by `davit system df -v`.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn lease(&self, purpose: &str) -> Result<Lease<'_>, StoreError> {
        self.sweep_once();
        let id = random_hex(8);
        let path = self.layout().tmp().join(format!("lease-{id}"));
        let lock = loop {
            if let Some(lock) = Lock::try_file(&path)? {
                break lock;
            }
        };
        self.database.write(Class::Normal, "record a lease", |tx| {
            tx.prepare_cached(
                "INSERT INTO leases (id, boot_id, purpose, created) VALUES (?, ?, ?, ?)",
            )
            .and_then(|mut s| s.execute(params![id, self.boot_id().as_str(), purpose, now()]))
            .map_err(|e| self.database.error("record a lease", e))
        })?;
        Ok(Lease { store: self, id, lock: Some(lock) })
    }

    /// Whether the process that holds a lease is alive.
    ///
    /// # Errors
    /// When its lock file cannot be examined.
    pub fn is_lease_live(&self, id: &str) -> Result<bool, StoreError> {
        self.is_held(id)
    }

    /// Removes the rows of leases whose process or boot is gone.
    pub(crate) fn drop_dead_leases(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let sql = |e| self.database.error("read the leases", e);
        let mut dead = Vec::new();
        {
            let mut statement = tx.prepare_cached("SELECT id, boot_id FROM leases").map_err(sql)?;
            let mut rows = statement.query([]).map_err(sql)?;
            while let Some(row) = rows.next().map_err(sql)? {
                let (id, boot): (String, String) =
                    (row.get(0).map_err(sql)?, row.get(1).map_err(sql)?);
                if boot != self.boot_id().as_str() || !self.is_held(&id)? {
                    dead.push(id);
                }
            }
        }
        for id in dead {
            tx.execute("DELETE FROM leases WHERE id = ?", [id]).map_err(sql)?;
        }
        Ok(())
    }

    fn is_held(&self, id: &str) -> Result<bool, StoreError> {
        let path = self.layout().tmp().join(format!("lease-{id}"));
        match Lock::try_existing(&path)? {
            Some(lock) => lock.remove_file().map(|()| false),
            None => Ok(path.exists()),
        }
    }
}

impl Lease<'_> {
    /// The row's key.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Keeps these blobs or layers from now on, present or not.
    ///
    /// # Errors
    /// What the database says.
    pub fn keep(&self, digests: &[Digest]) -> Result<(), StoreError> {
        self.store.database.write(Class::Normal, "extend a lease", |tx| {
            digests.iter().try_for_each(|digest| self.keep_in(tx, digest))
        })
    }

    /// Looks a layer up and keeps it, in one step: what is returned stays.
    ///
    /// A layer that an earlier boot committed lazily is verified first, and dropped when power
    /// loss has damaged it; that reads all of it, once.
    ///
    /// # Errors
    /// What the disk or the database says.
    pub fn hold_layer(&self, diff_id: &DiffId) -> Result<Option<LayerRow>, StoreError> {
        self.store.settle_layer(diff_id)?;
        self.store.database.write(Class::Normal, "hold a layer", |tx| {
            let row = layer::find(&self.store.database, tx, diff_id)?;
            if row.is_some() {
                self.keep_in(tx, &diff_id.digest())?;
            }
            Ok(row)
        })
    }

    /// Holds a free address of each family of a network as long as the lease lives.
    ///
    /// # Errors
    /// [`ClaimError::PoolExhausted`], or what the database says.
    pub fn claim_addresses(&self, network_id: &str) -> Result<Vec<IpAddr>, ClaimError> {
        self.store.claiming(Durability::Lazy, "claim addresses", |tx| {
            let chosen = match choose_addresses(tx, network_id, &[])? {
                Ok(chosen) => chosen,
                Err(refused) => return Ok(Err(refused)),
            };
            for &address in &chosen {
                tx.prepare_cached(
                    "INSERT INTO lease_addresses (network_id, address, lease_id) VALUES (?, ?, ?)",
                )?
                .execute(params![network_id, octets(address), self.id])?;
            }
            Ok(Ok(chosen))
        })
    }

    pub(crate) fn keep_in(&self, tx: &Transaction<'_>, digest: &Digest) -> Result<(), StoreError> {
        tx.prepare_cached("INSERT OR IGNORE INTO lease_items (lease_id, digest) VALUES (?, ?)")
            .and_then(|mut s| s.execute(params![self.id, digest.to_string()]))
            .map(|_| ())
            .map_err(|e| self.store.database.error("extend a lease", e))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let ended = self.store.database.write(Class::Normal, "end a lease", |tx| {
            tx.prepare_cached("DELETE FROM leases WHERE id = ?")
                .and_then(|mut s| s.execute([&self.id]))
                .map_err(|e| self.store.database.error("end a lease", e))
        });
        let removed = self.lock.take().map_or(Ok(()), Lock::remove_file);
        if let Some(error) = ended.err().or(removed.err()) {
            // The row dies with the lock, which ends here in any case.
            tracing::debug!(lease = self.id, %error, "the next collection removes the lease");
        }
    }
}
