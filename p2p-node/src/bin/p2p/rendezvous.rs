//! `p2p rendezvous`

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use p2p_node::config::password_file;
use p2p_node::rendezvous::{Rendezvous, RendezvousConfig, broker};
use serde_json::json;

use crate::options::interrupted;
use crate::screen;

/// The ports of MQTT and STUN by registration with IANA.
const MQTT_PORT: u16 = 1883;
const STUN_PORT: u16 = 3478;

const EXAMPLE: &str = "\
Prints one line per server, then runs until it is interrupted. Neither server sees what peers say to each
other, and no pipe goes through them.

Example:
  p2p rendezvous --mqtt 192.0.2.1:1883 --stun 192.0.2.1:3478
  p2p listen --broker mqtt://192.0.2.1 --stun 192.0.2.1:3478";

/// Run an MQTT broker and a STUN server (UDP and TCP) for others
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Run {
    /// Where the broker listens; port 0 for any free one; repeatable [default: 0.0.0.0:1883, if nothing
    /// else is asked for]
    #[arg(long, value_name = "ADDR:PORT")]
    mqtt: Vec<SocketAddr>,
    /// Where the broker listens with TLS; repeatable
    #[arg(long, value_name = "ADDR:PORT", requires_all = ["tls_certificate", "tls_key"])]
    mqtts: Vec<SocketAddr>,
    /// PEM file with the broker's certificate, and those above it
    #[arg(long, value_name = "FILE", requires = "mqtts")]
    tls_certificate: Option<PathBuf>,
    /// PEM file with the private key of that certificate
    #[arg(long, value_name = "FILE", requires = "mqtts")]
    tls_key: Option<PathBuf>,
    /// User name the broker asks for [default: none]
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File whose first line is the password the broker asks for
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Where the STUN server listens, over UDP and TCP; port 0 for any free one; repeatable
    /// [default: 0.0.0.0:3478, if nothing else is asked for]
    #[arg(long, value_name = "ADDR:PORT")]
    stun: Vec<SocketAddr>,
    /// Second address of the STUN server on this machine, with another port than the first: its clients learn
    /// more of their NATs then; repeatable, one for each address family [default: none]
    #[arg(long, value_name = "ADDR:PORT", requires = "stun")]
    stun_alternate: Vec<SocketAddr>,
    /// JSON instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

impl Run {
    fn config(self) -> anyhow::Result<RendezvousConfig> {
        let mut config = RendezvousConfig::default();
        if self.mqtt.is_empty() && self.mqtts.is_empty() && self.stun.is_empty() {
            config.mqtt = vec![(Ipv4Addr::UNSPECIFIED, MQTT_PORT).into()];
            config.stun = vec![(Ipv4Addr::UNSPECIFIED, STUN_PORT).into()];
        } else {
            (config.mqtt, config.stun) = (self.mqtt, self.stun);
            config.stun_alternate = self.stun_alternate;
        }
        if let (Some(certificate), Some(key)) = (self.tls_certificate, self.tls_key) {
            config.broker.tls = Some(broker::ServerTls { listen: self.mqtts, certificate, key });
        }
        if let (Some(user), Some(path)) = (self.user, self.password_file) {
            config.broker.login = Some(broker::Login { user, password: password_file(&path)? });
        }
        Ok(config)
    }

    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let json = self.json;
        let rendezvous = Rendezvous::start(self.config()?).await?;
        tell(&rendezvous, json)?;
        interrupted().await;
        rendezvous.shutdown().await;
        Ok(())
    }
}

fn tell(rendezvous: &Rendezvous, json: bool) -> anyhow::Result<()> {
    let urls = |scheme, addrs: &[SocketAddr]| -> Vec<String> {
        addrs.iter().map(|addr| format!("{scheme}{addr}")).collect()
    };
    let mqtt = urls("mqtt://", rendezvous.mqtt_addrs());
    let mqtts = urls("mqtts://", rendezvous.mqtts_addrs());
    let stun = rendezvous.stun_addrs();
    if json {
        return screen::line(json!({ "event": "listening", "mqtt": mqtt, "mqtts": mqtts, "stun": stun }));
    }
    mqtt.iter().chain(&mqtts).try_for_each(screen::line)?;
    // RFC 7064 writes a STUN server like this.
    urls("stun:", &stun).iter().try_for_each(screen::line)
}
