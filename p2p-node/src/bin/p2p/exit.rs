//! How a command ends.

use std::fmt;
use std::process::ExitCode;

use p2p_node::config::ConfigError;
use p2p_node::report::error_code;
use p2p_node::{BindError, ConnectError, StartError};
use serde_json::json;

use crate::screen;

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const OFFLINE: u8 = 3;
const NO_CONNECTION: u8 = 4;
const REFUSED: u8 = 5;
const TIMEOUT: u8 = 6;
/// What a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

/// The user asked for something that cannot be.
#[derive(Debug)]
pub(crate) struct Usage(anyhow::Error);

impl Usage {
    pub(crate) fn new(text: &'static str) -> Self {
        Self(anyhow::anyhow!(text))
    }
}

impl From<anyhow::Error> for Usage {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Usage {}

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Ended {
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The time was up.
    TimedOut,
    /// Whoever read our output does not any more.
    Unread,
    /// The user was told already.
    Told(ConnectError),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("interrupted"),
            Self::TimedOut => f.write_str("out of time"),
            Self::Unread => f.write_str("nobody reads the output"),
            Self::Told(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Ended {}

/// Tells why the command failed, once, and how to exit.
pub(crate) fn tell(error: &anyhow::Error, json: bool) -> ExitCode {
    let code = code(error);
    let silent = matches!(error.downcast_ref(), Some(Ended::Unread | Ended::Told(_)));
    if json && !silent {
        screen::note(json!({ "error": { "exit_code": code, "text": format!("{error:#}") } }));
    } else if !silent {
        screen::note(format_args!("p2p: {error:#}"));
    }
    ExitCode::from(code)
}

fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(OTHER)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(ended) = cause.downcast_ref() {
        return Some(match ended {
            Ended::Interrupted => INTERRUPTED,
            Ended::TimedOut => TIMEOUT,
            Ended::Unread => 0,
            Ended::Told(error) => connect_code(error),
        });
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(connect_code(error));
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(bind_code(error));
    }
    #[cfg(feature = "rendezvous")]
    if cause.is::<p2p_node::rendezvous::RendezvousError>()
        || cause.is::<p2p_node::rendezvous::turn::TurnServerError>()
    {
        return Some(USAGE);
    }
    (cause.is::<Usage>() || cause.is::<ConfigError>()).then_some(USAGE)
}

fn connect_code(error: &ConnectError) -> u8 {
    match error_code(error) {
        "offline" => OFFLINE,
        "no_connection" => NO_CONNECTION,
        "refused" => REFUSED,
        "timed_out" => TIMEOUT,
        "ourselves" | "nothing_allowed" => USAGE,
        _ => OTHER,
    }
}

fn bind_code(error: &BindError) -> u8 {
    match error {
        BindError::KeyFile { .. } | BindError::CaFile { .. } => USAGE,
        BindError::Start(
            StartError::Listen { .. } | StartError::NoSuchInterface { .. } | StartError::Address(_),
        ) => USAGE,
        _ => OTHER,
    }
}
