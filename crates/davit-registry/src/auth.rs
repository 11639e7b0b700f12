//! Who may do what: accounts, credentials, tokens, roles, and the one policy gate.
//!
//! ```text
//! Authorization ─► authenticate ─► Caller ─┐
//!                   (password, token, JWT)  ├─► gate ─► Decision ─► 2xx | 401 | 403 | 404
//! repository path, visibility, grants ──────┘
//! ```
//!
//! A caller's rights on a repository are those that its account holds *now* (namespace, teams,
//! grants), cut to what the credential in hand was limited to. Whether a repository exists is no
//! input of a decision, so that a private name and an absent one cannot be told apart.

pub mod accounts;
pub mod audit;
mod directory;
mod failures;
mod glob;
pub mod htpasswd;
mod jwt;
mod key_ring;
mod keys;
pub mod ldap;
mod names;
pub mod oidc;
mod opaque;
mod password;
mod policy;
mod rights;
mod service;
mod session;
mod throttle;
mod token_server;

pub use accounts::{AccountError, AddToken};
pub use davit_distribution::{
    Secret,
    wire::{Scope, ScopeError},
};
pub(crate) use glob::matches;
pub use glob::{GlobError, RepositoryGlob};
pub use jwt::{Access, Claims, JwtError};
pub use key_ring::rotate_keys;
pub use keys::{KeyError, Keys, PublicKey};
pub use names::{AccountName, NameError, is_reserved};
pub use opaque::{OpaqueKind, OpaqueToken, TokenHash};
pub use password::{PasswordError, PasswordHash, Passwords};
pub use policy::{Caller, Decision, Identity, Limit, Need, Standing, decide};
pub use rights::{Action, Rights, Role, RoleError};
pub use service::{Auth, AuthError, AuthSettings, Refusal, SignUpError};
pub use session::SESSION_MS;
pub(crate) use throttle::network;
pub use throttle::{Attempt, Throttle, ThrottleSettings};
pub(crate) use token_server::Told;
pub use token_server::{peer, refused, routes};
