//! The client against scripted registries that misbehave, and against Debian's docker-registry.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod auth;
mod blob;
mod credentials;
mod download;
mod fixture;
mod list;
mod manifest;
mod mirror;
mod real;
mod upload;
