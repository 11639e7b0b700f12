//! Lists with pages: tags of a repository, repositories, referrers of a manifest.
//!
//! Pages follow the order of bytes and go on after a name, never by number, so that each costs the
//! same, wherever it lies.

use davit_image::{Descriptor, Digest, MediaType};
use serde_json::Value;

use crate::{
    auth::Caller,
    db::values,
    fault::Fault,
    name::RepositoryName,
    registry::{Registry, find_repo},
};

/// Entries of a page at most.
pub const LONGEST_PAGE: usize = 1000;
/// Descriptors of a page of referrers: with annotations each may be some kilobytes.
const REFERRERS_PAGE: usize = 100;
/// Bytes of a page of referrers: what clients take as a manifest.
const REFERRERS_BYTES: usize = 3 << 20;

/// One page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Its entries.
    pub entries: Vec<T>,
    /// Name after which the next page goes on; `None` on the last.
    pub next: Option<String>,
}

/// Tags of a repository after a name.
///
/// # Errors
/// [`Fault::NAME_UNKNOWN`].
pub async fn tags(
    registry: &Registry,
    name: &RepositoryName,
    after: &str,
    most: usize,
) -> Result<Page<String>, Fault> {
    let most = most.min(LONGEST_PAGE);
    let mut reader = registry.database.reader().await?;
    let repo = find_repo(&mut reader, name).await?.ok_or(Fault::NAME_UNKNOWN)?;
    let sql = "SELECT name FROM tag WHERE repo_id = $1 AND name > $2 ORDER BY name LIMIT $3";
    let rows = reader.rows(sql, values![repo.id, after, most as u64 + 1]).await?;
    let names = rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?;
    Ok(page(names, most))
}

/// Repositories after a name that the caller may read.
///
/// Others are passed over without a trace: the name after which the next page goes on is one of the
/// page's own.
///
/// # Errors
/// The database's.
pub async fn repositories(
    registry: &Registry,
    caller: &Caller,
    after: &str,
    most: usize,
) -> Result<Page<RepositoryName>, Fault> {
    let most = most.min(LONGEST_PAGE);
    let mut reader = registry.database.reader().await?;
    // Deleted ones follow `~`.
    let sql = "SELECT path, visibility FROM repo WHERE path > $1 AND path < '~' \
               ORDER BY path LIMIT $2";
    let (mut names, mut last) = (Vec::new(), after.to_owned());
    while names.len() <= most {
        let rows = reader.rows(sql, values![&last, LONGEST_PAGE as u64]).await?;
        for row in &rows {
            let visibility: String = row.get(1)?;
            last = row.get(0)?;
            if caller.may_see(&last, visibility == "public") {
                names.push(last.clone());
            }
        }
        if rows.len() < LONGEST_PAGE {
            break;
        }
    }
    let Page { entries, next } = page(names, most);
    Ok(Page { entries: entries.iter().filter_map(|name| name.parse().ok()).collect(), next })
}

fn page(mut names: Vec<String>, most: usize) -> Page<String> {
    let is_last = names.len() <= most;
    names.truncate(most);
    let next = if is_last { None } else { names.last().cloned() };
    Page { entries: names, next }
}

/// Manifests whose subject is this digest, by their digests, after one; `kind` keeps one artifact type.
///
/// # Errors
/// The database's; a repository that does not exist has none.
pub async fn referrers(
    registry: &Registry,
    name: &RepositoryName,
    subject: &Digest,
    (after, kind): (&str, Option<&str>),
) -> Result<Page<Descriptor>, Fault> {
    let sql = "SELECT m.digest, m.media_type, m.artifact_type, m.size_bytes, m.body \
               FROM repo r JOIN manifest m ON m.repo_id = r.id \
               WHERE r.path = $1 AND m.subject = $2 AND m.digest > $3 \
               AND ($4 = '' OR m.artifact_type = $4) ORDER BY m.digest LIMIT $5";
    let most = REFERRERS_PAGE as u64 + 1;
    let mut reader = registry.database.reader().await?;
    let values = values![name.as_str(), subject, after, kind.unwrap_or_default(), most];
    let rows = reader.rows(sql, values).await?;
    let mut page = Page { entries: Vec::new(), next: None };
    let mut bytes = 0;
    for row in rows {
        let digest: Digest = row.get(0)?;
        let body: Vec<u8> = row.get(4)?;
        bytes += body.len();
        let is_full = page.entries.len() == REFERRERS_PAGE || bytes > REFERRERS_BYTES;
        if is_full && let Some(last) = page.entries.last() {
            let last: &Descriptor = last;
            page.next = Some(last.digest.to_string());
            break;
        }
        let media_type = MediaType::new(row.get::<String>(1)?);
        let mut descriptor = Descriptor::new(media_type, digest, row.get(3)?);
        descriptor.artifact_type = row.get::<Option<String>>(2)?.map(MediaType::new);
        descriptor.annotations = annotations(&body);
        page.entries.push(descriptor);
    }
    Ok(page)
}

/// A manifest's own annotations; it was checked when it was pushed.
fn annotations(body: &[u8]) -> std::collections::BTreeMap<String, String> {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    serde_json::from_value(document["annotations"].clone()).unwrap_or_default()
}
