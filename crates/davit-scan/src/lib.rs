//! What an image holds: the packages that its file system's databases name.
//!
//! ```text
//! layers -> Tree (merged view, tars) -> os-release -> Distro
//!                                    -> dpkg, apk  -> Package ...   -> Inventory -> SPDX 2.3
//!                                    -> files      -> their SHA-1
//! ```
//!
//! Nothing is mounted and no package manager runs: databases are read out of the layers' tars. They
//! are as hostile as the image: sizes and counts are bounded, an entry that makes no sense is skipped
//! and counted.
//!
//! **Invariant:** the same layers give the same inventory, in the same order.

#![forbid(unsafe_code)]

mod apk;
mod dpkg;
mod files;
mod os_release;
mod purl;
mod spdx;
mod tree;

use std::sync::atomic::AtomicBool;

pub use os_release::Distro;
pub use purl::{encoded, image_purl};
pub use spdx::{Subject, spdx};
pub use tree::Tree;

/// Most packages of one file system.
const MOST_PACKAGES: usize = 200_000;
/// Most files that packages own; further ones are not told.
const MOST_FILES: usize = 500_000;

/// All packages of a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The distribution, if the file system says which one it is.
    pub distro: Option<Distro>,
    /// Packages, by kind, name and version.
    pub packages: Vec<Package>,
    /// Entries of databases that make no sense.
    pub skipped: usize,
    /// Files that packages own.
    files: usize,
}

/// A package that is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who installed it.
    pub kind: PackageKind,
    /// Its name.
    pub name: String,
    /// Its version, as its kind writes it.
    pub version: String,
    /// What it runs on, in its kind's words.
    pub architecture: String,
    /// Name and version of the source package, where that has another name or version.
    pub source: Option<(String, String)>,
    /// What the database says of its licence.
    pub licence: Option<String>,
    /// Who maintains it, as `NAME <ADDRESS>`.
    pub supplier: Option<String>,
    /// Its home page.
    pub homepage: Option<String>,
    /// The database that names it, without leading `/`.
    pub database: String,
    /// Files of it that are there.
    pub files: Vec<PackageFile>,
}

/// A file of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PackageFile {
    /// Its path, without leading `/`.
    pub path: String,
    /// SHA-1 of its content, in hexadecimal digits.
    pub sha1: String,
}

/// Who installs a kind of packages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum PackageKind {
    /// `dpkg`.
    #[default]
    Deb,
    /// `apk`.
    Apk,
}

impl PackageKind {
    /// Its type in a package URL.
    #[must_use]
    pub const fn purl_type(self) -> &'static str {
        match self {
            Self::Deb => "deb",
            Self::Apk => "apk",
        }
    }
}

/// Why a file system cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// A file cannot be read.
    #[error("cannot read /{path} of the image")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A database is larger than any honest one.
    #[error("/{path} of the image has {size} bytes, more than a package database may have")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
    },
    /// There are more packages than any honest image has.
    #[error("the image has more than {MOST_PACKAGES} packages")]
    TooMany,
    /// Somebody stopped the search.
    #[error("the search for packages was stopped")]
    Cancelled,
}

/// Looks for all packages of a file system.
///
/// Blocks. Takes as long as reading the databases and the files of all packages. Another thread ends
/// it by `cancelled`.
///
/// # Errors
/// [`ScanError`]; a database that is not there is none.
pub fn scan(tree: &Tree<'_>, cancelled: &AtomicBool) -> Result<Inventory, ScanError> {
    let mut inventory = Inventory { distro: os_release::read(tree)?, ..Inventory::default() };
    dpkg::read(tree, &mut inventory, cancelled)?;
    apk::read(tree, &mut inventory)?;
    inventory.packages.sort();
    // Two databases may tell of one package.
    inventory.packages.dedup_by(|one, other| one.identity() == other.identity());
    files::digest(tree, &mut inventory, cancelled)?;
    Ok(inventory)
}

impl Inventory {
    /// Adds a package and what it owns, unless it has no name or version that can be one.
    fn add(&mut self, mut package: Package, mut files: Vec<String>) -> Result<(), ScanError> {
        if !is_word(&package.name) || !is_word(&package.version) {
            self.skipped += 1;
            return Ok(());
        }
        if self.packages.len() >= MOST_PACKAGES {
            return Err(ScanError::TooMany);
        }
        files.sort();
        files.dedup();
        files.truncate(MOST_FILES - self.files);
        self.files += files.len();
        let file = |path| PackageFile { path, sha1: String::new() };
        package.files = files.into_iter().map(file).collect();
        self.packages.push(package);
        Ok(())
    }
}

impl Package {
    /// What tells it from all others.
    fn identity(&self) -> impl PartialEq {
        (self.kind, &self.name, &self.version, &self.architecture, &self.source)
    }
}

/// Whether a name or version can be one: a short text without blanks and control characters.
fn is_word(text: &str) -> bool {
    const LONGEST: usize = 512;
    let is_odd = |it: char| it.is_whitespace() || it.is_control();
    !text.is_empty() && text.len() <= LONGEST && !text.chars().any(is_odd)
}

/// A line of text that may be told of a package; an odd one is none.
fn line(text: &str) -> Option<String> {
    const LONGEST: usize = 4096;
    let text = text.trim();
    let fits = !text.is_empty() && text.len() <= LONGEST && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DPKG: &[u8] = b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\
        Source: glibc (2.36)\nMaintainer: A <a@b>\nDescription: C\n more\n\nPackage: b\nVersion: 1\n";
    const APK: &[u8] = b"C:Q1x\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT AND (BSD)\no:musl\nm:A <a@b>\n\
        F:lib\nR:ld.so\nZ:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\n\nP:sub\nV:1\no:main\n";

    /// What a database may have become, from what it was: bytes changed, moved and cut.
    fn spoiled(text: &[u8], seed: &mut u64) -> Vec<u8> {
        let mut next = |limit: usize| {
            *seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(*seed >> 33).unwrap_or(0) % limit
        };
        let mut bytes = text.to_vec();
        for _ in 0..=next(6) {
            let at = next(bytes.len());
            match next(4) {
                0 => bytes[at] = b"\n:\0\xff <>(\x1b="[next(10)],
                1 => drop(bytes.remove(at)),
                2 => bytes.extend_from_within(at..),
                _ => bytes.truncate(at.max(1)),
            }
            if bytes.is_empty() {
                bytes.push(b'\n');
            }
        }
        bytes
    }

    #[test]
    fn spoiled_databases_give_documents() {
        let subject = Subject {
            name: "x".into(),
            identity: davit_image::Digest::of(b"x"),
            created: davit_image::Timestamp::EPOCH,
            tool: "t".into(),
        };
        let no_files = |_: &Package| Vec::new();
        let mut seed = 1;
        for _ in 0..3000 {
            let mut inventory = Inventory::default();
            dpkg::parse(&spoiled(DPKG, &mut seed), "d", (&mut inventory, &no_files)).unwrap();
            apk::parse(&spoiled(APK, &mut seed), "a", &mut inventory).unwrap();
            for package in &inventory.packages {
                assert!(is_word(&package.name) && is_word(&package.version), "{package:?}");
                let purl = package.purl(None);
                assert!(purl.bytes().all(|it| it.is_ascii_graphic()), "{purl}");
            }
            let document = spdx(&inventory, &subject);
            assert!(document["packages"].is_array());
        }
    }
}
