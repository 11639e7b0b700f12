//! Which step wrote, or removed, a path that another does not find.

use std::{collections::BTreeSet, sync::PoisonError};

use davit_image::DiffId;
use davit_layer::Kind;

use super::Session;
use crate::plan::NodeId;

/// What a layer does to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    Writes,
    Removes,
}

impl Session<'_, '_> {
    /// The step of this build that removed a path which `source` lacks, or that wrote it elsewhere;
    /// the nearest one, for people.
    pub(super) fn who_wrote(&self, path: &str, source: NodeId) -> Option<String> {
        if path.is_empty() {
            return None;
        }
        let done = self.done.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut below = BTreeSet::new();
        let mut next = Some(source);
        while let Some(id) = next.filter(|id| below.insert(*id)) {
            next = self.plan.node(id).inputs.first().copied();
        }
        let says = |id: &NodeId| self.says(done.get(id)?, path.as_bytes());
        let removed = below.iter().rev().find(|id| says(id) == Some(Says::Removes));
        if let Some(id) = removed {
            return Some(format!("{} removed it", self.place_of(*id)));
        }
        let mut others = done.keys().rev().filter(|id| !below.contains(id));
        let wrote = others.find(|id| says(id) == Some(Says::Writes))?;
        Some(format!("{} wrote it, which is not what is copied from", self.place_of(*wrote)))
    }

    fn place_of(&self, id: NodeId) -> String {
        let node = self.plan.node(id);
        match node.span {
            Some(span) => format!("line {}, `{}`,", span.first_line, node.name),
            None => format!("`{}`", node.name),
        }
    }

    fn says(&self, layer: &DiffId, path: &[u8]) -> Option<Says> {
        // A layer that stayed elsewhere tells nothing.
        let layer = self.layers.open(*layer).ok()?;
        layer.table.iter().find_map(|entry| {
            let is_whiteout = matches!(entry.kind, Kind::Whiteout);
            let rest = path.strip_prefix(entry.path)?;
            match (is_whiteout, rest) {
                (true, [] | [b'/', ..]) => Some(Says::Removes),
                (false, []) => Some(Says::Writes),
                _ => None,
            }
        })
    }
}
