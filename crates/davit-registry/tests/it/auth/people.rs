//! People in browsers: sign-up, sessions.

use davit_registry::auth::{
    AccountError, SignUpError,
    accounts::{RevokeToken, SetPassword, SetSignUp, SetState, SignUpMode, tokens},
};

use super::*;

async fn mode(site: &Site, mode: SignUpMode) {
    site.database.write(SetSignUp { by: Actor::operator(), mode }).await.unwrap();
}

#[tokio::test]
async fn sign_up_is_open_by_invitation_or_closed() {
    let site = Site::new().await;
    let password = Secret::new(PASSWORD);
    let sign_up = async |name: &str, invitation: Option<&str>| {
        site.auth.sign_up(name, &password, invitation, HERE).await
    };
    let closed = |outcome| matches!(outcome, Err(SignUpError::Account(AccountError::Closed(_))));
    assert_eq!(site.auth.sign_up_mode().await.unwrap(), SignUpMode::Closed);
    assert!(closed(sign_up("alice", None).await));
    mode(&site, SignUpMode::Open).await;
    assert_eq!(site.auth.sign_up_mode().await.unwrap(), SignUpMode::Open);
    sign_up("alice", None).await.unwrap();
    let caller = site.basic("alice", PASSWORD).await.unwrap();
    assert_eq!(site.decide(&caller, Action::Push, "alice/app").await, Decision::Allow);
    let short = site.auth.sign_up("carol", &Secret::new("short"), None, HERE).await;
    assert!(matches!(short, Err(SignUpError::Account(AccountError::Password(_)))), "{short:?}");

    mode(&site, SignUpMode::Invite).await;
    site.sql("UPDATE account SET is_admin = 1 WHERE name = 'alice'", Vec::new()).await;
    let token = OpaqueToken::new(OpaqueKind::Invite);
    let invite = AddToken {
        by: Actor::operator(),
        account: "alice".to_owned(),
        kind: OpaqueKind::Invite,
        name: "for bob".to_owned(),
        hash: token.hash(),
        scopes: Vec::new(),
        life_ms: Some(60_000),
    };
    site.database.write(invite).await.unwrap();
    let text = token.secret().expose();
    assert!(closed(sign_up("bob", None).await));
    // A name that is taken is told only to who may sign up.
    assert!(closed(sign_up("alice", Some("davit_inv_00")).await));
    site.database.advance_clock(std::time::Duration::from_secs(61));
    assert!(closed(sign_up("bob", Some(text)).await), "its time is over");
    site.sql("UPDATE token SET expires_at = expires_at + 61000", Vec::new()).await;
    // Of many at once, one is let in.
    let all = futures_util::future::join_all(
        ["bob", "dave", "erin"].map(|name| site.auth.sign_up(name, &password, Some(text), HERE)),
    );
    let all = all.await;
    assert_eq!(all.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{all:?}");
}

#[tokio::test]
async fn sign_ups_of_one_address_have_a_bound() {
    let site = Site::with(throttled(100, 3)).await;
    for _ in 0..3 {
        assert!(site.auth.sign_up("alice", &Secret::new(PASSWORD), None, HERE).await.is_err());
    }
    let refused = site.auth.sign_up("alice", &Secret::new(PASSWORD), None, HERE).await;
    assert!(matches!(refused, Err(SignUpError::Throttled(_))), "{refused:?}");
}

#[tokio::test]
async fn sessions_are_listed_and_end() {
    let site = Site::new().await;
    for name in ["alice", "bob"] {
        site.add(name, Kind::User).await;
    }
    let password = Secret::new(PASSWORD);
    let log_in = async |name| site.auth.log_in(name, &password, HERE).await.unwrap();
    let is_in = async |token: &OpaqueToken| {
        site.auth.session(token.secret().expose()).await.unwrap().is_some()
    };
    let rows = async |name| {
        let rows = tokens(&site.database, name).await.unwrap();
        rows.into_iter().map(|row| (row.id, row.kind)).collect::<Vec<_>>()
    };
    let first = log_in("alice").await;
    let text = first.secret().expose();
    let caller = site.auth.session(text).await.unwrap().unwrap();
    assert_eq!(site.decide(&caller, Action::Push, "alice/app").await, Decision::Allow);
    assert_eq!(
        rows("alice").await.iter().map(|row| row.1.as_str()).collect::<Vec<_>>(),
        ["session"]
    );
    // The database has no secret, and a session is no credential of the protocol.
    let mut reader = site.database.reader().await.unwrap();
    let row = reader.row("SELECT sha256 FROM token", Vec::new()).await.unwrap().unwrap();
    assert_eq!(row.get::<Vec<u8>>(0).unwrap().len(), 32);
    drop(reader);
    for refused in [
        site.bearer(text).await,
        site.basic("alice", text).await,
        site.basic("<token>", text).await,
    ] {
        assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");
    }
    // Nor is another token a session, or a password here.
    let (_, pat) = site.token("alice", "", None).await;
    assert!(site.auth.session(&pat).await.unwrap().is_none());
    let refused = site.auth.log_in("alice", &Secret::new(pat), HERE).await;
    assert!(matches!(refused, Err(Refusal::Wrong)), "{refused:?}");

    let second = log_in("alice").await;
    site.auth.log_out(text, HERE).await.unwrap();
    assert_eq!((is_in(&first).await, is_in(&second).await), (false, true));
    let (id, _) = rows("alice").await.pop().unwrap();
    let revoke = RevokeToken { by: Actor::operator(), account: "bob".to_owned(), id };
    assert!(site.database.write(revoke.clone()).await.is_err(), "another's row does not count");
    assert!(is_in(&second).await);
    site.database.write(RevokeToken { account: "alice".to_owned(), ..revoke }).await.unwrap();
    assert!(!is_in(&second).await);

    let third = log_in("alice").await;
    let password = PasswordHash::new(&Secret::new("looking-glass")).unwrap();
    let set = SetPassword { by: Actor::operator(), name: "alice".to_owned(), password };
    site.database.write(set).await.unwrap();
    assert!(!is_in(&third).await, "a new password ends every session");
    let bob = log_in("bob").await;
    for (is_active, expected) in [(false, false), (true, true)] {
        let set = SetState { by: Actor::operator(), name: "bob".to_owned(), is_active };
        site.database.write(set).await.unwrap();
        assert_eq!(is_in(&bob).await, expected);
    }
    site.database.advance_clock(std::time::Duration::from_secs(31 * 24 * 3600));
    assert!(!is_in(&bob).await, "its time is over");
}
