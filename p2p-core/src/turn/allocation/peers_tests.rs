use super::*;
use crate::sim::epoch;

fn peer(number: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], number))
}

fn after(seconds: u64) -> Instant {
    epoch() + Duration::from_secs(seconds)
}

/// Returns the channel number that this peer is given.
fn number(peers: &mut Peers, port: u16, now: Instant) -> Option<ChannelNumber> {
    peers.bind(peer(port), now).unwrap();
    peers.channels.get(&peer(port)).map(|channel| channel.number)
}

#[test]
fn a_number_rests_five_minutes_beyond_its_channel() {
    let mut peers = Peers::new();
    let first = number(&mut peers, 1, epoch());
    peers.on_bound(peer(1), epoch());
    peers.forget(peer(1).ip(), after(10));
    // All other numbers are used up meanwhile: each is bound once and forgotten.
    for port in 2..=0x1000 {
        assert_ne!(number(&mut peers, port, after(20)), first);
        peers.forget(peer(1).ip(), after(20));
    }
    assert_eq!(number(&mut peers, 0x2000, after(899)), None, "none is left, indications must do");
    assert_eq!(number(&mut peers, 0x2001, after(900)), first);
}

#[test]
fn several_are_asked_for_together_and_one_refused_alone() {
    let mut peers = Peers::new();
    let ips: Vec<IpAddr> = (0..20).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    ips.iter().for_each(|ip| peers.permit(*ip, epoch()).unwrap());
    let first = peers.take_permissions(epoch());
    assert_eq!(first, ips[..MOST_TOGETHER]);
    let second = peers.take_permissions(epoch());
    assert_eq!(second, ips[MOST_TOGETHER..]);
    assert!(peers.take_permissions(epoch()).is_empty());
    assert!(!peers.on_refused(&second, epoch()), "which of them is not known");
    for ip in &second {
        assert_eq!(peers.take_permissions(epoch()), [*ip], "each alone now");
    }
    assert!(peers.on_refused(&second[..1], epoch()));
}

#[test]
fn data_goes_by_the_channel_while_it_lives() {
    let mut peers = Peers::new();
    peers.permit(peer(1).ip(), epoch()).unwrap();
    let number = number(&mut peers, 1, epoch()).unwrap();
    assert_eq!(peers.route(peer(1), epoch()), None);
    assert!(peers.on_permitted(peer(1).ip(), epoch()));
    assert_eq!(peers.route(peer(1), epoch()), Some(Route::Indication));
    assert!(peers.on_bound(peer(1), epoch()));
    assert_eq!(peers.route(peer(1), after(599)), Some(Route::Channel(number)));
    assert_eq!(peers.route(peer(1), after(600)), Some(Route::Indication));
    assert!(!peers.on_bound(peer(1), after(1)), "no news");
}
