//! Addresses as numbers, and as the bytes of columns.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

/// The address of a number, of the family of `like`.
pub(super) fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => {
            let bits = u32::try_from(number).expect("IPv4 ranges hold 32-bit numbers");
            IpAddr::V4(Ipv4Addr::from(bits))
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Column form of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address in a column.
pub(super) fn address(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<IpAddr> {
    let bytes = row.get_ref(column)?.as_blob()?;
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(bytes));
    }
    <[u8; 16]>::try_from(bytes).map(IpAddr::from).map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Blob, Box::new(e))
    })
}
