//! Which variables are known where: `ARG` and `ENV`.
//!
//! ```text
//! GlobalScope   platform arguments, then ARGs before the first FROM      -> FROM lines
//! StageScope    environment of the base, then ARG and ENV in order       -> the stage's words
//! ```
//!
//! The build-time environment of a stage is one list in which the last writer wins, `ARG` or `ENV`.
//! Only `ENV` reaches the image.

use std::collections::{BTreeMap, BTreeSet};

use davit_image::Platform;

use crate::{
    ArgDefinition, ExpandError, Expanded, KeyValue, Lexer, VariableList, Variables, error::nearest,
};

/// Arguments that the builder itself reads and no command sees.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Names that reach `RUN` from build arguments without an `ARG`, in both cases, and are neither
/// part of its key nor of the history unless an `ARG` declares them.
const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// What is told of each of the two platforms, behind `BUILD` and `TARGET`.
const PLATFORM_FACTS: [&str; 5] = ["PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT"];

/// Names that mean something to the builder itself.
const SPECIAL: [&str; 11] = [
    "BUILDKIT_SYNTAX",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_MULTI_PLATFORM",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_SBOM_SCAN_CONTEXT",
    "BUILDKIT_SBOM_SCAN_STAGE",
    "SOURCE_DATE_EPOCH",
];

/// Whether a build argument has a meaning without an `ARG` that declares it.
#[must_use]
pub fn is_predefined(name: &str) -> bool {
    SPECIAL.contains(&name) || PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// Whether an argument tells of a platform or of the target.
pub(crate) fn is_automatic(name: &str) -> bool {
    let fact = ["BUILD", "TARGET"].iter().find_map(|side| name.strip_prefix(side));
    name == "TARGETSTAGE" || fact.is_some_and(|fact| PLATFORM_FACTS.contains(&fact))
}

/// Values of `--build-arg`.
pub type BuildArguments = BTreeMap<String, String>;

/// The proxy settings among the build arguments, each under its upper- and its lower-case name.
///
/// Of arguments that differ in case alone the last one in byte order wins.
#[must_use]
pub fn proxy_variables(given: &BuildArguments) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for proxy in PROXIES {
        let last = given.iter().rfind(|(name, _)| name.eq_ignore_ascii_case(proxy));
        if let Some((_, value)) = last.filter(|(_, value)| !value.is_empty()) {
            variables.push((proxy.to_owned(), value.clone()));
            variables.push((proxy.to_ascii_lowercase(), value.clone()));
        }
    }
    variables
}

/// What is known in `FROM` lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GlobalScope {
    variables: VariableList,
    declared: BTreeSet<String>,
}

impl GlobalScope {
    /// Starts with the automatic arguments; build arguments override them.
    ///
    /// `stage` is the name of the target stage, `None` for one without a name.
    #[must_use]
    pub fn new(
        build: &Platform,
        target: &Platform,
        stage: Option<&str>,
        given: &BuildArguments,
    ) -> Self {
        let mut scope = Self::default();
        for (side, platform) in [("BUILD", build), ("TARGET", target)] {
            let version = platform.os_version.as_deref().unwrap_or_default();
            let whole = match version {
                "" => platform.to_string(),
                _ if side == "BUILD" => platform.to_string(),
                _ => with_version(platform, version),
            };
            let variant = platform.variant.as_deref().unwrap_or_default();
            let values = [&*whole, &platform.os, version, &platform.architecture, variant];
            for (name, value) in PLATFORM_FACTS.into_iter().zip(values) {
                scope.set_automatic(&format!("{side}{name}"), value, given);
            }
        }
        scope.set_automatic("TARGETSTAGE", stage.unwrap_or("default"), given);
        scope
    }

    fn set_automatic(&mut self, name: &str, value: &str, given: &BuildArguments) {
        self.variables.set(name, given.get(name).map_or(value, String::as_str));
    }

    /// Takes one argument of an `ARG` before the first `FROM`.
    ///
    /// # Errors
    /// If its name, or a default that is needed, cannot be expanded.
    pub fn declare(
        &mut self,
        definition: &ArgDefinition,
        lexer: &Lexer,
        given: &BuildArguments,
    ) -> Result<(), ExpandError> {
        let name = lexer.word(&definition.name.text, &self.variables)?.text;
        let value = match (given.get(&name), &definition.default) {
            (Some(value), _) => value.clone(),
            (None, Some(default)) => lexer.word(&default.text, &self.variables)?.text,
            (None, None) => {
                self.declared.insert(name);
                return Ok(());
            }
        };
        self.variables.set(&name, &value);
        self.declared.insert(name);
        Ok(())
    }

    /// The variables that `FROM` lines see.
    #[must_use]
    pub fn variables(&self) -> &VariableList {
        &self.variables
    }

    /// The names that an `ARG` declared so far.
    pub fn declared(&self) -> impl Iterator<Item = &str> {
        self.declared.iter().map(String::as_str)
    }

    /// Of variables that a `FROM` line used and that are not set, those that no `ARG` declares.
    pub fn undefined<'n>(&self, unmatched: &'n BTreeSet<String>) -> impl Iterator<Item = &'n str> {
        let known =
            |name: &&str| self.declared.contains(*name) || self.variables.value(name).is_some();
        unmatched.iter().map(String::as_str).filter(move |name| !known(name))
    }

    /// The name nearest to `name` that a `FROM` line may use.
    #[must_use]
    pub fn suggest(&self, name: &str) -> Option<&str> {
        nearest(name, self.variables.names().chain(self.declared.iter().map(String::as_str)))
    }
}

fn with_version(platform: &Platform, version: &str) -> String {
    let text = platform.to_string();
    match text.split_once('/') {
        Some((os, rest)) => format!("{os}({version})/{rest}"),
        None => text,
    }
}

/// What is known within a stage, at one point of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StageScope {
    variables: VariableList,
    arguments: Vec<(String, Option<String>)>,
    declared: BTreeSet<String>,
}

/// What an `ARG` came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its value; `None` where it is declared and nothing gives it one.
    pub value: Option<String>,
    /// Variables that its default used and that are not set.
    pub unmatched: BTreeSet<String>,
}

impl StageScope {
    /// Starts with the environment of a base image (`NAME=value` entries).
    #[must_use]
    pub fn new<'a>(environment: impl IntoIterator<Item = &'a str>) -> Self {
        Self { variables: VariableList::from_entries(environment), ..Self::default() }
    }

    /// Starts a stage built upon this one at its end: arguments are inherited, and the image's
    /// `environment` is set anew, so that it wins over an `ARG` of the parent.
    #[must_use]
    pub fn child<'a>(&self, environment: impl IntoIterator<Item = &'a str>) -> Self {
        let mut child = self.clone();
        for entry in environment {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            child.variables.set(name, value);
        }
        child
    }

    /// As [`Self::child`], in its parent's place.
    pub(crate) fn inherit(&mut self, environment: &VariableList) {
        environment.iter().for_each(|(name, value)| self.variables.set(name, value));
    }

    /// The variables that words see now.
    #[must_use]
    pub fn variables(&self) -> &VariableList {
        &self.variables
    }

    /// The arguments declared so far, with the value each had when it was declared.
    #[must_use]
    pub fn arguments(&self) -> &[(String, Option<String>)] {
        &self.arguments
    }

    /// Expands the pairs of an `ENV` or `LABEL`: all see the variables from before it.
    ///
    /// # Errors
    /// If a name or a value cannot be expanded.
    pub fn expand_pairs(
        &self,
        pairs: &[KeyValue],
        lexer: &Lexer,
    ) -> Result<Vec<(Expanded, Expanded)>, ExpandError> {
        pairs
            .iter()
            .map(|pair| {
                let key = lexer.word(&pair.key.text, &self.variables)?;
                Ok((key, lexer.word(&pair.value.text, &self.variables)?))
            })
            .collect()
    }

    /// Sets a variable, as `ENV` does.
    pub fn set(&mut self, name: &str, value: &str) {
        self.variables.set(name, value);
    }

    /// Declares one argument of an `ARG`; the next one of the same `ARG` sees it.
    ///
    /// Its value is the build argument, else its default, else the value that the global scope
    /// has for it.
    ///
    /// # Errors
    /// If the default is needed and cannot be expanded.
    pub fn declare(
        &mut self,
        definition: &ArgDefinition,
        global: &GlobalScope,
        given: &BuildArguments,
        lexer: &Lexer,
    ) -> Result<Argument, ExpandError> {
        let name = lexer.word(&definition.name.text, &self.variables)?.text;
        let mut argument = Argument { name, ..Argument::default() };
        argument.value = match (given.get(&argument.name), &definition.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => {
                let expanded = lexer.word(&default.text, &self.variables)?;
                argument.unmatched = expanded.unmatched;
                Some(expanded.text)
            }
            (None, None) => global.variables.value(&argument.name).map(str::to_owned),
        };
        if let Some(value) = &argument.value
            && !NO_VARIABLES.contains(&argument.name.as_str())
        {
            self.variables.set(&argument.name, value);
        }
        self.declared.insert(argument.name.clone());
        self.arguments.push((argument.name.clone(), argument.value.clone()));
        Ok(argument)
    }

    /// Whether an `ARG` so far declares `name`.
    pub(crate) fn declares(&self, name: &str) -> bool {
        self.declared.contains(name)
    }

    /// Of variables that were used and are not set, those that no `ARG` declares.
    pub fn undefined<'n>(&self, unmatched: &'n BTreeSet<String>) -> impl Iterator<Item = &'n str> {
        let known = |name: &&str| self.declared.contains(*name) || NO_VARIABLES.contains(name);
        unmatched.iter().map(String::as_str).filter(move |name| !known(name))
    }

    /// The variable with the name nearest to `name`.
    #[must_use]
    pub fn suggest(&self, name: &str) -> Option<&str> {
        nearest(name, self.variables.names())
    }

    /// The declared arguments as the history of a `RUN` names them, each once with the value it has
    /// now: `NAME=value`.
    #[must_use]
    pub fn history_arguments(&self) -> Vec<String> {
        let mut names: Vec<&str> = Vec::new();
        let mut values: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, declared) in &self.arguments {
            let declared = declared.as_deref().unwrap_or_default();
            if values.insert(name, self.variables.value(name).unwrap_or(declared)).is_none() {
                names.push(name);
            }
        }
        names.iter().map(|name| format!("{name}={}", values[name])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dockerfile, Kind};

    fn given(pairs: &[(&str, &str)]) -> BuildArguments {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn global(file: &Dockerfile, given: &BuildArguments) -> GlobalScope {
        let (build, target) = (Platform::new("linux", "amd64"), "linux/arm/v6".parse().unwrap());
        let mut scope = GlobalScope::new(&build, &target, None, given);
        for instruction in &file.global_args {
            let Kind::Arg(definitions) = &instruction.kind else { continue };
            for definition in definitions {
                scope.declare(definition, &Lexer::default(), given).unwrap();
            }
        }
        scope
    }

    /// Runs `ARG` and `ENV` of the first stage and returns its scope.
    fn stage(text: &str, given: &BuildArguments) -> StageScope {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let global = global(&file, given);
        let mut scope = StageScope::new(["BASE=image"]);
        for instruction in &file.stages[0].instructions {
            match &instruction.kind {
                Kind::Arg(definitions) => {
                    for definition in definitions {
                        scope.declare(definition, &global, given, &Lexer::default()).unwrap();
                    }
                }
                Kind::Env(pairs) => {
                    for (name, value) in scope.expand_pairs(pairs, &Lexer::default()).unwrap() {
                        scope.set(&name.text, &value.text);
                    }
                }
                _ => panic!("{instruction:?}"),
            }
        }
        scope
    }

    #[test]
    fn knows_the_platforms() {
        let file = Dockerfile::parse(b"FROM x").unwrap();
        let scope = global(&file, &given(&[("TARGETOS", "plan9")]));
        for (name, value) in [
            ("BUILDPLATFORM", "linux/amd64"),
            ("BUILDVARIANT", ""),
            ("TARGETPLATFORM", "linux/arm/v6"),
            ("TARGETARCH", "arm"),
            ("TARGETVARIANT", "v6"),
            ("TARGETOS", "plan9"),
            ("TARGETSTAGE", "default"),
        ] {
            assert_eq!(scope.variables().value(name), Some(value), "{name}");
        }
    }

    #[test]
    fn declares_global_arguments_in_order() {
        let file = Dockerfile::parse(b"ARG A=1\nARG B=$A-x C=${B}y D\nARG A=2$A\nFROM x").unwrap();
        let scope = global(&file, &given(&[("B", "given")]));
        let values: Vec<_> =
            ["A", "B", "C", "D"].into_iter().map(|name| scope.variables().value(name)).collect();
        assert_eq!(values, [Some("21"), Some("given"), Some("giveny"), None]);
        let used = Lexer::default().word("$D $DD $TARGETARHC", scope.variables()).unwrap();
        let undefined = scope.undefined(&used.unmatched);
        let found: Vec<_> = undefined.map(|name| (name, scope.suggest(name))).collect();
        assert_eq!(found, [("DD", None), ("TARGETARHC", Some("TARGETARCH"))]);
    }

    #[test]
    fn lets_the_last_writer_win() {
        for (text, arguments, name, value) in [
            ("FROM x\nARG V=d", &[][..], "V", Some("d")),
            ("FROM x\nARG V=d", &[("V", "g")], "V", Some("g")),
            ("FROM x\nARG V", &[], "V", None),
            ("FROM x\nARG V", &[("V", "g")], "V", Some("g")),
            ("ARG V=global\nFROM x\nARG V", &[], "V", Some("global")),
            ("ARG V=global\nFROM x\nARG V=d", &[], "V", Some("d")),
            ("ARG V=global\nFROM x\nENV W=$V", &[], "W", Some("")),
            ("FROM x\nENV V=e\nARG V=a", &[], "V", Some("a")),
            ("FROM x\nARG V=a\nENV V=e", &[("V", "g")], "V", Some("e")),
            ("FROM x\nENV V=e\nARG V", &[], "V", Some("e")),
            ("FROM x\nARG A=1 B=${A}2", &[], "B", Some("12")),
            ("FROM x\nENV A=old\nENV A=new B=$A", &[], "B", Some("old")),
            ("FROM x\nARG TARGETARCH", &[], "TARGETARCH", Some("arm")),
            ("FROM x\nENV $BASE=1", &[], "image", Some("1")),
            ("FROM x\nARG BUILDKIT_SBOM_SCAN_STAGE=true", &[], "BUILDKIT_SBOM_SCAN_STAGE", None),
        ] {
            let scope = stage(text, &given(arguments));
            assert_eq!(scope.variables().value(name), value, "{text}");
        }
    }

    #[test]
    fn hands_arguments_to_children() {
        let parent = stage("FROM x\nENV V=e\nARG V=a\nARG W=b", &given(&[]));
        let child = parent.child(["V=e"]);
        assert_eq!(child.variables().value("V"), Some("e"));
        assert_eq!(child.variables().value("W"), Some("b"));
        assert_eq!(child.history_arguments(), ["V=e", "W=b"]);
        let unmatched = BTreeSet::from(["X".to_owned(), "W".to_owned()]);
        assert_eq!(child.undefined(&unmatched).collect::<Vec<_>>(), ["X"]);
    }

    #[test]
    fn names_arguments_once_in_the_history() {
        let scope = stage("FROM x\nARG A=1\nARG B\nARG A=2\nENV B=env", &given(&[]));
        assert_eq!(scope.history_arguments(), ["A=2", "B=env"]);
    }

    #[test]
    fn passes_proxies() {
        let variables =
            proxy_variables(&given(&[("http_proxy", "a"), ("NO_PROXY", ""), ("X", "b")]));
        let expected = [("HTTP_PROXY", "a"), ("http_proxy", "a")];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
