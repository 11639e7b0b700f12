//! YAML documents to trees: anchors, aliases, merge keys and tags, within bounds.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use crate::{
    error::{ComposeError, Place},
    node::{Mark, Node, Shape},
};

/// Largest file in bytes.
const FILE_LIMIT: usize = 1 << 20;
/// Most values of a file, those of aliases counted wherever they are used.
const MOST_NODES: usize = 100_000;
/// Most bytes of texts of a file, those of aliases counted wherever they are used.
const MOST_BYTES: usize = 8 << 20;
/// Collections within collections.
const DEPTH: usize = 100;
/// The key whose value is merged into its mapping.
const MERGE: &str = "<<";

/// Reads all documents of a text.
pub(crate) fn documents(file: &Arc<str>, text: &str) -> Result<Vec<Node>, ComposeError> {
    if text.len() > FILE_LIMIT {
        return Err(ComposeError::Large(Arc::clone(file)));
    }
    let events = Parser::new_from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let file = Arc::clone(file);
    Reader { events, file, anchors: HashMap::new(), size: Size::default(), depth: 0 }.all()
}

/// Whether a text is YAML whose first document has a key.
#[must_use]
pub fn has_key(text: &str, key: &str) -> bool {
    let documents = documents(&"".into(), text).unwrap_or_default();
    documents.first().is_some_and(|document| document.get(key).is_some())
}

/// What values take.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
}

struct Reader<E> {
    events: E,
    file: Arc<str>,
    /// Values by the number of their anchor, with what they take.
    anchors: HashMap<usize, (Node, Size)>,
    size: Size,
    depth: usize,
}

impl<'t, E: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Reader<E> {
    fn all(mut self) -> Result<Vec<Node>, ComposeError> {
        let mut documents = Vec::new();
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(documents),
                (Event::DocumentStart(_), _) => {
                    let (event, span) = self.next()?;
                    documents.push(self.node(event, span)?);
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), ComposeError> {
        match self.events.next() {
            Some(Ok(found)) => Ok(found),
            Some(Err(error)) => Err(self.wrong(error.marker().line(), error.info())),
            None => Err(self.wrong(0, "the text ends too early")),
        }
    }

    fn wrong(&self, line: usize, problem: &str) -> ComposeError {
        let place = Place { file: Arc::clone(&self.file), line };
        ComposeError::Syntax { place, problem: problem.to_owned() }
    }

    fn take(&mut self, size: Size) -> Result<(), ComposeError> {
        self.size.nodes = self.size.nodes.saturating_add(size.nodes);
        self.size.bytes = self.size.bytes.saturating_add(size.bytes);
        if self.size.nodes > MOST_NODES || self.size.bytes > MOST_BYTES {
            return Err(ComposeError::Large(Arc::clone(&self.file)));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>, span: Span) -> Result<Node, ComposeError> {
        let place = Place { file: Arc::clone(&self.file), line: span.start.line() };
        let before = self.size;
        self.take(Size { nodes: 1, bytes: 0 })?;
        let (anchor, tag, shape) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (node, size) =
                    known.ok_or_else(|| self.wrong(place.line, "the alias stands for nothing"))?;
                self.take(size)?;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.take(Size { nodes: 0, bytes: text.len() })?;
                (anchor, tag.as_deref().cloned(), scalar(text.into_owned(), style))
            }
            Event::SequenceStart(anchor, tag) => {
                let items = self.within(place.line, Self::items)?;
                (anchor, tag.as_deref().cloned(), Shape::List(items))
            }
            Event::MappingStart(anchor, tag) => {
                let entries = self.within(place.line, Self::entries)?;
                (anchor, tag.as_deref().cloned(), Shape::Map(entries))
            }
            _ => return Err(self.wrong(place.line, "a value is missing")),
        };
        let node = tagged(Node { place, mark: None, shape }, tag.as_ref());
        if anchor != 0 {
            let nodes = self.size.nodes - before.nodes;
            let bytes = self.size.bytes - before.bytes;
            // It is kept beside what it is a part of, perhaps within others that are kept.
            self.take(Size { nodes, bytes })?;
            self.anchors.insert(anchor, (node.clone(), Size { nodes, bytes }));
        }
        Ok(node)
    }

    fn within<T>(
        &mut self,
        line: usize,
        read: impl FnOnce(&mut Self) -> Result<T, ComposeError>,
    ) -> Result<T, ComposeError> {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(self.wrong(line, "it is nested too deep"));
        }
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn items(&mut self) -> Result<Vec<Node>, ComposeError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn entries(&mut self) -> Result<BTreeMap<String, Node>, ComposeError> {
        let (mut entries, mut merged) = (BTreeMap::new(), Vec::new());
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let key = self.node(event, span)?;
            let is_plain = matches!(&key.shape, Shape::Plain(_));
            let (Shape::Plain(name) | Shape::Text(name)) = key.shape else {
                return Err(self.wrong(key.place.line, "a key is a text"));
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span)?;
            if is_plain && name == MERGE {
                merged.push(value);
                continue;
            }
            let problem = format!("the key `{name}` is there twice");
            if entries.insert(name, value).is_some() {
                return Err(self.wrong(key.place.line, &problem));
            }
        }
        for value in merged {
            self.merge(&mut entries, value)?;
        }
        Ok(entries)
    }

    /// Adds what a merge key names; what is there already stays.
    fn merge(&self, entries: &mut BTreeMap<String, Node>, value: Node) -> Result<(), ComposeError> {
        let sources = match value.shape {
            Shape::List(all) => all,
            _ => vec![value],
        };
        for source in sources {
            let Shape::Map(more) = source.shape else {
                return Err(self.wrong(source.place.line, "`<<` merges mappings"));
            };
            for (key, value) in more {
                entries.entry(key).or_insert(value);
            }
        }
        Ok(())
    }
}

fn scalar(text: String, style: ScalarStyle) -> Shape {
    if style == ScalarStyle::Plain { Shape::Plain(text) } else { Shape::Text(text) }
}

/// The value as its tag wants it.
fn tagged(mut node: Node, tag: Option<&Tag>) -> Node {
    let Some(tag) = tag else { return node };
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("!", "reset") => node.mark = Some(Mark::Reset),
        ("!", "override") => node.mark = Some(Mark::Override),
        (_, "str") if tag.is_yaml_core_schema() => {
            if let Shape::Plain(text) = node.shape {
                node.shape = Shape::Text(text);
            }
        }
        (_, "int" | "float" | "bool" | "null") if tag.is_yaml_core_schema() => {
            if let Shape::Text(text) = node.shape {
                node.shape = Shape::Plain(text);
            }
        }
        _ => {}
    }
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Node>, String> {
        documents(&"c.yaml".into(), text).map_err(|error| error.to_string())
    }

    #[test]
    fn anchors_and_merge_keys_are_followed() {
        let text = "x: &a {k: 1, l: 2}\nl: [&b {m: 3}]\ny:\n  <<: [*a, {k: 9, n: 4}]\n  l: 5\n";
        let all = read(text).unwrap();
        let merged = all[0].get("y").unwrap();
        let value = |key: &str| merged.get(key).unwrap().scalar(key).unwrap().unwrap();
        assert_eq!(["k", "l", "n"].map(value), ["1", "5", "4"]);
        assert_eq!(read("a: !reset null\n---\nb: !!str 1\n").unwrap().len(), 2);
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            let of = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [of.as_str(); 9].join(", "));
        }
        assert!(read(&bomb).unwrap_err().contains("too large"));
        assert!(read(&"[".repeat(5_000)).is_err());
        assert!(read(&"- ".repeat(5_000)).unwrap_err().contains("too deep"));
        for (text, problem) in [
            ("a: 1\na: 2\n", "c.yaml:2: the key `a` is there twice"),
            ("a: *b\n", "c.yaml:1"),
            ("a: &b [*b]\n", "c.yaml:1"),
            ("a: {<<: 1}\n", "`<<` merges mappings"),
            ("a: [\n", "c.yaml:"),
            ("[a]: b\n", "a key is a text"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
