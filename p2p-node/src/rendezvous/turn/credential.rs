//! Who may use the relay: time-limited credentials made from a shared secret, and users with a password.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use data_encoding::BASE64;
use p2p_core::signal::link::Login;
use ring::hmac;

use super::TurnServerError;

/// Shorter secrets can be guessed from one credential, offline. Those made here have 43 characters.
const LEAST_SECRET: usize = 16;
/// A secret is one short line; what is longer is not one.
const MOST_BYTES: u64 = 1_024;

/// What a server and whoever makes credentials for it both know.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// Never shows the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a text is no [`Secret`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a TURN secret is one line of at least {LEAST_SECRET} characters")]
pub struct WeakSecret;

impl Secret {
    /// A secret that is given, such as one shared with a web service.
    ///
    /// # Errors
    /// When it is shorter than 16 bytes or has more than one line.
    pub fn new(text: impl Into<String>) -> Result<Self, WeakSecret> {
        let text = text.into();
        let is_good = text.len() >= LEAST_SECRET && !text.contains(['\r', '\n', '\0']);
        if is_good { Ok(Self(text)) } else { Err(WeakSecret) }
    }

    /// A new one of 256 random bits.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> io::Result<Self> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).map_err(io::Error::from)?;
        Ok(Self(data_encoding::BASE64URL_NOPAD.encode(&bits)))
    }

    /// The secret in a file, its first line. When there is no such file, it is made, with a new secret, and only its
    /// owner may read it.
    ///
    /// # Errors
    /// [`TurnServerError::SecretFile`] when it cannot be read or made, or is no secret.
    pub fn load(path: &Path) -> Result<Self, TurnServerError> {
        let wrong = |reason: String| TurnServerError::SecretFile { path: path.to_owned(), reason };
        let mut text = String::new();
        match File::open(path).and_then(|file| file.take(MOST_BYTES).read_to_string(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Self::create(path).map_err(|error| wrong(error.to_string()))
            }
            Err(error) => Err(wrong(error.to_string())),
            Ok(_) => {
                Self::new(text.lines().next().unwrap_or_default()).map_err(|error| wrong(error.to_string()))
            }
        }
    }

    fn create(path: &Path) -> io::Result<Self> {
        let secret = Self::generate()?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(format!("{}\n", secret.0).as_bytes())?;
        file.sync_all()?;
        Ok(secret)
    }

    /// A credential for `name`, good until `expires`, in time since the UNIX epoch. Nobody is told: the
    /// server recognizes it. Quotas are kept by name, so everybody should have one of his own.
    pub fn credential(&self, name: &str, expires: Duration) -> Credential {
        let expires = expires.as_secs();
        let username = if name.is_empty() { expires.to_string() } else { format!("{expires}:{name}") };
        let password = self.password(&username);
        Credential { username, password, expires }
    }

    /// base64(HMAC-SHA1(secret, username)): the convention of "A REST API For Access To TURN Services"
    /// (draft-uberti-behave-turn-rest-00, section 2.2), which coturn and browsers' services keep as well.
    fn password(&self, username: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.0.as_bytes());
        BASE64.encode(hmac::sign(&key, username.as_bytes()).as_ref())
    }
}

/// A user name and a password that are good for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// When it ends, in seconds since the UNIX epoch, and whose it is: `1799999999:anna`.
    pub username: String,
    /// What belongs to it.
    pub password: String,
    /// When it ends, in seconds since the UNIX epoch.
    pub expires: u64,
}

/// Never shows the password.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Everybody who may come.
#[derive(Clone, Debug)]
pub(super) struct Users {
    secret: Option<Secret>,
    fixed: Vec<Login>,
}

/// Somebody who may come, if he knows the password.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Known<'a> {
    pub(super) password: String,
    /// Under which name his use is counted: without the time, or each new credential were a new quota.
    pub(super) account: &'a str,
    pub(super) is_expired: bool,
}

impl Users {
    pub(super) fn new(secret: Option<Secret>, fixed: Vec<Login>) -> Self {
        Self { secret, fixed }
    }

    /// Who that is. `unix` is the time in seconds since the UNIX epoch.
    pub(super) fn find<'a>(&self, username: &'a str, unix: u64) -> Option<Known<'a>> {
        if let Some(login) = self.fixed.iter().find(|login| login.user == username) {
            return Some(Known { password: login.password.clone(), account: username, is_expired: false });
        }
        let secret = self.secret.as_ref()?;
        let (expires, name) = username.split_once(':').unwrap_or((username, ""));
        let expires: u64 =
            expires.bytes().all(|byte| byte.is_ascii_digit()).then(|| expires.parse().ok())??;
        Some(Known {
            password: secret.password(username),
            account: if name.is_empty() { username } else { name },
            is_expired: expires <= unix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> Secret {
        Secret::new("logen-ninefingers").unwrap()
    }

    /// The password was made with `openssl dgst -sha1 -hmac logen-ninefingers -binary | base64`.
    #[test]
    fn a_credential_is_what_others_make_of_the_same_secret() {
        let credential = secret().credential("anna", Duration::from_secs(1_700_000_000));
        assert_eq!(credential.username, "1700000000:anna");
        assert_eq!(credential.password, "boa4+x4qOKmvJeDCTHbLh4xLj3E=");
        assert_eq!(secret().credential("", Duration::from_secs(7)).username, "7");
        assert!(!format!("{credential:?} {:?}", secret()).contains(&credential.password));
        assert!(!format!("{:?}", secret()).contains("ninefingers"));
    }

    #[test]
    fn it_is_recognized_until_it_ends() {
        let users = Users::new(Some(secret()), Vec::new());
        let credential = secret().credential("anna", Duration::from_secs(100));
        let at = |unix| users.find(&credential.username, unix).unwrap();
        assert_eq!((at(99).account, at(99).is_expired), ("anna", false));
        assert_eq!(at(99).password, credential.password);
        assert!(at(100).is_expired);
        assert_eq!(users.find("100", 0).unwrap().account, "100");
        for nobody in ["anna", "", ":anna", "+1:anna", "-1:anna", "99999999999999999999999:anna", "1x:anna"] {
            assert_eq!(users.find(nobody, 0), None, "{nobody}");
        }
    }

    #[test]
    fn a_fixed_user_needs_no_secret() {
        let login = Login { user: "bert".into(), password: "word".into() };
        let users = Users::new(None, vec![login]);
        let bert = users.find("bert", u64::MAX).unwrap();
        assert_eq!((bert.password.as_str(), bert.account, bert.is_expired), ("word", "bert", false));
        assert_eq!(users.find("1700000000:anna", 0), None);
    }

    #[test]
    fn a_secret_cannot_be_guessed() {
        assert_eq!(Secret::new("short").unwrap_err(), WeakSecret);
        assert_eq!(Secret::new("two lines are not\none secret").unwrap_err(), WeakSecret);
        assert_eq!(Secret::generate().unwrap().0.len(), 43);
        assert_ne!(Secret::generate().unwrap(), Secret::generate().unwrap());
    }

    #[test]
    fn a_file_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let made = Secret::load(&path).unwrap();
        assert_eq!(Secret::load(&path).unwrap(), made);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::MetadataExt::mode(&path.metadata().unwrap());
            assert_eq!(mode & 0o777, 0o600);
        }
        std::fs::write(&path, "given by somebody else\nand more\n").unwrap();
        assert_eq!(Secret::load(&path).unwrap(), Secret::new("given by somebody else").unwrap());
        std::fs::write(&path, "short\n").unwrap();
        let error = Secret::load(&path).unwrap_err().to_string();
        assert!(error.contains("at least 16") && error.contains("secret"), "{error}");
        let error = Secret::load(folder.path()).unwrap_err();
        assert!(matches!(error, TurnServerError::SecretFile { .. }), "{error}");
    }
}
