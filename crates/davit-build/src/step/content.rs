//! Keys of steps by what they see of other states, whatever else these hold.

use std::sync::Arc;

use davit_image::{Algorithm, Digester};

use super::{Done, Session, failed};
use crate::{
    context_files::digest_archived,
    copy::{Keeps, selection_key},
    definition::{components, definition_key, selected},
    error::{BuildError, BuildErrorKind},
    files::Data,
    key::DefinitionKey,
    layers::State,
    plan::{BindOrigin, MountSource, Node, Op, RunSpec},
    selection,
};

impl Session<'_, '_> {
    /// The key of a command with the content of what it mounts of other stages in place of these
    /// stages' states, or of a copy with what it meets in place of the state below; `None` for a step
    /// that sees more.
    pub(super) fn content_definition(
        &self,
        node: &Node,
        inputs: &[&Done],
    ) -> Result<Option<DefinitionKey>, BuildError> {
        let mut states: Vec<String> = inputs.iter().map(|input| input.state.key()).collect();
        let spec = match &node.op {
            Op::Run(spec) => spec,
            Op::Copy(spec) => {
                let Some(beneath) = self.beneath(node, spec, inputs)? else { return Ok(None) };
                states[0] = format!("beneath {beneath}");
                let (key, _) = definition_key(components(node, self.inputs), &states);
                return Ok(Some(key));
            }
            _ => return Ok(None),
        };
        let mut by_content = false;
        for (number, input) in inputs.iter().enumerate().skip(1) {
            // An image that changed has other files in all likelihood.
            if matches!(self.plan.node(node.inputs[number]).op, Op::Image(_) | Op::Scratch) {
                continue;
            }
            let Some(paths) = mounted_paths(spec, number) else { continue };
            states[number] = self.content_of(node, &paths, &input.state)?;
            by_content = true;
        }
        if !by_content {
            return Ok(None);
        }
        let (key, _) = definition_key(components(node, self.inputs), &states);
        Ok(Some(key))
    }

    fn content_of(
        &self,
        node: &Node,
        paths: &[&str],
        state: &Arc<State>,
    ) -> Result<String, BuildError> {
        let patterns: Vec<String> =
            paths.iter().map(|path| selection::pattern(path.as_bytes(), "")).collect();
        let (mut files, layers) = self.source_files(node, &patterns, state)?;
        let mut digester = Digester::new(Algorithm::Sha256);
        for pattern in &patterns {
            // What is not there is told when the command is to run.
            let Some((_, at)) = selected(pattern, &files).pop() else { continue };
            for index in at..files.subtree_end(at) {
                if self.is_cancelled() {
                    return Err(BuildError::new(BuildErrorKind::Cancelled));
                }
                let entry = &mut files.entries[index];
                let Data::Layer { layer, .. } = entry.data else { continue };
                digest_archived(entry, &layers[layer as usize], self.cancelled)
                    .map_err(|error| failed(node, error))?;
            }
            let keeps = Keeps { mode: true, owner: true };
            digester.update(selection_key(files.subtree(at), keeps).bytes());
        }
        Ok(format!("content {}", digester.finish()))
    }
}

/// Paths of an input that are mounted; `None` if it serves for anything else, too.
fn mounted_paths(spec: &RunSpec, number: usize) -> Option<Vec<&str>> {
    let mut paths = Vec::new();
    for mount in &spec.mounts {
        match &mount.source {
            MountSource::Bind { origin: BindOrigin::Input(input), path, .. }
                if *input == number =>
            {
                paths.push(path.as_str());
            }
            MountSource::Cache(cache) if cache.seed == Some(number) => return None,
            _ => {}
        }
    }
    Some(paths)
}
