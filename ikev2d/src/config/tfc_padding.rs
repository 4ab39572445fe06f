// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `tfc_padding` of a child SA (RFC 4303 §2.7).

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

/// Octets that an inner packet has with its TFC padding, at least; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TfcPadding(pub u16);

impl TfcPadding {
    /// No padding.
    pub const OFF: Self = Self(0);
    /// As many as the path takes: no packet is longer.
    pub const MTU: Self = Self(u16::MAX);
}

impl fmt::Display for TfcPadding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::MTU => f.write_str("mtu"),
            Self(octets) => octets.fmt(f),
        }
    }
}

const EXPECTED: &str = "expected 0 (off) to 65535 octets of an inner packet, or \"mtu\"";

impl<'de> Deserialize<'de> for TfcPadding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl Visitor<'_> for Reader {
            type Value = TfcPadding;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<TfcPadding, E> {
                let read = u16::try_from(number).map(TfcPadding);
                read.map_err(|_| E::custom(format_args!("{number}: {EXPECTED}")))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TfcPadding, E> {
                match text {
                    "mtu" => Ok(TfcPadding::MTU),
                    text => text
                        .parse()
                        .map(TfcPadding)
                        .map_err(|_| E::custom(format_args!("{text:?}: {EXPECTED}"))),
                }
            }
        }

        deserializer.deserialize_any(Reader)
    }
}
