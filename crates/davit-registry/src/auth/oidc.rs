//! Identities that others vouch for: OpenID Connect log-in, and tokens of build systems.
//!
//! ```text
//! browser ─► begin ─► provider ─► callback ─► finish ─► session       (log-in: code flow with PKCE)
//! build   ─► /token, grant token-exchange ─► trust rule ─► a robot's token        (RFC 8693)
//!                         both: issuer ─► discovery, keys ─► signature, issuer, audience, times
//! ```
//!
//! Who someone is, issuer and subject say together, and nothing else: an e-mail address or a name in a
//! token makes nobody the owner of an account that was there before. An account gets an identity by
//! being made with it, or from its owner who is logged in.

mod exchange;
mod flow;
mod issuer;
mod jose;
mod login;
mod store;

pub(super) use exchange::exchange;
pub(super) use issuer::Issuers;
pub use login::{Begin, Begun, Callback, Finished, OidcError};
pub use store::{
    AddTrust, ForeignIdentity, Provider, ProviderKind, ProviderRow, RemoveIdentity, RemoveProvider,
    RemoveTrust, SetProvider, TrustError, TrustRow, identities, providers, trust_rules,
};
pub(super) use store::{SignUpWith, account_of};
