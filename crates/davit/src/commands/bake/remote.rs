//! A definition that lies in a git repository or at a URL.

use std::{io::Read as _, path::Path, sync::atomic::Ordering};

use clap::Parser as _;
use davit_bake::{BakeFile, Plan};
use davit_engine::build::looks_like_archive;

use super::{
    build::{self, call::Session, contexts},
    files::{self, Scratch, USUAL},
    words::Line,
};
use crate::{
    cli::Context,
    environment,
    error::{CliError, io_error},
    progress::ProgressMode,
};

/// Variables with what a private repository asks for, and the secrets that they are.
const SECRETS: [(&str, &str); 2] = [
    ("BUILDX_BAKE_GIT_AUTH_TOKEN", "GIT_AUTH_TOKEN"),
    ("BUILDX_BAKE_GIT_AUTH_HEADER", "GIT_AUTH_HEADER"),
];
/// The variable that names keys for repositories behind SSH.
const SSH: &str = "BUILDX_BAKE_GIT_SSH";
/// Bytes that tell an archive.
const HEAD: u64 = 512;
/// What a definition at a URL is called while it is read.
const DEFINITION: &str = "definition";

/// Where a definition lies.
#[derive(Debug)]
pub(super) struct Remote {
    /// The address.
    url: String,
    /// Whether it is a git repository.
    is_git: bool,
    /// The context of targets that ask for the caller's, as `BAKE_CMD_CONTEXT`.
    pub(super) context: String,
}

impl Remote {
    /// Takes the addresses at the start of what is typed; gives the targets.
    pub(super) fn of(words: &[String]) -> Result<(Option<Self>, &[String]), CliError> {
        let is_remote = |text: &String| Ok::<_, CliError>(contexts::remote(text)?.is_some());
        let Some((url, targets)) = words.split_first() else { return Ok((None, words)) };
        if !is_remote(url)? {
            return Ok((None, words));
        }
        let (context, targets) = match targets.split_first() {
            Some((context, targets)) if is_remote(context)? => (context.clone(), targets),
            _ => ("cwd://".to_owned(), targets),
        };
        let is_git = contexts::is_git(url)?;
        Ok((Some(Self { url: url.clone(), is_git, context }), targets))
    }

    /// Fetches the files that are named, else the usual ones.
    pub(super) fn read(
        &self,
        named: &[String],
        context: (&Session, &Context),
    ) -> Result<Vec<BakeFile>, CliError> {
        let (local, remote) = files::local(named);
        let mut found = if self.is_git {
            self.checked_out(&remote, context)?
        } else {
            vec![self.downloaded(context)?]
        };
        if !local.is_empty() {
            found.extend(files::read(&local)?);
        }
        if found.is_empty() {
            let text = format!("`{}` has no definition of a usual name", self.url);
            return Err(CliError::user(text).hint("davit bake -f FILE URL"));
        }
        Ok(found)
    }

    fn checked_out(
        &self,
        named: &[String],
        context: (&Session, &Context),
    ) -> Result<Vec<BakeFile>, CliError> {
        let mut dockerfile = "FROM scratch\n".to_owned();
        for name in named {
            if name.contains(['"', '\\', '\n', '*', '?', '[', '$']) {
                return Err(CliError::user(format!("`{name}` is no name of a definition")));
            }
            dockerfile += &format!("COPY --parents [\"{name}\", \"/\"]\n");
        }
        if named.is_empty() {
            // A pattern may mean nothing.
            for name in USUAL {
                let (start, last) = name.split_at(name.len() - 1);
                dockerfile += &format!("COPY [\"{start}[{last}]\", \"/\"]\n");
            }
        }
        let scratch = self.fetch(&dockerfile, &self.url, context)?;
        let usual: Vec<String> = USUAL.iter().map(|&name| name.to_owned()).collect();
        let is_there = |name: &&String| scratch.definition().join(name).is_file();
        let names: Vec<&String> = match named {
            [] => usual.iter().filter(is_there).collect(),
            named => named.iter().collect(),
        };
        names.into_iter().map(|name| definition(&scratch, name, name.clone())).collect()
    }

    fn downloaded(&self, context: (&Session, &Context)) -> Result<BakeFile, CliError> {
        if self.url.contains(['"', '\\', '$', '\n']) {
            return Err(CliError::user(format!("`{}` is no address of a definition", self.url)));
        }
        let dockerfile = format!("FROM scratch\nADD [\"{}\", \"/{DEFINITION}\"]\n", self.url);
        let scratch = self.fetch(&dockerfile, ".", context)?;
        let mut head = Vec::new();
        let file = fs_err::File::open(scratch.definition().join(DEFINITION)).map_err(io_error)?;
        file.take(HEAD).read_to_end(&mut head).map_err(io_error)?;
        if looks_like_archive(&head) {
            let text = format!("`{}` is an archive, of which no definition is read", self.url);
            return Err(CliError::user(text).hint("a git repository, or -f FILE of what is in it"));
        }
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        definition(&scratch, DEFINITION, name.to_owned())
    }

    /// Builds a folder of the files: it is fetched as any source is.
    fn fetch(
        &self,
        dockerfile: &str,
        source: &str,
        (session, context): (&Session, &Context),
    ) -> Result<Scratch, CliError> {
        let scratch = Scratch::new()?;
        let output = format!("--output=type=local,dest={}", scratch.definition().display());
        let mut words = vec!["davit build".to_owned(), output];
        words.extend(self.secrets());
        words.extend(["--".to_owned(), source.to_owned()]);
        let line = Line::try_parse_from(words);
        let mut line = line.map_err(|error| CliError::user(error.to_string()))?;
        line.args.inline = Some(dockerfile.to_owned());
        let mut command = build::command(&line.args)?;
        build::add_proxies(&mut command.request, context)?;
        let progress = context.progress(ProgressMode::Quiet);
        let built = session.engine.build(command, &|_| {}, &*progress, &session.cancelled);
        built
            .map_err(|error| build::failed(error, session.signal.load(Ordering::Relaxed), None))?;
        Ok(scratch)
    }

    fn secrets(&self) -> Vec<String> {
        if !self.is_git {
            return Vec::new();
        }
        let given = SECRETS.iter().filter(|(name, _)| environment::variable(name).is_some());
        let mut words: Vec<String> =
            given.map(|(name, id)| format!("--secret=id={id},env={name}")).collect();
        let keys = environment::variable_text(SSH).filter(|keys| !keys.is_empty());
        words.extend(keys.map(|keys| format!("--ssh=default={keys}")));
        words
    }

    /// Lets the contexts of the targets that are relative go out from the repository.
    pub(super) fn rebase(&self, plan: &mut Plan) -> Result<(), CliError> {
        if !self.is_git {
            return Ok(());
        }
        for (name, target) in &mut plan.targets {
            for attribute in ["context", "contexts"] {
                let rebased = target.rebase(attribute, &|path| self.below(path));
                rebased.map_err(|problem: String| CliError::user(problem).of_target(name))?;
            }
        }
        Ok(())
    }

    /// The words that give a build what its repository asks for, if it is this one's.
    pub(super) fn words(&self, context: &str) -> Vec<String> {
        let base = |url: &str| url.split('#').next().unwrap_or_default().to_owned();
        if base(context) == base(&self.url) { self.secrets() } else { Vec::new() }
    }

    /// The address of a folder of the repository.
    fn below(&self, path: &str) -> Result<Option<String>, String> {
        if path.starts_with("cwd://") || path.starts_with("target:") || path.contains("://") {
            return Ok(None);
        }
        if contexts::remote(path).is_ok_and(|found| found.is_some()) {
            return Ok(None);
        }
        let (base, fragment) = self.url.split_once('#').unwrap_or((&self.url, ""));
        let (reference, folder) = fragment.split_once(':').unwrap_or((fragment, ""));
        let mut parts: Vec<&str> = Vec::new();
        for part in folder.split('/').chain(path.split('/')) {
            match part {
                "" | "." => {}
                ".." if parts.pop().is_none() => {
                    return Err(format!("the context `{path}` is not in the repository"));
                }
                ".." => {}
                part => parts.push(part),
            }
        }
        if parts.is_empty() {
            return Ok(Some(self.url.clone()));
        }
        Ok(Some(format!("{base}#{reference}:{}", parts.join("/"))))
    }
}

fn definition(scratch: &Scratch, file: &str, name: String) -> Result<BakeFile, CliError> {
    let path =
        scratch.definition().join(Path::new(file).strip_prefix("/").unwrap_or(file.as_ref()));
    let is_file = fs_err::symlink_metadata(&path).is_ok_and(|found| found.is_file());
    if !is_file {
        return Err(CliError::user(format!("`{name}` is no file of the repository")));
    }
    Ok(BakeFile { name, text: files::read_one(&path)?.text })
}
