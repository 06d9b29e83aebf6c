//! Who may use the relay: time-limited credentials made from a shared secret, and users with a password.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

use super::config::RelayerConfig;
use crate::turn::credentials::time_limited_password;

/// Shorter secrets can be guessed from one credential, offline. Those made by `p2p` have 43 characters.
pub const LEAST_SECRET: usize = 16;

/// The secret that a server shares with whoever makes time-limited credentials for it.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSecret(Zeroizing<String>);

/// Never shows the secret.
impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(..)")
    }
}

/// The text is too short to be a [`SharedSecret`], or has more than one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a TURN secret is one line of at least {LEAST_SECRET} characters")]
pub struct WeakSecret;

impl SharedSecret {
    /// Takes a given secret, such as one shared with a web service.
    ///
    /// # Errors
    /// [`WeakSecret`] when it is shorter than [`LEAST_SECRET`] bytes or has more than one line.
    pub fn new(text: impl Into<String>) -> Result<Self, WeakSecret> {
        let text = Zeroizing::new(text.into());
        let is_good = text.len() >= LEAST_SECRET && !text.contains(['\r', '\n', '\0']);
        if is_good { Ok(Self(text)) } else { Err(WeakSecret) }
    }

    /// Returns the secret itself, which belongs into no log.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Makes the user name and the password of `name`, good until `expires`, in time since the UNIX epoch.
    ///
    /// Nobody is told: the server recognizes them. Quotas are kept by name, so everybody should have one of his own.
    /// The convention is that of draft-uberti-behave-turn-rest-00, section 2.2, which coturn keeps as well.
    pub fn credential(&self, name: &str, expires: Duration) -> (String, Zeroizing<String>) {
        let expires = expires.as_secs();
        let username = if name.is_empty() { expires.to_string() } else { format!("{expires}:{name}") };
        let password = self.password(&username);
        (username, password)
    }

    fn password(&self, username: &str) -> Zeroizing<String> {
        time_limited_password(self.0.as_bytes(), username)
    }
}

/// Somebody who may come, if he knows the password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UserEntry<'a> {
    pub(super) password: Zeroizing<String>,
    /// Under which name his use is counted: without the time, or each new credential were a new quota.
    pub(super) account: &'a str,
    pub(super) is_expired: bool,
}

impl RelayerConfig {
    /// Who that is. `unix` is the time in seconds since the UNIX epoch.
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
    use super::*;
    use crate::turn::Credentials;

    fn secret() -> SharedSecret {
        SharedSecret::new("logen-ninefingers").unwrap()
    }

    /// The password was made with `openssl dgst -sha1 -hmac logen-ninefingers -binary | base64`.
    #[test]
    fn a_credential_is_what_others_make_of_the_same_secret() {
        let (username, password) = secret().credential("anna", Duration::from_secs(1_700_000_000));
        assert_eq!(
            (username.as_str(), password.as_str()),
            ("1700000000:anna", "boa4+x4qOKmvJeDCTHbLh4xLj3E=")
        );
        assert_eq!(secret().credential("", Duration::from_secs(7)).0, "7");
        assert!(!format!("{:?}", secret()).contains("ninefingers"));
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

    #[test]
    fn a_secret_cannot_be_guessed() {
        assert_eq!(SharedSecret::new("short").unwrap_err(), WeakSecret);
        assert_eq!(SharedSecret::new("two lines are not\none secret").unwrap_err(), WeakSecret);
    }
}
