//! `--format` as Docker evaluates it: zero values, mistyped fields, defaults of `config.json`.

use crate::machine::Machine;

/// Shown as Docker's command line 28 shows the same objects.
#[test]
fn unset_fields_are_empty_and_mistyped_ones_an_error() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "one", "-v", "vol:/v", "busybox"]);
    let cases = [
        ("busybox", "{{.Config.User}}", ""),
        ("busybox", "{{.Config.Labels}}{{.Config.Entrypoint}}{{.Config.Cmd}}", "map[][][sh]"),
        ("busybox", "{{len .Config.Volumes}}{{index .Config.Labels \"foo\"}}", "0"),
        ("busybox", "{{.Config.Healthcheck}} {{json .Config.Labels}}", "<nil> null"),
        (
            "busybox",
            "{{printf \"%s|%q|%v|%T|%d%%\" .Config.Cmd .Config.Cmd .Config.Cmd .Os 5}}",
            "[sh]|[\"sh\"]|[sh]|string|5%",
        ),
        ("one", "{{.HostConfig.CapAdd}}{{.Config.StopSignal}}{{.State.Health}}", "[]<nil>"),
        ("one", "{{range .Mounts}}{{.Name}} {{.Driver}}{{end}}", "vol local"),
        ("vol", "{{.Labels}}{{.Status}}", "map[]map[]"),
        ("bridge", "{{.Peers}}{{.Labels.x}}", "[]<no value>"),
    ];
    for (name, format, expected) in cases {
        assert_eq!(machine.ok(&["inspect", "-f", format, name]), expected, "{name} {format}");
    }
    for line in [&["inspect", "one", "vol"][..], &["image", "inspect", "busybox"]] {
        let shown = machine.ok(&[line, &["-f", "json"]].concat());
        let plain: serde_json::Value = serde_json::from_str(&machine.ok(line)).unwrap();
        assert!(shown.starts_with("[{") && shown.lines().count() == 1, "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), plain);
    }
    let bad: [&[&str]; 9] = [
        &["inspect", "-f", "{{.NoSuch}}", "busybox"],
        &["image", "inspect", "-f", "{{.Config.NoSuch}}", "busybox"],
        &["inspect", "-f", "{{.State.Health.Status}}", "one"],
        &["inspect", "-f", "{{.Id", "one"],
        &["images", "--format", "{{.Bad}}"],
        &["ps", "-a", "--format", "table {{.Bad}}"],
        &["volume", "ls", "--format", "{{.Bad}}"],
        &["system", "df", "--format", "{{.Bad}}"],
        &["info", "--format", "{{.Bad}}"],
    ];
    for line in bad {
        let outcome = machine.run(line);
        let told = outcome.stderr.starts_with("error: template parsing error: ");
        let code = if line.contains(&"{{.Id") { 64 } else { 1 };
        assert!(outcome.code == code && told && outcome.stdout.is_empty(), "{line:?}: {outcome:?}");
    }
}

#[test]
fn lists_take_their_format_from_dockers_settings() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "one", "-v", "vol:/v", "busybox"]);
    let folder = machine.davit().dir().join("docker");
    std::fs::create_dir(&folder).unwrap();
    let config = folder.join("config.json");
    let keys = ["imagesFormat", "psFormat", "networksFormat", "volumesFormat"];
    let settings: serde_json::Map<_, _> = keys
        .iter()
        .map(|key| ((*key).to_owned(), serde_json::json!(format!("{key} {{{{.ID}}}}"))))
        .collect();
    let mut settings = serde_json::Value::from(settings);
    settings["volumesFormat"] = "volumesFormat {{.Name}}".into();
    std::fs::write(&config, settings.to_string()).unwrap();
    let folder = folder.to_str().unwrap();
    let lists: [&[&str]; 4] = [&["images"], &["ps", "-a"], &["network", "ls"], &["volume", "ls"]];
    for (line, key) in lists.into_iter().zip(keys) {
        let with = |more: &[&str]| machine.ok(&[&["--config", folder], line, more].concat());
        assert!(with(&[]).starts_with(key), "{}", with(&[]));
        assert!(with(&["--format", ""]).starts_with(key));
        for more in [&["-q"][..], &["--format", "table"], &["--json"]] {
            assert!(!with(more).contains(key), "{}", with(more));
        }
    }
    // In `ps` the ids win, and Docker says so.
    let outcome = machine.run(&["ps", "-aq", "--format", "{{.Names}}"]);
    assert!(outcome.stderr.contains("warning: --format"), "{}", outcome.stderr);
    assert_eq!(outcome.stdout.trim_end(), machine.ok(&["ps", "-aq"]));
    assert_eq!(machine.ok(&["volume", "ls", "-q", "--format", "{{.Driver}}"]), "local");
    std::fs::write(&config, "{").unwrap();
    let outcome = machine.run(&["--config", folder, "ps", "-a"]);
    assert!(outcome.stdout.starts_with("CONTAINER ID"), "{}", outcome.stdout);
    assert!(outcome.stderr.contains("config.json is malformed"), "{}", outcome.stderr);
}

#[test]
fn disk_usage_in_full_obeys_its_format() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "one", "-v", "vol:/v", "busybox", "sleep", "5"]);
    let tables = machine.ok(&["system", "df", "-v"]);
    for head in [
        "REPOSITORY   TAG ",
        "CONTAINER ID   IMAGE     COMMAND     LOCAL VOLUMES   SIZE      CREATED",
        "VOLUME NAME   LINKS     SIZE",
        "CACHE ID   CACHE TYPE   SIZE      CREATED   LAST USED   USAGE     SHARED",
    ] {
        assert!(tables.contains(head), "{head}: {tables}");
    }
    for format in ["json", "{{json .}}"] {
        let text = machine.ok(&["system", "df", "-v", "--format", format]);
        assert_eq!(text.lines().count(), 1, "{text}");
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(found["Containers"][0]["Names"], "one");
        assert_eq!(found["Containers"][0]["Command"], "\"sleep 5\"");
        assert_eq!(
            (&found["Volumes"][0]["Links"], &found["BuildCache"]),
            (&serde_json::json!("1"), &serde_json::json!([]),)
        );
        assert_eq!(found["Images"][0]["Containers"], "1");
    }
    let raw = machine.ok(&["system", "df", "-v", "--json"]);
    let raw: serde_json::Value = serde_json::from_str(&raw).unwrap();
    assert!(raw["Images"][0]["Size"].as_u64() > Some(1_000_000), "{raw}");
    assert_eq!(raw["Volumes"][0]["Links"], 1);
    let named = "{{range .Volumes}}{{.Name}}{{end}}";
    assert_eq!(machine.ok(&["system", "df", "-v", "--format", named]), "vol");
    assert_eq!(machine.run(&["system", "df", "-v", "--format", "{{.Bad}}"]).code, 1);
}
