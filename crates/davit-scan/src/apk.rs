//! apk's database: `installed`, stanzas of one-letter fields.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    Inventory, MOST_FILES, Package, PackageFile, PackageKind, ScanError, Tree, is_word, line,
};

/// Where it is, in older and newer releases.
const PLACES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
/// How a SHA-1 begins; its bytes follow as base64.
const SHA1: &str = "Q1";

pub(crate) fn read(tree: &Tree<'_>, inventory: &mut Inventory) -> Result<(), ScanError> {
    for place in PLACES {
        if let Some(bytes) = tree.read(place)? {
            // Where one place is a link to the other, both give the same packages.
            return parse(&bytes, place, inventory);
        }
    }
    Ok(())
}

pub(crate) fn parse(
    bytes: &[u8],
    database: &str,
    inventory: &mut Inventory,
) -> Result<(), ScanError> {
    let text = String::from_utf8_lossy(bytes);
    let (mut stanza, mut files) = (Stanza::default(), 0);
    for line in text.lines() {
        if line.is_empty() {
            files += std::mem::take(&mut stanza).finish(database, inventory)?;
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.set(field, value, files);
        } else {
            stanza.is_odd = true;
        }
    }
    stanza.finish(database, inventory).map(drop)
}

#[derive(Default)]
struct Stanza {
    package: Package,
    directory: String,
    file: Option<String>,
    is_odd: bool,
}

impl Stanza {
    /// `files` are those of the packages before.
    fn set(&mut self, field: &str, value: &str, files: usize) {
        let package = &mut self.package;
        match field {
            "P" => value.clone_into(&mut package.name),
            "V" => value.clone_into(&mut package.version),
            "A" if is_word(value) => value.clone_into(&mut package.architecture),
            "L" => package.licence = line(value),
            "U" => package.homepage = line(value),
            "m" => package.supplier = line(value),
            "o" if is_word(value) => package.source = Some((value.to_owned(), String::new())),
            "F" => value.clone_into(&mut self.directory),
            "R" => self.file = Some(value.to_owned()),
            "Z" if files + package.files.len() < MOST_FILES => {
                let path = self.file.take().map(|name| joined(&self.directory, &name));
                let file = path.zip(sha1(value)).map(|(path, sha1)| PackageFile { path, sha1 });
                package.files.extend(file);
            }
            _ => {}
        }
    }

    /// Adds the package; yields how many files it has.
    fn finish(self, database: &str, inventory: &mut Inventory) -> Result<usize, ScanError> {
        let mut package = self.package;
        if package == Package::default() {
            inventory.skipped += usize::from(self.is_odd);
            return Ok(0);
        }
        package.kind = PackageKind::Apk;
        database.clone_into(&mut package.database);
        package.files.sort();
        let name = &package.name;
        package.source = package.source.take().filter(|(source, _)| source != name);
        let files = package.files.len();
        inventory.add(package).map(|()| files)
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

/// The hexadecimal digits of a SHA-1; `None` for other checksums.
fn sha1(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text.trim().strip_prefix(SHA1)?).ok()?;
    (bytes.len() == 20).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUM: &str = "a8a719fa3db7c6cb005e681086438ef1d1e76d6c";

    #[test]
    fn reads_stanzas() {
        let text = b"C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\
            o:musl\nm:A <a@b>\nF:lib\nR:ld.so\na:0:0:755\nZ:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\n\
            R:x\nZ:Q2bad\n\nP:no-version\n\nodd\n\nP:sub\nV:1\no:main\n";
        let mut found = Inventory::default();
        parse(text, PLACES[0], &mut found).unwrap();
        assert_eq!((found.packages.len(), found.skipped), (2, 2));
        let musl = &found.packages[0];
        assert_eq!((musl.licence.as_deref(), &musl.source), (Some("MIT"), &None));
        let file = PackageFile { path: "lib/ld.so".to_owned(), sha1: SUM.to_owned() };
        assert_eq!(musl.files, [file]);
        assert_eq!(found.packages[1].source, Some(("main".to_owned(), String::new())));
    }

    #[test]
    fn no_text_is_too_odd() {
        for text in [&b""[..], b"\n", b"Z:Q1\n", b"R:\nZ:Q1====\n", b"P:\xff\nV:\xff\n\n", b":::"] {
            let mut found = Inventory::default();
            parse(text, PLACES[0], &mut found).unwrap();
            assert!(found.packages.len() <= 1, "{text:?}");
        }
    }
}
