//! The private mount namespace in which a monitor or a build supervisor keeps its trees.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use davit_sys::mount::{self, Extent, FsContext, MountAttributes};
use fs_err::File;
use rustix::{fs::Mode, io::Errno};

use crate::{
    Form, Location, OverlayOptions, Part, SnapshotError, Stack, TreeId, Upper, copy, holder,
    overlay::{self, Writable},
    tree_mount, upper,
};

/// The calling process's own mount namespace, with a tmpfs at `RUN_ROOT/ROOTID/trees` where its
/// trees are attached and where other processes take them from.
///
/// Nothing is undone on drop: the mounts go with the last process in the namespace, the holder
/// files' locks with this value. Keep it as long as the containers run.
#[derive(Debug)]
pub struct MountNamespace {
    location: Location,
    held: BTreeMap<TreeId, Held>,
}

#[derive(Debug)]
struct Held {
    mount: OwnedFd,
    /// Locked as long as this process lives, which is how others find it.
    _holder: File,
}

/// The lower directories of a stack, mounted; see [`MountNamespace::lowers`].
#[derive(Debug)]
pub struct Lowers {
    /// Topmost first.
    pub(crate) mounts: Vec<OwnedFd>,
}

impl Lowers {
    /// The mounts, topmost first.
    pub fn top_first(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.mounts.iter().map(AsFd::as_fd)
    }
}

impl MountNamespace {
    /// Moves the calling process into a mount namespace of its own (a slave copy of the one it is
    /// in) and prepares it. Call it once, early, from a single-threaded process.
    ///
    /// # Errors
    /// [`SnapshotError::Mount`] without `CAP_SYS_ADMIN`; [`SnapshotError::File`] where
    /// `RUN_ROOT/ROOTID` cannot be written.
    pub fn enter(location: Location) -> Result<Self, SnapshotError> {
        let failed = |source| SnapshotError::mount("a private mount namespace", source);
        let target = location.mounts();
        fs_err::create_dir_all(&target)
            .map_err(|source| SnapshotError::file("create", &target, source))?;
        mount::unshare_mounts().map_err(failed)?;
        let tmpfs = tmpfs(None)?;
        mount::attach(&tmpfs, &target).map_err(failed)?;
        Ok(Self { location, held: BTreeMap::new() })
    }

    /// Mounts the lower directories of `stack`: a tree that a live process has mounted is taken
    /// from there (its page cache is shared), any other is mounted here and offered to others.
    ///
    /// Blocking; about 0.1 ms for a shared stack, 0.3 ms for each tree mounted anew.
    ///
    /// # Errors
    /// [`SnapshotError::TreeMissing`], [`SnapshotError::TreeDamaged`]: prepare the chain again.
    /// [`SnapshotError::LayerSize`]: a layer is torn. [`SnapshotError::Mount`].
    pub fn lowers(&mut self, stack: &Stack) -> Result<Lowers, SnapshotError> {
        if stack.form == Form::Erofs {
            self.take_shared(stack);
        }
        let mounts = stack.top_first().map(|part| self.lower(stack, part));
        let mut mounts: Vec<_> = mounts.collect::<Result<_, _>>()?;
        if mounts.is_empty() {
            mounts.push(self.nothing()?);
        }
        Ok(Lowers { mounts })
    }

    /// Mounts an overlay of `lowers` with a writable upper directory, or a copy of them; attached
    /// nowhere.
    ///
    /// # Errors
    /// [`SnapshotError::Mount`], [`SnapshotError::File`], [`SnapshotError::TooManyLowers`].
    pub fn overlay(
        &self,
        lowers: &Lowers,
        upper: &Upper,
        options: OverlayOptions,
    ) -> Result<OwnedFd, SnapshotError> {
        let model = &lowers.mounts[0];
        let writable = match upper {
            Upper::Directory(directory) => upper::open(directory, model)?,
            Upper::Tmpfs { name, size_bytes } => self.tmpfs_upper(name, *size_bytes, model)?,
            Upper::Copy(directory) => return copy::mount(lowers, directory, options.durability),
        };
        overlay::mount(lowers, &writable, options)
    }

    /// Attaches a mount where this process finds it by path, under a name that nothing else here
    /// has; until [`Self::detach`].
    ///
    /// # Errors
    /// [`SnapshotError::Mount`], [`SnapshotError::File`].
    pub fn attach(&self, name: &str, mount: &OwnedFd) -> Result<PathBuf, SnapshotError> {
        let target = self.location.mounts().join(name);
        rustix::fs::mkdir(&target, Mode::RWXU)
            .map_err(|errno| SnapshotError::file("create", &target, errno))?;
        mount::attach(mount, &target).map_err(|source| SnapshotError::mount("a view", source))?;
        Ok(target)
    }

    /// Takes away what was attached under this name; copies of the mount stay.
    ///
    /// # Errors
    /// [`SnapshotError::Mount`], [`SnapshotError::File`].
    pub fn detach(&self, name: &str) -> Result<(), SnapshotError> {
        let target = self.location.mounts().join(name);
        mount::detach(&target).map_err(|source| SnapshotError::mount("a view", source))?;
        rustix::fs::rmdir(&target).map_err(|errno| SnapshotError::file("remove", &target, errno))
    }

    /// Takes every tree of `stack` that is not here yet from live holders, where there are any.
    fn take_shared(&mut self, stack: &Stack) {
        let mut missing: Vec<_> = stack
            .top_first()
            .map(|part| part.id)
            .filter(|id| !self.held.contains_key(id))
            .collect();
        // The topmost part is the rarest: who holds it most likely holds all.
        while let Some(id) = missing.first().copied() {
            let taken = holder::donors(&self.location.holders(id))
                .map(|donor| self.take(&donor, &missing))
                .find(|taken| taken.iter().any(|(taken, _)| *taken == id))
                .unwrap_or_default();
            for (id, mount) in taken {
                // Without a registration it is still a good mount, only not found by others.
                if let Err(error) = self.hold(id, mount) {
                    tracing::debug!(%id, %error, "cannot keep a shared tree");
                }
            }
            missing.retain(|other| *other != id && !self.held.contains_key(other));
        }
    }

    fn take(&self, donor: &holder::Donor, wanted: &[TreeId]) -> Vec<(TreeId, OwnedFd)> {
        let mounts = self.location.mounts();
        let clones = mount::within_mounts_of(&donor.pidfd, || {
            let clone = |id: &TreeId| {
                let mount = mount::clone_tree(&mounts.join(id.to_string()), Extent::Single).ok()?;
                Some((*id, mount))
            };
            wanted.iter().filter_map(clone).collect()
        });
        clones.unwrap_or_else(|error| {
            tracing::debug!(%error, "a holder of trees has just ended");
            Vec::new()
        })
    }

    /// Attaches a tree where other processes find it, and registers as its holder.
    fn hold(&mut self, id: TreeId, mount: OwnedFd) -> Result<(), SnapshotError> {
        let target = self.location.mounts().join(id.to_string());
        let failed = |source| SnapshotError::file("create", &target, source);
        fs_err::create_dir_all(&target).map_err(failed)?;
        mount::attach(&mount, &target).map_err(|source| SnapshotError::mount("a tree", source))?;
        let directory = self.location.holders(id);
        fs_err::create_dir_all(&directory).map_err(failed)?;
        let holder = holder::register(&directory)?;
        self.held.insert(id, Held { mount, _holder: holder });
        Ok(())
    }

    /// The lower directory of an empty image: one for all.
    fn nothing(&self) -> Result<OwnedFd, SnapshotError> {
        let target = self.location.mounts().join("nothing");
        match rustix::fs::mkdir(&target, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => upper::open_directory(&target),
            Err(errno) => Err(SnapshotError::file("create", target, errno)),
        }
    }

    /// An upper directory on a tmpfs of its own, attached here: before Linux 6.15 overlay refuses a
    /// detached one.
    fn tmpfs_upper(
        &self,
        name: &str,
        size_bytes: u64,
        model: &OwnedFd,
    ) -> Result<Writable, SnapshotError> {
        let target = self.location.upper(name);
        match rustix::fs::mkdir(&target, Mode::RWXU) {
            Ok(()) => {
                let tmpfs = tmpfs(Some(size_bytes))?;
                mount::attach(&tmpfs, &target)
                    .map_err(|source| SnapshotError::mount("tmpfs", source))?;
            }
            // Mounted before, for an earlier start of the same container.
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(SnapshotError::file("create", target, errno)),
        }
        upper::open(&target, model)
    }

    fn lower(&mut self, stack: &Stack, part: &Part) -> Result<OwnedFd, SnapshotError> {
        if stack.form != Form::Erofs {
            return upper::open_directory(&stack.path(part));
        }
        if !self.held.contains_key(&part.id) {
            let _lock = holder::lock(&self.location.holders(part.id))?;
            // Another process may have mounted it since; only one mount is wanted.
            self.take_shared(&Stack { parts: vec![part.clone()], ..stack.bare() });
            if !self.held.contains_key(&part.id) {
                let mount = tree_mount::mount(&stack.location, part)?;
                self.hold(part.id, mount)?;
            }
        }
        let held = &self.held[&part.id].mount;
        held.try_clone().map_err(|source| SnapshotError::file("keep", stack.path(part), source))
    }
}

fn tmpfs(size_bytes: Option<u64>) -> Result<OwnedFd, SnapshotError> {
    let make = || {
        let context = FsContext::open(c"tmpfs")?;
        context.string(c"source", b"davit")?.string(c"mode", b"0700")?;
        if let Some(size_bytes) = size_bytes {
            context.string(c"size", size_bytes.to_string().as_bytes())?;
        }
        context.mount(MountAttributes::empty())
    };
    make().map_err(|source| SnapshotError::mount("tmpfs", source))
}
