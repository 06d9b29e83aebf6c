//! The command `p2p rendezvous`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand, value_parser};
use p2p_core::rate::Rate;
use p2p_node::config::password_file;
use p2p_node::rendezvous::turn::Credential;
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig, ServerTls, broker, raise_open_files};
use serde_json::json;

use crate::options::interrupted;
use crate::screen;
use crate::turn::{self, Credentials, DAY, TurnOptions};

/// The ports of MQTT and STUN, registered with IANA.
const MQTT_PORT: u16 = 1883;
const STUN_PORT: u16 = 3478;

const EXAMPLE: &str = "\
Prints one line per server, then runs until it is interrupted. No server can read what peers say to each
other in encrypted pipes; only a TURN server carries it.

Example:
  p2p rendezvous --mqtt 192.0.2.1:1883 --stun 192.0.2.1:3478
  p2p listen --broker mqtt://192.0.2.1 --stun 192.0.2.1:3478
With a TURN server as well; only what is named runs:
  p2p rendezvous --mqtt 192.0.2.1:1883 --stun 192.0.2.1:3478 --turn 192.0.2.1:3479 --turn-secret-file turn.secret
  p2p rendezvous credentials --secret-file turn.secret --for 1d";

/// Run an MQTT broker, a STUN server and a TURN server for others
#[derive(Args)]
#[command(after_help = EXAMPLE, args_conflicts_with_subcommands = true, subcommand_value_name = "SUBCOMMAND")]
#[command(group = ArgGroup::new("tls").multiple(true))]
pub(crate) struct Run {
    #[command(subcommand)]
    instead: Option<Instead>,
    /// Address the broker listens on; port 0 for any free one; repeatable [default: 0.0.0.0:1883, if nothing else is
    /// asked for]
    #[arg(long, value_name = "ADDR:PORT")]
    mqtt: Vec<SocketAddr>,
    /// Address the broker listens on with TLS; repeatable
    #[arg(long, value_name = "ADDR:PORT", group = "tls", requires_all = ["tls_certificate", "tls_key"])]
    mqtts: Vec<SocketAddr>,
    /// PEM file with the certificate of the servers with TLS, and those above it
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_key: Option<PathBuf>,
    /// User name the broker asks for [default: none]
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File whose first line is the password the broker asks for
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Address the STUN server listens on, over UDP and TCP; port 0 for any free one; repeatable [default:
    /// 0.0.0.0:3478, if nothing else is asked for]
    #[arg(long, value_name = "ADDR:PORT")]
    stun: Vec<SocketAddr>,
    /// Clients of the broker there may be at once [default: 1000]
    #[arg(long = "mqtt-clients", value_name = "NUMBER")]
    most_clients: Option<usize>,
    /// Clients of the broker there may be from one address, or from one IPv6 /64 [default: 256]
    #[arg(long = "mqtt-address-clients", value_name = "NUMBER")]
    most_per_source: Option<usize>,
    /// Messages a second that one client of the broker may publish; ten times as many at once [default: 20]
    #[arg(long = "mqtt-rate", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..))]
    publishes: Option<u32>,
    /// Messages a second that all clients from one address, or one IPv6 /64, may publish; ten times as many at
    /// once [default: 100]
    #[arg(long = "mqtt-address-rate", value_name = "NUMBER", value_parser = value_parser!(u32).range(1..))]
    source_publishes: Option<u32>,
    /// Bytes a second the STUN server answers over UDP to one address, or to one IPv6 /64; four times as many at
    /// once; 0 for no limit [default: 125000]
    #[arg(long = "stun-rate", value_name = "BYTES", requires = "stun")]
    stun_rate: Option<u32>,
    /// Second address of the STUN server on this machine, with another port than the first: its clients learn
    /// more of their NATs then; repeatable, one for each address family [default: none]
    #[arg(long, value_name = "ADDR:PORT", requires = "stun")]
    stun_alternate: Vec<SocketAddr>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    turn: TurnOptions,
}

/// The command that replaces running servers.
#[derive(Subcommand)]
enum Instead {
    Credentials(Credentials),
}

impl Run {
    /// Tells whether JSON is asked for.
    pub(crate) fn json(&self) -> bool {
        match &self.instead {
            Some(Instead::Credentials(credentials)) => credentials.json,
            None => self.json,
        }
    }

    fn config(self) -> anyhow::Result<RendezvousConfig> {
        let mut config = RendezvousConfig::default();
        let is_turn = self.turn.is_wanted();
        let files = self.tls_certificate.zip(self.tls_key);
        config.turn = self.turn.config(files.clone())?;
        if self.mqtt.is_empty() && self.mqtts.is_empty() && self.stun.is_empty() && !is_turn {
            config.mqtt = vec![(Ipv4Addr::UNSPECIFIED, MQTT_PORT).into()];
            config.stun = vec![(Ipv4Addr::UNSPECIFIED, STUN_PORT).into()];
        } else {
            (config.mqtt, config.stun) = (self.mqtt, self.stun);
            config.stun_alternate = self.stun_alternate;
        }
        if let Some((certificate, key)) = files.filter(|_| !self.mqtts.is_empty()) {
            config.broker.tls = Some(ServerTls { listen: self.mqtts, certificate, key });
        }
        let options = &mut config.broker;
        options.max_clients = self.most_clients.unwrap_or(options.max_clients);
        options.most_per_source = self.most_per_source.unwrap_or(options.most_per_source);
        let rate = |asked: Option<u32>, usual| {
            asked.map_or(usual, |per_second| Rate { per_second, burst: per_second.saturating_mul(10) })
        };
        options.publishes = rate(self.publishes, options.publishes);
        options.source_publishes = rate(self.source_publishes, options.source_publishes);
        if let Some(rate) = self.stun_rate {
            config.stun_source_bytes = (rate > 0).then_some(rate);
        }
        if let (Some(user), Some(path)) = (self.user, self.password_file) {
            config.broker.login = Some(broker::Login { user, password: password_file(&path)? });
        }
        Ok(config)
    }

    pub(crate) async fn run(self) -> anyhow::Result<()> {
        if let Some(Instead::Credentials(credentials)) = self.instead {
            return credentials.run();
        }
        raise_open_files();
        let (json, is_secret_ours) = (self.json, self.turn.is_secret_ours());
        let rendezvous = Rendezvous::start(self.config()?).await?;
        let credential = rendezvous.turn_credential("", DAY).filter(|_| is_secret_ours);
        tell(&rendezvous, credential.as_ref(), json)?;
        interrupted().await;
        rendezvous.shutdown().await;
        Ok(())
    }
}

fn tell(rendezvous: &Rendezvous, credential: Option<&Credential>, json: bool) -> anyhow::Result<()> {
    let urls = |scheme, addrs: &[SocketAddr]| -> Vec<String> {
        addrs.iter().map(|addr| format!("{scheme}{addr}")).collect()
    };
    let mqtt = urls("mqtt://", rendezvous.mqtt_addrs());
    let mqtts = urls("mqtts://", rendezvous.mqtts_addrs());
    let (stun, alternate) = (rendezvous.stun_addrs(), rendezvous.stun_alternate_addrs());
    let (relay, relays) = (rendezvous.turn_addrs(), rendezvous.turns_addrs());
    if json {
        let credential = credential.map(turn::to_json);
        return screen::line(json!({
            "event": "listening", "mqtt": mqtt, "mqtts": mqtts, "stun": stun,
            "stun_alternate": alternate, "turn": relay, "turns": relays, "turn_credential": credential,
        }));
    }
    mqtt.iter().chain(&mqtts).try_for_each(screen::line)?;
    // RFC 7064 and RFC 7065 write servers like this.
    let servers = [("stun:", &stun[..]), ("stun:", &alternate), ("turn:", relay), ("turns:", relays)];
    let uris: Vec<_> = servers.iter().flat_map(|(scheme, addrs)| urls(*scheme, addrs)).collect();
    uris.iter().try_for_each(screen::line)?;
    let first = uris.iter().find(|uri| uri.starts_with("turn"));
    credential.zip(first).map_or(Ok(()), |(credential, server)| turn::tell(credential, server))
}
