//! Measures preparing and mounting on this machine: `measure [ENTRIES]`, as root.

use std::{path::Path, sync::Arc, time::Instant};

use davit_image::{DiffId, Digest};
use davit_layer::{Entry, Extents, Kind, Merged, Mtime, Table, TableBuilder, TableLimits, Xattrs};
use davit_snapshot::{
    Form, MountNamespace, Mountpoints, OverlayOptions, PrepareOptions, SnapshotSettings, Snapshots,
    Stack, Upper,
};
use davit_store::{DiffIdState, Durability, LayerFacts, Presence, Store, StoreOptions};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let entries = std::env::args().nth(1).map_or(Ok(75_000), |text| text.parse())?;
    let dir = davit_test::TempDir::new();
    let store = Store::open(StoreOptions::new(dir.join("root"), dir.join("run")))?;
    let layers = (0..3).map(|layer| table(layer, entries / 3).map(Arc::new));
    let tables = layers.collect::<Result<Vec<_>>>()?;
    let chain: Vec<_> = tables.iter().map(|table| table.facts().diff_id).collect();
    tables.iter().try_for_each(|table| commit(&store, table))?;
    let settings = SnapshotSettings { form: Some(Form::Erofs), ..SnapshotSettings::default() };
    let snapshots = Snapshots::open(&store, settings)?;
    let view = timed("merge", || Ok(Arc::new(Merged::new(tables.clone())?)))?;
    let given = PrepareOptions { view: Some(view), ..PrepareOptions::new(Mountpoints::Container) };
    let stack = timed("prepare, tree written", || Ok(snapshots.prepare(&chain, &given)?))?;
    for _ in 0..3 {
        timed("prepare, tree there", || Ok(snapshots.prepare(&chain, &given)?))?;
    }
    let bytes = fs_err::read(stack.path(&stack.parts[0]))?;
    writeln(&format!("tree: {} bytes, {} an entry", bytes.len(), bytes.len() / entries))?;
    timed("strict read", || Ok(davit_snapshot::erofs::Tree::parse(&bytes)?.names.len()))?;
    let temp = dir.path().to_path_buf();
    // A thread of its own: the mounts go with it, and the folder can be removed.
    let mounts = std::thread::spawn(move || mounts(&stack, &temp).map_err(|e| e.to_string()));
    mounts.join().map_err(|_panic| "a thread panicked")??;
    let status = fs_err::read_to_string("/proc/self/status")?;
    writeln(status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default())
}

fn mounts(stack: &Stack, dir: &Path) -> Result<()> {
    for attempt in 0..5 {
        let enter = || Ok(MountNamespace::enter(stack.location.clone())?);
        let mut namespace = timed("private mount namespace", enter)?;
        let lowers = timed("lowers", || Ok(namespace.lowers(stack)?))?;
        let upper = dir.join(attempt.to_string());
        fs_err::create_dir(&upper)?;
        let upper = Upper::Directory(upper);
        timed("overlay", || Ok(namespace.overlay(&lowers, &upper, OverlayOptions::default())?))?;
    }
    Ok(())
}

fn timed<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = work()?;
    writeln(&format!("{:>9.3} ms  {what}", start.elapsed().as_secs_f64() * 1e3))?;
    Ok(result)
}

fn writeln(line: &str) -> Result<()> {
    Ok(std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes())?)
}

/// A layer like an application's dependencies: some seven files in each of many directories.
fn table(layer: usize, entries: usize) -> Result<Table> {
    let tar_size = 1024 * (entries as u64 + 2);
    let mut builder = TableBuilder::new(TableLimits::default());
    for number in 0..entries {
        let directory = format!("layer{layer}/node_modules/package-{:05}", number / 8);
        let path = match number % 8 {
            0 => directory,
            file => format!("{directory}/module{file}.js"),
        };
        let extents = Extents::contiguous(1024 * (number as u64 + 1), 1000);
        let kind = match number % 8 {
            0 => Kind::Directory { opaque: false, implied: false },
            _ => Kind::File { size: 1000, extents },
        };
        let entry = Entry {
            path: path.as_bytes(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: Mtime::from_seconds(1_700_000_000),
            xattrs: Xattrs::NONE,
        };
        builder.push(&entry)?;
    }
    let diff_id = DiffId::new(Digest::of(format!("layer {layer}").as_bytes()));
    Ok(builder.finish(davit_layer::LayerFacts { diff_id, tar_size })?)
}

fn commit(store: &Store, table: &Table) -> Result<()> {
    let facts = table.facts();
    let lease = store.lease("measure")?;
    let ingest = store.begin_layer(&lease)?;
    ingest.create_tar()?.file().set_len(facts.tar_size)?;
    table.write_to(&mut ingest.create_table()?)?;
    ingest.commit(&LayerFacts {
        diff_id: facts.diff_id,
        tar_size: facts.tar_size,
        entries: table.len() as u64,
        diffid_state: DiffIdState::Verified,
        presence: Presence::Full,
        durability: Durability::Lazy,
    })?;
    Ok(())
}
