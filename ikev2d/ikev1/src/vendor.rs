// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Vendor ids: how peers tell what they can beyond RFC 2409.

use ikev2d_proto::config::Connection;

use crate::natt::Form;
use crate::wire::{Chain, Payloads, payload};

/// NAT traversal as RFC 3947 has it.
const RFC_3947: &[u8] = b"\x4a\x13\x1c\x81\x07\x03\x58\x45\x5c\x57\x28\xf2\x0e\x95\x45\x2f";
/// Its drafts 03 and 02, the latter in the two forms that are met; all three work the same.
const DRAFT_03: &[u8] = b"\x7d\x94\x19\xa6\x53\x10\xca\x6f\x2c\x17\x9d\x92\x15\x52\x9d\x56";
const DRAFT_02_LF: &[u8] = b"\x90\xcb\x80\x91\x3e\xbb\x69\x6e\x08\x63\x81\xb5\xec\x42\x7b\x1f";
const DRAFT_02: &[u8] = b"\xcd\x60\x46\x43\x35\xdf\x21\xf8\x7c\xfd\xb2\xfc\x68\xb6\xa4\x48";
/// Dead peer detection (RFC 3706 §5.1); version 1.0 is behind it.
const DPD: &[u8] = b"\xaf\xca\xd7\x13\x68\xa1\xf1\xc9\x6b\x86\x96\xfc\x77\x57";
const DPD_VERSION: &[u8] = &[1, 0];

/// Fragments of messages, as Cisco and Microsoft have them (MS-IKEE §2.2.4); a version may be behind it.
const FRAGMENTATION: &[u8] = b"\x40\x48\xb7\xd5\x6e\xbc\xe8\x85\x25\xe7\xde\x7f\x00\xd6\xc2\xd3";

/// XAUTH (draft-beaulieu-ike-xauth-02 §2).
const XAUTH: &[u8] = b"\x09\x00\x26\x89\xdf\xd6\xb7\x12";

/// What a peer has told of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// NAT traversal.
    pub(crate) natt: Option<Form>,
    /// Dead peer detection.
    pub(crate) dpd: bool,
    /// Fragments.
    pub(crate) fragmentation: bool,
}

/// Tells what we can. A responder answers with the best form of NAT traversal only.
pub(crate) fn push(chain: &mut Chain, natt: Option<Form>, connection: &Connection) {
    if connection.ikev1.xauth.is_some() {
        chain.push(payload::VENDOR, XAUTH);
    }
    chain.push(payload::VENDOR, &[DPD, DPD_VERSION].concat());
    if connection.fragmentation {
        chain.push(payload::VENDOR, FRAGMENTATION);
    }
    match natt {
        None => {
            for id in [RFC_3947, DRAFT_03, DRAFT_02_LF] {
                chain.push(payload::VENDOR, id);
            }
        }
        Some(Form::Rfc) => chain.push(payload::VENDOR, RFC_3947),
        Some(Form::Draft) => chain.push(payload::VENDOR, DRAFT_02_LF),
    }
}

impl Abilities {
    /// Adds what a message tells.
    pub(crate) fn read(&mut self, parts: &Payloads<'_>) {
        for id in parts.of(payload::VENDOR) {
            if id == RFC_3947 {
                self.natt = Some(Form::Rfc);
            } else if [DRAFT_03, DRAFT_02_LF, DRAFT_02].contains(&id) {
                self.natt = self.natt.or(Some(Form::Draft));
            } else if id.starts_with(DPD) {
                self.dpd = true;
            } else if id.starts_with(FRAGMENTATION) {
                self.fragmentation = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ikev2d_crypto::OpensslCrypto;
    use ikev2d_proto::algorithm::Prf;
    use ikev2d_proto::crypto::Crypto;

    use super::*;

    /// Most are MD5 of a text that names them (RFC 3947 §3.1, MS-IKEE §2.2.4).
    #[test]
    fn vendor_ids_are_hashes_of_their_names() {
        let crypto = OpensslCrypto::new().unwrap();
        for (id, name) in [
            (RFC_3947, "RFC 3947"),
            (DRAFT_03, "draft-ietf-ipsec-nat-t-ike-03"),
            (DRAFT_02, "draft-ietf-ipsec-nat-t-ike-02"),
            (DRAFT_02_LF, "draft-ietf-ipsec-nat-t-ike-02\n"),
            (FRAGMENTATION, "FRAGMENTATION"),
        ] {
            let hash = crypto.hash(Prf::HmacMd5, &[name.as_bytes()]).unwrap();
            assert_eq!(hash, id, "{name}");
        }
    }
}
