//! Memory for a short life: the heap's first pages in one call.

/// What single allocations of buffers may take from the heap instead of a mapping of their own.
const MAPPED_FROM: libc::c_int = 4 << 20;
/// Unused memory at the end of the heap that stays.
const KEPT: libc::c_int = 4 << 20;

/// Grows the heap by about `bytes` and lets the kernel map them at once: on a virtual machine a page
/// fault costs 5 µs, a page that comes with others 1. Call it first in a process.
///
/// Where the kernel does not know the call (before 5.14) the pages come one by one.
pub fn populate(bytes: usize) {
    let Ok(padding) = libc::c_int::try_from(bytes) else { return };
    let settings = [
        (libc::M_TOP_PAD, padding),
        // Setting one of them ends glibc's own adjustment of these two.
        (libc::M_MMAP_THRESHOLD, MAPPED_FROM),
        (libc::M_TRIM_THRESHOLD, KEPT),
    ];
    for (setting, value) in settings {
        set(setting, value);
    }
    let before = end_of_heap();
    // More than the heap has left from the start (132 KiB) makes it grow.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(256 << 10)));
    let end = end_of_heap();
    let length = end.addr().saturating_sub(before.addr()).saturating_sub(page_size()).min(bytes);
    if length > 0 {
        let start = before.map_addr(|address| address.next_multiple_of(page_size()));
        // SAFETY: the range lies in the heap of this process; mapping its pages, which are zeros
        // where they were not mapped before, changes nothing that anybody sees. A failure costs
        // time only.
        unsafe { libc::madvise(start, length, libc::MADV_POPULATE_WRITE) };
    }
}

/// Room that the heap of each thread, and the program's own, is given at once in a process that
/// [expects much](expect_much); what is not used costs addresses only.
const ROOM: libc::c_int = 8 << 20;

/// Prepares for tens of MiB in small pieces: the heaps of threads otherwise grow by 4 KiB, each by a
/// call that stops the page faults of all threads (measured: 3,400 calls in a build of 50,000
/// files).
pub fn expect_much() {
    set(libc::M_TOP_PAD, ROOM);
}

fn set(setting: libc::c_int, value: libc::c_int) {
    // SAFETY: mallopt(3) changes settings of the allocator; no memory is passed.
    unsafe { libc::mallopt(setting, value) };
}

fn page_size() -> usize {
    // SAFETY: sysconf(3) only asks.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn end_of_heap() -> *mut libc::c_void {
    // SAFETY: sbrk(2) with 0 only asks.
    unsafe { libc::sbrk(0) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_stays_usable() {
        super::populate(512 << 10);
        super::expect_much();
        let blocks: Vec<Vec<u8>> = (1..100).map(|size| vec![1; size * 1000]).collect();
        assert!(blocks.iter().flatten().all(|byte| *byte == 1));
    }
}
