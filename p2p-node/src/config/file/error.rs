//! The errors of a configuration file.

use std::path::PathBuf;

/// A reason why a configuration file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", place(.file, .line))]
pub struct ConfigError {
    /// The path of the file, when the text came from one.
    pub file: Option<PathBuf>,
    /// The line, counted from 1, when one is at fault.
    pub line: Option<usize>,
    /// The fault itself.
    pub fault: ConfigFault,
}

fn place(file: &Option<PathBuf>, line: &Option<usize>) -> String {
    match (file, line) {
        (Some(file), Some(line)) => format!("{}, line {line}: ", file.display()),
        (Some(file), None) => format!("{}: ", file.display()),
        (None, Some(line)) => format!("line {line}: "),
        (None, None) => String::new(),
    }
}

/// A fault in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// The file is not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// The file has a key that means nothing here.
    #[error("unknown key `{key}`: {hint}")]
    UnknownKey {
        /// The name of the key.
        key: String,
        /// The nearest known key, or all of them.
        hint: String,
    },
    /// A key has a value that it cannot have.
    #[error("`{key}` = {found}: {wanted}")]
    Value {
        /// The name of the key.
        key: &'static str,
        /// The value that stands there, but never a password.
        found: String,
        /// The values that are allowed.
        wanted: String,
    },
    /// A key needs another one, or excludes it.
    #[error("{0}")]
    Keys(&'static str),
    /// A file with a password cannot be read.
    #[error("password file {path}: {reason}")]
    PasswordFile {
        /// The path of the password file.
        path: PathBuf,
        /// The reason why it cannot be read.
        reason: String,
    },
}

impl From<ConfigFault> for ConfigError {
    /// Makes an error without file and line.
    fn from(fault: ConfigFault) -> Self {
        Self { file: None, line: None, fault }
    }
}
