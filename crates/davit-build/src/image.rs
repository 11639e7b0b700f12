//! The config and manifest of a result.

use davit_image::{
    Descriptor, DiffId, HistoryEntry, ImageConfig, ImageId, Manifest, MediaType, Timestamp,
};
use davit_store::StoredDocument;

use crate::{
    cache::StepRecord,
    plan::{NodeId, Target},
    shared::INLINE_RECORDS,
};

/// Comment of history entries that stand for layers without history, as BuildKit writes it.
const EXPORTER_COMMENT: &str = "buildkit.exporter.image.v0";

/// A finished image: its documents.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) id: ImageId,
    pub(crate) config: ImageConfig,
    pub(crate) config_document: StoredDocument,
    pub(crate) manifest: StoredDocument,
}

/// The layer that stands for all but the first layers of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merge {
    /// Layers below it.
    pub(crate) kept: usize,
    /// Itself, with its size.
    pub(crate) layer: (DiffId, u64),
}

/// Assembles an image of `layers`, bottom first with their sizes, of which the last ones may be
/// merged; `step` tells what a node made.
pub(crate) fn assemble(
    target: &Target,
    (layers, merge): (&[(DiffId, u64)], Option<Merge>),
    epoch: Option<Timestamp>,
    step: impl Fn(NodeId) -> Option<StepRecord>,
) -> Image {
    let mut config = target.config.clone();
    // Those of the base are told by the base.
    config.extra.shift_remove(INLINE_RECORDS);
    "layers".clone_into(&mut config.rootfs.kind);
    config.rootfs.diff_ids = layers.iter().map(|(layer, _)| *layer).collect();
    config.history =
        history(target, layers.len(), |node| epoch.or_else(|| step(node).map(|step| step.created)));
    config.created = epoch.or_else(|| config.history.iter().rev().find_map(|entry| entry.created));
    let mut layers = layers.to_vec();
    if let Some(Merge { kept, layer }) = merge {
        merge_history(&mut config, kept);
        config.rootfs.diff_ids.truncate(kept);
        config.rootfs.diff_ids.push(layer.0);
        layers.truncate(kept);
        layers.push(layer);
    }
    let bytes = serde_json::to_vec(&config).expect("a config is JSON");
    let config_document = StoredDocument::new(MediaType::OCI_CONFIG, bytes);
    let layer = |(layer, size): &(DiffId, u64)| {
        Descriptor::new(MediaType::OCI_LAYER, layer.digest(), *size)
    };
    let manifest = Manifest::new(
        Descriptor::of(MediaType::OCI_CONFIG, &config_document.bytes),
        layers.iter().map(layer).collect(),
    );
    let bytes = serde_json::to_vec(&manifest).expect("a manifest is JSON");
    let manifest = StoredDocument::new(MediaType::OCI_MANIFEST, bytes);
    Image { id: ImageId::new(config_document.digest), config, config_document, manifest }
}

/// Says of all steps above the first `kept` layers that they made none, and adds an entry for the one
/// that stands for theirs, as Docker's `--squash` did it.
fn merge_history(config: &mut ImageConfig, kept: usize) {
    let mut with_layer = 0;
    for entry in &mut config.history {
        let is_above = with_layer >= kept;
        with_layer += usize::from(!entry.empty_layer);
        entry.empty_layer |= is_above;
    }
    let comment = Some(format!("merge of {} layers", with_layer - kept));
    let created = config.created;
    config.history.push(HistoryEntry { created, comment, ..HistoryEntry::default() });
}

/// The history with as many entries with a layer as there are layers, and all times filled in.
///
/// A base whose history does not fit its layers is mended as `BuildKit` does it, so that the same
/// base gives the same image: entries too many become empty from the newest on, missing ones are
/// added behind the last.
fn history(
    target: &Target,
    layers: usize,
    created: impl Fn(NodeId) -> Option<Timestamp>,
) -> Vec<HistoryEntry> {
    let mut with_layer = 0;
    let mut history: Vec<HistoryEntry> = Vec::with_capacity(target.history.len());
    for (entry, node) in &target.history {
        let mut entry = entry.clone();
        entry.created = entry.created.or_else(|| node.and_then(&created));
        entry.empty_layer |= with_layer == layers;
        with_layer += usize::from(!entry.empty_layer);
        history.push(entry);
    }
    history.extend(std::iter::repeat_with(missing).take(layers - with_layer));
    fill_times(&mut history);
    history
}

fn missing() -> HistoryEntry {
    HistoryEntry { comment: Some(EXPORTER_COMMENT.to_owned()), ..HistoryEntry::default() }
}

/// Entries without a time get that of the step before them; those before the first new step get
/// the step's.
fn fill_times(history: &mut [HistoryEntry]) {
    let mut created = None;
    let mut gap = false;
    for entry in &*history {
        match entry.created {
            Some(time) => {
                created = Some(time);
                if gap {
                    break;
                }
            }
            None => gap = true,
        }
    }
    gap = false;
    for entry in history {
        match entry.created {
            Some(time) if gap => created = Some(time),
            Some(_) => {}
            None => {
                gap = true;
                entry.created = created;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use davit_image::{Digest, Platform};

    use super::*;
    use davit_dockerfile::history::COMMENT as HISTORY_COMMENT;

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_unix_seconds(seconds).unwrap()
    }

    fn entry(created: Option<i64>, empty_layer: bool, comment: &str) -> HistoryEntry {
        let comment = (!comment.is_empty()).then(|| comment.to_owned());
        HistoryEntry { created: created.map(time), empty_layer, comment, ..Default::default() }
    }

    fn layers(count: u8) -> Vec<(DiffId, u64)> {
        (0..count).map(|number| (DiffId::new(Digest::of(&[number])), 1024)).collect()
    }

    fn image(history: Vec<(HistoryEntry, Option<NodeId>)>, count: u8) -> Image {
        let config = ImageConfig::new(&Platform::host());
        let scans = crate::plan::Scans::default();
        let target = Target { state: NodeId(0), config, history, scans };
        assemble(&target, (&layers(count), None), None, |node| {
            let (layer, size_bytes) = layers(1)[0];
            Some(StepRecord {
                layer,
                size_bytes,
                created: time(100 + i64::from(node.0)),
                made: None,
            })
        })
    }

    #[test]
    fn times_come_from_steps() {
        let history = vec![
            (entry(Some(1), false, ""), None),
            (entry(None, true, HISTORY_COMMENT), None),
            (entry(None, false, HISTORY_COMMENT), Some(NodeId(2))),
            (entry(None, true, HISTORY_COMMENT), None),
        ];
        let config = image(history, 2).config;
        let times: Vec<_> =
            config.history.iter().map(|entry| entry.created.unwrap().unix_seconds()).collect();
        assert_eq!(times, [1, 102, 102, 102]);
        assert_eq!(config.created, Some(time(102)));
    }

    #[test]
    fn entries_of_a_base_stay_whoever_built_it() {
        let base = |empty| (entry(Some(1), empty, HISTORY_COMMENT), None);
        let mut history = vec![(entry(Some(1), false, ""), None), base(false), base(true)];
        history.push(base(false));
        let expected: Vec<_> = history.iter().map(|(entry, _)| entry.clone()).collect();
        history.push((entry(None, true, HISTORY_COMMENT), None));
        history.push((entry(None, false, HISTORY_COMMENT), Some(NodeId(0))));
        let found = image(history, 4).config.history;
        assert_eq!(found[..4], expected);
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn layers_and_history_agree() {
        // (entries of the base, its layers, whether each entry of the result is empty)
        let cases: [(usize, u8, &[bool]); 5] = [
            (0, 2, &[false, false, false]),
            (1, 2, &[false, false, false]),
            (2, 2, &[false, false, false]),
            (3, 2, &[false, false, false, true]),
            (2, 0, &[false, true, true]),
        ];
        for (base_entries, base_layers, empty) in cases {
            let mut history: Vec<_> =
                (0..base_entries).map(|_| (entry(Some(1), false, ""), None)).collect();
            history.push((entry(None, false, HISTORY_COMMENT), Some(NodeId(0))));
            let config = image(history, base_layers + 1).config;
            let found: Vec<bool> = config.history.iter().map(|entry| entry.empty_layer).collect();
            assert_eq!(found, empty, "{base_entries} {base_layers}");
            let own = &config.history[base_entries];
            assert_eq!(own.comment.as_deref(), Some(HISTORY_COMMENT));
            let missing =
                |entry: &&HistoryEntry| entry.comment.as_deref() == Some(EXPORTER_COMMENT);
            assert!(config.history[base_entries + 1..].iter().all(|entry| missing(&entry)));
        }
    }

    #[test]
    fn merged_layers_have_one_entry() {
        let base = (entry(Some(1), false, ""), None);
        let step = |empty, node| (entry(None, empty, HISTORY_COMMENT), Some(NodeId(node)));
        let history = vec![base, step(true, 1), step(false, 2), step(false, 3)];
        let config = ImageConfig::new(&Platform::host());
        let target =
            Target { state: NodeId(0), config, history, scans: crate::plan::Scans::default() };
        let all = layers(4);
        for (kept, empty, count) in
            [(1, [false, true, true, true, false], 2), (0, [true, true, true, true, false], 1)]
        {
            let merge = Merge { kept, layer: all[3] };
            let image = assemble(&target, (&all[..3], Some(merge)), Some(time(7)), |_| None);
            let history = &image.config.history;
            assert_eq!(history.iter().map(|entry| entry.empty_layer).collect::<Vec<_>>(), empty);
            assert_eq!(image.config.rootfs.diff_ids.len(), count);
            assert_eq!(image.config.rootfs.diff_ids[kept], all[3].0);
            let last = history.last().unwrap();
            assert_eq!(last.comment, Some(format!("merge of {} layers", 3 - kept)));
            assert_eq!(last.created, Some(time(7)));
        }
    }

    #[test]
    fn an_image_without_steps_has_no_time_of_its_own() {
        let config = image(Vec::new(), 0).config;
        assert_eq!(config.created, None);
    }
}
