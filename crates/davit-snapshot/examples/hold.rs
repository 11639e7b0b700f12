//! Mounts the lower directories of a stack, given as JSON, and holds them until its input ends.
//!
//! The tests of sharing start it: a holder must be a process with one thread.

use std::io::{Read as _, Write as _};

use davit_snapshot::{MountNamespace, Stack};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let json = std::env::args().nth(1).ok_or("usage: hold STACK")?;
    let stack: Stack = serde_json::from_str(&json)?;
    let mut namespace = MountNamespace::enter(stack.location.clone())?;
    let lowers = namespace.lowers(&stack)?;
    let device = |lower| rustix::fs::fstat(lower).map(|found| found.st_dev);
    let devices = lowers.top_first().map(device).collect::<Result<Vec<_>, _>>()?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{devices:?}")?;
    stdout.flush()?;
    let _end = std::io::stdin().read(&mut [0])?;
    Ok(())
}
