//! What a process sees of its container, beside a container of Docker 26 from Debian with the same
//! flags: capabilities, filter, mounts, masks, devices, environment, limits.
//!
//! `tests/data/peer.differences` lists what may differ, and why.

use std::{collections::BTreeSet, path::Path};

use davit_test::TempDir;

use crate::{build_judge::peer::Peer, machine::Machine};

/// Prints one fact a line, its kind first; busybox alone runs it.
const PROBE: &str = r#"
grep -E '^(Cap...|NoNewPrivs|Seccomp|Uid|Gid|Groups|Umask):' /proc/self/status | sed 's/^/status /'
awk '{ for (i = 7; $i != "-"; i++); kind = $(i + 1); more = ""
       if (kind == "tmpfs" || kind == "devpts") more = " " $(i + 3)
       if ($5 ~ "^/etc/") kind = "bind"
       print "mount", $5, kind, $6 more }' /proc/self/mountinfo
for path in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
    /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/firmware \
    /sys/devices/virtual/powercap /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger; do
    test -e $path && echo "path $path $(stat -c '%F %t:%T' $path) $(ls -A $path 2>/dev/null | head -n 3 | tr '\n' ' ')"
done
cd /dev; for name in *; do echo "device $name $(stat -c '%F %a %u:%g %t:%T' $name) $(readlink $name)"; done
tr '\0' '\n' </proc/self/environ | grep -v ^HOSTNAME= | sed 's/^/environment /'
sed 's/  */ /g; s/^/limit /' /proc/self/limits
for name in net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range; do
    echo "parameter $name $(cat /proc/sys/$name)"; done
echo "process oom_score_adj $(cat /proc/self/oom_score_adj)"
echo "process directory $(readlink /proc/self/cwd)"
for name in cgroup ipc mnt net pid time user uts; do
    test $name = user && continue; echo "namespace $name $(readlink /proc/self/ns/$name | cut -d: -f1)"; done
cd /proc/$$/fd; for name in *; do if test -L $name; then echo "descriptor $name"; fi; done
"#;

/// Name and flags of each container.
const CASES: [(&str, &str); 6] = [
    ("default", ""),
    ("user", "--user 1000:1000"),
    ("dropped", "--cap-drop ALL --security-opt no-new-privileges"),
    ("read-only", "--read-only --tmpfs /run"),
    ("privileged", "--privileged"),
    ("unconfined", "--security-opt seccomp=unconfined --cap-add SYS_ADMIN --workdir /tmp -e A=b"),
];

fn facts(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// `CASE SIDE FACT…`, a fact by its beginning; `*` is every case.
fn meant() -> Vec<[String; 3]> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/peer.differences");
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut words = line.splitn(3, ' ').map(str::to_owned);
            std::array::from_fn(|_| words.next().expect("case, side and fact"))
        })
        .collect()
}

#[test]
fn a_process_sees_what_dockers_shows() {
    let Some(peer) = Peer::new() else { return };
    let Some(machine) = Machine::new() else { return };
    let work = TempDir::new();
    machine.ok(&["save", "-o", work.join("base.tar").to_str().unwrap(), "busybox"]);
    std::fs::write(work.join("probe"), PROBE).unwrap();
    let mut script = "image=$(docker images --quiet | head -n 1)\n".to_owned();
    for (name, flags) in CASES {
        script.push_str(&format!(
            "docker run --rm --network none --hostname box {flags} $image sh -c \"$(cat /mnt/probe)\" \
             >/mnt/{name} 2>/mnt/{name}.log || true\n"
        ));
    }
    peer.beside_engine(work.path(), &script);
    let meant = meant();
    let mut wrong = Vec::new();
    for (name, flags) in CASES {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let run = ["run", "--rm", "--network", "none", "--hostname", "box"];
        let ours = machine.ok(&[&run[..], &flags, &["busybox", "sh", "-c", PROBE]].concat());
        let theirs = std::fs::read_to_string(work.join(name)).unwrap();
        let told = std::fs::read_to_string(work.join(format!("{name}.log"))).unwrap();
        assert!(theirs.lines().count() > 40, "{name}: {theirs}{told}");
        let (ours, theirs) = (facts(&ours), facts(&theirs));
        let sides = [("davit", ours.difference(&theirs)), ("docker", theirs.difference(&ours))];
        for (side, facts) in sides {
            let unexplained = facts.filter(|fact| {
                !meant.iter().any(|[case, of, beginning]| {
                    (case == "*" || case == name) && of == side && fact.starts_with(beginning)
                })
            });
            wrong.extend(unexplained.map(|fact| format!("{name} {side} {fact}")));
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
