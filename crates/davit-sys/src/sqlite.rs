//! SQLite's shared memory on a full disk.
//!
//! SQLite extends `*-shm` by one byte in each page of 4 KiB. Where blocks are smaller (ext4's
//! default below 512 MB) the rest of the page is a hole, and writing to it by the map asks for
//! blocks: on a full disk the answer is SIGBUS, which ends the process. So the range of a map gets
//! its blocks first, and want of them is an error that SQLite returns.

use std::{
    ffi::{c_int, c_void},
    mem,
    os::fd::BorrowedFd,
    ptr,
    sync::Once,
};

use libc::{off_t, size_t};
use rusqlite::ffi;
use rustix::{fs::FallocateFlags, io::Errno};

type Map = unsafe extern "C" fn(*mut c_void, size_t, c_int, c_int, c_int, off_t) -> *mut c_void;

/// Lets SQLite map only what has blocks, in all connections that are opened from now on; a disk
/// without room then shows as `SQLITE_IOERR_SHMMAP`. Idempotent, and without cost later but for one
/// `fstatfs` per map.
pub fn allocate_maps() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a null name asks for the default file system layer, which is never freed; its
        // `xSetSystemCall` copies the pointer, and SQLite calls it as the function that it
        // replaces, `mmap`, whose type `Map` is. `Once` excludes a second writer, and nobody maps
        // meanwhile, since every connection of davit is opened after this call.
        unsafe {
            let layer = ffi::sqlite3_vfs_find(ptr::null());
            if let Some(set) = layer.as_ref().and_then(|layer| layer.xSetSystemCall) {
                let map: ffi::sqlite3_syscall_ptr = mem::transmute(map_allocated as Map);
                // Without it SQLite works as it does anyway.
                let _is_known = set(layer, c"mmap".as_ptr(), map);
            }
        }
    });
}

/// `mmap`, after the blocks of what will be written by it are there.
unsafe extern "C" fn map_allocated(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    let is_written = flags & libc::MAP_SHARED != 0 && protection & libc::PROT_WRITE != 0;
    // SAFETY: SQLite passes its open file, which stays open until it has its map.
    if is_written && lacks_room(unsafe { BorrowedFd::borrow_raw(file) }, offset, length) {
        return libc::MAP_FAILED;
    }
    // SAFETY: the arguments are those of the caller, who wants just this.
    unsafe { libc::mmap(address, length, protection, flags, file, offset) }
}

/// Allocates a range of a file where SQLite's own way leaves holes; tells whether the disk is full.
fn lacks_room(file: BorrowedFd<'_>, offset: off_t, length: size_t) -> bool {
    if rustix::fs::fstatfs(file).is_ok_and(|facts| facts.f_bsize >= 4096) {
        return false;
    }
    let (Ok(offset), Ok(length)) = (u64::try_from(offset), u64::try_from(length)) else {
        return false;
    };
    let allocated = rustix::fs::fallocate(file, FallocateFlags::empty(), offset, length);
    matches!(allocated, Err(Errno::NOSPC | Errno::DQUOT))
}
