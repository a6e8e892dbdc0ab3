//! A TCP proxy that breaks the connections through it, as networks do.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::ports;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    mode: watch::Sender<Mode>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Open connections are reset, and so are new ones.
    Cut,
    /// Connections stay open and nothing comes through; it arrives when this is over.
    Silent,
    /// What clients send arrives, and no answer comes back before this is over.
    Mute,
    /// Each piece comes this much later.
    Slow(Duration),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Request,
    Answer,
}

impl Proxy {
    /// In front of this address, whether somebody listens there or not.
    pub async fn start(target: SocketAddr) -> Self {
        let reserved = ports::reserve();
        let port = reserved.release();
        let listener = ports::listen(port).await;
        let (mode, seen) = watch::channel(Mode::Pass);
        Self { port, mode, task: tokio::spawn(serve(listener, target, seen)) }
    }

    pub fn address(&self) -> SocketAddr {
        ports::local(self.port)
    }

    /// From now on, for the connections that are open and for those to come.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, mode: watch::Receiver<Mode>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(connection(client, target, mode.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Ends when either side does. An error is the end of a connection and nobody's fault.
async fn connection(client: TcpStream, target: SocketAddr, mode: watch::Receiver<Mode>) -> io::Result<()> {
    client.set_zero_linger()?;
    client.set_nodelay(true)?;
    if *mode.borrow() == Mode::Cut {
        return Ok(());
    }
    let server = TcpStream::connect(target).await?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    let mut cut = mode.clone();
    tokio::select! {
        ended = forward(client_reads, server_writes, mode.clone(), Direction::Request) => ended,
        ended = forward(server_reads, client_writes, mode, Direction::Answer) => ended,
        _ = cut.wait_for(|mode| *mode == Mode::Cut) => Ok(()),
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
    direction: Direction,
) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut piece).await?;
        let permitted = mode.wait_for(|mode| mode.lets_through(direction)).await.map(|mode| *mode);
        match permitted {
            Ok(Mode::Slow(delay)) => tokio::time::sleep(delay).await,
            Ok(_) => {}
            Err(_) => return Ok(()),
        }
        if length == 0 {
            return Ok(());
        }
        to.write_all(&piece[..length]).await?;
    }
}

impl Mode {
    fn lets_through(self, direction: Direction) -> bool {
        match self {
            Self::Pass | Self::Slow(_) => true,
            Self::Cut | Self::Silent => false,
            Self::Mute => direction == Direction::Request,
        }
    }
}
