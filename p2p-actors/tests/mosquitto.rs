//! Channels over a real mosquitto, on loopback.
//!
//! Without mosquitto on this machine the tests say so and pass; with `P2P_LAB=require` they fail.

mod lab;
mod stories;

use lab::mosquitto::Mosquitto;
use p2p_actors::signal::{Broker, Endpoint, Tls};
use p2p_core::signal::link::{LinkError, MqttVersion, Subscribers};
use stories::{Party, endpoint, pinned, tell};

fn broker(mosquitto: &Mosquitto) -> Broker {
    Broker::Mqtt(endpoint(mosquitto.port))
}

#[test]
fn two_talk_in_either_version() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(async {
        stories::two_talk(broker(&mosquitto)).await;
        for protocol in [MqttVersion::V3, MqttVersion::V5] {
            let endpoint = pinned(&endpoint(mosquitto.port), protocol);
            stories::two_talk(Broker::Mqtt(endpoint)).await;
        }
    });
}

#[test]
fn it_says_that_nobody_is_there_in_mqtt_5() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(async {
        stories::nobody_is_there(broker(&mosquitto), Subscribers::Nobody).await;
        let old = pinned(&endpoint(mosquitto.port), MqttVersion::V3);
        stories::nobody_is_there(Broker::Mqtt(old), Subscribers::Unknown).await;
    });
}

#[test]
fn a_channel_ends_when_it_is_closed() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    tell(stories::it_closes(&endpoint(mosquitto.port)));
}

#[test]
fn only_the_right_password_opens() {
    let Some(mosquitto) = Mosquitto::with_password("alice", "right") else {
        return;
    };
    tell(async {
        for protocol in [MqttVersion::V3, MqttVersion::V5] {
            let endpoint = pinned(&endpoint(mosquitto.port), protocol);
            stories::only_the_right_password_opens(endpoint).await;
        }
    });
}

/// The endpoint of [`Mosquitto::secure`], trusting the authority in this file.
fn trusting(mosquitto: &Mosquitto, ca_file: &str) -> Endpoint {
    let ca_file = Some(mosquitto.folder.path().join(ca_file));
    Endpoint { tls: Some(Tls { ca_file }), ..endpoint(mosquitto.port) }
}

#[test]
fn tls_with_the_right_authority_only() {
    let Some(mosquitto) = Mosquitto::secure() else { return };
    tell(async {
        for host in ["127.0.0.1", "localhost"] {
            let mut endpoint = trusting(&mosquitto, "right.pem");
            endpoint.host = host.into();
            stories::two_talk(Broker::Mqtt(endpoint)).await;
        }
        let error = Party::on("a", &trusting(&mosquitto, "wrong.pem")).down().await;
        assert!(matches!(error, LinkError::Certificate(_)), "{error}");
        assert!(error.is_lasting());
        for unusable in ["empty.pem", "missing.pem"] {
            let error = Party::on("a", &trusting(&mosquitto, unusable)).down().await;
            assert!(matches!(error, LinkError::Configuration(_)), "{error}");
        }
        // The platform's authorities do not know ours, or there are none.
        let mut endpoint = trusting(&mosquitto, "");
        endpoint.tls = Some(Tls::default());
        let error = Party::on("a", &endpoint).down().await;
        assert!(matches!(error, LinkError::Certificate(_) | LinkError::Configuration(_)), "{error}");
        // Plain into a TLS port: the broker hangs up.
        let error = Party::on("a", &stories::endpoint(mosquitto.port)).down().await;
        assert!(!error.is_lasting(), "{error}");
    });
}

#[test]
fn tls_to_a_plain_port_is_told_as_such() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    let endpoint = Endpoint { tls: Some(Tls::default()), ..endpoint(mosquitto.port) };
    tell(async {
        let error = Party::on("a", &endpoint).down().await;
        assert!(matches!(error, LinkError::Tls(_) | LinkError::Configuration(_)), "{error}");
    });
}

#[test]
fn killed_and_restarted_in_mid_run() {
    let Some(mosquitto) = Mosquitto::plain() else {
        return;
    };
    let endpoint = endpoint(mosquitto.port);
    kill_and_restart(mosquitto, &endpoint);
}

#[test]
fn killed_and_restarted_in_mid_run_with_tls() {
    let Some(mosquitto) = Mosquitto::secure() else { return };
    let endpoint = trusting(&mosquitto, "right.pem");
    kill_and_restart(mosquitto, &endpoint);
}

fn kill_and_restart(mut mosquitto: Mosquitto, endpoint: &Endpoint) {
    tell(async {
        let mut alice = Party::on("alice", endpoint);
        let mut bob = Party::on("bob", endpoint);
        alice.up().await;
        bob.up().await;
        // It takes a message and dies before it acknowledges.
        mosquitto.freeze();
        let frozen = alice.publish("alice", "sent before");
        tokio::task::yield_now().await;
        mosquitto.kill();
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Lost(_)), "{error}");
        let dead = alice.publish("alice", "sent while it was dead");
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Unreachable(_)), "{error}");
        mosquitto.restart();
        // Our own subscription is made again before what waits is sent again.
        alice.up().await;
        bob.up().await;
        for ticket in [frozen, dead] {
            assert!(alice.ended(ticket).await.is_ok());
        }
        bob.publish("alice", "back again");
        let mut got = Vec::new();
        while got.last().is_none_or(|last| last != "back again") {
            got.push(alice.received().await);
        }
        alice.publish("bob", "and the other way");
        assert_eq!(bob.received().await, "and the other way");
    });
}
