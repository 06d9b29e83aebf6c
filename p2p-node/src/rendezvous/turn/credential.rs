//! The secret of a server, kept in a file, and credentials made with it.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use p2p_core::turn::server::SharedSecret;
pub use p2p_core::turn::server::WeakSecret;

use super::TurnServerError;

/// A secret is one short line; what is longer is not one.
const MOST_BYTES: u64 = 1_024;

/// What a server and whoever makes credentials for it both know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret(pub(super) SharedSecret);

impl Secret {
    /// A secret that is given, such as one shared with a web service.
    ///
    /// # Errors
    /// When it is shorter than 16 bytes or has more than one line.
    pub fn new(text: impl Into<String>) -> Result<Self, WeakSecret> {
        SharedSecret::new(text).map(Self)
    }

    /// A new one of 256 random bits.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn generate() -> io::Result<Self> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).map_err(io::Error::from)?;
        Self::new(data_encoding::BASE64URL_NOPAD.encode(&bits)).map_err(io::Error::other)
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
        file.write_all(format!("{}\n", secret.0.text()).as_bytes())?;
        file.sync_all()?;
        Ok(secret)
    }

    /// A credential for `name`, good until `expires`, in time since the UNIX epoch. Nobody is told: the
    /// server recognizes it. Quotas are kept by name, so everybody should have one of his own.
    pub fn credential(&self, name: &str, expires: Duration) -> Credential {
        let (username, password) = self.0.credential(name, expires);
        Credential { username, password: password.to_string(), expires: expires.as_secs() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_the_secret_nor_a_password_is_shown() {
        let secret = Secret::new("logen-ninefingers").unwrap();
        let credential = secret.credential("anna", Duration::from_secs(1_700_000_000));
        let shown = format!("{credential:?} {secret:?}");
        assert!(!shown.contains(&credential.password) && !shown.contains("ninefingers"));
        assert_eq!(credential.username, "1700000000:anna");
    }

    #[test]
    fn a_generated_secret_cannot_be_guessed() {
        assert_eq!(Secret::generate().unwrap().0.text().len(), 43);
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
