//! Unchanged files are taken from the layer that the step made before: one read of its tar instead
//! of opening each file again.

use std::{cmp::Ordering, sync::Arc};

use davit_layer::{ChangeKind, Digests, Kind, Source, path};

use super::outputs::Finished;
use crate::layers::OpenLayer;

/// Lets changes of a copy take their content from `before` where it has the same at their path;
/// `digests` are those of its files.
pub(crate) fn reuse(copied: &mut Finished, before: &OpenLayer, digests: &Digests) {
    let table = &before.table;
    let mut olds = (0..).zip(table.iter()).peekable();
    for (change, digest) in copied.changes.iter_mut().zip(&copied.digests) {
        let (ChangeKind::File { size, source: source @ Source::Opened }, Some(digest)) =
            (&mut change.kind, digest)
        else {
            continue;
        };
        let earlier = |path: &[u8]| path::compare(path, &change.path) == Ordering::Less;
        while olds.next_if(|(_, old)| earlier(old.path)).is_some() {}
        let Some((index, old)) = olds.next_if(|(_, old)| old.path == change.path) else {
            continue;
        };
        let Kind::File { size: old_size, extents } = old.kind else { continue };
        let same = digests.get(table, index).is_some_and(|old| old.bytes() == digest);
        if same && old_size == *size {
            let (tar, extents) = (Arc::clone(&before.tar), extents.iter().collect());
            *source = Source::Tar { tar, extents };
        }
    }
}
