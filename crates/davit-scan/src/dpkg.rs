//! dpkg's database: `status` with `info`, or one file for each package (`status.d`, of images without
//! dpkg).
//!
//! | file | holds |
//! |---|---|
//! | `info/NAME.list`, `info/NAME:ARCHITECTURE.list` | all that a package owns, directories too, a path a line |
//! | `status.d/NAME.md5sums` | its files, behind their MD5 |

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Inventory, Package, PackageKind, ScanError, Tree, files::owned_path, is_word, line};

const STATUS: &str = "var/lib/dpkg/status";
const STATUS_DIRECTORY: &str = "var/lib/dpkg/status.d";
const INFO: &str = "var/lib/dpkg/info";
const SUMS: &str = ".md5sums";
/// Most bytes of all files of the database together: many times those of a machine with everything
/// installed.
const MOST_BYTES: u64 = 1 << 30;

/// Says which files a package owns.
type Owned<'a> = &'a dyn Fn(&Package) -> Vec<String>;

pub(crate) fn read(
    tree: &Tree<'_>,
    inventory: &mut Inventory,
    cancelled: &AtomicBool,
) -> Result<(), ScanError> {
    let database = Database { tree, read: std::cell::Cell::new(0), cancelled };
    if let Some(bytes) = database.read(STATUS)? {
        parse(&bytes, STATUS, (inventory, &|package| database.listed(package)))?;
    }
    for name in tree.list(STATUS_DIRECTORY) {
        let path = format!("{STATUS_DIRECTORY}/{name}");
        // Checksums lie beside the stanzas.
        if !name.ends_with(SUMS)
            && let Some(bytes) = database.read(&path)?
        {
            parse(&bytes, &path, (&mut *inventory, &|_| database.summed(&path)))?;
        }
    }
    Ok(())
}

/// The files of the database, which may be many.
struct Database<'a> {
    tree: &'a Tree<'a>,
    /// Bytes that were read.
    read: std::cell::Cell<u64>,
    cancelled: &'a AtomicBool,
}

impl Database<'_> {
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ScanError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(ScanError::Cancelled);
        }
        let size = self.read.get();
        if size > MOST_BYTES {
            return Err(ScanError::TooLarge { path: "var/lib/dpkg".to_owned(), size });
        }
        let bytes = self.tree.read(path)?;
        self.read.set(size + bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        Ok(bytes)
    }

    /// What `info` says that a package owns. A list that cannot be read tells nothing.
    fn listed(&self, package: &Package) -> Vec<String> {
        let Package { name, architecture, .. } = package;
        if name.contains('/') || architecture.contains('/') {
            return Vec::new();
        }
        // Of a package that may be there for several architectures at once the name has this one.
        let places = [format!("{INFO}/{name}:{architecture}.list"), format!("{INFO}/{name}.list")];
        let mut found = places.iter().filter_map(|place| self.read(place).ok().flatten());
        let text = found.next().unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter_map(owned_path).collect()
    }

    /// What the checksums beside a stanza name.
    fn summed(&self, stanza: &str) -> Vec<String> {
        let text = self.read(&format!("{stanza}{SUMS}")).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let names = text.lines().filter_map(|line| line.split_once(' '));
        names.filter_map(|(_, name)| owned_path(name.trim_start())).collect()
    }
}

/// Reads stanzas of `Field: value`, with blank lines between them (deb-control(5)).
pub(crate) fn parse(
    bytes: &[u8],
    database: &str,
    (inventory, owned): (&mut Inventory, Owned<'_>),
) -> Result<(), ScanError> {
    let text = String::from_utf8_lossy(bytes);
    let mut stanza = Stanza::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            std::mem::take(&mut stanza).finish(database, (&mut *inventory, owned))?;
        } else if line.starts_with([' ', '\t']) {
            // The rest of a description or of a list of files.
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.set(field, value.trim());
        } else {
            stanza.is_odd = true;
        }
    }
    stanza.finish(database, (inventory, owned))
}

#[derive(Default)]
struct Stanza {
    package: Package,
    status: Option<String>,
    /// It holds something that is no field.
    is_odd: bool,
}

impl Stanza {
    fn set(&mut self, field: &str, value: &str) {
        let package = &mut self.package;
        match field.to_ascii_lowercase().as_str() {
            "package" => value.clone_into(&mut package.name),
            "version" => value.clone_into(&mut package.version),
            "architecture" if is_word(value) => value.clone_into(&mut package.architecture),
            "status" => self.status = Some(value.to_owned()),
            "maintainer" => package.supplier = line(value),
            "homepage" => package.homepage = line(value),
            "source" => package.source = source(value),
            _ => {}
        }
    }

    fn finish(
        self,
        database: &str,
        (inventory, owned): (&mut Inventory, Owned<'_>),
    ) -> Result<(), ScanError> {
        let Self { mut package, status, is_odd } = self;
        if package == Package::default() && status.is_none() {
            inventory.skipped += usize::from(is_odd);
            return Ok(());
        }
        // What was removed leaves its configuration, and its stanza.
        let state = status.as_deref().map(|it| it.rsplit(' ').next().unwrap_or_default());
        if state.is_some_and(|state| matches!(state, "not-installed" | "config-files")) {
            return Ok(());
        }
        package.kind = PackageKind::Deb;
        database.clone_into(&mut package.database);
        let (name, version) = (&package.name, &package.version);
        package.source = package
            .source
            .take()
            .filter(|(source, own)| source != name || (!own.is_empty() && own != version));
        let files = owned(&package);
        inventory.add(package, files)
    }
}

/// `NAME` or `NAME (VERSION)`.
fn source(text: &str) -> Option<(String, String)> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let version = rest.trim().strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let version = version.unwrap_or_default();
    let fits = is_word(name) && (version.is_empty() || is_word(version));
    fits.then(|| (name.to_owned(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packages(text: &[u8]) -> Inventory {
        let mut inventory = Inventory::default();
        parse(text, STATUS, (&mut inventory, &|it| vec![format!("usr/{}", it.name)])).unwrap();
        inventory
    }

    #[test]
    fn reads_stanzas() {
        let text = b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n\
            Architecture: amd64\nSource: glibc\nMaintainer: GNU Libc <g@d.org>\n\
            Description: C\n Package: not me\n\nPackage: gone\nStatus: deinstall ok config-files\n\
            Version: 1\n\n\nPackage: b\nSource: b (1)\nVersion: 1\n\nPackage: c\n\nodd\n\n\
            Package: d\nVersion: 1 2\n";
        let found = packages(text);
        let names: Vec<&str> = found.packages.iter().map(|it| it.name.as_str()).collect();
        assert_eq!((names, found.skipped), (vec!["libc6", "b"], 3));
        assert_eq!(found.packages[0].source, Some(("glibc".to_owned(), String::new())));
        assert_eq!(found.packages[0].supplier.as_deref(), Some("GNU Libc <g@d.org>"));
        assert_eq!(found.packages[1].source, None);
        assert_eq!(found.packages[1].files[0].path, "usr/b");
    }

    #[test]
    fn no_text_is_too_odd() {
        for text in [
            &b""[..],
            b"\n\n\n",
            b":\n",
            b"Package",
            b"\xff\xfe: \xff",
            b"Package: \xff\nVersion: \x1b[2J",
            b" x\n\ty",
        ] {
            let found = packages(text);
            assert!(found.packages.iter().all(|it| is_word(&it.version)), "{text:?}");
        }
    }
}
