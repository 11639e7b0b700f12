//! `davit images`, `davit image ls`

use davit_engine::{
    Engine, Glob,
    image::{Reference, Timestamp},
};
use serde::Serialize;

use crate::{
    cli::Context,
    error::CliError,
    filter::{Filters, help},
    format::{List, ListFormat, Width},
    printer, units,
};

const FILTERS: [&str; 7] = ["before", "dangling", "label", "label!", "reference", "since", "until"];
const NONE: &str = "<none>";

// Arguments of `davit images`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImagesArgs {
    /// Only images whose name fits this pattern
    #[arg(value_name = "REPOSITORY[:TAG]")]
    repository: Option<String>,
    /// Accepted for Docker's sake; there are no intermediate images
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    #[arg(short, long, value_name = "KEY=VALUE", help = help(&FILTERS))]
    filter: Vec<String>,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: ListFormat,
}

/// One line of the list, in Docker's words.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Row {
    #[serde(rename = "ID")]
    pub(super) id: String,
    pub(super) repository: String,
    pub(super) tag: String,
    pub(super) digest: String,
    pub(super) created_since: String,
    pub(super) created_at: String,
    pub(super) size: String,
    pub(super) virtual_size: String,
    pub(super) shared_size: String,
    pub(super) unique_size: String,
    pub(super) containers: String,
}

/// One image of `--json`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RawImage {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    created: Option<Timestamp>,
    size: u64,
    labels: std::collections::BTreeMap<String, String>,
    containers: usize,
    platform: String,
}

/// An image after the filters, with the names that passed.
struct Chosen {
    row: davit_engine::ImageRow,
    names: Vec<Reference>,
    digests: Vec<Reference>,
}

/// Runs `davit images`.
///
/// # Errors
/// A malformed filter or template.
pub(crate) fn run(args: &ImagesArgs, context: &Context) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let engine = context.engine()?;
    let chosen = choose(&engine, args, &filters)?;
    let rows: Vec<Row> = chosen.iter().flat_map(|image| image.rows(args)).collect();
    if args.quiet && args.format.is_table() {
        printer::data(&rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>())?;
        return Ok(0);
    }
    let raw: Vec<RawImage> = chosen.iter().map(Chosen::raw).collect();
    let mut format = context.list_format(&args.format, "imagesFormat")?;
    if format.template() == Some("raw") {
        format.format = Some(block(args));
    }
    list(args.digests).print(&format, &rows, &raw)?;
    Ok(0)
}

/// Docker's block of keys and values.
fn block(args: &ImagesArgs) -> String {
    if args.quiet {
        return "image_id: {{.ID}}".to_owned();
    }
    let digest = if args.digests { "digest: {{.Digest}}\n" } else { "" };
    format!(
        "repository: {{{{.Repository}}}}\ntag: {{{{.Tag}}}}\n{digest}image_id: {{{{.ID}}}}\n\
         created_at: {{{{.CreatedAt}}}}\nvirtual_size: {{{{.Size}}}}\n"
    )
}

/// Heads of the columns.
pub(super) const HEADS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

const fn list(digests: bool) -> List<'static> {
    let table = if digests {
        "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    List { table, heads: HEADS }
}

/// A pattern for names, of the command line or of a `reference` filter.
struct Pattern {
    glob: Glob,
    /// A name in full is a pattern, too: `docker.io/library/busybox`.
    full: Option<Reference>,
    has_tag: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, CliError> {
        let glob = Glob::new(text.as_bytes())
            .map_err(|_| CliError::user(format!("syntax error in pattern `{text}`")))?;
        Ok(Self { glob, full: text.parse().ok(), has_tag: text.contains(':') })
    }

    fn fits_familiar(&self, name: &Reference) -> bool {
        let repository = name.repository().familiar();
        let fits = |text: &str| self.glob.matches(text.as_bytes());
        fits(&repository) || name.tag().is_some_and(|tag| fits(&format!("{repository}:{tag}")))
    }

    fn fits(&self, name: &Reference) -> bool {
        let is_full = self.full.as_ref().is_some_and(|wanted| {
            wanted.repository() == name.repository()
                && (!self.has_tag || wanted.tag() == name.tag())
        });
        is_full || self.fits_familiar(name)
    }
}

/// What names must fit: the pattern on the command line, and one of the `reference` filters.
struct Patterns {
    argument: Option<Pattern>,
    references: Vec<Pattern>,
}

impl Patterns {
    fn new(args: &ImagesArgs, filters: &Filters) -> Result<Self, CliError> {
        let references = filters.values("reference").iter();
        Ok(Self {
            argument: args.repository.as_deref().map(Pattern::parse).transpose()?,
            references: references.map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?,
        })
    }

    const fn is_empty(&self) -> bool {
        self.argument.is_none() && self.references.is_empty()
    }

    fn fits(&self, name: &Reference) -> bool {
        let referred = self.references.is_empty()
            || self.references.iter().any(|pattern| pattern.fits_familiar(name));
        referred && self.argument.as_ref().is_none_or(|pattern| pattern.fits(name))
    }
}

fn choose(engine: &Engine, args: &ImagesArgs, filters: &Filters) -> Result<Vec<Chosen>, CliError> {
    let bound = |key: &str| -> Result<Option<Timestamp>, CliError> {
        let Some(name) = filters.values(key).last() else { return Ok(None) };
        Ok(engine.open_image(name)?.config.created)
    };
    let (before, since, until) = (bound("before")?, bound("since")?, filters.until()?);
    let dangling = filters.flag("dangling")?;
    let patterns = Patterns::new(args, filters)?;
    let mut chosen = Vec::new();
    for row in engine.images()? {
        let made = row.created.unwrap_or(Timestamp::EPOCH);
        let in_time = before.is_none_or(|bound| made < bound)
            && since.is_none_or(|bound| made > bound)
            && until.is_none_or(|bound| made < bound);
        let fits_dangling = match dangling {
            Some(true) => row.is_dangling(),
            // As Docker: what a registry knows has a name, though one without a tag.
            Some(false) => !row.is_dangling() || !row.repo_digests.is_empty(),
            None => true,
        };
        if !in_time || !fits_dangling || !filters.fit_labels(&row.labels) {
            continue;
        }
        let names: Vec<_> = row.tags().filter(|name| patterns.fits(name)).cloned().collect();
        // A tag that fits shows its repository's digest.
        let is_shown = |known: &&Reference| {
            patterns.fits(known) || names.iter().any(|name| name.repository() == known.repository())
        };
        let digests: Vec<_> = row.repo_digests.iter().filter(is_shown).cloned().collect();
        if !patterns.is_empty() && names.is_empty() && digests.is_empty() {
            continue;
        }
        chosen.push(Chosen { row, names, digests });
    }
    Ok(chosen)
}

impl Chosen {
    /// Docker's lines: one per tag, with its repository's digest; digests without a tag; else one.
    fn rows(&self, args: &ImagesArgs) -> Vec<Row> {
        let mut rows = Vec::new();
        for name in &self.names {
            let tag = name.tag().map(ToString::to_string).unwrap_or_default();
            let digest = self.digests.iter().find(|d| d.repository() == name.repository());
            rows.push(self.row(args, &name.repository().familiar(), &tag, digest));
        }
        for known in &self.digests {
            if !self.names.iter().any(|name| name.repository() == known.repository()) {
                rows.push(self.row(args, &known.repository().familiar(), NONE, Some(known)));
            }
        }
        if rows.is_empty() {
            rows.push(self.row(args, NONE, NONE, None));
        }
        rows
    }

    fn row(
        &self,
        args: &ImagesArgs,
        repository: &str,
        tag: &str,
        digest: Option<&Reference>,
    ) -> Row {
        let id = self.row.id;
        let digest = digest.and_then(Reference::digest).map(ToString::to_string);
        Row {
            id: Width::of(args.no_trunc).id(&id.to_string()),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            digest: digest.unwrap_or_else(|| NONE.to_owned()),
            created_since: units::ago(self.row.created),
            created_at: units::date(self.row.created),
            size: units::size(self.row.size),
            virtual_size: units::exact_size(self.row.size),
            shared_size: "N/A".to_owned(),
            unique_size: "N/A".to_owned(),
            containers: "N/A".to_owned(),
        }
    }

    fn raw(&self) -> RawImage {
        RawImage {
            id: self.row.id.to_string(),
            repo_tags: self.names.iter().map(Reference::familiar).collect(),
            repo_digests: self.digests.iter().map(Reference::familiar).collect(),
            created: self.row.created,
            size: self.row.size,
            labels: self.row.labels.clone(),
            containers: self.row.containers.len(),
            platform: self.row.platform.to_string(),
        }
    }
}
