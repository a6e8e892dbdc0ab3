//! Brokers that want to know who asks: SASL over TLS, client certificates, and what is told to whom they do not let in.

use crate::support::kafka::{Access, NewRecord, Secured};
use crate::support::wait::EVENTUALLY;
use crate::support::worker::{Ended, WorkerSetup};
use crate::support::{World, orders};

fn let_in_by(world: &World, access: &Access) -> WorkerSetup {
    let setup = world.worker().with("KAFKA_BOOTSTRAP_SERVERS", &access.bootstrap_servers);
    let variable = |option: &str| format!("HERALD_KAFKA__OPTIONS__{}", option.replace('.', "_").to_uppercase());
    access.options.iter().fold(setup, |setup, (option, value)| setup.with(&variable(option), value))
}

/// Everything that a worker asks of Kafka: look, join, read, commit, publish a dead letter, sample offsets.
async fn assert_works(access: &Access) {
    let mut world = World::on(Secured::shared().await.kafka(), 2).await;
    world.produce(&(0..20).map(orders::created).collect::<Vec<_>>()).await;
    world.kafka.produce(&world.topic, vec![NewRecord::of("poison")]).await;
    let setup = let_in_by(&world, access);
    let check = setup.run_command(&["check"]).await;
    assert_eq!(check.code, Some(0), "{access:?}\n{}{}", check.stdout, check.stderr);
    assert!(check.stdout.contains("writable"), "{}", check.stdout);

    let mut worker = setup.start().await;
    assert_eq!(world.published(1).await.len(), 1);
    world.all_committed().await;
    assert!(world.verdict().is_clean(), "{access:?}: {:?}", world.verdict());
    worker.wait_for_metric("herald_consumer_lag_records", &[], 0.0).await;
    worker.assert_accounting_closes().await;
    worker.sigterm();
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 0, "{}", worker.log());
    assert!(!worker.log().contains("herald-pw"), "{}", worker.log());
}

#[tokio::test]
async fn a_worker_lives_with_brokers_that_want_a_password_over_tls() {
    let broker = Secured::shared().await;
    let ways = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| broker.by_password(mechanism));
    let [plain, short, long] = &ways;
    tokio::join!(assert_works(plain), assert_works(short), assert_works(long));
}

#[tokio::test]
async fn a_worker_lives_with_brokers_that_want_a_certificate() {
    assert_works(&Secured::shared().await.by_certificate()).await;
}

/// `herald check` and `herald run` tell the same.
async fn refusal(access: &Access) -> String {
    let world = World::on(Secured::shared().await.kafka(), 1).await;
    let setup = let_in_by(&world, access);
    let worker = setup.spawn();
    let Ended { code, stdout, .. } = setup.run_command(&["check"]).await;
    assert_eq!(code, Some(3), "{stdout}");
    assert_eq!(worker.wait_exit(EVENTUALLY).await, 3, "{}", worker.log());
    let (problem, _) = stdout.split_once("database").expect("the database is looked at all the same");
    assert!(worker.log().contains(problem), "{problem}\nis missing in\n{}", worker.log());
    assert!(problem.contains(&access.bootstrap_servers), "{problem}");
    problem.to_owned()
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_and_which_options_to_look_at() {
    let broker = Secured::shared().await;
    let password = broker.by_password("SCRAM-SHA-512");
    let certificate = broker.by_certificate();
    let cases = [
        (password.clone().with("sasl.password", "wrong"), "invalid credentials", "sasl.password"),
        (broker.by_password("PLAIN").with("sasl.password", "wrong"), "Invalid username or password", "sasl.password"),
        (broker.by_password("GSSAPI"), "SASL mechanism GSSAPI", "kafka.options"),
        (password.clone().without(&["ssl.ca.location"]), "certificate verify failed", "ssl.ca.location"),
        (
            certificate.clone().without(&["ssl.keystore.location"]),
            "wants a client certificate",
            "ssl.certificate.location",
        ),
        (password.without(&["security.protocol"]), "TLS", "security.protocol"),
    ];
    for (access, cause, remedy) in cases {
        let told = refusal(&access).await;
        assert!(told.contains(cause) && told.contains(remedy), "{cause:?} and {remedy:?} for {access:?}:\n{told}");
        assert!(!told.contains("wrong"), "{told}");
    }
}
