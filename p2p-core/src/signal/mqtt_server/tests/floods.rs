//! Clients who want more than their part: of packets, messages, copies, bytes and sessions.

use super::*;

#[test]
fn a_flood_of_packets_is_read_slowly_and_unread_answers_stop_it() {
    let mut story = Story::new(Config::default());
    let client = story.client(V5, "x");
    let pings = say::PING.repeat(1_000_000);
    let mut bytes = BytesMut::from(pings.as_slice());
    let reading = story.server.handle_bytes(client, &mut bytes, story.now);
    assert_eq!(reading, Reading::Full);
    let mut served = 0;
    for millis in 0..2_000 {
        story.now = epoch() + SECOND + Duration::from_millis(millis);
        match story.server.handle_bytes(client, &mut bytes, story.now) {
            Reading::Full => served += story.reads(client).len() / 2,
            Reading::Later(wait) => assert!(wait <= Duration::from_millis(100), "{wait:?}"),
            other => panic!("{other:?}"),
        }
    }
    // A burst and two seconds.
    assert!((4_000..9_000).contains(&served), "{served}");
}

#[test]
fn a_topic_with_many_subscribers_costs_their_source() {
    let mut story = Story::new(Config::default());
    let crowd: Vec<_> = (0..500)
        .map(|number| {
            let client = story.accept(77);
            story.asks(client, &say::connect(V5, &format!("c{number}"), 30));
            story.asks(client, &say::subscribe(V5, "t"));
            client
        })
        .collect();
    let alice = story.client(V5, "alice");
    let mut bytes = 0;
    for _ in 0..50 {
        story.publishes(alice, "t", &[1; 16_000]);
        bytes += crowd.iter().map(|client| story.reads(*client).len()).sum::<usize>();
    }
    // 400 MB were asked for.
    assert!(bytes <= 17 << 20, "{bytes}");
}

/// A message of no bytes costs time all the same.
#[test]
fn a_source_is_given_so_many_messages_however_small() {
    let any = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let mut story = Story::new(Config { publishes: any, source_publishes: any, ..Config::default() });
    let crowd: Vec<_> = (0..250)
        .map(|number| {
            let client = story.accept(77);
            story.asks(client, &say::connect(V5, &format!("c{number}"), 30));
            story.asks(client, &say::subscribe(V5, "t"));
            client
        })
        .collect();
    for number in 0..20 {
        let publisher = story.accept(1_000 + 256 * number);
        story.asks(publisher, &say::connect(V5, &format!("p{number}"), 30));
        for _ in 0..10 {
            story.says(publisher, &say::publish(V5, "t", None, b""));
            crowd.iter().for_each(|client| drop(story.reads(*client)));
        }
    }
    // 50,000 were asked for, in no time at all.
    let MqttServerCounters { delivered, lost, .. } = story.server.counters();
    assert_eq!((delivered, delivered + lost), (16 * 1_024, 50_000));
}

/// Hundreds who listen to one topic and all publish to it: once a server was busy with it for minutes.
#[test]
fn a_crowd_that_talks_to_itself_is_copied_so_often() {
    let mut story = Story::new(Config::default());
    let crowd: Vec<_> = (0..400)
        .map(|number| {
            let client = story.accept(number % 200);
            story.asks(client, &say::connect(V5, &format!("c{number}"), 30));
            story.asks(client, &say::subscribe(V5, "t"));
            client
        })
        .collect();
    let mut said = 0;
    for client in &crowd {
        for _ in 0..20 {
            story.says(*client, &say::publish(V5, "t", None, b""));
            said += 1;
        }
        crowd.iter().for_each(|client| drop(story.reads(*client)));
    }
    // 3,200,000 were asked for; all come from one network.
    let MqttServerCounters { delivered, limited, .. } = story.server.counters();
    assert_eq!((delivered, limited), (8_000, said - 20));
    // Others can still call, also at that topic: all but a few, whose buckets are by chance those of the crowd.
    let bob = story.listener(V5, "p2p/bob");
    let calls = (0..20).filter(|number| {
        let alice = story.accept(100_000 + 256 * number);
        story.asks(alice, &say::connect(V5, &format!("alice-{number}"), 30));
        let topic = if number % 2 == 0 { "p2p/bob" } else { "t" };
        story.publishes(alice, topic, b"!") == 0
    });
    assert!(calls.count() >= 16);
    assert!(!story.reads(bob).is_empty());
    // And so can a neighbour, a moment later.
    story.now += SECOND / 100;
    let neighbour = story.accept(210);
    story.asks(neighbour, &say::connect(V5, "neighbour", 30));
    assert_eq!(story.publishes(neighbour, "p2p/bob", b"!"), 0);
}

#[test]
fn a_source_publishes_so_many_bytes() {
    let any = Rate { per_second: 1_000_000, burst: 1_000_000 };
    let mut story = Story::new(Config { publishes: any, source_publishes: any, ..Config::default() });
    let client = story.client(V5, "x");
    let codes: Vec<u8> = (0..400).map(|_| story.publishes(client, "t", &[7; 16_000])).collect();
    let taken = codes.iter().filter(|code| **code == 0x10).count();
    assert_eq!(taken, 4 * 1_024 * 1_024 / 16_001, "a burst");
    assert!(codes[taken..].iter().all(|code| *code == 0x97));
    let other = story.client(V5, "other");
    assert_eq!(story.publishes(other, "t", &[7; 16_000]), 0x10, "others are not kept from it");
}

#[test]
fn all_clients_of_a_source_are_read_slowly_when_they_flood_together() {
    let mut story = Story::new(Config::default());
    let crowd: Vec<_> = (0..100)
        .map(|number| {
            let client = story.accept(77);
            story.asks(client, &say::connect(V5, &format!("c{number}"), 30));
            client
        })
        .collect();
    let mut served = 0;
    for round in 0..50u32 {
        for client in &crowd {
            let reading = story.says(*client, &say::PING.repeat(10));
            served += story.reads(*client).len() / 2;
            assert!(matches!(reading, Reading::More | Reading::Later(_)), "{round}: {reading:?}");
        }
    }
    // 50,000 were sent. Beyond the burst each call serves one, and then there is a pause.
    assert!((20_000..24_000).contains(&served), "{served}");
}

#[test]
fn a_hundred_thousand_sessions_leave_nothing() {
    let mut story = Story::new(Config::default());
    for number in 0..100_000u32 {
        story.now += Duration::from_millis(1);
        let client = story.accept(number);
        let id = format!("somebody-{number}");
        let visit =
            [say::connect(V5, &id, 30), say::subscribe(V5, &id), say::publish(V5, &id, Some(1), b"x")];
        story.asks(client, &visit.concat());
        if number % 2 == 0 {
            story.says(client, say::BYE);
        }
        story.server.handle_gone(client, story.now);
    }
    let MqttServer { sessions, ids, topics, deadlines, waiting, out, counters, .. } = &story.server;
    assert_eq!(counters.connected, 100_000);
    assert!(sessions.is_empty() && ids.is_empty() && topics.is_empty() && deadlines.is_empty());
    assert_eq!((*waiting, out.len()), (0, 0));
}

#[test]
fn a_client_and_a_source_publish_so_much() {
    let mut story = Story::new(Config::default());
    let alice = story.client(V5, "alice");
    let mut publish = |client, times: usize, seconds: u32| {
        story.now = epoch() + SECOND * seconds;
        let within = (0..times).filter(|_| {
            let code = story.publishes(client, "p2p/nobody", b"x");
            assert!([0x10, 0x97].contains(&code), "{code:#x}");
            code == 0x10
        });
        within.count()
    };
    assert_eq!(publish(alice, 300, 10), 200, "at once");
    assert_eq!(publish(alice, 300, 11), 20, "a second later");
    // Ten clients of one source have less than ten times as much.
    let mut story = Story::new(Config::default());
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let client = story.accept(1);
            story.asks(client, &say::connect(V5, &format!("c{number}"), 30));
            client
        })
        .collect();
    let mut within = |clients: &[ClientNumber]| {
        let codes = clients.iter().flat_map(|client| vec![*client; 200]);
        codes.filter(|client| story.publishes(*client, "p2p/nobody", b"x") == 0x10).count()
    };
    assert_eq!(within(&clients), 1_000);
    let other = story.client(V5, "other");
    assert_eq!(story.publishes(other, "p2p/nobody", b"x"), 0x10, "others are not kept from it");
    // 3.1.1 has no word for it: it is acknowledged and dropped.
    let old = story.accept(1);
    story.asks(old, &say::connect(V3, "old", 30));
    assert_eq!(story.asks(old, &say::publish(V3, "p2p/nobody", Some(1), b"x")), b"\x40\x02\x00\x01");
    assert_eq!(story.server.counters().limited, 1_001);
}
