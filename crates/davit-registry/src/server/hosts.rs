//! The names by which a server without authentication is asked.
//!
//! Any site may let its own name lead to 127.0.0.1, and its page then asks this server as if it were its
//! own (DNS rebinding). The browser tells that name as the `Host`, so only what no site can have is
//! answered to: an address, `localhost` (RFC 6761 § 6.3), and the name that the operator gave.

use std::{net::IpAddr, sync::Arc};

use davit_distribution::wire::ErrorCode;
use http::{HeaderValue, Method, StatusCode, Uri, header, request::Parts, uri::Authority};

use super::ServeSettings;
use crate::oci::Reply;

/// Which names are answered to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    /// All: callers prove who they are, which the page of another site cannot.
    All,
    /// Those of this machine, and this one.
    Own(Option<Arc<str>>),
}

impl Hosts {
    pub(super) fn new(settings: &ServeSettings) -> Self {
        if settings.auth {
            return Self::All;
        }
        let url = settings.public_url.as_deref().and_then(|url| url.parse::<Uri>().ok());
        Self::Own(url.as_ref().and_then(Uri::host).map(Arc::from))
    }

    /// The refusal of a request that names another host. Who names none is no browser.
    pub(super) fn refusal(&self, parts: &Parts) -> Option<Reply> {
        let Self::Own(own) = self else { return None };
        let is_own = |host: &HeaderValue| {
            let host = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok());
            host.is_some_and(|host| {
                is_local(host.host())
                    || own.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(host.host()))
            })
        };
        if parts.headers.get_all(header::HOST).iter().all(is_own) {
            return None;
        }
        let words = "without authentication the server answers to localhost, to addresses and to the \
                     name in --public-url only";
        let reply = Reply::error(StatusCode::MISDIRECTED_REQUEST, ErrorCode::Denied, words);
        Some(if parts.method == Method::HEAD { reply.without_body() } else { reply })
    }
}

/// Tells whether a host is an address or this machine itself.
fn is_local(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn other_sites_names_are_refused() {
        let hosts = Hosts::Own(Some("Registry.example".into()));
        for (host, is_answered) in [
            ("localhost", true),
            ("LOCALHOST.:5000", true),
            ("davit.localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("[::1]:5000", true),
            ("registry.example:8443", true),
            ("rebound.example:5000", false),
            ("notlocalhost", false),
            ("localhost.rebound.example", false),
            ("127.0.0.1.rebound.example", false),
            ("registry.example.rebound.example", false),
            ("", false),
            ("a b", false),
        ] {
            assert_eq!(hosts.refusal(&naming(&[host])).is_none(), is_answered, "{host}");
            assert!(Hosts::All.refusal(&naming(&[host])).is_none());
        }
        assert!(hosts.refusal(&naming(&[])).is_none());
        let both = naming(&["localhost", "rebound.example"]);
        let refusal = hosts.refusal(&both).map(|reply| reply.head.status());
        assert_eq!(refusal, Some(StatusCode::MISDIRECTED_REQUEST));
    }

    fn naming(hosts: &[&str]) -> Parts {
        let request = Request::builder();
        let request =
            hosts.iter().fold(request, |request, host| request.header(header::HOST, *host));
        request.body(()).unwrap().into_parts().0
    }
}
