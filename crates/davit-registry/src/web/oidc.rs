//! Log-in by an identity provider: there and back.
//!
//! ```text
//! button ─► POST /oidc/NAME/begin ─► page that leads on ─► provider
//!                 └ cookie                                    │
//! session ◄─ GET /oidc/NAME/callback ◄────────────────────────┘
//!     └◄─ POST /oidc/NAME/name ◄─ page that asks for a name (where none is free)
//! ```
//! The page that leads on stands where a redirect would: the pages' policy lets no form end at another
//! site. An identity is added to an account by the same way, from its owner's settings.

use askama::Template;
use axum::body::Body;
use davit_distribution::Secret;
use http::{Response, StatusCode, header};

use super::{
    Visit,
    forms::{Fields, field, place},
    redirect, show,
    view::Frame,
};
use crate::{
    api::Problem,
    auth::{
        Refusal,
        oidc::{Begin, Callback, Finished, OidcError, providers},
    },
};

/// Names of providers, for their buttons.
pub(super) async fn names(visit: &Visit) -> Result<Vec<String>, Problem> {
    if !visit.frame.has_accounts {
        return Ok(Vec::new());
    }
    let all = providers(&visit.site.registry.database).await?;
    Ok(all.into_iter().map(|provider| provider.name).collect())
}

#[derive(Template)]
#[template(path = "oidc_go.html")]
struct GoPage {
    page: Frame,
    provider: String,
    location: String,
}

/// Sends a browser to a provider.
pub(super) async fn begin(
    visit: &Visit,
    provider: &str,
    fields: &Fields,
) -> Result<Response<Body>, Problem> {
    if !visit.frame.has_accounts {
        return Err(Problem::absent());
    }
    let account = visit.caller.account();
    let invitation = Some(field(fields, "invitation")).filter(|text| !text.is_empty());
    let begin = Begin {
        provider: provider.to_owned(),
        redirect: format!("{}/oidc/{provider}/callback", visit.base),
        link: account.filter(|_| field(fields, "link") == "true"),
        invitation: invitation.map(Secret::new),
    };
    let begun = visit.site.auth.oidc_begin(begin, visit.peer).await.map_err(problem)?;
    if !begun.location.starts_with("https://") && !begun.location.starts_with("http://") {
        return Err(Problem::absent());
    }
    let mut response = show(&GoPage {
        page: visit.titled("Log in", "login"),
        provider: provider.to_owned(),
        location: begun.location,
    })?;
    let next = place(field(fields, "next"), fields);
    let line = visit.cookies.set_provider(begun.browser.expose(), &next);
    response.headers_mut().append(header::SET_COOKIE, line);
    Ok(response)
}

/// Takes a browser that comes back from a provider.
pub(super) async fn callback(visit: &Visit) -> Result<Response<Body>, Problem> {
    let given = |name: &str| Some(visit.field(name).to_owned()).filter(|text| !text.is_empty());
    let callback = Callback {
        state: visit.field("state").to_owned(),
        code: given("code").map(Secret::new),
        issuer: given("iss"),
    };
    let (browser, _) = visit.cookies.provider().ok_or_else(|| problem(OidcError::Flow))?;
    let who = (browser.as_str(), visit.caller.account());
    let finished = visit.site.auth.oidc_finish(&callback, who, visit.peer).await;
    finish(visit, finished.map_err(problem)?, (visit.names.get("provider"), None))
}

/// Takes the name that somebody chose whom nobody knew.
pub(super) async fn choose(
    visit: &Visit,
    provider: &str,
    fields: &Fields,
) -> Result<Response<Body>, Problem> {
    let (browser, _) = visit.cookies.provider().ok_or_else(|| problem(OidcError::Flow))?;
    let (ticket, name) = (field(fields, "ticket"), field(fields, "name").trim());
    let who = (browser.as_str(), visit.peer);
    let finished = visit.site.auth.oidc_sign_up(ticket, name, who).await.map_err(problem)?;
    finish(visit, finished, (provider, Some(name)))
}

#[derive(Template)]
#[template(path = "oidc_name.html")]
struct NamePage {
    page: Frame,
    provider: String,
    ticket: Secret,
    name: String,
    fault: Option<&'static str>,
}

fn finish(
    visit: &Visit,
    finished: Finished,
    (provider, tried): (&str, Option<&str>),
) -> Result<Response<Body>, Problem> {
    let next = visit.cookies.provider().map(|(_, next)| place(&next, &Vec::new()));
    let ended = |mut response: Response<Body>| {
        response.headers_mut().append(header::SET_COOKIE, visit.cookies.end_provider());
        response
    };
    match finished {
        Finished::Session(session) => {
            let mut response = ended(redirect(&next.unwrap_or_else(|| "/".to_owned())));
            let line = visit.cookies.set_session(session.secret().expose());
            response.headers_mut().append(header::SET_COOKIE, line);
            Ok(response)
        }
        Finished::Linked => {
            let mut response = ended(redirect("/settings"));
            let note = visit.cookies.set_note("You can log in that way now.");
            response.headers_mut().append(header::SET_COOKIE, note);
            Ok(response)
        }
        Finished::NeedsName { ticket, suggestion } => {
            let name = tried.map(str::to_owned).or(suggestion).unwrap_or_default();
            let fault = tried.map(|_| "That name is taken, or cannot be used.");
            let mut response = show(&NamePage {
                page: visit.titled("Choose a name", "login"),
                provider: provider.to_owned(),
                ticket,
                name: name.chars().take(64).collect(),
                fault,
            })?;
            if fault.is_some() {
                *response.status_mut() = StatusCode::CONFLICT;
            }
            Ok(response)
        }
    }
}

fn problem(error: OidcError) -> Problem {
    match error {
        OidcError::NoProvider => Problem::absent(),
        OidcError::Flow => Problem::malformed("the log-in was given up, or has ended; begin again"),
        OidcError::Issuer(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a provider is not believed");
            let words = "the identity provider does not answer as it should";
            Problem::new(StatusCode::BAD_GATEWAY, words)
        }
        OidcError::Account(error) => error.into(),
        OidcError::Refused(Refusal::Wrong) => {
            Problem::new(StatusCode::FORBIDDEN, "the account may not log in")
        }
        OidcError::Refused(refusal) => refusal.into(),
        OidcError::Database(error) => error.into(),
    }
}
