//! How many steps do their work at a time, by what they need: a processor, the disk, the network.
//!
//! A step that waits for something else (another build's result, a locked cache) has no place here,
//! so that it keeps nobody out. Of those that wait for one class the heaviest comes first.

use std::{
    collections::BTreeSet,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

/// How often those who wait look whether they were cancelled, or memory has come free.
const POLL: Duration = Duration::from_millis(20);
/// Where the kernel tells how much memory programs can have.
const MEMORY: &str = "/proc/meminfo";
/// Where it tells how long programs waited for memory (Linux 4.20, `Documentation/accounting/psi.rst`):
/// those of the container that davit is in, else all.
const PRESSURE: [&str; 2] = ["/sys/fs/cgroup/memory.pressure", "/proc/pressure/memory"];
/// Part of the memory that is left for those commands that run already.
const RESERVE: u64 = 20;
/// From which share of the last ten seconds on, in percent, memory is short however much is free: what
/// is free then was taken from programs that want it back.
const MOST_PRESSURE: u64 = 10;
/// Caches of others that are asked at a time.
const TRANSFERS: usize = 8;

/// What a step works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A processor: a command runs.
    Processor,
    /// The disk: files are copied.
    Disk,
    /// The network: a result is fetched.
    Network,
}

/// The places of one build.
pub(crate) struct Places {
    state: Mutex<State>,
    changed: Condvar,
    limits: [usize; 3],
    /// What the machine has of memory; asked with the limit of a command.
    memory: fn() -> Option<Memory>,
    /// Limit of each command in bytes, if they have one.
    command_bytes: Option<u64>,
}

#[derive(Default)]
struct State {
    taken: [usize; 3],
    /// Who waits for each class: weight, and a number that is smaller for who came earlier.
    waiting: [BTreeSet<(u64, std::cmp::Reverse<u64>)>; 3],
    next: u64,
}

/// Memory of the machine in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it.
    pub(crate) total: u64,
    /// What programs can have without swapping.
    pub(crate) available: u64,
    /// For how much of the last ten seconds some program waited for memory, in percent.
    pub(crate) pressure: u64,
}

impl Places {
    /// Places for `jobs` commands at a time, each with this limit of memory.
    pub(crate) fn new(jobs: usize, command_bytes: Option<u64>) -> Self {
        let jobs = jobs.max(1);
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            limits: [jobs, jobs, TRANSFERS],
            memory,
            command_bytes,
        }
    }

    /// Steps that can be under way at a time, those that wait included.
    pub(crate) fn most(&self) -> usize {
        2 * self.limits.iter().sum::<usize>()
    }

    /// Waits for a place, heavier steps first; `None` once the build is cancelled.
    pub(crate) fn enter(
        &self,
        class: Class,
        weight: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> Option<Place<'_>> {
        let at = class as usize;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let own = (weight, std::cmp::Reverse(state.next));
        state.next += 1;
        state.waiting[at].insert(own);
        loop {
            let is_next = state.waiting[at].last() == Some(&own);
            let is_free = state.taken[at] < self.limits[at] && self.is_room(class, &state);
            if cancelled() || (is_next && is_free) {
                break;
            }
            let waited = self.changed.wait_timeout(state, POLL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.waiting[at].remove(&own);
        let place = (!cancelled()).then(|| {
            state.taken[at] += 1;
            Place { places: self, class }
        });
        drop(state);
        self.changed.notify_all();
        place
    }

    /// Whether there is memory for one more command: for the first there always is.
    fn is_room(&self, class: Class, state: &State) -> bool {
        if class != Class::Processor || state.taken[Class::Processor as usize] == 0 {
            return true;
        }
        (self.memory)().is_none_or(|memory| {
            let wanted = self.command_bytes.unwrap_or(0).min(memory.total);
            memory.available > wanted.max(memory.total / RESERVE) && memory.pressure < MOST_PRESSURE
        })
    }
}

/// A place, until it is dropped.
pub(crate) struct Place<'p> {
    places: &'p Places,
    class: Class,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.places.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken[self.class as usize] -= 1;
        drop(state);
        self.places.changed.notify_all();
    }
}

/// What the kernel tells of memory; `None` where it tells nothing.
fn memory() -> Option<Memory> {
    let pressure = PRESSURE.into_iter().find_map(|path| fs_err::read_to_string(path).ok());
    parse(&fs_err::read_to_string(MEMORY).ok()?, &pressure.unwrap_or_default())
}

fn parse(text: &str, pressure: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
    };
    // `some avg10=1.27 avg60=2.85 …`; a kernel without it knows of no pressure.
    let (_, pressure) = pressure.split_once("some avg10=").unwrap_or_default();
    let pressure = pressure.split(|digit: char| !digit.is_ascii_digit()).next();
    let pressure = pressure.and_then(|percent| percent.parse().ok()).unwrap_or(0);
    Some(Memory { total: field("MemTotal:")?, available: field("MemAvailable:")?, pressure })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn reads_what_the_kernel_tells() {
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n";
        let told = |pressure| Memory { total: 1_024_000, available: 256_000, pressure };
        let stalls = "some avg10=12.99 avg60=2.85 avg300=0.00 total=1\nfull avg10=9.00 total=0\n";
        assert_eq!(parse(text, stalls), Some(told(12)));
        assert_eq!(parse(text, ""), Some(told(0)));
        assert_eq!(parse(text, "some avg10=x"), Some(told(0)));
        assert_eq!(parse("MemTotal: 1 kB\n", stalls), None);
        assert!(memory().is_some_and(|memory| memory.available < memory.total));
    }

    #[test]
    fn a_class_keeps_no_other_one_out() {
        let places = Places::new(1, None);
        let never = || false;
        let command = places.enter(Class::Processor, 1, &never).unwrap();
        let copy = places.enter(Class::Disk, 1, &never).unwrap();
        let transfers: Vec<_> =
            (0..TRANSFERS).filter_map(|_| places.enter(Class::Network, 1, &never)).collect();
        assert_eq!(transfers.len(), TRANSFERS);
        assert!(places.enter(Class::Processor, 1, &|| true).is_none(), "it was cancelled");
        drop((command, copy));
        assert!(places.enter(Class::Processor, 1, &never).is_some());
    }

    #[test]
    fn the_heaviest_comes_first() {
        let places = Places::new(1, None);
        let first = places.enter(Class::Processor, 0, &|| false).unwrap();
        let (sender, order) = mpsc::channel();
        std::thread::scope(|scope| {
            for weight in [1, 3, 2] {
                let (places, sender) = (&places, sender.clone());
                scope.spawn(move || {
                    let place = places.enter(Class::Processor, weight, &|| false);
                    sender.send(weight).unwrap();
                    drop(place);
                });
            }
            while places.state.lock().unwrap().waiting[0].len() < 3 {
                std::thread::yield_now();
            }
            drop(first);
        });
        assert_eq!(order.try_iter().collect::<Vec<_>>(), [3, 2, 1]);
    }

    #[test]
    fn a_second_command_waits_for_memory() {
        let short = || Some(Memory { total: 1000, available: 40, pressure: 0 });
        let enough = || Some(Memory { total: 1000, available: 500, pressure: 9 });
        let thrashing = || Some(Memory { total: 1000, available: 500, pressure: 10 });
        let places = |memory, command_bytes| Places { memory, ..Places::new(4, command_bytes) };
        let tries = |places: &Places| {
            let turns = std::cell::Cell::new(0);
            let first = places.enter(Class::Processor, 1, &|| false);
            let second = places.enter(Class::Processor, 1, &|| turns.replace(turns.get() + 1) > 2);
            (first.is_some(), second.is_some())
        };
        assert_eq!(tries(&places(short, None)), (true, false));
        assert_eq!(tries(&places(enough, None)), (true, true));
        assert_eq!(tries(&places(enough, Some(600))), (true, false), "its limit is not there");
        assert_eq!(tries(&places(thrashing, None)), (true, false), "others wait for memory");
        assert_eq!(tries(&places(|| None, None)), (true, true));
    }
}
