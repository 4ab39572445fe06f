// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SK payload: encrypted and authenticated messages (RFC 7296 §3.14, RFC 5282).

use zerocopy::IntoBytes;

use crate::crypto::{Crypto, CryptoError};
use crate::keymat::IkeKeys;
use crate::proposal::IkeSuite;
use crate::wire::{Chain, HEADER_LEN, Header, payload};

const GENERIC_HEADER: usize = 4;
const AEAD_TAG: usize = 16;

/// Seals payloads into a message.
pub(crate) fn seal(
    crypto: &dyn Crypto,
    suite: &IkeSuite,
    keys: &IkeKeys,
    by_initiator: bool,
    mut header: Header,
    chain: &Chain,
) -> Result<Vec<u8>, CryptoError> {
    let (encryption_key, integrity_key) = if by_initiator {
        (&keys.ei, &keys.ai)
    } else {
        (&keys.er, &keys.ar)
    };
    let iv_len = suite.encryption.iv_len();
    let mut iv = vec![0; iv_len];
    crypto.random(&mut iv);
    let mut body = chain.octets().to_vec();
    let block = if suite.encryption.is_aead() { 1 } else { 16 };
    let padding = (body.len() + 1).next_multiple_of(block) - body.len() - 1;
    body.extend(std::iter::repeat_n(0, padding));
    body.push(padding as u8);
    let icv_len = suite
        .integrity
        .map_or(AEAD_TAG, |integrity| integrity.icv_len());
    let sk_len = GENERIC_HEADER + iv_len + body.len() + icv_len;
    header.next_payload = payload::SK;
    header.len = ((HEADER_LEN + sk_len) as u32).into();
    let mut message = header.as_bytes().to_vec();
    message.extend([chain.first(), 0]);
    message.extend(
        u16::try_from(sk_len)
            .map_err(|_| CryptoError)?
            .to_be_bytes(),
    );
    match suite.integrity {
        None => {
            crypto.aead_seal(suite.encryption, encryption_key, &iv, &message, &mut body)?;
            message.extend(iv);
            message.extend(body);
        }
        Some(integrity) => {
            crypto.cbc(true, encryption_key, &iv, &mut body)?;
            message.extend(iv);
            message.extend(body);
            let icv = crypto.integrity(integrity, integrity_key, &[&message])?;
            message.extend(icv);
        }
    }
    Ok(message)
}

/// Opens a message: type of the first payload inside, and the payloads.
pub(crate) fn open(
    crypto: &dyn Crypto,
    suite: &IkeSuite,
    keys: &IkeKeys,
    by_initiator: bool,
    message: &[u8],
) -> Result<(u8, Vec<u8>), CryptoError> {
    let (encryption_key, integrity_key) = if by_initiator {
        (&keys.ei, &keys.ai)
    } else {
        (&keys.er, &keys.ar)
    };
    let iv_len = suite.encryption.iv_len();
    // Unencrypted payloads in front of SK are not part of any exchange we take part in.
    let (head, rest) = message
        .split_at_checked(HEADER_LEN + GENERIC_HEADER)
        .ok_or(CryptoError)?;
    let header = Header::parse(message).map_err(|_| CryptoError)?;
    let &[.., first, _, high, low] = head else {
        return Err(CryptoError);
    };
    let sk_len = usize::from(u16::from_be_bytes([high, low]));
    if header.next_payload != payload::SK || sk_len != message.len() - HEADER_LEN {
        return Err(CryptoError);
    }
    let (iv, body) = rest.split_at_checked(iv_len).ok_or(CryptoError)?;
    let mut body = body.to_vec();
    match suite.integrity {
        None => crypto.aead_open(suite.encryption, encryption_key, iv, head, &mut body)?,
        Some(integrity) => {
            let signed = message
                .len()
                .checked_sub(integrity.icv_len())
                .ok_or(CryptoError)?;
            let (signed, icv) = message.split_at_checked(signed).ok_or(CryptoError)?;
            let expected = crypto.integrity(integrity, integrity_key, &[signed])?;
            if !crypto.equal(&expected, icv) {
                return Err(CryptoError);
            }
            let len = body.len().checked_sub(icv.len()).ok_or(CryptoError)?;
            body.truncate(len);
            crypto.cbc(false, encryption_key, iv, &mut body)?;
        }
    }
    let padding = usize::from(body.pop().ok_or(CryptoError)?);
    let len = body.len().checked_sub(padding).ok_or(CryptoError)?;
    body.truncate(len);
    Ok((first, body))
}
