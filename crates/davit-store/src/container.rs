//! Containers: rows, and what they claim (name, addresses, ports, volumes).
//!
//! Constraints of the database are the locks: two processes that claim the same thing in the same
//! instant get one success and one [`ClaimError`]. A container's row with all its claims comes and
//! goes in one transaction, so that a kill leaves no address or port behind.

mod claim;

use std::{collections::BTreeMap, net::IpAddr, ops::RangeInclusive, path::PathBuf};

use davit_image::{DiffId, Digest, ImageId};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::{
    Durability, Store, StoreError,
    database::{Class, json, parsed_option, to_json},
    layer::{UnknownWord, column_enum},
    network::PublishedPort,
    store::now,
};

use claim::claim;

/// Transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

column_enum!(PortProtocol { Tcp = "tcp", Udp = "udp", Sctp = "sctp" });

/// A container to be created.
#[derive(Clone, Debug)]
pub struct NewContainer {
    /// 64 lower-case hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// The image that it is made of, which it keeps.
    pub image_id: Option<ImageId>,
    /// Layers that it keeps beside its image's.
    pub layers: Vec<DiffId>,
    /// Removed by its end.
    pub auto_remove: bool,
    /// Its labels, for filters.
    pub labels: BTreeMap<String, String>,
    /// First word of its status.
    pub status: String,
    /// All that it was asked to be.
    pub spec: serde_json::Value,
    /// Named volumes that it uses; they are there.
    pub volumes: Vec<String>,
    /// Addresses to hold from the start.
    pub addresses: Vec<AddressClaim>,
    /// Ports to hold from the start.
    pub ports: Vec<PortClaim>,
}

/// An address to be held.
#[derive(Clone, Debug, Default)]
pub struct AddressClaim {
    /// Id of the network.
    pub network_id: String,
    /// A certain address; otherwise the lowest free one of each pool.
    pub wanted: Vec<IpAddr>,
    /// Hardware address of the interface; may be empty.
    pub mac: String,
    /// More names that resolve to it.
    pub aliases: Vec<String>,
}

/// A host port to be held.
#[derive(Clone, Debug)]
pub struct PortClaim {
    /// TCP, UDP or SCTP.
    pub protocol: PortProtocol,
    /// Addresses on the host, unspecified for all of a family; each gets the same port.
    pub host_addresses: Vec<IpAddr>,
    /// Acceptable host ports, the first free one is taken; `None`: any ephemeral one.
    pub host_ports: Option<RangeInclusive<u16>>,
    /// Port in the container.
    pub container_port: u16,
}

/// Why a claim is refused.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// The name is another container's.
    #[error("the container name `{name}` is already in use by container {holder}")]
    Name {
        /// The name.
        name: String,
        /// Id of the other container.
        holder: String,
    },
    /// The address is held.
    #[error("address {address} is already in use by {holder}")]
    Address {
        /// The address.
        address: IpAddr,
        /// Id of the other container, or what else it is.
        holder: String,
    },
    /// All addresses of a network are held.
    #[error("network {network} has no free address")]
    PoolExhausted {
        /// The network's id.
        network: String,
    },
    /// The network has no pool that fits.
    #[error("network {network} has no subnet that contains {address}")]
    NoPool {
        /// The network's id.
        network: String,
        /// The address asked for.
        address: IpAddr,
    },
    /// The host port is held.
    #[error(
        "host port {host_address}:{host_port}/{protocol} is already in use by container {holder}"
    )]
    Port {
        /// Transport.
        protocol: PortProtocol,
        /// Address on the host.
        host_address: IpAddr,
        /// Port on the host.
        host_port: u16,
        /// Id of the other container.
        holder: String,
    },
    /// The database or disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A container's row.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRow {
    /// 64 lower-case hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// The image that it is made of.
    pub image_id: Option<ImageId>,
    /// RUN_ROOT of its creator; another one is an error.
    pub run_root: PathBuf,
    /// Removed by its end.
    pub auto_remove: bool,
    /// First word of its status, as of the last command that knew.
    pub status: String,
    /// Its end is not yet cleaned up.
    pub cleanup_pending: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// All that it was asked to be.
    pub spec: serde_json::Value,
    /// What became of it, as of the last command that knew.
    pub state: serde_json::Value,
    /// Nanoseconds since 1970.
    pub created: i64,
}

/// What a container got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// Addresses, in the order of the claims; IPv4 before IPv6.
    pub addresses: Vec<(String, IpAddr)>,
    /// Ports, in the order of the claims.
    pub ports: Vec<PublishedPort>,
}

/// Which containers to list.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    /// Only those of this image.
    pub image_id: Option<ImageId>,
    /// Only those with this status.
    pub status: Option<String>,
    /// Only those whose end is not yet cleaned up.
    pub cleanup_pending: bool,
}

const SELECT: &str = "SELECT id, name, image_id, run_root, auto_remove, status, cleanup_pending,
     labels, spec, state, created FROM containers";

impl Store {
    /// Creates a container with all it claims: everything or, after an error, nothing. A container
    /// that its end removes needs no durable row.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn create_container(
        &self,
        container: &NewContainer,
        durability: Durability,
    ) -> Result<Claimed, ClaimError> {
        self.claiming(durability, "create a container", |tx| {
            if let Some(holder) = holder_of_name(tx, &container.name)? {
                let name = container.name.clone();
                return Ok(Err(ClaimError::Name { name, holder }));
            }
            // It may have been removed since it was found by its name.
            if let Some(image) = container.image_id
                && !tx
                    .prepare_cached("SELECT 1 FROM images WHERE id = ?")?
                    .exists([image.to_string()])?
            {
                return Ok(Err(StoreError::not_found("image", image).into()));
            }
            insert(tx, container, &self.run_root().to_string_lossy())?;
            claim(tx, &container.id, &container.addresses, &container.ports)
        })
    }

    /// Lets a container hold addresses and ports, all or none. What it held before stays.
    ///
    /// # Errors
    /// See [`ClaimError`].
    pub fn claim_endpoints(
        &self,
        id: &str,
        addresses: &[AddressClaim],
        ports: &[PortClaim],
        durability: Durability,
    ) -> Result<Claimed, ClaimError> {
        self.claiming(durability, "claim addresses", |tx| claim(tx, id, addresses, ports))
    }

    /// Frees all addresses and ports of a container.
    ///
    /// # Errors
    /// What the database says.
    pub fn release_endpoints(&self, id: &str) -> Result<(), StoreError> {
        self.database.write(Class::Normal, "release addresses", |tx| {
            tx.execute("DELETE FROM addresses WHERE container_id = ?", [id])
                .and_then(|_| tx.execute("DELETE FROM ports WHERE container_id = ?", [id]))
                .map(|_| ())
                .map_err(|e| self.database.error("release addresses", e))
        })
    }

    /// Finds a container by id, by name, or by the start of its id, in this order.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], or what the database says.
    pub fn container(&self, name: &str) -> Result<ContainerRow, StoreError> {
        let sql = |e| self.database.error("look up a container", e);
        let name = name.strip_prefix('/').unwrap_or(name);
        let mut found = self.database.read("look up a container", |c| {
            let mut statement = c
                .prepare_cached(&format!(
                    "{SELECT} WHERE id = ?1 OR name = ?1 OR (?1 != '' AND id BETWEEN ?1 AND ?1 || 'g')
                     ORDER BY id = ?1 DESC, name = ?1 DESC LIMIT 2"
                ))
                .map_err(sql)?;
            let rows = statement.query_map([name], of_row).map_err(sql)?;
            rows.collect::<Result<Vec<_>, _>>().map_err(sql)
        })?;
        let exact = found.first().is_some_and(|row| row.id == name || row.name == name);
        if found.len() > 1 && !exact {
            return Err(StoreError::Ambiguous { kind: "container", prefix: name.to_owned() });
        }
        found.truncate(1);
        found.pop().ok_or_else(|| StoreError::not_found("container", name))
    }

    /// Lists containers, newest first.
    ///
    /// # Errors
    /// What the database says.
    pub fn containers(&self, filter: &ContainerFilter) -> Result<Vec<ContainerRow>, StoreError> {
        let sql = |e| self.database.error("list the containers", e);
        self.database.read("list the containers", |c| {
            let mut statement = c
                .prepare_cached(&format!(
                    "{SELECT} WHERE (?1 IS NULL OR image_id = ?1) AND (?2 IS NULL OR status = ?2)
                     AND (?3 = 0 OR cleanup_pending != 0) ORDER BY created DESC, id"
                ))
                .map_err(sql)?;
            let image = filter.image_id.map(|id| id.to_string());
            let rows = statement
                .query_map(params![image, filter.status, filter.cleanup_pending], of_row)
                .map_err(sql)?;
            rows.collect::<Result<_, _>>().map_err(sql)
        })
    }

    /// Records what became of a container.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], or what the database says.
    pub fn update_container(
        &self,
        id: &str,
        update: &ContainerUpdate,
        durability: Durability,
    ) -> Result<(), StoreError> {
        let sql = |e| self.database.error("update a container", e);
        self.database.write(durability.into(), "update a container", |tx| {
            let changed = tx
                .prepare_cached(
                    "UPDATE containers SET status = COALESCE(?2, status),
                     state = COALESCE(?3, state), spec = COALESCE(?4, spec),
                     cleanup_pending = COALESCE(?5, cleanup_pending) WHERE id = ?1",
                )
                .and_then(|mut s| {
                    s.execute(params![
                        id,
                        update.status,
                        update.state.as_ref().map(to_json),
                        update.spec.as_ref().map(to_json),
                        update.cleanup_pending,
                    ])
                })
                .map_err(sql)?;
            if changed == 0 { Err(StoreError::not_found("container", id)) } else { Ok(()) }
        })
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// [`ClaimError::Name`] when that is taken, [`StoreError::NotFound`] when it is gone.
    pub fn rename_container(&self, id: &str, name: &str) -> Result<(), ClaimError> {
        self.claiming(Durability::Durable, "rename a container", |tx| {
            if let Some(holder) = holder_of_name(tx, name)? {
                return Ok(Err(ClaimError::Name { name: name.to_owned(), holder }));
            }
            match tx.execute("UPDATE containers SET name = ? WHERE id = ?", [name, id])? {
                0 => Ok(Err(StoreError::not_found("container", id).into())),
                _ => Ok(Ok(())),
            }
        })
    }

    /// Removes a container's row with all its claims; `false` when there was none. Its directory is
    /// the caller's to remove, before. Where it was the last that kept an image without a name,
    /// the image's space is freed at once.
    ///
    /// # Errors
    /// What the database says.
    pub fn remove_container(&self, id: &str, durability: Durability) -> Result<bool, StoreError> {
        let sql = |e| self.database.error("remove a container", e);
        self.make_room()?;
        let (removed, was_last) =
            self.database.write(durability.into(), "remove a container", |tx| {
                let was_last = is_last_user(tx, id).map_err(sql)?;
                let rows = tx.execute("DELETE FROM containers WHERE id = ?", [id]).map_err(sql)?;
                Ok((rows > 0, was_last))
            })?;
        if was_last {
            self.collect(&crate::GcOptions::default())?;
        }
        Ok(removed)
    }

    /// Runs `act` while no container runs and no lease lives, and keeps every other process from
    /// starting one or a build meanwhile; `None` when one is there. No call of this store is
    /// possible inside.
    ///
    /// # Errors
    /// What the database says.
    pub fn while_idle<T>(&self, act: impl FnOnce() -> T) -> Result<Option<T>, StoreError> {
        let action = "look for running containers";
        self.database.write(Class::Normal, action, |tx| {
            self.drop_dead_leases(tx)?;
            // The row comes before everything that a start or a build needs of the machine.
            let runs = tx
                .prepare_cached(
                    "SELECT 1 FROM containers WHERE status NOT IN ('created', 'exited')
                     UNION ALL SELECT 1 FROM leases",
                )
                .and_then(|mut statement| statement.exists([]))
                .map_err(|e| self.database.error(action, e))?;
            Ok((!runs).then(act))
        })
    }

    pub(crate) fn claiming<T>(
        &self,
        durability: Durability,
        action: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<Result<T, ClaimError>>,
    ) -> Result<T, ClaimError> {
        let mut refused = None;
        let done = self.database.write(durability.into(), action, |tx| {
            self.free_dead_addresses(tx)?;
            match work(tx).map_err(|e| self.database.error(action, e))? {
                Ok(value) => Ok(value),
                Err(error) => {
                    refused = Some(error);
                    Err(StoreError::not_found("claim", action))
                }
            }
        });
        match refused {
            Some(error) => Err(error),
            None => Ok(done?),
        }
    }
}

/// Changes to a container's row; `None` leaves a column as it is.
#[derive(Clone, Debug, Default)]
pub struct ContainerUpdate {
    /// First word of its status.
    pub status: Option<String>,
    /// What became of it.
    pub state: Option<serde_json::Value>,
    /// All that it was asked to be.
    pub spec: Option<serde_json::Value>,
    /// Whether its end is not yet cleaned up.
    pub cleanup_pending: Option<bool>,
}

/// Whether nothing but this container keeps its image.
fn is_last_user(tx: &Transaction<'_>, id: &str) -> rusqlite::Result<bool> {
    tx.prepare_cached(
        "SELECT 1 FROM containers c WHERE c.id = ?1 AND c.image_id IS NOT NULL
         AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.image_id = c.image_id)
         AND NOT EXISTS (SELECT 1 FROM untagged u WHERE u.image_id = c.image_id)
         AND NOT EXISTS (SELECT 1 FROM containers o WHERE o.image_id = c.image_id AND o.id != ?1)",
    )?
    .exists([id])
}

fn holder_of_name(tx: &Transaction<'_>, name: &str) -> rusqlite::Result<Option<String>> {
    tx.prepare_cached("SELECT id FROM containers WHERE name = ?")?
        .query_row([name], |row| row.get(0))
        .optional()
}

fn insert(tx: &Transaction<'_>, new: &NewContainer, run_root: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO containers
         (id, name, image_id, run_root, auto_remove, status, labels, spec, created)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        new.id,
        new.name,
        new.image_id.map(|id| id.to_string()),
        run_root,
        new.auto_remove,
        new.status,
        to_json(&new.labels),
        to_json(&new.spec),
        now(),
    ])?;
    for layer in &new.layers {
        insert_item(tx, &new.id, &layer.digest())?;
    }
    for volume in &new.volumes {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO volume_uses (volume, container_id) VALUES (?, ?)",
        )?
        .execute([volume, &new.id])?;
    }
    Ok(())
}

fn insert_item(tx: &Transaction<'_>, id: &str, digest: &Digest) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO container_items (container_id, digest) VALUES (?, ?)")?
        .execute(params![id, digest.to_string()])
        .map(|_| ())
}

fn of_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ContainerRow> {
    Ok(ContainerRow {
        id: row.get(0)?,
        name: row.get(1)?,
        image_id: parsed_option(row, 2)?,
        run_root: PathBuf::from(row.get::<_, String>(3)?),
        auto_remove: row.get(4)?,
        status: row.get(5)?,
        cleanup_pending: row.get(6)?,
        labels: json(row, 7)?,
        spec: json(row, 8)?,
        state: json(row, 9)?,
        created: row.get(10)?,
    })
}
