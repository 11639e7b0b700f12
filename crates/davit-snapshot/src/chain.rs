//! Choosing trees for a chain of layers; pure.
//!
//! A tree covers a run of layers and stands on the chain below. So trees are the edges of a graph
//! whose nodes are the chain's prefixes, and a stack is a path from the bottom:
//!
//! ```text
//! 0 ======== base ========> 5 --step--> 6 --step--> 7        layers 1-5 merged, then two steps
//!                           5 --------- fold -----> 7        the steps folded; base is never
//! ```

use davit_image::{ChainId, DiffId};

use crate::{Form, TreeId};

/// Raised whenever the bytes of a tree would differ from those of an earlier davit.
const WRITER_VERSION: u32 = 1;

/// Step trees on one base that are folded into one.
pub(crate) const FOLD_AT: usize = 8;

/// A tree over `chain[from..to]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Edge {
    pub(crate) id: TreeId,
    pub(crate) from: usize,
    pub(crate) to: usize,
}

impl Edge {
    /// The tree of this form over `chain[from..to]`, whether it exists or not.
    pub(crate) fn new(form: Form, chain: &[DiffId], from: usize, to: usize) -> Self {
        Self { id: tree_id(form, &chain[..to], from), from, to }
    }
}

/// Identity of the tree that covers `chain[from..]`.
fn tree_id(form: Form, chain: &[DiffId], from: usize) -> TreeId {
    use std::fmt::Write as _;
    let kind = match form {
        Form::Erofs => "erofs",
        Form::Directories | Form::DirectoriesElsewhere | Form::Copy => "directory",
    };
    let mut text = format!("davit tree {WRITER_VERSION}\nform {kind}\n");
    // Above something, whiteouts and opaque marks are written in overlay's form.
    let _infallible = match ChainId::of(&chain[..from]) {
        Some(below) => writeln!(text, "whiteouts overlay\nbelow {below}"),
        None => writeln!(text, "whiteouts none"),
    };
    for layer in &chain[from..] {
        let _infallible = writeln!(text, "layer {layer}");
    }
    TreeId::of(text.as_bytes())
}

/// The shortest stack to each prefix of a chain of `length` layers; `None` where no trees lead.
/// Of two equally short ones the one with the longer uppermost tree.
pub(crate) fn stacks(edges: &[Edge], length: usize) -> Vec<Option<Vec<Edge>>> {
    let mut stacks: Vec<Option<Vec<Edge>>> = vec![None; length + 1];
    stacks[0] = Some(Vec::new());
    for to in 1..=length {
        let ending = edges.iter().filter(|edge| edge.to == to && edge.from < to);
        let through = ending.filter_map(|edge| {
            let mut stack = stacks[edge.from].clone()?;
            stack.push(*edge);
            Some((stack.len(), edge.from, stack))
        });
        stacks[to] = through.min_by_key(|(len, from, _)| (*len, *from)).map(|(.., stack)| stack);
    }
    stacks
}

/// What to write so that a chain can be mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Nothing: these trees are there.
    Present(Vec<Edge>),
    /// One tree over the layers from here up, on one of these stacks; the first that can carry it.
    /// The last is empty and always can.
    Write(Vec<Vec<Edge>>),
}

/// Chooses for a chain of `length` layers among trees that exist.
pub(crate) fn choose(edges: &[Edge], length: usize) -> Choice {
    let mut stacks = stacks(edges, length);
    if let Some(whole) = stacks[length].take() {
        if whole.len() <= FOLD_AT {
            return Choice::Present(whole);
        }
        return Choice::Write(vec![whole[..1].to_vec(), Vec::new()]);
    }
    let prefixes = stacks.into_iter().take(length).rev().flatten();
    let carrying = prefixes.map(|mut stack| {
        // The new tree would be one step too many: it takes the steps below with it.
        if stack.len() >= FOLD_AT {
            stack.truncate(1);
        }
        stack
    });
    let mut carrying: Vec<_> = carrying.collect();
    carrying.dedup();
    Choice::Write(carrying)
}

#[cfg(test)]
mod tests {
    use davit_image::Digest;

    use super::*;

    fn chain(length: usize) -> Vec<DiffId> {
        (0..length).map(|n| DiffId::new(Digest::of(&n.to_le_bytes()))).collect()
    }

    fn edges(runs: &[(usize, usize)]) -> Vec<Edge> {
        let chain = chain(40);
        runs.iter().map(|(from, to)| Edge::new(Form::Erofs, &chain, *from, *to)).collect()
    }

    fn runs(stack: &[Edge]) -> Vec<(usize, usize)> {
        stack.iter().map(|edge| (edge.from, edge.to)).collect()
    }

    #[test]
    fn identities_depend_on_everything() {
        let chain = chain(4);
        let mut ids = vec![
            tree_id(Form::Erofs, &chain, 0),
            tree_id(Form::Erofs, &chain, 1),
            tree_id(Form::Erofs, &chain, 2),
            tree_id(Form::Erofs, &chain[..3], 1),
            tree_id(Form::Erofs, &chain[1..], 0),
            tree_id(Form::Directories, &chain, 0),
        ];
        assert_eq!(tree_id(Form::Directories, &chain, 0), tree_id(Form::Copy, &chain, 0));
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }

    #[test]
    fn a_fresh_chain_is_one_tree() {
        assert_eq!(choose(&[], 130), Choice::Write(vec![vec![]]));
    }

    #[test]
    fn the_longest_prefix_is_reused() {
        let edges = edges(&[(0, 2), (0, 3), (5, 6)]);
        let Choice::Write(stacks) = choose(&edges, 6) else { panic!() };
        let stacks: Vec<_> = stacks.iter().map(|stack| runs(stack)).collect();
        assert_eq!(stacks, [vec![(0, 3)], vec![(0, 2)], vec![]]);
    }

    #[test]
    fn the_fewest_trees_are_taken() {
        let edges = edges(&[(0, 3), (3, 4), (4, 5), (3, 5), (0, 1), (1, 5)]);
        let Choice::Present(stack) = choose(&edges, 5) else { panic!() };
        assert_eq!(runs(&stack), [(0, 1), (1, 5)]);
    }

    #[test]
    fn steps_are_folded_but_never_the_base() {
        let mut steps = vec![(0, 5)];
        for step in 5..12 {
            steps.push((step, step + 1));
            assert!(matches!(choose(&edges(&steps), step + 1), Choice::Present(_)), "{step}");
        }
        // Seven steps are there; the eighth takes all of them.
        let Choice::Write(stacks) = choose(&edges(&steps), 13) else { panic!() };
        assert_eq!(runs(&stacks[0]), [(0, 5)]);
        assert_eq!(stacks.last(), Some(&vec![]));
        steps.push((5, 13));
        let Choice::Present(stack) = choose(&edges(&steps), 13) else { panic!() };
        assert_eq!(runs(&stack), [(0, 5), (5, 13)]);
        // The next step stands on the fold.
        let Choice::Write(stacks) = choose(&edges(&steps), 14) else { panic!() };
        assert_eq!(runs(&stacks[0]), [(0, 5), (5, 13)]);
    }
}
