//! Connection tracking: flows of a UDP port outlive a change of its publication.
//!
//! A client that keeps sending from one port keeps its old translation (to a container that is gone,
//! or to none at all) until 30 seconds of silence; so the flows are deleted.

use crate::{
    NetworkError, PortMapping, Protocol,
    netlink::{Batch, Socket, attribute},
};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const ORIGINAL: u16 = 1;
const TUPLE_TRANSPORT: u16 = 2;
const TRANSPORT_NUMBER: u16 = 1;
const TRANSPORT_DESTINATION: u16 = 3;

/// Deletes the flows whose original destination port is one of the UDP ports.
pub(crate) fn forget(socket: &Socket, ports: &[PortMapping]) -> Result<(), NetworkError> {
    let udp: Vec<u16> = ports
        .iter()
        .filter(|port| port.protocol == Protocol::Udp)
        .map(|port| port.host_port)
        .collect();
    if udp.is_empty() {
        return Ok(());
    }
    let mut flows = Vec::new();
    let dump = socket.dump(
        GET,
        &[0; 4],
        |_| {},
        |flow| {
            if let Some((family, tuple)) = flow_to(flow, &udp) {
                flows.push((family, tuple.to_vec()));
            }
        },
    );
    // A kernel without connection tracking of its own netlink interface has nothing to forget here.
    if dump.is_err() {
        tracing::warn!("cannot list tracked connections; UDP clients may wait for 30 s");
        return Ok(());
    }
    for (family, tuple) in flows {
        let mut batch = Batch::default();
        batch.message(DELETE, 0, &[family, 0, 0, 0], |message| {
            message.nest(ORIGINAL, |inner| {
                inner.raw(&tuple);
            });
        });
        // The flow may have ended meanwhile.
        drop(socket.transact(&batch));
    }
    Ok(())
}

fn flow_to<'a>(flow: &'a [u8], udp: &[u16]) -> Option<(u8, &'a [u8])> {
    let (header, attributes) = flow.split_at_checked(4)?;
    let tuple = attribute(attributes, ORIGINAL)?;
    let transport = attribute(tuple, TUPLE_TRANSPORT)?;
    let number = attribute(transport, TRANSPORT_NUMBER)?.first().copied()?;
    let port: [u8; 2] = attribute(transport, TRANSPORT_DESTINATION)?.try_into().ok()?;
    let wanted = number == Protocol::Udp.number() && udp.contains(&u16::from_be_bytes(port));
    wanted.then_some((header[0], tuple))
}
