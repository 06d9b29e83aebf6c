//! A broker of a configuration file.

use p2p_core::node::BrokerConfig;
use toml::de::DeValue;

use super::error::ConfigFault;
use super::login::Login;
use super::reader::{Reader, Result, Value};
use crate::config::parse_broker;

const KEYS: [&str; 6] = ["url", "user", "password", "password_file", "ca", "bind"];

impl<'t> Reader<'t> {
    pub(super) fn broker(&self, value: &Value<'t>) -> Result<BrokerConfig> {
        let wanted = "a URL, or a table with url, user, password or password_file, ca, bind";
        let url = |key, value| self.url(key, value, "the URL of a broker", parse_broker);
        let table = match value.get_ref() {
            DeValue::String(_) => return Ok(BrokerConfig::new(url("brokers", value)?)),
            DeValue::Table(table) => table,
            _ => return Err(self.wrong("brokers", value, wanted)),
        };
        let (mut at, mut bind, mut login) = (None, None, Login::default());
        for (key, value) in table {
            match self.key(key, &KEYS)? {
                "url" => at = Some(url("url", value)?),
                "bind" => {
                    let wanted = "the local IP address to connect from";
                    let parse = |text: &str| text.parse().map_err(|_| wanted.to_owned());
                    bind = Some(self.one("bind", value, parse)?);
                }
                key => self.login(key, value, &mut login)?,
            }
        }
        let fault = |text| self.at(value, ConfigFault::Keys(text));
        let at = at.ok_or_else(|| fault("a broker needs its `url`"))?;
        let ca_file = login.ca_file;
        let login = match (login.user, login.password) {
            (Some(user), password) => Some((user, password.unwrap_or_default())),
            (None, None) => None,
            (None, Some(_)) => return Err(fault("a broker's password needs its `user`")),
        };
        let mut broker = BrokerConfig::new(at);
        (broker.login, broker.ca_file, broker.bind) = (login, ca_file, bind);
        Ok(broker)
    }
}
