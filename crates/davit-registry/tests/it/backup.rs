//! Backups while the registry serves, and registries that are made of them.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use davit_image::Digest;
use davit_registry::{
    backup::{BackupError, backup, restore},
    check::Repair,
    config::Places,
    db::{Database, DbError, Location},
};
use davit_test::TempDir;
use futures_util::future::join;

use crate::bench::{Bench, SETTINGS, TRASH, on_each, runtime};

/// A place for the copy, with a store in a directory.
fn other(bench: &Bench, dir: &TempDir, name: &str) -> Places {
    let database = bench.other_database(name).map(|url| Location::Postgres(url.into()));
    Places { root: dir.join(name), database, store: None }
}

#[test]
fn a_backup_is_whole_and_becomes_a_registry() {
    on_each(async |bench| {
        if bench.registry.database.is_shared() && davit_test::need_tool("pg_dump").is_none() {
            return;
        }
        let (dir, places) = (TempDir::new(), bench.places());
        let to = dir.join("backup");
        // A folder that was there, into which others may look.
        fs_err::create_dir(&to).unwrap();
        fs_err::set_permissions(&to, Permissions::from_mode(0o755)).unwrap();
        bench.push_image("a/b", &["gone"], "gone").await;
        let first = backup(&places, &to).await.unwrap();
        for entry in fs_err::read_dir(&to).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode();
            let is_hidden = entry.file_type().unwrap().is_dir() || mode & 0o077 == 0;
            assert!(is_hidden, "{}: {mode:o}", entry.path().display());
        }
        assert_eq!((first.blobs, &*first.lost), (2, &[][..]));
        bench.push_image("a/b", &["t"], "layer").await;
        // Pushes go on, and garbage is collected.
        let pushes = async {
            for number in 0..20 {
                bench.push_image("a/b", &["moving"], &format!("layer {number}")).await;
                bench.collect().await;
            }
        };
        let (report, ()) = join(backup(&places, &to), pushes).await;
        let report = report.unwrap();
        assert!(report.lost.is_empty() && report.in_place >= 2, "{report:?}");

        let there = other(bench, &dir, "restored");
        let restored = restore(&to, &there).await.unwrap();
        assert!(restored.lost.is_empty(), "{restored:?}");
        if bench.registry.database.is_shared() {
            // The blobs are those of the moment after the dump.
            assert!((2..=report.blobs).contains(&restored.blobs), "{restored:?} of {report:?}");
        } else {
            assert_eq!(restored.blobs, report.blobs);
        }
        let copy = Bench::open(there.clone(), there.root.clone(), SETTINGS).await;
        assert_eq!(copy.check(Repair::No).await, []);
        let layer = Digest::of(b"layer");
        assert!(copy.has_blob("a/b", &layer).await);
        copy.push_image("a/b", &["more"], "more").await;
        copy.pass(3 * TRASH);
        copy.collect().await;
        assert_eq!(copy.check(Repair::No).await, []);
        copy.registry.database.clone().close().await;
        if !bench.registry.database.is_shared() {
            assert!(matches!(restore(&to, &there).await, Err(BackupError::Occupied(_))));
        }
        assert_eq!(bench.check(Repair::No).await, [], "the first is as it was");
    });
}

#[test]
fn what_is_lost_or_wrong_is_told_and_heals() {
    on_each(async |bench| {
        if bench.registry.database.is_shared() && davit_test::need_tool("pg_dump").is_none() {
            return;
        }
        let (dir, places) = (TempDir::new(), bench.places());
        let to = dir.join("backup");
        bench.push_image("a/b", &["t"], "layer").await;
        bench.push_image("a/b", &["u"], "other").await;
        let (layer, other_layer) = (Digest::of(b"layer"), Digest::of(b"other"));
        fs_err::remove_file(bench.object(&layer).await).unwrap();
        let report = backup(&places, &to).await.unwrap();
        assert_eq!(report.lost, [layer]);
        // The backup's disk changes a byte.
        let mut folders = vec![to.join("blobs")];
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if fs_err::read(&path).unwrap() == b"other" {
                    fs_err::remove_file(&path).unwrap();
                    fs_err::write(&path, "OTHER").unwrap();
                }
            }
        }
        let there = other(bench, &dir, "mended");
        let restored = restore(&to, &there).await.unwrap();
        let mut lost = restored.lost;
        lost.retain(|digest| *digest != layer);
        assert_eq!(lost, [other_layer]);
        let copy = Bench::open(there.clone(), there.root, SETTINGS).await;
        for content in ["layer", "other"] {
            assert!(!copy.has_blob("a/b", &Digest::of(content.as_bytes())).await);
            copy.push_blob("a/b", content.as_bytes()).await;
        }
        assert_eq!(copy.check(Repair::No).await, []);
        copy.registry.database.clone().close().await;
    });
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs_err::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// An attempt that was cut off leaves SQLite's log beside its database, with changes of its own.
#[test]
fn a_log_that_another_attempt_left_is_not_taken() {
    runtime().block_on(async {
        let bench = Bench::new(None, SETTINGS).await;
        let dir = TempDir::new();
        let (to, there) = (dir.join("backup"), other(&bench, &dir, "restored"));
        bench.push_image("a/b", &["t"], "layer").await;
        backup(&bench.places(), &to).await.unwrap();
        let stray = dir.join("stray.db");
        fs_err::copy(to.join("registry.db"), &stray).unwrap();
        let connection = rusqlite::Connection::open(&stray).unwrap();
        connection.execute_batch("PRAGMA journal_mode = wal; DELETE FROM tag").unwrap();
        let log = dir.join("stray.db-wal");
        assert!(fs_err::metadata(&log).unwrap().len() > 0);
        fs_err::create_dir(&there.root).unwrap();
        for to in [
            there.root.join("registry.db.new-wal"),
            there.root.join("registry.db-wal"),
            to.join("registry.db.new-wal"),
            to.join("registry.db-wal"),
        ] {
            fs_err::copy(&log, to).unwrap();
        }
        drop(connection);
        backup(&bench.places(), &to).await.unwrap();
        restore(&to, &there).await.unwrap();
        let copy = Bench::open(there.clone(), there.root.clone(), SETTINGS).await;
        assert_eq!(copy.ask("SELECT COUNT(*) FROM tag", Vec::new()).await, [1]);
        copy.registry.database.clone().close().await;
    });
}

#[test]
fn an_earlier_backup_is_whole_until_there_is_another() {
    on_each(async |bench| {
        let is_shared = bench.registry.database.is_shared();
        if is_shared && davit_test::need_tool("pg_dump").is_none() {
            return;
        }
        let dir = TempDir::new();
        let to = dir.join("backup");
        let database = if is_shared { "registry.pgdump" } else { "registry.db" };
        bench.push_blob("a/b", b"gone").await;
        backup(&bench.places(), &to).await.unwrap();
        let before = files(&to.join("blobs"));
        assert_eq!(before.len(), 1);
        // A dump may name what was collected since: it goes with its bytes.
        for _ in 0..3 {
            bench.pass(TRASH);
            bench.collect().await;
        }
        // The name of the database cannot be given to the next one.
        let (kept, aside) = (to.join(database), dir.join(database));
        fs_err::rename(&kept, &aside).unwrap();
        fs_err::create_dir(&kept).unwrap();
        fs_err::write(kept.join("file"), "").unwrap();
        backup(&bench.places(), &to).await.unwrap_err();
        fs_err::remove_dir_all(&kept).unwrap();
        fs_err::rename(&aside, &kept).unwrap();
        assert_eq!(files(&to.join("blobs")), before);
        backup(&bench.places(), &to).await.unwrap();
        assert!(files(&to.join("blobs")).is_empty(), "the next one needs it no more");
    });
}

/// A database that a restore has left half-way is served by nobody, and restored anew.
#[test]
fn a_restore_that_was_cut_off_begins_again() {
    on_each(async |bench| {
        if bench.registry.database.is_shared() && davit_test::need_tool("pg_dump").is_none() {
            return;
        }
        let dir = TempDir::new();
        let (to, there) = (dir.join("backup"), other(bench, &dir, "cut"));
        bench.push_image("a/b", &["t"], "layer").await;
        backup(&bench.places(), &to).await.unwrap();
        // The blobs find no place.
        fs_err::create_dir(&there.root).unwrap();
        fs_err::write(there.root.join("blobs"), "").unwrap();
        for _ in 0..2 {
            let cut = restore(&to, &there).await;
            assert!(matches!(cut, Err(BackupError::Store(_))), "{cut:?}");
            let refused = Database::open(&there.database()).await;
            assert!(matches!(refused, Err(DbError::Restoring)), "{refused:?}");
        }
        fs_err::remove_file(there.root.join("blobs")).unwrap();
        restore(&to, &there).await.unwrap();
        let copy = Bench::open(there.clone(), there.root.clone(), SETTINGS).await;
        assert!(copy.has_blob("a/b", &Digest::of(b"layer")).await);
        assert_eq!(copy.check(Repair::No).await, []);
        copy.registry.database.clone().close().await;
        let again = restore(&to, &there).await;
        let is_told = matches!(
            again,
            Err(BackupError::Occupied(_) | BackupError::Database(DbError::Occupied))
        );
        assert!(is_told, "{again:?}");
    });
}

/// What lies in a backup need not be what was put there.
#[test]
fn strange_things_in_a_backup_are_no_blobs() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    runtime().block_on(async {
        let bench = Bench::new(None, SETTINGS).await;
        let dir = TempDir::new();
        let to = dir.join("backup");
        let contents = ["fifo", "device", "link", "folder", "longer", "sound"];
        for content in contents {
            bench.push_blob("a/b", content.as_bytes()).await;
        }
        backup(&bench.places(), &to).await.unwrap();
        let aside = dir.join("aside");
        fs_err::write(&aside, "link").unwrap();
        for path in files(&to.join("blobs")) {
            let content = fs_err::read_to_string(&path).unwrap();
            if content == "sound" {
                continue;
            }
            fs_err::remove_file(&path).unwrap();
            match &*content {
                "fifo" => mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
                "device" => fs_err::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                "link" => fs_err::os::unix::fs::symlink(&aside, &path).unwrap(),
                "folder" => fs_err::create_dir(&path).unwrap(),
                _ => fs_err::write(&path, "longer than it was").unwrap(),
            }
        }
        let there = other(&bench, &dir, "restored");
        let report = restore(&to, &there).await.unwrap();
        assert_eq!((report.blobs, report.lost.len()), (1, contents.len() - 1));
        let copy = Bench::open(there.clone(), there.root.clone(), SETTINGS).await;
        assert!(copy.has_blob("a/b", &Digest::of(b"sound")).await);
        copy.registry.database.clone().close().await;
    });
}
