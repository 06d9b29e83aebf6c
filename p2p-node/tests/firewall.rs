//! Two machines on a network of the test's own: one with a firewall, one that has moved, one that is not there.
//!
//! Without root and `ip netns` the tests say so and pass; with `P2P_LAB=require` they fail.

#![cfg(all(target_os = "linux", feature = "rendezvous"))]

#[path = "../../p2p-actors/tests/lab/mod.rs"]
mod lab;
#[path = "nodes/netns.rs"]
mod netns;
mod nodes;

use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use netns::Net;
use nodes::{failure, in_time, only, story};
use p2p_node::rendezvous::broker::{Broker, Options};
use p2p_node::{
    BrokerConfig, Config, ConnectOptions, Counters, Family, How, Identity, Key, LaneFailure, Node, Path, PeerAddr,
    Way, WayFailure,
};
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
    tell: impl FnOnce(Result<How, p2p_node::ConnectError>) -> T + Send + 'static,
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
            assert_eq!(failure, Some(LaneFailure::TimedOut), "{remote}: no answer\n{error}");
        }
    });
    for options in [only(Way::Reverse), ConnectOptions::default()] {
        call(&net, "anna", config("anna", &key(1)), &bert, options, |told| {
            let how = told.unwrap();
            assert_eq!((how.way, how.path), (Way::Reverse, Path::Local));
        });
    }
    let counters = serving.stop();
    assert_eq!((counters.arrived, counters.accepted), (0, 2), "nothing came through the wall");
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
    let options = ConnectOptions { within, ..only(Way::Direct) };
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
    for way in Way::ALL {
        let there: Vec<IpAddr> = new.interfaces().iter().map(|interface| interface.local).collect();
        call(&net, "anna", config("anna", &key(1)), &old, only(way), move |told| {
            let how = told.unwrap();
            assert_eq!(how.way, way);
            assert!(there.contains(&how.remote.ip()), "{how:?}");
        });
    }
    serving.stop();
}
