//! Which targets are built: groups, parents, matrices and links between targets.

pub(crate) mod folder;
mod pattern;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use self::pattern::matches;
use crate::{
    definitions::{Definitions, located, unknown_attribute},
    error::{BakeError, ValueError},
    eval::{Names as _, Scope, Spent},
    source::Block,
    target::{ATTRIBUTES, Override, Target},
    value::{list, text},
};

/// Most targets of a definition, those of matrices included.
const MOST_TARGETS: usize = 10_000;
/// What names another target as a context.
const LINK: &str = "target:";
/// The variable that is an argument of each target.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Targets and groups that were asked for.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The groups by name, with what they name.
    pub groups: BTreeMap<String, Group>,
    /// The targets by name, those that others are built of included.
    pub targets: BTreeMap<String, Target>,
    /// Targets that nobody asked for but other targets.
    pub linked: BTreeSet<String>,
}

/// A group of targets and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// What it is for.
    pub description: Option<String>,
    /// What it names.
    pub targets: Vec<String>,
}

/// A target or group as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What a group names; `None` for a target.
    pub group: Option<Vec<String>>,
}

impl Plan {
    /// The plan in the form of buildx's `bake --print`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let groups = self.groups.iter().map(|(name, group)| {
            let mut shown = Map::new();
            if let Some(description) = &group.description {
                shown.insert("description".to_owned(), description.as_str().into());
            }
            shown.insert("targets".to_owned(), group.targets.clone().into());
            (name.clone(), Value::Object(shown))
        });
        let targets = self.targets.iter().map(|(name, it)| (name.clone(), it.to_json()));
        let mut shown = Map::new();
        if !self.groups.is_empty() {
            shown.insert("group".to_owned(), Value::Object(groups.collect()));
        }
        shown.insert("target".to_owned(), Value::Object(targets.collect()));
        Value::Object(shown)
    }

    /// The targets that a target's contexts name.
    pub fn links<'p>(&'p self, name: &str) -> impl Iterator<Item = String> + use<'p> {
        links(self.targets.get(name)).into_iter()
    }
}

fn links(target: Option<&Target>) -> Vec<String> {
    let contexts = target.map(|it| it.pairs("contexts")).unwrap_or_default();
    let values = contexts.into_iter().map(|(_, value)| value);
    values.filter_map(|value| value.strip_prefix(LINK).map(str::to_owned)).collect()
}

/// A target before its parents are joined in.
#[derive(Clone, Debug, Default)]
struct Raw {
    inherits: Vec<String>,
    target: Target,
    /// The context of a target that neither has one nor inherits one; `None` for the usual one.
    folder: Option<String>,
}

/// All targets and groups of the files.
struct All {
    targets: BTreeMap<String, Raw>,
    groups: BTreeMap<String, Group>,
}

impl Definitions {
    /// Targets and groups by name; those whose name begins with `_` are for other targets.
    ///
    /// # Errors
    /// A value that cannot be found.
    pub fn list(&self) -> Result<Vec<Listed>, BakeError> {
        let all = self.all()?;
        let description = |target: &Target| target.text("description").map(str::to_owned);
        let targets = all.targets.into_iter().map(|(name, raw)| Listed {
            description: description(&raw.target),
            group: None,
            name,
        });
        let groups = all.groups.into_iter().map(|(name, mut group)| {
            group.targets.sort();
            Listed { name, description: group.description, group: Some(group.targets) }
        });
        let mut listed: Vec<Listed> =
            targets.chain(groups).filter(|it| !it.name.starts_with('_')).collect();
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }

    /// What the names stand for, with `--set` applied; `environment` gives what `args` leave out.
    ///
    /// # Errors
    /// A name that nothing has, or a value that cannot be found.
    pub fn resolve(
        &self,
        names: &[String],
        set: &[String],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Plan, BakeError> {
        let all = self.all()?;
        let set: Vec<Override> =
            set.iter().map(|it| Override::parse(it)).collect::<Result<_, _>>()?;
        for one in &set {
            if !all.targets.keys().any(|name| matches(&one.pattern, name)) {
                return Err(all.no_target(&one.pattern));
            }
        }
        let resolver = Resolver { all: &all, set: &set, environment, spent: self.spent() };
        let mut plan = Plan::default();
        let mut asked = Vec::new();
        for name in names {
            asked.extend(all.matching(&name.replace('.', "_"))?);
        }
        for name in &asked {
            resolver.add(name, &mut plan, &mut BTreeSet::new())?;
        }
        let others = asked.iter().filter(|name| *name != "default");
        let is_default = plan.groups.contains_key("default");
        let more: Vec<String> = if is_default { others.cloned().collect() } else { asked.clone() };
        let default = plan.groups.entry("default".to_owned()).or_default();
        default.targets.extend(more);
        default.targets.sort();
        default.targets.dedup();
        let found: Vec<String> = plan.targets.keys().cloned().collect();
        let mut way = Way::default();
        for name in found {
            resolver.link(&name, &mut plan, &mut way)?;
        }
        if let Some(time) = environment(EPOCH).filter(|time| !time.is_empty()) {
            for target in plan.targets.values_mut() {
                if target.pairs("args").iter().all(|(name, _)| name != EPOCH) {
                    target.entry("args", EPOCH, &time);
                }
            }
        }
        Ok(plan)
    }

    fn all(&self) -> Result<All, BakeError> {
        let mut all = All { targets: BTreeMap::new(), groups: BTreeMap::new() };
        let mut count = 0_usize;
        if let Some(composed) = &self.composed {
            for (name, target) in &composed.targets {
                let target = target.clone();
                let raw = Raw { target, folder: composed.folder.clone(), ..Raw::default() };
                all.targets.insert(name.clone(), raw);
            }
            let targets = composed.targets.keys().cloned().collect();
            all.groups.insert("default".to_owned(), Group { description: None, targets });
        }
        let mut renamed: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for block in self.blocks("target", None) {
            for (name, raw) in self.expand(block)? {
                let names = renamed.entry(&block.label).or_default();
                if !names.contains(&name) {
                    names.push(name.clone());
                }
                count += 1;
                if count > MOST_TARGETS {
                    return Err(BakeError::Many(MOST_TARGETS));
                }
                let known = all.targets.entry(name).or_default();
                known.target.merge(&raw.target);
                known.folder = raw.folder.or_else(|| known.folder.take());
                if !raw.inherits.is_empty() {
                    known.inherits = raw.inherits;
                }
            }
        }
        for block in self.blocks("group", None) {
            if let Some(matrix) = block.attributes.get("matrix") {
                let problem = ValueError::Invalid("only targets have a matrix".to_owned());
                return located("matrix", matrix, Err(problem));
            }
            let value = |name: &str| {
                let attribute = block.attributes.get(name);
                attribute.map(|it| self.value_of(name, it)).transpose()
            };
            let group = all.groups.entry(block.label.clone()).or_default();
            if let (Some(targets), Some(it)) = (value("targets")?, block.attributes.get("targets"))
            {
                group.targets = located("targets", it, texts(&targets))?;
            }
            if let Some(description) = value("description")? {
                group.description = description.as_str().map(str::to_owned);
            }
        }
        for (label, targets) in renamed {
            if targets != [label] {
                let group = Group { description: None, targets };
                all.groups.entry(label.to_owned()).or_insert(group);
            }
        }
        Ok(all)
    }

    /// The targets that a block defines: one, or one for each combination of its matrix.
    fn expand(&self, block: &Block) -> Result<Vec<(String, Raw)>, BakeError> {
        let names: Vec<&str> = ATTRIBUTES.iter().map(|(name, ..)| *name).collect();
        unknown_attribute(block, &[&names[..], &["inherits", "matrix", "name"]].concat())?;
        let Some(matrix) = block.attributes.get("matrix") else {
            if let Some(name) = block.attributes.get("name") {
                let problem = ValueError::Invalid("only targets with a matrix have it".to_owned());
                return located("name", name, Err(problem));
            }
            check_name(block, &block.label)?;
            return Ok(vec![(block.label.clone(), self.raw(block, &[])?)]);
        };
        let combined = located("matrix", matrix, self.combined(block))?;
        let mut expanded: Vec<(String, Raw)> = Vec::new();
        for (name, bindings) in combined {
            let bindings: Vec<(&str, Value)> =
                bindings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            check_name(block, &name)?;
            if expanded.iter().any(|(other, _)| *other == name) {
                let problem = ValueError::Invalid(format!("two targets have the name `{name}`"));
                return located("matrix", matrix, Err(problem));
            }
            expanded.push((name, self.raw(block, &bindings)?));
        }
        Ok(expanded)
    }

    fn raw(&self, block: &Block, bindings: &[(&str, Value)]) -> Result<Raw, BakeError> {
        let mut raw = Raw { folder: self.folder(block), ..Raw::default() };
        for (name, attribute) in &block.attributes {
            if matches!(name.as_str(), "name" | "matrix") {
                continue;
            }
            let value = Scope::new(self)
                .with(bindings, &mut |scope| scope.source(&attribute.source))
                .and_then(|value| {
                    if name == "inherits" {
                        raw.inherits = texts(&value)?;
                        return Ok(());
                    }
                    raw.target.give(name, &value)
                });
            located(name, attribute, value)?;
        }
        self.rebase(block, &mut raw.target);
        Ok(raw)
    }
}

impl All {
    fn no_target(&self, name: &str) -> BakeError {
        let known = self.targets.keys().chain(self.groups.keys()).map(String::as_str);
        let near = davit_dockerfile::nearest(name, known).map(str::to_owned);
        BakeError::NoTarget { name: name.to_owned(), near }
    }

    /// Targets and groups of this name, or that a pattern means.
    fn matching(&self, pattern: &str) -> Result<Vec<String>, BakeError> {
        let names: BTreeSet<&String> = self.targets.keys().chain(self.groups.keys()).collect();
        let found: Vec<String> =
            names.into_iter().filter(|name| matches(pattern, name)).cloned().collect();
        if found.is_empty() {
            return Err(self.no_target(pattern));
        }
        Ok(found)
    }
}

struct Resolver<'a> {
    all: &'a All,
    set: &'a [Override],
    environment: &'a dyn Fn(&str) -> Option<String>,
    spent: &'a Spent,
}

impl Resolver<'_> {
    /// Adds a target, or a group and what it names.
    fn add(
        &self,
        name: &str,
        plan: &mut Plan,
        seen: &mut BTreeSet<String>,
    ) -> Result<(), BakeError> {
        let group = self.all.groups.get(name).filter(|_| seen.insert(name.to_owned()));
        let Some(group) = group else {
            // A group that is there already may name the target of its own name.
            let is_target = self.all.targets.contains_key(name);
            if !is_target && self.all.groups.contains_key(name) {
                return Ok(());
            }
            if !plan.targets.contains_key(name) {
                plan.targets.insert(name.to_owned(), self.target(name)?);
            }
            return Ok(());
        };
        plan.groups.insert(name.to_owned(), group.clone());
        group.targets.iter().try_for_each(|name| self.add(name, plan, seen))
    }

    /// A target as it is built.
    fn target(&self, name: &str) -> Result<Target, BakeError> {
        let mut target = self.joined(name, &mut BTreeMap::new())?;
        let folder = self.all.targets.get(name).and_then(|raw| raw.folder.as_deref());
        let folder = folder.unwrap_or(".");
        for (attribute, default) in [("context", folder), ("dockerfile", "Dockerfile")] {
            let is_set = match target.text(attribute) {
                Some("") => attribute == "context",
                other => other.is_some(),
            };
            if !is_set {
                target.set(attribute, default.into());
            }
        }
        Ok(target)
    }

    /// A target with what its parents give; a parent that is visited already gives it once.
    fn joined(
        &self,
        name: &str,
        seen: &mut BTreeMap<String, Option<Target>>,
    ) -> Result<Target, BakeError> {
        if let Some(known) = seen.get(name) {
            return known.clone().ok_or_else(|| BakeError::Cycle(name.to_owned()));
        }
        let raw = self.all.targets.get(name);
        let raw = raw.ok_or_else(|| self.all.no_target(name))?;
        seen.insert(name.to_owned(), None);
        if seen.len() > 500 {
            return Err(BakeError::Many(500));
        }
        let mut target = Target::default();
        for parent in &raw.inherits {
            let parent = self.joined(parent, seen)?;
            self.take(&parent)?;
            target.merge(&parent);
        }
        self.take(&raw.target)?;
        target.merge(&raw.target);
        let set: Vec<&Override> =
            self.set.iter().filter(|one| matches(&one.pattern, name)).collect();
        target.apply(&set, self.environment)?;
        target.normalize();
        seen.insert(name.to_owned(), Some(target.clone()));
        Ok(target)
    }

    fn take(&self, target: &Target) -> Result<(), BakeError> {
        self.spent.take(target.weight()).map_err(|_| BakeError::Heavy)
    }

    /// Adds the targets that a target is built of.
    fn link(&self, name: &str, plan: &mut Plan, way: &mut Way) -> Result<(), BakeError> {
        let Way { open, done } = way;
        if done.contains(name) {
            return Ok(());
        }
        if open.iter().any(|it| it == name) || open.len() > 100 {
            return Err(BakeError::Cycle(name.to_owned()));
        }
        open.push(name.to_owned());
        for other in links(plan.targets.get(name)) {
            if !plan.targets.contains_key(&other) {
                let mut target = self.target(&other)?;
                target.set("output", json!([{"type": "cacheonly"}]));
                plan.targets.insert(other.clone(), target);
                plan.linked.insert(other.clone());
            }
            self.link(&other, plan, way)?;
            check_platforms(name, &other, plan)?;
            let needed = plan.targets.get(&other).map(|it| it.words("entitlements"));
            if let (Some(needed), Some(target)) = (needed, plan.targets.get_mut(name)) {
                let known = target.words("entitlements");
                let new = needed.into_iter().filter(|it| !known.contains(it));
                let new: Vec<Value> = new.map(Value::String).collect();
                if !new.is_empty() {
                    target.append("entitlements", new);
                }
            }
        }
        way.open.pop();
        way.done.insert(name.to_owned());
        Ok(())
    }
}

/// Targets on the way from one to what it is built of.
#[derive(Default)]
struct Way {
    open: Vec<String>,
    /// Those with nothing new behind them: there may be many ways to each.
    done: BTreeSet<String>,
}

/// A target is built for no platform that what it is built of has not.
fn check_platforms(name: &str, other: &str, plan: &Plan) -> Result<(), BakeError> {
    let platforms =
        |name: &str| plan.targets.get(name).map(|it| it.words("platforms")).unwrap_or_default();
    let (own, others) = (platforms(name), platforms(other));
    if own.len() > 1 && others.len() > 1 && own.iter().any(|it| !others.contains(it)) {
        return Err(BakeError::Platforms { target: name.to_owned(), of: other.to_owned() });
    }
    Ok(())
}

fn texts(value: &Value) -> Result<Vec<String>, ValueError> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    list(value)?.iter().map(text).collect()
}

fn check_name(block: &Block, name: &str) -> Result<(), BakeError> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    if !name.is_empty() && name.chars().all(is_plain) {
        return Ok(());
    }
    let problem = format!("`{name}` is not a target's name: letters, digits, - and _");
    Err(BakeError::Syntax { place: block.place.clone(), problem })
}
