//! Images on their way from another registry.

use std::collections::HashSet;

use davit_distribution::{Access, Fetched, Session, Target as Remote};
use davit_image::{Descriptor, Tag};

use super::{Copied, ReplicationError, Report, Rule, tag};
use crate::{
    auth::Rights,
    blobs,
    fault::Fault,
    lists,
    manifests::{self, Condition, Content, Put, Target},
    mirror::pieces,
    name::RepositoryName,
    registry::Registry,
    uploads,
};

/// Repositories of one rule at most.
const REPOSITORIES: usize = 10_000;
/// Indexes within indexes at most.
const DEEPEST: u32 = 4;

/// Pulls all images that a rule means.
pub(super) async fn all(registry: &Registry, rule: &Rule) -> Result<Report, ReplicationError> {
    let glob = &rule.subscription.repositories;
    let names = if glob.as_str().contains('*') {
        let wanted = |name: &str| glob.matches(name);
        rule.client.catalog(&rule.settings.registry, REPOSITORIES, wanted).await?
    } else {
        vec![glob.as_str().to_owned()]
    };
    let mut report = Report::default();
    for name in names {
        let local = rule.local(&rule.prefixed(&name))?;
        let session = rule.session(&name, Access::Pull)?;
        let tags = match session.tags().await {
            Ok(tags) => tags,
            Err(error) => {
                report.count(Err(error.into()), &name);
                continue;
            }
        };
        let pull = Pull { registry, rule, local, session };
        for text in tags.iter().filter(|text| rule.subscription.tags.matches(text)) {
            let outcome = match tag(text) {
                Ok(tag) => pull.image(&tag).await,
                Err(fault) => Err(fault.into()),
            };
            report.count(outcome, &format!("{name}:{text}"));
        }
        if rule.settings.deletions
            && let Err(fault) = pull.forget(&tags, &mut report).await
        {
            report.fail(&fault.into(), &name);
        }
    }
    Ok(report)
}

/// Pulls into one repository.
struct Pull<'a> {
    registry: &'a Registry,
    rule: &'a Rule,
    local: RepositoryName,
    session: Session,
}

impl Pull<'_> {
    /// Deletes tags here that the rule means and that are not there any more. A manifest that was deleted
    /// there lost its tags by that; here the collector takes it then.
    async fn forget(&self, there: &[String], report: &mut Report) -> Result<(), Fault> {
        let there: HashSet<&str> = there.iter().map(String::as_str).collect();
        let mut after = String::new();
        loop {
            let page = lists::tags(self.registry, &self.local, &after, lists::LONGEST_PAGE).await;
            let page = match page {
                Err(Fault::Unknown(_)) => return Ok(()),
                page => page?,
            };
            let meant =
                page.entries.iter().filter(|text| self.rule.subscription.tags.matches(text));
            for text in meant.filter(|text| !there.contains(text.as_str())) {
                match manifests::delete_tag(self.registry, &self.local, &tag(text)?, (None, None))
                    .await
                {
                    Ok(()) => report.deleted += 1,
                    // Somebody was quicker.
                    Err(Fault::Unknown(_)) => {}
                    // It must not be deleted here.
                    Err(fault @ Fault::Denied(_)) => report.fail(&fault.into(), text),
                    Err(fault) => return Err(fault),
                }
            }
            let Some(next) = page.next else { return Ok(()) };
            after = next;
        }
    }

    async fn image(&self, tag: &Tag) -> Result<Copied, ReplicationError> {
        let remote = Remote::Tag(tag.clone());
        let there = self.session.resolve(&remote).await?;
        let here = Target::Tag(tag.clone());
        match manifests::find(self.registry, &self.local, &here).await {
            Ok(stored) if stored.digest == there.digest => return Ok(Copied::default()),
            Ok(_) | Err(Fault::Unknown(_)) => {}
            Err(fault) => return Err(fault.into()),
        }
        // By the digest that was named: the tag may move meanwhile.
        let fetched = self.session.manifest(&Remote::Digest(there.digest)).await?;
        let sent_bytes = self.keep(fetched, vec![tag.clone()], 0).await?;
        Ok(Copied { is_new: true, sent_bytes })
    }

    /// Brings what a manifest names, then the manifest; tells the bytes of blobs that came.
    async fn keep(
        &self,
        fetched: Fetched,
        tags: Vec<Tag>,
        depth: u32,
    ) -> Result<u64, ReplicationError> {
        let Fetched { document, descriptor } = fetched;
        let body = document.bytes().to_vec().into();
        let content = Content::parse(body, Some(&descriptor.media_type))?;
        let mut sent = 0;
        for child in &content.children {
            sent += self.child(child, depth + 1).await?;
        }
        for blob in &content.blobs {
            sent += self.blob(blob).await?;
        }
        let put = Put {
            name: self.local.clone(),
            content,
            digest: Some(descriptor.digest),
            tags,
            condition: Condition::None,
            rights: Rights::ALL,
            by: None,
        };
        manifests::put(self.registry, put).await?;
        Ok(sent)
    }

    async fn child(&self, child: &Descriptor, depth: u32) -> Result<u64, ReplicationError> {
        if depth > DEEPEST {
            let words = format!("indexes are nested more than {DEEPEST} deep");
            return Err(Fault::TooLarge(words).into());
        }
        match manifests::find(self.registry, &self.local, &Target::Digest(child.digest)).await {
            Ok(_) => return Ok(0),
            Err(Fault::Unknown(_)) => {}
            Err(fault) => return Err(fault.into()),
        }
        let fetched = self.session.manifest(&Remote::Digest(child.digest)).await?;
        Box::pin(self.keep(fetched, Vec::new(), depth)).await
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<u64, ReplicationError> {
        let digest = descriptor.digest;
        match blobs::find(self.registry, &self.local, &digest).await {
            Ok(_) => return Ok(0),
            Err(Fault::Unknown(_)) => {}
            Err(fault) => return Err(fault.into()),
        }
        for holder in blobs::holders(self.registry, &digest).await? {
            if blobs::mount(self.registry, holder, self.local.clone(), digest).await? {
                return Ok(0);
            }
        }
        if descriptor.media_type.is_nondistributable() {
            return Ok(0);
        }
        // Where else it may be is not followed.
        let wanted = Descriptor::new(descriptor.media_type.clone(), digest, descriptor.size);
        let reader = self.session.blob(&wanted, 0).await?;
        let explain = |error: &davit_distribution::Error| {
            tracing::warn!(error = error as &dyn std::error::Error, "a blob was not pulled");
            Fault::Upstream
        };
        let body = Box::pin(pieces(reader, self.rule.bandwidth.clone(), explain));
        uploads::whole(self.registry, &self.local, digest, body).await?;
        Ok(descriptor.size)
    }
}
