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

#[derive(Template)]
#[template(path = "webhooks.html")]
struct WebhooksPage {
    page: Frame,
    about: About,
    here: String,
    account: String,
    /// What a new one hears of.
    pattern: String,
    webhooks: Vec<Webhook>,
}

/// Webhooks of an account.
pub(super) async fn of_account(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "webhooks").await?;
    show(&WebhooksPage {
        page: visit.titled(about.name.clone(), ""),
        here: visit.here.clone(),
        pattern: format!("{}/**", about.name),
        account: about.name.clone(),
        webhooks: api::webhooks(&visit.site, Some(&about.name)).await?,
        about,
    })
}

#[derive(Template)]
#[template(path = "repository_webhooks.html")]
struct RepositoryWebhooksPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    here: String,
    account: String,
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
        here: visit.here.clone(),
        pattern: name.to_string(),
        account,
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
    about: About,
    here: String,
    webhook: Webhook,
    deliveries: Vec<Delivery>,
    next_page: Option<String>,
}

/// One webhook and its deliveries.
pub(super) async fn one(visit: &Visit) -> Result<Response<Body>, Problem> {
    let about = about(visit, "webhooks").await?;
    let name = format!("{}/{}", about.name, visit.names.get("webhook"));
    let webhook = api::webhook(&visit.site, &name).await?;
    let found = api::deliveries(&visit.site, &name, &visit.log_paging(ROWS)).await?;
    show(&WebhookPage {
        page: visit.titled(format!("Webhook {name}"), ""),
        here: visit.here.clone(),
        next_page: visit.next_page(found.next.as_ref()),
        deliveries: found.items,
        webhook,
        about,
    })
}
