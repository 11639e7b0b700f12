//! Definitions as files of `tests/data`, with what they resolve to, and expressions with their
//! values. Both were compared with buildx; `differences.md` there has what differs, and why.

use std::{collections::BTreeMap, fs, path::Path};

use davit_bake::{BakeError, BakeFile, Definitions, ReadFile, Surroundings};
use serde_json::Value;

/// The usual files, in the order in which they are merged.
const USUAL: [&str; 5] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-bake.json", "docker-bake.hcl"];

/// A case: its parts by name, the first of which has what it is called with.
struct Case(BTreeMap<String, String>);

impl Case {
    fn read(text: &str) -> Self {
        let mut parts = BTreeMap::new();
        let (mut name, mut part) = (String::new(), String::new());
        for line in text.split_inclusive('\n') {
            match line.strip_prefix("== ") {
                Some(next) => {
                    parts.insert(std::mem::take(&mut name), std::mem::take(&mut part));
                    next.trim_end().clone_into(&mut name);
                }
                None => part.push_str(line),
            }
        }
        parts.insert(name, part);
        Self(parts)
    }

    fn words(&self, key: &str) -> Vec<String> {
        let found = self.0[""].lines().find_map(|line| line.strip_prefix(key));
        found.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    fn files(&self) -> Vec<BakeFile> {
        let names = USUAL.into_iter().chain(["docker-bake.override.hcl"]);
        let found = names.filter_map(|name| Some((name, self.0.get(name)?)));
        found.map(|(name, text)| BakeFile { name: name.to_owned(), text: text.clone() }).collect()
    }

    fn resolve(&self) -> Result<Value, String> {
        let environment: BTreeMap<String, String> = self
            .words("env:")
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let (mut set, mut variables, mut targets) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut words = self.words("args:").into_iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--set" => set.extend(words.next()),
                "--var" => {
                    let pair = words.next().unwrap();
                    let (name, value) = pair.split_once('=').unwrap();
                    variables.insert(name.to_owned(), value.to_owned());
                }
                _ => targets.push(word),
            }
        }
        if targets.is_empty() {
            targets.push("default".to_owned());
        }
        let others = self.0.clone();
        let read = move |path: &str| others.get(path).cloned().ok_or_else(|| "gone".to_owned());
        let dotenv = self.0.get(".env").cloned();
        let known = environment.clone();
        let surroundings = Surroundings {
            variables,
            environment,
            dotenv: dotenv.map(|text| BakeFile { name: ".env".to_owned(), text }),
            read_file: Some(ReadFile(Box::new(read))),
            ..surroundings()
        };
        let resolved = Definitions::read(&self.files(), surroundings).and_then(|definitions| {
            definitions.resolve(&targets, &set, &|name| known.get(name).cloned())
        });
        resolved.map(|plan| plan.to_json()).map_err(|error| super::words(&error))
    }
}

fn surroundings() -> Surroundings {
    let builtin = [("BAKE_CMD_CONTEXT", "cwd://"), ("BAKE_LOCAL_PLATFORM", "linux/amd64")];
    Surroundings {
        builtin: builtin.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        home: "/root".to_owned(),
        now_seconds: 1_700_000_000,
        ..Surroundings::default()
    }
}

#[test]
fn definitions_resolve_as_their_cases_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|it| it != "case") {
            continue;
        }
        count += 1;
        let case = Case::read(&fs::read_to_string(&path).unwrap());
        match (case.resolve(), case.0.get("expected"), case.0.get("refused")) {
            (Ok(found), Some(expected), _) => {
                // The text, since the order of keys is part of it.
                let expected: Value = serde_json::from_str(expected).unwrap();
                assert_eq!(format!("{found:#}"), format!("{expected:#}"), "{}", path.display());
            }
            (Err(error), _, Some(refused)) => {
                assert_eq!(error, refused.trim_end(), "{}", path.display());
            }
            (found, ..) => panic!("{}: {found:?}", path.display()),
        }
    }
    assert!(count > 60, "{count}");
}

#[test]
fn expressions_have_the_values_of_their_table() {
    let table = include_str!("../data/expressions.txt");
    let mut count = 0;
    for line in table.lines() {
        let (expression, expected) = line.rsplit_once(" => ").unwrap();
        let text = format!("target \"default\" {{\n args = {{\n A = {expression}\n }}\n}}\n");
        let file = BakeFile { name: "docker-bake.hcl".to_owned(), text };
        let value = Definitions::read(&[file], surroundings())
            .and_then(|it| it.resolve(&["default".to_owned()], &[], &|_| None))
            .map(|plan| plan.targets["default"].pairs("args").pop().map(|(_, value)| value));
        let found = match value {
            Ok(value) => serde_json::to_string(&value).unwrap(),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(found, expected, "{expression}");
        count += 1;
    }
    assert!(count > 250, "{count}");
}

#[test]
fn a_compose_file_on_standard_input_is_known() {
    let read = |text: &str| -> Result<Vec<String>, BakeError> {
        let file = BakeFile { name: "<standard input>".to_owned(), text: text.to_owned() };
        let definitions = Definitions::read(&[file], surroundings())?;
        Ok(definitions.list()?.into_iter().map(|it| it.name).collect())
    };
    assert_eq!(read("services:\n  a: {build: .}\n").unwrap(), ["a", "default"]);
    assert_eq!(read("target \"b\" {}\n").unwrap(), ["b"]);
    assert_eq!(read("{\"target\": {\"c\": {}}}\n").unwrap(), ["c"]);
    let error = read("services:\n  a: {build: {args: {A: \"${X:?gone}\"}}}\n").unwrap_err();
    assert!(error.to_string().contains("the variable X has no value: gone"), "{error}");
}
