//! What can be wrong with a configuration file.

use std::path::PathBuf;

/// Why a configuration file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", place(.file, .line))]
pub struct ConfigError {
    /// The file, when the text came from one.
    pub file: Option<PathBuf>,
    /// The line, counted from 1, when one is at fault.
    pub line: Option<usize>,
    /// What is wrong.
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

/// What is wrong in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// It is not TOML.
    #[error("not TOML: {0}")]
    Syntax(String),
    /// A key that means nothing here.
    #[error("unknown key `{key}`: {hint}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The nearest key there is, or all of them.
        hint: String,
    },
    /// A key with a value it cannot have.
    #[error("`{key}` = {found}: {wanted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What stands there. Never a password.
        found: String,
        /// What is allowed.
        wanted: String,
    },
    /// A key that needs another one, or excludes it.
    #[error("{0}")]
    Keys(&'static str),
    /// A file with a password cannot be read.
    #[error("password file {path}: {reason}")]
    PasswordFile {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<ConfigFault> for ConfigError {
    /// Without a place.
    fn from(fault: ConfigFault) -> Self {
        Self { file: None, line: None, fault }
    }
}
