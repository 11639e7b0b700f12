//! Which daemon Docker was told to use: davit takes the place of one on this machine alone.

use std::{net::IpAddr, path::Path};

use davit_engine::image::Digest;
use serde_json::Value;

use super::Words;
use crate::environment;

/// The context that stands for no context.
const DEFAULT: &str = "default";

/// The address of the daemon that Docker would speak to, if somebody named one: an option, then
/// `DOCKER_HOST`, `DOCKER_CONTEXT`, the configuration.
pub(super) fn address(words: &Words) -> Option<String> {
    if words.context.is_none() {
        let host = words.host.clone().or_else(|| environment::variable_text("DOCKER_HOST"));
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            return Some(host);
        }
    }
    let folder = environment::docker_folder(words.config.as_deref())?;
    let name = words.context.clone();
    let name = name.or_else(|| environment::variable("DOCKER_CONTEXT")?.into_string().ok());
    let name = name.or_else(|| {
        let settings = read(&folder.join("config.json"))?;
        settings["currentContext"].as_str().map(str::to_owned)
    })?;
    of_context(&folder, &name)
}

/// The address that a context of Docker's names.
fn of_context(folder: &Path, name: &str) -> Option<String> {
    if name.is_empty() || name == DEFAULT {
        return None;
    }
    // The folder of a context is called by the digest of its name.
    let place = folder.join("contexts/meta").join(Digest::of(name.as_bytes()).hex());
    let context = read(&place.join("meta.json"))?;
    context["Endpoints"]["docker"]["Host"].as_str().map(str::to_owned)
}

/// What cannot be read says nothing; Docker itself has told of it.
fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs_err::read(path).ok()?).ok()
}

/// Whether a daemon's address is that of another machine.
pub(crate) fn is_elsewhere(host: &str) -> bool {
    let Some((scheme, rest)) = host.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.is_loopback();
    match scheme {
        "unix" | "npipe" | "fd" => false,
        _ if matches!(name, "" | "localhost") => false,
        _ => !name.parse().is_ok_and(is_loopback),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_on_this_machine_is_davit() {
        for near in
            ["unix:///x", "tcp://127.0.0.1:2375", "tcp://[::1]:2375", "tcp://localhost", "x", ""]
        {
            assert!(!is_elsewhere(near), "{near}");
        }
        for far in
            ["tcp://10.0.0.1:2375", "ssh://user@host", "http://example.com/", "tcp://[2001::1]:1"]
        {
            assert!(is_elsewhere(far), "{far}");
        }
    }
}
