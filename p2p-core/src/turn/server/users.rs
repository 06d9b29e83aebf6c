//! The users of a server: those with a time-limited credential, and those with a password that does not end.

use zeroize::Zeroizing;

use super::config::RelayerConfig;

/// A user, who must know the password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UserEntry<'a> {
    pub(super) password: Zeroizing<String>,
    /// The name under which his use is counted: without the time, or each new credential were a new quota.
    pub(super) account: &'a str,
    pub(super) is_expired: bool,
}

impl RelayerConfig {
    /// Finds a user. `unix` is the time in seconds since the UNIX epoch.
    pub(super) fn find_user<'a>(&self, username: &'a str, unix: u64) -> Option<UserEntry<'a>> {
        if let Some(user) = self.users.iter().find(|user| user.username() == username) {
            let password = Zeroizing::new(user.password().to_owned());
            return Some(UserEntry { password, account: username, is_expired: false });
        }
        let secret = self.secret.as_ref()?;
        let (expires, name) = username.split_once(':').unwrap_or((username, ""));
        let expires: u64 =
            expires.bytes().all(|byte| byte.is_ascii_digit()).then(|| expires.parse().ok())??;
        Some(UserEntry {
            password: secret.password(username),
            account: if name.is_empty() { username } else { name },
            is_expired: expires <= unix,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::turn::Credentials;
    use crate::turn::server::SharedSecret;

    fn secret() -> SharedSecret {
        SharedSecret::new("logen-ninefingers").unwrap()
    }

    #[test]
    fn it_is_recognized_until_it_ends() {
        let users = RelayerConfig { secret: Some(secret()), ..RelayerConfig::new("realm") };
        let (username, password) = secret().credential("anna", Duration::from_secs(100));
        let at = |unix| users.find_user(&username, unix).unwrap();
        assert_eq!((at(99).account, at(99).is_expired), ("anna", false));
        assert_eq!(at(99).password, password);
        assert!(at(100).is_expired);
        assert_eq!(users.find_user("100", 0).unwrap().account, "100");
        for nobody in ["anna", "", ":anna", "+1:anna", "-1:anna", "99999999999999999999999:anna", "1x:anna"] {
            assert_eq!(users.find_user(nobody, 0), None, "{nobody}");
        }
    }

    #[test]
    fn a_fixed_user_needs_no_secret() {
        let users = vec![Credentials::new("bert", "word").unwrap()];
        let users = RelayerConfig { users, ..RelayerConfig::new("realm") };
        let bert = users.find_user("bert", u64::MAX).unwrap();
        assert_eq!((bert.password.as_str(), bert.account, bert.is_expired), ("word", "bert", false));
        assert_eq!(users.find_user("1700000000:anna", 0), None);
    }
}
