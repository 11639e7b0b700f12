//! Builds: what waits, what runs, what came of it, and the logs.

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, LogPaging, Problem, Rule, Site,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, Within, input, reply, words},
    sources::RefWord,
};
use crate::{
    auth::Action,
    autobuild::{
        AutobuildError,
        queue::{CancelBuild, RetryBuild, RunBuild},
        records::{self, BuildRow},
        rules::{RefKind, Revision},
    },
    name::RepositoryName,
};

reply! {
    /// An image that a build began with.
    BaseImage {
        /// Its name.
        name: String,
        /// What that named.
        digest: String,
    }
}

reply! {
    /// A part of a build.
    Phase {
        /// Its name.
        name: String,
        /// How long it took, in milliseconds.
        milliseconds: u64,
    }
}

reply! {
    /// A build.
    Build {
        /// Its number.
        id: i64,
        /// Of which repository.
        repository: String,
        /// `waiting`, `running`, `done`, `failed`, `cancelled` or `skipped` (no change mattered).
        state: String,
        /// Whether nothing happens any more.
        is_over: bool,
        /// `push`, `poll`, `manual`, `retry` or `base` (a base image changed).
        cause: String,
        /// Who pushed or asked, or what changed.
        by: String,
        /// What is built.
        kind: RefWord,
        /// The branch or tag; of a pull request its branch.
        name: String,
        /// The tags that it is to get.
        tags: Vec<String>,
        /// The Dockerfile, from the top.
        dockerfile: String,
        /// Directory of the context, from the top.
        context: String,
        /// When it was asked for.
        created_at: Moment,
        /// How often it was begun.
        attempts: i64,
        /// Bytes of its log.
        log_bytes: i64,
        /// Images that it began with.
        bases: Vec<BaseImage>,
        /// Its parts, in order.
        phases: Vec<Phase>,
    } maybe {
        /// Number of the pull request.
        number: u64,
        /// The commit.
        commit: String,
        /// First line of the commit's message.
        message: String,
        /// When its last attempt began.
        started_at: Moment,
        /// When it ended.
        finished_at: Moment,
        /// The manifest that was pushed.
        digest: String,
        /// Why it failed, was ended, or did nothing.
        reason: String,
    }
}

reply! {
    /// A part of a build's log.
    BuildLog {
        /// Its text; bytes that are none stand as U+FFFD.
        text: String,
        /// Place from which it goes on, in bytes.
        next: i64,
        /// Whether nothing comes any more after what is there now.
        is_over: bool,
    }
}

reply! {
    /// Builds that wait now.
    Queued {
        /// The first one's number.
        build: i64,
        /// All numbers.
        builds: Vec<i64>,
    }
}

words! {
    /// What may be asked for.
    AskedWord {
        /// A branch.
        Branch = "branch",
        /// A tag.
        Tag = "tag",
    }
}

input! {
    /// What to build.
    NewBuild {
        /// A branch or a tag of git.
        kind: AskedWord,
        /// Its name.
        name: Prose<255>,
    } maybe {
        /// One commit of it, in full; its newest if absent.
        commit: Prose<64>,
        /// By this rule alone.
        rule: Within<1, { i64::MAX as u64 }>,
    }
}

input! {
    /// Which part of a log.
    LogFrom {} maybe {
        /// Place in bytes: the `next` of the part before.
        from: Within<0, { i64::MAX as u64 }>,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    // Logs tell more of a repository than its images do.
    const ON: Rule = Rule::Repository(Action::Push);
    vec![
        endpoint(
            (M::GET, "/builds", Rule::SiteAdmin),
            ("listAllBuilds", "Builds of all repositories, the newest first"),
            async |call: Call, page: LogPaging, _: Nothing| all_builds(&call.site, &page).await,
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/builds", ON),
            ("listBuilds", "Builds of a repository, the newest first"),
            async |call: Call, page: LogPaging, _: Nothing| {
                builds(&call.site, &call.repository()?, &page).await
            },
        ),
        endpoint(
            (M::POST, "/repositories/{repository}/builds", ON),
            ("runBuild", "Build a branch or tag now"),
            run,
        )
        .with(StatusCode::CREATED),
        endpoint(
            (M::GET, "/repositories/{repository}/builds/{id}", ON),
            ("getBuild", "A build"),
            async |call: Call, _: Nothing, _: Nothing| {
                build(&call.site, &call.repository()?, call.number()?).await
            },
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/builds/{id}/log", ON),
            ("getBuildLog", "The log of a build, part by part"),
            async |call: Call, query: LogFrom, _: Nothing| {
                let from = query.from.and_then(|from| i64::try_from(from.0).ok()).unwrap_or(0);
                build_log(&call.site, &call.repository()?, (call.number()?, from)).await
            },
        ),
        endpoint(
            (M::POST, "/repositories/{repository}/builds/{id}/cancel", ON),
            ("cancelBuild", "End a build that waits or runs"),
            cancel,
        )
        .with(StatusCode::NO_CONTENT),
        endpoint(
            (M::POST, "/repositories/{repository}/builds/{id}/retry", ON),
            ("retryBuild", "Do again what a build that has ended did"),
            retry,
        )
        .with(StatusCode::CREATED),
    ]
}

impl Build {
    fn of(row: BuildRow) -> Self {
        let is_over = row.is_over();
        let (plan, report) = (row.plan, row.report.unwrap_or_default());
        let base = |(name, digest)| BaseImage { name, digest };
        let phase = |(name, milliseconds)| Phase { name, milliseconds };
        Self {
            id: row.id,
            repository: row.path,
            state: row.state,
            is_over,
            cause: row.cause,
            by: row.actor,
            kind: plan.kind.into(),
            name: plan.name,
            tags: plan.tags,
            dockerfile: plan.dockerfile,
            context: plan.context,
            created_at: Moment(row.created_at),
            attempts: row.attempts,
            log_bytes: row.log_bytes,
            bases: report.bases.into_iter().map(base).collect(),
            phases: report.phases.into_iter().map(phase).collect(),
            number: plan.number,
            commit: row.commit.or(report.commit),
            message: Some(report.message).filter(|message| !message.is_empty()),
            started_at: row.started_at.map(Moment),
            finished_at: row.finished_at.map(Moment),
            digest: row.digest,
            reason: row.error.or(report.reason),
        }
    }
}

/// Builds of all repositories, the newest first.
pub(crate) async fn all_builds(site: &Site, page: &LogPaging) -> Result<Page<Build>, Problem> {
    page_of(site, None, page).await
}

/// Builds of a repository, the newest first.
pub(crate) async fn builds(
    site: &Site,
    name: &RepositoryName,
    page: &LogPaging,
) -> Result<Page<Build>, Problem> {
    page_of(site, Some(name.as_str()), page).await
}

async fn page_of(
    site: &Site,
    path: Option<&str>,
    page: &LogPaging,
) -> Result<Page<Build>, Problem> {
    let before = i64::try_from(page.before()).ok();
    let most = u32::try_from(page.most() + 1).unwrap_or(u32::MAX);
    let rows = records::builds(&site.registry.database, path, before, most).await?;
    let builds = rows.into_iter().map(Build::of).collect();
    Ok(Page::cut(builds, page.most(), |build: &Build| build.id.to_string()))
}

/// The row of a build, if it is of this repository.
async fn row(site: &Site, name: &RepositoryName, id: i64) -> Result<BuildRow, Problem> {
    let row = records::build(&site.registry.database, id).await?;
    // Numbers go on over all repositories: another's build is as none.
    if row.path == name.as_str() {
        return Ok(row);
    }
    Err(AutobuildError::Unknown("build", id.to_string()).into())
}

/// One build of a repository.
pub(crate) async fn build(site: &Site, name: &RepositoryName, id: i64) -> Result<Build, Problem> {
    row(site, name, id).await.map(Build::of)
}

/// A part of a build's log, from this place on.
pub(crate) async fn build_log(
    site: &Site,
    name: &RepositoryName,
    (id, from): (i64, i64),
) -> Result<BuildLog, Problem> {
    // Whether it is over is asked first: what is read after that is all.
    let is_over = row(site, name, id).await?.is_over();
    let bytes = records::log(&site.registry.database, id, from).await.map_err(Problem::from)?;
    let whole = if is_over { bytes.len() } else { whole_characters(&bytes) };
    let next = from.saturating_add(i64::try_from(whole).unwrap_or(0));
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    Ok(BuildLog { text, next, is_over })
}

/// Bytes up to a character of which only the beginning is there yet.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let length = match bytes[at] {
            0x80..=0xBF => continue,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
            _ => 1,
        };
        return if length > back { at } else { bytes.len() };
    }
    bytes.len()
}

async fn run(call: Call, _: Nothing, new: NewBuild) -> Result<Queued, Problem> {
    let kind = match new.kind {
        AskedWord::Branch => RefKind::Branch,
        AskedWord::Tag => RefKind::Tag,
    };
    let commit = new.commit.map(|commit| commit.0);
    let revision =
        Revision::asked(kind, new.name.0.trim(), commit).map_err(AutobuildError::from)?;
    let rule = new.rule.and_then(|rule| i64::try_from(rule.0).ok());
    let (by, path) = (call.actor(), call.repository()?.to_string());
    let run = RunBuild { by, path, revision, rule };
    let builds = call.site.registry.database.write(run).await?;
    Ok(Queued { build: builds.first().copied().unwrap_or_default(), builds })
}

async fn cancel(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let id = row(&call.site, &call.repository()?, call.number()?).await?.id;
    call.site.registry.database.write(CancelBuild { by: call.actor(), id }).await?;
    Ok(Nothing {})
}

async fn retry(call: Call, _: Nothing, _: Nothing) -> Result<Queued, Problem> {
    let id = row(&call.site, &call.repository()?, call.number()?).await?.id;
    let build = call.site.registry.database.write(RetryBuild { by: call.actor(), id }).await?;
    Ok(Queued { build, builds: vec![build] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        let text = "a…é🦀".as_bytes();
        for end in 0..=text.len() {
            let whole = whole_characters(&text[..end]);
            assert!(std::str::from_utf8(&text[..whole]).is_ok(), "{end}");
            assert!(end - whole < 4);
        }
        assert_eq!(whole_characters(text), text.len());
        // What is no text at all is not waited for.
        assert_eq!(whole_characters(&[0x80; 8]), 8);
        assert_eq!(whole_characters(b"a\xFFb"), 3);
    }
}
