//! Images and containers that attack the machine: one case for each class of flaw that container
//! engines have had. The host stays as it is, nothing hangs, and the error says what was refused.

mod files;
mod processes;
mod words;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use davit_test::Outcome;

use crate::machine::Machine;

/// A machine with the tree of `busybox` to make hostile images of, and a folder of the host's that
/// no container may touch.
struct Lair {
    machine: Machine,
    busybox: PathBuf,
    outside: PathBuf,
}

impl Lair {
    fn new() -> Option<Self> {
        let machine = Machine::new()?;
        let folder = |name: &str| {
            let path = machine.davit().dir().join(name);
            std::fs::create_dir(&path).unwrap();
            path
        };
        let (busybox, outside) = (folder("tree"), folder("outside"));
        std::fs::write(outside.join("secret"), "host:x:4242:4242::/:/bin/sh\n").unwrap();
        machine.ok(&["create", "--name", "source", "busybox", "true"]);
        let archive = machine.davit().dir().join("tree.tar");
        machine.ok(&["export", "-o", archive.to_str().unwrap(), "source"]);
        machine.ok(&["rm", "source"]);
        let unpacked =
            Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(&busybox).status();
        assert!(unpacked.unwrap().success());
        Some(Self { machine, busybox, outside })
    }

    /// Makes the image `name`: busybox after `script` was run in its tree; `$OUT` is the folder of
    /// the host's.
    fn image(&self, name: &str, script: &str, changes: &[&str]) {
        let tree = self.machine.davit().dir().join(format!("tree-{name}"));
        let archive = tree.with_extension("tar");
        let line = format!("cp -a \"$1\" \"$2\"; cd \"$2\"; {script}\ntar -cf \"$3\" .");
        let made = Command::new("sh")
            .args(["-euc", &line, "sh"])
            .args([&self.busybox, &tree, &archive])
            .env("OUT", &self.outside)
            .status();
        assert!(made.unwrap().success(), "{script}");
        let archive = archive.to_str().unwrap();
        let mut arguments = vec!["import"];
        for change in changes {
            arguments.extend(["-c", change]);
        }
        arguments.extend([archive, name]);
        self.machine.ok(&arguments);
    }

    /// Runs davit, which must not hang.
    fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = self.machine.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(300);
        // What these commands write fits into a pipe.
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("{arguments:?} hangs");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Outcome::from(child.wait_with_output().unwrap())
    }

    /// Runs a line of shell in a new container of `image`, which must succeed.
    fn shell(&self, image: &str, line: &str) -> String {
        self.ok(&["run", "--rm", "--network", "none", image, "sh", "-c", line])
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout.trim_end().to_owned()
    }

    /// Runs davit, which must refuse with these words.
    fn refused(&self, arguments: &[&str], words: &str) {
        let outcome = self.run(arguments);
        let told = outcome.stderr.starts_with("error: ") && outcome.stderr.contains(words);
        assert!(outcome.code != 0 && told, "{arguments:?}: {outcome:?}");
    }

    /// Starts a container that sleeps.
    fn sleeper(&self, name: &str, image: &str, flags: &[&str]) {
        let start = ["run", "-d", "--network", "none", "--name", name];
        self.ok(&[&start[..], flags, &[image, "sleep", "600"]].concat());
    }

    /// Nothing of the host was read, written or made.
    fn host_is_unharmed(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.outside).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let secret = std::fs::read_to_string(self.outside.join("secret")).unwrap();
        assert_eq!(secret, "host:x:4242:4242::/:/bin/sh\n");
    }

    fn outside(&self) -> &str {
        self.outside.to_str().unwrap()
    }

    /// A folder of the host's for a bind mount.
    fn volume(&self, name: &str) -> String {
        let path = self.machine.davit().dir().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "volume\n").unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// The bytes of the davit that the tests run.
fn binary() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_BIN_EXE_davit"))).unwrap()
}
