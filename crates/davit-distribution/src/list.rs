//! Lists: tags, catalog, search. Pages are bounded, and so is their number.

use reqwest::{Method, Url, header::LINK};
use serde::de::DeserializeOwned;

use crate::{
    Client, Error, Session,
    endpoint::Endpoint,
    redirect,
    transport::Call,
    wire::{Catalog, Scope, SearchEntry, SearchPage, TagList, next_link},
};

/// Entries that are asked for per page.
const PAGE_ENTRIES: usize = 1000;
const HUB: &str = "docker.io";
/// Docker Hub's search, which speaks the protocol of the first registry.
const HUB_SEARCH: &str = "https://index.docker.io/v1/search";
/// Docker Hub's own bound on a search page.
const HUB_PAGE_ENTRIES: usize = 100;

impl Session {
    /// All tags of the repository, in the registry's order.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the list has no end; else what went wrong at the registry.
    pub async fn tags(&self) -> Result<Vec<String>, Error> {
        let origin = self.origin().await?;
        let mut call = self.call(&origin, Method::GET, "tags/list");
        call.url.query_pairs_mut().append_pair("n", &PAGE_ENTRIES.to_string());
        let mut tags = Vec::new();
        self.client
            .pages(&origin, call, |page: TagList| {
                tags.extend(page.tags);
                tags.len()
            })
            .await?;
        Ok(tags)
    }
}

impl Client {
    /// All repositories of a registry for which `keep` is true, at most `limit` of them.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if the list has no end; else what went wrong at the registry.
    pub async fn catalog(
        &self,
        registry: &str,
        limit: usize,
        keep: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, Error> {
        let endpoint = self.endpoint(registry).await?;
        let mut call = Call::new(Method::GET, endpoint.url("_catalog"));
        call.url.query_pairs_mut().append_pair("n", &PAGE_ENTRIES.to_string());
        call.scopes = vec![Scope::catalog()];
        let (mut found, mut seen) = (Vec::new(), 0);
        self.pages(&endpoint, call, |page: Catalog| {
            seen += page.repositories.len();
            found.extend(page.repositories.into_iter().filter(|name| keep(name)));
            seen
        })
        .await?;
        found.truncate(limit);
        Ok(found)
    }

    /// Searches repositories: on Docker Hub by its index, elsewhere by a part of the name.
    ///
    /// # Errors
    /// What went wrong at the registry; many do not offer a catalog.
    pub async fn search(
        &self,
        registry: &str,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchEntry>, Error> {
        if registry == HUB {
            let url = HUB_SEARCH.parse().expect("the address of Docker Hub's search is a URL");
            return self.search_index(url, term, limit).await;
        }
        let term = term.to_lowercase();
        let names = self.catalog(registry, limit, |name| name.contains(&term)).await?;
        let entry = |name: String| SearchEntry {
            name: format!("{registry}/{name}"),
            ..SearchEntry::default()
        };
        Ok(names.into_iter().map(entry).collect())
    }

    /// Searches by `GET /v1/search`.
    async fn search_index(
        &self,
        base: Url,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchEntry>, Error> {
        let per_page = limit.clamp(1, HUB_PAGE_ENTRIES);
        let mut found = Vec::new();
        for page in 1_u64.. {
            let mut url = base.clone();
            url.query_pairs_mut()
                .append_pair("q", term)
                .append_pair("n", &per_page.to_string())
                .append_pair("page", &page.to_string());
            let call = Call::new(Method::GET, url);
            let limit_bytes = self.config().limits.page;
            let body = self.transport().fetch_unproved(&call, limit_bytes).await?;
            let reply: SearchPage = parse(&call.url, &body)?;
            let is_last = reply.results.len() < per_page || page >= reply.num_pages;
            found.extend(reply.results);
            if is_last || found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Fetches pages until there is no next one; `take` returns the entries seen so far.
    async fn pages<T: DeserializeOwned>(
        &self,
        endpoint: &Endpoint,
        mut call: Call,
        mut take: impl FnMut(T) -> usize,
    ) -> Result<(), Error> {
        let limits = &self.config().limits;
        let mut seen = 0;
        loop {
            let (headers, body) = self.transport().fetch(endpoint, &call, limits.page).await?;
            let count = take(parse(&call.url, &body)?);
            if count > limits.entries {
                let (object, limit) = (redirect::shown(&call.url), limits.entries as u64);
                return Err(Error::TooLarge { object: format!("list of {object}"), limit });
            }
            let link = headers.get(LINK).and_then(|value| value.to_str().ok());
            let Some(next) = link.and_then(next_link) else { return Ok(()) };
            let next = redirect::follow(&call.url, next)
                .map_err(|problem| Error::Protocol { url: redirect::shown(&call.url), problem })?;
            // A page without entries, or the same again, would go on for ever.
            if count == seen || next == call.url {
                return Ok(());
            }
            seen = count;
            call.url = next;
        }
    }
}

fn parse<T: DeserializeOwned>(url: &Url, body: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(body).map_err(|error| Error::Protocol {
        url: redirect::shown(url),
        problem: format!("sent a malformed list ({error})"),
    })
}
