//! The end of a command: its message and its exit code.

use std::fmt;
use std::process::ExitCode;

use clap::error::ContextValue;
use p2p_core::text::shown;
use p2p_node::config::ConfigError;
use p2p_node::{AttemptReport, BindError, ConnectError, StartError};
use serde_json::json;

use crate::ended::Ended;
use crate::screen;

const OTHER: u8 = 1;
const USAGE: u8 = 2;
const OFFLINE: u8 = 3;
const NO_CONNECTION: u8 = 4;
const REFUSED: u8 = 5;
const TIMEOUT: u8 = 6;
const UNKNOWN: u8 = 7;
/// The exit code that a shell reports for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;
/// The most characters of its subject that an error repeats. They show the mistake of somebody who gave a file
/// instead of its name.
const MOST_ECHO: usize = 120;

/// An error: the user asked for something impossible.
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

/// Returns the beginning of a text.
fn short(text: &str) -> String {
    match text.char_indices().nth(MOST_ECHO) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns a text with only the beginning of each long word.
fn short_words(text: &str) -> String {
    let words = text.split_inclusive(char::is_whitespace).map(|word| match word.trim_end() {
        bare if bare.chars().count() > MOST_ECHO => short(bare) + &word[bare.len()..],
        _ => word.to_owned(),
    });
    words.collect()
}

/// Prints the fault of the command line, or the answer to a question about it, and ends the process.
pub(crate) fn misused(mut error: clap::Error) -> ! {
    let echoed: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => {
                Some((kind, ContextValue::String(shown(&short(text)).into_owned())))
            }
            // Advice that repeats something long helps nobody.
            ContextValue::StyledStrs(tips) => {
                let tips = tips.iter().filter(|tip| tip.to_string().chars().count() <= MOST_ECHO);
                Some((kind, ContextValue::StyledStrs(tips.cloned().collect())))
            }
            _ => None,
        })
        .collect();
    for (kind, value) in echoed {
        error.insert(kind, value);
    }
    error.exit()
}

/// Prints once why the command failed, and returns its exit code.
pub(crate) fn tell(error: &anyhow::Error, json: bool) -> ExitCode {
    let code = code(error);
    let text = short_words(&format!("{error:#}"));
    let silent = matches!(error.downcast_ref(), Some(Ended::Unread | Ended::Told(_)));
    if json && !silent {
        screen::note(json!({ "error": { "exit_code": code, "text": text } }));
    } else if !silent {
        screen::note(format_args!("p2p: {text}"));
        if let Some(story) = error.chain().find_map(story_of) {
            screen::note(format_args!("{story}"));
        }
    }
    ExitCode::from(code)
}

/// Returns what was tried, where the cause is a connection that did not come to be.
fn story_of<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a AttemptReport> {
    cause.downcast_ref::<ConnectError>()?.report()
}

fn code(error: &anyhow::Error) -> u8 {
    error.chain().find_map(code_of).unwrap_or(OTHER)
}

fn code_of(cause: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(ended) = cause.downcast_ref() {
        return Some(match ended {
            Ended::Interrupted | Ended::InterruptedMidway => INTERRUPTED,
            Ended::TimedOut => TIMEOUT,
            Ended::Offline => UNKNOWN,
            Ended::Unread => 0,
            Ended::Unsent => OTHER,
            Ended::Told(error) => connect_code(error),
        });
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(connect_code(error));
    }
    if let Some(error) = cause.downcast_ref() {
        return Some(bind_code(error));
    }
    if cause.is::<p2p_node::rendezvous::RendezvousError>()
        || cause.is::<p2p_node::rendezvous::turn::TurnServerError>()
    {
        return Some(USAGE);
    }
    (cause.is::<Usage>() || cause.is::<ConfigError>()).then_some(USAGE)
}

fn connect_code(error: &ConnectError) -> u8 {
    match error.code() {
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
        BindError::KeyFile { .. }
        | BindError::CaFile { .. }
        | BindError::TurnServer { .. }
        | BindError::TooManyTurnServers(_) => USAGE,
        BindError::Start(StartError::Listen { .. } | StartError::Config(_)) => USAGE,
        _ => OTHER,
    }
}
