//! apk's database: `installed`, stanzas of one-letter fields.

use crate::{Inventory, Package, PackageKind, ScanError, Tree, files::owned_path, is_word, line};

/// Where it is, in older and newer releases.
const PLACES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

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
    let mut stanza = Stanza::default();
    for line in text.lines() {
        if line.is_empty() {
            std::mem::take(&mut stanza).finish(database, inventory)?;
        } else if let Some((field, value)) = line.split_once(':') {
            stanza.set(field, value);
        } else {
            stanza.is_odd = true;
        }
    }
    stanza.finish(database, inventory)
}

#[derive(Default)]
struct Stanza {
    package: Package,
    directory: String,
    files: Vec<String>,
    is_odd: bool,
}

impl Stanza {
    fn set(&mut self, field: &str, value: &str) {
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
            "R" => self.files.extend(owned_path(&joined(&self.directory, value))),
            _ => {}
        }
    }

    fn finish(self, database: &str, inventory: &mut Inventory) -> Result<(), ScanError> {
        let mut package = self.package;
        if package == Package::default() && self.files.is_empty() {
            inventory.skipped += usize::from(self.is_odd);
            return Ok(());
        }
        package.kind = PackageKind::Apk;
        database.clone_into(&mut package.database);
        let name = &package.name;
        package.source = package.source.take().filter(|(source, _)| source != name);
        inventory.add(package, self.files)
    }
}

fn joined(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stanzas() {
        let text = b"C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\n\
            o:musl\nm:A <a@b>\nF:lib\nR:ld.so\na:0:0:755\nZ:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=\n\
            R:../x\nZ:Q2bad\nF:\nR:init\n\nP:no-version\n\nodd\n\nP:sub\nV:1\no:main\n";
        let mut found = Inventory::default();
        parse(text, PLACES[0], &mut found).unwrap();
        assert_eq!((found.packages.len(), found.skipped), (2, 2));
        let musl = &found.packages[0];
        assert_eq!((musl.licence.as_deref(), &musl.source), (Some("MIT"), &None));
        let files: Vec<&str> = musl.files.iter().map(|file| &*file.path).collect();
        assert_eq!(files, ["init", "lib/ld.so"]);
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
