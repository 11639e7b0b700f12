//! The newest peer: BuildKit itself, where buildkitd and buildctl can be found.
//!
//! It judges the cases that are marked as newer than the other peers (`newer.txt`). They start from
//! `scratch` and run nothing: the daemon has no image and no network of its own.

use std::{path::Path, process::Command};

use super::Case;

/// Builds cases; `buildkit.tar` beside each Dockerfile is the result. `false` without BuildKit.
pub(super) fn build(work: &Path, cases: &[&Case]) -> bool {
    let tools = ["buildkitd", "buildctl", "runc"].map(davit_test::need_tool);
    let [Some(daemon), Some(client), Some(_)] = tools else { return false };
    let address = format!("unix://{}", work.join("buildkit.sock").display());
    let client = format!("{} --addr {address}", client.display());
    let mut script = format!(
        "{daemon} --root {work}/buildkit --addr {address} --containerd-worker=false \
         --oci-worker-net=host >{work}/buildkitd.log 2>&1 &\nengine=$!\ntries=0\n\
         until {client} debug workers; do\n  tries=$((tries + 1))\n  \
         if [ $tries -gt 300 ]; then kill $engine; exit 1; fi\n  sleep 0.1\ndone >/dev/null 2>&1\n",
        daemon = daemon.display(),
        work = work.display(),
    );
    for case in cases {
        let folder = case.made.display();
        script.push_str(&format!(
            "{client} build --frontend dockerfile.v0 --local context={folder}/context \
             --local dockerfile={folder} \
             --output type=docker,name=case-{name}:made,dest={folder}/buildkit.tar \
             >{folder}/buildkit.log 2>&1 || rm -f {folder}/buildkit.tar\n",
            name = case.name,
        ));
    }
    script.push_str("kill $engine; wait $engine; true\n");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let output = command.args(["sh", "-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}; see buildkitd.log");
    true
}
