//! Compose files as definitions: each service that is built is a target.

mod attributes;

use std::collections::BTreeMap;

use davit_composefile::{ComposeError, ComposeText, Loader, Node, Shape};
use serde_json::{Map, Value};

use self::attributes::{add_limits, extend, hosts};
use crate::{
    definitions::{Paths, ReadFile, Surroundings},
    error::BakeError,
    resolve::folder,
    source::BakeFile,
    target::Target,
    words::{self, Entry},
};

/// Keys of `build`; others begin with `x-`.
const KEYS: [&str; 25] = [
    "additional_contexts",
    "args",
    "cache_from",
    "cache_to",
    "context",
    "dockerfile",
    "dockerfile_inline",
    "entitlements",
    "extra_hosts",
    "isolation",
    "labels",
    "network",
    "no_cache",
    "no_cache_filter",
    "platforms",
    "privileged",
    "provenance",
    "pull",
    "sbom",
    "secrets",
    "shm_size",
    "ssh",
    "tags",
    "target",
    "ulimits",
];

/// What services are built as.
#[derive(Debug, Default)]
pub(crate) struct Composed {
    /// Their targets by name; all of them are the group `default`.
    pub(crate) targets: BTreeMap<String, Target>,
    /// The folder from which contexts go out, where it is not the working directory.
    pub(crate) folder: Option<String>,
}

/// Whether the text, whose name says nothing, is a Compose file.
pub(crate) fn is_compose(file: &BakeFile) -> bool {
    davit_composefile::has_key(&file.text, "services")
}

/// Reads the files, of which later ones win.
pub(crate) fn read(
    files: &[&BakeFile],
    surroundings: &Surroundings,
) -> Result<Composed, BakeError> {
    let dotenv = match &surroundings.dotenv {
        Some(file) => {
            let outside = |name: &str| surroundings.environment.get(name).cloned();
            davit_composefile::read_dotenv(&file.name, &file.text, &outside)?
        }
        None => BTreeMap::new(),
    };
    let variables = |name: &str| {
        let Surroundings { variables, environment, .. } = surroundings;
        let given = variables.get(name).or_else(|| environment.get(name)).cloned();
        let given = given.or_else(|| dotenv.get(name).cloned());
        given.or_else(|| (name == "COMPOSE_PROJECT_NAME").then(|| "bake".to_owned()))
    };
    let refused = |_: &str| Err("a file of another place names it".to_owned());
    let read = |path: &str| match &surroundings.read_file {
        Some(ReadFile(read)) => read(path),
        None => refused(path),
    };
    let loader = Loader { variables: &variables, read: &read };
    let texts: Vec<ComposeText> = files
        .iter()
        .map(|file| ComposeText { name: file.name.clone(), text: file.text.clone() })
        .collect();
    let tree = loader.load(&texts)?;
    let project = Project { tree: &tree, variables: &variables, read: &read };
    // As in Compose, all go out from the first file.
    let folder = match surroundings.paths {
        Paths::OfCaller => None,
        Paths::OfFiles => files.first().and_then(|file| folder::of_file(&file.name)),
    };
    let mut targets: BTreeMap<String, Target> = BTreeMap::new();
    let services = tree.get("services").map(|all| all.map("services")).transpose()?;
    if services.is_none() && tree.get("secrets").is_none() {
        let name = files.first().map_or("", |file| &file.name);
        return Err(BakeError::NoService(name.to_owned()));
    }
    for (name, service) in services.unwrap_or_default() {
        let Some(build) = service.get("build").filter(|build| !build.is_null()) else {
            let image = service.get("image").filter(|image| !image.is_null());
            if image.is_none() {
                return Err(service.wrong(name, "a service with an `image` or a `build`").into());
            }
            continue;
        };
        let name = name.replace('.', "_");
        let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_');
        if !name.chars().all(is_plain) {
            return Err(service.wrong(&name, "a service whose name can be a target's").into());
        }
        targets.entry(name).or_default().merge(&project.target(service, build)?);
    }
    if let Some(folder) = &folder {
        for target in targets.values_mut() {
            ["context", "contexts"].iter().for_each(|it| folder::rebase(target, it, folder));
        }
    }
    Ok(Composed { targets, folder })
}

struct Project<'p> {
    tree: &'p Node,
    variables: &'p dyn Fn(&str) -> Option<String>,
    read: &'p dyn Fn(&str) -> Result<String, String>,
}

impl Project<'_> {
    fn target(&self, service: &Node, build: &Node) -> Result<Target, ComposeError> {
        let mut target = Target::default();
        if !matches!(build.shape, Shape::Map(_)) {
            target.set("context", local(&build.string("build")?).into());
            self.add_image(service, &mut target)?;
            return Ok(target);
        }
        for (key, value) in build.map("build")? {
            if !KEYS.contains(&key) && !key.starts_with("x-") {
                return Err(ComposeError::Key { place: value.place.clone(), key: key.to_owned() });
            }
        }
        let get = |key: &str| build.get(key).filter(|value| !value.is_null());
        let context = get("context").map(|it| it.string("context")).transpose()?;
        let context = context.unwrap_or_else(|| ".".to_owned());
        if !context.is_empty() {
            target.set("context", local(&context).into());
        }
        let named = [
            ("dockerfile", "dockerfile"),
            ("dockerfile_inline", "dockerfile-inline"),
            ("network", "network"),
            ("target", "target"),
        ];
        for (key, attribute) in named {
            let text = get(key).map(|value| value.string(key)).transpose()?;
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                target.set(attribute, text.into());
            }
        }
        for (key, attribute) in [("no_cache", "no-cache"), ("pull", "pull")] {
            if get(key).map(|value| value.bool(key)).transpose()? == Some(true) {
                target.set(attribute, true.into());
            }
        }
        for (key, attribute) in [("tags", "tags"), ("platforms", "platforms")] {
            let words = get(key).map(|value| value.strings(key)).transpose()?.unwrap_or_default();
            set_list(&mut target, attribute, words.into_iter().map(Value::String).collect());
        }
        self.add_pairs(service, &get, &mut target)?;
        self.add_entries(&get, &mut target)?;
        add_limits(&get, &mut target)?;
        if let Some(bake) = get("x-bake") {
            extend(&mut target, bake)?;
        }
        self.add_image(service, &mut target)?;
        Ok(target)
    }

    fn add_image(&self, service: &Node, target: &mut Target) -> Result<(), ComposeError> {
        let image = service.get("image").filter(|image| !image.is_null());
        let image = image.map(|image| image.string("image")).transpose()?;
        if target.words("tags").is_empty()
            && let Some(image) = image.filter(|image| !image.is_empty())
        {
            target.set("tags", vec![Value::String(image)].into());
        }
        Ok(())
    }

    fn add_pairs<'n>(
        &self,
        service: &Node,
        get: &dyn Fn(&str) -> Option<&'n Node>,
        target: &mut Target,
    ) -> Result<(), ComposeError> {
        let pairs = |key: &str| {
            get(key).map(|value| value.pairs(key)).transpose().map(Option::unwrap_or_default)
        };
        let args = pairs("args")?;
        let environment = match args.iter().any(|(_, value)| value.is_none()) {
            true => self.environment(service)?,
            false => BTreeMap::new(),
        };
        let args = args.into_iter().filter_map(|(name, value)| {
            let found = || environment.get(&name).cloned().or_else(|| (self.variables)(&name));
            let value = value.or_else(found)?;
            Some((name, Value::String(value)))
        });
        set_map(target, "args", args.collect());
        let labels = pairs("labels")?.into_iter();
        let labels = labels.map(|(name, value)| (name, value.unwrap_or_default().into()));
        set_map(target, "labels", labels.collect());
        let contexts = pairs("additional_contexts")?.into_iter();
        let contexts = contexts.map(|(name, value)| {
            let value = value.unwrap_or_default();
            (name, named_context(&local(&value)).into())
        });
        set_map(target, "contexts", contexts.collect());
        let hosts = get("extra_hosts").map(hosts).transpose()?.unwrap_or_default();
        set_map(target, "extra-hosts", hosts);
        Ok(())
    }

    fn add_entries<'n>(
        &self,
        get: &dyn Fn(&str) -> Option<&'n Node>,
        target: &mut Target,
    ) -> Result<(), ComposeError> {
        for (key, attribute) in [("cache_from", "cache-from"), ("cache_to", "cache-to")] {
            let words = get(key).map(|value| value.strings(key)).transpose()?.unwrap_or_default();
            set_list(target, attribute, parsed(Entry::Cache, &words));
        }
        let mut attest = Vec::new();
        for kind in ["sbom", "provenance"] {
            let value = get(kind).map(|value| value.scalar(kind)).transpose()?.flatten();
            let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
            attest.push(attestation(kind, &value));
        }
        set_list(target, "attest", parsed(Entry::Attestation, &attest));
        if let Some(keys) = get("ssh") {
            let mut ssh: Vec<String> = keys
                .pairs("ssh")?
                .into_iter()
                .map(|(id, path)| match path.filter(|path| !path.is_empty()) {
                    Some(path) => format!("{id}={}", local(&path)),
                    None => id,
                })
                .collect();
            ssh.sort();
            set_list(target, "ssh", parsed(Entry::Ssh, &ssh));
        }
        if let Some(secrets) = get("secrets") {
            let secrets = secrets.list("secrets")?.iter().map(|secret| self.secret(secret));
            set_list(target, "secret", secrets.collect::<Result<_, _>>()?);
        }
        Ok(())
    }

    fn secret(&self, secret: &Node) -> Result<Value, ComposeError> {
        let source = match secret.get("source") {
            Some(source) => source.string("source")?,
            None => secret.string("secrets")?,
        };
        let known = self.tree.get("secrets").and_then(|all| all.get(&source));
        let known = known.ok_or_else(|| secret.wrong(&source, "one of the file's secrets"))?;
        let is_external = match known.get("external") {
            Some(Node { shape: Shape::Map(_), .. }) => true,
            Some(external) => external.bool("external")?,
            None => false,
        };
        if is_external {
            let place = known.place.clone();
            return Err(ComposeError::Unsupported { place, key: "external" });
        }
        let mut found = Map::new();
        if !["file", "environment", "content"].iter().any(|key| known.get(key).is_some()) {
            return Err(known.wrong(&source, "a secret with a `file` or an `environment`"));
        }
        found.insert("id".to_owned(), source.into());
        let text = |key: &str| known.get(key).map(|value| value.string(key)).transpose();
        if let Some(file) = text("file")? {
            found.insert("src".to_owned(), local(&file).into());
        }
        if let Some(name) = text("environment")? {
            found.insert("env".to_owned(), name.into());
        }
        Ok(Value::Object(found))
    }

    /// The variables of a service's containers.
    fn environment(&self, service: &Node) -> Result<BTreeMap<String, String>, ComposeError> {
        let mut found = BTreeMap::new();
        if let Some(files) = service.get("env_file").filter(|files| !files.is_null()) {
            let one = std::slice::from_ref(files);
            let files = match &files.shape {
                Shape::List(all) => all,
                _ => one,
            };
            for file in files {
                self.add_variables(file, &mut found)?;
            }
        }
        let own = service.get("environment").map(|it| it.pairs("environment")).transpose()?;
        for (name, value) in own.unwrap_or_default() {
            if let Some(value) = value.or_else(|| (self.variables)(&name)) {
                found.insert(name, value);
            }
        }
        Ok(found)
    }

    fn add_variables(
        &self,
        file: &Node,
        found: &mut BTreeMap<String, String>,
    ) -> Result<(), ComposeError> {
        let (path, is_required) = match file.get("path") {
            Some(path) => {
                let required = file.get("required").map(|it| it.bool("required")).transpose()?;
                (path.string("path")?, required.unwrap_or(true))
            }
            None => (file.string("env_file")?, true),
        };
        let text = match (self.read)(&path) {
            Ok(text) => text,
            Err(_) if !is_required => return Ok(()),
            Err(problem) => {
                return Err(ComposeError::File { place: file.place.clone(), path, problem });
            }
        };
        let known = |name: &str| found.get(name).cloned().or_else(|| (self.variables)(name));
        let more = davit_composefile::read_dotenv(&path, &text, &known)?;
        found.extend(more);
        Ok(())
    }
}

fn set_list(target: &mut Target, attribute: &str, all: Vec<Value>) {
    if !all.is_empty() {
        target.set(attribute, all.into());
    }
}

fn set_map(target: &mut Target, attribute: &str, all: Map<String, Value>) {
    if !all.is_empty() {
        target.set(attribute, Value::Object(all));
    }
}

fn parsed(entry: Entry, words: &[String]) -> Vec<Value> {
    let full = words.iter().filter(|word| !word.is_empty());
    full.flat_map(|word| words::parse_all(entry, word)).collect()
}

/// `sbom` and `provenance` as an attestation: a word that is no bool has its fields.
fn attestation(kind: &str, value: &str) -> String {
    match value {
        "true" | "1" => format!("type={kind}"),
        "false" | "0" => format!("type={kind},disabled=true"),
        fields => format!("type={kind},{fields}"),
    }
}

/// A path without what changes nothing; places that are no path stay.
fn local(path: &str) -> String {
    let remote = ["github.com/", "git@", "service:", "/"];
    if path.is_empty()
        || path.contains("://")
        || remote.iter().any(|prefix| path.starts_with(prefix))
    {
        return path.to_owned();
    }
    crate::functions::cleaned(path)
}

fn named_context(value: &str) -> String {
    let name = value.strip_prefix("service:").or_else(|| value.strip_prefix("target:"));
    name.map_or_else(|| value.to_owned(), |name| format!("target:{}", name.replace('.', "_")))
}
