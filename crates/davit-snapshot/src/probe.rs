//! Which form works for this `ROOT` on this kernel: tried by really reading, never by version.

use std::{
    io::{Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
};

use davit_image::{DiffId, Digest};
use davit_layer::{Extents, Mtime, Xattrs};
use davit_store::{BootId, Store};
use fs_err::File;
use rustix::fs::{Mode, OFlags};

use crate::{
    Device, Form, Location, MountNamespace, OverlayOptions, Part, SnapshotError, Stack, TreeId,
    Upper,
    erofs::{self, Image, Node, NodeKind},
};

/// Raised when the probe learns something new, so that remembered answers are not used.
const VERSION: u32 = 3;
/// In order of preference.
const FORMS: [Form; 4] = [Form::Erofs, Form::Directories, Form::DirectoriesElsewhere, Form::Copy];
/// Odd and more than a block, so that a read crosses one that is 512-aligned only.
const CONTENT_LEN: usize = 5000;
const TMPFS_BYTES: u64 = 1 << 20;

/// The form for this machine; remembered in `RUN_ROOT/ROOTID/form` until the next boot.
pub(crate) fn form(store: &Store, location: &Location) -> Result<Form, SnapshotError> {
    let boot = BootId::current()?;
    let path = location.run.join("form");
    let device = rustix::fs::stat(&location.root)
        .map_err(|e| SnapshotError::file("examine", &location.root, e))?
        .st_dev;
    let head = format!("davit-form {VERSION} {boot} {device} ");
    let remembered = fs_err::read_to_string(&path).ok();
    let known = remembered.as_deref().and_then(|text| parse(text.strip_prefix(&head)?.trim_end()));
    if let Some(form) = known {
        return Ok(form);
    }
    let form = probe(store, location)?;
    tracing::info!(%form, "root filesystems on this machine");
    store.make_dir(&location.run)?;
    fs_err::write(&path, format!("{head}{form}\n"))
        .map_err(|e| SnapshotError::file("write", &path, e))?;
    Ok(form)
}

fn parse(name: &str) -> Option<Form> {
    FORMS.into_iter().find(|form| form.to_string() == name)
}

/// Tries the forms in order of preference. A thread of its own gets the mount namespace, since the
/// caller may have threads and must stay where it is.
fn probe(store: &Store, location: &Location) -> Result<Form, SnapshotError> {
    let ingest = store.begin_tree()?;
    let directory = ingest.dir().to_path_buf();
    let location = location.clone();
    let probed = std::thread::spawn(move || {
        let scratch = Location { root: directory.join("root"), run: directory.join("run") };
        make_layer(&scratch).map_err(|e| SnapshotError::file("write", &scratch.root, e))?;
        let mut namespace = MountNamespace::enter(scratch.clone())?;
        let mut refused = None;
        for form in FORMS {
            match attempt(&mut namespace, &scratch, form) {
                Ok(()) => return Ok(form),
                Err(error) => {
                    tracing::debug!(%form, root = %location.root.display(), error = %chain(&error), "no");
                    refused = Some(error);
                }
            }
        }
        let source = refused.expect("every form was tried and refused");
        Err(SnapshotError::NoForm { root: location.root, source: Box::new(source) })
    });
    probed.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn content() -> Vec<u8> {
    (0..CONTENT_LEN).map(|at| u8::try_from(at % 251).expect("below 251")).collect()
}

fn diff_id() -> DiffId {
    DiffId::new(Digest::of(b"davit probe"))
}

fn tree() -> TreeId {
    TreeId::of(b"davit probe")
}

/// One file, in the forms that the attempts mount.
fn make_layer(location: &Location) -> std::io::Result<()> {
    let layer = location.layer(diff_id());
    fs_err::create_dir_all(&layer)?;
    let mut tar = vec![0; 512];
    tar.extend(content());
    tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
    fs_err::write(layer.join("tar"), &tar)?;
    let directory = location.directory(tree());
    fs_err::create_dir_all(&directory)?;
    fs_err::write(directory.join("file"), content())?;
    let (size, device) = (CONTENT_LEN as u64, 0);
    let node = |name: &'static [u8], kind, mode| Node {
        parent: 0,
        name,
        kind,
        mode,
        uid: 0,
        gid: 0,
        mtime: Mtime::EPOCH,
        xattrs: Xattrs::NONE,
    };
    let file = NodeKind::File { size, device, extents: Extents::contiguous(512, size) };
    let image = Image {
        uuid: tree().uuid(),
        devices: vec![Device { diff_id: diff_id(), size_bytes: tar.len() as u64 }],
        nodes: vec![
            node(b"", NodeKind::Directory { opaque: false }, 0o755),
            node(b"file", file, 0o644),
        ],
        ..Image::default()
    };
    fs_err::create_dir_all(location.root.join("trees"))?;
    let mut written = File::create(location.tree(tree()))?;
    erofs::write(&image, &mut written).map_err(std::io::Error::other)?;
    Ok(())
}

/// Mounts the file and an upper directory as containers will, reads, writes and removes.
fn attempt(
    namespace: &mut MountNamespace,
    location: &Location,
    form: Form,
) -> Result<(), SnapshotError> {
    let size_bytes = location.layer(diff_id()).join("tar").metadata().map_or(0, |tar| tar.len());
    let devices = match form {
        Form::Erofs => vec![Device { diff_id: diff_id(), size_bytes }],
        _ => Vec::new(),
    };
    let parts = vec![Part { id: tree(), devices }];
    let stack = Stack { form, location: location.clone(), parts, init: None };
    let lowers = namespace.lowers(&stack)?;
    let upper = match form {
        Form::DirectoriesElsewhere => {
            Upper::Tmpfs { name: "probe".into(), size_bytes: TMPFS_BYTES }
        }
        Form::Copy => Upper::Copy(location.root.join(format!("upper-{form}"))),
        Form::Erofs | Form::Directories => {
            // The forms' own names are those of folders that the store has.
            let directory = location.root.join(format!("upper-{form}"));
            fs_err::create_dir(&directory)
                .map_err(|e| SnapshotError::file("create", &directory, e))?;
            Upper::Directory(directory)
        }
    };
    let root = namespace.overlay(&lowers, &upper, OverlayOptions::default())?;
    use_overlay(&root).map_err(|e| SnapshotError::file("use an overlay in", &location.root, e))
}

fn use_overlay(root: &OwnedFd) -> std::io::Result<()> {
    let open = |name: &str, flags| {
        rustix::fs::openat(root.as_fd(), name, flags | OFlags::CLOEXEC, Mode::RWXU)
            .map(std::fs::File::from)
    };
    let mut read = Vec::new();
    open("file", OFlags::RDONLY)?.read_to_end(&mut read)?;
    if read != content() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "it reads other bytes"));
    }
    open("new", OFlags::WRONLY | OFlags::CREATE)?.write_all(&read)?;
    open("file", OFlags::WRONLY | OFlags::APPEND)?.write_all(b"more")?;
    rustix::fs::unlinkat(root, "file", rustix::fs::AtFlags::empty())?;
    match open("file", OFlags::RDONLY) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        _ => Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a removed file is there")),
    }
}
