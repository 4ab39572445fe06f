// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Child SAs that protect packets alike; their key exchange is that of one IKE exchange alone.

use super::{EspSuite, Proposal};

impl EspSuite {
    /// Whether packets are protected alike.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let packets = |suite: &Self| (suite.ah, suite.encryption, suite.integrity, suite.esn);
        packets(self) == packets(other)
    }
}

impl Proposal {
    /// Offers what protects packets as `suite` does, and nothing else; whether it has that.
    pub(crate) fn narrow_to(&mut self, suite: &EspSuite) -> bool {
        self.encryption.retain(|own| *own == suite.encryption);
        self.integrity.retain(|own| Some(*own) == suite.integrity);
        self.esn.retain(|own| *own == suite.esn);
        self.is_ah() == suite.ah
            && self.integrity.is_empty() == suite.integrity.is_none()
            && !self.esn.is_empty()
    }
}
