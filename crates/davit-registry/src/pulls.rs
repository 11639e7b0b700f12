//! When each manifest was last pulled, for the rules of retention: gathered in memory, and written
//! together every [`WRITE`]. A crash loses what was gathered since, and no more.

use std::{
    collections::HashMap,
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Transaction, ms, values},
    name::RepositoryName,
};

/// How often what was gathered is written.
pub const WRITE: Duration = Duration::from_secs(10);
/// A time that is younger is not written again: rules speak of days, and a row holds a whole manifest.
const FINE_ENOUGH: Duration = Duration::from_secs(60);
/// Manifests that are gathered; what more is pulled until they are written is not noted.
const MOST: usize = 20_000;
/// Rows of one transaction.
const BATCH: usize = 200;

/// What was pulled since the last writing.
#[derive(Debug, Default)]
pub struct Pulls {
    gathered: Mutex<Gathered>,
}

#[derive(Debug, Default)]
struct Gathered {
    by_digest: HashMap<Digest, Vec<RepositoryName>>,
    count: usize,
}

impl Pulls {
    /// Notes that a manifest was pulled.
    pub fn note(&self, name: &RepositoryName, digest: &Digest) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |names: &Vec<RepositoryName>| names.contains(name);
        if gathered.count >= MOST || gathered.by_digest.get(digest).is_some_and(is_known) {
            return;
        }
        gathered.count += 1;
        gathered.by_digest.entry(*digest).or_default().push(name.clone());
    }

    /// How many manifests wait to be written.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Writes what was gathered.
    ///
    /// # Errors
    /// The database's; what was not written is lost then, and comes with the next pull.
    pub async fn write(&self, database: &Database) -> Result<(), DbError> {
        let gathered =
            mem::take(&mut *self.gathered.lock().unwrap_or_else(PoisonError::into_inner));
        let each = gathered.by_digest.into_iter();
        let mut pulled: Vec<(String, Digest)> = each
            .flat_map(|(digest, names)| {
                names.into_iter().map(move |name| (name.to_string(), digest))
            })
            .collect();
        // In one order, so that two nodes wait for each other and never meet in a deadlock.
        pulled.sort();
        for batch in pulled.chunks(BATCH) {
            database.write(Write { pulled: batch.to_vec() }).await?;
        }
        Ok(())
    }
}

struct Write {
    pulled: Vec<(String, Digest)>,
}

impl Transaction for Write {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        const PULLED: &str = "UPDATE manifest SET pulled_at = $1 \
             WHERE repo_id = (SELECT id FROM repo WHERE path = $2) AND digest = $3 \
             AND (pulled_at IS NULL OR pulled_at < $4)";
        let now = connection.now_ms();
        for (name, digest) in &self.pulled {
            let values = values![now, name, digest, now - ms(FINE_ENOUGH)];
            connection.execute(PULLED, values).await?;
        }
        Ok(())
    }
}
