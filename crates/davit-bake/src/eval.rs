//! Expressions to values, within a budget: a definition may come from anywhere.

mod operator;
mod template;

use std::cell::Cell;

use hcl_edit::expr::{Expression, ForExpr, FuncCall, ObjectKey, Traversal, TraversalOperator};
use serde_json::{Map, Value};

use crate::{
    definitions::Type,
    error::ValueError,
    functions::{self, World},
    source::Source,
    value::{boolean, entries, integer, object, text, weight, wrong},
};

/// What the evaluation of all expressions may take, about bytes.
const BUDGET: u64 = 128 << 20;
/// What a step weighs at least.
const STEP: u64 = 64;
/// Expressions within expressions, functions' bodies and variables' values included.
const DEPTH: u32 = 160;

/// Who knows the names that an expression does not bind itself.
pub(crate) trait Names {
    /// The value of a global name.
    fn value(&self, name: &str) -> Result<Option<Value>, ValueError>;
    /// An attribute of a block, as `target.NAME.ATTRIBUTE`.
    fn attribute(&self, kind: &str, label: &str, name: &str) -> Result<Option<Value>, ValueError>;
    /// Calls a function of the definition.
    fn call(&self, name: &str, arguments: &[Value]) -> Result<Option<Value>, ValueError>;
    /// What the evaluation has taken.
    fn spent(&self) -> &Spent;
    /// What functions may know.
    fn world(&self) -> &World;
}

/// What was taken of the budget.
#[derive(Debug, Default)]
pub(crate) struct Spent {
    bytes: Cell<u64>,
    depth: Cell<u32>,
}

impl Spent {
    pub(crate) fn take(&self, bytes: u64) -> Result<(), ValueError> {
        let spent = self.bytes.get().saturating_add(bytes);
        self.bytes.set(spent);
        if spent > BUDGET { Err(ValueError::Budget) } else { Ok(()) }
    }

    fn within<T>(&self, run: impl FnOnce() -> Result<T, ValueError>) -> Result<T, ValueError> {
        if self.depth.get() >= DEPTH {
            return Err(ValueError::Depth);
        }
        self.depth.set(self.depth.get() + 1);
        let result = run();
        self.depth.set(self.depth.get() - 1);
        result
    }
}

/// Names that expressions bind, innermost first.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    pub(crate) names: &'s dyn Names,
    bound: Option<&'s Bound<'s>>,
}

struct Bound<'s> {
    name: &'s str,
    value: Value,
    outer: Option<&'s Self>,
}

impl<'s> Scope<'s> {
    pub(crate) const fn new(names: &'s dyn Names) -> Self {
        Self { names, bound: None }
    }

    /// Runs with more names, which hide others.
    pub(crate) fn with<T>(
        self,
        bindings: &[(&str, Value)],
        run: &mut dyn FnMut(Scope<'_>) -> Result<T, ValueError>,
    ) -> Result<T, ValueError> {
        match bindings {
            [] => run(Scope { names: self.names, bound: self.bound }),
            [(name, value), rest @ ..] => {
                let bound = Bound { name, value: value.clone(), outer: self.bound };
                Scope { names: self.names, bound: Some(&bound) }.with(rest, run)
            }
        }
    }

    fn local(self, name: &str) -> Option<&'s Value> {
        let mut bound = self.bound;
        while let Some(one) = bound {
            if one.name == name {
                return Some(&one.value);
            }
            bound = one.outer;
        }
        None
    }

    fn variable(self, name: &str) -> Result<Value, ValueError> {
        let value = match self.local(name) {
            Some(value) => Some(value.clone()),
            None => self.names.value(name)?,
        };
        let unknown = || ValueError::Unknown { what: "variable", name: name.to_owned() };
        let value = value.ok_or_else(unknown)?;
        self.take(&value)?;
        Ok(value)
    }

    fn take(self, value: &Value) -> Result<(), ValueError> {
        self.names.spent().take(weight(value))
    }

    /// The value of what a file says.
    pub(crate) fn source(self, source: &Source) -> Result<Value, ValueError> {
        match source {
            Source::Hcl(expression) => self.expression(expression),
            Source::Json(value) => self.json(value),
        }
    }

    fn json(self, value: &Value) -> Result<Value, ValueError> {
        self.names.spent().take(STEP)?;
        self.names.spent().within(|| match value {
            Value::String(text) => {
                // It is read each time, be it for nothing.
                self.names.spent().take(text.len() as u64)?;
                let template = hcl_edit::parser::parse_template(text)
                    .map_err(|error| ValueError::Template(error.message().to_owned()))?;
                self.template(&template)
            }
            Value::Array(all) => all.iter().map(|item| self.json(item)).collect(),
            Value::Object(all) => {
                let all = all.iter().map(|(key, item)| Ok((key.clone(), self.json(item)?)));
                all.collect::<Result<Map<_, _>, _>>().map(Value::Object)
            }
            other => Ok(other.clone()),
        })
    }

    pub(crate) fn expression(self, expression: &Expression) -> Result<Value, ValueError> {
        self.names.spent().take(STEP)?;
        self.names.spent().within(|| self.any(expression))
    }

    fn any(self, expression: &Expression) -> Result<Value, ValueError> {
        match expression {
            Expression::Null(_) => Ok(Value::Null),
            Expression::Bool(value) => Ok(Value::Bool(**value)),
            Expression::Number(value) => match (value.as_i64(), value.as_f64()) {
                (Some(whole), _) => Ok(whole.into()),
                (None, Some(float)) => crate::value::exact(float),
                (None, None) => Err(ValueError::Number),
            },
            Expression::String(text) => {
                self.names.spent().take(text.len() as u64)?;
                Ok(text.as_str().into())
            }
            Expression::Array(all) => all.iter().map(|item| self.expression(item)).collect(),
            Expression::Object(all) => {
                let mut result = Map::new();
                for (key, value) in all {
                    let key = match key {
                        ObjectKey::Ident(name) => name.to_string(),
                        ObjectKey::Expression(key) => text(&self.expression(key)?)?,
                    };
                    result.insert(key, self.expression(value.expr())?);
                }
                Ok(Value::Object(result))
            }
            Expression::StringTemplate(template) => self.elements(template.iter()),
            Expression::HeredocTemplate(heredoc) => self.heredoc(&heredoc.template),
            Expression::Parenthesis(inner) => self.expression(inner.inner()),
            Expression::Variable(name) => self.variable(name.as_str()),
            Expression::Conditional(it) => {
                let holds = boolean(&self.expression(&it.cond_expr)?)?;
                self.expression(if holds { &it.true_expr } else { &it.false_expr })
            }
            Expression::FuncCall(call) => self.call(call),
            Expression::Traversal(traversal) => self.traversal(traversal),
            Expression::UnaryOp(it) => {
                operator::unary(*it.operator.value(), &self.expression(&it.expr)?)
            }
            Expression::BinaryOp(it) => {
                let (left, right) = (self.expression(&it.lhs_expr), self.expression(&it.rhs_expr));
                operator::binary(*it.operator.value(), left, right)
            }
            Expression::ForExpr(it) => self.for_each(it),
        }
    }

    fn call(self, call: &FuncCall) -> Result<Value, ValueError> {
        let name = call.name.name.as_str();
        let unknown = || ValueError::Unknown { what: "function", name: name.to_owned() };
        if call.name.is_namespaced() {
            return Err(unknown());
        }
        match name {
            "try" => return self.first_that_works(call),
            "convert" => return self.converted(call),
            "can" => {
                let all: Vec<_> = call.args.iter().map(|it| self.expression(it)).collect();
                self.names.spent().take(0)?;
                return Ok(Value::Bool(all.iter().all(Result::is_ok)));
            }
            _ => {}
        }
        let arguments = call.args.iter().map(|it| self.expression(it));
        let mut arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        if call.args.expand_final()
            && let Some(last) = arguments.pop()
        {
            let Value::Array(all) = last else { return Err(wrong("a list", &last)) };
            arguments.extend(all);
        }
        let value = match self.names.call(name, &arguments)? {
            Some(value) => value,
            None => {
                let (world, spent) = (self.names.world(), self.names.spent());
                let call = functions::Call { name, arguments: &arguments, world, spent };
                functions::call(&call)?.ok_or_else(unknown)?
            }
        };
        self.take(&value)?;
        Ok(value)
    }

    fn converted(self, call: &FuncCall) -> Result<Value, ValueError> {
        let (Some(value), Some(kind), 2) = (call.args.get(0), call.args.get(1), call.args.len())
        else {
            let problem = "it takes a value and a type".to_owned();
            return Err(ValueError::Call { function: "convert".to_owned(), problem });
        };
        let kind = Type::of_expression(kind)?;
        let value = kind.convert(self.expression(value)?)?;
        self.take(&value)?;
        Ok(value)
    }

    fn first_that_works(self, call: &FuncCall) -> Result<Value, ValueError> {
        let problem = "no argument has a value".to_owned();
        let mut failed = ValueError::Call { function: "try".to_owned(), problem };
        for argument in call.args.iter() {
            match self.expression(argument) {
                Ok(value) => return Ok(value),
                Err(error @ ValueError::Budget) => return Err(error),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn traversal(self, traversal: &Traversal) -> Result<Value, ValueError> {
        let operators: Vec<&TraversalOperator> =
            traversal.operators.iter().map(|operator| operator.value()).collect();
        if let (
            Expression::Variable(kind),
            [TraversalOperator::GetAttr(label), TraversalOperator::GetAttr(name), rest @ ..],
        ) = (&traversal.expr, &operators[..])
            && self.local(kind.as_str()).is_none()
            && let Some(value) = self.names.attribute(kind.as_str(), label, name)?
        {
            self.take(&value)?;
            return self.steps(value, rest);
        }
        self.steps(self.expression(&traversal.expr)?, &operators)
    }

    fn steps(self, value: Value, steps: &[&TraversalOperator]) -> Result<Value, ValueError> {
        let mut value = value;
        for (at, step) in steps.iter().enumerate() {
            value = match step {
                TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => {
                    let all = match value {
                        Value::Null => Vec::new(),
                        Value::Array(all) => all,
                        one => vec![one],
                    };
                    let rest = &steps[at + 1..];
                    return all.into_iter().map(|item| self.steps(item, rest)).collect();
                }
                TraversalOperator::GetAttr(name) => at_key(&value, name)?,
                TraversalOperator::Index(index) => match self.expression(index)? {
                    Value::String(key) if value.is_object() => at_key(&value, &key)?,
                    index => at_index(&value, integer(&index)?)?,
                },
                TraversalOperator::LegacyIndex(index) => {
                    at_index(&value, i64::try_from(**index).unwrap_or(i64::MAX))?
                }
            };
        }
        Ok(value)
    }

    fn for_each(self, it: &ForExpr) -> Result<Value, ValueError> {
        let (mut list, mut map) = (Vec::new(), Map::new());
        let intro = &it.intro;
        for (key, value) in entries(&self.expression(&intro.collection_expr)?)? {
            let mut bindings = vec![(intro.value_var.as_str(), value)];
            bindings.extend(intro.key_var.as_ref().map(|name| (name.as_str(), key)));
            self.with(&bindings, &mut |scope| {
                if let Some(cond) = &it.cond
                    && !boolean(&scope.expression(&cond.expr)?)?
                {
                    return Ok(());
                }
                let value = scope.expression(&it.value_expr)?;
                let Some(key) = &it.key_expr else {
                    list.push(value);
                    return Ok(());
                };
                let key = text(&scope.expression(key)?)?;
                if it.grouping {
                    let group = map.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                    group.as_array_mut().into_iter().for_each(|group| group.push(value.clone()));
                    return Ok(());
                }
                match map.insert(key.clone(), value) {
                    None => Ok(()),
                    Some(_) => Err(ValueError::Call {
                        function: "for".to_owned(),
                        problem: format!("two values have the key {key:?}"),
                    }),
                }
            })?;
        }
        Ok(if it.key_expr.is_some() { Value::Object(map) } else { Value::Array(list) })
    }
}

fn at_key(value: &Value, key: &str) -> Result<Value, ValueError> {
    let unknown = || ValueError::Unknown { what: "key", name: key.to_owned() };
    object(value)?.get(key).cloned().ok_or_else(unknown)
}

fn at_index(value: &Value, index: i64) -> Result<Value, ValueError> {
    let unknown = || ValueError::Unknown { what: "element", name: index.to_string() };
    let all = crate::value::list(value)?;
    usize::try_from(index).ok().and_then(|at| all.get(at)).cloned().ok_or_else(unknown)
}
