//! The helpers that the tests have in common.

use std::io;
use std::net::SocketAddr;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use natlab::{Host, Lab, Scenario};
use socket2::{Domain, SockAddr, Socket, Type};

/// The labs at a time, which mostly wait.
const AT_A_TIME: usize = 16;

/// Tells whether labs can be made here. If not, it prints the reason, or panics where a skip is not allowed.
pub(crate) fn can_run() -> bool {
    let Err(reason) = natlab::check() else { return true };
    let required = std::env::var("P2P_LAB").is_ok_and(|value| value == "require");
    assert!(!required, "P2P_LAB=require, but {reason}");
    eprintln!("skipped: {reason}");
    false
}

pub(crate) fn lab(form: &str) -> Lab {
    Lab::new(&Scenario::short(form).unwrap()).unwrap()
}

/// Runs `job` for each item, several at a time, and returns the results in order.
pub(crate) fn each<T: Sync, R: Send>(items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    each_of(AT_A_TIME, items, job)
}

/// Runs `job` for each item, at most `most` at a time, and returns the results in order.
pub(crate) fn each_of<T: Sync, R: Send>(most: usize, items: &[T], job: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..most.min(items.len()) {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = job(item);
                    results.lock().unwrap().push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Tries until it works, within reason.
pub(crate) fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(Instant::now() < until, "not within 20 s: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A process that is ended with the test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn natlab() -> Command {
    Command::new(env!("CARGO_BIN_EXE_natlab"))
}

/// Tells whether a socket in the host listens on this UDP port.
pub(crate) fn has_udp(host: &Host, port: u16) -> bool {
    let table = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/udp")).unwrap().unwrap();
    table.contains(&format!(":{port:04X} 00000000:0000"))
}

/// Makes a plain TCP socket, bound to a port that others may share.
pub(crate) fn tcp(local: SocketAddr, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.bind(&SockAddr::from(local))?;
    Ok(socket)
}
