//! `davit top`

use crate::{cli::Context, error::CliError, format::visible, printer};

// Arguments of `davit top`.
#[derive(Debug, clap::Args)]
pub(crate) struct TopArgs {
    /// Container
    container: String,
    /// -ef, aux, or -o COLUMN,…
    #[arg(value_name = "ps OPTIONS", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Least width of a column and space behind its longest cell, as Docker's.
const WIDTH: usize = 20;
const SPACE: usize = 3;

/// Runs `davit top`.
///
/// # Errors
/// The container does not run, or an option is not understood.
pub(crate) fn run(args: &TopArgs, context: &Context) -> Result<u8, CliError> {
    let top = context.engine()?.top_container(&args.container, &args.options)?;
    let rows = std::iter::once(&top.titles).chain(&top.processes);
    // A process chooses its own name.
    let rows: Vec<Vec<String>> =
        rows.map(|row| row.iter().map(|cell| visible(cell)).collect()).collect();
    let widths: Vec<usize> = (0..top.titles.len())
        .map(|column| {
            let longest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            (longest + SPACE).max(WIDTH)
        })
        .collect();
    let mut text = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = if column + 1 == row.len() { 0 } else { widths[column] };
            text.push_str(&format!("{cell:<width$}"));
        }
        text.push('\n');
    }
    printer::data(&text)?;
    Ok(0)
}
