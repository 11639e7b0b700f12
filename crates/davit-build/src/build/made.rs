//! Images that no earlier build gave: all steps, and what becomes of them.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, OnceLock, atomic::AtomicBool},
};

use davit_image::{DiffId, Timestamp};

use super::{Build, Built, Round, cores, family};
use crate::{
    BuildOutcome, BuiltLayer, CachePolicy, EventSink, Squash, StepId, StepInfo,
    admission::Places,
    error::{BuildError, one_line},
    executor::{execute, weights},
    image::{Image, Merge, assemble},
    layers::Layers,
    plan::{Node, NodeId, Op, Target},
    run::{console::Console, network::StepNetworks},
    step::{Done, Session, in_result, store_failed},
};

impl<'s> Build<'_, 's> {
    /// Does all steps, and makes the images.
    pub(super) fn run(
        &self,
        steps: &[StepInfo],
        scratch: &Path,
        round: Round,
    ) -> Result<Vec<Built>, BuildError> {
        let (session, done) = self.execute((scratch, round), None)?;
        session.offer_mounts()?;
        let finish = |target| self.finish(target, &session, &done, steps.len());
        self.plan.targets().map(finish).collect()
    }

    /// Does all but one node, and then this one by hand.
    pub(super) fn run_at(
        &self,
        scratch: &Path,
        id: NodeId,
        console: &dyn Console,
    ) -> Result<i32, BuildError> {
        let (session, done) = self.execute((scratch, Round::First), Some(id))?;
        let node = self.plan.node(id);
        let inputs: Vec<&Done> = node.inputs.iter().map(|it| &done[it.0 as usize]).collect();
        session.run_by_hand((node, id), &inputs, console)
    }

    /// Does the nodes.
    fn execute<'r>(
        &'r self,
        (scratch, round): (&'r Path, Round),
        by_hand: Option<NodeId>,
    ) -> Result<(Session<'r, 's>, Vec<Done>), BuildError> {
        let environment = self.environment;
        // The next build tries again.
        if let Err(error) = environment.store.trim_build_files() {
            tracing::warn!(%error, "what is known of old contexts remains");
        }
        let events: EventSink<'r> = match round {
            Round::First => environment.events,
            Round::Again => &|_| (),
        };
        let jobs = if self.request.jobs == 0 { cores() } else { self.request.jobs };
        let mut session = Session {
            id: environment.lease.id(),
            store: environment.store,
            lease: environment.lease,
            snapshots: environment.snapshots,
            layers: Layers::new(environment.store, environment.lease),
            plan: self.plan,
            inputs: self.inputs,
            drafts: self.drafts,
            scratch,
            policy: match round {
                Round::First => self.request.cache,
                Round::Again => CachePolicy::Ignore,
            },
            ttl: self.request.cache_ttl,
            epoch: self.plan.epoch,
            started: Timestamp::now(),
            events,
            cancelled: environment.cancelled,
            stopped: AtomicBool::new(false),
            run: environment.run,
            sandbox: &self.request.sandbox,
            networks: StepNetworks::new(environment.lease, environment.network),
            joined: environment.joined,
            places: Places::new(jobs, self.request.sandbox.limits.memory_bytes),
            weights: weights(self.plan),
            supervisor: OnceLock::new(),
            family: family(self.request),
            shared: environment.shared.filter(|_| round == Round::First),
            elsewhere: BTreeMap::new(),
            in_result: in_result(self.plan),
            done: Mutex::default(),
            finals: environment.finals.filter(|_| round == Round::First),
            used_mounts: Mutex::default(),
            exchanges_owners: OnceLock::new(),
            mount_policy: self.request.cache_mounts,
            explain: self.request.explain,
            threads: cores(),
            on_error: environment.on_error,
            failed: Mutex::default(),
            by_hand,
        };
        session.elsewhere = session.bring_needed()?;
        let error = match execute(&session, &self.request.dockerfile) {
            Ok(done) => return Ok((session, done)),
            Err(error) => error,
        };
        // All others have ended.
        match session.open_failed() {
            Ok(()) => Err(error),
            Err(problem) => Err(error.hint(format!("no shell opens: {}", one_line(&problem)))),
        }
    }

    /// Brings layers of a result into the form in which they go into the image: bounds their times,
    /// or merges them.
    fn rewrite(
        &self,
        target: &Target,
        session: &Session<'_, '_>,
        layers: &mut [(DiffId, u64)],
    ) -> Result<Option<Merge>, BuildError> {
        let base = self.plan.base_of(target);
        let own = base.map_or(0, |base| base.config.rootfs.diff_ids.len());
        let epoch = self.plan.epoch.filter(|_| self.request.rewrite_timestamp);
        let kept = match self.request.squash {
            Squash::Nothing => layers.len(),
            Squash::New => own,
            Squash::All => 0,
        };
        // One layer is one already.
        if layers.len().saturating_sub(kept) > 1 {
            let ids: Vec<DiffId> = layers.iter().map(|(layer, _)| *layer).collect();
            let layer = session.squash(&ids, kept, epoch)?;
            return Ok(Some(Merge { kept, layer }));
        }
        if let Some(epoch) = epoch {
            for layer in layers.iter_mut().skip(own) {
                *layer = session.clamp(*layer, epoch)?;
            }
        }
        Ok(None)
    }

    fn finish(
        &self,
        target: &Target,
        session: &Session<'_, '_>,
        done: &[Done],
        steps: usize,
    ) -> Result<Built, BuildError> {
        let state = &done[target.state.0 as usize].state;
        let mut sizes: BTreeMap<_, u64> = done
            .iter()
            .filter_map(|done| done.layer.as_ref())
            .map(|record| (record.layer, record.size_bytes))
            .collect();
        let mut layers = Vec::new();
        for &layer in &state.layers {
            let size = match sizes.get(&layer) {
                Some(size) => *size,
                None => {
                    let row = session.store.layer(&layer).map_err(store_failed)?;
                    row.map_or(0, |row| row.tar_size)
                }
            };
            sizes.insert(layer, size);
            layers.push((layer, size));
        }
        let plain = layers.iter().map(|(layer, _)| *layer).collect();
        let merge = self.rewrite(target, session, &mut layers)?;
        let epoch = self.plan.epoch;
        let epoch = epoch.and_then(|seconds| Timestamp::from_unix_seconds(seconds).ok());
        let image: Image = assemble(target, (&layers, merge), epoch, |node: NodeId| {
            done[node.0 as usize].layer.clone()
        });
        if let Some(merge) = merge {
            layers.truncate(merge.kept);
            layers.push(merge.layer);
        }
        let layer = |&(diff_id, size_bytes): &(_, u64)| BuiltLayer { diff_id, size_bytes };
        let layers_of = |id: NodeId| done[id.0 as usize].state.layers.clone();
        let step = |id: NodeId| StepId(id.0);
        let generator = target.scans.generator.map(|id| &done[id.0 as usize]);
        // A base image is there in any case, which is not the cache's doing.
        let from_cache = |node: &Node| match node.op {
            Op::Scratch | Op::Source(_) => false,
            Op::Image(_) => self.request.cache == CachePolicy::Use,
            _ => true,
        };
        let cached = self.plan.nodes.iter().zip(done);
        let cached = cached.filter(|(node, done)| done.cached && from_cache(node)).count();
        Ok(Built {
            plain,
            made_from: self.plan.made_from(target.state).into_iter().map(step).collect(),
            outcome: BuildOutcome {
                manifest: image.manifest.digest,
                image: image.id,
                config: image.config,
                layers: layers.iter().map(layer).collect(),
                epoch: self.plan.epoch,
                cached_steps: cached,
                steps,
            },
            config: image.config_document,
            manifest: image.manifest,
            provenance: None,
            extras: target
                .scans
                .extras
                .iter()
                .map(|(name, id)| (name.clone(), layers_of(*id)))
                .collect(),
            generated: generator.and_then(|done| done.layer.as_ref()).map(|record| record.layer),
            key: self.key(target),
            cost_us: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        })
    }
}
