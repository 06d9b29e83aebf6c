//! What calls itself a broker and is not, or means harm.

mod stories;

use std::time::Duration;

use p2p_actors::signal::{Broker, ChannelEvent, MemoryBroker};
use p2p_core::signal::link::{
    FailReason, LinkError, MAX_PACKET, MAX_QUEUED, MqttVersion, PublishError, RECEIVE, Subscribers,
};
use stories::{Party, endpoint, pinned, tell, tell_in_no_time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads one packet: its first byte and its body. Good for short ones.
async fn read_packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
    let mut body = vec![0; length.into()];
    stream.read_exact(&mut body).await.unwrap();
    (first, body)
}

/// Accepts one and lets it subscribe, in MQTT 5, with these properties in the CONNACK.
async fn accept(listener: &TcpListener, properties: &[u8]) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    assert_eq!(read_packet(&mut stream).await.0, 0x10, "CONNECT");
    let length = properties.len() as u8;
    stream.write_all(&[0x20, 3 + length, 0, 0, length]).await.unwrap();
    stream.write_all(properties).await.unwrap();
    let (first, body) = read_packet(&mut stream).await;
    assert_eq!(first, 0x82, "SUBSCRIBE");
    stream.write_all(&[0x90, 4, body[0], body[1], 0, 1]).await.unwrap();
    stream
}

#[test]
fn one_that_accepts_and_says_nothing() {
    tell_in_no_time(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let silent = listener.accept().await.unwrap();
        assert_eq!(alice.down().await, LinkError::Silent);
        drop(silent);
    });
}

#[test]
fn nobody_listens() {
    tell(async {
        let (listener, port) = listen().await;
        drop(listener);
        let mut alice = Party::on("alice", &endpoint(port));
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Unreachable(_)), "{error}");
    });
    tell_in_no_time(async {
        let (listener, port) = listen().await;
        drop(listener);
        let mut alice = Party::on("alice", &endpoint(port));
        let ticket = alice.publish("bob", "hello?");
        assert_eq!(alice.ended(ticket).await, Err(FailReason::NoConnection));
    });
}

#[test]
fn one_that_does_not_speak_mqtt() {
    tell(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"\0 what is this?\r\n").await.unwrap();
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Malformed(_)), "{error}");
    });
}

#[test]
fn one_of_the_old_kind_that_hangs_up_on_mqtt_5() {
    tell(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(read_packet(&mut stream).await.1[6], 5);
        drop(stream);
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_eq!(read_packet(&mut stream).await.1[6], 4);
        stream.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let (_, body) = read_packet(&mut stream).await;
        stream.write_all(&[0x90, 3, body[0], body[1], 1]).await.unwrap();
        assert_eq!(alice.next().await, ChannelEvent::Up, "and no failure is told");
    });
}

#[test]
fn one_that_takes_nothing_more_after_the_greeting() {
    // Receive maximum 0 is forbidden and would stall a client that believes it; then no acknowledgement comes.
    tell_in_no_time(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let stream = accept(&listener, &[0x21, 0, 0]).await;
        alice.up().await;
        let ticket = alice.publish("bob", "hello?");
        assert_eq!(alice.down().await, LinkError::Mute);
        drop((stream, listener));
        assert_eq!(alice.ended(ticket).await, Err(FailReason::NoConnection));
    });
}

#[test]
fn one_that_floods_and_never_reads() {
    tell(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let mut stream = accept(&listener, &[]).await;
        alice.up().await;
        let message = [0x32, 10, 0, 1, b't', 0, 1, 0, b's', b'p', b'a', b'm'];
        let flood = tokio::task::spawn_local(async move {
            let packets = message.repeat(1_000);
            let mut sent = 0u64;
            while stream.write_all(&packets).await.is_ok() {
                sent += 1_000;
            }
            sent
        });
        let started = tokio::time::Instant::now();
        let mut received = 0;
        while received < RECEIVE.burst + 20 {
            alice.received().await;
            received += 1;
        }
        let earned = started.elapsed().as_secs() as u32 * RECEIVE.per_second;
        assert!(received <= RECEIVE.burst + earned + RECEIVE.per_second);
        // Under the flood it still does what it is told. Our acknowledgements fill the broker's socket, and then we
        // stop reading: the broker is what has to wait.
        alice.channel.close();
        let sent = flood.await.unwrap();
        assert!(sent > u64::from(received), "it was a flood");
    });
}

#[test]
fn one_that_sends_too_much_at_once() {
    tell(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let mut stream = accept(&listener, &[]).await;
        alice.up().await;
        // A message: strangers can make the broker send it, so it is no reason to leave. Nothing of it is kept.
        let large = [&[0x32, 0x80, 0x80, 0x40, 0, 1, b't', 0, 7][..], &[0; 1 << 20]].concat();
        stream.write_all(&large[..4 + (1 << 20)]).await.unwrap();
        assert_eq!(alice.received().await, "");
        assert_eq!(read_packet(&mut stream).await, (0x40, vec![0, 7]), "it is acknowledged");
        // Anything else of that size is not MQTT.
        stream.write_all(&[0x90, 0xff, 0xff, 0xff, 0x7f]).await.unwrap();
        let error = alice.down().await;
        assert!(matches!(error, LinkError::Malformed(_)), "{error}");
    });
}

#[test]
fn a_login_that_fits_no_packet_is_our_fault() {
    tell(async {
        let (_listener, port) = listen().await;
        let mut endpoint = endpoint(port);
        endpoint.login = stories::login(&"long".repeat(MAX_PACKET as usize));
        let error = Party::on("alice", &endpoint).down().await;
        assert!(matches!(error, LinkError::Configuration(_)), "{error}");
        assert!(error.is_lasting());
    });
}

#[test]
fn a_broker_of_one_version_refuses_the_other_pin() {
    tell(async {
        let (listener, port) = listen().await;
        let mut alice = Party::on("alice", &pinned(&endpoint(port), MqttVersion::V5));
        let (mut stream, _) = listener.accept().await.unwrap();
        read_packet(&mut stream).await;
        stream.write_all(&[0x20, 2, 0, 1]).await.unwrap();
        assert_eq!(alice.down().await, LinkError::BadProtocol(MqttVersion::V5));
    });
}

#[test]
fn the_door_of_a_channel_is_bounded() {
    tell(async {
        let (_listener, port) = listen().await;
        let mut alice = Party::on("alice", &endpoint(port));
        let until = tokio::time::Instant::now().into_std() + Duration::from_secs(600);
        let mut taken = 0;
        let refused = loop {
            match alice.channel.publish(taken, "p2p/bob".into(), "x".into(), until) {
                Ok(()) => taken += 1,
                Err(refused) => break refused,
            }
        };
        // Nothing has run in between: all of them are in the mailbox.
        assert_eq!((taken, refused), (MAX_QUEUED as u64, PublishError::QueueFull));
        // When the actor has taken them in, the mailbox is empty and the queue of the link is full: the answer comes
        // later, and it comes.
        tokio::task::yield_now().await;
        let publish = alice.channel.publish(taken, "p2p/bob".into(), "x".into(), until);
        assert_eq!(publish, Ok(()));
        let reason = FailReason::NotTaken(PublishError::QueueFull);
        assert_eq!(alice.ended(taken).await, Err(reason));
    });
}

#[test]
fn the_broker_in_memory_tells_the_same_stories() {
    tell(async {
        let broker = MemoryBroker::new();
        stories::two_talk(Broker::Memory(broker.clone())).await;
        let mut alice = Party::new("alice", Broker::Memory(broker.clone()));
        alice.up().await;
        let told = alice.publish("nobody", "hello?");
        assert_eq!(alice.ended(told).await, Ok(Subscribers::Nobody));
        let much = vec![0; MAX_PACKET as usize].into();
        let until = tokio::time::Instant::now().into_std() + Duration::from_secs(60);
        let large = alice.publish_until("alice", much, until);
        let failed = alice.ended(large).await;
        assert!(matches!(failed, Err(FailReason::NotTaken(PublishError::TooLarge { .. }))));
        // Who closed is gone for the others.
        let mut bob = Party::new("bob", Broker::Memory(broker));
        bob.up().await;
        drop(bob);
        tokio::task::yield_now().await;
        let told = alice.publish("bob", "still there?");
        assert_eq!(alice.ended(told).await, Ok(Subscribers::Nobody));
    });
}

#[test]
fn two_threads_share_a_broker_in_memory() {
    let broker = MemoryBroker::new();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let other = broker.clone();
    let bob = std::thread::spawn(move || {
        tell(async {
            let mut bob = Party::new("bob", Broker::Memory(other));
            bob.up().await;
            ready.send(()).unwrap();
            let got = bob.received().await;
            let back = bob.publish("alice", "back");
            assert_eq!(bob.ended(back).await, Ok(Subscribers::Someone));
            got
        })
    });
    is_ready.recv().unwrap();
    tell(async {
        let mut alice = Party::new("alice", Broker::Memory(broker));
        alice.up().await;
        alice.publish("bob", "over");
        assert_eq!(alice.received().await, "back");
    });
    assert_eq!(bob.join().unwrap(), "over");
}
