//! `rmi`: names go first, content goes with the last name.

use std::collections::BTreeMap;

use davit_image::{Digest, ImageId, Platform, Reference};
use davit_store::{GcOptions, GcReport, ImageEdit, ImageRow, StoreError};

use super::ImageError;
use crate::Engine;

/// What to remove.
#[derive(Clone, Debug, Default)]
pub struct RemoveRequest {
    /// Remove although stopped containers use it, or several names lead to it.
    pub force: bool,
    /// Only the images of these platforms, which others of their index outlive; all where none is
    /// given.
    pub platforms: Vec<Platform>,
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
    Reference(Reference),
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
        if !request.platforms.is_empty() {
            return self.remove_platforms(name, request);
        }
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
                Named::Reference(reference) => remove_reference(edit, &row, reference, request),
                Named::Id => remove_by_id(edit, &row, request),
            }
        })?;
        deletions(&self.store().collect(&GcOptions::default())?, &mut removals);
        Ok(removals)
    }

    /// All of these platforms' images, or, after an error, none.
    fn remove_platforms(
        &self,
        name: &str,
        request: &RemoveRequest,
    ) -> Result<Vec<Removal>, ImageError> {
        let parts = request.platforms.iter().map(|platform| self.part(name, platform));
        let parts = parts.collect::<Result<BTreeMap<_, _>, _>>()?;
        let mut removals = self.store().edit_images(|edit| {
            let dropped = parts.iter().map(|(id, manifest)| drop_part(edit, id, manifest, request));
            dropped.collect::<Result<Vec<_>, _>>()
        })?;
        deletions(&self.store().collect(&GcOptions::default())?, &mut removals);
        Ok(removals)
    }

    /// The image of an index for just this platform, with its manifest.
    fn part(&self, name: &str, platform: &Platform) -> Result<(ImageId, Digest), ImageError> {
        let image = self.open_image_for(name, Some(platform))?;
        let (name, wanted) = (name.to_owned(), platform.clone());
        if image.row.platform.normalized() != platform.normalized() {
            // What would only do for the platform was not meant.
            return Err(ImageError::NoPlatform { name, platform: wanted });
        }
        let own = image.row.id;
        if self.find_image(&name)?.target.image_id == Some(own) {
            return Err(ImageError::OwnPlatform { name, platform: wanted });
        }
        Ok((own, self.manifest(&image.find.target)?.0.digest))
    }
}

fn drop_part(
    edit: &ImageEdit<'_>,
    id: &ImageId,
    manifest: &Digest,
    request: &RemoveRequest,
) -> Result<Removal, ImageError> {
    let short = id.digest().short_hex();
    let missing = || StoreError::NotFound { kind: "image", name: id.to_string() };
    let row = edit.image(id)?.ok_or_else(missing)?;
    match user_of(&row) {
        Some((container, running)) if running || !request.force => {
            Err(ImageError::InUse { id: short, container, running })
        }
        _ if !edit.drop_part(manifest)? => Err(ImageError::ManyNames { id: short }),
        _ => Ok(Removal::Deleted(id.to_string())),
    }
}

/// Removes a tag or a registry's digest; with a repository's last tag go the digests under which
/// that knows the image, and with the last of all the image.
fn remove_reference(
    edit: &ImageEdit<'_>,
    row: &ImageRow,
    reference: &Reference,
    request: &RemoveRequest,
) -> Result<Vec<Removal>, ImageError> {
    let user = user_of(row);
    if let (Some((container, _)), false, true) = (&user, request.force, is_single(row)) {
        return Err(ImageError::NameInUse {
            name: reference.familiar(),
            image: row.id.digest().short_hex(),
            container: container.clone(),
        });
    }
    let mut removals = vec![Removal::Untagged(reference.familiar())];
    if reference.digest().is_some() {
        edit.forget_repo_digest(reference)?;
    } else {
        edit.untag(reference)?;
        let repository = reference.repository();
        let has_other = row.tags().any(|tag| tag != reference && tag.repository() == repository);
        let digests = row.repo_digests.iter().filter(|known| known.repository() == repository);
        for known in digests.filter(|_| !has_other) {
            edit.forget_repo_digest(known)?;
            removals.push(Removal::Untagged(known.familiar()));
        }
    }
    let left = edit.image(&row.id)?;
    let is_dangling = left.as_ref().is_none_or(ImageRow::is_dangling);
    let is_known = left.is_some_and(|left| !left.repo_digests.is_empty());
    // Docker keeps the image of a running container, without a name.
    let is_kept = is_known || user.is_some_and(|(_, running)| running);
    match target_of(row, reference) {
        _ if !is_dangling => {}
        Some(target) if is_kept => edit.keep_untagged(&target)?,
        _ => {
            edit.forget(&row.id)?;
            removals.push(Removal::Deleted(row.id.to_string()));
        }
    }
    Ok(removals)
}

fn remove_by_id(
    edit: &ImageEdit<'_>,
    row: &ImageRow,
    request: &RemoveRequest,
) -> Result<Vec<Removal>, ImageError> {
    let id = row.id.digest().short_hex();
    let in_use = |(container, running)| ImageError::InUse { id: id.clone(), container, running };
    match user_of(row) {
        Some((container, true)) => Err(in_use((container, true))),
        _ if request.force => forget(edit, row),
        _ if !is_single(row) => Err(ImageError::ManyNames { id }),
        Some(user) => Err(in_use(user)),
        None => forget(edit, row),
    }
}

/// Removes an image with all its names.
pub(super) fn forget(edit: &ImageEdit<'_>, row: &ImageRow) -> Result<Vec<Removal>, ImageError> {
    let all = row.tags().chain(&row.repo_digests).map(Reference::familiar);
    let names = all.map(Removal::Untagged).collect::<Vec<_>>();
    edit.forget(&row.id)?;
    Ok([names, vec![Removal::Deleted(row.id.to_string())]].concat())
}

/// Whether at most one tag names the image, and one repository all in all.
fn is_single(row: &ImageRow) -> bool {
    let mut repositories = row.tags().chain(&row.repo_digests).map(Reference::repository);
    let first = repositories.next();
    row.tags().count() <= 1 && repositories.all(|other| Some(other) == first)
}

/// A container that uses the image, one that runs before one that does not, by its short id.
fn user_of(row: &ImageRow) -> Option<(String, bool)> {
    row.containers
        .iter()
        .map(|user| (user.id.chars().take(12).collect(), is_active(&user.status)))
        .max_by_key(|(_, running)| *running)
}

/// Whether a container with this status holds its image's files open.
fn is_active(status: &str) -> bool {
    matches!(status, "running" | "paused" | "restarting")
}

fn target_of(row: &ImageRow, reference: &Reference) -> Option<davit_store::Target> {
    let named = row.targets.iter().find(|(_, references)| references.contains(reference));
    named.or(row.targets.first()).map(|(target, _)| target.clone())
}

fn named(name: &str, tag: Option<&Reference>) -> Named {
    match (tag, name.parse::<Reference>()) {
        (Some(tag), _) => Named::Reference(tag.clone()),
        (None, Ok(reference)) => match reference.digest() {
            Some(digest) => Named::Reference(reference.repository().with_digest(*digest)),
            None => Named::Id,
        },
        (None, Err(_)) => Named::Id,
    }
}

/// Adds what a collection freed, images before layers; manifests and trees are no news to anyone.
/// An image that a build record keeps is told of by its removal alone.
pub(super) fn deletions(report: &GcReport, removals: &mut Vec<Removal>) {
    let images = report.images.iter().map(ImageId::to_string);
    let layers = report.layers.iter().map(ToString::to_string);
    for removal in images.chain(layers).map(Removal::Deleted) {
        if !removals.contains(&removal) {
            removals.push(removal);
        }
    }
}
