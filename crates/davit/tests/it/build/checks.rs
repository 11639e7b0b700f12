//! The build checks, and other questions about a Dockerfile.

use std::{fs, os::unix::fs::PermissionsExt as _};

use davit_test::{Access, Registry};
use serde_json::{Value, json};

use super::bench::{Bench, list};

/// A file with two warnings, in lines 2 and 3.
const WARNED: &str = "FROM scratch\nCOPY --chmod=600 f /x$NONE\nCMD run it\n";

#[test]
fn warnings_stand_at_the_end_of_a_build() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", WARNED)]) else { return };
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("warning: 2 warnings")).unwrap();
    assert_eq!(lines[at + 1], "  Dockerfile:2: UndefinedVar: nothing sets `$NONE`");
    assert!(lines[at + 2].starts_with("  Dockerfile:3: JSONArgsRecommended: "), "{lines:?}");
    assert!(lines[at + 3].starts_with("Built sha256:"), "{lines:?}");
    // The cache hides no warning.
    assert!(bench.run(&[]).stderr.contains("warning: 2 warnings"));
    assert!(!bench.run(&["-q"]).stderr.contains("warning"));
    let given = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=UndefinedVar"];
    assert!(bench.run(&given).stderr.contains("warning: a warning of"));

    bench.write("Dockerfile", &format!("# check=error=true\n{WARNED}"));
    let outcome = bench.run(&["-t", "failed"]);
    assert_eq!(outcome.code, 1);
    let message = "error: the build checks fail: JSONArgsRecommended, UndefinedVar\n";
    assert!(outcome.stderr.contains("warning: 2 warnings"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(message), "{}", outcome.stderr);
    assert_eq!(bench.davit.run(["image", "inspect", "failed"]).code, 1);
    let skipped = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true"];
    assert_eq!(bench.run(&skipped).code, 0);
    let wrong = bench.run(&["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip"]);
    assert!(wrong.stderr.contains("error: check option `skip` is none of"), "{}", wrong.stderr);

    // What is found before an error is shown with it.
    bench.write("Dockerfile", "FROM scratch AS Base\nCOPY gone /x\nCOPY ${X:?why} /\n");
    let outcome = bench.run(&[]);
    assert_eq!(outcome.code, 1);
    let first = outcome.stderr.find("Dockerfile:1: StageNameCasing").unwrap();
    assert!(first < outcome.stderr.find("error: ").unwrap(), "{}", outcome.stderr);
}

#[test]
fn rawjson_warnings_are_buildkits() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", WARNED)]) else { return };
    let context = bench.context.to_str().unwrap().to_owned();
    let outcome = bench.davit.run(["build", "--progress", "rawjson", &context]);
    let lines = outcome.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let warnings: Vec<&Value> = lines.iter().filter_map(|line| line.get("warnings")).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let warning = &warnings[1][0];
    let vertexes = lines.iter().filter_map(|line| line["vertexes"].as_array()).flatten();
    let mut steps = vertexes.filter(|vertex| vertex["digest"] == warning["vertex"]);
    assert_eq!(steps.next().unwrap()["name"], "[internal] load build definition from Dockerfile");
    // "JSONArgsRecommended: "
    assert!(warning["short"].as_str().unwrap().starts_with("SlNPTkFyZ3NSZWNvbW1lbmRlZDog"));
    assert_eq!(warning["level"], 1);
    assert!(warning["url"].as_str().unwrap().ends_with("/json-args-recommended/"));
    assert_eq!(warning["range"], json!([{"start": {"line": 3}, "end": {"line": 3}}]));
    assert_eq!(warning["sourceInfo"]["filename"], "Dockerfile");
    assert!(warning["sourceInfo"]["data"].as_str().unwrap().starts_with("RlJPTSBzY3JhdGNo"));
    // The metadata file has them where the environment says so.
    let facts = bench.davit.dir().join("facts.json");
    let told = |variable: Option<(&str, &str)>| {
        let build = ["build", "-q", "--metadata-file", facts.to_str().unwrap(), &context];
        let status = bench.davit.command(build).envs(variable).output().unwrap().status;
        assert!(status.success());
        let facts: Value = serde_json::from_slice(&fs::read(&facts).unwrap()).unwrap();
        facts.get("buildx.build.warnings").cloned()
    };
    assert_eq!(told(None), None);
    let told = told(Some(("BUILDX_METADATA_WARNINGS", "1"))).unwrap();
    assert_eq!(told, json!(warnings.iter().map(|it| it[0].clone()).collect::<Vec<_>>()));
}

#[test]
fn check_shows_where_and_builds_nothing() {
    let Some(bench) = Bench::new(&[("Dockerfile", WARNED), (".dockerignore", "f\n")]) else {
        return;
    };
    let outcome = bench.run(&["--check"]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (1, ""));
    let part = "warning: UndefinedVar: nothing sets `$NONE`\n --> Dockerfile:2:22\n";
    assert!(outcome.stdout.contains(part), "{}", outcome.stdout);
    let line = "2 | COPY --chmod=600 f /x$NONE\n  |                      ^^^^^\n";
    assert!(outcome.stdout.contains(line), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("see https://docs.docker.com/"), "{}", outcome.stdout);
    let ignored = "CopyIgnoredFile: `f` is excluded by line 1 of the ignore file, `f`";
    assert!(outcome.stdout.contains(ignored), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("\n3 warnings\n"), "{}", outcome.stdout);
    assert!(bench.davit.ok(["images", "-aq"]).is_empty(), "nothing is built");
    let code = |args: &[&str]| bench.run(args).code;
    assert_eq!(code(&["--call=check,ignorestatus=true"]), 0);
    assert_eq!(code(&["--call=check", "--target", "gone"]), 1);
    assert_eq!(code(&["--call=chek"]), 125);

    bench.write("Dockerfile", "# check=error=true;skip=JSONArgsRecommended\nFROM scratch\nCMD a\n");
    let outcome = bench.run(&["--check"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "no warnings\n"));

    let outcome = bench.feed(b"FROM scratch\nRUN --network=host x\n", &["--check"]);
    assert_eq!(outcome.code, 0, "nothing runs, so nothing is asked for: {}", outcome.stderr);

    // Several platforms find the same; what a context takes the place of is not looked at.
    let text = b"FROM scratch as a\nCOPY x$A /\nFROM scratch\nCOPY --from=a / /x$B\n";
    let outcome = bench.feed(text, &["--check", "--platform", "linux/amd64,linux/arm64"]);
    assert!(outcome.stdout.ends_with("\n3 warnings\n"), "{}", outcome.stdout);
    let named = format!("a={}", bench.context.display());
    let outcome = bench.feed(text, &["--check", "--build-context", &named]);
    assert!(!outcome.stdout.contains("`$A`"), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("\n2 warnings\n"), "{}", outcome.stdout);

    // An error is one, and what was found before it is told.
    let text = b"FROM scratch AS Base\nCOPY x$Y /\nEXPOSE x\n";
    let outcome = bench.feed(text, &["--check"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stdout.ends_with("\n2 warnings\n"), "{}", outcome.stdout);
    assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("3 | EXPOSE x"), "{}", outcome.stderr);
    let outcome = bench.feed(b"FROM scratch\nRUNN x\n", &["--check"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, ""));
    assert!(outcome.stderr.contains("2 | RUNN x"), "{}", outcome.stderr);
    // No escape of a file reaches the terminal.
    let outcome = bench.feed(b"FROM scratch\nCOPY x\x1b]0;t\x07$Y\x1b[1m /\n", &["--check"]);
    assert!(
        !outcome.stdout.contains(|c: char| c.is_control() && c != '\n'),
        "{:?}",
        outcome.stdout
    );
}

#[test]
fn check_speaks_json_and_sarif() {
    let Some(bench) = Bench::new(&[("Dockerfile", WARNED)]) else { return };
    let ask = |call: &str| -> Value {
        let outcome = bench.run(&[call]);
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let answer = ask("--call=check,format=json");
    let warning = &answer["warnings"][0];
    assert_eq!(warning["ruleName"], "UndefinedVar");
    assert_eq!(warning["detail"], "nothing sets `$NONE`");
    assert!(warning["description"].is_string() && warning["url"].is_string());
    let ranges = json!([{"start": {"line": 2}, "end": {"line": 2}}]);
    assert_eq!(warning["location"], json!({"ranges": ranges}));
    assert_eq!(answer["sources"][0]["filename"], "Dockerfile");
    assert_eq!(answer["sources"][0]["language"], "Dockerfile");
    assert!(answer.get("buildError").is_none());

    let report = ask("--call=check,format=sarif");
    assert_eq!(report["version"], "2.1.0");
    let run = &report["runs"][0];
    assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "JSONArgsRecommended");
    let result = &run["results"][0];
    assert_eq!((&result["ruleId"], &result["ruleIndex"]), (&json!("UndefinedVar"), &json!(1)));
    let place = &result["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "Dockerfile");
    let region = json!({"startLine": 2, "startColumn": 22, "endLine": 2, "endColumn": 27});
    assert_eq!(place["region"], region);

    bench.write("Dockerfile", "FROM scratch\nCOPY ${X:?why} /\n");
    let error = &ask("--call=check,format=json")["buildError"];
    assert!(error["message"].as_str().unwrap().contains("why"), "{error}");
    assert_eq!(error["location"]["ranges"][0]["start"]["line"], 2);
    let notes = &ask("--call=check,format=sarif")["runs"][0]["invocations"][0];
    assert_eq!(notes["executionSuccessful"], false);
    assert!(notes["toolExecutionNotifications"][0]["message"]["text"].is_string());
}

#[test]
fn targets_and_outline_tell_what_a_file_takes() {
    let Some(bench) = Bench::new(&[(
        "Dockerfile",
        "# BASE what it is built upon\n\
         ARG BASE=scratch\n\
         ARG UNUSED\n\
         \n\
         # words\n\
         # build makes it\n\
         FROM $BASE AS build\n\
         # MODE how\n\
         ARG MODE=fast LEVEL\n\
         RUN --mount=type=secret,id=key,required x\n\
         FROM scratch AS other\n\
         ARG ELSEWHERE\n\
         FROM --platform=$BUILDPLATFORM build\n\
         ARG MODE\n\
         ARG TARGETARCH\n\
         RUN --mount=type=ssh x\n",
    )]) else {
        return;
    };
    let ask = |args: &[&str]| {
        let outcome = bench.run(args);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stdout
    };
    let rows = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let targets = ["TARGET DESCRIPTION", "build makes it", "other", "(default)"];
    assert_eq!(rows(&ask(&["--call=targets"])), targets);
    let answer: Value = serde_json::from_str(&ask(&["--call=targets,format=json"])).unwrap();
    let line = |line: u32| json!({"ranges": [{"start": {"line": line}, "end": {"line": line}}]});
    let expected = json!([
        {"name": "build", "description": "makes it", "base": "$BASE", "location": line(7)},
        {"name": "other", "base": "scratch", "location": line(11)},
        {"default": true, "base": "build", "platform": "$BUILDPLATFORM", "location": line(13)},
    ]);
    assert_eq!(answer["targets"], expected);
    assert!(answer["sources"][0].is_string());

    let questions = ask(&["--call=subrequests.describe"]);
    let names: Vec<&str> = questions.lines().map(|it| it.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["NAME", "outline", "targets", "lint", "subrequests.describe"]);
}

#[test]
fn outline_follows_the_target() {
    let Some(bench) = Bench::new(&[(
        "Dockerfile",
        "# BASE what it is built upon\n\
         ARG BASE=scratch\n\
         ARG FROM_BASE=${BASE}\n\
         ARG UNUSED\n\
         FROM $FROM_BASE AS build\n\
         # MODE how\n\
         ARG MODE=fast LEVEL\n\
         FROM scratch AS other\n\
         ARG ELSEWHERE=1\n\
         FROM build\n\
         ARG LEVEL=${MODE}er\n\
         ARG TARGETARCH ID=key\n\
         RUN --mount=type=secret,id=$ID,required --mount=type=secret,target=/x/other y\n\
         RUN --mount=type=ssh --mount=type=ssh,id=deploy,required y\n\
         COPY --from=other / /\n",
    )]) else {
        return;
    };
    let ask = |args: &[&str]| -> Value {
        let outcome = bench.run(&[&["--call=outline,format=json"], args].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let names = |answer: &Value| -> Vec<String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = |it: &Value| format!("{}={}", text(&it["name"]), text(&it["value"]));
        answer["args"].as_array().unwrap().iter().map(name).collect()
    };
    let all = ask(&[]);
    let expected =
        ["BASE=scratch", "FROM_BASE=scratch", "MODE=fast", "ELSEWHERE=1", "LEVEL=faster", "ID=key"];
    assert_eq!(names(&all), expected);
    assert_eq!(all["args"][0]["description"], "what it is built upon");
    assert_eq!(all["args"][2]["description"], "how");
    assert_eq!(all["args"][0]["location"]["ranges"][0]["start"]["line"], 2);
    let inputs = |list: &str| -> Vec<(String, bool)> {
        let input = |it: &Value| (it["name"].as_str().unwrap().to_owned(), it["required"] == true);
        all[list].as_array().unwrap().iter().map(input).collect()
    };
    assert_eq!(inputs("secrets"), [("key".to_owned(), true), ("other".to_owned(), false)]);
    assert_eq!(inputs("ssh"), [("default".to_owned(), false), ("deploy".to_owned(), true)]);
    let given = ask(&["--target", "build", "--build-arg", "MODE=slow"]);
    assert_eq!(names(&given), ["BASE=scratch", "FROM_BASE=scratch", "MODE=slow", "LEVEL="]);
    let text = bench.run(&["--call=outline", "--target", "other"]).stdout;
    let rows: Vec<&str> = text.lines().map(str::trim_end).collect();
    assert_eq!(rows[0], "TARGET:   other");
    assert_eq!(rows[2..], ["BUILD ARG   VALUE     DESCRIPTION", "ELSEWHERE   1"]);
}

/// An outline is refused where a build is; what lists the targets checks nothing. So does BuildKit.
#[test]
fn warnings_that_are_errors_end_an_outline() {
    let text = "# check=error=true\nFROM scratch AS Up\nCOPY kept left /\n";
    let Some(bench) = Bench::new(&[("Dockerfile", text), (".dockerignore", "left\n")]) else {
        return;
    };
    let ask = |args: &[&str]| bench.run(args);
    let outlined = ask(&["--call=outline"]);
    assert_eq!((outlined.code, &*outlined.stdout), (1, ""));
    let named = outlined.stderr.lines().next().unwrap();
    assert!(named.contains("StageNameCasing") && named.contains("CopyIgnoredFile"), "{named}");
    assert_eq!(ask(&["--call=targets"]).code, 0);
    let skipped = "BUILDKIT_DOCKERFILE_CHECK=skip=all;error=true";
    assert_eq!(ask(&["--call=outline", "--build-arg", skipped]).code, 0);
}

#[test]
fn fix_mends_the_file_and_says_what_is_left() {
    let Some(bench) = Bench::new(&[("real", "from scratch AS a\n# kept\ncmd run $IT\nrun  x\n")])
    else {
        return;
    };
    let real = bench.context.join("real");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real", bench.context.join("Dockerfile")).unwrap();
    let outcome = bench.run(&["--check", "--fix"]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert_eq!(outcome.stderr, "fixed Dockerfile:1: FromAsCasing\n");
    assert!(outcome.stdout.contains("\nnot fixed: the shell does more"), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("\n1 warning\n"), "{}", outcome.stdout);
    let text = fs::read_to_string(&real).unwrap();
    assert_eq!(text, "from scratch as a\n# kept\ncmd run $IT\nrun  x\n");
    assert_eq!(real.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert!(bench.context.join("Dockerfile").is_symlink());
    assert_eq!(list(&bench.context).len(), 2, "nothing else is left");

    let before = real.metadata().unwrap().modified().unwrap();
    assert_eq!(bench.run(&["--check", "--fix"]).stderr, "nothing to fix\n");
    assert_eq!(real.metadata().unwrap().modified().unwrap(), before);
    fs::write(&real, "FROM scratch\nCMD run it\n").unwrap();
    let outcome = bench.run(&["--check", "--fix"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "no warnings\n"));
    assert_eq!(fs::read_to_string(&real).unwrap(), "FROM scratch\nCMD [\"run\", \"it\"]\n");
    assert_eq!(bench.run(&["--fix"]).code, 125);
    assert_eq!(bench.feed(b"FROM scratch\n", &["--check", "--fix"]).code, 125);
    // A file that cannot be built is left alone.
    let broken = "from scratch AS a\nCOPY ${X:?why} /\n";
    fs::write(&real, broken).unwrap();
    assert_eq!(bench.run(&["--check", "--fix"]).code, 1);
    assert_eq!(fs::read_to_string(&real).unwrap(), broken);
}

/// Of a base image only the config is fetched, and nothing keeps it.
#[test]
fn check_fetches_no_layers() {
    let (Some(bench), Some(registry)) = (Bench::new(&[("f", "1")]), Registry::start(Access::Open))
    else {
        return;
    };
    bench.write("Dockerfile", "FROM scratch\nCOPY f /f\nENV FROM_BASE=1\nSHELL [\"/x\"]\n");
    let name = format!("{}/base:1", registry.host());
    bench.build(&["-t", &name]);
    bench.davit.ok(["push", &name]);
    bench.davit.ok(["system", "reset", "--force"]);
    bench.write("Dockerfile", &format!("FROM {name}\nCOPY f /$FROM_BASE$NONE\nCMD a b\n"));
    let outcome = bench.run(&["--check"]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stdout.contains("nothing sets `$NONE`"), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("\n1 warning\n"), "the config counts: {}", outcome.stdout);
    assert!(bench.davit.ok(["images", "-aq"]).is_empty());
    let layers = fs::read_dir(bench.davit.root().join("layers/sha256")).unwrap();
    assert_eq!(layers.count(), 0, "no layer is fetched");
    bench.write("Dockerfile", &format!("FROM {}/gone:1\n", registry.host()));
    let outcome = bench.run(&["--check"]);
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("1 | FROM"), "{}", outcome.stderr);
}
