// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which algorithms of a proposal are of another time (RFC 8247, RFC 8221).

use super::{EspSuite, IkeSuite, Proposal};
use crate::algorithm::Standing;

impl Proposal {
    /// The words of what is less than sound in it, each with how it stands.
    pub fn weak(&self) -> Vec<(&'static str, Standing)> {
        let encryption = self.encryption.iter().map(|e| (e.word(), e.standing()));
        let integrity = self.integrity.iter().map(|i| (i.word(), i.standing()));
        let prf = self.prf.iter().map(|p| (p.word(), p.standing()));
        let groups = self.groups.iter().map(|g| (g.word(), g.standing()));
        let additional = self.additional.iter().flatten().flatten();
        let additional = additional.map(|g| (g.word(), g.standing()));
        encryption
            .chain(integrity)
            .chain(prf)
            .chain(groups)
            .chain(additional)
            .filter(|(_, standing)| *standing > Standing::Sound)
            .collect()
    }
}

impl IkeSuite {
    /// The words of what is less than sound in it.
    pub fn weak(self) -> Vec<&'static str> {
        words(&self.to_proposal())
    }
}

impl EspSuite {
    /// The words of what is less than sound in it.
    pub fn weak(self) -> Vec<&'static str> {
        words(&self.to_proposal())
    }
}

fn words(proposal: &Proposal) -> Vec<&'static str> {
    proposal.weak().into_iter().map(|(word, _)| word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B51: RFC 8247 §2 and RFC 8221 §5, §6: what is MAY, SHOULD NOT or on its way out, and MUST NOT.
    #[test]
    fn algorithms_stand_where_the_rfcs_put_them() {
        use Standing::{Forbidden, Legacy};
        let proposal = Proposal::parse_ike(
            "3des-des-aes128-sha1-md5-sha256-modp768-modp1024-modp1536-modp1024s160-modp2048s224-\
             modp2048s256-modp2048-ecp256bp-aesxcbc",
        );
        assert_eq!(
            proposal.unwrap().weak(),
            [
                ("3des", Legacy),
                ("des", Forbidden),
                ("sha1", Legacy),
                ("md5", Forbidden),
                ("prfsha1", Legacy),
                ("prfmd5", Forbidden),
                ("modp768", Forbidden),
                ("modp1024", Legacy),
                ("modp1536", Legacy),
                ("modp1024s160", Forbidden),
                ("modp2048s224", Legacy),
                ("modp2048s256", Legacy),
            ]
        );
        let defaults = [Proposal::ike_default(), Proposal::esp_default()];
        // RFC 8247 §2.2 and §2.3: AES-XCBC is for small devices (SHOULD); RFC 8221 §6: AES-XCBC and GMAC may
        // be there. Of AES-CMAC neither says a word.
        let by_aes = [
            Proposal::parse_ike("aes128-aesxcbc-aescmac-x25519"),
            Proposal::parse_esp("aes128-aesxcbc-aescmac"),
            Proposal::parse_esp("aes128gmac-aes192gmac-aes256gmac"),
            Proposal::parse_ah("aesxcbc-aescmac-aes128gmac"),
        ];
        let by_aes = by_aes.map(Result::unwrap);
        for proposal in defaults.iter().flatten().chain(&by_aes) {
            assert_eq!(proposal.weak(), []);
        }
        // And none of them is offered unless it is named.
        let words = defaults.iter().flatten().map(Proposal::to_string);
        assert!(
            !words
                .into_iter()
                .any(|all| all.contains("mac") || all.contains("xcbc"))
        );
    }
}
