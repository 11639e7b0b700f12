//! Networks, their address pools, and the addresses and ports that containers hold.

mod octets;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rusqlite::{Connection, OptionalExtension, Transaction, params};

pub(crate) use self::octets::octets;
use self::octets::{address, from_number, number};
use crate::{
    Store, StoreError,
    container::{ClaimError, PortProtocol},
    database::{Class, json, parsed, to_json},
    store::now,
};

/// A range of addresses on one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// First address of the subnet.
    pub subnet: IpAddr,
    /// Length of its prefix in bits.
    pub prefix: u8,
    /// The bridge's own address; never given to a container.
    pub gateway: IpAddr,
    /// First address that is given without being asked for.
    pub first: IpAddr,
    /// Last such address.
    pub last: IpAddr,
}

/// A network to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewNetwork {
    /// 64 lower-case hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// `bridge`, `host` or `null`.
    pub driver: String,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// At most one pool of each family, usually.
    pub pools: Vec<Pool>,
    /// What else its driver wants to find again.
    pub spec: serde_json::Value,
}

/// A network's row.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkRow {
    /// What it was made with.
    pub network: NewNetwork,
    /// Nanoseconds since 1970.
    pub created: i64,
}

/// An address that a container holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRow {
    /// The network's id.
    pub network_id: String,
    /// The address.
    pub address: IpAddr,
    /// The container's id.
    pub container_id: String,
    /// Its interface's hardware address; empty where the kernel chooses.
    pub mac: String,
    /// Names beside the container's that resolve to it.
    pub aliases: Vec<String>,
}

/// A published port that a container holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// TCP, UDP or SCTP.
    pub protocol: PortProtocol,
    /// Address on the host; unspecified for all of its family.
    pub host_address: IpAddr,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
}

/// A published port and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRow {
    /// The port.
    pub port: PublishedPort,
    /// The container's id.
    pub container_id: String,
}

impl Pool {
    /// Tells whether an address lies in the subnet.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, width) = match (self.subnet, address) {
            (IpAddr::V4(_), IpAddr::V4(_)) => (u32::from(self.prefix), 32),
            (IpAddr::V6(_), IpAddr::V6(_)) => (u32::from(self.prefix), 128),
            _ => return false,
        };
        let host_bits = width - bits.min(width);
        number(self.subnet).checked_shr(host_bits) == number(address).checked_shr(host_bits)
    }

    /// Whether an address of the subnet is no host's: its first, and the last of IPv4.
    #[must_use]
    pub fn is_edge(&self, address: IpAddr) -> bool {
        let width: u32 = if address.is_ipv4() { 32 } else { 128 };
        let most = u128::MAX.checked_shr(128 - width + u32::from(self.prefix)).unwrap_or(0);
        let host = number(address) & most;
        host == 0 || (address.is_ipv4() && host == most)
    }
}

const SELECT: &str = "SELECT id, name, driver, labels, spec, created FROM networks";

impl Store {
    /// Makes a network.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken, or what the database says.
    pub fn create_network(&self, network: &NewNetwork) -> Result<(), StoreError> {
        let sql = |e| self.database.error("create a network", e);
        self.database.write(Class::Full, "create a network", |tx| {
            let taken = tx
                .prepare_cached("SELECT 1 FROM networks WHERE name = ?")
                .and_then(|mut s| s.exists([&network.name]))
                .map_err(sql)?;
            if taken {
                return Err(StoreError::Exists { kind: "network", name: network.name.clone() });
            }
            insert(tx, network).map_err(sql)
        })
    }

    /// Looks up a network by name, by id, or by the start of its id, in this order.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or what the database says.
    pub fn network(&self, name: &str) -> Result<NetworkRow, StoreError> {
        let mut fits: Vec<_> = Vec::new();
        for row in self.networks()? {
            if row.network.name == name || row.network.id == name {
                return Ok(row);
            }
            if !name.is_empty() && row.network.id.starts_with(name) {
                fits.push(row);
            }
        }
        match (fits.pop(), fits.is_empty()) {
            (Some(row), true) => Ok(row),
            (Some(_), false) => {
                Err(StoreError::Ambiguous { kind: "network", prefix: name.to_owned() })
            }
            (None, _) => Err(StoreError::not_found("network", name)),
        }
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// What the database says.
    pub fn networks(&self) -> Result<Vec<NetworkRow>, StoreError> {
        let sql = |e| self.database.error("list the networks", e);
        self.database.snapshot("list the networks", |c| {
            let mut statement =
                c.prepare_cached(&format!("{SELECT} ORDER BY name")).map_err(sql)?;
            let rows = statement.query_map([], |row| of_row(c, row)).map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Removes a network by id after what it has on the machine, which `withdraw` takes away while
    /// nobody can claim an address: whoever is killed on the way leaves a network that is made again
    /// at its next use. One on which containers or builds hold addresses stays: the ids of the
    /// containers, and of the leases, are returned. If `withdraw` fails the network stays, too.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or what the database says.
    pub fn remove_network<E>(
        &self,
        id: &str,
        withdraw: impl FnOnce() -> Result<(), E>,
    ) -> Result<Result<Vec<String>, E>, StoreError> {
        let sql = |e| self.database.error("remove a network", e);
        self.database.write(Class::Full, "remove a network", |tx| {
            self.free_dead_addresses(tx)?;
            let users = users(tx, id).map_err(sql)?;
            if !users.is_empty() {
                return Ok(Ok(users));
            }
            let is_there = tx
                .prepare_cached("SELECT 1 FROM networks WHERE id = ?")
                .and_then(|mut s| s.exists([id]))
                .map_err(sql)?;
            if !is_there {
                return Err(StoreError::not_found("network", id));
            }
            if let Err(error) = withdraw() {
                return Ok(Err(error));
            }
            tx.execute("DELETE FROM networks WHERE id = ?", [id]).map_err(sql)?;
            Ok(Ok(users))
        })
    }

    /// Gives a network a pool in place of its ones of the same family. Containers that hold an
    /// address there hold one of the new pool instead, as long as it has any; the pools must not
    /// overlap.
    ///
    /// # Errors
    /// What the database says.
    pub fn move_network(&self, network_id: &str, pool: &Pool) -> Result<(), StoreError> {
        let sql = |e| self.database.error("move a network", e);
        self.database
            .write(Class::Normal, "move a network", |tx| move_to(tx, network_id, pool).map_err(sql))
    }

    /// Addresses held on a network.
    ///
    /// # Errors
    /// What the database says.
    pub fn network_addresses(&self, network_id: &str) -> Result<Vec<AddressRow>, StoreError> {
        self.database.read("read addresses", |c| {
            addresses(c, "network_id", network_id)
                .map_err(|e| self.database.error("read addresses", e))
        })
    }

    /// Addresses held by a container.
    ///
    /// # Errors
    /// What the database says.
    pub fn container_addresses(&self, id: &str) -> Result<Vec<AddressRow>, StoreError> {
        self.database.read("read addresses", |c| {
            addresses(c, "container_id", id).map_err(|e| self.database.error("read addresses", e))
        })
    }

    /// Frees the addresses of work that ended without a word.
    pub(crate) fn free_dead_addresses(&self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let any = tx
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM lease_addresses)")
            .and_then(|mut s| s.query_row([], |row| row.get(0)))
            .map_err(|e| self.database.error("read addresses", e))?;
        if any { self.drop_dead_leases(tx) } else { Ok(()) }
    }

    /// Ports held by one container, or by all when `id` is `None`.
    ///
    /// # Errors
    /// What the database says.
    pub fn ports(&self, id: Option<&str>) -> Result<Vec<PortRow>, StoreError> {
        self.database.read("read published ports", |c| {
            ports(c, id).map_err(|e| self.database.error("read published ports", e))
        })
    }
}

fn insert(tx: &Transaction<'_>, network: &NewNetwork) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO networks (id, name, driver, labels, spec, created) VALUES (?, ?, ?, ?, ?, ?)",
        params![
            network.id,
            network.name,
            network.driver,
            to_json(&network.labels),
            to_json(&network.spec),
            now(),
        ],
    )?;
    network.pools.iter().try_for_each(|pool| insert_pool(tx, &network.id, pool))
}

fn insert_pool(tx: &Transaction<'_>, network_id: &str, pool: &Pool) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO network_pools (network_id, subnet, prefix, gateway, first, last)
         VALUES (?, ?, ?, ?, ?, ?)",
        params![
            network_id,
            octets(pool.subnet),
            pool.prefix,
            octets(pool.gateway),
            octets(pool.first),
            octets(pool.last),
        ],
    )
    .map(drop)
}

fn move_to(tx: &Transaction<'_>, network_id: &str, pool: &Pool) -> rusqlite::Result<()> {
    tx.execute(
        "DELETE FROM network_pools WHERE network_id = ? AND length(subnet) = length(?)",
        params![network_id, octets(pool.subnet)],
    )?;
    insert_pool(tx, network_id, pool)?;
    let held = addresses(tx, "network_id", network_id)?.into_iter().map(|row| row.address);
    let held = held.filter(|held| held.is_ipv4() == pool.subnet.is_ipv4());
    let free = (number(pool.first)..=number(pool.last))
        .map(|number| from_number(number, pool.first))
        .filter(|free| *free != pool.gateway);
    for (old, new) in held.zip(free) {
        tx.execute(
            "UPDATE addresses SET address = ? WHERE network_id = ? AND address = ?",
            params![octets(new), network_id, octets(old)],
        )?;
    }
    Ok(())
}

fn of_row(c: &Connection, row: &rusqlite::Row<'_>) -> rusqlite::Result<NetworkRow> {
    let id: String = row.get(0)?;
    Ok(NetworkRow {
        created: row.get(5)?,
        network: NewNetwork {
            pools: pools(c, &id)?,
            id,
            name: row.get(1)?,
            driver: row.get(2)?,
            labels: json(row, 3)?,
            spec: json(row, 4)?,
        },
    })
}

/// Pools of a network, IPv4 first.
pub(crate) fn pools(c: &Connection, network_id: &str) -> rusqlite::Result<Vec<Pool>> {
    c.prepare_cached(
        "SELECT subnet, prefix, gateway, first, last FROM network_pools WHERE network_id = ?
         ORDER BY length(subnet), subnet",
    )?
    .query_map([network_id], |row| {
        Ok(Pool {
            subnet: address(row, 0)?,
            prefix: row.get(1)?,
            gateway: address(row, 2)?,
            first: address(row, 3)?,
            last: address(row, 4)?,
        })
    })?
    .collect()
}

fn addresses(c: &Connection, column: &str, key: &str) -> rusqlite::Result<Vec<AddressRow>> {
    c.prepare_cached(&format!(
        "SELECT network_id, address, container_id, mac, aliases FROM addresses
         WHERE {column} = ? ORDER BY network_id, length(address), address"
    ))?
    .query_map([key], |row| {
        Ok(AddressRow {
            network_id: row.get(0)?,
            address: address(row, 1)?,
            container_id: row.get(2)?,
            mac: row.get(3)?,
            aliases: json(row, 4)?,
        })
    })?
    .collect()
}

/// Containers and leases that hold addresses on a network.
fn users(c: &Connection, network_id: &str) -> rusqlite::Result<Vec<String>> {
    c.prepare_cached(
        "SELECT container_id FROM addresses WHERE network_id = ?1
         UNION SELECT lease_id FROM lease_addresses WHERE network_id = ?1",
    )?
    .query_map([network_id], |row| row.get(0))?
    .collect()
}

fn ports(c: &Connection, id: Option<&str>) -> rusqlite::Result<Vec<PortRow>> {
    c.prepare_cached(
        "SELECT protocol, family, host_address, host_port, container_port, container_id FROM ports
         WHERE ?1 IS NULL OR container_id = ?1
         ORDER BY container_port, protocol, family, host_port",
    )?
    .query_map([id], |row| {
        let family: u8 = row.get(1)?;
        let host_address = match row.get_ref(2)?.as_blob()? {
            [] if family == 6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            [] => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            _ => address(row, 2)?,
        };
        Ok(PortRow {
            port: PublishedPort {
                protocol: parsed(row, 0)?,
                host_address,
                host_port: row.get(3)?,
                container_port: row.get(4)?,
            },
            container_id: row.get(5)?,
        })
    })?
    .collect()
}

/// One free address of each family of a network: what is `wanted` of it, else the lowest.
pub(crate) fn choose_addresses(
    tx: &Transaction<'_>,
    network_id: &str,
    wanted: &[IpAddr],
) -> rusqlite::Result<Result<Vec<IpAddr>, ClaimError>> {
    let pools = pools(tx, network_id)?;
    for &address in wanted {
        if !pools.iter().any(|pool| pool.contains(address)) {
            let network = network_id.to_owned();
            return Ok(Err(ClaimError::NoPool { network, address }));
        }
    }
    let mut chosen: Vec<IpAddr> = Vec::new();
    for pool in &pools {
        // Several pools of one family are one supply: the first that fits serves.
        if chosen.iter().any(|address| address.is_ipv4() == pool.subnet.is_ipv4()) {
            continue;
        }
        let wanted =
            wanted.iter().copied().find(|wanted| wanted.is_ipv4() == pool.subnet.is_ipv4());
        if wanted.is_some_and(|address| !pool.contains(address)) {
            continue;
        }
        match choose_address(tx, network_id, pool, wanted)? {
            Ok(address) => chosen.push(address),
            Err(refused) => return Ok(Err(refused)),
        }
    }
    Ok(Ok(chosen))
}

fn choose_address(
    tx: &Transaction<'_>,
    network_id: &str,
    pool: &Pool,
    wanted: Option<IpAddr>,
) -> rusqlite::Result<Result<IpAddr, ClaimError>> {
    if let Some(address) = wanted {
        let holder = if address == pool.gateway {
            Some("the gateway".to_owned())
        } else if pool.is_edge(address) {
            Some("the network itself".to_owned())
        } else {
            holder_of(tx, network_id, address)?
        };
        return Ok(match holder {
            Some(holder) => Err(ClaimError::Address { address, holder }),
            None => Ok(address),
        });
    }
    let mut held: BTreeSet<IpAddr> =
        addresses(tx, "network_id", network_id)?.into_iter().map(|row| row.address).collect();
    held.extend(lease_addresses(tx, network_id)?);
    held.insert(pool.gateway);
    let free = (number(pool.first)..=number(pool.last))
        .map(|candidate| from_number(candidate, pool.first))
        .find(|candidate| !held.contains(candidate));
    Ok(free.ok_or_else(|| ClaimError::PoolExhausted { network: network_id.to_owned() }))
}

fn holder_of(
    tx: &Transaction<'_>,
    network_id: &str,
    address: IpAddr,
) -> rusqlite::Result<Option<String>> {
    tx.prepare_cached(
        "SELECT container_id FROM addresses WHERE network_id = ?1 AND address = ?2
         UNION ALL SELECT 'a build' FROM lease_addresses
         WHERE network_id = ?1 AND address = ?2",
    )?
    .query_row(params![network_id, octets(address)], |row| row.get(0))
    .optional()
}

fn lease_addresses(tx: &Transaction<'_>, network_id: &str) -> rusqlite::Result<Vec<IpAddr>> {
    tx.prepare_cached("SELECT address FROM lease_addresses WHERE network_id = ?")?
        .query_map([network_id], |row| address(row, 0))?
        .collect()
}
