//! A target as what `davit build` is asked for.

use std::{collections::BTreeSet, path::Path};

use clap::Parser as _;
use davit_bake::{Plan, Target};
use davit_engine::{
    BlobAccess, CompressionScope, LayerCompression,
    build::{
        BuildCommand, BuildOutput, ImageForm, ImageSource, LayoutImage, NamedContext, NamedSource,
        context_name,
    },
    image::Compression,
};

use super::{build, files::Scratch, remote::Remote};
use crate::{cli::Context, error::CliError};

/// What names another target as a context.
pub(super) const LINK: &str = "target:";

// The arguments of `davit build`, as a line of their own.
#[derive(Debug, clap::Parser)]
#[command(name = "davit build")]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) args: build::BuildArgs,
}

/// A target of a plan that is to be built.
pub(super) struct Typed<'a> {
    pub(super) plan: &'a Plan,
    pub(super) name: &'a str,
    pub(super) allowed: &'a [String],
    pub(super) scratch: &'a Scratch,
    pub(super) remote: Option<&'a Remote>,
}

impl Typed<'_> {
    /// Reads the target as the arguments that it stands for.
    pub(super) fn command(
        &self,
        target: &Target,
        context: &Context,
    ) -> Result<BuildCommand, CliError> {
        let mut command = build::command(&self.arguments(target)?)?;
        build::add_proxies(&mut command.request, context)?;
        for (name, value) in target.pairs("contexts") {
            let Some(other) = value.strip_prefix(LINK) else { continue };
            let wrong = || CliError::user(format!("the context `{name}`: it is no name"));
            let name = context_name(&name).ok_or_else(wrong)?;
            let layout = LayoutImage { path: self.scratch.layout(other), name: None, digest: None };
            let source = NamedSource::Image(ImageSource::Layout(layout));
            command.request.named_contexts.push(NamedContext { name, platform: None, source });
        }
        if self.is_needed() {
            let form = ImageForm {
                compression: Some(LayerCompression {
                    format: Compression::None,
                    level: None,
                    scope: CompressionScope::New,
                    access: BlobAccess::Whole,
                }),
                ..ImageForm::default()
            };
            let path = self.scratch.layout(self.name);
            command.outputs.push(BuildOutput::Layout(Vec::new(), form, path));
        }
        Ok(command)
    }

    /// The target as `davit build` would have it.
    pub(super) fn arguments(&self, target: &Target) -> Result<build::BuildArgs, CliError> {
        let mut line = Line::try_parse_from(self.words(target)).map_err(|error| {
            let text = error.to_string();
            let text = text.lines().next().unwrap_or_default();
            CliError::user(text.strip_prefix("error: ").unwrap_or(text).to_owned())
        })?;
        line.args.inline = target.text("dockerfile-inline").map(str::to_owned);
        Ok(line.args)
    }

    /// Whether another target is built of this one.
    fn is_needed(&self) -> bool {
        self.plan.targets.keys().any(|other| self.plan.links(other).any(|it| it == self.name))
    }

    /// The platforms of a target; one that only others ask for has theirs, unless it says more.
    fn platforms(&self) -> Vec<String> {
        let own = |name: &str| {
            self.plan.targets.get(name).map(|it| it.words("platforms")).unwrap_or_default()
        };
        let (mut platforms, mut seen) = (BTreeSet::new(), BTreeSet::from([self.name]));
        let mut queue = vec![self.name];
        while let Some(name) = queue.pop() {
            let found = own(name);
            if !found.is_empty() || !self.plan.linked.contains(name) {
                if name == self.name {
                    return found;
                }
                platforms.extend(found);
                continue;
            }
            let users = self.plan.targets.keys().map(String::as_str);
            let users = users.filter(|other| self.plan.links(other).any(|it| it == name));
            // There may be many ways to each.
            queue.extend(users.filter(|other| seen.insert(other)));
        }
        platforms.into_iter().collect()
    }

    fn words(&self, target: &Target) -> Vec<String> {
        let mut words = vec!["davit build".to_owned()];
        // A value that begins with a hyphen is none of the options.
        let mut add = |flag: &str, value: &str| words.push(format!("--{flag}={value}"));
        let pairs = [
            ("args", "build-arg", '='),
            ("labels", "label", '='),
            ("contexts", "build-context", '='),
            ("resources", "resource", '='),
            ("extra-hosts", "add-host", '='),
        ];
        for (attribute, flag, sign) in pairs {
            let pairs = target.pairs(attribute).into_iter();
            for (key, value) in pairs.filter(|(_, value)| !value.starts_with(LINK)) {
                add(flag, &format!("{key}{sign}{value}"));
            }
        }
        for (attribute, flag) in [
            ("tags", "tag"),
            ("annotations", "annotation"),
            ("attest", "attest"),
            ("cache-from", "cache-from"),
            ("cache-to", "cache-to"),
            ("secret", "secret"),
            ("ssh", "ssh"),
            ("output", "output"),
            ("no-cache-filter", "no-cache-filter"),
            ("ulimits", "ulimit"),
            ("policy", "policy"),
        ] {
            target.words(attribute).iter().for_each(|word| add(flag, word));
        }
        self.platforms().iter().for_each(|word| add("platform", word));
        for attribute in ["target", "network", "shm-size"] {
            target.text(attribute).into_iter().for_each(|value| add(attribute, value));
        }
        for attribute in ["no-cache", "pull"] {
            if target.flag(attribute) == Some(true) {
                words.push(format!("--{attribute}"));
            }
        }
        words.extend(self.remote.map(|it| it.words(context(target))).unwrap_or_default());
        let granted = self.allowed.iter().filter(|word| !word.starts_with("fs") && *word != "ssh");
        words.extend(granted.map(|word| format!("--allow={word}")));
        if target.text("dockerfile-inline").is_none() {
            words.push(format!("--file={}", dockerfile(target)));
        }
        words.extend(["--".to_owned(), context(target).to_owned()]);
        words
    }
}

/// The context as `davit build` takes it.
pub(super) fn context(target: &Target) -> &str {
    let context = target.text("context").unwrap_or(".");
    match context.strip_prefix("cwd://") {
        Some("") => ".",
        Some(path) => path,
        None => context,
    }
}

/// The Dockerfile, which is in the context.
pub(super) fn dockerfile(target: &Target) -> String {
    let (context, file) = (context(target), target.text("dockerfile").unwrap_or("Dockerfile"));
    if let Some(path) = file.strip_prefix("cwd://") {
        return path.to_owned();
    }
    let is_here = Path::new(context).is_dir() && !file.contains("://");
    if is_here { Path::new(context).join(file).display().to_string() } else { file.to_owned() }
}
