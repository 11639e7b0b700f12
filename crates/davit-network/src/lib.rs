//! Container networks: bridges, address pools, nftables and published ports.

#![forbid(unsafe_code)]
