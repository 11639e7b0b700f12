//! Forms: logging in and out, signing up, and every other change by the API's operations.

use askama::Template;
use axum::body::{Body, to_bytes};
use davit_distribution::Secret;
use http::{Response, StatusCode, header, request::Parts};

use super::{
    Visit, Web,
    cookie::{self, Cookies},
    oidc, redirect,
    refill::refill,
    show,
    view::Frame,
};
use crate::{
    api::{Problem, settings},
    auth::Refusal,
};

/// Bytes of a form: a README of 64 Ki letters, each written as `%XX` four times, and the rest.
const FORM_BYTES: usize = 1 << 20;

/// Bytes of a page that is shown again.
const PAGE_BYTES: usize = 16 << 20;

/// What the names of fields have in them that hold secrets.
const SECRETS: [&str; 6] = ["password", "secret", "token", "csrf", "current", "invitation"];

pub(super) type Fields = Vec<(String, String)>;

impl Web {
    /// Takes a form.
    pub(super) async fn form(
        &self,
        parts: &Parts,
        body: Body,
        visit: &Visit,
    ) -> Result<Response<Body>, Problem> {
        let path = parts.uri.path();
        let operation = path.strip_prefix("/do/");
        let provider = path.strip_prefix("/oidc/").and_then(|rest| rest.split_once('/'));
        let provider = provider.filter(|(_, step)| matches!(*step, "begin" | "name"));
        let is_other = operation.is_some() || provider.is_some();
        if !is_other && !matches!(path, "/login" | "/logout" | "/signup") {
            return Err(Problem::absent());
        }
        let bytes = to_bytes(body, FORM_BYTES).await.map_err(|_error| {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large")
        })?;
        let fields: Fields = url::form_urlencoded::parse(&bytes).into_owned().collect();
        check_token(parts, &visit.cookies, &fields)?;
        match (path, operation, provider) {
            (_, Some(operation), _) => match self.submit(visit, operation, &fields).await {
                Err(problem) if problem.status != StatusCode::UNAUTHORIZED => {
                    Ok(self.again(visit, operation, &fields, &problem).await)
                }
                // After logging in one comes back to the page of the form: there is none at its own path.
                Err(problem) => {
                    let from = place(field(&fields, "from"), &Vec::new());
                    let frame = Frame { here: from, ..visit.frame.clone() };
                    let there = Visit { frame, ..visit.clone() };
                    Ok(self.refuse(&there, (&problem, None)))
                }
                outcome => outcome,
            },
            (.., Some((name, "begin"))) => oidc::begin(visit, name, &fields).await,
            (.., Some((name, _))) => oidc::choose(visit, name, &fields).await,
            ("/login", ..) => self.log_in(visit, &fields).await,
            ("/signup", ..) => self.sign_up(visit, &fields).await,
            _ => self.log_out(visit).await,
        }
    }

    async fn submit(
        &self,
        visit: &Visit,
        operation: &str,
        fields: &Fields,
    ) -> Result<Response<Body>, Problem> {
        let who = (visit.caller.clone(), visit.peer);
        let answer = self.api.submit(who, operation, fields).await?;
        // A form may lead to what it has made.
        let made = answer["build"].as_i64().map(|id| ("build".to_owned(), id.to_string()));
        let known: Fields = fields.iter().cloned().chain(made).collect();
        let next = place(field(fields, "next"), &known);
        if let Some(secret) = answer["secret"].as_str() {
            return show(&SecretPage {
                page: visit.titled("Copy it now", ""),
                name: answer["name"].as_str().unwrap_or_default().to_owned(),
                secret: secret.to_owned(),
                next,
            });
        }
        let mut response = redirect(&next);
        let note = answer["told"].as_str().unwrap_or_else(|| field(fields, "done"));
        let note = visit.cookies.set_note(note);
        response.headers_mut().append(header::SET_COOKIE, note);
        Ok(response)
    }

    /// The page that a refused form came from, with the reason and what was sent in the form. Where
    /// nothing can be filled in, the reason alone, with the way back.
    async fn again(
        &self,
        visit: &Visit,
        operation: &str,
        fields: &Fields,
        problem: &Problem,
    ) -> Response<Body> {
        let from = place(field(fields, "from"), &Vec::new());
        let (path, query) = from.split_once('?').unwrap_or((&from, ""));
        let frame = Frame { here: from.clone(), ..visit.frame.clone() };
        let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let mut there = Visit { query, frame, ..visit.clone() };
        let html = match self.page(path, &mut there).await {
            Ok(page) => html(page).await,
            Err(_) => None,
        };
        let filled = html.and_then(|html| refill(&html, operation, fields, problem));
        let Some(filled) = filled else { return self.refuse(&there, (problem, Some(&from))) };
        super::with_status(problem, super::of_html(filled))
    }

    async fn log_in(&self, visit: &Visit, fields: &Fields) -> Result<Response<Body>, Problem> {
        let name = field(fields, "name").trim();
        let password = Secret::new(field(fields, "password"));
        let visit_with_next = Visit { query: fields.clone(), ..visit.clone() };
        match self.site.auth.log_in(name, &password, visit.peer).await {
            Ok(session) => {
                // Whoever wrote the link chose `next`: nothing that was typed here goes into it.
                let next = place(field(fields, "next"), &Vec::new());
                let mut response = redirect(&next);
                let line = visit.cookies.set_session(session.secret().expose());
                response.headers_mut().append(header::SET_COOKIE, line);
                Ok(response)
            }
            Err(refusal @ (Refusal::Wrong | Refusal::Directory)) => {
                let (status, fault) = match refusal {
                    Refusal::Wrong => {
                        let words = "The name or the password is wrong.".to_owned();
                        (StatusCode::UNAUTHORIZED, words)
                    }
                    other => (StatusCode::SERVICE_UNAVAILABLE, capital(&other.to_string())),
                };
                let mut response = login_page(&visit_with_next, name, Some(fault)).await?;
                *response.status_mut() = status;
                Ok(response)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn log_out(&self, visit: &Visit) -> Result<Response<Body>, Problem> {
        if let Some(session) = visit.cookies.session() {
            self.site.auth.log_out(session, visit.peer).await?;
        }
        let mut response = redirect("/");
        response.headers_mut().append(header::SET_COOKIE, visit.cookies.end_session());
        Ok(response)
    }

    async fn sign_up(&self, visit: &Visit, fields: &Fields) -> Result<Response<Body>, Problem> {
        let who = (visit.caller.clone(), visit.peer);
        match self.api.submit(who, "signUp", fields).await {
            Ok(_) => self.log_in(visit, fields).await,
            Err(problem) if problem.status.is_client_error() => {
                let given = (field(fields, "name"), field(fields, "invitation"));
                let fault = Some(capital(&problem.detail));
                let mut response = sign_up_page(visit, given, fault).await?;
                *response.status_mut() = problem.status;
                Ok(response)
            }
            Err(problem) => Err(problem),
        }
    }
}

/// The text of a page; `None` for whatever is none, as what leads to another and streams are.
async fn html(page: Response<Body>) -> Option<String> {
    let kind = page.headers().get(header::CONTENT_TYPE)?;
    let is_page = kind.as_bytes().starts_with(b"text/html");
    let bytes = to_bytes(page.into_body(), PAGE_BYTES);
    let bytes = if is_page { bytes.await.ok() } else { None };
    bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok())
}

pub(super) fn field<'f>(fields: &'f Fields, name: &str) -> &'f str {
    fields.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

fn capital(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).chain(['.']).collect()
    })
}

/// A form counts only from a page of ours that this browser was shown.
fn check_token(parts: &Parts, cookies: &Cookies, fields: &Fields) -> Result<(), Problem> {
    if cookie::is_cross_site(&parts.headers) {
        return Err(Problem::new(StatusCode::FORBIDDEN, "another site sent this form"));
    }
    if !cookies.has_token(field(fields, "csrf")) {
        let words = "the form is too old, or cookies are off; open the page again";
        return Err(Problem::new(StatusCode::FORBIDDEN, words));
    }
    Ok(())
}

/// Where a form leads: a path of this server. `{name}` is that field of the form, if it is no secret:
/// addresses stay in histories and logs.
pub(super) fn place(next: &str, fields: &Fields) -> String {
    let mut next = next.to_owned();
    for (name, value) in fields {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
        let is_secret = SECRETS.iter().any(|secret| name.contains(secret));
        if !is_secret && next.contains(&format!("{{{name}}}")) && value.chars().all(is_plain) {
            next = next.replace(&format!("{{{name}}}"), value);
        }
    }
    let is_path = next.starts_with('/') && !next.starts_with("//");
    // Browsers take a backslash for a slash.
    let is_clean = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_path && is_clean { next } else { "/".to_owned() }
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    page: Frame,
    name: String,
    next: String,
    fault: Option<String>,
    providers: Vec<String>,
    invitation: String,
}

/// The form to log in.
pub(super) async fn login_page(
    visit: &Visit,
    name: &str,
    fault: Option<String>,
) -> Result<Response<Body>, Problem> {
    let next = place(visit.field("next"), &Vec::new());
    if visit.frame.user.is_some() || !visit.frame.has_accounts {
        return Ok(redirect(&next));
    }
    show(&LoginPage {
        page: visit.titled("Log in", "login"),
        name: name.chars().take(64).collect(),
        providers: oidc::names(visit).await?,
        invitation: String::new(),
        next,
        fault,
    })
}

#[derive(Template)]
#[template(path = "signup.html")]
struct SignUpPage {
    page: Frame,
    name: String,
    invitation: String,
    fault: Option<String>,
    is_closed: bool,
    needs_invitation: bool,
    providers: Vec<String>,
    next: String,
}

/// The form to sign up.
pub(super) async fn sign_up_page(
    visit: &Visit,
    (name, invitation): (&str, &str),
    fault: Option<String>,
) -> Result<Response<Body>, Problem> {
    if visit.frame.user.is_some() || !visit.frame.has_accounts {
        return Ok(redirect("/"));
    }
    let settings = settings(&visit.site).await?;
    show(&SignUpPage {
        page: visit.titled("Sign up", "signup"),
        name: name.chars().take(64).collect(),
        invitation: invitation.chars().take(200).collect(),
        fault,
        is_closed: !settings.is_open(),
        needs_invitation: settings.needs_invitation(),
        providers: oidc::names(visit).await?,
        next: "/".to_owned(),
    })
}

#[derive(Template)]
#[template(path = "secret.html")]
struct SecretPage {
    page: Frame,
    name: String,
    secret: String,
    next: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_lead_to_this_server_only() {
        let fields = vec![
            ("name".to_owned(), "acme".to_owned()),
            ("evil".to_owned(), "\\evil.test".to_owned()),
            ("bind_password".to_owned(), "hunter2".to_owned()),
        ];
        for (next, expected) in [
            ("/a?b=c", "/a?b=c"),
            ("/a/{name}", "/a/acme"),
            ("/{evil}", "/{evil}"),
            ("/{bind_password}", "/{bind_password}"),
            ("", "/"),
            ("https://evil.test", "/"),
            ("//evil.test", "/"),
            ("/\\evil.test", "/"),
            ("/\tevil", "/"),
            ("/a\r\nSet-Cookie: b", "/"),
            ("javascript:alert(1)", "/"),
        ] {
            assert_eq!(place(next, &fields), expected, "{next}");
        }
    }
}
