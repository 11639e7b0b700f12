//! One plan for all platforms: what two of them do in the same way is one node.

use std::collections::BTreeSet;

use davit_dockerfile::{Dockerfile, Patterns, lint::Warning, nearest};

use super::{
    Node, NodeId, Op, Plan, StageId, Target, fresh,
    planner::{Planner, stage_names},
};
use crate::{BaseImages, BuildRequest, error::BuildError};

/// What surrounds a Dockerfile.
pub(crate) struct Asked<'a> {
    pub(crate) images: &'a dyn BaseImages,
    /// The ignore file of the context.
    pub(crate) ignore: Option<&'a Patterns>,
}

/// Makes the plan of a build for all its platforms; what the checks found is there however it ends.
///
/// # Errors
/// Whatever the Dockerfile asks for that cannot be, with the place.
pub(crate) fn plan(
    request: &mut BuildRequest,
    dockerfile: &Dockerfile,
    asked: &Asked<'_>,
    found: &mut Vec<Warning>,
) -> Result<Plan, BuildError> {
    let plans = for_each(request, |request| {
        let mut planner = Planner::new(request, dockerfile)?;
        let plan = planner.plan(asked.images, asked.ignore);
        found.extend(planner.found());
        plan.and_then(|plan| planner.refuse_found().map(|()| plan))
    });
    let mut plans = plans?.into_iter();
    let mut whole = plans.next().expect("there is at least one platform");
    plans.for_each(|plan| whole.join(plan));
    fresh::mark(&mut whole, request, dockerfile);
    Ok(whole)
}

/// Checks a build for all its platforms.
///
/// # Errors
/// As [`plan`].
pub(crate) fn check(
    request: &mut BuildRequest,
    dockerfile: &Dockerfile,
    asked: &Asked<'_>,
    found: &mut Vec<Warning>,
) -> Result<(), BuildError> {
    let checked = for_each(request, |request| {
        let mut planner = Planner::new(request, dockerfile)?;
        let checked = planner.check(asked.images, asked.ignore);
        found.extend(planner.found());
        checked.and_then(|()| planner.refuse_found())
    });
    checked.map(drop)
}

/// Does something for one platform after the other, up to the first error.
fn for_each<T>(
    request: &mut BuildRequest,
    mut work: impl FnMut(&BuildRequest) -> Result<T, BuildError>,
) -> Result<Vec<T>, BuildError> {
    let first = request.platform.clone();
    let mut done = vec![work(request)];
    for platform in request.more_platforms.clone() {
        if done.iter().all(Result::is_ok) {
            request.platform = platform;
            done.push(work(request));
        }
    }
    request.platform = first;
    done.into_iter().collect()
}

impl Plan {
    /// Adds the plan of another platform.
    fn join(&mut self, other: Self) {
        let known = self.nodes.len();
        let mut ids: Vec<NodeId> = Vec::with_capacity(other.nodes.len());
        let moved = |ids: &[NodeId], id: NodeId| ids[id.0 as usize];
        for node in other.nodes {
            let inputs = node.inputs.iter().map(|id| moved(&ids, *id)).collect();
            let node = Node { inputs, ..node };
            let same = self.nodes[..known].iter().position(|it| is_same(it, &node));
            let position = same.unwrap_or(self.nodes.len());
            ids.push(NodeId(u32::try_from(position).expect("a plan has few nodes")));
            if same.is_none() {
                self.nodes.push(node);
            }
        }
        let history = other.target.history.into_iter();
        self.more_targets.push(Target {
            state: moved(&ids, other.target.state),
            history: history.map(|(entry, id)| (entry, id.map(|id| moved(&ids, id)))).collect(),
            config: other.target.config,
            scans: other.target.scans.moved(|id| moved(&ids, id)),
        });
        self.fresh.extend(other.fresh);
        let new = other.warnings.into_iter().filter(|text| !self.warnings.contains(text));
        let new: Vec<String> = new.collect();
        self.warnings.extend(new);
    }
}

/// Whether two nodes of one stage do the same to the same.
fn is_same(one: &Node, other: &Node) -> bool {
    one.stage == other.stage
        && one.inputs == other.inputs
        && match (&one.op, &other.op) {
            (Op::Scratch, Op::Scratch) => true,
            (Op::Image(one), Op::Image(other)) => one.config == other.config,
            (Op::Source(one), Op::Source(other)) => one == other,
            (Op::Run(one), Op::Run(other)) => one == other,
            (Op::Copy(one), Op::Copy(other)) => one == other,
            (Op::MakeDirectory(one), Op::MakeDirectory(other)) => one == other,
            _ => false,
        }
}

impl Planner<'_> {
    /// The stages that are to be built again; a name that no stage has is told.
    pub(super) fn fresh_stages(&mut self) -> BTreeSet<StageId> {
        let (mut fresh, stages) = (BTreeSet::new(), &self.dockerfile.stages);
        for name in &self.request.no_cache_stages {
            match self.dockerfile.stage_index(name, stages.len()) {
                Some(index) => {
                    fresh.insert(StageId(u32::try_from(index).expect("stages are few")));
                }
                None => {
                    let near = nearest(name, stage_names(stages));
                    let hint =
                        near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                    self.warnings.push(format!("no stage `{name}` to build without cache{hint}"));
                }
            }
        }
        fresh
    }
}
