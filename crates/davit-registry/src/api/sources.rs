//! Sources of automated builds: the git repository behind a repository, its rules and variables.

use std::time::Duration;

use davit_distribution::Secret;
use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule as Who, Site,
    route::endpoint,
    schema::{Nothing, Prose, Text, Within, input, reply, words},
    text::{SecretText, VariableName},
};
use crate::{
    auth::{Action, Need, RepositoryGlob},
    autobuild::{
        AutobuildError,
        rules::{RefKind, Rule, RuleError},
        source::{
            AddRule, AddSource, Autotest, ChangeSource, Credential, NewCredential, RemoveRule,
            RemoveSource, SetVariable, SourceChange, SourceRow, SourceSettings, hook_of, source_of,
        },
    },
    name::RepositoryName,
};

/// Minutes between two looks at a git repository at most: a year.
const MOST_MINUTES: u64 = 525_600;
/// Days after which a preview ends at the latest.
const MOST_DAYS: u64 = 3650;
/// Patterns of repositories that builds may pull from.
const MOST_PULLS: usize = 32;

words! {
    /// What a reference of git is.
    RefWord {
        /// A branch.
        Branch = "branch",
        /// A tag.
        Tag = "tag",
        /// A pull or merge request.
        Pull = "pull",
    }
}

impl From<RefKind> for RefWord {
    fn from(kind: RefKind) -> Self {
        match kind {
            RefKind::Branch => Self::Branch,
            RefKind::Tag => Self::Tag,
            RefKind::Pull => Self::Pull,
        }
    }
}

impl From<RefWord> for RefKind {
    fn from(word: RefWord) -> Self {
        match word {
            RefWord::Branch => Self::Branch,
            RefWord::Tag => Self::Tag,
            RefWord::Pull => Self::Pull,
        }
    }
}

reply! {
    /// What of a git repository is built, and how it is tagged.
    BuildRule {
        /// Its number.
        id: i64,
        /// Of which references it speaks.
        kind: RefWord,
        /// Their name, or a regular expression between slashes.
        source: String,
        /// The tags that a build gets, joined by commas; `{sourceref}`, `{\1}`, `{commit}` and
        /// `{number}` stand for what they say.
        tag: String,
        /// The Dockerfile, from the context.
        dockerfile: String,
        /// Whether it builds by itself.
        autobuild: bool,
        /// Whether steps of earlier builds are used again.
        caching: bool,
        /// Whether a change of a base image builds a branch again.
        rebuild: bool,
        /// Whether pull requests from other repositories are built too, without secrets.
        forks: bool,
        /// Changes that matter; none: all do.
        paths: Vec<String>,
        /// Platforms; none: the worker's own.
        platforms: Vec<String>,
    } maybe {
        /// Directory of the context, from the top; absent: that of the Dockerfile.
        context: String,
        /// Stage to build.
        target: String,
        /// Days after which the tags go again.
        expires_days: u32,
    }
}

reply! {
    /// A variable of hooks and builds.
    BuildVariable {
        /// Its name.
        name: String,
        /// Whether it is hidden: in logs, here, and from pull requests of others.
        is_secret: bool,
    } maybe {
        /// Its value, where that is no secret.
        value: String,
    }
}

reply! {
    /// A git repository whose pushes are built.
    Source {
        /// The repository here.
        repository: String,
        /// Address of the git repository.
        url: String,
        /// Whether a token or key is kept for it.
        has_credential: bool,
        /// How images are tested: a command, `compose`, or nothing.
        test: String,
        /// Repositories of the same owner that builds may pull from.
        pulls: Vec<String>,
        /// What is built, oldest first.
        rules: Vec<BuildRule>,
        /// Variables, by name.
        variables: Vec<BuildVariable>,
    } maybe {
        /// Minutes between two looks at it.
        poll_minutes: u64,
        /// Why the last look failed.
        error: String,
    }
}

reply! {
    /// What a git host's webhook needs to know.
    SourceHook {
        /// Path on this server to which it sends.
        hook_path: Secret,
        /// The secret, or token, of the webhook.
        hook_secret: Secret,
    }
}

input! {
    /// A git repository to connect.
    NewSource {
        /// Its address: https, http, ssh or git.
        url: Prose<2048>,
    } maybe {
        /// A token or password, for a private one over https.
        token: SecretText<4096>,
        /// A private key, for one over ssh.
        ssh_key: SecretText<16384>,
        /// Look for news so often too, in minutes.
        poll_minutes: Within<1, MOST_MINUTES>,
        /// Test each image by this command in a container of it.
        test: Prose<1000>,
        /// Repositories of the same owner that builds may pull from; for owners only.
        pulls: Vec<Text<RepositoryGlob>>,
    }
}

input! {
    /// What changes of a source; what is absent stays.
    SetSource {} maybe {
        /// Its address. For another one credential and secret variables are needed anew.
        url: Prose<2048>,
        /// A token or password, for a private one over https.
        token: SecretText<4096>,
        /// A private key, for one over ssh.
        ssh_key: SecretText<16384>,
        /// Forget the token or key.
        no_credential: bool,
        /// Look for news so often too, in minutes; 0: by webhook only.
        poll_minutes: Within<0, MOST_MINUTES>,
        /// Test each image by this command in a container of it; empty: not at all.
        test: Prose<1000>,
        /// Repositories of the same owner that builds may pull from; for owners only.
        pulls: Vec<Text<RepositoryGlob>>,
    }
}

input! {
    /// A rule to add.
    NewBuildRule {
        /// Of which references it speaks.
        kind: RefWord,
        /// Their name, or a regular expression between slashes.
        source: Prose<512>,
    } maybe {
        /// The tags; absent: `latest` of main and master, else the name, or `pr-{number}`.
        tag: Prose<512>,
        /// The Dockerfile, from the context; `Dockerfile` if absent.
        dockerfile: Prose<512>,
        /// Directory of the context, from the top; absent: the top; empty: that of the Dockerfile.
        context: Prose<512>,
        /// Stage to build.
        target: Prose<512>,
        /// Platforms; absent: the worker's own.
        platforms: Vec<Prose<100>>,
        /// Changes that matter; after a `!` what does not.
        paths: Vec<Prose<512>>,
        /// Whether it builds by itself; it does if absent.
        autobuild: bool,
        /// Whether steps of earlier builds are used again; they are if absent.
        caching: bool,
        /// Whether a change of a base image builds a branch again; it does if absent.
        rebuild: bool,
        /// Whether pull requests from other repositories are built too, without secrets.
        forks: bool,
        /// Days after which the tags go again; absent: never, of pull requests after 14.
        expires_days: Within<1, MOST_DAYS>,
    }
}

input! {
    /// A variable's value.
    NewBuildVariable {
        /// The value.
        value: Prose<32768>,
    } maybe {
        /// Whether it is hidden: in logs, here, and from pull requests of others.
        is_secret: bool,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    const ON: Who = Who::Repository(Action::ChangeAccess);
    const GONE: StatusCode = StatusCode::NO_CONTENT;
    const MADE: StatusCode = StatusCode::CREATED;
    vec![
        endpoint(
            (M::GET, "/repositories/{repository}/source", ON),
            ("getSource", "The git repository that is built, its rules and variables"),
            async |call: Call, _: Nothing, _: Nothing| {
                source(&call.site, &call.repository()?).await
            },
        ),
        endpoint(
            (M::POST, "/repositories/{repository}/source", ON),
            ("createSource", "Connect a git repository; tells what its webhook needs"),
            create_source,
        )
        .with(MADE),
        endpoint(
            (M::PATCH, "/repositories/{repository}/source", ON),
            ("setSource", "Change the connection; rules and the webhook stay"),
            set_source,
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/repositories/{repository}/source", ON),
            ("deleteSource", "End the connection, with its rules and variables"),
            delete_source,
        )
        .with(GONE),
        endpoint(
            (M::GET, "/repositories/{repository}/source/hook", ON),
            ("getSourceHook", "Path and secret of the git host's webhook"),
            async |call: Call, _: Nothing, _: Nothing| {
                source_hook(&call.site, &call.repository()?).await
            },
        ),
        endpoint(
            (M::POST, "/repositories/{repository}/source/rules", ON),
            ("createBuildRule", "Add a rule: what is built, and how it is tagged"),
            create_rule,
        )
        .with(MADE),
        endpoint(
            (M::DELETE, "/repositories/{repository}/source/rules/{id}", ON),
            ("deleteBuildRule", "Remove a rule"),
            delete_rule,
        )
        .with(GONE),
        endpoint(
            (M::PUT, "/repositories/{repository}/source/variables/{variable}", ON),
            ("setBuildVariable", "Set a variable of hooks and builds"),
            async |call: Call, _: Nothing, new: NewBuildVariable| {
                let is_secret = new.is_secret.unwrap_or_default();
                set_variable(call, Some((Secret::new(new.value.0), is_secret))).await
            },
        )
        .with(GONE),
        endpoint(
            (M::DELETE, "/repositories/{repository}/source/variables/{variable}", ON),
            ("deleteBuildVariable", "Remove a variable"),
            async |call: Call, _: Nothing, _: Nothing| set_variable(call, None).await,
        )
        .with(GONE),
    ]
}

/// The source of a repository, without secrets.
pub(crate) async fn source(site: &Site, name: &RepositoryName) -> Result<Source, Problem> {
    let SourceRow { path, url, has_credential, settings, poll_ms, error, rules, variables } =
        source_of(&site.registry.database, name.as_str()).await?;
    let variable = |(name, value): (String, Option<String>)| BuildVariable {
        name,
        is_secret: value.is_none(),
        value,
    };
    Ok(Source {
        repository: path,
        url,
        has_credential,
        test: settings.test.text().to_owned(),
        pulls: settings.pulls,
        rules: rules.into_iter().map(BuildRule::of).collect(),
        variables: variables.into_iter().map(variable).collect(),
        poll_minutes: poll_ms.and_then(|ms| u64::try_from(ms / 60_000).ok()),
        error,
    })
}

impl BuildRule {
    fn of((id, rule): (i64, Rule)) -> Self {
        Self {
            id,
            kind: rule.kind.into(),
            source: rule.source.to_string(),
            tag: rule.tag,
            dockerfile: rule.dockerfile,
            autobuild: rule.autobuild,
            caching: rule.caching,
            rebuild: rule.rebuild,
            forks: rule.forks,
            paths: rule.paths.iter().map(ToString::to_string).collect(),
            platforms: rule.platforms,
            context: rule.context,
            target: rule.target,
            expires_days: rule.expires_days,
        }
    }
}

/// What the git host's webhook needs to know.
pub(crate) async fn source_hook(site: &Site, name: &RepositoryName) -> Result<SourceHook, Problem> {
    let hook = hook_of(&site.registry.database, name.as_str()).await?;
    Ok(SourceHook { hook_path: hook.path, hook_secret: hook.secret })
}

async fn create_source(call: Call, _: Nothing, new: NewSource) -> Result<SourceHook, Problem> {
    let path = call.repository()?;
    let test = Autotest::of(new.test.as_ref().map_or("", |test| &test.0));
    let settings = SourceSettings { test, pulls: pulls(&call, new.pulls, &[]).await? };
    let credential = credential(new.token, new.ssh_key);
    let every = new.poll_minutes.map(|minutes| Duration::from_secs(60 * minutes.0));
    let source = AddSource::new(call.actor(), path, new.url.0.trim(), credential, settings)?;
    let source = source.polled(every);
    let hook = source.hook();
    call.site.registry.database.write(source).await?;
    Ok(SourceHook { hook_path: hook.path, hook_secret: hook.secret })
}

/// Patterns of what builds may pull: to change them from these takes an owner.
async fn pulls(
    call: &Call,
    given: Option<Vec<Text<RepositoryGlob>>>,
    known: &[String],
) -> Result<Vec<String>, Problem> {
    let given = given.unwrap_or_default().into_iter();
    let pulls: Vec<String> = given.map(|glob| glob.0.to_string()).collect();
    if pulls.len() > MOST_PULLS {
        return Err(Problem::conflict(format!("builds pull by at most {MOST_PULLS} patterns")));
    }
    if pulls != known {
        // Who administers one repository has no right on the others of its owner.
        let path = call.repository()?;
        let owner = path.namespace().unwrap_or_default();
        call.site.admit(&call.caller, Need::ManageAccount(owner)).await?;
    }
    Ok(pulls)
}

fn credential(
    token: Option<SecretText<4096>>,
    key: Option<SecretText<16384>>,
) -> Option<Credential> {
    // Browsers send a text's lines with CR LF, which no key has.
    let key = key.map(|key| {
        let text = key.0.expose().replace("\r\n", "\n");
        Credential::Key(Secret::new(format!("{}\n", text.trim_end())))
    });
    key.or_else(|| token.map(|token| Credential::Token(token.0)))
}

async fn set_source(call: Call, _: Nothing, new: SetSource) -> Result<Nothing, Problem> {
    let path = call.repository()?;
    let pulls = if new.pulls.is_some() {
        let known = source_of(&call.site.registry.database, path.as_str()).await?.settings.pulls;
        Some(pulls(&call, new.pulls, &known).await?)
    } else {
        None
    };
    let minutes = |minutes: Within<0, MOST_MINUTES>| Duration::from_secs(60 * minutes.0);
    let change = SourceChange {
        url: new.url.map(|url| url.0),
        credential: match credential(new.token, new.ssh_key) {
            Some(credential) => NewCredential::Is(credential),
            None if new.no_credential == Some(true) => NewCredential::None,
            None => NewCredential::Stays,
        },
        poll: new.poll_minutes.map(|it| Some(minutes(it)).filter(|time| !time.is_zero())),
        test: new.test.map(|test| Autotest::of(&test.0)),
        pulls,
    };
    let change = ChangeSource::new(call.actor(), path, change)?;
    call.site.registry.database.write(change).await?;
    Ok(Nothing {})
}

async fn delete_source(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let remove = RemoveSource { by: call.actor(), path: call.repository()? };
    call.site.registry.database.write(remove).await?;
    Ok(Nothing {})
}

async fn create_rule(call: Call, _: Nothing, new: NewBuildRule) -> Result<BuildRule, Problem> {
    let (by, path) = (call.actor(), call.repository()?);
    let rule = rule(new).map_err(AutobuildError::from)?;
    let add = AddRule { by, path, rule: rule.clone() };
    let id = call.site.registry.database.write(add).await?;
    Ok(BuildRule::of((id, rule)))
}

fn rule(new: NewBuildRule) -> Result<Rule, RuleError> {
    let text = |prose: Option<Prose<512>>| prose.map(|prose| prose.0);
    let usual = Rule::usual(new.kind.into(), &new.source.0, text(new.tag).as_deref())?;
    let paths = new.paths.unwrap_or_default();
    let expires = new.expires_days.and_then(|days| u32::try_from(days.0).ok());
    Ok(Rule {
        dockerfile: text(new.dockerfile).unwrap_or(usual.dockerfile),
        context: text(new.context).or(usual.context).filter(|context| !context.is_empty()),
        target: text(new.target),
        platforms: new.platforms.unwrap_or_default().into_iter().map(|it| it.0).collect(),
        paths: paths.iter().map(|path| path.0.parse()).collect::<Result<_, _>>()?,
        autobuild: new.autobuild.unwrap_or(true),
        caching: new.caching.unwrap_or(true),
        rebuild: usual.rebuild && new.rebuild.unwrap_or(true),
        forks: new.forks.unwrap_or_default(),
        expires_days: expires.or(usual.expires_days),
        ..usual
    })
}

async fn delete_rule(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let remove = RemoveRule { by: call.actor(), path: call.repository()?, id: call.number()? };
    call.site.registry.database.write(remove).await?;
    Ok(Nothing {})
}

async fn set_variable(call: Call, value: Option<(Secret, bool)>) -> Result<Nothing, Problem> {
    let (by, path) = (call.actor(), call.repository()?);
    let name = call.named::<VariableName>("variable")?.0;
    call.site.registry.database.write(SetVariable { by, path, name, value }).await?;
    Ok(Nothing {})
}
