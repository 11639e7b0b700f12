//! What registries warn of, passed on once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use reqwest::{
    Url,
    header::{HeaderMap, WARNING},
};

use crate::{
    endpoint::host_and_port,
    wire::{Printable, warnings},
};

/// Most texts that are told; a server may send another one with each reply.
const MOST_TOLD: usize = 16;

/// Warnings that were told, by host.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<BTreeSet<(String, String)>>);

impl Told {
    /// Tells what a reply warns of, unless its host said so before.
    pub(crate) fn tell(&self, url: &Url, headers: &HeaderMap) {
        for header in headers.get_all(WARNING) {
            for text in warnings(&String::from_utf8_lossy(header.as_bytes())) {
                let text = Printable(&text).to_string();
                let host = host_and_port(url);
                let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if told.len() < MOST_TOLD && told.insert((host.clone(), text.clone())) {
                    tracing::warn!("{host} says: {text}");
                }
            }
        }
    }
}
