//! A disk that is full at a random point of each command that brings an image: the error is clear,
//! nothing is lost, and what the command took is given back.

use davit_engine::image::Platform;
use davit_test::{Content, Davit, HttpServer, Outcome, need_root, noise, tar_of};

use crate::{
    crash::{Random, in_namespace},
    davit,
};

/// Sizes of the disk for each command.
const ROUNDS: u64 = 16;

/// Commands in the script's words, each of which brings `new:1`.
const JOBS: &[(&str, &str)] = &[
    ("pull", "$davit pull -q $name"),
    ("load", "$davit load -q -i $0/image.tar"),
    ("build", "$davit build -q -t $name $0/context"),
    ("import", "$davit import $0/layer.tar $name"),
    ("copy", "$davit copy -q oci:$0/layout:1 store:$name"),
];

/// Learns what the command takes on a large disk, then repeats it on disks that have `$rooms`
/// thousandths of that; prints the exit code and errors of each.
const SCRIPT: &str = r#"
    davit=$1 disk=$0/root
    resize() { mount -t tmpfs -o $1 davit-test $disk; }
    used() { df -k --output=used $disk | tail -n 1; }
    files() { (cd $disk; find blobs layers trees dirs tmp containers volumes | sort); }
    names() { $davit images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort; }
    clean() { $davit rmi -f $name >/dev/null 2>&1 || true; $davit system prune -f >/dev/null; }
    check() { $davit system check >$0/faults || fail "$(cat $0/faults)"; }
    fail() { echo "$@" >&2; exit 90; }
    mkdir -p $disk
    resize size=64m
    $davit import $0/kept.tar kept:1 >/dev/null
    kept=$(names)
    clean
    before=$(used)
    COMMAND >/dev/null
    need=$(($(used) - before))
    clean
    files=$(files)
    for room in $rooms; do
        resize remount,size=$(($(used) + need * room / 1000))k
        code=0
        COMMAND >/dev/null 2>$0/error || code=$?
        echo "== ended by $code with $room/1000 of ${need}k"
        cat $0/error
        check
        new=$(names | grep "^$name ") || true
        test "$(names | grep -v "^$name ")" = "$kept" || fail "names: $(names)"
        test $((code == 0)) = $((${#new} > 0)) || fail "ended by $code: $(names)"
        test -z "$(ls $disk/tmp)" || fail "left in tmp: $(ls $disk/tmp)"
        resize remount,size=64m
        clean
        test "$(files)" = "$files" || fail "not given back: $(files)"
    done
    COMMAND >/dev/null
    check
    $davit rmi kept:1 $name >/dev/null
"#;

/// What the commands read: a registry, an archive, a layout, a tar and a build context.
fn prepare(davit: &Davit) -> (HttpServer, String) {
    let layers = [900_000, 1_600_000].map(|size| tar_of(&[("noise", &noise(size))]));
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &layers);
    let server = HttpServer::start(move |request| content.serve(request));
    let name = format!("{}/new:1", server.host());
    let path = |name: &str| davit.dir().join(name).display().to_string();
    let maker = crate::davit();
    maker.ok(["pull", "-q", &name]);
    maker.ok(["save", "-o", &path("image.tar"), &name]);
    maker.ok(["copy", "-q", &format!("store:{name}"), &format!("oci:{}:1", path("layout"))]);
    fs_err::write(path("kept.tar"), tar_of(&[("small", &noise(20_000))])).unwrap();
    fs_err::write(path("layer.tar"), tar_of(&[("large", &noise(2_500_000))])).unwrap();
    fs_err::create_dir(path("context")).unwrap();
    let dockerfile = "FROM scratch\nCOPY one /one\nCOPY two /two\n";
    fs_err::write(path("context/Dockerfile"), dockerfile).unwrap();
    fs_err::write(path("context/one"), noise(1_000_000)).unwrap();
    fs_err::write(path("context/two"), noise(1_400_000)).unwrap();
    (server, name)
}

/// Judges what one command said on each of its disks.
fn judge(job: &str, seed: u64, outcome: &Outcome) {
    let told = format!("seed {seed}, {job}: {}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.code, 0, "{told}");
    let rounds: Vec<&str> = outcome.stdout.split("== ended by ").skip(1).collect();
    assert_eq!(rounds.len() as u64, ROUNDS, "{told}");
    let failed: Vec<_> = rounds.iter().filter(|round| !round.starts_with("0 ")).collect();
    assert!(!failed.is_empty(), "no disk was too small; {told}");
    for round in failed {
        assert!(round.starts_with("1 with"), "{round}; {told}");
        let is_clear = round.contains("o space left") || round.contains("disk is full");
        assert!(is_clear && round.contains("\nerror: "), "{round}; {told}");
        assert!(round.contains("hint: davit system prune"), "{round}; {told}");
    }
}

#[test]
fn at_random_points_costs_nothing() {
    if !need_root() {
        return;
    }
    let davit = davit();
    let (_server, name) = prepare(&davit);
    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}");
    let mut random = Random(seed);
    for (job, command) in JOBS {
        // One point in each part of the way, so that the beginning and the end are met as well.
        let part = 1000 / ROUNDS;
        let rooms = (0..ROUNDS).map(|round| (round * part + random.below(part)).to_string());
        let rooms = rooms.collect::<Vec<_>>().join(" ");
        let script = SCRIPT.replace("COMMAND", command);
        let outcome = in_namespace(&davit, &format!("name={name} rooms='{rooms}'\n{script}"));
        judge(job, seed, &outcome);
    }
}
