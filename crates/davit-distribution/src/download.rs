//! A file from any web server, for which no registry vouches and no digest is known.

use bytes::Bytes;
use reqwest::{
    Method, StatusCode, Url,
    header::{
        DATE, ETAG, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
    },
};

use crate::{
    Client, Error, Secret,
    auth::Proof,
    redirect, retry,
    transport::{Call, Reply},
};

/// A time of last change stands for the content if it is so many seconds older than the answer:
/// times are whole seconds, and a file may change twice in one (RFC 9110 section 8.8.2.2).
const STRONG_SECONDS: u64 = 2;

/// The body of a successful GET.
#[derive(Debug)]
pub struct Download(Reply);

/// What is asked for, and what is known of it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// The address.
    pub address: String,
    /// Value of `Authorization`, for the address's own host alone.
    pub authorization: Option<Secret>,
    /// `ETag` of the content that is here already.
    pub etag: Option<String>,
    /// `Last-Modified` of the content that is here already.
    pub modified: Option<String>,
}

impl Client {
    /// Asks for a file once, with the proxies and certificates that registries are reached by, but
    /// with no credentials but those in the address; a few redirects are followed.
    ///
    /// # Errors
    /// [`Error::Protocol`] for what is no HTTP address, else what the server answered in its place.
    pub async fn download(&self, address: &str) -> Result<Download, Error> {
        let url = parse(address)?;
        let reply = self.transport().send_anonymously(&Call::new(Method::GET, url)).await?;
        Ok(Download(reply.success().await?))
    }

    /// Asks for a file; `None` if the one that is here already is still the server's. What fails for
    /// the moment is tried again. Otherwise as [`Self::download`].
    ///
    /// # Errors
    /// As [`Self::download`], and [`Error::Protocol`] for headers that cannot be.
    pub async fn find(&self, wanted: &Wanted) -> Result<Option<Download>, Error> {
        let mut url = parse(&wanted.address)?;
        let shown = redirect::shown(&url);
        let proof =
            wanted.authorization.as_ref().map(|secret| proof(secret, &shown)).transpose()?;
        if proof.is_some() {
            // What the address says of an account would be a second one.
            let removed = url.set_username("").and_then(|()| url.set_password(None));
            removed.expect("an HTTP address may have an account");
        }
        let mut call = Call::new(Method::GET, url);
        for (name, value) in [(IF_NONE_MATCH, &wanted.etag), (IF_MODIFIED_SINCE, &wanted.modified)]
        {
            // What a server sent once it takes back; if not, the file is downloaded again.
            if let Some(value) = value.as_ref().and_then(|it| HeaderValue::from_str(it).ok()) {
                call.headers.insert(name, value);
            }
        }
        let reply = self.transport().send_to(&call, proof.as_ref()).await?;
        if reply.status() == StatusCode::NOT_MODIFIED && !call.headers.is_empty() {
            return Ok(None);
        }
        let download = Download(reply.success().await?);
        // Some servers know tags, but not what to do with them.
        let plain = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
        let tags = (wanted.etag.as_deref().map(plain), download.etag().as_deref().map(plain));
        let is_same = matches!(&tags, (Some(known), Some(now)) if known == now);
        Ok((!is_same).then_some(download))
    }
}

impl Download {
    /// The next piece, `None` after the last; the pieces have no limit in all.
    ///
    /// # Errors
    /// When the body breaks off, or comes too slowly.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        self.0.next_chunk().await
    }

    /// Declared size in bytes.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.0.content_length()
    }

    /// Tag of the content.
    #[must_use]
    pub fn etag(&self) -> Option<String> {
        self.header(&ETAG)
    }

    /// `Last-Modified`, as seconds since 1970.
    #[must_use]
    pub fn modified(&self) -> Option<i64> {
        i64::try_from(retry::parse_date(&self.header(&LAST_MODIFIED)?)?).ok()
    }

    /// `Last-Modified` as it was sent, if it stands for this content and no later one.
    #[must_use]
    pub fn strong_modified(&self) -> Option<String> {
        let modified = self.header(&LAST_MODIFIED)?;
        let date = self.header(&DATE).and_then(|date| retry::parse_date(&date))?;
        let age = date.checked_sub(retry::parse_date(&modified)?)?;
        (age >= STRONG_SECONDS).then_some(modified)
    }

    fn header(&self, name: &HeaderName) -> Option<String> {
        self.0.header(name.as_str()).map(str::to_owned).filter(|value| !value.is_empty())
    }
}

pub(crate) fn parse(address: &str) -> Result<Url, Error> {
    let url: Url = address.parse().map_err(|_| Error::Protocol {
        url: "the address".to_owned(),
        problem: "is malformed".to_owned(),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        let problem = "is no HTTP address".to_owned();
        return Err(Error::Protocol { url: redirect::shown(&url), problem });
    }
    Ok(url)
}

fn proof(secret: &Secret, shown: &str) -> Result<Proof, Error> {
    let mut header = HeaderValue::from_str(secret.expose()).map_err(|_| Error::Protocol {
        url: shown.to_owned(),
        problem: "has credentials that no header can carry".to_owned(),
    })?;
    header.set_sensitive(true);
    Ok(Proof { header, with_credentials: true })
}
