//! The names of a definition: variables, functions and attributes, found when they are asked for.

mod types;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use hcl_edit::expr::Expression;
use serde_json::Value;

pub(crate) use self::types::Type;
use crate::{
    compose::{self, Composed},
    error::{BakeError, ValueError},
    eval::{Names, Scope, Spent},
    functions::World,
    source::{Attribute, BakeFile, Block, Format, Source, Sources},
    value::{boolean, entries, object, text, weight},
};

/// Where contexts that are relative paths go out from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paths {
    /// The working directory of the caller.
    #[default]
    OfCaller,
    /// The folder of the file that names them; of Compose files that of the first.
    OfFiles,
}

/// What a definition may know of the world.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Variables that the caller sets, which win over all others.
    pub variables: BTreeMap<String, String>,
    /// Variables of the environment, which replace defaults.
    pub environment: BTreeMap<String, String>,
    /// Names that are always there, as `BAKE_LOCAL_PLATFORM`.
    pub builtin: BTreeMap<String, String>,
    /// The file `.env`, whose variables Compose files have besides those of the environment.
    pub dotenv: Option<BakeFile>,
    /// Reads a file that a Compose file names; without it such files are refused.
    pub read_file: Option<ReadFile>,
    /// Where contexts go out from.
    pub paths: Paths,
    /// The home directory of the caller.
    pub home: String,
    /// The time, in seconds since 1970.
    pub now_seconds: i64,
    /// What random values are made of; whoever knows it knows them.
    pub seed: [u8; 32],
}

/// Reads a file by its path, or says why it cannot.
pub struct ReadFile(pub Box<ReadFn>);

/// What reads a file.
pub type ReadFn = dyn Fn(&str) -> Result<String, String>;

impl std::fmt::Debug for ReadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadFile")
    }
}

/// A definition whose values are not asked for yet.
#[derive(Debug)]
pub struct Definitions {
    pub(crate) sources: Sources,
    pub(crate) composed: Option<Composed>,
    surroundings: Surroundings,
    found: RefCell<BTreeMap<String, Value>>,
    /// Values that are being found, to tell circles.
    open: RefCell<BTreeSet<String>>,
    spent: Spent,
    world: World,
    /// What matrices make, once that is asked for.
    matrices: RefCell<Option<Matrices>>,
}

/// What a matrix binds for one of its targets.
pub(crate) type Bindings = Vec<(String, Value)>;
/// Targets by name, with the blocks that make them by number.
type Matrices = BTreeMap<String, Vec<(usize, Bindings)>>;

/// A variable as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its type as it is written, if it is.
    pub kind: Option<String>,
    /// Its value as text; `None` for null.
    pub value: Option<String>,
    /// What it is for.
    pub description: Option<String>,
}

impl Definitions {
    /// Reads the files, of which later ones win.
    ///
    /// # Errors
    /// What is no definition.
    pub fn read(files: &[BakeFile], surroundings: Surroundings) -> Result<Self, BakeError> {
        let mut sources = Sources::default();
        let mut services = Vec::new();
        for file in files {
            if sources.add(file)? == Format::Compose {
                services.push(file);
            }
        }
        let composed = match &services[..] {
            [] => None,
            services => Some(compose::read(services, &surroundings)?),
        };
        for block in &sources.blocks {
            let known: &[&str] = match block.kind {
                "variable" => &["default", "type", "description", "validation"],
                "function" => &["params", "variadic_params", "variadic_param", "result"],
                "group" => &["targets", "description", "name", "matrix"],
                _ => continue,
            };
            unknown_attribute(block, known)?;
        }
        let world = World {
            home: surroundings.home.clone(),
            now_seconds: surroundings.now_seconds,
            seed: surroundings.seed,
            ..World::default()
        };
        let definitions = Self {
            world,
            sources,
            composed,
            surroundings,
            found: RefCell::default(),
            open: RefCell::default(),
            matrices: RefCell::default(),
            spent: Spent::default(),
        };
        definitions.check_variables()?;
        Ok(definitions)
    }

    pub(crate) const fn paths(&self) -> Paths {
        self.surroundings.paths
    }

    /// All variables by name, with their values.
    ///
    /// # Errors
    /// A value that cannot be found.
    pub fn variables(&self) -> Result<Vec<Variable>, BakeError> {
        let names: BTreeSet<&str> = self.blocks("variable", None).map(|it| &*it.label).collect();
        let variables = names.into_iter().map(|name| {
            let value = self.variable(name)?;
            let description = self.declared(name, "description");
            let description = description.map(|it| self.value_of("description", it)).transpose()?;
            Ok(Variable {
                name: name.to_owned(),
                kind: self.declared(name, "type").and_then(|it| Type::text(&it.source)),
                value: match &value {
                    Value::Null => None,
                    value => Some(text(value).unwrap_or_else(|_| value.to_string())),
                },
                description: description.and_then(|it| it.as_str().map(str::to_owned)),
            })
        });
        variables.collect()
    }

    /// Blocks of a kind, in the order of the files.
    pub(crate) fn blocks<'d, 'n>(
        &'d self,
        kind: &'n str,
        label: Option<&'n str>,
    ) -> impl DoubleEndedIterator<Item = &'d Block> + use<'d, 'n> {
        let is = move |block: &&Block| {
            block.kind == kind && label.is_none_or(|label| block.label == label)
        };
        self.sources.blocks.iter().filter(is)
    }

    /// The value of an attribute outside of any matrix.
    pub(crate) fn value_of(&self, name: &str, it: &Attribute) -> Result<Value, BakeError> {
        located(name, it, Scope::new(self).source(&it.source))
    }

    fn declared(&self, variable: &str, attribute: &str) -> Option<&Attribute> {
        self.blocks("variable", Some(variable))
            .rev()
            .find_map(|block| block.attributes.get(attribute))
    }

    fn variable(&self, name: &str) -> Result<Value, BakeError> {
        let value = self.value(name).map_err(|source| match self.declared(name, "default") {
            Some(Attribute { place, .. }) => {
                BakeError::Value { place: place.clone(), name: name.to_owned(), source }
            }
            None => BakeError::Variable { name: name.to_owned(), source },
        })?;
        Ok(value.unwrap_or_default())
    }

    /// Every variable has a value, and one that its definition allows.
    fn check_variables(&self) -> Result<(), BakeError> {
        for block in self.blocks("variable", None) {
            self.variable(&block.label)?;
            for validation in &block.blocks {
                unknown_attribute(validation, &["condition", "error_message"])?;
                let Some(condition) = validation.attributes.get("condition") else { continue };
                let holds = self.value_of("condition", condition)?;
                if located("condition", condition, boolean(&holds))? {
                    continue;
                }
                let message = validation.attributes.get("error_message");
                let message = message.map(|it| self.value_of("error_message", it)).transpose()?;
                let message = message.and_then(|it| it.as_str().map(str::to_owned));
                let message = message.unwrap_or_else(|| "its value is not valid".to_owned());
                let (name, source) = (block.label.clone(), ValueError::Invalid(message));
                return Err(BakeError::Variable { name, source });
            }
        }
        Ok(())
    }

    fn find_variable(&self, name: &str) -> Result<Option<Value>, ValueError> {
        if let Some(value) = self.surroundings.builtin.get(name) {
            return Ok(Some(value.as_str().into()));
        }
        let is_variable = self.blocks("variable", Some(name)).next().is_some();
        if !is_variable {
            if let Some(attribute) = self.sources.globals.get(name) {
                return Scope::new(self).source(&attribute.source).map(Some);
            }
            return Ok(None);
        }
        let kind = self.declared(name, "type").map(|it| Type::parse(&it.source)).transpose()?;
        let default = self.declared(name, "default");
        let default = default.map(|it| Scope::new(self).source(&it.source)).transpose()?;
        let default = match (default, &kind) {
            (Some(value), Some(kind)) => Some(kind.convert(value)?),
            (value, _) => value,
        };
        let json = format!("{name}_JSON");
        let is_other = self.blocks("variable", Some(&json)).next().is_some()
            || self.surroundings.builtin.contains_key(&json);
        if let Some(kind) = &kind
            && !is_other
            && let Some(json) = self.outside(&json)
        {
            let value = serde_json::from_str(json);
            let value = value.map_err(|error| ValueError::Call {
                function: format!("{name}_JSON"),
                problem: error.to_string(),
            })?;
            return kind.convert(value).map(Some);
        }
        let Some(given) = self.outside(name) else {
            let empty = if kind.is_some() { Value::Null } else { "".into() };
            return Ok(Some(default.unwrap_or(empty)));
        };
        match (kind, &default) {
            (Some(kind), _) => kind.read(given).map(Some),
            (None, Some(Value::Bool(_))) => Type::Bool.read(given).map(Some),
            (None, Some(Value::Number(_))) => Type::Number.read(given).map(Some),
            (None, Some(value @ (Value::Array(_) | Value::Object(_)))) => {
                Err(crate::value::wrong("a type that a text can have", value))
            }
            _ => Ok(Some(given.into())),
        }
    }

    /// The blocks whose matrix makes a target of this name, with what it binds.
    fn of_matrix(&self, label: &str) -> Result<Vec<(&Block, Bindings)>, ValueError> {
        let is_matrix = |block: &&Block| block.attributes.contains_key("matrix");
        let blocks: Vec<&Block> = self.blocks("target", None).filter(is_matrix).collect();
        let mut known = self.matrices.take();
        if known.is_none() {
            // A matrix that asks for targets of others finds none.
            self.matrices.replace(Some(BTreeMap::new()));
            let mut all: Matrices = BTreeMap::new();
            for (at, block) in blocks.iter().enumerate() {
                for (name, bindings) in self.combined(block)? {
                    all.entry(name).or_default().push((at, bindings));
                }
            }
            known = Some(all);
        }
        let found = known.as_ref().and_then(|all| all.get(label)).cloned().unwrap_or_default();
        self.matrices.replace(known);
        Ok(found.into_iter().map(|(at, bindings)| (blocks[at], bindings)).collect())
    }

    /// The targets that a matrix makes, with what it binds for each.
    pub(crate) fn combined(&self, block: &Block) -> Result<Vec<(String, Bindings)>, ValueError> {
        let Some(matrix) = block.attributes.get("matrix") else { return Ok(Vec::new()) };
        let axes = Scope::new(self).source(&matrix.source)?;
        let combinations = combinations(&axes, &self.spent)?;
        let named = combinations.into_iter().map(|bindings| {
            let bound: Vec<(&str, Value)> =
                bindings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
            let name = match block.attributes.get("name") {
                Some(name) => {
                    let find = &mut |scope: Scope<'_>| text(&scope.source(&name.source)?);
                    Scope::new(self).with(&bound, find)?
                }
                None => block.label.clone(),
            };
            Ok((name, bindings))
        });
        named.collect()
    }

    fn outside(&self, name: &str) -> Option<&str> {
        let Surroundings { variables, environment, .. } = &self.surroundings;
        variables.get(name).or_else(|| environment.get(name)).map(String::as_str)
    }

    /// Finds a value once; refuses one that is made of itself.
    fn once(
        &self,
        key: String,
        find: impl FnOnce() -> Result<Option<Value>, ValueError>,
    ) -> Result<Option<Value>, ValueError> {
        if let Some(value) = self.found.borrow().get(&key) {
            return Ok(Some(value.clone()));
        }
        if !self.open.borrow_mut().insert(key.clone()) {
            return Err(ValueError::Cycle(key));
        }
        let value = find();
        self.open.borrow_mut().remove(&key);
        if let Ok(Some(value)) = &value {
            self.found.borrow_mut().insert(key, value.clone());
        }
        value
    }
}

impl Names for Definitions {
    fn value(&self, name: &str) -> Result<Option<Value>, ValueError> {
        self.once(name.to_owned(), || self.find_variable(name))
    }

    fn attribute(&self, kind: &str, label: &str, name: &str) -> Result<Option<Value>, ValueError> {
        if kind != "target" && kind != "group" {
            return Ok(None);
        }
        let of_matrix = if kind == "target" { self.of_matrix(label)? } else { Vec::new() };
        let is_single = |block: &&Block| !block.attributes.contains_key("matrix");
        let plain =
            self.blocks(kind, Some(label)).filter(is_single).map(|block| (block, Vec::new()));
        let blocks: Vec<(&Block, Bindings)> = plain.chain(of_matrix).collect();
        if blocks.is_empty() {
            return Ok(None);
        }
        let found = blocks.iter().rev().find_map(|(block, bindings)| {
            Some((block.attributes.get(name)?, bindings)).filter(|_| name != "name")
        });
        let Some((attribute, bindings)) = found else {
            let is_known = name == "inherits" || crate::target::kind_of(name).is_some();
            let own = (name == "name").then(|| Value::from(label));
            return Ok(own.or(is_known.then_some(Value::Null)));
        };
        let bindings: Vec<(&str, Value)> =
            bindings.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        self.once(format!("{kind}.{label}.{name}"), || {
            let find = &mut |scope: Scope<'_>| scope.source(&attribute.source);
            Scope::new(self).with(&bindings, find).map(Some)
        })
    }

    fn call(&self, name: &str, arguments: &[Value]) -> Result<Option<Value>, ValueError> {
        let Some(function) = self.blocks("function", Some(name)).next_back() else {
            return Ok(None);
        };
        let wrong = |problem: String| ValueError::Call { function: name.to_owned(), problem };
        let names = |key| function.attributes.get(key).and_then(|it| names_of(&it.source));
        let params = names("params").ok_or_else(|| wrong("no params".into()))?;
        let rest = names("variadic_params").or_else(|| names("variadic_param"));
        let rest = rest.unwrap_or_default();
        let count = arguments.len();
        if count < params.len() || (count > params.len() && rest.is_empty()) {
            return Err(wrong(format!("{} arguments are needed, not {count}", params.len())));
        }
        let mut bindings: Vec<(&str, Value)> =
            params.iter().map(String::as_str).zip(arguments.iter().cloned()).collect();
        if let Some(rest) = rest.first() {
            bindings.push((rest, Value::Array(arguments[params.len()..].to_vec())));
        }
        let result = function.attributes.get("result");
        let result = result.ok_or_else(|| wrong("no result".to_owned()))?;
        let value = Scope::new(self).with(&bindings, &mut |scope| scope.source(&result.source));
        value.map(Some)
    }

    fn spent(&self) -> &Spent {
        &self.spent
    }

    fn world(&self) -> &World {
        &self.world
    }
}

/// Most combinations of a matrix.
const MOST_COMBINATIONS: usize = 10_000;

/// All combinations of a matrix; its first name changes fastest.
fn combinations(axes: &Value, spent: &Spent) -> Result<Vec<Bindings>, ValueError> {
    let mut all: Vec<Bindings> = vec![Vec::new()];
    for (name, values) in object(axes)? {
        let mut more = Vec::new();
        for (_, value) in entries(values)? {
            for one in &all {
                if more.len() >= MOST_COMBINATIONS {
                    return Err(ValueError::Budget);
                }
                let weights = one.iter().map(|(_, value)| 64 + weight(value));
                spent.take(weights.fold(64 + weight(&value), u64::saturating_add))?;
                more.push([&one[..], &[(name.clone(), value.clone())]].concat());
            }
        }
        all = more;
    }
    Ok(all)
}

/// The names that a parameter list has; one name is a list.
fn names_of(source: &Source) -> Option<Vec<String>> {
    let name = |expression: &Expression| match expression {
        Expression::Variable(name) => Some(name.to_string()),
        Expression::String(name) => Some(name.to_string()),
        _ => None,
    };
    match source {
        Source::Hcl(Expression::Array(all)) => all.iter().map(name).collect(),
        Source::Hcl(one) => Some(vec![name(one)?]),
        Source::Json(Value::Array(all)) => {
            all.iter().map(|name| name.as_str().map(str::to_owned)).collect()
        }
        Source::Json(one) => Some(vec![one.as_str()?.to_owned()]),
    }
}

/// Says where a value was to be found.
pub(crate) fn located<T>(
    name: &str,
    attribute: &Attribute,
    value: Result<T, ValueError>,
) -> Result<T, BakeError> {
    value.map_err(|source| {
        let (place, name) = (attribute.place.clone(), name.to_owned());
        BakeError::Value { place, name, source }
    })
}

/// Refuses attributes that a block does not have.
pub(crate) fn unknown_attribute(block: &Block, known: &[&str]) -> Result<(), BakeError> {
    let unknown = block.attributes.iter().find(|(name, _)| !known.contains(&name.as_str()));
    unknown.map_or(Ok(()), |(name, attribute)| {
        let (place, name) = (attribute.place.clone(), name.clone());
        Err(BakeError::Unknown { place, what: "attribute", name })
    })
}
