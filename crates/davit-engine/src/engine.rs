//! The open engine.

use davit_store::{Remover, Store, StoreError, StoreOptions};

use crate::{Config, Hint, config::KeepBlobs, process::REMOVAL};

/// Use cases over one root: each group is a file of this crate with its own `impl Engine`.
///
/// Opening is cheap (under 1 ms). Drop it after the result is reported: a database that has grown
/// is tidied then.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    store: Store,
}

/// Why an engine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The caller is not root.
    #[error("davit needs root: it cannot run rootless yet")]
    NotRoot,
    /// The root is not usable.
    #[error("cannot open the store at {root}")]
    Store {
        /// The `--root`.
        root: String,
        /// Why.
        #[source]
        source: StoreError,
    },
}

impl Hint for OpenError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotRoot => vec!["sudo davit …".to_owned()],
            Self::Store { source, .. } if source.is_remote_root() => {
                vec!["davit --root DIR …, with DIR on a local disk".to_owned()]
            }
            Self::Store { .. } => Vec::new(),
        }
    }
}

impl Engine {
    /// Opens the root that `config` names; makes it when it is absent or empty.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: Config) -> Result<Self, OpenError> {
        Self::check_privilege()?;
        let mut options = StoreOptions::new(&config.root, &config.run_root);
        let (executable, arguments) = (config.executable.clone(), vec![REMOVAL.into()]);
        options.remover = Some(Remover { executable, arguments });
        let store = Store::open(options).map_err(|source| OpenError::Store {
            root: config.root.display().to_string(),
            source,
        })?;
        Ok(Self { config, store })
    }

    /// Refuses a caller who could do nothing, for who asks something of them before.
    ///
    /// # Errors
    /// [`OpenError::NotRoot`].
    pub fn check_privilege() -> Result<(), OpenError> {
        if rustix::process::geteuid().is_root() { Ok(()) } else { Err(OpenError::NotRoot) }
    }

    /// The store alone.
    pub(crate) fn into_store(self) -> Store {
        self.store
    }

    /// What the engine was told.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether compressed layers stay beside their tars.
    pub(crate) fn keeps_blobs(&self) -> bool {
        self.config.settings.store.keep_blobs == KeepBlobs::Always
    }

    /// Its store.
    #[must_use]
    pub const fn store(&self) -> &Store {
        &self.store
    }
}
