//! Names of images: commit, move, find, remove.

use davit_image::{ImageId, Reference};
use davit_store::{
    Durability, GcOptions, ImageCommit, NewContainer, RepoDigest, Store, StoreError, TagUpdate,
};
use davit_test::TempDir;

use crate::fixture::{content_files, diff_id, image, layer, open, reference, tagged_image};

fn names(store: &Store) -> Vec<(ImageId, Vec<String>)> {
    let mut names: Vec<_> = store
        .images()
        .unwrap()
        .into_iter()
        .map(|row| {
            let references =
                row.targets.iter().flat_map(|(_, refs)| refs).map(Reference::familiar).collect();
            (row.id, references)
        })
        .collect();
    names.sort();
    names
}

pub(crate) fn container(id: &str, image_id: Option<ImageId>) -> NewContainer {
    NewContainer {
        id: id.repeat(64 / id.len()),
        name: format!("name-{id}"),
        image_id,
        layers: Vec::new(),
        auto_remove: false,
        labels: std::collections::BTreeMap::new(),
        status: "created".to_owned(),
        spec: serde_json::json!({}),
        volumes: Vec::new(),
        addresses: Vec::new(),
        ports: Vec::new(),
    }
}

#[test]
fn a_committed_image_is_durable_and_found_by_every_name() {
    let temp = TempDir::new();
    let store = open(&temp);
    let target = tagged_image(&store, "app:1", &[b"one", b"two"]);
    let id = target.image_id.unwrap();
    for content in [b"one", b"two"] {
        assert_eq!(store.layer(&diff_id(content)).unwrap().unwrap().durable_boot, None);
    }
    assert_eq!(store.blob(&target.digest).unwrap().unwrap().durable_boot, None);
    assert_eq!(store.blob(&id.digest()).unwrap().unwrap().durable_boot, None);
    for name in [
        "app:1".to_owned(),
        "docker.io/library/app:1".to_owned(),
        id.to_string(),
        id.digest().hex(),
        id.digest().short_hex(),
        id.digest().hex()[..5].to_owned(),
        target.digest.to_string(),
        target.digest.short_hex(),
    ] {
        assert_eq!(store.find_image(&name).unwrap().target, target, "{name}");
    }
    for name in ["app", "app:2", "other/app:1", "0000000", "", "sha256:"] {
        assert!(store.find_image(name).unwrap_err().is_not_found(), "{name}");
    }
    let row = store.image(&id).unwrap().unwrap();
    assert_eq!((row.size, row.layers.len()), (6, 2));
}

#[test]
fn an_image_without_its_layers_is_refused() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    layer(&store, &lease, b"one", Durability::Lazy);
    let (documents, target) = image(&[b"one", b"two"]);
    let tags = vec![TagUpdate { reference: reference("app:1"), target }];
    let commit = ImageCommit { documents, tags, ..ImageCommit::default() };
    let error = store.commit_images(&lease, &commit).unwrap_err();
    assert!(matches!(error, StoreError::MissingLayer(missing) if missing == diff_id(b"two")));
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn a_lying_document_is_refused() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let (mut documents, _) = image(&[]);
    documents[0].bytes.push(b' ');
    let commit = ImageCommit { documents, ..ImageCommit::default() };
    let error = store.commit_images(&lease, &commit).unwrap_err();
    assert!(matches!(error, StoreError::Digest { .. }), "{error}");
}

#[test]
fn a_tag_that_moves_leaves_a_dangling_image() {
    let temp = TempDir::new();
    let store = open(&temp);
    let first = tagged_image(&store, "app:1", &[b"one"]).image_id.unwrap();
    let second = tagged_image(&store, "app:1", &[b"two"]).image_id.unwrap();
    let mut expected = vec![(first, vec![]), (second, vec!["app:1".to_owned()])];
    expected.sort();
    assert_eq!(names(&store), expected);
    // A second name makes the dangling image an ordinary one again.
    let found = store.find_image(&first.to_string()).unwrap();
    store.tag(&reference("old:1"), &found.target).unwrap();
    let mut expected = vec![(first, vec!["old:1".to_owned()]), (second, vec!["app:1".to_owned()])];
    expected.sort();
    assert_eq!(names(&store), expected);
}

#[test]
fn a_prefix_of_two_images_is_ambiguous() {
    let temp = TempDir::new();
    let store = open(&temp);
    let mut seen = std::collections::BTreeMap::new();
    for round in 0_u8..40 {
        let id = tagged_image(&store, &format!("app:{round}"), &[&[round]]).image_id.unwrap();
        let digit = id.digest().hex()[..1].to_owned();
        if seen.insert(digit.clone(), id).is_some() {
            let error = store.find_image(&digit).unwrap_err();
            assert!(matches!(error, StoreError::Ambiguous { .. }), "{error}");
            return;
        }
    }
    panic!("forty images share no first digit");
}

#[test]
fn removing_the_last_name_frees_everything_at_once() {
    let temp = TempDir::new();
    let store = open(&temp);
    let empty = content_files(&temp);
    tagged_image(&store, "app:1", &[b"one", b"shared"]);
    let kept = tagged_image(&store, "kept:1", &[b"shared"]);
    let untagged = store
        .edit_images(|edit| {
            let removed = edit.untag(&reference("app:1"))?;
            Ok::<_, StoreError>((removed, edit.untag(&reference("app:1"))?))
        })
        .unwrap();
    assert_eq!(untagged, (true, false));
    let report = store.collect(&GcOptions::default()).unwrap();
    assert_eq!(report.layers, [diff_id(b"one")]);
    assert_eq!((report.images.len(), report.blobs.len()), (1, 2));
    assert!(!store.layout().layer(&diff_id(b"one")).exists());
    assert!(store.layout().layer(&diff_id(b"shared")).exists());
    store.edit_images(|edit| edit.forget(&kept.image_id.unwrap())).unwrap();
    store.collect(&GcOptions::default()).unwrap();
    assert_eq!(content_files(&temp), empty);
}

#[test]
fn a_container_keeps_its_image_without_a_name() {
    let temp = TempDir::new();
    let store = open(&temp);
    let id = tagged_image(&store, "app:1", &[b"one"]).image_id.unwrap();
    let new = container("ab", Some(id));
    store.create_container(&new, Durability::Durable).unwrap();
    store.edit_images(|edit| edit.forget(&id)).unwrap();
    let report = store.collect(&GcOptions::default()).unwrap();
    assert_eq!((report.layers.len(), report.images.len()), (0, 0));
    assert_eq!(store.image(&id).unwrap().unwrap().containers[0].id, new.id);
    assert!(store.images().unwrap().is_empty());
    store.remove_container(&new.id, Durability::Durable).unwrap();
    assert_eq!(store.image(&id).unwrap(), None, "its last user frees it at once");
    assert!(!store.layout().layer(&diff_id(b"one")).exists());
}

#[test]
fn a_refused_edit_changes_nothing() {
    let temp = TempDir::new();
    let store = open(&temp);
    tagged_image(&store, "app:1", &[b"one"]);
    let before = names(&store);
    let refused = store.edit_images(|edit| {
        edit.untag(&reference("app:1"))?;
        Err::<(), _>(StoreError::NotFound { kind: "test", name: "refusal".to_owned() })
    });
    assert_eq!(refused.unwrap_err().to_string(), "no such test: refusal");
    assert_eq!(names(&store), before);
}

#[test]
fn repo_digests_find_an_image_and_go_with_it() {
    let temp = TempDir::new();
    let store = open(&temp);
    let target = tagged_image(&store, "app:1", &[b"one"]);
    let lease = store.lease("test").unwrap();
    let known = reference(&format!("example.org/app@{}", target.digest));
    let repo_digests = vec![RepoDigest { reference: known.clone(), target: target.clone() }];
    store.commit_images(&lease, &ImageCommit { repo_digests, ..ImageCommit::default() }).unwrap();
    assert_eq!(store.find_image(&known.to_string()).unwrap().target, target);
    let id = target.image_id.unwrap();
    assert_eq!(store.image(&id).unwrap().unwrap().repo_digests, std::slice::from_ref(&known));
    drop(lease);
    store.edit_images(|edit| edit.forget(&id)).unwrap();
    store.collect(&GcOptions::default()).unwrap();
    assert!(store.find_image(&known.to_string()).unwrap_err().is_not_found());
}
