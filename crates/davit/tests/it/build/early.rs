//! Layers that go to a registry while the steps above them still run.

use std::{fs, process::Stdio, thread};

use davit_engine::image::Platform;
use davit_test::{Access, Content, End, HttpServer, Outcome, Registry, Reply, tar_of};

use super::{
    bench::{Bench, alpine},
    cancel::interrupt,
    shared_cache::blobs,
};
use crate::davit;

/// Waits for a file that only the test writes, and fails if that does not come.
pub(super) const WAIT: &str = "RUN --mount=type=cache,target=/c i=0; while ! test -e /c/go; do \
                    i=$((i+1)); test $i -lt 30000 || exit 1; sleep 0.02; done";

/// Builds, and lets the waiting step go on once the registry has so many layers.
fn build(bench: &Bench, registry: &Registry, layers: usize, args: &[&str]) -> Outcome {
    thread::scope(|scope| {
        let build = scope.spawn(|| bench.run(args));
        let mounts = bench.davit.root().join("cache/mounts");
        while !build.is_finished() {
            let mount = fs::read_dir(&mounts).ok().and_then(|mut it| it.next()?.ok());
            if let Some(mount) = mount.filter(|_| blobs(registry).len() >= layers) {
                let _gone = fs::write(mount.path().join("data/go"), "");
            }
            thread::park_timeout(std::time::Duration::from_millis(5));
        }
        build.join().unwrap()
    })
}

#[test]
fn layers_are_pushed_while_a_build_runs() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    for (tag, compression) in [("1", "gzip"), ("2", "estargz"), ("3", "zstd")] {
        let Some(bench) = alpine(&format!("COPY f /\n{WAIT}\nRUN echo {tag} > /last\n")) else {
            return;
        };
        bench.write("f", tag);
        let name = format!("{}/early:{tag}", registry.host());
        let spec = format!("type=registry,name={name},compression={compression}");
        let before = blobs(&registry).len();
        let outcome = build(&bench, &registry, before + 2, &["-o", &spec]);
        assert_eq!(outcome.code, 0, "{compression}: {}", outcome.stderr);
        // What was sent early is not sent again, and the image is whole.
        assert!(outcome.stderr.matches("Layer already exists").count() >= 2, "{}", outcome.stderr);
        let other = davit();
        other.ok(["pull", "-q", &name]);
        let args = ["run", "--rm", "--network", "none", &name, "cat", "/f", "/last"];
        assert_eq!(other.ok(args), format!("{tag}{tag}"), "{compression}");
    }
}

#[test]
fn a_build_that_fails_names_nothing() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let Some(bench) = alpine(&format!("COPY f /\n{WAIT}\nRUN exit 3\n")) else { return };
    bench.write("f", "1");
    let name = format!("{}/failed:1", registry.host());
    let outcome = build(&bench, &registry, 2, &["--push", "-t", &name]);
    assert!(outcome.code != 0 && outcome.stderr.contains("RUN exit 3"), "{}", outcome.stderr);
    let pulled = davit().run(["pull", &name]);
    assert!(pulled.code != 0, "the registry has a name of it");
    assert_eq!(bench.davit.ok(["images", "-q", &name]), "");
}

#[test]
fn a_registry_that_is_silent_holds_no_build() {
    // Base layers are looked for at once; the build is interrupted while that hangs.
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[tar_of(&[("a", b"1")])]);
    let server = HttpServer::start(move |request| match request.path.contains("/mine/") {
        true => Reply::status(200).end(End::Silence),
        false => content.serve(request),
    });
    let Some(bench) = alpine(&format!("COPY f /\n{WAIT}\n")) else { return };
    bench.write("f", "1");
    let (name, context) = (format!("{}/mine:1", server.host()), bench.context.to_str().unwrap());
    let args =
        ["build", "--network", "none", "--progress", "plain", "--push", "-t", &name, context];
    let child = bench.davit.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let asked = |_: &std::process::Child| {
        server.requests().iter().any(|request| request.path.contains("/mine/blobs/"))
    };
    let outcome = interrupt(child.unwrap(), asked);
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    // A step that fails does not wait for it, either.
    let Some(bench) = alpine("COPY f /\nRUN exit 3\n") else { return };
    bench.write("f", "1");
    let failed = bench.run(&["--push", "-t", &name]);
    assert!(failed.stderr.contains("RUN exit 3"), "{}", failed.stderr);
    // What a registry refuses is told at the end.
    let refusing = HttpServer::start(|_| Reply::status(403));
    bench.write("Dockerfile", "FROM scratch\nCOPY f /\n");
    let refused = bench.run(&["--push", "-t", &format!("{}/mine:1", refusing.host())]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("mine"), "{}", refused.stderr);
}

#[test]
fn a_layer_is_compressed_once_for_all_who_get_it() {
    let files = [("a", "1"), ("b", "2"), ("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n")];
    let (Some(bench), Some(registry)) = (Bench::new(&files), Registry::start(Access::Open)) else {
        return;
    };
    let (host, folder) = (registry.host(), bench.davit.dir().join("cache"));
    let image = format!("type=registry,name={host}/app:1,compression=zstd");
    let far = format!("type=registry,ref={host}/cache:1,compression=zstd");
    let near = format!("type=local,dest={},compression=zstd", folder.display());
    let file = format!("type=oci,dest={},compression=zstd", folder.with_extension("tar").display());
    let outputs = ["-o", &image, "-o", &file, "--cache-to", &far, "--cache-to", &near];
    let context = bench.context.to_str().unwrap();
    let words = [&["--debug", "build", "--progress", "plain"], &outputs[..], &[context]].concat();
    let outcome = bench.davit.run(&words);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(outcome.stderr.matches(" compressing ").count(), 2, "{}", outcome.stderr);
    // All have got them: another machine has both layers of a cache, and the image.
    let other = Bench { davit: davit(), context: bench.context.clone() };
    let told = other.run(&["--cache-from", &format!("{host}/cache:1")]).stderr;
    assert!(told.contains("(2 of 2 steps cached)"), "{told}");
    davit().ok(["pull", "-q", &format!("{host}/app:1")]);
}
