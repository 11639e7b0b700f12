//! `rmi`: names go first, content goes with the last name.

use davit_image::{ImageId, Reference};
use davit_store::{GcOptions, GcReport, ImageEdit, ImageRow, StoreError};

use super::ImageError;
use crate::Engine;

/// What to remove.
#[derive(Clone, Debug, Default)]
pub struct RemoveRequest {
    /// Remove although stopped containers use it, or several names lead to it.
    pub force: bool,
    /// Keep what has no name any more.
    pub no_prune: bool,
}

/// One line of what a removal did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// A name went.
    Untagged(String),
    /// Content went.
    Deleted(String),
}

/// How an image was named.
enum Named {
    Tag(Reference),
    RepoDigest(Reference),
    Id,
}

impl Engine {
    /// Removes one image, or one of its names if it has others; frees the space at once.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], a conflict, or what the store says; nothing has changed then.
    pub fn remove_image(
        &self,
        name: &str,
        request: &RemoveRequest,
    ) -> Result<Vec<Removal>, ImageError> {
        let find = self.find_image(name)?;
        let named = named(name, find.reference.as_ref());
        let mut removals = self.store().edit_images(|edit| {
            let Some(id) = find.target.image_id else {
                edit.forget_target(&find.target.digest)?;
                return Ok(vec![Removal::Untagged(name.to_owned())]);
            };
            let missing = || StoreError::NotFound { kind: "image", name: name.to_owned() };
            let row = edit.image(&id)?.ok_or_else(missing)?;
            match &named {
                Named::Tag(reference) => Self::untag(edit, &row, reference, request),
                Named::RepoDigest(reference) => Self::forget_digest(edit, &row, reference, request),
                Named::Id => Self::remove_by_id(edit, &row, name, request),
            }
        })?;
        removals.extend(deletions(&self.store().collect(&GcOptions::default())?));
        Ok(removals)
    }

    fn untag(
        edit: &ImageEdit<'_>,
        row: &ImageRow,
        reference: &Reference,
        request: &RemoveRequest,
    ) -> Result<Vec<Removal>, ImageError> {
        let last = names(row).count() == 1;
        let user = if last { user_of(row) } else { None };
        if let (Some((container, running)), false) = (&user, request.force) {
            return Err(in_use(reference.familiar(), row, container, *running));
        }
        let target = target_of(row, reference);
        edit.untag(reference)?;
        let mut removals = vec![Removal::Untagged(reference.familiar())];
        if !last {
            return Ok(removals);
        }
        // Docker keeps the image of a running container, without a name.
        let kept = request.no_prune || user.is_some_and(|(_, running)| running);
        match target {
            Some(target) if kept => edit.keep_untagged(&target)?,
            _ => {
                let digests = row.repo_digests.iter().map(Reference::familiar);
                removals.extend(digests.map(Removal::Untagged));
                edit.forget(&row.id)?;
            }
        }
        Ok(removals)
    }

    fn forget_digest(
        edit: &ImageEdit<'_>,
        row: &ImageRow,
        reference: &Reference,
        request: &RemoveRequest,
    ) -> Result<Vec<Removal>, ImageError> {
        if names(row).count() == 0 && row.repo_digests.len() <= 1 {
            return Self::remove_by_id(edit, row, &reference.familiar(), request);
        }
        edit.forget_repo_digest(reference)?;
        Ok(vec![Removal::Untagged(reference.familiar())])
    }

    fn remove_by_id(
        edit: &ImageEdit<'_>,
        row: &ImageRow,
        name: &str,
        request: &RemoveRequest,
    ) -> Result<Vec<Removal>, ImageError> {
        let mut repositories: Vec<_> = names(row).map(Reference::repository).collect();
        repositories.dedup();
        if repositories.len() > 1 && !request.force {
            return Err(ImageError::ManyNames { id: row.id.digest().short_hex() });
        }
        if let Some((container, running)) = user_of(row)
            && (running || !request.force)
        {
            return Err(in_use(name.to_owned(), row, &container, running));
        }
        let all = names(row).chain(&row.repo_digests).map(Reference::familiar);
        let removals = all.map(Removal::Untagged).collect();
        edit.forget(&row.id)?;
        Ok(removals)
    }
}

/// A container that uses the image, one that runs before one that does not.
fn user_of(row: &ImageRow) -> Option<(String, bool)> {
    row.containers
        .iter()
        .map(|user| (user.id.clone(), is_active(&user.status)))
        .max_by_key(|(_, running)| *running)
}

/// Whether a container with this status holds its image's files open.
fn is_active(status: &str) -> bool {
    matches!(status, "running" | "paused" | "restarting")
}

fn names(row: &ImageRow) -> impl Iterator<Item = &Reference> {
    row.targets.iter().flat_map(|(_, references)| references)
}

fn target_of(row: &ImageRow, reference: &Reference) -> Option<davit_store::Target> {
    let named = row.targets.iter().find(|(_, references)| references.contains(reference));
    named.or(row.targets.first()).map(|(target, _)| target.clone())
}

fn named(name: &str, tag: Option<&Reference>) -> Named {
    match (tag, name.parse::<Reference>()) {
        (Some(tag), _) => Named::Tag(tag.clone()),
        (None, Ok(reference)) if reference.digest().is_some() => Named::RepoDigest(reference),
        _ => Named::Id,
    }
}

fn in_use(name: String, row: &ImageRow, container: &str, running: bool) -> ImageError {
    ImageError::InUse {
        name,
        image: row.id.digest().short_hex(),
        container: container.chars().take(12).collect(),
        running,
    }
}

/// What a collection freed, images before layers; manifests and trees are no news to anyone.
pub(super) fn deletions(report: &GcReport) -> Vec<Removal> {
    let images = report.images.iter().map(ImageId::to_string);
    let layers = report.layers.iter().map(ToString::to_string);
    images.chain(layers).map(Removal::Deleted).collect()
}
