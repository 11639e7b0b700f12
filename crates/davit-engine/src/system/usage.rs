//! `system df`: what takes how much, and how much of it would come back.

use std::path::Path;

use davit_build::STEP_NAME;
use davit_image::{ImageId, Reference, Timestamp};
use davit_store::{ContainerFilter, ImageSizes, StoreError};
use serde::{Serialize, Serializer};

use super::build_cache::{CACHE_MOUNT, mount_kind};
use crate::build::{GIT_CHECKOUT, remote_of};
use crate::{
    Engine,
    container::{inspect::from_nanoseconds, written_bytes},
};

/// Disk use by kind.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DiskUsage {
    /// Images, newest first.
    pub images: Vec<ImageUsage>,
    /// Bytes of all that images keep, each counted once: layers, blobs and trees.
    pub layers_size: u64,
    /// Bytes of these that a prune of all unused images would free.
    pub layers_reclaimable: u64,
    /// Bytes of downloads and other work that was interrupted.
    pub unfinished_size: u64,
    /// Containers, newest first.
    pub containers: Vec<ContainerUsage>,
    /// Volumes by name.
    pub volumes: Vec<VolumeUsage>,
    /// Build records, least recently used first, and cache mounts.
    pub build_cache: Vec<BuildCacheUsage>,
    /// Bytes that only the build cache keeps.
    pub build_cache_size: u64,
}

/// One image.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ImageUsage {
    /// Its id.
    pub id: ImageId,
    /// Its names.
    #[serde(rename = "RepoTags", serialize_with = "familiar")]
    pub references: Vec<Reference>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Bytes of all its layers.
    pub size: u64,
    /// Bytes of those that other images have too.
    pub shared_size: u64,
    /// Number of its containers.
    pub containers: usize,
}

/// One container.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerUsage {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// First word of its status.
    pub status: String,
    /// Bytes that it wrote.
    pub size: u64,
}

/// One volume.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct VolumeUsage {
    /// Its name.
    pub name: String,
    /// Number of containers that use it.
    pub links: usize,
    /// Bytes in it.
    pub size: u64,
}

/// What build records and cache mounts take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildCacheTotal {
    /// Bytes of all that they name, each layer once, also where an image has it, too.
    pub total: u64,
    /// Bytes that are free again without them.
    pub reclaimable: u64,
}

/// One build record.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct BuildCacheUsage {
    /// Its cache key.
    pub key: String,
    /// What it is a key of.
    pub kind: String,
    /// What people call it: the name of a cache mount, the step that gave it.
    pub description: String,
    /// Bytes that it names.
    pub size: u64,
    /// How often it was used.
    pub uses: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used.
    pub last_used: Timestamp,
}

fn familiar<S: Serializer>(names: &[Reference], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(names.iter().map(Reference::familiar))
}

impl Engine {
    /// Measures the store; volumes and containers are walked.
    ///
    /// # Errors
    /// What the store says.
    pub fn disk_usage(&self) -> Result<DiskUsage, StoreError> {
        let store = self.store();
        let mut usage = self.image_usage()?;
        usage.unfinished_size = store.unfinished_size()?;
        for row in store.containers(&ContainerFilter::default())? {
            let folder = store.layout().container(&row.id);
            let size = written_bytes(&folder, tree_size);
            let (id, name, status) = (row.id, row.name, row.status);
            usage.containers.push(ContainerUsage { id, name, status, size });
        }
        for row in store.volumes()? {
            let name = row.volume.name;
            let size = tree_size(&store.layout().volume_data(&name));
            usage.volumes.push(VolumeUsage { name, links: row.containers.len(), size });
        }
        usage.build_cache = self.build_cache_usage()?;
        usage.build_cache_size = self.build_cache_total(&usage.build_cache)?.reclaimable;
        Ok(usage)
    }

    /// Bytes on disk that build records and cache mounts keep.
    ///
    /// # Errors
    /// What the store says.
    pub fn build_cache_total(
        &self,
        records: &[BuildCacheUsage],
    ) -> Result<BuildCacheTotal, StoreError> {
        let store = self.store();
        let mounts = records
            .iter()
            .filter(|record| matches!(record.kind.as_str(), CACHE_MOUNT | GIT_CHECKOUT));
        let mounts: u64 = mounts.map(|mount| mount.size).sum();
        let more = mounts + store.build_files_size()? + store.build_history_size()?;
        let (named, freed) = (store.build_items_size()?, store.build_cache_size()?);
        Ok(BuildCacheTotal { total: named.max(freed) + more, reclaimable: freed + more })
    }

    /// Build records, least recently used first, and cache mounts, which are walked.
    ///
    /// # Errors
    /// What the store says.
    pub fn build_cache_usage(&self) -> Result<Vec<BuildCacheUsage>, StoreError> {
        let records = self.store().build_records()?.into_iter().map(|record| BuildCacheUsage {
            key: record.key,
            kind: record.kind,
            description: record.spec[STEP_NAME].as_str().unwrap_or_default().to_owned(),
            size: record.size,
            uses: record.uses,
            created: from_nanoseconds(record.created),
            last_used: from_nanoseconds(record.last_used),
        });
        let mounts = self.store().cache_mounts()?.into_iter().map(|mount| BuildCacheUsage {
            key: mount.key,
            kind: mount_kind(&mount.name).to_owned(),
            description: remote_of(&mount.name).unwrap_or(mount.name),
            size: mount.size,
            uses: 0,
            created: from_nanoseconds(mount.created),
            last_used: from_nanoseconds(mount.last_used),
        });
        let history = self.build_history_usage()?;
        Ok(records.chain(mounts).chain(history).collect())
    }

    fn image_usage(&self) -> Result<DiskUsage, StoreError> {
        let images = self.store().images()?;
        let mut users = std::collections::BTreeMap::new();
        for layer in images.iter().flat_map(|image| &image.layers) {
            *users.entry(*layer).or_insert(0_u32) += 1;
        }
        let mut sizes = std::collections::BTreeMap::new();
        for layer in users.keys() {
            let row = self.store().layer(layer)?;
            sizes.insert(*layer, row.map_or(0, |row| row.tar_size + row.table_size));
        }
        let usage = images.into_iter().map(|image| {
            let shared = image.layers.iter().filter(|layer| users[*layer] > 1);
            ImageUsage {
                id: image.id,
                shared_size: shared.map(|layer| sizes[layer]).sum(),
                size: image.layers.iter().map(|layer| sizes[layer]).sum(),
                references: image.targets.into_iter().flat_map(|(_, names)| names).collect(),
                created: image.created,
                containers: image.containers.len(),
            }
        });
        let images = usage.collect();
        let ImageSizes { total, reclaimable } = self.store().image_sizes()?;
        Ok(DiskUsage {
            images,
            layers_size: total,
            layers_reclaimable: reclaimable,
            ..DiskUsage::default()
        })
    }
}

/// Bytes on disk below a directory; what cannot be read counts nothing, for it is only shown.
pub(super) fn tree_size(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs_err::read_dir(path) else { return 0 };
    let mut total = 0;
    for entry in entries.flatten() {
        let Ok(facts) = entry.metadata() else { continue };
        total += facts.blocks() * 512;
        if facts.is_dir() {
            total += tree_size(&entry.path());
        }
    }
    total
}

impl DiskUsage {
    /// Bytes of images that no container uses, and of interrupted downloads.
    #[must_use]
    pub const fn reclaimable_images(&self) -> u64 {
        self.layers_reclaimable + self.unfinished_size
    }
}
