//! How many connections one address may have.
//!
//! A connection costs some 30 KiB and a file descriptor before it has said anything. A client needs one or two; a process that opens them
//! without end is kept from taking those of others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Connections of one address. Behind a proxy or NAT, that is those of many clients.
pub(crate) const CONNECTIONS_PER_ADDRESS_MAX: usize = 1_000;

/// Counts connections by address; clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    max: usize,
}

/// The place of an open connection; dropping it makes room.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    connections: Connections,
    address: IpAddr,
}

impl Connections {
    /// Allows each address `max` connections.
    pub fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// A place for one more connection; `None` if its address has as many as it may.
    pub fn enter(&self, address: IpAddr) -> Option<ConnectionPlace> {
        // One address, however it is written.
        let address = address.to_canonical();
        let mut open = self.open.lock();
        let count = open.entry(address).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(ConnectionPlace { connections: self.clone(), address })
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_places_and_gets_them_back() {
        let connections = Connections::new(2);
        let [first, second] = ["127.0.0.1", "10.0.0.1"].map(|text| text.parse().expect("an address"));
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
        let places = [first, mapped].map(|address| connections.enter(address).expect("room"));
        assert!(connections.enter(first).is_none());
        assert!(connections.enter(second).is_some());
        drop(places);
        assert!(connections.enter(first).is_some());
        assert!(connections.open.lock().is_empty());
    }
}
