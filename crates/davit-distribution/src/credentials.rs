//! Credentials: Docker's `config.json`, credential helpers, and Podman's `auth.json`.
//!
//! Order, as the tools themselves have it: `credHelpers[host]`, else `credsStore`, else `auths` of
//! Docker's file; where that knows nothing, Podman's files, whose keys may name a path too and
//! where the most specific one counts; `~/.dockercfg` at last. Only Docker's file is written.

mod file;
mod helper;

use std::{io, path::PathBuf};

use crate::{CredentialConfig, Secret};

use self::file::AuthFile;

/// Key of Docker Hub in credential files and helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Other names under which Docker Hub's credentials are found.
const HUB_NAMES: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

/// What proves who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// An account's name and password, or access token in place of one.
    Password {
        /// Name of the account.
        username: String,
        /// Password.
        password: Secret,
    },
    /// A refresh token, which a token server changes for an access token.
    Identity(Secret),
    /// An access token, sent as it is.
    Registry(Secret),
}

/// Where a credential went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Saved {
    /// To the helper of this name.
    Helper(String),
    /// In readable form to this file.
    File(PathBuf),
}

/// Why credentials could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read or written.
    #[error("credential file cannot be used")]
    File(#[source] io::Error),
    /// A file is no such JSON document.
    #[error("{path} is malformed")]
    Json {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: serde_json::Error,
    },
    /// An entry's `auth` is no Base64 of `name:password`.
    #[error("{path} has a malformed entry for {key}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// Key of the entry.
        key: String,
    },
    /// A helper's name is no plain word.
    #[error("`{0}` is no name of a credential helper")]
    HelperName(String),
    /// A helper cannot be executed.
    #[error("credential helper {program} cannot be executed")]
    HelperStart {
        /// Name of the program.
        program: String,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// A helper failed.
    #[error("credential helper {program} failed: {message}")]
    Helper {
        /// Name of the program.
        program: String,
        /// What it said.
        message: String,
    },
    /// There is no file to write to.
    #[error("no credential file is configured")]
    NoFile,
}

/// Credentials by registry. Every call reads the files anew and blocks.
#[derive(Clone, Debug)]
pub struct CredentialStore {
    config: CredentialConfig,
}

impl CredentialStore {
    /// Opens nothing yet; files that do not exist are empty.
    #[must_use]
    pub const fn new(config: CredentialConfig) -> Self {
        Self { config }
    }

    /// Finds the credential for a repository of `registry` (as references name it).
    ///
    /// # Errors
    /// See [`CredentialError`]; that nothing is stored is `None`.
    pub fn find(&self, registry: &str, path: &str) -> Result<Option<Credential>, CredentialError> {
        if let Some(file) = &self.config.docker_config {
            let file = AuthFile::read(file)?;
            for key in keys(registry) {
                if let Some(found) = ask_helper(&file, key)? {
                    return Ok(Some(found));
                }
            }
            if let Some(found) = file.find(&host_names(registry))? {
                return Ok(Some(found));
            }
        }
        for file in &self.config.auth_files {
            let file = AuthFile::read(file)?;
            let paths = specific_paths(registry, path);
            if let Some(found) = file.find(&paths)? {
                return Ok(Some(found));
            }
            if let Some(found) = ask_helper(&file, registry)? {
                return Ok(Some(found));
            }
        }
        match &self.config.legacy_file {
            Some(file) => AuthFile::read_legacy(file)?.find(&host_names(registry)),
            None => Ok(None),
        }
    }

    /// Keeps a credential for `registry`: with a helper if one is set, else in Docker's file
    /// (mode 0600, replaced atomically, other settings kept).
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub fn save(&self, registry: &str, credential: &Credential) -> Result<Saved, CredentialError> {
        let path = self.config.docker_config.as_ref().ok_or(CredentialError::NoFile)?;
        let _lock = file::lock(path)?;
        let mut file = AuthFile::read(path)?;
        let key = storage_key(registry);
        if let Some(helper) = file.helper(key) {
            helper::store(helper, key, credential)?;
            let helper = helper.to_owned();
            file.set(key, None);
            file.write()?;
            return Ok(Saved::Helper(helper));
        }
        file.set(key, Some(credential));
        file.write()?;
        Ok(Saved::File(path.clone()))
    }

    /// Forgets the credential for `registry`; tells whether there was one.
    ///
    /// # Errors
    /// See [`CredentialError`].
    pub fn erase(&self, registry: &str) -> Result<bool, CredentialError> {
        let path = self.config.docker_config.as_ref().ok_or(CredentialError::NoFile)?;
        let _lock = file::lock(path)?;
        let mut file = AuthFile::read(path)?;
        let mut erased = false;
        for key in keys(registry) {
            if let Some(helper) = file.helper(key) {
                erased |= helper::get(helper, key)?.is_some();
                helper::erase(helper, key)?;
            }
        }
        erased |= file.remove(&host_names(registry));
        file.write()?;
        Ok(erased)
    }
}

fn ask_helper(file: &AuthFile, key: &str) -> Result<Option<Credential>, CredentialError> {
    file.helper(key).map_or(Ok(None), |helper| helper::get(helper, key))
}

/// The key under which a registry's credential is stored.
fn storage_key(registry: &str) -> &str {
    if is_hub(registry) { HUB_KEY } else { registry }
}

/// The keys under which helpers are asked.
fn keys(registry: &str) -> Vec<&str> {
    if is_hub(registry) { vec![HUB_KEY, "docker.io"] } else { vec![registry] }
}

/// The names that a file's key may have once scheme and path are off.
fn host_names(registry: &str) -> Vec<String> {
    if is_hub(registry) {
        // The key that `docker login` writes comes first.
        ["index.docker.io", "docker.io", "registry-1.docker.io"].map(str::to_owned).to_vec()
    } else {
        vec![registry.to_owned()]
    }
}

fn is_hub(registry: &str) -> bool {
    HUB_NAMES.contains(&registry)
}

/// `host/a/b`, `host/a`, `host`, for each name of the host.
fn specific_paths(registry: &str, path: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for host in host_names(registry) {
        let mut path = path;
        while !path.is_empty() {
            paths.push(format!("{host}/{path}"));
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
    paths.extend(host_names(registry));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specific_paths_come_before_hosts() {
        assert_eq!(specific_paths("h:5000", "a/b"), ["h:5000/a/b", "h:5000/a", "h:5000"]);
        assert_eq!(
            specific_paths("docker.io", "library/x").last().map(String::as_str),
            Some("registry-1.docker.io")
        );
    }
}
