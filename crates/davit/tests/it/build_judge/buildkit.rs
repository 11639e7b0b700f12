//! The newest peer: BuildKit itself, where buildkitd and buildctl can be found.
//!
//! The daemon has no image of its own: the base is given to it as a named context.

use std::{path::Path, process::Command};

use super::{Case, context};

/// Builds cases; `buildkit.tar` beside each Dockerfile is the result. `false` without BuildKit.
pub(super) fn build(work: &Path, cases: &[&Case]) -> bool {
    let mut script = String::new();
    for case in cases {
        script.push_str(&format!(
            "cd {folder}\n$client build {opts} \
             --output type=docker,name=case-{name}:made,dest={folder}/buildkit.tar \
             >{folder}/buildkit.log 2>&1 || rm -f {folder}/buildkit.tar\n",
            folder = case.made.display(),
            name = case.name,
            opts = words(work, case),
        ));
    }
    beside_daemon(work, &script)
}

/// Runs commands, for which `$client` is buildctl, beside a daemon. `false` without BuildKit.
fn beside_daemon(work: &Path, commands: &str) -> bool {
    let tools = ["buildkitd", "buildctl", "runc"].map(davit_test::need_tool);
    let [Some(daemon), Some(client), Some(_)] = tools else { return false };
    // Cgroups v2 are hidden where they are only a part of a hybrid hierarchy, which runc refuses.
    let script = format!(
        "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi\n\
         {daemon} --root {work}/buildkit --addr {address} --containerd-worker=false \
         --oci-worker-net=host --allow-insecure-entitlement=security.insecure \
         >{work}/buildkitd.log 2>&1 &\nengine=$!\ntries=0\n\
         client='{client} --addr {address}'\n\
         until $client debug workers; do\n  tries=$((tries + 1))\n  \
         if [ $tries -gt 3000 ]; then kill $engine; exit 1; fi\n  sleep 0.1\ndone >/dev/null 2>&1\n\
         {commands}kill $engine; wait $engine; true\n",
        address = format!("unix://{}", work.join("buildkit.sock").display()),
        client = client.display(),
        daemon = daemon.display(),
        work = work.display(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    fs_err::write(work.join("script"), script).unwrap();
    let output = command.arg("sh").arg(work.join("script")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}; see buildkitd.log");
    true
}

/// What buildctl is asked, in the words of the shell.
fn words(work: &Path, case: &Case) -> String {
    let layout = work.join("base/layout");
    let fixed = [
        "--frontend=dockerfile.v0".to_owned(),
        "--local=context=context".to_owned(),
        "--local=dockerfile=.".to_owned(),
        format!("--oci-layout=base={}", layout.display()),
        format!("--opt=context:base=oci-layout://base@{}", context::base_digest(&layout)),
        "--opt=force-network-mode=none".to_owned(),
    ];
    let mut words = Vec::from(fixed);
    let mut options = case.options.iter();
    while let Some(option) = options.next() {
        match option.as_str() {
            "--no-cache" => words.push(option.clone()),
            _ => words.extend(translated(option, options.next().expect("a value"))),
        }
    }
    words.iter().map(|word| format!("'{}' ", word.replace('\'', r"'\''"))).collect()
}

fn translated(option: &str, value: &str) -> Vec<String> {
    match option {
        "--build-arg" => vec![format!("--opt=build-arg:{value}")],
        "--label" => vec![format!("--opt=label:{value}")],
        "--add-host" => vec![format!("--opt=add-hosts={}", value.replacen(':', "=", 1))],
        "--build-context" => {
            let (name, path) = value.split_once('=').expect("NAME=PATH");
            vec![format!("--local={name}={path}"), format!("--opt=context:{name}=local:{name}")]
        }
        "--secret" | "--allow" => vec![format!("{option}={value}")],
        _ => vec![format!("--opt={}={value}", option.trim_start_matches("--"))],
    }
}
