//! Every page: its path, who may see it, what it shows.

use crate::{
    api::{Names, Rule, match_path},
    auth::Action,
};

/// What a page shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Repositories that the caller may see.
    Home,
    /// The form to log in.
    Login,
    /// The form to sign up.
    SignUp,
    /// Where a provider sends a browser back.
    OidcCallback,
    /// The API's operations.
    ApiTable,
    /// An account's repositories.
    Account,
    /// Members and teams of an organisation.
    Members,
    /// Roles and robots of an account.
    Access,
    /// What an account holds.
    Usage,
    /// What the audit log has of an account.
    AccountAudit,
    /// Webhooks of an account.
    AccountWebhooks,
    /// One webhook and its deliveries.
    Webhook,
    /// A repository.
    Repository,
    /// Its tags.
    Tags,
    /// One tag and its history.
    Tag,
    /// One image.
    Image,
    /// Who may do what with a repository.
    RepositoryAccess,
    /// Settings of a repository.
    RepositorySettings,
    /// Webhooks that hear of a repository.
    RepositoryWebhooks,
    /// Builds of a repository.
    Builds,
    /// One build and its log.
    Build,
    /// Where the images of a repository come from.
    Source,
    /// Events of a repository.
    RepositoryLive,
    /// Events of its builds.
    BuildsLive,
    /// Events of one build, and its log.
    BuildLive,
    /// The caller's own account.
    Settings,
    /// The caller's own credentials.
    Tokens,
    /// The form for a repository.
    NewRepository,
    /// The form for an organisation.
    NewOrganisation,
    /// Health, storage, garbage collection.
    Admin,
    /// Users.
    Users,
    /// The whole audit log.
    Audit,
    /// Builds of all repositories.
    AdminBuilds,
    /// Who else vouches for people and builds.
    Identity,
    /// Webhooks of the server.
    ServerWebhooks,
    /// One of them and its deliveries.
    ServerWebhook,
    /// Registries that are mirrored.
    Mirrors,
    /// Rules of replication.
    Replication,
    /// Settings of the server.
    AdminSettings,
    /// Events of garbage collection.
    AdminLive,
}

/// Every page: path, rule, what it shows. A repository's name has one part or more.
pub const PAGES: &[(&str, Rule, Page)] = &[
    ("/", Rule::Open, Page::Home),
    ("/login", Rule::Open, Page::Login),
    ("/signup", Rule::Open, Page::SignUp),
    ("/oidc/{provider}/callback", Rule::Open, Page::OidcCallback),
    ("/about/api", Rule::Open, Page::ApiTable),
    // What is told is cut to the caller's rights: an account without anything to see is absent.
    ("/a/{account}", Rule::Open, Page::Account),
    ("/a/{account}/members", Rule::SeeAccount, Page::Members),
    ("/a/{account}/access", Rule::ManageAccount, Page::Access),
    ("/a/{account}/usage", Rule::SeeAccount, Page::Usage),
    ("/a/{account}/audit", Rule::ManageAccount, Page::AccountAudit),
    ("/a/{account}/webhooks", Rule::ManageAccount, Page::AccountWebhooks),
    ("/a/{account}/webhooks/{webhook}", Rule::ManageAccount, Page::Webhook),
    ("/r/{repository}", Rule::Repository(Action::Pull), Page::Repository),
    ("/r/{repository}/-/tags", Rule::Repository(Action::Pull), Page::Tags),
    ("/r/{repository}/-/tags/{tag}", Rule::Repository(Action::Pull), Page::Tag),
    ("/r/{repository}/-/images/{reference}", Rule::Repository(Action::Pull), Page::Image),
    ("/r/{repository}/-/access", Rule::Repository(Action::ChangeAccess), Page::RepositoryAccess),
    (
        "/r/{repository}/-/settings",
        Rule::Repository(Action::ChangeSettings),
        Page::RepositorySettings,
    ),
    (
        "/r/{repository}/-/webhooks",
        Rule::Repository(Action::ChangeAccess),
        Page::RepositoryWebhooks,
    ),
    ("/r/{repository}/-/builds", Rule::Repository(Action::Push), Page::Builds),
    ("/r/{repository}/-/builds/{id}", Rule::Repository(Action::Push), Page::Build),
    ("/r/{repository}/-/source", Rule::Repository(Action::ChangeAccess), Page::Source),
    ("/r/{repository}/-/live", Rule::Repository(Action::Pull), Page::RepositoryLive),
    ("/r/{repository}/-/live/builds", Rule::Repository(Action::Push), Page::BuildsLive),
    ("/r/{repository}/-/live/builds/{id}", Rule::Repository(Action::Push), Page::BuildLive),
    ("/settings", Rule::User, Page::Settings),
    ("/settings/tokens", Rule::User, Page::Tokens),
    ("/new/repository", Rule::User, Page::NewRepository),
    ("/new/organisation", Rule::User, Page::NewOrganisation),
    ("/admin", Rule::SiteAdmin, Page::Admin),
    ("/admin/users", Rule::SiteAdmin, Page::Users),
    ("/admin/audit", Rule::SiteAdmin, Page::Audit),
    ("/admin/builds", Rule::SiteAdmin, Page::AdminBuilds),
    ("/admin/identity", Rule::SiteAdmin, Page::Identity),
    ("/admin/webhooks", Rule::SiteAdmin, Page::ServerWebhooks),
    ("/admin/webhooks/{webhook}", Rule::SiteAdmin, Page::ServerWebhook),
    ("/admin/mirrors", Rule::SiteAdmin, Page::Mirrors),
    ("/admin/replication", Rule::SiteAdmin, Page::Replication),
    ("/admin/settings", Rule::SiteAdmin, Page::AdminSettings),
    ("/admin/live", Rule::SiteAdmin, Page::AdminLive),
];

/// Finds a page; the parts of a repository's name are one part of the table's path.
pub(super) fn find(path: &str) -> Option<(Page, Rule, Names)> {
    let folded = match path.strip_prefix("/r/") {
        None => path.to_owned(),
        Some(rest) => {
            let (name, tail) = rest.split_once("/-/").map_or((rest, None), |(n, t)| (n, Some(t)));
            let name = name.trim_end_matches('/').replace('/', "%2F");
            tail.map_or_else(|| format!("/r/{name}"), |tail| format!("/r/{name}/-/{tail}"))
        }
    };
    PAGES.iter().find_map(|(template, rule, page)| {
        match_path(template, &folded).map(|names| (*page, *rule, names))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_repositories_take_names_with_slashes() {
        for (path, page, name, last) in [
            ("/r/alice/app", Page::Repository, "alice/app", ""),
            ("/r/alice/a/b/-/tags", Page::Tags, "alice/a/b", ""),
            ("/r/app/-/tags/v1", Page::Tag, "app", "v1"),
            ("/r/alice/tags/-/tags/tags", Page::Tag, "alice/tags", "tags"),
            ("/r/alice/app/", Page::Repository, "alice/app", ""),
        ] {
            let (found, _, names) = find(path).unwrap();
            assert_eq!((found, names.get("repository"), names.get("tag")), (page, name, last));
        }
        for path in ["/r/", "/r", "/r/a/-/", "/r/a/-/b", "/r/a/-/tags/v1/x", "/x", "//"] {
            assert!(find(path).is_none(), "{path}");
        }
    }
}
