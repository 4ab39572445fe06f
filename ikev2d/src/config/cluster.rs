// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[cluster]`: who goes on with the IKE SAs when this member dies (RFC 6311).

use std::path::PathBuf;

use serde::Deserialize;

/// A hot standby cluster.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterSection {
    /// Where the active member keeps what another one needs: all of them see it.
    pub directory: PathBuf,
    /// What that is sealed under: 32 random octets or more in a file of mode 600, the same for all.
    pub key_file: PathBuf,
    /// Which member this is, from 1 to 255: no other one has its number.
    pub member: u8,
}

impl ClusterSection {
    /// What the types do not say: the setting that is wrong, and why.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        if self.member == 0 {
            let what = "members are numbered from 1 to 255".to_owned();
            return Err(("cluster.member".to_owned(), what));
        }
        Ok(())
    }
}
