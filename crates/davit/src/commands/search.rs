//! `davit search`

use davit_engine::{Accounts, DEFAULT_REGISTRY, SearchEntry, image::Repository};
use serde::Serialize;

use crate::{
    cli::Context,
    error::CliError,
    format::{List, ListFormat},
};

/// Longest description that is shown in a table.
const DESCRIPTION_CHARACTERS: usize = 45;

// Arguments of `davit search`.
#[derive(Debug, clap::Args)]
pub(crate) struct SearchArgs {
    /// What to look for; HOST/TERM searches another registry than Docker Hub
    term: String,
    /// Most results
    #[arg(long, default_value_t = 25)]
    limit: usize,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Filter output: stars=N, is-official=true|false
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    format: ListFormat,
}

/// Fields in the order of Docker's JSON.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    description: String,
    is_automated: String,
    is_official: String,
    name: String,
    star_count: String,
}

impl Row {
    fn new(entry: &SearchEntry, args: &SearchArgs) -> Self {
        let mut description = entry.description.replace(['\r', '\n', '\t'], " ");
        if !args.no_trunc && description.chars().count() > DESCRIPTION_CHARACTERS {
            description = description.chars().take(DESCRIPTION_CHARACTERS - 1).collect();
            description.push('…');
        }
        let flag = |is_set: bool| match (args.format.template(), is_set) {
            (Some("json"), is_set) => is_set.to_string(),
            (_, true) => "[OK]".to_owned(),
            (_, false) => String::new(),
        };
        Self {
            description,
            is_automated: flag(entry.is_automated),
            is_official: flag(entry.is_official),
            name: entry.name.clone(),
            star_count: entry.star_count.to_string(),
        }
    }
}

/// A condition of `--filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Stars(i64),
    Official(bool),
}

impl Condition {
    fn parse(text: &str) -> Result<Self, CliError> {
        let invalid = || CliError::user(format!("invalid filter '{text}'"));
        let (key, value) = text.split_once('=').ok_or_else(|| {
            CliError::usage(format!("bad format of filter '{text}' (expected name=value)"))
        })?;
        match key {
            "stars" => value.parse().map(Self::Stars).map_err(|_| invalid()),
            "is-official" => value.parse().map(Self::Official).map_err(|_| invalid()),
            _ => Err(invalid()),
        }
    }

    const fn holds(self, entry: &SearchEntry) -> bool {
        match self {
            Self::Stars(least) => entry.star_count >= least,
            Self::Official(official) => entry.is_official == official,
        }
    }
}

/// Runs `davit search`.
///
/// # Errors
/// A malformed filter, or a registry that does not answer.
pub(crate) fn run(args: &SearchArgs, context: &Context) -> Result<u8, CliError> {
    let conditions: Vec<Condition> =
        args.filter.iter().map(|text| Condition::parse(text)).collect::<Result<_, _>>()?;
    if !(1..=100).contains(&args.limit) {
        let text = format!("limit {} is outside the range of [1, 100]", args.limit);
        return Err(CliError::user(text));
    }
    let (registry, term) = split(&args.term);
    let config = context.config()?;
    let found = Accounts::new(&config).search(registry, term, args.limit)?;
    let found: Vec<_> = found
        .into_iter()
        .filter(|entry| conditions.iter().all(|condition| condition.holds(entry)))
        .collect();
    let rows: Vec<_> = found.iter().map(|entry| Row::new(entry, args)).collect();
    let list = List {
        table: "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}",
        heads: &[("StarCount", "STARS"), ("IsOfficial", "OFFICIAL")],
    };
    list.print(&args.format, &rows, &found)?;
    Ok(0)
}

/// Parts a term into the registry that it names, by the rule of references, and the rest.
fn split(term: &str) -> (&str, &str) {
    let Some((host, rest)) = term.split_once('/') else { return (DEFAULT_REGISTRY, term) };
    let is_registry = format!("{host}/a").parse::<Repository>().is_ok_and(|r| r.registry() == host);
    if is_registry { (host, rest) } else { (DEFAULT_REGISTRY, term) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_may_name_a_registry() {
        assert_eq!(split("alpine"), ("docker.io", "alpine"));
        assert_eq!(split("user/app"), ("docker.io", "user/app"));
        assert_eq!(split("localhost:5000/app"), ("localhost:5000", "app"));
        assert_eq!(split("quay.io/a/b"), ("quay.io", "a/b"));
        assert_eq!(split("localhost:5000/"), ("localhost:5000", ""));
    }

    #[test]
    fn filters_are_checked() {
        assert_eq!(Condition::parse("stars=3").unwrap(), Condition::Stars(3));
        assert_eq!(Condition::parse("is-official=true").unwrap(), Condition::Official(true));
        for text in ["", "stars", "stars=x", "is-official=yes", "size=3"] {
            assert!(Condition::parse(text).is_err(), "{text}");
        }
    }
}
