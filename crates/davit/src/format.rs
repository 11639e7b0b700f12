//! `--format`, `-q` and `--json`: Docker's tables and Go templates over rows of fields.

mod functions;
mod typed;

use gotmpl::{MissingKey, Template, TemplateError, Value};
use serde::Serialize;

pub(crate) use self::typed::Kind;
use self::typed::{Fill, Known};

use crate::{error::CliError, printer};

/// A list that can be shown as table, JSON lines, JSON array or by a template.
#[derive(Debug)]
pub(crate) struct List<'a> {
    /// The default table, as `table {{.ID}}\t{{.Names}}`.
    pub(crate) table: &'a str,
    /// Column heads by field name; a field without one shows its name in capitals.
    pub(crate) heads: &'a [(&'a str, &'a str)],
}

// How the user wants a list.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ListFormat {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', or a Go template
    #[arg(long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print one JSON array with raw numbers and times
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
}

/// How much of an id or a command is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// What fits into a table.
    Cut,
    /// All of it, for `--no-trunc` and for programs.
    Whole,
}

impl Width {
    /// Whole where `--no-trunc` was given.
    pub(crate) const fn of(no_trunc: bool) -> Self {
        if no_trunc { Self::Whole } else { Self::Cut }
    }

    /// An id, of an image without its algorithm where it is cut.
    pub(crate) fn id(self, id: &str) -> String {
        match self {
            Self::Cut => id.strip_prefix("sha256:").unwrap_or(id).chars().take(12).collect(),
            Self::Whole => id.to_owned(),
        }
    }

    /// Text of at most `length` characters where it is cut; the last one tells of it.
    pub(crate) fn text(self, text: &str, length: usize) -> String {
        if self == Self::Whole || text.chars().count() <= length {
            return text.to_owned();
        }
        text.chars().take(length - 1).chain(['…']).collect()
    }
}

impl ListFormat {
    /// The template that was asked for; none for the table.
    pub(crate) fn template(&self) -> Option<&str> {
        self.format.as_deref().filter(|format| !matches!(*format, "" | "table"))
    }

    /// Whether the default table is wanted, of which `-q` leaves the first column.
    pub(crate) fn is_table(&self) -> bool {
        !self.json && self.template().is_none()
    }
}

impl List<'_> {
    /// Prints rows: `rows` hold Docker's display strings, `raw` the same with raw values.
    ///
    /// # Errors
    /// A malformed template, or a reader that has gone.
    pub(crate) fn print<R: Serialize, J: Serialize>(
        &self,
        format: &ListFormat,
        rows: &[R],
        raw: &[J],
    ) -> Result<(), CliError> {
        if format.json {
            return printer::line(&to_json(&raw, true)?);
        }
        printer::data(&self.render(format.template().unwrap_or("table"), rows)?)
    }

    /// Renders rows by a `--format` text.
    ///
    /// # Errors
    /// A malformed template.
    pub(crate) fn render<R: Serialize>(
        &self,
        format: &str,
        rows: &[R],
    ) -> Result<String, CliError> {
        if format == "json" {
            let lines: Result<String, _> =
                rows.iter().map(|row| Ok(to_json(row, false)? + "\n")).collect();
            return lines;
        }
        if format.trim() == "{{json .}}" {
            return self.render("json", rows);
        }
        let Some(table) = format.strip_prefix("table") else {
            let template = compile(&format.replace("\\t", "\t").replace("\\n", "\n"))?;
            return rows.iter().map(|row| Ok(execute(&template, row)? + "\n")).collect();
        };
        let text =
            if table.trim().is_empty() { &self.table["table ".len()..] } else { table.trim() };
        let text = text.replace("\\t", "\t");
        let template = compile(&text)?;
        let mut lines = vec![execute(&compile_heads(&text)?, &self.head_row(&text))?];
        for row in rows {
            lines.push(visible(&execute(&template, row)?));
        }
        Ok(align(&lines))
    }

    fn head_row(&self, text: &str) -> std::collections::BTreeMap<String, String> {
        let fields = text.split("{{").skip(1).flat_map(|action| {
            let action = action.split("}}").next().unwrap_or_default();
            action
                .split(|c: char| c.is_whitespace() || c == '(')
                .filter_map(|word| word.strip_prefix('.'))
        });
        fields
            .map(|field| field.trim_end_matches(')').to_owned())
            .map(|field| {
                let known = self.heads.iter().find(|(name, _)| *name == field);
                let head =
                    known.map_or_else(|| field.to_uppercase(), |(_, head)| (*head).to_owned());
                (field, head)
            })
            .collect()
    }
}

/// What `inspect` describes.
#[derive(Debug)]
pub(crate) struct Object {
    /// What it is, which decides about the fields that it may have.
    pub(crate) kind: Kind,
    /// The fields that are set.
    pub(crate) fields: serde_json::Value,
}

/// Renders a described object by a Go template, as `inspect --format` does.
///
/// # Errors
/// A malformed template, or a field that no object of the kind has.
pub(crate) fn render_object(format: &str, object: &Object) -> Result<String, CliError> {
    render_shaped(format, object.kind.name(), &object.fields)
}

/// Renders fields by a Go template, as structs of the shape of that name.
///
/// # Errors
/// As [`render_object`].
pub(crate) fn render_shaped(
    format: &str,
    name: &str,
    fields: &serde_json::Value,
) -> Result<String, CliError> {
    if is_json(format) {
        return to_json(fields, false);
    }
    let shape = typed::shape(name);
    let render = |fill: Fill<'_>, missing| {
        let mut known = Known::default();
        let value = known.fill(&shape, fields, fill);
        parse(format, known)?.missing_key(missing).execute_to_string(&value)
    };
    // A key that a map lacks is no error, but a field that a struct lacks is one. So keys that are
    // missed are given to the maps; who still misses one is a struct.
    let mut keys = Vec::new();
    loop {
        match render(Fill::Probe(&keys), MissingKey::Error) {
            Ok(_) => break,
            Err(TemplateError::MissingKey { key }) if !keys.contains(&key) => keys.push(key),
            Err(error) => return Err(template_error(&error)),
        }
    }
    let text = render(Fill::Output, MissingKey::Invalid).map_err(|error| template_error(&error))?;
    // All keys are there, so what has no value is a nil pointer.
    Ok(if keys.is_empty() { text.replace("<no value>", "<nil>") } else { text })
}

/// Refuses a malformed template before anything is looked up.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(format: &str) -> Result<(), CliError> {
    compile(format).map(drop)
}

/// Renders plain fields by a Go template, as `info --format` does.
///
/// # Errors
/// A malformed template, or a field that is not there.
pub(crate) fn render_fields<T: Serialize>(format: &str, fields: &T) -> Result<String, CliError> {
    if is_json(format) {
        return to_json(fields, false);
    }
    execute(&compile(format)?, fields)
}

fn is_json(format: &str) -> bool {
    matches!(format.trim(), "json" | "{{json .}}")
}

/// Writes JSON as Go does: with four spaces where pretty, and `<`, `>`, `&` as they are.
///
/// # Errors
/// Never for davit's own types.
pub(crate) fn to_json<T: Serialize>(value: &T, pretty: bool) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let written = if pretty {
        let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, indent);
        value.serialize(&mut serializer)
    } else {
        value.serialize(&mut serde_json::Serializer::new(&mut bytes))
    };
    written.map_err(|error| CliError::user(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn template_error(error: &TemplateError) -> CliError {
    let text = match error {
        TemplateError::MissingKey { key } => format!("can't evaluate field {key}"),
        error => error.to_string(),
    };
    CliError::user(format!("template parsing error: {text}"))
}

fn parse(text: &str, known: Known) -> gotmpl::Result<Template> {
    functions::add(Template::new("format"), known).parse(&functions::rewrite_methods(text))
}

fn compile(text: &str) -> Result<Template, CliError> {
    let template = parse(text, Known::default()).map_err(|error| template_error(&error))?;
    Ok(template.missing_key(MissingKey::Error))
}

/// The head of a table: functions such as `json` and `truncate` would spoil the words.
fn compile_heads(text: &str) -> Result<Template, CliError> {
    let mut template = functions::add(Template::new("head"), Known::default());
    for name in ["json", "lower", "upper", "title", "truncate", "pad"] {
        template = template.func(name, |arguments| {
            let field = arguments.iter().find(|value| value.as_str().is_some());
            Ok(field.cloned().unwrap_or(Value::Nil))
        });
    }
    template.parse(&functions::rewrite_methods(text)).map_err(|error| template_error(&error))
}

fn execute<T: Serialize>(template: &Template, row: &T) -> Result<String, CliError> {
    let value = gotmpl::to_value(row).map_err(|error| template_error(&error))?;
    template.execute_to_string(&value).map_err(|error| refused(&error, &value))
}

/// The error of a row, with the fields that rows have.
fn refused(error: &TemplateError, row: &Value) -> CliError {
    let told = template_error(error);
    match (error, row) {
        (TemplateError::MissingKey { .. }, Value::Map(fields)) => {
            let names: Vec<&str> = fields.keys().map(AsRef::as_ref).collect();
            told.hint(format!("fields: {}", names.join(", ")))
        }
        _ => told,
    }
}

/// Text for a table: what an image or a container brings must neither steer a terminal nor look like
/// another row. Tabs stay; they separate cells.
pub(crate) fn visible(text: &str) -> String {
    let escaped = |c: char| match c {
        '\n' => "\\n".to_owned(),
        '\r' => "\\r".to_owned(),
        c if u32::from(c) < 0x100 => format!("\\x{:02x}", u32::from(c)),
        c => format!("\\u{:04x}", u32::from(c)),
    };
    if !text.chars().any(|c| c.is_control() && c != '\t') {
        return text.to_owned();
    }
    let shown = text.chars().map(|c| match c.is_control() && c != '\t' {
        true => escaped(c),
        false => c.to_string(),
    });
    shown.collect()
}

/// Text in double quotes as Go's `strconv.Quote` writes it.
pub(crate) fn quote(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\t', "\\t");
    format!("\"{}\"", visible(&text))
}

/// Aligns cells at tabs: columns at least 10 wide, three spaces apart, as Docker's writer does.
pub(crate) fn align(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter(|row| column + 1 < row.len()).map(|row| row[column]);
        cells.map(|cell| cell.chars().count() + 3).max().unwrap_or(0).max(10)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (column, cell) in row.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < row.len() {
                text.push_str(&" ".repeat(widths[column] - cell.chars().count()));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LIST: List<'static> =
        List { table: "table {{.ID}}\t{{.Names}}\t{{.Size}}", heads: &[("ID", "CONTAINER ID")] };

    fn rows() -> Vec<serde_json::Value> {
        vec![
            json!({"ID": "abc", "Names": "web", "Size": "1kB", "Labels": "a=1,b=2"}),
            json!({"ID": "0123456789abc", "Names": "database", "Size": "0B", "Labels": ""}),
        ]
    }

    #[test]
    fn the_default_table_is_aligned() {
        let expected = "CONTAINER ID    NAMES      SIZE\n\
                        abc             web        1kB\n\
                        0123456789abc   database   0B\n";
        assert_eq!(LIST.render("table", &rows()).unwrap(), expected);
    }

    #[test]
    fn templates_are_gos() {
        let cases = [
            ("{{.ID}}", "abc\n0123456789abc\n"),
            ("{{.ID}}\\t{{upper .Names}}", "abc\tWEB\n0123456789abc\tDATABASE\n"),
            ("{{.Label \"b\"}}", "2\n\n"),
            ("{{truncate .ID 2}}{{pad .Size 1 2}}|", "ab 1kB  |\n01 0B  |\n"),
            ("{{json .Names}}", "\"web\"\n\"database\"\n"),
            ("{{join (split .Names \"b\") \"-\"}}", "we-\ndata-ase\n"),
            ("{{join (split .Names \"\") \"-\"}}", "w-e-b\nd-a-t-a-b-a-s-e\n"),
            ("{{if eq .Size \"0B\"}}empty{{else}}full{{end}}", "full\nempty\n"),
            (
                "table {{truncate .ID 3}}\\t{{.Size}}",
                "CONTAINER ID   SIZE\nabc            1kB\n012            0B\n",
            ),
        ];
        for (format, expected) in cases {
            assert_eq!(LIST.render(format, &rows()).unwrap(), expected, "{format}");
        }
        let json = LIST.render("json", &rows()).unwrap();
        assert!(json.starts_with("{\"ID\":\"abc\",\"Names\":\"web\"") && json.lines().count() == 2);
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(visible("a\x1b[31m\tb\nc\u{85}"), "a\\x1b[31m\tb\\nc\\x85");
        assert_eq!(quote("sh -c \"a\\b\"\t\x07é"), "\"sh -c \\\"a\\\\b\\\"\\t\\x07é\"");
        let rows = [json!({"ID": "a\nb", "Names": "\x1b]0;x\x07", "Size": "", "Labels": ""})];
        let table = LIST.render("table", &rows).unwrap();
        assert!(table.lines().count() == 2 && !table.contains('\x1b'), "{table:?}");
        // A template is for programs.
        assert_eq!(LIST.render("{{.ID}}", &rows).unwrap(), "a\nb\n");
    }

    #[test]
    fn bad_templates_are_refused() {
        for format in ["{{", "{{.ID", "{{nosuch .ID}}", "{{.Bad}}", "table {{.Bad}}", "{{.ID.x}}"] {
            assert_eq!(LIST.render(format, &rows()).unwrap_err().code(), 1, "{format}");
        }
    }
}
