//! HCL and JSON files to blocks whose expressions are not evaluated yet.

use std::{collections::BTreeMap, sync::Arc};

use hcl_edit::{
    Span as _,
    expr::Expression,
    structure::{Block as HclBlock, BlockLabel, Body, Structure},
};
use serde_json::Value;

use crate::{
    compose,
    error::{BakeError, Place},
};

/// Largest file in bytes.
const FILE_LIMIT: usize = 1 << 20;
/// Most blocks of all files.
const MOST_BLOCKS: usize = 5_000;
/// The blocks that a definition has.
const KINDS: [&str; 4] = ["target", "group", "variable", "function"];

/// A definition file.
#[derive(Clone, Debug)]
pub struct BakeFile {
    /// Its name, which tells its format by `.hcl` or `.json`.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// HCL or JSON.
    Blocks,
    /// A Compose file, which is read with the others of its kind.
    Compose,
}

/// An expression of either format.
#[derive(Debug)]
pub(crate) enum Source {
    Hcl(Expression),
    /// Strings in it are templates.
    Json(Value),
}

#[derive(Debug)]
pub(crate) struct Attribute {
    pub(crate) source: Source,
    pub(crate) place: Place,
}

#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) kind: &'static str,
    pub(crate) label: String,
    pub(crate) attributes: BTreeMap<String, Attribute>,
    /// `validation` of variables.
    pub(crate) blocks: Vec<Self>,
    pub(crate) place: Place,
}

/// All blocks of all files, in their order.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) blocks: Vec<Block>,
    /// Attributes outside of blocks, which are values under a name.
    pub(crate) globals: BTreeMap<String, Attribute>,
}

impl Sources {
    /// Reads one more file.
    pub(crate) fn add(&mut self, file: &BakeFile) -> Result<Format, BakeError> {
        let format = self.add_any(file)?;
        let is_too_long = self.blocks.len() > MOST_BLOCKS;
        if is_too_long { Err(BakeError::Many(MOST_BLOCKS)) } else { Ok(format) }
    }

    fn add_any(&mut self, file: &BakeFile) -> Result<Format, BakeError> {
        if file.text.len() > FILE_LIMIT {
            return Err(BakeError::Large(file.name.clone()));
        }
        let name: Arc<str> = file.name.as_str().into();
        let is = |suffix: &str| file.name.to_ascii_lowercase().ends_with(suffix);
        let tells = [".hcl", ".json"].into_iter().any(is);
        if is(".yml") || is(".yaml") || (!tells && compose::is_compose(file)) {
            return Ok(Format::Compose);
        }
        if is(".json") || (!is(".hcl") && file.text.trim_start().starts_with('{')) {
            self.add_json(&name, &file.text)?;
            return Ok(Format::Blocks);
        }
        let body = hcl_edit::parser::parse_body(&file.text).map_err(|error| {
            let place = Place { file: Arc::clone(&name), line: error.location().line() };
            BakeError::Syntax { place, problem: error.message().to_owned() }
        })?;
        let file = Hcl { name, lines: line_starts(&file.text) };
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    let place = file.place(attribute.span());
                    let source = Source::Hcl(attribute.value);
                    let key = attribute.key.into_value().to_string();
                    self.globals.insert(key, Attribute { source, place });
                }
                Structure::Block(block) => {
                    let kind = file.kind(&block)?;
                    self.blocks.push(file.block(kind, block)?);
                }
            }
        }
        Ok(Format::Blocks)
    }

    fn add_json(&mut self, name: &Arc<str>, text: &str) -> Result<(), BakeError> {
        let place = |line| Place { file: Arc::clone(name), line };
        let wrong = |problem: &str| {
            let problem = problem.to_owned();
            BakeError::Syntax { place: place(0), problem }
        };
        let parsed: Result<Value, _> = serde_json::from_str(text);
        let Value::Object(top) = parsed.map_err(|error| BakeError::Syntax {
            place: place(error.line()),
            problem: error.to_string(),
        })?
        else {
            return Err(wrong("it is no JSON object"));
        };
        for (key, value) in top {
            let Some(kind) = KINDS.into_iter().find(|kind| *kind == key) else {
                let attribute = Attribute { source: Source::Json(value), place: place(0) };
                self.globals.insert(key, attribute);
                continue;
            };
            let objects = |value| match value {
                Value::Array(all) => all,
                one => vec![one],
            };
            for labelled in objects(value) {
                let Value::Object(labelled) = labelled else {
                    return Err(wrong(&format!("`{kind}` is no object")));
                };
                for (label, bodies) in labelled {
                    for body in objects(bodies) {
                        let block = json_block(kind, label.clone(), body, &place(0));
                        self.blocks.push(
                            block
                                .ok_or_else(|| wrong(&format!("`{kind}.{label}` is no object")))?,
                        );
                    }
                }
            }
        }
        Ok(())
    }
}

fn json_block(kind: &'static str, label: String, body: Value, place: &Place) -> Option<Block> {
    let Value::Object(body) = body else { return None };
    let mut block = Block {
        kind,
        label,
        attributes: BTreeMap::new(),
        blocks: Vec::new(),
        place: place.clone(),
    };
    for (key, value) in body {
        if kind == "variable" && key == "validation" {
            let all = match value {
                Value::Array(all) => all,
                one => vec![one],
            };
            for one in all {
                block.blocks.push(json_block("validation", String::new(), one, place)?);
            }
            continue;
        }
        let attribute = Attribute { source: Source::Json(value), place: place.clone() };
        block.attributes.insert(key, attribute);
    }
    Some(block)
}

/// An HCL file that is read.
struct Hcl {
    name: Arc<str>,
    /// Where each line but the first begins.
    lines: Vec<usize>,
}

fn line_starts(text: &str) -> Vec<usize> {
    text.match_indices('\n').map(|(at, _)| at + 1).collect()
}

impl Hcl {
    fn place(&self, span: Option<std::ops::Range<usize>>) -> Place {
        let line = span.map_or(0, |span| 1 + self.lines.partition_point(|&at| at <= span.start));
        Place { file: Arc::clone(&self.name), line }
    }

    fn kind(&self, block: &HclBlock) -> Result<&'static str, BakeError> {
        let name = block.ident.as_str();
        KINDS.into_iter().find(|kind| *kind == name).ok_or_else(|| BakeError::Unknown {
            place: self.place(block.span()),
            what: "block",
            name: name.to_owned(),
        })
    }

    fn block(&self, kind: &'static str, block: HclBlock) -> Result<Block, BakeError> {
        let place = self.place(block.span());
        let mut labels = block.labels.into_iter().map(|label| match label {
            BlockLabel::Ident(name) => name.into_value().to_string(),
            BlockLabel::String(name) => name.into_value(),
        });
        let (Some(label), None) = (labels.next(), labels.next()) else {
            let problem = format!("a block `{kind}` has one name");
            return Err(BakeError::Syntax { place, problem });
        };
        self.body(kind, label, block.body, place)
    }

    fn body(
        &self,
        kind: &'static str,
        label: String,
        body: Body,
        place: Place,
    ) -> Result<Block, BakeError> {
        let mut block =
            Block { kind, label, attributes: BTreeMap::new(), blocks: Vec::new(), place };
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => {
                    let place = self.place(attribute.span());
                    let key = attribute.key.into_value().to_string();
                    let source = Source::Hcl(attribute.value);
                    block.attributes.insert(key, Attribute { source, place });
                }
                Structure::Block(inner) => {
                    let place = self.place(inner.span());
                    let name = inner.ident.as_str();
                    if kind != "variable" || name != "validation" {
                        let name = name.to_owned();
                        return Err(BakeError::Unknown { place, what: "block", name });
                    }
                    block.blocks.push(self.body("validation", String::new(), inner.body, place)?);
                }
            }
        }
        Ok(block)
    }
}
