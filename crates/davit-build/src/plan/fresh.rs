//! Steps that run again whatever the cache has.

use std::collections::BTreeSet;

use davit_dockerfile::{Dockerfile, nearest};

use super::{Node, Op, Plan, StageId, planner::stage_names};
use crate::{BuildRequest, CachePolicy};

/// Where steps begin to run again: in a stage, at a line or at its beginning.
struct Begin {
    stage: usize,
    line: Option<u32>,
}

impl Begin {
    /// Reads a line, counted from 1, or the name of a stage; else says what is wrong.
    fn find(text: &str, dockerfile: &Dockerfile) -> Result<Self, String> {
        let stages = &dockerfile.stages;
        if let Ok(line) = text.parse() {
            let above = |stage: &davit_dockerfile::Stage| stage.span.first_line <= line;
            let stage = stages.iter().rposition(above);
            let stage = stage.ok_or(format!("no stage has a line {line} to run again from"))?;
            let behind_from = line > stages[stage].span.last_line;
            return Ok(Self { stage, line: behind_from.then_some(line) });
        }
        dockerfile
            .stage_index(text, stages.len())
            .map(|stage| Self { stage, line: None })
            .ok_or_else(|| {
                let near = nearest(text, stage_names(stages));
                let hint = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                format!("no stage `{text}` to run again from{hint}")
            })
    }

    fn has(&self, node: &Node) -> bool {
        let stage = u32::try_from(self.stage).is_ok_and(|stage| node.stage == StageId(stage));
        // A base makes nothing, and several stages may share it.
        let makes = !matches!(node.op, Op::Scratch | Op::Image(_) | Op::Source(_));
        let below = |line: u32| node.span.is_some_and(|span| span.last_line >= line);
        stage && makes && self.line.is_none_or(below)
    }
}

/// Marks the steps whose earlier results do not count.
pub(super) fn mark(plan: &mut Plan, request: &BuildRequest, dockerfile: &Dockerfile) {
    let mut begins = Vec::new();
    for text in &request.no_cache_from {
        match Begin::find(text, dockerfile) {
            Ok(begin) => begins.push(begin),
            Err(warning) => plan.warnings.push(warning),
        }
    }
    let mut again = BTreeSet::new();
    for (index, node) in (0_u32..).zip(&mut plan.nodes) {
        let reads = node.inputs.iter().any(|input| again.contains(&input.0));
        if reads || begins.iter().any(|begin| begin.has(node)) {
            again.insert(index);
        }
        if again.contains(&index) || plan.fresh.contains(&node.stage) {
            node.cache = CachePolicy::Ignore;
        }
    }
}
