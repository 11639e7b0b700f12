//! Plans `RUN`, `COPY` and `ADD`.

use davit_dockerfile::{
    Add, BuildArguments, CommandForm, Copy, Glob, Heredoc, InlineFile as InlineText, Lexer,
    Patterns, Run, Security, Sources, Span, Word,
    history::{self, CopyWords},
    proxy_variables,
};

use super::{
    CopyOrigin, CopySpec, Destination, InlineFile, Network, NodeId, Op, Ownership, RunSpec,
    ScriptFile, Unpack,
    planner::Base,
    stage::{LayerText, StageBuilder, absolute},
};
use crate::{error::BuildError, symbolic_mode::Mode};

/// Directory of the scripts of heredocs that begin with `#!`.
const PIPES: &str = "/dev/pipes";

/// What `COPY` and `ADD` have in common.
struct Transfer<'a> {
    keyword: &'static str,
    sources: &'a Sources,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    exclude: &'a [Word],
    link: bool,
    unpack: Unpack,
    /// The state that `--from` names.
    from: Option<NodeId>,
}

impl StageBuilder<'_, '_> {
    pub(super) fn run(&mut self, run: &Run, text: &str, span: Span) -> Result<(), BuildError> {
        self.refuse_run_flags(run, span)?;
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
        let request = self.planner.request;
        let network = match run.network {
            davit_dockerfile::Network::Default => request.network,
            davit_dockerfile::Network::None => Network::None,
            davit_dockerfile::Network::Host => Network::Host,
        };
        let config = &self.state.config.config;
        let working_dir = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
        let spec = RunSpec {
            env: self.state.scope.variables().to_entries(),
            proxy_env: proxies(&request.build_args),
            working_dir: working_dir.to_owned(),
            user: config.user.clone(),
            network,
            scripts,
            hosts: request.add_hosts.clone(),
            platform: self.state.platform.clone(),
            args,
        };
        let created_by = history::run(&self.state.scope.history_arguments(), &spec.args);
        let name = self.run_name(text, &run.command.heredocs);
        self.layer(Op::Run(spec), &[], LayerText { name, created_by, span });
        Ok(())
    }

    fn run_name(&self, text: &str, heredocs: &[Heredoc]) -> String {
        let name = self.display(text);
        let Some(first) = heredocs.first() else { return name };
        let line = first.content.lines().next().unwrap_or_default();
        let more = if first.content.lines().nth(1).is_some() { "..." } else { "" };
        format!("{name} ({line}{more})")
    }

    fn refuse_run_flags(&self, run: &Run, span: Span) -> Result<(), BuildError> {
        if let Some(mount) = run.mounts.first() {
            return Err(self.planner.fail(mount.span, "RUN --mount is not supported yet"));
        }
        if let Some(device) = run.devices.first() {
            return Err(self.planner.fail(device.span, "RUN --device is not supported yet"));
        }
        if run.security == Security::Insecure {
            return Err(self.planner.fail(span, "RUN --security=insecure is not supported yet"));
        }
        Ok(())
    }

    pub(super) fn copy(&mut self, copy: &Copy, text: &str, span: Span) -> Result<(), BuildError> {
        if copy.parents {
            return Err(self.planner.fail(span, "COPY --parents is not supported yet"));
        }
        for word in &copy.sources.paths {
            if ["http://", "https://"].iter().any(|it| word.text.starts_with(it)) {
                return Err(self.planner.fail(word.span, "source can't be a URL for COPY"));
            }
        }
        let from = self.copy_from(copy)?;
        let transfer = Transfer {
            keyword: "COPY",
            sources: &copy.sources,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            exclude: &copy.exclude,
            link: copy.link,
            unpack: Unpack::Never,
            from,
        };
        self.transfer(&transfer, text, span)
    }

    fn copy_from(&mut self, copy: &Copy) -> Result<Option<NodeId>, BuildError> {
        let instruction = davit_dockerfile::Instruction {
            kind: davit_dockerfile::Kind::Copy(copy.clone()),
            keyword: Word::default(),
            text: String::new(),
            span: Span::default(),
            comments: Vec::new(),
        };
        Ok(match self.planner.copies_from(self.index, &instruction)? {
            None | Some((Base::Scratch, _)) => None,
            Some((Base::Stage(stage), _)) => {
                let stage = self.planner.stages[stage].as_ref();
                Some(stage.expect("stages are planned in order").node)
            }
            Some((Base::Image(key), _)) => {
                let name = format!("FROM {}", self.planner.images[&key].0.name);
                let stage = super::StageId(u32::try_from(self.index).unwrap_or(u32::MAX));
                Some(self.planner.image_node(&key, stage, name))
            }
        })
    }

    pub(super) fn add(&mut self, add: &Add, text: &str, span: Span) -> Result<(), BuildError> {
        for word in &add.sources.paths {
            let path = self.expand(word)?;
            if is_remote(&path) {
                let message = format!("ADD of a remote source (`{path}`) is not supported yet");
                return Err(self.planner.fail(word.span, message));
            }
        }
        if let Some(checksum) = &add.checksum {
            let message = "--checksum is for remote sources, which are not supported yet";
            return Err(self.planner.fail(checksum.span, message));
        }
        let transfer = Transfer {
            keyword: "ADD",
            sources: &add.sources,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            exclude: &add.exclude,
            link: add.link,
            unpack: if add.unpack == Some(false) { Unpack::Never } else { Unpack::Archives },
            from: None,
        };
        self.transfer(&transfer, text, span)
    }

    fn transfer(&mut self, it: &Transfer<'_>, text: &str, span: Span) -> Result<(), BuildError> {
        let mut sources = Vec::new();
        let mut written = Vec::new();
        for word in &it.sources.paths {
            let path = self.expand(word)?;
            sources.push(self.source(&path, word.span)?);
            written.push(path);
        }
        let mode = it.chmod.map(|word| self.mode(word)).transpose()?.flatten();
        let files = it.sources.files.iter().map(|file| self.inline(file));
        let files: Vec<InlineFile> = files.collect::<Result<_, _>>()?;
        let names: Vec<String> = it.sources.files.iter().map(|file| file.name.clone()).collect();
        let target = self.expand(&it.sources.destination)?;
        let destination = self.destination(&target);
        let owner = it.chown.map(|word| self.expand(word)).transpose()?.filter(|it| !it.is_empty());
        let created_by = history::copy(&CopyWords {
            keyword: it.keyword,
            parents: false,
            chown: owner.as_deref().unwrap_or_default(),
            chmod: mode.as_deref().unwrap_or_default(),
            paths: &written,
            files: &names,
            destination: &target,
        });
        let spec = CopySpec {
            origin: if it.from.is_some() { CopyOrigin::Input } else { CopyOrigin::Context },
            sources,
            files,
            destination,
            owner: owner.map(Ownership),
            link: it.link && mode.is_none(),
            mode,
            exclude: self.exclude(it.exclude)?,
            unpack: it.unpack,
            epoch: self.planner.epoch,
        };
        let name = self.display(text);
        let from: Vec<NodeId> = it.from.into_iter().collect();
        self.layer(Op::Copy(spec), &from, LayerText { name, created_by, span });
        Ok(())
    }

    fn exclude(&self, words: &[Word]) -> Result<Vec<String>, BuildError> {
        for word in words {
            Patterns::new([&word.text]).map_err(|_| {
                self.planner.fail(word.span, format!("`{word}` is no valid pattern"))
            })?;
        }
        Ok(words.iter().map(|word| word.text.clone()).collect())
    }

    fn source(&self, path: &str, span: Span) -> Result<String, BuildError> {
        let cleaned = crate::files::clean(path.as_bytes());
        let cleaned = String::from_utf8(cleaned).expect("components of text are text");
        if cleaned.split('/').all(|part| Glob::new(part.as_bytes()).is_ok()) {
            Ok(cleaned)
        } else {
            Err(self.planner.fail(span, format!("`{path}` is no valid pattern")))
        }
    }

    fn inline(&self, file: &InlineText) -> Result<InlineFile, BuildError> {
        let content = if file.expand {
            let expanded = Lexer::heredoc_body().word(&file.content, self.state.scope.variables());
            expanded.map_err(|error| self.expand_failed(&error, file.span))?.text
        } else {
            file.content.clone()
        };
        // As if it stood in the root of a context: `..` ends there.
        let name = crate::files::clean(file.name.as_bytes());
        if name.is_empty() || name.contains(&b'/') {
            let message = format!("`{}` is no name of a file", file.name);
            return Err(self.planner.fail(file.span, message));
        }
        let name = String::from_utf8(name).expect("components of text are text");
        Ok(InlineFile { name, content })
    }

    fn destination(&self, written: &str) -> Destination {
        let directory =
            matches!(written, "" | ".") || written.ends_with('/') || written.ends_with("/.");
        let path = absolute(&self.state.config.config.working_dir, written);
        Destination { path, directory }
    }

    /// A mode, checked; `None` if variables left nothing of it.
    fn mode(&self, word: &Word) -> Result<Option<String>, BuildError> {
        let text = self.expand(word)?;
        match Mode::parse(&text) {
            _ if text.is_empty() => Ok(None),
            Some(_) => Ok(Some(text)),
            None => Err(self
                .planner
                .fail(word.span, format!("`{text}` is no mode"))
                .hint("write it in octal (`0755`) or as for chmod(1) (`u=rwX,go=rX`)")),
        }
    }
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

/// Whether `ADD` would fetch the source: a URL or a git repository.
fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|it| source.starts_with(it))
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
