//! Pages of automated builds: what waits and runs, one build with its log, where images come from.

use askama::Template;
use axum::body::Body;
use davit_distribution::Secret;
use http::{Response, StatusCode};

use super::{
    Visit,
    repository_pages::{On, on},
    server_pages::ROWS,
    show,
    view::Frame,
};
use crate::{
    api::{self, Build, Problem, Repository, Source},
    name::RepositoryName,
};

/// Bytes of a log that a page shows: all of it, as long as workers keep to their bound.
const LOG_BYTES: usize = 8 << 20;

#[derive(Template)]
#[template(path = "builds.html")]
struct BuildsPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    builds: Vec<Build>,
    next_page: Option<String>,
    /// Whether there is something to build.
    has_source: bool,
    /// A branch that rules build, to begin with.
    branch: String,
    shows_repository: bool,
}

/// Builds of a repository.
pub(super) async fn builds(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let found = api::builds(&visit.site, &name, &visit.log_paging(ROWS)).await?;
    let source = known_source(visit, &name).await?;
    let branches = source.iter().flat_map(|source| &source.rules);
    let branch = branches.map(|rule| rule.source.as_str()).find(|name| !name.starts_with('/'));
    show(&BuildsPage {
        page: visit.titled(format!("Builds of {name}"), "repositories"),
        tab: "builds",
        next_page: visit.next_page(found.next.as_ref()),
        builds: found.items,
        branch: branch.unwrap_or("main").to_owned(),
        has_source: source.is_some(),
        shows_repository: false,
        repository,
        rights,
    })
}

/// The source of a repository; `None`: there is none.
async fn known_source(visit: &Visit, name: &RepositoryName) -> Result<Option<Source>, Problem> {
    match api::source(&visit.site, name).await {
        Ok(source) => Ok(Some(source)),
        Err(problem) if problem.status == StatusCode::NOT_FOUND => Ok(None),
        Err(problem) => Err(problem),
    }
}

#[derive(Template)]
#[template(path = "build.html")]
struct BuildPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    build: Build,
    log: String,
    /// Place in the log at which the live part goes on.
    at: i64,
}

/// One build and its log.
pub(super) async fn build(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let id = number(visit)?;
    let build = api::build(&visit.site, &name, id).await?;
    let (mut log, mut at) = (String::new(), 0);
    while log.len() < LOG_BYTES {
        let part = api::build_log(&visit.site, &name, (id, at)).await?;
        if part.next == at {
            break;
        }
        at = part.next;
        log.push_str(&plain(&part.text));
    }
    show(&BuildPage {
        page: visit.titled(format!("Build {id} of {name}"), "repositories"),
        tab: "builds",
        // The live part is fetched by this page's address.
        build,
        log,
        at,
        repository,
        rights,
    })
}

/// The number that the path names.
pub(super) fn number(visit: &Visit) -> Result<i64, Problem> {
    visit.names.get("id").parse().map_err(|_error| Problem::absent())
}

/// A log as a page shows it: without what moves cursors and colours text on a terminal.
pub(super) fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => match letters.next() {
                // A control sequence ends with a letter (ECMA-48 § 5.4).
                Some('[') => drop(letters.by_ref().find(|c| ('@'..='~').contains(c))),
                // A command of the terminal ends with a bell, or an escape.
                Some(']') => drop(letters.by_ref().find(|c| matches!(c, '\x07' | '\x1b'))),
                _ => {}
            },
            '\r' if letters.peek() == Some(&'\n') => {}
            // What writes over its own line has lines here.
            '\r' => shown.push('\n'),
            '\n' | '\t' => shown.push(letter),
            _ if letter.is_control() => {}
            _ => shown.push(letter),
        }
    }
    shown
}

#[derive(Template)]
#[template(path = "source.html")]
struct SourcePage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    source: Option<Source>,
    /// The webhook's address on this server, and its secret.
    hook: Option<(Secret, Secret)>,
}

/// Where images come from, rules and variables.
pub(super) async fn source(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let source = known_source(visit, &name).await?;
    let hook = match &source {
        Some(_) => Some(api::source_hook(&visit.site, &name).await?),
        None => None,
    };
    let hook = hook.map(|it| {
        (Secret::new(format!("{}{}", visit.base, it.hook_path.expose())), it.hook_secret)
    });
    show(&SourcePage {
        page: visit.titled(format!("Builds of {name}"), "repositories"),
        tab: "builds",
        source,
        hook,
        repository,
        rights,
    })
}

#[derive(Template)]
#[template(path = "admin_builds.html")]
struct AdminBuildsPage {
    page: Frame,
    tab: &'static str,
    builds: Vec<Build>,
    next_page: Option<String>,
    shows_repository: bool,
}

/// Builds of all repositories.
pub(super) async fn all(visit: &Visit) -> Result<Response<Body>, Problem> {
    let found = api::all_builds(&visit.site, &visit.log_paging(ROWS)).await?;
    show(&AdminBuildsPage {
        page: visit.titled("Builds", "admin"),
        tab: "builds",
        next_page: visit.next_page(found.next.as_ref()),
        builds: found.items,
        shows_repository: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_lose_what_only_terminals_understand() {
        for (text, expected) in [
            ("a\nb\tc", "a\nb\tc"),
            ("\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07shown", "shown"),
            ("1%\r2%\r\n3", "1%\n2%\n3"),
            ("\x1b[", ""),
            ("a\x08\x00b", "ab"),
            ("<b>&", "<b>&"),
        ] {
            assert_eq!(plain(text), expected, "{text:?}");
        }
    }
}
