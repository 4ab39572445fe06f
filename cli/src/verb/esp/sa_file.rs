// SPDX-License-Identifier: Apache-2.0 OR MIT
//! SAs from a file: TOML or JSON with the fields of [`Entry`], or Wireshark's table.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use offload_api::replay::ReplaySnapshot;
use offload_api::sa::{
    Direction, Grant, KeyMaterial, Lifetimes, Mode, Numbering, OuterHeaders, SaParams, Spi, Suite,
    UdpEncapsulation,
};
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use super::{ModeName, wireshark};

/// An SA of the file, whichever way it will be used.
#[derive(Clone, Debug)]
pub(super) struct Sa {
    pub(super) spi: Spi,
    pub(super) mode: Mode,
    pub(super) suite: Suite,
    pub(super) keys: KeyMaterial,
    pub(super) esn: bool,
    pub(super) replay_window: u32,
    /// Highest number that was used or seen already.
    pub(super) last_sequence: u64,
    pub(super) outer: Option<OuterHeaders>,
    /// Whether outer headers that are not told are to be seen from the first packet.
    pub(super) learns_outer: bool,
}

/// What an esp_sa table does not tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untold {
    pub(super) mode: Mode,
    pub(super) esn: bool,
}

impl Sa {
    /// Whether its packets are whole IP packets on the wire side.
    pub(super) fn is_ip_on_the_wire(&self) -> bool {
        self.outer.is_some() || self.learns_outer || self.mode == Mode::Transport
    }

    pub(super) fn params(&self, direction: Direction, explicit: bool) -> SaParams {
        let inbound = direction == Direction::Inbound;
        let last = if self.esn { u64::MAX } else { u32::MAX.into() };
        let first = self.last_sequence.saturating_add(1);
        let grant = (!inbound && first <= last).then_some(Grant { first, last });
        SaParams {
            spi: self.spi,
            direction,
            mode: self.mode,
            suite: self.suite,
            keys: self.keys.clone(),
            esn: self.esn,
            replay_window: if inbound { self.replay_window } else { 0 },
            replay_state: (inbound && self.last_sequence > 0).then(|| ReplaySnapshot {
                top: self.last_sequence,
                seen: vec![0],
            }),
            numbering: if explicit {
                Numbering::Explicit
            } else {
                Numbering::Granted(grant)
            },
            outer: self.outer,
            lifetimes: Lifetimes::default(),
            tfc_padding: false,
            selectors: Vec::new(),
        }
    }
}

/// Window of an SA that tells none.
pub(super) const WINDOW: u32 = 1024;

/// Reads a file of SAs.
pub(super) fn read(path: &Path, untold: Untold) -> Result<Vec<Sa>> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| path.display().to_string())?;
    let sas = parse(&text, untold).with_context(|| path.display().to_string())?;
    if sas.is_empty() {
        bail!("{}: no SA in it", path.display());
    }
    Ok(sas)
}

fn parse(text: &str, untold: Untold) -> Result<Vec<Sa>> {
    let mut content = text
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = content.next().unwrap_or_default();
    if first.starts_with('"') {
        return wireshark::parse(text, untold);
    }
    // `[[sa]]` is TOML, `[{` or a bracket alone JSON.
    let json = first.starts_with('{')
        || (first.starts_with('[') && !first.starts_with("[[sa") && !first.starts_with("[sa"));
    let File { sa } = if json {
        match serde_json::from_str(text)? {
            JsonFile::Named(file) => file,
            JsonFile::List(sa) => File { sa },
        }
    } else {
        toml::from_str(text).map_err(|error| {
            // Not the error's own text: it quotes the line, which may hold a key.
            let at = error.span().map_or(0, |span| span.start);
            let line = text
                .bytes()
                .take(at)
                .filter(|octet| *octet == b'\n')
                .count()
                + 1;
            anyhow::anyhow!("line {line}: {}", error.message())
        })?
    };
    let sas = sa.into_iter().enumerate();
    sas.map(|(n, entry)| entry.check().with_context(|| format!("SA {}", n + 1)))
        .collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sa: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonFile {
    Named(File),
    List(Vec<Entry>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    spi: SpiValue,
    #[serde(default = "tunnel")]
    mode: ModeName,
    suite: String,
    /// With the salt at its end, unless `salt` is there.
    #[serde(default)]
    key: Key,
    salt: Option<Key>,
    #[serde(default)]
    integrity_key: Key,
    #[serde(default)]
    esn: bool,
    #[serde(default = "window")]
    replay_window: u32,
    #[serde(default)]
    last_sequence: u64,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    udp: Option<Ports>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ports {
    source_port: u16,
    destination_port: u16,
}

fn tunnel() -> ModeName {
    ModeName::Tunnel
}

fn window() -> u32 {
    WINDOW
}

impl Entry {
    fn check(self) -> Result<Sa> {
        let Some(suite) = Suite::from_name(&self.suite) else {
            let known: Vec<_> = Suite::all().map(Suite::name).collect();
            bail!(
                "suite {:?}: expected one of {}",
                self.suite,
                known.join(", ")
            );
        };
        let mut key = self.key.0;
        if let Some(salt) = &self.salt {
            let mut joined = Zeroizing::new(Vec::with_capacity(key.len() + salt.0.len()));
            joined.extend_from_slice(&key);
            joined.extend_from_slice(&salt.0);
            key = joined;
        }
        let keys = KeyMaterial::from_keymat(suite, &key, &self.integrity_key.0)?;
        let udp = self.udp.map(|ports| UdpEncapsulation {
            source_port: ports.source_port,
            destination_port: ports.destination_port,
        });
        let outer = match (self.source, self.destination) {
            (Some(source), Some(destination)) => Some(OuterHeaders {
                source,
                destination,
                udp,
            }),
            (None, None) if udp.is_none() => None,
            (None, None) => bail!("udp needs source and destination"),
            _ => bail!("source and destination go together"),
        };
        let sa = Sa {
            spi: self.spi.check()?,
            mode: self.mode.into(),
            suite,
            keys,
            esn: self.esn,
            replay_window: self.replay_window,
            last_sequence: self.last_sequence,
            outer,
            learns_outer: false,
        };
        sa.params(Direction::Inbound, false).validate()?;
        Ok(sa)
    }
}

/// An SPI: a number, or hexadecimal digits.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum SpiValue {
    Number(u32),
    Text(String),
}

impl SpiValue {
    pub(super) fn check(&self) -> Result<Spi> {
        let value = match self {
            Self::Number(value) => *value,
            Self::Text(text) => u32::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16)
                .with_context(|| format!("SPI {text:?}: expected up to 8 hexadecimal digits"))?,
        };
        Spi::new(value).context("SPI 0 is no SA's")
    }
}

/// A key in hexadecimal digits, with 0x in front or without.
#[derive(Default)]
pub(super) struct Key(pub(super) Zeroizing<Vec<u8>>);

impl Key {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        hex::decode(digits)
            .ok()
            .map(|key| Self(Zeroizing::new(key)))
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        Self::parse(&text).ok_or_else(|| {
            serde::de::Error::custom("a key is an even number of hexadecimal digits")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOML: &str = r#"
# two SAs
[[sa]]
spi = "c0de0001"
suite = "aes128gcm16"
key = "000102030405060708090a0b0c0d0e0f"
salt = "a0a1a2a3"
source = "192.0.2.1"
destination = "192.0.2.2"
udp = { source_port = 4500, destination_port = 4500 }

[[sa]]
spi = 0x1000
mode = "transport"
suite = "null-sha256"
integrity_key = "000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f"
esn = true
last_sequence = 7
"#;

    fn parse(text: &str) -> Result<Vec<Sa>> {
        let (mode, esn) = (Mode::Tunnel, false);
        super::parse(text, Untold { mode, esn })
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let sas = parse(TOML).unwrap();
        assert_eq!(sas.len(), 2);
        assert_eq!(*sas[0].keys.salt, [0xa0, 0xa1, 0xa2, 0xa3]);
        assert_eq!(sas[0].outer.unwrap().udp.unwrap().source_port, 4500);
        assert_eq!((sas[1].spi.value(), sas[1].mode), (0x1000, Mode::Transport));
        let value: serde_json::Value = toml::from_str(TOML).unwrap();
        for json in [value.to_string(), value["sa"].to_string()] {
            let again = parse(&json).unwrap();
            assert_eq!(format!("{again:?}"), format!("{sas:?}"));
        }
    }

    #[test]
    fn errors_name_the_place_and_no_key() {
        for (from, to, expected) in [
            ("aes128gcm16", "aes128gcm15", "SA 1"),
            ("aes128gcm16", "aes128gcm15", "aes256gcm16"),
            ("key = \"000102", "key = \"zz0102", "line 6"),
            ("salt = \"a0", "salt = \"", "expected 20 octets, found 19"),
            ("\"c0de0001\"", "\"c0de00011\"", "c0de00011"),
            ("source = \"192.0.2.1\"\n", "", "go together"),
            (
                "source = \"192.0.2.1\"\ndestination = \"192.0.2.2\"\n",
                "",
                "udp needs source",
            ),
            ("esn = true", "ens = true", "ens"),
            ("\"c0de0001\"", "17", "17"),
        ] {
            assert!(TOML.contains(from), "{from}");
            let error = parse(&TOML.replacen(from, to, 1)).unwrap_err();
            let error = format!("{error:#}");
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains("030405"), "{error}");
        }
    }

    #[test]
    fn counting_goes_on_behind_the_last_number() {
        let sa = &parse(TOML).unwrap()[1];
        let params = sa.params(Direction::Outbound, false);
        let (first, last) = (8, u64::MAX);
        assert_eq!(
            params.numbering,
            Numbering::Granted(Some(Grant { first, last }))
        );
        let params = sa.params(Direction::Inbound, false);
        assert_eq!(params.replay_state.unwrap().top, 7);
    }
}
