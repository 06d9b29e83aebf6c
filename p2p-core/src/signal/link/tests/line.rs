//! A link whose broker is reached over a bad line.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// A broker whose answers come late, twice and out of order, and which restarts at random.
#[test]
fn whatever_the_line_does_each_message_ends_once_and_truthfully() {
    let (mut delivered, mut failed, mut resent) = (0u32, 0u32, 0u64);
    for world in 0..200 {
        let mut dice = Seed::from_u64(world);
        let (mut story, first) = Story::new(config());
        let start = story.now;
        let mut acts = first.acts;
        let mut line: BTreeMap<(Instant, u64), Packet> = BTreeMap::new();
        let (mut stamp, mut tickets) = (0, 0);
        let mut seen: BTreeSet<u64> = BTreeSet::new();
        let mut open: BTreeMap<u64, Instant> = BTreeMap::new();
        while story.now < start + Duration::from_secs(120) {
            let mut drained = drain(&mut story.link);
            acts.append(&mut drained.acts);
            for act in acts.drain(..) {
                let answer = match act {
                    Act::HangUp => {
                        line.clear();
                        None
                    }
                    Act::Dial(_) => {
                        line.clear();
                        Some(Packet::PingReq) // Stands for "connected".
                    }
                    Act::Send(Packet::Connect(_)) => Some(conn_ack(ConnectCode::Accepted)),
                    Act::Send(Packet::Subscribe { id, .. }) => Some(Packet::SubAck { id, code: 1 }),
                    Act::Send(Packet::PingReq) => Some(Packet::PingResp),
                    Act::Send(Packet::Publish { payload, id: Some(id), .. }) => {
                        let ticket = payload.as_ref().try_into().map(u64::from_be_bytes);
                        seen.insert(ticket.expect("eight bytes"));
                        Some(Packet::PubAck { id, reason: 0 }).filter(|_| dice.chance(0.9))
                    }
                    Act::Send(other) => panic!("{other:?}"),
                };
                for answer in answer.into_iter().cycle().take(if dice.chance(0.2) { 2 } else { 1 }) {
                    stamp += 1;
                    let late = dice.up_to(Duration::from_millis(2_500));
                    line.insert((story.now + late, stamp), answer);
                }
            }
            for event in drained.events {
                match event {
                    Event::Delivered { ticket, .. } => {
                        assert!(open.remove(&ticket).is_some(), "two ends for {ticket} in world {world}");
                        assert!(seen.contains(&ticket), "delivered, but the broker never saw it");
                        delivered += 1;
                    }
                    Event::Failed { ticket, .. } => {
                        let until = open.remove(&ticket).expect("one end a message");
                        assert!(story.now >= until, "given up too early in world {world}");
                        failed += 1;
                    }
                    Event::Up | Event::Down { .. } | Event::Received { .. } => {}
                }
            }
            assert!(open.values().all(|until| *until >= story.now), "outlived its end in world {world}");
            let answer = line.first_key_value().map(|((at, _), _)| *at);
            let wait = drained.wait.map(|deadline| deadline.at);
            let tick = story.now + dice.up_to(Duration::from_millis(400));
            let next = [answer, wait, Some(tick)].into_iter().flatten().min().expect("a tick");
            story.now = next.max(story.now);
            if wait == Some(next) {
                story.link.handle_timeout(story.now);
            } else if answer == Some(next) {
                match line.pop_first().expect("an answer").1 {
                    Packet::PingReq => story.link.handle_connected(story.now),
                    packet => story.link.handle_packet(packet, story.now),
                }
            } else if dice.chance(0.04) {
                line.clear();
                story.link.handle_lost(LinkError::Lost("restart".into()), story.now);
            } else {
                let until = story.now + SECOND + dice.up_to(Duration::from_secs(20));
                let payload = Bytes::copy_from_slice(&u64::to_be_bytes(tickets));
                if story.link.publish(tickets, "p2p/you".into(), payload, until, story.now).is_ok() {
                    open.insert(tickets, until);
                }
                tickets += 1;
            }
        }
        story.link.close(story.now);
        let ends = drain(&mut story.link).events.into_iter().filter(|event| {
            matches!(event, Event::Delivered { ticket, .. } | Event::Failed { ticket, .. } if open.contains_key(ticket))
        });
        assert_eq!(ends.count(), open.len(), "the last ones end too");
        resent += story.link.counters().resent;
    }
    assert!(delivered > 10_000 && failed > 100 && resent > 1_000, "{delivered} {failed} {resent}");
}
