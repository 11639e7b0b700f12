//! Wrong passwords, counted in the database: by every server of a registry, and over restarts.
//!
//! A leaking bucket per account and address is one number, when it will be empty; each wrong attempt
//! moves that. Only wrong attempts write, and only attempts whose password must be hashed read. What
//! was counted goes into the audit log as one entry for many attempts, so that guessing cannot fill it.

use std::{net::IpAddr, time::Duration};

use serde_json::json;

use super::{
    AccountName, ThrottleSettings,
    audit::{self, Actor, Entry},
    throttle::network,
};
use crate::db::{Connection, Database, DbError, Lock, Row, Transaction, values};

/// Time between two entries of the audit log, in milliseconds.
const REPORT_MS: i64 = 5 * 60 * 1000;
/// Accounts and addresses whose attempts one entry counts; the rest is in the next.
const MOST_COUNTED: i64 = 200;
/// Accounts and addresses that one entry names.
const MOST_NAMED: usize = 20;
/// When the last entry was written.
const REPORTED: &str = "login.reported_at";

/// What attempts are counted by.
#[derive(Clone, Debug)]
struct Subject {
    name: String,
    /// Milliseconds in which one attempt leaks away.
    leak_ms: i64,
}

/// Account and address of an attempt. A text that can be no account's name is not kept: it may be a
/// password in the wrong field.
fn subjects(settings: &ThrottleSettings, account: Option<&str>, address: IpAddr) -> Vec<Subject> {
    let leak = |most: u32| millis(settings.window) / i64::from(most.max(1));
    let account = account.filter(|name| name.parse::<AccountName>().is_ok());
    let account = account.map(|name| (format!("account {name}"), settings.per_account));
    let address = (format!("address {}", network(address)), settings.per_address);
    let subject = |(name, most)| Subject { name, leak_ms: leak(most) };
    account.into_iter().chain([address]).map(subject).collect()
}

/// What has seen too many wrong attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    Account,
    Address,
}

/// Tells what is blocked by what every server together has seen, and how long to wait.
pub(super) async fn blocked(
    database: &Database,
    settings: &ThrottleSettings,
    (account, address): (Option<&str>, IpAddr),
) -> Result<Option<(Blocked, Duration)>, DbError> {
    let subjects = subjects(settings, account, address);
    let name = |at: usize| subjects.get(at).map(|subject| subject.name.as_str());
    let sql = "SELECT subject, empty_at FROM login_failure WHERE subject = $1 OR subject = $2";
    let mut reader = database.reader().await?;
    let rows = reader.rows(sql, values![name(0), name(1)]).await?;
    let now = database.now_ms();
    let (mut wait, mut what) = (0, Blocked::Address);
    for row in &rows {
        let (found, empty_at): (String, i64) = (row.get(0)?, row.get(1)?);
        let Some(subject) = subjects.iter().find(|subject| subject.name == found) else { continue };
        let over = empty_at.saturating_add(subject.leak_ms) - now - millis(settings.window);
        if over > wait {
            let is_account = found.starts_with("account ");
            (wait, what) = (over, if is_account { Blocked::Account } else { Blocked::Address });
        }
    }
    let long = Duration::from_millis(wait.unsigned_abs()).max(Duration::from_secs(1));
    Ok((wait > 0).then_some((what, long)))
}

/// Counts a wrong attempt; durable on return.
pub(super) async fn note(
    database: &Database,
    settings: &ThrottleSettings,
    (account, address): (Option<&str>, IpAddr),
) -> Result<(), DbError> {
    let mut subjects = subjects(settings, account, address);
    // One order for all: two transactions do not wait for each other.
    subjects.sort_by(|a, b| a.name.cmp(&b.name));
    database.write(Note(subjects)).await
}

struct Note(Vec<Subject>);

impl Transaction for Note {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        for subject in &self.0 {
            let sql = "INSERT INTO login_failure (subject, empty_at, unreported)
                       VALUES ($1, $2 + $3, 1) ON CONFLICT (subject) DO UPDATE SET
                       unreported = login_failure.unreported + 1,
                       empty_at = $3 + CASE WHEN login_failure.empty_at > $2
                       THEN login_failure.empty_at ELSE $2 END";
            connection.execute(sql, values![&subject.name, now, subject.leak_ms]).await?;
        }
        Ok(())
    }
}

/// Writes what was counted since the last entry into the audit log, unless that was a moment ago, and
/// forgets what has leaked away. Writes nothing where nothing was counted.
pub(super) async fn report(database: &Database) -> Result<(), DbError> {
    let mut reader = database.reader().await?;
    let last = last_report(reader.rows(LAST, values![REPORTED]).await?.first())?;
    let sql = "SELECT 1 FROM login_failure LIMIT 1";
    let is_counted = reader.row(sql, values![]).await?.is_some();
    drop(reader);
    if is_counted && is_due(last, database.now_ms()) {
        return database.write(Report).await;
    }
    Ok(())
}

const LAST: &str = "SELECT value FROM setting WHERE name = $1";

fn last_report(row: Option<&Row>) -> Result<i64, DbError> {
    let text: String = row.map_or_else(|| Ok(String::new()), |row| row.get(0))?;
    Ok(text.parse().unwrap_or(0))
}

/// A clock that was set back must not silence the log.
fn is_due(last: i64, now: i64) -> bool {
    !(last..last.saturating_add(REPORT_MS)).contains(&now)
}

struct Report;

impl Transaction for Report {
    type Output = ();
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<(), DbError> {
        let now = connection.now_ms();
        let sql =
            "INSERT INTO setting (name, value) VALUES ($1, '0') ON CONFLICT (name) DO NOTHING";
        connection.execute(sql, values![REPORTED]).await?;
        let rows = connection.rows_locked(LAST, values![REPORTED], Lock::Update).await?;
        if !is_due(last_report(rows.first())?, now) {
            return Ok(());
        }
        let sql = "SELECT subject, unreported FROM login_failure WHERE unreported > 0
                   ORDER BY unreported DESC, subject LIMIT $1";
        let rows = connection.rows_locked(sql, values![MOST_COUNTED], Lock::Update).await?;
        let counted: Vec<(String, i64)> = rows
            .iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect::<Result<_, DbError>>()?;
        for (subject, _) in &counted {
            let sql = "UPDATE login_failure SET unreported = 0 WHERE subject = $1";
            connection.execute(sql, values![subject]).await?;
        }
        let sql = "DELETE FROM login_failure WHERE empty_at < $1 AND unreported = 0";
        connection.execute(sql, values![now]).await?;
        let sql = "UPDATE setting SET value = $1 WHERE name = $2";
        connection.execute(sql, values![now.to_string(), REPORTED]).await?;
        if counted.is_empty() {
            return Ok(());
        }
        let detail = detail(&counted);
        let by = Actor { id: None, name: "registry".to_owned(), address: None };
        let entry = Entry { action: "login.failed", object: &counted[0].0, detail: &detail };
        audit::append(connection, &by, entry).await
    }
}

/// Each attempt has one address: those give the number of all.
fn detail(counted: &[(String, i64)]) -> String {
    let addresses = counted.iter().filter(|(subject, _)| subject.starts_with("address "));
    let attempts: i64 = addresses.map(|(_, count)| count).sum();
    let named: serde_json::Map<_, _> = counted
        .iter()
        .take(MOST_NAMED)
        .map(|(subject, count)| (subject.clone(), json!(count)))
        .collect();
    let others = counted.len().saturating_sub(MOST_NAMED);
    json!({ "attempts": attempts, "by": named, "others": others }).to_string()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
