//! Functions on prefixes of addresses, as `10.0.0.0/8`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::{Call, Found};
use crate::error::ValueError;

/// Most bits that one call may extend a prefix by.
const MOST_BITS: i64 = 32;

/// A network: its address as a number, with as many bits as its family has.
#[derive(Clone, Copy)]
struct Network {
    address: u128,
    prefix: u32,
    bits: u32,
}

pub(super) fn networks(call: &Call<'_>) -> Found {
    if !call.name.starts_with("cidr") {
        return Ok(None);
    }
    let network = Network::parse(call, &call.text(0)?)?;
    let value: Value = match call.name {
        "cidrhost" => network.host(call, call.whole(1)?)?.into(),
        "cidrnetmask" => Network { address: network.mask(), ..network }.text().into(),
        "cidrsubnet" => {
            let (bits, number) = (call.whole(1)?, call.whole(2)?);
            let longer = network.extended(call, bits)?;
            let number = u128::try_from(number).ok();
            let fits = |number: &u128| bits == 128 || *number < 1 << bits;
            let number = number.filter(fits).ok_or_else(|| call.wrong("no such network"))?;
            let address = network.address | shifted(number, longer.bits - longer.prefix);
            Network { address, ..longer }.with_prefix().into()
        }
        "cidrsubnets" => subnets(call, network)?,
        _ => return Ok(None),
    };
    Ok(Some(value))
}

fn shifted(number: u128, bits: u32) -> u128 {
    number.checked_shl(bits).unwrap_or(0)
}

impl Network {
    fn parse(call: &Call<'_>, text: &str) -> Result<Self, ValueError> {
        let wrong = || call.wrong(format!("`{text}` is no prefix as 10.0.0.0/8"));
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let prefix: u32 = prefix.parse().map_err(|_| wrong())?;
        let (address, bits) = match address.parse().map_err(|_| wrong())? {
            IpAddr::V4(address) => (u128::from(address.to_bits()), 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        if prefix > bits {
            return Err(wrong());
        }
        let network = Self { address, prefix, bits };
        Ok(Self { address: address & network.mask(), ..network })
    }

    fn all(self) -> u128 {
        u128::MAX >> (128 - self.bits)
    }

    fn mask(self) -> u128 {
        shifted(u128::MAX, self.bits - self.prefix) & self.all()
    }

    fn text(self) -> String {
        if self.bits == 32 {
            return Ipv4Addr::from_bits(u32::try_from(self.address).unwrap_or(0)).to_string();
        }
        Ipv6Addr::from_bits(self.address).to_string()
    }

    fn with_prefix(self) -> String {
        format!("{}/{}", self.text(), self.prefix)
    }

    /// The address of a number in it; negative ones count from its end.
    fn host(self, call: &Call<'_>, number: i64) -> Result<String, ValueError> {
        let most = !self.mask() & self.all();
        let number = if number < 0 {
            let back = u128::from(number.unsigned_abs()) - 1;
            most.checked_sub(back)
        } else {
            u128::try_from(number).ok().filter(|number| *number <= most)
        };
        let number = number.ok_or_else(|| call.wrong("the network has no such address"))?;
        Ok(Self { address: self.address | number, ..self }.text())
    }

    fn extended(self, call: &Call<'_>, bits: i64) -> Result<Self, ValueError> {
        let more = u32::try_from(bits).ok().filter(|_| bits <= MOST_BITS);
        let more = more.ok_or_else(|| call.wrong("a prefix is extended by at most 32 bits"))?;
        let prefix = self.prefix + more;
        if prefix > self.bits {
            return Err(call.wrong("the prefix becomes too long for the address"));
        }
        Ok(Self { prefix, ..self })
    }
}

/// Networks one after the other, each with its own number of further bits.
fn subnets(call: &Call<'_>, network: Network) -> Result<Value, ValueError> {
    let end = network.address | (!network.mask() & network.all());
    let mut next = Some(network.address);
    let mut found = Vec::new();
    for argument in call.arguments.iter().skip(1) {
        let bits = crate::value::integer(argument)?;
        if bits < 1 {
            return Err(call.wrong("a prefix is extended by at least one bit"));
        }
        let longer = network.extended(call, bits)?;
        let full = || call.wrong("there is no address space left");
        let size = 1_u128 << (longer.bits - longer.prefix).min(127);
        let start = next.ok_or_else(full)?;
        let address = start.checked_add(size - 1).ok_or_else(full)? & !(size - 1);
        let last = address.checked_add(size - 1).filter(|last| *last <= end).ok_or_else(full)?;
        found.push(Value::String(Network { address, ..longer }.with_prefix()));
        next = last.checked_add(1);
    }
    Ok(Value::Array(found))
}
