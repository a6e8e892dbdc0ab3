//! A stand-in for the gateway, with a thread for each connection: as cheap as a request can be answered.

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::work;

/// What the gateway does with an order.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    Accepts,
    /// Accepts it and remembers when it came.
    Remembers,
    /// Refuses some for good and fails some once: see [`Fate`].
    Fails,
}

/// What becomes of an order where some fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    /// 1 %: answered 503 once.
    FailsOnce,
    /// 0.1 %: answered 400.
    Refused,
}

impl Fate {
    pub fn of(order_id: u64) -> Self {
        match work::mixed(order_id) % 1_000 {
            0 => Self::Refused,
            1..=10 => Self::FailsOnce,
            _ => Self::Accepted,
        }
    }
}

#[derive(Debug)]
pub struct Gateway {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    behaviour: Behaviour,
    failed: Mutex<HashSet<u64>>,
    arrivals: Mutex<Vec<(u64, Instant)>>,
}

impl Gateway {
    /// Listens until the process ends.
    pub fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}/notify", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { behaviour, failed: Mutex::default(), arrivals: Mutex::default() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&serving);
                // A worker that is killed breaks its connections: nobody is left to be told.
                std::thread::spawn(move || drop(stream.and_then(|stream| shared.serve(&stream))));
            }
        });
        Self { url, shared }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// When the order arrived first; waits for it. The gateway must be one that remembers.
    pub async fn arrived(&self, order_id: u64, limit: Duration) -> Instant {
        let started = Instant::now();
        loop {
            if let Some(at) = self.arrival(order_id) {
                return at;
            }
            assert!(started.elapsed() < limit, "order {order_id} was not delivered");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn arrival(&self, order_id: u64) -> Option<Instant> {
        let arrivals = self.shared.arrivals.lock().unwrap();
        arrivals.iter().rev().find(|(order, _)| *order == order_id).map(|(_, at)| *at)
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        let mut writer = stream;
        let mut body = Vec::new();
        while let Some(length) = read_head(&mut reader)? {
            body.resize(length, 0);
            reader.read_exact(&mut body)?;
            let status = self.answer(order_id(&body));
            writer.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
        }
        Ok(())
    }

    fn answer(&self, order_id: Option<u64>) -> &'static str {
        // The worker asks for the options of the address before it starts.
        let Some(order_id) = order_id else { return "204 No Content" };
        match self.behaviour {
            Behaviour::Accepts => {}
            Behaviour::Remembers => self.arrivals.lock().unwrap().push((order_id, Instant::now())),
            Behaviour::Fails => return self.judge(order_id),
        }
        "200 OK"
    }

    fn judge(&self, order_id: u64) -> &'static str {
        let fate = Fate::of(order_id);
        if fate == Fate::Refused {
            return "400 Bad Request";
        }
        let fails = fate == Fate::FailsOnce && self.failed.lock().unwrap().insert(order_id);
        if fails { "503 Service Unavailable" } else { "200 OK" }
    }
}

/// The length of the body; `None` when the connection was closed.
fn read_head(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<usize>> {
    let (mut line, mut length) = (String::new(), 0);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        if line == "\r\n" {
            return Ok(Some(length));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
}

fn order_id(body: &[u8]) -> Option<u64> {
    let body = std::str::from_utf8(body).ok()?;
    let (_, rest) = body.split_once("\"order_id\":")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
