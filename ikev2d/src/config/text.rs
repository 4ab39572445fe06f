// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Values that are written as text: times, proposals, addresses, traffic selectors.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ikev2d_proto::config::{AddressPattern, SelectorConfig};
use ikev2d_proto::junos::ProposalSet;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::suite::Suite;
use ikev2d_proto::ts::TrafficSelector;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

/// A time: `4h`, `30m`, `10s`, `2d`, `50ms`, or seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Seconds {
    pub(super) fn nonzero(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const EXPECTED: &str = "seconds, or a number with ms, s, m, h or d";

        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
                let read = u64::try_from(seconds).map(Duration::from_secs).map(Seconds);
                read.map_err(|_| E::invalid_value(Unexpected::Signed(seconds), &self))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Seconds, E> {
                let read = || {
                    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit());
                    let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
                    let factor = match unit {
                        "ms" => return Some(Duration::from_millis(number)),
                        "" | "s" => 1,
                        "m" => 60,
                        "h" => 3600,
                        "d" => 86_400,
                        _ => return None,
                    };
                    number.checked_mul(factor).map(Duration::from_secs)
                };
                let time = read().map(Seconds);
                time.ok_or_else(|| E::custom(format!("time {text:?}: expected {EXPECTED}")))
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

/// A value that is written as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

/// Reads a value from text, with a reason if it can't.
pub trait FromText: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// Why it can't be.
    fn from_text(text: &str) -> Result<Self, String>;
}

impl<'de, T: FromText> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(&text).map(Self).map_err(D::Error::custom)
    }
}

/// IKE proposals by one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IkeProposal {
    /// Them.
    pub proposals: Vec<Proposal>,
    /// The suite whose name it was.
    pub suite: Option<Suite>,
    /// Junos' set whose name it was.
    pub set: Option<ProposalSet>,
}

/// ESP proposals by one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EspProposal {
    /// Them.
    pub proposals: Vec<Proposal>,
    /// Junos' set whose name it was.
    pub set: Option<ProposalSet>,
}

impl FromText for IkeProposal {
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(set) = ProposalSet::by_name(text) {
            let suite = match set {
                ProposalSet::Suite(suite) => Some(suite),
                _ => None,
            };
            return Ok(Self {
                proposals: set.ike(),
                suite,
                set: Some(set),
            });
        }
        let suite = Suite::by_name(text);
        let proposals = match (suite, text) {
            (Some(suite), _) => vec![suite.ike()],
            (None, "default") => Proposal::ike_default(),
            (None, text) => vec![Proposal::parse_ike(text).map_err(|e| e.to_string())?],
        };
        Ok(Self {
            proposals,
            suite,
            set: None,
        })
    }
}

impl FromText for EspProposal {
    fn from_text(text: &str) -> Result<Self, String> {
        if let Some(set) = ProposalSet::by_name(text) {
            return Ok(Self {
                proposals: set.esp(),
                set: Some(set),
            });
        }
        let proposals = match (Suite::by_name(text), text) {
            (Some(suite), _) => vec![suite.esp()],
            (None, "default") => Proposal::esp_default(),
            (None, text) => vec![Proposal::parse_esp(text).map_err(|e| e.to_string())?],
        };
        Ok(Self {
            proposals,
            set: None,
        })
    }
}

/// An AH proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AhProposal(pub Proposal);

impl FromText for AhProposal {
    fn from_text(text: &str) -> Result<Self, String> {
        Proposal::parse_ah(text)
            .map(Self)
            .map_err(|e| e.to_string())
    }
}

impl FromText for AddressPattern {
    fn from_text(text: &str) -> Result<Self, String> {
        if text == "%any" {
            return Ok(Self::Any);
        }
        let error = || format!("address {text:?}: expected an IP address, a prefix or %any");
        match text.split_once('/') {
            Some((address, bits)) => {
                let address: IpAddr = address.parse().map_err(|_| error())?;
                let bits: u8 = bits.parse().map_err(|_| error())?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                if bits > most {
                    Err(error())
                } else {
                    Ok(Self::Prefix(address, bits))
                }
            }
            None => {
                let address: IpAddr = text.parse().map_err(|_| error())?;
                Ok(Self::Prefix(
                    address,
                    if address.is_ipv4() { 32 } else { 128 },
                ))
            }
        }
    }
}

impl FromText for SelectorConfig {
    /// `dynamic`, a prefix, optionally followed by `[protocol/port]`.
    fn from_text(text: &str) -> Result<Self, String> {
        let error = || {
            format!(
                "traffic selector {text:?}: expected dynamic or a prefix, with [protocol/port] behind it at will"
            )
        };
        let (net, rest) = match text.split_once('[') {
            Some((net, rest)) => (net, Some(rest.strip_suffix(']').ok_or_else(error)?)),
            None => (text, None),
        };
        if net == "dynamic" && rest.is_none() {
            return Ok(Self::Dynamic);
        }
        let AddressPattern::Prefix(address, bits) =
            AddressPattern::from_text(net).map_err(|_| error())?
        else {
            return Err(error());
        };
        let mut ts = TrafficSelector::prefix(address, bits);
        if let Some(rest) = rest {
            let (protocol, port) = rest.split_once('/').unwrap_or((rest, ""));
            ts.protocol = match protocol {
                "" | "any" => 0,
                "tcp" => 6,
                "udp" => 17,
                "icmp" => 1,
                "sctp" => 132,
                number => number.parse().map_err(|_| error())?,
            };
            if !port.is_empty() && port != "any" {
                let (first, last) = port.split_once('-').unwrap_or((port, port));
                ts.start_port = first.parse().map_err(|_| error())?;
                ts.end_port = last.parse().map_err(|_| error())?;
                if ts.start_port > ts.end_port {
                    return Err(error());
                }
            }
        }
        Ok(Self::Fixed(ts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_of_seconds_or_texts_with_units() {
        let read = |written: &str| {
            let table = toml::from_str::<std::collections::BTreeMap<String, Seconds>>(written);
            table
                .map(|table| table["time"].0)
                .map_err(|error| error.to_string())
        };
        for (written, millis) in [
            ("3", 3000),
            ("0", 0),
            ("\"90\"", 90_000),
            ("\"90s\"", 90_000),
            ("\"50ms\"", 50),
            ("\"10m\"", 600_000),
            ("\"4h\"", 14_400_000),
            ("\"2d\"", 172_800_000),
        ] {
            let time = read(&format!("time = {written}")).unwrap();
            assert_eq!(time, Duration::from_millis(millis), "{written}");
        }
        let huge = format!("\"{}d\"", u64::MAX);
        for wrong in [
            "-1", "1.5", "true", "\"\"", "\"s\"", "\"4 h\"", "\"1w\"", "\"-1s\"", &huge,
        ] {
            let error = read(&format!("time = {wrong}")).unwrap_err();
            assert!(
                error.contains("expected seconds, or a number with ms"),
                "{error}"
            );
        }
    }
}
