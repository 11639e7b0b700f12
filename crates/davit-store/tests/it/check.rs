//! `check` names each fault, and repair mends it without touching what is healthy.

use davit_image::ChainId;
use davit_store::{
    CheckOptions, CheckReport, Durability, FaultKind, LayerRow, NewTree, NewVolume, Repair, Store,
    TreeForm,
};
use davit_test::TempDir;

use crate::{
    fixture::{diff_id, open, overwrite, tagged_image},
    images::container,
};

const REPAIR: CheckOptions<'_> = CheckOptions {
    repair: true,
    check_table: None,
    rebuild_table: None,
    restore: None,
    keeps_blobs: true,
};

struct Case {
    name: &'static str,
    harm: fn(&Store, &TempDir),
    expected: &'static [FaultKind],
    /// The healthy image is always there afterwards; the harmed one in these cases only.
    survives: bool,
}

fn tar(store: &Store) -> std::path::PathBuf {
    store.layout().layer_tar(&diff_id(b"one"))
}

fn table(store: &Store) -> std::path::PathBuf {
    store.layout().layer_table(&diff_id(b"one"))
}

fn config(store: &Store) -> std::path::PathBuf {
    let id = store.find_image("harmed:1").unwrap().target.image_id.unwrap();
    store.layout().blob(&id.digest())
}

const CASES: &[Case] = &[
    Case { name: "nothing", harm: |_, _| {}, expected: &[], survives: true },
    Case {
        name: "a flipped bit in a tar",
        harm: |store, _| overwrite(&tar(store), b"onf"),
        expected: &[FaultKind::TarDigest],
        survives: false,
    },
    Case {
        name: "a cut tar",
        harm: |store, _| overwrite(&tar(store), b"on"),
        expected: &[FaultKind::TarSize],
        survives: false,
    },
    Case {
        name: "no tar",
        harm: |store, _| fs_err::remove_file(tar(store)).unwrap(),
        expected: &[FaultKind::TarMissing],
        survives: false,
    },
    Case {
        name: "no table",
        harm: |store, _| fs_err::remove_file(table(store)).unwrap(),
        expected: &[FaultKind::TableMissing],
        survives: false,
    },
    Case {
        name: "a flipped bit in a table",
        harm: |store, _| overwrite(&table(store), b"table of onf"),
        expected: &[FaultKind::TableDamaged],
        survives: false,
    },
    Case {
        name: "no layer",
        harm: |store, _| {
            fs_err::remove_dir_all(store.layout().layer(&diff_id(b"one"))).unwrap();
        },
        expected: &[FaultKind::TarMissing, FaultKind::TableMissing],
        survives: false,
    },
    Case {
        name: "a config of another size",
        harm: |store, _| overwrite(&config(store), b"{}"),
        expected: &[FaultKind::BlobSize],
        survives: false,
    },
    Case {
        name: "a flipped bit in a config",
        harm: |store, _| {
            let path = config(store);
            let mut bytes = fs_err::read(&path).unwrap();
            bytes[3] ^= 1;
            overwrite(&path, &bytes);
        },
        expected: &[FaultKind::BlobDigest],
        survives: false,
    },
    Case {
        name: "no manifest",
        harm: |store, _| {
            let target = store.find_image("harmed:1").unwrap().target;
            fs_err::remove_file(store.layout().blob(&target.digest)).unwrap();
        },
        expected: &[FaultKind::BlobMissing],
        survives: false,
    },
    Case {
        name: "a cut tree",
        harm: |store, _| overwrite(&store.layout().tree("abcd"), b"ero"),
        expected: &[FaultKind::TreeDamaged],
        survives: true,
    },
    Case {
        name: "a flipped bit in a tree",
        harm: |store, _| overwrite(&store.layout().tree("abcd"), b"erofr"),
        expected: &[FaultKind::TreeDamaged],
        survives: true,
    },
    Case {
        name: "an edited file of an extracted tree",
        harm: |store, _| fs_err::write(store.layout().extracted("ab-c").join("d/f"), "3").unwrap(),
        expected: &[FaultKind::TreeDamaged],
        survives: true,
    },
    Case {
        name: "pipes, whose writer never comes",
        harm: |store, _| {
            for path in [config(store), tar(store), table(store)] {
                fs_err::remove_file(&path).unwrap();
                let made = rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR);
                made.unwrap();
            }
        },
        expected: &[FaultKind::BlobUnreadable, FaultKind::TarUnreadable, FaultKind::TableDamaged],
        survives: false,
    },
    Case {
        name: "a file that nobody names",
        harm: |store, _| {
            let stray = davit_image::Digest::of(b"stray");
            fs_err::write(store.layout().blob(&stray), b"stray").unwrap();
        },
        expected: &[],
        survives: true,
    },
];

fn prepare(temp: &TempDir) -> Store {
    let store = open(temp);
    tagged_image(&store, "harmed:1", &[b"one", b"shared"]);
    tagged_image(&store, "healthy:1", &[b"shared", b"two"]);
    commit_tree(&store);
    store
}

fn commit_tree(store: &Store) {
    let new = |id: &str, form| NewTree {
        id: id.to_owned(),
        form,
        chain_id: ChainId::of(&[diff_id(b"two")]),
        layers: vec![diff_id(b"two")],
        spec: serde_json::Value::Null,
    };
    let ingest = store.begin_tree().unwrap();
    fs_err::write(ingest.image_path(), b"erofs").unwrap();
    ingest.commit(&new("abcd", TreeForm::Base), 5).unwrap();
    let ingest = store.begin_tree().unwrap();
    fs_err::create_dir_all(ingest.extracted_path().join("d")).unwrap();
    fs_err::write(ingest.extracted_path().join("d/f"), b"2").unwrap();
    ingest.commit(&new("ab-c", TreeForm::Extracted), 1).unwrap();
}

fn kinds(report: &CheckReport) -> Vec<FaultKind> {
    report.faults.iter().map(|fault| fault.kind).collect()
}

#[test]
fn names_and_mends_every_kind_of_fault() {
    for case in CASES {
        let temp = TempDir::new();
        let store = prepare(&temp);
        (case.harm)(&store, &temp);
        let found = store.check(&CheckOptions::default()).unwrap();
        assert_eq!(kinds(&found), case.expected, "{}", case.name);
        assert_eq!(
            found.remaining(),
            case.expected.len(),
            "{}: a check changes nothing",
            case.name
        );
        let mended = store.check(&REPAIR).unwrap();
        assert_eq!(mended.remaining(), 0, "{}: {:?}", case.name, mended.faults);
        let after = store.check(&CheckOptions::default()).unwrap();
        assert_eq!(kinds(&after), [], "{}", case.name);
        assert_eq!(store.find_image("harmed:1").is_ok(), case.survives, "{}", case.name);
        let healthy = store.find_image("healthy:1").unwrap().target.image_id.unwrap();
        for layer in store.image_layers(&healthy).unwrap() {
            assert!(store.layer(&layer).unwrap().is_some(), "{}", case.name);
        }
    }
}

#[test]
fn repair_tells_which_names_went() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    overwrite(&tar(&store), b"onf");
    let report = store.check(&REPAIR).unwrap();
    let names: Vec<_> =
        report.dropped_names.iter().map(|name| name.reference.to_string()).collect();
    assert_eq!(names, ["docker.io/library/harmed:1"]);
}

#[test]
fn a_table_is_made_again_from_its_tar() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    overwrite(&table(&store), b"nonsense");
    let rebuild = |_: &LayerRow, tar: &std::path::Path, table: &std::path::Path| {
        let content = fs_err::read(tar)?;
        fs_err::write(table, [b"table of ", content.as_slice()].concat())?;
        Ok(1)
    };
    let options = CheckOptions { rebuild_table: Some(&rebuild), ..REPAIR };
    let report = store.check(&options).unwrap();
    assert_eq!(report.faults[0].repair, Repair::Rebuilt);
    assert_eq!(store.check(&CheckOptions::default()).unwrap().faults, []);
    store.find_image("harmed:1").unwrap();
}

#[test]
fn a_table_that_its_reader_refuses_is_damaged() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    let bad = table(&store);
    let check = |path: &std::path::Path| match path == bad {
        true => Err("its name is malformed".into()),
        false => Ok(()),
    };
    let options = CheckOptions { check_table: Some(&check), ..CheckOptions::default() };
    let report = store.check(&options).unwrap();
    assert_eq!(kinds(&report), [FaultKind::TableDamaged]);
    assert_eq!(report.faults[0].detail, "its name is malformed");
}

#[test]
fn a_table_that_cannot_be_made_again_costs_its_layer() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    overwrite(&table(&store), b"nonsense");
    let rebuild = |_: &LayerRow, _: &std::path::Path, _: &std::path::Path| Err("no tar".into());
    let options = CheckOptions { rebuild_table: Some(&rebuild), ..REPAIR };
    let report = store.check(&options).unwrap();
    assert_eq!(report.faults[0].repair, Repair::Dropped);
    assert!(store.find_image("harmed:1").is_err());
}

#[test]
fn a_container_is_never_dropped() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    let id = store.find_image("harmed:1").unwrap().target.image_id.unwrap();
    let new = container("ab", Some(id));
    store.create_container(&new, Durability::Durable).unwrap();
    fs_err::remove_file(tar(&store)).unwrap();
    let report = store.check(&REPAIR).unwrap();
    let left: Vec<_> =
        report.faults.iter().filter(|fault| fault.repair == Repair::Nothing).collect();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].kind, FaultKind::ContainerLayerMissing);
    assert_eq!(store.container("name-ab").unwrap().id, new.id);
}

#[test]
fn a_volume_without_its_directory_is_named() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    let data = NewVolume { name: "data".into(), driver: "local".into(), ..NewVolume::default() };
    store.create_volume(&data).unwrap();
    fs_err::remove_dir_all(store.layout().volume("data")).unwrap();
    let report = store.check(&REPAIR).unwrap();
    assert_eq!(kinds(&report), [FaultKind::VolumeMissing]);
    assert_eq!(report.remaining(), 1, "an empty volume would hide the loss");
}

#[test]
fn a_damaged_database_is_named() {
    let temp = TempDir::new();
    let store = prepare(&temp);
    drop(store);
    let path = temp.join("root/davit.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    let page: u32 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'tags_digest'", [], |row| {
            row.get(0)
        })
        .unwrap();
    drop(connection);
    let mut bytes = fs_err::read(&path).unwrap();
    let start = (page as usize - 1) * 4096;
    // An empty leaf of an index, where two tags should be.
    bytes[start + 3..start + 5].fill(0);
    fs_err::write(&path, bytes).unwrap();
    let report = open(&temp).check(&CheckOptions::default()).unwrap();
    assert!(kinds(&report).contains(&FaultKind::DatabaseDamaged), "{report:?}");
}

/// What somebody did to the rows with another program, which enforces nothing.
struct Edit {
    sql: &'static str,
    /// Subjects of the faults, in full or from their start.
    expected: &'static [&'static str],
    repair: Repair,
}

const EDITS: &[Edit] = &[
    Edit {
        sql: "DELETE FROM image_layers",
        expected: &["images ", "images "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "UPDATE image_layers SET diff_id = (SELECT max(diff_id) FROM layers)",
        expected: &["images ", "images "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "UPDATE image_layers SET diff_id = 'nonsense' WHERE position = 0",
        expected: &["image_layers ", "image_layers "],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "UPDATE images SET chain_id = NULL",
        expected: &["images ", "images "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "UPDATE images SET architecture = 'pdp11'",
        expected: &["images ", "images "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: r#"UPDATE images SET labels = '{"a":"b"}', created = 7"#,
        expected: &["images ", "images "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "DELETE FROM images; DELETE FROM image_layers",
        expected: &["images ", "images "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "UPDATE layers SET presence = 'partial'",
        expected: &["layers ", "layers ", "layers "],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "DELETE FROM blob_refs WHERE child IN (SELECT id FROM images)",
        expected: &["blob_refs ", "blob_refs "],
        repair: Repair::Rebuilt,
    },
    Edit { sql: "DELETE FROM trees", expected: &["tree_layers"], repair: Repair::Dropped },
    Edit { sql: "DELETE FROM tree_layers", expected: &["ab-c", "abcd"], repair: Repair::Dropped },
    Edit {
        sql: "UPDATE tags SET digest = 'sha256:12' WHERE reference LIKE '%harmed%'",
        expected: &["tags docker.io/library/harmed:1"],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql: "UPDATE tags SET image_id = 'x' WHERE reference LIKE '%harmed%'",
        expected: &["tags docker.io/library/harmed:1"],
        repair: Repair::Rebuilt,
    },
    Edit {
        sql:
            "INSERT INTO tags SELECT 'No Name', digest, media_type, size, image_id, tagged FROM tags
              LIMIT 1",
        expected: &["tags No Name"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO untagged SELECT 'x', media_type, size, image_id, 0 FROM tags LIMIT 1",
        expected: &["untagged x"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO untagged SELECT digest, media_type, size, 'x', 0 FROM tags LIMIT 1",
        expected: &["untagged sha256:"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO repo_digests (repository, digest, image_id, media_type, size) SELECT 'No Name', digest, image_id, media_type, size FROM tags LIMIT 1",
        expected: &["repo_digests No Name@sha256:"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO repo_digests (repository, digest, image_id, media_type, size) SELECT 'a/b', digest, 'x', media_type, size FROM tags LIMIT 1",
        expected: &["repo_digests a/b@sha256:"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO blobs VALUES ('x', 1, NULL, NULL, 0)",
        expected: &["blobs x"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO layers (diff_id, tar_size, table_size, table_crc32c, created) VALUES ('x', 1, 1, 1, 0)",
        expected: &["layers x"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "INSERT INTO images (id, os, architecture, stored) VALUES ('x', '', '', 0)",
        expected: &["images x"],
        repair: Repair::Dropped,
    },
    Edit {
        sql: "UPDATE tree_layers SET diff_id = 'x'",
        expected: &["tree_layers ab-c 0", "tree_layers abcd 0"],
        repair: Repair::Dropped,
    },
];

#[test]
fn edited_rows_are_named_and_mended_from_the_content() {
    for Edit { sql, expected, repair } in EDITS {
        let temp = TempDir::new();
        let store = prepare(&temp);
        let connection = rusqlite::Connection::open(temp.join("root/davit.db")).unwrap();
        connection.execute_batch(&format!("PRAGMA foreign_keys = OFF; {sql}")).unwrap();
        let found = store.check(&CheckOptions::default()).unwrap();
        let subjects: Vec<_> = found.faults.iter().map(|fault| &fault.subject).collect();
        assert_eq!(subjects.len(), expected.len(), "{sql}: {subjects:?}");
        for (subject, start) in subjects.iter().zip(*expected) {
            assert!(subject.starts_with(start), "{sql}: {subject}");
        }
        let mended = store.check(&REPAIR).unwrap();
        assert_eq!(mended.faults[0].repair, *repair, "{sql}: {:?}", mended.faults);
        assert_eq!((mended.remaining(), &mended.dropped_names[..]), (0, &[][..]), "{sql}");
        assert_eq!(store.check(&CheckOptions::default()).unwrap().faults, [], "{sql}");
        for (name, layers) in
            [("harmed:1", [b"one".as_slice(), b"shared"]), ("healthy:1", [b"shared", b"two"])]
        {
            let target = store.find_image(name).unwrap().target;
            let expected = layers.map(diff_id);
            assert_eq!(store.image_layers(&target.image_id.unwrap()).unwrap(), expected, "{sql}");
            assert!(store.is_whole(&target).unwrap(), "{sql}: {name}");
        }
        if store.tree("abcd").unwrap().is_none() {
            commit_tree(&store);
        }
    }
}
