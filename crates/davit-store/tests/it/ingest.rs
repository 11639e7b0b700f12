//! Blobs and layers: commit, resume, single flight, reboot.

use std::{io::Write, time::Duration};

use davit_image::{Algorithm, Digest, Digester};
use davit_store::{BlobBegin, Durability, Store, StoreError};
use davit_test::TempDir;

use crate::fixture::{content_files, diff_id, facts, layer, open, overwrite, reopen_after_reboot};

fn owner<'a>(begin: BlobBegin<'a>) -> davit_store::BlobIngest<'a> {
    match begin {
        BlobBegin::Owner(ingest) => ingest,
        other => panic!("expected to own the blob, got {other:?}"),
    }
}

#[test]
fn a_blob_becomes_visible_when_it_matches() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let digest = Digest::of(b"hello");
    let mut ingest = owner(store.begin_blob(&lease, &digest, 5).unwrap());
    ingest.append(b"hel").unwrap();
    ingest.append(b"lo").unwrap();
    assert_eq!(store.blob(&digest).unwrap(), None);
    ingest.commit(&digest, None, Durability::Durable).unwrap();
    assert_eq!(store.read_blob(&digest, 5).unwrap(), b"hello");
    assert!(matches!(store.begin_blob(&lease, &digest, 5).unwrap(), BlobBegin::Present(_)));
    assert!(matches!(store.read_blob(&digest, 4), Err(StoreError::Size { .. })));
}

#[test]
fn a_wrong_blob_leaves_nothing() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let before = content_files(&temp);
    let digest = Digest::of(b"hello");
    let mut ingest = owner(store.begin_blob(&lease, &digest, 5).unwrap());
    ingest.append(b"hullo").unwrap();
    let error = ingest.commit(&Digest::of(b"hullo"), None, Durability::Durable).unwrap_err();
    assert!(matches!(error, StoreError::Digest { .. }), "{error}");
    assert_eq!(content_files(&temp), before);
}

#[test]
fn a_blob_that_is_too_long_is_refused_before_it_is_written() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let mut ingest = owner(store.begin_blob(&lease, &Digest::of(b"hello"), 5).unwrap());
    assert!(matches!(ingest.append(&[0; 6]), Err(StoreError::Size { actual: 6, .. })));
    assert_eq!(ingest.written(), 0);
}

#[test]
fn an_interrupted_blob_resumes() {
    let temp = TempDir::new();
    let digest = Digest::of(b"hello");
    {
        let store = open(&temp);
        let lease = store.lease("test").unwrap();
        let mut ingest = owner(store.begin_blob(&lease, &digest, 5).unwrap());
        ingest.append(b"hel").unwrap();
    }
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let mut ingest = owner(store.begin_blob(&lease, &digest, 5).unwrap());
    assert_eq!(ingest.resumed(), 3);
    let mut digester = Digester::new(Algorithm::Sha256);
    ingest.digest_written(&mut digester).unwrap();
    ingest.append(b"lo").unwrap();
    digester.update(b"lo");
    ingest.commit(&digester.finish(), None, Durability::Durable).unwrap();
    assert_eq!(store.read_blob(&digest, 5).unwrap(), b"hello");
}

#[test]
fn a_partial_file_that_grew_too_long_starts_again() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let digest = Digest::of(b"hello");
    let name = format!("root/tmp/blob-sha256-{}", digest.hex());
    fs_err::write(temp.join(name), b"much too long").unwrap();
    let ingest = owner(store.begin_blob(&lease, &digest, 5).unwrap());
    assert_eq!((ingest.resumed(), ingest.written()), (0, 0));
}

#[test]
fn of_two_that_want_a_blob_one_works_and_the_other_waits() {
    let temp = TempDir::new();
    let (one, two) = (open(&temp), open(&temp));
    let (lease_one, lease_two) = (one.lease("one").unwrap(), two.lease("two").unwrap());
    let digest = Digest::of(b"hello");
    let mut ingest = owner(one.begin_blob(&lease_one, &digest, 5).unwrap());
    let BlobBegin::Busy(wait) = two.begin_blob(&lease_two, &digest, 5).unwrap() else {
        panic!("the first store owns it");
    };
    ingest.append(b"hell").unwrap();
    assert_eq!(wait.progress(), 4);
    assert!(!wait.wait(Duration::ZERO).unwrap());
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| wait.wait(Duration::from_secs(120)).unwrap());
        ingest.append(b"o").unwrap();
        ingest.commit(&digest, None, Durability::Durable).unwrap();
        assert!(waiter.join().unwrap());
    });
    assert!(matches!(two.begin_blob(&lease_two, &digest, 5).unwrap(), BlobBegin::Present(_)));
}

#[test]
fn the_waiter_takes_over_when_the_owner_gives_up() {
    let temp = TempDir::new();
    let (one, two) = (open(&temp), open(&temp));
    let (lease_one, lease_two) = (one.lease("one").unwrap(), two.lease("two").unwrap());
    let digest = Digest::of(b"hello");
    let mut ingest = owner(one.begin_blob(&lease_one, &digest, 5).unwrap());
    ingest.append(b"he").unwrap();
    let BlobBegin::Busy(wait) = two.begin_blob(&lease_two, &digest, 5).unwrap() else {
        panic!("the first store owns it");
    };
    drop(ingest);
    assert!(wait.wait(Duration::from_secs(120)).unwrap());
    assert_eq!(owner(two.begin_blob(&lease_two, &digest, 5).unwrap()).resumed(), 2);
}

#[test]
fn a_layer_becomes_visible_whole() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let row = layer(&store, &lease, b"tar", Durability::Durable);
    assert_eq!((row.tar_size, row.durable_boot), (3, None));
    let layout = store.layout();
    assert_eq!(fs_err::read(layout.layer_tar(&row.diff_id)).unwrap(), b"tar");
    let again = layer(&store, &lease, b"tar", Durability::Durable);
    assert_eq!(again.diff_id, row.diff_id);
    assert_eq!(lease.hold_layer(&row.diff_id).unwrap().unwrap(), again);
}

#[test]
fn a_layer_of_another_size_leaves_nothing() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let before = content_files(&temp);
    let ingest = store.begin_layer(&lease).unwrap();
    ingest.create_tar().unwrap().write_all(b"ta").unwrap();
    ingest.create_table().unwrap();
    let error = ingest.commit(&facts(b"tar", Durability::Durable)).unwrap_err();
    assert!(matches!(error, StoreError::Size { expected: 3, actual: 2, .. }), "{error}");
    assert_eq!(content_files(&temp), before);
}

#[test]
fn a_directory_without_a_row_is_replaced() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let orphan = store.layout().layer(&diff_id(b"tar"));
    fs_err::create_dir_all(&orphan).unwrap();
    fs_err::write(orphan.join("tar"), b"torn").unwrap();
    let row = layer(&store, &lease, b"tar", Durability::Durable);
    assert_eq!(fs_err::read(store.layout().layer_tar(&row.diff_id)).unwrap(), b"tar");
}

#[test]
fn a_lazy_layer_survives_a_reboot_only_if_it_is_whole() {
    for whole in [true, false] {
        let temp = TempDir::new();
        let row = {
            let store = open(&temp);
            let lease = store.lease("test").unwrap();
            let row = layer(&store, &lease, b"tar", Durability::Lazy);
            assert_eq!(row.durable_boot.as_ref(), Some(store.boot_id()));
            if !whole {
                // Power loss: the size came to the disk, the bytes did not.
                overwrite(&store.layout().layer_tar(&row.diff_id), &[0; 3]);
            }
            row
        };
        let store = reopen_after_reboot(&temp);
        let lease = store.lease("test").unwrap();
        let found = lease.hold_layer(&row.diff_id).unwrap();
        assert_eq!(found.is_some(), whole);
        assert_eq!(store.layout().layer(&row.diff_id).exists(), whole);
        if let Some(found) = found {
            assert_eq!(found.durable_boot, None);
        }
    }
}

#[test]
fn a_lazy_layer_with_a_torn_table_does_not_survive() {
    let temp = TempDir::new();
    let row = {
        let store = open(&temp);
        let lease = store.lease("test").unwrap();
        let row = layer(&store, &lease, b"tar", Durability::Lazy);
        overwrite(&store.layout().layer_table(&row.diff_id), b"");
        row
    };
    let store = reopen_after_reboot(&temp);
    let lease = store.lease("test").unwrap();
    assert_eq!(lease.hold_layer(&row.diff_id).unwrap(), None);
    layer(&store, &lease, b"tar", Durability::Durable);
    assert!(lease.hold_layer(&row.diff_id).unwrap().is_some());
}

#[test]
fn a_lazy_blob_survives_a_reboot_only_if_it_is_whole() {
    for whole in [true, false] {
        let temp = TempDir::new();
        let digest = {
            let store = open(&temp);
            let lease = store.lease("test").unwrap();
            let digest = store.put_blob(&lease, b"hello", None, Durability::Lazy).unwrap();
            if !whole {
                overwrite(&store.layout().blob(&digest), b"he");
            }
            digest
        };
        let store = reopen_after_reboot(&temp);
        let lease = store.lease("test").unwrap();
        assert_eq!(store.hold_blob(&lease, &digest).unwrap().is_some(), whole);
        store.put_blob(&lease, b"hello", None, Durability::Durable).unwrap();
        assert_eq!(store.read_blob(&digest, 5).unwrap(), b"hello");
        assert_eq!(store.blob(&digest).unwrap().unwrap().durable_boot, None);
    }
}

#[test]
fn make_durable_clears_the_mark_and_names_what_is_missing() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let row = layer(&store, &lease, b"tar", Durability::Lazy);
    store.make_durable(&[row.diff_id]).unwrap();
    assert_eq!(store.layer(&row.diff_id).unwrap().unwrap().durable_boot, None);
    let error = store.make_durable(&[diff_id(b"other")]).unwrap_err();
    assert!(matches!(error, StoreError::MissingLayer(_)), "{error}");
}

#[test]
fn digests_are_added_once() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let row = layer(&store, &lease, b"tar", Durability::Durable);
    store.put_layer_digests(&row.diff_id, b"first").unwrap();
    store.put_layer_digests(&row.diff_id, b"second").unwrap();
    let path = store.layout().layer_digests(&row.diff_id);
    assert_eq!(fs_err::read(path).unwrap(), b"first");
}

#[test]
fn many_writers_of_one_layer_agree() {
    let temp = TempDir::new();
    let stores: Vec<Store> = (0..6).map(|_| open(&temp)).collect();
    std::thread::scope(|scope| {
        for store in &stores {
            scope.spawn(|| {
                let lease = store.lease("test").unwrap();
                for round in 0..5_u8 {
                    layer(store, &lease, &[round; 100], Durability::Lazy);
                }
            });
        }
    });
    for round in 0..5_u8 {
        let row = stores[0].layer(&diff_id(&[round; 100])).unwrap();
        assert!(row.is_some());
    }
    assert_eq!(fs_err::read_dir(temp.join("root/tmp")).unwrap().count(), 0);
}
