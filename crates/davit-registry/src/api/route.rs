//! One table says what the API is: paths, rules, types, and the function that answers. Routing, the
//! gate, the OpenAPI document and the pages' forms all read it.

use std::{collections::BTreeMap, fmt, net::IpAddr, pin::Pin, sync::Arc};

use http::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::Segment;

use super::{
    Problem, Site,
    schema::{Grammar, Schema, Schemas},
    text::{AnyName, OwnName},
};
use crate::{
    auth::{Action, Caller, Identity, Need, audit::Actor},
    name::RepositoryName,
};

/// What a caller must hold before a function runs; names come from the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Everyone may: what is told is cut to the caller's rights by the function.
    Open,
    /// Any valid credential.
    Credential,
    /// A person, by a credential that is limited to nothing.
    User,
    /// Whoever manages the server.
    SiteAdmin,
    /// Whoever may do this with `{repository}`.
    Repository(Action),
    /// `{account}` itself and, of an organisation, its members.
    SeeAccount,
    /// `{account}` itself, or an owner of it.
    ManageAccount,
}

impl Rule {
    /// What the gate asks for.
    #[must_use]
    pub fn need(self, names: &Names) -> Need<'_> {
        // A robot's things are its owner's.
        let account = || names.get("account").split('+').next().unwrap_or_default();
        match self {
            Self::Open => Need::Nothing,
            Self::Credential => Need::Credential,
            Self::User => Need::User,
            Self::SiteAdmin => Need::SiteAdmin,
            Self::Repository(action) => Need::Repository(action, names.get("repository")),
            Self::SeeAccount => Need::SeeAccount(account()),
            Self::ManageAccount => Need::ManageAccount(account()),
        }
    }
}

/// What a path names, by the names in braces of its template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<&'static str, String>);

impl Names {
    /// Names given one by one.
    #[must_use]
    pub fn of<const N: usize>(names: [(&'static str, &str); N]) -> Self {
        Self(names.into_iter().map(|(name, value)| (name, value.to_owned())).collect())
    }

    pub(super) fn set(&mut self, name: &'static str, value: &str) {
        self.0.insert(name, value.to_owned());
    }

    /// A name; empty where the template has none such.
    #[must_use]
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Compares a path with a template, part by part; each `{name}` takes one part, decoded once.
#[must_use]
pub fn match_path(template: &'static str, path: &str) -> Option<Names> {
    let mut names = Names::default();
    let mut parts = path.split('/');
    for piece in template.split('/') {
        let part = parts.next()?;
        match piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}')) {
            None if piece == part => {}
            None => return None,
            Some(name) => {
                let part = decode(part).filter(|part| !part.is_empty())?;
                names.0.insert(name, part);
            }
        }
    }
    parts.next().is_none().then_some(names)
}

/// Decodes `%XX`; `None` where that is malformed or no UTF-8.
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// One request that was let through.
#[derive(Clone, Debug)]
pub struct Call {
    pub(crate) site: Arc<Site>,
    /// Who asks.
    pub(crate) caller: Caller,
    /// Where the request came from.
    pub(crate) peer: IpAddr,
    /// What the path names.
    pub(crate) names: Names,
}

impl Call {
    /// Who is written into the audit log.
    pub(crate) fn actor(&self) -> Actor {
        match &self.caller.identity {
            Identity::Account { id, name } => Actor::account(*id, name, self.peer),
            Identity::Everyone => Actor::anyone("everyone", self.peer),
            Identity::Anonymous => Actor::anyone("anonymous", self.peer),
        }
    }

    /// The caller's name; `None` for nobody.
    pub(crate) fn name(&self) -> Option<&str> {
        match &self.caller.identity {
            Identity::Account { name, .. } => Some(name),
            Identity::Anonymous | Identity::Everyone => None,
        }
    }

    /// What the path names, in its type.
    pub(crate) fn named<T: Grammar>(&self, name: &str) -> Result<T, Problem> {
        let text = self.names.get(name);
        text.parse().map_err(|error: T::Err| Problem::malformed(error.to_string()))
    }

    /// The repository that the path names.
    pub(crate) fn repository(&self) -> Result<RepositoryName, Problem> {
        self.named("repository")
    }

    /// The user that the path names beside an account.
    pub(crate) fn user(&self) -> Result<String, Problem> {
        self.named::<AnyName>("user").map(|name| name.0)
    }

    /// The team that the path names.
    pub(crate) fn team(&self) -> Result<String, Problem> {
        self.named::<OwnName>("team").map(|name| name.0)
    }

    /// The number that the path names.
    pub(crate) fn number(&self) -> Result<i64, Problem> {
        self.names.get("id").parse().map_err(|_error| Problem::absent())
    }

    /// The account that the path names.
    pub(crate) fn account(&self) -> Result<String, Problem> {
        self.named::<AnyName>("account").map(|name| name.0)
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Value, Problem>> + Send>>;
type Run = Box<dyn Fn(Call, Value, Value) -> Answer + Send + Sync>;

/// One operation of the API.
pub struct Endpoint {
    /// Its method.
    pub method: Method,
    /// Its path below `/api/v1`.
    pub path: &'static str,
    /// Its name in the document, and in the pages' forms.
    pub id: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Who may.
    pub rule: Rule,
    /// Status of its success.
    pub status: StatusCode,
    /// Schema of its query.
    pub query: fn(&mut Schemas) -> Value,
    /// Schema of its body.
    pub body: fn(&mut Schemas) -> Value,
    /// Schema of its answer.
    pub answer: fn(&mut Schemas) -> Value,
    pub(crate) run: Run,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({} {} {})", self.id, self.method, self.path)
    }
}

/// Makes an operation of a function: its types are the document's.
pub(crate) fn endpoint<Q, B, R, F>(
    (method, path, rule): (Method, &'static str, Rule),
    (id, summary): (&'static str, &'static str),
    run: impl Fn(Call, Q, B) -> F + Send + Sync + Copy + 'static,
) -> Endpoint
where
    Q: Schema + DeserializeOwned + Send,
    B: Schema + DeserializeOwned + Send,
    R: Schema + Serialize,
    F: Future<Output = Result<R, Problem>> + Send + 'static,
{
    let run = move |call: Call, query: Value, body: Value| -> Answer {
        let read = read::<Q>(query).and_then(|query| Ok((query, read::<B>(body)?)));
        match read {
            Err(problem) => Box::pin(async { Err(problem) }),
            Ok((query, body)) => {
                let answer = run(call, query, body);
                Box::pin(async move {
                    // Only maps with keys that are no strings fail, and answers have none.
                    Ok(serde_json::to_value(answer.await?).unwrap_or_default())
                })
            }
        }
    };
    Endpoint {
        method,
        path,
        id,
        summary,
        rule,
        status: StatusCode::OK,
        query: Q::schema,
        body: B::schema,
        answer: R::schema,
        run: Box::new(run),
    }
}

impl Endpoint {
    /// With another status of success.
    pub(crate) const fn with(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

fn read<T: DeserializeOwned>(mut value: Value) -> Result<T, Problem> {
    make_whole(&mut value);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().iter().find_map(|step| match step {
            Segment::Map { key } => Some(key.clone()),
            _ => None,
        });
        let words = match &field {
            Some(_) => error.to_string(),
            None => error.inner().to_string(),
        };
        Problem { field, ..Problem::malformed(words) }
    })
}

/// `1.0` is a whole number to JSON Schema (draft 2020-12 § 4.2.3), and to many programs that write it.
fn make_whole(value: &mut Value) {
    /// Up to here each whole number has a double of its own.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::Number(number) if number.is_f64() => {
            let double = number.as_f64().unwrap_or(f64::NAN);
            if double.fract() == 0.0 && double.abs() <= EXACT {
                #[allow(clippy::cast_possible_truncation, reason = "whole, and within i64")]
                let whole = double as i64;
                *value = whole.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(make_whole),
        Value::Object(fields) => fields.values_mut().for_each(make_whole),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_numbers_are_whole_however_written() {
        let mut value = json!({ "a": [1.0, 1.5, -2.0, 1e300], "b": "1.0" });
        make_whole(&mut value);
        assert_eq!(value, json!({ "a": [1, 1.5, -2, 1e300], "b": "1.0" }));
    }

    #[test]
    fn paths_are_decoded_once_part_by_part() {
        let template = "/repositories/{repository}/tags/{tag}";
        for (path, expected) in [
            ("/repositories/alice%2Fapp/tags/v1", Some(("alice/app", "v1"))),
            ("/repositories/a%252Fb/tags/v1", Some(("a%2Fb", "v1"))),
            ("/repositories/alice/app/tags/v1", None),
            ("/repositories/alice%2/tags/v1", None),
            ("/repositories/%ff/tags/v1", None),
            ("/repositories//tags/v1", None),
            ("/repositories/a/tags/v1/", None),
            ("/repositories/a/tags", None),
        ] {
            let names = match_path(template, path);
            let found = names.as_ref().map(|names| (names.get("repository"), names.get("tag")));
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn a_robot_is_its_owners() {
        let names = Names::of([("account", "acme+ci")]);
        assert_eq!(Rule::ManageAccount.need(&names), Need::ManageAccount("acme"));
    }
}
