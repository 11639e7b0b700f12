//! The credential helper protocol: `docker-credential-NAME get|store|erase`, JSON by pipes.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::{Credential, CredentialError, Secret};

/// Username by which a helper says that its secret is an identity token.
const IDENTITY: &str = "<token>";
/// Helpers answer this, with a failure, when they have nothing.
const NOT_FOUND: [&str; 2] = ["credentials not found", "no credentials server URL"];

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "ServerURL", default)]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: Secret,
}

pub(super) fn get(name: &str, key: &str) -> Result<Option<Credential>, CredentialError> {
    let output = run(name, "get", key.as_bytes())?;
    if !output.status.success() {
        let message = message(&output);
        if NOT_FOUND.iter().any(|text| message.to_lowercase().contains(&text.to_lowercase())) {
            return Ok(None);
        }
        return Err(CredentialError::Helper { program: program(name), message });
    }
    let entry: Entry = serde_json::from_slice(&output.stdout)
        .map_err(|source| CredentialError::Json { path: program(name).into(), source })?;
    Ok(match (entry.username.as_str(), entry.secret.expose()) {
        ("", "") => None,
        (IDENTITY, _) => Some(Credential::Identity(entry.secret)),
        _ => Some(Credential::Password { username: entry.username, password: entry.secret }),
    })
}

pub(super) fn store(name: &str, key: &str, credential: &Credential) -> Result<(), CredentialError> {
    let (username, secret) = match credential {
        Credential::Password { username, password } => (username.as_str(), password),
        Credential::Identity(token) | Credential::Registry(token) => (IDENTITY, token),
    };
    let entry =
        Entry { server_url: key.to_owned(), username: username.to_owned(), secret: secret.clone() };
    let input = serde_json::to_vec(&entry).expect("strings serialise to JSON");
    succeed(name, &run(name, "store", &input)?)
}

pub(super) fn erase(name: &str, key: &str) -> Result<(), CredentialError> {
    let output = run(name, "erase", key.as_bytes())?;
    let nothing = NOT_FOUND.iter().any(|text| message(&output).contains(text));
    if nothing { Ok(()) } else { succeed(name, &output) }
}

fn succeed(name: &str, output: &Output) -> Result<(), CredentialError> {
    if output.status.success() {
        return Ok(());
    }
    Err(CredentialError::Helper { program: program(name), message: message(output) })
}

fn program(name: &str) -> String {
    format!("docker-credential-{name}")
}

/// What a failed helper says: Docker's own print it to stdout.
fn message(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    let text = text.iter().map(|text| text.trim()).find(|text| !text.is_empty());
    let clean = text.unwrap_or("it gave no reason").chars().filter(|c| !c.is_control());
    clean.take(400).collect()
}

/// Executes the helper (by `posix_spawn`, so that threads of this process do no harm).
fn run(name: &str, verb: &str, input: &[u8]) -> Result<Output, CredentialError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(CredentialError::HelperName(name.to_owned()));
    }
    let failed = |source| CredentialError::HelperStart { program: program(name), source };
    let mut child = Command::new(program(name))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // The input is far smaller than a pipe's buffer. A helper that does not read it says why.
    let _unread = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().map_err(failed)
}
