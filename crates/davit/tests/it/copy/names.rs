//! Names as they are: of links, of deep directories, and of other than UTF-8.

use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt as _, fs::symlink},
    process::Command,
};

use fs_err as fs;

use super::{STATES, machine, read, text};

/// A target is text: nobody tidies it up, however long it is.
#[test]
fn targets_of_links_stay_as_they_are() {
    let long = format!("{}//end/.", "x/".repeat(80));
    let targets = ["/", "//", "a//b", "a/.", "./a", "a/", "..", "a/../b", &long];
    let lines: String = (0..)
        .zip(&targets)
        .map(|(number, target)| format!("ln -s {target} /d/{number}\n"))
        .collect();
    let Some((machine, host)) = machine(&format!("mkdir /d\n{lines}touch /ready")) else { return };
    for name in STATES {
        let out = host.join(name);
        machine.ok(&["cp", &format!("{name}:/d"), text(&out)]);
        machine.ok(&["cp", text(&out), &format!("{name}:/back")]);
        fs::create_dir(host.join("again")).expect("made");
        machine.ok(&["cp", &format!("{name}:/back/."), text(&host.join("again"))]);
        for (number, target) in (0..).zip(&targets) {
            for folder in [&out, &host.join("again")] {
                let found = fs::read_link(folder.join(format!("{number}"))).expect("a link");
                assert_eq!(found.as_os_str(), OsStr::new(target), "{name}");
            }
        }
        fs::remove_dir_all(host.join("again")).expect("removed");
    }
}

/// As deep as is allowed, with the descriptors that a shell usually gives.
#[test]
fn deep_directories_need_few_descriptors() {
    let script = "cd /; i=0; while [ $i -lt 510 ]; do mkdir d; cd d; i=$((i+1)); done
        echo deep >f; touch /ready";
    let Some((machine, host)) = machine(script) else { return };
    for name in STATES {
        let out = host.join(name);
        let cp = machine.command(&["cp", &format!("{name}:/d"), text(&out)]);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 1024; exec \"$0\" \"$@\""]);
        limited.arg(cp.get_program()).args(cp.get_args());
        for (key, value) in cp.get_envs() {
            match value {
                Some(value) => limited.env(key, value),
                None => limited.env_remove(key),
            };
        }
        let output = limited.output().expect("sh starts");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(read(out.join("d/".repeat(509)).join("f")), "deep\n");
    }
}

/// Links that lead to names of other than UTF-8 are followed, as sources and as destinations.
#[test]
fn links_lead_to_any_name() {
    let script = "n=$(printf 'n\\377'); mkdir -p /d/$n; echo one >/d/$n/f; ln -s $n /d/link
        ln -s $n/f /d/file; touch /ready";
    let Some((machine, host)) = machine(script) else { return };
    let odd = host.join(OsStr::from_bytes(b"h\xff"));
    fs::create_dir(&odd).expect("made");
    symlink(&odd, host.join("there")).expect("linked");
    for name in STATES {
        let to = host.join("there").join(name);
        machine.ok(&["cp", "-L", &format!("{name}:/d/file"), text(&to)]);
        machine.ok(&["cp", text(&to), &format!("{name}:/d/link")]);
        machine.ok(&["cp", &format!("{name}:/d/link/{name}"), text(&host.join("there"))]);
        assert_eq!(read(odd.join(name)), "one\n");
    }
}
