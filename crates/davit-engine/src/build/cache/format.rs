//! The document of a build cache: an OCI manifest whose config holds the records.

use std::collections::{BTreeMap, BTreeSet};

use davit_build::{DefinitionKey, SharedMount, SharedRecord};
use davit_image::{Descriptor, DiffId, Manifest, MediaType, Raw};
use serde::{Deserialize, Serialize};

/// Type of the artifact.
pub(super) const ARTIFACT: &str = "application/vnd.davit.build-cache.v1";
/// Type of its config.
pub(super) const CONFIG: &str = "application/vnd.davit.build-cache.config.v1+json";
/// Type of the config of BuildKit's caches.
pub(super) const BUILDKIT: &str = "application/vnd.buildkit.cacheconfig.v0";
const VERSION: u32 = 1;
/// Records of one cache; the oldest give way.
pub(super) const MOST_RECORDS: usize = 1000;
/// Records that are read at most.
pub(super) const MOST_READ: usize = 10_000;
/// Cache mounts of one cache; the oldest give way.
const MOST_MOUNTS: usize = 100;
/// Bytes of the components of a record; where they are more, they are left out.
const MOST_COMPONENT_BYTES: usize = 4 << 10;

/// Bytes of a step's place; a longer one is left out.
const MOST_STEP_BYTES: usize = 256;

/// The config's JSON.
#[derive(Serialize, Deserialize)]
struct Config {
    version: u32,
    /// What the manifest's layers hold, in their order.
    layers: Vec<DiffId>,
    records: Vec<SharedRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    mounts: Vec<SharedMount>,
}

/// A cache: the results of steps, and the blobs of their layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) layers: BTreeMap<DiffId, Descriptor>,
    pub(super) records: BTreeMap<DefinitionKey, SharedRecord>,
    /// Cache mounts by name.
    pub(super) mounts: BTreeMap<String, SharedMount>,
}

/// A cache as it is written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) manifest: Raw<Manifest>,
    pub(super) config: Vec<u8>,
}

impl Contents {
    /// Reads a config together with its manifest; else says what is wrong.
    pub(super) fn read(manifest: &Manifest, config: &[u8]) -> Result<Self, String> {
        let read: Config = serde_json::from_slice(config).map_err(|error| error.to_string())?;
        if read.version != VERSION {
            return Err(format!("its version is {}, not {VERSION}", read.version));
        }
        if read.records.len() > MOST_READ {
            return Err(format!("it has more than {MOST_READ} records"));
        }
        if read.layers.len() != manifest.layers.len() {
            return Err("its config and its manifest have different layers".to_owned());
        }
        // Notes on a blob, and other places of it, are nobody's here.
        let plain = |it: &Descriptor| Descriptor::new(it.media_type.clone(), it.digest, it.size);
        let layers = read.layers.into_iter().zip(manifest.layers.iter().map(plain));
        let is_layer = |layer: &Descriptor| layer.media_type.layer_compression().is_some();
        let layers: BTreeMap<_, _> = layers.filter(|(_, layer)| is_layer(layer)).collect();
        let records = read.records.into_iter().map(|record| (record.key, record)).collect();
        let mounts = read.mounts.into_iter().take(MOST_MOUNTS).filter(|mount| {
            layers.contains_key(&mount.layer) && mount.name.len() <= MOST_COMPONENT_BYTES
        });
        let mounts = mounts.map(|mount| (mount.name.clone(), mount)).collect();
        Ok(Self { layers, records, mounts })
    }

    /// Adds what another one has; of two records with one key the younger stays.
    pub(super) fn join(&mut self, other: Self) {
        self.layers.extend(other.layers);
        other.records.into_values().for_each(|record| self.add(record));
        other.mounts.into_values().for_each(|mount| self.add_mount(mount));
    }

    /// Adds a record; of two with one key that stays whose layer is here, else the younger.
    pub(super) fn add(&mut self, mut record: SharedRecord) {
        // As they are written, where a character may take six bytes.
        let written = serde_json::to_vec(&record.components).map_or(0, |it| it.len());
        if written > MOST_COMPONENT_BYTES {
            record.components.clear();
        }
        if record.step.len() > MOST_STEP_BYTES {
            record.step.clear();
        }
        let rank = |it: &SharedRecord| (self.layers.contains_key(&it.layer), it.made);
        match self.records.get(&record.key) {
            Some(known) if rank(known) >= rank(&record) => {}
            _ => drop(self.records.insert(record.key, record)),
        }
    }

    /// Adds a cache mount; of two with one name the younger stays.
    pub(super) fn add_mount(&mut self, mount: SharedMount) {
        match self.mounts.get(&mount.name) {
            // What did not change stays as it is.
            Some(known) if known.made >= mount.made || known.layer == mount.layer => {}
            _ => drop(self.mounts.insert(mount.name.clone(), mount)),
        }
    }

    /// Drops the oldest records beyond the bound, those without a layer before others, and layers that
    /// none names.
    pub(super) fn trim(&mut self) {
        let layers = &self.layers;
        let rank = |it: &SharedRecord| (layers.contains_key(&it.layer), it.made, it.key);
        let mut by_age: Vec<_> = self.records.values().map(rank).collect();
        by_age.sort_unstable();
        let surplus = by_age.len().saturating_sub(MOST_RECORDS);
        for (_, _, key) in &by_age[..surplus] {
            self.records.remove(key);
        }
        self.mounts.retain(|_, mount| layers.contains_key(&mount.layer));
        while self.mounts.len() > MOST_MOUNTS {
            let oldest = self.mounts.values().min_by_key(|mount| mount.made);
            let oldest = oldest.map(|mount| mount.name.clone()).unwrap_or_default();
            self.mounts.remove(&oldest);
        }
        let of_mounts = self.mounts.values().map(|mount| mount.layer);
        let named = self.records.values().map(|record| record.layer).chain(of_mounts);
        let named: BTreeSet<DiffId> = named.collect();
        self.layers.retain(|layer, _| named.contains(layer));
    }

    /// The documents; the same for the same contents.
    pub(super) fn write(&self) -> Written {
        let config = Config {
            version: VERSION,
            layers: self.layers.keys().copied().collect(),
            records: self.records.values().cloned().collect(),
            mounts: self.mounts.values().cloned().collect(),
        };
        let config = serde_json::to_vec(&config).expect("records are JSON");
        let descriptor = Descriptor::of(MediaType::new(CONFIG), &config);
        let mut manifest = Manifest::new(descriptor, self.layers.values().cloned().collect());
        manifest.artifact_type = Some(MediaType::new(ARTIFACT));
        Written { manifest: Raw::write(manifest), config }
    }
}

#[cfg(test)]
mod tests {
    use davit_build::Component;
    use davit_image::{Digest, Timestamp};

    use super::*;

    fn record(key: &[u8], layer: &[u8], made: i64) -> SharedRecord {
        let time = Timestamp::from_unix_seconds(made).unwrap();
        SharedRecord {
            key: DefinitionKey(Digest::of(key)),
            layer: DiffId::new(Digest::of(layer)),
            size: 1,
            created: time,
            made: time,
            step: "[1/1]".to_owned(),
            components: vec![Component { label: "kind".to_owned(), value: "run/1".to_owned() }],
        }
    }

    fn with(records: &[(&[u8], &[u8], i64)]) -> Contents {
        let mut contents = Contents::default();
        for (key, layer, made) in records {
            let blob = Descriptor::of(MediaType::OCI_LAYER_GZIP, layer);
            contents.layers.insert(DiffId::new(Digest::of(layer)), blob);
            contents.add(record(key, layer, *made));
        }
        contents
    }

    #[test]
    fn what_is_for_people_is_bounded_as_it_is_written() {
        let mut contents = with(&[(b"a", b"1", 1)]);
        let mut large = record(b"b", b"1", 2);
        // Six bytes of JSON each.
        large.components[0].label = "\u{1}".repeat(MOST_COMPONENT_BYTES / 3);
        large.step = "s".repeat(MOST_STEP_BYTES + 1);
        contents.add(large.clone());
        let kept = &contents.records[&large.key];
        assert!(kept.components.is_empty() && kept.step.is_empty(), "{kept:?}");
        let small = &contents.records[&record(b"a", b"1", 1).key];
        assert!(!small.components.is_empty() && !small.step.is_empty(), "{small:?}");
    }

    #[test]
    fn a_blob_is_nothing_but_its_descriptor() {
        let contents = with(&[(b"a", b"1", 1)]);
        let written = contents.write();
        let mut manifest = written.manifest.value().clone();
        manifest.layers[0].annotations.insert("a".to_owned(), "b".repeat(1 << 10));
        assert_eq!(Contents::read(&manifest, &written.config), Ok(contents));
    }

    #[test]
    fn reads_what_it_writes() {
        let contents = with(&[(b"a", b"1", 1), (b"b", b"2", 2)]);
        let written = contents.write();
        let read = Contents::read(written.manifest.value(), &written.config).unwrap();
        assert_eq!(read, contents);
        assert_eq!(read.write().manifest.digest(), written.manifest.digest());
    }

    #[test]
    fn the_younger_record_stays_and_what_none_names_goes() {
        let mut contents = with(&[(b"a", b"1", 2), (b"a", b"2", 1), (b"b", b"3", 1)]);
        assert_eq!(contents.records[&DefinitionKey(Digest::of(b"a"))], record(b"a", b"1", 2));
        contents.layers.remove(&DiffId::new(Digest::of(b"3")));
        contents.trim();
        assert_eq!((contents.records.len(), contents.layers.len()), (2, 1));
        // One that leads to a layer is worth more than a younger one that does not.
        contents.add(record(b"a", b"9", 7));
        assert_eq!(contents.records[&DefinitionKey(Digest::of(b"a"))], record(b"a", b"1", 2));
        for (number, _) in (0_i64..).zip(0..MOST_RECORDS) {
            contents.add(record(&number.to_le_bytes(), b"1", 3 + number));
        }
        contents.trim();
        assert_eq!(contents.records.len(), MOST_RECORDS);
        assert!(!contents.records.contains_key(&DefinitionKey(Digest::of(b"a"))), "the oldest");
        let mut long = record(b"long", b"1", 5000);
        long.components[0].value = "x".repeat(MOST_COMPONENT_BYTES);
        contents.add(long);
        assert!(contents.records[&DefinitionKey(Digest::of(b"long"))].components.is_empty());
    }

    #[test]
    fn refuses_what_could_be_misread() {
        let contents = with(&[(b"a", b"1", 1)]);
        let written = contents.write();
        let text = String::from_utf8(written.config.clone()).unwrap();
        let read = |text: &str| Contents::read(written.manifest.value(), text.as_bytes());
        assert!(read(&text.replace("\"version\":1", "\"version\":2")).is_err());
        let layer = format!("\"layers\":[\"{}\"]", Digest::of(b"1"));
        assert!(text.contains(&layer));
        assert!(read(&text.replace(&layer, "\"layers\":[]")).is_err());
        assert!(read("{}").is_err());
        let other = format!("\"layers\":[\"{}\"]", Digest::of(b"2"));
        let unnamed = read(&text.replace(&layer, &other)).unwrap();
        assert_eq!(unnamed.records, contents.records, "a record leads on without its layer");
        assert!(!unnamed.layers.contains_key(&DiffId::new(Digest::of(b"1"))));
    }
}
