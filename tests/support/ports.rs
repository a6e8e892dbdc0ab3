//! Ports for parts that cannot choose their own and say which.
//!
//! Asking the kernel for any free port is a race: once we let go of it, any outgoing connection may get it. So ports come
//! from below the range the kernel takes those from, each is given out once per run, and it is held until the part is about to
//! start. So that no other run takes it then, or while the part is down, the UDP port of the same number is held for as long as this
//! run lasts.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

use super::wait::{SOON, wait_until};

const RANGE: std::ops::Range<u16> = 20_000..32_000;

static MARKS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

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
        let address = local(fastrand::u16(RANGE));
        let Ok(mark) = UdpSocket::bind(address) else { continue };
        if let Ok(listener) = TcpListener::bind(address) {
            MARKS.lock().unwrap().push(mark);
            return Reserved { listener };
        }
    }
}

/// Listens on a port that is ours. A socket that was let go of lives on, and with it the port is taken, in a child that another thread is
/// just forking, until that runs its program.
pub async fn listen(port: u16) -> tokio::net::TcpListener {
    wait_until("the port is free", SOON, async || tokio::net::TcpListener::bind(local(port)).await).await
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
