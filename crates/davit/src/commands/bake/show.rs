//! `--list`

use std::str::FromStr;

use davit_bake::Definitions;
use serde_json::{Map, Value};

use super::Failed;
use crate::{error::CliError, format::visible, printer};

/// What is listed, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listing {
    what: What,
    is_json: bool,
}

pub(super) const TARGETS: Listing = Listing { what: What::Targets, is_json: false };
pub(super) const VARIABLES: Listing = Listing { what: What::Variables, is_json: false };

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Targets,
    Variables,
}

impl FromStr for Listing {
    type Err = String;

    /// Reads `targets`, `variables` or `type=targets,format=json`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mut what, mut is_json) = (None, false);
        for field in text.split(',') {
            match field.strip_prefix("type=").unwrap_or(field) {
                "targets" => what = Some(What::Targets),
                "variables" => what = Some(What::Variables),
                "format=json" => is_json = true,
                "format=table" => is_json = false,
                _ => return Err(format!("`{field}` is neither targets nor variables")),
            }
        }
        let what = what.ok_or("it is neither targets nor variables")?;
        Ok(Self { what, is_json })
    }
}

/// Prints the list.
pub(super) fn list(listing: Listing, definitions: &Definitions) -> Result<(), CliError> {
    let (head, rows, objects) = match listing.what {
        What::Targets => targets(definitions)?,
        What::Variables => variables(definitions)?,
    };
    if listing.is_json {
        return printer::line(&format!("{:#}", Value::Array(objects)));
    }
    let mut lines = vec![head.iter().map(|&it| it.to_owned()).collect::<Vec<_>>()];
    lines.extend(rows);
    let width = |at: usize| lines.iter().map(|row| row[at].chars().count()).max().unwrap_or(0) + 3;
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for row in &lines {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        printer::line(cells.collect::<String>().trim_end())?;
    }
    Ok(())
}

type Table = (&'static [&'static str], Vec<Vec<String>>, Vec<Value>);

fn targets(definitions: &Definitions) -> Result<Table, CliError> {
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for it in definitions.list().map_err(Failed)? {
        let mut shown = it.description.clone().unwrap_or_default();
        let mut object = Map::new();
        object.insert("name".to_owned(), it.name.as_str().into());
        if let Some(names) = &it.group {
            let names = names.join(", ");
            shown = if shown.is_empty() { names } else { format!("{shown} ({names})") };
        }
        if !shown.is_empty() {
            object.insert("description".to_owned(), shown.as_str().into());
        }
        if it.group.is_some() {
            object.insert("group".to_owned(), true.into());
        }
        rows.push(vec![visible(&it.name), visible(&shown)]);
        objects.push(Value::Object(object));
    }
    Ok((&["TARGET", "DESCRIPTION"], rows, objects))
}

fn variables(definitions: &Definitions) -> Result<Table, CliError> {
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for it in definitions.variables().map_err(Failed)? {
        let mut object = Map::new();
        object.insert("name".to_owned(), it.name.as_str().into());
        for (key, value) in
            [("type", &it.kind), ("description", &it.description), ("value", &it.value)]
        {
            if let Some(value) = value {
                object.insert(key.to_owned(), value.as_str().into());
            }
        }
        let shown = |value: &Option<String>| visible(value.as_deref().unwrap_or_default());
        let value = visible(it.value.as_deref().unwrap_or("<null>"));
        rows.push(vec![visible(&it.name), shown(&it.kind), value, shown(&it.description)]);
        objects.push(Value::Object(object));
    }
    Ok((&["VARIABLE", "TYPE", "VALUE", "DESCRIPTION"], rows, objects))
}
