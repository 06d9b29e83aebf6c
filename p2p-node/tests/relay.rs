//! Two nodes and a TURN server: our own, or coturn where there is one.

#[path = "../benches/coturn/mod.rs"]
mod coturn;
mod nodes;

use std::time::Duration;

use coturn::Coturn;
use nodes::{in_memory, in_time, lent_by, meet, only, talk, turn_server};
use p2p_node::rendezvous::turn::{Secret, TurnServer as Server, TurnServerConfig};
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig};
use p2p_node::{
    Config, ConnectError, ConnectOptions, MemoryBroker, Node, Pipe, RelayConnections, TurnCarrier,
    TurnServer, Way, WayFailure, WayOutcome,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Bytes that nobody confuses.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9).to_be_bytes())
        .take(length)
        .collect()
}

async fn rendezvous() -> Rendezvous {
    let mut turn = TurnServerConfig::loopback(Secret::generate().unwrap());
    // What is over keeps its address for some seconds, as the last ack may be lost.
    turn.most_per_user = 100;
    let mut config = RendezvousConfig::default();
    config.turn = Some(turn);
    Rendezvous::start(config).await.unwrap()
}

fn with(broker: &MemoryBroker, turn: &[TurnServer]) -> Config {
    let mut config = in_memory(broker);
    config.turn = turn.to_vec();
    // These servers are known, and what is asked of them is within what they can do.
    config.relay_connections = RelayConnections::Always;
    config
}

/// Two nodes, and the TURN servers of each.
async fn pair(turns: [&[TurnServer]; 2]) -> (Node, Node) {
    let broker = MemoryBroker::new();
    let [anna, bert] = turns.map(|turn| with(&broker, turn));
    (Node::bind(anna).await.unwrap(), Node::bind(bert).await.unwrap())
}

/// A megabyte there, half of it back at the same time, and the end.
async fn carries(caller: &Node, called: &Node) {
    let (mut a, mut b) = meet(caller, called, only(Way::Relay)).await;
    assert_eq!(a.how().way, Way::Relay);

    let (there, back) = (pattern(1_000_000), pattern(500_000));
    in_time(async { tokio::join!(exchange(&mut a, &there, &back), exchange(&mut b, &back, &there)) }).await;
}

/// One end of a conversation: says all of this and ends, and hears all of that meanwhile.
async fn exchange(pipe: &mut Pipe, said: &[u8], expected: &[u8]) {
    let (mut read, mut write) = tokio::io::split(pipe);
    let say = async {
        write.write_all(said).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let hear = async { read.read_to_end(&mut heard).await.unwrap() };
    tokio::join!(say, hear);
    assert!(heard == expected);
}

#[tokio::test]
async fn one_server_at_either_end_carries_over_every_transport() {
    let rendezvous = rendezvous().await;
    for carrier in [TurnCarrier::Udp, TurnCarrier::Tcp] {
        for lender in [0, 1] {
            let turn = [lent_by(&rendezvous, carrier)];
            let (anna, bert) = pair([0, 1].map(|end| if end == lender { &turn[..] } else { &[] })).await;
            carries(&anna, &bert).await;
        }
    }
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn coturn_carries_as_well() {
    let Some(coturn) = Coturn::start("anna", "sesame").await else {
        return eprintln!("no coturn here: skipped");
    };
    for carrier in [TurnCarrier::Udp, TurnCarrier::Tcp] {
        let broker = MemoryBroker::new();
        // Both ends speak at once, which is more than its connections bear: by default they are not used.
        let mut config = with(&broker, &[turn_server(coturn.address, carrier, "anna", "sesame")]);
        config.relay_connections = RelayConnections::default();
        let (anna, bert) = (Node::bind(config.clone()).await.unwrap(), Node::bind(config).await.unwrap());
        carries(&anna, &bert).await;
    }
}

/// Short exchanges, each on a connection of its own, where both ends wait until everything has arrived. `P2P_EXCHANGES` says
/// how many. Found with 10 of 140: an end let go as soon as its own last word was acknowledged, when the peer's last bytes
/// had come and the peer's end was still on its way, and so cut the peer off.
#[tokio::test]
async fn every_short_exchange_through_coturn_ends_well_at_both_ends() {
    let Some(coturn) = Coturn::start("anna", "sesame").await else {
        return eprintln!("no coturn here: skipped");
    };
    let rounds = std::env::var("P2P_EXCHANGES").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30);
    let turn = [turn_server(coturn.address, TurnCarrier::Udp, "anna", "sesame")];
    let broker = MemoryBroker::new();
    let mut config = with(&broker, &turn);
    config.relay_connections = RelayConnections::Never;
    let mut without = config.clone();
    without.turn.clear();
    let bert = Node::bind(without).await.unwrap();
    for round in 0..rounds {
        let anna = Node::bind(config.clone()).await.unwrap();
        let (mut a, mut b) = meet(&anna, &bert, only(Way::Relay)).await;
        let asking = async {
            a.write_all(b"question").await?;
            a.close().await
        };
        let answering = async {
            let mut question = Vec::new();
            b.read_to_end(&mut question).await?;
            b.write_all(b"answer").await?;
            b.close().await
        };
        let (asked, answered) = in_time(async { tokio::join!(asking, answering) }).await;
        assert!(asked.is_ok() && answered.is_ok(), "exchange {round}: {asked:?}, {answered:?}");
        anna.close().await;
    }
}

/// One end says everything and ends, the other answers only then.
async fn answers_after_the_end(caller: &Node, called: &Node) {
    let (mut a, mut b) = meet(caller, called, only(Way::Relay)).await;
    let (question, answer) = (pattern(3_000_000), pattern(2_000_000));
    let asking = async {
        a.write_all(&question).await.unwrap();
        a.shutdown().await.unwrap();
        let mut heard = Vec::new();
        a.read_to_end(&mut heard).await.unwrap();
        assert!(heard == answer);
        drop(a);
    };
    let answering = async {
        let mut heard = Vec::new();
        b.read_to_end(&mut heard).await.unwrap();
        assert!(heard == question);
        b.write_all(&answer).await.unwrap();
        b.shutdown().await.unwrap();
        // Nobody waits for what is still on its way.
        drop(b);
    };
    in_time(async { tokio::join!(asking, answering) }).await;
}

#[tokio::test]
async fn an_end_in_one_direction_leaves_the_other_alone() {
    let rendezvous = rendezvous().await;
    let coturn = Coturn::start("anna", "sesame").await;
    if coturn.is_none() {
        eprintln!("no coturn here: with our own server only");
    }
    for carrier in [TurnCarrier::Udp, TurnCarrier::Tcp] {
        let theirs = coturn.iter().map(|coturn| turn_server(coturn.address, carrier, "anna", "sesame"));
        for turn in std::iter::once(lent_by(&rendezvous, carrier)).chain(theirs) {
            let (anna, bert) = pair([&[turn], &[]]).await;
            answers_after_the_end(&anna, &bert).await;
            answers_after_the_end(&bert, &anna).await;
        }
    }
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn what_was_closed_has_arrived() {
    let rendezvous = rendezvous().await;
    let coturn = Coturn::start("anna", "sesame").await;
    if coturn.is_none() {
        eprintln!("no coturn here: with our own server only");
    }
    for (carrier, lender) in
        [(TurnCarrier::Udp, 0), (TurnCarrier::Udp, 1), (TurnCarrier::Tcp, 0), (TurnCarrier::Tcp, 1)]
    {
        let theirs = coturn.iter().map(|coturn| turn_server(coturn.address, carrier, "anna", "sesame"));
        for turn in std::iter::once(lent_by(&rendezvous, carrier)).chain(theirs) {
            let turns = [0, 1].map(|end| if end == lender { vec![turn.clone()] } else { Vec::new() });
            let broker = MemoryBroker::new();
            let [anna, bert] = [&turns[0], &turns[1]].map(|turn| with(&broker, turn));
            let bert = Node::bind(bert).await.unwrap();
            let address = bert.addr().unwrap();
            let bytes = pattern(5_000_000);
            let said = bytes.clone();
            let saying = tokio::task::spawn_blocking(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let said = runtime.block_on(async {
                    let anna = Node::bind(anna).await.unwrap();
                    let mut pipe = anna.connect_with(&address, only(Way::Relay)).await.unwrap();
                    pipe.write_all(&said).await.unwrap();
                    pipe.close().await
                });
                // As where the process ends.
                runtime.shutdown_background();
                said
            });
            let mut pipe = in_time(bert.accept()).await.unwrap();
            pipe.shutdown().await.unwrap();
            let mut heard = Vec::new();
            in_time(pipe.read_to_end(&mut heard)).await.unwrap();
            assert!(heard == bytes, "{} bytes over {carrier:?}", heard.len());
            in_time(pipe.close()).await.unwrap();
            saying.await.unwrap().unwrap();
        }
    }
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn a_coturn_that_is_killed_and_comes_back_interrupts_and_loses_nothing() {
    for (carrier, options) in [(TurnCarrier::Udp, &[][..]), (TurnCarrier::Tcp, &["--no-tcp-relay"])] {
        let Some(mut coturn) = Coturn::with("anna", "sesame", options).await else {
            return eprintln!("no coturn here: skipped");
        };
        let (anna, bert) = pair([&[turn_server(coturn.address, carrier, "anna", "sesame")], &[]]).await;
        let (mut a, mut b) = meet(&anna, &bert, only(Way::Relay)).await;
        let bytes = pattern(6_000_000);
        let saying = async {
            a.write_all(&bytes).await.unwrap();
            a.shutdown().await.unwrap();
        };
        let hearing = async {
            let mut heard = vec![0; 1_000_000];
            b.read_exact(&mut heard).await.unwrap();
            coturn.kill();
            assert!(coturn.again().await);
            b.read_to_end(&mut heard).await.unwrap();
            assert!(heard == bytes, "each byte once");
        };
        in_time(async { tokio::join!(saying, hearing) }).await;
    }
}

#[tokio::test]
async fn a_coturn_that_stays_away_ends_it_at_both_ends() {
    for (carrier, options) in [(TurnCarrier::Udp, &["--no-tcp-relay"][..]), (TurnCarrier::Tcp, &[])] {
        let Some(coturn) = Coturn::with("anna", "sesame", options).await else {
            return eprintln!("no coturn here: skipped");
        };
        let (anna, bert) = pair([&[turn_server(coturn.address, carrier, "anna", "sesame")], &[]]).await;
        let (mut a, mut b) = meet(&anna, &bert, only(Way::Relay)).await;
        drop(coturn);
        let saying = async {
            let bytes = pattern(100_000);
            loop {
                if let Err(error) = a.write_all(&bytes).await {
                    return error;
                }
            }
        };
        let hearing = async { b.read_to_end(&mut Vec::new()).await.unwrap_err() };
        let (said, heard) = in_time(async { tokio::join!(saying, hearing) }).await;
        for error in [said, heard] {
            let kinds = [std::io::ErrorKind::TimedOut, std::io::ErrorKind::ConnectionReset];
            assert!(
                kinds.contains(&error.kind()) || error.kind() == std::io::ErrorKind::BrokenPipe,
                "{error:?}"
            );
        }
    }
}

#[tokio::test]
async fn one_call_after_another_leaves_nothing_behind_that_the_next_is_refused_for() {
    let rendezvous = rendezvous().await;
    for carrier in [TurnCarrier::Udp, TurnCarrier::Tcp] {
        let turn = [lent_by(&rendezvous, carrier)];
        let (anna, bert) = pair([&turn, &turn]).await;
        for _ in 0..12 {
            let (a, b) = meet(&anna, &bert, only(Way::Relay)).await;
            drop((a, b));
        }
        // What each end still says of an attempt that is over begins nothing new at the other.
        assert_eq!((anna.counters().answers, bert.counters().answers), (0, 12));
    }
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn what_a_plain_pipe_was_told_arrives_although_its_address_was_given_back() {
    let server = Server::start(TurnServerConfig::loopback(Secret::generate().unwrap())).await.unwrap();
    let login = server.credential("anna", Duration::from_secs(600)).unwrap();
    let turn = turn_server(server.local_addrs()[0], TurnCarrier::Tcp, &login.username, &login.password);
    let broker = MemoryBroker::new();
    let configs = [vec![turn], Vec::new()].map(|turn| {
        let mut config = with(&broker, &turn);
        config.plain = true;
        config
    });
    let [anna, bert] = configs.map(Node::bind);
    let (anna, bert) = (anna.await.unwrap(), bert.await.unwrap());
    let (mut a, mut b) = meet(&anna, &bert, only(Way::Relay).with_plain(true)).await;
    assert!(a.cipher().is_none());

    let mut heard = Vec::new();
    b.write_all(b"that is all").await.unwrap();
    b.shutdown().await.unwrap();
    // As much as there is room for on the way.
    let mut bytes = pattern(64_000_000);
    let mut written = 0;
    while let Ok(taken) = timeout(Duration::from_millis(200), a.write(&bytes[written..])).await {
        written += taken.unwrap();
    }
    bytes.truncate(written);
    a.shutdown().await.unwrap();
    in_time(a.read_to_end(&mut heard)).await.unwrap();
    drop(a);
    in_time(async {
        while server.held() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    heard.clear();
    in_time(b.read_to_end(&mut heard)).await.unwrap();
    assert!(heard == bytes, "{} of {written} bytes", heard.len());
    server.shutdown().await;
}

#[tokio::test]
async fn strangers_that_nobody_accepts_do_not_use_up_what_our_server_lends() {
    let rendezvous = rendezvous().await;
    let broker = MemoryBroker::new();
    let mut config = with(&broker, &[lent_by(&rendezvous, TurnCarrier::Udp)]);
    config.limits.relays = 1;
    let bert = Node::bind(config).await.unwrap();
    let anna = Node::bind(with(&broker, &[])).await.unwrap();
    let carl = Node::bind(with(&broker, &[])).await.unwrap();
    let address = bert.addr().unwrap();
    let call = |node: Node| {
        let address = address.clone();
        async move { node.connect_with(&address, only(Way::Relay)).await }
    };
    let mut first = in_time(call(anna.clone())).await.unwrap();
    let error = in_time(call(anna.clone())).await.unwrap_err();
    assert!(error.to_string().contains("no TURN server"), "{error}");
    // Bert's own calls are not counted.
    let ours = in_time(bert.connect_with(&carl.addr().unwrap(), only(Way::Relay))).await.unwrap();
    // Whoever is accepted is no stranger any more.
    let mut accepted = in_time(bert.accept()).await.unwrap();
    let second = in_time(call(anna)).await.unwrap();
    in_time(talk(&mut first, &mut accepted)).await;
    drop((second, ours));
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn pipes_through_a_relay_outlive_their_nodes_and_move_between_runtimes() {
    let rendezvous = rendezvous().await;
    let turn = [lent_by(&rendezvous, TurnCarrier::Udp), lent_by(&rendezvous, TurnCarrier::Tcp)];
    let (anna, bert) = pair([&turn, &[]]).await;
    let (mut a, mut b) = meet(&anna, &bert, only(Way::Relay)).await;
    anna.close().await;
    drop((anna, bert));
    in_time(talk(&mut a, &mut b)).await;
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn without_any_server_and_with_a_wrong_password_it_says_why() {
    let rendezvous = rendezvous().await;
    let mut wrong = lent_by(&rendezvous, TurnCarrier::Udp);
    wrong.password.push('x');
    // No name server is asked for a label this long.
    let mut misspelt = lent_by(&rendezvous, TurnCarrier::Udp);
    misspelt.host = format!("{}.invalid", "x".repeat(64));
    let says_host = format!("turn:{}:{}?transport=udp: ", misspelt.host, misspelt.port);
    for (turn, code, says) in [
        (Vec::new(), "no_turn_server", "no TURN server is configured"),
        (vec![wrong], "no_relayed_address", "user name and password"),
        (vec![misspelt], "no_relayed_address", &says_host),
    ] {
        let (anna, bert) = pair([&turn, &[]]).await;
        let error = in_time(anna.connect_with(&bert.addr().unwrap(), only(Way::Relay))).await.unwrap_err();
        let ConnectError::Failed(report) = &error else { panic!("{error}") };
        let WayOutcome::Failed(failure @ WayFailure::Relay(_)) = &report.ways[0].outcome else {
            panic!("{report}")
        };
        assert_eq!(failure.code(), code);
        assert!(failure.to_string().contains(says), "{failure}");
    }
    rendezvous.shutdown().await;
}

#[tokio::test]
async fn a_relay_is_only_taken_when_nothing_better_works() {
    let rendezvous = rendezvous().await;
    let turn = [lent_by(&rendezvous, TurnCarrier::Udp)];
    let (anna, bert) = pair([&turn, &turn]).await;
    let (a, _b) = meet(&anna, &bert, ConnectOptions::default()).await;
    assert_eq!(a.how().way, Way::Direct);
    rendezvous.shutdown().await;
}
