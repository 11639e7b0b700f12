//! Network namespaces that live as long as a test.

use std::{
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
};

use davit_test::{need_root, need_tool, until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace held by a sleeping process.
#[derive(Debug)]
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Makes one with loopback up; `None` (recorded as skipped) without root or `unshare`.
    pub(crate) fn new() -> Option<Self> {
        if !need_root() {
            return None;
        }
        let unshare = need_tool("unshare")?;
        let holder = Command::new(unshare)
            .args(["--net", "--kill-child", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let namespace = Self { holder };
        let own = fs_err::read_link("/proc/self/ns/net").expect("own namespace");
        until("unshare has made a namespace", || {
            fs_err::read_link(namespace.path()).expect("its namespace") != own
        });
        namespace.inside(davit_network::loopback_up).expect("loopback goes up");
        Some(namespace)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// The namespace by descriptor.
    pub(crate) fn open(&self) -> fs_err::File {
        fs_err::File::open(self.path()).expect("the holder lives")
    }

    /// Process id of the holder, for `ip link set netns`.
    pub(crate) fn pid(&self) -> String {
        self.holder.id().to_string()
    }

    /// Runs `action` on a thread inside the namespace.
    pub(crate) fn inside<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let file = self.open();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter");
                action()
            });
            thread.join().expect("the thread does not panic")
        })
    }

    /// Runs a program inside; its standard output.
    pub(crate) fn run(&self, line: &str) -> String {
        self.inside(|| {
            let mut words = line.split_whitespace();
            let program = words.next().expect("a program");
            let output = Command::new(program).args(words).output().expect("it starts");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{line}: {error}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It sleeps; both calls succeed unless somebody else ended it.
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
