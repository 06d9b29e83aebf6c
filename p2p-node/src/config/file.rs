//! The configuration file: `p2p.toml`.
//!
//! ```toml
//! identity = "p2p.key"                # default: a new key every time; made when there is none
//! listen_port = 0                     # 0: any free port (default)
//! interfaces = ["eth0"]               # default: all that are up
//! families = ["v4", "v6"]             # default: both
//! brokers = [                         # default: none, no server is ever built in
//!     "mqtt://192.0.2.1",
//!     { url = "mqtts://broker.example", user = "anna", password_file = "broker.pw" },
//! ]
//! stun = ["192.0.2.1:3478"]           # default: none
//! turn = [                            # default: none
//!     { url = "turn:turn.example", user = "anna", password_file = "turn.pw" },
//! ]
//! ntp = ["192.0.2.1:123"]             # default: none; at most 8, of three one may lie
//! relay_connections = "careful"      # RFC 6062: "never", "always", default: unless the server is known to hang
//! plain = false                       # default: pipes are always encrypted
//! ways = ["direct", "punch"]          # how peers may reach this node, default: every way
//! allow = ["p2pid1…"]                 # default: whoever knows this node's address may connect
//! ready_within = 3                    # seconds to wait for brokers and STUN servers, default 3
//! machine_id = "blue box"             # default: what the operating system says; copies of a machine want one each
//!
//! [keep_alive]                        # seconds, see `KeepAlive`; 0 switches each one off
//! idle = 25                           # silence after which the system asks for a sign of life
//! interval = 5                        # between two such questions
//! probes = 3                          # unanswered questions that end a connection
//! unacknowledged = 30                 # how long data may stay unacknowledged
//! ping = 15                           # silence after which an encrypted pipe asks its peer
//!
//! [limits]                            # see `Limits` for what they bound
//! attempts = 256
//! answers = 64
//! dials_for_peers = 128
//! relays = 4                          # strangers for whom our TURN servers are asked at once
//! unproven = 512
//! backlog = 128
//! pipes_per_peer = 8                  # that a peer has asked for
//! pipes = 1024                        # that all peers have asked for; a quarter of the descriptors at most
//! half_open = 512                     # connections that punches may have half open, see `Config::punch`
//! dials_per_second = 500              # of all punches
//! ```
//!
//! A broker is a URL, or a table of `url`, `user`, `password` or `password_file`, `ca` and `bind`. `ca` is a PEM file
//! with the certificates to trust instead of the system's. `bind` is the local IP address to connect from. A TURN
//! server is a table of `url` (see [`TurnUri`](crate::config::TurnUri)), `user`, `password` or `password_file`, and
//! `ca`. The tables can also stand at the end, each as `[[turn]]`. Paths are relative to the folder of the file. An
//! unknown key is an error and never passed over, as a misspelt `allow` must not open a node to everybody.

mod broker;
mod error;
mod login;
mod reader;
mod turn;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use p2p_core::clock::ntp::MOST_SERVERS;
use p2p_core::node::{Interfaces, KeepAlive};
use p2p_core::peer::{IdError, PeerId};
use toml::de::DeTable;
use zeroize::Zeroizing;

use super::{Config, Key};
pub use error::{ConfigError, ConfigFault};
use reader::{Reader, Result, Value};

/// The most bytes of a configuration file, which is a page or two.
const MOST_BYTES: u64 = 256 * 1024;
const KEYS: [&str; 16] = [
    "identity",
    "listen_port",
    "interfaces",
    "families",
    "brokers",
    "stun",
    "turn",
    "relay_connections",
    "ntp",
    "plain",
    "ways",
    "allow",
    "ready_within",
    "keep_alive",
    "limits",
    "machine_id",
];
const KEEP_ALIVE_KEYS: [&str; 5] = ["idle", "interval", "probes", "unacknowledged", "ping"];
const LIMIT_KEYS: [&str; 10] = [
    "attempts",
    "answers",
    "dials_for_peers",
    "relays",
    "unproven",
    "backlog",
    "pipes_per_peer",
    "pipes",
    "half_open",
    "dials_per_second",
];

impl Config {
    /// Reads a configuration from the text of a [`p2p.toml`](crate::config::file). A key that is not there has its
    /// default. Paths are relative to the current folder.
    ///
    /// # Errors
    /// [`ConfigError`], with the line where one is at fault. The fault is no TOML, an unknown key (with the nearest
    /// one), or a value that is not allowed (with the allowed ones). It may also be a password file that cannot be
    /// read.
    pub fn from_toml(text: &str) -> Result<Self> {
        Reader { text, folder: Path::new("") }.config()
    }

    /// Reads a configuration file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// As [`Config::from_toml`], and when the file cannot be read.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let in_file = |error: ConfigError| ConfigError { file: Some(path.to_owned()), ..error };
        let text = read_short(path).map_err(|reason| in_file(ConfigFault::Unreadable(reason).into()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Reader { text: &text, folder }.config().map_err(in_file)
    }
}

impl<'t> Reader<'t> {
    fn config(&self) -> Result<Config> {
        let table = DeTable::parse(self.text).map_err(|error| ConfigError {
            file: None,
            line: error.span().map(|span| self.line(span.start)),
            fault: ConfigFault::Syntax(error.message().to_owned()),
        })?;
        let mut config = Config::default();
        for (key, value) in table.get_ref() {
            match self.key(key, &KEYS)? {
                "identity" => config.key = Key::File(self.path("identity", value)?),
                "listen_port" => {
                    config.listen_port = self.number("listen_port", value, 0, u16::MAX)?;
                }
                "interfaces" => {
                    let names = self.list("interfaces", value, "a list of names, such as [\"eth0\"]")?;
                    let name = |value| self.string("interfaces", value, "names of network interfaces");
                    let names: Vec<_> =
                        names.iter().map(|value| name(value).map(str::to_owned)).collect::<Result<_>>()?;
                    config.interfaces = Interfaces::Only(self.some("interfaces", value, names)?);
                }
                "families" => {
                    let families = self.parsed("families", value, str::parse)?;
                    config.families = BTreeSet::from_iter(self.some("families", value, families)?);
                }
                "brokers" => {
                    let brokers = self.list("brokers", value, "a list of URLs and tables")?;
                    config.brokers =
                        brokers.iter().map(|broker| self.broker(broker)).collect::<Result<_>>()?;
                }
                "stun" => config.stun = self.parsed("stun", value, str::parse)?,
                "turn" => config.turn = self.turn_servers(value)?,
                "relay_connections" => {
                    config.relay_connections = self.one("relay_connections", value, str::parse)?;
                }
                "ntp" => {
                    let servers = self.parsed("ntp", value, str::parse)?;
                    if servers.len() > MOST_SERVERS {
                        return Err(self.wrong("ntp", value, &format!("{MOST_SERVERS} servers at most")));
                    }
                    config.ntp = servers;
                }
                "plain" => config.plain = self.truth("plain", value)?,
                "ways" => {
                    let ways = self.parsed("ways", value, str::parse)?;
                    config.ways = self.some("ways", value, ways)?;
                }
                "allow" => {
                    config.allowed = Some(self.parsed("allow", value, parse_id)?.into_iter().collect());
                }
                "ready_within" => config.ready_within = self.seconds("ready_within", value)?,
                "machine_id" => {
                    let id =
                        self.string("machine_id", value, "any text that is different on other machines")?;
                    config.machine_id = Some(id.as_bytes().to_vec());
                }
                "keep_alive" => self.keep_alive(value, &mut config.keep_alive)?,
                _ => self.limits(value, &mut config)?,
            }
        }
        Ok(config)
    }

    fn keep_alive(&self, value: &Value<'t>, keep_alive: &mut KeepAlive) -> Result<()> {
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.wrong("keep_alive", value, "a table, [keep_alive]"));
        };
        for (key, value) in table {
            let key = self.key(key, &KEEP_ALIVE_KEYS)?;
            match key {
                "idle" => keep_alive.idle = self.seconds(key, value)?,
                "interval" => keep_alive.interval = self.seconds(key, value)?,
                "probes" => keep_alive.probes = self.number(key, value, 0, 127)?.into(),
                "unacknowledged" => keep_alive.unacknowledged = self.seconds(key, value)?,
                _ => keep_alive.ping = self.seconds(key, value)?,
            }
        }
        Ok(())
    }

    fn limits(&self, value: &Value<'t>, config: &mut Config) -> Result<()> {
        let Some(table) = value.get_ref().as_table() else {
            return Err(self.wrong("limits", value, "a table, [limits]"));
        };
        for (key, value) in table {
            let key = self.key(key, &LIMIT_KEYS)?;
            let number = self.number(key, value, 1, u16::MAX)?;
            let (limits, bound) = (&mut config.limits, usize::from(number));
            match key {
                "attempts" => limits.attempts = bound,
                "answers" => limits.answers = bound,
                "dials_for_peers" => limits.dials_for_peers = bound,
                "relays" => limits.relays = bound,
                "unproven" => limits.unproven = bound,
                "backlog" => limits.backlog = bound,
                "pipes_per_peer" => limits.pipes_per_peer = bound,
                "pipes" => limits.pipes = bound,
                "half_open" => config.punch.sockets = number,
                _ => config.punch.per_second = number,
            }
        }
        Ok(())
    }
}

fn parse_id(text: &str) -> Result<PeerId, String> {
    text.parse().map_err(|error: IdError| error.to_string())
}

/// Reads the password in a file, which is its first line.
///
/// # Errors
/// [`ConfigError`] when the file cannot be read or its first line is empty.
pub fn password_file(path: &Path) -> Result<String> {
    let wrong =
        |reason: String| ConfigError::from(ConfigFault::PasswordFile { path: path.to_owned(), reason });
    let text = read_short(path).map_err(wrong)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(wrong("its first line is empty".to_owned())),
    }
}

/// Reads a file that must be short, whatever its size is said to be, as it may be a device.
fn read_short(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(len) if len as u64 > MOST_BYTES => Err(format!("longer than {MOST_BYTES} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
