//! What the build checks found, in words.

use std::{collections::BTreeSet, sync::Arc};

use annotate_snippets::{Level, Renderer};
use davit_engine::build::{Checks, Excerpt, Rule, Warning};

use super::excerpt;

/// Most warnings that a build shows.
const SHOWN: usize = 20;

/// Gathers what the checks of one build found until it ends.
#[derive(Default)]
pub(super) struct Gathered(Vec<Arc<Checks>>);

impl Gathered {
    /// Adds what was found for one platform; the others find the same.
    pub(super) fn add(&mut self, checks: Arc<Checks>) {
        self.0.push(checks);
    }

    /// One line for each warning, and where to see more.
    pub(super) fn summary(&mut self) -> Option<String> {
        let all: BTreeSet<(&str, &Warning)> = self
            .0
            .iter()
            .flat_map(|checks| {
                checks.warnings.iter().map(|warning| (checks.file.as_str(), warning))
            })
            .collect();
        let count = match all.len() {
            0 => return None,
            1 => "a warning".to_owned(),
            count => format!("{count} warnings"),
        };
        let mut lines = vec![format!("warning: {count} of the build checks (see --check)")];
        let shown = all.iter().take(SHOWN);
        lines.extend(shown.map(|(file, warning)| {
            format!("  {file}:{}: {}", warning.focus.first_line, short(warning))
        }));
        if let Some(more @ 1..) = all.len().checked_sub(SHOWN) {
            lines.push(format!("  ... and {more} more"));
        }
        Some(lines.join("\n"))
    }
}

/// A warning in one line.
pub(super) fn short(warning: &Warning) -> String {
    format!("{}: {}", warning.rule, warning.detail)
}

/// All warnings with the parts of the file that they speak of; each rule's address once.
pub(super) fn pages(checks: &Checks, renderer: &Renderer) -> Vec<String> {
    let mut told: BTreeSet<Rule> = BTreeSet::new();
    let page = |warning: &Warning| {
        let excerpt = Excerpt::new(&checks.file, &checks.text, warning.focus, "");
        let excerpt = excerpt::render(&excerpt, Level::WARNING, renderer);
        let url = warning.rule.url().filter(|_| told.insert(warning.rule));
        let url = url.map_or_else(String::new, |url| format!("\nsee {url}"));
        let line = crate::printer::neutral(&format!("warning: {}", short(warning)));
        format!("{line}\n{excerpt}{url}\n")
    };
    checks.warnings.iter().map(page).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_warnings_are_counted() {
        let warning = |line: u32| {
            let focus = davit_engine::build::Span { first_line: line, ..Default::default() };
            let detail = "why".to_owned();
            Warning { span: focus, rule: Rule::UndefinedVar, focus, detail }
        };
        let found = |lines: std::ops::Range<u32>| {
            let warnings = lines.map(warning).collect();
            Arc::new(Checks { file: "D".to_owned(), text: Vec::new(), warnings })
        };
        let mut gathered = Gathered::default();
        assert_eq!(gathered.summary(), None);
        gathered.add(found(3..4));
        gathered.add(found(3..4));
        let one = "warning: a warning of the build checks (see --check)\n  D:3: UndefinedVar: why";
        assert_eq!(gathered.summary().as_deref(), Some(one));
        gathered.add(found(4..40));
        let many = gathered.summary().unwrap();
        assert!(many.starts_with("warning: 37 warnings"), "{many}");
        assert!(many.ends_with("\n  ... and 17 more"), "{many}");
    }
}
