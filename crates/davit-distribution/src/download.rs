//! A file from any web server, for which no registry vouches and no digest is known.

use bytes::Bytes;
use reqwest::{Method, Url};

use crate::{
    Client, Error, redirect,
    transport::{Call, Reply},
};

/// The body of a successful GET.
#[derive(Debug)]
pub struct Download(Reply);

impl Client {
    /// Asks for a file once, with the proxies and certificates that registries are reached by, but
    /// with no credentials but those in the address; a few redirects are followed.
    ///
    /// # Errors
    /// [`Error::Protocol`] for what is no HTTP address, else what the server answered in its place.
    pub async fn download(&self, address: &str) -> Result<Download, Error> {
        let url: Url = address.parse().map_err(|_| Error::Protocol {
            url: "the address".to_owned(),
            problem: "is malformed".to_owned(),
        })?;
        if !matches!(url.scheme(), "http" | "https") {
            let problem = "is no HTTP address".to_owned();
            return Err(Error::Protocol { url: redirect::shown(&url), problem });
        }
        let reply = self.transport().send_anonymously(&Call::new(Method::GET, url)).await?;
        Ok(Download(reply.success().await?))
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
}
