//! `--repro`: the same build a second time, without any result of the first one.
//!
//! Plan, base images, sources and the list of the context's files are those of the first build. The
//! second one begins in another second, so that what depends on the time shows.

use std::{thread, time::Duration};

use davit_image::Timestamp;

use super::{Build, Built, Round};
use crate::{
    BuildEvent, StepInfo,
    difference::{self, Aspect, Difference, Found},
    error::{BuildError, BuildErrorKind, Excerpt},
    layers::Layers,
    plan::{NodeId, Op, Target},
};

/// How often it is looked whether the second is over.
const POLL: Duration = Duration::from_millis(20);

impl Build<'_, '_> {
    /// Builds again and compares; the first difference is an error.
    pub(super) fn repeat(&self, steps: &[StepInfo], built: &[Built]) -> Result<(), BuildError> {
        self.await_second()?;
        let store = self.environment.store;
        let scratch = store.begin_layer(self.environment.lease)?;
        let again = self.run(steps, scratch.dir(), Round::Again)?;
        for ((target, first), second) in self.plan.targets().zip(built).zip(&again) {
            if let Some(difference) = self.compare(target, (first, second), steps)? {
                return Err(self.different(difference, target));
            }
        }
        (self.environment.events)(BuildEvent::Compared(None));
        Ok(())
    }

    fn await_second(&self) -> Result<(), BuildError> {
        let second = Timestamp::now().unix_seconds();
        while Timestamp::now().unix_seconds() == second {
            if self.environment.cancelled.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(BuildError::new(BuildErrorKind::Cancelled));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    fn compare(
        &self,
        target: &Target,
        (first, second): (&Built, &Built),
        steps: &[StepInfo],
    ) -> Result<Option<Difference>, BuildError> {
        if first.outcome.image == second.outcome.image {
            return Ok(None);
        }
        let layers = Layers::new(self.environment.store, self.environment.lease);
        let failed = |source| {
            let what = "compare the two results";
            BuildError::new(BuildErrorKind::Result { what, source: Box::new(source) })
        };
        let (ones, twos) = (&first.outcome.layers, &second.outcome.layers);
        let differs = ones.iter().zip(twos).position(|(one, two)| one.diff_id != two.diff_id);
        let found = match differs {
            Some(at) => {
                let both = [ones[at].diff_id, twos[at].diff_id];
                Some(difference::of_layers(&layers, both).map_err(failed)?)
            }
            None => difference::of_configs(&first.config.bytes, &second.config.bytes),
        };
        let Some(Found { path, aspect, values, offset }) = found else { return Ok(None) };
        let node = match differs {
            Some(at) => self.maker(target, (second, at), &path, &layers),
            None => None,
        };
        let step = node.and_then(|node| steps.iter().find(|step| step.id.0 == node.0).cloned());
        let several = !self.request.more_platforms.is_empty();
        let platform = several.then(|| second.outcome.config.platform().to_string());
        let path = match differs {
            Some(_) => format!("/{}", path.escape_ascii()),
            None => String::from_utf8_lossy(&path).into_owned(),
        };
        let layer = differs.map(|at| at + 1);
        Ok(Some(Difference { platform, layer, step, path, aspect, values, offset }))
    }

    /// The step that made a layer, or that last wrote the path where layers are merged.
    fn maker(
        &self,
        target: &Target,
        (built, at): (&Built, usize),
        path: &[u8],
        layers: &Layers<'_>,
    ) -> Option<NodeId> {
        let nodes = self.own_nodes(target);
        let base = built.plain.len().checked_sub(nodes.len())?;
        let number = if built.plain.len() == built.outcome.layers.len() {
            at
        } else {
            let has = |number: &usize| {
                let layer = layers.open(built.plain[*number]);
                layer.is_ok_and(|layer| layer.table.position(path).is_ok())
            };
            (0..built.plain.len()).rev().find(has)?
        };
        number.checked_sub(base).and_then(|own| nodes.get(own).copied())
    }

    /// The nodes that add a layer each to a target's base, bottom first.
    fn own_nodes(&self, target: &Target) -> Vec<NodeId> {
        let mut nodes = Vec::new();
        let mut next = Some(target.state);
        while let Some(id) = next {
            let node = self.plan.node(id);
            if matches!(node.op, Op::Run(_) | Op::Copy(_) | Op::MakeDirectory(_)) {
                nodes.push(id);
            }
            next = node.inputs.first().copied();
        }
        nodes.reverse();
        nodes
    }

    fn different(&self, difference: Difference, target: &Target) -> BuildError {
        let event = BuildEvent::Compared(Some(Box::new(difference.clone())));
        (self.environment.events)(event);
        let step = difference.step.as_ref().map(|step| NodeId(step.id.0));
        let span = step.and_then(|id| self.plan.node(id).span);
        let hints = self.hints(&difference, target);
        let mut error = BuildError::new(BuildErrorKind::Different(Box::new(difference)));
        if let Some(span) = span {
            let text = &self.request.dockerfile;
            error = error.at(Excerpt::new(&text.name, &text.bytes, span, ""));
        }
        hints.into_iter().fold(error, BuildError::hint)
    }

    fn hints(&self, difference: &Difference, target: &Target) -> Vec<&'static str> {
        const EPOCH: &str = "fix the time of the image by --build-arg SOURCE_DATE_EPOCH=SECONDS";
        let (epoch, rewritten) = (self.plan.epoch.is_some(), self.request.rewrite_timestamp);
        let is_time = |path: &str| path == "created" || path.ends_with(".created");
        match difference.aspect {
            Aspect::Time if epoch && rewritten => {
                vec!["the file's time is earlier than SOURCE_DATE_EPOCH, and the step sets it"]
            }
            Aspect::Time => {
                let bound = "bound the times of files by rewrite-timestamp=true in --output";
                if epoch { vec![bound] } else { vec![EPOCH, bound] }
            }
            Aspect::Config if is_time(&difference.path) && !epoch => vec![EPOCH],
            Aspect::Content | Aspect::Presence => {
                let seen = "what depends on the time may use SOURCE_DATE_EPOCH, which a step sees \
                            after `ARG SOURCE_DATE_EPOCH` in its stage";
                if epoch || target.history.is_empty() { vec![seen] } else { vec![EPOCH, seen] }
            }
            _ => Vec::new(),
        }
    }
}
