//! Lists: tags, repositories, search results, and the links between their pages.

use serde::{Deserialize, Deserializer, Serialize};

fn null_as_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reply to `GET /v2/<name>/tags/list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagList {
    /// The repository's path.
    #[serde(default)]
    pub name: String,
    /// Tags of this page, in lexical order; servers write `null` for none.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub tags: Vec<String>,
}

/// Reply to `GET /v2/_catalog`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Repository paths of this page.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub repositories: Vec<String>,
}

/// Reply to Docker Hub's `GET /v1/search`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchPage {
    /// The hits of this page, best first.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub results: Vec<SearchEntry>,
    /// Number of pages.
    #[serde(default)]
    pub num_pages: u64,
}

/// One repository that a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchEntry {
    /// The repository's name as `docker pull` takes it.
    #[serde(default)]
    pub name: String,
    /// What its owner says about it.
    #[serde(default, deserialize_with = "null_as_empty")]
    pub description: String,
    /// How many users marked it.
    #[serde(default)]
    pub star_count: i64,
    /// Whether it is one of Docker's official images.
    #[serde(default)]
    pub is_official: bool,
    /// Whether it was built by Docker Hub from sources; always false since 2024.
    #[serde(default)]
    pub is_automated: bool,
}

/// Target of `Link: <…>; rel="next"` (RFC 8288), as given: absolute, or relative to the request.
#[must_use]
pub fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (target, after) = rest.strip_prefix('<')?.split_once('>')?;
        let (parameters, following) = after.split_at(end_of_parameters(after));
        if parameters.split(';').any(is_next) {
            return Some(target);
        }
        rest = following;
    }
}

/// Position of the first comma outside quotes, or the end.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b',' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_next(parameter: &str) -> bool {
    parameter.split_once('=').is_some_and(|(key, value)| {
        key.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_links() {
        let cases = [
            ("</v2/_catalog?last=b&n=2>; rel=\"next\"", Some("/v2/_catalog?last=b&n=2")),
            ("<http://h/v2/a>; rel=next", Some("http://h/v2/a")),
            ("<a>; rel=prev, <b>; rel=\"next\"", Some("b")),
            ("<a>; rel=prev,<b>; Rel=\"NEXT\"", Some("b")),
            ("<a,b>;rel=next", Some("a,b")),
            ("<a>; rel=prev", None),
            ("<a", None),
            ("", None),
            ("rel=next", None),
        ];
        for (header, expected) in cases {
            assert_eq!(next_link(header), expected, "{header}");
        }
    }

    #[test]
    fn reads_null_lists() {
        let tags: TagList = serde_json::from_str(r#"{"name":"a","tags":null}"#).unwrap();
        assert!(tags.tags.is_empty());
        let page: SearchPage = serde_json::from_str(
            r#"{"num_results":1,"results":[{"name":"a","description":null,"star_count":3}]}"#,
        )
        .unwrap();
        assert_eq!(page.results[0].star_count, 3);
    }

    proptest::proptest! {
        #[test]
        fn links_never_panic(header: String) {
            let _target = next_link(&header);
        }
    }
}
