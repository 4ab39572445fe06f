// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why a verb failed, and the exit status that says so to a script.

use std::process::ExitCode;

/// A verb's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The process's exit status.
    pub(crate) code: ExitCode,
    /// What happened.
    pub(crate) error: anyhow::Error,
}

/// What a verb returns.
pub(crate) type Outcome = Result<ExitCode, Failure>;

impl Failure {
    /// What was asked makes no sense.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: ExitCode::from(2),
            error: error.into(),
        }
    }

    /// No such device, or no daemon to ask.
    pub(crate) fn no_device(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: ExitCode::from(3),
            error: error.into(),
        }
    }

    /// Whoever was asked said no.
    pub(crate) fn refused(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: ExitCode::from(4),
            error: error.into(),
        }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            code: ExitCode::FAILURE,
            error: error.into(),
        }
    }
}
