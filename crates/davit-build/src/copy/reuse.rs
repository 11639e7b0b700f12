//! Unchanged files are taken from the layer that the step made before: one read of its tar instead
//! of opening each file again.

use std::{cmp::Ordering, sync::Arc};

use davit_layer::{Digests, Kind, path};

use super::outputs::{Content, Output};
use crate::layers::OpenLayer;

/// Lets outputs, sorted, take their content from `before` where it has the same at their path;
/// `digests` are those of its files.
pub(crate) fn reuse(outputs: &mut [Output], before: &OpenLayer, digests: &Digests) {
    let table = &before.table;
    let mut olds = (0..).zip(table.iter()).peekable();
    for output in outputs {
        let Content::File { size, digest: Some(digest), link, .. } = &output.content else {
            continue;
        };
        let earlier = |path: &[u8]| path::compare(path, &output.path) == Ordering::Less;
        while olds.next_if(|(_, old)| earlier(old.path)).is_some() {}
        let Some((index, old)) = olds.next_if(|(_, old)| old.path == output.path) else {
            continue;
        };
        let Kind::File { size: old_size, extents } = old.kind else { continue };
        let same = digests.get(table, index).is_some_and(|old| old.bytes() == digest);
        if same && old_size == *size {
            output.content = Content::InTar {
                size: *size,
                tar: Arc::clone(&before.tar),
                extents: extents.iter().collect(),
                link: *link,
            };
        }
    }
}
