//! What a container has of its image, where the user said nothing.

use std::collections::BTreeMap;

use davit_image::{ContainerConfig, HealthConfig};

use crate::container::{
    ContainerSpec, MountSource, MountSpec, VolumeMaking, plan::merge_environment,
};

/// Fills what the user left open from the image (moby `daemon/commit.go` `merge`).
pub(super) fn merge(spec: &mut ContainerSpec, image: &ContainerConfig) {
    let config = &mut spec.config;
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    merge_command(config, image);
    let mut environment = image.env.clone().unwrap_or_default();
    merge_environment(&mut environment, config.env.iter().flatten());
    config.env = Some(environment).filter(|environment| !environment.is_empty());
    merge_map(&mut config.exposed_ports, image.exposed_ports.as_ref());
    merge_map(&mut config.labels, image.labels.as_ref());
    merge_map(&mut config.volumes, image.volumes.as_ref());
    merge_health(&mut config.healthcheck, image.healthcheck.as_ref());
    if config.stop_signal.is_none() {
        config.stop_signal.clone_from(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    add_volumes(spec);
}

fn merge_command(config: &mut ContainerConfig, image: &ContainerConfig) {
    match &config.entrypoint {
        // `--entrypoint ""` clears it; the image's command belongs to the image's entrypoint.
        Some(words) if words.iter().all(String::is_empty) => config.entrypoint = None,
        Some(_) => {}
        None => {
            config.entrypoint.clone_from(&image.entrypoint);
            if config.cmd.as_ref().is_none_or(Vec::is_empty) {
                config.cmd.clone_from(&image.cmd);
            }
        }
    }
}

fn merge_map<V: Clone>(own: &mut Option<BTreeMap<String, V>>, image: Option<&BTreeMap<String, V>>) {
    for (name, value) in image.into_iter().flatten() {
        own.get_or_insert_default().entry(name.clone()).or_insert_with(|| value.clone());
    }
}

fn merge_health(own: &mut Option<HealthConfig>, image: Option<&HealthConfig>) {
    let Some(image) = image else { return };
    let Some(own) = own else {
        *own = Some(image.clone());
        return;
    };
    if own.test.as_ref().is_none_or(Vec::is_empty) {
        own.test.clone_from(&image.test);
    }
    let pairs = [
        (&mut own.interval, image.interval),
        (&mut own.timeout, image.timeout),
        (&mut own.start_period, image.start_period),
        (&mut own.start_interval, image.start_interval),
        (&mut own.retries, image.retries),
    ];
    for (own, image) in pairs {
        if *own == 0 {
            *own = image;
        }
    }
}

/// Volumes of the config that no mount of the user covers become anonymous ones.
fn add_volumes(spec: &mut ContainerSpec) {
    for target in spec.config.volumes.iter().flat_map(BTreeMap::keys) {
        let target = clean(target);
        if target == "/" || spec.mounts.iter().any(|mount| mount.target == target) {
            continue;
        }
        spec.mounts.push(MountSpec {
            source: MountSource::Volume {
                name: String::new(),
                copy_up: true,
                subpath: None,
                anonymous: true,
                making: VolumeMaking::default(),
                listed: false,
            },
            target,
            access: false.into(),
            propagation: String::new(),
            mode: String::new(),
        });
    }
}

/// A path without empty, `.` and `..` components, absolute.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn commands_merge_as_dockers() {
        let image = ContainerConfig {
            entrypoint: words("/e"),
            cmd: words("a b"),
            ..ContainerConfig::default()
        };
        let cases = [
            (None, None, "/e a b"),
            (None, words("c"), "/e c"),
            (words("/f"), None, "/f"),
            (words("/f"), words("c"), "/f c"),
            (Some(vec![String::new()]), words("c"), "c"),
        ];
        for (entrypoint, cmd, expected) in cases {
            let mut spec = ContainerSpec::default();
            spec.config.entrypoint = entrypoint;
            spec.config.cmd = cmd;
            merge(&mut spec, &image);
            assert_eq!(spec.arguments().join(" "), expected);
        }
    }

    #[test]
    fn the_users_values_win() {
        let pairs = |list: &[(&str, &str)]| {
            Some(list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
        };
        let image = ContainerConfig {
            env: words("A=1 B=2"),
            labels: pairs(&[("x", "image"), ("y", "image")]),
            user: "nobody".to_owned(),
            ..ContainerConfig::default()
        };
        let mut spec = ContainerSpec::default();
        spec.config.env = words("B=3 C=4");
        spec.config.labels = pairs(&[("x", "user")]);
        merge(&mut spec, &image);
        assert_eq!(spec.config.env, words("A=1 B=3 C=4"));
        assert_eq!(spec.config.labels, pairs(&[("x", "user"), ("y", "image")]));
        assert_eq!(spec.config.user, "nobody");
    }

    #[test]
    fn paths_are_cleaned() {
        for (path, expected) in
            [("/a/./b//c/", "/a/b/c"), ("a/../../b", "/b"), ("", "/"), ("/..", "/")]
        {
            assert_eq!(clean(path), expected);
        }
    }
}
