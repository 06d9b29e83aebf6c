use std::collections::VecDeque;
use std::time::{Duration, Instant};

use p2p_core::sim::epoch;
use p2p_core::transport::{Event, Read, Stream, Token, Tokens, TransportConfig};
use p2p_core::{Machine, Seed};

/// The most datagrams that the network between the two keeps, in either direction.
const MOST_KEPT: usize = 300;
/// The most outputs of one end in a row.
const MOST_OUTPUTS: usize = 2_000;
/// The most memory of one end in bytes: both buffers, and what it remembers of datagrams.
const MOST_MEMORY: usize = 4 << 20;
/// The tokens of both ends. The network knows them, so datagrams that it makes up are taken for the peer's.
const TOKENS: [[u8; 8]; 2] = [[1; 8], [2; 8]];

/// Runs two ends and a hostile network between them, where two bytes are a step. The network loses, repeats,
/// reorders, spoils and delays. As long as it forges no datagram with a token, every byte that is read is the one
/// that was written. When it does, nothing panics and memory stays bounded. At last it becomes honest, and everything
/// must arrive, unless an end has given up.
pub fn relay_stream(data: &[u8]) {
    let Some((first, steps)) = data.split_first() else { return };
    let mut story = Story::new(*first);
    for step in steps.chunks_exact(2) {
        story.step(step[0], step[1]);
    }
    story.settle();
}

struct Story {
    ends: [Stream; 2],
    now: Instant,
    /// The datagrams on their way to each end.
    kept: [VecDeque<Vec<u8>>; 2],
    written: [u64; 2],
    read: [u64; 2],
    finished: [bool; 2],
    /// True for an end that was closed, cut or given up.
    over: [bool; 2],
    /// True when the network has sent something in the name of an end.
    is_forged: bool,
}

fn byte(offset: u64) -> u8 {
    (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8
}

impl Story {
    fn new(first: u8) -> Self {
        let now = epoch() + Duration::from_secs(3_600);
        let end = |me: usize| {
            let tokens = Tokens { ours: Token(TOKENS[me]), theirs: Token(TOKENS[1 - me]) };
            let mut config = TransportConfig::new(tokens);
            config.datagram = 128 + usize::from(first) * 8;
            (config.most_send, config.most_receive) = (256 << 10, 512 << 10);
            Stream::new(config, Seed::from_u64(first.into()), now)
        };
        Self {
            ends: [end(0), end(1)],
            now,
            kept: Default::default(),
            written: [0; 2],
            read: [0; 2],
            finished: [false; 2],
            over: [false; 2],
            is_forged: false,
        }
    }

    fn step(&mut self, what: u8, with: u8) {
        let me = usize::from(what & 1);
        let count = usize::from(with);
        match what >> 1 & 15 {
            0 | 1 => self.write(me, count * 200),
            2 | 3 => {
                self.read(me, count * 200);
            }
            4 | 5 => (0..=count).for_each(|_| self.deliver(me, 0)),
            6 => self.deliver(me, count),
            7 => drop(self.take(me, count)),
            8 => {
                if let Some(copy) = self.kept[me].get(count % self.kept[me].len().max(1)).cloned() {
                    self.kept[me].push_back(copy);
                }
            }
            9 => {
                let length = self.kept[me].len();
                self.kept[me].rotate_left(count % length.max(1));
            }
            10 => self.pass(Duration::from_millis(u64::from(with) * u64::from(with) / 8)),
            11 => self.on_deadline(me),
            12 => {
                self.ends[me].handle_path_changed(self.now);
            }
            13 => self.spoil(me, count),
            14 if with < 16 => self.finish(me),
            14 if with == 255 => {
                self.ends[me].close(self.now);
                self.over[me] = true;
            }
            _ => self.forge(me, with),
        }
        self.drain(0);
        self.drain(1);
    }

    fn write(&mut self, me: usize, most: usize) {
        let bytes: Vec<u8> = (self.written[me]..).take(most).map(byte).collect();
        match self.ends[me].write(&bytes, self.now) {
            Ok(taken) => self.written[me] += taken as u64,
            Err(_) => assert!(self.finished[me] || self.over[me], "it takes bytes until its end"),
        }
    }

    fn finish(&mut self, me: usize) {
        self.finished[me] |= self.ends[me].finish(self.now).is_ok();
    }

    fn read(&mut self, me: usize, most: usize) -> bool {
        let mut out = vec![0; most.max(1)];
        match self.ends[me].read(&mut out, self.now) {
            Ok(Read::Bytes(count)) => {
                if !self.is_forged {
                    let expected = (self.read[me]..).take(count).map(byte);
                    assert!(out[..count].iter().copied().eq(expected), "what is read is what was written");
                }
                self.read[me] += count as u64;
                true
            }
            Ok(Read::End) => {
                let all = self.read[me] == self.written[1 - me] && self.finished[1 - me];
                assert!(all || self.is_forged, "the end comes last");
                false
            }
            Ok(Read::Nothing) => false,
            Err(_) => {
                assert!(self.over[me], "it has told why");
                false
            }
        }
    }

    fn take(&mut self, me: usize, which: usize) -> Option<Vec<u8>> {
        let length = self.kept[me].len();
        self.kept[me].remove(which % length.max(1))
    }

    fn deliver(&mut self, me: usize, which: usize) {
        if let Some(datagram) = self.take(me, which) {
            self.ends[me].handle_datagram(&datagram, self.now);
            self.drain(me);
        }
    }

    /// Changes bits of a datagram on the way. Without the token it is a stranger's. A change within the frames would
    /// be found by UDP's checksum or the pipe's cipher, which are not here.
    fn spoil(&mut self, me: usize, with: usize) {
        if let Some(mut datagram) = self.take(me, 0) {
            let at = with % 9;
            if let Some(byte) = datagram.get_mut(at) {
                *byte ^= 1 << (with % 8);
            }
            datagram.truncate(datagram.len() - with % datagram.len().max(1) % 3);
            self.ends[me].handle_datagram(&datagram, self.now);
        }
    }

    /// Sends what no end has sent, as somebody on the path can who knows the token.
    fn forge(&mut self, me: usize, with: u8) {
        self.is_forged = true;
        let mut dice = Seed::from_u64(u64::from(with) << 32 | self.written[me]);
        let mut datagram = match self.kept[me].front() {
            Some(front) if with & 1 == 0 => front.clone(),
            _ => {
                let mut made = [&[0xd1][..], &TOKENS[me]].concat();
                made.extend_from_slice(&[with, 0, with % 11]);
                made.extend(dice.array::<24>());
                made
            }
        };
        for _ in 0..with % 4 {
            let at = 9 + dice.below(datagram.len().saturating_sub(9) as u64) as usize;
            if let Some(byte) = datagram.get_mut(at) {
                *byte = dice.number() as u8;
            }
        }
        self.ends[me].handle_datagram(&datagram, self.now);
    }

    fn pass(&mut self, span: Duration) {
        self.now += span;
        for me in 0..2 {
            self.ends[me].handle_timeout(self.now);
            self.drain(me);
        }
    }

    fn on_deadline(&mut self, me: usize) {
        let Some(due) = self.ends[me].deadline() else { return };
        self.now = self.now.max(due.at);
        self.ends[me].handle_timeout(self.now);
        self.drain(me);
        let next = self.ends[me].deadline();
        assert!(next.is_none_or(|next| next.at > self.now), "a deadline that was met is over: {next:?}");
    }

    fn drain(&mut self, me: usize) {
        let mut out = [0; 4_096];
        let mut count = 0;
        while let Some(length) = self.ends[me].poll_transmit(&mut out) {
            count += 1;
            assert!(count < MOST_OUTPUTS, "a drain ends");
            if self.kept[1 - me].len() < MOST_KEPT {
                self.kept[1 - me].push_back(out[..length].to_vec());
            }
        }
        while let Some(event) = self.ends[me].poll_event() {
            self.over[me] |= matches!(event, Event::Ended(Some(_)));
        }
        assert!(self.ends[me].memory() < MOST_MEMORY, "{} bytes", self.ends[me].memory());
    }

    /// Loses nothing from now on, and lets both ends read.
    fn settle(&mut self) {
        self.finish(0);
        self.finish(1);
        for _ in 0..20_000 {
            for me in 0..2 {
                while self.read(me, 4_096) {}
                self.drain(me);
            }
            if self.kept.iter().any(|kept| !kept.is_empty()) {
                self.pass(Duration::from_millis(5));
                for me in 0..2 {
                    for _ in 0..self.kept[me].len() {
                        self.deliver(me, 0);
                    }
                }
            } else {
                let next = |me: usize| self.ends[me].deadline().map(|due| due.at);
                let Some(me) = (0..2).filter(|me| next(*me).is_some()).min_by_key(|me| next(*me)) else {
                    break;
                };
                self.on_deadline(me);
            }
        }
        if self.is_forged {
            // An ack of what never arrived leaves a hole for ever, as in TCP. Both ends then only keep alive.
            return;
        }
        let waits = self.ends.each_ref().map(Stream::deadline);
        assert_eq!(waits, [None, None], "in the end both rest");
        if self.over == [false; 2] {
            assert_eq!(self.finished, [true; 2]);
            assert_eq!(self.read, [self.written[1], self.written[0]], "everything has arrived");
        }
    }
}
