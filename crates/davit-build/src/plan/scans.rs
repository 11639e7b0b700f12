//! What is looked at beside a result for its SBOM, and the image that looks.
//!
//! `BUILDKIT_SBOM_SCAN_STAGE` and `BUILDKIT_SBOM_SCAN_CONTEXT` name further file systems. A generator
//! is a step like any other: it sees the file systems below `/run/src` and writes to `/run/out`
//! (`BuildKit`'s protocol for SBOM generators).

use std::collections::BTreeMap;

use davit_dockerfile::{Security, Span, Variables as _};
use davit_image::Reference;

use super::{
    BindOrigin, ContextId, MakeDirectory, MountAccess, MountSource, Network, Node, NodeId, Op,
    RunMount, RunSpec,
    contexts::Place,
    planner::{Base, Planner},
    run::HOSTNAME,
    stage::stage_id,
};
use crate::{
    BaseImages, CachePolicy,
    error::{BuildError, BuildErrorKind},
    provenance::Sbom,
    request::ImageSource,
};

/// Arguments that name what is looked at.
const STAGES: &str = "BUILDKIT_SBOM_SCAN_STAGE";
const CONTEXT: &str = "BUILDKIT_SBOM_SCAN_CONTEXT";
/// Where a generator finds the result, and the others.
const SOURCE: &str = "/run/src/core/sbom";
const EXTRAS: &str = "/run/src/extras/";
/// Where a generator writes to, without leading `/`.
pub(crate) const DESTINATION: &str = "run/out";

/// What is looked at for the SBOM of a target, beside the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scans {
    /// Further file systems, by name.
    pub extras: BTreeMap<String, NodeId>,
    /// The step of the generator.
    pub generator: Option<NodeId>,
}

impl Scans {
    /// Whether nothing but the target's own layers is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same for nodes that have other numbers.
    pub(super) fn moved(self, moved: impl Fn(NodeId) -> NodeId) -> Self {
        let extras = self.extras.into_iter().map(|(name, node)| (name, moved(node)));
        Self { extras: extras.collect(), generator: self.generator.map(&moved) }
    }
}

impl Planner<'_> {
    /// Plans what the SBOM of a target needs.
    pub(super) fn scans(
        &mut self,
        target: usize,
        images: &dyn BaseImages,
    ) -> Result<Scans, BuildError> {
        let Some(sbom) = self.request.attest.sbom.clone() else { return Ok(Scans::default()) };
        let mut scans = Scans::default();
        for stage in 0..self.stages.len() {
            let Some(state) = &self.stages[stage] else { continue };
            if stage != target && self.is_scanned(stage, STAGES) {
                scans.extras.insert(self.stage_name(stage), state.node);
            }
        }
        if self.is_scanned(target, CONTEXT) {
            let node = match self.main_context(target, Span::default()) {
                Place::State(node) => node,
                Place::Context(_) => {
                    self.state_of(&Base::Context(ContextId::MAIN), target, Span::default())
                }
            };
            scans.extras.insert("context".to_owned(), node);
        }
        if let Some(generator) = &sbom.generator {
            let node = self.generator((generator, &sbom), target, (&scans, images))?;
            scans.generator = Some(node);
        }
        Ok(scans)
    }

    /// Whether an argument, of the stage or before the first `FROM`, names a stage.
    fn is_scanned(&self, stage: usize, argument: &str) -> bool {
        let state = self.stages[stage].as_ref();
        let own = state.and_then(|state| {
            let arguments = state.scope.arguments().iter().rev();
            arguments.filter(|(name, _)| name == argument).find_map(|(_, value)| value.clone())
        });
        let global = self.globals.variables().value(argument).map(str::to_owned);
        let given = || self.request.build_args.get(argument).cloned();
        let Some(value) = own.or(global).or_else(given) else { return false };
        match value.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            names => names.split(',').any(|name| name == self.stage_name(stage)),
        }
    }

    fn stage_name(&self, stage: usize) -> String {
        let name = self.dockerfile.stages[stage].name.as_ref();
        name.map_or_else(|| format!("stage-{stage}"), |name| name.text.to_ascii_lowercase())
    }

    /// Adds the step of a generator.
    fn generator(
        &mut self,
        (generator, sbom): (&Reference, &Sbom),
        target: usize,
        (scans, images): (&Scans, &dyn BaseImages),
    ) -> Result<NodeId, BuildError> {
        let platform = self.request.build_platform.clone();
        let source = ImageSource::Reference(generator.clone());
        let key = (source.clone(), platform.to_string());
        if !self.images.contains_key(&key) {
            let image = images.resolve(&source, &platform).map_err(|source| {
                let reference = generator.to_string();
                BuildError::new(BuildErrorKind::Base { reference, source })
            })?;
            self.images.insert(key.clone(), (image, None));
        }
        let config = self.images[&key].0.config.config.clone();
        let parts = [config.entrypoint, config.cmd].into_iter().flatten().flatten();
        let args: Vec<String> = parts.collect();
        if args.is_empty() {
            let message = format!("the generator {generator} has no command");
            return Err(BuildError::new(BuildErrorKind::Plan(message)));
        }
        let base = self.image_node(&key, stage_id(target), format!("[SBOM] FROM {generator}"));
        let make = MakeDirectory { path: DESTINATION.to_owned(), owner: None, epoch: self.epoch };
        let make = (Op::MakeDirectory(make), vec![base]);
        let directory = self.push_scan(make, target, format!("[SBOM] mkdir /{DESTINATION}"));
        let state = self.stages[target].as_ref().map(|state| state.node);
        let mut inputs = vec![directory];
        inputs.extend(state);
        inputs.extend(scans.extras.values());
        let mut env = config.env.unwrap_or_default();
        env.push(format!("BUILDKIT_SCAN_DESTINATION=/{DESTINATION}/"));
        env.push(format!("BUILDKIT_SCAN_SOURCE={SOURCE}"));
        if !scans.extras.is_empty() {
            env.push(format!("BUILDKIT_SCAN_SOURCE_EXTRAS={EXTRAS}"));
        }
        env.extend(sbom.parameters.iter().map(|(key, it)| format!("BUILDKIT_SCAN_{key}={it}")));
        let working_dir = config.working_dir;
        let spec = RunSpec {
            args,
            env,
            proxy_env: Vec::new(),
            working_dir: if working_dir.is_empty() { "/".to_owned() } else { working_dir },
            user: String::new(),
            network: Network::Default,
            hostname: HOSTNAME.to_owned(),
            security: Security::Sandbox,
            mounts: mounts(scans),
            devices: Vec::new(),
            secrets: Vec::new(),
            shm_size_bytes: self.request.sandbox.shm_size_bytes,
            ulimits: self.request.sandbox.ulimits.clone(),
            cgroup_parent: self.request.sandbox.cgroup_parent.clone(),
            scripts: Vec::new(),
            hosts: Vec::new(),
            platform,
        };
        let name = format!("[{}] generating SBOM by {generator}", self.request.platform);
        Ok(self.push_scan((Op::Run(spec), inputs), target, name))
    }

    fn push_scan(&mut self, (op, inputs): (Op, Vec<NodeId>), stage: usize, name: String) -> NodeId {
        let (stage, cache) = (stage_id(stage), CachePolicy::Use);
        self.push(Node { op, inputs, stage, name, span: None, cache })
    }
}

/// The file systems that a generator sees, parents before their children.
fn mounts(scans: &Scans) -> Vec<RunMount> {
    let bind = |target: String, input| {
        let (origin, access) = (BindOrigin::Input(input), MountAccess::ReadOnly);
        RunMount { target, source: MountSource::Bind { origin, path: String::new(), access } }
    };
    let mut mounts = vec![bind(SOURCE.to_owned(), 1)];
    let extras = scans.extras.keys().enumerate();
    mounts.extend(extras.map(|(at, name)| bind(format!("{EXTRAS}sbom-{name}"), at + 2)));
    let access = MountAccess::ReadWrite;
    let source = MountSource::Tmpfs { size_bytes: None, access };
    mounts.push(RunMount { target: "/tmp".to_owned(), source });
    mounts
}
