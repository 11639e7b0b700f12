//! One image: its manifest, config, layers with the commands that made them, and what refers to it.

use std::collections::BTreeMap;

use davit_image::{Digest, Document, ImageConfig, MediaType};
use futures_util::TryStreamExt as _;
use http::{Method, StatusCode};
use serde_json::Value;

use super::{
    Call, Endpoint, Problem, Rule, Site,
    route::endpoint,
    sbom,
    schema::{Moment, Nothing, Page, Prose, input, reply},
    steps::layers,
};
use crate::{
    auth::Action,
    blobs,
    db::{Connection, DbError, values},
    lists,
    manifests::{self, Stored, Target},
    name::RepositoryName,
};

/// Bytes of a config that is read.
const CONFIG_BYTES: u64 = 4 << 20;
/// Platforms kept in memory.
const MOST_KNOWN: usize = 4096;

reply! {
    /// An image, index or artifact.
    Image {
        /// The repository.
        repository: String,
        /// Digest of the manifest.
        digest: String,
        /// Type of the manifest.
        media_type: String,
        /// `image`, `index` or `artifact`.
        kind: String,
        /// Bytes of the manifest.
        manifest_bytes: u64,
        /// Bytes of all blobs, each once; of an index, of all its images.
        size_bytes: u64,
        /// Tags that name it.
        tags: Vec<String>,
        /// When it was pushed.
        pushed_at: Moment,
        /// The manifest's own annotations.
        annotations: BTreeMap<String, String>,
        /// Config and steps of an image, oldest first; the blobs of an artifact.
        layers: Vec<Layer>,
        /// Images of an index.
        manifests: Vec<Child>,
    } maybe {
        /// Type of an artifact.
        artifact_type: String,
        /// The manifest to which it refers.
        subject: String,
        /// Who pushed it.
        pushed_by: String,
        /// When it was last pulled.
        pulled_at: Moment,
        /// What it runs on.
        platform: String,
        /// When it was made, as its config says.
        created: String,
        /// How its containers run.
        config: RunConfig,
    }
}

reply! {
    /// A step of an image, or a blob of an artifact.
    Layer {
        /// Bytes as they are stored; 0 for a step that made no layer.
        size_bytes: u64,
    } maybe {
        /// The command that made it.
        command: String,
        /// Digest of the layer; absent for a step that made none.
        digest: String,
        /// Its type.
        media_type: String,
    }
}

reply! {
    /// A manifest of an index.
    Child {
        /// Its digest.
        digest: String,
        /// Its type.
        media_type: String,
        /// Bytes of its blobs.
        size_bytes: u64,
        /// Whether the repository has it.
        is_present: bool,
        /// Whether it attests something of another.
        is_attestation: bool,
    } maybe {
        /// What it runs on.
        platform: String,
    }
}

reply! {
    /// How an image's containers run.
    RunConfig {
        /// Program and its fixed arguments.
        entrypoint: Vec<String>,
        /// Arguments that a user replaces.
        command: Vec<String>,
        /// Variables as `NAME=value`.
        environment: Vec<String>,
        /// Ports as `80/tcp`.
        ports: Vec<String>,
        /// Paths that get a volume.
        volumes: Vec<String>,
        /// Labels.
        labels: BTreeMap<String, String>,
    } maybe {
        /// User and group.
        user: String,
        /// Working directory.
        directory: String,
        /// Signal that asks the program to end.
        stop_signal: String,
    }
}

reply! {
    /// A manifest that refers to another.
    Referrer {
        /// Its digest.
        digest: String,
        /// Its type.
        media_type: String,
        /// Bytes of the manifest.
        manifest_bytes: u64,
        /// Its annotations.
        annotations: BTreeMap<String, String>,
    } maybe {
        /// What it is.
        artifact_type: String,
    }
}

input! {
    /// Which referrers.
    ReferrerSearch {} maybe {
        /// The `next` of the page before.
        after: Prose<135>,
        /// Only those of this artifact type.
        artifact_type: Prose<255>,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    use Method as M;
    const PULL: Rule = Rule::Repository(Action::Pull);
    vec![
        endpoint(
            (M::GET, "/repositories/{repository}/images/{reference}", PULL),
            ("getImage", "An image by tag or digest"),
            async |call: Call, _: Nothing, _: Nothing| {
                image(&call.site, &call.repository()?, &target(&call)?).await
            },
        ),
        endpoint(
            (
                M::DELETE,
                "/repositories/{repository}/images/{reference}",
                Rule::Repository(Action::DeleteManifest),
            ),
            ("deleteImage", "Remove a manifest and its tags"),
            delete,
        )
        .with(StatusCode::NO_CONTENT),
        endpoint(
            (M::GET, "/repositories/{repository}/images/{reference}/manifest", PULL),
            ("getManifest", "A manifest as it was pushed"),
            async |call: Call, _: Nothing, _: Nothing| {
                let stored = find(&call.site, &call.repository()?, &target(&call)?).await?;
                parse(&stored.body)
            },
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/images/{reference}/config", PULL),
            ("getConfig", "The config of an image as it was pushed"),
            config,
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/images/{reference}/referrers", PULL),
            ("listReferrers", "What refers to an image: signatures, SBOMs, attestations"),
            async |call: Call, search: ReferrerSearch, _: Nothing| {
                let name = call.repository()?;
                let stored = find(&call.site, &name, &target(&call)?).await?;
                referrers(&call.site, &name, &stored.digest, &search).await
            },
        ),
        endpoint(
            (M::GET, "/repositories/{repository}/images/{reference}/sbom", PULL),
            ("getSbom", "Packages of an image, by the SBOM that refers to it"),
            async |call: Call, _: Nothing, _: Nothing| {
                let name = call.repository()?;
                let stored = find(&call.site, &name, &target(&call)?).await?;
                sbom::find(&call.site, &name, &stored.digest).await?.ok_or_else(Problem::absent)
            },
        ),
    ]
}

fn target(call: &Call) -> Result<Target, Problem> {
    if call.names.get("reference").contains(':') {
        return Ok(Target::Digest(call.named("reference")?));
    }
    Ok(Target::Tag(call.named("reference")?))
}

pub(super) async fn find(
    site: &Site,
    name: &RepositoryName,
    target: &Target,
) -> Result<std::sync::Arc<Stored>, Problem> {
    Ok(manifests::find(&site.registry, name, target).await?)
}

fn parse(bytes: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(bytes).map_err(|_error| Problem::conflict("it is no JSON"))
}

async fn config(call: Call, _: Nothing, _: Nothing) -> Result<Value, Problem> {
    let name = call.repository()?;
    let stored = find(&call.site, &name, &target(&call)?).await?;
    let Document::Manifest(raw) = document(&stored)? else { return Err(Problem::absent()) };
    let digest = raw.into_value().config.digest;
    let bytes = small(&call.site, &name, &digest, CONFIG_BYTES).await?;
    parse(&bytes.ok_or_else(Problem::absent)?).map_err(|_| Problem::absent())
}

async fn delete(call: Call, _: Nothing, _: Nothing) -> Result<Nothing, Problem> {
    let name = call.repository()?;
    let stored = find(&call.site, &name, &target(&call)?).await?;
    manifests::delete(&call.site.registry, &name, &stored.digest, call.caller.account()).await?;
    Ok(Nothing {})
}

/// A stored manifest, read: it was checked when it was pushed.
pub(super) fn document(stored: &Stored) -> Result<Document, Problem> {
    let kind = MediaType::new(stored.media_type.clone());
    Document::parse(stored.body.to_vec(), Some(&kind)).map_err(|error| Problem::unavailable(&error))
}

/// A blob of at most so many bytes; `None` where it is absent or larger.
pub(super) async fn small(
    site: &Site,
    name: &RepositoryName,
    digest: &Digest,
    most: u64,
) -> Result<Option<Vec<u8>>, Problem> {
    let blob = match blobs::find(&site.registry, name, digest).await {
        Ok(blob) if blob.size_bytes <= most => blob,
        Ok(_) | Err(crate::fault::Fault::Unknown(_)) => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    // What cannot be read is told as absent: the page has the rest.
    let Ok(stored) = site.registry.store.read(&blob.key) else { return Ok(None) };
    let Ok(pieces) = stored.part(0..blob.size_bytes).await else { return Ok(None) };
    let read: Result<Vec<_>, _> = pieces.try_collect().await;
    Ok(read.ok().map(|pieces| pieces.concat()))
}

/// Bytes of a manifest's blobs, each once; of an index, of all its images.
pub(super) async fn size_of(reader: &mut Connection, id: i64) -> Result<u64, DbError> {
    const SIZE: &str = "SELECT CAST(COALESCE(SUM(s.size_bytes), 0) AS BIGINT) FROM \
         (SELECT DISTINCT b.digest, b.size_bytes FROM manifest_blob e \
          JOIN blob b ON b.digest = e.digest WHERE e.manifest_id = $1 OR e.manifest_id IN \
          (SELECT child_id FROM manifest_child WHERE parent_id = $1 AND child_id IS NOT NULL)) s";
    let row = reader.row(SIZE, values![id]).await?;
    row.map_or(Ok(0), |row| row.get(0))
}

/// What a manifest runs on: an index by its entries, an image by its config.
pub(super) async fn platforms(
    site: &Site,
    name: &RepositoryName,
    reader: &mut Connection,
    id: i64,
) -> Result<Vec<String>, Problem> {
    const CHILDREN: &str = "SELECT DISTINCT platform FROM manifest_child WHERE parent_id = $1 \
         AND platform IS NOT NULL AND platform <> 'unknown/unknown' ORDER BY platform LIMIT 50";
    const CONFIG: &str = "SELECT e.digest FROM manifest_blob e JOIN manifest m \
         ON m.id = e.manifest_id WHERE e.manifest_id = $1 AND e.role = 'config' \
         AND m.artifact_type IN ('application/vnd.oci.image.config.v1+json', \
         'application/vnd.docker.container.image.v1+json')";
    let rows = reader.rows(CHILDREN, values![id]).await?;
    if !rows.is_empty() {
        return Ok(rows.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?);
    }
    let Some(row) = reader.row(CONFIG, values![id]).await? else { return Ok(Vec::new()) };
    let digest: Digest = row.get(0)?;
    let known = || site.platforms.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(platform) = known().get(&digest).cloned() {
        return Ok(vec![platform]);
    }
    let Some(config) = image_config(site, name, &digest).await? else { return Ok(Vec::new()) };
    let platform = config.platform().to_string();
    let mut known = known();
    if known.len() >= MOST_KNOWN {
        known.clear();
    }
    known.insert(digest, platform.clone());
    Ok(vec![platform])
}

async fn image_config(
    site: &Site,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Option<ImageConfig>, Problem> {
    let bytes = small(site, name, digest, CONFIG_BYTES).await?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
}

/// An image by tag or digest.
pub(crate) async fn image(
    site: &Site,
    name: &RepositoryName,
    target: &Target,
) -> Result<Image, Problem> {
    let stored = find(site, name, target).await?;
    let mut image = frame(site, name, &stored).await?;
    match document(&stored)? {
        Document::Index(raw) => {
            let index = raw.into_value();
            image.kind = "index".to_owned();
            image.annotations = index.annotations;
            let mut reader = site.registry.database.reader().await?;
            for entry in &index.manifests {
                let (id, size_bytes) = child(&mut reader, name, &entry.digest).await?;
                image.manifests.push(Child {
                    digest: entry.digest.to_string(),
                    media_type: entry.media_type.to_string(),
                    size_bytes,
                    is_present: id.is_some(),
                    is_attestation: entry.is_attestation(),
                    platform: entry.platform.as_ref().map(ToString::to_string),
                });
            }
        }
        Document::Manifest(raw) => {
            let manifest = raw.into_value();
            image.annotations = manifest.annotations.clone();
            let config = if manifest.is_image() {
                image_config(site, name, &manifest.config.digest).await?
            } else {
                image.kind = "artifact".to_owned();
                None
            };
            let history = config.as_ref().map_or(&[][..], |config| &config.history);
            image.layers = layers(&manifest.layers, history);
            if let Some(config) = config {
                image.platform = Some(config.platform().to_string());
                image.created = config.created.as_ref().map(ToString::to_string);
                image.config = Some(run_config(config));
            }
        }
    }
    Ok(image)
}

/// What the database has of a manifest.
async fn frame(site: &Site, name: &RepositoryName, stored: &Stored) -> Result<Image, Problem> {
    const ROW: &str = "SELECT m.id, m.artifact_type, m.subject, m.size_bytes, m.pushed_at, \
         a.name, m.pulled_at FROM manifest m JOIN repo r ON r.id = m.repo_id \
         LEFT JOIN account a ON a.id = m.pushed_by WHERE r.path = $1 AND m.digest = $2";
    const TAGS: &str = "SELECT name FROM tag WHERE manifest_id = $1 ORDER BY name LIMIT 100";
    let mut reader = site.registry.database.reader().await?;
    let row = reader.row(ROW, values![name.as_str(), &stored.digest]).await?;
    let row = row.ok_or_else(Problem::absent)?;
    let id: i64 = row.get(0)?;
    let tags = reader.rows(TAGS, values![id]).await?;
    let pulled_at: Option<i64> = row.get(6)?;
    Ok(Image {
        repository: name.to_string(),
        digest: stored.digest.to_string(),
        media_type: stored.media_type.clone(),
        kind: "image".to_owned(),
        manifest_bytes: row.get(3)?,
        size_bytes: size_of(&mut reader, id).await?,
        tags: tags.iter().map(|row| row.get(0)).collect::<Result<_, _>>()?,
        pushed_at: Moment(row.get(4)?),
        annotations: BTreeMap::new(),
        layers: Vec::new(),
        manifests: Vec::new(),
        artifact_type: row.get(1)?,
        subject: row.get(2)?,
        pushed_by: row.get(5)?,
        pulled_at: pulled_at.map(Moment),
        platform: None,
        created: None,
        config: None,
    })
}

async fn child(
    reader: &mut Connection,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<(Option<i64>, u64), DbError> {
    const ONE: &str = "SELECT m.id FROM manifest m JOIN repo r ON r.id = m.repo_id \
                       WHERE r.path = $1 AND m.digest = $2";
    let row = reader.row(ONE, values![name.as_str(), digest]).await?;
    let Some(row) = row else { return Ok((None, 0)) };
    let id = row.get(0)?;
    Ok((Some(id), size_of(reader, id).await?))
}

fn run_config(config: ImageConfig) -> RunConfig {
    let config = config.config;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    RunConfig {
        entrypoint: config.entrypoint.unwrap_or_default(),
        command: config.cmd.unwrap_or_default(),
        environment: config.env.unwrap_or_default(),
        ports: config.exposed_ports.unwrap_or_default().into_keys().collect(),
        volumes: config.volumes.unwrap_or_default().into_keys().collect(),
        labels: config.labels.unwrap_or_default(),
        user: some(config.user),
        directory: some(config.working_dir),
        stop_signal: config.stop_signal,
    }
}

impl ReferrerSearch {
    /// What comes after that, of every type.
    pub(crate) fn after(place: &str) -> Self {
        Self { after: Some(Prose(place.to_owned())), artifact_type: None }
    }
}

/// What refers to a manifest.
pub(crate) async fn referrers(
    site: &Site,
    name: &RepositoryName,
    subject: &Digest,
    search: &ReferrerSearch,
) -> Result<Page<Referrer>, Problem> {
    let after = search.after.as_ref().map_or("", |after| after.0.as_str());
    let kind = search.artifact_type.as_ref().map(|kind| kind.0.as_str());
    let page = lists::referrers(&site.registry, name, subject, (after, kind)).await?;
    let referrer = |entry: davit_image::Descriptor| Referrer {
        digest: entry.digest.to_string(),
        media_type: entry.media_type.to_string(),
        manifest_bytes: entry.size,
        annotations: entry.annotations,
        artifact_type: entry.artifact_type.map(|kind| kind.to_string()),
    };
    Ok(Page { items: page.entries.into_iter().map(referrer).collect(), next: page.next })
}
