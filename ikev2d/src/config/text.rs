// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Values that are written as text: times, proposals, addresses, traffic selectors.

use std::net::IpAddr;
use std::time::Duration;

use ikev2d_proto::config::{AddressPattern, SelectorConfig};
use ikev2d_proto::junos::ProposalSet;
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::suite::Suite;
use ikev2d_proto::ts::TrafficSelector;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A time: `4h`, `30m`, `10s`, `2d`, or seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Seconds {
    pub(super) fn nonzero(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u64),
            Text(String),
        }
        let text = match Either::deserialize(deserializer)? {
            Either::Number(seconds) => return Ok(Self(Duration::from_secs(seconds))),
            Either::Text(text) => text,
        };
        let error = || {
            D::Error::custom(format!(
                "time {text:?}: expected seconds, or a number with s, m, h or d"
            ))
        };
        let at = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let factor = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(error()),
        };
        let number: u64 = number.parse().map_err(|_| error())?;
        Ok(Self(Duration::from_secs(
            number.checked_mul(factor).ok_or_else(error)?,
        )))
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
