//! `davit network inspect`.

use davit_store::{ContainerFilter, NetworkRow, Pool};
use serde_json::{Map, Value, json};

use super::{
    super::{
        Container, ContainerError,
        list::network_name,
        network::{BRIDGE, NetworkSpec},
    },
    from_nanoseconds,
};
use crate::Engine;

impl Engine {
    /// Docker's networks.
    ///
    /// # Errors
    /// What the store says.
    pub fn networks(&self) -> Result<Vec<NetworkRow>, ContainerError> {
        self.network_rows()
    }

    /// A network as `docker network inspect` shows it.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`].
    pub fn inspect_network(&self, name: &str) -> Result<Value, ContainerError> {
        let row = self.find_network(name)?;
        let spec = NetworkSpec::of(&row.network)?;
        let pools: Vec<Value> = row.network.pools.iter().map(|pool| shown(pool, &spec)).collect();
        let options = if row.network.name == BRIDGE {
            let bridge = self.bridge(&row)?;
            json!({"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": bridge.name})
        } else {
            json!(spec.options)
        };
        Ok(json!({
            "Name": row.network.name,
            "Id": row.network.id,
            "Created": from_nanoseconds(row.created),
            "Scope": "local",
            "Driver": row.network.driver,
            "EnableIPv4": true,
            "EnableIPv6": row.network.pools.iter().any(|pool| pool.subnet.is_ipv6()),
            "IPAM": {"Driver": "default", "Options": null, "Config": pools},
            "Internal": spec.internal,
            "Attachable": spec.attachable,
            "Ingress": false,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": false,
            "Containers": self.members(&row)?,
            "Options": options,
            "Labels": row.network.labels,
        }))
    }

    fn members(&self, row: &NetworkRow) -> Result<Value, ContainerError> {
        let mut members: Map<String, Value> = Map::new();
        for address in self.store().network_addresses(&row.network.id)? {
            let Ok(container) = self.container(&address.container_id) else { continue };
            let prefix = row.network.pools.iter().find(|pool| pool.contains(address.address));
            let text = format!("{}/{}", address.address, prefix.map_or(0, |pool| pool.prefix));
            let key = if address.address.is_ipv4() { "IPv4Address" } else { "IPv6Address" };
            let member =
                members.entry(address.container_id).or_insert_with(|| member_of(&container));
            member[key] = text.into();
            if let std::net::IpAddr::V4(ipv4) = address.address {
                member["MacAddress"] = davit_network::Mac::of_address(ipv4).to_string().into();
            }
        }
        // Without an address a container is there while it runs.
        let filter = ContainerFilter { status: Some("running".to_owned()), ..Default::default() };
        for other in self.store().containers(&filter)? {
            let Some(container) = self.examine(other)? else { continue };
            let is_member = network_name(&container.spec.network) == row.network.name;
            if container.status.phase.is_alive() && is_member {
                members.entry(container.id.clone()).or_insert_with(|| member_of(&container));
            }
        }
        Ok(members.into())
    }
}

fn shown(pool: &Pool, spec: &NetworkSpec) -> Value {
    let mut value = json!({
        "Subnet": format!("{}/{}", pool.subnet, pool.prefix),
        "Gateway": pool.gateway.to_string(),
    });
    let is_of_pool = |range: &&String| {
        let address = range.split('/').next().and_then(|text| text.parse().ok());
        address.is_some_and(|address| pool.contains(address))
    };
    if let Some(range) = spec.ip_ranges.iter().find(is_of_pool) {
        value["IPRange"] = range.clone().into();
    }
    value
}

/// A container in a network, without its addresses.
fn member_of(container: &Container) -> Value {
    json!({
        "Name": container.name,
        "EndpointID": container.id,
        "MacAddress": "",
        "IPv4Address": "",
        "IPv6Address": "",
    })
}
