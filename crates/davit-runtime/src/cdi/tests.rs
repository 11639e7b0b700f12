use super::*;
use crate::plan::{Access, DeviceKind, MountKind, Plan, UserChoice};

const JSON: &str = r#"{"cdiVersion": "0.6.0", "kind": "acme.com/gpu",
    "annotations": {"org.mobyproject.buildkit.device.autoallow": "true"},
    "containerEdits": {"env": ["ALL=1"], "additionalGids": [0, 44]},
    "devices": [
      {"name": "b", "containerEdits": {"env": ["ONE=b", "PATH=/gpu"],
        "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/null", "permissions": "rw",
                         "fileMode": 384, "uid": 7}],
        "mounts": [{"hostPath": "/usr", "containerPath": "/opt/gpu", "options": ["ro", "rbind"]}]}},
      {"name": "a", "annotations": {"org.mobyproject.buildkit.device.class": "fast"},
       "containerEdits": {"env": ["ONE=a"]}}]}"#;

fn devices(files: &[(&str, &str)]) -> (davit_test::TempDir, Devices) {
    let temp = davit_test::TempDir::new();
    let directories = ["etc", "run"].map(|name| temp.join(name));
    for (path, text) in files {
        let path = temp.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }
    let devices = Devices::read(&directories);
    (temp, devices)
}

fn names(devices: &Devices, name: &str) -> Vec<String> {
    devices.find(name).unwrap().into_iter().map(|device| device.name).collect()
}

#[test]
fn a_name_stands_for_one_or_some() {
    let (_temp, devices) = devices(&[("etc/a.json", JSON), ("etc/notes.txt", "no")]);
    assert_eq!(devices.problems(), &[] as &[String]);
    assert_eq!(names(&devices, "acme.com/gpu=b"), ["acme.com/gpu=b"]);
    assert_eq!(names(&devices, "acme.com/gpu"), ["acme.com/gpu=a"]);
    assert_eq!(names(&devices, "acme.com/gpu=*"), ["acme.com/gpu=a", "acme.com/gpu=b"]);
    assert_eq!(names(&devices, "acme.com/gpu=fast"), ["acme.com/gpu=a"]);
    assert!(names(&devices, "acme.com/gpu=none").is_empty());
    assert!(names(&devices, "acme.com/other").is_empty());
    assert!(devices.find("acme.com/gpu").unwrap()[0].is_for_all());
    for bad in ["gpu", "acme.com/", "/dev/null", "a/b=", "a/b=-x", "a/b=x y", "1a/b=x", ""] {
        assert!(matches!(devices.find(bad), Err(CdiError::Name(_))), "{bad}");
    }
    assert!(is_device("acme.com/gpu=b") && !is_device("/dev/a=b") && !is_device("acme.com/gpu"));
}

#[test]
fn a_later_directory_counts_and_equals_are_a_conflict() {
    let other = "cdiVersion: 0.5.0\nkind: acme.com/gpu\ndevices:\n- name: a\n  containerEdits:\n    \
        env: [ONE=other]\n";
    let (_temp, both) = devices(&[("etc/a.json", JSON), ("run/a.yaml", other)]);
    let found = both.find("acme.com/gpu=a").unwrap();
    assert_eq!(found[0].own.env, ["ONE=other"]);
    assert!(!found[0].is_for_all());
    let (_temp, twice) = devices(&[("etc/a.json", JSON), ("etc/b.yaml", other)]);
    let error = twice.find("acme.com/gpu=*").unwrap_err().to_string();
    assert!(error.contains("a.json") && error.contains("b.yaml"), "{error}");
    assert_eq!(names(&twice, "acme.com/gpu=b"), ["acme.com/gpu=b"]);
}

#[test]
fn files_that_mean_nothing_are_left_out_and_told() {
    let (_temp, found) = devices(&[
        ("etc/a.json", JSON),
        ("etc/b.json", "{"),
        ("etc/c.yaml", "cdiVersion: 9.0.0\nkind: a.com/b\ndevices: []\n"),
        ("etc/d.yaml", "cdiVersion: 1.0.0\nkind: b\ndevices: []\n"),
        ("etc/e.yaml", "cdiVersion: 1.0.0\nkind: a/b\ndevices:\n- name: '*'\n"),
        ("etc/f.yaml", "cdiVersion: 1.0.0\nkind: a/b\nmore: 1\ndevices: []\n"),
    ]);
    assert_eq!(found.problems().len(), 5, "{:?}", found.problems());
    assert_eq!(names(&found, "acme.com/gpu=b").len(), 1);
}

#[test]
fn a_plan_gets_what_devices_come_with() {
    let (_temp, found) = devices(&[("etc/a.json", JSON)]);
    let mut plan = Plan::container(vec!["x".to_owned()], "c");
    let groups = Vec::new();
    plan.process.user = UserChoice::Named { user: "u".to_owned(), groups };
    inject(&mut plan, &found.find("acme.com/gpu=*").unwrap()).unwrap();
    let env = &plan.process.env;
    assert_eq!(env.iter().filter(|it| it.starts_with("PATH=")).count(), 1);
    assert!(env.ends_with(&["ALL=1", "ONE=b", "PATH=/gpu"].map(str::to_owned)), "{env:?}");
    let UserChoice::Named { groups, .. } = &plan.process.user else { panic!("it has a name") };
    assert_eq!(groups, &["44"]);
    let node = &plan.devices[0];
    assert_eq!((node.kind, node.major, node.minor), (DeviceKind::Char, 1, 3));
    assert_eq!((&*node.path, node.mode, node.uid), ("/dev/gpu", 0o600, 7));
    let rule = plan.cgroup.devices.last().unwrap();
    assert_eq!((rule.read, rule.write, rule.mknod), (true, true, false));
    let mount = plan.mounts.iter().find(|mount| mount.target == "/opt/gpu").unwrap();
    assert_eq!(mount.options.access, Access::ReadOnly);
    assert!(matches!(mount.kind, MountKind::Bind { recursive: true, .. }));
}

#[test]
fn what_is_not_supported_is_named() {
    for (edits, words) in [
        (r#"{"hooks": [{"hookName": "createContainer", "path": "/x"}]}"#, "hooks"),
        (r#"{"netDevices": [{}]}"#, "netDevices"),
        (r#"{"intelRdt": {}}"#, "intelRdt"),
        (r#"{"env": ["A"]}"#, "A"),
        (r#"{"deviceNodes": [{"path": "dev/x"}]}"#, "the path"),
        (r#"{"deviceNodes": [{"path": "/dev/x", "type": "p"}]}"#, "type `p`"),
        (r#"{"deviceNodes": [{"path": "/dev/null", "permissions": "rx"}]}"#, "permissions"),
        (r#"{"deviceNodes": [{"path": "/etc/passwd"}]}"#, "/etc/passwd"),
        (r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["x"]}]}"#, "option"),
        (r#"{"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "tmpfs"}]}"#, "mount at"),
    ] {
        let text = format!(
            r#"{{"cdiVersion": "1.0.0", "kind": "a/b", "devices":
                [{{"name": "x", "containerEdits": {edits}}}]}}"#
        );
        let (_temp, found) = devices(&[("etc/a.json", &text)]);
        let mut plan = Plan::container(vec!["x".to_owned()], "c");
        let error = inject(&mut plan, &found.find("a/b=x").unwrap()).unwrap_err().to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}
