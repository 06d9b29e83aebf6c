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
//! ntp = ["192.0.2.1:123"]             # default: none; at most 8, of three one may lie
//! plain = false                       # default: pipes are always encrypted
//! ways = ["direct", "punch"]          # how peers may reach this node, default: every way
//! allow = ["p2pid1…"]                 # default: whoever knows this node's address may connect
//! ready_within = 3                    # seconds to wait for brokers and STUN servers, default 3
//! machine_id = "blue box"             # default: what the operating system says
//!
//! [limits]                            # see `Limits` for what they bound
//! attempts = 256
//! answers = 64
//! errands = 128
//! unproven = 512
//! backlog = 128
//! half_open = 512                     # connections that punches may have half open, see `Config::punch`
//! dials_per_second = 500              # of all punches
//! ```
//!
//! A broker is a URL or a table of `url`, `user`, `password` or `password_file`, `ca` (a PEM file with the
//! certificates to trust instead of the system's) and `bind` (the local IP address to connect from). Paths
//! are relative to the folder of the file. A key this version does not know is an error, never passed over:
//! a misspelt `allow` must not open a node to everybody.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use p2p_actors::{BrokerConfig, Interfaces, NtpServer, StunServer};
use p2p_core::Family;
use p2p_core::clock::ntp::{self, MOST_SERVERS};
use p2p_core::peer::{BrokerUrl, Scheme};
use p2p_core::race::Way;
use p2p_core::stun;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Key};

/// A configuration file is a page or two; what is longer is something else.
const MOST_BYTES: u64 = 256 * 1024;
/// The longest time to wait for brokers that makes any sense, in seconds.
const LONGEST_WAIT: f64 = 3_600.0;

/// Why a configuration file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", place(.file, .line))]
pub struct ConfigError {
    /// The file, when the text came from one.
    pub file: Option<PathBuf>,
    /// The line, counted from 1, when one is at fault.
    pub line: Option<usize>,
    /// What is wrong.
    pub fault: ConfigFault,
}

fn place(file: &Option<PathBuf>, line: &Option<usize>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{}, line {line}: ", file.display()),
        (Some(file), None) => format!("{}: ", file.display()),
        (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}

/// What is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A key that means nothing here.
    #[error("unknown key `{key}`: {hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The nearest key there is, or all of them.
        hint: String,
    },
    /// A key with a value it cannot have.
    #[error("`{key}` = {found}: {wanted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there. Never a password.
        found: String,
        /// What is allowed.
        wanted: String,
    },
    /// A key that needs another one, or excludes it.
    #[error("{0}")]
    Keys(&'static str),
    /// A file with a password cannot be read.
    #[error("password file {path}: {reason}")]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

const KEYS: [&str; 13] = [
    "identity",
    "listen_port",
    "interfaces",
    "families",
    "brokers",
    "stun",
    "ntp",
    "plain",
    "ways",
    "allow",
    "ready_within",
    "limits",
    "machine_id",
];
const BROKER_KEYS: [&str; 6] = ["url", "user", "password", "password_file", "ca", "bind"];
const LIMIT_KEYS: [&str; 7] =
    ["attempts", "answers", "errands", "unproven", "backlog", "half_open", "dials_per_second"];

type Result<T, E = ConfigError> = std::result::Result<T, E>;

impl Config {
    /// Reads a configuration from the text of a [`p2p.toml`](crate::config::file); what it does not mention has its default. Paths
    /// in it are relative to the current folder.
    ///
    /// # Errors
    /// [`ConfigError`] with the line: no TOML, an unknown key (with the nearest one), a value that is not
    /// allowed (with what is), or a password file that cannot be read.
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
        let text = read_short(path).map_err(|reason| in_file(anywhere(ConfigFault::Unreadable(reason))))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Reader { text: &text, folder }.config().map_err(in_file)
    }
}

/// Reads the password in a file: its first line.
///
/// # Errors
/// [`ConfigError`] when it cannot be read or is empty.
pub fn password_file(path: &Path) -> Result<String> {
    let wrong = |reason: String| anywhere(ConfigFault::PasswordFile { path: path.to_owned(), reason });
    let text = read_short(path).map_err(wrong)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(line.to_owned()),
        None => Err(wrong("its first line is empty".to_owned())),
    }
}

/// Reads a file that cannot be long, whatever its size is said to be: it may be a device.
fn read_short(path: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MOST_BYTES + 1).read_to_string(&mut text));
    match read {
        Ok(len) if len as u64 > MOST_BYTES => Err(format!("longer than {MOST_BYTES} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(error.to_string()),
    }
}

fn anywhere(fault: ConfigFault) -> ConfigError {
    ConfigError { file: None, line: None, fault }
}

/// Parses `host:port`, with an IPv6 address in brackets.
///
/// # Errors
/// A sentence that says what is wanted.
pub fn parse_stun(text: &str) -> Result<StunServer, String> {
    parse_server(text, stun::DEFAULT_PORT)
}

/// Parses `host:port`, with an IPv6 address in brackets.
///
/// # Errors
/// A sentence that says what is wanted.
pub fn parse_ntp(text: &str) -> Result<NtpServer, String> {
    parse_server(text, ntp::DEFAULT_PORT)
}

fn parse_server(text: &str, usual: u16) -> Result<StunServer, String> {
    let wanted =
        || format!("a server is `host:port`, such as `192.0.2.1:{usual}` or `[2001:db8::1]:{usual}`");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(wanted)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().map_err(|_| wanted())?.to_string(),
        None if host.is_empty() || host.contains([':', '/', ' ', '[', ']']) => return Err(wanted()),
        None => host.to_owned(),
    };
    Ok(StunServer { host, port })
}

/// Parses `v4` or `v6`.
///
/// # Errors
/// A sentence that says what is wanted.
pub fn parse_family(text: &str) -> Result<Family, String> {
    match text {
        "v4" => Ok(Family::V4),
        "v6" => Ok(Family::V6),
        _ => Err("a family is `v4` or `v6`".to_owned()),
    }
}

/// Parses the name of a way.
///
/// # Errors
/// A sentence that names them all.
pub fn parse_way(text: &str) -> Result<Way, String> {
    Way::ALL.into_iter().find(|way| way.to_string() == text).ok_or_else(|| {
        let names: Vec<_> = Way::ALL.iter().map(|way| format!("`{way}`")).collect();
        format!("the ways are {}", names.join(", "))
    })
}

/// Parses the URL of a broker on the network.
///
/// # Errors
/// A sentence that says what is wanted.
pub fn parse_broker(text: &str) -> Result<BrokerUrl, String> {
    let url: BrokerUrl = text.parse().map_err(|error: p2p_core::peer::BrokerUrlError| error.to_string())?;
    if url.scheme() == Scheme::Memory {
        return Err("memory:// is for nodes that share a process: write mqtt:// or mqtts://".to_owned());
    }
    Ok(url)
}

/// A text under examination, and the folder its paths start from.
struct Reader<'t> {
    text: &'t str,
    folder: &'t Path,
}

type Value<'t> = Spanned<DeValue<'t>>;

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
                    let families = self.parsed("families", value, parse_family)?;
                    config.families = BTreeSet::from_iter(self.some("families", value, families)?);
                }
                "brokers" => {
                    let brokers = self.list("brokers", value, "a list of URLs and tables")?;
                    config.brokers =
                        brokers.iter().map(|broker| self.broker(broker)).collect::<Result<_>>()?;
                }
                "stun" => config.stun = self.parsed("stun", value, parse_stun)?,
                "ntp" => {
                    let servers = self.parsed("ntp", value, parse_ntp)?;
                    if servers.len() > MOST_SERVERS {
                        return Err(self.wrong("ntp", value, &format!("{MOST_SERVERS} servers at most")));
                    }
                    config.ntp = servers;
                }
                "plain" => config.plain = self.truth("plain", value)?,
                "ways" => config.ways = self.parsed("ways", value, parse_way)?,
                "allow" => {
                    config.allowed = Some(self.parsed("allow", value, parse)?.into_iter().collect());
                }
                "ready_within" => config.ready_within = self.seconds("ready_within", value)?,
                "machine_id" => {
                    let id =
                        self.string("machine_id", value, "any text that is different on other machines")?;
                    config.machine_id = Some(id.as_bytes().to_vec());
                }
                _ => self.limits(value, &mut config)?,
            }
        }
        Ok(config)
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
                "errands" => limits.errands = bound,
                "unproven" => limits.unproven = bound,
                "backlog" => limits.backlog = bound,
                "half_open" => config.punch.sockets = number,
                _ => config.punch.per_second = number,
            }
        }
        Ok(())
    }

    fn broker(&self, value: &Value<'t>) -> Result<BrokerConfig> {
        let wanted = "a URL, or a table with url, user, password or password_file, ca, bind";
        let table = match value.get_ref() {
            DeValue::String(_) => return Ok(BrokerConfig::new(self.url("brokers", value)?)),
            DeValue::Table(table) => table,
            _ => return Err(self.wrong("brokers", value, wanted)),
        };
        let (mut url, mut user, mut password, mut ca_file, mut bind) = (None, None, None, None, None);
        for (key, value) in table {
            let key = self.key(key, &BROKER_KEYS)?;
            match key {
                "url" => url = Some(self.url("url", value)?),
                "user" => user = Some(self.string("user", value, "a user name")?.to_owned()),
                "password" | "password_file" if password.is_some() => {
                    return Err(self.at(value, ConfigFault::Keys(ONE_PASSWORD)));
                }
                "password" => password = Some(self.secret(value)?),
                "password_file" => {
                    let path = self.path("password_file", value)?;
                    password = Some(password_file(&path).map_err(|error| self.at(value, error.fault))?);
                }
                "ca" => ca_file = Some(self.path("ca", value)?),
                _ => bind = Some(self.one("bind", value, parse_bind)?),
            }
        }
        let Some(url) = url else {
            return Err(self.at(value, ConfigFault::Keys("a broker needs its `url`")));
        };
        let login = match (user, password) {
            (Some(user), password) => Some((user, password.unwrap_or_default())),
            (None, None) => None,
            (None, Some(_)) => {
                return Err(self.at(value, ConfigFault::Keys("a broker's password needs its `user`")));
            }
        };
        Ok(BrokerConfig { login, ca_file, bind, ..BrokerConfig::new(url) })
    }

    fn url(&self, key: &'static str, value: &Value<'t>) -> Result<BrokerUrl> {
        let text = self.string(key, value, "the URL of a broker")?;
        // What is wrong with it is told without repeating it: somebody may have put a password into it.
        parse_broker(text).map_err(|wanted| {
            let found = if text.contains('@') { "…".to_owned() } else { format!("{text:?}") };
            self.at(value, ConfigFault::Value { key, found, wanted })
        })
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(self.text);
        before.bytes().filter(|byte| *byte == b'\n').count() + 1
    }

    fn at(&self, value: &Value<'t>, fault: ConfigFault) -> ConfigError {
        ConfigError { file: None, line: Some(self.line(value.span().start)), fault }
    }

    fn wrong(&self, key: &'static str, value: &Value<'t>, wanted: &str) -> ConfigError {
        let found = match value.get_ref() {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => number.as_str().to_owned(),
            DeValue::Float(number) => number.as_str().to_owned(),
            DeValue::Boolean(truth) => truth.to_string(),
            other => format!("a value of type {}", other.type_str()),
        };
        self.at(value, ConfigFault::Value { key, found, wanted: wanted.to_owned() })
    }

    /// One of the keys there are.
    fn key(
        &self,
        found: &Spanned<std::borrow::Cow<'t, str>>,
        known: &[&'static str],
    ) -> Result<&'static str> {
        let key = found.get_ref();
        known.iter().find(|known| *known == key).copied().ok_or_else(|| ConfigError {
            file: None,
            line: Some(self.line(found.span().start)),
            fault: ConfigFault::UnknownKey { key: key.to_string(), hint: hint(key, known) },
        })
    }

    fn string<'v>(&self, key: &'static str, value: &'v Value<'t>, wanted: &str) -> Result<&'v str> {
        match value.get_ref().as_str().filter(|text| !text.is_empty()) {
            Some(text) => Ok(text),
            None => Err(self.wrong(key, value, wanted)),
        }
    }

    /// A text that no error repeats.
    fn secret(&self, value: &Value<'t>) -> Result<String> {
        value.get_ref().as_str().map(str::to_owned).ok_or_else(|| {
            let (found, wanted) = ("…".to_owned(), "a text in quotes".to_owned());
            self.at(value, ConfigFault::Value { key: "password", found, wanted })
        })
    }

    fn path(&self, key: &'static str, value: &Value<'t>) -> Result<PathBuf> {
        Ok(self.folder.join(self.string(key, value, "the path of a file")?))
    }

    fn truth(&self, key: &'static str, value: &Value<'t>) -> Result<bool> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong(key, value, "true or false"))
    }

    fn number(&self, key: &'static str, value: &Value<'t>, least: u16, most: u16) -> Result<u16> {
        let number = value
            .get_ref()
            .as_integer()
            .and_then(|number| u16::from_str_radix(number.as_str(), number.radix()).ok())
            .filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(key, value, &format!("a number from {least} to {most}")))
    }

    fn seconds(&self, key: &'static str, value: &Value<'t>) -> Result<Duration> {
        let number = match value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse::<f64>().ok(),
            DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match number.filter(|seconds| (0.0..=LONGEST_WAIT).contains(seconds)) {
            Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
            None => Err(self.wrong(
                key,
                value,
                &format!("a number of seconds from 0 to {LONGEST_WAIT}, such as 0.5"),
            )),
        }
    }

    fn list<'v>(&self, key: &'static str, value: &'v Value<'t>, wanted: &str) -> Result<&'v [Value<'t>]> {
        match value.get_ref() {
            DeValue::Array(values) => Ok(values),
            _ => Err(self.wrong(key, value, wanted)),
        }
    }

    fn some<T>(&self, key: &'static str, value: &Value<'t>, list: Vec<T>) -> Result<Vec<T>> {
        if list.is_empty() {
            return Err(self.wrong(key, value, "at least one; leave the key out for all"));
        }
        Ok(list)
    }

    fn one<T>(
        &self,
        key: &'static str,
        value: &Value<'t>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T> {
        let text = self.string(key, value, "a text in quotes")?;
        parse(text).map_err(|wanted| self.wrong(key, value, &wanted))
    }

    fn parsed<T>(
        &self,
        key: &'static str,
        value: &Value<'t>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>> {
        let values = self.list(key, value, "a list of texts")?;
        values.iter().map(|value| self.one(key, value, &parse)).collect()
    }
}

const ONE_PASSWORD: &str = "a broker has one password: `password` or `password_file`, not both";

fn parse<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn parse_bind(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "the local IP address to connect from".to_owned())
}

/// Names the key that was probably meant.
fn hint(key: &str, known: &[&'static str]) -> String {
    let alike = |known: &&'static str| strsim::damerau_levenshtein(key, known);
    let nearest = known.iter().copied().min_by_key(alike).filter(|nearest| alike(nearest) <= 3);
    match nearest {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("there are {}", known.join(", ")),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
