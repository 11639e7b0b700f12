//! Small things that scripts written for Docker rely on.

use std::process::Stdio;

use crate::machine::Machine;

#[test]
fn what_run_and_create_take() {
    let Some(machine) = Machine::new() else { return };
    let id = machine.ok(&["run", "-a", "stdin", "busybox", "echo", "unseen"]);
    assert_eq!(id.len(), 64, "{id}");
    let refusals: [(&[&str], i32, &str); 6] = [
        (&["run", "-m", "1x"], 125, r#"invalid argument "1x" for "-m, --memory" flag: invalid"#),
        (&["run", "--sysctl", "kernel.hostname=x"], 125, "'kernel.hostname' is not allowed"),
        (&["run", "-d", "-a", "stdout"], 1, "Conflicting options: -a and -d"),
        (&["run", "-v", "nv:/b:ro,rw"], 125, "invalid mode: ro,rw"),
        (&["run", "-v", "nv:/b:rshared"], 125, "field BindOptions must not be specified"),
        (&["run", "-v", "/tmp:/b:nocopy"], 125, "field VolumeOptions must not be specified"),
    ];
    for (flags, code, words) in refusals {
        let refused = machine.run(&[flags, &["busybox", "true"]].concat());
        assert_eq!(refused.code, code, "{flags:?}");
        assert!(refused.stderr.contains(words), "{flags:?}: {}", refused.stderr);
    }
    assert_eq!(machine.ok(&["volume", "create", "--name", "named"]), "named");

    let flags = ["-m", "20m", "-v", "/anon", "-v", "named:/named", "-p", "0:80"];
    let create = [&["create", "--name", ""][..], &flags, &["busybox", "true"]].concat();
    let id = machine.ok(&create);
    let shown = |format: &str| machine.ok(&["inspect", "-f", format, &id]);
    let limits = "{{with .HostConfig}}{{.MemorySwap}} {{.OomKillDisable}} {{len .MaskedPaths}} \
                  {{index .ReadonlyPaths 0}}{{end}}";
    assert_eq!(shown(limits), "41943040 false 13 /proc/bus");
    assert_eq!(shown("{{json .Config.Volumes}}"), r#"{"/anon":{}}"#);
    assert_eq!(shown("{{range .Mounts}}[{{.Mode}}]{{end}}"), "[][z]");
    let flags = ["--tmpfs", "/t:size=1m", "--tmpfs", "/t", "--mount", "type=tmpfs,dst=/m"];
    let more = ["--cap-add", "net_admin", "--cap-drop", "cap_chown", "--cap-drop", "KILL"];
    let listed =
        machine
            .ok(&[&["create", "--pids-limit", "-1"][..], &flags, &more, &["busybox", "true"]]
                .concat());
    let format = "{{range .Mounts}}{{.Destination}}{{end}} {{with .HostConfig}}{{.Tmpfs}} \
                  {{.CapAdd}} {{.CapDrop}} {{json .PidsLimit}}{{end}}";
    assert_eq!(
        machine.ok(&["inspect", "-f", format, &listed]),
        "/m map[/t:] [CAP_NET_ADMIN] [CAP_CHOWN CAP_KILL] null"
    );
    flags_of_mounts_are_told_apart(&machine);
    machine.ok(&["create", "--name", "web", "busybox", "nothing"]);
    let refused = machine.run(&["rename", "web", "web"]);
    let words = "error: Renaming a container with the same name as its current name\n";
    assert_eq!((refused.code, refused.stderr.as_str()), (1, words));
    let refused = machine.run(&["start", "web"]);
    let last = "error: failed to start containers: web";
    assert_eq!((refused.code, refused.stderr.lines().last()), (1, Some(last)));
    assert_eq!(machine.run(&["exec", "web"]).code, 1);
    let refused = machine.run(&["port", "web", "x"]);
    assert_eq!((refused.code, refused.stderr.as_str()), (1, "error: invalid port (x/tcp)\n"));
    let refused = machine.run(&["run", "--name", "nobody", "-u", "nobody-here", "busybox", "true"]);
    let state = machine.ok(&["inspect", "-f", "{{.State.ExitCode}}", "nobody"]);
    assert_eq!((refused.code, state.as_str()), (125, "128"));
    let refused = machine.run(&["run", "--rm", "busybox", ""]);
    let words = "exec: \"\": executable file not found in $PATH";
    assert!(refused.code == 127 && refused.stderr.contains(words), "{}", refused.stderr);
    assert_eq!(machine.run(&["run", "--rm", "--detach-keys", "", "busybox", "true"]).code, 0);
    let bare =
        ["run", "--rm", "--ipc", "none", "busybox", "grep", "-c", "/dev/shm", "/proc/mounts"];
    assert_eq!(machine.run(&bare).stdout, "0\n");
    machine.ok(&["run", "--name", "said", "busybox", "echo", "word"]);
    assert_eq!(machine.ok(&["logs", "--until", "0", "said"]), "word");
    machine.ok(&["commit", &id, "kept"]);
    let kept = machine.ok(&["image", "inspect", "-f", "{{json .Config.Volumes}}", "kept"]);
    assert_eq!(kept, r#"{"/anon":{}}"#);
}

/// `--mount` in `Mounts`, `--volume` in `Binds`, and each with what was said alone.
fn flags_of_mounts_are_told_apart(machine: &Machine) {
    let listed = [
        ("type=tmpfs,dst=/t", r#"{"Type":"tmpfs","Target":"/t"}"#),
        ("type=bind,src=/tmp,dst=/u", r#"{"Type":"bind","Source":"/tmp","Target":"/u"}"#),
        ("dst=/w", r#"{"Type":"volume","Target":"/w"}"#),
        (
            "type=bind,src=/tmp,dst=/b,ro,bind-propagation=private,bind-recursive=writable",
            r#"{"Type":"bind","Source":"/tmp","Target":"/b","ReadOnly":true,"BindOptions":{"Propagation":"private","ReadOnlyNonRecursive":true}}"#,
        ),
        (
            "src=data,dst=/v,volume-nocopy,volume-label=k=v,volume-driver=local",
            r#"{"Type":"volume","Source":"data","Target":"/v","VolumeOptions":{"NoCopy":true,"Labels":{"k":"v"},"DriverConfig":{"Name":"local"}}}"#,
        ),
        (
            "type=tmpfs,dst=/m,tmpfs-size=1m,tmpfs-mode=700",
            r#"{"Type":"tmpfs","Target":"/m","TmpfsOptions":{"SizeBytes":1048576,"Mode":448}}"#,
        ),
    ];
    let mut create = vec!["create", "-v", "/tmp:/x:ro", "-v", "data:/y", "--tmpfs", "/z"];
    create.extend(listed.iter().flat_map(|(flag, _)| ["--mount", flag]));
    let id = machine.ok(&[&create[..], &["busybox", "true"]].concat());
    let shown = |format: &str| machine.ok(&["inspect", "-f", format, &id]);
    // In the order of the command line.
    let expected = listed.map(|(_, value)| value).join(",");
    assert_eq!(shown("{{json .HostConfig.Mounts}}"), format!("[{expected}]"));
    let others = "{{json .HostConfig.Binds}}{{json .HostConfig.Tmpfs}}";
    assert_eq!(shown(others), r#"["/tmp:/x:ro","data:/y"]{"/z":""}"#);
}

#[test]
fn templates_find_the_fields_of_docker() {
    let davit = crate::davit();
    let info = "{{.Swarm.LocalNodeState}} {{len .ID}} {{.Plugins.Volume}} {{.Debug}}";
    let version = "{{.Server.Platform.Name}},{{.Server.GoVersion}},{{.Client.GitCommit}},\
                   {{range .Server.Components}}{{.Name}}{{end}}";
    assert_eq!(davit.ok(["version", "-f", version]), "davit,,,davit");
    if davit_test::need_root() {
        assert_eq!(davit.ok(["info", "-f", info]), "inactive 16 [local] false");
    }
}

#[test]
fn proxies_of_the_configuration_reach_containers() {
    let Some(machine) = Machine::new() else { return };
    let folder = machine.davit().dir().join(".docker");
    std::fs::create_dir_all(&folder).unwrap();
    let settings = r#"{"proxies": {"default": {"httpProxy": "http://p:1", "noProxy": "x"}}}"#;
    std::fs::write(folder.join("config.json"), settings).unwrap();
    let run = ["run", "--rm", "-e", "no_proxy=own", "busybox", "sh", "-c"];
    let found = machine.ok(&[&run[..], &["env | grep -i _proxy | sort"]].concat());
    assert_eq!(found, "HTTP_PROXY=http://p:1\nNO_PROXY=x\nhttp_proxy=http://p:1\nno_proxy=own");

    let context = machine.davit().dir().join("context");
    std::fs::create_dir(&context).unwrap();
    let dockerfile = "FROM busybox\nRUN echo $HTTP_PROXY $no_proxy >/seen\n";
    std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let arguments = ["build", "-q", "--build-arg", "no_proxy=own", context.to_str().unwrap()];
    let image = machine.ok(&arguments);
    assert_eq!(machine.ok(&["run", "--rm", &image, "cat", "/seen"]), "http://p:1 own");
}

#[test]
fn copies_leave_out_what_the_runtime_mounts() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    let out = machine.davit().dir().join("out");
    let out = out.to_str().unwrap();
    for path in ["/proc/version", "/proc/kcore", "/sys/kernel/mm", "/dev/null", "/dev/fd"] {
        let refused = machine.run(&["cp", &format!("box:{path}"), out]);
        let words = format!("error: Could not find the file {path} in container box\n");
        assert_eq!((refused.code, refused.stderr), (1, words), "{path}");
    }
    machine.ok(&["cp", "box:/", out]);
    let entries = |name: &str| std::fs::read_dir(format!("{out}/{name}")).unwrap().count();
    assert_eq!((entries("dev"), entries("proc"), entries("sys")), (0, 0, 0));
    assert!(entries("etc") > 0);

    // An archive on standard input may be compressed.
    std::fs::write(machine.davit().dir().join("word"), "content").unwrap();
    for option in ["-z", "-j", "-J"] {
        let folder = machine.davit().dir().to_str().unwrap();
        let mut tar = std::process::Command::new("tar");
        let tar = tar.args(["-C", folder, option, "-c", "word"]).stdout(Stdio::piped()).spawn();
        let mut tar = tar.expect("tar starts");
        let mut copy = machine.command(&["cp", "-", "box:/tmp"]);
        let copied = copy.stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(copied.status.success(), "{option}: {copied:?}");
        tar.wait().unwrap();
        assert_eq!(machine.ok(&["exec", "box", "cat", "/tmp/word"]), "content");
        machine.ok(&["exec", "box", "rm", "/tmp/word"]);
    }
}
