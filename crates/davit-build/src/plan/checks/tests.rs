//! Cases as data: `tests/checks/*.cases`.
//!
//! A case begins with `=== name`. Lines `%% arg NAME=VALUE`, `%% target NAME`, `%% ignore PATTERN`
//! and `%% image NAME FACT` say what surrounds the Dockerfile that follows; `--- ` and what is found
//! end it: `Rule:line` or `Rule:first-last` in order of their names, and `error` where the file
//! cannot be built. Rules and lines are those that the frontend 1.26 gives, but where a line
//! `%% differs REASON` says why not.

use std::{collections::BTreeMap, error::Error, fmt::Write as _};

use davit_dockerfile::{Dockerfile, Patterns, lint::Warning};
use davit_image::{DiffId, Digest, ImageConfig, Platform};

use crate::{
    BaseImage, BaseImages, BuildRequest, CachePolicy, ContextSource, DockerfilePlace,
    DockerfileText, ImageSource, Network, Sandbox, plan::planner::Planner,
};

const BOOKS: [&str; 5] = [
    include_str!("../../../tests/checks/text.cases"),
    include_str!("../../../tests/checks/bases.cases"),
    include_str!("../../../tests/checks/variables.cases"),
    include_str!("../../../tests/checks/instructions.cases"),
    include_str!("../../../tests/checks/options.cases"),
];

#[derive(Debug, Default)]
struct Case {
    text: String,
    args: BTreeMap<String, String>,
    target: Option<String>,
    ignore: Vec<String>,
    images: BTreeMap<String, ImageConfig>,
}

impl Case {
    fn read(&mut self, line: &str) {
        let Some(fact) = line.strip_prefix("%% ") else { return self.text.push_str(line) };
        let (kind, fact) = fact.trim_end().split_once(' ').unwrap();
        match kind {
            "arg" => {
                let (name, value) = fact.split_once('=').unwrap();
                self.args.insert(name.to_owned(), value.to_owned());
            }
            "target" => self.target = Some(fact.to_owned()),
            // Why the frontend finds something else.
            "differs" => {}
            "ignore" => self.ignore.push(fact.to_owned()),
            "image" => {
                let (name, fact) = fact.split_once(' ').unwrap();
                self.images.insert(name.to_owned(), image(fact));
            }
            _ => panic!("{line}"),
        }
    }

    fn request(&self) -> BuildRequest {
        let platform: Platform = "linux/amd64".parse().unwrap();
        BuildRequest {
            dockerfile: DockerfileText {
                name: "Dockerfile".to_owned(),
                bytes: self.text.clone().into_bytes(),
                place: DockerfilePlace::Given,
                ignore: None,
            },
            context: ContextSource::Empty,
            named_contexts: Vec::new(),
            target: self.target.clone(),
            build_args: self.args.clone(),
            labels: BTreeMap::new(),
            platform: platform.clone(),
            more_platforms: Vec::new(),
            build_platform: platform,
            network: Network::Default,
            cache: CachePolicy::Use,
            no_cache_stages: Vec::new(),
            no_cache_from: Vec::new(),
            cache_mounts: CachePolicy::Use,
            context_modes: crate::ContextModes::AsTheyAre,
            cache_ttl: None,
            source_date_epoch: None,
            rewrite_timestamp: false,
            repeat: crate::Repeat::Never,
            squash: crate::Squash::Nothing,
            add_hosts: Vec::new(),
            sandbox: Sandbox::default(),
            attest: crate::Attest::default(),
            explain: false,
            jobs: 0,
        }
    }

    /// What is found, as the books have it.
    fn found(&self) -> String {
        let request = self.request();
        let file = match Dockerfile::parse(&request.dockerfile.bytes) {
            Ok(file) => file,
            Err(error) => return format!("no Dockerfile: {error}"),
        };
        let Ok(mut planner) = Planner::new(&request, &file) else { return "refused".to_owned() };
        let ignore = Patterns::new(
            self.ignore.iter().map(|pattern| pattern.strip_prefix('/').unwrap_or(pattern)),
        );
        let checked = planner.check(&Images(&self.images), Some(&ignore.unwrap()));
        let checked = checked.and_then(|()| planner.refuse_found());
        let warnings = planner.found();
        let mut words: Vec<String> = warnings.iter().map(word).collect();
        words.sort_by_key(|word| {
            let (rule, lines) = word.split_once(':').unwrap();
            let line = lines.split('-').next().unwrap().parse::<u32>().unwrap();
            (rule.to_owned(), line)
        });
        words.dedup();
        if checked.is_err() {
            words.push("error".to_owned());
        }
        if words.is_empty() { "none".to_owned() } else { words.join(" ") }
    }
}

fn word(warning: &Warning) -> String {
    let span = warning.span;
    let mut word = format!("{}:{}", warning.rule, span.first_line);
    if span.last_line != span.first_line {
        write!(word, "-{}", span.last_line).unwrap();
    }
    word
}

fn image(fact: &str) -> ImageConfig {
    let mut config = ImageConfig::new(&"linux/amd64".parse().unwrap());
    match fact.split_once([':', '=']) {
        Some(("platform", platform)) => {
            config = ImageConfig::new(&platform.parse().unwrap());
            config.rootfs.diff_ids.push(DiffId::new(Digest::of(b"layer")));
        }
        Some(("onbuild", trigger)) => config.config.on_build = Some(vec![trigger.to_owned()]),
        Some(_) => config.config.env = Some(vec![fact.to_owned()]),
        None if fact == "shell" => config.config.shell = Some(vec!["/x".to_owned()]),
        None => config.config.working_dir = "/x".to_owned(),
    }
    config
}

struct Images<'a>(&'a BTreeMap<String, ImageConfig>);

impl BaseImages for Images<'_> {
    fn resolve(
        &self,
        image: &ImageSource,
        _platform: &Platform,
    ) -> Result<BaseImage, Box<dyn Error + Send + Sync>> {
        let ImageSource::Reference(reference) = image else { return Err("it is a layout".into()) };
        let name = reference.repository().path().rsplit('/').next().unwrap();
        let config = self.0.get(name).ok_or("there is no such image")?.clone();
        Ok(BaseImage { name: name.to_owned(), manifest: Digest::of(name.as_bytes()), config })
    }
}

#[test]
fn rules_and_lines_are_the_frontends() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for book in BOOKS {
        let mut case = Case::default();
        let mut name = "";
        for line in book.split_inclusive('\n') {
            if let Some(head) = line.strip_prefix("=== ") {
                (name, case) = (head.trim_end(), Case::default());
            } else if let Some(expected) = line.strip_prefix("--- ") {
                count += 1;
                let (found, expected) = (case.found(), expected.trim_end());
                if found != expected {
                    wrong.push(format!("{name}:\n  found    {found}\n  expected {expected}"));
                }
            } else {
                case.read(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 200, "{count}");
}

/// A warning underlines the very part that it speaks of.
#[test]
fn a_warning_points_at_the_word() {
    for (text, underlined) in [
        ("FROM scratch AS Big\n", "Big"),
        ("FROM scratch\nCOPY a \\\n  # c\n  x${NONE} /y/\n", "${NONE}"),
        ("FROM scratch\nCOPY <<E /x\none\n$NONE\nE\n", "$NONE"),
        ("FROM scratch\nrun x\nRUN y\n", "run"),
        ("FROM scratch\nENV A=1 TOKEN=2\n", "TOKEN"),
        ("FROM scratch\nCMD  run it\n", "run it"),
        ("FROM --platform=$TARGETPLATFORM scratch\n", "--platform=$TARGETPLATFORM"),
        ("FROM scratch\nEXPOSE 1 80/TCP\n", "80/TCP"),
        ("FROM ${A:-scratch}\n", "${A"),
    ] {
        let case = Case { text: text.to_owned(), ..Case::default() };
        let request = case.request();
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        let mut planner = Planner::new(&request, &file).unwrap();
        drop(planner.check(&Images(&case.images), None));
        let found = planner.found();
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let part = found[0].focus.text(text.as_bytes());
        assert_eq!(String::from_utf8_lossy(part), underlined, "{text}");
    }
}
