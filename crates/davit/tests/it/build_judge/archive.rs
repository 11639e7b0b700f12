//! Reads an image back from a `docker save` archive: its config and the files of all layers.

use std::{collections::BTreeMap, io::Read as _, path::Path};

use davit_engine::image::Digest;
use serde_json::Value;

/// Times after this one are those of the build.
const LAST_FIXED_TIME: u64 = 1_700_000_000;

/// An image as it is compared.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) config: Value,
    /// Path without a leading slash → what stands there, in one line.
    pub(super) tree: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
struct Entry {
    text: String,
    directory: bool,
    /// Number of the file that hard links share.
    inode: usize,
}

impl Image {
    pub(super) fn read(path: &Path) -> Self {
        let files = files(path);
        let text = |name: &str| -> Value { serde_json::from_slice(&files[name]).unwrap() };
        let manifest = text("manifest.json")[0].clone();
        let config = text(manifest["Config"].as_str().unwrap());
        let mut merged = BTreeMap::new();
        for (number, layer) in manifest["Layers"].as_array().unwrap().iter().enumerate() {
            let bytes = &files[layer.as_str().unwrap()];
            apply(&inflate(bytes), &mut merged, number * 1_000_000);
        }
        Self { config, tree: tree(merged) }
    }
}

/// The files of a tar, by their names.
pub(crate) fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(fs_err::File::open(path).unwrap());
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        // Layers may stand as links to a blob.
        if let Some(target) = entry.link_name().unwrap() {
            let folder = Path::new(&name).parent().unwrap().join(&target);
            let parts: Vec<_> = folder.components().fold(Vec::new(), |mut parts, part| {
                match part {
                    std::path::Component::ParentDir => drop(parts.pop()),
                    part => parts.push(part.as_os_str().to_string_lossy().into_owned()),
                }
                parts
            });
            bytes = files.get(&parts.join("/")).cloned().unwrap_or_default();
        }
        files.insert(name, bytes);
    }
    files
}

fn inflate(bytes: &[u8]) -> Vec<u8> {
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return bytes.to_vec();
    }
    let mut inflated = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut inflated).unwrap();
    inflated
}

fn apply(layer: &[u8], merged: &mut BTreeMap<String, Entry>, first_inode: usize) {
    let mut added: BTreeMap<String, Entry> = BTreeMap::new();
    let mut archive = tar::Archive::new(layer);
    for (number, entry) in archive.entries().unwrap().enumerate() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let join = |name: &str| {
            if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
        };
        if name == ".wh..wh..opq" {
            remove_below(merged, folder);
        } else if let Some(gone) = name.strip_prefix(".wh.") {
            let gone = join(gone);
            merged.remove(&gone);
            remove_below(merged, &gone);
        } else if !path.is_empty() {
            let entry = describe(&mut entry, &added, merged, first_inode + number);
            added.insert(path, entry);
        }
    }
    for (path, entry) in added {
        if !entry.directory {
            remove_below(merged, &path);
        }
        merged.insert(path, entry);
    }
}

fn remove_below(merged: &mut BTreeMap<String, Entry>, folder: &str) {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    merged.retain(|path, _| !path.starts_with(&prefix));
}

fn describe<R: std::io::Read>(
    entry: &mut tar::Entry<'_, R>,
    added: &BTreeMap<String, Entry>,
    merged: &BTreeMap<String, Entry>,
    inode: usize,
) -> Entry {
    let header = entry.header().clone();
    let target =
        entry.link_name_bytes().map(|target| String::from_utf8(target.into_owned()).unwrap());
    let kind = header.entry_type();
    if kind.is_hard_link() {
        let target = target.unwrap();
        let target = target.trim_start_matches("./").trim_matches('/');
        return added.get(target).or_else(|| merged.get(target)).expect("a link's target").clone();
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).unwrap();
    let what = match kind {
        _ if kind.is_dir() => "dir".to_owned(),
        _ if kind.is_symlink() => format!("link {}", target.unwrap()),
        _ if kind.is_fifo() => "fifo".to_owned(),
        _ if kind.is_character_special() || kind.is_block_special() => {
            let (major, minor) = (header.device_major().unwrap(), header.device_minor().unwrap());
            format!("{kind:?} {}:{}", major.unwrap_or_default(), minor.unwrap_or_default())
        }
        _ => format!("file {} {}", bytes.len(), &Digest::of(&bytes).to_string()[7..19]),
    };
    let mut xattrs: Vec<String> = Vec::new();
    for extension in entry.pax_extensions().unwrap().into_iter().flatten() {
        let extension = extension.unwrap();
        if let Some(name) = extension.key().unwrap().strip_prefix("SCHILY.xattr.") {
            xattrs.push(format!(
                " {name}={}",
                &Digest::of(extension.value_bytes()).to_string()[7..19]
            ));
        }
    }
    let mode = header.mode().unwrap() & 0o7777;
    let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
    // Links have no permissions of their own.
    let mode = if kind.is_symlink() { 0o777 } else { mode };
    let time = match header.mtime().unwrap() {
        time if time <= LAST_FIXED_TIME => format!("@{time}"),
        _ => "@now".to_owned(),
    };
    let text = format!("{what} {mode:04o} {uid}:{gid} {time}{}", xattrs.concat());
    Entry { text, directory: kind.is_dir(), inode }
}

/// One line per path; directories that no layer has are put in, links share their first name.
fn tree(mut merged: BTreeMap<String, Entry>) -> BTreeMap<String, String> {
    let mut first: BTreeMap<usize, &String> = BTreeMap::new();
    let mut tree = BTreeMap::new();
    for (path, entry) in &mut merged {
        // What a compressor writes depends on its version.
        if [".gz", ".bz2", ".xz"].iter().any(|end| path.ends_with(end)) {
            let rest = entry.text.splitn(4, ' ').nth(3).unwrap_or_default();
            entry.text = format!("file compressed {rest}");
        }
    }
    for (path, entry) in &merged {
        let name = first.entry(entry.inode).or_insert(path);
        let text =
            if *name == path { entry.text.clone() } else { format!("{} = {name}", entry.text) };
        tree.insert(path.clone(), text);
        for (at, _) in path.match_indices('/') {
            let parent = path[..at].to_owned();
            if !merged.contains_key(&parent) {
                tree.insert(parent, "dir 0755 0:0 @now".to_owned());
            }
        }
    }
    tree
}
