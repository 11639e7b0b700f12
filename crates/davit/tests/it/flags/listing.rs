//! What `ps` shows, and by which filters.

use crate::machine::Machine;

#[test]
fn commands_names_and_filters_are_dockers() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "p1", "busybox", "sh", "-c", "exit 2"]);
    machine.ok(&["create", "--name", "p12", "busybox", "sh"]);
    let list = |filter: &str, format: &str| {
        machine.ok(&["ps", "-a", "--no-trunc", "-f", filter, "--format", format])
    };
    for name in ["name=^/p1$", "name=^p1$", "name=/p1$"] {
        assert_eq!(list(name, "{{.Command}}"), r#""sh -c 'exit 2'""#, "{name}");
    }
    let json: serde_json::Value = serde_json::from_str(&list("name=^p1$", "json")).expect("JSON");
    assert_eq!(json["Command"], r#""sh -c 'exit 2'""#);
    assert_eq!(list("name=/p1", "{{.Names}}"), "p12\np1");
    assert_eq!(list("status=dead", "{{.Names}}"), "");
    assert_eq!(list("health=none", "{{.Names}}"), "p12\np1");
    for bad in ["status=bogus", "health=bogus", "exited=x", "is-task=x", "publish=x", "expose=x/y"]
    {
        let refused = machine.run(&["ps", "-f", bad]);
        let words = format!("invalid filter '{bad}'");
        assert!(refused.code == 1 && refused.stderr.contains(&words), "{bad}: {}", refused.stderr);
    }
}
