//! Images on their way to another registry.

use davit_distribution::{Access, Session, Target as Remote};
use davit_image::{Descriptor, Digest, MediaType};

use super::{
    Copied, Reference, ReplicationError, Report, Rule, Shared, digest, source::StoredBlob, tag,
};
use crate::{
    auth::Caller,
    blobs,
    fault::Fault,
    lists,
    manifests::{self, Content, Target},
    name::RepositoryName,
    registry::Registry,
};

/// Repositories there that a blob is mounted from, at most.
const MOUNT_TRIES: usize = 2;

/// Pushes one image that was pushed here; one that was deleted is deleted there, where the rule says so.
pub(super) async fn image(
    registry: &Registry,
    rule: &Rule,
    repository: &str,
    reference: &Reference,
) -> Result<Report, ReplicationError> {
    let name = rule.local(repository)?;
    let target = match reference {
        Reference::Tag(text) => Target::Tag(tag(text)?),
        Reference::Digest(text) => Target::Digest(digest(text)?),
    };
    let mut report = Report::default();
    if let Some(outcome) = copy(registry, rule, &name, &target).await? {
        report.count(Ok(outcome), repository);
    } else if rule.settings.deletions && is_absent(registry, &name, &target).await? {
        report.deleted += u64::from(delete(rule, &name, &target).await?);
        // Somebody may have pushed it again meanwhile, and that job been done before this one.
        if let Some(outcome) = copy(registry, rule, &name, &target).await? {
            report.count(Ok(outcome), repository);
        }
    }
    Ok(report)
}

async fn is_absent(
    registry: &Registry,
    name: &RepositoryName,
    target: &Target,
) -> Result<bool, Fault> {
    match manifests::find(registry, name, target).await {
        Ok(_) => Ok(false),
        Err(Fault::Unknown(_)) => Ok(true),
        Err(fault) => Err(fault),
    }
}

/// Deletes there what was deleted here; tells whether it was there.
///
/// A manifest takes all its tags with it: so only a rule that means every tag deletes one. Those of other
/// rules lose the tags that they mean.
async fn delete(
    rule: &Rule,
    name: &RepositoryName,
    target: &Target,
) -> Result<bool, ReplicationError> {
    let remote = match target {
        Target::Tag(tag) => Remote::Tag(tag.clone()),
        Target::Digest(digest) if rule.subscription.tags.is_all() => Remote::Digest(*digest),
        Target::Digest(_) => return Ok(false),
    };
    let session = rule.session(&rule.prefixed(name.as_str()), Access::Delete)?;
    Ok(session.delete_manifest(&remote).await?)
}

/// Pushes all images that a rule means.
pub(super) async fn all(registry: &Registry, rule: &Rule) -> Result<Report, ReplicationError> {
    let (mut report, mut after) = (Report::default(), String::new());
    let everyone = Caller::everyone();
    loop {
        let page = lists::repositories(registry, &everyone, &after, lists::LONGEST_PAGE).await?;
        for name in page.entries {
            if rule.subscription.repositories.matches(name.as_str()) {
                all_tags(registry, rule, &name, &mut report).await?;
            }
        }
        let Some(next) = page.next else { return Ok(report) };
        after = next;
    }
}

async fn all_tags(
    registry: &Registry,
    rule: &Rule,
    name: &RepositoryName,
    report: &mut Report,
) -> Result<(), ReplicationError> {
    let mut after = String::new();
    loop {
        let page = lists::tags(registry, name, &after, lists::LONGEST_PAGE).await?;
        for text in page.entries.iter().filter(|text| rule.subscription.tags.matches(text)) {
            let outcome = copy(registry, rule, name, &Target::Tag(tag(text)?)).await;
            report.count(outcome.map(Option::unwrap_or_default), &format!("{name}:{text}"));
        }
        let Some(next) = page.next else { return Ok(()) };
        after = next;
    }
}

/// Copies an image with what refers to it; `None` when there is nothing to copy any more, or it goes
/// with another.
async fn copy(
    registry: &Registry,
    rule: &Rule,
    name: &RepositoryName,
    target: &Target,
) -> Result<Option<Copied>, ReplicationError> {
    let stored = match manifests::find(registry, name, target).await {
        Ok(stored) => stored,
        Err(Fault::Unknown(_)) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    let is_by_digest = matches!(target, Target::Digest(_));
    // What was pushed by its digest is a part of an index, or refers to something.
    if is_by_digest && parse(&stored)?.subject.is_none() {
        return Ok(None);
    }
    let session = rule.session(&rule.prefixed(name.as_str()), Access::Push)?;
    let remote = match target {
        Target::Tag(tag) => Remote::Tag(tag.clone()),
        Target::Digest(digest) => Remote::Digest(*digest),
    };
    let push = Push { registry, rule, name, session };
    let mut copied = Copied::default();
    if push.digest_there(&remote).await? != Some(stored.digest) {
        copied.is_new = true;
        copied.sent_bytes = push.with_parts(&stored).await?;
        push.put(&remote, &stored).await?;
    }
    let page = lists::referrers(registry, name, &stored.digest, ("", None)).await?;
    for referrer in page.entries {
        copied.sent_bytes += push.by_digest(&referrer.digest).await?;
    }
    // Registries without a list of referrers have one as a tag.
    push.session.list_referrers().await?;
    Ok(Some(copied))
}

/// Pushes to one repository.
struct Push<'a> {
    registry: &'a Registry,
    rule: &'a Rule,
    name: &'a RepositoryName,
    session: Session,
}

impl Push<'_> {
    async fn digest_there(&self, target: &Remote) -> Result<Option<Digest>, ReplicationError> {
        match self.session.resolve(target).await {
            Ok(descriptor) => Ok(Some(descriptor.digest)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends what a manifest names; tells the bytes of blobs that were sent.
    async fn with_parts(&self, stored: &Shared) -> Result<u64, ReplicationError> {
        let content = parse(stored)?;
        let mut sent = 0;
        for child in &content.children {
            // Boxed: an index may name indexes, as deep as the registry took them.
            sent += Box::pin(self.by_digest(&child.digest)).await?;
        }
        for descriptor in &content.blobs {
            sent += self.blob(descriptor).await?;
        }
        Ok(sent)
    }

    /// Sends a manifest that nothing but its digest names, unless it is there or not here.
    async fn by_digest(&self, digest: &Digest) -> Result<u64, ReplicationError> {
        let remote = Remote::Digest(*digest);
        let found = manifests::find(self.registry, self.name, &Target::Digest(*digest)).await;
        let stored = match found {
            Ok(stored) => stored,
            Err(Fault::Unknown(_)) => return Ok(0),
            Err(fault) => return Err(fault.into()),
        };
        if self.digest_there(&remote).await?.is_some() {
            return Ok(0);
        }
        let sent = self.with_parts(&stored).await?;
        self.put(&remote, &stored).await?;
        Ok(sent)
    }

    async fn put(&self, target: &Remote, stored: &Shared) -> Result<(), ReplicationError> {
        let kind = MediaType::new(stored.media_type.as_str());
        Ok(self.session.put_manifest(target, &kind, stored.body.to_vec()).await?)
    }

    async fn blob(&self, descriptor: &Descriptor) -> Result<u64, ReplicationError> {
        let digest = &descriptor.digest;
        let blob = match blobs::find(self.registry, self.name, digest).await {
            Ok(blob) => blob,
            // Not distributable, or a sparse image.
            Err(Fault::Unknown(_)) => return Ok(0),
            Err(fault) => return Err(fault.into()),
        };
        if self.session.blob_size(digest).await?.is_some() || self.mount(digest).await? {
            return Ok(0);
        }
        let source = StoredBlob::open(self.registry, &blob, &self.rule.bandwidth)?;
        let mut expected = descriptor.clone();
        expected.size = blob.size_bytes;
        Ok(self.session.upload(&source, Some(&expected)).await?.sent_bytes)
    }

    /// Mounts a blob from a repository there to which this rule may have sent it.
    async fn mount(&self, digest: &Digest) -> Result<bool, ReplicationError> {
        let holders = blobs::holders(self.registry, digest).await?;
        let others = holders.iter().filter(|holder| {
            *holder != self.name && self.rule.subscription.repositories.matches(holder.as_str())
        });
        for holder in others.take(MOUNT_TRIES) {
            let from = self.rule.remote(&self.rule.prefixed(holder.as_str()))?;
            if self.session.mount_blob(digest, &from).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn parse(stored: &Shared) -> Result<Content, Fault> {
    let kind = MediaType::new(stored.media_type.as_str());
    Content::parse(stored.body.clone(), Some(&kind))
}
