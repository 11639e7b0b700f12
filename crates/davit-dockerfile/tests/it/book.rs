//! Books of cases: files in `tests/data/parse` that hold many Dockerfiles.
//!
//! Each case begins with a line `=== name [option…]`. Options: `crlf` turns line ends into CR LF,
//! `nonl` drops the last one, `bom` puts a byte order mark in front.

use std::path::PathBuf;

/// One Dockerfile of a book.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// `book/name`.
    pub(crate) name: String,
    /// The Dockerfile.
    pub(crate) text: String,
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/parse")
}

/// All cases of all books, books by name.
pub(crate) fn cases() -> Vec<Case> {
    let mut books: Vec<PathBuf> = fs_err::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cases"))
        .collect();
    books.sort();
    books.iter().flat_map(|path| read(path)).collect()
}

fn read(path: &std::path::Path) -> Vec<Case> {
    let book = path.file_stem().unwrap().to_string_lossy().into_owned();
    let text = fs_err::read_to_string(path).unwrap();
    let mut cases: Vec<(String, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        match (line.strip_prefix("=== "), cases.last_mut()) {
            (Some(head), _) => cases.push((head.trim_end().to_owned(), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => panic!("{book} begins without a case"),
        }
    }
    cases.into_iter().map(|(head, text)| case(&book, &head, text)).collect()
}

fn case(book: &str, head: &str, mut text: String) -> Case {
    let mut words = head.split(' ');
    let name = format!("{book}/{}", words.next().unwrap());
    for option in words {
        match option {
            "crlf" => text = text.replace('\n', "\r\n"),
            "nonl" => text.truncate(text.trim_end_matches('\n').len()),
            "bom" => text.insert(0, '\u{feff}'),
            _ => panic!("{name}: no option {option}"),
        }
    }
    Case { name, text }
}

#[test]
fn names_are_unique_and_many() {
    let cases = cases();
    let mut names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len());
    assert!(cases.len() >= 400, "{}", cases.len());
}
