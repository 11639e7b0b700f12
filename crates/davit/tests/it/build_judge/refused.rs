//! What no build may take: `refused-*.cases` beside the other cases.
//!
//! davit's error is on record; where BuildKit can be had, it has to refuse the same.

use std::path::{Path, PathBuf};

use davit_test::{Davit, Outcome};

use super::{Case, Setup, buildkit, context, data, recording};

/// One Dockerfile that must not build.
struct Refused {
    title: String,
    /// What stands between the title and the errors, as it is written.
    input: String,
    options: Vec<String>,
    ignore: Option<String>,
    dockerfile: String,
    /// Whether BuildKit builds it.
    builds: bool,
    errors: Vec<String>,
}

impl Refused {
    fn parse(text: &str) -> Self {
        let (title, rest) = text.split_once('\n').unwrap_or((text, ""));
        let errors = rest.lines().filter_map(|line| line.strip_prefix("--- "));
        let input: String = rest
            .lines()
            .filter(|line| !line.starts_with("--- "))
            .map(|line| format!("{line}\n"))
            .collect();
        let directive = |name: &str| {
            let mut lines = input.lines().filter_map(|line| line.strip_prefix("%% "));
            lines.find_map(|line| line.strip_prefix(name)).map(str::trim)
        };
        let lines = input.lines().filter(|line| !line.starts_with("%% "));
        Self {
            title: title.to_owned(),
            options: directive("options").map(words).unwrap_or_default(),
            ignore: directive("ignore").map(|it| it.replace('|', "\n")),
            dockerfile: lines.map(|line| format!("{line}\n")).collect(),
            builds: directive("buildkit builds:").is_some(),
            errors: errors.map(str::to_owned).collect(),
            input,
        }
    }

    fn print(&self, errors: &[String]) -> String {
        let errors: String = errors.iter().map(|line| format!("--- {line}\n")).collect();
        format!("=== {}\n{}{errors}", self.title, self.input)
    }

    /// The case on disk, beside a context that all share.
    fn make(&self, number: usize, root: &Path, context: &Path) -> Case {
        let made = root.join(format!("{number}"));
        fs_err::create_dir_all(&made).unwrap();
        fs_err::write(made.join("Dockerfile"), &self.dockerfile).unwrap();
        if let Some(ignore) = &self.ignore {
            fs_err::write(made.join("Dockerfile.dockerignore"), ignore).unwrap();
        }
        std::os::unix::fs::symlink(context, made.join("context")).unwrap();
        let (name, folder) = (format!("{number}"), made.clone());
        Case { name, folder, made, options: self.options.clone(), newer: true }
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A file of cases: what stands before the first one, and the cases.
fn read(path: &Path) -> (String, Vec<Refused>) {
    let text = fs_err::read_to_string(path).unwrap();
    let text = format!("\n{text}");
    let mut parts = text.split("\n=== ");
    let head = parts.next().unwrap().trim_start().to_owned();
    (head, parts.map(Refused::parse).collect())
}

fn files() -> Vec<PathBuf> {
    ["text", "copy", "run", "stages"].map(|it| data().join(format!("refused-{it}.cases"))).into()
}

/// The titles of all cases.
pub(super) fn titles() -> Vec<String> {
    files().iter().flat_map(|path| read(path).1).map(|case| case.title).collect()
}

/// What a failed build says, and of the lines of the Dockerfile that it shows where they stand and
/// what is told below them.
fn errors(davit: &Davit, case: &Case) -> Vec<String> {
    let mut args = vec!["build", "--progress", "plain", "--network", "none", "-f", "Dockerfile"];
    args.extend(case.options.iter().map(String::as_str));
    args.push("context");
    let outcome = Outcome::from(davit.command(&args).current_dir(&case.made).output().unwrap());
    if outcome.code == 0 {
        return vec!["builds".to_owned()];
    }
    let told = ["error: ", "caused by: ", "hint: ", "--> ", "^ "];
    let lines = outcome.stderr.lines().map(|line| match line.split_once("^ ") {
        Some((before, told)) if before.contains('|') => format!("^ {told}"),
        _ => line.trim_start().to_owned(),
    });
    // The build's own name is another each time.
    let is_log = |line: &str| line.starts_with("hint: davit builder history logs ");
    let lines = lines.filter(|line| told.iter().any(|word| line.starts_with(word)));
    let lines = lines.filter(|line| !is_log(line));
    let made = case.made.display().to_string();
    lines.map(|line| line.replace(&made, "[CASE]")).collect()
}

#[test]
fn what_is_refused_is_told_as_on_record() {
    if !davit_test::need_root() {
        return;
    }
    let Some(busybox) = context::busybox() else { return };
    let Setup { work, base_tar, .. } = Setup::bare(&busybox);
    let davit = crate::davit();
    davit.ok(["load", "--quiet", "--input", base_tar.to_str().unwrap()]);
    let context = context::shared(&work.join("context"));
    let mut wrong = Vec::new();
    for (file, path) in files().iter().enumerate() {
        let (head, refused) = read(path);
        let mut text = format!("{head}\n");
        for (number, case) in refused.iter().enumerate() {
            let made = case.make(number, &work.join(format!("{file}")), &context);
            let found = errors(&davit, &made);
            text.push_str(&case.print(&found));
            if found != case.errors {
                wrong.push(format!("{}: {found:#?}, not {:#?}", case.title, case.errors));
            }
        }
        if recording() {
            fs_err::write(path, text).unwrap();
        }
    }
    assert!(wrong.is_empty() || recording(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(davit.ok(["system", "check"]).contains("no faults"));
}

#[test]
fn buildkit_refuses_what_is_refused() {
    if !davit_test::need_root() {
        return;
    }
    let Some(busybox) = context::busybox() else { return };
    let Setup { work, .. } = Setup::bare(&busybox);
    let context = context::shared(&work.join("context"));
    let mut refused: Vec<Refused> = files().iter().flat_map(|path| read(path).1).collect();
    // A judge that takes nothing is none.
    refused.push(Refused::parse("sound\n%% buildkit builds: yes\nFROM base\nCOPY a.txt /\n"));
    let root = work.join("made");
    let cases = refused.iter().enumerate();
    let cases: Vec<Case> = cases.map(|(number, case)| case.make(number, &root, &context)).collect();
    if !buildkit::build(work.path(), &cases.iter().collect::<Vec<_>>()) {
        return;
    }
    let built = |case: &Case| case.made.join("buildkit.tar").exists();
    let wrong: Vec<String> = refused
        .iter()
        .zip(&cases)
        .filter(|(refused, case)| built(case) != refused.builds)
        .map(|(refused, case)| format!("{}: built: {}", refused.title, built(case)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
