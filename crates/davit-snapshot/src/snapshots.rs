//! Preparing a chain of layers, so that it can be mounted.

use std::{path::PathBuf, sync::Arc};

use davit_image::{ChainId, DiffId};
use davit_layer::{Merged, Table};
use davit_store::{Presence, Store, TreeRow};
use fs_err::File;
use serde::{Deserialize, Serialize};

use crate::{
    Device, Form, Location, Mountpoints, Part, SnapshotError, Stack, Upper,
    chain::{Choice, Edge, choose},
    checked,
    make::{self, Make},
    mountpoints::{Init, Shown},
    probe,
};

/// How root filesystems are made; from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Forces a form; without it a probe chooses.
    pub form: Option<Form>,
    /// Directory on a volume for upper directories, where `ROOT` itself is on an overlay.
    pub upper: Option<PathBuf>,
    /// Cap of the tmpfs that holds an upper directory where there is neither; 0 means 1 GiB.
    pub upper_tmpfs_bytes: u64,
}

/// What to prepare beside the chain itself.
#[derive(Clone, Debug)]
pub struct PrepareOptions {
    /// The mountpoints on top.
    pub mountpoints: Mountpoints,
    /// What the chain shows, if the caller has it already; otherwise the tables are opened and
    /// merged where a tree must be written.
    pub view: Option<Arc<Merged>>,
}

impl PrepareOptions {
    /// With these mountpoints and no view.
    #[must_use]
    pub const fn new(mountpoints: Mountpoints) -> Self {
        Self { mountpoints, view: None }
    }
}

/// The root filesystems of one store.
#[derive(Debug)]
pub struct Snapshots<'s> {
    store: &'s Store,
    location: Location,
    form: Form,
    settings: SnapshotSettings,
}

/// What the row of a tree says beside what it covers.
#[derive(Serialize, Deserialize)]
struct Spec {
    /// What the whole chain shows where mountpoints go.
    shown: Shown,
}

/// Times that a damaged tree is dropped and made again before its fault is reported.
const ATTEMPTS: usize = 3;

impl<'s> Snapshots<'s> {
    /// Chooses the form for this machine and store; the probe runs once a boot.
    ///
    /// # Errors
    /// [`SnapshotError::NoForm`] where nothing works; what the store says.
    pub fn open(store: &'s Store, settings: SnapshotSettings) -> Result<Self, SnapshotError> {
        let location = Location {
            root: store.layout().root().to_path_buf(),
            run: store.layout().run().to_path_buf(),
        };
        let form = match settings.form {
            Some(form) => form,
            None => probe::form(store, &location)?,
        };
        Ok(Self { store, location, form, settings })
    }

    /// The form in use.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Where everything lies.
    #[must_use]
    pub const fn location(&self) -> &Location {
        &self.location
    }

    /// Makes `chain` (bottom first) mountable: chooses among the trees that exist, writes what is
    /// missing, drops and rewrites what is damaged.
    ///
    /// Blocking. Without anything to write about 0.1 ms; a tree costs some 0.5 µs an entry.
    /// Idempotent, and safe beside other processes. Call it again when a later mount finds a tree
    /// gone ([`SnapshotError::is_stale`]).
    ///
    /// # Errors
    /// [`SnapshotError::MissingLayer`], [`SnapshotError::PartialLayer`]; layers that make no tree;
    /// what the store says.
    pub fn prepare(
        &self,
        chain: &[DiffId],
        options: &PrepareOptions,
    ) -> Result<Stack, SnapshotError> {
        for _ in 1..ATTEMPTS {
            match self.attempt(chain, options) {
                Err(SnapshotError::TreeDamaged { id, source }) => {
                    tracing::warn!(%id, %source, "a tree is damaged and is made again");
                    self.store.drop_tree(&id.to_string())?;
                }
                Err(SnapshotError::TreeMissing(id)) => self.store.drop_tree(&id.to_string())?,
                result => return result,
            }
        }
        self.attempt(chain, options)
    }

    /// Where a container whose directory is `directory` writes, in this form. What it has on a
    /// volume stays there, however the settings change.
    ///
    /// # Errors
    /// `directory` cannot be read or written.
    pub fn upper(&self, directory: PathBuf) -> Result<Upper, SnapshotError> {
        if self.form == Form::Copy {
            return Ok(Upper::Copy(directory));
        }
        if let Some(place) = Upper::elsewhere(&directory)? {
            return Ok(Upper::Directory(place));
        }
        if self.form != Form::DirectoriesElsewhere {
            return Ok(Upper::Directory(directory));
        }
        match &self.settings.upper {
            Some(volume) => Upper::on_volume(volume, &directory),
            None => Ok(Upper::Tmpfs {
                name: directory.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                size_bytes: match self.settings.upper_tmpfs_bytes {
                    0 => 1 << 30,
                    size_bytes => size_bytes,
                },
            }),
        }
    }

    fn attempt(&self, chain: &[DiffId], options: &PrepareOptions) -> Result<Stack, SnapshotError> {
        let (edges, shown) = match chain {
            [] => (Vec::new(), Shown::of(&Merged::new(Vec::new())?)),
            _ => self.trees(chain, options)?,
        };
        let parts = edges.iter().map(|edge| self.part(edge, chain)).collect::<Result<_, _>>()?;
        let init = match Init::new(self.form, options.mountpoints, &shown) {
            Some(init) => Some(self.init(&init, chain.last().copied())?),
            None => None,
        };
        Ok(Stack { form: self.form, location: self.location.clone(), parts, init })
    }

    /// The trees for `chain`, written where they are missing.
    fn trees(
        &self,
        chain: &[DiffId],
        options: &PrepareOptions,
    ) -> Result<(Vec<Edge>, Shown), SnapshotError> {
        let known = self.known(chain)?;
        let edges: Vec<_> = known.iter().map(|(edge, _)| *edge).collect();
        let candidates = match choose(&edges, chain.len()) {
            Choice::Write(candidates) => candidates,
            Choice::Present(stack) => {
                let top = stack.last().expect("a chain that is not empty has a tree");
                let row = known.into_iter().find(|(edge, _)| edge == top);
                let spec = row.and_then(|(_, row)| serde_json::from_value::<Spec>(row.spec).ok());
                let shown = match spec {
                    Some(spec) => spec.shown,
                    None => Shown::of(&*Views::new(self, chain, options)?.on(0)?),
                };
                return Ok((stack, shown));
            }
        };
        let mut views = Views::new(self, chain, options)?;
        for mut stack in candidates {
            let from = stack.last().map_or(0, |edge| edge.to);
            let view = views.on(from)?;
            if !make::stands_alone(&view) {
                continue;
            }
            let edge = Edge::new(self.form, chain, from, chain.len());
            let spec = Spec { shown: Shown::of(&view) };
            let json = serde_json::to_value(&spec).expect("plain data is JSON");
            self.make().tree(&edge, chain, &view, json)?;
            stack.push(edge);
            return Ok((stack, spec.shown));
        }
        unreachable!("a tree over all layers stands on nothing")
    }

    fn make(&self) -> Make<'_> {
        Make { store: self.store, location: &self.location, form: self.form }
    }

    /// The trees of this form and version that are recorded for prefixes of `chain`.
    fn known(&self, chain: &[DiffId]) -> Result<Vec<(Edge, TreeRow)>, SnapshotError> {
        let mut prefixes = Vec::with_capacity(chain.len());
        for layer in chain {
            let next = match prefixes.last() {
                None => ChainId::of(&[*layer]).expect("of one layer"),
                Some(below) => ChainId::push(*below, *layer),
            };
            prefixes.push(next);
        }
        let rows = self.store.trees_of_chains(&prefixes)?;
        let edge = |row: TreeRow| {
            let top = prefixes.iter().position(|prefix| Some(*prefix) == row.chain_id)?;
            let from = (top + 1).checked_sub(row.layers.len()).filter(|from| *from <= top)?;
            let edge = Edge::new(self.form, chain, from, top + 1);
            // A tree of another form or an older davit has another identity.
            // What is copied is whole: a tree of steps holds marks that only overlay reads.
            let fits = self.form != Form::Copy || (from, top + 1) == (0, chain.len());
            (fits && edge.id.to_string() == row.id).then_some((edge, row))
        };
        Ok(rows.into_iter().filter_map(edge).collect())
    }

    /// Checks the file of a tree and names its devices.
    fn part(&self, edge: &Edge, chain: &[DiffId]) -> Result<Part, SnapshotError> {
        self.check(edge.id)?;
        let devices = match self.form {
            Form::Erofs => chain[edge.from..edge.to].iter().map(|layer| self.device(*layer)),
            _ => return Ok(Part { id: edge.id, devices: Vec::new() }),
        };
        Ok(Part { id: edge.id, devices: devices.collect::<Result<_, _>>()? })
    }

    fn init(&self, init: &Init, top: Option<DiffId>) -> Result<Part, SnapshotError> {
        let part = Part { id: init.id, devices: Vec::new() };
        // Chains that show the same share it. Said before it is looked for, so that it stays when
        // the last of the others goes in between.
        let known = match top {
            Some(top) => self.store.use_tree(&init.id.to_string(), &top)?,
            None => true,
        };
        match self.check(init.id) {
            Ok(()) if known => Ok(part),
            Ok(()) | Err(SnapshotError::TreeMissing(_)) => {
                self.make().init(init, top)?;
                Ok(part)
            }
            Err(error) => Err(error),
        }
    }

    fn check(&self, id: crate::TreeId) -> Result<(), SnapshotError> {
        if self.form != Form::Erofs {
            let path = self.location.directory(id);
            let present = path.symlink_metadata().is_ok_and(|found| found.is_dir());
            return if present { Ok(()) } else { Err(SnapshotError::TreeMissing(id)) };
        }
        let path = self.location.tree(id);
        let file = File::open(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => SnapshotError::TreeMissing(id),
            _ => SnapshotError::file("open", &path, source),
        })?;
        checked::ensure(&self.location, id, &file)
            .map_err(|source| SnapshotError::TreeDamaged { id, source })
    }

    fn device(&self, diff_id: DiffId) -> Result<Device, SnapshotError> {
        let row = self.store.layer(&diff_id)?.ok_or(SnapshotError::MissingLayer(diff_id))?;
        match row.presence {
            Presence::Full => Ok(Device { diff_id, size_bytes: row.tar_size }),
            Presence::Partial => Err(SnapshotError::PartialLayer(diff_id)),
        }
    }

    fn table(&self, diff_id: DiffId) -> Result<Arc<Table>, SnapshotError> {
        self.device(diff_id)?;
        let path = self.store.layout().layer_table(&diff_id);
        let file = File::open(&path).map_err(|e| SnapshotError::file("open", &path, e))?;
        let table = Table::open(file.file());
        Ok(Arc::new(table.map_err(|source| SnapshotError::Table { diff_id, source })?))
    }
}

/// Merged views of a chain on its prefixes, made when asked for.
struct Views {
    tables: Vec<Arc<Table>>,
    given: Option<Arc<Merged>>,
}

impl Views {
    fn new(
        snapshots: &Snapshots<'_>,
        chain: &[DiffId],
        options: &PrepareOptions,
    ) -> Result<Self, SnapshotError> {
        let is_of_chain = |view: &&Arc<Merged>| {
            view.layer_count() == chain.len()
                && (0..).zip(chain).all(|(at, layer)| view.layer(at).facts().diff_id == *layer)
        };
        let given = options.view.as_ref().filter(is_of_chain).cloned();
        let tables = match &given {
            Some(view) => view.all_layers(),
            None => chain.iter().map(|layer| snapshots.table(*layer)).collect::<Result<_, _>>()?,
        };
        Ok(Self { tables, given })
    }

    /// The whole chain, on its first `from` layers as the base.
    fn on(&mut self, from: usize) -> Result<Arc<Merged>, SnapshotError> {
        if let Some(given) = self.given.as_ref().filter(|given| given.first_layer() == from) {
            return Ok(Arc::clone(given));
        }
        if from == 0 {
            return Ok(Arc::new(Merged::new(self.tables.clone())?));
        }
        let below = std::iter::successors(self.given.as_ref(), |view| view.base());
        let base = below.into_iter().find(|view| view.layer_count() == from);
        let base = match base {
            Some(base) => Arc::clone(base),
            None => Arc::new(Merged::new(self.tables[..from].to_vec())?),
        };
        Ok(Arc::new(Merged::on(base, self.tables[from..].to_vec())?))
    }
}
