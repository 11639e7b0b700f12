//! The call behind `POST /build`, asked by Docker's command line without BuildKit.

use std::{
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use davit_engine::{
    Config, Engine, Settings, Silent,
    build::{ClassicBuild, ClassicParameters, TarStream},
};
use davit_test::{Davit, HttpServer, Reply, Request, need_tool, noise};
use serde_json::Value;

use super::bench::{Bench, alpine, tar_file};

const DOCKERFILE: &str = "ARG V=1\nFROM scratch AS unused\nCOPY x /never\nFROM scratch\nARG V\nLABEL v=$V\n\
                          COPY x /x\nCOPY x \\\n  /y\n";

fn engine(davit: &Davit) -> Engine {
    let config = Config {
        root: davit.root(),
        run_root: davit.run_root(),
        executable: PathBuf::from(env!("CARGO_BIN_EXE_davit")),
        docker_config: None,
        auth_files: Vec::new(),
        legacy_auth_file: None,
        certificates_by_host: None,
        certificate_file: None,
        certificate_dir: None,
        programs: Vec::new(),
        proxies: Vec::new(),
        settings: Settings::default(),
    };
    Engine::open(config).unwrap()
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}

/// Passes a request to the call; gives the stream.
fn build(engine: &Engine, request: &Request) -> Result<String, String> {
    let pairs = request.query.split('&').filter_map(|pair| pair.split_once('='));
    let pairs: Vec<(String, String)> =
        pairs.map(|(name, value)| (decoded(name), decoded(value))).collect();
    let accounts = request.header("x-registry-config");
    let parameters =
        ClassicParameters::read(&pairs, accounts).map_err(|error| error.to_string())?;
    let context = TarStream(Box::new(std::io::Cursor::new(request.body.clone())));
    let stream = Mutex::new(String::new());
    let messages = |line: &str| stream.lock().unwrap().push_str(line);
    let cancelled = Arc::new(AtomicBool::new(false));
    engine
        .build_classic(ClassicBuild { parameters, context }, &messages, &Silent, &cancelled)
        .map_err(|error| error.to_string())?;
    Ok(stream.into_inner().unwrap())
}

fn messages(stream: &str) -> Vec<Value> {
    assert!(stream.ends_with("\r\n"), "{stream}");
    stream.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The texts of a stream, with ids as `ID`.
fn texts(stream: &str) -> String {
    let all = messages(stream);
    let text: String = all.iter().filter_map(|message| message["stream"].as_str()).collect();
    let lines = text.lines().map(|line| {
        let id = line.rsplit(' ').next().unwrap_or_default();
        let is_id = id.len() == 12 && id.bytes().all(|it| it.is_ascii_hexdigit());
        if is_id { line.replace(id, "ID") } else { line.to_owned() }
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn request(query: &str, files: &[(&str, &str)]) -> Request {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    Request {
        method: "POST".to_owned(),
        path: "/v1.50/build".to_owned(),
        query: query.to_owned(),
        headers: Vec::new(),
        body: tar.into_inner().unwrap(),
    }
}

#[test]
fn a_tar_becomes_an_image_and_messages() {
    let Some(bench) = Bench::new(&[]) else { return };
    let engine = engine(&bench.davit);
    let asked = request(
        "t=app%3A1&t=other&buildargs=%7B%22V%22%3A%22two%22%7D&rm=1&labels=%7B%7D&version=1",
        &[("Dockerfile", DOCKERFILE), ("x", "text")],
    );
    let first = build(&engine, &asked).unwrap();
    let steps = "Step 1/6 : ARG V=1\n ---> ID\nStep 2/6 : FROM scratch\n ---> ID\n\
                 Step 3/6 : ARG V\n ---> ID\nStep 4/6 : LABEL v=$V\n ---> ID\n\
                 Step 5/6 : COPY x /x\n ---> ID\nStep 6/6 : COPY x   /y\n ---> ID\n";
    let end = "Successfully built ID\nSuccessfully tagged app:1\nSuccessfully tagged other:latest";
    assert_eq!(texts(&first), format!("{steps}{end}"));
    let id = bench.davit.ok(["image", "inspect", "-f", "{{.Id}} {{.Config.Labels.v}}", "app:1"]);
    let aux: Vec<Value> = messages(&first).iter().map(|it| it["aux"]["ID"].clone()).collect();
    let aux: Vec<&str> = aux.iter().filter_map(Value::as_str).collect();
    assert_eq!(format!("{} two", aux.join(" ")), id.trim());
    // The last id is that of the image.
    let short = &aux[0]["sha256:".len()..][..12];
    assert!(first.contains(&format!(" ---> {short}\\n")), "{first}");
    let again = texts(&build(&engine, &asked).unwrap());
    assert!(again.contains("COPY x /x\n ---> Using cache\n ---> ID\n"), "{again}");
    let quiet = Request { query: "q=1".to_owned(), ..asked.clone() };
    let quiet = build(&engine, &quiet).unwrap();
    assert_eq!(messages(&quiet).len(), 2, "{quiet}");
    assert!(texts(&quiet).starts_with("sha256:"), "{quiet}");
    let wrong = request("", &[("Dockerfile", "FROM scratch\nCOPY gone /\n")]);
    let wrong = messages(&build(&engine, &wrong).unwrap());
    let last = wrong.last().unwrap();
    assert_eq!(last["error"], last["errorDetail"]["message"]);
    assert!(last["error"].as_str().unwrap().contains("gone"), "{last}");
    let refused = build(&engine, &request("version=2", &[])).unwrap_err();
    assert_eq!(refused, "`a session of BuildKit` is not supported");
}

/// As on a machine of a CI service: the image comes from elsewhere, what was built here is not.
#[test]
fn a_body_that_says_nothing_more_does_not_hold_it() {
    let Some(bench) = Bench::new(&[]) else { return };
    let engine = engine(&bench.davit);
    let (mut client, body) = UnixStream::pair().unwrap();
    let parameters = ClassicParameters::read(&[], None).unwrap();
    let given = ClassicBuild { parameters, context: TarStream(Box::new(body)) };
    let (stream, cancelled) = (Mutex::new(String::new()), Arc::new(AtomicBool::new(false)));
    let messages = |line: &str| stream.lock().unwrap().push_str(line);
    let built = std::thread::scope(|scope| {
        scope.spawn(|| {
            // More than a socket holds: most of it is received when this is over.
            client.write_all(&tar_file("f", &noise(1 << 20))).unwrap();
            cancelled.store(true, Ordering::Relaxed);
        });
        engine.build_classic(given, &messages, &Silent, &cancelled).unwrap()
    });
    assert!(built.is_none());
    let stream = stream.into_inner().unwrap();
    assert!(stream.contains("the build was cancelled"), "{stream}");
    let left: Vec<_> = fs::read_dir(bench.davit.root().join("tmp")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    // It could still send.
    drop(client);
}

#[test]
fn an_image_from_elsewhere_speeds_up_a_build() {
    let Some(one) = Bench::new(&[]) else { return };
    let Some(other) = Bench::new(&[]) else { return };
    let files = [("Dockerfile", DOCKERFILE), ("x", "text")];
    let query = "t=app&cachefrom=%5B%22gone%22%2C%22app%22%5D";
    let first = build(&engine(&one.davit), &request(query, &files)).unwrap();
    assert!(!first.contains("Using cache") && !first.contains("errorDetail"), "{first}");
    let archive = one.davit.dir().join("app.tar");
    one.davit.ok(["save", "-o", archive.to_str().unwrap(), "app"]);
    other.davit.ok(["load", "-i", archive.to_str().unwrap()]);
    let engine = engine(&other.davit);
    let second = texts(&build(&engine, &request(query, &files)).unwrap());
    assert!(second.contains("COPY x /x\n ---> Using cache\n ---> ID\n"), "{second}");
    let id = |bench: &Bench| bench.davit.ok(["image", "inspect", "-f", "{{.Id}}", "app"]);
    assert_eq!(id(&one), id(&other));
    // An image that tells nothing is passed over, and what is BuildKit's is said to be that.
    let plain = request("t=plain&nocache=1", &files);
    assert!(!build(&engine, &plain).unwrap().contains("errorDetail"));
    let asked = "cachefrom=%5B%22plain%22%5D&outputs=%5B%7B%22Type%22%3A%22local%22%7D%5D";
    let told = texts(&build(&engine, &request(asked, &files)).unwrap());
    assert!(told.contains("[Warning] plain holds an image without records"), "{told}");
    assert!(told.contains("[Warning] outputs are for BuildKit"), "{told}");
    assert!(told.contains("Successfully built ID"), "{told}");
    // As `--cache-to type=inline`, which BuildKit's argument asks for, too.
    let asked = "t=own&buildargs=%7B%22BUILDKIT_INLINE_CACHE%22%3A%221%22%7D";
    assert!(!build(&engine, &request(asked, &files)).unwrap().contains("errorDetail"));
    let told = texts(&build(&engine, &request("cachefrom=%5B%22own%22%5D", &files)).unwrap());
    assert!(!told.contains("[Warning]") && told.contains("Using cache"), "{told}");
}

#[test]
fn dockers_command_line_builds_without_buildkit() {
    let Some(docker) = need_tool("docker") else { return };
    let Some(bench) = alpine("") else { return };
    let fails = "FROM scratch\nADD alpine.tar.gz /\nRUN echo said; echo more >/more\nRUN exit 3\n";
    for (name, text) in [("Dockerfile", DOCKERFILE), ("x", "text"), ("Fails", fails)] {
        bench.write(name, text);
    }
    let engine = engine(&bench.davit);
    let server = HttpServer::start(move |request| {
        let path = request.path.trim_start_matches("/v1.50");
        let reply = Reply::status(200).header("Api-Version", "1.50").header("Ostype", "linux");
        match (request.method.as_str(), path) {
            (_, "/_ping") => reply.header("Content-Type", "text/plain").body("OK"),
            ("POST", "/build") => match build(&engine, request) {
                Ok(stream) => reply.header("Content-Type", "application/json").body(stream),
                Err(problem) => {
                    let body = serde_json::json!({ "message": problem }).to_string();
                    Reply::status(400).header("Content-Type", "application/json").body(body)
                }
            },
            _ => Reply::status(404),
        }
    });
    let call = |words: &[&str]| {
        let mut command = Command::new(&docker);
        command.args(["build"]).args(words).arg(&bench.context);
        command.env("DOCKER_HOST", format!("tcp://{}", server.host()));
        command.env("DOCKER_BUILDKIT", "0").env("DOCKER_CONFIG", bench.davit.dir());
        davit_test::Outcome::from(command.output().unwrap())
    };
    let outcome = call(&["-t", "app:2", "--build-arg", "V=cli", "--label", "a=b"]);
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.contains("Step 6/6 : COPY x   /y\n ---> "), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("Successfully tagged app:2\n"), "{}", outcome.stdout);
    let labels = bench.davit.ok(["image", "inspect", "-f", "{{json .Config.Labels}}", "app:2"]);
    assert_eq!(labels.trim(), r#"{"a":"b","v":"cli"}"#);
    let quiet = call(&["-q"]);
    assert!(quiet.stdout.starts_with("sha256:") && quiet.stdout.lines().count() == 1);
    let missing = call(&["--network", "container:x"]);
    assert!(missing.code == 1 && missing.stderr.contains("No such container: x"), "{missing:?}");
    let refused = call(&["--network", "mine"]);
    assert!(refused.code == 1 && refused.stderr.contains("network mine not found"));
    let file = bench.context.join("Fails");
    let failed = call(&["-f", file.to_str().unwrap(), "--network", "none"]);
    assert_eq!(failed.code, 3, "{}{}", failed.stdout, failed.stderr);
    let (out, error) = (&failed.stdout, &failed.stderr);
    assert!(out.contains("Step 3/4 : RUN echo said; echo more >/more\n ---> Running in "), "{out}");
    assert!(out.contains("\nsaid\n ---> Removed intermediate container "), "{out}");
    assert!(error.contains("returned a non-zero code: 3"), "{error}");
}
