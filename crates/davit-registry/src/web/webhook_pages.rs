//! Pages of webhooks and their deliveries.

use askama::Template;
use axum::body::Body;
use http::Response;

use super::{
    Visit,
    account_pages::{About, about},
    repository_pages::{On, on},
    server_pages::ROWS,
    show,
    view::Frame,
};
use crate::{
    api::{self, Delivery, Problem, Repository, Webhook},
    auth::Need,
};

/// Whose webhooks a page shows: an account's, else the server's.
#[derive(Default)]
struct Whose {
    account: Option<String>,
}

impl Whose {
    fn account(name: &str) -> Self {
        Self { account: Some(name.to_owned()).filter(|name| !name.is_empty()) }
    }

    /// Path of the list.
    fn place(&self) -> String {
        let account = self.account.as_ref().map(|name| format!("/a/{name}/webhooks"));
        account.unwrap_or_else(|| "/admin/webhooks".to_owned())
    }

    /// The operation that is so called where it is about an account's.
    fn operation(&self, id: &str) -> String {
        match (&self.account, id) {
            (Some(_), _) => id.to_owned(),
            (None, "redeliver") => "redeliverForServer".to_owned(),
            (None, _) => id.replace("Webhook", "ServerWebhook"),
        }
    }
}

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage {
    page: Frame,
    about: About,
    whose: Whose,
    /// What a new one hears of.
    pattern: String,
    webhooks: Vec<Webhook>,
}

/// Webhooks of an account.
pub(super) async fn of_account(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "webhooks").await?;
    show(&WebhooksPage {
        page: visit.titled(about.name.clone(), ""),
        pattern: format!("{}/**", about.name),
        whose: Whose::account(&about.name),
        webhooks: api::webhooks(&visit.site, Some(&about.name)).await?,
        about,
    })
}

#[derive(Template)]
#[template(path = "admin_webhooks.html")]
struct ServerWebhooksPage {
    page: Frame,
    tab: &'static str,
    whose: Whose,
    pattern: &'static str,
    webhooks: Vec<Webhook>,
}

/// Webhooks of the server.
pub(super) async fn of_server(visit: &Visit) -> Result<Response<Body>, Problem> {
    show(&ServerWebhooksPage {
        page: visit.titled("Webhooks", "admin"),
        tab: "webhooks",
        whose: Whose::default(),
        pattern: "**",
        webhooks: api::webhooks(&visit.site, None).await?,
    })
}

#[derive(Template)]
#[template(path = "repository_webhooks.html")]
struct RepositoryWebhooksPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    whose: Whose,
    pattern: String,
    /// Whether the caller owns the account, whose the webhooks are.
    manages: bool,
    webhooks: Vec<Webhook>,
}

/// Webhooks that hear of a repository, for those who own its account.
pub(super) async fn of_repository(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let account = repository.owner().unwrap_or_default().to_owned();
    let manages = !account.is_empty() && visit.may(Need::ManageAccount(&account)).await?;
    let mut webhooks = match manages {
        true => api::webhooks(&visit.site, Some(&account)).await?,
        false => Vec::new(),
    };
    webhooks.retain(|webhook| webhook.hears_of(name.as_str()));
    show(&RepositoryWebhooksPage {
        page: visit.titled(format!("Webhooks of {name}"), "repositories"),
        tab: "webhooks",
        pattern: name.to_string(),
        whose: Whose::account(&account),
        manages,
        webhooks,
        repository,
        rights,
    })
}

#[derive(Template)]
#[template(path = "webhook.html")]
struct WebhookPage {
    page: Frame,
    /// The account; `None`: the server.
    about: Option<About>,
    /// Of the server's pages.
    tab: &'static str,
    whose: Whose,
    webhook: Webhook,
    deliveries: Vec<Delivery>,
    next_page: Option<String>,
}

/// One webhook of an account and its deliveries.
pub(super) async fn one(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "webhooks").await?;
    let name = format!("{}/{}", about.name, visit.names.get("webhook"));
    page_of(visit, Some(about), &name).await
}

/// One webhook of the server and its deliveries.
pub(super) async fn one_of_server(visit: &Visit) -> Result<Response<Body>, Problem> {
    let name = visit.names.get("webhook");
    // Those of accounts are on their own pages.
    if name.contains('/') {
        return Err(Problem::absent());
    }
    page_of(visit, None, name).await
}

async fn page_of(
    visit: &Visit,
    about: Option<About>,
    name: &str,
) -> Result<Response<Body>, Problem> {
    let webhook = api::webhook(&visit.site, name).await?;
    let found = api::deliveries(&visit.site, name, &visit.log_paging(ROWS)).await?;
    show(&WebhookPage {
        page: visit.titled(format!("Webhook {name}"), if about.is_some() { "" } else { "admin" }),
        tab: "webhooks",
        whose: about.as_ref().map(|about| Whose::account(&about.name)).unwrap_or_default(),
        next_page: visit.next_page(found.next.as_ref()),
        deliveries: found.items,
        webhook,
        about,
    })
}
