//! Builds as they are remembered: a row each, and a log beside it.

use std::{collections::BTreeSet, path::PathBuf};

use rusqlite::{OptionalExtension, Row, params};

use crate::{
    Lease, Store, StoreError,
    database::{Class, to_json},
    store::now,
    sweep,
};

/// Ends of the names of logs: of this davit's, and of those before it.
const LOG_ENDS: [&str; 2] = [".zst", ".log"];

/// How a build ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildStatus {
    /// It runs.
    Running,
    /// It gave its result.
    Completed,
    /// It failed.
    Error,
    /// Somebody stopped it.
    Canceled,
    /// Its process ended before it could say how.
    Killed,
}

impl BuildStatus {
    /// The word that is stored.
    const fn word(self) -> &'static str {
        match self {
            Self::Running | Self::Killed => "running",
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Canceled => "canceled",
        }
    }

    fn of_word(word: &str) -> Self {
        match word {
            "running" => Self::Running,
            "completed" => Self::Completed,
            "canceled" => Self::Canceled,
            // A word of a later davit is not known to be a success.
            _ => Self::Error,
        }
    }
}

/// A build that is remembered.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildRow {
    /// Its id, that of its lease.
    pub id: String,
    /// How it ended.
    pub status: BuildStatus,
    /// When it began, in nanoseconds since 1970.
    pub started: i64,
    /// When it ended; `None` if it runs or was killed.
    pub finished: Option<i64>,
    /// All else, in its maker's words.
    pub spec: serde_json::Value,
}

/// How much is remembered of builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Most builds.
    pub builds: u32,
    /// Most bytes of their logs on disk; the newest log stays in any case.
    pub log_bytes: u64,
    /// Greatest age in seconds.
    pub age_seconds: u64,
}

impl Store {
    /// Remembers that the build of a lease has begun. Survives a kill; power loss may forget it.
    ///
    /// # Errors
    /// What the database says.
    pub fn begin_build(
        &self,
        lease: &Lease<'_>,
        spec: &serde_json::Value,
    ) -> Result<(), StoreError> {
        self.database.write(Class::Normal, "record a build", |tx| {
            tx.prepare_cached("INSERT INTO builds (id, status, started, spec) VALUES (?, ?, ?, ?)")
                .and_then(|mut statement| {
                    let status = BuildStatus::Running.word();
                    statement.execute(params![lease.id(), status, now(), to_json(spec)])
                })
                .map(drop)
                .map_err(|e| self.database.error("record a build", e))
        })
    }

    /// Remembers more of a build that runs.
    ///
    /// # Errors
    /// What the database says.
    pub fn note_build(&self, id: &str, spec: &serde_json::Value) -> Result<(), StoreError> {
        self.database.write(Class::Normal, "record a build", |tx| {
            tx.prepare_cached("UPDATE builds SET spec = ? WHERE id = ?")
                .and_then(|mut statement| statement.execute(params![to_json(spec), id]))
                .map(drop)
                .map_err(|e| self.database.error("record a build", e))
        })
    }

    /// Remembers how a build ended, and forgets the oldest beyond `most`. Cheap.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn end_build(
        &self,
        (id, status): (&str, BuildStatus),
        spec: &serde_json::Value,
        most: u32,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("record a build", e);
        let old = self.database.write(Class::Normal, "record a build", |tx| {
            tx.prepare_cached("UPDATE builds SET status = ?, finished = ?, spec = ? WHERE id = ?")
                .and_then(|mut s| s.execute(params![status.word(), now(), to_json(spec), id]))
                .map_err(sql)?;
            let mut statement = tx
                .prepare_cached(
                    "DELETE FROM builds WHERE id IN
                     (SELECT id FROM builds ORDER BY started DESC LIMIT -1 OFFSET ?1)
                     AND NOT (status = 'running' AND id IN (SELECT id FROM leases))
                     RETURNING id",
                )
                .map_err(sql)?;
            let ids = statement.query_map([most.max(1)], |row| row.get(0)).map_err(sql)?;
            ids.collect::<Result<Vec<String>, _>>().map_err(sql)
        })?;
        old.iter().try_for_each(|id| self.remove_build_log(id))
    }

    /// The builds that are remembered, the newest first.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn builds(&self) -> Result<Vec<BuildRow>, StoreError> {
        let sql = |e| self.database.error("list the builds", e);
        let rows = self.database.read("list the builds", |c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT id, status, started, finished, spec FROM builds
                     ORDER BY started DESC, rowid DESC",
                )
                .map_err(sql)?;
            let rows = statement.query_map([], of_row).map_err(sql)?;
            rows.collect::<Result<Vec<_>, _>>().map_err(sql)
        })?;
        rows.into_iter().map(|row| self.settled(row)).collect()
    }

    /// Tells a build that runs from one that was killed.
    fn settled(&self, row: BuildRow) -> Result<BuildRow, StoreError> {
        if row.status != BuildStatus::Running || self.is_lease_live(&row.id)? {
            return Ok(row);
        }
        // It may have ended between the two looks.
        let again = self.database.read("look up a build", |c| {
            c.prepare_cached("SELECT id, status, started, finished, spec FROM builds WHERE id = ?")
                .and_then(|mut s| s.query_row([&row.id], of_row).optional())
                .map_err(|e| self.database.error("look up a build", e))
        })?;
        let row = again.unwrap_or(row);
        let is_over = row.status != BuildStatus::Running;
        Ok(if is_over { row } else { BuildRow { status: BuildStatus::Killed, ..row } })
    }

    /// Forgets builds with their logs, but none that runs; yields those that are forgotten.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn forget_builds(&self, ids: &[String]) -> Result<Vec<String>, StoreError> {
        let mut forgotten = Vec::new();
        for id in ids {
            if !self.is_lease_live(id)? {
                self.forget_build(id)?;
                forgotten.push(id.clone());
            }
        }
        Ok(forgotten)
    }

    fn forget_build(&self, id: &str) -> Result<(), StoreError> {
        self.make_room()?;
        self.database.write(Class::Normal, "forget a build", |tx| {
            tx.execute("DELETE FROM builds WHERE id = ?", [id])
                .map(drop)
                .map_err(|e| self.database.error("forget a build", e))
        })?;
        self.remove_build_log(id)
    }

    /// Forgets builds that are too old or whose logs are too much, and removes logs that belong to
    /// none.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn trim_builds(&self, limits: &HistoryLimits) -> Result<(), StoreError> {
        let rows = self.build_ages()?;
        let age = i64::try_from(limits.age_seconds).unwrap_or(i64::MAX);
        let oldest = now().saturating_sub(age.saturating_mul(1_000_000_000));
        let (mut bytes, mut old) = (0, Vec::new());
        for (index, (id, started)) in rows.iter().enumerate() {
            bytes += sweep::disk_bytes(&self.layout().build_log(id));
            if *started < oldest || (index > 0 && bytes > limits.log_bytes) {
                old.push(id.clone());
            }
        }
        self.forget_builds(&old)?;
        let known: BTreeSet<&str> = rows.iter().map(|(id, _)| id.as_str()).collect();
        for path in self.build_log_files()? {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            let id = LOG_ENDS.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
            if !known.contains(id) && !self.is_lease_live(id)? {
                sweep::remove_any(&path)?;
            }
        }
        Ok(())
    }

    /// Ids of all builds and when they began, the newest first.
    fn build_ages(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let sql = |e| self.database.error("list the builds", e);
        self.database.read("list the builds", |c| {
            let mut statement = c
                .prepare_cached("SELECT id, started FROM builds ORDER BY started DESC, rowid DESC")
                .map_err(sql)?;
            let rows =
                statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Bytes that the records and logs of builds take.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn build_history_size(&self) -> Result<u64, StoreError> {
        let rows = self.database.read("measure the builds", |c| {
            c.query_row("SELECT coalesce(sum(length(spec)), 0) FROM builds", [], |row| {
                crate::database::size(row, 0)
            })
            .map_err(|e| self.database.error("measure the builds", e))
        })?;
        let logs = self.build_log_files()?;
        Ok(rows + logs.iter().map(|path| sweep::disk_bytes(path)).sum::<u64>())
    }

    fn build_log_files(&self) -> Result<Vec<PathBuf>, StoreError> {
        let is_log = |path: &PathBuf| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            LOG_ENDS.iter().any(|end| name.ends_with(end))
        };
        Ok(sweep::list(&self.layout().builds())?.into_iter().filter(is_log).collect())
    }

    fn remove_build_log(&self, id: &str) -> Result<(), StoreError> {
        sweep::remove_any(&self.layout().build_log(id))
    }
}

fn of_row(row: &Row<'_>) -> rusqlite::Result<BuildRow> {
    let status: String = row.get(1)?;
    Ok(BuildRow {
        id: row.get(0)?,
        status: BuildStatus::of_word(&status),
        started: row.get(2)?,
        finished: row.get(3)?,
        // The build was there, even if what is known of it is damaged.
        spec: serde_json::from_str(row.get_ref(4)?.as_str()?).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store(temp: &davit_test::TempDir) -> Store {
        Store::open(crate::StoreOptions::new(temp.join("root"), temp.join("run"))).unwrap()
    }

    /// Remembers a build with a log of so many bytes; its lease ends.
    fn build(store: &Store, status: Option<BuildStatus>, log: usize) -> String {
        let lease = store.lease("build").unwrap();
        let id = lease.id().to_owned();
        store.begin_build(&lease, &json!({"name": id})).unwrap();
        let path = store.layout().build_log(&id);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, vec![7; log]).unwrap();
        if let Some(status) = status {
            store.end_build((&id, status), &json!({"done": true}), 3).unwrap();
        }
        id
    }

    fn ids(store: &Store) -> Vec<String> {
        store.builds().unwrap().into_iter().map(|row| row.id).collect()
    }

    #[test]
    fn builds_end_as_they_ended() {
        let temp = davit_test::TempDir::new();
        let store = store(&temp);
        let done = build(&store, Some(BuildStatus::Canceled), 1);
        let killed = build(&store, None, 1);
        let lease = store.lease("build").unwrap();
        store.begin_build(&lease, &json!({})).unwrap();
        let rows = store.builds().unwrap();
        let status: Vec<_> = rows.iter().map(|row| row.status).collect();
        assert_eq!(status, [BuildStatus::Running, BuildStatus::Killed, BuildStatus::Canceled]);
        assert_eq!(rows[2].spec, json!({"done": true}));
        assert!(rows[2].finished.unwrap() >= rows[2].started);
        let all = [lease.id().to_owned(), killed.clone(), done];
        assert_eq!(store.forget_builds(&all).unwrap(), all[1..], "one that runs stays");
        assert_eq!(ids(&store), all[..1]);
        assert!(!store.layout().build_log(&killed).exists());
        let damage = |c: &rusqlite::Connection| c.execute("UPDATE builds SET spec = '{'", []);
        store.database.read("test", |c| Ok(damage(c).unwrap())).unwrap();
        assert_eq!(store.builds().unwrap()[0].spec, serde_json::Value::Null);
    }

    #[test]
    fn the_oldest_go_by_number_bytes_and_age() {
        let temp = davit_test::TempDir::new();
        let store = store(&temp);
        let limits = |log_bytes, age_seconds| HistoryLimits { builds: 3, log_bytes, age_seconds };
        let running = store.lease("build").unwrap();
        store.begin_build(&running, &json!({})).unwrap();
        let mut made: Vec<String> =
            (0..5).map(|_| build(&store, Some(BuildStatus::Completed), 10_000)).collect();
        made.reverse();
        let kept = [&made[..3], &[running.id().to_owned()]].concat();
        assert_eq!(ids(&store), kept, "what runs stays whatever its age");
        assert!(!store.layout().build_log(&made[4]).exists());
        let orphan = store.layout().builds().join("0123.log");
        fs_err::write(&orphan, "old").unwrap();
        store.trim_builds(&limits(30_000, 1000)).unwrap();
        assert_eq!(ids(&store), [&made[..2], &[running.id().to_owned()]].concat());
        assert!(!orphan.exists());
        assert!(store.build_history_size().unwrap() >= 20_000);
        store.trim_builds(&limits(1, 1000)).unwrap();
        assert_eq!(ids(&store), [made[0].clone(), running.id().to_owned()], "the newest stays");
        store.trim_builds(&limits(1, 0)).unwrap();
        assert_eq!(ids(&store), [running.id()]);
    }
}
