// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Key tables that Wireshark reads (`ikev1_decryption_table`, `ikev2_decryption_table`, `esp_sa`): off unless asked for.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use ikev2d_proto::algorithm::{Encryption, Integrity};
use ikev2d_proto::event::{ChildKeys, IkeKeyLog, Ikev1KeyLog, KeyedChild};
use ikev2d_proto::proposal::EspSuite;

/// Appends keys to both tables.
pub(crate) struct KeyLog {
    ike: File,
    ikev1: File,
    esp: File,
    /// In the form of `esp_sa`, what Wireshark has no names for: AH, and ESP by a GMAC, which hides nothing.
    ah: File,
}

impl KeyLog {
    /// Opens the tables, which only their owner may read, in a directory that only its owner may enter
    /// unless it is there already.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        tracing::warn!(directory = %directory.display(), "KEY LOG IS ON: every key is written to disk");
        if !directory.exists() {
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(directory)?;
        }
        let open = |name: &str| {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(directory.join(name))?;
            // One that was there already may have been anybody's to read.
            file.set_permissions(Permissions::from_mode(0o600))?;
            io::Result::Ok(file)
        };
        Ok(Self {
            ike: open("ikev2_decryption_table")?,
            ikev1: open("ikev1_decryption_table")?,
            esp: open("esp_sa")?,
            ah: open("ah_sa")?,
        })
    }

    pub(crate) fn ike(&mut self, keys: &IkeKeyLog) {
        let encryption = match keys.suite.encryption {
            aead @ (Encryption::AesCcm8(bits)
            | Encryption::AesCcm12(bits)
            | Encryption::AesCcm16(bits)
            | Encryption::AesGcm8(bits)
            | Encryption::AesGcm12(bits)
            | Encryption::AesGcm16(bits)) => {
                let mode = if aead.is_ccm() { "CCM" } else { "GCM" };
                let icv = aead.icv_len();
                &format!("AES-{mode}-{bits} with {icv} octet ICV [RFC5282]")
            }
            Encryption::AesCbc(128) => "AES-CBC-128 [RFC3602]",
            Encryption::AesCbc(192) => "AES-CBC-192 [RFC3602]",
            Encryption::AesCbc(_) => "AES-CBC-256 [RFC3602]",
            Encryption::ChaCha20Poly1305 => "ChaCha20-Poly1305 [RFC7634]",
            Encryption::TripleDes => "3DES [RFC2451]",
            // Wireshark's table has no DES, and IKEv2 none; a GMAC is ESP's.
            Encryption::Des | Encryption::NullAesGmac(_) => return,
            Encryption::Null => "NULL [RFC2410]",
        };
        let integrity = match keys.suite.integrity {
            None => "NONE [RFC4306]",
            Some(Integrity::HmacSha256) => "HMAC_SHA2_256_128 [RFC4868]",
            Some(Integrity::HmacSha384) => "HMAC_SHA2_384_192 [RFC4868]",
            Some(Integrity::HmacSha512) => "HMAC_SHA2_512_256 [RFC4868]",
            Some(Integrity::HmacMd5) => "HMAC_MD5_96 [RFC2403]",
            Some(Integrity::HmacSha1) => "HMAC_SHA1_96 [RFC2404]",
            // It decrypts them and leaves their codes alone.
            Some(Integrity::AesXcbc | Integrity::AesCmac) => {
                "ANY 96-bits of Authentication [No Checking]"
            }
            // AH's: not IKE's.
            Some(_) => return,
        };
        let hex = hex::encode::<&[u8]>;
        let line = format!(
            "{:016x},{:016x},{},{},\"{encryption}\",{},{},\"{integrity}\"\n",
            keys.spi_i,
            keys.spi_r,
            hex(&keys.sk_ei),
            hex(&keys.sk_er),
            hex(&keys.sk_ai),
            hex(&keys.sk_ar),
        );
        if let Err(error) = self.ike.write_all(line.as_bytes()) {
            tracing::warn!(%error, "key log");
        }
    }

    pub(crate) fn ikev1(&mut self, keys: &Ikev1KeyLog) {
        let key = hex::encode::<&[u8]>(&keys.key);
        let line = format!("{:016x},{key}\n", keys.cky_i);
        if let Err(error) = self.ikev1.write_all(line.as_bytes()) {
            tracing::warn!(%error, "key log");
        }
    }

    pub(crate) fn child(&mut self, sa: &KeyedChild) {
        let (encryption, integrity) = esp_names(&sa.suite);
        let (local, remote) = (sa.path.local.ip(), sa.path.remote.ip());
        let lines = [
            (remote, local, sa.spi_in, &sa.keys_in),
            (local, remote, sa.spi_out, &sa.keys_out),
        ]
        .map(|(source, destination, spi, keys)| {
            let family = if source.is_ipv4() { "IPv4" } else { "IPv6" };
            let ChildKeys { encryption: key, integrity: integrity_key } = keys;
            let prefix = |key: &[u8]| if key.is_empty() { String::new() } else { format!("0x{}", hex::encode(key)) };
            format!(
                "\"{family}\",\"{source}\",\"{destination}\",\"0x{spi:08x}\",\"{encryption}\",\"{}\",\"{integrity}\",\"{}\"\n",
                prefix(key),
                prefix(integrity_key),
            )
        });
        let table = match sa.suite.encryption {
            _ if sa.suite.ah => &mut self.ah,
            Encryption::NullAesGmac(_) => &mut self.ah,
            _ => &mut self.esp,
        };
        if let Err(error) = table.write_all(lines.concat().as_bytes()) {
            tracing::warn!(%error, "key log");
        }
    }
}

fn esp_names(suite: &EspSuite) -> (&'static str, &'static str) {
    let encryption = match suite.encryption {
        Encryption::Des => "DES-CBC [RFC2405]",
        Encryption::TripleDes => "TripleDES-CBC [RFC2451]",
        Encryption::Null => "NULL",
        Encryption::AesCbc(_) => "AES-CBC [RFC3602]",
        Encryption::AesCcm8(_) => "AES-CCM with 8 octet ICV [RFC4309]",
        Encryption::AesCcm12(_) => "AES-CCM with 12 octet ICV [RFC4309]",
        Encryption::AesCcm16(_) => "AES-CCM with 16 octet ICV [RFC4309]",
        Encryption::AesGcm8(_) => "AES-GCM with 8 octet ICV [RFC4106]",
        Encryption::AesGcm12(_) => "AES-GCM with 12 octet ICV [RFC4106]",
        Encryption::AesGcm16(_) => "AES-GCM with 16 octet ICV [RFC4106]",
        Encryption::NullAesGmac(_) => "AES-GMAC [RFC4543]",
        Encryption::ChaCha20Poly1305 => "ChaCha20 with Poly1305 [RFC7634]",
    };
    let integrity = match suite.integrity {
        None => "NULL",
        Some(Integrity::HmacSha256) => "HMAC-SHA-256-128 [RFC4868]",
        Some(Integrity::HmacSha384) => "HMAC-SHA-384-192 [RFC4868]",
        Some(Integrity::HmacSha512) => "HMAC-SHA-512-256 [RFC4868]",
        Some(Integrity::HmacMd5) => "HMAC-MD5-96 [RFC2403]",
        Some(Integrity::HmacSha1) => "HMAC-SHA-1-96 [RFC2404]",
        Some(Integrity::AesXcbc) if suite.ah => "AES-XCBC-MAC-96 [RFC3566]",
        Some(Integrity::AesCmac) if suite.ah => "AES-CMAC-96 [RFC4494]",
        Some(Integrity::AesXcbc | Integrity::AesCmac) => "ANY 96 bit authentication [no checking]",
        Some(Integrity::Aes128Gmac) => "AES-128-GMAC [RFC4543]",
        Some(Integrity::Aes192Gmac) => "AES-192-GMAC [RFC4543]",
        Some(Integrity::Aes256Gmac) => "AES-256-GMAC [RFC4543]",
    };
    (encryption, integrity)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// B57, B66: nobody but their owner reads the tables of keys.
    #[test]
    fn tables_are_their_owners_alone() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("keys");
        let mode = |name: &str| {
            let metadata = std::fs::metadata(directory.join(name)).unwrap();
            metadata.permissions().mode() & 0o777
        };
        KeyLog::open(&directory).unwrap();
        assert_eq!(mode(""), 0o700);
        let tables = [
            "ikev1_decryption_table",
            "ikev2_decryption_table",
            "esp_sa",
            "ah_sa",
        ];
        for table in tables {
            assert_eq!(mode(table), 0o600);
            let path = directory.join(table);
            std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        KeyLog::open(&directory).unwrap();
        for table in tables {
            assert_eq!(mode(table), 0o600);
        }
    }
}
