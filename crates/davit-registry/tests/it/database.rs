//! The database of those tests that have one registry each: SQLite, and all of them once more PostgreSQL.
//!
//! They say nothing of a database. [`routes_accounts_and_pages_on_postgresql`] starts this program of
//! tests anew with a server's URL, and each of their registries has an empty database there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use davit_registry::db::Location;
use davit_test::{Postgres, database_beside};

/// URL of the server of the second run.
const SERVER: &str = "DAVIT_REGISTRY_POSTGRES";

/// What is run on both.
const AGAIN: &[&str] = &["api::", "auth::", "blobs::", "manifests::", "operation::", "web::"];
/// What of it never asks the database for more than the others do, and takes long.
const ONCE: &[&str] = &["browser", "clients", "schemathesis", "a_full_disk", "tls::"];

/// The database of the registry in this folder, the same whenever it is asked for.
#[allow(clippy::disallowed_methods, reason = "the server comes by the environment")]
pub(crate) fn location(folder: &Path) -> Location {
    static KNOWN: Mutex<BTreeMap<PathBuf, Location>> = Mutex::new(BTreeMap::new());

    let Ok(server) = std::env::var(SERVER) else {
        return Location::Sqlite(folder.join("registry.db"));
    };
    let mut known = KNOWN.lock().unwrap();
    let name = format!("r{}", known.len());
    let make = || Location::Postgres(database_beside(&server, &name).into());
    known.entry(folder.to_owned()).or_insert_with(make).clone()
}

#[test]
fn routes_accounts_and_pages_on_postgresql() {
    let Some(postgres) = Postgres::start() else { return };
    let mut command = Command::new(std::env::current_exe().unwrap());
    // As many connections as the server takes.
    command.args(AGAIN).arg("--test-threads=2").env(SERVER, postgres.url());
    for name in ONCE {
        command.args(["--skip", name]);
    }
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let passed = told.rsplit_once(" passed").and_then(|(before, _)| before.rsplit_once(' '));
    let passed: usize = passed.expect("libtest counts").1.parse().unwrap();
    assert!(passed > 80, "{told}");
}
