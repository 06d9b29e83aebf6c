//! The login at a server and the certificates to trust there, which the tables of all servers have in common.

use std::path::PathBuf;

use super::error::ConfigFault;
use super::password_file;
use super::reader::{Reader, Result, Value};

/// The login keys of a table that were read so far.
#[derive(Default)]
pub(super) struct Login {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) ca_file: Option<PathBuf>,
}

impl<'t> Reader<'t> {
    /// Takes in the value of `user`, `password`, `password_file` or `ca`.
    pub(super) fn login(&self, key: &str, value: &Value<'t>, login: &mut Login) -> Result<()> {
        match key {
            "user" => login.user = Some(self.string("user", value, "a user name")?.to_owned()),
            "ca" => login.ca_file = Some(self.path("ca", value)?),
            _ if login.password.is_some() => {
                let one = "a server has one password: `password` or `password_file`, not both";
                return Err(self.at(value, ConfigFault::Keys(one)));
            }
            "password" => login.password = Some(self.secret(value)?),
            _ => {
                let path = self.path("password_file", value)?;
                let password = password_file(&path).map_err(|error| self.at(value, error.fault))?;
                login.password = Some(password);
            }
        }
        Ok(())
    }
}
