//! Who may pull what a mirror keeps, and who may have it fetched.

use davit_registry::mirror::{AddMirror, MirrorRow, MirrorSettings, Mirrors, Who};
use davit_test::{HttpServer, Reply as Answer};

use super::*;

/// Status of a pull of a manifest that is there, by nobody, by somebody, and by those who were given
/// a role.
async fn pulls(pull: Who, fill: Who, is_here: bool) -> [u16; 4] {
    let body = manifest(1);
    let digest = davit_image::Digest::of(body.as_bytes()).to_string();
    let upstream = HttpServer::start(move |_| {
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let answer = Answer::ok(body).header("Content-Type", kind);
        answer.header("Docker-Content-Digest", &digest)
    });
    let site = Site::new().await;
    for name in ["alice", "bob", "carol"] {
        site.add(name, Kind::User).await;
    }
    site.grant(Subject::Account("bob".to_owned()), "up.test/**", Role::Pull).await;
    site.grant(Subject::Account("carol".to_owned()), "up.test/**", Role::Push).await;
    let (name, upstream_host) = ("up.test".to_owned(), upstream.host());
    let settings = MirrorSettings { pull, fill, ..MirrorSettings::default() };
    let row = MirrorRow { name, upstream: upstream_host, is_default: false, settings };
    site.database.write(AddMirror(row)).await.unwrap();
    let mirrors = Mirrors::new(site.registry(PullLimits::default()), &site.dir.join("spool"));
    let oci = site.oci().with_mirrors(Arc::new(mirrors));
    let path = "/v2/up.test/a/b/manifests/v1";
    let carol = basic("carol", PASSWORD);
    if is_here {
        let got = send(&oci, (&Method::GET, path), Some(&carol), "").await;
        assert_eq!(got.status, StatusCode::OK);
    }
    let mut statuses = [0; 4];
    let who = [None, Some(basic("alice", PASSWORD)), Some(basic("bob", PASSWORD)), Some(carol)];
    for (status, who) in statuses.iter_mut().zip(&who) {
        *status = send(&oci, (&Method::GET, path), who.as_ref(), "").await.status.as_u16();
    }
    statuses
}

#[tokio::test]
async fn mirrors_are_behind_their_rules() {
    use Who::{Accounts, Everyone, Granted};
    // nobody, an account, who may pull, who may push
    for (pull, fill, is_here, expected) in [
        (Everyone, Everyone, false, [200, 200, 200, 200]),
        (Everyone, Accounts, false, [404, 200, 200, 200]),
        (Everyone, Granted, true, [200, 200, 200, 200]),
        (Accounts, Accounts, false, [401, 200, 200, 200]),
        (Accounts, Granted, false, [401, 404, 404, 200]),
        (Granted, Accounts, false, [401, 404, 200, 200]),
        (Granted, Granted, false, [401, 404, 404, 200]),
        (Granted, Granted, true, [401, 404, 200, 200]),
    ] {
        let found = pulls(pull, fill, is_here).await;
        assert_eq!(found, expected, "pull {pull}, fill {fill}, here {is_here}");
    }
}
