//! Any text is refused as the value of a `--mount`, or keeps what the refused must not have.
#![no_main]

use davit_dockerfile::{Mount, MountKind};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(mount) = Mount::parse(text, &mut |value| Ok(value.to_owned())) else { return };
    if mount.kind == MountKind::Bind {
        assert!(mount.mode.is_none() && mount.uid.is_none() && mount.gid.is_none());
    }
    assert!(mount.kind == MountKind::Cache || mount.sharing.is_none());
    assert!(mount.kind == MountKind::Tmpfs || mount.size_bytes.is_none());
});
