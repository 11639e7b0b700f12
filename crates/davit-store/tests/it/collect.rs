//! Garbage collection keeps what a root reaches, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use davit_image::{Digest, ImageId};
use davit_store::{
    BuildCache, Durability, GcOptions, ImageCommit, NewBuildRecord, NewTree, Store, TagUpdate,
    Target, TreeForm,
};
use davit_test::TempDir;
use proptest::prelude::*;

use crate::{
    fixture::{diff_id, image, layer, open, reference, tagged_image},
    images::container,
};

fn record(key: &str, contents: &[&[u8]], cost_us: u64) -> NewBuildRecord {
    NewBuildRecord {
        key: key.to_owned(),
        kind: "exec".to_owned(),
        spec: serde_json::json!({"key": key}),
        items: contents.iter().map(|content| Digest::of(content)).collect(),
        cost_us,
    }
}

#[test]
fn a_live_lease_keeps_and_a_dead_one_does_not() {
    let temp = TempDir::new();
    let (one, two) = (open(&temp), open(&temp));
    let lease = one.lease("build").unwrap();
    let row = layer(&one, &lease, b"one", Durability::Lazy);
    assert!(two.collect(&GcOptions::default()).unwrap().layers.is_empty());
    drop(lease);
    assert_eq!(two.collect(&GcOptions::default()).unwrap().layers, [row.diff_id]);
}

#[test]
fn a_lease_of_another_boot_is_dead_even_if_its_file_is_locked() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("build").unwrap();
    layer(&store, &lease, b"one", Durability::Durable);
    let rebooted = crate::fixture::reopen_after_reboot(&temp);
    assert_eq!(rebooted.collect(&GcOptions::default()).unwrap().layers, [diff_id(b"one")]);
}

#[test]
fn trees_go_with_their_layers() {
    let temp = TempDir::new();
    let store = open(&temp);
    tagged_image(&store, "app:1", &[b"one"]);
    let ingest = store.begin_tree().unwrap();
    fs_err::write(ingest.image_path(), b"erofs").unwrap();
    let tree = NewTree {
        id: "abcd".to_owned(),
        form: TreeForm::Base,
        chain_id: davit_image::ChainId::of(&[diff_id(b"one")]),
        layers: vec![diff_id(b"one")],
        spec: serde_json::Value::Null,
    };
    ingest.commit(&tree, 5).unwrap();
    assert_eq!(store.trees_of_chains(&[tree.chain_id.unwrap()]).unwrap().len(), 1);
    assert!(store.collect(&GcOptions::default()).unwrap().trees.is_empty());
    store.edit_images(|edit| edit.untag(&reference("app:1"))).unwrap();
    assert_eq!(store.collect(&GcOptions::default()).unwrap().trees, ["abcd"]);
    assert!(!store.layout().tree("abcd").exists());
    // Without its layer a tree cannot come back.
    let ingest = store.begin_tree().unwrap();
    fs_err::write(ingest.image_path(), b"erofs").unwrap();
    assert!(ingest.commit(&tree, 5).is_err());
    assert_eq!(fs_err::read_dir(temp.join("root/tmp")).unwrap().count(), 0);
}

#[test]
fn the_budget_evicts_what_is_old_and_was_cheap() {
    let temp = TempDir::new();
    let store = open(&temp);
    let contents: Vec<Vec<u8>> = (0..6_u8).map(|n| vec![n; 1000]).collect();
    {
        let lease = store.lease("build").unwrap();
        for content in &contents {
            layer(&store, &lease, content, Durability::Lazy);
        }
        let records: Vec<_> = contents
            .iter()
            .enumerate()
            .map(|(n, content)| {
                // The oldest was the dearest by far.
                record(&n.to_string(), &[content], if n == 0 { 60_000_000 } else { 1 })
            })
            .collect();
        store.put_build_records(&records).unwrap();
        assert!(store.use_build_record(&lease, "1").unwrap().is_some());
    }
    let held = store.build_cache_size().unwrap();
    let each = held / 6;
    let report =
        store.collect(&GcOptions { build_cache: BuildCache::Budget(each * 2 + 1) }).unwrap();
    assert_eq!((report.build_records.len(), report.layers.len()), (4, 4));
    let mut left: Vec<_> =
        store.build_records().unwrap().into_iter().map(|record| record.key).collect();
    left.sort();
    assert_eq!(left, ["0", "1"]);
    let report = store.collect(&GcOptions { build_cache: BuildCache::Drop }).unwrap();
    assert_eq!((report.build_records.len(), report.layers.len()), (2, 2));
    assert_eq!(store.build_cache_size().unwrap(), 0);
}

#[test]
fn a_budget_counts_only_what_is_kept_by_the_cache_alone() {
    let temp = TempDir::new();
    let store = open(&temp);
    tagged_image(&store, "app:1", &[b"one"]);
    store.put_build_records(&[record("k", &[b"one"], 1)]).unwrap();
    assert_eq!(store.build_cache_size().unwrap(), 0);
    let report = store.collect(&GcOptions { build_cache: BuildCache::Budget(0) }).unwrap();
    assert_eq!(report.build_records, [""; 0]);
}

#[test]
fn a_record_in_use_or_of_an_image_outlives_any_budget() {
    let temp = TempDir::new();
    let store = open(&temp);
    tagged_image(&store, "app:1", &[b"one"]);
    let lease = store.lease("build").unwrap();
    for content in [b"two", b"old", b"new"] {
        layer(&store, &lease, content, Durability::Lazy);
    }
    // The one in use is the least valuable.
    for (key, contents) in [("used", &[&b"two"[..]][..]), ("image", &[b"one"]), ("idle", &[b"old"])]
    {
        store.put_build_records(&[record(key, contents, 1)]).unwrap();
    }
    drop(lease);
    let lease = store.lease("build").unwrap();
    assert!(store.use_build_record(&lease, "used").unwrap().is_some());
    store.put_build_records(&[record("note", &[], 1)]).unwrap();
    let report = store.collect(&GcOptions { build_cache: BuildCache::Budget(0) }).unwrap();
    assert_eq!(report.build_records, ["idle"]);
    let left: Vec<_> = store.build_records().unwrap().into_iter().map(|it| it.key).collect();
    assert_eq!(left, ["image", "used", "note"]);
    drop(lease);
    let report = store.collect(&GcOptions { build_cache: BuildCache::Budget(0) }).unwrap();
    assert_eq!(report.build_records, ["used"], "the note is younger");
}

#[test]
fn a_record_whose_layer_is_gone_is_forgotten() {
    let temp = TempDir::new();
    let store = open(&temp);
    store.put_build_records(&[record("k", &[b"never made"], 1)]).unwrap();
    let lease = store.lease("build").unwrap();
    assert_eq!(store.use_build_record(&lease, "k").unwrap(), None);
    assert_eq!(store.build_record("k").unwrap(), None);
}

/// One thing that a user or a process does.
#[derive(Clone, Debug)]
enum Step {
    Tag { name: u8, layers: Vec<u8> },
    Untag { name: u8 },
    Create { id: u8, name: u8 },
    Remove { id: u8 },
    Record { key: u8, layer: u8 },
    Forget { key: u8 },
    Lease { layer: u8 },
    EndLeases,
    Collect,
}

fn step() -> impl Strategy<Value = Step> {
    let layer = || 0..6_u8;
    prop_oneof![
        3 => (0..4_u8, proptest::collection::vec(layer(), 1..4))
            .prop_map(|(name, layers)| Step::Tag { name, layers }),
        2 => (0..4_u8).prop_map(|name| Step::Untag { name }),
        1 => (0..3_u8, 0..4_u8).prop_map(|(id, name)| Step::Create { id, name }),
        1 => (0..3_u8).prop_map(|id| Step::Remove { id }),
        1 => (0..3_u8, layer()).prop_map(|(key, layer)| Step::Record { key, layer }),
        1 => (0..3_u8).prop_map(|key| Step::Forget { key }),
        1 => layer().prop_map(|layer| Step::Lease { layer }),
        1 => Just(Step::EndLeases),
        3 => Just(Step::Collect),
    ]
}

/// What must be there, by plain bookkeeping.
#[derive(Default)]
struct Model {
    images: BTreeMap<ImageId, Vec<u8>>,
    tags: BTreeMap<u8, Target>,
    dangling: BTreeSet<ImageId>,
    containers: BTreeMap<u8, ImageId>,
    records: BTreeMap<u8, u8>,
    leased: BTreeSet<u8>,
}

impl Model {
    fn live_images(&self) -> BTreeSet<ImageId> {
        let tagged = self.tags.values().filter_map(|target| target.image_id);
        tagged
            .chain(self.dangling.iter().copied())
            .chain(self.containers.values().copied())
            .collect()
    }

    fn live_layers(&self) -> BTreeSet<u8> {
        let images = self.live_images();
        let of_images = images.iter().flat_map(|id| self.images[id].iter().copied());
        of_images.chain(self.records.values().copied()).chain(self.leased.iter().copied()).collect()
    }
}

fn content(layer: u8) -> Vec<u8> {
    format!("layer {layer}").into_bytes()
}

fn run(store: &Store, steps: Vec<Step>) {
    let mut model = Model::default();
    let mut leases = Vec::new();
    for step in steps {
        match step {
            Step::Tag { name, layers } => tag(store, &mut model, name, &layers),
            Step::Untag { name } => {
                store.edit_images(|edit| edit.untag(&reference(&format!("app:{name}")))).unwrap();
                model.tags.remove(&name);
            }
            Step::Create { id, name } => {
                let Some(image_id) = model.tags.get(&name).and_then(|target| target.image_id)
                else {
                    continue;
                };
                if let std::collections::btree_map::Entry::Vacant(entry) =
                    model.containers.entry(id)
                {
                    let new = container(&format!("a{id}"), Some(image_id));
                    store.create_container(&new, Durability::Lazy).unwrap();
                    entry.insert(image_id);
                }
            }
            Step::Remove { id } => {
                store.remove_container(&format!("a{id}").repeat(32), Durability::Lazy).unwrap();
                model.containers.remove(&id);
            }
            Step::Record { key, layer: number } => {
                let lease = store.lease("record").unwrap();
                layer(store, &lease, &content(number), Durability::Lazy);
                let key_text = key.to_string();
                store.put_build_records(&[record(&key_text, &[&content(number)], 1)]).unwrap();
                model.records.insert(key, number);
            }
            Step::Forget { key } => {
                store.forget_build_records(&[key.to_string()]).unwrap();
                model.records.remove(&key);
            }
            Step::Lease { layer: number } => {
                let lease = store.lease("test").unwrap();
                layer(store, &lease, &content(number), Durability::Lazy);
                leases.push(lease);
                model.leased.insert(number);
            }
            Step::EndLeases => {
                leases.clear();
                model.leased.clear();
            }
            Step::Collect => {
                store.collect(&GcOptions::default()).unwrap();
                compare(store, &model);
            }
        }
    }
    let report = store.check(&davit_store::CheckOptions::default()).unwrap();
    assert_eq!(report.faults, []);
}

fn tag(store: &Store, model: &mut Model, name: u8, numbers: &[u8]) {
    let contents: Vec<Vec<u8>> = numbers.iter().map(|number| content(*number)).collect();
    let slices: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
    let lease = store.lease("tag").unwrap();
    for content in &slices {
        layer(store, &lease, content, Durability::Lazy);
    }
    let (documents, target) = image(&slices);
    let id = target.image_id.unwrap();
    let tags =
        vec![TagUpdate { reference: reference(&format!("app:{name}")), target: target.clone() }];
    store.commit_images(&lease, &ImageCommit { documents, tags, ..Default::default() }).unwrap();
    model.images.insert(id, numbers.to_vec());
    let former = model.tags.insert(name, target);
    model.dangling.remove(&id);
    if let Some(former) = former.and_then(|former| former.image_id)
        && former != id
        && !model.tags.values().any(|target| target.image_id == Some(former))
    {
        model.dangling.insert(former);
    }
}

/// All that is live is there, row and file, and all else is gone.
fn compare(store: &Store, model: &Model) {
    let live = model.live_layers();
    for number in 0..6_u8 {
        let id = diff_id(&content(number));
        let expected = live.contains(&number);
        assert_eq!(store.layer(&id).unwrap().is_some(), expected, "row of layer {number}");
        assert_eq!(store.layout().layer_tar(&id).exists(), expected, "tar of layer {number}");
    }
    let images = model.live_images();
    for id in model.images.keys() {
        assert_eq!(store.image(id).unwrap().is_some(), images.contains(id), "image {id}");
        assert_eq!(store.layout().blob(&id.digest()).exists(), images.contains(id));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn keeps_exactly_what_is_reachable(steps in proptest::collection::vec(step(), 1..40)) {
        let temp = TempDir::new();
        run(&open(&temp), steps);
    }
}
