//! Rules about what `FROM` builds upon.

use davit_image::{Platform, Reference};

use super::{Linter, Place, Rule};
use crate::{Expanded, GlobalScope, Lexer, Stage, Variables as _, Word};

const TARGET_PLATFORM: &str = "TARGETPLATFORM";

pub(super) fn check(
    linter: &mut Linter<'_>,
    globals: &GlobalScope,
    defaults: Option<&GlobalScope>,
) {
    let lexer = Lexer::new(linter.file.directives.escape());
    for stage in &linter.file.stages {
        let Some(defaults) = defaults else { break };
        // What fails here fails below, too, where no default is in its place.
        let Ok(base) = lexer.word(&stage.base.text, defaults.variables()) else { break };
        if base.text.parse::<Reference>().is_err() {
            let detail = format!("without build arguments `{}` names no image", stage.base);
            linter.note(Rule::InvalidDefaultArgInFrom, &Place::of_stage(stage), detail);
        }
    }
    for stage in &linter.file.stages {
        if stage_base(linter, stage, &lexer, globals).is_none() {
            return;
        }
    }
}

/// `None` where the build ends with an error.
fn stage_base(
    linter: &mut Linter<'_>,
    stage: &Stage,
    lexer: &Lexer,
    globals: &GlobalScope,
) -> Option<()> {
    let base = expand(linter, &stage.base, stage, (lexer, globals))?;
    if base.text.is_empty() {
        return None;
    }
    let Some(flag) = &stage.platform else { return Some(()) };
    let expanded = expand(linter, flag, stage, (lexer, globals))?;
    let place = Place::of_stage(stage).at(flag.span);
    let is_target = || globals.variables().value(TARGET_PLATFORM) == Some(&expanded.text);
    let only_target = expanded.matched.len() == 1 && expanded.matched.contains(TARGET_PLATFORM);
    if only_target && expanded.unmatched.is_empty() && is_target() {
        let detail = format!("`{}` is what a stage is built for anyway", flag.text);
        linter.note(Rule::RedundantTargetPlatform, &place, detail);
    }
    let platform = expanded.text.parse::<Platform>();
    if expanded.matched.is_empty()
        && expanded.unmatched.is_empty()
        && let Ok(platform) = &platform
    {
        let name = stage.name.as_ref().map_or("", |name| name.text.as_str());
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let detail = format!("`{}` is the same whatever the build is for", flag.text);
            linter.note(Rule::FromPlatformFlagConstDisallowed, &place, detail);
        }
    }
    platform.ok().map(drop)
}

/// Expands a word and reports arguments that no `ARG` declares.
fn expand(
    linter: &mut Linter<'_>,
    word: &Word,
    stage: &Stage,
    (lexer, globals): (&Lexer, &GlobalScope),
) -> Option<Expanded> {
    let expanded = lexer.word(&word.text, globals.variables());
    let unmatched = match &expanded {
        Ok(expanded) => &expanded.unmatched,
        Err(error) => &error.unmatched,
    };
    for name in globals.undefined(unmatched) {
        let near = if linter.may_search() { globals.suggest(name) } else { None };
        let near = near.map_or(String::new(), |near| format!("; is `{near}` meant?"));
        let place = Place::of_stage(stage).at(linter.use_of(name, word.span));
        let detail = format!("no ARG above declares `{name}`{near}");
        linter.note(Rule::UndefinedArgInFrom, &place, detail);
    }
    expanded.ok()
}
