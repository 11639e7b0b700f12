//! How a client reaches the registry: its use cases in this process, or its servers by HTTP.

use davit_image::Digest;
use davit_registry::{
    blobs, fault::Fault, lists, manifests, manifests::Target, registry::Registry, uploads,
};
use futures_util::{TryStreamExt as _, stream};

use super::wire::Wire;
use crate::bench::{name, to_put};

pub(super) enum Door {
    Node(Box<Registry>),
    Servers(Wire),
}

/// What is there; `None` where nothing is.
fn known<T>(outcome: Result<T, Fault>) -> Option<T> {
    match outcome {
        Ok(found) => Some(found),
        Err(Fault::Unknown(_)) => None,
        Err(fault) => panic!("{fault:?}"),
    }
}

impl Door {
    pub(super) async fn has_blob(&mut self, repository: &str, digest: &Digest) -> bool {
        match self {
            Self::Node(node) => known(blobs::find(node, &name(repository), digest).await).is_some(),
            Self::Servers(wire) => {
                let path = format!("/v2/{repository}/blobs/{digest}");
                wire.found("HEAD", &path).await.is_some()
            }
        }
    }

    pub(super) async fn push_blob(&mut self, repository: &str, digest: Digest, content: &str) {
        match self {
            Self::Node(node) => {
                let body = stream::iter([Ok(content.to_owned().into())]);
                uploads::whole(node, &name(repository), digest, body).await.unwrap();
            }
            Self::Servers(wire) => {
                let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
                let reply = wire.send("POST", &path, content.as_bytes()).await;
                assert_eq!(reply.status, 201, "{reply:?}");
            }
        }
    }

    /// `false` where the repository lacks what the manifest names.
    pub(super) async fn put(&mut self, repository: &str, tag: Option<&str>, body: String) -> bool {
        match self {
            Self::Node(node) => {
                let tags: Vec<&str> = tag.into_iter().collect();
                match manifests::put(node, to_put(repository, &tags, body)).await {
                    Ok(_) => true,
                    Err(Fault::Missing(_)) => false,
                    Err(fault) => panic!("{fault:?}"),
                }
            }
            Self::Servers(wire) => {
                let reference =
                    tag.map_or_else(|| Digest::of(body.as_bytes()).to_string(), str::to_owned);
                let path = format!("/v2/{repository}/manifests/{reference}");
                let reply = wire.send("PUT", &path, body.as_bytes()).await;
                let is_missing = reply.status == 400 && reply.says("MANIFEST_BLOB_UNKNOWN");
                assert!(reply.status == 201 || is_missing, "{reply:?}");
                !is_missing
            }
        }
    }

    pub(super) async fn referrers(&mut self, repository: &str, subject: &Digest) -> Vec<Digest> {
        match self {
            Self::Node(node) => {
                let page = lists::referrers(node, &name(repository), subject, ("", None)).await;
                page.unwrap().entries.iter().map(|one| one.digest).collect()
            }
            Self::Servers(wire) => {
                let path = format!("/v2/{repository}/referrers/{subject}");
                let reply = wire.send("GET", &path, b"").await;
                let list: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                let digest =
                    |one: &serde_json::Value| one["digest"].as_str().unwrap().parse().unwrap();
                list["manifests"].as_array().unwrap().iter().map(digest).collect()
            }
        }
    }

    pub(super) async fn mount(&mut self, from: &str, to: &str, digest: Digest) -> bool {
        match self {
            Self::Node(node) => blobs::mount(node, name(from), name(to), digest).await.unwrap(),
            Self::Servers(wire) => {
                let path = format!("/v2/{to}/blobs/uploads/?mount={digest}&from={from}");
                let reply = wire.send("POST", &path, b"").await;
                if reply.status == 202 {
                    let session = reply.location.as_deref().expect("a session has a place");
                    wire.found("DELETE", session).await;
                    return false;
                }
                assert_eq!(reply.status, 201, "{reply:?}");
                true
            }
        }
    }

    pub(super) async fn manifest(&mut self, repository: &str, tag: &str) -> Option<String> {
        let body = match self {
            Self::Node(node) => {
                let target = Target::Tag(tag.parse().unwrap());
                known(manifests::find(node, &name(repository), &target).await)?.body.to_vec()
            }
            Self::Servers(wire) => {
                wire.found("GET", &format!("/v2/{repository}/manifests/{tag}")).await?
            }
        };
        Some(String::from_utf8(body).unwrap())
    }

    pub(super) async fn delete_tag(&mut self, repository: &str, tag: &str) {
        match self {
            Self::Node(node) => {
                let tag = tag.parse().unwrap();
                known(manifests::delete_tag(node, &name(repository), &tag, (None, None)).await);
            }
            Self::Servers(wire) => {
                wire.found("DELETE", &format!("/v2/{repository}/manifests/{tag}")).await;
            }
        }
    }

    pub(super) async fn delete(&mut self, repository: &str, digest: &Digest) {
        match self {
            Self::Node(node) => {
                known(manifests::delete(node, &name(repository), digest, None).await);
            }
            Self::Servers(wire) => {
                wire.found("DELETE", &format!("/v2/{repository}/manifests/{digest}")).await;
            }
        }
    }

    pub(super) async fn blob(&mut self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        match self {
            Self::Node(node) => {
                let found = known(blobs::find(node, &name(repository), digest).await)?;
                let stored = node.store.read(&found.key).ok()?;
                let pieces = stored.part(0..found.size_bytes).await.ok()?;
                Some(pieces.try_collect::<Vec<_>>().await.ok()?.concat())
            }
            Self::Servers(wire) => {
                wire.found("GET", &format!("/v2/{repository}/blobs/{digest}")).await
            }
        }
    }
}
