//! `/etc/os-release`: which distribution a file system is of (os-release(5)).

use crate::{ScanError, Tree, is_word, line};

/// Where the file is; the first one counts.
const PLACES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// A distribution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distro {
    /// Its short name, as `debian`.
    pub id: String,
    /// Its version, as `12`; empty if it has none.
    pub version: String,
    /// Its name for people.
    pub name: String,
}

impl Distro {
    /// Its short name and version, as package URLs have them.
    #[must_use]
    pub fn qualifier(&self) -> String {
        match self.version.as_str() {
            "" => self.id.clone(),
            version => format!("{}-{version}", self.id),
        }
    }
}

pub(crate) fn read(tree: &Tree<'_>) -> Result<Option<Distro>, ScanError> {
    for place in PLACES {
        if let Some(bytes) = tree.read(place)? {
            return Ok(parse(&String::from_utf8_lossy(&bytes)));
        }
    }
    Ok(None)
}

fn parse(text: &str) -> Option<Distro> {
    let mut distro = Distro::default();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let value = unquoted(value.trim());
        match key.trim() {
            "ID" => distro.id = value,
            "VERSION_ID" => distro.version = value,
            "PRETTY_NAME" => distro.name = line(&value).unwrap_or_default(),
            _ => {}
        }
    }
    if !is_word(&distro.version) {
        distro.version.clear();
    }
    is_word(&distro.id).then_some(distro)
}

/// A value of a shell assignment.
fn unquoted(value: &str) -> String {
    let inner = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(inner) = inner('\'') {
        return inner.to_owned();
    }
    let mut text = String::new();
    let mut characters = inner('"').unwrap_or(value).chars();
    while let Some(it) = characters.next() {
        text.extend(if it == '\\' { characters.next() } else { Some(it) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_os_release() {
        let text = "PRETTY_NAME=\"Debian \\\"12\\\"\"\n# c\nID=debian\nVERSION_ID='12'\nX\n";
        let distro = parse(text).unwrap();
        assert_eq!(
            (distro.name.as_str(), distro.qualifier().as_str()),
            ("Debian \"12\"", "debian-12")
        );
        assert_eq!(parse("ID=arch\n").unwrap().qualifier(), "arch");
        assert_eq!(parse("ID=arch\nVERSION_ID=\"a b\"").unwrap().version, "");
        for none in ["", "ID=", "ID=a b", "VERSION_ID=1", "ID=a\u{1b}b", "ID=\"", "ID=\\"] {
            let found = parse(none).map(|distro| distro.id);
            assert!(found.is_none() || found.as_deref() == Some("\""), "{none:?} {found:?}");
        }
    }
}
