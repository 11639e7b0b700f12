//! Caches that machines share: at a registry, in a directory.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use davit_engine::image::Digest;
use davit_test::{Access, Registry};
use serde_json::Value;

use super::bench::{Bench, alpine};
use crate::davit;

pub(super) const IDENTITY: &str = "cat /proc/sys/kernel/random/uuid";

/// Another machine: its own store, the same context.
pub(super) fn other(bench: &Bench) -> Bench {
    Bench { davit: davit(), context: bench.context.clone() }
}

/// What a build gave: its manifest's digest.
pub(super) fn digest(bench: &Bench, args: &[&str]) -> (String, String) {
    let file = bench.davit.dir().join("metadata");
    let outcome = bench.run(&[args, &["--metadata-file", file.to_str().unwrap()]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let read: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    (read["containerimage.digest"].as_str().unwrap().to_owned(), outcome.stderr)
}

pub(super) fn blobs(registry: &Registry) -> Vec<String> {
    let folder = registry.storage().join("docker/registry/v2/blobs/sha256");
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let inner = fs::read_dir(entry.path()).unwrap().flatten();
        found.extend(inner.map(|it| it.file_name().into_string().unwrap()));
    }
    found
}

pub(super) fn layers_of(bench: &Bench) -> usize {
    fs::read_dir(bench.davit.root().join("layers/sha256")).map_or(0, Iterator::count)
}

const STAGES: &str = "FROM scratch AS tools\nCOPY a /a\nCOPY b /b\nFROM scratch AS made\n\
                      COPY --from=tools /a /x\nFROM scratch\nCOPY c /c\nCOPY --from=made /x /y\n";

#[test]
fn two_machines_share_a_cache_at_a_registry() {
    let files = [("a", "1"), ("b", "2"), ("c", "3"), ("Dockerfile", STAGES)];
    let (Some(one), Some(registry)) = (Bench::new(&files), Registry::start(Access::Open)) else {
        return;
    };
    let name = format!("{}/cache:1", registry.host());
    let to = format!("type=registry,ref={name},mode=max");
    let (first, told) = digest(&one, &["--cache-from", &name, "--cache-to", &to]);
    assert!(told.contains(&format!("warning: there is no build cache {name}")), "{told}");
    let before = blobs(&registry);
    let (again, _) = digest(&one, &["--cache-to", &to]);
    assert_eq!((again, blobs(&registry)), (first.clone(), before.clone()), "nothing is new");
    let two = other(&one);
    let (second, told) = digest(&two, &["--cache-from", &name]);
    assert!(told.contains("(5 of 5 steps cached)"), "{told}");
    assert_eq!(second, first);
    assert_eq!(layers_of(&two), 2, "what only stages before the last have stays away");
    // It is this machine's from now on.
    assert!(digest(&two, &[]).1.contains("(5 of 5 steps cached)"));
    // A change in between needs what it reads, and a layer that is lost only costs its step.
    let three = other(&one);
    one.write("Dockerfile", &STAGES.replace("/a /x", "/b /x"));
    let (_, told) = digest(&three, &["--cache-from", &name, "--cache-to", &to, "--explain"]);
    assert!(told.contains("(3 of 5 steps cached)"), "{told}");
    assert!(told.contains("sources changed from"), "{told}");
    assert!(told.contains("[made 1/1] COPY --from=tools /b /x gave another result"), "{told}");
    let both = other(&one);
    assert!(digest(&both, &["--cache-from", &name]).1.contains("(5 of 5 steps cached)"));
    one.write("Dockerfile", STAGES);
    let both = other(&one);
    assert_eq!(digest(&both, &["--cache-from", &name]).0, first, "older records stay");
    let off = other(&one);
    let (offline, told) = digest(&off, &["--cache-from", &name, "--offline"]);
    assert!(told.contains("is not asked") && told.contains("(0 of 5 steps cached)"), "{told}");
    assert_ne!(offline, "");
}

#[test]
fn a_command_is_run_once_for_all_machines() {
    let Some(one) = alpine(&format!("RUN {IDENTITY} > /id\n")) else { return };
    let folder = one.davit.dir().join("cache");
    let to = format!("type=local,dest={}", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let (first, told) = digest(&one, &["--cache-from", &from, "--cache-to", &to]);
    assert!(told.contains("there is no build cache"), "{told}");
    let two = other(&one);
    let (second, told) = digest(&two, &["--cache-from", &from]);
    assert_eq!(second, first, "{told}");
    assert!(digest(&two, &[]).1.contains("steps cached"));
    // A damaged layer is not taken, and told once.
    damage(&folder);
    let three = other(&one);
    let (third, told) = digest(&three, &["--cache-from", &from]);
    assert_ne!(third, first);
    assert_eq!(told.matches("is of no use").count(), 1, "{told}");
    fs::write(folder.join("index.json"), "{").unwrap();
    let (_, told) = digest(&three, &["--cache-from", &from, "--no-cache"]);
    assert!(told.contains("it is passed over"), "{told}");
    let failed = three.run(&["--cache-to", &to]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    let (_, told) = digest(&three, &["--cache-to", &format!("{to},ignore-error=true")]);
    assert!(told.contains("warning: cannot use the build cache"), "{told}");
}

#[test]
fn writers_at_the_same_time_keep_what_the_others_wrote() {
    let files = [("f", "1"), ("Dockerfile", "ARG N\nFROM scratch\nARG N\nCOPY f /$N\n")];
    let Some(one) = Bench::new(&files) else { return };
    let folder = one.davit.dir().join("cache");
    let to = format!("type=local,dest={}", folder.display());
    let machines: Vec<Bench> = (0..4).map(|_| other(&one)).collect();
    let number = |number: usize| format!("N={number}");
    std::thread::scope(|scope| {
        for (at, machine) in machines.iter().enumerate() {
            let to = &to;
            scope.spawn(move || digest(machine, &["--build-arg", &number(at), "--cache-to", to]));
        }
    });
    let from = format!("type=local,src={}", folder.display());
    for at in 0..machines.len() {
        let (_, told) = digest(&one, &["--build-arg", &number(at), "--cache-from", &from]);
        assert!(told.contains("(1 of 1 steps cached)"), "{told}");
    }
}

#[test]
fn a_layer_that_a_cache_lost_comes_back() {
    let files = [("a", "1"), ("b", "2"), ("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n")];
    let Some(one) = Bench::new(&files) else { return };
    let folder = one.davit.dir().join("cache");
    let to = format!("type=local,dest={}", folder.display());
    let from = format!("type=local,src={}", folder.display());
    digest(&one, &["--cache-to", &to]);
    let whole = |machine: &Bench| {
        let (_, told) = digest(machine, &["--cache-from", &from]);
        assert!(told.contains("(2 of 2 steps cached)") && !told.contains("warning"), "{told}");
    };
    whole(&other(&one));
    // What is there is not compressed again to see that.
    let words = ["--debug", "build", "--cache-to", &to, one.context.to_str().unwrap()];
    let again = one.davit.run(words);
    assert!(again.code == 0 && !again.stderr.contains(" compressing "), "{}", again.stderr);
    // Who has the layers brings back what is gone or cut off.
    for harm in [fs::remove_file, |path| fs::write(path, "x")] {
        let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap().flatten();
        let is_layer = |path: &std::path::PathBuf| fs::read(path).unwrap().starts_with(&[0x1f]);
        blobs.map(|it| it.path()).filter(is_layer).for_each(|path| harm(path).unwrap());
        let (_, told) = digest(&other(&one), &["--cache-from", &from]);
        assert!(told.contains("is of no use") && told.contains("(0 of 2"), "{told}");
        digest(&one, &["--cache-to", &to]);
        whole(&other(&one));
    }
    // And who has found out that one is another layer.
    damage(&folder);
    let (_, told) = digest(&other(&one), &["--cache-from", &from, "--cache-to", &to]);
    assert!(told.contains("is of no use"), "{told}");
    whole(&other(&one));
}

/// Changes one byte of the largest layer.
fn damage(folder: &Path) {
    let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap().flatten().map(|it| it.path());
    let is_layer = |path: &std::path::PathBuf| fs::read(path).unwrap().starts_with(&[0x1f]);
    let blobs = blobs.filter(is_layer);
    let largest = blobs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest, bytes).unwrap();
}

/// Writes the cache of a directory anew with other documents.
fn rewrite(folder: &Path, change: impl Fn(&mut Value, &mut Value)) {
    let blob =
        |digest: &Value| folder.join("blobs").join(digest.as_str().unwrap().replacen(':', "/", 1));
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let write = |value: &Value| {
        let bytes = serde_json::to_vec(value).unwrap();
        let digest = Value::from(Digest::of(&bytes).to_string());
        fs::write(blob(&digest), &bytes).unwrap();
        (digest, Value::from(bytes.len()))
    };
    let mut index = read(&folder.join("index.json"));
    let mut manifest = read(&blob(&index["manifests"][0]["digest"]));
    let mut config = read(&blob(&manifest["config"]["digest"]));
    change(&mut manifest, &mut config);
    let (digest, size) = write(&config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = (digest, size);
    let (digest, size) = write(&manifest);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (digest, size);
    fs::write(folder.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn a_cache_is_not_believed() {
    let files = [("a", "1"), ("b", "2"), ("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n")];
    let Some(one) = Bench::new(&files) else { return };
    let folder = one.davit.dir().join("cache");
    let to = format!("type=local,dest={},compression=zstd", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let (first, _) = digest(&one, &["--cache-to", &to]);
    let told = |cached: &str, message: &str| {
        let two = other(&one);
        let (_, told) = digest(&two, &["--cache-from", &from]);
        assert!(told.contains(cached) && told.contains(message), "{told}");
        // The files are those of the context, whatever the cache says.
        let files: Vec<_> = super::bench::list(&two.files(&["--cache-from", &from]));
        assert_eq!(files, ["a 644 1", "b 644 2"]);
    };
    told("(2 of 2 steps cached)", "");
    // A layer under the DiffID of another.
    rewrite(&folder, |_, config| config["layers"].as_array_mut().unwrap().reverse());
    told("(0 of 2 steps cached)", "is of no use");
    rewrite(&folder, |_, config| config["layers"].as_array_mut().unwrap().reverse());
    // Blobs that are bigger than they say.
    rewrite(&folder, |manifest, _| manifest["layers"][0]["size"] = Value::from(10));
    told("1 of 2 steps cached)", "is of no use");
    rewrite(&folder, |_, config| config["version"] = Value::from(2));
    told("(0 of 2 steps cached)", "its version is 2, not 1");
    // BuildKit's are told by the type of their config, and not overwritten.
    rewrite(&folder, |manifest, _| {
        manifest["config"]["mediaType"] = Value::from("application/vnd.buildkit.cacheconfig.v0");
    });
    told("(0 of 2 steps cached)", "holds a cache of BuildKit, not a build cache of davit; it is");
    let refused = one.run(&["--cache-to", &to]);
    assert!(refused.code == 1 && refused.stderr.contains("a cache of BuildKit"));
    assert_eq!(digest(&one, &[]).0, first);
}

/// With `mode=min` a cache has no layer of a stage that the image only took files from.
#[test]
fn a_stage_that_an_image_took_files_from_need_not_be_built() {
    let stages = format!("RUN {IDENTITY} > /id\nFROM scratch\nCOPY --from=0 /id /\n");
    let Some(one) = alpine(&stages) else { return };
    let folder = one.davit.dir().join("cache");
    let to = format!("type=local,dest={}", folder.display());
    let from = format!("type=local,src={}", folder.display());
    let (first, _) = digest(&one, &["--cache-to", &to]);
    let (again, told) = digest(&other(&one), &["--cache-from", &from]);
    assert_eq!(again, first, "{told}");
    assert!(!told.contains("DONE") && told.contains("steps cached"), "nothing runs: {told}");
    let blobs = fs::read_dir(folder.join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 3, "manifest, config and the layer of the image");
    // A change that needs the stage after all builds it, and says nothing of it.
    let dockerfile = fs::read_to_string(one.context.join("Dockerfile")).unwrap();
    one.write("Dockerfile", &format!("{dockerfile}COPY --from=0 /etc/os-release /\n"));
    let (changed, told) = digest(&other(&one), &["--cache-from", &from]);
    assert_ne!(changed, first, "{told}");
    assert!(told.contains("RUN ") && !told.contains("warning"), "{told}");
}

#[test]
fn layers_of_a_cache_are_compressed_anew_where_that_is_insisted_on() {
    let files = [("a", "1"), ("b", "2"), ("Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n")];
    let Some(bench) = Bench::new(&files) else { return };
    let folder = bench.davit.dir().join("cache");
    let exported = |keys: &str| {
        bench.build(&["--cache-to", &format!("type=local,dest={}{keys}", folder.display())]);
        let read =
            |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let index = read(&folder.join("index.json"));
        let digest = index["manifests"][0]["digest"].as_str().unwrap();
        let hex = digest.split_once(':').unwrap().1;
        let manifest = read(&folder.join("blobs/sha256").join(hex));
        let layers = manifest["layers"].as_array().unwrap().iter();
        let kinds = layers.map(|layer| layer["mediaType"].as_str().unwrap());
        kinds.map(|kind| kind.rsplit_once('+').unwrap().1.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(exported(""), ["gzip", "gzip"]);
    assert_eq!(exported(",compression=zstd"), ["gzip", "gzip"]);
    assert_eq!(exported(",compression=zstd,force-compression=true"), ["zstd", "zstd"]);
    assert_eq!(exported(",compression=zstd,force-compression=1"), ["zstd", "zstd"]);
    let from = format!("type=local,src={}", folder.display());
    let (_, told) = digest(&other(&bench), &["--cache-from", &from]);
    assert!(told.contains("(2 of 2 steps cached)"), "{told}");
}

#[test]
fn what_is_no_cache_of_davits_is_left_alone() {
    let files = [("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /\n")];
    let Some(bench) = Bench::new(&files) else { return };
    let folder = bench.davit.dir().join("image");
    let spec = format!("type=oci,tar=false,name=x:latest,dest={}", folder.display());
    bench.build(&["-o", &spec, "-o", "type=image"]);
    let from = format!("type=local,src={},tag=latest", folder.display());
    let (_, told) = digest(&bench, &["--cache-from", &from]);
    assert!(told.contains("holds an image without records of its steps, not a"), "{told}");
    let to = format!("type=local,dest={}", folder.display());
    let refused = bench.run(&["--cache-to", &to]);
    assert!(refused.code == 1 && refused.stderr.contains("holds an image"), "{}", refused.stderr);
    let index = fs::read_to_string(folder.join("index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "nothing was added");
    let refused = bench.run(&["--cache-to", "type=azblob"]);
    assert!(refused.stderr.contains("those that speak S3's protocol are"), "{}", refused.stderr);
}

/// Stands before a registry and lets the first two manifests arrive there together, and their
/// writers hear of it together.
fn meeting_point(registry: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (puts, meeting) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(&registry).unwrap();
            let (puts, meeting) = (Arc::clone(&puts), Arc::clone(&meeting));
            let held = Arc::new(AtomicBool::new(false));
            let (back, front) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            let answers = Arc::clone(&held);
            let meet = Arc::clone(&meeting);
            thread::spawn(move || {
                forward(back, front, |_| {
                    if answers.swap(false, Ordering::SeqCst) {
                        meet.wait();
                    }
                });
            });
            thread::spawn(move || {
                forward(client, server, |bytes| {
                    let line = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
                    let line = String::from_utf8_lossy(line);
                    let is_manifest = line.starts_with("PUT ") && line.contains("/manifests/");
                    if is_manifest && puts.fetch_add(1, Ordering::SeqCst) < 2 {
                        meeting.wait();
                        held.store(true, Ordering::SeqCst);
                    }
                });
            });
        }
    });
    address
}

fn forward(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        look(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn two_writers_at_a_registry_lose_nothing() {
    let files = [("f", "1"), ("Dockerfile", "ARG N\nFROM scratch\nARG N\nCOPY f /$N\n")];
    let (Some(one), Some(registry)) = (Bench::new(&files), Registry::start(Access::Open)) else {
        return;
    };
    let name = format!("{}/cache:1", meeting_point(registry.host()));
    let to = format!("type=registry,ref={name}");
    let two = other(&one);
    let number = |number: usize| format!("N={number}");
    thread::scope(|scope| {
        for (at, machine) in [&one, &two].into_iter().enumerate() {
            let to = &to;
            scope.spawn(move || digest(machine, &["--build-arg", &number(at), "--cache-to", to]));
        }
    });
    let three = other(&one);
    for at in 0..2 {
        let (_, told) = digest(&three, &["--build-arg", &number(at), "--cache-from", &name]);
        assert!(told.contains("(1 of 1 steps cached)"), "{told}");
    }
}

#[test]
fn layers_are_sent_while_a_build_runs() {
    let wait = "RUN --mount=type=cache,target=/c i=0; while ! test -e /c/go; do \
                i=$((i+1)); test $i -lt 30000 || exit 1; sleep 0.02; done\n";
    let (Some(one), Some(registry)) =
        (alpine(&format!("COPY f /\n{wait}")), Registry::start(Access::Open))
    else {
        return;
    };
    one.write("f", "1");
    let to = format!("type=registry,ref={}/cache:1", registry.host());
    thread::scope(|scope| {
        let build = scope.spawn(|| digest(&one, &["--cache-to", &to]));
        let mounts = one.davit.root().join("cache/mounts");
        let has_layer = || !blobs(&registry).is_empty();
        while !build.is_finished() {
            let mount = fs::read_dir(&mounts).ok().and_then(|mut it| it.next()?.ok());
            if let Some(mount) = mount.filter(|_| has_layer()) {
                fs::write(mount.path().join("data/go"), "").unwrap();
            }
            thread::park_timeout(std::time::Duration::from_millis(5));
        }
        assert!(build.join().unwrap().1.contains("Built"));
    });
}
