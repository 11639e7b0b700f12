//! `config.json` and `auth.json`: one format.

use std::{
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use fs_err as fs;
use serde_json::{Map, Value, json};

use crate::{Credential, CredentialError, Secret};

/// Largest file that is read.
const LARGEST_BYTES: u64 = 4 << 20;

/// A credential file in memory; unknown settings survive a rewrite.
#[derive(Debug)]
pub(super) struct AuthFile {
    path: PathBuf,
    root: Map<String, Value>,
    changed: bool,
}

impl AuthFile {
    /// Reads a file; one that does not exist is empty.
    pub(super) fn read(path: &Path) -> Result<Self, CredentialError> {
        let empty = || Self { path: path.to_owned(), root: Map::new(), changed: false };
        let text = match read_bounded(path) {
            Ok(text) if text.trim_ascii().is_empty() => return Ok(empty()),
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(empty()),
            Err(source) => return Err(CredentialError::File(source)),
        };
        let root = serde_json::from_slice(&text)
            .map_err(|source| CredentialError::Json { path: path.to_owned(), source })?;
        Ok(Self { root, ..empty() })
    }

    /// Reads a file that is all entries, without `auths` around them; one that does not exist is
    /// empty.
    pub(super) fn read_legacy(path: &Path) -> Result<Self, CredentialError> {
        let Self { path, root, changed } = Self::read(path)?;
        let root = Map::from_iter([("auths".to_owned(), Value::Object(root))]);
        Ok(Self { path, root, changed })
    }

    /// Name of the helper that is responsible for `key`.
    pub(super) fn helper(&self, key: &str) -> Option<&str> {
        let host = bare(key);
        let helpers = self.root.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| {
            helpers.get(key).or_else(|| {
                helpers.iter().find(|(name, _)| bare(name) == host).map(|(_, helper)| helper)
            })
        });
        let helper = own.or_else(|| self.root.get("credsStore"));
        helper.and_then(Value::as_str).filter(|helper| !helper.is_empty())
    }

    /// The entry whose key is one of `names`, the first name first.
    pub(super) fn find(&self, names: &[String]) -> Result<Option<Credential>, CredentialError> {
        let Some(auths) = self.auths() else { return Ok(None) };
        for name in names {
            // An exact key counts before one that is equal only without scheme and path.
            let exact = auths.get_key_value(name);
            let alike = || auths.iter().find(|(key, _)| bare(key) == name || trim(key) == name);
            let Some((key, entry)) = exact.or_else(alike) else { continue };
            if let Some(found) = self.credential(key, entry)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn auths(&self) -> Option<&Map<String, Value>> {
        self.root.get("auths").and_then(Value::as_object)
    }

    fn credential(&self, key: &str, entry: &Value) -> Result<Option<Credential>, CredentialError> {
        let text =
            |field: &str| entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::Registry(Secret::new(token))));
        }
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::Identity(Secret::new(token))));
        }
        if let Some(auth) = text("auth") {
            let error = || CredentialError::Entry { path: self.path.clone(), key: key.to_owned() };
            let plain = BASE64.decode(auth.trim()).map_err(|_| error())?;
            let plain = String::from_utf8(plain).map_err(|_| error())?;
            let (username, password) = plain.split_once(':').ok_or_else(error)?;
            // Docker pads with NUL.
            let password = password.trim_matches('\0');
            return Ok(Some(Credential::Password {
                username: username.to_owned(),
                password: Secret::new(password),
            }));
        }
        let (Some(username), Some(password)) = (text("username"), text("password")) else {
            return Ok(None);
        };
        Ok(Some(Credential::Password {
            username: username.to_owned(),
            password: Secret::new(password),
        }))
    }

    /// Sets or empties the entry of `key`. A helper's entry stays, empty, as Docker writes it.
    pub(super) fn set(&mut self, key: &str, credential: Option<&Credential>) {
        let entry = match credential {
            None => json!({}),
            Some(Credential::Password { username, password }) => {
                json!({ "auth": BASE64.encode(format!("{username}:{}", password.expose())) })
            }
            Some(Credential::Identity(token)) => json!({ "identitytoken": token.expose() }),
            Some(Credential::Registry(token)) => json!({ "registrytoken": token.expose() }),
        };
        let auths = self.root.entry("auths").or_insert_with(|| json!({}));
        if !auths.is_object() {
            *auths = json!({});
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.insert(key.to_owned(), entry);
            self.changed = true;
        }
    }

    /// Removes every entry that one of `names` finds.
    pub(super) fn remove(&mut self, names: &[String]) -> bool {
        let Some(auths) = self.root.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|key, _| !names.iter().any(|name| key == name || bare(key) == name));
        let removed = auths.len() != before;
        self.changed |= removed;
        removed
    }

    /// Replaces the file: written beside it with mode 0600, synced, renamed. A symbolic link
    /// stays one.
    pub(super) fn write(&self) -> Result<(), CredentialError> {
        if !self.changed {
            return Ok(());
        }
        let target = fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let mut text = serde_json::to_vec_pretty(&self.root)
            .map_err(|source| CredentialError::Json { path: self.path.clone(), source })?;
        text.push(b'\n');
        replace(&target, &text).map_err(CredentialError::File)
    }
}

/// Takes the lock under which a credential file is rewritten, on its folder, which it creates.
pub(super) fn lock(path: &Path) -> Result<fs::File, CredentialError> {
    let folder = folder_of(path);
    let locked = || -> io::Result<fs::File> {
        fs::create_dir_all(folder)?;
        let folder = fs::File::open(folder)?;
        folder.file().lock()?;
        Ok(folder)
    };
    locked().map_err(CredentialError::File)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

fn replace(target: &Path, content: &[u8]) -> io::Result<()> {
    let folder = folder_of(target);
    let name = format!(".davit-credentials-{}", std::process::id());
    let unfinished = folder.join(name);
    match fs::remove_file(&unfinished) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    options.options_mut().mode(0o600);
    let mut file = options.open(&unfinished)?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    if let Err(e) = written.and_then(|()| fs::rename(&unfinished, target)) {
        // The first error is the one that tells; the file is ours and useless.
        let _ignored = fs::remove_file(&unfinished);
        return Err(e);
    }
    fs::File::open(folder)?.sync_all()
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path)?.take(LARGEST_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LARGEST_BYTES {
        let message = format!("{} is larger than {LARGEST_BYTES} bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

/// A key without scheme and path.
fn bare(key: &str) -> &str {
    trim(key).split('/').next().unwrap_or(key)
}

/// A key without scheme and trailing slash.
fn trim(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.trim_end_matches('/')
}
