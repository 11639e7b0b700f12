//! Layers that go to registries while the steps above them still run.
//!
//! What is sent early is compressed, sent and remembered as a push does it, so the push at the end
//! finds it there and asks once for each layer. Nothing is named early, and no error counts: the push
//! meets it again, or it is gone.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use davit_build::{Repeat, Squash};
use davit_image::{DiffId, MediaType};
use davit_store::Lease;

use super::{
    BuildCommand,
    form::MediaTypes,
    output::{BuildOutput, push_requests},
    results::Results,
};
use crate::{
    Engine, PushRequest, compressed::CompressedLayers, push::built::LayerPush, registry::Registries,
};

/// Layers that are sent at a time, as a push sends them.
const PARALLEL: usize = 3;

/// A repository that gets layers, in these media types.
type Place = (PushRequest, MediaTypes);

/// What sends layers while a build runs.
pub(super) struct EarlyPush<'a> {
    engine: &'a Engine,
    lease: &'a Lease<'a>,
    places: Vec<Place>,
    /// The way to registries; `None` if there is none, which the push tells.
    registries: OnceLock<Option<Registries>>,
    /// Set by another thread to end the build.
    cancelled: &'a AtomicBool,
    /// The build failed: what is under way ends.
    failed: AtomicBool,
    results: &'a Results,
    compressed: &'a CompressedLayers<'a>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<(usize, DiffId)>,
    met: HashSet<DiffId>,
    /// The next result to look at.
    next: usize,
}

impl<'a> EarlyPush<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        lease: &'a Lease<'a>,
        command: &BuildCommand,
        (results, compressed): (&'a Results, &'a CompressedLayers<'a>),
        cancelled: &'a AtomicBool,
    ) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let request = &command.request;
        // Others take the place of layers that are rewritten, and none is sent before two builds
        // are equal.
        let are_final = !request.rewrite_timestamp
            && request.squash == Squash::Nothing
            && request.repeat == Repeat::Never;
        for output in command.outputs.iter().filter(|_| are_final) {
            let BuildOutput::Image(image) = output else { continue };
            for request in push_requests(image) {
                let place = (request, image.form.types);
                // Tags of one repository have the same layers.
                let same = |known: &Place| {
                    known.0.reference.repository() == place.0.reference.repository()
                        && (known.0.compression, known.1) == (place.0.compression, place.1)
                };
                if !places.iter().any(same) {
                    places.push(place);
                }
            }
        }
        Self {
            engine,
            lease,
            places,
            registries: OnceLock::new(),
            cancelled,
            failed: AtomicBool::new(false),
            results,
            compressed,
            state: Mutex::default(),
        }
    }

    /// Whether anything is pushed.
    pub(super) const fn is_wanted(&self) -> bool {
        !self.places.is_empty()
    }

    /// Runs a build, and beside it what sends its layers; what is under way when it is done is
    /// finished, and what has not begun is left to the push.
    pub(super) fn beside<T, E>(&self, build: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if !self.is_wanted() {
            return self.results.until_closed(build);
        }
        thread::scope(|scope| {
            for _ in 0..PARALLEL {
                scope.spawn(|| self.work());
            }
            self.results.until_closed(|| {
                let built = build();
                self.failed.store(built.is_err(), Ordering::Relaxed);
                built
            })
        })
    }

    /// The next layer to send, bottom first; who waits for one lets the others wait for itself.
    fn next(&self) -> Option<(usize, DiffId)> {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        while !self.results.is_closed() {
            if let Some(next) = state.queue.pop_front() {
                return Some(next);
            }
            let step = self.results.wait_for(state.next)?;
            state.next += 1;
            for layer in step.layers.into_iter().filter(|_| step.in_result) {
                if state.met.insert(layer) {
                    state.queue.extend((0..self.places.len()).map(|place| (place, layer)));
                }
            }
        }
        None
    }

    fn work(&self) {
        while let Some((place, layer)) = self.next() {
            let (request, types) = &self.places[place];
            let manifest_type = match types {
                MediaTypes::Oci => MediaType::OCI_MANIFEST,
                MediaTypes::Docker => MediaType::DOCKER_MANIFEST,
            };
            let registries = self.registries.get_or_init(|| self.engine.registries().ok());
            let Some(registries) = registries else { continue };
            let push = LayerPush {
                registries,
                lease: self.lease,
                request,
                manifest_type,
                cancelled: [self.cancelled, &self.failed],
                compressed: self.compressed,
            };
            if let Err(error) = self.engine.push_layer_early(&push, layer) {
                tracing::debug!(%error, "the push at the end sends the layer");
            }
        }
    }
}
