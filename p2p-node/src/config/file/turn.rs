//! The TURN servers of a configuration file.

use p2p_core::node::TurnServer;
use p2p_core::turn::client::MOST_SERVERS;
use toml::de::DeValue;

use super::error::ConfigFault;
use super::login::Login;
use super::reader::{Reader, Result, Value};
use crate::config::TurnUri;

const KEYS: [&str; 5] = ["url", "user", "password", "password_file", "ca"];

impl<'t> Reader<'t> {
    pub(super) fn turn_servers(&self, value: &Value<'t>) -> Result<Vec<TurnServer>> {
        let tables =
            self.list("turn", value, "a list of tables, each a [[turn]] with url, user, password_file")?;
        let servers =
            tables.iter().map(|table| self.turn_server(table)).collect::<Result<Vec<_>>>()?.concat();
        if servers.len() > MOST_SERVERS {
            let most =
                format!("{MOST_SERVERS} servers at most; a `turn:` without `?transport=` counts as two");
            return Err(self.wrong("turn", value, &most));
        }
        Ok(servers)
    }

    fn turn_server(&self, value: &Value<'t>) -> Result<Vec<TurnServer>> {
        let wanted =
            "a table with url, user, password or password_file, ca: every TURN server asks who we are";
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.wrong("turn", value, wanted));
        };
        let (mut uri, mut login) = (None, Login::default());
        for (key, value) in table {
            match self.key(key, &KEYS)? {
                "url" => {
                    uri = Some(self.url("url", value, "the URI of a TURN server", str::parse::<TurnUri>)?)
                }
                key => self.login(key, value, &mut login)?,
            }
        }
        let fault = |text| self.at(value, ConfigFault::Keys(text));
        let uri = uri.ok_or_else(|| fault("a TURN server needs its `url`"))?;
        let user = login.user.ok_or_else(|| fault(NO_USER))?;
        let password = login.password.ok_or_else(|| fault(NO_PASSWORD))?;
        let mut servers = uri.servers(&user, &password);
        servers.iter_mut().for_each(|server| server.ca_file.clone_from(&login.ca_file));
        Ok(servers)
    }
}

const NO_USER: &str = "a TURN server needs our `user` there, and `password` or `password_file`: ask whoever runs it, or \
                       make both with `p2p rendezvous credentials`";
const NO_PASSWORD: &str = "a TURN server's `user` needs its `password` or `password_file`";
