//! Records that an image carries of the steps that led to it, in a field of its config.
//!
//! They hold nothing but what the steps are, what they gave and when the history says that they were
//! made, so that builds whose steps give the same still give equal images. An image whose layers are
//! rewritten carries none: what its steps gave has times that are not in it.

use std::collections::BTreeMap;

use davit_build::{BuildRequest, Built, DefinitionKey, FinalStep, INLINE_RECORDS, SharedRecord};
use davit_image::{DiffId, ImageConfig, Manifest, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    super::InlineCache,
    Caches,
    format::{Contents, MOST_READ, MOST_RECORDS},
    import::tell,
};
use crate::build::{results::Results, truth};

/// Build argument that asks for records as `type=inline` does.
const ARGUMENT: &str = "BUILDKIT_INLINE_CACHE";

impl InlineCache {
    /// This, or records where a build argument asks for them.
    pub(in crate::build) fn or_asked(self, build_args: &BTreeMap<String, String>) -> Self {
        let asked = build_args.get(ARGUMENT).and_then(|value| truth(value));
        if asked == Some(true) { Self::Records } else { self }
    }
}

/// A record in an image.
#[derive(Serialize, Deserialize)]
struct InlineRecord {
    key: DefinitionKey,
    layer: InlineLayer,
    created: Timestamp,
}

/// What a step gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum InlineLayer {
    /// A layer of the image, by its number.
    Own(usize),
    /// One that the image has not: the steps that took files from there are found by it.
    Other(DiffId),
}

impl Caches<'_> {
    /// Lets images carry the records of the steps that led to them.
    pub(in crate::build) fn write_into(&self, images: &mut [Built], request: &BuildRequest) {
        let results = self.results.map(Results::all).unwrap_or_default();
        for image in images {
            // Keys tell of the layers below, which have the times of their making; the image is
            // there to be the same without these.
            let is_rewritten = request.rewrite_timestamp && image.outcome.epoch.is_some();
            let records = if is_rewritten { Vec::new() } else { records(image, &results) };
            if records.is_empty() {
                let text = "no layer of the image is the result of a step: its cache is empty";
                tell(self.events, text.to_owned());
            }
            let value = serde_json::to_value(&records).expect("records are JSON");
            image.carry(INLINE_RECORDS, value);
        }
    }
}

fn records(image: &Built, results: &[FinalStep]) -> Vec<InlineRecord> {
    let layers = image.outcome.layers.iter().map(|layer| layer.diff_id);
    let layers: BTreeMap<_, _> = layers.zip(0..).collect();
    let epoch = image.outcome.epoch;
    let epoch = epoch.and_then(|seconds| Timestamp::from_unix_seconds(seconds).ok());
    let mut records: Vec<InlineRecord> = results
        .iter()
        .filter(|step| image.made_from.contains(&step.id))
        .flat_map(|step| &step.records)
        // A step's further keys are known only where it ran.
        .filter(|record| !record.step.is_empty())
        .map(|&SharedRecord { key, layer, created, .. }| {
            let number = layers.get(&layer).copied();
            let layer = number.map_or(InlineLayer::Other(layer), InlineLayer::Own);
            // As in the history, a step that ran without an epoch has this build's.
            InlineRecord { key, layer, created: epoch.unwrap_or(created) }
        })
        .collect();
    // The image's own come first.
    records.sort_by_key(|record| (record.layer, record.key));
    records.truncate(MOST_RECORDS);
    let has_own = |records: &[InlineRecord]| {
        records.first().is_some_and(|record| matches!(record.layer, InlineLayer::Own(_)))
    };
    if has_own(&records) { records } else { Vec::new() }
}

/// Reads the records of an image, if it carries any; else says what is wrong.
pub(super) fn read(manifest: &Manifest, config: &[u8]) -> Result<Option<Contents>, String> {
    let config: ImageConfig = serde_json::from_slice(config).map_err(|error| error.to_string())?;
    let Some(records) = config.extra.get(INLINE_RECORDS) else { return Ok(None) };
    let records = Vec::<InlineRecord>::deserialize(records).map_err(|error| error.to_string())?;
    if records.len() > MOST_READ {
        return Err(format!("it has more than {MOST_READ} records"));
    }
    let diff_ids = &config.rootfs.diff_ids;
    if diff_ids.len() != manifest.layers.len() {
        return Err("its config and its manifest have different layers".to_owned());
    }
    let blobs = diff_ids.iter().copied().zip(manifest.layers.iter().cloned());
    let layers = blobs.filter(|(_, blob)| blob.media_type.layer_compression().is_some()).collect();
    let mut contents = Contents { layers, ..Contents::default() };
    for InlineRecord { key, layer, created } in records {
        let layer = match layer {
            InlineLayer::Own(number) => {
                let layer = diff_ids.get(number).copied();
                layer.filter(|layer| contents.layers.contains_key(layer))
            }
            InlineLayer::Other(layer) => Some(layer),
        };
        let Some(layer) = layer else { continue };
        contents.add(SharedRecord {
            key,
            layer,
            size: 0,
            created,
            made: created,
            step: String::new(),
            components: Vec::new(),
        });
    }
    Ok(Some(contents))
}
