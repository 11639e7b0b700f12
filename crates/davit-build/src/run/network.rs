//! The network of commands that ask for none in particular: the bridge that containers are in, or
//! the one that the build was given.

use std::{
    error::Error,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

use davit_network::{Bridge, Endpoint, Names, NetworkError, both_families};
use davit_runtime::Identity;
use davit_store::{ClaimError, Lease};
use serde::{Deserialize, Serialize};

/// A network that commands can be in.
#[derive(Clone, Debug)]
pub struct BridgeNetwork {
    /// Id of its row, whose addresses the commands get.
    pub id: String,
    /// Its bridge, which is there.
    pub bridge: Bridge,
    /// What names of the containers in it are answered by, where they have any, and what commands
    /// then find in `/etc/resolv.conf`.
    pub names: Option<(Names, Vec<u8>)>,
}

/// Finds the bridge network and makes what is missing of it; asked when the first command needs it.
pub type FindNetwork<'b> =
    &'b (dyn Fn() -> Result<BridgeNetwork, Box<dyn Error + Send + Sync>> + Sync);

/// A network that is another container's, for as long as that runs.
#[derive(Clone, Debug)]
pub struct JoinedNetwork {
    /// The container's first process.
    pub process: Identity,
    /// What its programs find in `/etc/hosts`.
    pub hosts: Vec<u8>,
    /// What they find in `/etc/resolv.conf`.
    pub resolv_conf: Vec<u8>,
}

impl JoinedNetwork {
    /// Opens the network of a container, which has not ended.
    pub(super) fn open(process: Identity) -> io::Result<File> {
        let space = fs_err::File::open(format!("/proc/{}/ns/net", process.pid))?;
        // The number was not another one's when the link was read.
        let is_it = Identity::of(process.pid)? == process && process.is_alive();
        if is_it { Ok(space.into_file()) } else { Err(io::ErrorKind::NotFound.into()) }
    }
}

/// Why a command has no network.
#[derive(Debug, thiserror::Error)]
pub enum StepNetworkError {
    /// There is no bridge and none can be made.
    #[error("there is no network for the command")]
    Bridge(#[source] Box<dyn Error + Send + Sync>),
    /// There is no address.
    #[error(transparent)]
    Address(#[from] ClaimError),
    /// The kernel refuses.
    #[error(transparent)]
    Network(#[from] NetworkError),
}

/// What the supervisor connects a command to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) bridge: Bridge,
    pub(crate) endpoint: Endpoint,
    pub(crate) names: Option<Names>,
}

type Addresses = (Ipv4Addr, Option<Ipv6Addr>);

/// The addresses of a build. One that a command gave back serves the next, so that a build holds no
/// more of them than commands run at a time.
pub(crate) struct StepNetworks<'b, 's> {
    lease: &'s Lease<'s>,
    find: FindNetwork<'b>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    network: Option<Arc<BridgeNetwork>>,
    free: Vec<Addresses>,
}

impl<'b, 's> StepNetworks<'b, 's> {
    pub(crate) fn new(lease: &'s Lease<'s>, find: FindNetwork<'b>) -> Self {
        Self { lease, find, state: Mutex::default() }
    }

    /// Addresses for one command, until the place is dropped.
    pub(crate) fn place(&self) -> Result<Place<'_>, StepNetworkError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let network = match &state.network {
            Some(network) => Arc::clone(network),
            None => {
                let found = Arc::new((self.find)().map_err(StepNetworkError::Bridge)?);
                Arc::clone(state.network.insert(found))
            }
        };
        let addresses = match state.free.pop() {
            Some(addresses) => addresses,
            None => {
                let claimed = self.lease.claim_addresses(&network.id)?;
                both_families(&claimed)
                    .ok_or_else(|| ClaimError::PoolExhausted { network: network.id.clone() })?
            }
        };
        drop(state);
        Ok(Place { addresses, network, state: &self.state, veth: Endpoint::random()? })
    }
}

/// A command's place in the network.
pub(crate) struct Place<'n> {
    addresses: Addresses,
    network: Arc<BridgeNetwork>,
    state: &'n Mutex<State>,
    veth: u32,
}

impl Place<'_> {
    pub(crate) fn attachment(&self) -> Attachment {
        Attachment {
            bridge: self.network.bridge.clone(),
            endpoint: Endpoint::new(self.addresses, self.veth, Vec::new()),
            names: self.network.names.as_ref().map(|(names, _)| names.clone()),
        }
    }

    /// Text of `/etc/resolv.conf`, if it is the network's own.
    pub(crate) fn resolv_conf(&self) -> Option<&[u8]> {
        self.network.names.as_ref().map(|(_, text)| text.as_slice())
    }

    /// The machine, as seen from the command.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.network.bridge.gateway.into()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).free.push(self.addresses);
    }
}
