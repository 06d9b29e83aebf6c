//! The options of the TURN server of `p2p rendezvous`, and the command `p2p rendezvous credentials`.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Args;
use p2p_node::config::password_file;
use p2p_node::rendezvous::ServerTls;
use p2p_node::rendezvous::turn::{Credential, IpPrefix, Login, Secret, TurnServerConfig};
use serde_json::{Value, json};

use crate::exit::Usage;
use crate::screen;

/// The lifetime of a credential that was not asked for.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);
/// The longest lifetime of a credential.
const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3_600);

/// Options of the TURN server.
#[derive(Args)]
#[command(next_help_heading = "TURN options")]
pub(crate) struct TurnOptions {
    /// Address the TURN server listens on, over UDP and TCP; port 0 for any free one; repeatable. It answers STUN
    /// requests as well
    #[arg(long, value_name = "ADDR:PORT")]
    turn: Vec<SocketAddr>,
    /// Address the TURN server listens on with TLS; repeatable
    #[arg(long, value_name = "ADDR:PORT", group = "tls", requires_all = ["tls_certificate", "tls_key"])]
    turns: Vec<SocketAddr>,
    /// IP address of this machine to relay from, one of each family [default: the first specific address of
    /// each family it listens on]
    #[arg(long = "turn-relay", value_name = "ADDR")]
    relay: Vec<IpAddr>,
    /// Ports to relay from [default: 49152-65535]
    #[arg(long = "turn-ports", value_name = "FIRST-LAST", value_parser = parse_ports)]
    ports: Option<RangeInclusive<u16>>,
    /// Realm of the TURN server, the name it gives itself [default: p2p]
    #[arg(long = "turn-realm", value_name = "NAME")]
    realm: Option<String>,
    /// File whose first line is the secret that time-limited credentials are made with; made when there is
    /// none [default: a new secret, and one credential is printed that is good for a day]
    #[arg(long = "turn-secret-file", value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// User whose credential does not end, and the file whose first line is the password; repeatable
    #[arg(long = "turn-user", value_name = "NAME=FILE", value_parser = parse_user)]
    users: Vec<(String, PathBuf)>,
    /// Network or address that may be relayed into although it is not the Internet: loopback, private, this
    /// machine's own; repeatable [default: none]
    #[arg(long = "turn-allow-peer", value_name = "NET")]
    allow_peers: Vec<IpPrefix>,
    /// Network or address that is never relayed into; repeatable [default: none]
    #[arg(long = "turn-deny-peer", value_name = "NET")]
    deny_peers: Vec<IpPrefix>,
    /// Relayed addresses one user may have at once [default: 16]
    #[arg(long = "turn-user-allocations", value_name = "NUMBER")]
    most_per_user: Option<usize>,
    /// Bytes a second relayed for one user; 0 for no limit [default: 12500000]
    #[arg(long = "turn-user-rate", value_name = "BYTES")]
    user_rate: Option<u64>,
    /// Relayed addresses there may be at once [default: 1000]
    #[arg(long = "turn-allocations", value_name = "NUMBER")]
    most_allocations: Option<usize>,
    /// Bytes a second relayed in all; 0 for no limit [default: 0]
    #[arg(long = "turn-rate", value_name = "BYTES")]
    total_rate: Option<u64>,
}

impl TurnOptions {
    /// Tells whether a TURN server is asked for.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.turn.is_empty() || !self.turns.is_empty()
    }

    /// Tells whether a credential must be printed, because nobody else can make one.
    pub(crate) fn is_secret_ours(&self) -> bool {
        self.is_wanted() && self.secret_file.is_none() && self.users.is_empty()
    }

    /// Returns the configuration of the TURN server, if there is to be one.
    pub(crate) fn config(self, tls: Option<(PathBuf, PathBuf)>) -> anyhow::Result<Option<TurnServerConfig>> {
        let is_secret_ours = self.is_secret_ours();
        if !self.is_wanted() {
            return match self.is_silent() {
                true => Ok(None),
                false => Err(Usage::new("the --turn-… options need a --turn or --turns to listen on").into()),
            };
        }
        let mut config = TurnServerConfig::new(self.turn);
        if let Some((certificate, key)) = tls.filter(|_| !self.turns.is_empty()) {
            config.tls = Some(ServerTls { listen: self.turns, certificate, key });
        }
        config.relay = self.relay;
        config.ports = self.ports.unwrap_or(config.ports);
        config.realm = self.realm.unwrap_or(config.realm);
        config.secret = match self.secret_file {
            Some(path) => Some(Secret::load(&path)?),
            None if is_secret_ours => Some(Secret::generate().context("a TURN secret")?),
            None => None,
        };
        for (user, path) in self.users {
            config.users.push(Login { user, password: password_file(&path)? });
        }
        config.allow_peers = self.allow_peers;
        config.deny_peers = self.deny_peers;
        config.most_per_user = self.most_per_user.unwrap_or(config.most_per_user);
        config.most_allocations = self.most_allocations.unwrap_or(config.most_allocations);
        let limit = |asked: Option<u64>, usual| asked.map_or(usual, |rate| (rate > 0).then_some(rate));
        config.user_rate = limit(self.user_rate, config.user_rate);
        config.total_rate = limit(self.total_rate, config.total_rate);
        Ok(Some(config))
    }

    fn is_silent(&self) -> bool {
        self.relay.is_empty()
            && self.ports.is_none()
            && self.realm.is_none()
            && self.secret_file.is_none()
            && self.users.is_empty()
            && self.allow_peers.is_empty()
            && self.deny_peers.is_empty()
            && [self.most_per_user, self.most_allocations] == [None; 2]
            && [self.user_rate, self.total_rate] == [None; 2]
    }
}

/// Returns a credential for programs.
pub(crate) fn to_json(credential: &Credential) -> Value {
    let Credential { username, password, expires, .. } = credential;
    json!({ "username": username, "password": password, "expires": expires })
}

/// Prints a credential for people: two lines, and its use with this server.
pub(crate) fn tell(credential: &Credential, server: &str) -> anyhow::Result<()> {
    let Credential { username, password, .. } = credential;
    screen::line(format_args!("username {username}"))?;
    screen::line(format_args!("password {password}"))?;
    screen::note(format_args!(
        "p2p: with the password in the file turn.pw:\n  p2p listen --broker mqtt://HOST --turn {server} \
         --turn-user {username} --turn-password-file turn.pw"
    ));
    Ok(())
}

const EXAMPLE: &str = "\
Who knows the secret can make credentials without asking the server; it recognizes them, and refuses them
when their time is over. Quotas are kept by name.

Example:
  p2p rendezvous credentials --secret-file turn.secret --name anna --for 12h
prints a user name and a password. Whoever gets them writes the password into a file, and then
  p2p listen --broker mqtt://192.0.2.1 --turn turn:192.0.2.1:3479 --turn-user 1700000000:anna --turn-password-file turn.pw";

/// Make a time-limited credential for a TURN server, of p2p or coturn (its use-auth-secret)
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Credentials {
    /// File whose first line is the secret; made when there is none
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
    /// Lifetime of the credential: a number and s, m, h or d
    #[arg(long = "for", value_name = "TIME", default_value = "1d", value_parser = parse_span)]
    lifetime: Duration,
    /// Name of its user [default: nobody's; quotas are then kept for this credential alone]
    #[arg(long, value_name = "NAME", default_value = "")]
    name: String,
    /// JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl Credentials {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let secret = Secret::load(Path::new(&self.secret_file))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let credential = secret.credential(&self.name, now + self.lifetime);
        match self.json {
            true => screen::line(to_json(&credential)),
            false => tell(&credential, "turn:HOST"),
        }
    }
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let ports = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    ports.filter(|ports| !ports.is_empty()).ok_or_else(|| "two ports, such as 50000-50999".to_owned())
}

fn parse_user(text: &str) -> Result<(String, PathBuf), String> {
    let user = text.split_once('=').filter(|(name, file)| !name.is_empty() && !file.is_empty());
    let (name, file) = user.ok_or("a name, = and a file, such as anna=anna.pw")?;
    Ok((name.to_owned(), file.into()))
}

/// Parses a number of seconds, minutes, hours or days.
fn parse_span(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (at, unit) = text.char_indices().next_back()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 24 * 3_600,
            _ => return None,
        };
        let number: u64 = text[..at].parse().ok()?;
        number.checked_mul(seconds).map(Duration::from_secs)
    };
    let is_sane = |span: &Duration| !span.is_zero() && *span <= TEN_YEARS;
    parse().filter(is_sane).ok_or_else(|| "a time from 1s to 3650d, such as 90m, 12h or 7d".to_owned())
}
