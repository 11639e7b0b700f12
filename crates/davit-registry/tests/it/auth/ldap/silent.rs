//! Directories that do not answer: who they keep waiting, how long, and what is said.

use std::{
    io::ErrorKind,
    net::TcpListener,
    time::{Duration, Instant},
};

use davit_registry::auth::ldap::LdapLimits;
use tokio::task::JoinSet;

use super::*;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(50);

/// A directory on loopback that takes connections and says nothing.
fn mute() -> (TcpListener, LdapSource) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ldap://{}", listener.local_addr().unwrap());
    (listener, LdapSource { url, start_tls: false, ..LdapSource::default() })
}

fn closed() -> LdapSource {
    mute().1
}

fn settings(per_address: u32, ldap: LdapLimits) -> AuthSettings {
    AuthSettings { ldap, ..throttled(1000, per_address) }
}

async fn log_in(site: &Site, name: &str) -> Result<Caller, Refusal> {
    site.basic(name, PASSWORD).await
}

/// Tells whether somebody has connected who was not seen yet.
fn is_called(listener: &TcpListener) -> bool {
    listener.set_nonblocking(true).unwrap();
    match listener.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

/// One login hangs at the directory, others wait for their turn: who has a password here logs in from the
/// same address, though two wrong attempts at a time are all that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_hangs_keeps_nobody_else_out() {
    let (listener, source) = mute();
    let limits = LdapLimits { connect: LONG, person: LONG, rest: LONG, at_once: 1 };
    let site = Arc::new(site_with(source, settings(2, limits)).await);
    let (mut waiting, mut held) = (JoinSet::new(), None);
    for number in 0..4 {
        let site = Arc::clone(&site);
        waiting.spawn(async move { log_in(&site, &format!("someone{number}")).await });
        if number == 0 {
            // It holds the only turn from here on.
            let listener = listener.try_clone().unwrap();
            let accepted = tokio::task::spawn_blocking(move || listener.accept().unwrap()).await;
            held = Some(accepted.unwrap());
        }
    }
    // So many that those others have come to their waiting before the last of them.
    for number in 0..10 {
        let name = format!("local{number}");
        site.add(&name, Kind::User).await;
        let begun = Instant::now();
        loop {
            // Who comes to wait holds an attempt as long as the password is looked for here.
            match log_in(&site, &name).await {
                Ok(_) => break,
                Err(Refusal::Throttled(_)) if begun.elapsed() < Duration::from_secs(60) => {
                    tokio::time::sleep(SHORT).await;
                }
                Err(refusal) => panic!("{refusal:?}"),
            }
        }
    }
    assert!(!is_called(&listener), "one at a time");
    waiting.abort_all();
    drop(held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_end_and_a_directory_that_does_not_answer_rests() {
    let (listener, source) = mute();
    let limits = LdapLimits { connect: SHORT, person: SHORT, rest: LONG, at_once: 4 };
    // With StartTLS the connection is not usable before it has answered.
    for start_tls in [false, true] {
        let source = LdapSource { start_tls, ..source.clone() };
        let site = site_with(source.clone(), settings(2, limits)).await;
        let refused = log_in(&site, "someone").await;
        assert!(matches!(refused, Err(Refusal::Directory)), "{refused:?}");
        assert!(is_called(&listener));
        // Nobody waits for it again, nobody is throttled for it, and people of this registry log in.
        for _ in 0..4 {
            let refused = log_in(&site, "someone").await;
            assert!(matches!(refused, Err(Refusal::Directory)), "{refused:?}");
        }
        assert!(!is_called(&listener));
        log_in(&site, "alice").await.unwrap();
        let wrong = site.basic("alice", "wrong-password").await;
        assert!(matches!(wrong, Err(Refusal::Wrong)), "{wrong:?}");
        // Other settings may be better ones.
        set(&site, LdapSource { signs_up: false, ..source }).await.unwrap();
        let refused = log_in(&site, "someone").await;
        assert!(matches!(refused, Err(Refusal::Directory)), "{refused:?}");
        assert!(is_called(&listener));
    }
    let none = LdapLimits { rest: Duration::ZERO, ..limits };
    let site = site_with(source, settings(2, none)).await;
    for _ in 0..3 {
        let refused = log_in(&site, "someone").await;
        assert!(matches!(refused, Err(Refusal::Directory)), "{refused:?}");
        assert!(is_called(&listener), "who does not rest is asked each time");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_is_told_in_one_way() {
    let site = site_with(closed(), settings(1000, LdapLimits::default())).await;
    let refused = log_in(&site, "someone").await;
    let Err(refusal @ Refusal::Directory) = &refused else { panic!("{refused:?}") };
    let response = davit_registry::auth::refused(refusal);
    assert_eq!(response.status(), http::StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key(http::header::RETRY_AFTER));
    assert!(refusal.to_string().contains("directory"), "{refusal}");
    log_in(&site, "alice").await.unwrap();
    // What no directory is asked about is wrong as ever.
    for (name, password) in [("someone", ""), ("acme+ci", PASSWORD), ("Some One", PASSWORD)] {
        let refused = site.basic(name, password).await;
        assert!(matches!(refused, Err(Refusal::Wrong)), "{name}: {refused:?}");
    }
}

/// One directory out of order is no reason not to ask the next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_directory_is_asked() {
    let Some(slapd) = Slapd::start() else { return };
    let site = site(closed()).await;
    let second =
        SetLdap { by: Actor::operator(), name: "other".to_owned(), source: slapd.source() };
    site.database.write(second).await.unwrap();
    site.basic("nina", LDAP_PASSWORD).await.unwrap();
    // The other one may know this password.
    let refused = site.basic("nina", "wrong-password").await;
    assert!(matches!(refused, Err(Refusal::Directory)), "{refused:?}");
}
