//! `login`, `logout` and `search`.

use davit_distribution::{
    Credential, CredentialError, CredentialStore, Login, Saved, Secret, wire::SearchEntry,
};

use crate::{
    Config, Hint,
    pull::plain_http_hint,
    registry::{self, Registries, RegistryError},
};

/// Name of the registry that is meant where none is given.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// Why logging in, logging out or a search failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The network side cannot be set up.
    #[error("cannot reach {registry}")]
    Setup {
        /// Registry host.
        registry: String,
        /// Cause.
        #[source]
        source: RegistryError,
    },
    /// The registry does not know the account, or was not reached.
    #[error("cannot log in to {registry}")]
    Login {
        /// Registry host.
        registry: String,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
    },
    /// The credential cannot be kept or removed.
    #[error("cannot change the credentials for {registry}")]
    Credentials {
        /// Registry host.
        registry: String,
        /// Cause.
        #[source]
        source: CredentialError,
    },
    /// The search failed.
    #[error("cannot search {registry}")]
    Search {
        /// Registry host.
        registry: String,
        /// Cause.
        #[source]
        source: davit_distribution::Error,
    },
}

impl LoginError {
    /// Tells that the registry does not know the account.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Login { source, .. } if source.is_denied())
    }
}

impl Hint for LoginError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Search { registry, source } if source.is_denied() => {
                vec![format!("davit login {registry}")]
            }
            Self::Search { registry, source } if source.is_not_found() => {
                vec![format!("{registry} does not list its repositories")]
            }
            Self::Login { registry, source } if source.is_certificate() => vec![format!(
                "put the registry's authority into /etc/davit/certs.d/{registry}/ca.crt"
            )],
            Self::Login { registry, source } | Self::Search { registry, source }
                if source.is_plain_http() =>
            {
                vec![plain_http_hint(registry)]
            }
            _ => Vec::new(),
        }
    }
}

/// A name at a registry with its password.
#[derive(Clone, Debug)]
pub struct Account {
    /// Name of the account.
    pub username: String,
    /// Password or access token.
    pub password: Secret,
}

/// Accounts and searches at registries; needs no store, hence no privilege.
#[derive(Clone, Copy, Debug)]
pub struct Accounts<'a> {
    config: &'a Config,
}

impl<'a> Accounts<'a> {
    /// Works with the credential files that `config` names.
    #[must_use]
    pub const fn new(config: &'a Config) -> Self {
        Self { config }
    }

    /// The account that is kept for a registry, if that is a name with a password.
    ///
    /// # Errors
    /// [`LoginError::Credentials`].
    pub fn stored(&self, registry: &str) -> Result<Option<Account>, LoginError> {
        let found = self
            .credentials()
            .find(registry, "")
            .map_err(|source| LoginError::Credentials { registry: registry.to_owned(), source })?;
        Ok(match found {
            Some(Credential::Password { username, password }) => {
                Some(Account { username, password })
            }
            _ => None,
        })
    }

    /// Checks an account.
    ///
    /// # Errors
    /// [`LoginError::Login`] if the registry refuses.
    pub fn check(&self, registry: &str, account: &Account) -> Result<Login, LoginError> {
        let setup = |source| LoginError::Setup { registry: registry.to_owned(), source };
        let registries = Registries::open(self.config).map_err(setup)?;
        let Account { username, password } = account;
        registries
            .wait(registries.client.login(registry, username, password.clone()))
            .map_err(|source| LoginError::Login { registry: registry.to_owned(), source })
    }

    /// Checks an account and keeps its credential for later commands; tells where.
    ///
    /// # Errors
    /// [`LoginError::Login`] if the registry refuses; nothing is kept then.
    pub fn login(&self, registry: &str, account: &Account) -> Result<Saved, LoginError> {
        let login = self.check(registry, account)?;
        self.credentials()
            .save(registry, &login.credential)
            .map_err(|source| LoginError::Credentials { registry: registry.to_owned(), source })
    }

    /// Forgets the credential for a registry, if there is one.
    ///
    /// # Errors
    /// [`LoginError::Credentials`].
    pub fn logout(&self, registry: &str) -> Result<(), LoginError> {
        self.credentials()
            .erase(registry)
            .map(drop)
            .map_err(|source| LoginError::Credentials { registry: registry.to_owned(), source })
    }

    /// Searches a registry for repositories.
    ///
    /// # Errors
    /// [`LoginError::Search`].
    pub fn search(
        &self,
        registry: &str,
        term: &str,
        limit: usize,
    ) -> Result<Vec<SearchEntry>, LoginError> {
        let setup = |source| LoginError::Setup { registry: registry.to_owned(), source };
        let registries = Registries::open(self.config).map_err(setup)?;
        registries
            .wait(registries.client.search(registry, term, limit))
            .map_err(|source| LoginError::Search { registry: registry.to_owned(), source })
    }

    fn credentials(&self) -> CredentialStore {
        CredentialStore::new(registry::credentials(self.config))
    }
}
