// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[secrets.NAME]`: keys.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

/// Fewest characters of a preshared key.
const PSK_LEAST: usize = 8;
/// Fewest that raise no warning.
const PSK_RECOMMENDED: usize = 12;

/// A preshared key.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretSection {
    /// Whose it is; nobody named is everybody's.
    #[serde(default)]
    pub ids: Vec<String>,
    /// The key: text, `0x…` or `0s…` is not decoded here.
    pub secret: Zeroizing<String>,
}

impl fmt::Debug for SecretSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretSection({:?})", self.ids)
    }
}

/// Refuses a preshared key that is too short, and warns of one that is nearly so.
pub(crate) fn check_secret(key: &str, len: usize) -> Result<(), String> {
    if len < PSK_LEAST {
        return Err(format!(
            "{len} characters: a preshared key has at least {PSK_LEAST}"
        ));
    }
    if len < PSK_RECOMMENDED {
        tracing::warn!(
            key,
            len,
            "preshared key is short: {PSK_RECOMMENDED} or more characters are recommended"
        );
    }
    Ok(())
}
