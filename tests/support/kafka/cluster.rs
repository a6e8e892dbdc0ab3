//! Three brokers that replicate each other, and ways to them that can be broken.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Instant;

use herald::supervised::{Signal, Supervised};

use super::broker::{START_LIMIT, STOP_LIMIT, java, log_in, run_in};
use super::client::Kafka;
use crate::support::ports::{self, Reserved};
use crate::support::proxy::{Mode, Proxy};
use crate::support::wait::blocking;
use crate::support::{directory, tail};

pub const BROKERS: usize = 3;
const START_TRIES: u32 = 5;

/// Topics have three replicas, and two of them must have a record before it is acknowledged.
#[derive(Debug)]
pub struct Cluster {
    kafka: Kafka,
    nodes: Vec<Node>,
    routes: Vec<Route>,
}

/// One way to all brokers: listeners of their own, each behind a proxy.
#[derive(Debug)]
pub struct Route {
    proxies: Vec<Proxy>,
}

#[derive(Debug)]
struct Node {
    /// This broker alone.
    kafka: Kafka,
    directory: PathBuf,
    /// Taken only for the moment in which it is stopped or replaced. When it has ended, it still guards the directory.
    process: Option<Supervised>,
}

/// The ports of one broker.
struct Listeners {
    direct: Reserved,
    controller: Reserved,
    routed: Vec<Reserved>,
}

impl Cluster {
    /// With this many routes beside the direct way.
    pub async fn start(routes: usize) -> Self {
        let mut tries = 1;
        loop {
            match Self::try_start(routes).await {
                Ok(cluster) => return cluster,
                Err(log) if log.contains("Address already in use") && tries < START_TRIES => {}
                Err(log) => panic!("Kafka did not start:\n{log}"),
            }
            tries += 1;
        }
    }

    async fn try_start(routes: usize) -> Result<Self, String> {
        let listeners: Vec<Listeners> = (0..BROKERS).map(|_| Listeners::reserve(routes)).collect();
        let mut ways = Vec::new();
        for route in 0..routes {
            let mut proxies = Vec::new();
            for broker in &listeners {
                proxies.push(Proxy::start(address(&broker.routed[route])).await);
            }
            ways.push(Route { proxies });
        }
        let nodes: Vec<Node> = listeners.iter().map(Node::new).collect();
        for (node, kafka) in nodes.iter().enumerate() {
            write_properties(&kafka.directory, node, &listeners, &ways);
        }
        let servers: Vec<String> = nodes.iter().map(|node| node.kafka.bootstrap_servers().to_owned()).collect();
        let formatting = nodes.iter().map(|node| {
            let directory = node.directory.clone();
            blocking(move || super::broker::format(&directory, &[]))
        });
        let guards = futures_util::future::join_all(formatting).await;
        drop(listeners);
        let starting = nodes.into_iter().zip(guards).map(|(node, guard)| blocking(move || node.launched(guard)));
        let started = futures_util::future::join_all(starting).await;
        let nodes = started.into_iter().collect::<Result<Vec<_>, String>>()?;
        Ok(Self { kafka: Kafka::at(&servers.join(",")), nodes, routes: ways })
    }

    /// The direct way to all brokers.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// The brokers, each of which can be stopped by whoever has it, and the routes.
    pub fn parts(&mut self) -> (Vec<BrokerHandle<'_>>, &[Route]) {
        (self.nodes.iter_mut().map(BrokerHandle).collect(), &self.routes)
    }
}

/// One broker of a [`Cluster`].
#[derive(Debug)]
pub struct BrokerHandle<'a>(&'a mut Node);

impl BrokerHandle<'_> {
    /// Ends the broker with this signal, or kills it when that takes long. Its data and its ports stay.
    pub async fn end_with(&mut self, signal: Signal) {
        let mut process = self.0.process.take().unwrap();
        let ended = blocking(move || {
            process.end_with(signal, STOP_LIMIT).unwrap();
            process
        });
        self.0.process = Some(ended.await);
    }

    /// Starts a broker that has ended, and waits until it answers.
    pub async fn restart(&mut self) {
        let guard = self.0.process.take().unwrap();
        assert!(guard.exit_status().is_some(), "the broker is still running");
        let node = Node { kafka: self.0.kafka.clone(), directory: self.0.directory.clone(), process: None };
        match blocking(move || node.launched(guard)).await {
            Ok(mut node) => self.0.process = node.process.take(),
            Err(log) => panic!("Kafka did not start again:\n{log}"),
        }
    }
}

impl Route {
    pub fn bootstrap_servers(&self) -> String {
        let addresses: Vec<String> = self.proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        addresses.join(",")
    }

    pub fn set(&self, mode: Mode) {
        for proxy in &self.proxies {
            proxy.set(mode);
        }
    }
}

impl Listeners {
    fn reserve(routes: usize) -> Self {
        Self {
            direct: ports::reserve(),
            controller: ports::reserve(),
            routed: (0..routes).map(|_| ports::reserve()).collect(),
        }
    }
}

impl Node {
    fn new(listeners: &Listeners) -> Self {
        let kafka = Kafka::at(&address(&listeners.direct).to_string());
        Self { kafka, directory: directory("kafka"), process: None }
    }

    /// Starts it and waits until it answers; the end of its log when it does not. The guard kept the directory so far.
    fn launched(mut self, guard: Supervised) -> Result<Self, String> {
        let mut command = java("256m");
        command.args(["kafka.Kafka", "server.properties"]);
        let process = run_in(&self.directory, command);
        guard.stop_keeping_files().unwrap();
        let start = Instant::now();
        while !self.kafka.answers() {
            if process.exit_status().is_some() || start.elapsed() > START_LIMIT {
                return Err(tail(&log_in(&self.directory)));
            }
        }
        self.process = Some(process);
        Ok(self)
    }
}

fn address(port: &Reserved) -> SocketAddr {
    ports::local(port.port())
}

fn write_properties(directory: &Path, node: usize, all: &[Listeners], routes: &[Route]) {
    let own = &all[node];
    let quorum = all.iter().zip(1..).map(|(broker, id)| format!("{id}@{}", address(&broker.controller)));
    let direct = format!("DIRECT://{}", address(&own.direct));
    let mut bound = vec![direct.clone(), format!("CONTROLLER://{}", address(&own.controller))];
    let mut advertised = vec![direct];
    let mut protocols = vec!["DIRECT:PLAINTEXT".to_owned(), "CONTROLLER:PLAINTEXT".to_owned()];
    for (number, (port, route)) in own.routed.iter().zip(routes).enumerate() {
        bound.push(format!("ROUTE{number}://{}", address(port)));
        advertised.push(format!("ROUTE{number}://{}", route.proxies[node].address()));
        protocols.push(format!("ROUTE{number}:PLAINTEXT"));
    }
    let properties = format!(
        "process.roles=broker,controller
node.id={id}
controller.quorum.voters={quorum}
listeners={bound}
advertised.listeners={advertised}
listener.security.protocol.map={protocols}
inter.broker.listener.name=DIRECT
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
offsets.topic.replication.factor=3
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=3
share.coordinator.state.topic.min.isr=2
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.heartbeat.interval.ms=1000
log.cleaner.dedupe.buffer.size=8388608
",
        id = node + 1,
        quorum = quorum.collect::<Vec<_>>().join(","),
        bound = bound.join(","),
        advertised = advertised.join(","),
        protocols = protocols.join(","),
        data = directory.join("data").display(),
    );
    fs::write(directory.join("server.properties"), properties).unwrap();
}

impl Drop for Node {
    fn drop(&mut self) {
        // The guard of a directory removes it, and whoever hands on its process keeps it.
        if self.process.is_some() {
            drop(self.process.take());
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
