//! Stock clients against `davit registry serve`: each pushes, pulls, lists and deletes as far as it
//! can.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use davit_test::{need_tool, python_with, skip};

use crate::registry_serve::{Served, given};

const PASSWORD: &str = "wonderland";

/// A server with TLS and the user alice.
fn serving() -> Option<Served> {
    let served = Served::start_with_tls()?;
    served.add("alice", PASSWORD);
    Some(served)
}

/// What a client prints; it must succeed.
fn ok(served: &Served, program: &Path, words: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(words).current_dir(served.dir.path()).env("HOME", served.dir.path());
    command.env("REGISTRY", &served.address).env("SSL_CERT_FILE", "server.crt");
    command.env("DOCKER_CONFIG", served.dir.path()).env_remove("XDG_RUNTIME_DIR");
    command.env("REGISTRY_AUTH_FILE", served.dir.join("auth.json"));
    let outcome = given(command, input);
    assert_eq!(outcome.code, 0, "{program:?} {words:?}: {}", outcome.stderr);
    outcome.stdout.trim_end().to_owned()
}

/// An archive of an image with the tag 1.
fn archive(served: &Served) -> String {
    let context = served.dir.join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let archive = served.dir.join("image.tar").display().to_string();
    let output = format!("type=docker,name=app:1,dest={archive}");
    served.ok(&["build", "--quiet", "--output", &output, context.to_str().unwrap()], "");
    archive
}

#[test]
fn buildah_pushes_pulls_and_is_refused() {
    let (Some(buildah), Some(skopeo)) = (need_tool("buildah"), need_tool("skopeo")) else { return };
    let Some(served) = serving() else { return };
    let archive = format!("docker-archive:{}", archive(&served));
    let storage = served.dir.join("buildah").display().to_string();
    let run = |words: &[&str], input: &str| {
        let place = ["--root", &storage, "--runroot", &storage, "--storage-driver", "vfs"];
        ok(&served, &buildah, &[&place, words].concat(), input)
    };
    let image = format!("{}/alice/app:1", served.address);
    run(
        &["login", "--tls-verify=false", "-u", "alice", "--password-stdin", &served.address],
        PASSWORD,
    );
    let id = run(&["pull", "--quiet", &archive], "");
    run(&["push", "--quiet", "--tls-verify=false", &id, &format!("docker://{image}")], "");
    run(&["rmi", "--all", "--force"], "");
    assert_eq!(run(&["pull", "--quiet", "--tls-verify=false", &image], ""), id);
    let remote = format!("docker://{image}");
    let listed = ["list-tags", "--tls-verify=false", remote.trim_end_matches(":1")];
    assert!(ok(&served, &skopeo, &listed, "").contains("\"1\""));
    run(&["rmi", "--all", "--force"], "");
    let stranger = format!("{}/alice/app:1", served.address);
    run(&["logout", &served.address], "");
    let mut command = Command::new(&buildah);
    command.args(["--root", &storage, "--runroot", &storage, "--storage-driver", "vfs", "pull"]);
    command.args(["--tls-verify=false", &stranger]).stdout(Stdio::null());
    command.env("REGISTRY_AUTH_FILE", served.dir.join("auth.json")).env("HOME", served.dir.path());
    assert_ne!(given(command, "").code, 0, "the repository is private");
}

#[test]
fn python_dxf_pushes_pulls_lists_and_deletes() {
    let Some(python) = python_with("python-clients", &PACKAGES, "dxf") else {
        return skip("needs the Python package `python-dxf`");
    };
    let Some(served) = serving() else { return };
    let program = r#"
import os
from dxf import DXF, DXFBase
def auth(dxf, response):
    dxf.authenticate("alice", "wonderland", response=response)
host = os.environ["REGISTRY"]
dxf = DXF(host, "alice/dxf", auth, tlsverify="server.crt")
content = b"a blob" * 100000
open("blob", "wb").write(content)
digest = dxf.push_blob("blob")
dxf.set_alias("v1", digest)
assert b"".join(dxf.pull_blob(digest)) == content
print(dxf.list_aliases(), dxf.get_alias("v1") == [digest], dxf.blob_size(digest))
print(list(DXFBase(host, auth, tlsverify="server.crt").list_repos()))
dxf.del_alias("v1")
dxf.del_blob(digest)
print(dxf.list_aliases())
"#;
    let said = ok(&served, &python, &["-c", program], "");
    assert_eq!(said, "['v1'] True 600000\n['alice/dxf']\n[]");
}

/// Its SDK gets a token for its first request and keeps it for all that follow.
#[test]
fn the_sdk_of_oras_pushes_pulls_lists_and_deletes() {
    let Some(python) = python_with("python-clients", &PACKAGES, "oras.client") else {
        return skip("needs the Python package `oras`");
    };
    let Some(served) = serving() else { return };
    let program = r#"
import os, oras.client
host = os.environ["REGISTRY"]
target = host + "/alice/artifact:v1"
def client(**backend):
    made = oras.client.OrasClient(hostname=host, tls_verify=False, **backend)
    made.login(username="alice", password="wonderland", hostname=host, tls_verify=False)
    return made
open("file", "w").write("an artifact")
pushed = client().push(target=target, files=["file"], disable_path_validation=True)
print(pushed.status_code, client().get_tags(target))
(pulled,) = client().pull(target=target, outdir="pulled")
print(open(pulled).read())
basic = client(auth_backend="basic")
print(basic.delete_tags(target, ["v1"]), basic.get_tags(target))
"#;
    let said = ok(&served, &python, &["-W", "ignore", "-c", program], "");
    let said: Vec<&str> = said.lines().filter(|line| !line.starts_with("Login")).collect();
    assert_eq!(said, ["201 ['v1']", "an artifact", "['v1'] []"]);
}

#[test]
fn crane_and_regctl_push_pull_list_and_delete() {
    let (Some(crane), Some(regctl)) = (need_tool("crane"), need_tool("regctl")) else { return };
    let Some(served) = serving() else { return };
    let archive = archive(&served);
    let (host, image) = (&served.address, format!("{}/alice/app:1", served.address));
    let login = ["auth", "login", host, "-u", "alice", "--password-stdin"];
    ok(&served, &crane, &login, PASSWORD);
    ok(&served, &crane, &["push", &archive, &image], "");
    ok(&served, &crane, &["pull", &image, "pulled.tar"], "");
    assert_eq!(ok(&served, &crane, &["ls", image.trim_end_matches(":1")], ""), "1");
    assert_eq!(ok(&served, &crane, &["catalog", host], ""), "alice/app");

    ok(&served, &regctl, &["registry", "set", host, "--tls", "insecure"], "");
    let digest = ok(&served, &regctl, &["image", "digest", &image], "");
    assert_eq!(ok(&served, &crane, &["digest", &image], ""), digest);
    let copy = format!("{host}/alice/copy:2");
    ok(&served, &regctl, &["image", "copy", &image, &copy], "");
    assert_eq!(ok(&served, &regctl, &["tag", "ls", copy.trim_end_matches(":2")], ""), "2");
    ok(&served, &regctl, &["tag", "rm", &copy], "");
    assert_eq!(ok(&served, &regctl, &["tag", "ls", copy.trim_end_matches(":2")], ""), "");
    ok(&served, &crane, &["delete", &format!("{}@{digest}", image.trim_end_matches(":1"))], "");
    assert_eq!(ok(&served, &crane, &["ls", image.trim_end_matches(":1")], ""), "");
}

#[test]
fn helm_pushes_and_pulls_charts() {
    let Some(helm) = need_tool("helm") else { return };
    let Some(served) = serving() else { return };
    let run = |words: &[&str], input: &str| ok(&served, &helm, words, input);
    run(&["create", "chart"], "");
    run(&["package", "chart"], "");
    let login = ["registry", "login", "-u", "alice", "--password-stdin", &served.address];
    run(&login, PASSWORD);
    let charts = format!("oci://{}/alice/charts", served.address);
    run(&["push", "chart-0.1.0.tgz", &charts], "");
    fs::remove_file(served.dir.join("chart-0.1.0.tgz")).unwrap();
    run(&["pull", &format!("{charts}/chart"), "--version", "0.1.0"], "");
    assert!(served.dir.join("chart-0.1.0.tgz").exists());
    assert!(run(&["show", "chart", &format!("{charts}/chart")], "").contains("name: chart"));
}

/// The packages of the clients in Python.
const PACKAGES: [&str; 2] = ["python-dxf==12.1.1", "oras==0.2.43"];
