//! Events: an append-only list that `davit events` reads by number.

use std::collections::BTreeMap;

use rusqlite::{Transaction, params};

use crate::{
    Store, StoreError,
    database::{Class, json, to_json},
    store::now,
};

/// Older events than this many go.
const KEPT: i64 = 10_000;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// `container`, `image`, `network`, `volume` or `builder`.
    pub kind: String,
    /// `create`, `start`, `die`, …
    pub action: String,
    /// Id or name of the thing.
    pub actor: String,
    /// Facts, as Docker names them.
    pub attributes: BTreeMap<String, String>,
}

/// An event with its number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Grows with every event.
    pub id: i64,
    /// Nanoseconds since 1970.
    pub time: i64,
    /// What happened.
    pub event: NewEvent,
}

impl Store {
    /// Appends events.
    ///
    /// # Errors
    /// What the database says.
    pub fn append_events(&self, events: &[NewEvent]) -> Result<(), StoreError> {
        self.database.write(Class::Normal, "append events", |tx| {
            append(tx, events).map_err(|e| self.database.error("append events", e))
        })
    }

    /// Events after number `after`, oldest first, at most `limit`.
    ///
    /// # Errors
    /// What the database says.
    pub fn events(&self, after: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let sql = |e| self.database.error("read events", e);
        self.database.read("read events", |c| {
            let mut statement = c
                .prepare_cached(
                    "SELECT id, time, type, action, actor, attributes FROM events
                     WHERE id > ? ORDER BY id LIMIT ?",
                )
                .map_err(sql)?;
            let rows = statement.query_map(params![after, limit], of_row).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }
}

fn append(tx: &Transaction<'_>, events: &[NewEvent]) -> rusqlite::Result<()> {
    for event in events {
        tx.prepare_cached(
            "INSERT INTO events (time, type, action, actor, attributes) VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            now(),
            event.kind,
            event.action,
            event.actor,
            to_json(&event.attributes)
        ])?;
    }
    let last = tx.last_insert_rowid();
    if last % 256 == 0 {
        tx.execute("DELETE FROM events WHERE id <= ?", [last - KEPT])?;
    }
    Ok(())
}

fn of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        id: row.get(0)?,
        time: row.get(1)?,
        event: NewEvent {
            kind: row.get(2)?,
            action: row.get(3)?,
            actor: row.get(4)?,
            attributes: json(row, 5)?,
        },
    })
}
