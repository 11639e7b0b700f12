//! Questions about images: by name, by the start of a digest, and all of them.

use davit_image::{DiffId, Digest, ImageId, MediaType, Platform, Reference, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use super::{ImageFind, ImageRow, ImageUser, Target, timestamp};
use crate::{
    StoreError,
    database::{Database, json, parsed, parsed_option, size},
};

/// One image with its names.
pub(crate) fn row_of_image(c: &Connection, id: &ImageId) -> rusqlite::Result<Option<ImageRow>> {
    rows_of_images(c, Some(id)).map(|mut rows| rows.pop())
}

/// Under which digests registries know an image, with what each names.
pub(crate) fn repo_targets(
    c: &Connection,
    id: &ImageId,
) -> rusqlite::Result<Vec<(Reference, Target)>> {
    c.prepare_cached(
        "SELECT digest, media_type, size, image_id, repository || '@' || digest
         FROM repo_digests WHERE image_id = ? ORDER BY 5",
    )?
    .query_map([id.to_string()], |row| Ok((parsed(row, 4)?, target_of_row(row)?)))?
    .collect()
}

/// Key of a tag's row: the full name without a digest.
pub(super) fn tag_key(reference: &Reference) -> String {
    let tag = reference.tag().cloned().unwrap_or_else(davit_image::Tag::latest);
    reference.repository().with_tag(tag).to_string()
}

pub(super) fn find_by_reference(
    c: &Connection,
    name: &Reference,
) -> rusqlite::Result<Option<ImageFind>> {
    let Some(digest) = name.digest() else {
        return c
            .prepare_cached(
                "SELECT digest, media_type, size, image_id FROM tags WHERE reference = ?",
            )?
            .query_row([tag_key(name)], target_of_row)
            .optional()
            .map(|target| {
                target.map(|target| ImageFind { target, reference: Some(name.clone()) })
            });
    };
    let known = c
        .prepare_cached(
            "SELECT digest, media_type, size, image_id FROM repo_digests
             WHERE repository = ? AND digest = ?",
        )?
        .query_row(params![name.repository().to_string(), digest.to_string()], target_of_row)
        .optional()?;
    Ok(known.map(|target| ImageFind { target, reference: None }))
}

/// Everything whose image ID or manifest digest starts so; one entry per image.
pub(super) fn find_by_prefix(c: &Connection, name: &str) -> rusqlite::Result<Vec<ImageFind>> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if hex.is_empty()
        || hex.len() > 64
        || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    {
        return Ok(Vec::new());
    }
    let (from, to) = (format!("sha256:{hex}"), format!("sha256:{hex}g"));
    let mut statement = c.prepare_cached(
        "SELECT digest, media_type, size, image_id FROM tags
           WHERE image_id BETWEEN ?1 AND ?2 OR digest BETWEEN ?1 AND ?2
         UNION SELECT digest, media_type, size, image_id FROM untagged
           WHERE image_id BETWEEN ?1 AND ?2 OR digest BETWEEN ?1 AND ?2
         UNION SELECT digest, media_type, size, image_id FROM repo_digests
           WHERE digest BETWEEN ?1 AND ?2",
    )?;
    let mut found: Vec<ImageFind> = Vec::new();
    let rows = statement.query_map(params![from, to], target_of_row)?;
    for target in rows {
        let target = target?;
        let same = |other: &ImageFind| match (other.target.image_id, target.image_id) {
            (Some(one), Some(two)) => one == two,
            _ => other.target.digest == target.digest,
        };
        if !found.iter().any(same) {
            found.push(ImageFind { target, reference: None });
        }
    }
    Ok(found)
}

/// All blobs below a manifest or index that are here, itself included.
pub(super) fn reachable_blobs(c: &Connection, digest: &Digest) -> rusqlite::Result<Vec<Digest>> {
    c.prepare_cached(
        "WITH RECURSIVE below(digest) AS (VALUES (?1) UNION
         SELECT child FROM blob_refs JOIN below ON parent = below.digest)
         SELECT digest FROM below JOIN blobs USING (digest)",
    )?
    .query_map([digest.to_string()], |row| parsed(row, 0))?
    .collect()
}

/// Manifests that are here and that a manifest keeps, without being part of it.
pub(crate) fn referrers_of(c: &Connection, subject: &Digest) -> rusqlite::Result<Vec<Target>> {
    c.prepare_cached(
        "SELECT b.digest, b.media_type, b.size, NULL FROM blob_refs r
         JOIN blobs b ON b.digest = r.child
         WHERE r.parent = ? AND b.media_type IN (?, ?) ORDER BY b.digest",
    )?
    .query_map(
        params![
            subject.to_string(),
            MediaType::OCI_MANIFEST.as_str(),
            MediaType::DOCKER_MANIFEST.as_str()
        ],
        target_of_row,
    )?
    .collect()
}

/// Layers that are here of all images below a manifest or index.
pub(super) fn layers_below(c: &Connection, digest: &Digest) -> rusqlite::Result<Vec<DiffId>> {
    c.prepare_cached(
        "WITH RECURSIVE below(digest) AS (VALUES (?1) UNION
         SELECT child FROM blob_refs JOIN below ON parent = below.digest)
         SELECT DISTINCT diff_id FROM below JOIN image_layers ON image_id = below.digest
         JOIN layers USING (diff_id)",
    )?
    .query_map([digest.to_string()], |row| parsed(row, 0))?
    .collect()
}

/// Compressed layers below a manifest or index that were kept here and are gone.
pub(super) fn lost_blobs(c: &Connection, digest: &Digest) -> rusqlite::Result<Vec<Digest>> {
    c.prepare_cached(
        "WITH RECURSIVE below(digest) AS (VALUES (?1) UNION
         SELECT child FROM blob_refs JOIN below ON parent = below.digest)
         SELECT DISTINCT digest FROM below JOIN layer_blobs USING (digest)
         WHERE lost = 1 AND digest NOT IN (SELECT digest FROM blobs)",
    )?
    .query_map([digest.to_string()], |row| parsed(row, 0))?
    .collect()
}

pub(crate) fn layers_of(c: &Connection, id: &ImageId) -> rusqlite::Result<Vec<DiffId>> {
    c.prepare_cached("SELECT diff_id FROM image_layers WHERE image_id = ? ORDER BY position")?
        .query_map([id.to_string()], |row| parsed(row, 0))?
        .collect()
}

pub(super) fn list(
    database: &Database,
    c: &Connection,
    only: Option<&ImageId>,
) -> Result<Vec<ImageRow>, StoreError> {
    rows_of_images(c, only).map_err(|e| database.error("list the images", e))
}

fn rows_of_images(c: &Connection, only: Option<&ImageId>) -> rusqlite::Result<Vec<ImageRow>> {
    let filter = match only {
        Some(_) => "i.id = ?1",
        None => {
            "?1 IS NULL AND (i.id IN (SELECT image_id FROM tags)
                             OR i.id IN (SELECT image_id FROM untagged))"
        }
    };
    let mut statement = c.prepare_cached(&format!(
        "SELECT i.id, i.created, i.os, i.architecture, i.variant, i.stored, i.labels,
         (SELECT COALESCE(SUM(l.tar_size), 0) FROM image_layers il
            JOIN layers l USING (diff_id) WHERE il.image_id = i.id)
         FROM images i WHERE {filter} ORDER BY i.created DESC, i.id"
    ))?;
    let key = only.map(ToString::to_string);
    let mut images: Vec<ImageRow> =
        statement.query_map([key], image_of_row)?.collect::<Result<_, _>>()?;
    for image in &mut images {
        fill_names(c, image)?;
    }
    Ok(images)
}

fn image_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ImageRow> {
    let mut platform = Platform::new(row.get_ref(2)?.as_str()?, row.get_ref(3)?.as_str()?);
    platform.variant = Some(row.get::<_, String>(4)?).filter(|variant| !variant.is_empty());
    Ok(ImageRow {
        id: parsed(row, 0)?,
        targets: Vec::new(),
        repo_digests: Vec::new(),
        created: row.get::<_, Option<i64>>(1)?.and_then(timestamp),
        platform,
        size: size(row, 7)?,
        stored: timestamp(row.get(5)?).unwrap_or(Timestamp::EPOCH),
        labels: json(row, 6)?,
        layers: Vec::new(),
        containers: Vec::new(),
    })
}

fn fill_names(c: &Connection, image: &mut ImageRow) -> rusqlite::Result<()> {
    let id = image.id.to_string();
    let mut tags = c.prepare_cached(
        "SELECT digest, media_type, size, image_id, reference FROM tags WHERE image_id = ?1
         UNION ALL SELECT digest, media_type, size, image_id, NULL FROM untagged
           WHERE image_id = ?1 ORDER BY reference",
    )?;
    let mut rows = tags.query([&id])?;
    while let Some(row) = rows.next()? {
        let target = target_of_row(row)?;
        let reference: Option<Reference> = parsed_option(row, 4)?;
        match image.targets.iter_mut().find(|(known, _)| known.digest == target.digest) {
            Some((_, references)) => references.extend(reference),
            None => image.targets.push((target, reference.into_iter().collect())),
        }
    }
    image.repo_digests = c
        .prepare_cached(
            "SELECT repository || '@' || digest FROM repo_digests WHERE image_id = ?
             ORDER BY repository, seen DESC, digest",
        )?
        .query_map([&id], |row| parsed(row, 0))?
        .collect::<Result<_, _>>()?;
    image.layers = layers_of(c, &image.id)?;
    image.containers = c
        .prepare_cached("SELECT id, status FROM containers WHERE image_id = ? ORDER BY created")?
        .query_map([&id], |row| Ok(ImageUser { id: row.get(0)?, status: row.get(1)? }))?
        .collect::<Result<_, _>>()?;
    Ok(())
}

pub(super) fn target_of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Target> {
    Ok(Target {
        digest: parsed(row, 0)?,
        media_type: MediaType::new(row.get::<_, String>(1)?),
        size: size(row, 2)?,
        image_id: parsed_option(row, 3)?,
    })
}
