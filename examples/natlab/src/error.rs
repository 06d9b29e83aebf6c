//! The errors of a lab, by whose fault they are.

use std::io;

use thiserror::Error;

use crate::scenario::ScenarioError;

/// A reason why a lab could not be made or used. Everything made before the error is gone again.
#[derive(Debug, Error)]
pub enum LabError {
    /// The scenario is impossible, which is its author's fault.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// This system or this user may not make namespaces or TUN devices.
    #[error("no lab can be made here: {0}")]
    NotAllowed(String),
    /// A program that the scenario needs did not do its work.
    #[error("{program}: {problem}")]
    Tool {
        /// The name of the program.
        program: &'static str,
        /// The fault, and its mend.
        problem: String,
    },
    /// The scenario has no such host, router or interface, which is the caller's fault.
    #[error("the scenario has no {0}")]
    Unknown(String),
    /// The cable is impossible, which is the caller's fault.
    #[error("impossible cable: {0}")]
    Cable(String),
    /// The system refused a step.
    #[error("{step}: {error}")]
    System {
        /// The step that was tried.
        step: String,
        /// The error of the system.
        #[source]
        error: io::Error,
    },
}

impl LabError {
    /// Returns a function that adds the step to the system's error.
    pub(crate) fn system(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        |error| Self::System { step, error }
    }
}
