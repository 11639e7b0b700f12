//! The file of a network's names: one line for each container, as in `/etc/hosts`.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::Metadata,
    io::{self, Read as _},
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::message::Question;

/// The first line, with the version of the form.
const VERSION: &str = "# names 1\n";
/// Most bytes that are read: a network of 65,534 containers has about as many.
const MOST_BYTES: u64 = 16 << 20;

/// A container's place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameEntry {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is found by; names with blanks are left out.
    pub names: Vec<String>,
}

/// Replaces the file of a network's names at once.
///
/// Of two that write at a time the caller sees to it that the later one knows more.
///
/// # Errors
/// What the disk says.
pub fn write_names(path: &Path, entries: &[NameEntry]) -> io::Result<()> {
    let mut text = VERSION.to_owned();
    for entry in entries {
        let is_word = |name: &&String| !name.is_empty() && !name.contains(char::is_whitespace);
        let names: Vec<_> = entry.names.iter().filter(is_word).map(String::as_str).collect();
        for address in &entry.addresses {
            let _ = writeln!(text, "{address} {}", names.join(" "));
        }
    }
    let unfinished = path.with_extension("new");
    fs_err::write(&unfinished, text)?;
    fs_err::rename(&unfinished, path)
}

/// The names as of the last question.
#[derive(Debug)]
pub(super) struct NamesFile {
    path: PathBuf,
    seen: Option<Seen>,
    names: BTreeMap<String, Vec<IpAddr>>,
}

/// By what a file is known from the one that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl Seen {
    fn of(facts: &Metadata) -> Self {
        let changed = (facts.ctime(), facts.ctime_nsec());
        Self { device: facts.dev(), inode: facts.ino(), changed }
    }
}

impl NamesFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, names: BTreeMap::new() }
    }

    /// Addresses of the name that is asked for; `None` if it is nobody's.
    pub(super) fn addresses(&mut self, question: &Question) -> Option<&[IpAddr]> {
        self.look();
        self.names.get(&question.name).map(Vec::as_slice)
    }

    /// Reads the file again if it is another one.
    fn look(&mut self) {
        let facts = fs_err::metadata(&self.path);
        let now = facts.ok().as_ref().map(Seen::of);
        if now == self.seen {
            return;
        }
        (self.seen, self.names) = match self.read() {
            Ok((seen, names)) => (Some(seen), names),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(%error, "cannot read the names of a network");
                }
                (None, BTreeMap::new())
            }
        };
    }

    fn read(&self) -> io::Result<(Seen, BTreeMap<String, Vec<IpAddr>>)> {
        let file = fs_err::File::open(&self.path)?;
        let seen = Seen::of(&file.metadata()?);
        let mut text = String::new();
        file.take(MOST_BYTES).read_to_string(&mut text)?;
        Ok((seen, parse(&text)))
    }
}

fn parse(text: &str) -> BTreeMap<String, Vec<IpAddr>> {
    let mut names = BTreeMap::<String, Vec<IpAddr>>::new();
    let Some(lines) = text.strip_prefix(VERSION) else { return names };
    for line in lines.lines() {
        let mut words = line.split(' ');
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        for name in words.filter(|name| !name.is_empty()) {
            let addresses = names.entry(name.to_ascii_lowercase()).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_they_were_written_last() {
        let directory = davit_test::TempDir::new();
        let path = directory.join("names");
        let mut file = NamesFile::new(path.clone());
        let mut found = |name: &str| {
            file.look();
            file.names.get(name).map(|addresses| {
                addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(found("web"), None);
        let entry = |addresses: &[&str], names: &[&str]| NameEntry {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            names: names.iter().map(|&name| name.to_owned()).collect(),
        };
        let web = entry(&["10.9.0.2", "fd00::2"], &["Web", "app", "two words"]);
        let other = entry(&["10.9.0.3"], &["other", "app", "app"]);
        write_names(&path, &[web, other.clone()]).unwrap();
        assert_eq!(found("web").as_deref(), Some("10.9.0.2 fd00::2"));
        assert_eq!(found("app").as_deref(), Some("10.9.0.2 fd00::2 10.9.0.3"));
        assert_eq!(found("words"), None);
        write_names(&path, &[other]).unwrap();
        assert_eq!((found("web"), found("app").as_deref()), (None, Some("10.9.0.3")));
        fs_err::write(&path, "# names 2\n10.9.0.3 other\n").unwrap();
        assert_eq!(found("other"), None, "another version");
        fs_err::remove_file(&path).unwrap();
        assert_eq!(found("other"), None);
    }
}
