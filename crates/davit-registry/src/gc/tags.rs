//! Retention: tags that no rule of their repository keeps are removed.

use davit_image::Digest;

use crate::{
    db::{Connection, Database, DbError, Lock, Transaction, values},
    events::{EventKind, Happened, emit_at},
    gc::{BATCH, GcError, Mode},
    manifests::queue,
    retention::{TagFacts, Verdict, judge},
    settings::RepositorySettings,
};

/// What becomes of one tag, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionVerdict {
    /// Name of the repository.
    pub repository: String,
    /// The verdict.
    pub verdict: Verdict,
}

struct Judged {
    repo_id: i64,
    repository: String,
    /// Each with the version of the tag that was judged.
    verdicts: Vec<(Verdict, i64)>,
}

pub(super) async fn verdicts(database: &Database) -> Result<Vec<RetentionVerdict>, GcError> {
    let mut all = Vec::new();
    for judged in judge_all(database).await? {
        let repository = judged.repository;
        let told = judged
            .verdicts
            .into_iter()
            .map(|(verdict, _)| RetentionVerdict { repository: repository.clone(), verdict });
        all.extend(told);
    }
    Ok(all)
}

pub(super) async fn collect(database: &Database, mode: Mode) -> Result<u64, GcError> {
    let mut removed = 0;
    for judged in judge_all(database).await? {
        let gone = judged.verdicts.into_iter().filter(|(verdict, _)| verdict.kept.is_none());
        let gone: Vec<_> = gone.map(|(verdict, version)| (verdict.tag, version)).collect();
        if mode == Mode::DryRun {
            removed += gone.len() as u64;
            continue;
        }
        for tags in gone.chunks(BATCH) {
            let tags = tags.to_vec();
            removed += database.write(RemoveTags { repo_id: judged.repo_id, tags }).await?;
        }
    }
    Ok(removed)
}

async fn judge_all(database: &Database) -> Result<Vec<Judged>, GcError> {
    let mut reader = database.reader().await?;
    let repos = "SELECT id, path, settings FROM repo WHERE settings LIKE '%\"retention\"%'";
    let mut all = Vec::new();
    for row in reader.rows(repos, Vec::new()).await? {
        let (repo_id, repository): (i64, String) = (row.get(0)?, row.get(1)?);
        let settings = row.get::<String>(2)?.parse();
        let settings: RepositorySettings = settings
            .map_err(|source| GcError::Settings { repository: repository.clone(), source })?;
        let (facts, versions) = facts(&mut reader, repo_id).await?;
        let verdicts = judge(&settings, &facts, reader.now_ms());
        all.push(Judged {
            repo_id,
            repository,
            verdicts: verdicts.into_iter().zip(versions).collect(),
        });
    }
    Ok(all)
}

async fn facts(
    reader: &mut Connection,
    repo_id: i64,
) -> Result<(Vec<TagFacts>, Vec<i64>), DbError> {
    let sql = "SELECT t.name, m.digest, t.updated_at, m.pulled_at, t.version \
               FROM tag t JOIN manifest m ON m.id = t.manifest_id WHERE t.repo_id = $1";
    let (mut facts, mut versions) = (Vec::new(), Vec::new());
    for row in reader.rows(sql, values![repo_id]).await? {
        facts.push(TagFacts {
            name: row.get(0)?,
            digest: row.get(1)?,
            pushed_at_ms: row.get(2)?,
            pulled_at_ms: row.get(3)?,
        });
        versions.push(row.get(4)?);
    }
    Ok((facts, versions))
}

/// Removes tags that nobody moved since they were judged.
pub(crate) struct RemoveTags {
    pub(crate) repo_id: i64,
    /// Each with the version that was judged.
    pub(crate) tags: Vec<(String, i64)>,
}

impl Transaction for RemoveTags {
    type Output = u64;
    type Error = DbError;

    async fn run(&self, connection: &mut Connection) -> Result<u64, DbError> {
        const TAG: &str = "SELECT m.digest FROM tag t JOIN manifest m ON m.id = t.manifest_id \
                           WHERE t.repo_id = $1 AND t.name = $2 AND t.version = $3";
        const DELETE: &str = "DELETE FROM tag WHERE repo_id = $1 AND name = $2";
        const EVENT: &str =
            "INSERT INTO tag_event (repo_id, name, old_digest, at) VALUES ($1, $2, $3, $4)";
        let now = connection.now_ms();
        let mut removed = 0;
        for (name, version) in &self.tags {
            let values = values![self.repo_id, name, *version];
            let rows = connection.rows_locked(TAG, values, Lock::NoKeyUpdate).await?;
            let Some(row) = rows.first() else { continue };
            let digest: Digest = row.get(0)?;
            connection.execute(EVENT, values![self.repo_id, name, &digest, now]).await?;
            connection.execute(DELETE, values![self.repo_id, name]).await?;
            let gone = Happened { tag: Some(name), ..Happened::of(EventKind::TagDelete) };
            emit_at(connection, self.repo_id, Happened { digest: Some(&digest), ..gone }).await?;
            queue(connection, self.repo_id, &digest, now).await?;
            removed += 1;
        }
        Ok(removed)
    }
}
