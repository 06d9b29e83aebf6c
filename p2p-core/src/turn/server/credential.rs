//! The secret that time-limited credentials are made with.

use std::fmt;
use std::time::Duration;

use zeroize::Zeroizing;

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

    /// Returns the password of a time-limited user name.
    pub(super) fn password(&self, username: &str) -> Zeroizing<String> {
        time_limited_password(self.0.as_bytes(), username)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_secret_cannot_be_guessed() {
        assert_eq!(SharedSecret::new("short").unwrap_err(), WeakSecret);
        assert_eq!(SharedSecret::new("two lines are not\none secret").unwrap_err(), WeakSecret);
    }
}
