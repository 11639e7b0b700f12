//! Signatures of requests to S3 (AWS Signature Version 4, with the digest of the body in a header).

use davit_distribution::Secret;
use davit_image::{Digest, Timestamp};
use ring::hmac;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Account {
    /// Id of the access key.
    pub id: String,
    /// The access key.
    pub secret: Secret,
    /// Token of a session, where the key is one's for a while.
    pub session: Option<Secret>,
}

/// What is signed of a request.
pub(super) struct Signed<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// The path as it is sent: encoded once.
    pub(super) path: &'a str,
    /// The query, its names and values not encoded.
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) headers: &'a [(&'static str, String)],
    pub(super) body: &'a [u8],
}

/// The headers that prove who asks, at a time, in a region; those of the request are signed, too.
pub(super) fn sign(
    account: &S3Account,
    region: &str,
    now: Timestamp,
    request: &Signed<'_>,
) -> Vec<(&'static str, String)> {
    // 2013-05-24T00:00:00Z without its signs.
    let text = now.to_string();
    let time: String = text.chars().take(19).filter(char::is_ascii_alphanumeric).collect();
    let (day, time) = (time[..8].to_owned(), format!("{time}Z"));
    let content = Digest::of(request.body).hex();
    let mut added = vec![("x-amz-content-sha256", content.clone()), ("x-amz-date", time.clone())];
    let session = account.session.as_ref();
    added.extend(session.map(|token| ("x-amz-security-token", token.expose().to_owned())));
    let mut headers: Vec<(&str, &str)> = vec![("host", request.host)];
    headers.extend(request.headers.iter().chain(&added).map(|(name, value)| (*name, &**value)));
    headers.sort_unstable();
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String =
        headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let query = query(request.query);
    let (method, path) = (request.method, request.path);
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{content}");
    let scope = format!("{day}/{region}/s3/aws4_request");
    let digest = Digest::of(canonical.as_bytes()).hex();
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{digest}");
    let mut key = format!("AWS4{}", account.secret.expose()).into_bytes();
    for part in [&day, region, "s3", "aws4_request"] {
        key = mac(&key, part);
    }
    let signature: String = mac(&key, &text).iter().map(|byte| format!("{byte:02x}")).collect();
    let credential = format!("{}/{scope}", account.id);
    let proof = format!(
        "AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={names},Signature={signature}"
    );
    added.push(("authorization", proof));
    added
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

/// A query as it is signed and sent.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let encoded = |text: &str| encode(text, "");
    let mut pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    pairs.sort_unstable();
    pairs.join("&")
}

/// Text as it is in paths and queries; the bytes of `kept` stay, too.
pub(in crate::build::cache) fn encode(text: &str, kept: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if plain(byte) || kept.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of Amazon's description of the signature.
    #[test]
    fn signs_as_described() {
        let account = S3Account {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
            session: None,
        };
        let request = Signed {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            query: &[],
            headers: &[("range", "bytes=0-9".to_owned())],
            body: b"",
        };
        let now = Timestamp::from_unix_seconds(1_369_353_600).unwrap();
        let signed = sign(&account, "us-east-1", now, &request);
        let signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(signed.last().unwrap().1.ends_with(signature), "{signed:?}");
    }

    #[test]
    fn encodes_what_is_not_plain() {
        assert_eq!(encode("a/b:c é~", "/"), "a/b%3Ac%20%C3%A9~");
        assert_eq!(query(&[("uploads", ""), ("a b", "c/d")]), "a%20b=c%2Fd&uploads=");
    }
}
