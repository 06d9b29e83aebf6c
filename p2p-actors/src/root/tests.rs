//! What the root minds and bounds: the clock, others' errands, answers, places for those who were welcomed.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use p2p_core::Seed;
use p2p_core::attempt::{AttemptId, RefusalReason, Role, Way};
use p2p_core::peer::{Identity, PeerAddr};
use p2p_core::proof::{Cipher, Counterpart, Proof, ProofConfig, ProofError, Stage};
use tokio::net::TcpStream;
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::calls::ANSWERS_PER_CALLER;
use crate::config::{ActorsConfig, BrokerConfig, ConnectOptions, Interfaces, Limits};
use crate::drive::now;
use crate::handle::Handle;
use crate::interface::nics;
use crate::prove::Proving;
use crate::signal::MemoryBroker;

/// No story takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

fn tell(story: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { timeout(PATIENCE, story).await.expect("the story to end") });
}

/// A node on loopback.
async fn node(key: u8, broker: &MemoryBroker, limits: Limits) -> Handle {
    let mut config = ActorsConfig::new(Identity::from_bytes([key; 32]));
    let loopback = nics().into_iter().find(|nic| nic.is_loopback).unwrap();
    config.interfaces = Interfaces::Only(vec![loopback.name]);
    config.brokers = vec![BrokerConfig::new("memory://here".parse().unwrap())];
    config.memory = Some(broker.clone());
    config.machine_id = b"this machine".to_vec();
    config.limits = limits;
    let handle = crate::spawn_local(config).unwrap();
    handle.status().wait_for(|status| status.is_ready()).await.unwrap();
    handle
}

fn address(handle: &Handle) -> PeerAddr {
    handle.status().borrow().address.clone().unwrap()
}

fn only(way: Way) -> ConnectOptions {
    ConnectOptions { ways: vec![way], ..ConnectOptions::default() }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let so = async {
        while !is_so() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, so).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The runtime's clock runs ahead by hours while the system's stands nearly still: as after a correction of the
/// system's clock, or the other way round after a machine was suspended.
#[test]
fn the_clock_is_minded() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let node = node(1, &MemoryBroker::new(), Limits::default()).await;
        let before = address(&node);
        for hours in 1..4 {
            sleep(Duration::from_secs(3_600)).await;
            let after = address(&node);
            assert_ne!(after.issued(), before.issued(), "published with the right date after {hours} h");
            assert!(
                after.issued().since(before.issued()) < Duration::from_secs(600),
                "by the system's clock"
            );
        }
    });
}

#[test]
fn others_errands_wait_for_each_other_and_never_for_ours() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = node(1, &broker, Limits::default()).await;
        let bert = node(2, &broker, Limits { dials_for_peers: 0, ..Limits::default() }).await;
        let mut waiting = Box::pin(anna.connect(address(&bert), only(Way::Reverse)));
        let asked = async {
            tokio::select! {
                ended = &mut waiting => panic!("it ended: {ended:?}"),
                () = until("bert was asked", || bert.counters().answers == 1) => {}
            }
        };
        asked.await;
        // Bert has no errand to spare, and dials anna on his own behalf all the same.
        assert!(bert.connect(address(&anna), only(Way::Direct)).await.is_ok());
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!((anna.counters().arrived, bert.counters().accepted), (1, 0));
        drop(waiting);
        let carl = node(3, &broker, Limits { dials_for_peers: 1, ..Limits::default() }).await;
        let calls = (0..ANSWERS_PER_CALLER).map(|_| anna.connect(address(&carl), only(Way::Reverse)));
        assert!(join_all(calls).await.into_iter().all(|met| met.is_ok()), "one after the other");
    });
}

#[test]
fn one_caller_cannot_have_all_answers() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = node(1, &broker, Limits::default()).await;
        let carl = node(3, &broker, Limits::default()).await;
        // Answers that never end, as there is no errand for them.
        let bert = node(2, &broker, Limits { dials_for_peers: 0, ..Limits::default() }).await;
        let there = address(&bert);
        let more = 3;
        let calls = (0..ANSWERS_PER_CALLER + more).map(|_| anna.connect(there.clone(), only(Way::Reverse)));
        let mut calls = Box::pin(join_all(calls));
        let told = async {
            tokio::select! {
                _ = &mut calls => panic!("answers that never end ended"),
                () = until("some are refused", || bert.counters().refused as usize == more) => {}
            }
        };
        told.await;
        assert_eq!(bert.counters().answers as usize, ANSWERS_PER_CALLER);
        // There is room for another caller.
        let mut other = Box::pin(carl.connect(there, only(Way::Reverse)));
        tokio::select! {
            ended = &mut other => panic!("it ended: {ended:?}"),
            () = until("carl is answered", || bert.counters().answers as usize == ANSWERS_PER_CALLER + 1) => {}
        }
        assert_eq!(bert.counters().refused as usize, more);
    });
}

/// Says who it is, and hears whether it is welcome.
async fn knock(
    door: SocketAddr,
    called: &PeerAddr,
    number: u8,
) -> (Proving<TcpStream>, Result<Stage, ProofError>) {
    let config = ProofConfig {
        identity: Identity::from_bytes([number; 32]),
        counterpart: Counterpart::Dialled {
            peer: called.id(),
            attempt: AttemptId([number; 16]),
            role: Role::Caller,
            plain: false,
        },
        cipher: Cipher::ChaCha20Poly1305,
        within: PATIENCE,
    };
    let stream = TcpStream::connect(door).await.unwrap();
    let mut proving = Proving::new(stream, Proof::new(config, Seed::from_u64(u64::from(number)), now()));
    let stage = proving.advance().await;
    (proving, stage)
}

#[test]
fn whoever_was_welcomed_has_a_place_in_the_backlog() {
    tell(async {
        let broker = MemoryBroker::new();
        let bert = node(2, &broker, Limits { backlog: 1, ..Limits::default() }).await;
        let there = address(&bert);
        let door = there.interfaces().iter().find_map(|interface| interface.local_target()).unwrap();
        let (mut first, stage) = knock(door, &there, 11).await;
        assert_eq!(stage, Ok(Stage::Proven));
        // The one place is promised, though nobody has it yet.
        let (_, stage) = knock(door, &there, 12).await;
        assert_eq!(stage, Err(ProofError::Refused(RefusalReason::Busy)));
        first.proof.go(now()).unwrap();
        assert_eq!(first.advance().await, Ok(Stage::Kept));
        assert_eq!(bert.accept().await.unwrap().session.claim.peer, Identity::from_bytes([11; 32]).id());
        // Taken and given back: by one who says Go, and by one who goes away.
        let (gone, stage) = knock(door, &there, 13).await;
        assert_eq!(stage, Ok(Stage::Proven));
        drop(gone);
        let welcome = async {
            loop {
                match knock(door, &there, 14).await {
                    (_, Err(ProofError::Refused(RefusalReason::Busy))) => {
                        sleep(Duration::from_millis(1)).await
                    }
                    (_, stage) => break stage,
                }
            }
        };
        assert_eq!(welcome.await, Ok(Stage::Proven));
    });
}
