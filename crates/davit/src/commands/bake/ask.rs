//! `--call`: questions about the targets' Dockerfiles instead of builds.

use std::cell::RefCell;

use davit_bake::{Plan, Target};
use serde_json::{Map, Value, json};

use super::{
    build::call::{self, Call, Format, Method, Session},
    words::{LINK, Typed},
};
use crate::{cli::Context, error::CliError, format::visible, printer};

/// What a target asks instead of being built; `None` for a build.
pub(super) fn call_of(target: &Target, flag: Option<Call>) -> Result<Option<Call>, CliError> {
    let Some(text) = target.text("call") else { return Ok(None) };
    let named: Call = text
        .parse()
        .map_err(|problem| CliError::user(format!("the call `{}`: {problem}", visible(text))))?;
    let (format, status) = flag.map_or((named.format, named.status), |it| (it.format, it.status));
    let call = Call { method: named.method, format, status };
    Ok(Some(call).filter(|call| call.method != Method::Build))
}

/// What asking needs.
pub(super) struct Asking<'a> {
    pub(super) plan: &'a Plan,
    pub(super) context: &'a Context,
    pub(super) session: &'a Session,
}

impl Asking<'_> {
    /// Asks about all targets that ask; returns the first exit code that tells of something.
    pub(super) fn all(
        &self,
        questions: &[(Typed<'_>, Call)],
        flag: Option<Call>,
    ) -> Result<u8, CliError> {
        let is_json = flag.is_some_and(|call| call.format == Format::Json);
        let (mut code, mut answers) = (0, Map::new());
        for (at, (typed, call)) in questions.iter().enumerate() {
            let Some(target) = self.plan.targets.get(typed.name) else { continue };
            if !is_json {
                let space = if at > 0 { "\n" } else { "" };
                let about = target.text("description").map(|it| format!("{}\n", visible(it)));
                let about = about.unwrap_or_default();
                printer::data(&format!("{space}{}\n{about}\n", typed.name))?;
            }
            let (own, answer) = self.one(typed, target, (*call, is_json))?;
            if code == 0 {
                code = own;
            }
            answers.insert(typed.name.to_owned(), json!({ call.method.name(): answer }));
        }
        if is_json {
            self.show(answers)?;
        }
        Ok(code)
    }

    fn one(
        &self,
        typed: &Typed<'_>,
        target: &Target,
        (call, is_kept): (Call, bool),
    ) -> Result<(u8, Value), CliError> {
        let kept = RefCell::new(Value::Null);
        let show = |answer: &Value| {
            if is_kept {
                kept.replace(answer.clone());
                return Ok(());
            }
            printer::line(&format!("{answer:#}"))
        };
        let mut args = typed.arguments(target)?;
        // What another target gives is not built for a question.
        for (name, _) in target.pairs("contexts").iter().filter(|(_, it)| it.starts_with(LINK)) {
            args.forget(name);
        }
        let code = call::ask(call, &args, self.context, (self.session, &show))
            .map_err(|error| error.of_target(typed.name))?;
        Ok((code, kept.into_inner()))
    }

    /// The plan with the answers.
    fn show(&self, answers: Map<String, Value>) -> Result<(), CliError> {
        let mut shown = self.plan.to_json();
        let targets = shown["target"].as_object_mut().into_iter().flatten();
        for (name, target) in targets {
            let mut both = Map::new();
            both.insert("build".to_owned(), target.take());
            if let Some(Value::Object(answer)) = answers.get(name) {
                both.extend(answer.clone());
            }
            *target = Value::Object(both);
        }
        printer::line(&format!("{shown:#}"))
    }
}
