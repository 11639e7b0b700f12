//! Root filesystems: EROFS trees, extracted directories and overlay mounts.

#![forbid(unsafe_code)]
