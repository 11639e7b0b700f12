//! One of those who work: what it does, and what it was promised.

use std::{sync::Arc, time::Instant};

use davit_image::Digest;

use super::{Counts, LAYERS, LEASE, REPOSITORIES, TAGS, door::Door};
use crate::bench::image;

pub(super) struct Client {
    pub(super) door: Door,
    pub(super) random: u64,
    pub(super) counts: Arc<Counts>,
}

impl Client {
    pub(super) async fn work(mut self, most: usize) {
        use std::sync::atomic::Ordering::SeqCst;

        while self.counts.operations.fetch_add(1, SeqCst) < most {
            match self.below(10) {
                0..=3 => self.push(None).await,
                4 | 5 => self.pull().await,
                6 => self.tag().await,
                7 => self.delete().await,
                8 => self.mount().await,
                _ => self.refer().await,
            }
        }
        self.counts.operations.fetch_sub(1, SeqCst);
    }

    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        usize::try_from(self.random % end as u64).unwrap()
    }

    fn repository(&mut self) -> &'static str {
        REPOSITORIES[self.below(REPOSITORIES.len())]
    }

    fn any_tag(&mut self) -> String {
        format!("t{}", self.below(TAGS))
    }

    fn layer(&mut self) -> String {
        let number = self.below(LAYERS);
        format!("layer {number} ").repeat(number * 100 + 1)
    }

    /// Asks for a blob, and pushes it if the repository lacks it; tells until when it is promised.
    async fn have(&mut self, repository: &str, content: &str) -> Instant {
        let digest = Digest::of(content.as_bytes());
        let asked = Instant::now();
        if self.door.has_blob(repository, &digest).await {
            return asked + LEASE / 2;
        }
        let asked = Instant::now();
        self.door.push_blob(repository, digest, content).await;
        asked + LEASE
    }

    async fn put(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        body: String,
        promised: Instant,
    ) -> bool {
        use std::sync::atomic::Ordering::SeqCst;

        let is_taken = self.door.put(repository, tag, body).await;
        let in_time = Instant::now() < promised;
        assert!(is_taken || !in_time, "a promise was broken in {repository}");
        self.counts.promised.fetch_add(usize::from(is_taken && in_time), SeqCst);
        self.counts.refused_later.fetch_add(usize::from(!is_taken), SeqCst);
        is_taken
    }

    async fn push(&mut self, subject: Option<String>) {
        let (repository, tag, layer) = (self.repository(), self.any_tag(), self.layer());
        let promised = self.have(repository, "{}").await.min(self.have(repository, &layer).await);
        let body = image(&layer, subject.as_deref());
        self.put(repository, Some(&tag), body, promised).await;
    }

    async fn refer(&mut self) {
        let (repository, layer, of) = (self.repository(), self.layer(), self.layer());
        let subject = image(&of, None);
        let promised = self.have(repository, "{}").await.min(self.have(repository, &layer).await);
        let body = image(&layer, Some(&subject));
        let digest = Digest::of(body.as_bytes());
        if !self.put(repository, None, body, promised).await {
            return;
        }
        let subject = Digest::of(subject.as_bytes());
        let listed = self.door.referrers(repository, &subject).await;
        if Instant::now() < promised {
            assert!(listed.contains(&digest), "a referrer is listed");
        }
    }

    async fn mount(&mut self) {
        let (from, to, layer) = (self.repository(), self.repository(), self.layer());
        self.have(from, &layer).await;
        let asked = Instant::now();
        let digest = Digest::of(layer.as_bytes());
        if self.door.mount(from, to, digest).await {
            let promised = self.have(to, "{}").await.min(asked + LEASE);
            let tag = self.any_tag();
            self.put(to, Some(&tag), image(&layer, None), promised).await;
        }
    }

    /// The manifest of a tag, if there is one.
    async fn manifest(&mut self, repository: &str) -> Option<String> {
        let tag = self.any_tag();
        self.door.manifest(repository, &tag).await
    }

    async fn tag(&mut self) {
        let repository = self.repository();
        let asked = Instant::now();
        let Some(body) = self.manifest(repository).await else { return };
        let tag = self.any_tag();
        self.put(repository, Some(&tag), body, asked + LEASE / 2).await;
    }

    async fn delete(&mut self) {
        let repository = self.repository();
        if self.below(2) == 0 {
            let tag = self.any_tag();
            self.door.delete_tag(repository, &tag).await;
        } else if let Some(body) = self.manifest(repository).await {
            self.door.delete(repository, &Digest::of(body.as_bytes())).await;
        }
    }

    async fn pull(&mut self) {
        let repository = self.repository();
        let asked = Instant::now();
        let Some(body) = self.manifest(repository).await else { return };
        let manifest: serde_json::Value = serde_json::from_str(&body).unwrap();
        let named =
            std::iter::once(&manifest["config"]).chain(manifest["layers"].as_array().unwrap());
        for blob in named {
            let digest: Digest = blob["digest"].as_str().unwrap().parse().unwrap();
            let content = self.door.blob(repository, &digest).await;
            // The tag may have moved since; what it named has a lease then.
            if asked.elapsed() >= LEASE / 2 {
                return;
            }
            let content = content.expect("what a tag named a moment ago is there");
            assert_eq!(Digest::of(&content), digest);
        }
        self.counts.pulled.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}
