//! The name service switch of a static glibc.

use std::ffi::{c_char, c_int};

unsafe extern "C" {
    fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
}

/// Pins host name lookups to `files dns`.
///
/// A static glibc would otherwise load the host's libraries as `/etc/nsswitch.conf` names them,
/// which need not match it. Call it once, before the first lookup and the first thread.
pub fn pin() {
    // SAFETY: both arguments are NUL-terminated literals, and no lookup runs yet.
    let failed = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    debug_assert_eq!(failed, 0, "glibc knows the database `hosts`");
}
