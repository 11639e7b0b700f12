//! A monitor from its execution until it is told what to do.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use davit_image::ImageId;
use davit_runtime::{
    Cgroups, Identity, Process,
    cgroup::Cgroup,
    monitor::{protocol::Request, state::Summary},
};
use davit_store::ContainerRow;
use davit_sys::process::{CStringArray, Handover, Session, Spawn, Spawned};
use rustix::{
    fs::{FlockOperation, MemfdFlags, Mode, OFlags, SeekFrom, flock},
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    pipe::{PipeFlags, pipe_with},
};

use super::{
    Connection, Container, ContainerError, ContainerSpec, NetworkMode,
    monitor::{self, Birth, Foundation},
    remove::remove_tree,
};
use crate::Engine;

/// How long another command may hold the lock of a container that does not run.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries to take it.
const LOCK_LOOK: Duration = Duration::from_micros(100);

/// A monitor that waits for its orders.
#[derive(Debug)]
pub(crate) struct Newborn {
    connection: Connection,
    orders: OwnedFd,
    monitor: Spawned,
}

impl Newborn {
    /// Tells it everything.
    pub(crate) fn instruct(
        self,
        wishes: &[Request],
        birth: &Birth,
    ) -> Result<Connection, ContainerError> {
        let Self { mut connection, orders, monitor } = self;
        let given = serde_json::to_vec(birth)
            .map_err(io::Error::from)
            .and_then(|json| connection.greet(wishes).and_then(|()| write_all(&orders, &json)));
        let given = unless_gone(given);
        // If it could not be executed, that is why it could not be told.
        monitor.executed().and(given).map_err(no_monitor)?;
        Ok(connection)
    }

    /// Without orders it leaves at once, and its lock is free when it has.
    pub(crate) fn dismiss(self) {
        let Self { mut connection, orders, monitor } = self;
        drop(orders);
        if monitor.executed().is_ok() {
            drop(connection.first_word());
        }
    }
}

impl Engine {
    /// Spawns the monitor of a container that does not run; `None` when it runs by now.
    pub(crate) fn monitor_of(
        &self,
        container: &Container,
    ) -> Result<Option<Newborn>, ContainerError> {
        self.spawn_monitor(&container.id, container.image_id.as_ref(), &container.spec)
    }

    /// Takes the lock of a container that does not run, and executes a monitor that makes what can
    /// be made before it is told all; `None` when another command has started it.
    pub(crate) fn spawn_monitor(
        &self,
        id: &str,
        image: Option<&ImageId>,
        spec: &ContainerSpec,
    ) -> Result<Option<Newborn>, ContainerError> {
        let Some(lock) = self.lock_container(id)? else { return Ok(None) };
        let newborn = self.execute_monitor(id, &lock).map_err(no_monitor)?;
        // What fails here fails again, and is told, when all is made out.
        let foundation = self.stack(image).ok().map(|stack| Foundation {
            stack,
            own_network: !matches!(spec.network, NetworkMode::Host | NetworkMode::Container(_)),
        });
        let mut line = serde_json::to_vec(&foundation)
            .map_err(|source| ContainerError::Row { id: id.to_owned(), source })?;
        line.push(b'\n');
        unless_gone(write_all(&newborn.orders, &line)).map_err(no_monitor)?;
        Ok(Some(newborn))
    }

    fn execute_monitor(&self, id: &str, lock: &OwnedFd) -> io::Result<Newborn> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::io::ioctl_fionbio(&theirs, true)?;
        let (told, orders) = pipe_with(PipeFlags::CLOEXEC)?;
        let executable = sealed_executable()?;
        let cgroup = self.monitor_cgroup().map_err(io::Error::other)?;
        let monitor = davit_sys::process::spawn(&Spawn {
            executable: executable.as_fd(),
            arguments: &CStringArray::new(["davit", "__monitor", id])?,
            environment: &CStringArray::new::<&str>([])?,
            descriptors: &[
                Handover { descriptor: lock.as_fd(), number: monitor::LOCK },
                Handover { descriptor: theirs.as_fd(), number: monitor::STARTER },
                Handover { descriptor: told.as_fd(), number: monitor::BIRTH },
            ],
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.as_fd()),
            session: Session::New,
        })?;
        Ok(Newborn { connection: Connection::new(ours), orders, monitor })
    }

    /// The cgroup of all monitors of this root, so that none ends with its caller's scope.
    fn monitor_cgroup(&self) -> Result<Option<Cgroup>, ContainerError> {
        let path = format!("{}/monitors", self.cgroup_root());
        Ok(Some(Cgroups::discover()?.open_or_create(&path)?))
    }

    /// Takes the lock of a container that does not run; `None` when another command has started
    /// it, whose monitor then keeps the lock.
    pub(crate) fn lock_container(&self, id: &str) -> Result<Option<OwnedFd>, ContainerError> {
        let (mut lock, mut path) = self.lock_file(id, "lock")?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_at(&lock, &path) => return Ok(Some(lock)),
                // It went with the container: who comes next locks another file.
                Ok(()) => (lock, path) = self.lock_file(id, "lock")?,
                Err(Errno::WOULDBLOCK) if self.is_watched(id)? => return Ok(None),
                // A reader that looks, a monitor that is leaving, or another command.
                Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_LOOK);
                }
                Err(errno) => return Err(ContainerError::io("lock", path, errno)),
            }
        }
    }

    /// The same, with the container's row as it is under the lock.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`] when another command has removed the container.
    pub(crate) fn lock_row(
        &self,
        id: &str,
    ) -> Result<Option<(ContainerRow, OwnedFd)>, ContainerError> {
        let Some(lock) = self.lock_container(id)? else { return Ok(None) };
        match self.store().container(id) {
            Err(error) if error.is_not_found() => {
                // It was made for this lock.
                self.remove_run_directory(id)?;
                Err(ContainerError::NotFound { kind: "container", name: id.to_owned() })
            }
            row => Ok(Some((row?, lock))),
        }
    }

    /// Waits until nobody else is restarting the container, and keeps others waiting meanwhile.
    pub(crate) fn lock_restart(&self, id: &str) -> Result<OwnedFd, ContainerError> {
        let (lock, path) = self.lock_file(id, "restart")?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(|errno| ContainerError::io("lock", path, errno))?;
        Ok(lock)
    }

    fn lock_file(&self, id: &str, name: &str) -> Result<(OwnedFd, PathBuf), ContainerError> {
        let directory = self.store().layout().run_container(id);
        let path = directory.join(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        loop {
            self.store().make_dir(&directory)?;
            match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR) {
                Ok(lock) => return Ok((lock, path)),
                // Another command has removed the container in between.
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(ContainerError::io("open", &path, errno)),
            }
        }
    }

    /// Removes the run directory of a container without row, whose lock the caller holds. Where
    /// another command is making it again for the lock, that one finds no row and removes it.
    pub(crate) fn remove_run_directory(&self, id: &str) -> Result<(), ContainerError> {
        match remove_tree(&self.store().layout().run_container(id)) {
            Err(ContainerError::Io { source, .. })
                if source.kind() == io::ErrorKind::DirectoryNotEmpty =>
            {
                Ok(())
            }
            removed => removed,
        }
    }

    /// Whether the container's command runs and its monitor lives.
    fn is_watched(&self, id: &str) -> Result<bool, ContainerError> {
        let summary = Summary::of(&self.records(id)?);
        let lives = |monitor: Identity| Process::open(monitor).is_ok();
        Ok(summary.process().is_some()
            && summary.ended.is_none()
            && summary.monitor.is_some_and(lives))
    }
}

/// A monitor that has ended already says nothing either when it is asked for its first word, and
/// that is what is told.
fn unless_gone(given: io::Result<()>) -> io::Result<()> {
    match given {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        given => given,
    }
}

fn no_monitor(source: io::Error) -> ContainerError {
    ContainerError::io("start", "davit __monitor", source)
}

/// davit's executable as a container cannot overwrite it.
pub(crate) fn sealed_executable() -> io::Result<OwnedFd> {
    davit_sys::sealed::executable().map_err(io::Error::other)
}

/// A file in memory for what a helper is told.
pub(crate) fn told(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
    write_all(&file, bytes)?;
    rustix::fs::seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// Whether an open file is still the one at `path`.
fn is_at(file: &OwnedFd, path: &Path) -> bool {
    let same =
        |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    matches!((rustix::fs::fstat(file), rustix::fs::stat(path)), (Ok(open), Ok(there)) if same(open, there))
}

/// Writes everything.
fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}
