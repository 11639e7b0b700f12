//! The OpenAPI 3.1 document, made from the table that routes.

use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use super::{
    BASE, Endpoint, PROBLEM_JSON, Problem, Rule, endpoints,
    schema::{Schema as _, Schemas, Text},
    text::{AnyName, HookName, MirrorName, OwnName, VariableName},
};
use crate::{auth::Action, name::RepositoryName};

/// Names in braces of a template.
pub(super) fn parameters(path: &'static str) -> impl Iterator<Item = &'static str> {
    path.split('/').filter_map(|piece| piece.strip_prefix('{')?.strip_suffix('}'))
}

/// Tells whether the operation takes a body.
pub(super) fn has_body(endpoint: &Endpoint) -> bool {
    let schema = (endpoint.body)(&mut Schemas::new());
    schema["properties"].as_object().is_none_or(|properties| !properties.is_empty())
}

/// The document.
#[must_use]
pub fn document() -> Value {
    let mut schemas = Schemas::new();
    schemas.insert("Problem".to_owned(), Problem::schema());
    let mut paths: Map<String, Value> = Map::new();
    for endpoint in endpoints() {
        let item = paths.entry(endpoint.path).or_insert_with(|| json!({}));
        item[endpoint.method.as_str().to_ascii_lowercase()] = operation(&endpoint, &mut schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "davit registry",
            "version": "1",
            "summary": "Accounts, access, repositories and the server of a davit registry.",
            "description": "Names with `/` are one part of a path: `alice%2Fapp`. Times are RFC 3339 \
                in UTC. Lists come in pages: `next` of one is `after` of the following. What the \
                caller may not see answers as what does not exist.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        "paths": paths,
        "components": { "schemas": schemas, "securitySchemes": {
            "basic": {
                "type": "http", "scheme": "basic",
                "description": "Name and password, or name and access token.",
            },
            "bearer": {
                "type": "http", "scheme": "bearer",
                "description": "An access token, or a token of `/token`.",
            },
            "session": {
                "type": "apiKey", "in": "cookie", "name": "davit_session",
                "description": "The pages' cookie; changes need the header X-CSRF-Token as well.",
            },
        } },
    })
}

fn operation(endpoint: &Endpoint, schemas: &mut Schemas) -> Value {
    let mut parameters: Vec<Value> = parameters(endpoint.path).map(path_parameter).collect();
    parameters.extend(query_parameters(endpoint, schemas));
    let mut security =
        vec![json!({ "basic": [] }), json!({ "bearer": [] }), json!({ "session": [] })];
    if matches!(endpoint.rule, Rule::Open | Rule::Repository(Action::Pull)) {
        security.push(json!({}));
    }
    let mut operation = json!({
        "operationId": endpoint.id,
        "summary": endpoint.summary,
        "description": who(endpoint.rule),
        "tags": [tag(endpoint.path)],
        "parameters": parameters,
        "security": security,
        "responses": responses(endpoint, schemas),
    });
    if has_body(endpoint) {
        let schema = (endpoint.body)(schemas);
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    }
    operation
}

fn tag(path: &str) -> &str {
    path.split('/').nth(1).filter(|tag| !tag.is_empty()).unwrap_or("server")
}

fn who(rule: Rule) -> String {
    match rule {
        Rule::Open => "Open to everyone; what is told is cut to the caller's rights.".to_owned(),
        Rule::Credential => "For whoever shows a valid credential.".to_owned(),
        Rule::User => "For users, by a credential that is not limited.".to_owned(),
        Rule::SiteAdmin => "For administrators of the server.".to_owned(),
        Rule::SeeAccount => "For the account itself, and members of the organisation.".to_owned(),
        Rule::ManageAccount => "For the account itself, and owners of the organisation.".to_owned(),
        Rule::Repository(action) => {
            format!("For whoever has the right `{}` on the repository.", action.scope_word())
        }
    }
}

fn path_parameter(name: &'static str) -> Value {
    let mut none = Schemas::new();
    let digest = <Text<davit_image::Digest>>::schema(&mut none);
    let tag = <Text<davit_image::Tag>>::schema(&mut none);
    let schema = match name {
        "repository" => <Text<RepositoryName>>::schema(&mut none),
        "tag" => tag,
        "digest" => digest,
        "reference" => json!({ "anyOf": [tag, digest] }),
        "team" => <Text<OwnName>>::schema(&mut none),
        "webhook" | "rule" => <Text<HookName>>::schema(&mut none),
        "mirror" => <Text<MirrorName>>::schema(&mut none),
        "variable" => <Text<VariableName>>::schema(&mut none),
        "id" => json!({ "type": "integer", "minimum": 1, "maximum": i64::MAX }),
        _ => <Text<AnyName>>::schema(&mut none),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn query_parameters(endpoint: &Endpoint, schemas: &mut Schemas) -> Vec<Value> {
    let mut own = Schemas::new();
    let mut schema = (endpoint.query)(&mut own);
    if let Some(place) = schema["$ref"].as_str() {
        let name = place.rsplit('/').next().unwrap_or_default();
        schema = own.remove(name).unwrap_or_default();
    }
    // What the parameters themselves name belongs to the document.
    schemas.extend(own);
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        json!({
            "name": name, "in": "query", "description": description.unwrap_or_default(),
            "required": required.contains(&name.as_str()), "schema": schema,
        })
    };
    schema["properties"].as_object().into_iter().flatten().map(parameter).collect()
}

fn responses(endpoint: &Endpoint, schemas: &mut Schemas) -> Value {
    let mut responses = Map::new();
    let success = if endpoint.status == StatusCode::NO_CONTENT {
        json!({ "description": "Done." })
    } else {
        let schema = (endpoint.answer)(schemas);
        json!({ "description": "Done.", "content": { "application/json": { "schema": schema } } })
    };
    responses.insert(endpoint.status.as_str().to_owned(), success);
    let problem = |description: &str| {
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        json!({ "description": description, "content": { PROBLEM_JSON: { "schema": schema } } })
    };
    let mut refusals = vec![
        (400, "The request is malformed."),
        (401, "The credential is missing, wrong or too narrow."),
        (403, "The account may not do this."),
        (404, "There is no such thing, or the caller may not see it."),
        (429, "Too many attempts; `Retry-After` tells when to come back."),
        (503, "The registry cannot do this now."),
    ];
    if endpoint.method != Method::GET {
        refusals.push((409, "The request does not fit to what there is."));
    }
    if has_body(endpoint) {
        refusals.push((413, "The body is too large."));
        refusals.push((415, "The body must be JSON."));
    }
    for (status, description) in refusals {
        responses.insert(status.to_string(), problem(description));
    }
    Value::Object(responses)
}
