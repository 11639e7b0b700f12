//! Files to one tree.

mod include;
mod rebase;

use std::{cell::Cell, collections::BTreeMap, sync::Arc};

use crate::{
    error::{ComposeError, Place},
    interpolate, merge,
    node::{Mark, Node, Shape},
    yaml,
};

/// Services that extend each other.
const MOST_EXTENDS: usize = 50;
/// Files that others name.
const MOST_FILES: usize = 100;
/// Values of all services that extend others.
const MOST_NODES: usize = 500_000;
/// Bytes of all texts in which variables are replaced.
const MOST_BYTES: usize = 8 << 20;

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
    /// Reads the files, of which later ones win: their variables are replaced, what they include is
    /// there, services have what they extend, and nothing is left of tags.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub fn load(&self, files: &[ComposeText]) -> Result<Node, ComposeError> {
        let name = files.first().map_or("compose.yaml", |file| &file.name);
        let mut tree = Node::empty_map(name.into());
        let budget = Budget::default();
        for file in files {
            let open = [file.name.clone()];
            let site = Site { loader: self, folder: None, open: &open, budget: &budget };
            for document in site.whole(file)? {
                merge::files(&mut tree, document)?;
            }
        }
        Ok(tree)
    }
}

/// What all files of a project share.
struct Budget {
    /// Files that others name.
    files: Cell<usize>,
    /// Values of services that extend others.
    nodes: Cell<usize>,
    /// Bytes of texts with variables.
    bytes: Cell<usize>,
}

impl Default for Budget {
    fn default() -> Self {
        let (files, nodes) = (Cell::new(MOST_FILES), Cell::new(MOST_NODES));
        Self { files, nodes, bytes: Cell::new(MOST_BYTES) }
    }
}

/// How the names in a file are understood.
#[derive(Clone, Copy)]
struct Site<'l> {
    loader: &'l Loader<'l>,
    /// Where other files are looked for; `None` is beside the file that names them.
    folder: Option<&'l str>,
    /// The files on the way to this one, with its own name.
    open: &'l [String],
    budget: &'l Budget,
}

impl Site<'_> {
    /// The documents of a file, as they are merged into others.
    fn whole(&self, file: &ComposeText) -> Result<Vec<Node>, ComposeError> {
        let documents = self.documents(file)?.into_iter();
        let whole = documents.map(|mut document| {
            self.include(&mut document)?;
            self.extended(document)
        });
        whole.collect()
    }

    fn documents(&self, file: &ComposeText) -> Result<Vec<Node>, ComposeError> {
        let mut documents = yaml::documents(&file.name.as_str().into(), &file.text)?;
        documents.retain(|document| !document.is_null());
        for document in &mut documents {
            if !matches!(document.shape, Shape::Map(_)) {
                return Err(document.wrong("the file", "a mapping"));
            }
            interpolate::tree(document, self.loader.variables, &self.budget.bytes)?;
        }
        Ok(documents)
    }

    /// The path of a file that another names.
    fn path(&self, place: &Place, name: &str) -> String {
        let folder = self.folder.unwrap_or_else(|| folder_of(&place.file));
        if name.starts_with('/') || folder.is_empty() {
            return name.to_owned();
        }
        format!("{}/{name}", folder.trim_end_matches('/'))
    }

    /// Reads a file that another names.
    fn read(&self, place: &Place, path: &str) -> Result<ComposeText, ComposeError> {
        let wrong = |problem: String| {
            let (place, path) = (place.clone(), path.to_owned());
            ComposeError::File { place, path, problem }
        };
        let left = self.budget.files.get().checked_sub(1);
        self.budget.files.set(left.ok_or_else(|| wrong("too many files".to_owned()))?);
        if is_elsewhere(path) {
            return Err(wrong("only files of this machine are read".to_owned()));
        }
        let text = (self.loader.read)(path).map_err(wrong)?;
        Ok(ComposeText { name: path.to_owned(), text })
    }

    /// A document whose services have what they extend.
    fn extended(&self, mut document: Node) -> Result<Node, ComposeError> {
        let services = services(&document)?;
        let mut all = Services::new();
        for name in services.keys() {
            let found = self.service(name, &services, &mut Vec::new())?;
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
        let mut base = match file {
            None => self.base(&other, services, &place, open)?,
            Some(file) => self.base_of_file(&other, &file, &place, open)?,
        };
        open.pop();
        let mut later = found.clone();
        if let Shape::Map(keys) = &mut later.shape {
            keys.remove("extends");
        }
        laid_over(&mut base, later, "services")?;
        // Each service is a copy of what it extends.
        let left = self.budget.nodes.get().checked_sub(base.count());
        self.budget.nodes.set(left.ok_or(ComposeError::Large(place.file))?);
        Ok(base)
    }

    fn base(
        &self,
        name: &str,
        services: &Services,
        place: &Place,
        open: &mut Vec<(Arc<str>, String)>,
    ) -> Result<Node, ComposeError> {
        if !services.contains_key(name) {
            let (place, name) = (place.clone(), name.to_owned());
            return Err(ComposeError::NoService { place, name });
        }
        self.service(name, services, open)
    }

    fn base_of_file(
        &self,
        name: &str,
        file: &str,
        place: &Place,
        open: &mut Vec<(Arc<str>, String)>,
    ) -> Result<Node, ComposeError> {
        let text = self.read(place, &self.path(place, file))?;
        let mut tree = Node::empty_map(text.name.as_str().into());
        // What it names lies beside it; what it includes has no part in this.
        let beside = Site { folder: None, ..*self };
        for document in beside.documents(&text)? {
            merge::files(&mut tree, document)?;
        }
        let mut base = beside.base(name, &services(&tree)?, place, open)?;
        // Paths go out from the folder of their file.
        rebase::service(&mut base, folder_of(file));
        Ok(base)
    }
}

/// Lays a part of a file over the one that it changes; its marks stay, for files before.
fn laid_over(base: &mut Node, later: Node, section: &str) -> Result<(), ComposeError> {
    let marks = later.clone();
    merge::part(base, later, section)?;
    remark(base, &marks);
    Ok(())
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

/// Whether a file is said to lie on another machine.
fn is_elsewhere(path: &str) -> bool {
    path.contains("://") || path.starts_with("git@") || path.starts_with("github.com/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Node, String> {
        let texts: Vec<ComposeText> = files
            .iter()
            .filter(|(name, _)| !name.contains('/') && name.ends_with(".yaml"))
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
            ("include: x", "`include` is not a list"),
            ("include: [x]", "c.yaml:1: x: it is not there"),
            ("include: [c.yaml]", "includes itself"),
            ("include: [https://x.y/z]", "only files of this machine"),
            ("include: [{path: []}]", "`path` is not a file"),
            ("include: [{path: x, nope: y}]", "there is no key `nope`"),
            ("services: [a]", "`services` is not a mapping"),
            ("- a", "`the file` is not a mapping"),
            ("services: {a: {image: '${X:?gone}'}}", "c.yaml:1: the variable X has no value: gone"),
        ] {
            let error = load(&[("c.yaml", text)]).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn files_include_others() {
        let text = "include:\n  - sub/c.yaml\n  - {path: [sub/d.yaml, sub/e.yaml], env_file: e.env}\n\
                    services:\n  a: {image: own, build: {args: {O: 1}}}\n  gone: !reset\n  \
                    z: {extends: b}\n";
        let first = "include: [deeper/f.yaml]\n\
                     services:\n  a: {image: i, build: {context: x, args: [A=$D]}}\n  \
                     b: {build: ., environment: [D, N]}\n  gone: {image: i}\n\
                     secrets: {s: {file: s.txt}}\n";
        let files = [
            ("c.yaml", text),
            ("sub/c.yaml", first),
            ("sub/.env", "D=dot\nV=lost\n"),
            ("sub/deeper/f.yaml", "services: {f: {build: {context: y}, image: '$D$V'}}\n"),
            (
                "sub/d.yaml",
                "services: {d: {image: one, env_file: v, build: {context: /abs}}, h: {build: {target: t}}}\n",
            ),
            (
                "sub/e.yaml",
                "services: {d: {image: \"$E\"}, a: {image: late, build: {target: t}}}\n",
            ),
            ("e.env", "E=env\n"),
        ];
        for (name, expected) in [
            ("a", "{build:{args:[A=dot O=1] context:sub/x target:t} image:own}"),
            ("z", "{build:sub/. environment:[D=dot N]}"),
            ("f", "{build:{context:sub/deeper/y} image:dotvalue}"),
            ("h", "{build:{context:sub/. target:t}}"),
            ("d", "{build:{context:/abs} env_file:sub/v image:env}"),
        ] {
            assert_eq!(service(&files, name), expected, "{name}");
        }
        let tree = load(&files).unwrap();
        assert_eq!(shown(tree.get("secrets").unwrap()), "{s:{file:sub/s.txt}}");
        assert!(tree.get("services").unwrap().get("gone").is_none());
        assert!(tree.get("include").is_none());
        // Another folder is that of the project.
        let other = "include: [{path: sub/c.yaml, project_directory: p, env_file: /dev/null}]\n";
        let in_project = ("p/deeper/f.yaml", "services: {}\n");
        let files = [("c.yaml", other), files[1], in_project];
        assert_eq!(service(&files, "b"), "{build:p/. environment:[D N]}");
        let circle = [("c.yaml", "include: [x/a.yaml]\n"), ("x/a.yaml", "include: [a.yaml]\n")];
        assert!(load(&circle).unwrap_err().contains("x/a.yaml:1: x/a.yaml includes itself"));
    }

    #[test]
    fn what_grows_by_being_used_is_bounded() {
        let list = "x,".repeat(40_000);
        let many: String = (0..2000).map(|at| format!("  s{at}: {{extends: b}}\n")).collect();
        let extended = format!("services:\n  b: {{labels: [{list}]}}\n{many}");
        let nested: String = (0..90).map(|at| format!("&a{at} [")).collect();
        let anchors = format!("x: {nested}{list}{}\n", "]".repeat(90));
        let (long, once) = ("v".repeat(1 << 17), "a: $B\n".to_owned());
        let used: String = (0..1000).map(|at| format!("k{at}: $B\n")).collect();
        let read = |_: &str| Err("gone".to_owned());
        let variables = |name: &str| (name == "B").then(|| long.clone());
        let loader = Loader { variables: &variables, read: &read };
        for (text, is_fine) in [(extended, false), (anchors, false), (used, false), (once, true)] {
            let text = ComposeText { name: "c.yaml".to_owned(), text };
            let loaded = loader.load(&[text]);
            assert_eq!(loaded.is_ok(), is_fine, "{:?}", loaded.err());
        }
        let hosts: String = (0..40_000).map(|at| format!("h{at}:1,")).collect();
        let hosts = format!("services: {{a: {{image: i, extra_hosts: [{hosts}]}}}}\n");
        let file = |name: &str| ComposeText { name: name.to_owned(), text: hosts.clone() };
        assert!(loader.load(&[file("c.yaml"), file("d.yaml")]).is_ok());
    }
}
