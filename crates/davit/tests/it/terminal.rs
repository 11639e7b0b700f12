//! A command on a pseudo-terminal, driven as a person drives it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};

use davit_test::until;

use crate::machine::Machine;

/// A running command and its terminal.
pub(crate) struct Terminal {
    child: Child,
    master: File,
    /// Kept open, so that the terminal outlives the command.
    slave: OwnedFd,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    /// Starts davit on a terminal of 24 rows and 80 columns.
    pub(crate) fn start(machine: &Machine, arguments: &[&str]) -> Self {
        Self::of(&machine.command(arguments))
    }

    /// Starts a command on such a terminal.
    pub(crate) fn of(inner: &Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("its other side");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let slave = ioctl_tiocgptpeer(&master, flags).expect("its other side");
        tcsetwinsize(&master, window(24, 80)).expect("a size");
        // `setsid` makes it the controlling terminal, so that a change of size is signalled.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(inner.get_program()).args(inner.get_args());
        // Not those of whoever runs the tests.
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let side = || Stdio::from(slave.try_clone().expect("a copy"));
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("setsid");
        let master = File::from(master);
        let shown = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, sink) = (master.try_clone().expect("a copy"), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut buffer) {
                let mut shown = sink.lock().unwrap_or_else(PoisonError::into_inner);
                shown.extend_from_slice(&buffer[..length]);
            }
        });
        Self { child, master, slave, shown }
    }

    /// Everything that was shown.
    pub(crate) fn text(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until something was shown.
    pub(crate) fn expect(&self, text: &str) {
        until(&format!("the terminal shows {text:?}; it has {:?}", self.text()), || {
            self.text().contains(text)
        });
    }

    /// Types.
    pub(crate) fn keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("typed");
    }

    /// Changes the size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, window(rows, columns)).expect("resized");
    }

    /// Process of the command.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether keys are passed on as they are typed.
    pub(crate) fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).expect("modes").local_modes.contains(LocalModes::ICANON)
    }

    /// Whether keys are shown.
    pub(crate) fn has_echo(&self) -> bool {
        tcgetattr(&self.slave).expect("modes").local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the command's end; its exit code. The terminal must be as it was.
    pub(crate) fn end(mut self) -> i32 {
        let status = std::cell::Cell::new(None);
        let child = std::cell::RefCell::new(&mut self.child);
        let shown = Arc::clone(&self.shown);
        let text = || String::from_utf8_lossy(&shown.lock().unwrap()).into_owned();
        until(&format!("the command ends; it showed {:?}", text()), || {
            status.set(child.borrow_mut().try_wait().expect("a child"));
            status.get().is_some()
        });
        assert!(!self.is_raw() && self.has_echo(), "the terminal's mode is restored");
        status.get().and_then(|status| status.code()).unwrap_or(-1)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}
