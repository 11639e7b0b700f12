//! Writes the parts of a stack and records them in the store.

use std::{os::fd::AsFd as _, sync::Arc};

use davit_image::{ChainId, DiffId};
use davit_layer::{ExtractOptions, Kind, Merged, Mtime, path};
use davit_store::{NewTree, Store, TreeForm, TreeIngest};
use fs_err::File;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::{
    Device, Form, Location, SnapshotError, TreeId,
    chain::Edge,
    checked,
    erofs::{self, Image, Node, NodeKind},
    mountpoints::{Init, Point, PointKind},
    upper,
};

/// Nodes after which the tables that they come from are let go of: beside the nodes of a large tree
/// only the names in them are still looked at.
const RELEASE_EVERY: u32 = 1 << 16;

/// A tree to be written: what it covers, and its content.
pub(crate) struct Make<'a> {
    pub(crate) store: &'a Store,
    pub(crate) location: &'a Location,
    pub(crate) form: Form,
}

impl Make<'_> {
    /// Writes the part `edge` of `chain`; `view` shows the chain, on the layers below `edge`.
    pub(crate) fn tree(
        &self,
        edge: &Edge,
        chain: &[DiffId],
        view: &Merged,
        spec: serde_json::Value,
    ) -> Result<(), SnapshotError> {
        let ingest = self.store.begin_tree()?;
        let (form, size_bytes) = match self.form {
            Form::Erofs => {
                let devices = devices(&view.all_layers()[edge.from..]);
                let mut image = image(view, devices, edge.id.uuid());
                if image.nodes.iter().any(is_unaligned) {
                    image.tars = self.tars(&chain[edge.from..])?;
                }
                let form = if edge.from == 0 { TreeForm::Base } else { TreeForm::Step };
                (form, write(&ingest, &image)?)
            }
            _ => (TreeForm::Extracted, self.extract(&ingest, chain, view)?),
        };
        let row = NewTree {
            id: edge.id.to_string(),
            form,
            chain_id: ChainId::of(chain),
            layers: chain[edge.from..].to_vec(),
            spec,
        };
        self.commit(ingest, edge.id, &row, size_bytes)
    }

    /// Writes an init part for a chain that ends with `top`.
    pub(crate) fn init(&self, init: &Init, top: Option<DiffId>) -> Result<(), SnapshotError> {
        let ingest = self.store.begin_tree()?;
        let (form, size_bytes) = match self.form {
            Form::Erofs => (TreeForm::Init, write(&ingest, &init.image())?),
            _ => {
                make_points(&ingest, &init.points)?;
                (TreeForm::Extracted, 0)
            }
        };
        let row = NewTree {
            id: init.id.to_string(),
            form,
            chain_id: None,
            layers: top.into_iter().collect(),
            spec: serde_json::json!({}),
        };
        self.commit(ingest, init.id, &row, size_bytes)
    }

    fn commit(
        &self,
        ingest: TreeIngest<'_>,
        id: TreeId,
        row: &NewTree,
        size_bytes: u64,
    ) -> Result<(), SnapshotError> {
        ingest.commit(row, size_bytes)?;
        if self.form == Form::Erofs {
            // Another process may have been first with its own file; equal input, equal bytes.
            if let Ok(file) = File::open(self.location.tree(id)) {
                checked::remember(self.location, id, &file);
            }
            checked::sweep(self.location);
        }
        Ok(())
    }

    fn extract(
        &self,
        ingest: &TreeIngest<'_>,
        chain: &[DiffId],
        view: &Merged,
    ) -> Result<u64, SnapshotError> {
        let target = ingest.extracted_path();
        fs_err::create_dir(&target).map_err(|e| SnapshotError::file("create", &target, e))?;
        let tars = self.tars(chain)?;
        let directory = upper::open_directory(&target)?;
        let options = ExtractOptions { workers: workers(), ..ExtractOptions::default() };
        davit_layer::extract(view, &tars, directory.as_fd(), &options)?;
        // Unlike a tree this cannot be checked whole after a power loss.
        rustix::fs::syncfs(&directory).map_err(|e| SnapshotError::file("sync", &target, e))?;
        let sizes = view.iter().filter(|node| node.inode == node.id);
        Ok(sizes.map(|node| node.entry.kind.size()).sum())
    }

    fn tars(&self, chain: &[DiffId]) -> Result<Vec<Arc<std::fs::File>>, SnapshotError> {
        let open = |layer: &DiffId| {
            let path = self.location.layer(*layer).join("tar");
            let file = File::open(&path).map_err(|e| SnapshotError::file("open", &path, e))?;
            Ok(Arc::new(file.into_parts().0))
        };
        chain.iter().map(open).collect()
    }
}

/// Whether a tree cannot name all of a file's content by blocks of the layer's tar.
fn is_unaligned(node: &Node<'_>) -> bool {
    let NodeKind::File { size, extents, .. } = node.kind else { return false };
    let is_border = |at: u64| at == size || at.is_multiple_of(512);
    extents.iter().any(|run| {
        !run.tar_offset.is_multiple_of(512)
            || !run.file_offset.is_multiple_of(512)
            || !is_border(run.file_offset + run.length)
    })
}

fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(8))
}

fn write(ingest: &TreeIngest<'_>, image: &Image<'_>) -> Result<u64, SnapshotError> {
    let path = ingest.image_path();
    let mut file = File::create(&path).map_err(|e| SnapshotError::file("create", &path, e))?;
    let written = erofs::write(image, &mut file)?;
    if written.copied_bytes > 0 {
        // The rest of a tree is read whole before it is trusted after a power loss.
        file.sync_data().map_err(|e| SnapshotError::file("sync", &path, e))?;
    }
    if written.skipped_xattrs > 0 {
        tracing::info!(count = written.skipped_xattrs, "extended attributes are left out");
    }
    Ok(written.size_bytes)
}

fn devices(tables: &[Arc<davit_layer::Table>]) -> Vec<Device> {
    let device = |table: &Arc<davit_layer::Table>| {
        let facts = table.facts();
        Device { diff_id: facts.diff_id, size_bytes: facts.tar_size }
    };
    tables.iter().map(device).collect()
}

/// The own nodes of `view` as a file system over the tars of its own layers.
pub(crate) fn image(view: &Merged, devices: Vec<Device>, uuid: [u8; 16]) -> Image<'_> {
    let first_layer = view.first_layer();
    let mut nodes = Vec::with_capacity(view.node_count());
    // The directories above the current path, with their positions.
    let mut above: Vec<(u32, &[u8])> = Vec::new();
    let tables = view.all_layers();
    for node in view.iter() {
        if node.id % RELEASE_EVERY == RELEASE_EVERY - 1 {
            tables.iter().for_each(|table| table.release_memory());
        }
        let entry = node.entry;
        while above.pop_if(|(_, directory)| !path::is_below(entry.path, directory)).is_some() {}
        let parent = above.last().map_or(0, |(position, _)| *position);
        if entry.kind.is_directory() {
            above.push((node.id, entry.path));
        }
        nodes.push(Node {
            parent,
            name: path::file_name(entry.path),
            kind: match entry.kind {
                _ if node.inode != node.id => NodeKind::Link(node.inode),
                Kind::Directory { opaque, .. } => NodeKind::Directory { opaque },
                Kind::File { size, extents } => {
                    let device = u16::try_from(node.layer - first_layer);
                    // More layers than that are refused as too many devices.
                    NodeKind::File { size, device: device.unwrap_or(u16::MAX), extents }
                }
                Kind::Symlink { target } => NodeKind::Symlink { target },
                Kind::CharDevice { major, minor } => NodeKind::CharDevice { major, minor },
                Kind::BlockDevice { major, minor } => NodeKind::BlockDevice { major, minor },
                Kind::Fifo => NodeKind::Fifo,
                Kind::Whiteout => NodeKind::Whiteout,
                Kind::HardLink { .. } => unreachable!("a merged node is never a hard link"),
            },
            mode: match entry.kind {
                // Linux gives every link all rights, whatever an archive says.
                Kind::Symlink { .. } => 0o777,
                _ => entry.mode,
            },
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: entry.xattrs,
        });
    }
    Image { uuid, devices, nodes, tars: Vec::new() }
}

/// Whether the own nodes of `view` can stand on its base as a tree of their own: overlay cannot
/// link a name to a file of a lower layer, nor hide what lies below the root.
pub(crate) fn stands_alone(view: &Merged) -> bool {
    if view.base().is_none() {
        return true;
    }
    let foreign = |node: &davit_layer::Node<'_>| match node.entry.kind {
        Kind::Directory { opaque, .. } => opaque && node.entry.path.is_empty(),
        Kind::Whiteout => false,
        _ => node.layer < view.first_layer(),
    };
    !view.iter().any(|node| foreign(&node))
}

/// Makes the content of an init part as files.
fn make_points(ingest: &TreeIngest<'_>, points: &[Point]) -> Result<(), SnapshotError> {
    let root = ingest.extracted_path();
    let result = points.iter().try_for_each(|point| make_point(&root.join(point.path), point));
    // Directories last: what is made in them changes their time.
    let times = points.iter().rev().try_for_each(|point| {
        let time = timespec(point.mtime);
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, root.join(point.path), &times, AtFlags::SYMLINK_NOFOLLOW)
    });
    result.and(times).map_err(|e| SnapshotError::file("write", root, e))
}

fn make_point(path: &std::path::Path, point: &Point) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(point.mode.into());
    match point.kind {
        PointKind::Directory => rustix::fs::mkdir(path, Mode::RWXU)?,
        PointKind::File => {
            let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::EXCL;
            drop(rustix::fs::open(path, flags | rustix::fs::OFlags::WRONLY, Mode::RUSR)?);
        }
        PointKind::Symlink(target) => return rustix::fs::symlink(target, path),
    }
    for (name, value) in
        point.xattrs.iter().filter(|(name, _)| !name.starts_with(b"trusted.overlay"))
    {
        rustix::fs::setxattr(path, &name[..], value, XattrFlags::empty())?;
    }
    let (uid, gid) = (Uid::from_raw(point.uid), Gid::from_raw(point.gid));
    rustix::fs::chown(path, Some(uid), Some(gid))?;
    rustix::fs::chmod(path, mode)
}

fn timespec(mtime: Mtime) -> Timespec {
    Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() }
}

impl From<erofs::WriteError> for SnapshotError {
    fn from(source: erofs::WriteError) -> Self {
        match source {
            erofs::WriteError::Write(source) => {
                Self::File { action: "write", path: "a tree".into(), source }
            }
            source => Self::Write(source),
        }
    }
}
