//! What a refused request of the API is told: one shape (RFC 9457).

use davit_distribution::wire::ErrorCode;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::{
    auth::{
        AccountError, PasswordError, Refusal, SignUpError, Told, ldap::SyncError, oidc::TrustError,
    },
    autobuild::AutobuildError,
    check::CheckError,
    db::DbError,
    events::SubscriptionError,
    fault::{Fault, in_words},
    gc::GcError,
    mirror::MirrorError,
    replication::NewRuleError,
    settings::SettingsError,
    webhooks::WebhookError,
};

/// Type of the body.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Status of the reply.
    pub status: StatusCode,
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub detail: String,
    /// The field of the request that is wrong, where it is one.
    pub field: Option<String>,
    /// Seconds after which another attempt makes sense.
    pub wait_seconds: Option<u64>,
    /// `WWW-Authenticate`, with 401.
    pub challenge: Option<HeaderValue>,
    /// `Allow`, with 405.
    pub allow: Option<String>,
}

impl Problem {
    /// A problem of this status; the code is the status's name.
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        let name = status.canonical_reason().unwrap_or("Error");
        let code = name.to_ascii_uppercase().replace(' ', "_");
        let detail = detail.into();
        Self { status, code, detail, field: None, wait_seconds: None, challenge: None, allow: None }
    }

    /// There is no such thing, or the caller may not know of it: always the same words.
    pub(crate) fn absent() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such thing, or you may not see it")
    }

    /// The account may not do this.
    pub(crate) fn denied() -> Self {
        Self::new(StatusCode::FORBIDDEN, "the account may not do this")
    }

    /// The request is malformed.
    pub(crate) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// The request does not fit to what there is.
    pub(crate) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, detail)
    }

    /// What went wrong inside is for the log.
    pub(crate) fn unavailable(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        let words = "the registry cannot do this now";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, words)
    }

    /// The body.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(field) = &self.field {
            body["field"] = json!(field);
        }
        body
    }

    /// The body's schema.
    pub(crate) fn schema() -> Value {
        json!({
            "type": "object",
            "description": "Why a request is refused (RFC 9457).",
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string", "description": "The status in words." },
                "status": { "type": "integer", "minimum": 400, "maximum": 599 },
                "code": { "type": "string", "description": "A word for programs." },
                "detail": { "type": "string", "description": "A sentence for people." },
                "field": { "type": "string", "description": "The field that is wrong, if it is one." },
            },
            "required": ["type", "title", "status", "code", "detail"],
        })
    }
}

impl From<DbError> for Problem {
    fn from(error: DbError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<GcError> for Problem {
    fn from(error: GcError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<CheckError> for Problem {
    fn from(error: CheckError) -> Self {
        Self::unavailable(&error)
    }
}

impl From<AutobuildError> for Problem {
    fn from(error: AutobuildError) -> Self {
        match error {
            AutobuildError::Database(error) => Self::unavailable(&error),
            AutobuildError::Row(..) => Self::unavailable(&error),
            AutobuildError::Account(error) => error.into(),
            AutobuildError::Unknown(..) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            error => Self::conflict(error.to_string()),
        }
    }
}

impl From<SubscriptionError> for Problem {
    fn from(error: SubscriptionError) -> Self {
        match error {
            SubscriptionError::Database(error) => Self::unavailable(&error),
            SubscriptionError::Unknown(..) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            error => Self::conflict(error.to_string()),
        }
    }
}

impl From<WebhookError> for Problem {
    fn from(error: WebhookError) -> Self {
        match error {
            WebhookError::Subscription(error) => error.into(),
            error => Self::conflict(error.to_string()),
        }
    }
}

impl From<NewRuleError> for Problem {
    fn from(error: NewRuleError) -> Self {
        match error {
            NewRuleError::Subscription(error) => error.into(),
            error => Self::conflict(error.to_string()),
        }
    }
}

impl From<MirrorError> for Problem {
    fn from(error: MirrorError) -> Self {
        match error {
            MirrorError::Database(error) => Self::unavailable(&error),
            MirrorError::Unknown(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            error => Self::conflict(error.to_string()),
        }
    }
}

impl From<SettingsError> for Problem {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::Database(error) => Self::unavailable(&error),
            SettingsError::Json(_) => Self::unavailable(&error),
            SettingsError::Unknown(_) => Self::absent(),
            error => Self::conflict(error.to_string()),
        }
    }
}

impl From<AccountError> for Problem {
    fn from(error: AccountError) -> Self {
        let status = match &error {
            AccountError::Database(error) => return Self::unavailable(error),
            AccountError::Unknown(..) => StatusCode::NOT_FOUND,
            AccountError::Password(PasswordError::Busy) => StatusCode::SERVICE_UNAVAILABLE,
            AccountError::Password(_) => StatusCode::BAD_REQUEST,
            AccountError::Closed(_) => StatusCode::FORBIDDEN,
            _ => StatusCode::CONFLICT,
        };
        Self::new(status, error.to_string())
    }
}

impl From<TrustError> for Problem {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Database(error) => Self::unavailable(&error),
            TrustError::Account(error) => error.into(),
            error => Self::conflict(in_words(&error)),
        }
    }
}

impl From<SyncError> for Problem {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Database(error) => Self::unavailable(&error),
            SyncError::Unknown(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            error => Self::conflict(in_words(&error)),
        }
    }
}

impl From<SignUpError> for Problem {
    fn from(error: SignUpError) -> Self {
        match error {
            SignUpError::Account(error) => error.into(),
            SignUpError::Throttled(wait) => Refusal::Throttled(wait).into(),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        let (status, code, detail, _) = fault.reply();
        if status.is_server_error() {
            return Self { status, ..Self::unavailable(&fault) };
        }
        match code {
            ErrorCode::NameUnknown | ErrorCode::ManifestUnknown | ErrorCode::BlobUnknown => {
                Self::absent()
            }
            // Here every route takes its method; the thing as it is does not take the change.
            ErrorCode::Unsupported => Self::conflict(detail),
            _ => Self { code: code.as_str().to_owned(), ..Self::new(status, detail) },
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let Told { status, message, wait_seconds, .. } = refusal.told();
        Self { wait_seconds, ..Self::new(status, message) }
    }
}
