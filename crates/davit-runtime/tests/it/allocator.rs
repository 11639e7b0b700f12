//! An allocator that ends any process but the test program itself.

#![allow(unsafe_code, reason = "an allocator is unsafe by nature")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU32, Ordering},
};

/// The test program; 0 until the first test begins.
static OWNER: AtomicU32 = AtomicU32::new(0);

struct OwnerOnly;

#[global_allocator]
static ALLOCATOR: OwnerOnly = OwnerOnly;

/// From now on children that allocate abort.
pub(crate) fn forbid_in_children() {
    OWNER.store(std::process::id(), Ordering::Relaxed);
}

fn check() {
    let owner = OWNER.load(Ordering::Relaxed);
    if owner != 0 && owner != std::process::id() {
        // A child of the same memory in another PID namespace has another number, too.
        std::process::abort();
    }
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for OwnerOnly {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        check();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
