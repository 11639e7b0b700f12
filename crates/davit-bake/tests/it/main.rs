//! Definitions as text, and what becomes of them.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs, reason = "tests")]

mod cases;

use std::collections::BTreeMap;

use davit_bake::{BakeFile, Definitions, Paths, Plan, Surroundings};
use serde_json::{Value, json};

fn read(name: &str, text: &str, environment: &[(&str, &str)]) -> Result<Definitions, String> {
    let environment: BTreeMap<String, String> =
        environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let builtin = BTreeMap::from([("BAKE_LOCAL_PLATFORM".to_owned(), "linux/amd64".to_owned())]);
    let file = BakeFile { name: name.to_owned(), text: text.to_owned() };
    let surroundings = Surroundings { environment, builtin, ..Surroundings::default() };
    Definitions::read(&[file], surroundings).map_err(|error| words(&error))
}

fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", words(cause)),
        None => error.to_string(),
    }
}

fn plan(text: &str, targets: &[&str], set: &[&str]) -> Result<Plan, String> {
    let owned = |all: &[&str]| all.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
    let definitions = read("docker-bake.hcl", text, &[])?;
    definitions.resolve(&owned(targets), &owned(set), &|_| None).map_err(|error| words(&error))
}

fn target(text: &str, name: &str) -> Value {
    plan(text, &[name], &[]).unwrap().to_json()["target"][name].clone()
}

/// The value that an expression has as the build argument `A`.
fn value(expression: &str) -> Result<String, String> {
    let text =
        format!("n = 3\nl = [\"a\", \"b\"]\ntarget \"t\" {{\n  args = {{ A = {expression} }}\n}}");
    let plan = plan(&text, &["t"], &[])?;
    Ok(plan.targets["t"].pairs("args").pop().map(|(_, value)| value).unwrap_or_default())
}

#[test]
fn evaluates_expressions() {
    for (expression, expected) in [
        ("1 + 2 * n", "7"),
        ("10 / 4", "2.5"),
        ("-n % 2", "-1"),
        ("n > 2 && !false ? \"yes\" : \"no\"", "yes"),
        // What decides makes the other side's failure count for nothing.
        ("l == [] || l[5] == \"x\" || n == 3", "true"),
        ("n == 0 && l[5] == \"x\"", "false"),
        ("l[5] == \"x\" || true", "true"),
        ("l[5] == \"x\" && false ? 1 : 2", "2"),
        ("\"v${n}.${l[1]}\"", "vb"),
        ("\"$${n}\"", "${n}"),
        ("join(\"-\", [for i, x in l: \"${i}${x}\" if x != \"c\"])", "0a-1b"),
        ("join(\",\", keys({for x in l: upper(x) => 1}))", "A,B"),
        ("join(\",\", [{a = 1}, {a = 2}][*].a)", "1,2"),
        ("join(\",\", concat(l, [[\"c\"]]...))", "a,b,c"),
        ("\"%{ if n == 3 }three%{ else }other%{ endif }\"", "three"),
        ("\"%{ for x in l ~} ${x}%{ endfor }\"", "ab"),
        ("format(\"%s-%03d%%\", \"x\", 7)", "x-007%"),
        ("try(missing, \"other\")", "other"),
        ("substr(\"hello\", -3, 2)", "ll"),
        ("replace(\"1.2.3\", \".\", \"-\")", "1-2-3"),
        ("regex_replace(\"a1b2\", \"[0-9]\", \"\")", "ab"),
        ("length(setunion(l, l))", "2"),
        ("sanitize(\"a/b.c\")", "a_b_c"),
        ("semvercmp(\"1.2.3\", \">= 1.2\")", "true"),
        ("sha256(\"\")", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("base64decode(base64encode(\"x y\"))", "x y"),
        ("lookup({a = \"b\"}, \"c\", \"d\")", "d"),
        ("element(range(5), 7)", "2"),
        ("dirname(\"/a/b\")", "/a"),
        ("BAKE_LOCAL_PLATFORM", "linux/amd64"),
    ] {
        let expected = expected.replace("vb", "v3.b");
        assert_eq!(value(expression).as_deref(), Ok(expected.as_str()), "{expression}");
    }
    for (expression, problem) in [
        ("missing", "no variable `missing`"),
        ("nothing()", "no function `nothing`"),
        ("md5(\"a\", \"b\")", "2 arguments are too many or too few"),
        ("bcrypt(\"x\", 30)", "too many steps"),
        ("1 / 0", "not a number"),
        ("\"x${l}\"", "a list is not a text"),
        ("range(1000000000)", "too long"),
        ("target.t.args.A", "made of itself"),
        ("n == 3 && l[5] == \"x\"", "no element `5`"),
        ("n == 0 && \"x\"", "not true or false"),
        ("null || n == 0", "not true or false"),
        ("true || bcrypt(\"x\", 30) == \"\"", "too many steps"),
        ("indent(2000, \"x\")", "too many"),
    ] {
        let error = value(expression).unwrap_err();
        assert!(error.contains(problem), "{expression}: {error}");
    }
}

#[test]
fn variables_have_types_and_come_from_the_environment() {
    let text = r#"
        variable "TAG" { default = "latest" }
        variable "DEBUG" { default = false }
        variable "COUNT" {
          type = number
          default = 1
          description = "how many"
          validation {
            condition = COUNT < 10
            error_message = "fewer than ten"
          }
        }
        variable "LIST" {
          type = list(string)
          default = []
        }
        variable "EMPTY" {}
        variable "NONE" { type = string }
    "#;
    let shown = |environment: &[(&str, &str)]| {
        let definitions = read("f.hcl", text, environment)?;
        let all = definitions.variables().map_err(|error| words(&error))?;
        let all = all.into_iter().map(|it| it.value.unwrap_or_else(|| "<null>".to_owned()));
        Ok::<_, String>(all.collect::<Vec<_>>().join(" "))
    };
    assert_eq!(shown(&[]).unwrap(), "1 false  [] <null> latest");
    let environment = [("TAG", "v1"), ("DEBUG", "1"), ("COUNT", "2"), ("LIST", "a,\"b,c\"")];
    assert_eq!(shown(&environment).unwrap(), "2 true  [\"a\",\"b,c\"] <null> v1");
    assert_eq!(shown(&[("LIST_JSON", "[\"x\"]")]).unwrap(), "1 false  [\"x\"] <null> latest");
    assert!(shown(&[("COUNT", "10")]).unwrap_err().contains("fewer than ten"));
    assert!(shown(&[("COUNT", "x")]).unwrap_err().contains("not a number"));
    assert!(shown(&[("DEBUG", "maybe")]).unwrap_err().contains("true or false"));
}

#[test]
fn targets_join_their_parents_and_matrices() {
    let text = r#"
        function "tag" {
          params = [name]
          variadic_params = rest
          result = "reg/${name}:${join("-", rest)}"
        }
        group "default" { targets = ["app", "lint"] }
        target "_base" {
          args = { A = "1", B = "2", C = null }
          labels = { "org.x" = "y$${z}" }
          platforms = ["linux/amd64"]
          cache-from = ["user/cache"]
        }
        target "app" {
          inherits = ["_base"]
          args = { B = "3" }
          tags = [tag("app", "v1", "x")]
          output = ["type=docker", { type = "local", dest = "out" }]
          secret = ["id=s,type=env,source=TOKEN"]
          contexts = { base = "target:base", dropped = "" }
          network = "host"
          no-cache = true
        }
        target "base" { dockerfile-inline = "FROM scratch" }
        target "lint" {
          name = "lint-${v}-${replace(os, ".", "_")}"
          matrix = {
            v = [1, 2]
            os = ["a.b", "c"]
          }
          target = v == 2 ? "second" : null
        }
    "#;
    let all = plan(text, &["default"], &[]).unwrap();
    assert_eq!(all.linked.iter().collect::<Vec<_>>(), ["base"]);
    let shown = all.to_json();
    assert_eq!(
        shown["group"],
        json!({
            "default": {"targets": ["app", "lint"]},
            "lint": {"targets": ["lint-1-a_b", "lint-2-a_b", "lint-1-c", "lint-2-c"]},
        })
    );
    let expected = r#"{"context":".","contexts":{"base":"target:base"},"dockerfile":"Dockerfile","args":{"A":"1","B":"3"},"labels":{"org.x":"y$${z}"},"tags":["reg/app:v1-x"],"cache-from":[{"ref":"user/cache","type":"registry"}],"secret":[{"id":"s","env":"TOKEN"}],"platforms":["linux/amd64"],"output":[{"type":"docker"},{"dest":"out","type":"local"}],"no-cache":true,"network":"host","entitlements":["network.host"]}"#;
    assert_eq!(shown["target"]["app"].to_string(), expected);
    assert_eq!(shown["target"]["base"]["output"], json!([{"type": "cacheonly"}]));
    assert_eq!(shown["target"]["lint-2-c"]["target"], json!("second"));
    assert_eq!(shown["target"]["lint-1-c"].get("target"), None);
    let app = &all.targets["app"];
    assert_eq!(app.words("output"), ["type=docker", "type=local,dest=out"]);
    assert_eq!(app.words("secret"), ["id=s,env=TOKEN"]);
}

#[test]
fn json_says_the_same_as_hcl() {
    let text = r#"{
        "variable": {"TAG": {"default": "v1"}},
        "function": {"twice": {"params": ["x"], "result": "${x}${x}"}},
        "group": {"default": {"targets": ["app"]}},
        "target": {"app": {"tags": ["reg/app:${TAG}", "${twice(\"a\")}"], "args": {"N": 1}}}
    }"#;
    let definitions = read("-", text, &[("TAG", "v2")]).unwrap();
    let plan = definitions.resolve(&["default".to_owned()], &[], &|_| None).unwrap();
    let expected = json!({
        "group": {"default": {"targets": ["app"]}},
        "target": {"app": {
            "context": ".", "dockerfile": "Dockerfile",
            "args": {"N": "1"}, "tags": ["reg/app:v2", "aa"],
        }},
    });
    assert_eq!(plan.to_json(), expected);
    for (text, problem) in [
        ("[]", "no JSON object"),
        ("{\"target\": 1}", "`target` is no object"),
        ("{\"target\": {\"a\": {\"nope\": 1}}}", "no attribute `nope`"),
        ("{\"target\": {\"a\": {\"tags\": [\"${\"]}}}", "not a template"),
    ] {
        let error = read("x.json", text, &[])
            .and_then(|it| it.list().map_err(|error| words(&error)).map(drop))
            .unwrap_err();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn what_is_set_wins() {
    let text = r#"
        target "a" {
          tags = ["one"]
          args = { X = "1" }
          output = ["type=image,name=x"]
        }
        target "b" { inherits = ["a"] }
    "#;
    let set = |words: &[&str]| plan(text, &["a", "b"], words);
    let all = set(&[
        "*.args.X=2",
        "a.args.Y.Z=3",
        "a.tags=t1",
        "a.tags=t2",
        "b.tags+=t3",
        "a.platform=linux/arm64",
        "b.no-cache=true",
        "*.push=true",
        "a.context=dir",
        "a.secret.s=env=S",
    ]);
    let (a, b) = {
        let shown = all.unwrap().to_json();
        (shown["target"]["a"].clone(), shown["target"]["b"].clone())
    };
    assert_eq!(a["args"], json!({"X": "2", "Y.Z": "3"}));
    assert_eq!((&a["tags"], &a["context"]), (&json!(["t1", "t2"]), &json!("dir")));
    assert_eq!(a["platforms"], json!(["linux/arm64"]));
    assert_eq!(a["output"], json!([{"name": "x", "push": "true", "type": "image"}]));
    assert_eq!(a["secret"], json!([{"env": "S", "id": "s"}]));
    assert_eq!((&b["tags"], &b["no-cache"]), (&json!(["t1", "t2", "t3"]), &json!(true)));
    for (word, problem) in [
        ("a", "not of the form"),
        ("a.tags", "the value is missing"),
        ("a.nope=1", "no attribute `nope`"),
        ("a.args=1", "args has names"),
        ("z.tags=1", "no target `z`"),
        ("a.no-cache=maybe", "true or false"),
    ] {
        let error = set(&[word]).unwrap_err();
        assert!(error.contains(problem), "{word}: {error}");
    }
}

/// Each takes little to write, and would take minutes or gigabytes without its bound.
#[test]
fn what_grows_by_being_used_is_bounded() {
    let groups: String = (0..400).map(|at| format!("(?P<g{at}>)")).collect();
    let list = |count: usize| format!("[{}]", "1,".repeat(count));
    let numbers: Vec<String> = (0..150_000).map(|it| it.to_string()).collect();
    let numbers = format!("[{}]", numbers.join(","));
    let nest = |inner: &str| format!("{}{inner}{}", "[".repeat(60), "]".repeat(60));
    let deep: String = (1..300)
        .map(|at| {
            let value = nest(&format!("v{}", at - 1));
            format!("variable \"v{at}\" {{\n default = {value}\n}}\n")
        })
        .collect();
    let heirs: String =
        (0..4000).map(|at| format!("target \"h{at}\" {{\n inherits = [\"base\"]\n}}\n")).collect();
    let axes = "{ a = range(100), b = range(100) }";
    let matrices: String =
        (0..2000).map(|at| format!("target \"m{at}\" {{\n matrix = {axes}\n}}\n")).collect();
    let text = "\"${x}\"";
    for (text, problem) in [
        (format!("A = length(regexall(\"{groups}x?\", join(\"\", split(\"1\", s))))"), "too many"),
        ("A = length(regexall(\".*b|x\", s))".to_owned(), "too many"),
        (format!("A = join(s, {})", list(10_000)), "too long"),
        ("A = length(split(\"\", \"${s}${s}${s}${s}${s}${s}${s}${s}\"))".to_owned(), "too many"),
        (format!("A = {text}"), "no variable"),
    ] {
        let definition =
            format!("s = \"{}\"\ntarget \"t\" {{\n args = {{ {text} }}\n}}\n", "x".repeat(1 << 19));
        let error = plan(&definition, &["t"], &[]).map(drop).unwrap_err();
        assert!(error.contains(problem), "{text}: {error}");
    }
    for (text, names, problem) in [
        (
            format!("variable \"v0\" {{\n default = []\n}}\n{deep}target \"t\" {{}}\n"),
            "t",
            "too many",
        ),
        (
            format!("target \"base\" {{\n tags = {}\n}}\n{heirs}", list(100_000)),
            "*",
            "too much memory",
        ),
        (
            format!("target \"t\" {{\n args = {{ A = target.m0.network }}\n}}\n{matrices}"),
            "t",
            "too many",
        ),
    ] {
        let error = plan(&text, &[names], &[]).map(drop).unwrap_err();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    // These are no more than long.
    let set = format!("variable \"s\" {{\n type = set(number)\n default = {numbers}\n}}\n");
    assert!(plan(&format!("{set}target \"t\" {{}}"), &["t"], &[]).is_ok());
    let both = format!("length(setintersection({numbers}, {}))", list(100));
    assert_eq!(value(&both).as_deref(), Ok("1"));
    // Two ways to each target.
    let ways: String = (0..60)
        .map(|at| {
            let next = at + 1;
            format!(
                "target \"a{at}\" {{\n contexts = {{ x = \"target:a{next}\", \
                 y = \"target:b{next}\" }}\n}}\ntarget \"b{at}\" {{\n contexts = {{ \
                 x = \"target:a{next}\", y = \"target:b{next}\" }}\n}}\n"
            )
        })
        .collect();
    let ways = format!("{ways}target \"a60\" {{}}\ntarget \"b60\" {{}}\n");
    assert_eq!(plan(&ways, &["a0"], &[]).unwrap().targets.len(), 121);
}

/// As buildx with `BUILDX_BAKE_FILE_RELATIVE_PATHS`.
#[test]
fn contexts_may_go_out_from_their_files() {
    let file = |name: &str, text: &str| BakeFile { name: name.to_owned(), text: text.to_owned() };
    let files = [
        file(
            "a/docker-bake.hcl",
            "target \"one\" {\n context = \"x\"\n contexts = { n = \"../n\", m = \
             \"docker-image://i\" }\n}\ntarget \"none\" {}\ntarget \"heir\" {\n inherits = \
             [\"one\"]\n}\ntarget \"far\" {\n context = \"cwd://x\"\n}\n",
        ),
        file(
            "b/more.json",
            "{\"target\": {\"one\": {\"contexts\": {\"k\": \"k\"}}, \"two\": {\"context\": \"y\"}}}",
        ),
        file("c/last.hcl", "target \"three\" {\n context = target.one.context\n}\n"),
        file("d/compose.yaml", "services: {s: {build: {additional_contexts: {z: ./z}}}}\n"),
        file("e/compose.yaml", "services: {u: {build: y}}\n"),
        file("<standard input>", "target \"typed\" { context = \"t\" }\n"),
    ];
    let resolve = |paths: Paths, set: &[String]| {
        let surroundings = Surroundings { paths, ..Surroundings::default() };
        let definitions = Definitions::read(&files, surroundings).unwrap();
        definitions.resolve(&["*".to_owned()], set, &|_| None).unwrap().to_json()
    };
    let found = resolve(Paths::OfFiles, &["two.context=set".to_owned()]);
    let context = |name: &str| found["target"][name]["context"].as_str().unwrap().to_owned();
    for (name, expected) in [
        ("one", "a/x"),
        ("none", "a"),
        ("heir", "a/x"),
        ("far", "x"),
        ("two", "set"),
        ("three", "a/x"),
        ("s", "d"),
        ("u", "d/y"),
        ("typed", "t"),
    ] {
        assert_eq!(context(name), expected, "{name}");
    }
    let contexts = json!({"k": "b/k", "m": "docker-image://i", "n": "n"});
    assert_eq!(found["target"]["one"]["contexts"], contexts);
    assert_eq!(found["target"]["s"]["contexts"]["z"], "d/z");
    let found = resolve(Paths::OfCaller, &[]);
    assert_eq!(found["target"]["one"]["context"], "x");
    assert_eq!(found["target"]["none"]["context"], ".");
}

#[test]
fn hostile_definitions_end() {
    let doubling: String =
        (0..60).map(|at| format!("v{} = \"${{v{at}}}${{v{at}}}\"\n", at + 1)).collect();
    let nested = "[for a in range(1000): [for b in range(1000): [for c in range(1000): c]]]";
    let deep =
        format!("target \"t\" {{ args = {{ A = {}1{} }} }}", "(".repeat(5000), ")".repeat(5000));
    let parents: String = (0..2000)
        .map(|at| format!("target \"t{at}\" {{ inherits = [\"t{}\"] }}\n", at + 1))
        .collect();
    for (text, problem) in [
        (format!("v0 = \"x\"\n{doubling}target \"t\" {{ args = {{ A = v60 }} }}"), "too many"),
        (format!("target \"t\" {{ args = {{ A = length({nested}) }} }}"), "too many"),
        ("a = b\nb = a\ntarget \"t\" { args = { A = a } }".to_owned(), "made of itself"),
        (
            "function \"f\" {\n params = [x]\n result = f(x)\n}\ntarget \"t\" { args = { A = f(1) } }"
                .to_owned(),
            "too deep",
        ),
        ("target \"t\" { inherits = [\"t\"] }".to_owned(), "made of itself"),
        ("target \"t\" { contexts = { t = \"target:t\" } }".to_owned(), "made of itself"),
        (format!("{parents}target \"t\" {{ inherits = [\"t0\"] }}"), "more than"),
        (deep, "nest"),
        ("x".repeat(2 << 20), "larger than"),
        ("target \"../t\" {}".to_owned(), "not a target's name"),
        ("target \"t\" {\n  x \"y\" {}\n}".to_owned(), "no block `x`"),
        ("target \"t\" {\n  nope = 1\n}".to_owned(), "docker-bake.hcl:2: there is no attribute"),
    ] {
        let error = plan(&text, &["t"], &[]).map(drop).unwrap_err();
        assert!(error.contains(problem), "{problem}: {error}");
    }
    assert!(target("target \"t\" {}", "t").is_object());
}
