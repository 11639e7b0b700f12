//! Mounts: from where a blob may be taken, and what a token must name.

use super::*;

/// CVE-2024-39897: a mount, named or not, takes from those repositories only that may be read.
#[tokio::test]
async fn mounts_need_pull_on_the_source() {
    let site = Site::new().await;
    for name in ["alice", "bob"] {
        site.add(name, Kind::User).await;
    }
    let oci = site.oci();
    let (alice, bob) = (basic("alice", PASSWORD), basic("bob", PASSWORD));
    let digest = davit_image::Digest::of(b"secret");
    let upload = format!("/v2/alice/app/blobs/uploads/?digest={digest}");
    let pushed = send(&oci, (&Method::POST, &upload), Some(&alice), "secret").await;
    assert_eq!(pushed.status, StatusCode::CREATED, "{pushed:?}");
    let blob = format!("/v2/bob/app/blobs/{digest}");
    for from in ["&from=alice/app", ""] {
        let mount = format!("/v2/bob/app/blobs/uploads/?mount={digest}{from}");
        let mounted = send(&oci, (&Method::POST, &mount), Some(&bob), "").await;
        assert_eq!(mounted.status, StatusCode::ACCEPTED, "{mounted:?}");
        let head = send(&oci, (&Method::HEAD, &blob), Some(&bob), "").await;
        assert_eq!(head.status, StatusCode::NOT_FOUND);
    }
    // A token for the target only mounts nothing, though its account could.
    site.grant(Subject::Account("bob".to_owned()), "alice/app", Role::Pull).await;
    let (_, narrow) = site.token("bob", "repository:bob/app:pull,push", None).await;
    let mount = format!("/v2/bob/app/blobs/uploads/?mount={digest}&from=alice/app");
    let mounted = send(&oci, (&Method::POST, &mount), Some(&bearer(&narrow)), "").await;
    assert_eq!(mounted.status, StatusCode::ACCEPTED, "{mounted:?}");
    let mounted = send(&oci, (&Method::POST, &mount), Some(&bob), "").await;
    assert_eq!(mounted.status, StatusCode::CREATED, "{mounted:?}");
}

/// A token that names the target only is told what to ask for, if its credential may pull the source.
#[tokio::test]
async fn mounts_ask_for_a_token_that_names_both() {
    let site = Site::new().await;
    for name in ["alice", "bob"] {
        site.add(name, Kind::User).await;
    }
    let oci = site.oci();
    let (alice, bob) = (basic("alice", PASSWORD), basic("bob", PASSWORD));
    let digest = davit_image::Digest::of(b"layer");
    for (who, name) in [(&alice, "alice/base"), (&bob, "bob/secret")] {
        let upload = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let pushed = send(&oci, (&Method::POST, &upload), Some(who), "layer").await;
        assert_eq!(pushed.status, StatusCode::CREATED, "{pushed:?}");
    }
    let narrow = "scope=repository:alice/app:pull,push";
    let token = async |query: &str, password: &str| {
        let reply = site.get(query, Some(("alice", password))).await;
        bearer(reply.bearer().unwrap().expose())
    };
    let mount = async |from: &str, header: &HeaderValue| {
        let path = format!("/v2/alice/app/blobs/uploads/?mount={digest}{from}");
        send(&oci, (&Method::POST, &path), Some(header), "").await
    };
    let narrow_token = token(narrow, PASSWORD).await;
    // Alike, whether there is such a repository and blob or not: it goes by alice's rights.
    for (from, source) in [("", "base"), ("&from=alice/base", "base"), ("&from=alice/none", "none")]
    {
        let asked = mount(from, &narrow_token).await;
        assert_eq!(asked.status, StatusCode::UNAUTHORIZED, "{from}: {asked:?}");
        let challenge = asked.headers[header::WWW_AUTHENTICATE].to_str().unwrap();
        let challenge = &Challenge::parse(challenge)[0];
        assert_eq!(challenge.parameter("error"), Some("insufficient_scope"));
        let scope = format!("repository:alice/app:pull,push repository:alice/{source}:pull");
        assert_eq!(challenge.parameter("scope"), Some(&*scope));
        let wide = token(&format!("scope={}", scope.replace(' ', "%20")), PASSWORD).await;
        let done = mount(from, &wide).await;
        let is_there = source == "base";
        let expected = if is_there { StatusCode::CREATED } else { StatusCode::ACCEPTED };
        assert_eq!(done.status, expected, "{from}: {done:?}");
    }
    // What alice may not read is not asked for, and answers as what is not there.
    let hidden = mount("&from=bob/secret", &narrow_token).await;
    let absent = mount("&from=bob/absent", &narrow_token).await;
    assert_eq!((hidden.status, absent.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    // Nor is what the credential behind the token does not reach.
    let (_, pat) = site.token("alice", "repository:alice/app:pull,push", None).await;
    let bought = token(narrow, &pat).await;
    assert_eq!(mount("&from=alice/base", &bought).await.status, StatusCode::ACCEPTED);
}
