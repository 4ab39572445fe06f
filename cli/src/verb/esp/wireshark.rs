// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Wireshark's `esp_sa` table: family, source, destination, SPI, encryption, key, authentication,
//! key, and in newer versions the length of sequence numbers; all in quotes.

use anyhow::{Context, Result, bail};
use offload_api::sa::{
    AeadMode, Cipher, Direction, Integrity, KeyMaterial, Mode, OuterHeaders, Suite,
};

use super::sa_file::{Key, Sa, SpiValue, Untold, WINDOW};

pub(super) fn parse(text: &str, untold: Untold) -> Result<Vec<Sa>> {
    text.lines()
        .map(str::trim)
        .enumerate()
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(n, line)| parse_line(line, untold).with_context(|| format!("line {}", n + 1)))
        .collect()
}

fn parse_line(line: &str, untold: Untold) -> Result<Sa> {
    let inner = line
        .strip_prefix('"')
        .and_then(|line| line.strip_suffix('"'))
        .context("expected quoted fields")?;
    let fields: Vec<_> = inner.split("\",\"").collect();
    let (fields, sequence) = match fields[..] {
        [a, b, c, d, e, f, g, h] => ([a, b, c, d, e, f, g, h], None),
        [a, b, c, d, e, f, g, h, sequence] => ([a, b, c, d, e, f, g, h], Some(sequence)),
        _ => bail!("expected 8 or 9 fields, found {}", fields.len()),
    };
    let [
        _,
        source,
        destination,
        spi,
        encryption,
        key,
        integrity,
        integrity_key,
    ] = fields;
    let esn = match sequence {
        None => untold.esn,
        Some("32-bit") => false,
        Some("64-bit") => true,
        Some(other) => bail!("sequence numbers {other:?}: expected 32-bit or 64-bit"),
    };
    let octets = |text| Key::parse(text).context("a key is an even number of hexadecimal digits");
    let (key, integrity_key) = (octets(key)?, octets(integrity_key)?);
    let cipher = cipher(encryption, key.0.len())?;
    let suite = Suite::new(cipher, self::integrity(integrity)?)?;
    let keys = KeyMaterial::from_keymat(suite, &key.0, &integrity_key.0)?;
    // A wildcard or prefix leaves the outer headers to the packet.
    let outer = match (source.parse(), destination.parse()) {
        (Ok(source), Ok(destination)) if untold.mode == Mode::Tunnel => Some(OuterHeaders {
            source,
            destination,
            udp: None,
        }),
        _ => None,
    };
    let sa = Sa {
        spi: SpiValue::Text(spi.to_owned()).check()?,
        mode: untold.mode,
        suite,
        keys,
        esn,
        replay_window: WINDOW,
        last_sequence: 0,
        outer,
        learns_outer: true,
    };
    sa.params(Direction::Inbound, false).validate()?;
    Ok(sa)
}

fn cipher(name: &str, key_len: usize) -> Result<Cipher> {
    let name_only = name.split(" [").next().unwrap_or(name);
    Ok(match (name_only, key_len) {
        ("NULL", _) => Cipher::Null,
        ("AES-CBC", 16) => Cipher::Aes128Cbc,
        ("AES-CBC", 24) => Cipher::Aes192Cbc,
        ("AES-CBC", 32) => Cipher::Aes256Cbc,
        // The older name has no length of the ICV.
        ("AES-GCM with 16 octet ICV" | "AES-GCM", 20) => Cipher::Aes128Gcm,
        ("AES-GCM with 16 octet ICV" | "AES-GCM", 36) => Cipher::Aes256Gcm,
        ("ChaCha20 with Poly1305", _) => Cipher::ChaCha20Poly1305,
        ("TripleDES-CBC", _) => Cipher::TripleDesCbc,
        ("DES-CBC", _) => Cipher::DesCbc,
        _ => further_aead(name_only, key_len).with_context(|| {
            format!("no suite has encryption {name:?} with a key of {key_len} octets")
        })?,
    })
}

/// GCM and CCM with other lengths of keys and ICVs, by the names that newer versions of Wireshark have.
fn further_aead(name: &str, key_len: usize) -> Option<Cipher> {
    let mut all = (0..=u8::MAX).filter_map(Cipher::from_code);
    all.find(|cipher| {
        cipher.further_aead().is_some_and(|aead| {
            let mode = match aead.mode {
                AeadMode::Gcm => "GCM",
                AeadMode::Ccm => "CCM",
                // Wireshark's table has none.
                AeadMode::Gmac => return false,
            };
            let full = format!("AES-{mode} with {} octet ICV", aead.icv_len);
            let older = name == "AES-GCM" && mode == "GCM" && aead.icv_len == 16;
            key_len == aead.key_len + aead.mode.salt_len() && (older || name == full)
        })
    })
}

fn integrity(name: &str) -> Result<Integrity> {
    Ok(match name.split(" [").next().unwrap_or(name) {
        // The older table needed the ICV's length here for an AEAD.
        "NULL" | "ANY 128 bit authentication" => Integrity::None,
        "HMAC-SHA-256-128" => Integrity::HmacSha256,
        "HMAC-SHA-384-192" => Integrity::HmacSha384,
        "HMAC-SHA-512-256" => Integrity::HmacSha512,
        "HMAC-SHA-1-96" => Integrity::HmacSha1,
        "HMAC-MD5-96" => Integrity::HmacMd5,
        _ => bail!("no suite has authentication {name:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_generations_are_read() {
        let key = "00".repeat(20);
        let text = format!(
            "# comment\n\"IPv4\",\"192.0.2.1\",\"192.0.2.2\",\"0x00001001\",\"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{key}\",\"NULL\",\"\"\n\
             \"IPv4\",\"*\",\"*\",\"0x1002\",\"AES-CBC [RFC3602]\",\"0x{0}\",\"HMAC-SHA-256-128 [RFC4868]\",\"0x{1}\",\"64-bit\"\n",
            "11".repeat(32),
            "22".repeat(32),
        );
        let (mode, esn) = (Mode::Tunnel, false);
        let untold = Untold { mode, esn };
        let sas = parse(&text, untold).unwrap();
        assert_eq!(sas[0].suite, Suite::AES_128_GCM);
        assert!(sas[0].outer.is_some() && !sas[0].esn);
        assert_eq!(sas[1].suite.name(), "aes256-sha256");
        assert!(sas[1].outer.is_none() && sas[1].esn);
        let extended = Untold { mode, esn: true };
        assert!(parse(&text, extended).unwrap()[0].esn);
        let error = parse(&text.replace("16 octet", "7 octet"), untold).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("line 2") && error.contains("7 octet"),
            "{error}"
        );
    }

    /// B47, B57: what Wireshark 4.0's menu of algorithms has and ESP here too.
    #[test]
    fn every_suite_is_read_by_wiresharks_name() {
        for (encryption, key, integrity, integrity_key, suite) in [
            (
                "AES-GCM with 16 octet ICV [RFC4106]",
                28,
                "NULL",
                0,
                "aes192gcm16",
            ),
            (
                "AES-GCM [RFC4106]",
                28,
                "ANY 128 bit authentication [No Checking]",
                0,
                "aes192gcm16",
            ),
            (
                "AES-GCM with 8 octet ICV [RFC4106]",
                20,
                "NULL",
                0,
                "aes128gcm8",
            ),
            (
                "AES-GCM with 12 octet ICV [RFC4106]",
                36,
                "NULL",
                0,
                "aes256gcm12",
            ),
            (
                "AES-CCM with 8 octet ICV [RFC4309]",
                19,
                "NULL",
                0,
                "aes128ccm8",
            ),
            (
                "AES-CCM with 12 octet ICV [RFC4309]",
                27,
                "NULL",
                0,
                "aes192ccm12",
            ),
            (
                "AES-CCM with 16 octet ICV [RFC4309]",
                35,
                "NULL",
                0,
                "aes256ccm16",
            ),
            (
                "ChaCha20 with Poly1305 [RFC7634]",
                36,
                "NULL",
                0,
                "chacha20poly1305",
            ),
            (
                "TripleDES-CBC [RFC2451]",
                24,
                "HMAC-SHA-1-96 [RFC2404]",
                20,
                "3des-sha1",
            ),
            (
                "DES-CBC [RFC2405]",
                8,
                "HMAC-MD5-96 [RFC2403]",
                16,
                "des-md5",
            ),
            ("NULL", 0, "HMAC-SHA-512-256 [RFC4868]", 64, "null-sha512"),
        ] {
            let (key, integrity_key) = ("5a".repeat(key), "a5".repeat(integrity_key));
            let prefixed = |key: &str| match key {
                "" => String::new(),
                key => format!("0x{key}"),
            };
            let line = format!(
                "\"IPv4\",\"192.0.2.1\",\"192.0.2.2\",\"0x00001001\",\"{encryption}\",\"{}\",\
                 \"{integrity}\",\"{}\"\n",
                prefixed(&key),
                prefixed(&integrity_key),
            );
            let (mode, esn) = (Mode::Tunnel, false);
            let sas = parse(&line, Untold { mode, esn });
            let sas = sas.unwrap_or_else(|error| panic!("{encryption}: {error:#}"));
            assert_eq!(sas[0].suite.name(), suite);
        }
        assert_eq!(further_aead("AES-CCM with 16 octet ICV", 20), None);
    }
}
