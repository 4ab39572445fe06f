// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs with manual keys in the answer to `list-sas`, in the form of an IKE SA that there is none of.

use std::time::Instant;

use offload_api::event::Engine;
use offload_api::sa::{AeadMode, Cipher, Integrity, Protocol, Suite};

use super::{Manual, Pair};
use crate::vici::lists::selector;
use crate::vici::message::Section;

impl Manual {
    /// `list-sa` events, one for each pair that is asked for.
    pub(crate) fn list(&self, wanted: Option<&str>, now: Instant) -> Vec<(&'static str, Section)> {
        self.pairs
            .iter()
            .filter(|(name, _)| wanted.is_none_or(|wanted| wanted == name.as_str()))
            .map(|(name, pair)| {
                let mut event = Section::default();
                event.put_section(name, self.sa(name, pair, now));
                ("list-sa", event)
            })
            .collect()
    }

    fn sa(&self, name: &str, pair: &Pair, now: Instant) -> Section {
        let section = &pair.section;
        let port = if section.encap { self.nat_port } else { 0 };
        let mut sa = Section::default();
        sa.put("uniqueid", pair.child);
        sa.put("version", 0);
        sa.put("state", "MANUAL");
        for (end, address) in [("local", section.local), ("remote", section.remote)] {
            sa.put(&format!("{end}-host"), address);
            sa.put(&format!("{end}-port"), port);
            sa.put(&format!("{end}-id"), address);
        }
        sa.put("initiator-spi", "0000000000000000");
        sa.put("responder-spi", "0000000000000000");
        let age = now.saturating_duration_since(pair.since).as_secs();
        sa.put("established", age);
        let mut children = Section::default();
        children.put_section(
            &format!("{name}-{}", pair.child),
            self.child(name, pair, age),
        );
        sa.put_section("child-sas", children);
        sa
    }

    fn child(&self, name: &str, pair: &Pair, age: u64) -> Section {
        let section = &pair.section;
        let suite = section.suite.0;
        let mut child = Section::default();
        child.put("name", name);
        child.put("uniqueid", pair.child);
        child.put("reqid", 1);
        child.put("state", "INSTALLED");
        child.put("mode", "TUNNEL");
        child.put("protocol", suite.protocol());
        if section.encap {
            child.put("encap", "yes");
        }
        child.put("spi-in", section.spi_in.0);
        child.put("spi-out", section.spi_out.0);
        put_suite(&mut child, suite);
        if section.esn {
            child.put("esn", 1);
        }
        let (inbound, outbound) = self.plane.traffic(pair.child);
        child.put("bytes-in", inbound.1);
        child.put("packets-in", inbound.0);
        child.put("bytes-out", outbound.1);
        child.put("packets-out", outbound.0);
        child.put("install-time", age);
        let (local, remote) = section.traffic();
        child.put_list("local-ts", local.iter().map(selector));
        child.put_list("remote-ts", remote.iter().map(selector));
        child.put("keys", "manual");
        if let Ok(placement) = self.failover.placement(pair.outbound) {
            let engine = match placement.engine {
                Engine::Device => "device",
                Engine::Software => "software",
            };
            child.put("engine", engine);
            if let Some(reason) = &placement.reason {
                child.put("engine-reason", reason);
            }
        }
        child
    }
}

fn put_suite(child: &mut Section, suite: Suite) {
    let encryption = match suite.cipher() {
        _ if suite.protocol() == Protocol::Ah => None,
        Cipher::Null => Some(("NULL", None)),
        Cipher::Aes128Gcm => Some(("AES_GCM_16", Some(128))),
        Cipher::Aes256Gcm => Some(("AES_GCM_16", Some(256))),
        Cipher::ChaCha20Poly1305 => Some(("CHACHA20_POLY1305", None)),
        Cipher::Aes128Cbc => Some(("AES_CBC", Some(128))),
        Cipher::Aes192Cbc => Some(("AES_CBC", Some(192))),
        Cipher::Aes256Cbc => Some(("AES_CBC", Some(256))),
        Cipher::TripleDesCbc => Some(("3DES_CBC", None)),
        Cipher::DesCbc => Some(("DES_CBC", None)),
        further => further.further_aead().map(|aead| {
            let name = match (aead.mode, aead.icv_len) {
                (AeadMode::Ccm, 8) => "AES_CCM_8",
                (AeadMode::Ccm, 12) => "AES_CCM_12",
                (AeadMode::Ccm, _) => "AES_CCM_16",
                (AeadMode::Gcm, 8) => "AES_GCM_8",
                (AeadMode::Gcm, 12) => "AES_GCM_12",
                (AeadMode::Gcm, _) => "AES_GCM_16",
                (AeadMode::Gmac, _) => "NULL_AES_GMAC",
            };
            (name, Some(aead.key_len * 8))
        }),
    };
    if let Some((name, bits)) = encryption {
        child.put("encr-alg", name);
        if let Some(bits) = bits {
            child.put("encr-keysize", bits);
        }
    }
    let integrity = match suite.integrity() {
        Integrity::None => return,
        Integrity::HmacMd5 => "HMAC_MD5_96",
        Integrity::HmacSha1 => "HMAC_SHA1_96",
        Integrity::HmacSha256 => "HMAC_SHA2_256_128",
        Integrity::HmacSha384 => "HMAC_SHA2_384_192",
        Integrity::HmacSha512 => "HMAC_SHA2_512_256",
        Integrity::Aes128Gmac => "AES_128_GMAC",
        Integrity::Aes192Gmac => "AES_192_GMAC",
        Integrity::Aes256Gmac => "AES_256_GMAC",
        Integrity::AesXcbc => "AES_XCBC_96",
        Integrity::AesCmac => "AES_CMAC_96",
    };
    child.put("integ-alg", integrity);
}
