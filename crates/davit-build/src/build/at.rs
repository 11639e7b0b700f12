//! A command in the state behind a step: the Dockerfile is cut there, and one more `RUN`, of which
//! no result is kept, stands at its end.

use davit_dockerfile::{Dockerfile, nearest};

use crate::{
    error::{BuildError, BuildErrorKind},
    plan::{ClientMount, MountSource, NodeId, Op, Plan, RunMount},
    request::DockerfileText,
    sandbox::Sandbox,
};

/// The step that the command is put into.
const STEP: &str = "FROM scratch\nRUN davit\n";
const SHELL: &str = "/bin/sh";
const SECRETS: &str = "/run/secrets";
const AGENTS: &str = "/run/buildkit/ssh_agent";
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// A place in a Dockerfile, and what to do there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// A line, counted from 1, for what is done up to it in its stage; or the name of a stage.
    pub place: String,
    /// Program and arguments; none for the shell of the place.
    pub command: Vec<String>,
}

/// Leaves what is done up to the place, and adds a step.
pub(crate) fn cut(
    mut dockerfile: Dockerfile,
    text: &DockerfileText,
    at: &At,
) -> Result<Dockerfile, BuildError> {
    let (index, line) = find(&dockerfile, text, &at.place)?;
    let step = Dockerfile::parse(STEP.as_bytes()).expect("it is a Dockerfile");
    let mut step = step.stages.into_iter().flat_map(|stage| stage.instructions);
    dockerfile.stages.truncate(index + 1);
    let stage = &mut dockerfile.stages[index];
    stage.instructions.retain(|instruction| instruction.span.first_line <= line);
    let span = stage.instructions.last().map_or(stage.span, |instruction| instruction.span);
    let instruction = step.next().expect("it has an instruction");
    stage.instructions.push(davit_dockerfile::Instruction { span, ..instruction });
    Ok(dockerfile)
}

/// The stage of a place, and the line up to which it counts.
fn find(
    dockerfile: &Dockerfile,
    text: &DockerfileText,
    place: &str,
) -> Result<(usize, u32), BuildError> {
    let refused = |problem: String| BuildError::new(BuildErrorKind::Plan(problem));
    let stages = &dockerfile.stages;
    if place.is_empty() || !place.bytes().all(|byte| byte.is_ascii_digit()) {
        return dockerfile.stage_index(place, stages.len()).map(|it| (it, u32::MAX)).ok_or_else(
            || {
                let error = refused(format!("no stage is called `{place}`"));
                let names = stages.iter().filter_map(|stage| stage.name.as_ref());
                match nearest(place, names.map(|name| name.text.as_str())) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error,
                }
            },
        );
    }
    let last = last_line(&text.bytes);
    let line = place.parse().ok().filter(|line| *line <= last).ok_or_else(|| {
        refused(format!("{} has no line {place}, its last one is {last}", text.name))
    })?;
    let found = stages.iter().rposition(|stage| stage.span.first_line <= line);
    found.map(|it| (it, line)).ok_or_else(|| refused(format!("no stage has a line {place}")))
}

/// The number of the last line of a text.
fn last_line(text: &[u8]) -> u32 {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let ends = text.iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(ends + 1).unwrap_or(u32::MAX)
}

/// Puts the command into the last step, with all secrets and agents that the build was given.
pub(crate) fn arm(plan: &mut Plan, at: &At, sandbox: &Sandbox) -> NodeId {
    let id = plan.target.state;
    if let Op::Run(spec) = &mut plan.nodes[id.0 as usize].op {
        spec.args = match &at.command[..] {
            [] => vec![shell(&spec.args)],
            command => command.to_vec(),
        };
        let client = |id: &String, mode| ClientMount {
            id: id.clone(),
            required: true,
            mode,
            uid: 0,
            gid: 0,
            fingerprint: None,
        };
        for name in sandbox.secrets.keys() {
            let last = name.trim_end_matches('/').rsplit('/').next().unwrap_or(name);
            let source = MountSource::Secret(client(name, 0o400));
            spec.mounts.push(RunMount { target: format!("{SECRETS}/{last}"), source });
        }
        for (number, name) in sandbox.agents.keys().enumerate() {
            let target = format!("{AGENTS}.{number}");
            if number == 0 && !spec.env.iter().any(|it| it.starts_with(AGENT_VARIABLE)) {
                spec.env.push(format!("{AGENT_VARIABLE}={target}"));
            }
            spec.mounts.push(RunMount { target, source: MountSource::Agent(client(name, 0o600)) });
        }
    }
    id
}

/// The shell that a command is run by, or the usual one.
pub(crate) fn shell(args: &[String]) -> String {
    let program = args.first().filter(|program| program.ends_with("sh") && args.len() > 1);
    program.map_or(SHELL, String::as_str).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DockerfilePlace;

    #[test]
    fn a_dockerfile_ends_at_the_place() {
        let text =
            "FROM a AS one\nRUN 1\nENV X=1\nFROM one AS two\nRUN 2 \\\n  x\nRUN 3\nFROM two\n";
        let file = DockerfileText {
            name: "Dockerfile".to_owned(),
            bytes: format!("{text}# the end\n").into_bytes(),
            place: DockerfilePlace::default(),
            ignore: None,
        };
        let rest = |place: &str| {
            let dockerfile = Dockerfile::parse(text.as_bytes()).unwrap();
            let at = At { place: place.to_owned(), command: Vec::new() };
            let cut =
                cut(dockerfile, &file, &at).map_err(|error| (error.to_string(), error.hints))?;
            let last = cut.stages.last().unwrap();
            let texts: Vec<_> = last.instructions.iter().map(|it| it.text.clone()).collect();
            Ok::<_, (String, Vec<String>)>((cut.stages.len(), texts.join(",")))
        };
        for (place, stages, steps) in [
            ("1", 1, "RUN davit"),
            ("2", 1, "RUN 1,RUN davit"),
            ("one", 1, "RUN 1,ENV X=1,RUN davit"),
            ("4", 2, "RUN davit"),
            ("6", 2, "RUN 2   x,RUN davit"),
            ("TWO", 2, "RUN 2   x,RUN 3,RUN davit"),
            ("9", 3, "RUN davit"),
        ] {
            assert_eq!(rest(place), Ok((stages, steps.to_owned())), "{place}");
        }
        let (error, hints) = rest("tow").unwrap_err();
        assert_eq!(
            (&*error, &hints[..]),
            ("no stage is called `tow`", &["did you mean `two`?".to_owned()][..])
        );
        for (place, message) in [
            ("0", "no stage has a line 0"),
            ("10", "Dockerfile has no line 10, its last one is 9"),
            ("99999999999", "Dockerfile has no line 99999999999, its last one is 9"),
        ] {
            assert_eq!(rest(place), Err((message.to_owned(), Vec::new())));
        }
    }

    #[test]
    fn a_shell_is_that_of_the_place() {
        let shell =
            |args: &[&str]| shell(&args.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        assert_eq!(shell(&["/bin/bash", "-o", "pipefail", "-c", "x"]), "/bin/bash");
        assert_eq!(shell(&["/bin/prog", "x"]), "/bin/sh");
        assert_eq!(shell(&["sh"]), "/bin/sh");
    }
}
