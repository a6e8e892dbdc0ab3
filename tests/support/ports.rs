//! Ports for parts that cannot choose their own and say which.
//!
//! Asking the kernel for any free port is a race: once we let go of it, any outgoing connection may get it. So ports come
//! from below the range the kernel takes those from, each is given out once per run, and it is held until the part is about to
//! start. What remains is another run that holds the same port for that moment: parts that fail to bind are started again on
//! another one.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

const RANGE: std::ops::Range<u16> = 20_000..32_000;

static GIVEN_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port that nobody else gets while this is alive.
#[derive(Debug)]
pub struct Reserved {
    listener: TcpListener,
}

impl Reserved {
    pub fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }

    /// Lets go of the port, for the part that is about to take it.
    pub fn release(self) -> u16 {
        self.port()
    }
}

pub fn reserve() -> Reserved {
    loop {
        let port = fastrand::u16(RANGE);
        if !GIVEN_OUT.lock().unwrap().insert(port) {
            continue;
        }
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return Reserved { listener };
        }
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
