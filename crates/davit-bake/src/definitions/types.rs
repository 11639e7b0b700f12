//! Types of variables, as `list(string)`.

use std::collections::HashSet;

use hcl_edit::expr::{Expression, ObjectKey};
use serde_json::{Map, Value};

use crate::{
    error::ValueError,
    source::Source,
    value::{self, wrong},
};

/// A type that a variable declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Any,
    Text,
    Number,
    Bool,
    List(Box<Self>),
    /// A list without repetition.
    Set(Box<Self>),
    Map(Box<Self>),
    Object(Vec<(String, Self)>),
    Tuple(Vec<Self>),
}

impl Type {
    /// The type as it is written.
    pub(crate) fn text(source: &Source) -> Option<String> {
        match source {
            Source::Hcl(expression) => Some(expression.to_string().trim().to_owned()),
            Source::Json(value) => value.as_str().map(str::to_owned),
        }
    }

    pub(crate) fn parse(source: &Source) -> Result<Self, ValueError> {
        let unknown = || {
            let name = Self::text(source).unwrap_or_default();
            ValueError::Unknown { what: "type", name }
        };
        match source {
            Source::Hcl(expression) => Self::of(expression).ok_or_else(unknown),
            Source::Json(_) => {
                let parsed = hcl_edit::parser::parse_expr(&unknown_text(source));
                Self::of(&parsed.map_err(|_| unknown())?).ok_or_else(unknown)
            }
        }
    }

    /// The type that an expression names.
    pub(crate) fn of_expression(expression: &Expression) -> Result<Self, ValueError> {
        let name = || expression.to_string().trim().to_owned();
        Self::of(expression).ok_or_else(|| ValueError::Unknown { what: "type", name: name() })
    }

    /// The parser bounds the depth of expressions.
    fn of(expression: &Expression) -> Option<Self> {
        let call = match expression {
            Expression::Variable(name) => {
                return match name.as_str() {
                    "any" => Some(Self::Any),
                    "string" => Some(Self::Text),
                    "number" => Some(Self::Number),
                    "bool" => Some(Self::Bool),
                    _ => None,
                };
            }
            Expression::FuncCall(call) if call.args.len() == 1 => call,
            _ => return None,
        };
        let argument = call.args.get(0)?;
        let inner = || Self::of(argument).map(Box::new);
        match call.name.name.as_str() {
            "list" => inner().map(Self::List),
            "set" => inner().map(Self::Set),
            "map" => inner().map(Self::Map),
            "tuple" => {
                argument.as_array()?.iter().map(Self::of).collect::<Option<_>>().map(Self::Tuple)
            }
            "object" => {
                let fields = argument.as_object()?.iter().map(|(key, value)| {
                    let name = match key {
                        ObjectKey::Ident(name) => name.to_string(),
                        ObjectKey::Expression(name) => name.as_str()?.to_owned(),
                    };
                    Some((name, Self::of(value.expr())?))
                });
                fields.collect::<Option<_>>().map(Self::Object)
            }
            _ => None,
        }
    }

    /// Makes a value one of this type.
    pub(crate) fn convert(&self, given: Value) -> Result<Value, ValueError> {
        if given.is_null() {
            return Ok(given);
        }
        Ok(match self {
            Self::Any => given,
            Self::Text => value::text(&given)?.into(),
            Self::Number => value::exact(value::float(&given)?)?,
            Self::Bool => value::boolean(&given)?.into(),
            Self::List(inner) => all(given, inner)?.into(),
            Self::Set(inner) => {
                let (mut set, mut seen) = (Vec::new(), HashSet::new());
                let items = all(given, inner)?.into_iter();
                set.extend(items.filter(|item| seen.insert(item.to_string())));
                value::in_order(set.into())
            }
            Self::Map(inner) => {
                let Value::Object(fields) = given else { return Err(wrong("a map", &given)) };
                let fields = fields.into_iter().map(|(key, it)| Ok((key, inner.convert(it)?)));
                Value::Object(fields.collect::<Result<_, ValueError>>()?)
            }
            Self::Tuple(types) => {
                let Value::Array(items) = given else { return Err(wrong("a list", &given)) };
                if items.len() != types.len() {
                    return Err(wrong("a list of that length", &Value::Array(items)));
                }
                let items = types.iter().zip(items).map(|(kind, item)| kind.convert(item));
                items.collect::<Result<_, _>>()?
            }
            Self::Object(types) => {
                let Value::Object(mut fields) = given else {
                    return Err(wrong("an object", &given));
                };
                let mut out = Map::new();
                for (name, kind) in types {
                    let unknown = || ValueError::Unknown { what: "key", name: name.clone() };
                    let field = fields.remove(name).ok_or_else(unknown)?;
                    out.insert(name.clone(), kind.convert(field)?);
                }
                Value::Object(out)
            }
        })
    }

    /// Reads a value of the environment; of a list its elements between commas.
    pub(crate) fn read(&self, text: &str) -> Result<Value, ValueError> {
        let given = Value::from(text);
        match self {
            Self::Any | Self::Text | Self::Number | Self::Bool => self.convert(given),
            Self::List(inner) | Self::Set(inner) if inner.is_plain() => self.convert(fields(text)),
            Self::Tuple(types) if types.iter().all(Self::is_plain) => self.convert(fields(text)),
            _ => Err(wrong("a type that a text can have (NAME_JSON can)", &given)),
        }
    }

    const fn is_plain(&self) -> bool {
        matches!(self, Self::Text | Self::Number | Self::Bool)
    }
}

fn unknown_text(source: &Source) -> String {
    Type::text(source).unwrap_or_default()
}

fn fields(text: &str) -> Value {
    if text.is_empty() {
        return Value::Array(Vec::new());
    }
    crate::words::fields(text).into_iter().map(Value::String).collect()
}

fn all(given: Value, inner: &Type) -> Result<Vec<Value>, ValueError> {
    let Value::Array(items) = given else { return Err(wrong("a list", &given)) };
    items.into_iter().map(|item| inner.convert(item)).collect()
}
