//! What is secret is in no text that a log could bear.

use std::fmt::Debug;

use davit_distribution::Secret;
use davit_registry::{
    auth::{
        audit::Actor,
        ldap::{LdapSource, SetLdap},
        oidc::{Callback, Provider, SetProvider},
    },
    autobuild::source::{AddSource, Credential},
    config::Places,
    db::Location,
    webhooks::{Format, WebhookSettings},
};

/// What stands for every secret.
const HIDDEN: &str = "queen-of-hearts";

fn hidden() -> Secret {
    Secret::new(HIDDEN)
}

fn directory() -> SetLdap {
    let source = LdapSource { bind_password: hidden(), ..LdapSource::default() };
    SetLdap { by: Actor::operator(), name: "corp".to_owned(), source }
}

fn provider() -> SetProvider {
    let provider = Provider {
        issuer: "https://idp.example".to_owned(),
        client_id: "davit".to_owned(),
        client_secret: Some(hidden()),
        signs_up: false,
    };
    SetProvider { by: Actor::operator(), name: "corp".to_owned(), provider }
}

fn places() -> Places {
    let url = Secret::new(format!("postgres://davit:{HIDDEN}@db.example/registry"));
    Places { root: "/".into(), database: Some(Location::Postgres(url)), store: None }
}

fn settings() -> Secret {
    let url = "https://hook.example".to_owned();
    let format = Format::default();
    WebhookSettings { url, format, secret: hidden(), allow_private: false }.to_json()
}

#[test]
fn no_secret_is_printed() {
    let callback = Callback { code: Some(hidden()), ..Callback::default() };
    let shown: [&dyn Debug; 5] = [&directory(), &provider(), &places(), &settings(), &callback];
    for one in shown {
        let text = format!("{one:?}");
        assert!(!text.contains(HIDDEN), "{text}");
    }
}

#[test]
fn a_source_does_not_print_where_its_webhook_is() {
    let path = "alice/app".parse().unwrap();
    let credential = Some(Credential::Token(hidden()));
    let url = "https://git.example/alice/app.git";
    let source =
        AddSource::new(Actor::operator(), path, url, credential, Default::default()).unwrap();
    let text = format!("{source:?} {:?}", source.hook());
    let key = source.hook().path.expose().trim_start_matches("/hooks/").to_owned();
    assert_eq!(key.len(), 48);
    for secret in [HIDDEN, &key, source.hook().secret.expose()] {
        assert!(!text.contains(secret), "{text}");
    }
}
