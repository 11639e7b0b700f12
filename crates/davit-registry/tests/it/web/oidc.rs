//! Log-in by an identity provider, from button to session, against npm's `oidc-provider`.

use davit_registry::auth::oidc::{ForeignIdentity, identities};

use super::Browser;
use crate::{auth::oidc::Idp, fixture::TestRegistry};

const CALLBACK: &str = "http://localhost/oidc/idp/callback";

fn served(signs_up: bool) -> Option<(Idp, TestRegistry)> {
    let idp = Idp::start_for(CALLBACK)?;
    let registry = TestRegistry::with_accounts(None);
    registry.run(registry.registry().database.write(idp.known(signs_up))).unwrap();
    Some((idp, registry))
}

impl Browser<'_> {
    /// Presses a provider's button, logs in there, and comes back; the path of the callback.
    fn there_and_back(&mut self, idp: &Idp, fields: &[(&str, &str)], who: (&str, &str)) -> String {
        let page = self.post("/oidc/idp/begin", fields);
        assert_eq!(page.status, 200, "{}", page.text());
        let (_, rest) = page.text().split_once("class=\"button\" href=\"").unwrap();
        let place = rest.split('"').next().unwrap().replace("&#38;", "&").replace("&amp;", "&");
        assert!(page.text().contains("http-equiv=\"refresh\""));
        let back = idp.visit_page(&place, who);
        back.strip_prefix("http://localhost").unwrap().to_owned()
    }
}

#[test]
fn people_come_in_by_a_provider() {
    let Some((idp, registry)) = served(true) else { return };
    registry.user("alice", false);
    let mut browser = Browser::new(&registry);
    let page = browser.get("/login?next=/settings/tokens");
    assert!(page.text().contains("Continue with idp"), "{}", page.text());
    let next = [("next", "/settings/tokens")];
    let back = browser.there_and_back(&idp, &next, ("s-nina", "nina"));
    let reply = browser.get(&back);
    assert_eq!(
        (reply.status, reply.header("location")),
        (303, Some("/settings/tokens")),
        "{reply:?}"
    );
    assert!(browser.get("/settings").text().contains("s-nina"));
    let only =
        [("account", "nina"), ("issuer", &*idp.issuer), ("subject", "s-nina"), ("next", "/")];
    let refused = browser.post("/do/removeIdentity", &only);
    assert!(refused.status == 409 && refused.text().contains("no way in"), "{refused:?}");
    assert!(browser.cookies.iter().all(|(name, _)| name != "davit_oidc"));
    for line in reply.headers("set-cookie") {
        assert!(line.contains("HttpOnly") && line.contains("SameSite=Lax"), "{line}");
    }
    // What was used is over, also for another browser.
    assert_eq!(browser.get(&back).status, 400);
    let mut other = Browser::new(&registry);
    other.get("/login");
    let back = other.there_and_back(&idp, &[], ("s-nina", "nina"));
    assert_eq!(Browser::new(&registry).get(&back).status, 400, "another browser");
    let error = "/oidc/idp/callback?error=access_denied&state=x";
    assert_eq!(other.get(error).status, 400);
    assert_eq!(other.post("/oidc/other/begin", &[]).status, 404);
    assert_eq!(other.post_as_it_is("/oidc/idp/begin", &[("csrf", "x")], &[]).status, 403);

    // Whose name is taken chooses another.
    let back = other.there_and_back(&idp, &[], ("s-mallory", "alice"));
    let page = other.get(&back);
    assert!(page.status == 200 && page.text().contains("is somebody else here"), "{}", page.text());
    let ticket = |page: &crate::fixture::Reply| {
        let (_, rest) = page.text().split_once("name=\"ticket\" value=\"").unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let fields =
        |ticket: &str, name: &str| [("ticket", ticket.to_owned()), ("name", name.to_owned())];
    let mut choose = |ticket: &str, name: &str| {
        let fields = fields(ticket, name);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(key, text)| (*key, &**text)).collect();
        other.post("/oidc/idp/name", &fields)
    };
    let taken = choose(&ticket(&page), "alice");
    assert!(taken.status == 409 && taken.text().contains("role=\"alert\""), "{taken:?}");
    let reply = choose(&ticket(&taken), "mallory");
    assert_eq!((reply.status, reply.header("location")), (303, Some("/")), "{reply:?}");
    assert!(other.get("/").text().contains("href=\"/a/mallory\""));
}

#[test]
fn an_identity_is_added_by_its_owner() {
    let Some((idp, registry)) = served(false) else { return };
    registry.user("alice", false);
    let mut guest = Browser::new(&registry);
    guest.get("/login");
    registry.user("boss", true);
    let mut boss = Browser::logged_in(&registry, "boss");
    assert_eq!(boss.post("/do/setSettings", &[("sign_up", "closed"), ("next", "/")]).status, 303);
    let back = guest.there_and_back(&idp, &[], ("s-alice", "someone"));
    assert_eq!(guest.get(&back).status, 403, "nobody signs up");
    let mut alice = Browser::logged_in(&registry, "alice");
    assert!(alice.get("/settings").text().contains("Add idp"));
    let back = alice.there_and_back(&idp, &[("link", "true")], ("s-alice", "someone"));
    assert_eq!(alice.get(&back).header("location"), Some("/settings"));
    let database = &registry.registry().database;
    let known = registry.run(identities(database, "alice")).unwrap();
    let as_alice = ForeignIdentity { issuer: idp.issuer.clone(), subject: "s-alice".to_owned() };
    assert_eq!(known, [as_alice]);
    guest.get("/login");
    let back = guest.there_and_back(&idp, &[], ("s-alice", "someone"));
    assert_eq!(guest.get(&back).status, 303);
    assert!(guest.get("/").text().contains("href=\"/a/alice\""));

    // She takes it back: whoever is known by it there is nobody here.
    let issuer = &*idp.issuer;
    let fields =
        [("account", "alice"), ("issuer", issuer), ("subject", "s-alice"), ("next", "/settings")];
    let mut mallory = Browser::logged_in(&registry, "boss");
    let others = [("account", "boss"), ("issuer", issuer), ("subject", "s-alice"), ("next", "/")];
    assert_eq!(mallory.post("/do/removeIdentity", &others).status, 404);
    assert_eq!(alice.post("/do/removeIdentity", &fields).header("location"), Some("/settings"));
    assert!(!alice.get("/settings").text().contains("s-alice"));
    let mut gone = Browser::new(&registry);
    gone.get("/login");
    let back = gone.there_and_back(&idp, &[], ("s-alice", "someone"));
    assert_eq!(gone.get(&back).status, 403);
    let none = TestRegistry::start();
    assert!(!none.get("/login").text().contains("Continue with"));
}
