//! Which tags of a repository stay: a pure function with its reasons.
//!
//! A tag stays when no rule speaks of it, when it is immutable, or when one of the rules that speak
//! of it keeps it. Rules only remove tags; the manifests behind them are the garbage collector's.

use std::{cmp::Reverse, collections::BTreeMap, fmt};

use davit_image::Digest;
use semver::Version;

use crate::settings::{RepositorySettings, RetentionRule, SemverGroup};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// What is known of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFacts {
    /// Its name.
    pub name: String,
    /// The manifest that it names.
    pub digest: Digest,
    /// When it was last pushed, in milliseconds since 1970.
    pub pushed_at_ms: i64,
    /// When its manifest was last pulled.
    pub pulled_at_ms: Option<i64>,
}

/// What becomes of a tag, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The tag's name.
    pub tag: String,
    /// The manifest that it names.
    pub digest: Digest,
    /// Why it stays; nothing when it goes.
    pub kept: Option<Kept>,
}

/// Why a tag stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// No rule's pattern matches it.
    NoRule,
    /// It is immutable.
    Immutable,
    /// It is among the newest of its rule's tags.
    Newest {
        /// Pattern of the rule.
        rule: String,
        /// Its place, from 1.
        place: usize,
        /// How many the rule keeps.
        of: u32,
    },
    /// It was pushed lately.
    Pushed {
        /// Pattern of the rule.
        rule: String,
        /// How long ago, in days.
        within_days: u32,
    },
    /// It was pulled lately.
    Pulled {
        /// Pattern of the rule.
        rule: String,
        /// How long ago, in days.
        within_days: u32,
    },
    /// It is among the highest versions of its group.
    Version {
        /// Pattern of the rule.
        rule: String,
        /// Its place, from 1.
        place: usize,
        /// How many the rule keeps.
        of: u32,
    },
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => f.write_str("no rule speaks of it"),
            Self::Immutable => f.write_str("it is immutable"),
            Self::Newest { rule, place, of } => {
                write!(f, "number {place} of the newest {of} of `{rule}`")
            }
            Self::Pushed { rule, within_days } => {
                write!(f, "pushed within {within_days} days, for `{rule}`")
            }
            Self::Pulled { rule, within_days } => {
                write!(f, "pulled within {within_days} days, for `{rule}`")
            }
            Self::Version { rule, place, of } => {
                write!(f, "number {place} of the highest {of} versions of `{rule}`")
            }
        }
    }
}

/// Judges all tags of a repository, in the order given.
#[must_use]
pub fn judge(settings: &RepositorySettings, tags: &[TagFacts], now_ms: i64) -> Vec<Verdict> {
    let mut kept: Vec<Option<Kept>> = vec![None; tags.len()];
    let mut spoken_of = vec![false; tags.len()];
    for rule in &settings.retention {
        let chosen: Vec<usize> =
            (0..tags.len()).filter(|&n| rule.tags.matches(&tags[n].name)).collect();
        for &number in &chosen {
            spoken_of[number] = true;
        }
        for (number, reason) in keeps(rule, tags, &chosen, now_ms) {
            kept[number].get_or_insert(reason);
        }
    }
    let verdicts = tags.iter().zip(kept).zip(spoken_of).map(|((tag, kept), spoken_of)| {
        let kept = if !spoken_of {
            Some(Kept::NoRule)
        } else if settings.is_immutable(&tag.name) {
            Some(Kept::Immutable)
        } else {
            kept
        };
        Verdict { tag: tag.name.clone(), digest: tag.digest, kept }
    });
    verdicts.collect()
}

fn keeps(
    rule: &RetentionRule,
    tags: &[TagFacts],
    chosen: &[usize],
    now_ms: i64,
) -> Vec<(usize, Kept)> {
    let name = || rule.tags.to_string();
    let since = |days: u32| now_ms - i64::from(days) * DAY_MS;
    let mut kept = Vec::new();
    if let Some(of) = rule.newest {
        let mut order = chosen.to_vec();
        order.sort_by_key(|&n| (Reverse(tags[n].pushed_at_ms), &tags[n].name));
        let first = order.into_iter().enumerate().take(of as usize);
        kept.extend(first.map(|(at, n)| (n, Kept::Newest { rule: name(), place: at + 1, of })));
    }
    if let Some(within_days) = rule.pushed_within_days {
        let lately = chosen.iter().filter(|&&n| tags[n].pushed_at_ms >= since(within_days));
        kept.extend(lately.map(|&n| (n, Kept::Pushed { rule: name(), within_days })));
    }
    if let Some(within_days) = rule.pulled_within_days {
        let lately = |n: usize| tags[n].pulled_at_ms.is_some_and(|at| at >= since(within_days));
        let lately = chosen.iter().filter(|&&n| lately(n));
        kept.extend(lately.map(|&n| (n, Kept::Pulled { rule: name(), within_days })));
    }
    if let Some(of) = rule.semver_newest {
        for group in versions(rule.semver_per, tags, chosen).into_values() {
            let first = group.into_iter().enumerate().take(of as usize);
            kept.extend(
                first.map(|(at, (_, n))| (n, Kept::Version { rule: name(), place: at + 1, of })),
            );
        }
    }
    kept
}

type Versions = BTreeMap<(u64, u64), Vec<(Version, usize)>>;

/// Tags that are versions, by group; the highest first.
fn versions(per: SemverGroup, tags: &[TagFacts], chosen: &[usize]) -> Versions {
    let mut groups = Versions::new();
    for &number in chosen {
        let name = &tags[number].name;
        let Ok(version) = Version::parse(name.strip_prefix('v').unwrap_or(name)) else { continue };
        let group = match per {
            SemverGroup::All => (0, 0),
            SemverGroup::Major => (version.major, 0),
            SemverGroup::Minor => (version.major, version.minor),
        };
        groups.entry(group).or_default().push((version, number));
    }
    for group in groups.values_mut() {
        group.sort_by(|one, other| other.cmp(one));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags as `name@day of push`, with `+day of pull`; today is day 100.
    fn tags(text: &str) -> Vec<TagFacts> {
        let day = |text: &str| text.parse::<i64>().unwrap() * DAY_MS;
        let tag = |word: &str| {
            let (name, days) = word.split_once('@').unwrap();
            let (pushed, pulled) = days.split_once('+').map_or((days, None), |(a, b)| (a, Some(b)));
            TagFacts {
                name: name.to_owned(),
                digest: Digest::of(b""),
                pushed_at_ms: day(pushed),
                pulled_at_ms: pulled.map(day),
            }
        };
        text.split(' ').map(tag).collect()
    }

    fn removed(settings: &str, all: &str) -> String {
        let settings = settings.parse().unwrap();
        let verdicts = judge(&settings, &tags(all), 100 * DAY_MS);
        let gone = verdicts.into_iter().filter(|verdict| verdict.kept.is_none());
        gone.map(|verdict| verdict.tag).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_criterion_keeps_its_tags() {
        let cases = [
            ("{}", "a@1 b@2", ""),
            (r#"{"retention":[{"tags":"a","newest":0}]}"#, "a@1 b@2", "a"),
            (r#"{"retention":[{"tags":".*","newest":2}]}"#, "a@1 b@3 c@2", "a"),
            // Of the same age, the one that sorts first stays.
            (r#"{"retention":[{"tags":".*","newest":1}]}"#, "b@1 a@1", "b"),
            (r#"{"retention":[{"tags":".*","pushed_within_days":10}]}"#, "a@90 b@89", "b"),
            (
                r#"{"retention":[{"tags":".*","pulled_within_days":10}]}"#,
                "a@1+90 b@1+89 c@99",
                "b c",
            ),
            // Two criteria of a rule, and two rules: either keeps.
            (
                r#"{"retention":[{"tags":".*","newest":1,"pulled_within_days":10}]}"#,
                "a@1+99 b@2 c@1",
                "c",
            ),
            (
                r#"{"retention":[{"tags":"a.*","newest":1},{"tags":".*b","newest":1}]}"#,
                "ab@1 a@2 b@0 c@0",
                "b",
            ),
            (
                r#"{"retention":[{"tags":".*","newest":0}],"immutable_tags":["v.*"]}"#,
                "v1@1 w@1",
                "w",
            ),
        ];
        for (settings, all, expected) in cases {
            assert_eq!(removed(settings, all), expected, "{settings} {all}");
        }
    }

    #[test]
    fn versions_are_counted_by_precedence() {
        let of = |per: &str| {
            format!(r#"{{"retention":[{{"tags":".*","semver_newest":1,"semver_per":"{per}"}}]}}"#)
        };
        let all = "1.2.0@9 v1.10.0@1 1.10.0-rc.1@5 2.0.0@1 2.0.1@1 latest@1 1.2@1";
        assert_eq!(removed(&of("all"), all), "1.2.0 v1.10.0 1.10.0-rc.1 2.0.0 latest 1.2");
        assert_eq!(removed(&of("major"), all), "1.2.0 1.10.0-rc.1 2.0.0 latest 1.2");
        assert_eq!(removed(&of("minor"), all), "1.10.0-rc.1 2.0.0 latest 1.2");
    }

    #[test]
    fn a_verdict_has_its_reason() {
        let rules = r#"{"retention":[{"tags":"[ab]","newest":1,"pushed_within_days":3}]}"#;
        let verdicts = judge(&rules.parse().unwrap(), &tags("a@98 b@99 c@1"), 100 * DAY_MS);
        let reasons: Vec<_> =
            verdicts.iter().map(|v| v.kept.as_ref().unwrap().to_string()).collect();
        let expected = [
            "pushed within 3 days, for `[ab]`",
            "number 1 of the newest 1 of `[ab]`",
            "no rule speaks of it",
        ];
        assert_eq!(reasons, expected);
    }
}
