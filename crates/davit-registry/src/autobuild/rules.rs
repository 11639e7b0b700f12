//! Build rules: which revision builds which tags from which files. Pure.
//!
//! A rule's source is a name, or a regular expression between slashes, which is looked for anywhere in
//! the name unless `^` and `$` say otherwise. Its tag may hold `{sourceref}`, `{\1}` to `{\9}` (groups
//! of the expression), `{commit}` (12 digits of it) and `{number}` (of a pull request); several tags
//! are joined by commas.

mod patterns;

use davit_image::Tag;
use serde::{Deserialize, Serialize};

pub use self::patterns::{PathPattern, SourcePattern};
use super::hook::{is_commit, is_reference};

/// Bytes of a pattern, a template or a path.
const LONGEST: usize = 512;
/// Path patterns, platforms and tags of one rule.
const MOST: usize = 32;
/// Days after which a preview ends at the latest.
const MOST_DAYS: u32 = 3650;
/// Days that previews of pull requests stay, unless a rule says otherwise.
const PREVIEW_DAYS: u32 = 14;
/// Digits of `{commit}`.
const COMMIT_DIGITS: usize = 12;
/// What stands for the commit until the checkout knows it.
const COMMIT: &str = "{commit}";

/// What a reference is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefKind {
    /// A branch.
    Branch,
    /// A tag.
    Tag,
    /// A pull or merge request.
    Pull,
}

/// What may be built: a commit that a reference names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// What the reference is.
    pub kind: RefKind,
    /// Branch or tag; of a pull request the branch that it comes from.
    pub name: String,
    /// What git fetches: `refs/heads/main`.
    pub reference: String,
    /// The commit, in full; `None`: whatever the reference names when it is built.
    pub commit: Option<String>,
    /// Number of a pull request.
    pub number: Option<u64>,
    /// Whether it comes from another repository, whose owner nobody here vouches for.
    pub is_fork: bool,
}

impl Revision {
    /// The branch or tag of this name that somebody asks for, or one commit of it.
    ///
    /// # Errors
    /// [`RuleError::Text`]: git has no such names or commits.
    pub fn asked(kind: RefKind, name: &str, commit: Option<String>) -> Result<Self, RuleError> {
        let below = if kind == RefKind::Tag { "tags" } else { "heads" };
        let reference = format!("refs/{below}/{name}");
        let refused = |what, text: &str| RuleError::Text(what, text.chars().take(40).collect());
        if kind == RefKind::Pull || !is_reference(&reference) {
            return Err(refused("the name", name));
        }
        if let Some(commit) = commit.as_ref().filter(|commit| !is_commit(commit)) {
            return Err(refused("the commit, which is none in full:", commit));
        }
        let name = name.to_owned();
        Ok(Self { kind, name, reference, commit, number: None, is_fork: false })
    }
}

/// A rule as its owner made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which references it speaks of.
    pub kind: RefKind,
    /// Their names.
    pub source: SourcePattern,
    /// The tags that a build gets, as a template.
    pub tag: String,
    /// The Dockerfile, from the context.
    #[serde(default = "dockerfile")]
    pub dockerfile: String,
    /// Directory of the context, from the top; `None`: that of the Dockerfile, which is then from the
    /// top.
    #[serde(default)]
    pub context: Option<String>,
    /// Whether it builds by itself; else only when asked to.
    pub autobuild: bool,
    /// Whether steps of earlier builds are used again.
    pub caching: bool,
    /// Whether a change of a base image builds a branch again.
    #[serde(default)]
    pub rebuild: bool,
    /// Changes that matter; none here: all do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    /// Platforms; none here: the worker's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Stage to build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Days after which the tags go again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_days: Option<u32>,
    /// Whether pull requests from other repositories are built, too: without secrets.
    #[serde(default)]
    pub forks: bool,
}

fn dockerfile() -> String {
    "Dockerfile".to_owned()
}

/// Why a rule is refused.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The regular expression is malformed or too large.
    #[error("`{0}` is no regular expression that can be used")]
    Pattern(String),
    /// A pattern, template or path is too long, empty, or leads out of the checkout.
    #[error("{0} `{1}` cannot be used")]
    Text(&'static str, String),
    /// The template makes no tag.
    #[error("`{0}` is no tag")]
    Tag(String),
    /// There are too many of something.
    #[error("a rule has at most {MOST} {0}")]
    TooMany(&'static str),
    /// Days are out of range.
    #[error("tags expire after 1 to {MOST_DAYS} days")]
    Days,
}

impl Rule {
    /// A rule with the defaults: `Dockerfile` at the top, built by itself and with caching.
    ///
    /// # Errors
    /// [`RuleError::Pattern`].
    pub fn new(kind: RefKind, source: &str, tag: &str) -> Result<Self, RuleError> {
        Ok(Self {
            kind,
            source: source.parse()?,
            tag: tag.to_owned(),
            dockerfile: dockerfile(),
            context: Some("/".to_owned()),
            autobuild: true,
            caching: true,
            rebuild: kind == RefKind::Branch,
            paths: Vec::new(),
            platforms: Vec::new(),
            target: None,
            expires_days: None,
            forks: false,
        })
    }

    /// As [`Self::new`], with the usual tag where none is given, and the usual end of previews: `latest` of
    /// `main` and `master`, else the name of the branch or tag, and `pr-NUMBER` for two weeks.
    ///
    /// # Errors
    /// [`RuleError::Pattern`].
    pub fn usual(kind: RefKind, source: &str, tag: Option<&str>) -> Result<Self, RuleError> {
        let usual = match kind {
            RefKind::Branch if matches!(source, "main" | "master") => "latest",
            RefKind::Pull => "pr-{number}",
            _ => "{sourceref}",
        };
        let rule = Self::new(kind, source, tag.unwrap_or(usual))?;
        Ok(Self { expires_days: (kind == RefKind::Pull).then_some(PREVIEW_DAYS), ..rule })
    }

    /// Refuses what no build could use.
    ///
    /// # Errors
    /// See [`RuleError`].
    pub fn check(&self) -> Result<(), RuleError> {
        let is_path = |text: &str| {
            let leaves = text.split('/').any(|part| part == "..");
            text.len() <= LONGEST && !leaves && !text.contains(|c: char| c.is_control())
        };
        if !is_path(&self.dockerfile) || self.dockerfile.trim_matches('/').is_empty() {
            return Err(RuleError::Text("the Dockerfile", self.dockerfile.clone()));
        }
        if let Some(context) = self.context.as_ref().filter(|context| !is_path(context)) {
            return Err(RuleError::Text("the context", context.clone()));
        }
        let target = self.target.as_deref().unwrap_or_default();
        if target.starts_with('-') || !is_path(target) {
            return Err(RuleError::Text("the stage", target.to_owned()));
        }
        let is_platform =
            |text: &&String| text.parse::<davit_image::Platform>().is_err() || text.contains(',');
        if let Some(platform) = self.platforms.iter().find(is_platform) {
            return Err(RuleError::Text("the platform", platform.clone()));
        }
        for (count, what) in [(self.paths.len(), "paths"), (self.platforms.len(), "platforms")] {
            if count > MOST {
                return Err(RuleError::TooMany(what));
            }
        }
        if self.expires_days.is_some_and(|days| !(1..=MOST_DAYS).contains(&days)) {
            return Err(RuleError::Days);
        }
        // What stands for a group is a tag's first character, too.
        templates(&self.tag)?.iter().try_for_each(|template| {
            let sample = expand(template, &|_| "x".to_owned());
            with_commit(&sample, "0").map(drop)
        })
    }

    /// Tags that the revision builds, in which `{commit}` may stand for what is not known yet; `None`
    /// where the rule does not speak of it.
    ///
    /// # Errors
    /// [`RuleError::Tag`]: the template gives no tag for this name.
    pub fn tags(&self, revision: &Revision) -> Result<Option<Vec<String>>, RuleError> {
        let is_wanted = self.kind == revision.kind && (self.forks || !revision.is_fork);
        let Some(groups) = self.source.groups(&revision.name).filter(|_| is_wanted) else {
            return Ok(None);
        };
        let value = |name: &str| match name {
            "sourceref" => in_tag(&revision.name),
            "number" => revision.number.map(|number| number.to_string()).unwrap_or_default(),
            "commit" => match &revision.commit {
                Some(commit) => commit.chars().take(COMMIT_DIGITS).collect(),
                None => COMMIT.to_owned(),
            },
            group => {
                let number = group.strip_prefix('\\').and_then(|digit| digit.parse::<usize>().ok());
                let group = number.and_then(|number| groups.get(number).cloned());
                in_tag(&group.unwrap_or_default())
            }
        };
        let expanded = templates(&self.tag)?.into_iter().map(|template| {
            let text = expand(template, &value);
            with_commit(&text, "0")?;
            Ok(text)
        });
        expanded.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Directory of the context and the Dockerfile, both from the top.
    #[must_use]
    pub fn places(&self) -> (String, String) {
        let dockerfile = self.dockerfile.trim_matches('/');
        match &self.context {
            None => {
                let directory = dockerfile.rsplit_once('/').map_or("", |(before, _)| before);
                (directory.to_owned(), dockerfile.to_owned())
            }
            Some(context) => {
                let context = context.trim_matches('/').trim_start_matches("./");
                let whole = format!("{context}/{dockerfile}");
                (context.to_owned(), whole.trim_start_matches('/').to_owned())
            }
        }
    }

    /// Tells whether a change of these paths matters.
    #[must_use]
    pub fn concerns<'p>(&self, changed: impl IntoIterator<Item = &'p str>) -> bool {
        concerns(&self.paths, changed)
    }
}

/// Tells whether one of the paths is meant: of the patterns that match a path the last one decides; where
/// all are exclusions, what none excludes is meant.
#[must_use]
pub fn concerns<'p>(patterns: &[PathPattern], changed: impl IntoIterator<Item = &'p str>) -> bool {
    let only_exclusions = patterns.iter().all(|pattern| pattern.is_exclusion());
    changed.into_iter().any(|path| {
        let last = patterns.iter().rev().find(|pattern| pattern.is_match(path));
        last.map_or(only_exclusions, |pattern| !pattern.is_exclusion())
    })
}

/// Puts the commit where a tag waits for it.
///
/// # Errors
/// [`RuleError::Tag`].
pub fn with_commit(text: &str, commit: &str) -> Result<Tag, RuleError> {
    let short: String = commit.chars().take(COMMIT_DIGITS).collect();
    text.replace(COMMIT, &short).parse().map_err(|_| RuleError::Tag(text.to_owned()))
}

fn templates(text: &str) -> Result<Vec<&str>, RuleError> {
    if text.len() > LONGEST {
        return Err(RuleError::Text("the tag", text.chars().take(40).collect()));
    }
    let templates: Vec<&str> = text.split(',').map(str::trim).collect();
    if templates.len() > MOST { Err(RuleError::TooMany("tags")) } else { Ok(templates) }
}

/// Replaces each `{name}`.
fn expand(template: &str, value: &dyn Fn(&str) -> String) -> String {
    let mut parts = template.split('{');
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('}') {
            Some((name, rest)) => expanded.extend([&*value(name), rest]),
            // No tag has a brace: the template is refused for it.
            None => expanded.extend(["{", part]),
        }
    }
    expanded
}

/// A name of git with a `-` in the place of what tags cannot hold.
fn in_tag(name: &str) -> String {
    let keep = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if keep(c) { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(kind: RefKind, name: &str) -> Revision {
        let commit = Some("0123456789abcdef0123456789abcdef01234567".to_owned());
        let (reference, number) = (String::new(), None);
        Revision { kind, name: name.to_owned(), reference, commit, number, is_fork: false }
    }

    #[test]
    fn tags_come_from_names_and_groups() {
        use RefKind::{Branch, Tag};
        for (kind, source, tag, name, expected) in [
            (Branch, "main", "latest", "main", Some("latest")),
            (Branch, "main", "latest", "main2", None),
            (Tag, "main", "latest", "main", Some("latest")),
            (Tag, "/^[0-9.]+$/", "release-{sourceref}", "1.2.0", Some("release-1.2.0")),
            (Tag, "/^[0-9.]+$/", "release-{sourceref}", "v1.2.0", None),
            (Tag, "/[0-9.]+$/", "x", "v1.2.0", Some("x")),
            (Tag, r"/^v([0-9]+)\.([0-9]+)$/", r"{\1},{\1}.{\2}", "v3.14", Some("3|3.14")),
            (Branch, "/.*/", "{sourceref}", "feature/x@y", Some("feature-x-y")),
            (Branch, "/(a)|b/", r"t{\1}", "b", Some("t")),
            (Branch, "main", "main-{commit}", "main", Some("main-0123456789ab")),
            (Branch, "main", r"{\9}t", "main", Some("t")),
        ] {
            let rule = Rule::new(kind, source, tag).unwrap();
            rule.check().unwrap();
            let tags = rule.tags(&revision(kind, name)).unwrap().map(|tags| tags.join("|"));
            assert_eq!(tags.as_deref(), expected, "{source} {tag} {name}");
        }
        let other = Rule::new(Branch, "v1", "x").unwrap();
        assert_eq!(other.tags(&revision(Tag, "v1")).unwrap(), None);
    }

    #[test]
    fn a_commit_that_is_not_known_is_waited_for() {
        let rule = Rule::new(RefKind::Branch, "main", "{commit}").unwrap();
        let tip = Revision { commit: None, ..revision(RefKind::Branch, "main") };
        let tags = rule.tags(&tip).unwrap().unwrap();
        assert_eq!(tags, ["{commit}"]);
        let tag = with_commit(&tags[0], "fedcba9876543210").unwrap();
        assert_eq!(tag.as_str(), "fedcba987654");
    }

    #[test]
    fn pulls_of_others_need_leave() {
        let mut rule = Rule::new(RefKind::Pull, "/.*/", "pr-{number}").unwrap();
        let mut pull = Revision { number: Some(7), ..revision(RefKind::Pull, "fix") };
        assert_eq!(rule.tags(&pull).unwrap().unwrap(), ["pr-7"]);
        pull.is_fork = true;
        assert_eq!(rule.tags(&pull).unwrap(), None);
        rule.forks = true;
        assert_eq!(rule.tags(&pull).unwrap().unwrap(), ["pr-7"]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        assert!(Rule::new(RefKind::Tag, "/(/", "x").is_err());
        assert!(Rule::new(RefKind::Tag, "", "x").is_err());
        let refused = |change: &dyn Fn(&mut Rule)| {
            let mut rule = Rule::new(RefKind::Tag, "v1", "x").unwrap();
            change(&mut rule);
            rule.check().unwrap_err();
        };
        for tag in ["", "a b", "-x", "{", "a,,b", "{sourceref}/x"] {
            refused(&|rule| tag.clone_into(&mut rule.tag));
        }
        refused(&|rule| rule.dockerfile = "../x".to_owned());
        refused(&|rule| rule.dockerfile = "/".to_owned());
        refused(&|rule| rule.context = Some("a/../../b".to_owned()));
        refused(&|rule| rule.platforms = vec!["--push".to_owned()]);
        refused(&|rule| rule.target = Some("--push".to_owned()));
        refused(&|rule| rule.expires_days = Some(0));
        refused(&|rule| rule.paths = vec!["a".parse().unwrap(); MOST + 1]);
    }

    #[test]
    fn dockerfiles_are_found_from_the_context() {
        let places = |context: Option<&str>, dockerfile: &str| {
            let mut rule = Rule::new(RefKind::Tag, "v1", "x").unwrap();
            rule.context = context.map(str::to_owned);
            dockerfile.clone_into(&mut rule.dockerfile);
            let (context, dockerfile) = rule.places();
            format!("{context}:{dockerfile}")
        };
        assert_eq!(places(Some("/"), "Dockerfile"), ":Dockerfile");
        assert_eq!(places(Some("/app/"), "build/Dockerfile"), "app:app/build/Dockerfile");
        assert_eq!(places(None, "app/Dockerfile"), "app:app/Dockerfile");
        assert_eq!(places(None, "Dockerfile"), ":Dockerfile");
    }

    #[test]
    fn paths_choose_changes() {
        let concerns = |patterns: &str, changed: &str| {
            let mut rule = Rule::new(RefKind::Branch, "main", "x").unwrap();
            rule.paths = patterns.split(' ').map(|text| text.parse().unwrap()).collect();
            rule.concerns(changed.split(' '))
        };
        for (patterns, changed, expected) in [
            ("app", "app/main.rs", true),
            ("app", "app", true),
            ("app", "application/x", false),
            ("app/*.rs", "app/a/b.rs", false),
            ("app/**/*.rs", "app/b.rs", true),
            ("app/**/*.rs", "app/a/b.rs", true),
            ("**.md", "docs/x.md", true),
            ("!docs", "docs/x.md", false),
            ("!docs", "docs/x.md src/a", true),
            ("app !app/docs", "app/docs/x", false),
            ("app !app/docs app/docs/api", "app/docs/api/x", true),
            ("a?c", "abc", true),
            ("a.c", "abc", false),
        ] {
            assert_eq!(concerns(patterns, changed), expected, "{patterns} {changed}");
        }
    }
}
