//! What the mount points of a command leave in its changes: empty files and directories that
//! nobody asked for.

use davit_layer::{Change, ChangeKind, Kind, Merged, path};

/// Removes from the changes of a command what stood for its mounts' targets alone: each target that
/// was not there before, and directories that were made on the way to it, if nothing is in them. A
/// directory that only got and lost such an entry is as it was.
pub(crate) fn remove_stubs<'t>(
    changes: &mut Vec<Change>,
    below: &Merged,
    targets: impl Iterator<Item = &'t str>,
) {
    for target in targets {
        let target = target.trim_start_matches('/').as_bytes();
        let Ok(mut stub) = below.follow(target) else { continue };
        while !stub.is_empty() && below.find(&stub).is_none() {
            if !remove(changes, &stub) {
                break;
            }
            let parent = path::split(&stub).map_or(Vec::new(), |(parent, _)| parent.to_vec());
            restore(changes, below, &parent);
            stub = parent;
        }
    }
}

/// Removes an empty file or directory; `false` if something else is there, or nothing.
fn remove(changes: &mut Vec<Change>, stub: &[u8]) -> bool {
    let Some(at) = changes.iter().position(|change| change.path == stub) else { return false };
    let is_empty = match &changes[at].kind {
        ChangeKind::File { size, .. } => *size == 0,
        ChangeKind::Directory | ChangeKind::OpaqueDirectory => !has_below(changes, stub),
        _ => false,
    };
    if is_empty {
        changes.remove(at);
    }
    is_empty
}

/// Gives a directory its time back, and drops it and those above it where nothing else happened.
fn restore(changes: &mut Vec<Change>, below: &Merged, directory: &[u8]) {
    let mut directory = directory.to_vec();
    let mut is_parent = true;
    loop {
        let Some(node) = below.find(&directory) else { return };
        let Some(at) = changes.iter().position(|change| change.path == directory) else { return };
        if !matches!(changes[at].kind, ChangeKind::Directory)
            || !matches!(node.entry.kind, Kind::Directory { .. })
        {
            return;
        }
        if is_parent && !has_new_child(changes, below, &directory) {
            changes[at].mtime = node.entry.mtime;
        }
        is_parent = false;
        let change = &changes[at];
        let same = (change.mode, change.uid, change.gid)
            == (node.entry.mode, node.entry.uid, node.entry.gid)
            && change.mtime.seconds == node.entry.mtime.seconds
            && change.xattrs == node.entry.xattrs.to_map();
        if !same || has_below(changes, &directory) {
            return;
        }
        changes.remove(at);
        let Some((parent, _)) = path::split(&directory) else { return };
        directory = parent.to_vec();
    }
}

fn has_below(changes: &[Change], directory: &[u8]) -> bool {
    changes.iter().any(|change| crate::files::is_below(&change.path, directory))
}

/// Whether an entry of the directory came, went or became something else, which its time tells.
fn has_new_child(changes: &[Change], below: &Merged, directory: &[u8]) -> bool {
    changes.iter().any(|change| {
        let parent = path::split(&change.path).map_or(&b""[..], |(parent, _)| parent);
        let is_child = !change.path.is_empty() && parent == directory;
        let carried = matches!(change.kind, ChangeKind::Directory | ChangeKind::File { .. })
            && below.find(&change.path).is_some();
        is_child && !carried
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use davit_layer::{Mtime, Opener, Source, Table, WriteOptions, XattrMap, write_layer};

    use super::*;

    fn change(path: &str, kind: ChangeKind, seconds: i64) -> Change {
        let (path, mtime) = (path.as_bytes().to_vec(), Mtime::from_seconds(seconds));
        Change { path, kind, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: XattrMap::new() }
    }

    /// A directory where the path ends with `/`, else a file of this many bytes.
    fn file(path: &str, size: u64, seconds: i64) -> Change {
        match path.strip_suffix('/') {
            Some(path) => change(path, ChangeKind::Directory, seconds),
            None => {
                let bytes = vec![b'x'; usize::try_from(size).unwrap()];
                let source = Source::Bytes(bytes.into());
                change(path, ChangeKind::File { size, source }, seconds)
            }
        }
    }

    struct NoFiles;

    impl Opener for NoFiles {
        fn open(&self, _at: usize, _change: &Change) -> std::io::Result<std::fs::File> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    fn below() -> Merged {
        let link = ChangeKind::Symlink { target: b"/root".to_vec() };
        let changes =
            [file("etc/", 0, 5), file("etc/f", 1, 5), change("link", link, 5), file("root/", 0, 5)];
        let table: Table =
            write_layer(&changes, &NoFiles, &mut Vec::new(), &WriteOptions::default()).unwrap();
        Merged::new(vec![Arc::new(table)]).unwrap()
    }

    fn left(mut changes: Vec<Change>, targets: &[&str]) -> Vec<(String, i64)> {
        remove_stubs(&mut changes, &below(), targets.iter().copied());
        let line = |change: Change| (String::from_utf8(change.path).unwrap(), change.mtime.seconds);
        changes.into_iter().map(line).collect()
    }

    #[test]
    fn what_was_made_for_a_mount_goes() {
        let all = vec![
            file("etc/", 0, 9),
            file("etc/s", 0, 9),
            file("run/", 0, 9),
            file("run/a/", 0, 9),
            file("run/a/b", 0, 9),
        ];
        assert_eq!(left(all, &["/etc/s", "/run/a/b"]), []);
        let linked = vec![file("root/", 0, 9), file("root/.cache/", 0, 9)];
        assert_eq!(left(linked, &["/link/.cache"]), []);
    }

    #[test]
    fn what_the_command_made_stays() {
        let text = |path: &str, seconds| (path.to_owned(), seconds);
        let written = vec![file("etc/", 0, 9), file("etc/s", 3, 9)];
        assert_eq!(left(written, &["/etc/s"]), [text("etc", 9), text("etc/s", 9)]);
        let beside = vec![file("etc/", 0, 9), file("etc/n", 3, 9), file("etc/s", 0, 9)];
        assert_eq!(left(beside, &["/etc/s"]), [text("etc", 9), text("etc/n", 9)]);
        let changed = vec![file("etc/", 0, 9), file("etc/f", 3, 9), file("etc/s", 0, 9)];
        assert_eq!(left(changed, &["/etc/s"]), [text("etc", 5), text("etc/f", 9)]);
        let within = vec![file("run/", 0, 9), file("run/a/", 0, 9), file("run/x", 1, 9)];
        assert_eq!(left(within, &["/run/a"]), [text("run", 9), text("run/x", 9)]);
        let known = vec![file("etc/", 0, 9), file("etc/f", 0, 9)];
        assert_eq!(left(known, &["/etc/f"]).len(), 2, "it was there before");
    }
}
