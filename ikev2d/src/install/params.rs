// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What IKE has agreed on, in the engines' terms.

use std::hash::{BuildHasher, Hasher, RandomState};

use ikev2d_proto::algorithm::{Encryption, Integrity};
use ikev2d_proto::event::{ChildKeys, ChildSa};
use ikev2d_proto::proposal::EspSuite;
use ikev2d_proto::ts;
use offload_api::error::InvalidSa;
use offload_api::sa::{
    self, Direction, KeyMaterial, Lifetimes, Limits, Mode, Numbering, SaParams, Spi, Suite,
    TrafficSelector,
};

use crate::config::ChildSection;
use crate::dataplane::Selectors;

pub(super) fn lifetimes(section: &ChildSection) -> Lifetimes {
    let limit = |value: u64| (value != 0).then_some(value);
    // So that not all SAs of a gateway are rekeyed at once; the hasher's keys are random enough for that.
    let earlier = |value: u64, spread: u64| {
        let random = RandomState::new().build_hasher().finish();
        let by = random % spread.saturating_add(1).max(1);
        limit(value).map(|value| value.saturating_sub(by).max(1))
    };
    // Time is the core's: it rekeys by its own clock.
    Lifetimes {
        soft: Limits {
            bytes: earlier(section.rekey_bytes, section.rand_bytes),
            packets: earlier(section.rekey_packets, section.rand_packets),
            time: None,
        },
        hard: Limits {
            bytes: limit(section.life_bytes),
            packets: limit(section.life_packets),
            time: section.life_time(),
        },
    }
}

/// A peer that lets an SA go after so many octets has it rekeyed before.
pub(super) fn within(mut lifetimes: Lifetimes, peers: Option<u64>) -> Lifetimes {
    let Some(bytes) = peers else {
        return lifetimes;
    };
    let least = |own: Option<u64>, bytes: u64| Some(own.map_or(bytes, |own| own.min(bytes)));
    lifetimes.soft.bytes = least(lifetimes.soft.bytes, (bytes - bytes / 10).max(1));
    lifetimes.hard.bytes = least(lifetimes.hard.bytes, bytes.max(1));
    lifetimes
}

/// IKE's algorithms as the engines name them.
pub(crate) fn suite(suite: &EspSuite) -> Result<Suite, InvalidSa> {
    let integrity = match suite.integrity {
        None => sa::Integrity::None,
        Some(Integrity::HmacSha256) => sa::Integrity::HmacSha256,
        Some(Integrity::HmacSha384) => sa::Integrity::HmacSha384,
        Some(Integrity::HmacSha512) => sa::Integrity::HmacSha512,
        Some(Integrity::HmacMd5) => sa::Integrity::HmacMd5,
        Some(Integrity::HmacSha1) => sa::Integrity::HmacSha1,
        Some(Integrity::AesXcbc) => sa::Integrity::AesXcbc,
        Some(Integrity::AesCmac) => sa::Integrity::AesCmac,
        Some(Integrity::Aes128Gmac) => sa::Integrity::Aes128Gmac,
        Some(Integrity::Aes192Gmac) => sa::Integrity::Aes192Gmac,
        Some(Integrity::Aes256Gmac) => sa::Integrity::Aes256Gmac,
    };
    if suite.ah {
        return Suite::ah(integrity);
    }
    let cipher = match suite.encryption {
        Encryption::Des => sa::Cipher::DesCbc,
        Encryption::TripleDes => sa::Cipher::TripleDesCbc,
        Encryption::Null => sa::Cipher::Null,
        Encryption::AesCbc(128) => sa::Cipher::Aes128Cbc,
        Encryption::AesCbc(192) => sa::Cipher::Aes192Cbc,
        Encryption::AesCbc(_) => sa::Cipher::Aes256Cbc,
        Encryption::AesGcm16(128) => sa::Cipher::Aes128Gcm,
        Encryption::AesGcm16(192) => sa::Cipher::Aes192Gcm,
        Encryption::AesGcm16(_) => sa::Cipher::Aes256Gcm,
        Encryption::AesGcm12(128) => sa::Cipher::Aes128Gcm12,
        Encryption::AesGcm12(192) => sa::Cipher::Aes192Gcm12,
        Encryption::AesGcm12(_) => sa::Cipher::Aes256Gcm12,
        Encryption::AesGcm8(128) => sa::Cipher::Aes128Gcm8,
        Encryption::AesGcm8(192) => sa::Cipher::Aes192Gcm8,
        Encryption::AesGcm8(_) => sa::Cipher::Aes256Gcm8,
        Encryption::NullAesGmac(128) => sa::Cipher::Aes128Gmac,
        Encryption::NullAesGmac(192) => sa::Cipher::Aes192Gmac,
        Encryption::NullAesGmac(_) => sa::Cipher::Aes256Gmac,
        Encryption::AesCcm16(128) => sa::Cipher::Aes128Ccm16,
        Encryption::AesCcm16(192) => sa::Cipher::Aes192Ccm16,
        Encryption::AesCcm16(_) => sa::Cipher::Aes256Ccm16,
        Encryption::AesCcm12(128) => sa::Cipher::Aes128Ccm12,
        Encryption::AesCcm12(192) => sa::Cipher::Aes192Ccm12,
        Encryption::AesCcm12(_) => sa::Cipher::Aes256Ccm12,
        Encryption::AesCcm8(128) => sa::Cipher::Aes128Ccm8,
        Encryption::AesCcm8(192) => sa::Cipher::Aes192Ccm8,
        Encryption::AesCcm8(_) => sa::Cipher::Aes256Ccm8,
        Encryption::ChaCha20Poly1305 => sa::Cipher::ChaCha20Poly1305,
    };
    Suite::new(cipher, integrity)
}

pub(super) fn params(
    child: &ChildSa,
    (direction, keys): (Direction, &ChildKeys),
    lifetimes: Lifetimes,
    replay_window: u32,
) -> Result<SaParams, InvalidSa> {
    let spi = match direction {
        Direction::Inbound => child.spi_in,
        Direction::Outbound => child.spi_out,
    };
    let suite = suite(&child.suite)?;
    Ok(SaParams {
        spi: Spi::new(spi).ok_or(InvalidSa::ReservedSpi { spi })?,
        direction,
        mode: match child.transport {
            true => Mode::Transport,
            false => Mode::Tunnel,
        },
        suite,
        keys: KeyMaterial::from_keymat(suite, &keys.encryption, &keys.integrity)?,
        esn: child.suite.esn,
        replay_window,
        replay_state: None,
        numbering: Numbering::Granted(None),
        // The socket adds the rest.
        outer: None,
        lifetimes,
        tfc_padding: false,
        selectors: Vec::new(),
    })
}

/// Each of our side's selectors with each of the peer's.
pub(crate) fn pairs(from: &[ts::TrafficSelector], to: &[ts::TrafficSelector]) -> Selectors {
    let selector = |ts: &ts::TrafficSelector| TrafficSelector {
        start: ts.start,
        end: ts.end,
        protocol: ts.protocol,
        start_port: ts.start_port,
        end_port: ts.end_port,
    };
    from.iter()
        .flat_map(|from| to.iter().map(move |to| (selector(from), selector(to))))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::Config;

    use super::*;

    /// S20, B53: what an IKEv1 peer has said of kilobytes holds where it is less than ours.
    #[test]
    fn a_peers_lifetime_in_octets_holds_beside_ours() {
        let of = |soft, hard| {
            let mut lifetimes = Lifetimes::default();
            (lifetimes.soft.bytes, lifetimes.hard.bytes) = (soft, hard);
            lifetimes
        };
        for (own, peers, expected) in [
            (of(None, None), None, of(None, None)),
            (of(None, None), Some(1000), of(Some(900), Some(1000))),
            (
                of(Some(500), Some(600)),
                Some(1000),
                of(Some(500), Some(600)),
            ),
            (of(Some(5000), None), Some(1000), of(Some(900), Some(1000))),
        ] {
            assert_eq!(within(own, peers), expected);
        }
    }

    /// A peer that refuses to rekey a child does not keep it for ever.
    #[test]
    fn a_child_stops_a_tenth_after_its_rekeying_unless_it_says_otherwise() {
        for (settings, seconds) in [
            ("", Some(3960)),
            ("rekey_time = \"100s\"", Some(110)),
            ("rekey_time = 0", None),
            ("life_time = \"2h\"", Some(7200)),
            ("life_time = 0", None),
        ] {
            let text = format!(
                "[connections.gw]\nlocal = {{ auth = \"psk\" }}\nremote = {{ auth = \"psk\" }}\n\
                 [connections.gw.children.net]\n{settings}\n"
            );
            let config: Config = text.parse().unwrap();
            let section = &config.connections["gw"].children["net"];
            let expected = seconds.map(Duration::from_secs);
            assert_eq!(lifetimes(section).hard.time, expected, "{settings}");
        }
    }
}
