//! The pages over HTTP, and in a real browser.

mod automation;
mod browser;
mod forms;
mod identity;
mod oidc;
mod pages;

use crate::{
    api::PASSWORD,
    fixture::{Reply, TestRegistry},
};

/// A browser without a screen: its cookies and the CSRF token of the last page.
pub(crate) struct Browser<'r> {
    registry: &'r TestRegistry,
    cookies: Vec<(String, String)>,
    token: String,
}

impl<'r> Browser<'r> {
    pub(crate) fn new(registry: &'r TestRegistry) -> Self {
        Self { registry, cookies: Vec::new(), token: String::new() }
    }

    pub(crate) fn logged_in(registry: &'r TestRegistry, name: &str) -> Self {
        let mut browser = Self::new(registry);
        browser.get("/login");
        let reply = browser.post("/login", &[("name", name), ("password", PASSWORD)]);
        assert_eq!((reply.status, reply.header("location")), (303, Some("/")), "{reply:?}");
        browser.get("/");
        browser
    }

    fn cookie(&self) -> String {
        let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let cookie = self.cookie();
        let mut all = headers.to_vec();
        if !cookie.is_empty() {
            all.push(("Cookie", &cookie));
        }
        let reply = self.registry.send(method, path, &all, body.as_bytes());
        for line in reply.headers("set-cookie") {
            let (pair, _) = line.split_once(';').unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !line.contains("Max-Age=0") {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let is_page =
            reply.header("content-type").is_some_and(|kind| kind.starts_with("text/html"));
        if is_page && let Some((_, rest)) = reply.text().split_once("name=\"csrf\" value=\"") {
            self.token = rest.split('"').next().unwrap().to_owned();
        }
        reply
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], "")
    }

    /// Sends a form with the token of the last page.
    pub(crate) fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let token = self.token.clone();
        let mut form = vec![("csrf", token.as_str())];
        form.extend(fields);
        self.post_as_it_is(path, &form, &[])
    }

    pub(crate) fn post_as_it_is(
        &mut self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Reply {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let body = form.extend_pairs(fields).finish();
        let mut all = vec![("Content-Type", "application/x-www-form-urlencoded")];
        all.extend(headers);
        self.send("POST", path, &all, &body)
    }
}
