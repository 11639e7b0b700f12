//! Requests for what other registries have.

use axum::body::Body;
use http::{Method, StatusCode, header, request::Parts};

use super::{
    Oci, Operation, Reply, Route, pull, referrer_list,
    reply::Content,
    request::{Query, digest, target},
    with_next,
};
use crate::{
    auth::Caller,
    fault::Fault,
    lists::{LONGEST_PAGE, Page},
    mirror::{Found, Place},
    name::RepositoryName,
};

impl Operation {
    /// Tells whether it changes nothing.
    pub(super) const fn reads(self) -> bool {
        matches!(self, Self::Tags | Self::Referrers | Self::GetManifest | Self::GetBlob)
    }
}

impl Oci {
    /// The place at an upstream that a request means by itself.
    pub(super) async fn place(&self, route: &Route, parts: &Parts) -> Result<Option<Place>, Fault> {
        let (Some(mirrors), Route::Repository(operation, name, _)) = (&self.mirrors, route) else {
            return Ok(None);
        };
        let query = parts.uri.query().filter(|query| operation.reads() && query.contains("ns="));
        let query = query.map(|_| Query::of(parts));
        let namespace = query.as_ref().and_then(|query| query.get("ns"));
        Ok(mirrors.place(name, namespace).await?)
    }

    /// Asks the default upstream, where there is one, for what is not hosted here.
    pub(super) async fn by_default(
        &self,
        route: &Route,
        parts: &Parts,
    ) -> Result<Option<Reply>, Fault> {
        let (Some(mirrors), Route::Repository(_, name, _)) = (&self.mirrors, route) else {
            return Ok(None);
        };
        match mirrors.default_place(name).await? {
            Some(place) => self.mirrored(&place, route, parts).await.map(Some),
            None => Ok(None),
        }
    }

    /// Answers a request for something of an upstream.
    pub(super) async fn mirrored(
        &self,
        place: &Place,
        route: &Route,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let Route::Repository(operation, _, last) = route else { return Err(Fault::NAME_UNKNOWN) };
        let here = Route::Repository(*operation, place.local.clone(), last.clone());
        if matches!(operation, Operation::DeleteManifest | Operation::DeleteBlob) {
            // What is kept may be let go by hand.
            return self.here(here, parts, Body::empty()).await;
        }
        let caller = match self.admit_to(place, &here, parts).await? {
            Ok(caller) => caller,
            Err(reply) => return Ok(reply),
        };
        match operation {
            Operation::GetManifest => self.mirrored_manifest(place, &caller, last, parts).await,
            Operation::GetBlob => self.mirrored_blob(place, &caller, last, parts).await,
            Operation::Tags => self.mirrored_tags(place, &caller, parts).await,
            Operation::Referrers => self.mirrored_referrers(place, &caller, last, parts).await,
            _ => {
                let name = &place.local;
                Err(Fault::Unsupported(format!("{name} is a mirror, and takes no pushes")))
            }
        }
    }

    async fn may_fill(&self, place: &Place, caller: &Caller) -> Result<bool, Fault> {
        Ok(place.may_fill(&self.auth, caller).await?)
    }

    async fn mirrored_manifest(
        &self,
        place: &Place,
        caller: &Caller,
        reference: &str,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let Some(mirrors) = &self.mirrors else { return Err(Fault::NAME_UNKNOWN) };
        let (target, may_fill) = (target(reference)?, self.may_fill(place, caller).await?);
        let find = async {
            mirrors.manifest(place, &target, may_fill).await?;
            // By the way that all manifests go: conditions, and what is noted of pulls.
            pull::manifest(&self.registry, (caller, &place.local), reference, parts).await
        };
        self.limited(caller, parts, find).await
    }

    async fn mirrored_blob(
        &self,
        place: &Place,
        caller: &Caller,
        reference: &str,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let Some(mirrors) = &self.mirrors else { return Err(Fault::NAME_UNKNOWN) };
        let (digest, may_fill) = (digest(reference)?, self.may_fill(place, caller).await?);
        let blob = |size: u64| {
            Reply::new(StatusCode::OK)
                .with(header::CONTENT_LENGTH, &size.to_string())
                .with(header::CONTENT_TYPE, "application/octet-stream")
                .with_digest(&digest)
                .with(header::ACCEPT_RANGES, "bytes")
                .with(header::CACHE_CONTROL, pull::FOREVER)
        };
        if parts.method == Method::HEAD {
            return Ok(blob(mirrors.blob_size(place, &digest, may_fill).await?));
        }
        match mirrors.blob(place, &digest, may_fill).await? {
            Found::Here => pull::blob(&self.registry, &place.local, reference, parts).await,
            // A part may lie at the end: it is served from what is kept then.
            Found::Coming(flight) if parts.headers.contains_key(header::RANGE) => {
                if !flight.landed().await {
                    return Err(Fault::Upstream);
                }
                pull::blob(&self.registry, &place.local, reference, parts).await
            }
            Found::Coming(flight) => {
                let mut reply = blob(flight.size_bytes);
                reply.content = Content::Stream(Body::from_stream(flight.read()));
                Ok(reply)
            }
        }
    }

    async fn mirrored_referrers(
        &self,
        place: &Place,
        caller: &Caller,
        subject: &str,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let Some(mirrors) = &self.mirrors else { return Err(Fault::NAME_UNKNOWN) };
        let wanted = digest(subject)?;
        let found = match self.may_fill(place, caller).await? {
            true => mirrors.referrers(place, &wanted).await,
            false => None,
        };
        let Some(mut entries) = found else {
            return self.referrers(&place.local, subject, parts).await;
        };
        let query = Query::of(parts);
        let kind = query.artifact_type();
        entries.retain(|one| {
            kind.is_none_or(|kind| {
                one.artifact_type.as_ref().is_some_and(|found| found.as_str() == kind)
            })
        });
        Ok(referrer_list(&place.local, &wanted, kind, Page { entries, next: None }))
    }

    async fn mirrored_tags(
        &self,
        place: &Place,
        caller: &Caller,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let Some(mirrors) = &self.mirrors else { return Err(Fault::NAME_UNKNOWN) };
        let tags = match self.may_fill(place, caller).await? {
            true => mirrors.tags(place).await?,
            false => None,
        };
        let Some(tags) = tags else { return self.tags(&place.local, parts).await };
        let query = Query::of(parts);
        let most = query.page_size(LONGEST_PAGE)?.min(LONGEST_PAGE);
        let after = query.get("last").unwrap_or_default();
        let rest = tags.into_iter().filter(|tag| after.is_empty() || tag.as_str() > after);
        let mut page: Vec<String> = rest.take(most + 1).collect();
        let is_last = page.len() <= most;
        page.truncate(most);
        let next = page.last().filter(|_| !is_last).cloned();
        Ok(tag_page(&place.local, page, most, next.as_deref()))
    }
}

fn tag_page(name: &RepositoryName, tags: Vec<String>, most: usize, next: Option<&str>) -> Reply {
    let list = davit_distribution::wire::TagList { name: name.to_string(), tags };
    let reply = Reply::json(StatusCode::OK, "application/json", &list);
    with_next(reply, &format!("/v2/{name}/tags/list"), &[("n", &most.to_string())], next)
}

/// Tells whether a refused request may mean the default upstream. `HEAD` of a blob may not: it is how
/// every push begins.
pub(super) fn may_mean_default(route: &Route, parts: &Parts) -> bool {
    match route.operation() {
        Operation::GetBlob => parts.method != Method::HEAD,
        operation => operation.reads(),
    }
}

/// Tells whether an answer may say that the caller finds nothing here.
pub(super) fn has_nothing(route: &Route, outcome: &Result<Reply, Fault>) -> bool {
    match outcome {
        // Of what does not exist the list is empty.
        _ if route.operation() == Operation::Referrers => true,
        Err(fault) => matches!(fault, Fault::Unknown(_)),
        Ok(reply) => matches!(
            reply.head.status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        ),
    }
}
