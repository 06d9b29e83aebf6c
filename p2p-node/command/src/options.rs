//! The options that the sub-commands which run a node have in common.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use p2p_node::config::{TurnUri, parse_broker, password_file};
use p2p_node::{
    BrokerConfig, BrokerState, BrokerUrl, Config, Family, Interfaces, Key, Node, NtpServer, PeerId,
    StunServer, Way,
};

use crate::exit::Usage;
use crate::screen;

/// The configuration file that is used when it is there and none was named.
const USUAL_FILE: &str = "p2p.toml";
/// The environment variable that names a configuration file.
const VARIABLE: &str = "P2P_CONFIG";

/// Options of a node. A value given here replaces that of the configuration file.
#[derive(Args)]
#[command(next_help_heading = "Node options (they replace what the configuration file says)")]
pub(crate) struct NodeOptions {
    /// Configuration file [default: $P2P_CONFIG, else ./p2p.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// MQTT broker to be found through, such as mqtt://192.0.2.1 or mqtts://broker.example; repeatable
    #[arg(long = "broker", value_name = "URL", value_parser = parse_broker)]
    brokers: Vec<BrokerUrl>,
    /// User name for the brokers
    #[arg(long, value_name = "NAME")]
    broker_user: Option<String>,
    /// File whose first line is the password for the brokers
    #[arg(long, value_name = "FILE", requires = "broker_user")]
    broker_password_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for brokers, instead of the system's
    #[arg(long, value_name = "FILE")]
    broker_ca: Option<PathBuf>,
    /// STUN server to learn external addresses from, such as stun.example:3478 or stun:stun.example; repeatable
    #[arg(long, value_name = "HOST:PORT")]
    stun: Vec<StunServer>,
    /// TURN server that may relay for us, such as turn:turn.example or, with TLS, turns:turn.example:443;
    /// ?transport=udp or ?transport=tcp behind it means that one alone; repeatable
    #[arg(long, value_name = "URI")]
    turn: Vec<TurnUri>,
    /// User name for the TURN servers
    #[arg(long, value_name = "NAME", requires = "turn_password_file")]
    turn_user: Option<String>,
    /// File whose first line is the password for the TURN servers
    #[arg(long, value_name = "FILE", requires = "turn_user")]
    turn_password_file: Option<PathBuf>,
    /// PEM file with the certificates to trust for TURN servers with TLS, instead of the system's
    #[arg(long, value_name = "FILE")]
    turn_ca: Option<PathBuf>,
    /// NTP server to learn the offset of this machine's clock from; repeatable, name three. No clock is set
    #[arg(long, value_name = "HOST:PORT")]
    ntp: Vec<NtpServer>,
    /// Network interface to use; repeatable [default: all that are up]
    #[arg(long = "interface", value_name = "NAME")]
    interfaces: Vec<String>,
    /// TCP port to listen on; 0 for any free one
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Address family to use; repeatable [default: both] [possible values: v4, v6]
    #[arg(long = "family", value_name = "FAMILY")]
    families: Vec<Family>,
    /// Key file, made when there is none [default: a new key, forgotten at the end]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// No encryption after the proof, if the other side says so too; a cut connection then looks like its end
    #[arg(long)]
    plain: bool,
    /// Peer that may connect to us; repeatable [default: whoever knows our address]
    #[arg(long = "allow", value_name = "ID")]
    allowed: Vec<PeerId>,
    /// The ways to go, in this order, or to be reached by [default: all]
    #[arg(long = "strategy", value_name = "WAY", value_delimiter = ',', value_parser = one_of(&Way::ALL))]
    pub(crate) ways: Vec<Way>,
    /// JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// Returns the configuration in the file that was named, or in the usual places.
pub(crate) fn file(named: Option<&Path>) -> anyhow::Result<Config> {
    let variable = std::env::var_os(VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match (named, variable) {
        (Some(path), _) => path.to_owned(),
        (None, Some(path)) => path,
        (None, None) if Path::new(USUAL_FILE).is_file() => USUAL_FILE.into(),
        (None, None) => return Ok(Config::default()),
    };
    Ok(Config::from_file(path)?)
}

impl NodeOptions {
    /// Returns the configuration file with these options over it.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let mut config = file(self.config.as_deref())?;
        if let Some(path) = &self.identity {
            config.key = Key::File(path.clone());
        }
        if let Some(port) = self.port {
            config.listen_port = port;
        }
        if !self.interfaces.is_empty() {
            config.interfaces = Interfaces::Only(self.interfaces.clone());
        }
        if !self.families.is_empty() {
            config.families = self.families.iter().copied().collect();
        }
        if !self.stun.is_empty() {
            config.stun = self.stun.clone();
        }
        if !self.ntp.is_empty() {
            config.ntp = self.ntp.clone();
        }
        if !self.allowed.is_empty() {
            config.allowed = Some(self.allowed.iter().copied().collect());
        }
        if !self.ways.is_empty() {
            config.ways = self.ways.clone();
        }
        config.plain |= self.plain;
        self.set_brokers(&mut config)?;
        self.set_turn(&mut config)?;
        Ok(config)
    }

    fn set_turn(&self, config: &mut Config) -> anyhow::Result<()> {
        let login = match (&self.turn_user, &self.turn_password_file) {
            (Some(user), Some(path)) => Some((user, password_file(path)?)),
            _ => None,
        };
        if !self.turn.is_empty() {
            let Some((user, password)) = &login else {
                let login = "a TURN server asks who we are: give --turn-user and --turn-password-file, from whoever \
                             runs it, or from `p2p rendezvous credentials`";
                return Err(Usage::new(login).into());
            };
            config.turn = self.turn.iter().flat_map(|uri| uri.servers(user, password)).collect();
        }
        if config.turn.is_empty() && (login.is_some() || self.turn_ca.is_some()) {
            return Err(Usage::new("--turn-user and --turn-ca need a --turn").into());
        }
        for server in &mut config.turn {
            if let Some((user, password)) = &login {
                (server.user, server.password) = ((*user).clone(), password.clone());
            }
            if let Some(path) = &self.turn_ca {
                server.ca_file = Some(path.clone());
            }
        }
        Ok(())
    }

    fn set_brokers(&self, config: &mut Config) -> anyhow::Result<()> {
        if !self.brokers.is_empty() {
            config.brokers = self.brokers.iter().cloned().map(BrokerConfig::new).collect();
        }
        if config.brokers.is_empty() && (self.broker_user.is_some() || self.broker_ca.is_some()) {
            return Err(Usage::new("--broker-user and --broker-ca need a --broker").into());
        }
        if let Some(user) = &self.broker_user {
            let password = match &self.broker_password_file {
                Some(path) => password_file(path)?,
                None => String::new(),
            };
            for broker in &mut config.brokers {
                broker.login = Some((user.clone(), password.clone()));
            }
        }
        if let Some(path) = &self.broker_ca {
            config.brokers.iter_mut().for_each(|broker| broker.ca_file = Some(path.clone()));
        }
        Ok(())
    }

    /// Tells whether a port was named on the command line.
    pub(crate) fn names_port(&self) -> bool {
        self.port.is_some()
    }

    /// Tells whether the bare TCP connection is wished for.
    pub(crate) fn plain(&self) -> bool {
        self.plain
    }
}

/// Starts a node. A broker that refused is in the log; one that does not answer is named here.
pub(crate) async fn bind(config: Config) -> anyhow::Result<Node> {
    let node = Node::bind(config).await?;
    for (url, state) in &node.status().borrow().brokers {
        if *state == BrokerState::Connecting {
            screen::note(format_args!("p2p: warning: no answer from broker {url} yet"));
        }
    }
    Ok(node)
}

/// Parses a number of seconds.
pub(crate) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok();
    match seconds.filter(|seconds| (0.001..=86_400.0).contains(seconds)) {
        Some(seconds) => Ok(Duration::from_secs_f64(seconds)),
        None => Err("a number of seconds from 0.001 to 86400".to_owned()),
    }
}

/// Parses the name of one of `all`; help and errors list them.
pub(crate) fn one_of<T>(all: &'static [T]) -> impl TypedValueParser<Value = T>
where
    T: ToString + Copy + Send + Sync,
{
    let names = PossibleValuesParser::new(all.iter().map(T::to_string));
    names.try_map(|name| all.iter().copied().find(|one| one.to_string() == name).ok_or("no such name"))
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            },
            Err(error) => tracing::warn!(%error, "no signal will be heard"),
        }
    }
    #[cfg(not(unix))]
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::warn!(%error, "no signal will be heard");
    }
}
