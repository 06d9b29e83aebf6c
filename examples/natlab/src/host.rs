//! One host of a running lab.

use std::ffi::OsStr;
use std::net::IpAddr;
use std::process::Command;
use std::thread::{self, JoinHandle};

use crate::error::LabError;
use crate::namespace::Namespace;

/// A host: a network namespace in which unmodified programs run.
#[derive(Debug)]
pub struct Host {
    pub(crate) name: String,
    pub(crate) namespace: Namespace,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Host {
    /// Returns the name of the host in the scenario.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its addresses, those of its first interface first. IPv4 comes before IPv6 unless the scenario lists
    /// them.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Returns its first address.
    pub fn address(&self) -> IpAddr {
        // The scenario gives every interface an address, or is refused.
        self.addresses[0]
    }

    /// Runs `job` inside the host and waits for it. Its sockets, and the threads and processes it starts, are inside
    /// too. A panic of `job` is passed on.
    ///
    /// # Errors
    /// [`LabError`] when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, job: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        let step = format!("entering the host `{}`", self.name);
        self.namespace.run(job).map_err(LabError::system(step))
    }

    /// Runs `job` on a thread of its own inside the host. A job that still runs when the lab is dropped finds a
    /// network that nobody carries any more.
    ///
    /// # Errors
    /// [`LabError`] when no thread can be made or the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, LabError> {
        let step = format!("starting a thread in the host `{}`", self.name);
        // Threads made inside stay inside, so a thread that has entered makes the job's own thread.
        self.namespace
            .run(|| thread::Builder::new().name(self.name.clone()).spawn(job))
            .and_then(|made| made)
            .map_err(LabError::system(step))
    }

    /// Returns a command that will run inside the host. Commands that still run when the lab is dropped are killed.
    ///
    /// # Errors
    /// [`LabError`] when there is no file descriptor left.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
        let step = format!("preparing a command for the host `{}`", self.name);
        self.namespace.command(program.as_ref()).map_err(LabError::system(step))
    }
}
