//! A broker that wants to know who asks: by SASL over TLS, or by a client certificate.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use tokio::sync::OnceCell;

use super::broker::{Broker, Recipe};
use super::client::Kafka;
use crate::support::wait::blocking;

const STORE_PASSWORD: &str = "changeit";
const USER: &str = "herald";
const PASSWORD: &str = "herald-pw";

const RECIPE: Recipe = Recipe {
    listeners: &["SASL_SSL", "SSL"],
    users: &["SCRAM-SHA-256=[name=herald,password=herald-pw]", "SCRAM-SHA-512=[name=herald,password=herald-pw]"],
    settings: &[
        ("sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
        (
            "listener.name.sasl_ssl.plain.sasl.jaas.config",
            "org.apache.kafka.common.security.plain.PlainLoginModule required user_herald=\"herald-pw\";",
        ),
        (
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
        (
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config",
            "org.apache.kafka.common.security.scram.ScramLoginModule required;",
        ),
        ("ssl.keystore.type", "PKCS12"),
        ("ssl.keystore.location", "broker.p12"),
        ("ssl.keystore.password", STORE_PASSWORD),
        ("ssl.key.password", STORE_PASSWORD),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", "client.pem"),
        ("listener.name.ssl.ssl.client.auth", "required"),
    ],
    prepare: make_certificates,
};

/// Started by the first test that asks; ends with the process. What tests do themselves goes over its open listener.
#[derive(Debug)]
pub struct Secured(Broker);

/// How a client gets in.
#[derive(Clone, Debug)]
pub struct Access {
    pub bootstrap_servers: String,
    /// Of librdkafka.
    pub options: BTreeMap<&'static str, String>,
}

impl Secured {
    pub async fn shared() -> &'static Self {
        static BROKER: OnceCell<Secured> = OnceCell::const_new();
        BROKER.get_or_init(async || Self(blocking(|| Broker::start(RECIPE)).await)).await
    }

    pub fn kafka(&self) -> Kafka {
        (*self.0).clone()
    }

    /// By name and password, over TLS.
    pub fn by_password(&self, mechanism: &str) -> Access {
        self.over_tls("SASL_SSL")
            .with("sasl.mechanism", mechanism)
            .with("sasl.username", USER)
            .with("sasl.password", PASSWORD)
    }

    pub fn by_certificate(&self) -> Access {
        self.over_tls("SSL")
            .with("ssl.keystore.location", &self.file("client.p12"))
            .with("ssl.keystore.password", STORE_PASSWORD)
    }

    fn over_tls(&self, protocol: &str) -> Access {
        let access = Access { bootstrap_servers: self.0.listener(protocol).to_string(), options: BTreeMap::new() };
        access.with("security.protocol", protocol).with("ssl.ca.location", &self.file("broker.pem"))
    }

    fn file(&self, name: &str) -> String {
        self.0.directory().join(name).display().to_string()
    }
}

impl Access {
    #[must_use]
    pub fn with(mut self, option: &'static str, value: &str) -> Self {
        self.options.insert(option, value.to_owned());
        self
    }

    #[must_use]
    pub fn without(mut self, options: &[&str]) -> Self {
        self.options.retain(|option, _| !options.contains(option));
        self
    }
}

/// Each side trusts the very certificate of the other.
fn make_certificates(directory: &Path) {
    for (name, purpose) in [("broker", &["-ext", "san=ip:127.0.0.1"][..]), ("client", &[])] {
        let store = format!("{name}.p12");
        let common = ["-alias", name, "-storetype", "PKCS12", "-keystore", &store, "-storepass", STORE_PASSWORD];
        let made = ["-genkeypair", "-keyalg", "EC", "-groupname", "secp256r1", "-validity", "30", "-ext", "bc:c"];
        keytool(directory, &[&made[..], &["-dname", &format!("CN={name}")], purpose, &common].concat());
        let certificate = keytool(directory, &[&["-exportcert", "-rfc"][..], &common].concat());
        fs::write(directory.join(format!("{name}.pem")), certificate).unwrap();
    }
}

fn keytool(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let output =
        Command::new("keytool").args(arguments).current_dir(directory).output().expect("keytool comes with java");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    output.stdout
}
