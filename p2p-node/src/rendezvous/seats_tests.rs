use super::*;

fn at(ip: [u8; 4]) -> SocketAddr {
    (ip, 1_000).into()
}

/// Everybody of these who still has a seat.
fn kept(seats: &[Seat]) -> usize {
    seats.iter().filter(|seat| !seat.leave.is_cancelled()).count()
}

#[test]
fn a_source_has_so_many_and_its_oldest_silent_one_makes_room() {
    let seats = Seats::new(100, 3);
    let home = at([192, 0, 2, 1]);
    let held: Vec<Seat> = (0..3).map(|_| seats.take(home).unwrap()).collect();
    held[0].rise(Rank::Heard);
    let fourth = seats.take(home).unwrap();
    assert!(held[1].leave.is_cancelled() && !held[0].leave.is_cancelled() && !held[2].leave.is_cancelled());
    for seat in [&held[2], &fourth] {
        seat.rise(Rank::Heard);
    }
    assert!(seats.take(home).is_none(), "nobody of its own makes room");
    assert!(seats.take(at([192, 0, 2, 2])).is_some());
    drop(fourth);
    assert!(seats.take(home).is_some(), "a seat that is given back is free");
}

#[test]
fn a_crowd_of_silent_ones_makes_room_and_nobody_else() {
    let seats = Seats::new(64, 16);
    let mut crowd = Vec::new();
    // The stranger comes in the midst of a flood of one /24 that goes on.
    for number in 0..1_000u32 {
        crowd.push(seats.take(at([198, 51, 100, number as u8])).unwrap());
        if number == 500 {
            crowd.push(seats.take(at([203, 0, 113, 5])).unwrap());
        }
    }
    assert!(!crowd[501].leave.is_cancelled(), "it was never the crowd's");
    assert_eq!(kept(&crowd), 64);
    assert_eq!(kept(&crowd[crowd.len() - 63..]), 63, "the oldest had to go");
    drop(crowd);
    let table = seats.lock();
    assert!(table.held.is_empty() && table.sources.is_empty());
    assert_eq!((table.leaving, table.silent.members(), table.silent.first()), (0, 0, None));
}

#[test]
fn those_who_speak_share_and_those_with_a_password_stay() {
    let seats = Seats::new(32, 32);
    let fill = |ip, count, rank| -> Vec<Seat> {
        let taken = (0..count).map(|_| {
            let seat = seats.take(at(ip)).unwrap();
            seat.rise(rank);
            seat
        });
        taken.collect()
    };
    let proven = fill([198, 51, 100, 1], 20, Rank::Proven);
    let old = fill([203, 0, 113, 1], 2, Rank::Heard);
    let many = fill([192, 0, 2, 1], 10, Rank::Heard);
    // Two of as many as there are silent seats, then in turn.
    let came: Vec<Seat> = (0..100u8).filter_map(|net| seats.take(at([10, 1, net, 1]))).collect();
    assert_eq!((kept(&proven), kept(&old), kept(&many)), (20, 2, 6));
    assert_eq!((came.len(), kept(&came)), (100, 4));
    assert!(!many[0].leave.is_cancelled() && many[9].leave.is_cancelled(), "the youngest had to go");
    // Who came in stays in, and takes no more than a fair part.
    let mut others: Vec<Seat> = Vec::new();
    for net in 0..100u8 {
        let Some(seat) = seats.take(at([10, 2, net, 1])) else { continue };
        seat.rise(Rank::Heard);
        others.push(seat);
    }
    assert_eq!((kept(&proven), kept(&others) + kept(&many) + kept(&old) + kept(&came)), (20, 12));
    assert!(kept(&many) >= 1 && kept(&old) >= 1);
    drop((proven, old, many, came, others));
    let all: Vec<Seat> = fill([192, 0, 2, 9], 32, Rank::Proven);
    assert!(seats.take(at([10, 0, 0, 1])).is_none(), "nobody makes room who has a password");
    assert_eq!(kept(&all), 32);
}

/// A network that holds all seats and comes again and again does not throw out who has just come.
#[test]
fn a_crowd_that_speaks_throws_out_its_own_and_not_who_comes() {
    let seats = Seats::new(64, 16);
    let mut crowd = Vec::new();
    for number in 0..200u32 {
        let Some(seat) = seats.take(at([198, 51, 100, number as u8 % 16])) else { continue };
        seat.rise(Rank::Heard);
        crowd.push(seat);
    }
    assert_eq!(kept(&crowd), 64);
    for net in 0..20 {
        let stranger = seats.take(at([10, 0, net, 1])).expect("a seat");
        for number in 0..100u32 {
            // Some of them say a word, some do not.
            let Some(seat) = seats.take(at([198, 51, 100, number as u8])) else { continue };
            if number % 2 == 0 {
                seat.rise(Rank::Heard);
            }
            crowd.push(seat);
        }
        assert!(!stranger.leave.is_cancelled(), "{net}");
        stranger.rise(Rank::Heard);
        assert!(!stranger.leave.is_cancelled());
    }
}

#[tokio::test(start_paused = true)]
async fn silence_has_five_seconds() {
    let seats = Seats::new(8, 8);
    let (silent, heard) = (seats.take(at([192, 0, 2, 1])).unwrap(), seats.take(at([192, 0, 2, 1])).unwrap());
    heard.rise(Rank::Heard);
    let begun = Instant::now();
    assert_eq!(silent.notice().await, Notice::Overdue);
    assert_eq!(begun.elapsed().as_secs(), 5);
    let stays = tokio::time::timeout(Duration::from_secs(3_600), heard.notice()).await;
    assert!(stays.is_err(), "{stays:?}");
}

#[tokio::test(start_paused = true)]
async fn new_ones_wait_until_those_who_had_to_go_are_gone() {
    let seats = Seats::new(MOST_LEAVING, MOST_LEAVING);
    let take = || seats.take(at([192, 0, 2, 1])).unwrap();
    let mut held: Vec<Seat> = (0..2 * MOST_LEAVING).map(|_| take()).collect();
    assert_eq!(held[0].notice().await, Notice::Evicted);
    let settled = tokio::time::timeout(Duration::from_secs(1), seats.settled()).await;
    assert!(settled.is_err(), "so many descriptors are still open");
    held.remove(0);
    seats.settled().await;
    let emptied = tokio::spawn({
        let seats = Arc::clone(&seats);
        async move { seats.emptied().await }
    });
    tokio::task::yield_now().await;
    assert!(seats.take(at([192, 0, 2, 1])).is_none(), "it is closed");
    drop(held);
    emptied.await.unwrap();
}
