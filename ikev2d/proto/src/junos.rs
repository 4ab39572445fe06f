// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Junos' predefined proposal sets, by the names that they have there.

use crate::proposal::Proposal;
use crate::suite::Suite;

/// Proposals that a list has in Junos, at most.
pub const MOST_PROPOSALS: usize = 4;

/// A predefined set. The first three are of another time, and mean what they mean to the boxes that still
/// have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalSet {
    /// 3DES or AES-128 with SHA-1 and group 2; in phase 2 with forward secrecy.
    Standard,
    /// 3DES or DES with SHA-1 or MD5 and group 2; in phase 2 without forward secrecy.
    Compatible,
    /// DES with SHA-1 or MD5 and group 1; in phase 2 without forward secrecy.
    Basic,
    /// `suiteb-gcm-128`, `suiteb-gcm-256`, `prime-128`, `prime-256`.
    Suite(Suite),
}

impl ProposalSet {
    /// The set of a name.
    pub fn by_name(name: &str) -> Option<Self> {
        Some(match name {
            "standard" => Self::Standard,
            "compatible" => Self::Compatible,
            "basic" => Self::Basic,
            "suiteb-gcm-128" => Self::Suite(Suite::SuiteBGcm128),
            "suiteb-gcm-256" => Self::Suite(Suite::SuiteBGcm256),
            "prime-128" => Self::Suite(Suite::Prime128),
            "prime-256" => Self::Suite(Suite::Prime256),
            _ => return None,
        })
    }

    /// Its IKE proposals, best first.
    pub fn ike(self) -> Vec<Proposal> {
        let texts: &[&str] = match self {
            Self::Standard => &["3des-sha1-modp1024", "aes128-sha1-modp1024"],
            Self::Compatible => &[
                "3des-sha1-modp1024",
                "3des-md5-modp1024",
                "des-sha1-modp1024",
                "des-md5-modp1024",
            ],
            Self::Basic => &["des-sha1-modp768", "des-md5-modp768"],
            Self::Suite(suite) => return vec![suite.ike()],
        };
        let parsed = texts.iter().map(|text| Proposal::parse_ike(text));
        parsed.filter_map(Result::ok).collect()
    }

    /// Its ESP proposals, best first.
    pub fn esp(self) -> Vec<Proposal> {
        let texts: &[&str] = match self {
            Self::Standard => &["3des-sha1-modp1024", "aes128-sha1-modp1024"],
            Self::Compatible => &["3des-sha1", "3des-md5", "des-sha1", "des-md5"],
            Self::Basic => &["des-sha1", "des-md5"],
            Self::Suite(suite) => return vec![suite.esp()],
        };
        let parsed = texts.iter().map(|text| Proposal::parse_esp(text));
        parsed.filter_map(Result::ok).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(proposals: Vec<Proposal>) -> Vec<String> {
        proposals.iter().map(ToString::to_string).collect()
    }

    /// S32 to S34: each set is what Junos has by its name, at most four proposals.
    #[test]
    fn sets_are_what_junos_has_by_their_names() {
        let set = |name| ProposalSet::by_name(name).unwrap();
        assert_eq!(
            shown(set("standard").ike()),
            ["3des-sha1-prfsha1-modp1024", "aes128-sha1-prfsha1-modp1024"]
        );
        assert_eq!(
            shown(set("standard").esp()),
            ["3des-sha1-modp1024", "aes128-sha1-modp1024"]
        );
        assert_eq!(
            shown(set("compatible").ike()),
            [
                "3des-sha1-prfsha1-modp1024",
                "3des-md5-prfmd5-modp1024",
                "des-sha1-prfsha1-modp1024",
                "des-md5-prfmd5-modp1024"
            ]
        );
        assert_eq!(
            shown(set("compatible").esp()),
            ["3des-sha1", "3des-md5", "des-sha1", "des-md5"]
        );
        assert_eq!(
            shown(set("basic").ike()),
            ["des-sha1-prfsha1-modp768", "des-md5-prfmd5-modp768"]
        );
        assert_eq!(shown(set("basic").esp()), ["des-sha1", "des-md5"]);
        for (name, suite) in [
            ("suiteb-gcm-128", "Suite-B-GCM-128"),
            ("suiteb-gcm-256", "Suite-B-GCM-256"),
            ("prime-128", "PRIME-128"),
            ("prime-256", "PRIME-256"),
        ] {
            let suite = Suite::by_name(suite).unwrap();
            assert_eq!(set(name), ProposalSet::Suite(suite));
            assert_eq!(set(name).ike(), [suite.ike()]);
            assert_eq!(set(name).esp(), [suite.esp()]);
        }
    }
}
