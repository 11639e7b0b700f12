//! Sessions, cookies, CSRF: who a form comes from.

use serde_json::{Value, json};

use super::Browser;
use crate::{api::PASSWORD, fixture::TestRegistry};

#[test]
fn people_sign_up_log_in_and_out() {
    let registry = TestRegistry::with_accounts(None);
    let mut browser = Browser::new(&registry);
    let page = browser.get("/signup");
    assert_eq!(page.status, 200);
    let reply = browser.post("/signup", &[("name", "admin"), ("password", PASSWORD)]);
    assert_eq!(reply.status, 409, "{reply:?}");
    assert!(reply.text().contains("role=\"alert\""));
    let reply = browser.post("/signup", &[("name", "alice"), ("password", "short")]);
    assert_eq!(reply.status, 400);
    let reply = browser.post("/signup", &[("name", "alice"), ("password", PASSWORD)]);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/")), "{reply:?}");
    assert!(browser.get("/").text().contains("href=\"/a/alice\""));
    assert_eq!(browser.get("/settings").status, 200);
    // The cookie is no credential elsewhere.
    let session =
        browser.cookies.iter().find(|(name, _)| name == "davit_session").unwrap().1.clone();
    for path in ["/v2/", "/api/v1/me"] {
        let bearer = format!("Bearer {session}");
        let reply = registry.send("GET", path, &[("Authorization", &bearer)], b"");
        assert_eq!(reply.status, 401, "{path}");
        let cookie = format!("davit_session={session}");
        let reply = registry.send("GET", path, &[("Cookie", &cookie)], b"");
        assert_eq!(reply.status, if path == "/v2/" { 401 } else { 200 }, "{path}");
    }
    let reply = browser.post("/logout", &[]);
    assert_eq!(reply.status, 303);
    let cookie = format!("davit_session={session}");
    assert_eq!(registry.send("GET", "/settings", &[("Cookie", &cookie)], b"").status, 303);
    browser.get("/login?next=/settings/tokens");
    let wrong = browser.post("/login", &[("name", "alice"), ("password", "wrong password")]);
    assert_eq!(wrong.status, 401);
    let fields = [("name", "alice"), ("password", PASSWORD), ("next", "/settings/tokens")];
    let reply = browser.post("/login", &fields);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/settings/tokens")));
    // A link cannot have what was typed, as the password, written into an address.
    let mut lured = Browser::new(&registry);
    lured.get("/login");
    let fields = [("name", "alice"), ("password", PASSWORD), ("next", "/r/{name}")];
    assert_eq!(lured.post("/login", &fields).header("location"), Some("/r/{name}"));
    // Whose session has ended comes back to the page, not to where its form was sent.
    let form = [("account", "alice"), ("name", "x"), ("from", "/settings/tokens")];
    let ended = [("davit_session".to_owned(), session.clone())];
    let mut late = Browser::new(&registry);
    late.get("/login");
    late.cookies.extend(ended);
    let reply = late.post("/do/createToken", &form);
    assert_eq!(reply.header("location"), Some("/login?next=%2Fsettings%2Ftokens"), "{reply:?}");
    // A token may be narrow: it is no password of pages.
    let token = browser.get("/settings/tokens");
    assert_eq!(token.status, 200);
    // That of `lured` is another.
    let kinds = ["<small>this browser<", "<small>browser<"];
    let counts = kinds.map(|kind| token.text().matches(kind).count());
    assert_eq!(counts, [1, 1], "{}", token.text());
    let made =
        browser.post("/do/createToken", &[("account", "alice"), ("name", "x"), ("next", "/")]);
    let (_, rest) = made.text().split_once("data-copy=\"").unwrap();
    let secret = rest.split('"').next().unwrap().to_owned();
    assert!(secret.starts_with("davit_pat_"), "{secret}");
    let mut other = Browser::new(&registry);
    other.get("/login");
    let reply = other.post("/login", &[("name", "alice"), ("password", &secret)]);
    assert_eq!(reply.status, 401);
}

#[test]
fn logins_are_throttled() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("alice", false);
    let mut browser = Browser::new(&registry);
    browser.get("/login");
    let mut last = 0;
    // Some are forgotten again while a slow machine hashes.
    for _ in 0..200 {
        let fields = [("name", "alice"), ("password", "not the password")];
        let reply = browser.post("/login", &fields);
        last = reply.status;
        if last == 429 {
            assert!(reply.header("retry-after").is_some());
            break;
        }
    }
    assert_eq!(last, 429);
}

#[test]
fn forms_count_only_with_the_browsers_token() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("alice", false);
    registry.user("mallory", false);
    let mut mallory = Browser::logged_in(&registry, "mallory");
    let mut alice = Browser::logged_in(&registry, "alice");
    let (own, foreign) = (alice.token.clone(), mallory.token.clone());
    assert!(own.len() == 64 && own != foreign);
    let cases: [(&str, &[(&str, &str)]); 5] = [
        ("", &[]),
        (&foreign, &[]),
        (&own[..63], &[]),
        (&own, &[("Sec-Fetch-Site", "cross-site")]),
        (&own, &[("Origin", "http://evil.test")]),
    ];
    for (token, headers) in cases {
        for path in ["/do/createOrganisation", "/login", "/logout", "/signup"] {
            let form = [("csrf", token), ("name", "acme"), ("next", "/")];
            let reply = alice.post_as_it_is(path, &form, headers);
            assert_eq!(reply.status, 403, "{path} {token} {headers:?}");
        }
    }
    // By GET nothing is changed.
    assert_eq!(alice.get("/do/createOrganisation?name=acme").status, 404);
    assert_eq!(alice.get("/logout").status, 404);
    let own_page = [("Origin", "http://localhost"), ("Sec-Fetch-Site", "same-origin")];
    let form =
        [("csrf", own.as_str()), ("name", "acme"), ("next", "/a/{name}"), ("done", "Done <b>!")];
    let reply = alice.post_as_it_is("/do/createOrganisation", &form, &own_page);
    assert_eq!((reply.status, reply.header("location")), (303, Some("/a/acme")), "{reply:?}");
    let page = alice.get("/a/acme");
    assert!(page.text().contains("Done &#60;b&#62;!"), "{}", page.text());
    assert!(!alice.get("/a/acme").text().contains("Done"), "a note is told once");
    // The gate stands behind the token.
    let form = [("account", "acme"), ("name", "dev"), ("next", "/")];
    assert_eq!(mallory.post("/do/createTeam", &form).status, 404);
    assert_eq!(alice.post("/do/createTeam", &form).status, 303);
    assert_eq!(alice.post("/do/listUsers", &[]).status, 404, "forms only change");
}

#[test]
fn the_api_takes_the_cookie_with_the_token_only() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("alice", false);
    let mut alice = Browser::logged_in(&registry, "alice");
    let token = alice.token.clone();
    let json = ("Content-Type", "application/json");
    let body = json!({ "name": "acme" }).to_string();
    assert_eq!(alice.send("GET", "/api/v1/me", &[], "").json()["name"], "alice");
    let reply = alice.send("POST", "/api/v1/organisations", &[json], &body);
    assert_eq!(reply.status, 403);
    let reply = alice.send("POST", "/api/v1/organisations", &[json, ("X-CSRF-Token", "x")], &body);
    assert_eq!(reply.status, 403);
    let headers = [json, ("X-CSRF-Token", token.as_str())];
    assert_eq!(alice.send("POST", "/api/v1/organisations", &headers, &body).status, 201);
}

/// Without accounts everyone may do everything, but not the page of another site.
#[test]
fn other_sites_change_nothing_without_accounts() {
    let registry = TestRegistry::start();
    let json = ("Content-Type", "application/json");
    let path = "/api/v1/repositories/a%2Fb";
    for header in [("Origin", "http://evil.test"), ("Sec-Fetch-Site", "cross-site")] {
        assert_eq!(registry.send("PUT", path, &[json, header], b"{}").status, 403);
    }
    assert_eq!(registry.send("PUT", path, &[json], b"{}").status, 200);
    let mut browser = Browser::new(&registry);
    assert_eq!(browser.get("/admin").status, 200);
    let reply = browser.post("/do/runGc", &[("next", "/admin")]);
    assert_eq!(reply.status, 303);
    assert_eq!(browser.get("/login").status, 303);
    assert_eq!(browser.get("/settings").status, 404);
}

#[test]
fn cookies_have_their_flags() {
    for (url, prefix, secure) in [
        (None, "davit_", false),
        (Some("http://registry.test"), "davit_", false),
        (Some("https://registry.test"), "__Host-davit_", true),
    ] {
        let registry = TestRegistry::with_accounts(url);
        registry.user("alice", false);
        let mut browser = Browser::new(&registry);
        let visit = browser.get("/login");
        let login = browser.post("/login", &[("name", "alice"), ("password", PASSWORD)]);
        assert_eq!(login.status, 303, "{login:?}");
        let made = browser.get("/");
        assert_eq!(made.status, 200);
        let note = browser.post("/do/createOrganisation", &[("name", "acme"), ("done", "x")]);
        let gone = browser.post("/logout", &[]);
        let mut names = Vec::new();
        for line in [&visit, &login, &note, &gone].iter().flat_map(|r| r.headers("set-cookie")) {
            let flags: Vec<&str> = line.split("; ").skip(1).collect();
            for flag in ["Path=/", "HttpOnly", "SameSite=Lax"] {
                assert!(flags.contains(&flag), "{line}");
            }
            assert_eq!(flags.contains(&"Secure"), secure, "{line}");
            assert!(!line.contains("Domain"), "{line}");
            let name = line.split('=').next().unwrap();
            names.push(name.strip_prefix(prefix).unwrap_or_else(|| panic!("{line}")).to_owned());
        }
        assert_eq!(names, ["visit", "session", "note", "session"]);
    }
}

#[test]
fn sessions_end_with_the_password_and_the_account() {
    let registry = TestRegistry::with_accounts(None);
    let boss = registry.user("boss", true);
    registry.user("alice", false);
    let mut alice = Browser::logged_in(&registry, "alice");
    let mut second = Browser::logged_in(&registry, "alice");
    let form = [
        ("account", "alice"),
        ("current", PASSWORD),
        ("password", "another password"),
        ("next", "/login"),
    ];
    let wrong = [("account", "alice"), ("current", "not this"), ("password", "another password")];
    assert_eq!(alice.post("/do/setPassword", &wrong).status, 401);
    assert_eq!(alice.post("/do/setPassword", &form).status, 303);
    for browser in [&mut alice, &mut second] {
        assert_eq!(browser.get("/settings").status, 303);
    }
    // What is left of the old session does not keep anyone from logging in.
    alice.get("/login");
    let reply = alice.post("/login", &[("name", "alice"), ("password", "another password")]);
    assert_eq!(reply.status, 303, "{reply:?}");
    assert_eq!(alice.get("/settings").status, 200);
    registry.ask("PATCH", "/accounts/alice", &boss, json!({ "is_active": false }));
    assert_eq!(alice.get("/settings").status, 303);
    let me = registry.ask("GET", "/me", &boss, Value::Null);
    assert_eq!(me["name"], "boss");
}

#[test]
fn sign_up_is_open_by_invitation_or_closed() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("boss", true);
    let mut boss = Browser::logged_in(&registry, "boss");
    let set = |boss: &mut Browser<'_>, rule: &str| {
        let reply = boss.post("/do/setSettings", &[("sign_up", rule), ("next", "/admin/settings")]);
        assert_eq!(reply.status, 303, "{reply:?}");
    };
    set(&mut boss, "closed");
    let mut guest = Browser::new(&registry);
    assert!(guest.get("/signup").text().contains("takes no new accounts"));
    assert!(!guest.get("/login").text().contains("href=\"/signup\""));
    let alice = [("name", "alice"), ("password", PASSWORD)];
    assert_eq!(guest.post("/signup", &alice).status, 403);
    set(&mut boss, "invite");
    guest.get("/signup");
    assert_eq!(guest.post("/signup", &alice).status, 403);
    let made = boss.post("/do/createInvitation", &[("next", "/admin/users")]);
    let (_, rest) = made.text().split_once("data-copy=\"").unwrap();
    let invitation = rest.split('"').next().unwrap();
    let with = [("name", "alice"), ("password", PASSWORD), ("invitation", invitation)];
    assert_eq!(guest.post("/signup", &with).status, 303);
    let mut again = Browser::new(&registry);
    again.get("/signup");
    let with = [("name", "carol"), ("password", PASSWORD), ("invitation", invitation)];
    assert_eq!(again.post("/signup", &with).status, 403);
    // Who manages the server makes others do so, and ends that.
    for (is_admin, status) in [("true", 200), ("false", 403)] {
        let form = [("account", "alice"), ("is_admin", is_admin), ("next", "/admin/users")];
        assert_eq!(boss.post("/do/changeAccount", &form).status, 303);
        assert_eq!(guest.get("/admin/users").status, status);
        let button = format!("name=\"is_admin\" value=\"{}\"", status == 403);
        assert!(boss.get("/admin/users").text().contains(&button), "{button}");
    }
}

/// What was typed is not lost, and the reason stands where it was typed.
#[test]
fn refused_forms_are_shown_again_as_they_were() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("alice", false);
    let mut alice = Browser::logged_in(&registry, "alice");
    alice.get("/settings/tokens");
    let typed = [
        ("from", "/settings/tokens"),
        ("next", "/settings/tokens"),
        ("done", "The token was made."),
        ("account", "alice"),
        ("name", "a \"quoted\" <name>"),
        ("expires_days", "365"),
        ("scopes", "alice/app:pull\n</textarea><script>"),
    ];
    let reply = alice.post("/do/createToken", &typed);
    assert_eq!(reply.status, 400, "{reply:?}");
    let page = reply.text();
    let (before, form) = page.split_once("<p class=\"fault\" role=\"alert\"").unwrap();
    assert!(before.ends_with("action=\"/do/createToken\">"), "{before}");
    for expected in [
        "repository:NAME:ACTIONS",
        "value=\"a &#34;quoted&#34; &#60;name&#62;\"",
        "<option value=\"365\" selected>",
        "\nalice/app:pull\n&#60;/textarea&#62;&#60;script&#62;</textarea>",
        " name=\"from\" value=\"/settings/tokens\"",
    ] {
        assert!(form.contains(expected), "{expected}: {form}");
    }
    assert!(!page.contains("<option value=\"90\" selected>"), "{page}");
    // Elsewhere there is nothing to fill in: a way back, and not to another site.
    for (from, back) in
        [("/settings", "href=\"/settings\">Back"), ("//evil.test", "href=\"/\">Back")]
    {
        let mut elsewhere = typed;
        elsewhere[0].1 = from;
        let reply = alice.post("/do/createToken", &elsewhere);
        assert!(reply.status == 400 && reply.text().contains(back), "{from}: {}", reply.text());
    }
    // A page that the caller may not see is not shown that way.
    registry.user("boss", true);
    let mut hidden = typed;
    hidden[0].1 = "/admin/users";
    let reply = alice.post("/do/createToken", &hidden);
    assert!(reply.status == 400 && !reply.text().contains("boss"), "{}", reply.text());
    // What another site sends is never filled in.
    let mut form = vec![("csrf", "0")];
    form.extend(typed);
    let reply = alice.post_as_it_is("/do/createToken", &form, &[]);
    assert!(reply.status == 403 && !reply.text().contains("alice/app:pull"), "{}", reply.text());
}

#[test]
fn sizes_are_typed_with_units() {
    let registry = TestRegistry::with_accounts(None);
    registry.user("boss", true);
    let mut boss = Browser::logged_in(&registry, "boss");
    for (typed, status, shown) in [
        ("50 GB", 303, "value=\"50 GB\""),
        ("3GiB", 303, "value=\"3 GiB\""),
        ("1234567", 303, "value=\"1234567\""),
        ("50 parsecs", 400, "value=\"50 parsecs\""),
        ("0", 303, "value=\"0\""),
    ] {
        let page = "/a/boss/usage";
        let form = [
            ("account", "boss"),
            ("quota_bytes", typed),
            ("from", page),
            ("next", page),
            ("done", "The quota was set."),
        ];
        let reply = boss.post("/do/changeAccount", &form);
        assert_eq!(reply.status, status, "{typed}: {}", reply.text());
        let again = if status == 303 { boss.get(page) } else { reply };
        assert!(again.text().contains(shown), "{typed}: {}", again.text());
        // What is wrong is told where it is, and by its name.
        let marks = ["aria-invalid=\"true\"", ">quota_bytes: a whole number from 0 "];
        assert_eq!(marks.map(|mark| again.text().contains(mark)), [status == 400; 2], "{typed}");
    }
}
