//! Addresses of git repositories.

use davit_distribution::Secret;
use url::Url;

use super::{super::AutobuildError, Credential};

/// Bytes of an address.
const URL_BYTES: usize = 2048;

/// The address without its account, and the account's token.
pub(super) fn address(text: &str) -> Result<(String, Option<Credential>), AutobuildError> {
    let refused = |why| Err(AutobuildError::Url(why));
    if text.len() > URL_BYTES || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return refused("it is too long, or has spaces");
    }
    if text.starts_with('-') {
        return refused("it begins like an option");
    }
    // git's own short form of ssh: `git@host:path`.
    let text = match text.split_once(':') {
        Some((host, path))
            if !text.contains("://") && host.contains('@') && !host.contains('/') =>
        {
            format!("ssh://{host}/{}", path.trim_start_matches('/'))
        }
        _ => text.to_owned(),
    };
    let Ok(mut url) = Url::parse(&text) else {
        return refused("it is no URL");
    };
    if !matches!(url.scheme(), "https" | "http" | "git" | "ssh") {
        return refused("the scheme is https, http, git or ssh");
    }
    if url.host_str().is_none_or(str::is_empty) || url.fragment().is_some() {
        return refused("it has no host, or a fragment");
    }
    if url.scheme() == "ssh" {
        return Ok((url.to_string(), None));
    }
    let decoded = |text: &str| {
        let pair = format!("x={}", text.replace('+', "%2B"));
        let value = url::form_urlencoded::parse(pair.as_bytes()).next();
        value.map(|(_, value)| value.into_owned()).unwrap_or_default()
    };
    let token = match (url.password(), url.username()) {
        (Some(password), _) => Some(decoded(password)),
        (None, "") => None,
        (None, name) => Some(decoded(name)),
    };
    // `http`, `https` and `git` addresses with a host can have no account.
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    if cleared.is_err() {
        return refused("it has an account");
    }
    Ok((url.to_string(), token.map(|token| Credential::Token(Secret::new(token)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_accounts() {
        let read = |text: &str| {
            let (url, credential) = address(text).ok()?;
            let credential = credential.map(|it| it.to_row());
            Some(format!("{url} {}", credential.unwrap_or_default()).trim().to_owned())
        };
        for (text, expected) in [
            ("https://git.example/a/b.git", Some("https://git.example/a/b.git")),
            ("https://me:t%2Fk+n@git.example/a", Some("https://git.example/a token:t/k+n")),
            ("https://tkn@git.example/a", Some("https://git.example/a token:tkn")),
            ("git@git.example:a/b.git", Some("ssh://git@git.example/a/b.git")),
            ("ssh://git@git.example:2222/a", Some("ssh://git@git.example:2222/a")),
            ("git://git.example/a", Some("git://git.example/a")),
            ("git://me@git.example/a", Some("git://git.example/a token:me")),
            ("file:///etc", None),
            ("/etc", None),
            ("ext::sh -c id", None),
            ("ext::id", None),
            ("--upload-pack=id", None),
            ("https://git.example/a#main", None),
            ("", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }
}
