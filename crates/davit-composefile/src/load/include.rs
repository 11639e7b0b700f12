//! What `include` names: whole projects, each with its own folder and variables.

use std::collections::BTreeMap;

use super::{Loader, Site, folder_of, laid_over, rebase};
use crate::{
    dotenv,
    error::ComposeError,
    interpolate::Lookup,
    merge,
    node::{Node, Shape},
};

/// Files within files.
const DEPTH: usize = 20;
/// What a project gives to the one that includes it.
const SECTIONS: [&str; 6] = ["services", "volumes", "networks", "secrets", "configs", "models"];
/// Variables of a project, where it names no other file of them.
const DOTENV: &str = ".env";
/// What is named to have no variables at all.
const NOTHING: &str = "/dev/null";

/// An entry of `include`.
struct Entry<'n> {
    node: &'n Node,
    paths: Vec<String>,
    /// The folder of the project as it is written; that of the first file if it is not.
    folder: String,
    env_files: Option<Vec<String>>,
}

impl<'n> Entry<'n> {
    fn read(node: &'n Node) -> Result<Self, ComposeError> {
        let keys = match &node.shape {
            Shape::Map(_) => node.map("include")?,
            _ => vec![("path", node)],
        };
        let (mut paths, mut folder, mut env_files) = (Vec::new(), None, None);
        for (key, value) in keys.into_iter().filter(|(_, value)| !value.is_null()) {
            match key {
                "path" => paths = value.strings("path")?,
                "project_directory" => folder = Some(value.string("project_directory")?),
                "env_file" => env_files = Some(value.strings("env_file")?),
                key => {
                    let (place, key) = (value.place.clone(), key.to_owned());
                    return Err(ComposeError::Key { place, key });
                }
            }
        }
        let first = paths.first().ok_or_else(|| node.wrong("path", "a file or several"))?;
        let folder = folder.filter(|folder| !folder.is_empty());
        let folder = folder.unwrap_or_else(|| folder_of(first).to_owned());
        Ok(Self { node, paths, folder, env_files })
    }
}

impl Site<'_> {
    /// Adds what a document includes; what it has itself, or included before, wins.
    pub(super) fn include(&self, document: &mut Node) -> Result<(), ComposeError> {
        let Shape::Map(keys) = &mut document.shape else { return Ok(()) };
        let Some(included) = keys.remove("include") else { return Ok(()) };
        for node in included.list("include")? {
            let project = self.project(&Entry::read(node)?)?;
            add(document, project)?;
        }
        Ok(())
    }

    /// The project of an entry, with paths that go out from this file's folder.
    fn project(&self, entry: &Entry<'_>) -> Result<Node, ComposeError> {
        let place = &entry.node.place;
        let paths: Vec<String> = entry.paths.iter().map(|path| self.path(place, path)).collect();
        let circle = paths.iter().find(|path| self.open.contains(path));
        if let Some(name) = circle.or_else(|| paths.first().filter(|_| self.open.len() > DEPTH)) {
            let (place, name) = (place.clone(), name.clone());
            return Err(ComposeError::Circle { place, name });
        }
        let folder = self.path(place, &entry.folder);
        let own = self.own_variables(entry, &folder)?;
        let outer = self.loader.variables;
        let variables = |name: &str| outer(name).or_else(|| own.get(name).cloned());
        let loader = Loader { variables: &variables, read: self.loader.read };
        let mut open = self.open.to_vec();
        open.extend(paths.iter().cloned());
        let site = Site { loader: &loader, folder: Some(&folder), open: &open, ..*self };
        let mut tree = Node::empty_map(place.file.clone());
        for path in &paths {
            for document in site.whole(&self.read(place, path)?)? {
                merge::files(&mut tree, document)?;
            }
        }
        let Shape::Map(sections) = &mut tree.shape else { return Ok(tree) };
        for (name, section) in sections {
            match (name.as_str(), &mut section.shape) {
                ("services", Shape::Map(services)) => {
                    for service in services.values_mut() {
                        fill(service, &variables);
                        give_context(service);
                        rebase::service(service, &entry.folder);
                    }
                }
                ("secrets" | "configs", _) => rebase::files(section, &entry.folder),
                _ => {}
            }
        }
        Ok(tree)
    }

    /// The variables that only the project of an entry has.
    fn own_variables(
        &self,
        entry: &Entry<'_>,
        folder: &str,
    ) -> Result<BTreeMap<String, String>, ComposeError> {
        let place = &entry.node.place;
        let mut own = BTreeMap::new();
        let usual =
            || vec![if folder.is_empty() { DOTENV.into() } else { format!("{folder}/{DOTENV}") }];
        let named = entry.env_files.as_ref();
        let named = named.map(|all| all.iter().filter(|name| *name != NOTHING));
        let is_usual = named.is_none();
        let paths = named.map_or_else(usual, |all| all.map(|it| self.path(place, it)).collect());
        for path in paths {
            let file = match self.read(place, &path) {
                // The usual one need not be there.
                Err(ComposeError::File { .. }) if is_usual => continue,
                file => file?,
            };
            let known =
                |name: &str| (self.loader.variables)(name).or_else(|| own.get(name).cloned());
            let more = dotenv::read(&file.name, &file.text, &known)?;
            own.extend(more);
        }
        Ok(own)
    }
}

/// Adds a project to a document that has more to say.
fn add(document: &mut Node, project: Node) -> Result<(), ComposeError> {
    let (Shape::Map(all), Shape::Map(mut project)) = (&mut document.shape, project.shape) else {
        return Ok(());
    };
    for name in SECTIONS {
        let Some(section) = project.remove(name) else { continue };
        let own = all.remove(name).filter(|own| !own.is_null());
        let merged = match own {
            Some(Node { place, mark: None, shape: Shape::Map(own) }) => {
                let shape = Shape::Map(joined(section, own, name)?);
                Node { place, mark: None, shape }
            }
            own => own.unwrap_or(section),
        };
        all.insert(name.to_owned(), merged);
    }
    Ok(())
}

fn joined(
    section: Node,
    mut own: BTreeMap<String, Node>,
    name: &str,
) -> Result<BTreeMap<String, Node>, ComposeError> {
    let Shape::Map(parts) = section.shape else { return Ok(own) };
    for (key, part) in parts {
        let joined = match own.remove(&key) {
            None => part,
            Some(own) if own.mark.is_some() => own,
            Some(own) => {
                let mut part = part;
                laid_over(&mut part, own, name)?;
                part
            }
        };
        own.insert(key, joined);
    }
    Ok(own)
}

/// Gives a build without a context the one that it has by default, which is in its project.
fn give_context(service: &mut Node) {
    let Shape::Map(keys) = &mut service.shape else { return };
    let Some(build) = keys.get_mut("build") else { return };
    let context = Node::text(build.place.clone(), ".".to_owned());
    if let Shape::Map(keys) = &mut build.shape
        && keys.get("context").is_none_or(Node::is_null)
    {
        keys.insert("context".to_owned(), context);
    }
}

/// Gives the variables of a service that have no value the project's own.
fn fill(service: &mut Node, variables: Lookup<'_>) {
    let Shape::Map(keys) = &mut service.shape else { return };
    let Some(environment) = keys.get_mut("environment") else { return };
    match &mut environment.shape {
        Shape::Map(all) => {
            for (name, node) in all.iter_mut().filter(|(_, node)| node.is_null()) {
                if let Some(value) = variables(name) {
                    node.shape = Shape::Text(value);
                }
            }
        }
        Shape::List(all) => {
            for node in all {
                let (Shape::Plain(text) | Shape::Text(text)) = &node.shape else { continue };
                if !text.contains('=')
                    && let Some(value) = variables(text)
                {
                    node.shape = Shape::Text(format!("{text}={value}"));
                }
            }
        }
        _ => {}
    }
}
