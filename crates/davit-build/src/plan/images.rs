//! The images that a plan begins from: named, made present, and each one node.

use davit_dockerfile::Span;
use davit_image::{Platform, Reference};

use super::{NodeId, Op, StageId, planner::Planner};
use crate::{
    BaseImages,
    error::{BuildError, BuildErrorKind},
    request::ImageSource,
};

/// Images that are brought here at a time.
const MOST_RESOLVED: usize = 8;

/// An image as a Dockerfile asks for it: where it is, and its platform.
pub(crate) type ImageKey = (ImageSource, String);

impl Planner<'_> {
    pub(crate) fn image_key(&self, name: &str, platform: &Platform) -> Result<ImageKey, String> {
        let reference: Reference =
            name.parse().map_err(|error| format!("`{name}` is no image reference: {error}"))?;
        Ok((ImageSource::Reference(reference), platform.to_string()))
    }

    /// Makes images present, several at a time.
    pub(super) fn resolve_images(
        &mut self,
        mut wanted: Vec<(ImageKey, Platform, Span)>,
        images: &dyn BaseImages,
    ) -> Result<(), BuildError> {
        let asked = wanted.clone();
        wanted.sort_by(|left, right| left.0.cmp(&right.0));
        wanted.dedup_by(|left, right| left.0 == right.0);
        wanted.retain(|(key, ..)| !self.images.contains_key(key));
        let resolve =
            |(key, platform, _): &(ImageKey, Platform, Span)| images.resolve(&key.0, platform);
        for some in wanted.chunks(MOST_RESOLVED) {
            let resolved: Vec<_> = match some {
                [one] => vec![resolve(one)],
                many => std::thread::scope(|scope| {
                    let threads: Vec<_> =
                        many.iter().map(|one| scope.spawn(move || resolve(one))).collect();
                    let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                        thread.join().expect("resolving an image does not panic")
                    };
                    threads.into_iter().map(join).collect()
                }),
            };
            for ((key, _, span), image) in some.iter().zip(resolved) {
                let image = image.map_err(|source| {
                    self.unresolved(
                        BuildErrorKind::Base { reference: key.0.to_string(), source },
                        *span,
                    )
                })?;
                self.images.insert(key.clone(), (image, None));
            }
        }
        for (key, platform, span) in asked {
            self.check_platform(&key, &platform, span);
        }
        Ok(())
    }

    fn unresolved(&self, kind: BuildErrorKind, span: Span) -> BuildError {
        let stages = &self.dockerfile.stages;
        let short = short_name(&self.request.dockerfile.bytes, span);
        let error = BuildError::new(kind).at(self.excerpt(span));
        let error = self.hint_stage(error, &short, stages.len());
        match stages.iter().find(|stage| stage.base.span == span) {
            Some(stage) => self.hint_unset_in(error, &stage.base),
            None => error,
        }
    }

    /// The node of an image that was resolved.
    pub(crate) fn image_node(&mut self, key: &ImageKey, stage: StageId, name: String) -> NodeId {
        let (image, node) = self.images.get(key).cloned().expect("outlining resolved the image");
        if let Some(node) = node {
            return node;
        }
        let node = super::Node {
            op: Op::Image(image.clone()),
            inputs: vec![],
            stage,
            name,
            span: None,
            cache: crate::CachePolicy::Use,
        };
        let id = self.push(node);
        self.images.insert(key.clone(), (image, Some(id)));
        id
    }
}

fn short_name(bytes: &[u8], span: Span) -> String {
    let text = String::from_utf8_lossy(span.text(bytes)).into_owned();
    text.strip_prefix("--from=").map_or(text.clone(), str::to_owned)
}
