//! What tells two results of the same build apart.

use std::{
    cmp::Ordering,
    fmt,
    fs::File,
    io::{self, BufReader, Read},
    sync::Arc,
};

use davit_image::{DiffId, Timestamp};
use davit_layer::{Entry, Kind, Table, XattrMap, path};
use serde_json::Value;

use crate::{
    StepInfo,
    copy::Ranges,
    layers::{LayerError, Layers, OpenLayer},
};

/// Contents are compared in pieces of this size.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes that are shown before and behind the first one that differs.
const BEFORE: usize = 8;
const BEHIND: usize = 24;
const ABSENT: &str = "nothing";

/// The first difference of two images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The images' platform, where the build is for several.
    pub platform: Option<String>,
    /// Number of the layer, from 1; `None` if the configs differ.
    pub layer: Option<usize>,
    /// The step that made the layer.
    pub step: Option<StepInfo>,
    /// Path in the layer, or of the value in the config.
    pub path: String,
    /// What differs there.
    pub aspect: Aspect,
    /// What the first build has, and what the second one.
    pub values: [String; 2],
    /// Where contents begin to differ, in bytes.
    pub offset: Option<u64>,
}

/// What of a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// Only one has it.
    Presence,
    /// One is a file, the other a directory, or the like.
    Kind,
    /// Permissions.
    Mode,
    /// User and group.
    Owner,
    /// Target of a link, or number of a device.
    Target,
    /// Extended attributes.
    Xattrs,
    /// Bytes of a file.
    Content,
    /// Time of last modification.
    Time,
    /// Nothing but how the layer is written, as the order of its entries.
    Form,
    /// A value of the config.
    Config,
}

impl Aspect {
    /// Its name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Presence => "presence",
            Self::Kind => "type",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Target => "target",
            Self::Xattrs => "xattrs",
            Self::Content => "content",
            Self::Time => "mtime",
            Self::Form => "order",
            Self::Config => "value",
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(platform) = &self.platform {
            write!(f, "{platform}: ")?;
        }
        match self.layer {
            Some(layer) => write!(f, "layer {layer}")?,
            None => f.write_str("the config")?,
        }
        if let Some(step) = &self.step {
            write!(f, " of `{}`", step.name)?;
        }
        write!(f, ": {} of `{}`", self.aspect.name(), self.path)?;
        if let Some(offset) = self.offset {
            write!(f, " from byte {offset} on")?;
        }
        let [first, second] = &self.values;
        write!(f, ": {first}, then {second}")
    }
}

/// Where two layers differ.
pub(crate) struct Found {
    pub(crate) path: Vec<u8>,
    pub(crate) aspect: Aspect,
    pub(crate) values: [String; 2],
    pub(crate) offset: Option<u64>,
}

impl Found {
    fn new(path: &[u8], aspect: Aspect, values: [String; 2]) -> Self {
        Self { path: path.to_vec(), aspect, values, offset: None }
    }
}

/// Finds the first difference of two layers in the order of paths: one of times only if there is no
/// other.
pub(crate) fn of_layers(layers: &Layers<'_>, both: [DiffId; 2]) -> Result<Found, LayerError> {
    let failed = |source| LayerError::Io { diff_id: both[1], source };
    let (one, two) = (layers.open(both[0])?, layers.open(both[1])?);
    let content = |entries: (&Entry<'_>, &Entry<'_>)| same_but_time(entries, (&one.tar, &two.tar));
    if let Some(found) = first((&one.table, &two.table), content).map_err(failed)? {
        return Ok(found);
    }
    let time = |(one, two): (&Entry<'_>, &Entry<'_>)| {
        let times = [one.mtime, two.mtime];
        let shown = times.map(|time| match Timestamp::from_unix(time.seconds, time.nanoseconds) {
            Ok(shown) => shown.to_string(),
            Err(_) => time.seconds.to_string(),
        });
        let different = times[0] != times[1] && !one.kind.is_whiteout();
        Ok(different.then(|| Found::new(one.path, Aspect::Time, shown)))
    };
    match first((&one.table, &two.table), time).map_err(failed)? {
        Some(found) => Ok(found),
        None => of_tars(&one, &two).map_err(failed),
    }
}

/// Walks two tables side by side until `look` finds something, or one has what the other lacks.
fn first(
    (one, two): (&Table, &Table),
    mut look: impl FnMut((&Entry<'_>, &Entry<'_>)) -> io::Result<Option<Found>>,
) -> io::Result<Option<Found>> {
    let (mut ones, mut twos) = (one.iter().peekable(), two.iter().peekable());
    loop {
        let order = match (ones.peek(), twos.peek()) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => path::compare(one.path, two.path),
        };
        let found = match order {
            Ordering::Equal => match (ones.next(), twos.next()) {
                (Some(one), Some(two)) => look((&one, &two))?,
                _ => None,
            },
            Ordering::Less => ones.next().map(|entry| {
                let values = [kind_of(&entry).to_owned(), ABSENT.to_owned()];
                Found::new(entry.path, Aspect::Presence, values)
            }),
            Ordering::Greater => twos.next().map(|entry| {
                let values = [ABSENT.to_owned(), kind_of(&entry).to_owned()];
                Found::new(entry.path, Aspect::Presence, values)
            }),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
}

const fn kind_of(entry: &Entry<'_>) -> &'static str {
    match entry.kind {
        Kind::File { .. } => "a file",
        Kind::Directory { implied: true, .. } => "no entry of its own",
        Kind::Directory { opaque: true, .. } => "a directory that hides another",
        Kind::Directory { .. } => "a directory",
        Kind::Symlink { .. } => "a symbolic link",
        Kind::HardLink { .. } => "a hard link",
        Kind::CharDevice { .. } => "a character device",
        Kind::BlockDevice { .. } => "a block device",
        Kind::Fifo => "a named pipe",
        Kind::Whiteout => "a removal",
    }
}

fn same_but_time(
    (one, two): (&Entry<'_>, &Entry<'_>),
    (tar, other): (&File, &File),
) -> io::Result<Option<Found>> {
    let found = |aspect, values| Ok(Some(Found::new(one.path, aspect, values)));
    let kinds = [kind_of(one), kind_of(two)];
    if kinds[0] != kinds[1] {
        return found(Aspect::Kind, kinds.map(str::to_owned));
    }
    if one.mode != two.mode {
        return found(Aspect::Mode, [one.mode, two.mode].map(|mode| format!("{mode:04o}")));
    }
    let owners = [one, two].map(|entry| format!("{}:{}", entry.uid, entry.gid));
    if owners[0] != owners[1] {
        return found(Aspect::Owner, owners);
    }
    let targets = [one, two].map(target_of);
    if targets[0] != targets[1] {
        return found(Aspect::Target, targets);
    }
    if one.xattrs != two.xattrs {
        return found(Aspect::Xattrs, [one, two].map(|entry| shown(&entry.xattrs.to_map())));
    }
    let (Kind::File { size, extents }, Kind::File { size: second, extents: others }) =
        (one.kind, two.kind)
    else {
        return Ok(None);
    };
    let one_content = Ranges::new(tar, size, extents.iter().collect());
    let content = of_contents(one_content, Ranges::new(other, second, others.iter().collect()))?;
    Ok(content.map(|(offset, values)| Found {
        offset: Some(offset),
        ..Found::new(one.path, Aspect::Content, values)
    }))
}

fn target_of(entry: &Entry<'_>) -> String {
    match entry.kind {
        Kind::Symlink { target } | Kind::HardLink { target, .. } => {
            target.escape_ascii().to_string()
        }
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            format!("{major}:{minor}")
        }
        _ => String::new(),
    }
}

fn shown(xattrs: &XattrMap) -> String {
    let one = |(name, value): (&Vec<u8>, &Vec<u8>)| {
        format!("{}={}", name.escape_ascii(), value.escape_ascii())
    };
    let all: Vec<String> = xattrs.iter().map(one).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(" ") }
}

/// The first byte that differs, and what is around it.
fn of_contents(one: impl Read, two: impl Read) -> io::Result<Option<(u64, [String; 2])>> {
    let (mut one, mut two) = (BufReader::new(one), BufReader::new(two));
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        first.clear();
        second.clear();
        Read::take(&mut one, PIECE_BYTES as u64).read_to_end(&mut first)?;
        Read::take(&mut two, PIECE_BYTES as u64).read_to_end(&mut second)?;
        if first == second {
            if first.is_empty() {
                return Ok(None);
            }
            offset += first.len() as u64;
            continue;
        }
        let shorter = first.len().min(second.len());
        let at = (0..shorter).find(|at| first[*at] != second[*at]).unwrap_or(shorter);
        let around = |bytes: &[u8]| {
            let part = &bytes[at.saturating_sub(BEFORE)..bytes.len().min(at + BEHIND)];
            let end = if at >= bytes.len() { " and no more" } else { "" };
            format!("\"{}\"{end}", part.escape_ascii())
        };
        return Ok(Some((offset + at as u64, [around(&first), around(&second)])));
    }
}

/// Two tars of the same entries.
fn of_tars(one: &Arc<OpenLayer>, two: &Arc<OpenLayer>) -> io::Result<Found> {
    let whole = |layer: &OpenLayer| -> io::Result<_> {
        let size = layer.table.facts().tar_size;
        let extent = davit_layer::Extent { file_offset: 0, tar_offset: 0, length: size };
        Ok((layer.tar.try_clone()?, size, extent))
    };
    let ((tar, size, all), (other, second, others)) = (whole(one)?, whole(two)?);
    let one = Ranges::new(&tar, size, vec![all]);
    let found = of_contents(one, Ranges::new(&other, second, vec![others]))?;
    let (offset, values) = found.unwrap_or_default();
    Ok(Found { offset: Some(offset), ..Found::new(b".", Aspect::Form, values) })
}

/// The first value that differs in two configs.
pub(crate) fn of_configs(one: &[u8], two: &[u8]) -> Option<Found> {
    let read = |bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    let (path, values) = of_values(&read(one), &read(two), "")?;
    Some(Found::new(path.as_bytes(), Aspect::Config, values))
}

fn of_values(one: &Value, two: &Value, at: &str) -> Option<(String, [String; 2])> {
    if one == two {
        return None;
    }
    let below = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    match (one, two) {
        (Value::Object(ones), Value::Object(twos)) => {
            let names = ones.keys().chain(twos.keys().filter(|name| !ones.contains_key(*name)));
            let value = |map: &serde_json::Map<String, Value>, name: &str| {
                map.get(name).cloned().unwrap_or_default()
            };
            let mut all = names.map(|name| (name, value(ones, name), value(twos, name)));
            all.find_map(|(name, one, two)| of_values(&one, &two, &below(name)))
        }
        (Value::Array(ones), Value::Array(twos)) if ones.len() == twos.len() => {
            let mut all = ones.iter().zip(twos).enumerate();
            all.find_map(|(number, (one, two))| of_values(one, two, &format!("{at}[{number}]")))
        }
        _ => Some((at.to_owned(), [one.to_string(), two.to_string()])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_differ_at_a_byte() {
        let found = |one: &[u8], two: &[u8]| of_contents(one, two).unwrap();
        assert_eq!(found(b"", b""), None);
        assert_eq!(found(b"same", b"same"), None);
        let values = |one: &str, two: &str| [one.to_owned(), two.to_owned()];
        assert_eq!(found(b"a1", b"a\n2"), Some((1, values("\"a1\"", "\"a\\n2\""))));
        assert_eq!(found(b"ab", b"a"), Some((1, values("\"ab\"", "\"a\" and no more"))));
        let long = [vec![b'x'; PIECE_BYTES], b"yz".to_vec()].concat();
        let mut other = long.clone();
        other[PIECE_BYTES + 1] = b'!';
        let (offset, _) = found(&long, &other).unwrap();
        assert_eq!(offset, PIECE_BYTES as u64 + 1);
    }

    #[test]
    fn configs_differ_at_a_value() {
        let found = |one: &str, two: &str| {
            let found = of_configs(one.as_bytes(), two.as_bytes())?;
            Some((String::from_utf8(found.path).unwrap(), found.values))
        };
        assert_eq!(found("{}", "{}"), None);
        let history = |time: &str| format!(r#"{{"a":1,"history":[{{}},{{"created":"{time}"}}]}}"#);
        let values = ["\"1\"".to_owned(), "\"2\"".to_owned()];
        assert_eq!(
            found(&history("1"), &history("2")),
            Some(("history[1].created".to_owned(), values))
        );
        let values = ["null".to_owned(), "1".to_owned()];
        assert_eq!(found("{}", r#"{"b":1}"#), Some(("b".to_owned(), values)));
    }
}
