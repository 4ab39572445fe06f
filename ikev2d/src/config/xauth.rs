// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `connections.NAME.local-xauth` and `remote-xauth`: a user behind IKEv1's phase 1.

use ikev2d_crypto::name;
use ikev2d_proto::xauth::Xauth;
use serde::Deserialize;

use super::auth::eap_name;
use super::credentials::Credentials;

/// Who proves itself by name and password.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct XauthSection {
    /// `xauth`, or `xauth-generic`, which is the same.
    pub auth: String,
    /// Of us: the user. Of the peer: the only one that is taken; by default everybody with a password.
    #[serde(default, alias = "id")]
    pub xauth_id: String,
}

/// A key that is wrong, and why.
type Wrong = (&'static str, String);

impl XauthSection {
    pub(super) fn check(&self) -> Result<(), Wrong> {
        if matches!(self.auth.as_str(), "xauth" | "xauth-generic") {
            return Ok(());
        }
        let what = format!("{:?}: expected \"xauth\"", self.auth);
        Err(("auth", what))
    }

    fn user(&self) -> Vec<u8> {
        eap_name(&name::identity(&self.xauth_id))
    }

    /// Our user.
    pub(super) fn client(&self, credentials: &Credentials) -> Result<Xauth, Wrong> {
        let user = self.user();
        let mut known = credentials.eap_secrets().iter();
        let own = known.find(|(name, _)| *name == user && !self.xauth_id.is_empty());
        own.cloned().map(Xauth::Client).ok_or_else(|| {
            let name = &self.xauth_id;
            let what = format!("no password for {name:?} (secrets.xauth-NAME with ids)");
            ("xauth_id", what)
        })
    }

    /// The peer's users.
    pub(super) fn server(&self, credentials: &Credentials) -> Xauth {
        let user = self.user();
        let known = credentials.eap_secrets().iter();
        let taken = known.filter(|(name, _)| self.xauth_id.is_empty() || *name == user);
        Xauth::Server(taken.cloned().collect())
    }
}
