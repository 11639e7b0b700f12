//! Every unsafe block and raw system call of davit.

#![allow(unsafe_code, reason = "the one crate that may")]

pub mod behind;
pub mod bpf;
pub mod bulk;
pub mod code;
pub mod heap;
pub mod inherit;
pub mod interrupt;
pub mod map;
pub mod mount;
pub mod nss;
pub mod owners;
pub mod process;
pub mod release;
pub mod sealed;
pub mod seccomp;
pub mod signals;
pub mod sqlite;
pub mod uncached;
pub mod writeback;
pub mod xattr;
