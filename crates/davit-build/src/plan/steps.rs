//! Plans `COPY` and `ADD`.

use davit_dockerfile::{
    Add, Copy, Glob, InlineFile as InlineText, Lexer, Patterns, Sources, Span, Word,
    history::{self, CopyWords},
};

use super::{
    CopyOrigin, CopySpec, Destination, InlineFile, NodeId, Op, Ownership, Unpack,
    contexts::Place,
    remote::{RemoteFlags, Remotes},
    stage::{LayerText, StageBuilder, absolute},
};
use crate::{error::BuildError, source::without_accounts, symbolic_mode::Mode};

/// What `COPY` and `ADD` have in common.
struct Transfer<'a> {
    keyword: &'static str,
    sources: &'a Sources,
    chown: Option<&'a Word>,
    chmod: Option<&'a Word>,
    exclude: &'a [Word],
    parents: bool,
    link: bool,
    unpack: Unpack,
    /// Where its paths are.
    from: Place,
    /// Flags for sources that lie elsewhere; `None` for `COPY`, which takes none.
    remote: Option<RemoteFlags<'a>>,
}

impl StageBuilder<'_, '_> {
    pub(super) fn copy(&mut self, copy: &Copy, text: &str, span: Span) -> Result<(), BuildError> {
        let from = self.copy_from(copy, span)?;
        let transfer = Transfer {
            keyword: "COPY",
            sources: &copy.sources,
            chown: copy.chown.as_ref(),
            chmod: copy.chmod.as_ref(),
            exclude: &copy.exclude,
            parents: copy.parents,
            link: copy.link,
            unpack: Unpack::Never,
            from,
            remote: None,
        };
        self.transfer(&transfer, text, span)
    }

    fn copy_from(&mut self, copy: &Copy, span: Span) -> Result<Place, BuildError> {
        let instruction = davit_dockerfile::Instruction {
            kind: davit_dockerfile::Kind::Copy(copy.clone()),
            keyword: Word::default(),
            text: String::new(),
            span: Span::default(),
            comments: Vec::new(),
        };
        Ok(match self.planner.copies_from(self.index, &instruction)? {
            None => self.planner.main_context(self.index, span),
            Some((from, span)) => self.planner.place(&from, self.index, span),
        })
    }

    pub(super) fn add(&mut self, add: &Add, text: &str, span: Span) -> Result<(), BuildError> {
        self.check_checksum(add)?;
        let transfer = Transfer {
            keyword: "ADD",
            sources: &add.sources,
            chown: add.chown.as_ref(),
            chmod: add.chmod.as_ref(),
            exclude: &add.exclude,
            parents: false,
            link: add.link,
            unpack: if add.unpack == Some(false) { Unpack::Never } else { Unpack::Archives },
            from: self.planner.main_context(self.index, span),
            remote: Some(RemoteFlags::of(add)),
        };
        self.transfer(&transfer, text, span)
    }

    fn transfer(&mut self, it: &Transfer<'_>, text: &str, span: Span) -> Result<(), BuildError> {
        let (origin, from) = match it.from {
            Place::Context(context) => (CopyOrigin::Context(context), None),
            Place::State(node) => (CopyOrigin::Input, Some(node)),
        };
        let (mut sources, mut parents) = (Vec::new(), Vec::new());
        let mut remotes = Remotes::default();
        let mut written = Vec::new();
        for word in &it.sources.paths {
            let path = self.expand(word)?;
            let place = (sources.len(), 1 + usize::from(from.is_some()));
            if self.remote(it.remote, (&path, word.span), place, &mut remotes)? {
                // It is planned.
            } else if it.parents {
                let (source, pattern) = path.split_once("/./").unwrap_or(("", &path));
                sources.push(self.source(source, word.span)?);
                parents.push(self.pattern(pattern, word.span)?);
            } else {
                sources.push(self.source(&path, word.span)?);
            }
            // Whoever has the image reads its history.
            written.push(without_accounts(&path));
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
            parents: it.parents,
            chown: owner.as_deref().unwrap_or_default(),
            chmod: mode.as_deref().unwrap_or_default(),
            paths: &written,
            files: &names,
            destination: &target,
        });
        let mut spec = CopySpec {
            origin,
            sources,
            remotes: Vec::new(),
            files,
            destination,
            owner: owner.map(Ownership),
            link: it.link && mode.is_none(),
            mode,
            parents,
            exclude: self.exclude(it.exclude)?,
            unpack: it.unpack,
            epoch: self.planner.epoch,
        };
        spec.remotes = remotes.copies(&spec);
        let name = without_accounts(&self.display(text));
        let inputs: Vec<NodeId> = from.into_iter().chain(remotes.nodes).collect();
        self.layer(Op::Copy(spec), &inputs, LayerText { name, created_by, span });
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

    /// A pattern of `--parents`, relative to the source.
    fn pattern(&self, pattern: &str, span: Span) -> Result<String, BuildError> {
        let cleaned = crate::files::clean(pattern.as_bytes());
        let cleaned = String::from_utf8(cleaned).expect("components of text are text");
        match Patterns::new([&cleaned]) {
            Ok(_) => Ok(cleaned),
            Err(_) => Err(self.planner.fail(span, format!("`{pattern}` is no valid pattern"))),
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
