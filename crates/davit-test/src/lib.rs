//! Fixtures, filters and contract suites for davit's tests.
//!
//! A test that lacks a privilege or a tool calls [`skip`] and returns: it is then counted as
//! skipped, by name and reason, never as passed.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "tests speak to a person")]
#![allow(clippy::disallowed_methods, reason = "tests are configured by the environment")]

mod actions;
mod content;
mod davit;
mod filter;
mod http;
mod node;
mod peer_root;
mod port;
mod postgres;
mod python;
mod registry;
mod s3;
mod temp;

use std::{
    fs::OpenOptions,
    io::Write as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use actions::{ACTIONS_TOKEN, ActionsCache};
pub use content::{Content, TestImage, gzip, noise, ranged, tar_of};
pub use davit::{Davit, Outcome};
pub use filter::filter;
pub use http::{End, HttpServer, Reply, Request};
pub use node::need_node_package;
pub use peer_root::{need_debian_root, need_peer_root};
pub use port::{Port, is_taken};
pub use postgres::{Postgres, database_beside};
pub use python::python_with;
pub use registry::{Access, Registry, need_certificate, need_signed_certificate};
pub use s3::S3;
pub use temp::TempDir;

/// How long [`until`] looks.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often it does.
const LOOK: Duration = Duration::from_millis(5);

/// Names the environment variable with the file that collects skipped tests.
pub const SKIPS_ENV: &str = "DAVIT_TEST_SKIPS";
/// Names the environment variable with the folder of real images.
pub const IMAGES_ENV: &str = "DAVIT_TEST_IMAGES";
/// Names the environment variable with the folder that keeps peers and corpora between runs.
pub const CACHE_ENV: &str = "DAVIT_TEST_CACHE";
/// Names the environment variable with the number of kills of a longer run.
pub const KILLS_ENV: &str = "DAVIT_TEST_KILLS";

/// Names the environment variable with the number of operations of a longer soak of the registry.
pub const SOAK_ENV: &str = "DAVIT_TEST_SOAK";

/// How many operations a soak makes: `usual`, or what a longer run asks for.
#[must_use]
pub fn soak_operations(usual: usize) -> usize {
    std::env::var(SOAK_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Looks until something is so.
///
/// # Panics
/// After two minutes, with `what` was waited for, unless the test has failed already.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline || std::thread::panicking(), "never: {what}");
        std::thread::sleep(LOOK);
    }
}

/// How often to kill a real process at random instants: `usual`, or what a longer run asks for.
#[must_use]
pub fn kills(usual: usize) -> usize {
    std::env::var(KILLS_ENV).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Records that the running test cannot run here; the caller returns right after.
///
/// # Panics
/// If the record cannot be written: a skip must not pass unnoticed.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("unnamed test");
    eprintln!("SKIPPED {name}: {reason}");
    if let Some(path) = std::env::var_os(SKIPS_ENV) {
        // The suite has made it: where the user runs it and the tests are root, a file of another
        // user in /tmp may not even be opened for creation (fs.protected_regular).
        let mut file = OpenOptions::new().append(true).open(path).expect("skip file");
        // One write, so that parallel tests do not mix their lines.
        file.write_all(format!("{name}\t{reason}\n").as_bytes()).expect("skip is recorded");
    }
}

/// Tells whether the test runs as root; records a skip where it does not.
#[must_use]
pub fn need_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// As [`find_tool`]; records a skip where there is none.
#[must_use]
pub fn need_tool(name: &str) -> Option<PathBuf> {
    let found = find_tool(name);
    if found.is_none() {
        skip(&format!("needs the program `{name}`"));
    }
    found
}

/// Finds a program on PATH, in the sbin folders, or among those that the suite has built.
#[must_use]
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .chain(["go", "cargo/bin", "moto/bin"].map(|folder| cache_path().join(folder)))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// Finds a real image (a file or folder of the image folder); records a skip where it is absent.
#[must_use]
pub fn need_image(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os(IMAGES_ENV)
        .map(|folder| Path::new(&folder).join(name))
        .filter(|path| path.exists());
    if found.is_none() {
        skip(&format!("needs the image `{name}` in the folder that {IMAGES_ENV} names"));
    }
    found
}

/// The folder that keeps peers and corpora between runs, made on first use.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn cache_dir() -> PathBuf {
    let path = cache_path();
    fs_err::create_dir_all(&path).expect("the cache folder can be made");
    path
}

/// Where [`cache_dir`] is or will be.
#[must_use]
pub fn cache_path() -> PathBuf {
    std::env::var_os(CACHE_ENV)
        .map_or_else(|| PathBuf::from("/var/cache/davit-tests"), PathBuf::from)
}
