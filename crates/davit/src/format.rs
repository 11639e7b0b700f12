//! `--format`, `-q` and `--json`: Docker's tables and Go templates over rows of fields.

use std::sync::Arc;

use gotmpl::{Template, TemplateError, Value};
use serde::Serialize;

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
        printer::data(&self.render(format.format.as_deref().unwrap_or("table"), rows)?)
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

/// Renders one object by a Go template, as `inspect --format` does.
///
/// # Errors
/// A malformed template.
pub(crate) fn render_object<T: Serialize>(format: &str, object: &T) -> Result<String, CliError> {
    if matches!(format.trim(), "json" | "{{json .}}") {
        return to_json(object, false);
    }
    execute(&compile(format)?, object)
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
    CliError::usage(format!("template parsing error: {error}"))
}

fn compile(text: &str) -> Result<Template, CliError> {
    with_functions(Template::new("format"))
        .parse(&rewrite_methods(text))
        .map_err(|error| template_error(&error))
}

/// The head of a table: functions such as `json` and `truncate` would spoil the words.
fn compile_heads(text: &str) -> Result<Template, CliError> {
    let mut template = with_functions(Template::new("head"));
    for name in ["json", "lower", "upper", "title", "truncate", "pad"] {
        template = template.func(name, |arguments| {
            let field = arguments.iter().find(|value| value.as_str().is_some());
            Ok(field.cloned().unwrap_or(Value::Nil))
        });
    }
    template.parse(&rewrite_methods(text)).map_err(|error| template_error(&error))
}

fn execute<T: Serialize>(template: &Template, row: &T) -> Result<String, CliError> {
    let value = gotmpl::to_value(row).map_err(|error| template_error(&error))?;
    template.execute_to_string(&value).map_err(|error| template_error(&error))
}

/// `{{.Label "k"}}` is a method call in Go; here it becomes `{{label . "k"}}`.
fn rewrite_methods(text: &str) -> String {
    text.replace(".Label \"", "label . \"").replace("$.Label \"", "label $ \"")
}

fn with_functions(template: Template) -> Template {
    template
        .func("json", |arguments| Ok(string(json_of(argument(arguments, 0)))))
        .func("split", |arguments| {
            let parts = text_of(arguments, 0);
            let parts = parts.split(text_of(arguments, 1).as_str()).map(string).collect::<Vec<_>>();
            Ok(Value::List(Arc::from(parts)))
        })
        .func("join", |arguments| {
            let Value::List(items) = argument(arguments, 0) else { return Ok(string("")) };
            let items: Vec<String> = items.iter().map(ToString::to_string).collect();
            Ok(string(items.join(&text_of(arguments, 1))))
        })
        .func("lower", |arguments| Ok(string(text_of(arguments, 0).to_lowercase())))
        .func("upper", |arguments| Ok(string(text_of(arguments, 0).to_uppercase())))
        .func("title", |arguments| Ok(string(title(&text_of(arguments, 0)))))
        .func("pad", |arguments| {
            let width = |index| {
                argument(arguments, index)
                    .as_int()
                    .and_then(|n| usize::try_from(n).ok())
                    .unwrap_or(0)
            };
            let (before, after) = (" ".repeat(width(1).min(1024)), " ".repeat(width(2).min(1024)));
            Ok(string(format!("{before}{}{after}", text_of(arguments, 0))))
        })
        .func("truncate", |arguments| {
            let length = argument(arguments, 1).as_int().and_then(|n| usize::try_from(n).ok());
            Ok(string(text_of(arguments, 0).chars().take(length.unwrap_or(0)).collect::<String>()))
        })
        .func("label", |arguments| {
            let labels = argument(arguments, 0).field("Labels").map(ToString::to_string);
            let key = text_of(arguments, 1);
            let labels = labels.unwrap_or_default();
            let found = labels.split(',').find_map(|pair| pair.strip_prefix(&format!("{key}=")));
            Ok(string(found.unwrap_or_default()))
        })
}

fn string(text: impl AsRef<str>) -> Value {
    Value::String(text.as_ref().into())
}

fn argument(arguments: &[Value], index: usize) -> &Value {
    arguments.get(index).unwrap_or(&Value::Nil)
}

fn text_of(arguments: &[Value], index: usize) -> String {
    argument(arguments, index).to_string()
}

fn title(text: &str) -> String {
    let mut start = true;
    let cased = text.chars().map(|c| {
        let shown = if start { c.to_ascii_uppercase() } else { c };
        start = c.is_whitespace();
        shown
    });
    cased.collect()
}

fn json_of(value: &Value) -> String {
    match value {
        Value::Nil => "null".to_owned(),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) => value.to_string(),
        Value::List(items) => {
            format!("[{}]", items.iter().map(json_of).collect::<Vec<_>>().join(","))
        }
        Value::Map(fields) => {
            let pairs =
                fields.iter().map(|(name, field)| format!("{}:{}", quoted(name), json_of(field)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        other => quoted(&other.to_string()),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
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
fn align(lines: &[String]) -> String {
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
        for format in ["{{", "{{.ID", "{{nosuch .ID}}"] {
            assert_eq!(LIST.render(format, &rows()).unwrap_err().code(), 125, "{format}");
        }
    }
}
