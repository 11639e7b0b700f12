//! The one policy gate, as a pure function.
//!
//! | what the caller may do                           | answer                      |
//! |--------------------------------------------------|-----------------------------|
//! | rights, credential's limit: both allow it        | [`Decision::Allow`]         |
//! | the account may, this credential may not         | [`Decision::Challenge`]     |
//! | nobody in particular                             | [`Decision::Challenge`]     |
//! | may read the repository                          | [`Decision::Denied`]        |
//! | may not even read it, and reads                  | [`Decision::Absent`]        |
//! | may not even read it, and writes                 | [`Decision::Denied`]        |

use std::sync::Arc;

use davit_distribution::wire::Scope;

use super::{Action, RepositoryGlob, Rights};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody in particular.
    Anonymous,
    /// A user or robot.
    Account {
        /// Row of the account.
        id: i64,
        /// Its name.
        name: String,
    },
    /// Everyone, on a server without authentication.
    Everyone,
}

/// What an account holds, as the database has it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether every repository is its own.
    pub is_site_admin: bool,
    /// Accounts whose namespace is its own: its name, and organisations that it owns.
    pub namespaces: Vec<String>,
    /// Organisations in which it is, as a member or owner.
    pub organisations: Vec<String>,
    /// What was granted to it and to its teams.
    pub grants: Vec<(RepositoryGlob, Rights)>,
}

/// To what a credential is limited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// Repositories, and what may be done with them.
    pub repositories: Vec<(RepositoryGlob, Rights)>,
    /// Whether repositories may be listed.
    pub catalog: bool,
}

/// Who asks, and what the credential in hand allows of what the account may do.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who asks.
    pub identity: Identity,
    /// What the account holds.
    pub standing: Arc<Standing>,
    /// What the credential is cut to; `None`: to nothing less than the account's own rights.
    pub limit: Option<Arc<Limit>>,
    /// What the bearer token is cut to that the credential bought: another may be bought for more.
    pub token: Option<Arc<Limit>>,
    /// Whether a credential was shown at all; a token for nobody is one.
    pub has_credential: bool,
}

/// What an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need<'a> {
    /// Nothing: what everyone may do, or what the use case itself cuts to the caller's rights.
    Nothing,
    /// Any valid credential, also one for nobody (`/v2/`).
    Credential,
    /// To list those repositories that the caller may read.
    Catalog,
    /// To do this with the repository of this path.
    Repository(Action, &'a str),
    /// To act as a person, by a credential that is limited to nothing.
    User,
    /// To see what belongs to the account of this name, as its members do.
    SeeAccount(&'a str),
    /// To change what belongs to the account of this name.
    ManageAccount(&'a str),
    /// To manage the server.
    SiteAdmin,
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on.
    Allow,
    /// 401 with a challenge: another credential may do.
    Challenge,
    /// 403.
    Denied,
    /// 404, as for a name that is not there.
    Absent,
}

impl Caller {
    /// Nobody in particular, without a credential.
    #[must_use]
    pub fn anonymous() -> Self {
        Self {
            identity: Identity::Anonymous,
            standing: Arc::default(),
            limit: None,
            token: None,
            has_credential: false,
        }
    }

    /// Whoever asks a server that has no authentication: may do everything.
    #[must_use]
    pub fn everyone() -> Self {
        Self { identity: Identity::Everyone, has_credential: true, ..Self::anonymous() }
    }

    /// Row of the account; `None` where there is none.
    #[must_use]
    pub const fn account(&self) -> Option<i64> {
        match &self.identity {
            Identity::Account { id, .. } => Some(*id),
            Identity::Anonymous | Identity::Everyone => None,
        }
    }

    /// What the caller may do with the repository of this path, whether or not it exists.
    #[must_use]
    pub fn rights(&self, path: &str, is_public: bool) -> Rights {
        self.held(path, is_public).and(self.limit_on(path))
    }

    /// Tells whether another token of the same credential would allow what this one does not.
    #[must_use]
    pub fn may_ask_for(&self, action: Action, path: &str, is_public: bool) -> bool {
        let credential = Self { token: None, ..self.clone() };
        self.token.is_some() && credential.rights(path, is_public).allows(action)
    }

    /// Tells whether a list may name the repository: by the account, since a token for the catalog
    /// names no repositories.
    #[must_use]
    pub fn may_see(&self, path: &str, is_public: bool) -> bool {
        self.held(path, is_public).allows(Action::Pull)
    }

    /// What the account may do, whatever the credential.
    fn held(&self, path: &str, is_public: bool) -> Rights {
        if self.identity == Identity::Everyone {
            return Rights::ALL;
        }
        let public = if is_public { Rights::of(&[Action::Pull]) } else { Rights::NONE };
        self.standing.rights(path).or(public)
    }

    fn limit_on(&self, path: &str) -> Rights {
        self.limits().fold(Rights::ALL, |rights, limit| rights.and(limit.rights(path)))
    }

    /// Whether the credential in hand allows less than its account may do.
    pub(crate) fn is_limited(&self) -> bool {
        self.limits().next().is_some()
    }

    fn limits(&self) -> impl Iterator<Item = &Limit> {
        self.limit.iter().chain(&self.token).map(|limit| &**limit)
    }
}

impl Standing {
    /// What is held on the repository of this path.
    #[must_use]
    pub fn rights(&self, path: &str) -> Rights {
        let owner = path.split_once('/').map(|(first, _)| first);
        let owns = owner.is_some_and(|owner| self.namespaces.iter().any(|own| own == owner));
        if self.is_site_admin || owns { Rights::ALL } else { rights_in(&self.grants, path) }
    }
}

impl Limit {
    /// Reads scopes; the names of repositories may be patterns. Others than repositories and the
    /// catalog allow nothing.
    #[must_use]
    pub fn of(scopes: &[Scope]) -> Self {
        let mut limit = Self::default();
        for scope in scopes {
            // A class in parentheses says nothing here: `repository(plugin)` is `repository`.
            let kind = scope.kind().split_once('(').map_or(scope.kind(), |(kind, _)| kind);
            match (kind, scope.name()) {
                ("repository", name) => {
                    let rights = Rights::of_words(scope.actions().iter().map(String::as_str));
                    if let Ok(glob) = name.parse() {
                        limit.repositories.push((glob, rights));
                    }
                }
                ("registry", "catalog") => limit.catalog |= scope.actions().contains("*"),
                _ => {}
            }
        }
        limit
    }

    /// What it leaves of the rights on a repository.
    #[must_use]
    pub fn rights(&self, path: &str) -> Rights {
        rights_in(&self.repositories, path)
    }
}

fn rights_in(list: &[(RepositoryGlob, Rights)], path: &str) -> Rights {
    let matching = list.iter().filter(|(glob, _)| glob.matches(path));
    matching.fold(Rights::NONE, |all, (_, rights)| all.or(*rights))
}

/// Decides. `is_public` is false for a repository that does not exist: that nothing else of the
/// repository is known here is what keeps private names and absent ones alike.
#[must_use]
pub fn decide(caller: &Caller, need: Need<'_>, is_public: bool) -> Decision {
    match need {
        Need::Nothing => Decision::Allow,
        Need::Credential if caller.has_credential => Decision::Allow,
        Need::Credential => Decision::Challenge,
        Need::Catalog => decide_catalog(caller),
        Need::SiteAdmin => decide_site(caller),
        Need::User => decide_user(caller),
        Need::SeeAccount(name) => decide_account(caller, name, Sight::Members),
        Need::ManageAccount(name) => decide_account(caller, name, Sight::Owners),
        Need::Repository(action, path) => decide_repository(caller, action, path, is_public),
    }
}

fn decide_catalog(caller: &Caller) -> Decision {
    let is_listed = caller.limits().all(|limit| limit.catalog);
    if caller.has_credential && is_listed { Decision::Allow } else { Decision::Challenge }
}

fn decide_site(caller: &Caller) -> Decision {
    let may = caller.standing.is_site_admin || caller.identity == Identity::Everyone;
    match (&caller.identity, caller.is_limited()) {
        (Identity::Anonymous, _) => Decision::Challenge,
        // A token that is limited to repositories manages none of the rest.
        (_, false) if may => Decision::Allow,
        (_, true) if may => Decision::Challenge,
        _ => Decision::Denied,
    }
}

fn decide_user(caller: &Caller) -> Decision {
    match &caller.identity {
        Identity::Everyone => Decision::Allow,
        Identity::Anonymous => Decision::Challenge,
        Identity::Account { .. } if caller.is_limited() => Decision::Challenge,
        // Only people have a namespace of their own.
        Identity::Account { .. } if caller.standing.namespaces.is_empty() => Decision::Denied,
        Identity::Account { .. } => Decision::Allow,
    }
}

/// Whom an account's things are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Members,
    Owners,
}

/// An account that the caller has nothing to do with is as one that does not exist.
fn decide_account(caller: &Caller, name: &str, sight: Sight) -> Decision {
    let standing = &caller.standing;
    let owns = standing.is_site_admin || standing.namespaces.iter().any(|own| own == name);
    let is_in = standing.organisations.iter().any(|own| own == name);
    match &caller.identity {
        Identity::Everyone => Decision::Allow,
        Identity::Anonymous => Decision::Challenge,
        _ if !owns && !is_in => Decision::Absent,
        _ if caller.is_limited() => Decision::Challenge,
        _ if owns || sight == Sight::Members => Decision::Allow,
        _ => Decision::Denied,
    }
}

fn decide_repository(caller: &Caller, action: Action, path: &str, is_public: bool) -> Decision {
    let held = caller.held(path, is_public);
    let is_within_limit = caller.limit_on(path).allows(action);
    match (held.allows(action), is_within_limit) {
        (true, true) => Decision::Allow,
        (true, false) => Decision::Challenge,
        _ if caller.identity == Identity::Anonymous => Decision::Challenge,
        _ if held.allows(Action::Pull) || action != Action::Pull => Decision::Denied,
        _ => Decision::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    fn account(standing: Standing, scopes: Option<&str>) -> Caller {
        let limit = scopes.map(|text| Arc::new(Limit::of(&Scope::parse_list(text).unwrap())));
        Caller {
            identity: Identity::Account { id: 1, name: "alice".to_owned() },
            standing: Arc::new(standing),
            limit,
            token: None,
            has_credential: true,
        }
    }

    fn granted(glob: &str, role: Role) -> Standing {
        Standing { grants: vec![(glob.parse().unwrap(), role.rights())], ..Standing::default() }
    }

    fn owner() -> Standing {
        Standing { namespaces: vec!["alice".to_owned()], ..Standing::default() }
    }

    fn nobody(has_credential: bool) -> Caller {
        Caller { has_credential, ..Caller::anonymous() }
    }

    /// Decisions on pull, push, delete-tag and change-access in a row.
    fn row(caller: &Caller, path: &str, is_public: bool) -> String {
        let actions = [Action::Pull, Action::Push, Action::DeleteTag, Action::ChangeAccess];
        let letter = |action| match decide(caller, Need::Repository(action, path), is_public) {
            Decision::Allow => '+',
            Decision::Challenge => '?',
            Decision::Denied => '-',
            Decision::Absent => '0',
        };
        actions.into_iter().map(letter).collect()
    }

    #[test]
    fn decisions_follow_the_table() {
        let web = "alice/web";
        let site = Standing { is_site_admin: true, ..Standing::default() };
        let cases: [(&str, Caller, &str, &str); 16] = [
            // who, private (or absent), public
            ("everyone", Caller::everyone(), "++++", "++++"),
            ("no one", nobody(false), "????", "+???"),
            ("token for no one", nobody(true), "????", "+???"),
            ("owner", account(owner(), None), "++++", "++++"),
            ("stranger", account(Standing::default(), None), "0---", "+---"),
            ("site admin", account(site.clone(), None), "++++", "++++"),
            ("puller", account(granted("alice/*", Role::Pull), None), "+---", "+---"),
            ("pusher", account(granted("alice/w*", Role::Push), None), "++--", "++--"),
            ("maintainer", account(granted(web, Role::Maintain), None), "+++-", "+++-"),
            ("admin", account(granted("alice/**", Role::Admin), None), "++++", "++++"),
            ("of another", account(granted("alice/db", Role::Admin), None), "0---", "+---"),
            (
                "owner's token for pulls",
                account(owner(), Some("repository:alice/web:pull")),
                "+???",
                "+???",
            ),
            (
                "owner's token for another",
                account(owner(), Some("repository:alice/db:*")),
                "????",
                "????",
            ),
            (
                "stranger's token that says too much",
                account(Standing::default(), Some("repository:alice/web:*")),
                "0---",
                "+---",
            ),
            (
                "owner's token for plug-ins and all",
                account(owner(), Some("repository(plugin):alice/*:*")),
                "++++",
                "++++",
            ),
            ("site admin's token", account(site, Some("registry:catalog:*")), "????", "????"),
        ];
        for (who, caller, private, public) in cases {
            assert_eq!(row(&caller, web, false), private, "{who}, private");
            assert_eq!(row(&caller, web, true), public, "{who}, public");
        }
    }

    #[test]
    fn a_namespace_is_the_first_component() {
        let caller = account(owner(), None);
        assert_eq!(row(&caller, "alice/a/b", false), "++++");
        for other in ["alice", "alicex/a", "bob/alice/a", "library/a", "a"] {
            assert_eq!(row(&caller, other, false), "0---", "{other}");
        }
    }

    #[test]
    fn effects_are_told_apart() {
        let adds = Standing {
            grants: vec![("alice/web".parse().unwrap(), Role::Push.rights().adding_only())],
            ..Standing::default()
        };
        let limited = account(owner(), Some("repository:alice/web:pull,create"));
        for (caller, moves) in
            [(account(adds, None), Decision::Denied), (limited, Decision::Challenge)]
        {
            let on = |action| decide(&caller, Need::Repository(action, "alice/web"), false);
            assert_eq!(on(Action::CreateTag), Decision::Allow);
            assert_eq!(on(Action::MoveTag), moves);
        }
    }

    #[test]
    fn the_rest_needs_credentials() {
        let site = Standing { is_site_admin: true, ..Standing::default() };
        let of = |caller: &Caller| {
            [Need::Credential, Need::Catalog, Need::SiteAdmin]
                .map(|need| decide(caller, need, false))
        };
        use Decision::{Allow, Challenge, Denied};
        assert_eq!(of(&Caller::everyone()), [Allow, Allow, Allow]);
        assert_eq!(of(&nobody(false)), [Challenge, Challenge, Challenge]);
        assert_eq!(of(&nobody(true)), [Allow, Allow, Challenge]);
        assert_eq!(of(&account(owner(), None)), [Allow, Allow, Denied]);
        assert_eq!(of(&account(site.clone(), None)), [Allow, Allow, Allow]);
        let limited = account(site, Some("repository:a/b:pull"));
        assert_eq!(of(&limited), [Allow, Challenge, Challenge]);
    }

    #[test]
    fn accounts_are_their_owners_and_hidden_from_strangers() {
        let standing = Standing {
            namespaces: vec!["alice".to_owned(), "acme".to_owned()],
            organisations: vec!["acme".to_owned(), "umbrella".to_owned()],
            ..Standing::default()
        };
        let site = Standing { is_site_admin: true, ..Standing::default() };
        let of = |caller: &Caller, name: &str| {
            [Need::SeeAccount(name), Need::ManageAccount(name)]
                .map(|need| decide(caller, need, false))
        };
        use Decision::{Absent, Allow, Challenge, Denied};
        let alice = account(standing.clone(), None);
        assert_eq!(of(&alice, "alice"), [Allow, Allow]);
        assert_eq!(of(&alice, "acme"), [Allow, Allow]);
        assert_eq!(of(&alice, "umbrella"), [Allow, Denied]);
        assert_eq!(of(&alice, "other"), [Absent, Absent]);
        assert_eq!(of(&account(site, None), "other"), [Allow, Allow]);
        assert_eq!(of(&nobody(true), "alice"), [Challenge, Challenge]);
        let limited = account(standing.clone(), Some("repository:alice/*:*"));
        assert_eq!(of(&limited, "alice"), [Challenge, Challenge]);
        assert_eq!(of(&limited, "other"), [Absent, Absent]);
        let user = |caller: &Caller| decide(caller, Need::User, false);
        let robot = account(Standing::default(), None);
        assert_eq!([user(&alice), user(&limited), user(&robot)], [Allow, Challenge, Denied]);
        assert_eq!(decide(&Caller::anonymous(), Need::Nothing, false), Allow);
    }

    #[test]
    fn tokens_of_nobody_are_cut_too() {
        let limit = Limit::of(&Scope::parse_list("repository:a/b:pull").unwrap());
        let caller = Caller { token: Some(Arc::new(limit)), ..nobody(true) };
        assert_eq!(row(&caller, "a/b", true), "+???");
        assert_eq!(row(&caller, "a/c", true), "????");
        assert!(caller.may_ask_for(Action::Pull, "a/c", true));
        assert!(!caller.may_ask_for(Action::Pull, "a/c", false));
    }

    /// Another token gives what the credential allows, and no more.
    #[test]
    fn a_token_is_cut_twice() {
        let limit = |text| Arc::new(Limit::of(&Scope::parse_list(text).unwrap()));
        let robot = account(owner(), Some("repository:alice/web:pull repository:alice/db:*"));
        assert!(!robot.may_ask_for(Action::Push, "alice/db", false), "there is no token to widen");
        let caller = Caller { token: Some(limit("repository:alice/web:*")), ..robot };
        assert_eq!(row(&caller, "alice/web", false), "+???");
        assert_eq!(row(&caller, "alice/db", false), "????");
        let may = |action, path| caller.may_ask_for(action, path, true);
        assert!(may(Action::Push, "alice/db"));
        assert!(!may(Action::Push, "alice/web"));
        assert!(!may(Action::Pull, "bob/web"), "the credential is for other repositories");
    }
}
