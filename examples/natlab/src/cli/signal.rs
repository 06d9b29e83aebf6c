//! The signals that ask the command to stop, for an orderly end instead of a sudden one.

use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

/// The signals that ask for an end. It must be made before any other thread is.
#[derive(Debug)]
pub(super) struct Stop {
    asked: Receiver<Signal>,
}

impl Stop {
    pub(super) fn new() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().context("blocking signals")?;
        let (sender, asked) = mpsc::channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            while let Ok(signal) = signals.wait() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { asked })
    }

    /// Waits until a signal asks for an end.
    pub(super) fn wait(&self) -> Option<Signal> {
        self.asked.recv().ok()
    }

    /// Waits this long for a signal.
    pub(super) fn within(&self, span: std::time::Duration) -> Option<Signal> {
        self.asked.recv_timeout(span).ok()
    }
}

/// Returns the exit code that a shell gives a process ended by this signal.
pub(super) fn exit_code(signal: Signal) -> ExitCode {
    ExitCode::from(128 + signal as u8)
}
