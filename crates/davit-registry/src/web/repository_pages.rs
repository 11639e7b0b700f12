//! Pages of a repository, its tags and images.

use askama::Template;
use axum::body::Body;
use davit_image::{Digest, Tag};
use http::Response;

use super::{Visit, markdown, show, view::Frame};
use crate::{
    api::{
        self, Grant, Image, Layer, Problem, Referrer, ReferrerSearch, Repository, RepositoryConfig,
        Sbom, TagInfo, TagMove, TagSearch, Verdict,
    },
    auth::Action,
    manifests::Target,
    name::RepositoryName,
};

/// Tags on the first page of a repository.
const NEWEST: u64 = 10;
/// Tags of a page.
const TAGS: u64 = 50;
/// Colours of layers.
const COLOURS: usize = 8;

/// What the caller may do with the repository, as its pages show.
#[derive(Clone, Copy)]
pub(super) struct On {
    pub(super) push: bool,
    pub(super) delete: bool,
    pub(super) settings: bool,
    pub(super) access: bool,
}

pub(super) async fn on(visit: &Visit) -> Result<(RepositoryName, Repository, On), Problem> {
    let name: RepositoryName =
        visit.names.get("repository").parse().map_err(|_| Problem::absent())?;
    let repository = api::repository(&visit.site, &name).await?;
    let rights = visit.site.auth.rights(&visit.caller, name.as_str()).await?;
    let on = On {
        push: rights.allows(Action::Push),
        delete: rights.allows(Action::DeleteTag),
        settings: rights.allows(Action::ChangeSettings),
        access: rights.allows(Action::ChangeAccess),
    };
    Ok((name, repository, on))
}

#[derive(Template)]
#[template(path = "repository.html")]
struct RepositoryPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    tags: Vec<TagInfo>,
    /// HTML that is safe as it is.
    readme: String,
    pull_command: String,
    push_command: String,
}

/// A repository: newest tags, README, how to pull.
pub(super) async fn overview(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let tags = api::tags(&visit.site, &name, &TagSearch::newest(NEWEST)).await?.items;
    let shown = tags.first().map_or("latest", |tag| tag.name.as_str());
    show(&RepositoryPage {
        page: visit.titled(name.to_string(), "repositories"),
        readme: markdown::render(repository.readme.as_deref().unwrap_or_default()),
        pull_command: format!("davit pull {}/{name}:{shown}", visit.host),
        push_command: format!("davit push {}/{name}:latest", visit.host),
        tab: "overview",
        tags,
        repository,
        rights,
    })
}

#[derive(Template)]
#[template(path = "tags.html")]
struct TagsPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    tags: Vec<TagInfo>,
    filter: String,
    next_page: Option<String>,
}

/// Tags of a repository.
pub(super) async fn tags(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let filter: String = visit.field("filter").chars().take(128).collect();
    let search = TagSearch::named(TAGS, visit.field("after"), &filter);
    let found = api::tags(&visit.site, &name, &search).await?;
    show(&TagsPage {
        page: visit.titled(format!("Tags of {name}"), "repositories"),
        next_page: visit.next_page(found.next.as_ref()),
        tags: found.items,
        tab: "tags",
        filter,
        repository,
        rights,
    })
}

#[derive(Template)]
#[template(path = "tag.html")]
struct TagPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    name: String,
    /// `None` for a tag that was removed, and has a history.
    tag: Option<TagInfo>,
    history: Vec<TagMove>,
    pull_command: String,
}

impl TagPage {
    /// To take back that a tag was made is to remove it, for which there is a button of its own.
    fn can_undo(&self) -> bool {
        self.rights.settings && self.history.first().is_some_and(|last| last.old.is_some())
    }
}

/// One tag and its history.
pub(super) async fn tag(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let tag: Tag = visit.names.get("tag").parse().map_err(|_| Problem::absent())?;
    let history = api::tag_history(&visit.site, &name, &tag).await?;
    let info = match api::tag(&visit.site, &name, &tag).await {
        Ok(info) => Some(info),
        Err(problem) if problem.status == http::StatusCode::NOT_FOUND && !history.is_empty() => {
            None
        }
        Err(problem) => return Err(problem),
    };
    show(&TagPage {
        page: visit.titled(format!("{name}:{tag}"), "repositories"),
        pull_command: format!("davit pull {}/{name}:{tag}", visit.host),
        name: tag.to_string(),
        tab: "tags",
        tag: info,
        history,
        repository,
        rights,
    })
}

/// A layer with its part of the picture.
struct Step {
    layer: Layer,
    /// Where its bar begins, in thousandths.
    start: u64,
    width: u64,
    colour: usize,
}

impl Step {
    fn text(&self) -> &str {
        let kind = self.layer.media_type.as_deref().unwrap_or("layer");
        self.layer.command.as_deref().filter(|command| !command.is_empty()).unwrap_or(kind)
    }
}

/// Divides the bar among the layers by their bytes; none that has bytes vanishes.
fn steps(layers: Vec<Layer>) -> Vec<Step> {
    let sum: u64 = layers.iter().map(|layer| layer.size_bytes).sum();
    let shares: Vec<u64> = layers.iter().map(|layer| share(layer.size_bytes, sum)).collect();
    let whole: u64 = shares.iter().sum::<u64>().max(1);
    let (mut begun, mut number) = (0, 0);
    let mut all = Vec::new();
    for (layer, share) in layers.into_iter().zip(shares) {
        let (start, end) = (begun * 1000 / whole, (begun + share) * 1000 / whole);
        begun += share;
        let colour = number % COLOURS;
        number += usize::from(layer.digest.is_some());
        all.push(Step { layer, start, width: end - start, colour });
    }
    all
}

fn share(bytes: u64, sum: u64) -> u64 {
    let exact = u128::from(bytes) * 1000 / u128::from(sum.max(1));
    let share = u64::try_from(exact).unwrap_or(1000);
    if bytes > 0 { share.max(4) } else { 0 }
}

#[derive(Template)]
#[template(path = "image.html")]
struct ImagePage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    /// Where to go when the image was removed.
    after: String,
    image: Image,
    steps: Vec<Step>,
    sbom: Option<Sbom>,
    referrers: Vec<Referrer>,
    /// Where more of them are.
    next_page: Option<String>,
    pull_command: String,
}

/// One image.
pub(super) async fn image(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let digest: Digest = visit.names.get("reference").parse().map_err(|_| Problem::absent())?;
    let site = &visit.site;
    let mut image = api::image(site, &name, &Target::Digest(digest)).await?;
    let layers = std::mem::take(&mut image.layers);
    let search = ReferrerSearch::after(visit.field("after"));
    let referrers = api::referrers(site, &name, &digest, &search).await?;
    show(&ImagePage {
        page: visit.titled(format!("Image of {name}"), "repositories"),
        tab: "tags",
        after: format!("/r/{name}"),
        steps: steps(layers),
        sbom: api::sbom(site, &name, &digest).await?,
        next_page: visit.next_page(referrers.next.as_ref()),
        referrers: referrers.items,
        pull_command: format!("davit pull {}/{name}@{digest}", visit.host),
        image,
        repository,
        rights,
    })
}

#[derive(Template)]
#[template(path = "repository_access.html")]
struct AccessPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    scope: String,
    is_repository: bool,
    grants: Vec<Grant>,
}

/// Who may do what with a repository.
pub(super) async fn access(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    show(&AccessPage {
        page: visit.titled(format!("Access to {name}"), "repositories"),
        tab: "access",
        scope: name.to_string(),
        is_repository: true,
        grants: api::repository_grants(&visit.site, &name).await?,
        repository,
        rights,
    })
}

#[derive(Template)]
#[template(path = "repository_settings.html")]
struct SettingsPage {
    page: Frame,
    repository: Repository,
    rights: On,
    tab: &'static str,
    config: RepositoryConfig,
    readme: String,
    immutable: String,
    retention: String,
    verdicts: Vec<Verdict>,
}

/// Description, README, immutable tags, retention.
pub(super) async fn settings(visit: &Visit) -> Result<Response<Body>, Problem> {
    let (name, repository, rights) = on(visit).await?;
    let config = api::repository_config(&visit.site, &name).await?;
    let verdicts = if config.retention.is_empty() {
        Vec::new()
    } else {
        let mut all = api::retention_verdicts(&visit.site, &name).await?;
        all.truncate(200);
        all
    };
    show(&SettingsPage {
        page: visit.titled(format!("Settings of {name}"), "repositories"),
        tab: "settings",
        readme: repository.readme.clone().unwrap_or_default(),
        immutable: config.immutable_tags.join("\n"),
        retention: serde_json::to_string_pretty(&config.retention).unwrap_or_default(),
        config,
        verdicts,
        repository,
        rights,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_filled_by_all_layers() {
        let layer = |size_bytes, digest: Option<&str>| Layer {
            size_bytes,
            command: None,
            digest: digest.map(str::to_owned),
            media_type: None,
        };
        for sizes in [&[1_u64, 1_000_000_000, 0, 5][..], &[3, 3, 3], &[u64::MAX / 2, 1], &[0]] {
            let all = steps(sizes.iter().map(|size| layer(*size, Some("x"))).collect());
            let mut at = 0;
            for (step, size) in all.iter().zip(sizes) {
                assert_eq!((step.start, step.width > 0), (at, *size > 0), "{sizes:?}");
                at += step.width;
            }
            assert_eq!(at, if sizes.iter().sum::<u64>() > 0 { 1000 } else { 0 });
        }
        // Steps without a layer take no colour from the others.
        let all = steps(vec![layer(1, Some("x")), layer(0, None), layer(1, Some("y"))]);
        assert_eq!((all[0].colour, all[2].colour), (0, 1));
    }
}
