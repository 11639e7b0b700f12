//! Copying files between a container and the machine (`davit cp`).
//!
//! ```text
//! machine or container --pack--> tar --unpack--> container or machine
//!                                 |
//!                          the user's own stream (`-`)
//! ```
//!
//! **Invariant:** a path in a container is only ever resolved by `openat2` inside a descriptor of
//! its root, anew for every entry; the container may rename and link as it likes meanwhile. No
//! program runs, nothing of the container is loaded.

mod area;
mod mounts;
mod pack;
mod root;
mod rules;
mod unpack;
mod xattr;

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    thread,
};

use davit_layer::decompressed;
use rustix::{fs::OFlags, io::Errno};

pub(crate) use self::root::root_helper;
use self::{
    area::{Area, Forbids, is_directory},
    rules::{Known, clean, place, split},
    unpack::{UnpackError, Unpacker},
};
use super::ContainerError;
use crate::Engine;

/// Whether a symbolic link that is the source itself is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowLink {
    /// The link is copied.
    Never,
    /// What it leads to is copied, under the link's name.
    Source,
}

/// Whose the copied files become on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// The same numbers as at the source.
    Keep,
    /// The calling user's.
    Caller,
}

/// What was copied.
#[derive(Clone, Copy, Debug)]
pub struct Copied {
    /// Bytes of the archive that went across.
    pub bytes: u64,
}

/// The files of one container.
#[derive(Debug)]
pub struct ContainerFiles {
    name: String,
    area: Area,
    /// Kept so that nobody starts a stopped container while its root is mounted here.
    _lock: Option<OwnedFd>,
}

impl Engine {
    /// The files of a container with its volumes and bind mounts, whether it runs or not.
    ///
    /// Of a running one nothing is locked: its monitor holds the lock, and a restart must not wait
    /// for a copy. One that is started again meanwhile mounts its upper directory a second time,
    /// with `index=off`, hence without a refusal. The kernel lets two such mounts disagree on what
    /// each of them changes, without crash or deadlock (kernel, `overlayfs.rst` "Sharing and copying
    /// layers"): such a copy is as one of files that change under it.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; [`ContainerError::Io`] when its root cannot be reached.
    pub fn container_files(&self, name: &str) -> Result<ContainerFiles, ContainerError> {
        let container = self.container(name)?;
        let name = name.to_owned();
        if let Some(process) = container.status.process {
            let area = Area::container(davit_runtime::root(process)?);
            return Ok(ContainerFiles { name, area, _lock: None });
        }
        let Some((_, lock)) = self.lock_row(&container.id)? else {
            return self.container_files(&name);
        };
        let area = Area::container(self.mounted_root(&container)?);
        Ok(ContainerFiles { name, area, _lock: Some(lock) })
    }
}

impl ContainerFiles {
    /// Writes a file or directory as a tar archive.
    ///
    /// # Errors
    /// Docker's words when it does not exist; [`ContainerError::Io`].
    pub fn export_tar(
        &self,
        path: &str,
        follow: FollowLink,
        out: impl Write,
    ) -> Result<(), ContainerError> {
        let (path, source) = self.source(path, follow)?;
        pack::pack(&self.area, &path, as_path(&source.base), out)
            .map_err(|error| ContainerError::io("copy", shown(&path), error))
    }

    /// Unpacks a tar archive, which may be compressed, into an existing directory.
    ///
    /// # Errors
    /// Docker's words for a destination that is no directory, or what an entry may not replace.
    pub fn import_tar(
        &self,
        path: &str,
        input: impl Read + Send,
    ) -> Result<Copied, ContainerError> {
        let (path, known) = self.destination(path)?;
        if !known.is_directory() {
            return Err(ContainerError::Invalid(format!(
                "destination \"{}:{}\" must be a directory",
                self.name,
                shown(&path)
            )));
        }
        self.writable(&path)?;
        let directory = without_slash(&path);
        let unpacker = Unpacker { area: &self.area, directory, ownership: Ownership::Keep };
        let plain = decompressed(input)
            .map_err(|error| ContainerError::io("read the archive for", shown(&path), error))?;
        let mut input = Counted { inner: plain, bytes: 0 };
        unpacker.unpack(&mut input).map_err(|error| refused(error, shown(&path)))?;
        Ok(Copied { bytes: input.bytes })
    }

    /// Copies from the container to a path of the machine, which must be absolute.
    ///
    /// # Errors
    /// Docker's words for what does not fit; [`ContainerError::Io`].
    pub fn copy_out(
        &self,
        source: &str,
        destination: &str,
        follow: FollowLink,
        ownership: Ownership,
    ) -> Result<Copied, ContainerError> {
        let host = host()?;
        let (path, source) = self.source(source, follow)?;
        let destination = clean(destination.as_bytes());
        let (destination, known) = follow_destination(&host, destination)?;
        let (directory, name) = place(&source, &destination, &known)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = host.open(&directory, flags).map_err(|errno| match errno {
            Errno::NOENT => ContainerError::Invalid(format!(
                "invalid output path: directory {:?} does not exist",
                shown(&directory)
            )),
            errno => ContainerError::io("open", shown(&directory), errno),
        })?;
        let target = Area::beneath(opened);
        let unpacker = Unpacker { area: &target, directory: b"", ownership };
        transfer(&self.area, &path, &name, &unpacker)
    }

    /// Copies from a path of the machine, which must be absolute, to the container; owners stay.
    ///
    /// # Errors
    /// Docker's words for what does not fit; [`ContainerError::Io`].
    pub fn copy_in(
        &self,
        source: &str,
        destination: &str,
        follow: FollowLink,
    ) -> Result<Copied, ContainerError> {
        let host = host()?;
        let (path, source) = source_of(&host, clean(source.as_bytes()), follow, |path| {
            ContainerError::Invalid(format!("lstat {path}: no such file or directory"))
        })?;
        let (destination, known) = self.destination(destination)?;
        let (directory, name) = place(&source, &destination, &known)?;
        let there = self
            .area
            .stat(&[without_slash(&directory), b"/"].concat())
            .map_err(|errno| io_or_words(&directory, errno))?;
        if there.is_none() {
            return Err(self.missing(&shown(&directory)));
        }
        self.writable(&directory)?;
        let directory = without_slash(&directory);
        let unpacker = Unpacker { area: &self.area, directory, ownership: Ownership::Keep };
        transfer(&host, &path, &name, &unpacker)
    }

    fn missing(&self, path: &str) -> ContainerError {
        ContainerError::Invalid(format!(
            "Could not find the file {path} in container {}",
            self.name
        ))
    }

    fn source(&self, path: &str, follow: FollowLink) -> Result<(Vec<u8>, Known), ContainerError> {
        let path = clean(path.as_bytes());
        let (real, known) = source_of(&self.area, path, follow, |path| self.missing(path))?;
        match self.area.is_of_runtime(&real) {
            Ok(false) => Ok((real, known)),
            Ok(true) => Err(self.missing(&shown(&real))),
            Err(errno) => Err(io_or_words(&real, errno)),
        }
    }

    fn destination(&self, path: &str) -> Result<(Vec<u8>, Known), ContainerError> {
        let path = clean(path.as_bytes());
        follow_destination(&self.area, path)
    }

    /// Refuses a directory that nobody may write to, before anything is read.
    fn writable(&self, directory: &[u8]) -> Result<(), ContainerError> {
        let forbids = self.area.forbids_writing(directory);
        match forbids.map_err(|errno| io_or_words(directory, errno))? {
            None => Ok(()),
            Some(Forbids::Root) => {
                Err(ContainerError::invalid("container rootfs is marked read-only"))
            }
            Some(Forbids::Volume) => {
                Err(ContainerError::invalid("mounted volume is marked read-only"))
            }
        }
    }
}

fn host() -> Result<Area, ContainerError> {
    Area::host().map_err(|errno| ContainerError::io("open", "/", errno))
}

fn io_or_words(path: &[u8], errno: Errno) -> ContainerError {
    match errno {
        Errno::NOTDIR => ContainerError::Invalid("not a directory".to_owned()),
        errno => ContainerError::io("look at", shown(path), errno),
    }
}

/// A path as errors show it.
fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// A clean path without the `/` at its end; the root becomes empty.
fn without_slash(path: &[u8]) -> &[u8] {
    path.strip_suffix(b"/").unwrap_or(path)
}

/// Looks at a source; its base name is the one that it was asked for by, also behind a link.
fn source_of(
    area: &Area,
    path: Vec<u8>,
    follow: FollowLink,
    missing: impl Fn(&str) -> ContainerError,
) -> Result<(Vec<u8>, Known), ContainerError> {
    let failed = |errno| io_or_words(&path, errno);
    let mut real = path.clone();
    if follow == FollowLink::Source {
        for _ in 0..40 {
            match area.link(&real).map_err(failed)? {
                Some(target) => real = clean(&target),
                None => break,
            }
        }
    }
    let stat = area.stat(&real).map_err(failed)?.ok_or_else(|| missing(&shown(&path)))?;
    let known = Known { exists: true, directory: is_directory(&stat), base: split(&path).1 };
    Ok((real, known))
}

/// Looks at a destination behind all links, as Docker does; it need not exist.
fn follow_destination(area: &Area, path: Vec<u8>) -> Result<(Vec<u8>, Known), ContainerError> {
    let failed = |errno| io_or_words(&path, errno);
    let mut real = path.clone();
    for _ in 0..40 {
        match area.link(&real) {
            Ok(Some(target)) => real = clean(&target),
            Ok(None) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    let stat = area.stat(&real).map_err(failed)?;
    let base = split(&real).1;
    let directory = stat.as_ref().is_some_and(is_directory);
    Ok((real, Known { exists: stat.is_some(), directory, base }))
}

/// Packs on one thread what this one unpacks.
fn transfer(
    source: &Area,
    path: &[u8],
    name: &[u8],
    unpacker: &Unpacker<'_>,
) -> Result<Copied, ContainerError> {
    let (reader, writer) =
        io::pipe().map_err(|error| ContainerError::io("make", "a pipe", error))?;
    let mut reader = Counted { inner: reader, bytes: 0 };
    let (packed, unpacked, bytes) = thread::scope(|scope| {
        let packer = scope.spawn(move || pack::pack(source, path, as_path(name), writer));
        let unpacked = unpacker.unpack(&mut reader).and_then(|()| {
            // The zeros at the end, so that the other side can finish.
            io::copy(&mut reader, &mut io::sink()).map_err(UnpackError::Archive)
        });
        let Counted { inner, bytes } = reader;
        drop(inner);
        let packed = packer.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        (packed, unpacked, bytes)
    });
    match (packed, unpacked) {
        (Err(error), _) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ContainerError::io("copy", shown(path), error))
        }
        (_, Err(error)) => Err(refused(error, shown(name))),
        _ => Ok(Copied { bytes }),
    }
}

fn refused(error: UnpackError, object: String) -> ContainerError {
    match error {
        UnpackError::Refused(words) => ContainerError::Invalid(words),
        UnpackError::Archive(error) => ContainerError::io("read the archive for", object, error),
        UnpackError::Entry(path, error) => ContainerError::io("write", path, error),
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    bytes: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.bytes += length as u64;
        Ok(length)
    }
}
