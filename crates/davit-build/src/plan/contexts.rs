//! Contexts: where a copy reads that names no stage and no image.
//!
//! A named context takes the place of the stage, of the base and of the `--from` of its name.

use davit_dockerfile::{Instruction, Span};
use davit_image::Platform;

use super::{
    ContextId, CopyOrigin, CopySpec, Destination, Node, NodeId, Op, Unpack,
    planner::{Base, Planner},
    stage::{scratch_node, stage_id},
};
use crate::request::{ContextSource, NamedContext, NamedSource, context_name};

/// Where the files of a copy or a mount are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a context.
    Context(ContextId),
    /// In a state.
    State(NodeId),
}

impl<'a> Planner<'a> {
    /// What a named context puts in the place of a name; one for the platform comes first.
    pub(crate) fn named(&self, name: &str, platform: &Platform) -> Option<Base> {
        let all = &self.request.named_contexts;
        if all.is_empty() {
            return None;
        }
        let name = context_name(name)?;
        let platform = platform.normalized();
        let fits = |context: &NamedContext, own: bool| {
            let is_own = context.platform.as_ref().map(|it| it.normalized() == platform);
            context.name == name && is_own == own.then_some(true)
        };
        let find = |own| all.iter().position(|context| fits(context, own));
        let position = find(true).or_else(|| find(false))?;
        Some(match &all[position].source {
            NamedSource::Directory(_) | NamedSource::Volume(_) => {
                Base::Context(ContextId::named(position))
            }
            NamedSource::Image(image) => Base::Image((image.clone(), platform.to_string())),
            NamedSource::Scratch => Base::Scratch,
            NamedSource::Remote(source) => Base::Source(source.clone()),
        })
    }

    /// What a named context puts in the place of a stage.
    pub(crate) fn replacement(&self, stage: usize, platform: &Platform) -> Option<Base> {
        let name = self.dockerfile.stages[stage].name.as_ref()?;
        self.named(&name.text.to_ascii_lowercase(), platform)
    }

    /// The instructions of a stage: none if a named context takes its place.
    pub(crate) fn instructions(&self, stage: usize) -> &'a [Instruction] {
        let stages = &self.dockerfile.stages;
        if self.replaced.contains(&stage) { &[] } else { &stages[stage].instructions }
    }

    /// Where a copy reads that names nothing.
    pub(crate) fn main_context(&mut self, stage: usize, span: Span) -> Place {
        match &self.request.context {
            ContextSource::Remote(source) => {
                let source = source.clone();
                Place::State(self.source_node(&source, stage, span))
            }
            _ => Place::Context(ContextId::MAIN),
        }
    }

    /// Where the files of what was named are.
    pub(crate) fn place(&mut self, from: &Base, stage: usize, span: Span) -> Place {
        match from {
            Base::Context(context) => Place::Context(*context),
            other => Place::State(self.state_of(other, stage, span)),
        }
    }

    /// The state of what was named; a directory becomes a layer as a whole.
    pub(crate) fn state_of(&mut self, from: &Base, stage: usize, span: Span) -> NodeId {
        match from {
            Base::Scratch => self.push(scratch_node(stage)),
            Base::Stage(stage) => {
                let stage = self.stages[*stage].as_ref();
                stage.expect("stages are planned in order").node
            }
            Base::Image(key) => {
                let name = format!("FROM {}", self.images[key].0.name);
                self.image_node(key, stage_id(stage), name)
            }
            Base::Context(context) => self.context_state(*context, stage, span),
            Base::Source(source) => self.source_node(source, stage, span),
        }
    }

    fn context_state(&mut self, context: ContextId, stage: usize, span: Span) -> NodeId {
        if let Some(node) = self.context_states.get(&context) {
            return *node;
        }
        let empty = self.push(scratch_node(stage));
        let spec = CopySpec {
            origin: CopyOrigin::Context(context),
            sources: vec![String::new()],
            remotes: Vec::new(),
            files: Vec::new(),
            destination: Destination { path: String::new(), directory: true },
            owner: None,
            mode: None,
            parents: Vec::new(),
            exclude: Vec::new(),
            link: false,
            unpack: Unpack::Never,
            epoch: self.epoch,
        };
        let name =
            context.position().map_or("", |at| self.request.named_contexts[at].name.as_str());
        let node = self.push(Node {
            op: Op::Copy(spec),
            inputs: vec![empty],
            stage: stage_id(stage),
            name: format!("[context {name}] COPY . /"),
            span: Some(span),
            cache: crate::CachePolicy::Use,
        });
        self.context_states.insert(context, node);
        node
    }
}
