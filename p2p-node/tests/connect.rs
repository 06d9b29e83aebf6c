//! Two nodes in one process, on loopback, signalling through memory.

mod nodes;

use std::time::Duration;

use nodes::{in_memory as config, only, talk};
use p2p_node::{
    BrokerConfig, Config, ConnectError, ConnectOptions, Family, Filter, MemoryBroker, Node, Path, Role, Way,
};
use tokio::io::AsyncReadExt;

async fn pair() -> (Node, Node) {
    let broker = MemoryBroker::new();
    (Node::bind(config(&broker)).await.unwrap(), Node::bind(config(&broker)).await.unwrap())
}

#[tokio::test]
async fn each_way_leads_to_a_proven_pipe() {
    let (anna, bert) = pair().await;
    for way in Way::ALL {
        let addr = bert.addr().unwrap();
        let (called, accepted) = tokio::join!(anna.connect_with(&addr, only(way)), bert.accept());
        let (mut called, mut accepted) = (called.unwrap(), accepted.unwrap());
        assert_eq!((called.peer(), accepted.peer()), (bert.id(), anna.id()));
        assert_eq!((called.how().way, accepted.how().way), (way, way));
        let path = if way == Way::Relay { Path::External } else { Path::Machine };
        assert_eq!((called.how().path, accepted.how().path), (path, path));
        assert!(called.how().role == Role::Caller && accepted.how().role == Role::Answerer);
        assert_eq!(called.binding(), accepted.binding());
        assert!(called.cipher().is_some());
        talk(&mut called, &mut accepted).await;
        let report = called.how().report.as_ref().unwrap();
        assert_eq!(report.won(), Some(way));
    }
}

#[tokio::test]
async fn raced_ways_leave_one_pipe_at_both_ends() {
    let (anna, bert) = pair().await;
    let options = ConnectOptions::new().with_head_start(Duration::ZERO);
    for _ in 0..20 {
        let addr = bert.addr().unwrap();
        let (called, accepted) = tokio::join!(anna.connect_with(&addr, options.clone()), bert.accept());
        let (mut called, mut accepted) = (called.unwrap(), accepted.unwrap());
        assert_eq!(called.how().way, accepted.how().way);
        talk(&mut called, &mut accepted).await;
    }
    assert_eq!(bert.counters().accepted, 20);
}

#[tokio::test]
async fn a_plain_pipe_takes_two() {
    let broker = MemoryBroker::new();
    let mut plain = config(&broker);
    plain.plain = true;
    let (anna, bert) = (Node::bind(config(&broker)).await.unwrap(), Node::bind(plain).await.unwrap());
    for way in Way::ALL {
        for wish in [false, true] {
            let options = only(way).with_plain(wish);
            let addr = bert.addr().unwrap();
            let (called, accepted) = tokio::join!(anna.connect_with(&addr, options), bert.accept());
            let (mut called, mut accepted) = (called.unwrap(), accepted.unwrap());
            talk(&mut called, &mut accepted).await;
            assert_eq!((called.cipher().is_none(), accepted.cipher().is_none()), (wish, wish));
            // Our end of a relayed connection needs the server's goodwill: it is not TCP alone.
            assert_eq!(called.into_tcp().is_ok(), wish && way != Way::Relay);
        }
    }
}

#[tokio::test]
async fn an_offline_peer_is_reported_at_once() {
    let (anna, bert) = pair().await;
    let addr = bert.addr().unwrap();
    bert.close().await;
    let error = anna.connect(&addr).await.unwrap_err();
    assert!(matches!(error, ConnectError::Offline(_)), "{error}");
}

#[tokio::test]
async fn a_node_does_not_call_itself_and_does_not_try_nothing() {
    let (anna, bert) = pair().await;
    let error = anna.connect(&anna.addr().unwrap()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Ourselves));
    let nothing = ConnectOptions::new().with_ways([]);
    let error = anna.connect_with(&bert.addr().unwrap(), nothing).await.unwrap_err();
    assert!(matches!(error, ConnectError::NothingAllowed));
}

#[tokio::test]
async fn a_missing_ca_file_is_told_at_once() {
    let mut config = Config::loopback();
    let url = "mqtts://localhost".parse().unwrap();
    config.brokers = vec![BrokerConfig::new(url).with_ca_file("missing.pem")];
    let error = Node::bind(config).await.unwrap_err().to_string();
    assert!(error.contains("CA file missing.pem"), "{error}");
}

#[tokio::test]
async fn families_and_paths_are_kept() {
    let (anna, bert) = pair().await;
    for family in [Family::V4, Family::V6] {
        let filter = Filter::new().with_families([family]);
        let addr = bert.addr().unwrap();
        let options = only(Way::Direct).with_filter(filter);
        let (called, _accepted) = tokio::join!(anna.connect_with(&addr, options), bert.accept());
        assert_eq!(Family::of(called.unwrap().how().remote.ip()), family);
    }
    let filter = Filter::new().with_paths([Path::External]);
    let error = anna.connect_with(&bert.addr().unwrap(), only(Way::Direct).with_filter(filter)).await;
    assert!(matches!(error, Err(ConnectError::Failed(_))));
}

#[tokio::test]
async fn who_is_not_allowed_is_told_so_and_learns_nothing_else() {
    let broker = MemoryBroker::new();
    let mut closed = config(&broker);
    closed.allowed = Some([].into());
    let (anna, bert) = (Node::bind(config(&broker)).await.unwrap(), Node::bind(closed).await.unwrap());
    let addr = bert.addr().unwrap();
    let error = anna.connect_with(&addr, only(Way::Direct)).await.unwrap_err();
    assert!(error.to_string().contains("does not allow"), "{error}");
    // By signal there is no answer: every signal tells where its sender is.
    let soon = only(Way::Reverse).with_within(Duration::from_millis(300));
    let error = anna.connect_with(&addr, soon).await.unwrap_err();
    assert!(error.to_string().contains("out of time"), "{error}");
    assert_eq!(bert.counters().answers, 0);
    // Whom it does not allow to call, it may call itself.
    for way in Way::ALL {
        let addr = anna.addr().unwrap();
        let (called, accepted) = tokio::join!(bert.connect_with(&addr, only(way)), anna.accept());
        talk(&mut called.unwrap(), &mut accepted.unwrap()).await;
    }
}

#[tokio::test]
async fn a_node_is_reached_only_by_the_ways_it_wants() {
    let broker = MemoryBroker::new();
    for wanted in Way::ALL {
        let mut picky = config(&broker);
        picky.ways = vec![wanted];
        let (anna, bert) = (Node::bind(config(&broker)).await.unwrap(), Node::bind(picky).await.unwrap());
        let addr = bert.addr().unwrap();
        let (called, accepted) = tokio::join!(anna.connect(&addr), bert.accept());
        assert_eq!(called.unwrap().how().way, wanted, "raced, another way must not spoil it");
        accepted.unwrap();
        for way in Way::ALL {
            let call = anna.connect_with(&addr, only(way));
            if way == wanted {
                let (called, accepted) = tokio::join!(call, bert.accept());
                talk(&mut called.unwrap(), &mut accepted.unwrap()).await;
            } else {
                let error = call.await.unwrap_err();
                assert!(error.to_string().contains("does not support"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_at_either_end() {
    let (anna, bert) = pair().await;
    let addr = bert.addr().unwrap();
    for _ in 0..20 {
        let connect = anna.connect(&addr);
        tokio::select! {
            biased;
            _ = connect => {}
            () = tokio::task::yield_now() => {}
        }
    }
    let mut called = anna.connect(&addr).await.unwrap();
    // A call whose thread was held up may have been decided before it was dropped: then the other
    // end was given a pipe, and all that may be left of it is its end.
    let mut accepted = loop {
        let mut accepted = bert.accept().await.unwrap();
        if accepted.how().remote == called.how().local {
            break accepted;
        }
        assert!(matches!(accepted.read(&mut [0]).await, Ok(0) | Err(_)));
    };
    talk(&mut called, &mut accepted).await;
}

#[tokio::test]
async fn pipes_outlive_their_nodes() {
    let (anna, bert) = pair().await;
    let addr = bert.addr().unwrap();
    let (called, accepted) = tokio::join!(anna.connect(&addr), bert.accept());
    let (mut called, mut accepted) = (called.unwrap(), accepted.unwrap());
    anna.close().await;
    drop((anna, bert));
    talk(&mut called, &mut accepted).await;
}

#[tokio::test]
async fn a_closed_node_says_so() {
    let (anna, bert) = pair().await;
    let addr = bert.addr().unwrap();
    anna.close().await;
    assert!(matches!(anna.connect(&addr).await, Err(ConnectError::Closed)));
    assert!(anna.accept().await.is_none());
}

#[tokio::test]
async fn a_full_backlog_refuses_as_busy() {
    let broker = MemoryBroker::new();
    let mut small = config(&broker);
    small.limits.backlog = 1;
    let (anna, bert) = (Node::bind(config(&broker)).await.unwrap(), Node::bind(small).await.unwrap());
    let addr = bert.addr().unwrap();
    let _first = anna.connect_with(&addr, only(Way::Direct)).await.unwrap();
    let error = anna.connect_with(&addr, only(Way::Direct)).await.unwrap_err();
    assert!(error.to_string().contains("busy"), "{error}");
    bert.accept().await.unwrap();
    anna.connect_with(&addr, only(Way::Direct)).await.unwrap();
}

#[test]
fn every_kind_of_runtime_will_do() {
    let meet = || async {
        let (anna, bert) = pair().await;
        let addr = bert.addr().unwrap();
        let (called, accepted) = tokio::join!(anna.connect(&addr), bert.accept());
        talk(&mut called.unwrap(), &mut accepted.unwrap()).await;
    };
    let multi = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    multi.block_on(async { tokio::spawn(meet()).await.unwrap() });
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    current.block_on(meet());
    tokio::task::LocalSet::new()
        .block_on(&current, async { tokio::task::spawn_local(meet()).await.unwrap() });
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_keeps_every_tcp_pipe_alive_as_configured() {
    use p2p_node::{KeepAlive, RelayConnections};
    use socket2::SockRef;
    let broker = MemoryBroker::new();
    let (idle, unacknowledged) = (Duration::from_secs(70), Duration::from_secs(90));
    let given = KeepAlive::OFF
        .with_idle(idle)
        .with_interval(Duration::from_secs(7))
        .with_probes(4)
        .with_unacknowledged(unacknowledged);
    for (keep_alive, expected) in [
        (KeepAlive::default(), Some((25, 5, 3, Some(Duration::from_secs(30))))),
        (given, Some((70, 7, 4, Some(unacknowledged)))),
        (KeepAlive::OFF, None),
    ] {
        let node = || {
            let mut config = config(&broker);
            (config.plain, config.keep_alive) = (true, keep_alive);
            config.relay_connections = RelayConnections::Always;
            Node::bind(config)
        };
        let (anna, bert) = (node().await.unwrap(), node().await.unwrap());
        let mut looked_at = 0;
        for way in Way::ALL {
            let options = only(way).with_plain(true);
            let addr = bert.addr().unwrap();
            let (called, accepted) = tokio::join!(anna.connect_with(&addr, options), bert.accept());
            for pipe in [called.unwrap(), accepted.unwrap()] {
                // Of a relayed connection one end is TCP alone.
                let Ok(stream) = pipe.into_tcp() else { continue };
                let socket = SockRef::from(&stream);
                assert_eq!(socket.keepalive().unwrap(), expected.is_some(), "{way}");
                let times = || {
                    let seconds = socket.tcp_keepalive_time().unwrap().as_secs();
                    let interval = socket.tcp_keepalive_interval().unwrap().as_secs();
                    (seconds, interval, socket.tcp_keepalive_retries().unwrap())
                };
                if let Some((idle, interval, probes, user_timeout)) = expected {
                    assert_eq!(times(), (idle, interval, probes), "{way}");
                    assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout, "{way}");
                } else {
                    assert_eq!(socket.tcp_user_timeout().unwrap(), None, "{way}");
                }
                looked_at += 1;
            }
        }
        assert!(looked_at >= 7, "{looked_at} ends");
    }
}

#[tokio::test]
async fn a_peer_has_so_many_pipes_and_more_are_refused_as_busy() {
    let broker = MemoryBroker::new();
    let mut few = config(&broker);
    few.limits.pipes_per_peer = 2;
    few.limits.pipes = 3;
    let bert = Node::bind(few).await.unwrap();
    let callers = [(); 3].map(|()| Node::bind(config(&broker)));
    let [anna, carl, dora] = futures_util::future::join_all(callers).await.try_into().unwrap();
    let (anna, carl, dora) = (anna.unwrap(), carl.unwrap(), dora.unwrap());
    let addr = bert.addr().unwrap();
    let call = async |caller: &Node, way| {
        let called = caller.connect_with(&addr, only(way)).await?;
        Ok::<_, ConnectError>((called, bert.accept().await.unwrap()))
    };
    let busy = async |caller: &Node| {
        for way in [Way::Direct, Way::Reverse] {
            let error = call(caller, way).await.unwrap_err();
            assert!(error.to_string().contains("busy"), "{way}: {error}");
        }
    };
    let first = call(&anna, Way::Direct).await.unwrap();
    let second = call(&anna, Way::Reverse).await.unwrap();
    busy(&anna).await;
    // It counts at this end, whatever the other one does.
    drop(first.0);
    busy(&anna).await;
    let _of_another = call(&carl, Way::Direct).await.unwrap();
    busy(&dora).await;
    drop((first.1, second));
    drop(call(&dora, Way::Direct).await.unwrap());
    drop(call(&anna, Way::Direct).await.unwrap());
}
