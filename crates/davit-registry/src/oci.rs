//! The distribution-spec's HTTP protocol: version 1.1, and of 1.2's draft tags in a push by digest,
//! cancelled uploads, `digest-algorithm` and digests in every reply.
//!
//! A request passes here in one order: route, gate, use case, reply.

use std::{sync::Arc, time::Instant};

use axum::body::Body;
use davit_distribution::wire::{API_VERSION, Catalog, ErrorCode, SUBJECT, TagList};
use davit_image::{Descriptor, Digest, Index, MediaType};
use http::{HeaderName, Method, Request, Response, StatusCode, header, request::Parts};

use crate::{
    auth::{Auth, Caller, peer},
    fault::Fault,
    lists::{self, LONGEST_PAGE, Page},
    manifests::{self, Condition, Content, Put, Target},
    mirror::Mirrors,
    name::RepositoryName,
    ratelimit::{Counts, Quota, RateLimiter},
    registry::Registry,
    server::Metrics,
    uploads::Owner,
};

mod gate;
mod mirrored;
mod pull;
mod push;
mod ranges;
mod reply;
mod request;
mod routes;

pub use reply::{Content as ReplyContent, Reply, Segment};
pub(crate) use request::Ending;
use request::{Query, collect, digest, tag, target, text, validators};
pub use routes::{NoRoute, Operation, ROUTES, Route, route};

/// Header that lists the tags that a push by digest made.
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Header that says which filters a list of referrers has passed.
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Tags of one push at most.
const TAGS: usize = 100;

/// The protocol over one registry; cheap to clone.
#[derive(Clone, Debug)]
pub struct Oci {
    registry: Registry,
    auth: Arc<Auth>,
    metrics: Arc<Metrics>,
    limiter: Arc<RateLimiter>,
    mirrors: Option<Arc<Mirrors>>,
    ending: Ending,
}

impl Oci {
    /// Serves this registry.
    #[must_use]
    pub fn new(registry: Registry, auth: Arc<Auth>, metrics: Arc<Metrics>) -> Self {
        let limiter = Arc::new(RateLimiter::new(registry.limits.pulls));
        Self { registry, auth, metrics, limiter, mirrors: None, ending: Ending::default() }
    }

    /// Serves what these mirror, too.
    #[must_use]
    pub fn with_mirrors(self, mirrors: Arc<Mirrors>) -> Self {
        Self { mirrors: Some(mirrors), ..self }
    }

    /// Ends uploads that still come in when it is told; what arrived of them is kept.
    #[must_use]
    pub(crate) fn until(self, ending: Ending) -> Self {
        Self { ending, ..self }
    }

    /// Answers one request; never fails, what goes wrong is in the reply.
    pub async fn serve(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        self.answer(&parts, body).await.into_response()
    }

    /// Answers one request, its body's bytes not sent yet.
    pub async fn answer(&self, parts: &Parts, body: Body) -> Reply {
        let started = Instant::now();
        let reply = match route(&parts.method, parts.uri.path()) {
            Ok(route) => {
                let operation = route.operation();
                let reply = self.run(route, parts, body).await.unwrap_or_else(Reply::from);
                let sent = if parts.method == Method::HEAD { 0 } else { reply.content_bytes() };
                let took = started.elapsed();
                self.metrics.count(operation, reply.head.status(), (took, sent));
                reply
            }
            Err(no_route) => refuse(no_route),
        };
        let reply = if parts.method == Method::HEAD { reply.without_body() } else { reply };
        reply
            .with(HeaderName::from_static(API_VERSION), "registry/2.0")
            .with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .with(header::CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox")
    }

    async fn run(&self, route: Route, parts: &Parts, body: Body) -> Result<Reply, Fault> {
        if let Some(place) = self.place(&route, parts).await? {
            return self.mirrored(&place, &route, parts).await;
        }
        let elsewhere = self.mirrors.is_some() && mirrored::may_mean_default(&route, parts);
        let elsewhere = elsewhere.then(|| route.clone());
        let outcome = self.here(route, parts, body).await;
        match elsewhere {
            Some(route) if mirrored::has_nothing(&route, &outcome) => {
                self.by_default(&route, parts).await?.map_or(outcome, Ok)
            }
            _ => outcome,
        }
    }

    /// Answers for what is hosted here.
    async fn here(&self, route: Route, parts: &Parts, body: Body) -> Result<Reply, Fault> {
        let caller = match self.admit(&route, parts).await? {
            Ok(caller) => caller,
            Err(reply) => return Ok(reply),
        };
        let (operation, name, last) = match route {
            Route::Server(Operation::Catalog) => return self.catalog(&caller, parts).await,
            Route::Server(_) => {
                return Ok(Reply::json(StatusCode::OK, "application/json", &serde_json::json!({})));
            }
            Route::Repository(operation, name, last) => (operation, name, last),
        };
        let owner = Owner { name: name.clone(), account: caller.account() };
        match operation {
            Operation::Ping | Operation::Catalog => Err(Fault::NAME_UNKNOWN),
            Operation::Tags => self.tags(&name, parts).await,
            Operation::Referrers => self.referrers(&name, &last, parts).await,
            Operation::GetManifest => self.get_manifest(&caller, &name, &last, parts).await,
            Operation::GetBlob => pull::blob(&self.registry, &name, &last, parts).await,
            Operation::PutManifest => {
                self.put_manifest(&caller, (&name, &last), (parts, body)).await
            }
            Operation::DeleteManifest => self.delete_manifest(&caller, &name, &last, parts).await,
            Operation::DeleteBlob => {
                let delete = crate::blobs::Delete { name, digest: digest(&last)? };
                self.registry.database.write(delete).await?;
                Ok(Reply::new(StatusCode::ACCEPTED))
            }
            Operation::BeginUpload => self.begin(&caller, &name, (parts, body)).await,
            Operation::UploadStatus => self.status(&owner, &last).await,
            Operation::AppendUpload => self.append(owner, &last, (parts, body)).await,
            Operation::FinishUpload => self.finish(owner, &last, (parts, body)).await,
            Operation::CancelUpload => self.cancel(&owner, &last).await,
        }
    }

    async fn catalog(&self, caller: &Caller, parts: &Parts) -> Result<Reply, Fault> {
        let query = Query::of(parts);
        let (most, after) = (query.page_size(LONGEST_PAGE)?, query.get("last").unwrap_or_default());
        let page = lists::repositories(&self.registry, caller, after, most).await?;
        let names = page.entries.iter().map(ToString::to_string).collect();
        let reply =
            Reply::json(StatusCode::OK, "application/json", &Catalog { repositories: names });
        let most = most.min(LONGEST_PAGE).to_string();
        Ok(with_next(reply, "/v2/_catalog", &[("n", &most)], page.next.as_deref()))
    }

    async fn tags(&self, name: &RepositoryName, parts: &Parts) -> Result<Reply, Fault> {
        let query = Query::of(parts);
        let (most, after) = (query.page_size(LONGEST_PAGE)?, query.get("last").unwrap_or_default());
        let Page { entries, next } = lists::tags(&self.registry, name, after, most).await?;
        let list = TagList { name: name.to_string(), tags: entries };
        let reply = Reply::json(StatusCode::OK, "application/json", &list);
        let most = most.min(LONGEST_PAGE).to_string();
        Ok(with_next(reply, &format!("/v2/{name}/tags/list"), &[("n", &most)], next.as_deref()))
    }

    async fn referrers(
        &self,
        name: &RepositoryName,
        subject: &str,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let (query, subject) = (Query::of(parts), digest(subject)?);
        let (kind, after) = (query.artifact_type(), query.get("last").unwrap_or_default());
        let page = lists::referrers(&self.registry, name, &subject, (after, kind)).await?;
        Ok(referrer_list(name, &subject, kind, page))
    }

    async fn get_manifest(
        &self,
        caller: &Caller,
        name: &RepositoryName,
        last: &str,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        let find = pull::manifest(&self.registry, (caller, name), last, parts);
        self.limited(caller, parts, find).await
    }

    /// Counts a pull of a manifest, and does it if it is not one too many.
    async fn limited(
        &self,
        caller: &Caller,
        parts: &Parts,
        find: impl Future<Output = Result<Reply, Fault>>,
    ) -> Result<Reply, Fault> {
        let counts = if parts.method == Method::HEAD { Counts::No } else { Counts::Yes };
        let quota = self.limiter.count(caller, peer(&parts.extensions), counts);
        if let Some(refusal) = quota.as_ref().and_then(Quota::refusal) {
            return Ok(refusal);
        }
        let reply = find.await;
        let Some(quota) = quota else { return reply };
        Ok(quota.tell(reply.unwrap_or_else(Reply::from)))
    }

    async fn put_manifest(
        &self,
        caller: &Caller,
        (name, reference): (&RepositoryName, &str),
        (parts, body): (&Parts, Body),
    ) -> Result<Reply, Fault> {
        let (query, target) = (Query::of(parts), target(reference)?);
        let mut tags = query.all("tag").map(tag).collect::<Result<Vec<_>, _>>()?;
        if tags.len() > TAGS {
            let words = format!("a push may have {TAGS} tags");
            return Ok(Reply::error(StatusCode::URI_TOO_LONG, ErrorCode::TagInvalid, words));
        }
        let told: Vec<String> = tags.iter().map(ToString::to_string).collect();
        let mut wanted = query.digest("digest")?;
        match target {
            Target::Tag(tag) => tags.push(tag),
            Target::Digest(digest) => wanted = Some(digest),
        }
        let body = collect(body, self.registry.limits.manifest_bytes).await?;
        if let Some(wanted) = wanted {
            let actual = Digest::of_with(wanted.algorithm(), &body);
            if actual != wanted {
                return Err(Fault::digest(format!("the manifest has digest {actual}")));
            }
        }
        let content = Content::parse(body, declared(parts).as_ref())?;
        let subject = content.subject;
        let put = Put {
            name: name.clone(),
            content,
            digest: wanted,
            tags,
            condition: condition(parts),
            rights: self.auth.rights(caller, name.as_str()).await?,
            by: caller.account(),
        };
        let digest = manifests::put(&self.registry, put).await?;
        let mut reply = Reply::new(StatusCode::CREATED)
            .with(header::LOCATION, &format!("/v2/{name}/manifests/{digest}"))
            .with_digest(&digest);
        if let Some(subject) = subject {
            reply = reply.with(HeaderName::from_static(SUBJECT), &subject.to_string());
        }
        if !told.is_empty() {
            reply = reply.with(TAG, &told.join(", "));
        }
        Ok(reply)
    }

    async fn delete_manifest(
        &self,
        caller: &Caller,
        name: &RepositoryName,
        reference: &str,
        parts: &Parts,
    ) -> Result<Reply, Fault> {
        match target(reference)? {
            Target::Digest(digest) => {
                manifests::delete(&self.registry, name, &digest, caller.account()).await?;
            }
            Target::Tag(tag) => {
                let expected = text(&parts.headers, &header::IF_MATCH).and_then(validators);
                let with = (expected, caller.account());
                manifests::delete_tag(&self.registry, name, &tag, with).await?;
            }
        }
        Ok(Reply::new(StatusCode::ACCEPTED))
    }
}

/// The answer to what refers to a manifest; `kind` is the artifact type that was asked for.
fn referrer_list(
    name: &RepositoryName,
    subject: &Digest,
    kind: Option<&str>,
    page: Page<Descriptor>,
) -> Reply {
    let index = Index::new(page.entries);
    let mut reply = Reply::json(StatusCode::OK, MediaType::OCI_INDEX.as_str(), &index);
    let mut more = Vec::new();
    if let Some(kind) = kind {
        reply = reply.with(FILTERS, "artifactType");
        more.push(("artifactType", kind));
    }
    let path = format!("/v2/{name}/referrers/{subject}");
    with_next(reply, &path, &more, page.next.as_deref())
}

/// The type that a manifest was sent as, without parameters.
fn declared(parts: &Parts) -> Option<MediaType> {
    let header = text(&parts.headers, &header::CONTENT_TYPE)?;
    let kind = header.split(';').next().unwrap_or_default().trim();
    (!kind.is_empty()).then(|| MediaType::new(kind))
}

fn condition(parts: &Parts) -> Condition {
    if let Some(header) = text(&parts.headers, &header::IF_MATCH) {
        return validators(header).map_or(Condition::Exists, Condition::Names);
    }
    let none = text(&parts.headers, &header::IF_NONE_MATCH);
    if none.is_some_and(|header| header.trim() == "*") {
        Condition::Absent
    } else {
        Condition::None
    }
}

fn refuse(no_route: NoRoute) -> Reply {
    match no_route {
        NoRoute::Path => {
            Reply::error(StatusCode::NOT_FOUND, ErrorCode::Unsupported, "no such path")
        }
        NoRoute::Name => {
            let words = crate::name::NameError.to_string();
            Reply::error(StatusCode::BAD_REQUEST, ErrorCode::NameInvalid, words)
        }
        NoRoute::Method(allowed) => {
            let allowed: Vec<&str> = allowed.iter().map(Method::as_str).collect();
            let words = "the path does not take this method";
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, words)
                .with(header::ALLOW, &allowed.join(", "))
        }
    }
}

/// Adds the link to the next page (RFC 8288).
fn with_next(reply: Reply, path: &str, query: &[(&str, &str)], next: Option<&str>) -> Reply {
    let Some(next) = next else { return reply };
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    let query = text.extend_pairs(query).append_pair("last", next).finish();
    reply.with(header::LINK, &format!("<{path}?{query}>; rel=\"next\""))
}
