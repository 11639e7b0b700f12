//! Pull, push, login, search and copy against scripted and real registries.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod account;
mod copy;
mod fault;
mod index;
mod judge;
mod names;
mod platform;
mod pull;
mod push;
mod referrers;
mod sources;
mod ways;

use davit_test::{Content, Davit, HttpServer, tar_of};

use crate::davit;

/// A registry that serves `content` without faults.
fn serve(content: Content) -> HttpServer {
    HttpServer::start(move |request| content.serve(request))
}

/// A layer with one small file.
fn layer(name: &str) -> Vec<u8> {
    tar_of(&[(name, name.as_bytes())])
}

/// Gives the user a `config.toml`.
fn configure(davit: &Davit, text: &str) {
    let folder = davit.dir().join(".config/davit");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("config.toml"), text).unwrap();
}

/// Requests for blobs, as `PATH` or `PATH RANGE`, in order of arrival.
fn blob_requests(server: &HttpServer) -> Vec<String> {
    let requests = server.requests();
    let blobs = requests.iter().filter(|r| r.method == "GET" && r.path.contains("/blobs/"));
    blobs
        .map(|request| match request.header("range") {
            Some(range) => format!("{} {range}", request.path),
            None => request.path.clone(),
        })
        .collect()
}
