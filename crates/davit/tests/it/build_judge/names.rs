//! `names.txt` beside the cases: what shows here what BuildKit's own tests check.

use std::{collections::BTreeSet, path::PathBuf};

use super::{data, refused};

/// How many tests the frontend 1.26 has.
const NAMES: usize = 259;

/// What can show a behaviour.
struct There {
    cases: BTreeSet<String>,
    checks: BTreeSet<String>,
    refused: BTreeSet<String>,
}

impl There {
    fn new() -> Self {
        let entries = fs_err::read_dir(data()).unwrap().map(Result::unwrap);
        let folders = entries.filter(|entry| entry.path().is_dir());
        let checks = fs_err::read_dir(data().join("../checks")).unwrap().map(Result::unwrap);
        let texts = checks.map(|entry| fs_err::read_to_string(entry.path()).unwrap());
        let titles = |text: String| {
            let lines = text.lines().filter_map(|line| line.strip_prefix("=== "));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        Self {
            cases: folders.map(|entry| entry.file_name().into_string().unwrap()).collect(),
            checks: texts.flat_map(titles).collect(),
            refused: refused::titles().into_iter().collect(),
        }
    }

    /// Why what a name points to is not there.
    fn problem(&self, part: &str) -> Option<String> {
        let (kind, what) = part.split_once(' ')?;
        let there = match kind {
            "case" => self.cases.contains(what),
            "check" => self.checks.contains(what),
            "refused" => self.refused.contains(what),
            "test" => is_test(what),
            "never" => !what.is_empty(),
            _ => return Some(format!("`{kind}` points to nothing")),
        };
        (!there).then(|| format!("there is no {kind} `{what}`"))
    }
}

/// Whether `MODULE::…::NAME` is a test of this program.
fn is_test(path: &str) -> bool {
    let Some((module, name)) = path.rsplit_once("::") else { return false };
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let file = tests.join(format!("{}.rs", module.replace("::", "/")));
    let text = fs_err::read_to_string(file).unwrap_or_default();
    text.contains(&format!("#[test]\nfn {name}()"))
}

#[test]
fn every_name_is_shown_or_told_why_not() {
    let there = There::new();
    let text = fs_err::read_to_string(data().join("names.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut names = BTreeSet::new();
    let mut wrong = Vec::new();
    for line in lines {
        let (name, shown) = line.split_once(": ").expect("a line is `NAME: WHAT; …`");
        assert!(names.insert(name), "{name} stands twice");
        let whole =
            if shown.starts_with("never ") { vec![shown] } else { shown.split("; ").collect() };
        wrong.extend(
            whole.iter().filter_map(|part| there.problem(part)).map(|it| format!("{name}: {it}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(names.len(), NAMES);
    assert!(there.cases.len() + there.refused.len() >= 450);
}
