//! The steps of a build in the words of `BuildKit`'s build definitions, which tools read.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{ProvenanceStep, Shown, StepLayers, context_name};
use crate::{
    BuildRequest, Squash,
    plan::{
        BindOrigin, ContextId, CopyOrigin, CopySpec, MakeDirectory, MountAccess, MountSource,
        Network, Node, NodeId, Op, Ownership, Plan, RunSpec,
    },
};
use davit_dockerfile::Security;

/// The steps of these nodes of a plan, which make `state`; what is read of contexts are steps of their
/// own.
pub(super) fn of(
    (request, plan): (&BuildRequest, &Plan),
    (needed, state): (&[NodeId], NodeId),
    shown: &Shown,
) -> Vec<ProvenanceStep> {
    let mut steps = Steps {
        request,
        plan,
        shown,
        heights: heights(request, plan, state),
        steps: Vec::new(),
        ids: BTreeMap::new(),
        contexts: BTreeMap::new(),
    };
    for id in needed {
        steps.add(*id);
    }
    let last = needed.last().and_then(|id| steps.ids.get(id)).cloned();
    // What the result is.
    let inputs = last.into_iter().collect();
    steps.push(inputs, json!({"Op": {}}), None, StepLayers::default());
    steps.steps
}

/// Up to which of the image's layers the states go that it consists of.
fn heights(request: &BuildRequest, plan: &Plan, state: NodeId) -> BTreeMap<NodeId, usize> {
    let (mut path, mut next) = (Vec::new(), Some(state));
    while let Some(id) = next {
        path.push(id);
        next = plan.node(id).inputs.first().copied().filter(|_| adds_layer(plan.node(id)));
    }
    let mut height = 0;
    let mut heights = BTreeMap::new();
    for id in path.into_iter().rev() {
        let node = plan.node(id);
        let is_kept = match &node.op {
            Op::Image(image) => {
                height = image.config.rootfs.diff_ids.len();
                request.squash != Squash::All
            }
            _ => {
                height += usize::from(adds_layer(node));
                // Merged layers are no step's.
                request.squash == Squash::Nothing
            }
        };
        heights.extend((is_kept && height > 0).then_some((id, height)));
    }
    heights
}

/// Whether a state is another one and a layer.
const fn adds_layer(node: &Node) -> bool {
    matches!(node.op, Op::Run(_) | Op::Copy(_) | Op::MakeDirectory(_))
}

struct Steps<'a> {
    request: &'a BuildRequest,
    plan: &'a Plan,
    shown: &'a Shown,
    steps: Vec<ProvenanceStep>,
    /// Under which names nodes are read; the empty file system has none.
    ids: BTreeMap<NodeId, String>,
    contexts: BTreeMap<ContextId, String>,
    /// How many of the image's layers states consist of.
    heights: BTreeMap<NodeId, usize>,
}

impl Steps<'_> {
    fn push(
        &mut self,
        inputs: Vec<String>,
        op: Value,
        lines: Option<(u32, u32)>,
        layers: StepLayers,
    ) -> String {
        let id = format!("step{}", self.steps.len());
        let name = format!("{id}:0");
        self.steps.push(ProvenanceStep { id, inputs, op, lines, layers });
        name
    }

    fn add(&mut self, id: NodeId) {
        let node = self.plan.node(id);
        for context in super::contexts(node) {
            self.context(context);
        }
        let mut inputs: Vec<String> =
            node.inputs.iter().filter_map(|input| self.ids.get(input).cloned()).collect();
        inputs.extend(super::contexts(node).iter().map(|it| self.contexts[it].clone()));
        let platform = |op: Value, platform: &davit_image::Platform| json!({"Op": op, "platform": platform_of(platform), "constraints": {}});
        let op = match &node.op {
            Op::Scratch => return,
            Op::Image(image) => {
                let identifier = match image.name.strip_prefix("oci-layout://") {
                    Some(path) => {
                        let name = path.rsplit('/').next().unwrap_or_default();
                        format!("oci-layout://{name}@{}", image.manifest)
                    }
                    None => format!("docker-image://{}@{}", image.name, image.manifest),
                };
                let identifier = self.shown.text(&identifier);
                platform(json!({"source": {"identifier": identifier}}), &image.config.platform())
            }
            Op::Source(source) => {
                let identifier = match source {
                    crate::RemoteSource::Http(_) => source.to_string(),
                    crate::RemoteSource::Git(_) => {
                        let address = source.to_string();
                        let path = address.split_once("://").map_or(&*address, |(_, path)| path);
                        format!("git://{path}")
                    }
                };
                json!({"Op": {"source": {"identifier": self.shown.text(&identifier)}}, "constraints": {}})
            }
            Op::Run(run) => platform(json!({"exec": self.exec(node, run)}), &run.platform),
            Op::Copy(copy) => {
                json!({"Op": {"file": {"actions": self.copies(copy)}}, "constraints": {}})
            }
            Op::MakeDirectory(make) => {
                json!({"Op": {"file": {"actions": [self.directory(make)]}}, "constraints": {}})
            }
        };
        let lines = node.span.map(|span| (span.first_line, span.last_line));
        let of_base = match &node.op {
            Op::Image(image) => Some(image.manifest),
            _ => None,
        };
        let layers = StepLayers { of_image: self.heights.get(&id).copied(), of_base };
        let name = self.push(inputs, op, lines, layers);
        self.ids.insert(id, name);
    }

    fn context(&mut self, context: ContextId) {
        if self.contexts.contains_key(&context) {
            return;
        }
        let identifier = format!("local://{}", context_name(self.request, context));
        let op = json!({"Op": {"source": {"identifier": identifier}}, "constraints": {}});
        let name = self.push(Vec::new(), op, None, StepLayers::default());
        self.contexts.insert(context, name);
    }

    fn exec(&self, node: &Node, run: &RunSpec) -> Value {
        let shown = |texts: &[String]| -> Vec<String> {
            texts.iter().map(|text| self.shown.text(text)).collect()
        };
        let mut exec = json!({
            "meta": {"args": shown(&run.args), "env": shown(&run.env), "cwd": run.working_dir},
            "mounts": self.mounts(node, run),
        });
        if !run.user.is_empty() {
            exec["meta"]["user"] = json!(run.user);
        }
        // Numbers, as in the definitions: 0, the usual one, is left out.
        match run.network {
            // The container, or network, is of this machine alone.
            Network::Default | Network::Container(_) | Network::Named(_) => {}
            Network::Host => exec["network"] = json!(1),
            Network::None => exec["network"] = json!(2),
        }
        if run.security == Security::Insecure {
            exec["security"] = json!(1);
        }
        let secrets = run.secrets.iter();
        let secrets: Vec<Value> = secrets
            .map(|it| json!({"ID": it.id, "name": it.name, "optional": !it.required}))
            .collect();
        if !secrets.is_empty() {
            exec["secretenv"] = json!(secrets);
        }
        exec
    }

    fn mounts(&self, node: &Node, run: &RunSpec) -> Vec<Value> {
        let root = json!({"dest": "/", "output": 0, "input": 0});
        let rest = run.mounts.iter().map(|mount| {
            let mut fields = Map::new();
            let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
            set("dest", json!(mount.target));
            match &mount.source {
                MountSource::Bind { origin, path, access } => {
                    let input = match origin {
                        BindOrigin::Input(number) => {
                            node.inputs.get(*number).and_then(|it| self.ids.get(it))
                        }
                        BindOrigin::Context(context) => self.contexts.get(context),
                    };
                    set("input", json!(input));
                    set("selector", json!(format!("/{path}")));
                    set("readonly", json!(*access == MountAccess::ReadOnly));
                }
                // Where it lies is nobody's business.
                MountSource::Volume { .. } => drop(set("mountType", json!(0))),
                MountSource::Cache(cache) => {
                    set("mountType", json!(3));
                    set("cacheOpt", json!({"ID": self.shown.text(&cache.name)}));
                }
                MountSource::Tmpfs { .. } => drop(set("mountType", json!(4))),
                MountSource::Secret(secret) => {
                    set("mountType", json!(1));
                    set("secretOpt", json!({"ID": secret.id, "optional": !secret.required}));
                }
                MountSource::Agent(agent) => {
                    set("mountType", json!(2));
                    set("SSHOpt", json!({"ID": agent.id, "optional": !agent.required}));
                }
            }
            Value::Object(fields)
        });
        std::iter::once(root).chain(rest).collect()
    }

    fn copies(&self, copy: &CopySpec) -> Vec<Value> {
        let is_named = copy.destination.directory && !copy.destination.path.is_empty();
        let slash = if is_named { "/" } else { "" };
        let destination = format!("/{}{slash}", copy.destination.path);
        let inline = copy.files.iter().map(|file| {
            let name = if copy.destination.directory { &*file.name } else { "" };
            let path = format!("{destination}{name}");
            json!({"Action": {"mkfile": {
                "path": path, "data": base64(self.shown.bytes(file.content.as_bytes())),
            }}})
        });
        let attributes = |source: &str| {
            let mut fields = Map::new();
            let mut set = |key: &str, value: Value| fields.insert(key.to_owned(), value);
            set("src", json!(format!("/{source}")));
            set("dest", json!(destination));
            if let Some(Ownership(owner)) = &copy.owner {
                set("owner", json!(owner));
            }
            if let Some(mode) = &copy.mode {
                set("modeStr", json!(mode));
            }
            if !copy.exclude.is_empty() {
                set("excludePatterns", json!(copy.exclude));
            }
            json!({"Action": {"copy": fields}})
        };
        let mut actions: Vec<Value> = inline.collect();
        if copy.origin == CopyOrigin::Input || !copy.sources.is_empty() {
            actions.extend(copy.sources.iter().map(|source| attributes(source)));
        }
        let remotes = copy.remotes.iter().flat_map(|remote| &remote.spec.sources);
        actions.extend(remotes.map(|source| attributes(&self.shown.text(source))));
        actions
    }

    fn directory(&self, make: &MakeDirectory) -> Value {
        let mut action = json!({"path": format!("/{}", make.path), "makeParents": true});
        if let Some(Ownership(owner)) = &make.owner {
            action["owner"] = json!(self.shown.text(owner));
        }
        json!({"Action": {"mkdir": action}})
    }
}

fn base64(bytes: Vec<u8>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}

fn platform_of(platform: &davit_image::Platform) -> Value {
    let mut fields = json!({"Architecture": platform.architecture, "OS": platform.os});
    if let Some(variant) = &platform.variant {
        fields["Variant"] = json!(variant);
    }
    fields
}
