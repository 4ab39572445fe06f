// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Users of XAUTH (draft-beaulieu-ike-xauth-02): who proves itself by name and password once both ends have
//! proved themselves by phase 1 of IKEv1.

use std::fmt;

use zeroize::Zeroizing;

use crate::crypto::Crypto;

/// A user and its password.
pub type User = (Vec<u8>, Zeroizing<String>);

/// Our part of it.
#[derive(Clone)]
pub enum Xauth {
    /// We say who we are.
    Client(User),
    /// The peer does: one of these.
    Server(Vec<User>),
}

impl fmt::Debug for Xauth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client((name, _)) => {
                write!(f, "Client({:?})", String::from_utf8_lossy(name))
            }
            Self::Server(users) => write!(f, "Server({} users)", users.len()),
        }
    }
}

impl Xauth {
    /// Whether the peer's word is one of the users'. The password is compared with everybody's, so that no
    /// name is told by the time that it takes.
    pub fn admits(&self, crypto: &dyn Crypto, name: &[u8], password: &[u8]) -> bool {
        let Self::Server(users) = self else {
            return false;
        };
        // Some clients send the octet that ends a string in C.
        let password = password.strip_suffix(&[0]).unwrap_or(password);
        let fits = |(user, secret): &User| {
            let same = crypto.equal(secret.as_bytes(), password);
            (user == name) & same
        };
        users.iter().fold(false, |found, user| found | fits(user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let user = (b"carol".to_vec(), Zeroizing::new("open sesame".to_owned()));
        for xauth in [Xauth::Client(user.clone()), Xauth::Server(vec![user])] {
            assert!(!format!("{xauth:?}").contains("sesame"));
        }
    }
}
