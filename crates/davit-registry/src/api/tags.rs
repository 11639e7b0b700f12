//! Tags: sizes and platforms of what they name, history, removal, undo.

use davit_image::{Digest, Tag};
use http::{Method, StatusCode};

use super::{
    Call, Endpoint, Problem, Rule, Site, images,
    route::endpoint,
    schema::{Moment, Nothing, Page, Prose, input, reply, words},
    text::{Most, most},
};
use crate::{
    auth::Action,
    db::{Connection, DbError, Row, values},
    manifests,
    name::RepositoryName,
};

/// Moves of a tag that are told.
const MOVES: u64 = 200;

reply! {
    /// A tag, and what it names.
    TagInfo {
        /// Its name.
        name: String,
        /// The manifest that it names.
        digest: String,
        /// The manifest's type.
        media_type: String,
        /// Bytes of all its blobs, each once; of an index, of all its images.
        size_bytes: u64,
        /// What it runs on.
        platforms: Vec<String>,
        /// When it was last moved.
        updated_at: Moment,
    } maybe {
        /// Who moved it.
        updated_by: String,
        /// When the manifest was last pulled.
        pulled_at: Moment,
    }
}

reply! {
    /// One move of a tag.
    TagMove {
        /// When.
        at: Moment,
    } maybe {
        /// What it named before; absent when it was made.
        old: String,
        /// What it named after; absent when it was removed.
        new: String,
        /// Who moved it.
        by: String,
    }
}

words! {
    /// In which order tags are listed.
    TagOrder {
        /// By name; goes on from page to page.
        Name = "name",
        /// The newest first; one page.
        Newest = "newest",
    }
}

input! {
    /// Which tags.
    TagSearch {} maybe {
        /// Entries of the page; 100 if absent.
        limit: Most,
        /// The `next` of the page before.
        after: Prose<128>,
        /// A part of the name.
        search: Prose<128>,
        /// In which order.
        order: TagOrder,
    }
}

impl TagSearch {
    /// So many of the newest.
    pub(crate) fn newest(limit: u64) -> Self {
        let limit = Some(Most::new(limit));
        Self { limit, after: None, search: None, order: Some(TagOrder::Newest) }
    }

    /// So many by name, after one, with a text in them; empty texts ask for nothing.
    pub(crate) fn named(limit: u64, after: &str, words: &str) -> Self {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let (after, search) = (some(after).map(Prose), some(words).map(Prose));
        Self { limit: Some(Most::new(limit)), after, search, order: None }
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    use Rule::Repository as On;
    vec![
        endpoint(
            (M::GET, "/repositories/{repository}/tags", On(Action::Pull)),
            ("listTags", "Tags of a repository"),
            async |call: Call, search: TagSearch, _: Nothing| {
                tags(&call.site, &call.repository()?, &search).await
            },
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/tags/{tag}", On(Action::Pull)),
            ("getTag", "One tag"),
            async |call: Call, _: Nothing, _: Nothing| {
                tag(&call.site, &call.repository()?, &call.named("tag")?).await
            },
        ),
        endpoint(
            (M::DELETE, "/repositories/{repository}/tags/{tag}", On(Action::DeleteTag)),
            (
                "deleteTag",
                "Remove a tag; what it named stays for a while, so that this can be undone",
            ),
            delete,
        )
        .with(StatusCode::NO_CONTENT),
        endpoint(
            (M::GET, "/repositories/{repository}/tags/{tag}/history", On(Action::Pull)),
            ("getTagHistory", "What a tag named, newest first"),
            async |call: Call, _: Nothing, _: Nothing| {
                let (name, tag) = (call.repository()?, call.named("tag")?);
                tag_history(&call.site, &name, &tag).await.map(Page::whole)
            },
        ),
        endpoint(
            (M::POST, "/repositories/{repository}/tags/{tag}/undo", On(Action::ChangeSettings)),
            ("undoTag", "Take the last move of a tag back"),
            undo,
        ),
    ]
}

reply! {
    /// What a tag names after its last move was taken back.
    Undone {} maybe {
        /// The manifest; absent: the tag is gone.
        digest: String,
    }
}

/// Tags of a repository.
pub(crate) async fn tags(
    site: &Site,
    name: &RepositoryName,
    search: &TagSearch,
) -> Result<Page<TagInfo>, Problem> {
    const BY_NAME: &str = "SELECT t.name, m.digest, m.media_type, t.updated_at, a.name, m.pulled_at, \
         m.id FROM tag t JOIN repo r ON r.id = t.repo_id JOIN manifest m ON m.id = t.manifest_id \
         LEFT JOIN account a ON a.id = t.updated_by WHERE r.path = $1 AND t.name > $2 \
         AND ($3 = '' OR LOWER(t.name) LIKE $3 ESCAPE '!') ORDER BY t.name LIMIT $4";
    const NEWEST: &str = "SELECT t.name, m.digest, m.media_type, t.updated_at, a.name, m.pulled_at, \
         m.id FROM tag t JOIN repo r ON r.id = t.repo_id JOIN manifest m ON m.id = t.manifest_id \
         LEFT JOIN account a ON a.id = t.updated_by WHERE r.path = $1 AND t.name > $2 \
         AND ($3 = '' OR LOWER(t.name) LIKE $3 ESCAPE '!') \
         ORDER BY t.updated_at DESC, t.name LIMIT $4";
    let words = search.search.as_ref().map_or("", |words| words.0.trim());
    let pattern = if words.is_empty() { String::new() } else { super::repositories::like(words) };
    let is_newest = search.order == Some(TagOrder::Newest);
    let after = search.after.as_ref().filter(|_| !is_newest).map_or("", |after| &after.0);
    let (sql, most) = (if is_newest { NEWEST } else { BY_NAME }, most(search.limit));
    let mut reader = site.registry.database.reader().await?;
    let rows = values![name.as_str(), after, pattern, most as u64 + 1];
    let rows = reader.rows(sql, rows).await?;
    let mut items = Vec::new();
    for row in rows.iter().take(most) {
        items.push(told(site, name, &mut reader, row).await?);
    }
    let is_cut = rows.len() > most && !is_newest;
    let next = items.last().filter(|_| is_cut).map(|tag| tag.name.clone());
    Ok(Page { items, next })
}

/// One tag.
pub(crate) async fn tag(site: &Site, name: &RepositoryName, tag: &Tag) -> Result<TagInfo, Problem> {
    const ONE: &str = "SELECT t.name, m.digest, m.media_type, t.updated_at, a.name, m.pulled_at, \
         m.id FROM tag t JOIN repo r ON r.id = t.repo_id JOIN manifest m ON m.id = t.manifest_id \
         LEFT JOIN account a ON a.id = t.updated_by WHERE r.path = $1 AND t.name = $2";
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row(ONE, values![name.as_str(), tag.as_str()]).await?;
    told(site, name, &mut reader, &row.ok_or_else(Problem::absent)?).await
}

async fn told(
    site: &Site,
    name: &RepositoryName,
    reader: &mut Connection,
    row: &Row,
) -> Result<TagInfo, Problem> {
    let (digest, id): (Digest, i64) = (row.get(1)?, row.get(6)?);
    let pulled_at: Option<i64> = row.get(5)?;
    Ok(TagInfo {
        name: row.get(0)?,
        digest: digest.to_string(),
        media_type: row.get(2)?,
        size_bytes: images::size_of(reader, id).await?,
        platforms: images::platforms(site, name, reader, id).await?,
        updated_at: Moment(row.get(3)?),
        updated_by: row.get(4)?,
        pulled_at: pulled_at.map(Moment),
    })
}

async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let (name, tag): (_, Tag) = (call.repository()?, call.named("tag")?);
    let with = (None, call.caller.account());
    manifests::delete_tag(&call.site.registry, &name, &tag, with).await?;
    Ok(Nothing {})
}

/// What a tag named, newest first.
pub(crate) async fn tag_history(
    site: &Site,
    name: &RepositoryName,
    tag: &Tag,
) -> Result<Vec<TagMove>, Problem> {
    const MOVED: &str = "SELECT e.old_digest, e.new_digest, e.at, a.name FROM tag_event e \
         JOIN repo r ON r.id = e.repo_id LEFT JOIN account a ON a.id = e.by_id \
         WHERE r.path = $1 AND e.name = $2 ORDER BY e.id DESC LIMIT $3";
    let mut reader = site.registry.database.reader().await?;
    let rows = reader.rows(MOVED, values![name.as_str(), tag.as_str(), MOVES]).await?;
    let told = |row: &Row| {
        let at = Moment(row.get(2)?);
        Ok(TagMove { old: row.get(0)?, new: row.get(1)?, at, by: row.get(3)? })
    };
    Ok(rows.iter().map(told).collect::<Result<_, DbError>>()?)
}

async fn undo(call: Call, _: Nothing, _: Nothing) -> Result<Undone, Problem> {
    let (name, tag): (_, Tag) = (call.repository()?, call.named("tag")?);
    let named = manifests::undo(&call.site.registry, &name, &tag, call.caller.account()).await?;
    Ok(Undone { digest: named.map(|digest| digest.to_string()) })
}
