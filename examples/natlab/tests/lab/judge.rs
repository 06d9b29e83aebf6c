//! Tests of every preset by independent judges: coturn's discovery for UDP, plain sockets for TCP.

use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

use natlab::crossing::{Ended, SourceServer, connect};
use natlab::{Host, Lab};
use socket2::SockAddr;

use crate::support::{Running, can_run, each, eventually, has_udp, lab, tcp};

/// The ports of the server that tells clients their addresses, on each of its own addresses.
const PORTS: [u16; 2] = [3_000, 3_001];
/// The port from which the server dials clients.
const CALLBACK: u16 = 3_005;
/// The time that counts as silence, which is many round trips of 4 ms.
const SILENCE: Duration = Duration::from_millis(700);

/// The properties of a NAT that can be seen from both its sides, over TCP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpVerdict {
    pub(crate) mapping: &'static str,
    pub(crate) delta: String,
    pub(crate) filtering: &'static str,
    pub(crate) unsolicited: Ended,
}

/// Judges the NAT before host `a` from there and from server `s`, by plain sockets.
pub(crate) fn judge_tcp(lab: &Lab) -> TcpVerdict {
    let (client, server) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let [first, second] = [server.addresses()[0], server.addresses()[1]];
    let _serving = SourceServer::new(server, &PORTS).unwrap();
    let ask = |local: u16, ip: IpAddr, port: u16| {
        let (mapped, kept) = ask(client, local, (ip, port).into()).unwrap();
        (mapped.port(), kept)
    };

    let (one, _kept) = ask(40_100, first, PORTS[0]);
    let (port, _kept_too) = ask(40_100, first, PORTS[1]);
    let (address, _kept_also) = ask(40_100, second, PORTS[0]);
    let mapping = match (one == port, one == address) {
        (true, true) => "endpoint-independent",
        (true, false) => "address-dependent",
        (false, _) => "address-and-port-dependent",
    };

    // The first four ports are neighbours, and the last one is not.
    let locals = [41_000, 41_001, 41_002, 41_003, 41_050];
    let (mapped, _all_kept): (Vec<u16>, Vec<_>) =
        locals.iter().map(|local| ask(*local, first, PORTS[0])).unzip();
    let delta = delta(&locals, &mapped);

    // There is a listener behind the mapped port, as any host has that wants to be dialled.
    let any: SocketAddr = ([0, 0, 0, 0], 42_000).into();
    let listener = client.enter(|| tcp(any, true)).unwrap().unwrap();
    listener.listen(16).unwrap();
    let shared = client.enter(|| tcp(any, true)).unwrap().unwrap();
    let (mapped, _kept) = told(shared, (first, PORTS[0]).into()).unwrap();
    let filtering = match [first, second].map(|ip| call(server, ip, mapped)) {
        [Ended::Connected, Ended::Connected] => "endpoint-independent",
        [Ended::Connected, _] => "address-dependent",
        _ => "address-and-port-dependent",
    };
    let unsolicited = call(server, second, SocketAddr::new(mapped.ip(), 61_999));
    TcpVerdict { mapping, delta, filtering, unsolicited }
}

/// Returns the delta of the original P2PD, from mapped ports of neighbouring local ports and of one far off.
fn delta(locals: &[u16], mapped: &[u16]) -> String {
    let steps = |ports: &[u16]| -> Vec<i32> {
        ports.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).collect()
    };
    let (here, there) = (steps(locals), steps(mapped));
    let (near, far) = there.split_at(there.len() - 1);
    let is_even = near.iter().all(|step| *step == near[0]);
    if locals == mapped {
        "equal".to_owned()
    } else if here == there {
        format!("preserving/{}", i32::from(mapped[0]) - i32::from(locals[0]))
    } else if is_even && far[0] == near[0] {
        format!("independent/{}", near[0])
    } else if is_even {
        format!("dependent/{}", near[0])
    } else {
        "random".to_owned()
    }
}

fn ask(client: &Host, local: u16, server: SocketAddr) -> io::Result<(SocketAddr, TcpStream)> {
    let socket = client.enter(|| tcp(([0, 0, 0, 0], local).into(), false)).unwrap()?;
    told(socket, server)
}

fn told(socket: socket2::Socket, server: SocketAddr) -> io::Result<(SocketAddr, TcpStream)> {
    socket.connect_timeout(&SockAddr::from(server), Duration::from_secs(5))?;
    let stream = TcpStream::from(socket);
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Ok((line.trim().parse().map_err(io::Error::other)?, stream))
}

/// Dials a client from the server's address `ip`, and returns the end of the dial.
fn call(server: &Host, ip: IpAddr, to: SocketAddr) -> Ended {
    // A socket that Linux closes without a reason tells nothing of the NAT.
    let mut attempts = (0..3).map(|_| {
        let socket = server.enter(|| tcp((ip, CALLBACK).into(), false)).unwrap().unwrap();
        connect(&socket, to, SILENCE)
    });
    attempts.find_map(Result::ok).expect("an outcome")
}

/// Tells whether host `a` keeps its port towards a stranger who has tried that port before: over TCP, over UDP.
pub(crate) fn keeps_port(lab: &Lab) -> [bool; 2] {
    const LOCAL: u16 = 45_000;
    let (client, server) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let stranger = SocketAddr::new(server.addresses()[1], CALLBACK);
    let listener = server.enter(|| tcp(([0, 0, 0, 0], PORTS[0]).into(), false)).unwrap().unwrap();
    listener.listen(1).unwrap();
    let any = tcp_in(client, LOCAL + 1);
    assert_eq!(
        connect(&any, SocketAddr::new(server.address(), PORTS[0]), SILENCE).unwrap(),
        Ended::Connected
    );
    let external = listener.accept().unwrap().1.as_socket().unwrap().ip();
    assert_ne!(call(server, stranger.ip(), (external, LOCAL).into()), Ended::Connected);

    let listener = server.enter(|| tcp(stranger, false)).unwrap().unwrap();
    listener.listen(1).unwrap();
    assert_eq!(connect(&tcp_in(client, LOCAL), stranger, SILENCE).unwrap(), Ended::Connected);
    let tcp = listener.accept().unwrap().1.as_socket().unwrap().port() == LOCAL;

    let theirs = server.enter(|| UdpSocket::bind(stranger)).unwrap().unwrap();
    theirs.set_read_timeout(Some(SILENCE)).unwrap();
    let ours = client.enter(|| UdpSocket::bind(("0.0.0.0", LOCAL))).unwrap().unwrap();
    theirs.send_to(b"hello", (external, LOCAL)).unwrap();
    // An ICMP error may come back, but no datagram may come through.
    ours.set_read_timeout(Some(SILENCE)).unwrap();
    assert!(ours.recv(&mut [0; 8]).is_err());
    ours.send_to(b"hello", stranger).unwrap();
    let from = (0..3).find_map(|_| theirs.recv_from(&mut [0; 8]).ok()).expect("a datagram").1;
    [tcp, from.port() == LOCAL]
}

fn tcp_in(host: &Host, port: u16) -> socket2::Socket {
    host.enter(|| tcp(([0, 0, 0, 0], port).into(), false)).unwrap().unwrap()
}

/// Returns the verdict of coturn's `turnutils_natdiscovery` on the NAT before host `a`: mapping and filtering.
pub(crate) fn judge_udp(lab: &Lab) -> [String; 2] {
    let (client, server) = (lab.host("a").unwrap(), lab.host("s").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut command = server.command("turnserver").unwrap();
    for ip in server.addresses().iter().filter(|ip| ip.is_ipv4()) {
        command.args(["-L", &ip.to_string()]);
    }
    command.args(["-n", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli", "-z", "--simple-log"]);
    command.arg(format!("--log-file={}", folder.path().join("log").display()));
    command.arg(format!("--pidfile={}", folder.path().join("pid").display()));
    command.arg(format!("--userdb={}", folder.path().join("db").display()));
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Running(quiet.spawn().expect("turnserver, of the Debian package coturn"));
    eventually("the STUN server listens", || {
        (has_udp(server, 3_478) && has_udp(server, 3_479)).then_some(())
    });
    let (own, to) = (client.address().to_string(), server.address().to_string());
    let start = |what: &str| {
        let mut command = client.command("turnutils_natdiscovery").unwrap();
        command.args([what, "-L", &own, &to]).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let both = [start("-m"), start("-f")];
    both.map(|child| {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The last line with a verdict counts, as the first of `-m` only says whether there is a NAT.
        let verdict = text.lines().rfind(|line| line.starts_with("NAT with") || line.starts_with("No NAT"));
        verdict.unwrap_or_else(|| panic!("no verdict in {text}")).to_owned()
    })
}

const INDEPENDENT: &str = "endpoint-independent";
const BY_ADDRESS: &str = "address-dependent";
const BY_PORT: &str = "address-and-port-dependent";

/// The types, each with the mapping and filtering that must be found.
const TYPES: [(&str, &str, &str); 4] = [
    ("full-cone", INDEPENDENT, INDEPENDENT),
    ("restricted", INDEPENDENT, BY_ADDRESS),
    ("port-restricted", INDEPENDENT, BY_PORT),
    ("symmetric", BY_PORT, BY_PORT),
];

#[test]
fn coturn_recognises_every_type_over_udp() {
    if !can_run() {
        return;
    }
    let said = |how: &str, what: &str| match how {
        INDEPENDENT => format!("NAT with Endpoint Independent {what}!"),
        BY_ADDRESS => format!("NAT with Address Dependent {what}!"),
        _ => format!("NAT with Address and Port Dependent {what}!"),
    };
    let others = [
        ("open", INDEPENDENT, INDEPENDENT),
        ("symmetric-firewall", INDEPENDENT, BY_PORT),
        // Each connection is mapped on its own, but keeps its port.
        ("linux", INDEPENDENT, BY_PORT),
        ("linux-fully-random", BY_PORT, BY_PORT),
        ("carrier/512", INDEPENDENT, BY_PORT),
        ("port-restricted/independent/3", INDEPENDENT, BY_PORT),
        ("symmetric/independent/2", BY_PORT, BY_PORT),
    ];
    let all: Vec<_> = TYPES.into_iter().chain(others).collect();
    let verdicts = each(&all, |(nat, ..)| judge_udp(&lab(&format!("homes:{nat}?rtt=4ms"))));
    for ((nat, mapping, filtering), verdict) in all.iter().zip(verdicts) {
        assert_eq!(verdict, [said(mapping, "Mapping"), said(filtering, "Filtering")], "{nat}");
    }
}

#[test]
fn plain_sockets_recognise_every_type_and_delta_over_tcp() {
    if !can_run() {
        return;
    }
    let deltas = ["equal", "preserving/100", "independent/3", "dependent/2", "random"];
    let mut all: Vec<(String, TcpVerdict)> = Vec::new();
    for (nat, mapping, filtering) in TYPES {
        for delta in deltas {
            all.push((
                format!("{nat}/{delta}"),
                TcpVerdict { mapping, delta: delta.to_owned(), filtering, unsolicited: Ended::Silent },
            ));
        }
    }
    let verdict = |delta: &str, filtering, unsolicited| TcpVerdict {
        mapping: INDEPENDENT,
        delta: delta.to_owned(),
        filtering,
        unsolicited,
    };
    // Without a firewall the host itself refuses.
    all.push(("open".to_owned(), verdict("equal", INDEPENDENT, Ended::Refused)));
    all.push(("symmetric-firewall".to_owned(), verdict("equal", BY_PORT, Ended::Silent)));
    all.push(("carrier/512".to_owned(), verdict("random", BY_PORT, Ended::Silent)));
    let found = each(&all, |(nat, _)| judge_tcp(&lab(&format!("homes:{nat}?rtt=4ms"))));
    for ((nat, expected), found) in all.iter().zip(found) {
        assert_eq!(found, *expected, "{nat}");
    }
}

#[test]
fn an_unsolicited_syn_gets_what_the_policy_says() {
    if !can_run() {
        return;
    }
    let all = [("silence", Ended::Silent), ("rst", Ended::Refused), ("icmp", Ended::Unreachable)];
    let found = each(&all, |(syn, _)| judge_tcp(&lab(&format!("homes?rtt=4ms&syn={syn}"))));
    for ((syn, expected), found) in all.iter().zip(found) {
        assert_eq!(found.unsolicited, *expected, "{syn}");
    }
}

#[test]
fn nothing_passes_a_blocked_nat() {
    if !can_run() {
        return;
    }
    let lab = lab("homes:blocked?rtt=4ms");
    let server = lab.host("s").unwrap();
    let _serving = SourceServer::new(server, &PORTS).unwrap();
    let socket = lab.host("a").unwrap().enter(|| tcp(([0, 0, 0, 0], 40_000).into(), false)).unwrap().unwrap();
    let to = SockAddr::from(SocketAddr::from((server.address(), PORTS[0])));
    assert_eq!(socket.connect_timeout(&to, SILENCE).unwrap_err().kind(), io::ErrorKind::TimedOut);
}
