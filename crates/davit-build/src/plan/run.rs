//! Plans `RUN`.

use davit_dockerfile::{
    BuildArguments, CommandForm, Heredoc, Run, Security, Span, history, proxy_variables,
};

use super::{
    Network, Op, RunDevice, RunSpec, ScriptFile, SecretVariable,
    stage::{LayerText, StageBuilder, absolute},
};
use crate::{error::BuildError, sandbox::Entitlement};

/// Directory of the scripts of heredocs that begin with `#!`.
const PIPES: &str = "/dev/pipes";
/// Host name inside a `RUN`, as BuildKit's.
pub(crate) const HOSTNAME: &str = "buildkitsandbox";
/// Where programs find the socket of their agent.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

impl StageBuilder<'_, '_> {
    pub(super) fn run(&mut self, run: &Run, text: &str, span: Span) -> Result<(), BuildError> {
        let mut scripts = Vec::new();
        let args = match &run.command.form {
            CommandForm::Exec(words) => words.iter().map(|word| word.text.clone()).collect(),
            CommandForm::Shell(line) => {
                let line = shell_line(&line.text, &run.command.heredocs, &mut scripts);
                self.with_shell(&line)
            }
        };
        if args.is_empty() {
            return Err(self.planner.fail(span, "RUN has no command"));
        }
        let network = self.network(run, span)?;
        if run.security == Security::Insecure {
            self.entitled(Entitlement::SecurityInsecure, span)?;
        }
        let mounts = self.mounts(&run.mounts)?;
        let name = self.run_name(text, &run.command.heredocs, &mounts.secrets);
        let mut variables = self.state.scope.variables().clone();
        if let Some(agent) = &mounts.agent
            && !variables.names().any(|name| name == AGENT_VARIABLE)
        {
            variables.set(AGENT_VARIABLE, agent);
        }
        let request = self.planner.request;
        let config = &self.state.config.config;
        let spec = RunSpec {
            env: variables.to_entries(),
            proxy_env: proxies(&request.build_args),
            working_dir: format!("/{}", absolute(&config.working_dir, "")),
            user: config.user.clone(),
            network,
            hostname: hostname(&request.build_args),
            security: run.security,
            mounts: mounts.mounts,
            devices: self.devices(run)?,
            secrets: mounts.secrets,
            shm_size_bytes: request.sandbox.shm_size_bytes,
            ulimits: request.sandbox.ulimits.clone(),
            cgroup_parent: request.sandbox.cgroup_parent.clone(),
            scripts,
            hosts: request.add_hosts.clone(),
            platform: self.state.platform.clone(),
            args,
        };
        let created_by = history::run(&self.state.scope.history_arguments(), &spec.args);
        self.layer(Op::Run(spec), &mounts.inputs, LayerText { name, created_by, span });
        Ok(())
    }

    fn devices(&self, run: &Run) -> Result<Vec<RunDevice>, BuildError> {
        let device = |device: &davit_dockerfile::Device| {
            let variables = self.state.scope.variables();
            let name = self.planner.lexer.word(&device.name, variables);
            let name = name.map_err(|error| self.expand_failed(&error, device.span))?.text;
            Ok(RunDevice { name, required: device.required })
        };
        run.devices.iter().map(device).collect()
    }

    fn network(&self, run: &Run, span: Span) -> Result<Network, BuildError> {
        let own = &self.planner.request.network;
        let network = match run.network {
            davit_dockerfile::Network::Default => own.clone(),
            davit_dockerfile::Network::None => Network::None,
            davit_dockerfile::Network::Host => Network::Host,
        };
        // Whoever gives all commands the host's network has said that they may have it.
        if network == Network::Host && *own != Network::Host {
            self.entitled(Entitlement::NetworkHost, span)?;
        }
        Ok(network)
    }

    fn entitled(&self, entitlement: Entitlement, span: Span) -> Result<(), BuildError> {
        if self.planner.request.sandbox.entitlements.contains(&entitlement) {
            return Ok(());
        }
        let failed = self.planner.fail(span, format!("{entitlement} is not allowed"));
        Err(failed.hint(format!("`--allow {entitlement}` trusts this Dockerfile with it")))
    }

    fn run_name(&self, text: &str, heredocs: &[Heredoc], secrets: &[SecretVariable]) -> String {
        // A variable of the same name is not what the command sees.
        let mut variables = self.state.scope.variables().clone();
        secrets.iter().for_each(|secret| variables.set(&secret.name, "****"));
        let name = self.display_in(text, &variables);
        let Some(first) = heredocs.first() else { return name };
        let line = first.content.lines().next().unwrap_or_default();
        let more = if first.content.lines().nth(1).is_some() { "..." } else { "" };
        format!("{name} ({line}{more})")
    }
}

/// The host name of commands: BuildKit's, or that of its own build argument.
fn hostname(given: &BuildArguments) -> String {
    let own = given.get("BUILDKIT_SANDBOX_HOSTNAME").filter(|name| !name.is_empty());
    own.map_or(HOSTNAME, String::as_str).to_owned()
}

/// The proxy settings among the build arguments, as `NAME=value`.
fn proxies(given: &BuildArguments) -> Vec<String> {
    proxy_variables(given).into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The line that the shell gets: heredocs are its own business, except one that is all there is.
fn shell_line(line: &str, heredocs: &[Heredoc], scripts: &mut Vec<ScriptFile>) -> String {
    match heredocs {
        [] => line.to_owned(),
        [only] if is_only_heredoc(line) => {
            let content = body(only);
            if !content.starts_with("#!") {
                return content;
            }
            scripts.push(ScriptFile { name: only.name.clone(), content });
            format!("{PIPES}/{}", only.name)
        }
        all => {
            let mut full = line.to_owned();
            for heredoc in all {
                full.push('\n');
                full.push_str(&heredoc.content);
                full.push_str(&heredoc.name);
            }
            full
        }
    }
}

/// Whether a line is a heredoc and nothing else: `<<EOF`, `3<<-"EOF"`.
fn is_only_heredoc(line: &str) -> bool {
    let rest = line.trim().trim_start_matches(|c: char| c.is_ascii_digit());
    let Some(rest) = rest.strip_prefix("<<") else { return false };
    let rest = rest.strip_prefix('-').unwrap_or(rest).trim_start();
    !rest.is_empty()
        && !rest.contains(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '|' | ';' | '&'))
}

fn body(heredoc: &Heredoc) -> String {
    if !heredoc.strip_tabs {
        return heredoc.content.clone();
    }
    heredoc.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_a_lone_heredoc_from_a_line_with_one() {
        for line in ["<<EOF", " <<-EOF ", "<<\"EOF\"", "3<<EOF", "<< EOF"] {
            assert!(is_only_heredoc(line), "{line}");
        }
        for line in ["cat <<EOF", "<<EOF cat", "<<EOF | sh", "<<", "<<A <<B", "echo"] {
            assert!(!is_only_heredoc(line), "{line}");
        }
    }

    #[test]
    fn gives_heredocs_to_the_shell() {
        let heredoc = |content: &str, strip_tabs| Heredoc {
            name: "EOF".to_owned(),
            descriptor: 0,
            expand: true,
            strip_tabs,
            content: content.to_owned(),
            span: Span::default(),
        };
        let mut scripts = Vec::new();
        let plain = [heredoc("\techo a\n\techo b\n", true)];
        assert_eq!(shell_line("<<-EOF", &plain, &mut scripts), "echo a\necho b\n");
        let script = [heredoc("#!/bin/x\ny\n", false)];
        assert_eq!(shell_line("<<EOF", &script, &mut scripts), "/dev/pipes/EOF");
        assert_eq!(scripts.len(), 1);
        let line = shell_line("cat <<EOF >x", &[heredoc("a\n", false)], &mut scripts);
        assert_eq!(line, "cat <<EOF >x\na\nEOF");
    }
}
