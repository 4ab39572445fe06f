// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[manual.NAME]`: a pair of SAs whose keys are entered at both ends instead of negotiated (RFC 4301
//! §4.5.1).

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ikev2d_proto::config::SelectorConfig;
use ikev2d_proto::ts::TrafficSelector;
use offload_api::sa::{KeyMaterial, Protocol, Spi, Suite};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use zeroize::Zeroizing;

use super::child::HwOffload;
use super::text::{Seconds, Text};

/// A pair of SAs with manual keys.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct ManualSection {
    /// Our end.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// Our side's traffic.
    pub local_ts: Vec<Text<SelectorConfig>>,
    /// The peer's side's traffic.
    pub remote_ts: Vec<Text<SelectorConfig>>,
    /// Protocol and algorithms, such as `aes256-sha256` (ESP) or `ah-sha256` (AH).
    pub suite: Text<Suite>,
    /// SPI of what comes in, hexadecimal: the peer's `spi_out`.
    pub spi_in: Text<Spi>,
    /// SPI of what goes out, hexadecimal: the peer's `spi_in`.
    pub spi_out: Text<Spi>,
    /// File with a table of keys, beside the configuration; only its owner and group may read it.
    pub keys_file: Option<PathBuf>,
    /// The table itself; only its owner and group may read the configuration then.
    pub keys: Option<KeyTable>,
    /// ESP in UDP, from `daemon.nat_port` to the same port.
    #[serde(default)]
    pub encap: bool,
    /// Extended sequence numbers; both ends alike.
    #[serde(default = "yes")]
    pub esn: bool,
    /// Anti-replay window in packets: 0 (off) or 32 to 4096.
    #[serde(default = "replay_window")]
    pub replay_window: u32,
    /// The first sequence number to send with, at least: for a key whose record is lost.
    pub start_at: Option<u64>,
    /// Also take algorithms that are weak, or not for manual keys.
    #[serde(default)]
    pub legacy: bool,
    /// `no`, `crypto`, `packet` or `auto`.
    #[serde(default)]
    pub hw_offload: HwOffload,
    /// Octets after which it stops; 0 is never.
    #[serde(default)]
    pub life_bytes: u64,
    /// Packets after which it stops; 0 is never.
    #[serde(default)]
    pub life_packets: u64,
    /// Age at which it stops, since it was installed: at the start, or by a reload that brings or changes it; 0 is
    /// never.
    #[serde(default)]
    pub life_time: Seconds,
}

fn yes() -> bool {
    true
}

fn replay_window() -> u32 {
    1024
}

/// Keys in hexadecimal, as IKE's KEYMAT has them: an AEAD's salt at the end of its encryption key, a
/// GMAC's at the end of its integrity key.
#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct KeyTable {
    /// Encryption of what comes in.
    #[serde(default)]
    pub encryption_in: HexKey,
    /// Integrity of what comes in.
    #[serde(default)]
    pub integrity_in: HexKey,
    /// Encryption of what goes out.
    #[serde(default)]
    pub encryption_out: HexKey,
    /// Integrity of what goes out.
    #[serde(default)]
    pub integrity_out: HexKey,
}

impl fmt::Debug for KeyTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyTable(..)")
    }
}

/// A key, zeroed when dropped.
#[derive(Clone, Default, PartialEq)]
pub struct HexKey(pub Zeroizing<Vec<u8>>);

impl HexKey {
    /// Reads hexadecimal digits, with `0x` in front and spaces or colons between at will.
    ///
    /// # Errors
    /// What is wrong; it never tells the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.strip_prefix("0x").unwrap_or(text);
        let digits: Zeroizing<String> =
            Zeroizing::new(text.chars().filter(|c| !matches!(c, ' ' | ':')).collect());
        hex::decode(digits.as_bytes())
            .map(|key| Self(Zeroizing::new(key)))
            .map_err(|_| "expected hexadecimal digits, two for each octet".to_owned())
    }
}

impl HexKey {
    /// The digits.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(&self.0[..]))
    }
}

impl<'de> Deserialize<'de> for HexKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::parse(&text).map_err(D::Error::custom)
    }
}

impl super::FromText for Spi {
    fn from_text(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u32::from_str_radix(digits, 16)
            .ok()
            .and_then(Self::new)
            .filter(|spi| spi.value() > 255)
            .ok_or_else(|| {
                format!("SPI {text:?}: expected up to 8 hexadecimal digits, from 100 (SPIs 0 to ff are reserved)")
            })
    }
}

impl super::FromText for Suite {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_name(text).ok_or_else(|| {
            let names: Vec<&str> = Self::all().chain(Self::all_ah()).map(Self::name).collect();
            format!("suite {text:?}: expected one of {}", names.join(", "))
        })
    }
}

impl KeyTable {
    /// Reads a file that only its owner and group may read.
    ///
    /// # Errors
    /// What is wrong with it; it never tells a key.
    pub fn read(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let mut file = File::open(path).map_err(|error| format!("{shown}: {error}"))?;
        refuse_public(path, &file)?;
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text)
            .map_err(|error| format!("{shown}: {error}"))?;
        // The parser's own words quote the line.
        toml::from_str(&text).map_err(|error| {
            let what = error.message();
            format!("{shown}: {what} (expected encryption_in, integrity_in, encryption_out, integrity_out)")
        })
    }
}

/// Refuses a file with keys that others may read or write.
pub(super) fn refuse_public(path: &Path, file: &File) -> Result<(), String> {
    let shown = path.display();
    let metadata = file
        .metadata()
        .map_err(|error| format!("{shown}: {error}"))?;
    let mode = metadata.permissions().mode();
    if mode & 0o006 != 0 {
        return Err(format!(
            "{shown} holds keys and may be read or written by everybody (mode {:03o}): chmod 600 it, \
             and make new keys",
            mode & 0o777
        ));
    }
    Ok(())
}

/// A pair's keys: inbound, outbound.
pub(crate) type Keys = (KeyMaterial, KeyMaterial);

impl ManualSection {
    /// Checks what the types don't say.
    ///
    /// # Errors
    /// The setting, and what is wrong.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let invalid = |key: &str, what: String| Err((key.to_owned(), what));
        if self.local.is_ipv4() != self.remote.is_ipv4() {
            return invalid(
                "remote",
                format!(
                    "{} and {} are of different families",
                    self.local, self.remote
                ),
            );
        }
        for (key, address) in [("local", self.local), ("remote", self.remote)] {
            if address.is_unspecified() || address.is_multicast() {
                return invalid(key, format!("{address}: expected the address of one host"));
            }
        }
        for (key, selectors) in [("local_ts", &self.local_ts), ("remote_ts", &self.remote_ts)] {
            if selectors.is_empty() {
                return invalid(key, "no traffic is named".to_owned());
            }
        }
        let window = self.replay_window;
        if window != 0 && !(32..=4096).contains(&window) {
            return invalid(
                "replay_window",
                format!("{window}: expected 0 (off) or 32 to 4096"),
            );
        }
        if window == 0 && self.esn {
            return invalid(
                "replay_window",
                "0: extended sequence numbers need a window (RFC 4303 §3.4.3): say esn = false at \
                 both ends, or have one"
                    .to_owned(),
            );
        }
        let end = if self.esn {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        if let Some(first) = self.start_at.filter(|first| *first == 0 || *first >= end) {
            return invalid("start_at", format!("{first}: expected 1 to {}", end - 1));
        }
        let suite = self.suite.0;
        if suite.protocol() == Protocol::Ah && self.encap {
            return invalid(
                "encap",
                "AH does not go in UDP: it authenticates what a NAT changes".to_owned(),
            );
        }
        if let Some(why) = weakness(suite).filter(|_| !self.legacy) {
            return invalid(
                "suite",
                format!("{suite}: {why}; legacy = true takes it all the same"),
            );
        }
        Ok(())
    }

    /// The keys, from where they are. `directory` is where a relative path begins.
    ///
    /// # Errors
    /// What is wrong; it never tells a key.
    pub(crate) fn read_keys(&self, directory: &Path) -> Result<Keys, String> {
        match (&self.keys_file, &self.keys) {
            (Some(path), None) => keys(self.suite.0, &KeyTable::read(&directory.join(path))?),
            (None, Some(table)) => keys(self.suite.0, table),
            _ => Err("expected either keys_file or keys".to_owned()),
        }
    }

    /// Its traffic: our side's, the peer's.
    pub(crate) fn traffic(&self) -> (Vec<TrafficSelector>, Vec<TrafficSelector>) {
        let resolve = |configs: &[Text<SelectorConfig>], end| {
            let configs: Vec<SelectorConfig> = configs.iter().map(|config| config.0).collect();
            SelectorConfig::resolve(&configs, end)
        };
        (
            resolve(&self.local_ts, self.local),
            resolve(&self.remote_ts, self.remote),
        )
    }
}

/// Why a suite wants `legacy`.
fn weakness(suite: Suite) -> Option<&'static str> {
    if suite.is_aead() || suite.integrity().is_gmac() {
        // One number used twice gives the key stream and the integrity key away.
        Some(
            "counter modes must not be used with manual keys (RFC 8221 §3): take aes256-sha256 or the like",
        )
    } else if suite.is_legacy() {
        Some(
            "DES, 3DES, MD5 and SHA-1 are of another time, or on their way there (RFC 8221 §5, §6)",
        )
    } else {
        None
    }
}

/// Checks lengths, and what a key must not be.
pub(crate) fn keys(suite: Suite, table: &KeyTable) -> Result<Keys, String> {
    let one = |way: &str, encryption: &HexKey, integrity: &HexKey| {
        for (name, key) in [("encryption", encryption), ("integrity", integrity)] {
            let first = key.0.first();
            if first.is_some() && key.0.iter().all(|octet| Some(octet) == first) {
                return Err(format!(
                    "{name}_{way}: one octet again and again is no key (try `openssl rand -hex {}`)",
                    key.0.len()
                ));
            }
        }
        KeyMaterial::from_keymat(suite, &encryption.0, &integrity.0)
            .map_err(|error| format!("keys of what goes {way}, for {suite}: {error}"))
    };
    let inbound = one("in", &table.encryption_in, &table.integrity_in)?;
    let outbound = one("out", &table.encryption_out, &table.integrity_out)?;
    let same = |a: &[u8], b: &[u8]| !a.is_empty() && a == b;
    if same(&inbound.cipher, &outbound.cipher) || same(&inbound.integrity, &outbound.integrity) {
        return Err(
            "the same key both ways: packets could be sent back to their sender, and an AEAD would use \
             its nonces twice; each way needs a key of its own"
                .to_owned(),
        );
    }
    Ok((inbound, outbound))
}
