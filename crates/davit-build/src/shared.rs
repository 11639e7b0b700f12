//! Results of steps that other machines have, and that they get.
//!
//! A record says what a step gave; its layer is brought only when something here reads it, or the
//! image consists of it. Nobody is believed about content: a layer is what its DiffID says.

use davit_image::{DiffId, Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    StepId,
    cache::StepRecord,
    key::{Component, DefinitionKey},
};

/// Field of an image's config that holds records of its own steps.
pub const INLINE_RECORDS: &str = "davit.build-cache.v1";

/// What a step gave, in the words that all machines share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedRecord {
    /// How the step was asked for.
    pub key: DefinitionKey,
    /// Its layer.
    pub layer: DiffId,
    /// Size of the layer's tar in bytes.
    pub size: u64,
    /// When its history entry says that it was made.
    pub created: Timestamp,
    /// When it ran.
    pub made: Timestamp,
    /// Where it stands, as `[build 2/5]`; empty for a further key of a step.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
    /// What its key is made of, each value as the beginning of its digest, for it may be a secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<Component>,
}

/// A base or a step whose result is final: what it is made of may go wherever it is wanted.
#[derive(Clone, Debug)]
pub struct FinalStep {
    /// Which one it is.
    pub id: StepId,
    /// Whether an image of the build consists of it.
    pub in_result: bool,
    /// The layers of its state, bottom first; some may still be elsewhere alone.
    pub layers: Vec<DiffId>,
    /// Its result under each of its keys, where caches want that ([`SharedCache::wants_results`]).
    pub records: Vec<SharedRecord>,
}

/// What commands left in a cache mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedMount {
    /// Its name.
    pub name: String,
    /// Its files, as a layer.
    pub layer: DiffId,
    /// Size of the layer's tar in bytes.
    pub size: u64,
    /// When it was read.
    pub made: Timestamp,
    /// User and group that its directory belonged to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<(u32, u32)>,
}

/// Caches that a build shares with others.
///
/// One call may come from several threads at a time.
pub trait SharedCache: Sync {
    /// Whether there is anything to find.
    fn is_empty(&self) -> bool;

    /// The result of a step; its layer can be had as far as is known, or nobody has asked for it.
    fn find(&self, key: DefinitionKey) -> Option<SharedRecord>;

    /// Brings a layer into the store, kept by the build's lease; false if it cannot be had, which
    /// the user is told, and nothing with it is found from then on.
    fn bring(&self, layer: &DiffId) -> bool;

    /// Results of the step at this place, whatever they were asked for by.
    fn near(&self, step: &str) -> Vec<SharedRecord>;

    /// Whether the records of all steps are wanted, also where the whole image is known.
    fn wants_results(&self) -> bool;

    /// What others left in the cache mount of this name.
    fn mount(&self, name: &str) -> Option<SharedMount>;

    /// Whether [`Self::offer_mount`] is of use.
    fn wants_mounts(&self) -> bool;

    /// Takes a cache mount that the build used.
    fn offer_mount(&self, mount: SharedMount);
}

impl SharedRecord {
    pub(crate) fn new(
        key: DefinitionKey,
        record: &StepRecord,
        (name, components): (&str, &[Component]),
    ) -> Self {
        Self {
            key,
            layer: record.layer,
            size: record.size_bytes,
            created: record.created,
            made: record.made.unwrap_or(record.created),
            step: place_of(name).to_owned(),
            components: components.iter().map(hidden).collect(),
        }
    }

    pub(crate) fn step_record(&self) -> StepRecord {
        StepRecord {
            layer: self.layer,
            size_bytes: self.size,
            created: self.created,
            made: Some(self.made),
        }
    }
}

/// The place of a step in its name.
pub(crate) fn place_of(name: &str) -> &str {
    name.find(']').map_or("", |end| &name[..=end])
}

/// A component that tells nothing but whether it is the same.
pub(crate) fn hidden(component: &Component) -> Component {
    let value = Digest::of(component.value.as_bytes()).short_hex();
    Component { label: component.label.clone(), value }
}
