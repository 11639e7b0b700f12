//! The build checks: what a Dockerfile does that it had better not.
//!
//! ```text
//! text     how it is written                          needs the file alone
//! bases    arguments and platforms of FROM            needs the global scope
//! stages   instructions, with their variables         needs the base images' environments
//! ```
//!
//! Names, triggers and lines are those of the Dockerfile frontend's rules, so that
//! `# check=skip=NAME` means the same there and here; the messages are davit's own, and one rule, which
//! has to be asked for. The three parts
//! are asked one after the other as their facts become known: what an error prevents from being
//! known does not hide what was found before.

mod bases;
mod fix;
mod options;
mod order;
mod place;
mod rule;
pub(crate) mod stage;
mod text;

use davit_image::Platform;

pub use fix::{Mended, mend};
pub use options::{CheckOptions, CheckOptionsError, Rules};
pub use rule::Rule;
pub use stage::{StageFacts, Surroundings};

use self::place::Place;
use crate::{Dockerfile, GlobalScope, Span};

/// Most warnings of one file; a larger number helps nobody.
const WARNING_LIMIT: usize = 10_000;
/// How often a name near to an unknown one is looked for, and the place where it stands.
const SEARCH_LIMIT: usize = 40;

/// What a rule found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The instruction, with all its lines.
    pub span: Span,
    /// The rule.
    pub rule: Rule,
    /// The part of it that is meant, to be underlined.
    pub focus: Span,
    /// What is wrong, for people; it repeats what the file says.
    pub detail: String,
}

/// Checks one file.
#[derive(Clone, Debug)]
pub struct Linter<'a> {
    source: &'a [u8],
    file: &'a Dockerfile,
    options: CheckOptions,
    warnings: Vec<Warning>,
    searches: usize,
}

impl<'a> Linter<'a> {
    /// Starts without warnings; `file` was read from `source`.
    #[must_use]
    pub fn new(source: &'a [u8], file: &'a Dockerfile, options: CheckOptions) -> Self {
        Self { source, file, options, warnings: Vec::new(), searches: 0 }
    }

    /// Asks the rules that look at how the file is written.
    pub fn text(&mut self) {
        text::check(self);
        order::check(self);
    }

    /// Asks the rules about `FROM`.
    ///
    /// `defaults` is the global scope as it is without build arguments; `None` where that cannot be
    /// expanded.
    pub fn bases(&mut self, globals: &GlobalScope, defaults: Option<&GlobalScope>) {
        bases::check(self, globals, defaults);
    }

    /// Asks the rules that follow the instructions of stages with their variables. Ends at the first
    /// instruction that cannot be expanded, as a build does.
    pub fn stages(&mut self, surroundings: &Surroundings<'_>) {
        stage::check(self, surroundings);
    }

    /// Notes that the image that `word` names is for another platform than the stage.
    pub fn base_platform(&mut self, word: Span, found: &Platform, wanted: &Platform) {
        let place = place::around(self.file, word);
        let name = String::from_utf8_lossy(word.text(self.source)).into_owned();
        let name = name.strip_prefix("--from=").unwrap_or(&name);
        let detail = format!("`{name}` is for {found}, and {wanted} is wanted");
        self.note(Rule::InvalidBaseImagePlatform, &place, detail);
    }

    /// All warnings so far in the order of the file, each once.
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = self.warnings.clone();
        warnings.sort();
        warnings.dedup();
        warnings
    }

    /// Whether warnings are to fail the build, and there are some.
    #[must_use]
    pub fn fails(&self) -> bool {
        self.options.error && !self.warnings.is_empty()
    }

    fn note(&mut self, rule: Rule, place: &Place<'_>, detail: String) {
        if self.warnings.len() < WARNING_LIMIT && self.options.asks(rule, place.comments) {
            let Place { span, focus, .. } = *place;
            self.warnings.push(Warning { span, rule, focus, detail });
        }
    }

    /// Whether something that costs time may be looked for once more.
    fn may_search(&mut self) -> bool {
        self.searches += 1;
        self.searches <= SEARCH_LIMIT
    }

    /// Where within `span` the variable `name` is used; `span` itself where it is not found.
    fn use_of(&mut self, name: &str, span: Span) -> Span {
        if !self.may_search() {
            return span;
        }
        place::use_of(self.source, name, span)
    }
}
