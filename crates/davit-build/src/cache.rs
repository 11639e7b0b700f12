//! Results that are found again: the build's rows among the store's build records.
//!
//! | key | what it leads to |
//! |---|---|
//! | `step/DEFINITION` | the layer that this very step made, and when |
//! | `content/CONTENT` | a layer that holds exactly this, whatever made it |
//! | `shape/SHAPE` | layers that hold this but for the content of files, newest first |
//! | `family/STEP` | how the step at this place of this Dockerfile was defined lately |
//! | `image/PLAN` | the image that a whole plan gave |

use std::time::Duration;

use davit_image::{DiffId, Digest, ImageId, Timestamp};
use davit_store::{Lease, NewBuildRecord, Store, StoreError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::key::{Component, ContentKey, DefinitionKey};

/// Layers that a shape remembers.
const SHAPE_LAYERS: usize = 4;
/// Definitions that a family remembers.
const FAMILY_RECORDS: usize = 4;

/// Field of a record that says to people which step it was last of.
pub const STEP_NAME: &str = "name";
/// Characters of a name that are kept.
const MOST_NAME_CHARS: usize = 120;

/// What a step made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepRecord {
    pub(crate) layer: DiffId,
    pub(crate) size_bytes: u64,
    /// When its history entry says that it was made: `SOURCE_DATE_EPOCH`, if that is given.
    pub(crate) created: Timestamp,
    /// When the step ran, or what it reads was last seen to give the same; absent in old records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) made: Option<Timestamp>,
}

impl StepRecord {
    /// How long ago it was made.
    pub(crate) fn age(&self) -> Duration {
        let made = self.made.unwrap_or(self.created).unix_seconds();
        let seconds = Timestamp::now().unix_seconds().saturating_sub(made);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

/// How a step was defined, and the layer that it made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FamilyRecord {
    pub(crate) components: Vec<Component>,
    pub(crate) layer: DiffId,
}

/// How a step was defined each of the last times that it ran, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Family {
    recent: Vec<FamilyRecord>,
}

impl Family {
    /// The record that differs least from the components of now, of equal ones the newest: a later
    /// build may have used the result of any.
    pub(crate) fn nearest(&self, now: &[Component]) -> Option<&FamilyRecord> {
        let differences = |record: &&FamilyRecord| {
            now.iter().filter(|component| !record.components.contains(component)).count()
        };
        self.recent.iter().min_by_key(differences)
    }

    /// The last one.
    pub(crate) fn last(&self) -> Option<&FamilyRecord> {
        self.recent.first()
    }
}

/// What a whole plan gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) manifest: Digest,
    pub(crate) image: ImageId,
    pub(crate) layers: Vec<(DiffId, u64)>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ShapeRecord {
    layers: Vec<StepRecord>,
}

/// The records of one store, used under one lease.
#[derive(Clone, Copy)]
pub(crate) struct Cache<'s> {
    pub(crate) store: &'s Store,
    pub(crate) lease: &'s Lease<'s>,
}

impl Cache<'_> {
    fn take<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let record = self.store.use_build_record(self.lease, key)?;
        // A record of another version of davit is as good as none.
        Ok(record.and_then(|record| serde_json::from_value(record.spec).ok()))
    }

    pub(crate) fn step(&self, key: DefinitionKey) -> Result<Option<StepRecord>, StoreError> {
        self.take(&format!("step/{}", key.0))
    }

    pub(crate) fn content(&self, key: ContentKey) -> Result<Option<StepRecord>, StoreError> {
        self.take(&format!("content/{}", key.0))
    }

    pub(crate) fn image(&self, key: Digest) -> Result<Option<ImageRecord>, StoreError> {
        self.take(&format!("image/{key}"))
    }

    /// Layers of this shape that are still there.
    pub(crate) fn shape(&self, shape: Digest) -> Result<Vec<StepRecord>, StoreError> {
        let key = format!("shape/{shape}");
        let Some(record) = self.store.build_record(&key)? else { return Ok(Vec::new()) };
        let shape: ShapeRecord = serde_json::from_value(record.spec).unwrap_or_default();
        let mut present = Vec::new();
        for step in shape.layers {
            if self.lease.hold_layer(&step.layer)?.is_some() {
                present.push(step);
            }
        }
        Ok(present)
    }

    pub(crate) fn family(&self, family: Digest) -> Result<Family, StoreError> {
        let record = self.store.build_record(&format!("family/{family}"))?;
        let read = record.and_then(|record| serde_json::from_value(record.spec).ok());
        Ok(read.unwrap_or_default())
    }

    /// The family with one more record.
    fn grown(&self, made: &Made<'_>) -> Result<Family, StoreError> {
        let components = made.components.to_vec();
        let mut recent = vec![FamilyRecord { components, layer: made.step.layer }];
        let before = self.family(made.family)?.recent.into_iter();
        recent.extend(before.filter(|record| record.components != made.components));
        recent.truncate(FAMILY_RECORDS);
        Ok(Family { recent })
    }

    /// Remembers what a step made, in one transaction.
    pub(crate) fn remember(&self, made: &Made<'_>) -> Result<(), StoreError> {
        let step = made.step;
        let items = vec![step.layer.digest()];
        let record = |key: String, kind: &str, spec: serde_json::Value, items: Vec<Digest>| {
            NewBuildRecord { key, kind: kind.to_owned(), spec, items, cost_us: made.cost_us }
        };
        let mut records = vec![
            record(format!("step/{}", made.definition.0), made.kind, made.spec(), items.clone()),
            record(
                format!("family/{}", made.family),
                "family",
                json(&self.grown(made)?),
                Vec::new(),
            ),
        ];
        if let Some(content) = made.content {
            let key = format!("content/{}", content.0);
            records.push(record(key, "content", made.spec(), items));
        }
        if let Some(shape) = made.shape {
            let mut layers = vec![step.clone()];
            layers.extend(self.shape(shape)?.into_iter().filter(|it| it.layer != step.layer));
            layers.truncate(SHAPE_LAYERS);
            let spec = json(&ShapeRecord { layers });
            records.push(record(format!("shape/{shape}"), "shape", spec, Vec::new()));
        }
        self.store.put_build_records(&records)
    }

    /// Remembers a layer by its content alone.
    pub(crate) fn remember_content(
        &self,
        content: ContentKey,
        step: &StepRecord,
        cost_us: u64,
    ) -> Result<(), StoreError> {
        self.remember_layer(("content", content.0), "content", step, cost_us)
    }

    /// Remembers the result of a step, which is of that kind, under one more key.
    pub(crate) fn remember_step(
        &self,
        (key, kind): (DefinitionKey, &str),
        step: &StepRecord,
        cost_us: u64,
    ) -> Result<(), StoreError> {
        self.remember_layer(("step", key.0), kind, step, cost_us)
    }

    fn remember_layer(
        &self,
        (space, key): (&str, Digest),
        kind: &str,
        step: &StepRecord,
        cost_us: u64,
    ) -> Result<(), StoreError> {
        self.store.put_build_records(&[NewBuildRecord {
            key: format!("{space}/{key}"),
            kind: kind.to_owned(),
            spec: json(step),
            items: vec![step.layer.digest()],
            cost_us,
        }])
    }

    /// Remembers what a plan gave; `items` are its documents.
    pub(crate) fn remember_image(
        &self,
        key: Digest,
        image: &ImageRecord,
        cost_us: u64,
    ) -> Result<(), StoreError> {
        let layers = image.layers.iter().map(|(layer, _)| layer.digest());
        let items = [image.manifest, image.image.digest()].into_iter().chain(layers).collect();
        self.store.put_build_records(&[NewBuildRecord {
            key: format!("image/{key}"),
            kind: "image".to_owned(),
            spec: json(image),
            items,
            cost_us,
        }])
    }
}

/// A step that is to be remembered.
pub(crate) struct Made<'a> {
    pub(crate) definition: DefinitionKey,
    pub(crate) kind: &'a str,
    /// What it is shown as, as `[build 2/5] COPY . .`.
    pub(crate) name: &'a str,
    pub(crate) components: &'a [Component],
    pub(crate) family: Digest,
    pub(crate) content: Option<ContentKey>,
    pub(crate) shape: Option<Digest>,
    pub(crate) step: &'a StepRecord,
    pub(crate) cost_us: u64,
}

impl Made<'_> {
    /// The step's record, with its name for people.
    fn spec(&self) -> serde_json::Value {
        let mut spec = json(self.step);
        let line = self.name.lines().next().unwrap_or_default();
        spec[STEP_NAME] = line.chars().take(MOST_NAME_CHARS).collect::<String>().into();
        spec
    }
}

fn json<T: Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).expect("records hold nothing that JSON cannot")
}
