//! How a later file, or a service that extends another, changes what was there.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::ComposeError,
    node::{Mark, Node, Shape},
};

/// What becomes of two values at a path; `*` stands for any key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// The later one is taken.
    Replace,
    /// Both become lists of `KEY=VALUE` and are joined.
    Sequence,
    /// As `Sequence`, without what is there already.
    NewOnly,
    /// A text is the mapping's `context`.
    Build,
    /// A list's items are keys of a mapping.
    Keys,
}

const RULES: &[(&str, Rule)] = &[
    ("services.*.build", Rule::Build),
    ("services.*.command", Rule::Replace),
    ("services.*.entrypoint", Rule::Replace),
    ("services.*.healthcheck.test", Rule::Replace),
    ("services.*.ulimits.*", Rule::Replace),
    ("services.*.depends_on", Rule::Keys),
    ("services.*.networks", Rule::Keys),
    ("services.*.models", Rule::Keys),
    ("services.*.build.extra_hosts", Rule::NewOnly),
    ("services.*.extra_hosts", Rule::NewOnly),
    ("services.*.annotations", Rule::Sequence),
    ("services.*.build.args", Rule::Sequence),
    ("services.*.build.additional_contexts", Rule::Sequence),
    ("services.*.build.labels", Rule::Sequence),
    ("services.*.deploy.labels", Rule::Sequence),
    ("services.*.dns", Rule::Sequence),
    ("services.*.dns_opt", Rule::Sequence),
    ("services.*.dns_search", Rule::Sequence),
    ("services.*.env_file", Rule::Sequence),
    ("services.*.label_file", Rule::Sequence),
    ("services.*.environment", Rule::Sequence),
    ("services.*.labels", Rule::Sequence),
    ("services.*.sysctls", Rule::Sequence),
    ("services.*.tmpfs", Rule::Sequence),
    ("networks.*.labels", Rule::Sequence),
    ("volumes.*.labels", Rule::Sequence),
];
/// Lists in which a later `KEY=VALUE`, or the same word, takes the place of the earlier one.
const UNIQUE: &[&str] = &[
    "networks.*.labels",
    "services.*.annotations",
    "services.*.build.args",
    "services.*.build.additional_contexts",
    "services.*.build.tags",
    "services.*.build.labels",
    "services.*.cap_add",
    "services.*.cap_drop",
    "services.*.deploy.labels",
    "services.*.dns",
    "services.*.dns_opt",
    "services.*.dns_search",
    "services.*.environment",
    "services.*.labels",
    "services.*.links",
    "services.*.profiles",
    "services.*.sysctls",
    "services.*.tmpfs",
];

/// The keys on the way to a value.
#[derive(Clone, Copy)]
struct Path<'p> {
    key: &'p str,
    above: Option<&'p Self>,
}

impl Path<'_> {
    fn is(&self, pattern: &str) -> bool {
        let mut at = Some(self);
        for part in pattern.rsplit('.') {
            match at {
                Some(path) if part == "*" || part == path.key => at = path.above,
                _ => return false,
            }
        }
        at.is_none()
    }
}

/// Merges a whole file into the files before it.
pub(crate) fn files(base: &mut Node, later: Node) -> Result<(), ComposeError> {
    unmark(base, &later);
    both(base, later, None)?;
    settle(base, None);
    Ok(())
}

/// Merges a part of a section, as a service, into a copy of what it extends or changes.
pub(crate) fn part(base: &mut Node, later: Node, section: &str) -> Result<(), ComposeError> {
    unmark(base, &later);
    let section = Path { key: section, above: None };
    both(base, later, Some(&Path { key: "", above: Some(&section) }))
}

/// Takes away what a `!reset` or `!override` of the later one stands for.
fn unmark(base: &mut Node, later: &Node) {
    let (Shape::Map(base), Shape::Map(later)) = (&mut base.shape, &later.shape) else { return };
    for (key, value) in later {
        if value.mark.is_some() {
            base.remove(key);
        } else if let Some(base) = base.get_mut(key) {
            unmark(base, value);
        }
    }
}

fn both(base: &mut Node, later: Node, path: Option<&Path<'_>>) -> Result<(), ComposeError> {
    let rule = path.and_then(|path| RULES.iter().find(|(pattern, _)| path.is(pattern)));
    match rule.map(|(_, rule)| *rule) {
        Some(Rule::Replace) => {
            *base = later;
            return Ok(());
        }
        Some(rule @ (Rule::Sequence | Rule::NewOnly)) => {
            join(base, later, rule);
            return Ok(());
        }
        Some(Rule::Build) => {
            let (old, new) = (context(base.clone()), context(later));
            *base = old;
            return mappings(base, new, path);
        }
        Some(Rule::Keys) => {
            let (old, new) = (keys(base.clone()), keys(later));
            *base = old;
            return mappings(base, new, path);
        }
        None => {}
    }
    if later.is_null() {
        return Ok(());
    }
    match (&mut base.shape, later.shape) {
        (Shape::Map(_), shape @ Shape::Map(_)) => mappings(base, Node { shape, ..later }, path),
        (Shape::List(all), Shape::List(more)) => {
            all.extend(more);
            Ok(())
        }
        (Shape::Map(_) | Shape::List(_), _) => {
            let key = path.map_or_else(String::new, |path| path.key.to_owned());
            let wanted = "of the form that the value before has";
            Err(ComposeError::Form { place: later.place, key: format!("`{key}`"), wanted })
        }
        (_, shape) => {
            *base = Node { shape, ..later };
            Ok(())
        }
    }
}

fn mappings(base: &mut Node, later: Node, path: Option<&Path<'_>>) -> Result<(), ComposeError> {
    let Shape::Map(all) = &mut base.shape else {
        *base = later;
        return Ok(());
    };
    let Shape::Map(more) = later.shape else { return Ok(()) };
    for (key, value) in more {
        match all.get_mut(&key) {
            Some(old) => both(old, value, Some(&Path { key: &key, above: path }))?,
            None => {
                all.insert(key, value);
            }
        }
    }
    Ok(())
}

fn join(base: &mut Node, later: Node, rule: Rule) {
    let mut all = sequence(base.clone());
    let mut more = sequence(later);
    if rule == Rule::NewOnly {
        let known: BTreeSet<&str> = all.iter().filter_map(scalar).collect();
        more.retain(|item| scalar(item).is_none_or(|text| !known.contains(text)));
    }
    all.extend(more);
    base.shape = Shape::List(all);
}

fn scalar(node: &Node) -> Option<&str> {
    match &node.shape {
        Shape::Text(text) | Shape::Plain(text) => Some(text),
        _ => None,
    }
}

/// A mapping as a list of `KEY=VALUE`.
fn sequence(node: Node) -> Vec<Node> {
    let place = node.place.clone();
    match node.shape {
        Shape::List(all) => all,
        Shape::Map(all) => all.into_iter().flat_map(|(key, value)| pairs(&key, value)).collect(),
        Shape::Text(text) => vec![Node::text(place, text)],
        Shape::Plain(_) if node.is_null() => Vec::new(),
        Shape::Plain(text) => vec![Node::text(place, text)],
    }
}

fn pairs(key: &str, value: Node) -> Vec<Node> {
    if value.mark == Some(Mark::Reset) {
        return Vec::new();
    }
    let place = value.place.clone();
    if let Shape::List(all) = value.shape {
        return all.into_iter().flat_map(|item| pairs(key, item)).collect();
    }
    let text = match value.scalar(key) {
        Ok(Some(value)) => format!("{key}={value}"),
        _ => key.to_owned(),
    };
    vec![Node::text(place, text)]
}

fn context(node: Node) -> Node {
    let (place, mark) = (node.place.clone(), node.mark);
    match node.shape {
        Shape::Text(_) | Shape::Plain(_) if !node.is_null() => {
            let map = BTreeMap::from([("context".to_owned(), node)]);
            Node { place, mark, shape: Shape::Map(map) }
        }
        _ => node,
    }
}

fn keys(node: Node) -> Node {
    let Shape::List(all) = node.shape else { return node };
    let place = node.place.clone();
    let null = |place| Node { place, mark: None, shape: Shape::Plain(String::new()) };
    let named = all.into_iter().filter_map(|item| {
        let name = item.scalar("").ok().flatten()?;
        Some((name, null(item.place)))
    });
    Node { place, mark: node.mark, shape: Shape::Map(named.collect()) }
}

/// Drops what is reset, and what a later item of a list takes the place of.
fn settle(node: &mut Node, path: Option<&Path<'_>>) {
    node.mark = None;
    match &mut node.shape {
        Shape::Map(all) => {
            all.retain(|_, value| value.mark != Some(Mark::Reset));
            for (key, value) in all {
                settle(value, Some(&Path { key, above: path }));
            }
        }
        Shape::List(all) => {
            all.retain(|item| item.mark != Some(Mark::Reset));
            if path.is_some_and(|path| UNIQUE.iter().any(|pattern| path.is(pattern))) {
                unique(all);
            }
        }
        _ => {}
    }
}

/// A later item takes the place of the earlier one with its key.
fn unique(all: &mut Vec<Node>) {
    let key = |item: &Node| match &item.shape {
        Shape::Text(text) | Shape::Plain(text) => {
            Some(text.split('=').next().unwrap_or_default().to_owned())
        }
        _ => None,
    };
    let mut last: BTreeMap<String, Node> = BTreeMap::new();
    for item in all.iter() {
        last.extend(key(item).map(|key| (key, item.clone())));
    }
    let mut seen = BTreeSet::new();
    let kept = all.drain(..).filter_map(|item| match key(&item) {
        Some(key) if !seen.insert(key.clone()) => None,
        Some(key) => last.remove(&key),
        None => Some(item),
    });
    *all = kept.collect();
}
