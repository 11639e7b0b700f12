//! Holders of trees: sharing a superblock, and what is left when they are killed.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

use davit_snapshot::{Form, MountNamespace, Mountpoints, Stack};

use crate::support::{Root, dir, file, in_namespace};

/// Device numbers of the lowers, topmost first: one number, one superblock.
fn devices(namespace: &mut MountNamespace, stack: &Stack) -> Vec<u64> {
    let lowers = namespace.lowers(stack).unwrap();
    lowers.top_first().map(|lower| rustix::fs::fstat(lower).unwrap().st_dev).collect()
}

/// A process that holds a stack; killed when dropped.
struct Holder {
    child: Child,
    devices: String,
}

impl Holder {
    /// Starts `examples/hold.rs`; `None`, recorded as a skip, where only this test was built.
    fn start(stack: &Stack) -> Option<Self> {
        let own = std::env::current_exe().unwrap();
        let program = own.parent().unwrap().with_file_name("examples").join("hold");
        if !program.exists() {
            davit_test::skip("examples/hold is not built; run the whole crate's tests");
            return None;
        }
        let mut child = Command::new(program)
            .arg(serde_json::to_string(stack).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let devices = lines.map(Result::unwrap).next().unwrap();
        Some(Self { child, devices })
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn mounted_devices(stack: &Stack) -> String {
    let of = stack.clone();
    in_namespace(stack, move |namespace| format!("{:?}", devices(namespace, &of)))
}

fn two_layers(root: &Root) -> Stack {
    let chain = [root.layer(&[dir("etc"), file("a", "a")]), root.layer(&[file("b", "b")])];
    let _base = root.prepare(Form::Erofs, &chain[..1], Mountpoints::None);
    let stack = root.prepare(Form::Erofs, &chain, Mountpoints::Container);
    assert_eq!(stack.parts.len(), 2);
    stack
}

#[test]
fn superblocks_are_shared_with_a_live_holder_only() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let stack = two_layers(&root);
    let Some(first) = Holder::start(&stack) else { return };
    let Some(second) = Holder::start(&stack) else { return };
    assert_eq!(first.devices, second.devices);
    assert_eq!(first.devices, mounted_devices(&stack));
    let shared = first.devices.clone();
    first.kill();
    // The second keeps the superblocks that the first has made.
    assert_eq!(mounted_devices(&stack), shared);
    second.kill();
    let Some(third) = Holder::start(&stack) else { return };
    let holders = stack.location.run.join("holders").join(stack.parts[0].id.to_string());
    let mut names: Vec<_> = fs_err::read_dir(&holders)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    // The files of the dead ones are gone.
    let expected = [third.child.id().to_string(), "lock".to_owned()];
    names.retain(|name| *name != std::process::id().to_string());
    assert_eq!(names, expected);
}

#[test]
fn a_chain_above_shares_what_it_has_in_common() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let stack = two_layers(&root);
    let lower = Stack { parts: stack.parts[..1].to_vec(), ..stack.bare() };
    let Some(holder) = Holder::start(&lower) else { return };
    let of = stack.clone();
    let devices = in_namespace(&stack, move |namespace| devices(namespace, &of));
    assert_eq!(holder.devices, format!("{:?}", &devices[2..]));
}

#[test]
fn nothing_is_mounted_outside_and_nothing_is_left() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let stack = two_layers(&root);
    let Some(holder) = Holder::start(&stack) else { return };
    let path = root.dir.path().display().to_string();
    let mounts = || fs_err::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts().contains(&path), "{}", mounts());
    // Rows and files may go at any time; who has them mounted keeps them.
    for part in stack.top_first() {
        root.store.drop_tree(&part.id.to_string()).unwrap();
    }
    assert_eq!(mounted_devices(&stack), holder.devices);
    holder.kill();
    assert!(!mounts().contains(&path));
    let of = stack.clone();
    let error = in_namespace(&stack, move |namespace| namespace.lowers(&of).unwrap_err());
    assert!(error.is_stale(), "{error}");
}

#[test]
fn holders_at_once_make_one_superblock() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let stack = two_layers(&root);
    let holders: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(|| Holder::start(&stack))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    for holder in &holders {
        assert_eq!(holder.devices, holders[0].devices);
    }
}

#[test]
fn trees_that_are_gone_are_forgotten() {
    let root = Root::new();
    for number in 0..260 {
        let layer = root.layer(&[file("a", number.to_string())]);
        let stack = root.prepare(Form::Erofs, &[layer], Mountpoints::None);
        let holders = stack.location.run.join("holders").join(stack.parts[0].id.to_string());
        fs_err::create_dir_all(&holders).unwrap();
        fs_err::write(holders.join("lock"), "").unwrap();
        root.store.drop_tree(&stack.parts[0].id.to_string()).unwrap();
    }
    for name in ["checked", "holders"] {
        let left = fs_err::read_dir(root.store.layout().run().join(name)).unwrap().count();
        assert!(left < 10, "{left} {name}");
    }
}

#[test]
fn another_process_with_the_number_of_a_dead_holder_is_no_donor() {
    if !crate::support::need_erofs() {
        return;
    }
    let root = Root::new();
    let stack = two_layers(&root);
    let holders = stack.location.run.join("holders").join(stack.parts[0].id.to_string());
    fs_err::create_dir_all(&holders).unwrap();
    // Locked, but process 1 did not start at tick 77.
    let forged = fs_err::File::create(holders.join("1")).unwrap();
    fs_err::write(forged.path(), "davit-holder 1 1 77\n").unwrap();
    rustix::fs::flock(&forged, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let _mounted = mounted_devices(&stack);
    assert!(forged.path().exists());
}
