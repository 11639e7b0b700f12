//! `--filter` of `history ls`: words, times and spans.

use std::time::Duration;

use davit_engine::{
    build::{BuildStatus, PastBuild, parse_duration},
    image::Timestamp,
};

use super::ls::nanoseconds;
use crate::error::CliError;

/// Longer ones first, as they begin like the shorter ones.
const SIGNS: [(&str, Sign); 6] = [
    ("!=", Sign::Not),
    ("<=", Sign::AtMost),
    (">=", Sign::AtLeast),
    ("<", Sign::Below),
    (">", Sign::Above),
    ("=", Sign::Is),
];
const KNOWN: &str =
    "ref, repository, status (=, !=); startedAt, completedAt, duration (<, <=, >, >=)";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    Is,
    Not,
    Below,
    AtMost,
    Above,
    AtLeast,
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Status(String, Sign),
    Reference(String, Sign),
    Repository(String, Sign),
    Started(Timestamp, Sign),
    Completed(Timestamp, Sign),
    Took(Duration, Sign),
}

/// Conditions, all of which hold.
#[derive(Debug, Default)]
pub(super) struct HistoryFilters(Vec<Condition>);

impl HistoryFilters {
    pub(super) fn parse(words: &[String]) -> Result<Self, CliError> {
        words.iter().map(|word| condition(word)).collect::<Result<_, _>>().map(Self)
    }

    /// Adds that a build is of a repository.
    pub(super) fn of_repository(&mut self, url: &str) {
        self.0.push(Condition::Repository(url.to_owned(), Sign::Is));
    }

    pub(super) fn fit(&self, build: &PastBuild) -> bool {
        self.0.iter().all(|condition| condition.fits(build))
    }
}

fn condition(word: &str) -> Result<Condition, CliError> {
    let wrong = |problem: String| {
        CliError::user(format!("invalid filter `{word}`: {problem}"))
            .hint(format!("known: {KNOWN}"))
    };
    let at = word.find(['=', '!', '<', '>']);
    let (key, rest) = word.split_at(at.unwrap_or(word.len()));
    let sign = SIGNS.iter().find_map(|(text, sign)| Some((rest.strip_prefix(text)?, *sign)));
    let (value, sign) = sign.ok_or_else(|| wrong("it is not KEY=VALUE".to_owned()))?;
    let value = value.trim();
    let is_order = !matches!(sign, Sign::Is | Sign::Not);
    let text = || (value.to_owned(), sign);
    let time = || time(value).ok_or_else(|| wrong(format!("`{value}` is no time")));
    match (key.trim(), is_order) {
        ("status", false) => Ok(Condition::Status(text().0, sign)),
        ("ref", false) => Ok(Condition::Reference(text().0, sign)),
        ("repository", false) => Ok(Condition::Repository(text().0, sign)),
        ("startedAt", true) => Ok(Condition::Started(time()?, sign)),
        ("completedAt", true) => Ok(Condition::Completed(time()?, sign)),
        ("duration", true) => span(value)
            .map(|span| Condition::Took(span, sign))
            .ok_or_else(|| wrong(format!("`{value}` is no duration"))),
        ("status" | "ref" | "repository", true) => Err(wrong("it takes = or !=".to_owned())),
        ("startedAt" | "completedAt" | "duration", false) => {
            Err(wrong("it takes <, <=, > or >=".to_owned()))
        }
        (key, _) => Err(wrong(format!("`{key}` is not known"))),
    }
}

/// A time, or a span before now.
fn time(text: &str) -> Option<Timestamp> {
    let Some(span) = span(text) else { return text.parse().ok() };
    let seconds = i64::try_from(span.as_secs()).ok()?;
    Timestamp::from_unix_seconds(Timestamp::now().unix_seconds().checked_sub(seconds)?).ok()
}

fn span(text: &str) -> Option<Duration> {
    let nanoseconds = u64::try_from(parse_duration(text)?).ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

impl Sign {
    fn holds<T: PartialOrd>(self, value: &T, limit: &T) -> bool {
        match self {
            Self::Is => value == limit,
            Self::Not => value != limit,
            Self::Below => value < limit,
            Self::AtMost => value <= limit,
            Self::Above => value > limit,
            Self::AtLeast => value >= limit,
        }
    }
}

impl Condition {
    fn fits(&self, build: &PastBuild) -> bool {
        let has = |found: &str, wanted: &str, sign: Sign| match sign {
            Sign::Is => found.contains(wanted),
            _ => found != wanted,
        };
        match self {
            Self::Status(wanted, sign) => sign.holds(&status(build.status), &wanted.as_str()),
            Self::Reference(wanted, sign) => has(&build.id, wanted, *sign),
            Self::Repository(wanted, sign) => {
                let own = build.spec.repository.as_ref().map(|it| it.url.as_str());
                let remote = &build.spec.context;
                let remote = if remote.contains("://") { remote } else { "" };
                has(own.unwrap_or(remote), wanted, *sign)
            }
            Self::Started(limit, sign) => sign.holds(&build.started, limit),
            Self::Completed(limit, sign) => {
                build.finished.is_some_and(|time| sign.holds(&time, limit))
            }
            Self::Took(limit, sign) => build.finished.is_some_and(|end| {
                sign.holds(&Duration::from_nanos(nanoseconds(build.started, end)), limit)
            }),
        }
    }
}

/// The word of a filter for how a build ended.
const fn status(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Running => "running",
        BuildStatus::Completed => "completed",
        BuildStatus::Error | BuildStatus::Killed => "error",
        BuildStatus::Canceled => "canceled",
    }
}

#[cfg(test)]
mod tests {
    use davit_engine::build::{BuildSpec, Repository};

    use super::*;

    #[test]
    fn conditions_are_read_and_hold() {
        let at = |seconds| Timestamp::from_unix_seconds(seconds).unwrap();
        let repository = Repository { url: "https://h/o.git".to_owned(), ..Repository::default() };
        let build = PastBuild {
            id: "abcd1234".to_owned(),
            status: BuildStatus::Canceled,
            started: at(1000),
            finished: Some(at(1010)),
            spec: BuildSpec { repository: Some(repository), ..BuildSpec::default() },
        };
        for (filter, fits) in [
            ("status=canceled", true),
            ("status!=canceled", false),
            ("status=cancel", false),
            ("ref=cd12", true),
            ("ref!=abcd1234", false),
            ("repository=h/o", true),
            ("repository!=https://h/o.git", false),
            ("startedAt<=1970-01-01T00:16:40Z", true),
            ("startedAt<1970-01-01T00:16:40Z", false),
            ("startedAt>24h", false),
            ("completedAt<24h", true),
            ("duration>=10s", true),
            ("duration>10s", false),
        ] {
            let filters = HistoryFilters::parse(&[filter.to_owned()]).unwrap();
            assert_eq!(filters.fit(&build), fits, "{filter}");
        }
        for wrong in [
            "",
            "status",
            "x=1",
            "status<1",
            "duration=1s",
            "duration>x",
            "startedAt>x",
            "!",
            "ref!a",
        ] {
            assert!(HistoryFilters::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
