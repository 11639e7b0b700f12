//! What a second build sees of what changed since the first one, and where a Dockerfile may lie.

use std::fs;

use super::bench::Bench;
use crate::build_judge::context;

/// A bench with an image `base` that has a shell.
fn bench(files: &[(&str, &str)]) -> Option<Bench> {
    let bench = Bench::new(files)?;
    let base = bench.davit.dir().join("base.tar");
    context::make_base(&context::busybox()?, &base, &bench.davit.dir().join("base"));
    bench.davit.ok(["load", "--quiet", "--input", base.to_str().unwrap()]);
    Some(bench)
}

fn read(bench: &Bench, args: &[&str], name: &str) -> String {
    fs::read_to_string(bench.files(args).join(name)).unwrap()
}

const UNIQUE: &str = "cat /proc/sys/kernel/random/uuid";

#[test]
fn a_command_runs_again_where_what_it_can_see_changed() {
    let dockerfile = format!(
        "FROM base AS one\nCOPY foo* files/\nRUN {UNIQUE} > unique\nCOPY bar files/\n\
         FROM base AS out\nCOPY bust /\nRUN mkdir /out && echo foo > /out/foo\n\
         FROM base AS two\nRUN --mount=from=out,src=out,target=/out,rw touch /out/b && {UNIQUE} > /two\n\
         FROM base AS three\n\
         RUN --mount=source=.,target=/x --mount=source=b,target=/x/b cat /x/a /x/b > /three\n\
         FROM scratch\nCOPY --from=one unique /\nCOPY --from=two /two /\nCOPY --from=three /three /\n"
    );
    let files =
        [("foo1", "1"), ("foo2", "2"), ("bar", "bar"), ("bust", "0"), ("a", "a"), ("b", "b")];
    let Some(bench) = bench(&files) else { return };
    bench.write("Dockerfile", &dockerfile);
    let build = || {
        let out = bench.files(&[]);
        ["unique", "two", "three"].map(|name| fs::read_to_string(out.join(name)).unwrap())
    };
    let [unique, two, three] = build();
    assert_eq!(three, "ab");
    // What comes after it, and what it reads the same of.
    bench.write("bar", "changed");
    bench.write("bust", "1");
    assert_eq!(build(), [unique.clone(), two.clone(), three]);
    bench.write("foo2", "changed");
    bench.write("a", "A");
    let [again, same, three] = build();
    assert_ne!(again, unique);
    assert_eq!((same, three), (two, "Ab".to_owned()));
    fs::rename(bench.context.join("foo1"), bench.context.join("foo3")).unwrap();
    bench.write("Dockerfile", &format!("{dockerfile}COPY --from=one files/ /files\n"));
    let mut names: Vec<_> = fs::read_dir(bench.files(&[]).join("files"))
        .unwrap()
        .map(|it| it.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["bar", "foo2", "foo3"], "a wildcard finds another name");
}

#[test]
fn proxies_are_no_reason_to_run_again() {
    let Some(bench) = bench(&[]) else { return };
    bench.write("Dockerfile", &format!(
        "FROM base\nARG FOO\nRUN echo \"$HTTP_PROXY::$NO_PROXY::$FOO\" > /out && {UNIQUE} >> /out\n"
    ));
    let out = |args: &[&str]| read(&bench, args, "out");
    let first = out(&["--build-arg", "FOO=1", "--build-arg", "http_proxy=one"]);
    assert!(first.starts_with("one::::1\n"), "{first}");
    assert_eq!(out(&["--build-arg", "FOO=1", "--build-arg", "http_proxy=two"]), first);
    let other = out(&["--build-arg", "FOO=2", "--build-arg", "http_proxy=two"]);
    assert!(other.starts_with("two::::2\n"), "{other}");
}

#[test]
fn no_cache_leaves_cache_mounts_alone() {
    let Some(bench) = bench(&[]) else { return };
    bench.write(
        "Dockerfile",
        "FROM base AS one\nARG FOO=abc\n\
         RUN --mount=type=cache,target=/c,mode=0773 touch /c/$FOO && set -- $(ls /c) && echo $# > /out\n\
         FROM scratch\nCOPY --from=one /out /\n",
    );
    let out = |args: &[&str]| read(&bench, args, "out");
    assert_eq!(out(&[]), "1\n");
    // BuildKit empties it: what is in a cache mount is no result of a step.
    assert_eq!(out(&["--no-cache", "--build-arg", "FOO=def"]), "2\n");
    assert_eq!(out(&["--build-arg", "FOO=ghi"]), "3\n");
}

#[test]
fn a_name_may_become_another_kind_of_file() {
    let Some(bench) = bench(&[("foo/bar", "in"), ("Dockerfile", "FROM scratch\nCOPY foo /\n")])
    else {
        return;
    };
    assert_eq!(read(&bench, &[], "bar"), "in");
    fs::remove_dir_all(bench.context.join("foo")).unwrap();
    bench.write("foo", "file");
    assert_eq!(read(&bench, &[], "foo"), "file");
    let names = || fs::read_dir(bench.davit.root().join("layers")).unwrap().count();
    let before = names();
    bench.build(&["-t", "one"]);
    bench.build(&["-t", "two"]);
    assert_eq!(names(), before, "the same layers serve all builds");
    let id = |name: &str| bench.davit.ok(["images", "--quiet", "--no-trunc", name]);
    assert_eq!(id("one"), id("two"));
}

#[test]
fn a_dockerfile_may_be_a_link_lower_case_or_elsewhere() {
    let Some(bench) = bench(&[("web", "FROM scratch\nENV foo=bar\nCOPY f /\n"), ("f", "1")]) else {
        return;
    };
    let has = |args: &[&str]| {
        let env = bench.build(args)["config"]["Env"].to_string();
        assert!(env.contains("foo=bar"), "{args:?}: {env}");
    };
    let dockerfile = bench.context.join("Dockerfile");
    std::os::unix::fs::symlink("web", &dockerfile).unwrap();
    has(&[]);
    fs::remove_file(&dockerfile).unwrap();
    fs::rename(bench.context.join("web"), bench.context.join("dockerfile")).unwrap();
    has(&[]);
    let elsewhere = bench.davit.dir().join("elsewhere");
    fs::rename(bench.context.join("dockerfile"), &elsewhere).unwrap();
    has(&["-f", elsewhere.to_str().unwrap()]);
    let mut command = bench.davit.command(["build", "-f", "../elsewhere", "."]);
    assert!(command.current_dir(&bench.context).output().unwrap().status.success());
}

#[test]
fn an_image_without_layers_is_a_base() {
    let Some(bench) = bench(&[("f", "1"), ("Dockerfile", "FROM scratch\nLABEL foo=bar\n")]) else {
        return;
    };
    bench.build(&["-t", "empty"]);
    bench.write("Dockerfile", "FROM empty\nLABEL bar=baz\nCOPY f .\n");
    let config = bench.build(&[]);
    assert_eq!(config["config"]["Labels"]["foo"], "bar");
    assert_eq!(config["config"]["Labels"]["bar"], "baz");
    bench.write(
        "Dockerfile",
        "FROM base\nRUN --mount=from=empty,target=/e,rw echo -n 1 > /e/f && cat /e/f > /seen\n",
    );
    assert_eq!(read(&bench, &[], "seen"), "1");
}

#[test]
fn triggers_of_an_image_may_need_what_this_file_has() {
    let Some(bench) = bench(&[]) else { return };
    let dockerfile = |text: &str| bench.write("Dockerfile", text);
    dockerfile("FROM base\nONBUILD COPY --from=other /f /out/f\n");
    bench.build(&["-t", "asks"]);
    dockerfile(
        "FROM base\nONBUILD RUN --mount=type=bind,target=/in,from=input cat /in/out/f > /both\n",
    );
    bench.build(&["-t", "mounts"]);
    dockerfile(
        "FROM base\nONBUILD RUN --mount=type=cache,target=/t echo 42 >> /t/f && echo 11 > /bar\n",
    );
    bench.build(&["-t", "caches"]);
    dockerfile(
        "FROM base AS other\nRUN echo hello > /f\nFROM asks AS input\nFROM mounts AS last\n\
         FROM caches AS cache\n\
         RUN --mount=type=cache,target=/t cat /t/f /bar > /seen\n\
         FROM scratch\nCOPY --from=last /both /\nCOPY --from=cache /seen /\n",
    );
    let out = bench.files(&[]);
    assert_eq!(fs::read_to_string(out.join("both")).unwrap(), "hello\n");
    assert_eq!(fs::read_to_string(out.join("seen")).unwrap(), "42\n11\n");
    let layout = bench.davit.dir().join("layout");
    dockerfile("FROM asks AS x\nFROM scratch\n");
    let spec = format!("type=oci,tar=false,dest={}", layout.display());
    dockerfile("FROM base\nONBUILD COPY --from=other /f /out/f\n");
    let outcome = bench.run(&["-o", &spec]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    dockerfile(
        "FROM base AS other\nRUN echo named > /f\nFROM nowhere AS input\n\
         FROM scratch\nCOPY --from=input /out/f /bar\n",
    );
    let context = format!("nowhere=oci-layout://{}", layout.display());
    assert_eq!(read(&bench, &["--build-context", &context], "bar"), "named\n");
}

#[test]
fn steps_have_the_names_of_stages() {
    let Some(bench) = bench(&[]) else { return };
    bench.write(
        "Dockerfile",
        "FROM base AS low\nWORKDIR /out\nRUN echo \"base\" > base\n\
         FROM scratch\nCOPY --from=low --chmod=0644 /out /out\n",
    );
    let outcome = bench.run(&[]);
    for name in [
        "[low 3/3] RUN echo \"base\" > base",
        "[stage-1 1/1] COPY --from=low --chmod=0644 /out /out",
    ] {
        assert!(outcome.stderr.contains(name), "{name}: {}", outcome.stderr);
    }
}

#[test]
fn an_index_may_hold_images_without_layers() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\n")]) else { return };
    let layout = bench.davit.dir().join("layout");
    let spec = format!("type=oci,tar=false,dest={}", layout.display());
    let outcome = bench.run(&["--platform", "linux/arm64,linux/amd64", "-o", &spec]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let read = |path: &str| -> serde_json::Value {
        serde_json::from_slice(&fs::read(layout.join(path)).unwrap()).unwrap()
    };
    let blob = |descriptor: &serde_json::Value| {
        read(&format!("blobs/{}", descriptor["digest"].as_str().unwrap().replace(':', "/")))
    };
    let index = blob(&read("index.json")["manifests"][0]);
    for (manifest, architecture) in
        index["manifests"].as_array().unwrap().iter().zip(["arm64", "amd64"])
    {
        assert_eq!(manifest["platform"]["architecture"], architecture);
        assert_eq!(blob(manifest)["layers"], serde_json::json!([]));
    }
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
}
