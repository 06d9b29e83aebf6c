//! What can go wrong, and whose fault it is.

use std::io;

use thiserror::Error;

use crate::scenario::ScenarioError;

/// A lab that could not be made or used. Whatever was made before the error is gone again.
#[derive(Debug, Error)]
pub enum LabError {
    /// The scenario cannot be: the fault of whoever wrote it.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// This system or this user may not make namespaces or TUN devices.
    #[error("no lab can be made here: {0}")]
    NotAllowed(String),
    /// A program that the scenario needs did not do its work.
    #[error("{program}: {problem}")]
    Tool {
        /// The program.
        program: &'static str,
        /// What went wrong, and what to do.
        problem: String,
    },
    /// There is no such host, router or interface in the scenario: the caller's fault.
    #[error("the scenario has no {0}")]
    Unknown(String),
    /// The cable is impossible: the caller's fault.
    #[error("impossible cable: {0}")]
    Cable(String),
    /// The system refused a step.
    #[error("{step}: {error}")]
    System {
        /// What was tried.
        step: String,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

impl LabError {
    /// The system's error, with the step that caused it.
    pub(crate) fn system(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        |error| Self::System { step, error }
    }
}
