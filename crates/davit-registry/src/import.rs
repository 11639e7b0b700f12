//! `davit registry import`: repositories that lie in a directory of another registry or tool.
//!
//! Blobs come in place, by hard links where that is safe ([`Store::adopt`](crate::store::Store::adopt)).
//! Nothing of the layout is believed: bytes are compared with their digests before they can be read,
//! and a repository gets only the blobs that it has there.

use std::collections::{BTreeMap, BTreeSet};

use davit_image::{Digest, Tag};

use crate::{
    auth::Rights,
    blobs,
    fault::{Fault, in_words},
    manifests::{self, Condition, Content, Put},
    name::RepositoryName,
    registry::Registry,
    store::{Adopted, StoreError},
};

mod layout;

pub use layout::{Layout, LayoutError};

/// Indexes in indexes at most.
const DEPTH: usize = 8;

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Repositories that were found.
    pub repositories: u64,
    /// Manifests that are there now.
    pub manifests: u64,
    /// Tags that are there now.
    pub tags: u64,
    /// Blobs that share their file with the layout.
    pub linked: u64,
    /// Blobs that were copied.
    pub copied: u64,
    /// Blobs whose bytes cannot be read; what needs them is left out.
    pub unreadable: BTreeSet<Digest>,
    /// What could not be taken, and why.
    pub skipped: Vec<String>,
}

/// Where the repositories go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// The name of the one repository that a layout without names is.
    pub repository: Option<String>,
    /// Goes before each name, with a `/`.
    pub under: Option<String>,
}

/// Imports all that a layout has; what is there already stays, tags move.
///
/// # Errors
/// The layout, the database or the store cannot be used; what is wrong with single manifests is
/// reported.
pub async fn import(
    registry: &Registry,
    layout: &Layout,
    naming: &Naming,
) -> Result<ImportReport, ImportError> {
    let mut report = ImportReport::default();
    for found in layout.repositories()? {
        let own = if found.name.is_empty() { naming.repository.as_deref() } else { None };
        let name = own.unwrap_or(&found.name);
        let name = match &naming.under {
            Some(under) => format!("{under}/{name}"),
            None => name.to_owned(),
        };
        let Ok(name) = name.parse::<RepositoryName>() else {
            report.skipped.push(format!("`{name}` is no name of a repository"));
            continue;
        };
        report.repositories += 1;
        let roots = match layout.roots(&found) {
            Ok(roots) => roots,
            Err(error) => {
                report.skipped.push(format!("{name}: {}", in_words(&error)));
                continue;
            }
        };
        let mut repository =
            Repository { registry, layout, found: &found, name, done: BTreeSet::new(), report };
        for (digest, tags) in roots {
            repository.root(digest, tags).await?;
        }
        report = repository.report;
    }
    Ok(report)
}

/// An import that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The layout cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The registry is out of order.
    #[error(transparent)]
    Registry(#[from] Fault),
}

/// One repository that is being imported.
struct Repository<'i> {
    registry: &'i Registry,
    layout: &'i Layout,
    found: &'i layout::Found,
    name: RepositoryName,
    done: BTreeSet<Digest>,
    report: ImportReport,
}

impl Repository<'_> {
    async fn root(&mut self, digest: Digest, tags: Vec<Tag>) -> Result<(), Fault> {
        let count = tags.len() as u64;
        match self.manifest(digest, tags, 0).await {
            Ok(()) => self.report.tags += count,
            Err(fault) if is_of_the_registry(&fault) => return Err(fault),
            Err(fault) => {
                self.report.skipped.push(format!("{}@{digest}: {}", self.name, in_words(&fault)));
            }
        }
        Ok(())
    }

    /// Takes a manifest, after what it names.
    async fn manifest(
        &mut self,
        digest: Digest,
        tags: Vec<Tag>,
        depth: usize,
    ) -> Result<(), Fault> {
        if tags.is_empty() && self.done.contains(&digest) {
            return Ok(());
        }
        if depth > DEPTH {
            return Err(Fault::TooLarge(format!("indexes may be nested {DEPTH} times")));
        }
        let most = self.registry.limits.manifest_bytes;
        let body = self.layout.manifest(self.found, &digest, most);
        let body = body.map_err(|error| Fault::Unsupported(in_words(&error)))?;
        let actual = Digest::of_with(digest.algorithm(), &body);
        if actual != digest {
            return Err(Fault::Store(StoreError::Digest { actual }));
        }
        let content = Content::parse(body.into(), None)?;
        for child in &content.children {
            // What is not there may be left out: the registry's rule for sparse manifests decides.
            if self.layout.has_manifest(self.found, &child.digest) {
                Box::pin(self.manifest(child.digest, Vec::new(), depth + 1)).await?;
            }
        }
        for blob in &content.blobs {
            self.blob(blob.digest).await?;
        }
        let put = Put {
            name: self.name.clone(),
            content,
            digest: Some(digest),
            tags,
            condition: Condition::None,
            rights: Rights::ALL,
            by: None,
        };
        manifests::put(self.registry, put).await?;
        self.report.manifests += u64::from(self.done.insert(digest));
        Ok(())
    }

    async fn blob(&mut self, digest: Digest) -> Result<(), Fault> {
        if self.done.contains(&digest) {
            return Ok(());
        }
        // A disk that fails takes long to say so: it is asked once.
        if self.report.unreadable.contains(&digest) {
            return Err(Fault::Unsupported(format!("the bytes of {digest} cannot be read")));
        }
        let Some(file) = self.layout.blob(self.found, &digest) else { return Ok(()) };
        let adopted = blobs::adopt(self.registry, &self.name, digest, file).await;
        if let Err(Fault::Store(StoreError::Unreadable { digest, .. })) = &adopted {
            self.report.unreadable.insert(*digest);
        }
        match adopted? {
            Adopted::There => {}
            Adopted::Linked => self.report.linked += 1,
            Adopted::Copied => self.report.copied += 1,
        }
        self.done.insert(digest);
        Ok(())
    }
}

/// Tells a fault of the registry, which ends an import, from one of a manifest.
const fn is_of_the_registry(fault: &Fault) -> bool {
    match fault {
        Fault::Database(_) => true,
        Fault::Store(error) => {
            !matches!(error, StoreError::Digest { .. } | StoreError::Unreadable { .. })
        }
        _ => false,
    }
}

/// Manifests of a repository, and the tags that name each.
type Roots = BTreeMap<Digest, Vec<Tag>>;
