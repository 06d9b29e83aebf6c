use std::fs;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, UdpSocket as StdUdpSocket};
use std::sync::{Arc, mpsc};
use std::task::Waker;
use std::thread::{self, JoinHandle};

use futures_util::FutureExt;
use rcgen::{CertifiedKey, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::unconstrained;

use super::*;

/// A server with TLS, made of other code than the link.
type TlsServer = StreamOwned<ServerConnection, std::net::TcpStream>;

fn place(address: SocketAddr, carrier: Carrier) -> Place {
    Place { address, carrier, host: None }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_io().build().unwrap()
}

/// A certificate for these names, and the folder with its PEM file.
struct Certificate {
    made: CertifiedKey<KeyPair>,
    folder: TempDir,
}

impl Certificate {
    fn new(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), made.cert.pem()).unwrap();
        Self { made, folder }
    }

    /// Trusts it for this host.
    fn trust(&self, host: &str) -> CaFiles {
        let mut trust = CaFiles::default();
        trust.add(host, self.folder.path().join("ca.pem"));
        trust
    }

    /// Secures a connection that came to the server.
    fn secure(&self, stream: std::net::TcpStream) -> TlsServer {
        self.secure_by(stream, rustls::ALL_VERSIONS)
    }

    fn secure_by(
        &self,
        stream: std::net::TcpStream,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> TlsServer {
        let key = PrivateKeyDer::try_from(self.made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.made.cert.der().clone()], key)
            .unwrap();
        StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream)
    }
}

/// Talks to one client, in a thread of its own.
fn serve<T: Send + 'static>(
    talk: impl FnOnce(std::net::TcpStream) -> T + Send + 'static,
) -> (SocketAddr, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || talk(listener.accept().unwrap().0)))
}

/// As [`serve`], with TLS; and the way to it.
async fn secured<T: Send + 'static>(
    talk: impl FnOnce(TlsServer) -> T + Send + 'static,
) -> (Link, JoinHandle<T>) {
    let certificate = Arc::new(Certificate::new("127.0.0.1"));
    let shown = Arc::clone(&certificate);
    let (address, server) = serve(move |stream| talk(shown.secure(stream)));
    let trust = certificate.trust("127.0.0.1");
    (Link::open(&place(address, Carrier::Tls), &trust).await.unwrap(), server)
}

/// Says everything again until its client has nothing more to say, and says then that it has not either.
fn echo(mut stream: impl Read + Write) {
    let mut buffer = [0; 10_000];
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return,
            length => stream.write_all(&buffer[..length]).unwrap(),
        }
    }
}

fn echo_secured(mut stream: TlsServer) {
    echo(&mut stream);
    stream.conn.send_close_notify();
    stream.flush().unwrap();
}

/// Both kinds of stream to a server that waits for a word before it says everything again.
async fn streams() -> Vec<(Link, mpsc::Sender<()>, JoinHandle<()>)> {
    let (go, gone) = mpsc::channel();
    let (address, server) = serve(move |stream| {
        gone.recv().unwrap();
        echo(stream);
    });
    let tcp = Link::open(&place(address, Carrier::Tcp), &CaFiles::default()).await.unwrap();
    let (go_secured, gone) = mpsc::channel();
    let (tls, server_secured) = secured(move |mut stream| {
        stream.conn.complete_io(&mut stream.sock).unwrap();
        gone.recv().unwrap();
        echo_secured(stream);
    })
    .await;
    vec![(tcp, go, server), (tls, go_secured, server_secured)]
}

/// Bytes in which every lost, doubled or exchanged piece shows.
fn numbers(bytes: usize) -> Vec<u8> {
    (0..bytes as u32 / 4).flat_map(u32::to_be_bytes).collect()
}

async fn send(link: &mut Link, bytes: &[u8]) -> io::Result<usize> {
    poll_fn(|cx| link.poll_send(cx, bytes)).await
}

async fn recv(link: &mut Link, room: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; room];
    let length = poll_fn(|cx| link.poll_recv(cx, &mut buf)).await?;
    buf.truncate(length);
    Ok(buf)
}

async fn refused(place: Place, trust: &CaFiles) -> io::Error {
    Link::open(&place, trust).await.unwrap_err()
}

#[tokio::test]
async fn datagrams_go_at_once_and_come_whole_from_the_server_alone() {
    for any in ["127.0.0.1:0", "[::1]:0"] {
        let server = StdUdpSocket::bind(any).unwrap();
        let at = place(server.local_addr().unwrap(), Carrier::Udp);
        let mut link = Link::open(&at, &CaFiles::default()).now_or_never().expect("at once").unwrap();
        let sent = link.poll_send(&mut Context::from_waker(Waker::noop()), b"where am I?");
        assert!(matches!(sent, Poll::Ready(Ok(11))), "{sent:?}");
        let mut buffer = [0; 100];
        let (length, from) = server.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], from), (&b"where am I?"[..], link.local_addr().unwrap()));
        StdUdpSocket::bind(any).unwrap().send_to(b"here!", from).unwrap();
        server.send_to(b"there", from).unwrap();
        server.send_to(b"", from).unwrap();
        assert_eq!(recv(&mut link, 3).await.unwrap(), b"the");
        assert_eq!(recv(&mut link, 3).await.unwrap(), b"");
        assert_eq!(link.read(&mut buffer).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(link.write(b"x").await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[tokio::test]
async fn nobody_there_is_told() {
    let gone = StdUdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut link = Link::open(&place(gone, Carrier::Udp), &CaFiles::default()).await.unwrap();
    // Each time, and whoever comes later is heard.
    for _ in 0..3 {
        send(&mut link, b"anybody?").await.unwrap();
        assert_eq!(recv(&mut link, 100).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
    let late = StdUdpSocket::bind(gone).unwrap();
    late.send_to(b"now, yes", link.local_addr().unwrap()).unwrap();
    assert_eq!(recv(&mut link, 100).await.unwrap(), b"now, yes");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for carrier in [Carrier::Tcp, Carrier::Tls] {
        let error = refused(place(gone, carrier), &CaFiles::default()).await;
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

#[test]
fn datagrams_that_come_while_it_rests_are_kept() {
    let server = StdUdpSocket::bind("127.0.0.1:0").unwrap();
    let at = place(server.local_addr().unwrap(), Carrier::Udp);
    let (first, second) = (runtime(), runtime());
    let link = first.block_on(async { Link::open(&at, &CaFiles::default()).await.unwrap() });
    let here = link.local_addr().unwrap();
    let rested = link.rest().unwrap();
    drop(first);
    server.send_to(b"while you slept", here).unwrap();
    let woken = thread::spawn(move || {
        second.block_on(async {
            let mut link = rested.wake().unwrap();
            assert_eq!(link.local_addr().unwrap(), here);
            assert_eq!(recv(&mut link, 100).await.unwrap(), b"while you slept");
            send(&mut link, b"thanks").await.unwrap();
        });
    });
    woken.join().unwrap();
    assert_eq!(server.recv(&mut [0; 100]).unwrap(), 6);
}

#[tokio::test]
async fn both_directions_of_a_stream_have_a_task() {
    for (link, go, server) in streams().await {
        go.send(()).unwrap();
        let said = numbers(2_000_000);
        let (mut read, mut write) = tokio::io::split(link);
        let to_say = said.clone();
        let writing = tokio::spawn(async move {
            write.write_all(&to_say).await.unwrap();
            write.shutdown().await.unwrap();
        });
        let mut heard = Vec::new();
        read.read_to_end(&mut heard).await.unwrap();
        assert!(heard == said);
        writing.await.unwrap();
        server.join().unwrap();
    }
}

#[tokio::test]
async fn pieces_are_taken_together() {
    for (mut link, go, server) in streams().await {
        go.send(()).unwrap();
        assert!(link.is_write_vectored());
        poll_fn(|cx| link.poll_send_ready(cx)).await.unwrap();
        let pieces = [IoSlice::new(b"head "), IoSlice::new(b""), IoSlice::new(b"and body")];
        assert_eq!(link.write_vectored(&pieces).await.unwrap(), 13);
        link.shutdown().await.unwrap();
        let mut heard = Vec::new();
        link.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"head and body");
        server.join().unwrap();
    }
}

/// Sends until there is no room any more.
async fn fill(link: &mut Link, bytes: &[u8]) -> usize {
    let mut sent = 0;
    let until_full = poll_fn(|cx| {
        while let Poll::Ready(taken) = link.poll_send(cx, &bytes[sent..]) {
            sent += taken.unwrap();
            assert!(sent < bytes.len(), "a server that does not read takes everything");
        }
        Poll::Ready(())
    });
    unconstrained(until_full).await;
    sent
}

#[test]
fn a_stream_that_rests_loses_no_byte() {
    let first = runtime();
    for (mut link, go, server) in first.block_on(streams()) {
        let said = numbers(40_000_000);
        let sent = first.block_on(fill(&mut link, &said));
        if let Link::Tls(secured) = &link {
            assert!(secured.is_holding_back(), "the test rests too early");
        }
        // No more than is needed, or this takes long.
        let mut said = said;
        said.truncate(sent / 4 * 4 + 1_000_000);
        // It says the first bytes again: some are read, some are not, and some may be neither sent nor told.
        go.send(()).unwrap();
        let mut heard = first.block_on(recv(&mut link, 10)).unwrap();
        let mut rested = link.rest().unwrap();
        for _ in 0..3 {
            (heard, rested) = thread::spawn(move || {
                runtime().block_on(async {
                    let mut link = rested.wake().unwrap();
                    heard.extend(recv(&mut link, 10).await.unwrap());
                    (heard, link.rest().unwrap())
                })
            })
            .join()
            .unwrap();
        }
        let to_say = said[sent..].to_owned();
        let heard = thread::spawn(move || {
            runtime().block_on(async {
                let (mut read, mut write) = tokio::io::split(rested.wake().unwrap());
                let writing = async {
                    write.write_all(&to_say).await.unwrap();
                    write.shutdown().await.unwrap();
                };
                let reading = read.read_to_end(&mut heard);
                tokio::join!(writing, reading).1.unwrap();
                heard
            })
        })
        .join()
        .unwrap();
        assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
        server.join().unwrap();
    }
}

#[tokio::test]
async fn what_is_held_back_is_flushed() {
    let (_, (mut link, go, server)) = {
        let mut both = streams().await.into_iter();
        (both.next().map(|(link, go, _)| (link, go.send(()))), both.next().unwrap())
    };
    let said = numbers(40_000_000);
    let sent = fill(&mut link, &said).await;
    go.send(()).unwrap();
    // The server wants to be read as well.
    let mut heard = vec![0; sent];
    {
        let (mut read, mut write) = tokio::io::split(&mut link);
        let (flushed, read) = tokio::join!(write.flush(), read.read_exact(&mut heard));
        flushed.unwrap();
        read.unwrap();
    }
    assert!(heard == said[..sent]);
    link.shutdown().await.unwrap();
    assert_eq!(recv(&mut link, 1).await.unwrap(), b"");
    server.join().unwrap();
}

#[tokio::test]
async fn a_farewell_is_an_end_and_a_cut_is_none() {
    let (mut link, server) = secured(|mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        let mut last = Vec::new();
        stream.read_to_end(&mut last).unwrap();
        last
    })
    .await;
    let mut heard = Vec::new();
    link.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"bye");
    link.write_all(b"bye you").await.unwrap();
    link.shutdown().await.unwrap();
    assert_eq!(server.join().unwrap(), b"bye you");

    let (mut link, server) = secured(|mut stream| stream.write_all(b"by").unwrap()).await;
    assert_eq!(recv(&mut link, 100).await.unwrap(), b"by");
    assert_eq!(recv(&mut link, 100).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    server.join().unwrap();
}

#[tokio::test]
async fn new_keys_are_answered() {
    let (mut link, server) = secured(|mut stream| {
        stream.write_all(b"old").unwrap();
        stream.conn.refresh_traffic_keys().unwrap();
        stream.write_all(b"new").unwrap();
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).unwrap();
        answer
    })
    .await;
    let mut heard = [0; 6];
    link.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"oldnew");
    link.write_all(b"answer").await.unwrap();
    assert_eq!(&server.join().unwrap(), b"answer");
}

#[tokio::test]
async fn the_older_tls_is_spoken_as_well() {
    let certificate = Arc::new(Certificate::new("127.0.0.1"));
    let shown = Arc::clone(&certificate);
    let (address, server) = serve(move |stream| {
        let mut stream = shown.secure_by(stream, &[&rustls::version::TLS12]);
        echo(&mut stream);
        stream.conn.protocol_version()
    });
    let at = place(address, Carrier::Tls);
    let mut link = Link::open(&at, &certificate.trust("127.0.0.1")).await.unwrap();
    link.write_all(b"old").await.unwrap();
    assert_eq!(recv(&mut link, 100).await.unwrap(), b"old");
    link.shutdown().await.unwrap();
    assert_eq!(server.join().unwrap(), Some(rustls::ProtocolVersion::TLSv1_2));
    // Nobody's certificate is as good as somebody's there.
    let shown = Arc::new(Certificate::new("127.0.0.1"));
    let (address, _) = serve(move |stream| {
        shown.secure_by(stream, &[&rustls::version::TLS12]).read(&mut [0; 10]).unwrap_err()
    });
    let error = refused(place(address, Carrier::Tls), &certificate.trust("127.0.0.1")).await;
    assert!(error.to_string().contains("certificate is refused"), "{error}");
}

#[tokio::test]
async fn a_configuration_serves_one_handshake() {
    let certificate = Arc::new(Certificate::new("127.0.0.1"));
    let trust = certificate.trust("127.0.0.1");
    let config = crate::tls::client_config(trust.ca_files("127.0.0.1")).await.unwrap();
    for is_first in [true, false] {
        let shown = Arc::clone(&certificate);
        let (address, server) = serve(move |stream| {
            let mut stream = shown.secure(stream);
            stream.conn.complete_io(&mut stream.sock).is_ok()
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let name = crate::tls::server_name("127.0.0.1").unwrap();
        let done = tokio_rustls::TlsConnector::from(Arc::clone(&config)).connect(name, stream).await;
        assert_eq!(done.is_ok(), is_first);
        drop(done);
        assert_eq!(server.join().unwrap(), is_first);
    }
}

#[tokio::test]
async fn garbage_within_tls_ends_it() {
    let (mut link, server) = secured(|mut stream| {
        stream.conn.complete_io(&mut stream.sock).unwrap();
        stream.sock.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        stream.read(&mut [0; 100]).unwrap_err().to_string()
    })
    .await;
    assert_eq!(recv(&mut link, 100).await.unwrap_err().kind(), ErrorKind::InvalidData);
    let told = server.join().unwrap();
    assert!(told.contains("alert"), "the server is told why: {told}");
}

#[tokio::test]
async fn what_is_wrong_with_tls_says_whose_fault_it_is() {
    let theirs = ErrorKind::InvalidData;
    let secured_as = |name: &'static str| {
        serve(move |stream| {
            // It hears of the refusal.
            Certificate::new(name).secure(stream).read(&mut [0; 10]).unwrap_err();
        })
        .0
    };
    let says = |error: &io::Error, kind: ErrorKind, parts: &[&str]| {
        assert_eq!(error.kind(), kind, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    };
    // Somebody else's certificate.
    let at = place(secured_as("127.0.0.1"), Carrier::Tls);
    let certificate = Certificate::new("127.0.0.1");
    let error = refused(at, &certificate.trust("127.0.0.1")).await;
    says(&error, theirs, &["server's certificate is refused", "CA file"]);
    // A certificate for another name.
    let other = Arc::new(Certificate::new("turn.example"));
    let shown = Arc::clone(&other);
    let (address, _) = serve(move |stream| shown.secure(stream).read(&mut [0; 10]).unwrap_err());
    let at = Place { host: Some("localhost".into()), ..place(address, Carrier::Tls) };
    let error = refused(at, &other.trust("localhost")).await;
    says(&error, theirs, &["certificate is refused", "localhost", "turn.example"]);
    // A CA file that is not there, or has nothing in it.
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("empty.pem"), "nothing").unwrap();
    for (name, why) in [("none.pem", ""), ("empty.pem", "no certificate in it")] {
        let mut trust = CaFiles::default();
        trust.add("127.0.0.1", folder.path().join(name));
        let error = refused(place(secured_as("127.0.0.1"), Carrier::Tls), &trust).await;
        says(&error, ErrorKind::InvalidInput, &["on this machine", "CA file", name, why]);
    }
    // A name that no certificate can have.
    let at = Place { host: Some("no name".into()), ..place(secured_as("127.0.0.1"), Carrier::Tls) };
    says(&refused(at, &CaFiles::default()).await, ErrorKind::InvalidInput, &["no name cannot stand"]);
    // No TLS at all.
    let trust = certificate.trust("127.0.0.1");
    for (answer, kind) in [(&b"220 mail.example\r\n"[..], theirs), (b"", ErrorKind::UnexpectedEof)] {
        let (address, _) = serve(move |mut stream| {
            stream.write_all(answer)?;
            stream.shutdown(std::net::Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())
        });
        let error = refused(place(address, Carrier::Tls), &trust).await;
        says(&error, kind, &["is this a TLS port?"]);
    }
}
