// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong with a peer.

use std::io;

use rustix::io::Errno;
use thiserror::Error;

/// A vfio-user call failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer has closed the connection or died.
    #[error("the peer is gone")]
    Gone,
    /// The peer does not answer.
    #[error("the peer did not answer {command} within {millis} ms")]
    Timeout {
        /// What was asked.
        command: &'static str,
        /// The deadline.
        millis: u64,
    },
    /// The peer refused the command.
    #[error("the peer refused {command}: {errno}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// Its reason.
        errno: Errno,
    },
    /// The peer sent something that the protocol does not allow.
    #[error("protocol error: {what} (found {found})")]
    Protocol {
        /// What was wrong.
        what: &'static str,
        /// The offending value.
        found: u64,
    },
    /// The peer speaks another version.
    #[error("version {major}.{minor} is not supported, expected 0.x")]
    Version {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
    },
    /// The arguments make no sense.
    #[error("{what}")]
    Argument {
        /// Why.
        what: &'static str,
    },
    /// The socket failed.
    #[error("socket: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Gone,
            errno => Self::Io(errno.into()),
        }
    }
}
