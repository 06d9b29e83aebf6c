use std::net::IpAddr;

use super::*;
use crate::sim::epoch;
use crate::sim::laws::drain;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));
const THERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn at(millis: u64) -> Instant {
    epoch() + ms(millis)
}

fn config(sockets: u16, per_second: u16) -> SynSenderConfig {
    SynSenderConfig {
        local: Local(SocketAddr::new(HERE, 0)),
        remote: SocketAddr::new(THERE, 0),
        share: Share { sockets, per_second },
        syns: 2_000,
    }
}

fn round(dials: Vec<Dial>, lives: Option<Duration>, now: Instant) -> Round {
    let schedule = Schedule { dials, lives, low_ttl: false };
    Round { schedule, locals: (5_000..5_600).collect(), start: now, until: now + ms(2_000) }
}

fn dial(millis: u64, from: u16, to: u16) -> Dial {
    Dial { after: ms(millis), from, to }
}

fn dials(acts: &[SynAct]) -> Vec<(Socket, u16, u16)> {
    let dial = |act: &SynAct| match act {
        SynAct::Dial { socket, from, to } => Some((*socket, from.0.port(), to.port())),
        SynAct::Drop(_) => None,
    };
    acts.iter().filter_map(dial).collect()
}

/// Runs it alone; every dial, and when.
fn alone(sender: &mut SynSender, until: Instant) -> Vec<(Instant, u16)> {
    let mut all = Vec::new();
    let mut now = epoch();
    loop {
        let drained = drain(sender);
        all.extend(dials(&drained.acts).into_iter().map(|(_, _, to)| (now, to)));
        let Some(deadline) = drained.wait.filter(|deadline| deadline.at <= until) else { return all };
        now = deadline.at;
        sender.handle_timeout(now);
    }
}

#[test]
fn the_rate_and_the_sockets_hold_by_construction() {
    for (sockets, per_second, lives) in [(512, 500, Some(ms(900))), (64, 500, Some(ms(300))), (20, 100, None)]
    {
        let mut sender = SynSender::new(config(sockets, per_second), epoch());
        let dials = (0..560).map(|index| dial(0, 0, 10_000 + index)).collect();
        sender.handle_round(round(dials, lives, epoch()), epoch());
        let dialled = alone(&mut sender, at(1_999));
        for second in dialled.windows(usize::from(per_second) + 1) {
            assert!(second[usize::from(per_second)].0 - second[0].0 >= ms(1_000));
        }
        assert!(sender.tally().half_open <= u32::from(sockets));
        let expected = if lives.is_none() { usize::from(sockets) } else { dialled.len() };
        assert_eq!(dialled.len(), expected);
        assert!(dialled.len() >= usize::from(sockets.min(per_second)));
    }
}

#[test]
fn no_tuple_is_dialled_twice_nor_one_that_came_in() {
    let mut sender = SynSender::new(config(100, 500), epoch());
    assert!(sender.handle_accepted(5_001, SocketAddr::new(THERE, 81), epoch()).is_some());
    let schedule = vec![dial(0, 0, 80), dial(5, 0, 80), dial(10, 1, 81), dial(15, 1, 82)];
    sender.handle_round(round(schedule.clone(), None, epoch()), epoch());
    // While the arrival is proven, nothing is dialled.
    assert!(alone(&mut sender, at(399)).is_empty());
    sender.handle_timeout(at(400));
    let first = dials(&drain(&mut sender).acts);
    assert_eq!(first.len(), 1);
    sender.handle_failed(first[0].0, &DialError::Refused, at(401));
    let rest: Vec<u16> = alone(&mut sender, at(1_000)).into_iter().map(|(_, to)| to).collect();
    assert_eq!(rest, [82]);
    // Nor in another round.
    sender.handle_round(round(schedule, None, at(1_000)), at(1_000));
    assert!(alone(&mut sender, at(2_000)).is_empty());
}

#[test]
fn it_never_dials_itself() {
    let here = SocketAddr::new(HERE, 0);
    let mut sender = SynSender::new(SynSenderConfig { remote: here, ..config(100, 500) }, epoch());
    sender.handle_round(round(vec![dial(0, 0, 5_000), dial(0, 0, 5_001)], None, epoch()), epoch());
    let targets: Vec<u16> = alone(&mut sender, at(100)).into_iter().map(|(_, to)| to).collect();
    assert_eq!(targets, [5_001]);
}

#[test]
fn a_dial_goes_on_in_the_next_round_that_wants_it() {
    let mut sender = SynSender::new(config(100, 500), epoch());
    sender.handle_round(round(vec![dial(0, 0, 80), dial(0, 1, 81)], None, epoch()), epoch());
    assert_eq!(alone(&mut sender, at(10)).len(), 2);
    sender.handle_round(round(vec![dial(0, 1, 81), dial(0, 2, 82)], None, at(10)), at(10));
    let acts = drain(&mut sender).acts;
    assert_eq!(dials(&acts), [(Socket(2), 5_002, 82)]);
    assert!(acts.contains(&SynAct::Drop(Socket(0))) && !acts.contains(&SynAct::Drop(Socket(1))));
}

#[test]
fn strangers_are_few_and_are_counted() {
    let mut sender = SynSender::new(config(100, 500), epoch());
    let stranger = |port: u16| SocketAddr::new(IpAddr::from([198, 51, 100, 66]), port);
    let taken: Vec<_> =
        (0..100).filter_map(|port| sender.handle_accepted(5_000, stranger(port), epoch())).collect();
    assert_eq!(taken.len(), MOST_ARRIVALS[1]);
    assert!(sender.handle_accepted(5_000, SocketAddr::new(THERE, 7), epoch()).is_some(), "the peer gets in");
    for socket in taken {
        sender.handle_unproven(socket, epoch());
    }
    assert_eq!((sender.tally().strange, sender.tally().up), (8, 9));
    assert!(sender.handle_accepted(5_000, stranger(1), epoch()).is_some(), "there is room again");
}

#[test]
fn the_winner_stays_and_what_is_half_open_goes_first() {
    let mut sender = SynSender::new(config(100, 500), epoch());
    sender.handle_round(round((0..4).map(|port| dial(0, 0, 80 + port)).collect(), None, epoch()), epoch());
    let all = {
        let mut all = Vec::new();
        for millis in 0..10 {
            sender.handle_timeout(at(millis));
            all.extend(dials(&drain(&mut sender).acts));
        }
        all
    };
    assert!(sender.handle_connected(all[0].0, at(10)) && sender.handle_connected(all[2].0, at(11)));
    assert!(!sender.handle_connected(all[0].0, at(12)), "once");
    sender.close(Some(all[2].0));
    let acts = drain(&mut sender).acts;
    assert_eq!(acts, [all[1].0, all[3].0, all[0].0].map(SynAct::Drop));
    assert!(sender.handle_accepted(5_000, SocketAddr::new(THERE, 7), at(13)).is_none());
}
