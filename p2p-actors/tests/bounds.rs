//! The bounds at the doors of a node, on real sockets.

mod nodes;

use futures_util::FutureExt;
use futures_util::future::join_all;
use nodes::{address, findable, only, start, tell, until};
use p2p_actors::signal::MemoryBroker;
use p2p_core::attempt::Way;
use p2p_core::node::{Limits, NodeConfig};

fn with(key: u8, limits: Limits) -> NodeConfig {
    findable(key).with_limits(limits)
}

#[test]
fn dials_for_peers_wait_for_each_other_and_never_for_ours() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = start(findable(1), &broker).await;
        let none = Limits::new().with_dials_for_peers(0);
        let bert = start(with(2, none), &broker).await;
        let mut waiting = Box::pin(anna.connect(address(&bert), only(Way::Reverse)));
        let asked = async {
            tokio::select! {
                ended = &mut waiting => panic!("it ended: {ended:?}"),
                () = until("bert was asked", || bert.counters().answers == 1) => {}
            }
        };
        asked.await;
        // Bert has no dial to spare, and dials anna on his own behalf all the same.
        assert!(bert.connect(address(&anna), only(Way::Direct)).await.is_ok());
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!((anna.counters().arrived, bert.counters().accepted), (1, 0));
        drop(waiting);
        let one = Limits::new().with_dials_for_peers(1);
        let carl = start(with(3, one), &broker).await;
        let calls = (0..one.answers_for_one).map(|_| anna.connect(address(&carl), only(Way::Reverse)));
        assert!(join_all(calls).await.into_iter().all(|met| met.is_ok()), "one after the other");
    });
}

#[test]
fn one_caller_cannot_have_all_answers() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = start(findable(1), &broker).await;
        let carl = start(findable(3), &broker).await;
        // Answers that never end, as there is no dial for them.
        let limits = Limits::new().with_dials_for_peers(0);
        let bert = start(with(2, limits), &broker).await;
        let (there, most) = (address(&bert), limits.answers_for_one);
        let more = 3;
        let calls = (0..most + more).map(|_| anna.connect(there.clone(), only(Way::Reverse)));
        let mut calls = Box::pin(join_all(calls));
        let told = async {
            tokio::select! {
                _ = &mut calls => panic!("answers that never end ended"),
                () = until("some are refused", || bert.counters().refused as usize == more) => {}
            }
        };
        told.await;
        assert_eq!(bert.counters().answers as usize, most);
        // There is room for another caller.
        let mut other = Box::pin(carl.connect(there, only(Way::Reverse)));
        tokio::select! {
            ended = &mut other => panic!("it ended: {ended:?}"),
            () = until("carl is answered", || bert.counters().answers as usize == most + 1) => {}
        }
        assert_eq!(bert.counters().refused as usize, more);
    });
}

#[test]
fn a_full_backlog_is_busy_until_somebody_is_taken() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = start(findable(1), &broker).await;
        let bert = start(with(2, Limits::new().with_backlog(1)), &broker).await;
        let call = || anna.connect(address(&bert), only(Way::Direct));
        let _first = call().await.unwrap();
        let error = call().await.unwrap_err();
        assert_eq!(error.code(), "refused", "{error}");
        let taken = bert.accept().await.unwrap();
        assert_eq!(taken.session.claim.peer, address(&anna).id());
        let second = call().await.unwrap();
        // A connection that is taken out and dropped frees its place, too.
        drop((second, bert.accept().await));
        assert!(call().await.is_ok());
        until("the third is there", || bert.counters().accepted == 3).await;
    });
}

#[test]
fn what_was_accepted_can_be_taken_when_nobody_else_is() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = start(findable(1), &broker).await;
        let bert = start(findable(2), &broker).await;
        let called = anna.connect(address(&bert), only(Way::Direct)).await.unwrap();
        // The caller knows first.
        until("it was accepted", || bert.counters().accepted == 1).await;
        bert.stop_accepting().await;
        let error = anna.connect(address(&bert), only(Way::Direct)).await.unwrap_err();
        assert_eq!(error.code(), "refused", "{error}");
        let accepted = bert.accept().await.expect("the one of before");
        assert_eq!((called.info.local, called.info.remote), (accepted.info.remote, accepted.info.local));
        assert!(bert.accept().await.is_none());
    });
}

#[test]
fn a_peer_has_so_many_pipes_and_another_one_when_one_has_ended() {
    tell(async {
        let broker = MemoryBroker::new();
        let anna = start(findable(1), &broker).await;
        let bert = start(with(2, Limits::new().with_pipes_per_peer(2)), &broker).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let (called, accepted) =
                tokio::join!(anna.connect(address(&bert), only(Way::Direct)), bert.accept());
            held.push((called.unwrap(), accepted.unwrap()));
        }
        for way in [Way::Direct, Way::Reverse] {
            assert!(anna.connect(address(&bert), only(way)).await.is_err(), "{way}");
        }
        assert_eq!(bert.counters().refused, 2);
        // Those that bert asked for count for nothing.
        let (called, accepted) = tokio::join!(bert.connect(address(&anna), only(Way::Direct)), anna.accept());
        assert!(called.unwrap().place.is_none() && accepted.unwrap().place.is_some());
        drop(held.pop());
        let (called, accepted) = tokio::join!(anna.connect(address(&bert), only(Way::Direct)), bert.accept());
        assert!(called.is_ok() && accepted.is_some());
    });
}
