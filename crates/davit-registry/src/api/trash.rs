//! Repositories that were removed, and the way back.

use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site,
    route::endpoint,
    schema::{Moment, Nothing, Page, reply},
};
use crate::{
    auth::Action,
    trash::{self, DeleteRepository, Keep, RestoreRepository},
};

reply! {
    /// A repository that can be had back.
    DeletedInfo {
        /// Its name when it was removed.
        repository: String,
        /// When it was removed.
        at: Moment,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    vec![
        endpoint(
            (M::DELETE, "/repositories/{repository}", Rule::Repository(Action::ChangeAccess)),
            ("deleteRepository", "Remove a repository; it can be had back for two weeks"),
            delete,
        )
        .with(StatusCode::NO_CONTENT),
        endpoint(
            (M::GET, "/accounts/{account}/deleted", Rule::ManageAccount),
            ("listDeleted", "Repositories of an account that can be had back, newest first"),
            async |call: Call, _: Nothing, _: Nothing| {
                deleted(&call.site, &call.account()?).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::POST, "/accounts/{account}/deleted/{repository}/restore", Rule::ManageAccount),
            ("restoreRepository", "Have a removed repository back"),
            restore,
        )
        .with(StatusCode::NO_CONTENT),
    ]
}

async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (by, name) = (call.actor(), call.repository()?);
    let delete = DeleteRepository { by, name, keep: Keep::Usual };
    call.site.registry.database.write(delete).await?;
    Ok(Nothing {})
}

/// Repositories of an account that can be had back, newest first.
pub(crate) async fn deleted(site: &Site, account: &str) -> Result<Vec<DeletedInfo>, Problem> {
    let all = trash::deleted(&site.registry.database).await?;
    let owner = |path: &str| path.split_once('/').is_some_and(|(owner, _)| owner == account);
    let own = all.into_iter().filter(|one| one.digest.is_none() && owner(&one.repository));
    let told =
        |one: trash::Deleted| DeletedInfo { repository: one.repository, at: Moment(one.at_ms) };
    Ok(own.map(told).collect())
}

async fn restore(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (by, name) = (call.actor(), call.repository()?);
    // The gate has asked about the account of the path: the repository must be its.
    if name.namespace() != Some(call.account()?.as_str()) {
        return Err(Problem::absent());
    }
    let restore = RestoreRepository { by, to: name.clone(), name };
    call.site.registry.database.write(restore).await?;
    Ok(Nothing {})
}
