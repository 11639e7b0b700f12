//! The queue of automated builds, on both databases.

use std::time::Duration;

use davit_registry::{
    auth::{
        OpaqueKind, OpaqueToken, PasswordHash, Secret,
        accounts::{AddAccount, Kind, tokens},
        audit::Actor,
    },
    autobuild::{
        AutobuildError,
        claim::{Claim, Claimed, Finish, Outcome, Progress, Report, Standing},
        queue::{Announce, Announced, CancelBuild, Cause, RetryBuild, RunBuild, WAITING},
        records::{BuildRow, build, builds, log},
        rules::{RefKind, Revision, Rule},
        source::{AddRule, AddSource, RemoveSource, SetVariable, SourceSettings, sources},
    },
    db::{Database, Location},
};
use davit_test::{Postgres, TempDir};

const LEASE: Duration = Duration::from_secs(30);
const PATH: &str = "alice/app";

/// A registry with one source that builds `main`.
struct Site {
    database: Database,
    rule: i64,
}

impl Site {
    async fn new(location: &Location) -> Self {
        let database = Database::open(location).await.unwrap();
        let add = AddAccount {
            by: Actor::operator(),
            name: "alice".to_owned(),
            kind: Kind::User,
            password: Some(PasswordHash::new(&Secret::new("wonderland")).unwrap()),
            is_admin: false,
        };
        database.write(add).await.unwrap();
        let mut site = Self { database, rule: 0 };
        site.source().await;
        site.rule = site.rule(PATH, Rule::new(RefKind::Branch, "main", "latest").unwrap()).await;
        site
    }

    async fn source(&self) {
        let settings =
            SourceSettings { pulls: vec!["alice/base".to_owned()], ..SourceSettings::default() };
        let (by, url) = (Actor::operator(), "https://me:git-token@git.example/app");
        let path = PATH.parse().unwrap();
        let source = AddSource::new(by.clone(), path, url, None, settings).unwrap();
        let hook = source.hook();
        assert!(hook.path.expose().starts_with("/hooks/") && hook.secret.expose().len() == 48);
        self.database.write(source.clone()).await.unwrap();
        let again = self.database.write(source).await;
        assert!(matches!(again, Err(AutobuildError::Exists(_))), "{again:?}");
    }

    async fn rule(&self, path: &str, rule: Rule) -> i64 {
        let (by, path) = (Actor::operator(), path.parse().unwrap());
        self.database.write(AddRule { by, path, rule }).await.unwrap()
    }

    async fn announce(&self, revision: Revision) -> Announced {
        let (revisions, actor) = (vec![revision], "ann".to_owned());
        let announce = Announce { source: 1, revisions, cause: Cause::Push, actor };
        self.database.write(announce).await.unwrap()
    }

    async fn claim(&self, worker: &str, per_account: u64) -> Option<Claimed> {
        let claim = Claim {
            worker: worker.to_owned(),
            lease: LEASE,
            per_account,
            token: OpaqueToken::new(OpaqueKind::Robot),
            token_life: Duration::from_secs(3600),
        };
        self.database.write(claim).await.unwrap()
    }

    async fn progress(&self, claimed: &Claimed, position: i64, content: &[u8]) -> Standing {
        let (hold, content) = (claimed.hold.clone(), content.to_vec());
        let progress = Progress { hold, position, content, lease: LEASE };
        self.database.write(progress).await.unwrap()
    }

    async fn finish(&self, claimed: &Claimed, outcome: Outcome) -> bool {
        let report = Report { commit: Some(commit('a')), ..Report::default() };
        let (hold, own) = (claimed.hold.clone(), "registry.example/".to_owned());
        self.database.write(Finish { hold, outcome, report, own }).await.unwrap()
    }

    async fn state(&self, id: i64) -> String {
        build(&self.database, id).await.unwrap().state
    }

    async fn tokens(&self) -> usize {
        tokens(&self.database, "alice+builds").await.unwrap().len()
    }
}

fn commit(digit: char) -> String {
    digit.to_string().repeat(40)
}

fn push(branch: &str, digit: char) -> Revision {
    Revision {
        kind: RefKind::Branch,
        name: branch.to_owned(),
        reference: format!("refs/heads/{branch}"),
        commit: Some(commit(digit)),
        number: None,
        is_fork: false,
    }
}

/// Runs a test on each database.
fn on_both(test: impl AsyncFn(Site)) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let dir = TempDir::new();
    let location = Location::Sqlite(dir.join("registry.db"));
    runtime.block_on(async { test(Site::new(&location).await).await });
    if let Some(postgres) = Postgres::start() {
        let location = Location::Postgres(postgres.url().into());
        runtime.block_on(async {
            let site = Site::new(&location).await;
            let database = site.database.clone();
            test(site).await;
            database.close().await;
        });
    }
}

#[test]
fn what_is_told_twice_is_built_once() {
    on_both(async |site| {
        let first = site.announce(push("main", 'a')).await;
        assert_eq!(first.queued.len(), 1);
        assert_eq!(site.announce(push("main", 'a')).await, Announced::default());
        assert_eq!(site.announce(push("other", 'a')).await, Announced::default());
        // A newer push takes the place of what waits, not of what runs.
        let second = site.announce(push("main", 'b')).await;
        assert_eq!(site.state(first.queued[0]).await, "cancelled");
        let running = site.claim("w", 9).await.unwrap();
        assert_eq!((running.hold.build, running.commit), (second.queued[0], Some(commit('b'))));
        let third = site.announce(push("main", 'c')).await;
        assert_eq!(site.state(second.queued[0]).await, "running");
        assert_eq!(site.state(third.queued[0]).await, "waiting");
        // What failed is built when it is told again.
        let third_run = site.claim("w", 9).await.unwrap();
        assert!(site.finish(&third_run, Outcome::Failed).await);
        assert_eq!(site.announce(push("main", 'a')).await.queued.len(), 1, "reported as a's");
    });
}

#[test]
fn a_lost_worker_changes_nothing_and_its_token_ends() {
    on_both(async |site| {
        let queued = site.announce(push("main", 'a')).await.queued;
        let first = site.claim("one", 9).await.unwrap();
        assert_eq!(first.login.0, "alice+builds");
        assert_eq!(first.url, "https://git.example/app");
        assert!(first.credential.is_some());
        let held = tokens(&site.database, "alice+builds").await.unwrap();
        assert_eq!(held.len(), 1);
        assert!(held[0].scopes.contains("repository:alice/app:pull,push"), "{}", held[0].scopes);
        assert!(held[0].scopes.contains("repository:alice/base:pull"), "{}", held[0].scopes);
        assert!(site.claim("two", 9).await.is_none(), "it is held");
        assert_eq!(site.progress(&first, 0, b"one ").await, Standing::Go);
        site.database.advance_clock(LEASE + Duration::from_secs(1));
        let second = site.claim("two", 9).await.unwrap();
        assert_eq!((second.hold.build, second.hold.attempt), (queued[0], 2));
        assert_eq!(second.log_bytes, 4);
        let now = tokens(&site.database, "alice+builds").await.unwrap();
        assert!(now.len() == 1 && now[0].id != held[0].id, "the first token is revoked");
        assert_eq!(site.progress(&first, 4, b"lost").await, Standing::Lost);
        assert!(!site.finish(&first, Outcome::Done).await);
        assert_eq!(site.progress(&second, 4, b"two").await, Standing::Go);
        assert_eq!(log(&site.database, queued[0], 0).await.unwrap(), b"one two");
        assert_eq!(log(&site.database, queued[0], 5).await.unwrap(), b"wo");
        assert_eq!(log(&site.database, queued[0], 7).await.unwrap(), b"");
        assert!(site.finish(&second, Outcome::Done).await);
        assert_eq!((site.state(queued[0]).await.as_str(), site.tokens().await), ("done", 0));
        assert_eq!(builds(&site.database, Some(PATH), None, 9).await.unwrap().len(), 1);
    });
}

#[test]
fn what_loses_each_worker_fails() {
    on_both(async |site| {
        let queued = site.announce(push("main", 'a')).await.queued;
        for attempt in 1..=3 {
            let claimed = site.claim("w", 9).await.unwrap();
            assert_eq!(claimed.hold.attempt, attempt);
            site.database.advance_clock(LEASE + Duration::from_secs(1));
        }
        assert!(site.claim("w", 9).await.is_none());
        let row: BuildRow = build(&site.database, queued[0]).await.unwrap();
        assert_eq!((&*row.state, site.tokens().await), ("failed", 0));
        // Given back is not lost.
        let again = site.database.write(RetryBuild { by: Actor::operator(), id: queued[0] });
        let again = again.await.unwrap();
        for _ in 0..5 {
            let claimed = site.claim("w", 9).await.unwrap();
            assert_eq!((claimed.hold.build, claimed.hold.attempt), (again, 1));
            assert_eq!(claimed.commit, Some(commit('a')), "the same commit");
            assert!(site.finish(&claimed, Outcome::Released).await);
            assert_eq!(site.state(again).await, "waiting");
        }
    });
}

#[test]
fn owners_have_their_share() {
    on_both(async |site| {
        site.rule(PATH, Rule::new(RefKind::Branch, "/^b[0-9]+$/", "{sourceref}").unwrap()).await;
        for n in 0..WAITING + 3 {
            let announced = site.announce(push(&format!("b{n}"), 'a')).await;
            assert_eq!(announced.discarded, u64::from(n >= WAITING), "{n}");
        }
        // Many workers ask at the same time; two builds of the owner may run.
        let workers: Vec<String> = (0..8).map(|n| format!("w{n}")).collect();
        let claims = workers.iter().map(|worker| site.claim(worker, 2));
        let claimed: Vec<Claimed> =
            futures_util::future::join_all(claims).await.into_iter().flatten().collect();
        assert_eq!(claimed.len(), 2);
        assert_ne!(claimed[0].hold.build, claimed[1].hold.build);
        assert!(site.claim("late", 2).await.is_none());
        assert!(site.finish(&claimed[0], Outcome::Done).await);
        assert!(site.claim("late", 2).await.is_some());
    });
}

#[test]
fn builds_are_asked_for_and_ended() {
    on_both(async |site| {
        let run = |branch: &str, rule| RunBuild {
            by: Actor::operator(),
            path: PATH.to_owned(),
            revision: Revision { commit: None, ..push(branch, 'a') },
            rule,
        };
        let none = site.database.write(run("other", None)).await;
        assert!(matches!(none, Err(AutobuildError::NoRule(..))), "{none:?}");
        assert!(site.database.write(run("main", Some(999))).await.is_err());
        let asked = site.database.write(run("main", Some(site.rule))).await.unwrap();
        let cancel = |id| site.database.write(CancelBuild { by: Actor::operator(), id });
        cancel(asked[0]).await.unwrap();
        assert_eq!(site.state(asked[0]).await, "cancelled");
        let ended = cancel(asked[0]).await;
        assert!(matches!(ended, Err(AutobuildError::Ended(..))), "{ended:?}");
        let asked = site.database.write(run("main", None)).await.unwrap();
        let claimed = site.claim("w", 9).await.unwrap();
        assert_eq!(site.progress(&claimed, 0, b"").await, Standing::Go);
        cancel(asked[0]).await.unwrap();
        assert_eq!(site.state(asked[0]).await, "running", "its worker ends it");
        assert_eq!(site.progress(&claimed, 0, b"").await, Standing::Cancelled);
        assert!(site.finish(&claimed, Outcome::Cancelled).await);
        assert_eq!(site.state(asked[0]).await, "cancelled");
        let error = build(&site.database, asked[0]).await.unwrap().error;
        assert_eq!(error.as_deref(), Some("cancelled by operator"));
    });
}

#[test]
fn strangers_get_no_secrets_and_lists_show_none() {
    on_both(async |site| {
        let set = |name: &str, value: &str, is_secret| SetVariable {
            by: Actor::operator(),
            path: PATH.parse().unwrap(),
            name: name.to_owned(),
            value: Some((Secret::new(value), is_secret)),
        };
        site.database.write(set("PLAIN", "x", false)).await.unwrap();
        site.database.write(set("TOKEN", "hunter22", true)).await.unwrap();
        site.database.write(set("short", "abc", true)).await.unwrap_err();
        site.database.write(set("A-B", "x", false)).await.unwrap_err();
        let listed = sources(&site.database, "alice/").await.unwrap();
        let shown = format!("{listed:?}");
        assert!(shown.contains("PLAIN") && shown.contains("TOKEN"), "{shown}");
        assert!(!shown.contains("hunter22") && !shown.contains("git-token"), "{shown}");
        let mut rule = Rule::new(RefKind::Pull, "/.*/", "pr-{number}").unwrap();
        rule.forks = true;
        site.rule(PATH, rule).await;
        let pull = |is_fork, digit| Revision {
            kind: RefKind::Pull,
            reference: "refs/pull/7/head".to_owned(),
            number: Some(7),
            is_fork,
            ..push("fix", digit)
        };
        for (is_fork, digit, count) in [(false, 'a', 2), (true, 'b', 1)] {
            assert_eq!(site.announce(pull(is_fork, digit)).await.queued.len(), 1);
            let claimed = site.claim("w", 9).await.unwrap();
            assert_eq!(claimed.variables.len(), count, "fork: {is_fork}");
            assert_eq!(claimed.plan.tags, ["pr-7"]);
            assert!(site.finish(&claimed, Outcome::Done).await);
        }
        site.announce(push("main", 'c')).await;
        let remove = RemoveSource { by: Actor::operator(), path: PATH.parse().unwrap() };
        site.database.write(remove).await.unwrap();
        assert!(site.claim("w", 9).await.is_none(), "what waits ends with its source");
        let all = builds(&site.database, Some(PATH), None, 9).await.unwrap();
        assert_eq!(all.len(), 3, "what was built is remembered");
    });
}
