//! The definition key of a `RUN`.

use davit_dockerfile::Security;

use super::{list, selected};
use crate::{
    copy::{Keeps, selection_key},
    files::FileSet,
    inputs::Inputs,
    key::KeyBuilder,
    plan::{BindOrigin, ClientMount, MountAccess, MountSource, RunSpec, run::HOSTNAME},
};

/// Everything that a command depends on but the states that it reads.
pub(super) fn components(spec: &RunSpec, inputs: &Inputs) -> KeyBuilder {
    let mut key = KeyBuilder::new("run");
    key.push("command", list(&spec.args));
    for variable in &spec.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        key.push(format!("variable {name}"), value);
    }
    key.push("working directory", &spec.working_dir);
    key.push("user", &spec.user);
    key.push("network", spec.network.to_string());
    for device in &spec.devices {
        let required = if device.required { "required" } else { "" };
        key.push(format!("device {}", device.name), required);
    }
    for script in &spec.scripts {
        key.push(format!("script {}", script.name), &script.content);
    }
    if !spec.hosts.is_empty() {
        let names: Vec<String> = spec.hosts.iter().map(|(name, _)| name.clone()).collect();
        key.push("added hosts", list(&names));
    }
    key.push("platform", spec.platform.to_string());
    sandbox(&mut key, spec);
    for mount in &spec.mounts {
        push_mount(&mut key, &mount.target, &mount.source, inputs);
    }
    for secret in &spec.secrets {
        let required = if secret.required { " required" } else { "" };
        let value = secret.fingerprint.as_deref().unwrap_or_default();
        let id = list(std::slice::from_ref(&secret.id));
        let text = format!("secret {id}{required} {value}");
        key.push(format!("variable {} of a secret", secret.name), text.trim_end());
    }
    key
}

/// What is not as usual.
fn sandbox(key: &mut KeyBuilder, spec: &RunSpec) {
    if spec.hostname != HOSTNAME {
        key.push("host name", &spec.hostname);
    }
    if spec.security == Security::Insecure {
        key.push("security", "insecure");
    }
    if let Some(bytes) = spec.shm_size_bytes {
        key.push("size of /dev/shm", bytes.to_string());
    }
    for limit in &spec.ulimits {
        key.push(format!("ulimit {}", limit.name), format!("{}:{}", limit.soft, limit.hard));
    }
    if let Some(parent) = &spec.cgroup_parent {
        key.push("cgroup parent", parent);
    }
}

fn push_mount(key: &mut KeyBuilder, target: &str, source: &MountSource, inputs: &Inputs) {
    let label = format!("mount {target}");
    match source {
        // What the context holds there counts, not where it is.
        MountSource::Bind { origin: BindOrigin::Context(context), path, access } => {
            key.push(label, format!("bind {}", word(*access)));
            let context = inputs.context(*context).set();
            key.push(format!("content of {target}"), content(path, context));
        }
        MountSource::Bind { origin: BindOrigin::Input(number), path, access } => {
            key.push(label, format!("bind {} /{path} of source {number}", word(*access)));
        }
        MountSource::Volume { context, access, .. } => {
            key.push(label, format!("volume {}", word(*access)));
            if let Some(context) = context {
                let context = inputs.context(*context).set();
                key.push(format!("content of {target}"), content("", context));
            }
        }
        MountSource::Cache(cache) => {
            let owner = list(&[cache.mode, cache.uid, cache.gid].map(|it| format!("{it:?}")));
            key.push(label, format!("cache {} /{} {owner}", word(cache.access), cache.path));
        }
        MountSource::Tmpfs { size_bytes, access } => {
            key.push(label, format!("tmpfs {} {size_bytes:?}", word(*access)));
        }
        MountSource::Secret(client) => key.push(label, format!("secret {}", words(client))),
        MountSource::Agent(client) => key.push(label, format!("ssh {}", words(client))),
    }
}

const fn word(access: MountAccess) -> &'static str {
    match access {
        MountAccess::ReadOnly => "ro",
        MountAccess::ReadWrite => "rw",
    }
}

fn words(client: &ClientMount) -> String {
    let ClientMount { id, required, mode, uid, gid, fingerprint } = client;
    let id = list(std::slice::from_ref(id));
    let required = if *required { " required" } else { "" };
    let value = fingerprint.as_deref().unwrap_or_default();
    format!("{id}{required} {mode:o} {uid}:{gid} {value}").trim_end().to_owned()
}

/// Digest of what a path of the context holds; it is there.
fn content(path: &str, context: &FileSet) -> String {
    let found = selected(&crate::selection::pattern(path.as_bytes(), ""), context);
    let keeps = Keeps { mode: true, owner: true };
    let digest = |(_, index): &(Vec<u8>, usize)| selection_key(context.subtree(*index), keeps);
    found.first().map(digest).map_or_else(String::new, |digest| digest.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CacheMount, DefinitionKey, Miss, Network, RunMount};
    use davit_dockerfile::Sharing;

    fn spec() -> RunSpec {
        RunSpec {
            args: vec!["make".to_owned()],
            env: Vec::new(),
            proxy_env: Vec::new(),
            working_dir: "/".to_owned(),
            user: String::new(),
            network: Network::Default,
            hostname: HOSTNAME.to_owned(),
            security: Security::Sandbox,
            mounts: Vec::new(),
            devices: Vec::new(),
            secrets: Vec::new(),
            shm_size_bytes: None,
            ulimits: Vec::new(),
            cgroup_parent: None,
            scripts: Vec::new(),
            hosts: Vec::new(),
            platform: davit_image::Platform::host(),
        }
    }

    fn key(source: MountSource) -> DefinitionKey {
        let mounts = vec![RunMount { target: "/m".to_owned(), source }];
        super::components(&RunSpec { mounts, ..spec() }, &Inputs::default()).finish().0
    }

    #[test]
    fn a_cache_is_in_the_key_by_what_the_command_sees_of_it() {
        let cache = CacheMount {
            name: "/a".to_owned(),
            sharing: Sharing::Shared,
            path: String::new(),
            access: MountAccess::ReadWrite,
            mode: None,
            uid: None,
            gid: None,
            seed: None,
        };
        let before = key(MountSource::Cache(cache.clone()));
        let other = CacheMount { name: "/b".to_owned(), sharing: Sharing::Locked, ..cache.clone() };
        assert_eq!(key(MountSource::Cache(other)), before);
        let other = CacheMount { access: MountAccess::ReadOnly, ..cache };
        assert_ne!(key(MountSource::Cache(other)), before);
    }

    #[test]
    fn a_secret_is_in_the_key_by_its_name_and_by_its_value_only_if_asked() {
        let secret = |id: &str, fingerprint: Option<&str>| {
            key(MountSource::Secret(ClientMount {
                id: id.to_owned(),
                required: false,
                mode: 0o400,
                uid: 0,
                gid: 0,
                fingerprint: fingerprint.map(str::to_owned),
            }))
        };
        assert_ne!(secret("a", None), secret("b", None));
        assert_ne!(secret("a", Some("1")), secret("a", Some("2")));
        assert_eq!(secret("a", Some("1")), secret("a", Some("1")));
    }

    #[test]
    fn no_name_of_a_secret_reads_as_one_with_a_switch() {
        let client = |id: &str, required| ClientMount {
            id: id.to_owned(),
            required,
            mode: 0o400,
            uid: 0,
            gid: 0,
            fingerprint: None,
        };
        let key = |id, required| key(MountSource::Secret(client(id, required)));
        assert_ne!(key("a", true), key("a required", false));
        assert_ne!(key("a 400 0:0", false), key("a", false));
    }

    #[test]
    fn an_added_host_is_the_reason_however_many_there_are() {
        let components = |hosts: &[(&str, &str)]| {
            let owned = |(name, address): &(&str, &str)| (name.to_string(), address.to_string());
            let spec = RunSpec { hosts: hosts.iter().map(owned).collect(), ..spec() };
            super::components(&spec, &Inputs::default()).finish().1
        };
        let before = components(&[("a", "10.0.0.1"), ("b", "10.0.0.2")]);
        let same = components(&[("a", "10.0.0.9"), ("b", "10.0.0.2")]);
        assert_eq!(Miss::between(&before, &same), None, "the address is in no key");
        for now in [&[("a", "10.0.0.1"), ("c", "10.0.0.2")][..], &[("a", "10.0.0.1")]] {
            let miss = Miss::between(&before, &components(now)).unwrap();
            let Miss::Component { label, before: Some(before), now: Some(now) } = miss else {
                panic!("{miss:?}");
            };
            assert_eq!((label.as_str(), before.as_str()), ("added hosts", r#"["a","b"]"#));
            assert_ne!(before, now);
        }
        let none = Miss::between(&before, &components(&[])).unwrap();
        assert!(matches!(none, Miss::Component { label, now: None, .. } if label == "added hosts"));
    }
}
