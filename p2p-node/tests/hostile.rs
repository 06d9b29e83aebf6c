//! Strangers at the door, and strangers at the broker.

#[path = "../../p2p-actors/tests/lab/mod.rs"]
mod lab;
mod nodes;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use lab::mosquitto::Mosquitto;
use nodes::{in_memory, in_time, meet, only, until};
use p2p_core::attempt::{AttemptId, Role};
use p2p_core::proof::{Act, Counterpart, Proof, ProofConfig};
use p2p_core::{Machine, Output, Seed};
use p2p_node::{BrokerConfig, BrokerState, Cipher, Config, Identity, MemoryBroker, Node, PeerId, Way};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

/// What somebody says first who wants to connect to `peer`: a good one, by a key nobody knows.
fn hello(peer: PeerId) -> Vec<u8> {
    let config = ProofConfig {
        identity: Identity::from_bytes([0x66; 32]),
        counterpart: Counterpart::Dialled {
            peer,
            attempt: AttemptId([0x66; 16]),
            role: Role::Caller,
            plain: false,
        },
        cipher: Cipher::ChaCha20Poly1305,
        within: Duration::from_secs(3),
    };
    let mut proof = Proof::new(config, Seed::from_u64(0x66), Instant::now());
    let mut said = Vec::new();
    while let Output::Act(Act::Send(bytes)) = proof.poll_output() {
        said.extend_from_slice(&bytes);
    }
    said
}

/// What strangers do.
#[derive(Clone, Copy, Debug)]
enum Stranger {
    SaysNothing,
    IsLost,
    BreaksOff,
    Replays,
    IsSlow,
    MeansAnother,
}

impl Stranger {
    const ALL: [Self; 6] =
        [Self::SaysNothing, Self::IsLost, Self::BreaksOff, Self::Replays, Self::IsSlow, Self::MeansAnother];

    /// Does it, and stays until it is thrown out.
    async fn visit(self, door: SocketAddr, victim: PeerId) {
        let mut stream = TcpStream::connect(door).await.unwrap();
        let hello = match self {
            Self::SaysNothing => Vec::new(),
            Self::IsLost => b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec(),
            Self::BreaksOff => hello(victim)[..40].to_vec(),
            Self::Replays => hello(victim),
            Self::IsSlow => return Self::drip(stream, &hello(victim)).await,
            Self::MeansAnother => hello(Identity::from_bytes([0x67; 32]).id()),
        };
        // It may be thrown out at any moment, and that is what we wait for.
        let _ = stream.write_all(&hello).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    /// One byte a second.
    async fn drip(mut stream: TcpStream, what: &[u8]) {
        let mut pace = tokio::time::interval(Duration::from_secs(1));
        for byte in what {
            pace.tick().await;
            let mut answer = [0; 1];
            if stream.write_all(&[*byte]).await.is_err() || matches!(stream.try_read(&mut answer), Ok(0)) {
                return;
            }
        }
    }
}

/// Where a node can be dialled on this machine.
fn door(node: &Node) -> SocketAddr {
    let addr = node.addr().unwrap();
    addr.interfaces().iter().find_map(|interface| interface.local_target()).expect("it listens")
}

#[tokio::test]
async fn five_hundred_strangers_keep_nobody_out_and_are_gone_in_the_end() {
    let broker = MemoryBroker::new();
    let (anna, bert) =
        (Node::bind(in_memory(&broker)).await.unwrap(), Node::bind(in_memory(&broker)).await.unwrap());
    const EACH: u64 = 84;
    let mut strangers = JoinSet::new();
    for number in 0..EACH as usize * Stranger::ALL.len() {
        strangers.spawn(Stranger::ALL[number % Stranger::ALL.len()].visit(door(&bert), bert.id()));
    }
    let all = EACH * Stranger::ALL.len() as u64;
    until("all of them are there", || bert.counters().arrived == all).await;
    // Those who stay are still at it.
    assert!(strangers.len() as u64 >= 4 * EACH);
    for way in Way::ALL {
        meet(&anna, &bert, only(way)).await;
    }
    in_time(async { while strangers.join_next().await.transpose().unwrap().is_some() {} }).await;
    until("all of them are counted", || {
        let counters = bert.counters();
        (counters.garbled, counters.strangers, counters.silent) == (EACH, EACH, 4 * EACH)
    })
    .await;
    let counters = bert.counters();
    assert_eq!((counters.accepted, counters.evicted), (Way::ALL.len() as u64, 0), "{counters:?}");
    // The waiting room is as it was.
    meet(&anna, &bert, only(Way::Direct)).await;
}

#[tokio::test]
async fn a_full_waiting_room_has_room_for_who_comes_last() {
    let broker = MemoryBroker::new();
    let mut small = in_memory(&broker);
    small.limits.unproven = 8;
    let (anna, bert) = (Node::bind(in_memory(&broker)).await.unwrap(), Node::bind(small).await.unwrap());
    // Those who replay a Hello have a seat too: no more of them than the room has can wait for an answer.
    for stranger in [Stranger::SaysNothing, Stranger::Replays] {
        let before = bert.counters();
        let mut strangers = JoinSet::new();
        for _ in 0..100 {
            strangers.spawn(stranger.visit(door(&bert), bert.id()));
        }
        until("all but those who fit had to go", || bert.counters().evicted - before.evicted >= 92).await;
        meet(&anna, &bert, only(Way::Direct)).await;
        in_time(async { while strangers.join_next().await.transpose().unwrap().is_some() {} }).await;
        let gone = || bert.counters().evicted - before.evicted + bert.counters().silent - before.silent;
        until("each was told of once", || gone() >= 100).await;
        assert_eq!(gone(), 100, "{stranger:?} {:?}", bert.counters());
    }
}

/// A client of the broker that is nobody's node.
struct Mallory {
    client: AsyncClient,
    /// The first message at the topic.
    heard: mpsc::Receiver<Vec<u8>>,
    /// Acknowledged messages.
    taken: mpsc::UnboundedReceiver<()>,
    turning: JoinHandle<()>,
}

impl Mallory {
    /// Connects, and listens at this topic.
    async fn new(port: u16, topic: &str) -> Self {
        let mut options = MqttOptions::new("mallory", "127.0.0.1", port);
        options.set_max_packet_size(2_000_000, 2_000_000);
        let (client, mut turn) = AsyncClient::new(options, 10);
        let (hear, heard) = mpsc::channel(1);
        let (take, taken) = mpsc::unbounded_channel();
        let (listen, listens) = tokio::sync::oneshot::channel();
        let mut listen = Some(listen);
        let turning = tokio::spawn(async move {
            // The broker may hang up on such a client: it comes back.
            loop {
                match turn.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        // One is enough, the rest is our own.
                        let _ = hear.try_send(publish.payload.to_vec());
                    }
                    Ok(Event::Incoming(Packet::PubAck(_))) => drop(take.send(())),
                    Ok(Event::Incoming(Packet::SubAck(_))) => {
                        if let Some(listen) = listen.take() {
                            // Who waits for it has not given up.
                            listen.send(()).unwrap();
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        client.subscribe(topic, QoS::AtMostOnce).await.unwrap();
        in_time(listens).await.unwrap();
        Self { client, heard, taken, turning }
    }

    /// Publishes, and waits until the broker has taken it.
    async fn publish(&mut self, topic: &str, what: Vec<u8>) {
        self.client.publish(topic, QoS::AtLeastOnce, false, what).await.unwrap();
        in_time(self.taken.recv()).await.unwrap();
    }
}

impl Drop for Mallory {
    fn drop(&mut self) {
        self.turning.abort();
    }
}

/// Memory of this process, in bytes.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// Everything somebody can send to a node through its broker, thousands of it; `large` in messages of a megabyte too.
async fn signals_that_mean_harm(url: &str, port: u16, large: bool) {
    let mut config = Config::loopback();
    config.brokers = vec![BrokerConfig::new(url.parse().unwrap())];
    let (anna, bert) = (Node::bind(config.clone()).await.unwrap(), Node::bind(config).await.unwrap());
    let topic = bert.id().topic();
    let mut mallory = Mallory::new(port, &topic).await;
    meet(&anna, &bert, only(Way::Reverse)).await;
    let genuine = in_time(mallory.heard.recv()).await.unwrap();
    let mut status = bert.status();
    let was_down = tokio::spawn(async move {
        let is_down = |state: &BrokerState| matches!(state, BrokerState::Down(_));
        let down = status.wait_for(|status| status.brokers.values().any(is_down)).await;
        // Without an end the node is closed: it was up all the time.
        down.map(|status| status.brokers.clone()).ok()
    });
    let before = resident();
    let mut dice = Seed::from_u64(5);
    for number in 0..2_000 {
        let mut what = genuine.clone();
        match number % 5 {
            0 => {}
            1 => what.truncate(dice.below(what.len() as u64) as usize),
            2 => what[dice.below(genuine.len() as u64) as usize] ^= 1 << dice.below(8),
            3 => what = (0..dice.below(4_000)).map(|_| dice.below(256) as u8).collect(),
            _ => what.extend_from_slice(&genuine),
        }
        mallory.publish(&topic, what).await;
    }
    for _ in 0..if large { 100 } else { 0 } {
        mallory.publish(&topic, vec![0x70; 1_000_000]).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
    // Dials by replay, and none: the one answer is the one that was asked for.
    assert_eq!(bert.counters().answers, 1);
    meet(&anna, &bert, only(Way::Reverse)).await;
    assert_eq!((bert.counters().answers, bert.counters().accepted), (2, 2));
    drop((anna, bert));
    assert_eq!(in_time(was_down).await.unwrap(), None, "the session with the broker was lost");
}

#[tokio::test]
async fn signals_that_mean_harm_through_the_embedded_broker() {
    use p2p_core::rate::Rate;
    use p2p_node::rendezvous::broker::{Broker, Options};
    // What the rates of the broker would keep away is to reach the node.
    let any = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let options = Options { publishes: any, source_publishes: any, ..Options::default() };
    let broker = Broker::start(&["127.0.0.1:0".parse().unwrap()], options).await.unwrap();
    let at = broker.local_addrs()[0];
    signals_that_mean_harm(&format!("mqtt://{at}"), at.port(), false).await;
    broker.shutdown().await;
}

#[tokio::test]
async fn signals_that_mean_harm_through_mosquitto() {
    let Some(mosquitto) = Mosquitto::plain() else { return };
    for version in ["?v=3", "?v=5"] {
        let url = format!("mqtt://127.0.0.1:{}{version}", mosquitto.port);
        signals_that_mean_harm(&url, mosquitto.port, true).await;
    }
}
