//! davit's figures with a million manifests in its database.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::{
    Extent, MIB, PUSHES, push,
    servers::{Program, Server},
};
use crate::{
    bench::{Contender, Leftovers, Setting, Workload, measure::Measured},
    process,
};

const MANIFESTS: u32 = 1_000_000;
const MANIFESTS_QUICK: u32 = 1000;

/// A thousand manifests a repository, each with a tag and a blob of its own.
const FILL: &str = "
    PRAGMA synchronous = OFF;
    PRAGMA cache_size = -400000;
    CREATE TEMP TABLE n AS
        WITH RECURSIVE n (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < :count)
        SELECT n, 'sha256:' || lower(hex(randomblob(32))) AS manifest,
            'sha256:' || lower(hex(randomblob(32))) AS blob FROM n;
    INSERT INTO repo (path, created_at)
        SELECT 'many/r' || n, 0 FROM n WHERE n % 1000 = 0;
    CREATE TEMP TABLE m AS
        SELECT n.*, r.id AS repo FROM n JOIN repo r ON r.path = 'many/r' || (n / 1000 * 1000);
    INSERT INTO blob (digest, size_bytes, store_key, created_at)
        SELECT blob, 100, 'blobs/' || blob, 0 FROM m;
    INSERT INTO repo_blob (repo_id, digest, lease_until, created_at) SELECT repo, blob, 0, 0 FROM m;
    INSERT INTO manifest (repo_id, digest, media_type, body, size_bytes, pushed_at, lease_until)
        SELECT repo, manifest, 'application/vnd.oci.image.manifest.v1+json', randomblob(700), 700, 0, 0
        FROM m;
    CREATE TEMP TABLE made AS
        SELECT f.id, f.repo_id, m.blob, m.n FROM m
        JOIN manifest f ON f.repo_id = m.repo AND f.digest = m.manifest;
    INSERT INTO manifest_blob (manifest_id, position, repo_id, digest, role, linked)
        SELECT id, 0, repo_id, blob, 'config', blob FROM made;
    INSERT INTO tag (repo_id, name, manifest_id, version, updated_at)
        SELECT repo_id, 't' || n, id, 1, 0 FROM made;
    PRAGMA wal_checkpoint(TRUNCATE);
";

/// The workload of this name.
pub(super) fn workload(name: &'static str, setting: &Setting) -> Result<Workload> {
    let extent = Extent { is_quick: setting.is_quick() };
    let full = fill(setting)?;
    let work: super::Work = match name {
        "registry-million-push" => |server, extent| push(server, MIB, extent.of(PUSHES), 4),
        "registry-million-blob" => |server, extent| server.blob(extent, MIB),
        _ => |server, extent| server.manifest(extent, "latest"),
    };
    let contender = |name: &str, storage: Option<PathBuf>| {
        let program = Program::Davit(setting.davit.clone());
        Contender::new(name, move |folder| {
            if let Some(storage) = &storage {
                process::run(Command::new("cp").arg("-r").arg(storage).arg(folder))?;
                // The copy's way to the disk is no part of what is measured.
                rustix::fs::sync();
            }
            let server = Server::start(&program, folder)?;
            work(&server, extent).map(Measured::of)
        })
    };
    let contenders =
        vec![contender("davit", None), contender("davit, a million manifests", Some(full))];
    let promise = "per second, as without `million`: at least 0.8 times as on an empty database";
    let workload = Workload::new(name, promise, contenders).repeated(5);
    Ok(Workload { leftovers: Leftovers::Removed, ..workload })
}

/// A registry's directory with the manifests, made once in a run.
fn fill(setting: &Setting) -> Result<PathBuf> {
    let folder = setting.folder.join("million");
    let storage = folder.join("storage");
    if folder.exists() {
        return Ok(storage);
    }
    fs_err::create_dir_all(&folder)?;
    // The server knows its schema.
    Server::start(&Program::Davit(setting.davit.clone()), &folder)?.end()?;
    let count = if setting.is_quick() { MANIFESTS_QUICK } else { MANIFESTS };
    insert(&storage.join("registry.db"), count)?;
    Ok(storage)
}

fn insert(file: &Path, count: u32) -> Result<()> {
    let connection = rusqlite::Connection::open(file)?;
    connection.execute_batch(&FILL.replace(":count", &count.to_string()))?;
    Ok(connection.close().map_err(|(_, error)| error)?)
}
