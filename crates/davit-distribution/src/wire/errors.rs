//! Error bodies (distribution-spec § Error Codes).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// A registered error code; others are kept as received.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
            /// A code that the specification does not name.
            Other(String),
        }

        impl ErrorCode {
            /// Every registered code.
            pub const REGISTERED: &'static [Self] = &[$(Self::$name),*];

            /// The text on the wire.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Other(text) => text,
                }
            }
        }

        impl FromStr for ErrorCode {
            type Err = std::convert::Infallible;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(match text {
                    $($text => Self::$name,)*
                    other => Self::Other(other.to_owned()),
                })
            }
        }
    };
}

codes! {
    /// The blob is not in this repository.
    BlobUnknown = "BLOB_UNKNOWN";
    /// The upload cannot go on.
    BlobUploadInvalid = "BLOB_UPLOAD_INVALID";
    /// There is no such upload session.
    BlobUploadUnknown = "BLOB_UPLOAD_UNKNOWN";
    /// The digest differs from the content's.
    DigestInvalid = "DIGEST_INVALID";
    /// A manifest names a blob that the repository lacks.
    ManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN";
    /// The manifest is malformed.
    ManifestInvalid = "MANIFEST_INVALID";
    /// There is no such manifest.
    ManifestUnknown = "MANIFEST_UNKNOWN";
    /// The manifest's signature does not verify.
    ManifestUnverified = "MANIFEST_UNVERIFIED";
    /// The repository name is malformed.
    NameInvalid = "NAME_INVALID";
    /// There is no such repository.
    NameUnknown = "NAME_UNKNOWN";
    /// The content's length differs from the declared one.
    SizeInvalid = "SIZE_INVALID";
    /// The tag differs from the manifest's.
    TagInvalid = "TAG_INVALID";
    /// Authentication is needed.
    Unauthorized = "UNAUTHORIZED";
    /// The account may not do this.
    Denied = "DENIED";
    /// The registry does not do this.
    Unsupported = "UNSUPPORTED";
    /// Too many requests.
    TooManyRequests = "TOOMANYREQUESTS";
    /// The page size is out of range.
    PaginationNumberInvalid = "PAGINATION_NUMBER_INVALID";
    /// The requested range cannot be served.
    RangeInvalid = "RANGE_INVALID";
    /// Something else went wrong.
    Unknown = "UNKNOWN";
    /// The registry cannot answer now.
    Unavailable = "UNAVAILABLE";
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let Ok(code) = text.parse();
        Ok(code)
    }
}

/// One error of an error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// What kind of error this is.
    pub code: ErrorCode,
    /// Words for a person.
    #[serde(default)]
    pub message: String,
    /// Facts in a form that depends on the code and the server.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

/// Body of a 4xx or 5xx reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// At least one error.
    pub errors: Vec<ErrorEntry>,
}

impl ErrorBody {
    /// Makes the body of a reply with one error.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { errors: vec![ErrorEntry { code, message: message.into(), detail: Value::Null }] }
    }

    /// Reads the errors of a reply's body; pages of HTML, as proxies answer, have none.
    ///
    /// The specification's form, the `{"details": …}` of token servers and plain text are known.
    #[must_use]
    pub fn parse(body: &[u8]) -> Vec<ErrorEntry> {
        if let Ok(body) = serde_json::from_slice::<Self>(body) {
            return body.errors;
        }
        #[derive(Deserialize)]
        struct Details {
            details: String,
        }
        if let Ok(body) = serde_json::from_slice::<Details>(body) {
            return Self::new(ErrorCode::Unknown, body.details).errors;
        }
        match std::str::from_utf8(body).map(str::trim) {
            Ok(text) if !text.is_empty() && !text.starts_with(['<', '{', '[']) => {
                Self::new(ErrorCode::Unknown, text).errors
            }
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for ErrorEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code.as_str(), self.message.as_str()) {
            (code, "") => f.write_str(code),
            ("" | "UNKNOWN", message) => write!(f, "{}", Printable(message)),
            (code, message) => write!(f, "{}: {}", Printable(code), Printable(message)),
        }
    }
}

/// Prints a server's text without control characters and not endlessly.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 400;
        let mut clean = self.0.chars().map(|c| if c.is_control() { ' ' } else { c });
        for c in clean.by_ref().take(LONGEST) {
            write!(f, "{c}")?;
        }
        if clean.next().is_some() { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_is_told_and_pages_are_not() {
        let told = |body: &str| ErrorBody::parse(body.as_bytes()).first().map(ToString::to_string);
        assert_eq!(told(" quota exceeded\n").as_deref(), Some("quota exceeded"));
        for page in ["", "\n", "<html>no</html>", "{\"a\":1}", "[1]"] {
            assert_eq!(told(page), None, "{page}");
        }
    }

    #[test]
    fn codes_round_trip() {
        for code in ErrorCode::REGISTERED {
            assert_eq!(&code.as_str().parse::<ErrorCode>().unwrap(), code);
        }
        let other: ErrorCode = "QUOTA".parse().unwrap();
        assert_eq!(other, ErrorCode::Other("QUOTA".into()));
    }

    #[test]
    fn reads_bodies_of_registries_token_servers_and_proxies() {
        let cases: [(&str, &[&str]); 6] = [
            (r#"{"errors":[{"code":"DENIED","message":"no","detail":[1]}]}"#, &["DENIED: no"]),
            (r#"{"errors":[{"code":"NAME_UNKNOWN"}]}"#, &["NAME_UNKNOWN"]),
            (
                r#"{"details":"incorrect username or password"}"#,
                &["incorrect username or password"],
            ),
            (r#"{"errors":[{"code":"DENIED","message":"a\u001b[2Jb"}]}"#, &["DENIED: a [2Jb"]),
            ("<html>502</html>", &[]),
            ("", &[]),
        ];
        for (body, expected) in cases {
            let texts: Vec<_> =
                ErrorBody::parse(body.as_bytes()).iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected, "{body}");
        }
        let long = ErrorBody::new(ErrorCode::Denied, "x".repeat(10_000));
        assert!(long.errors[0].to_string().chars().count() < 500);
    }

    #[test]
    fn writes_what_the_specification_shows() {
        let body = ErrorBody::new(ErrorCode::BlobUnknown, "blob unknown to registry");
        assert_eq!(
            serde_json::to_string(&body).unwrap(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#
        );
    }
}
