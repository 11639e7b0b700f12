//! Files to one tree.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    error::{ComposeError, Place},
    interpolate, merge,
    node::{Mark, Node, Shape},
    yaml,
};

/// Services that extend each other.
const MOST_EXTENDS: usize = 50;
/// Files that services of other files are in.
const MOST_FILES: usize = 100;

/// A Compose file.
#[derive(Clone, Debug)]
pub struct ComposeText {
    /// Its name, from which the names of other files in it go out.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// What loading may know of the world.
pub struct Loader<'l> {
    /// Variables of the environment.
    pub variables: &'l dyn Fn(&str) -> Option<String>,
    /// Reads a file that another names.
    pub read: &'l dyn Fn(&str) -> Result<String, String>,
}

impl std::fmt::Debug for Loader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").finish_non_exhaustive()
    }
}

/// The documents of a file in which a service is looked for.
type Services = BTreeMap<String, Node>;

impl Loader<'_> {
    /// Reads the files, of which later ones win: their variables are replaced, services have what
    /// they extend, and nothing is left of tags.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn load(&self, files: &[ComposeText]) -> Result<Node, ComposeError> {
        let name = files.first().map_or("compose.yaml", |file| &file.name);
        let mut tree = Node::empty_map(name.into());
        let mut budget = MOST_FILES;
        for file in files {
            for document in self.documents(file)? {
                let document = self.extended(document, &mut budget)?;
                merge::files(&mut tree, document)?;
            }
        }
        Ok(tree)
    }

    fn documents(&self, file: &ComposeText) -> Result<Vec<Node>, ComposeError> {
        let mut documents = yaml::documents(&file.name.as_str().into(), &file.text)?;
        documents.retain(|document| !document.is_null());
        for document in &mut documents {
            if !matches!(document.shape, Shape::Map(_)) {
                return Err(document.wrong("the file", "a mapping"));
            }
            interpolate::tree(document, self.variables)?;
            if let Some(include) = document.get("include") {
                let place = include.place.clone();
                return Err(ComposeError::Unsupported { place, key: "include" });
            }
        }
        Ok(documents)
    }

    /// A document whose services have what they extend.
    fn extended(&self, mut document: Node, budget: &mut usize) -> Result<Node, ComposeError> {
        let services = services(&document)?;
        let mut all = Services::new();
        for name in services.keys() {
            let found = self.service(name, &services, &mut Vec::new(), budget)?;
            all.insert(name.clone(), found);
        }
        if let Shape::Map(keys) = &mut document.shape
            && let Some(services) = keys.get_mut("services")
        {
            services.shape = Shape::Map(all);
        }
        Ok(document)
    }

    fn service(
        &self,
        name: &str,
        services: &Services,
        open: &mut Vec<(Arc<str>, String)>,
        budget: &mut usize,
    ) -> Result<Node, ComposeError> {
        let Some(found) = services.get(name) else {
            return Ok(Node::empty_map("".into()));
        };
        let Some(extends) = found.get("extends") else { return Ok(found.clone()) };
        let place = extends.place.clone();
        let step = (Arc::clone(&place.file), name.to_owned());
        if open.contains(&step) || open.len() >= MOST_EXTENDS {
            return Err(ComposeError::Cycle { place, name: name.to_owned() });
        }
        open.push(step);
        let (other, file) = match &extends.shape {
            Shape::Map(_) => {
                let other = extends.get("service").ok_or_else(|| {
                    extends.wrong("extends", "a mapping with the name of a `service`")
                })?;
                let file = extends.get("file").filter(|file| !file.is_null());
                (other.string("service")?, file.map(|file| file.string("file")).transpose()?)
            }
            _ => (extends.string("extends")?, None),
        };
        let base = match file {
            None => self.base(&other, services, &place, open, budget)?,
            Some(file) => self.base_of_file(&other, &file, &place, open, budget)?,
        };
        open.pop();
        let mut later = found.clone();
        if let Shape::Map(keys) = &mut later.shape {
            keys.remove("extends");
        }
        // What this one marks it marks in other files, too.
        let marks = later.clone();
        let mut base = base;
        merge::service(&mut base, later)?;
        remark(&mut base, &marks);
        Ok(base)
    }

    fn base(
        &self,
        name: &str,
        services: &Services,
        place: &Place,
        open: &mut Vec<(Arc<str>, String)>,
        budget: &mut usize,
    ) -> Result<Node, ComposeError> {
        if !services.contains_key(name) {
            let (place, name) = (place.clone(), name.to_owned());
            return Err(ComposeError::NoService { place, name });
        }
        self.service(name, services, open, budget)
    }

    fn base_of_file(
        &self,
        name: &str,
        file: &str,
        place: &Place,
        open: &mut Vec<(Arc<str>, String)>,
        budget: &mut usize,
    ) -> Result<Node, ComposeError> {
        let path = beside(&place.file, file);
        let wrong = |problem: String| ComposeError::File {
            place: place.clone(),
            path: path.clone(),
            problem,
        };
        *budget = budget.checked_sub(1).ok_or_else(|| wrong("too many files".to_owned()))?;
        let text = (self.read)(&path).map_err(wrong)?;
        let mut tree = Node::empty_map(path.as_str().into());
        for document in self.documents(&ComposeText { name: path.clone(), text })? {
            merge::files(&mut tree, document)?;
        }
        let mut base = self.base(name, &services(&tree)?, place, open, budget)?;
        // Paths go out from the folder of their file.
        let folder = folder_of(file);
        if !folder.is_empty() {
            rebase(&mut base, folder);
        }
        Ok(base)
    }
}

fn services(document: &Node) -> Result<Services, ComposeError> {
    let Some(services) = document.get("services") else { return Ok(Services::new()) };
    let all = services.map("services")?;
    for (name, service) in &all {
        service.map(name)?;
    }
    Ok(all.into_iter().map(|(name, service)| (name.to_owned(), service.clone())).collect())
}

/// Puts the marks of a service back on what it has become.
fn remark(node: &mut Node, marks: &Node) {
    let (Shape::Map(all), Shape::Map(marks)) = (&mut node.shape, &marks.shape) else { return };
    for (key, marked) in marks {
        match (marked.mark, all.get_mut(key)) {
            (Some(Mark::Reset), _) => {
                all.insert(key.clone(), marked.clone());
            }
            (mark @ Some(Mark::Override), Some(node)) => node.mark = mark,
            (None, Some(node)) => remark(node, marked),
            _ => {}
        }
    }
}

fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| if folder.is_empty() { "/" } else { folder })
}

/// A path that a file names.
fn beside(file: &str, path: &str) -> String {
    let folder = folder_of(file);
    if path.starts_with('/') || folder.is_empty() {
        return path.to_owned();
    }
    format!("{}/{path}", folder.trim_end_matches('/'))
}

/// Lets the relative paths of a service go out from a folder.
fn rebase(service: &mut Node, folder: &str) {
    let Shape::Map(keys) = &mut service.shape else { return };
    if let Some(build) = keys.get_mut("build") {
        match &mut build.shape {
            Shape::Map(keys) => {
                if let Some(context) = keys.get_mut("context") {
                    rebase_text(context, folder);
                }
                if let Some(contexts) = keys.get_mut("additional_contexts") {
                    rebase_pairs(contexts, folder);
                }
            }
            _ => rebase_text(build, folder),
        }
    }
    for key in ["env_file", "label_file"] {
        let Some(files) = keys.get_mut(key) else { continue };
        match &mut files.shape {
            Shape::List(all) => all.iter_mut().for_each(|file| rebase_file(file, folder)),
            _ => rebase_file(files, folder),
        }
    }
}

fn rebase_file(file: &mut Node, folder: &str) {
    match &mut file.shape {
        Shape::Map(keys) => {
            if let Some(path) = keys.get_mut("path") {
                rebase_text(path, folder);
            }
        }
        _ => rebase_text(file, folder),
    }
}

fn rebase_pairs(pairs: &mut Node, folder: &str) {
    match &mut pairs.shape {
        Shape::Map(all) => all.values_mut().for_each(|value| rebase_text(value, folder)),
        Shape::List(all) => {
            for item in all {
                let (Shape::Plain(text) | Shape::Text(text)) = &mut item.shape else { continue };
                if let Some((name, path)) = text.split_once('=') {
                    *text = format!("{name}={}", rebased(path, folder));
                }
            }
        }
        _ => {}
    }
}

fn rebase_text(node: &mut Node, folder: &str) {
    if let Shape::Plain(text) | Shape::Text(text) = &mut node.shape {
        *text = rebased(text, folder);
    }
}

fn rebased(path: &str, folder: &str) -> String {
    let remote = ["github.com/", "git@", "service:", "target:", "/", "~"];
    let is_fixed = path.is_empty()
        || path.contains("://")
        || remote.iter().any(|prefix| path.starts_with(prefix));
    if is_fixed { path.to_owned() } else { format!("{folder}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Node, String> {
        let texts: Vec<ComposeText> = files
            .iter()
            .filter(|(name, _)| !name.starts_with("other/"))
            .map(|&(name, text)| ComposeText { name: name.to_owned(), text: text.to_owned() })
            .collect();
        let read = |path: &str| {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| "it is not there".to_owned())
        };
        let variables = |name: &str| (name == "V").then(|| "value".to_owned());
        let loader = Loader { variables: &variables, read: &read };
        loader.load(&texts).map_err(|error| error.to_string())
    }

    fn shown(node: &Node) -> String {
        match &node.shape {
            Shape::Plain(text) | Shape::Text(text) => text.clone(),
            Shape::List(all) => {
                format!("[{}]", all.iter().map(shown).collect::<Vec<_>>().join(" "))
            }
            Shape::Map(all) => {
                let all: Vec<_> =
                    all.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
                format!("{{{}}}", all.join(" "))
            }
        }
    }

    fn service(files: &[(&str, &str)], name: &str) -> String {
        let tree = load(files).unwrap();
        shown(tree.get("services").and_then(|all| all.get(name)).unwrap())
    }

    #[test]
    fn later_files_win() {
        let first = "services:\n  a:\n    build: {context: x, args: {A: 1, B: $V}, tags: [t, u]}\n    \
                     command: one\n    environment: [E=1]\n";
        let second = "services:\n  a:\n    build: {args: [A=2], tags: [t]}\n    command: [two]\n    \
                      environment: {E: 2, F: }\n  b: {}\n";
        assert_eq!(
            service(&[("c.yaml", first), ("d.yaml", second)], "a"),
            "{build:{args:[A=2 B=value] context:x tags:[t u]} command:[two] environment:[E=2 F]}"
        );
        let third = "services: {a: {build: y, environment: !reset [], command: !override three}}\n";
        let all = [("c.yaml", first), ("d.yaml", second), ("e.yaml", third)];
        assert_eq!(
            service(&all, "a"),
            "{build:{args:[A=2 B=value] context:y tags:[t u]} command:three}"
        );
        // Documents of one file are as files.
        let both = format!("{first}---\n{second}");
        assert!(service(&[("c.yaml", &both)], "a").contains("A=2"));
    }

    #[test]
    fn services_extend_others() {
        let text = "services:\n  base: {build: {context: x, args: {A: 1}}, image: i}\n  \
                    mid: {extends: base, build: {args: {A: 2}}}\n  \
                    top: {extends: {service: mid}, image: !reset , build: {target: t}}\n  \
                    far: {extends: {file: other/c.yaml, service: s}, image: far}\n";
        let other = "services: {s: {extends: r, build: ./dir}, \
                     r: {env_file: [e, /abs], build: {additional_contexts: {n: ../y}}}}\n";
        let files = [("c.yaml", text), ("other/c.yaml", other)];
        assert_eq!(
            service(&files, "top"),
            "{build:{args:[A=1 A=2] context:x target:t}}".replace("A=1 A=2", "A=2")
        );
        assert_eq!(
            service(&files, "far"),
            "{build:{additional_contexts:{n:other/../y} context:other/./dir} \
             env_file:[other/e /abs] image:far}"
        );
        for (text, problem) in [
            ("services: {a: {extends: a}}", "c.yaml:1: the service `a` extends itself"),
            ("services: {a: {extends: b}, b: {extends: a}}", "extends itself"),
            ("services: {a: {extends: b}}", "no service `b` to extend"),
            ("services: {a: {extends: {file: no, service: b}}}", "no: it is not there"),
            ("services: {a: {extends: {file: x}}}", "the name of a `service`"),
            ("include: [x]", "`include` is not supported"),
            ("services: [a]", "`services` is not a mapping"),
            ("- a", "`the file` is not a mapping"),
            ("services: {a: {image: '${X:?gone}'}}", "c.yaml:1: the variable X has no value: gone"),
        ] {
            let error = load(&[("c.yaml", text)]).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }
}
