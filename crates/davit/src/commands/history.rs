//! `davit history`, `davit image history`

use davit_engine::{
    HistoryLine,
    image::{Platform, Timestamp},
};
use serde::Serialize;

use crate::{
    cli::Context,
    error::CliError,
    format::{List, ListFormat, Width},
    printer, units,
};

/// Longest command that a table shows.
const COMMAND_CHARACTERS: usize = 45;

// Arguments of `davit history`.
#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// Image whose history is shown
    image: String,
    /// Print sizes and dates in human readable format
    #[arg(
        short = 'H', long, num_args = 0..=1, default_value = "true",
        default_missing_value = "true", require_equals = true, value_name = "BOOL"
    )]
    human: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Platform to show of an image that is here for several, as os/architecture[/variant]
    #[arg(long)]
    platform: Option<Platform>,
    /// Only show image IDs
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: ListFormat,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    created_since: String,
    created_at: String,
    created_by: String,
    size: String,
    comment: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Raw<'a> {
    id: &'a str,
    created: Option<Timestamp>,
    created_by: &'a str,
    size: u64,
    comment: &'a str,
    tags: &'a [String],
}

const LIST: List<'static> = List {
    table: "table {{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}",
    heads: &[
        ("ID", "IMAGE"),
        ("CreatedSince", "CREATED"),
        ("CreatedAt", "CREATED AT"),
        ("CreatedBy", "CREATED BY"),
    ],
};

/// Runs `davit history`.
///
/// # Errors
/// No such image, or a malformed template.
pub(crate) fn run(args: &HistoryArgs, context: &Context) -> Result<u8, CliError> {
    let lines = context.engine()?.image_history(&args.image, args.platform.as_ref())?;
    let rows: Vec<Row> = lines.iter().map(|line| row(line, args)).collect();
    if args.quiet && args.format.is_table() {
        printer::data(&rows.iter().map(|row| format!("{}\n", row.id)).collect::<String>())?;
        return Ok(0);
    }
    let raw: Vec<Raw<'_>> = lines.iter().map(raw).collect();
    LIST.print(&args.format, &rows, &raw)?;
    Ok(0)
}

fn row(line: &HistoryLine, args: &HistoryArgs) -> Row {
    let width = Width::of(args.no_trunc);
    let created_at = line.created.map(|time| time.to_string()).unwrap_or_default();
    Row {
        id: width.id(&line.id),
        created_since: if args.human { units::ago(line.created) } else { created_at.clone() },
        created_at,
        created_by: width.text(&line.created_by.replace('\t', " "), COMMAND_CHARACTERS),
        size: if args.human { units::size(line.size) } else { line.size.to_string() },
        comment: line.comment.clone(),
    }
}

fn raw(line: &HistoryLine) -> Raw<'_> {
    Raw {
        id: &line.id,
        created: line.created,
        created_by: &line.created_by,
        size: line.size,
        comment: &line.comment,
        tags: &line.tags,
    }
}
