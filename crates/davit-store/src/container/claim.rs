//! Addresses and ports that a container claims, inside the transaction that makes it theirs.

use std::{net::IpAddr, ops::RangeInclusive};

use rusqlite::{OptionalExtension, Transaction, params};

use super::{AddressClaim, ClaimError, Claimed, PortClaim};
use crate::{
    database::to_json,
    network::{PublishedPort, choose_addresses, octets},
};

/// Host ports given when none was asked for: the kernel's default ephemeral range.
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

pub(super) fn claim(
    tx: &Transaction<'_>,
    id: &str,
    addresses: &[AddressClaim],
    ports: &[PortClaim],
) -> rusqlite::Result<Result<Claimed, ClaimError>> {
    let mut claimed = Claimed::default();
    for wish in addresses {
        if let Err(refused) = claim_addresses(tx, id, wish, &mut claimed.addresses)? {
            return Ok(Err(refused));
        }
    }
    // An ephemeral search starts at a place of its own, so that a port that was just freed is not
    // the next container's, and goes on behind the last find: an image may expose all ports.
    let mut next = ephemeral_start(id);
    for wish in ports {
        match claim_port(tx, id, wish, &mut next)? {
            Ok(ports) => claimed.ports.extend(ports),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(Ok(claimed))
}

fn claim_addresses(
    tx: &Transaction<'_>,
    id: &str,
    wish: &AddressClaim,
    got: &mut Vec<(String, IpAddr)>,
) -> rusqlite::Result<Result<(), ClaimError>> {
    let chosen = match choose_addresses(tx, &wish.network_id, &wish.wanted)? {
        Ok(chosen) => chosen,
        Err(refused) => return Ok(Err(refused)),
    };
    for address in chosen {
        tx.prepare_cached(
            "INSERT INTO addresses (network_id, address, container_id, mac, aliases)
             VALUES (?, ?, ?, ?, ?)",
        )?
        .execute(params![
            wish.network_id,
            octets(address),
            id,
            wish.mac,
            to_json(&wish.aliases)
        ])?;
        got.push((wish.network_id.clone(), address));
    }
    Ok(Ok(()))
}

fn claim_port(
    tx: &Transaction<'_>,
    id: &str,
    wish: &PortClaim,
    next: &mut u32,
) -> rusqlite::Result<Result<Vec<PublishedPort>, ClaimError>> {
    let candidates = wish.host_ports.clone().unwrap_or(EPHEMERAL);
    let (first, last) = (*candidates.start(), *candidates.end());
    let count = u32::from(last.saturating_sub(first)) + 1;
    let is_ephemeral = wish.host_ports.is_none();
    let start = if is_ephemeral { *next % count } else { 0 };
    let mut refused = None;
    for step in 0..count {
        let offset = u16::try_from((start + step) % count).expect("a range of ports has 16 bits");
        let host_port = first + offset;
        match holder_of_port(tx, wish, host_port)? {
            None => {
                if is_ephemeral {
                    *next = start + step + 1;
                }
                return hold_port(tx, id, wish, host_port).map(Ok);
            }
            Some(conflict) => refused = refused.or(Some(conflict)),
        }
    }
    Ok(Err(refused.expect("an inclusive range has a port")))
}

fn ephemeral_start(id: &str) -> u32 {
    u32::from_str_radix(id.get(..6).unwrap_or("0"), 16).unwrap_or(0)
}

/// A port on all addresses conflicts with the same port on any, and the other way round.
fn holder_of_port(
    tx: &Transaction<'_>,
    wish: &PortClaim,
    host_port: u16,
) -> rusqlite::Result<Option<ClaimError>> {
    for &host_address in &wish.host_addresses {
        let holder = tx
            .prepare_cached(
                "SELECT container_id FROM ports WHERE protocol = ?1 AND family = ?2
                 AND host_port = ?3
                 AND (host_address = ?4 OR length(host_address) = 0 OR length(?4) = 0)",
            )?
            .query_row(
                params![
                    wish.protocol.to_string(),
                    family(host_address),
                    host_port,
                    port_address(host_address),
                ],
                |row| row.get(0),
            )
            .optional()?;
        if let Some(holder) = holder {
            let protocol = wish.protocol;
            return Ok(Some(ClaimError::Port { protocol, host_address, host_port, holder }));
        }
    }
    Ok(None)
}

fn hold_port(
    tx: &Transaction<'_>,
    id: &str,
    wish: &PortClaim,
    host_port: u16,
) -> rusqlite::Result<Vec<PublishedPort>> {
    let mut held = Vec::new();
    for &host_address in &wish.host_addresses {
        tx.prepare_cached(
            "INSERT INTO ports
             (protocol, family, host_address, host_port, container_port, container_id)
             VALUES (?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            wish.protocol.to_string(),
            family(host_address),
            port_address(host_address),
            host_port,
            wish.container_port,
            id,
        ])?;
        held.push(PublishedPort {
            protocol: wish.protocol,
            host_address,
            host_port,
            container_port: wish.container_port,
        });
    }
    Ok(held)
}

const fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

fn port_address(address: IpAddr) -> Vec<u8> {
    if address.is_unspecified() { Vec::new() } else { octets(address) }
}
