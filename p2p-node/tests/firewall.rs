//! Two machines on a network of the test's own: one with a firewall, one that has moved, one that is not there.
//!
//! Without root and `ip netns` the tests say so and pass; with `P2P_LAB=require` they fail.

#![cfg(target_os = "linux")]

#[path = "../../p2p-actors/tests/lab/mod.rs"]
mod lab;
#[path = "nodes/netns.rs"]
mod netns;
mod nodes;

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use netns::Net;
use nodes::{failure, in_time, only, story};
use p2p_core::attempt::{AttemptId, RefusalReason};
use p2p_core::nat::Nat;
use p2p_core::peer::{Contents, InterfaceAddr};
use p2p_core::signal::{Body, DialMe, Refusal, Scribe, open};
use p2p_core::{Clock, Seed, UnixTime};
use p2p_node::rendezvous::broker::{Broker, Options};
use p2p_node::{
    BrokerConfig, Config, ConnectOptions, ConnectionInfo, Counters, DialError, Family, Identity, Key,
    LaneFailure, Node, Path, PeerAddr, Way, WayFailure,
};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use tokio::sync::oneshot;

const HUB: &str = "10.77.0.254:1883";
const ANNA: (&str, &[&str]) = ("anna", &["10.77.0.1/24", "2001:db8:77::1/64"]);
const BERT: (&str, &[&str]) = ("bert", &["10.77.0.2/24", "2001:db8:77::2/64"]);

/// Something that runs on a machine until it is dropped.
struct Running<T> {
    thread: Option<JoinHandle<T>>,
    stop: Option<oneshot::Sender<()>>,
}

impl<T> Running<T> {
    fn stop(mut self) -> T {
        drop(self.stop.take());
        self.thread.take().expect("it was not stopped").join().unwrap()
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked, the test has seen or will see what came of it.
            let _ = thread.join();
        }
    }
}

/// The embedded broker, in the hub.
fn broker(net: &Net) -> Running<()> {
    let (ready, is_ready) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = net.on("hub", move || async move {
        let broker = Broker::start(&[HUB.parse().unwrap()], Options::default()).await.unwrap();
        ready.send(()).unwrap();
        let _ = stopped.await;
        broker.shutdown().await;
    });
    is_ready.recv().unwrap();
    Running { thread: Some(thread), stop: Some(stop) }
}

/// A node of a machine. The machines are namespaces of one, so each is told who it is.
fn config(machine: &str, key: &Identity) -> Config {
    let mut config = Config::new();
    config.key = Key::Given(key.clone());
    config.machine_id = Some(machine.into());
    config.brokers = vec![BrokerConfig::new(format!("mqtt://{HUB}").parse().unwrap())];
    config
}

fn key(byte: u8) -> Identity {
    Identity::from_bytes([byte; 32])
}

/// A node that accepts and echoes, and what it counted in the end.
fn serve(net: &Net, machine: &str, config: Config) -> (PeerAddr, Running<Counters>) {
    let (ready, is_ready) = mpsc::channel();
    let (stop, mut stopped) = oneshot::channel::<()>();
    let thread = net.on(machine, move || async move {
        let node = Node::bind(config).await.unwrap();
        ready.send(node.addr().unwrap()).unwrap();
        loop {
            let pipe = tokio::select! {
                pipe = node.accept() => pipe.expect("an open node"),
                _ = &mut stopped => break,
            };
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(pipe);
                // The caller leaves when it has heard enough.
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
        let counters = node.counters();
        node.close().await;
        counters
    });
    (is_ready.recv().unwrap(), Running { thread: Some(thread), stop: Some(stop) })
}

/// Calls from a machine: how it went, or why it did not, told by `tell`.
fn call<T: Send + 'static>(
    net: &Net,
    machine: &str,
    config: Config,
    peer: &PeerAddr,
    options: ConnectOptions,
    tell: impl FnOnce(Result<ConnectionInfo, p2p_node::ConnectError>) -> T + Send + 'static,
) -> T {
    let peer = peer.clone();
    let calling = net.on(machine, move || async move {
        let node = Node::bind(config).await.unwrap();
        let called = in_time(node.connect_with(&peer, options)).await;
        let told = match called {
            Ok(mut pipe) => {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                pipe.write_all(b"echo").await.unwrap();
                let mut heard = [0; 4];
                in_time(pipe.read_exact(&mut heard)).await.unwrap();
                assert_eq!(&heard, b"echo");
                Ok(pipe.how().clone())
            }
            Err(error) => Err(error),
        };
        node.close().await;
        tell(told)
    });
    calling.join().unwrap()
}

/// Why the direct way failed at each address.
fn lanes(error: &p2p_node::ConnectError) -> Vec<(SocketAddr, Option<LaneFailure>)> {
    let report = story(error);
    assert_eq!(failure(report, Way::Direct), &WayFailure::AllFailed, "{report}");
    let direct = report.ways.iter().find(|way| way.way == Way::Direct).unwrap();
    direct.lanes.iter().map(|lane| (lane.remote, lane.failure.clone())).collect()
}

#[test]
fn a_thread_that_moved_takes_its_node_along() {
    let Some(net) = Net::new(&[ANNA]) else { return };
    let mut alone = config("anna", &key(1));
    alone.brokers.clear();
    // An interface that is up and has no address is nothing to wait for.
    net.inside("anna", "ip link add bare type bridge");
    net.inside("anna", "ip link set bare addrgenmode none up");
    alone.ready_within = Duration::from_secs(3_600);
    let (addr, serving) = serve(&net, "anna", alone);
    let mut ips: Vec<IpAddr> = addr.interfaces().iter().map(|interface| interface.local).collect();
    ips.retain(|ip| !matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()));
    ips.sort();
    assert_eq!(ips, ["10.77.0.1".parse::<IpAddr>().unwrap(), "2001:db8:77::1".parse().unwrap()]);
    serving.stop();
}

#[test]
fn behind_a_firewall_direct_fails_and_reverse_connects() {
    let Some(net) = Net::new(&[ANNA, BERT]) else { return };
    let _broker = broker(&net);
    net.fire_wall("bert");
    let (bert, serving) = serve(&net, "bert", config("bert", &key(2)));
    call(&net, "anna", config("anna", &key(1)), &bert, only(Way::Direct), |told| {
        let error = told.unwrap_err();
        let lanes = lanes(&error);
        assert!(!lanes.is_empty());
        for (remote, failure) in lanes {
            assert_eq!(failure, Some(LaneFailure::Dial(DialError::TimedOut)), "{remote}: no answer\n{error}");
        }
    });
    let ways = [vec![Way::Reverse], vec![Way::Punch], Way::ALL.to_vec()];
    for ways in ways {
        let options = ConnectOptions::new().with_ways(ways.clone());
        call(&net, "anna", config("anna", &key(1)), &bert, options, move |told| {
            let how = told.unwrap();
            assert!(ways.contains(&how.way) && how.way != Way::Direct, "{how:?}");
            assert_eq!(how.path, Path::Local);
        });
    }
    let counters = serving.stop();
    assert_eq!((counters.arrived, counters.accepted), (0, 3), "nothing came through the wall");
}

#[test]
fn without_a_firewall_every_family_connects_directly() {
    let Some(net) = Net::new(&[ANNA, BERT]) else { return };
    let _broker = broker(&net);
    let (bert, serving) = serve(&net, "bert", config("bert", &key(2)));
    for family in [Family::V4, Family::V6] {
        let mut options = only(Way::Direct);
        options.filter.families = [family].into();
        call(&net, "anna", config("anna", &key(1)), &bert, options, move |told| {
            let how = told.unwrap();
            assert_eq!((how.way, how.path, Family::of(how.remote.ip())), (Way::Direct, Path::Local, family));
        });
    }
    serving.stop();
}

#[test]
fn link_local_addresses_are_enough_both_ways() {
    let Some(net) = Net::new(&[("anna", &[]), ("bert", &[])]) else { return };
    let mut alone = config("bert", &key(2));
    alone.brokers.clear();
    let (bert, serving) = serve(&net, "bert", alone.clone());
    assert!(bert.interfaces().iter().all(|interface| interface.local.to_string().starts_with("fe80")));
    assert_eq!(bert.interfaces().len(), 1);
    alone.key = Key::Given(key(1));
    alone.machine_id = Some(b"anna".to_vec());
    call(&net, "anna", alone, &bert, only(Way::Direct), |told| {
        let how = told.unwrap();
        let SocketAddr::V6(remote) = how.remote else { panic!("{how:?}") };
        assert!(remote.ip().is_unicast_link_local() && remote.scope_id() != 0, "{how:?}");
        assert_eq!(how.path, Path::Local);
    });
    serving.stop();
}

#[test]
fn a_black_hole_costs_no_more_than_was_allowed() {
    let Some(net) = Net::new(&[ANNA, BERT]) else { return };
    let _broker = broker(&net);
    let (bert, serving) = serve(&net, "bert", config("bert", &key(2)));
    serving.stop();
    // Bert's machine is there and says nothing at all, as if the way to it were a black hole.
    net.inside("bert", "nft add table inet hole");
    net.inside("bert", "nft add chain inet hole in { type filter hook input priority 0 ; policy drop ; }");
    let within = Duration::from_secs(2);
    let options = only(Way::Direct).with_within(within);
    call(&net, "anna", config("anna", &key(1)), &bert, options, move |told| {
        let error = told.unwrap_err();
        let report = story(&error);
        assert_eq!(failure(report, Way::Direct), &WayFailure::TimedOut, "{report}");
        assert!(report.took >= within && report.took < within * 3, "{:?}", report.took);
    });
}

#[test]
fn an_old_address_still_leads_to_a_peer_that_has_moved() {
    let carla: (&str, &[&str]) = ("carla", &["10.77.0.3/24"]);
    let Some(net) = Net::new(&[ANNA, BERT, carla]) else { return };
    let _broker = broker(&net);
    let (old, serving) = serve(&net, "bert", config("bert", &key(2)));
    let text = old.to_string();
    serving.stop();
    // The same key on another machine, at another address and port.
    let (new, serving) = serve(&net, "carla", config("carla", &key(2)));
    assert_eq!(new.id(), old.id());
    let old: PeerAddr = text.parse().unwrap();
    // There is no TURN server in this world.
    for way in Way::ALL.into_iter().filter(|way| *way != Way::Relay) {
        let there: Vec<IpAddr> = new.interfaces().iter().map(|interface| interface.local).collect();
        call(&net, "anna", config("anna", &key(1)), &old, only(way), move |told| {
            let how = told.unwrap();
            assert_eq!(how.way, way);
            assert!(there.contains(&how.remote.ip()), "{how:?}");
        });
    }
    serving.stop();
}

/// Somebody who asks to be dialled, at all the places that are not theirs.
fn third_parties(victim: &PeerAddr, neighbour: IpAddr, port: u16) -> (PeerAddr, Vec<u8>) {
    let mallory = key(6);
    let claim = |local: &str| InterfaceAddr {
        nic: 0,
        local: local.parse().unwrap(),
        prefix: 24,
        external: None,
        listen: port,
        mapped: None,
        nat: Nat::default(),
    };
    let claims = ["127.0.0.1", "10.88.0.3", "224.0.0.1", &neighbour.to_string()].map(claim);
    let contents = Contents {
        brokers: victim.brokers().to_vec(),
        // Copied, to look like a neighbour on the same machine.
        machine: victim.contents().machine,
        interfaces: claims.to_vec(),
        issued: UnixTime(1),
    };
    let address = PeerAddr::sign(&mallory, contents).unwrap();
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let clock = Clock::new(Instant::now(), UnixTime::default().after(unix));
    let mut scribe = Scribe::new(mallory, clock, Seed::from_u64(6));
    scribe.set_address(address.clone()).unwrap();
    let body = Body::DialMe(DialMe { plain: false });
    let sealed =
        scribe.write(victim.id(), AttemptId([6; 16]), body, Duration::from_secs(30), Instant::now()).unwrap();
    (address, sealed.to_vec())
}

#[test]
fn a_signal_that_names_third_parties_dials_nothing() {
    let carla: (&str, &[&str]) = ("carla", &["10.88.0.3/24"]);
    let Some(net) = Net::new(&[ANNA, BERT, carla]) else { return };
    let _broker = broker(&net);
    net.inside("bert", "ip route add 10.88.0.0/24 dev eth0");
    net.inside("carla", "ip route add 10.77.0.0/24 dev eth0");
    let mut quiet = config("carla", &key(3));
    quiet.brokers.clear();
    let (neighbour, carla) = serve(&net, "carla", quiet);
    let link = |addr: &&InterfaceAddr| matches!(addr.local, IpAddr::V6(ip) if ip.is_unicast_link_local());
    let (neighbour, port) =
        neighbour.interfaces().iter().find(link).map(|addr| (addr.local, addr.listen)).unwrap();
    let (bert, serving) = serve(&net, "bert", config("bert", &key(2)));
    // Something of Bert's own that listens on loopback only, at the port that is asked for.
    let (bound, is_bound) = mpsc::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let private = net.on("bert", move || async move {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        bound.send(()).unwrap();
        tokio::select! {
            _ = listener.accept() => panic!("a stranger had something on loopback dialled"),
            _ = stopped => {}
        }
    });
    is_bound.recv().unwrap();
    let private = Running { thread: Some(private), stop: Some(stop) };
    let (mallory, sealed) = third_parties(&bert, neighbour, port);
    let told = net.on("anna", move || async move {
        let (client, mut turn) = AsyncClient::new(MqttOptions::new("mallory", "10.77.0.254", 1883), 10);
        client.subscribe(mallory.id().topic(), QoS::AtLeastOnce).await.unwrap();
        client.publish(bert.id().topic(), QoS::AtLeastOnce, false, sealed).await.unwrap();
        let refusal = async {
            loop {
                if let Event::Incoming(Packet::Publish(publish)) = turn.poll().await.unwrap() {
                    return open(&key(6), &publish.payload).unwrap().body;
                }
            }
        };
        in_time(refusal).await
    });
    assert_eq!(told.join().unwrap(), Body::Refuse(Refusal { reason: RefusalReason::NoRoute }));
    assert_eq!(serving.stop().answers, 1);
    assert_eq!(carla.stop().arrived, 0, "a stranger had a neighbour dialled");
    private.stop();
}
