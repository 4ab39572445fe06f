// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `[connections.NAME]`: a peer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ikev2d_crypto::name;
use ikev2d_proto::config::{
    AddressPattern, Childless, Connection, Identity, Redirect, SendCert, Tcp, Unique,
};
use ikev2d_proto::proposal::Proposal;
use ikev2d_proto::suite::Suite;
use serde::{Deserialize, Deserializer};

use super::auth::AuthSection;
use super::child::ChildSection;
use super::credentials::Credentials;
use super::text::{IkeProposal, Seconds, Text};
use super::xauth::XauthSection;
use super::{ikev1, legacy};

/// Port of IKE in TCP, if nothing else is said (RFC 9329 §5).
const TCP_PORT: u16 = 4500;
/// Rekeyings between two reauthentications, at most.
const MOST_REAUTH_FREQUENCY: u32 = 100;

/// A peer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionSection {
    /// 1 or 2, or 0 for either: as the peer begins, and we with 2.
    #[serde(default = "two")]
    pub version: u8,
    /// IKEv1: aggressive mode. Identities go in the clear.
    #[serde(default)]
    pub aggressive: bool,
    /// IKEv1: answer aggressive mode with a preshared key, although anybody can then guess at it offline.
    #[serde(default)]
    pub aggressive_psk: bool,
    /// Our addresses.
    #[serde(default)]
    pub local_addrs: Vec<Text<AddressPattern>>,
    /// The peer's addresses.
    #[serde(default)]
    pub remote_addrs: Vec<Text<AddressPattern>>,
    /// The peer's port.
    #[serde(default = "ike_port")]
    pub remote_port: u16,
    /// IKE proposals.
    #[serde(default)]
    pub proposals: Vec<Text<IkeProposal>>,
    /// Use algorithms of another time, where proposals name them: DES, 3DES, MD5, SHA-1, small groups.
    #[serde(default)]
    pub legacy: bool,
    /// Force UDP encapsulation.
    #[serde(default)]
    pub encap: bool,
    /// Silence after which the peer is asked whether it lives; 0 is never.
    #[serde(default)]
    pub dpd_delay: Seconds,
    /// Age at which the IKE SA is rekeyed; 0 is never.
    #[serde(default = "four_hours")]
    pub rekey_time: Seconds,
    /// Further time after which it is deleted; by default a tenth of the larger of `rekey_time` and
    /// `reauth_time`.
    pub over_time: Option<Seconds>,
    /// Tries to set it up; 0 is for ever.
    #[serde(default = "once")]
    pub keyingtries: u32,
    /// Age at which the IKE SA is replaced by one that is authenticated anew; 0 is never.
    #[serde(default)]
    pub reauth_time: Seconds,
    /// Every how many rekeyings it is replaced so instead, 1 to 100; 0 is never.
    #[serde(default)]
    pub reauth_frequency: u32,
    /// Up to how much earlier all that is done, at random; by default a tenth.
    pub rand_time: Option<Seconds>,
    /// What becomes of the peer's other IKE SAs: `no`, `never`, `replace` or `keep`.
    #[serde(default)]
    pub unique: UniqueSetting,
    /// Move established SAs to other addresses (RFC 4555): of this host, as its routes say, and of the peer,
    /// to those that it tells and `remote_addrs` allows, where it does not answer.
    #[serde(default)]
    pub mobike: bool,
    /// IKE and ESP by TCP (RFC 9329): `off`, `fallback` where UDP gets no answer, or `always`. A peer may
    /// begin by TCP where it is not off.
    #[serde(default)]
    pub tcp: TcpSetting,
    /// The peer's port of TCP; 4500 if not said.
    pub tcp_remote_port: Option<u16>,
    /// Go to another gateway when the peer says so (RFC 5685), whatever its address; it must prove the
    /// same identity.
    #[serde(default)]
    pub follow_redirects: bool,
    /// Let a peer that is a cluster go on with another member (RFC 6311).
    #[serde(default = "yes")]
    pub message_id_sync: bool,
    /// Another gateway that peers are sent to, if they can be.
    pub redirect_to: Option<IpAddr>,
    /// When: `init`, before we know who they are and at no cost, or `auth`.
    pub redirect_when: Option<RedirectWhen>,
    /// Addresses that the peer is asked for: `0.0.0.0` and `::` are any.
    #[serde(default)]
    pub vips: Vec<IpAddr>,
    /// Pools that the peer gets addresses from.
    #[serde(default)]
    pub pools: Vec<String>,
    /// Which postquantum preshared key is mixed in (RFC 8784); to a responder, which may be.
    pub ppk_id: Option<String>,
    /// Whether it must be.
    #[serde(default)]
    pub ppk_required: bool,
    /// Long messages in fragments (RFC 7383).
    #[serde(default = "yes")]
    pub fragmentation: bool,
    /// IKE SAs without a child (RFC 6023): `allow`, `prefer`, `force` or `never`.
    #[serde(default)]
    pub childless: ChildlessSetting,
    /// When our certificates are sent.
    #[serde(default)]
    pub send_cert: SendCertSetting,
    /// OCSP answers in CERT payloads (RFC 4806): `reply` to a peer that asks for one, `request` them of the
    /// peer, `both` or `never`.
    #[serde(default)]
    pub ocsp: OcspSetting,
    /// Our end.
    pub local: AuthSection,
    /// The peer's end.
    pub remote: AuthSection,
    /// IKEv1: our user, who proves itself behind that (XAUTH).
    #[serde(default, rename = "local-xauth", alias = "local_xauth")]
    pub local_xauth: Option<XauthSection>,
    /// IKEv1: the peer's.
    #[serde(default, rename = "remote-xauth", alias = "remote_xauth")]
    pub remote_xauth: Option<XauthSection>,
    /// IKEv1: whoever wants an address asks for it; otherwise it is given unasked.
    #[serde(default = "yes")]
    pub pull: bool,
    /// IKEv1: where we answer, the peer is to wait until we say that a child SA is there (the commit bit).
    #[serde(default)]
    pub commit: bool,
    /// For how long an IKE SA that was lost may be resumed without a key exchange (RFC 5723); 0 is never.
    #[serde(default)]
    pub resumption: Seconds,
    /// Child SAs by name; what is installed by one keeps it.
    #[serde(default, deserialize_with = "shared")]
    pub children: BTreeMap<String, Arc<ChildSection>>,
}

fn shared<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Arc<ChildSection>>, D::Error> {
    let own = BTreeMap::<String, ChildSection>::deserialize(deserializer)?;
    let shared = own.into_iter().map(|(name, child)| (name, Arc::new(child)));
    Ok(shared.collect())
}

/// When our certificates are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SendCertSetting {
    /// When the peer asks.
    #[default]
    IfAsked,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl From<SendCertSetting> for SendCert {
    fn from(setting: SendCertSetting) -> Self {
        match setting {
            SendCertSetting::IfAsked => Self::IfAsked,
            SendCertSetting::Always => Self::Always,
            SendCertSetting::Never => Self::Never,
        }
    }
}

/// OCSP answers in CERT payloads (RFC 4806), in swanctl.conf's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OcspSetting {
    /// A peer that asks gets ours.
    #[default]
    Reply,
    /// The peer is asked, where `revocation` looks at it.
    Request,
    /// Both.
    Both,
    /// Neither.
    Never,
}

impl OcspSetting {
    pub(super) fn replies(self) -> bool {
        matches!(self, Self::Reply | Self::Both)
    }

    pub(super) fn requests(self) -> bool {
        matches!(self, Self::Request | Self::Both)
    }
}

fn two() -> u8 {
    2
}

fn yes() -> bool {
    true
}

/// IKE and ESP by TCP (RFC 9329).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TcpSetting {
    /// Never.
    #[default]
    Off,
    /// Where UDP gets no answer.
    Fallback,
    /// Always.
    Always,
}

impl From<TcpSetting> for Tcp {
    fn from(setting: TcpSetting) -> Self {
        match setting {
            TcpSetting::Off => Self::Off,
            TcpSetting::Fallback => Self::Fallback,
            TcpSetting::Always => Self::Always,
        }
    }
}

/// When peers are sent elsewhere (RFC 5685).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RedirectWhen {
    /// In IKE_SA_INIT.
    #[default]
    Init,
    /// In IKE_AUTH.
    Auth,
}

/// What becomes of the peer's other IKE SAs, in strongSwan's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum UniqueSetting {
    /// They stay, unless the peer says that it knows of no others.
    #[default]
    No,
    /// They stay.
    Never,
    /// The new one replaces them.
    Replace,
    /// The new one is refused.
    Keep,
}

impl From<UniqueSetting> for Unique {
    fn from(setting: UniqueSetting) -> Self {
        match setting {
            UniqueSetting::No => Self::No,
            UniqueSetting::Never => Self::Never,
            UniqueSetting::Replace => Self::Replace,
            UniqueSetting::Keep => Self::Keep,
        }
    }
}

/// IKE SAs without a child, in strongSwan's words.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ChildlessSetting {
    /// By the peer.
    #[default]
    Allow,
    /// By us too, where the peer can.
    Prefer,
    /// Never otherwise.
    Force,
    /// Not at all.
    Never,
}

impl From<ChildlessSetting> for Childless {
    fn from(setting: ChildlessSetting) -> Self {
        match setting {
            ChildlessSetting::Allow => Self::Allow,
            ChildlessSetting::Prefer => Self::Prefer,
            ChildlessSetting::Force => Self::Force,
            ChildlessSetting::Never => Self::Never,
        }
    }
}

fn once() -> u32 {
    1
}

fn ike_port() -> u16 {
    500
}

fn four_hours() -> Seconds {
    Seconds(Duration::from_secs(4 * 3600))
}

impl ConnectionSection {
    /// What the types do not say: the setting that is wrong, and why.
    pub(crate) fn check(&self) -> Result<(), (String, String)> {
        let invalid = |key: String, what: String| Err((key, what));
        let suites: Vec<Suite> = self.proposals.iter().filter_map(|p| p.0.suite).collect();
        ikev1::check(self, &suites)?;
        legacy::check(self, ikev1::version(self.version))?;
        if self.ppk_required && self.ppk_id.is_none() {
            let what = "is set without ppk_id, which says what is required";
            return invalid("ppk_required".to_owned(), what.to_owned());
        }
        if self.tcp != TcpSetting::Off && self.version == 1 {
            let what = "TCP (RFC 9329) is IKEv2's: expected version = 2".to_owned();
            return invalid("tcp".to_owned(), what);
        }
        match self.tcp_remote_port {
            Some(_) if self.tcp == TcpSetting::Off => {
                let what = "is set without tcp = \"fallback\" or \"always\"".to_owned();
                return invalid("tcp_remote_port".to_owned(), what);
            }
            Some(0) => {
                let what = "0 is no port".to_owned();
                return invalid("tcp_remote_port".to_owned(), what);
            }
            _ => {}
        }
        if self.version == 1 && self.resumption.nonzero().is_some() {
            let what = "session resumption (RFC 5723) is IKEv2's: expected version = 2".to_owned();
            return invalid("resumption".to_owned(), what);
        }
        let redirects = [
            ("follow_redirects", self.follow_redirects),
            ("redirect_to", self.redirect_to.is_some()),
            ("redirect_when", self.redirect_when.is_some()),
        ];
        if let Some((key, _)) = redirects.iter().find(|(_, set)| *set && self.version == 1) {
            let what = "redirection (RFC 5685) is IKEv2's: expected version = 2".to_owned();
            return invalid((*key).to_owned(), what);
        }
        if self.redirect_when.is_some() && self.redirect_to.is_none() {
            let what = "is set without redirect_to, which says where".to_owned();
            return invalid("redirect_when".to_owned(), what);
        }
        if self.local.is_eap() || self.remote.is_eap() {
            let both = self.local.is_eap() && self.remote.is_eap();
            let mutual = self.local.is_mutual_eap() && self.remote.is_mutual_eap();
            let what = if both && !mutual {
                "EAP at both ends (RFC 5998): expected eap-tls, or the responder by psk or pubkey"
            } else if both && self.remote.identity() == Identity::Any {
                "EAP at both ends (RFC 5998) proves nothing without remote.id"
            } else if self.ppk_id.is_some() {
                "EAP and ppk_id together are not supported"
            } else if self.version != 2 {
                "EAP is IKEv2's: expected version = 2"
            } else {
                ""
            };
            if !what.is_empty() {
                let side = if self.local.is_eap() {
                    "local"
                } else {
                    "remote"
                };
                return invalid(format!("{side}.auth"), what.to_owned());
            }
        }
        let frequency = self.reauth_frequency;
        if frequency > MOST_REAUTH_FREQUENCY {
            let what = format!(
                "{frequency}: expected 1 to {MOST_REAUTH_FREQUENCY} rekeyings, or 0 for no reauthentication"
            );
            return invalid("reauth_frequency".to_owned(), what);
        }
        for (side, auth) in [("local", &self.local), ("remote", &self.remote)] {
            auth.check(side == "local")
                .map_err(|(key, what)| (format!("{side}.{key}"), what))?;
            for suite in &suites {
                auth.check_suite(*suite)
                    .map_err(|what| (format!("{side}.auth"), what))?;
            }
        }
        for (name, child) in &self.children {
            child
                .check_mode(self)
                .map_err(|what| (format!("children.{name}.mode"), what))?;
            for (setting, given) in [
                ("if_id_in", child.if_id_in.is_some()),
                ("if_id_out", child.if_id_out.is_some()),
            ] {
                if given {
                    tracing::warn!(child = name, setting, "has no effect");
                }
            }
            child
                .check_resources(self)
                .map_err(|what| (format!("children.{name}.per_resource_sas"), what))?;
            child
                .check_tfc_padding(self)
                .map_err(|what| (format!("children.{name}.tfc_padding"), what))?;
            child
                .check_window()
                .map_err(|what| (format!("children.{name}.replay_window"), what))?;
        }
        Ok(())
    }

    /// What is less than good in it, each with its setting.
    pub(crate) fn warnings(&self) -> Vec<String> {
        const WHY: &str = "whoever knows the preshared key can pass for the responder, and EAP tells it \
                           what to guess passwords by: RFC 7296 §2.16 wants a public key there";
        let mut warnings = Vec::new();
        for (key, responder, initiator) in [
            ("local.auth", &self.local, &self.remote),
            ("remote.auth", &self.remote, &self.local),
        ] {
            if initiator.is_eap() && responder.is_psk() {
                warnings.push(format!("{key}: {WHY}"));
            }
        }
        for (side, auth) in [("local", &self.local), ("remote", &self.remote)] {
            if auth.legacy() {
                warnings.push(format!(
                    "{side}.auth: SHA-1 signatures are allowed: RFC 8247 says that nobody should"
                ));
            }
        }
        warnings.extend(legacy::warning(self));
        warnings.extend(ikev1::warnings(self));
        warnings
    }

    /// For the core, where so many workers send.
    pub(crate) fn to_connection(
        &self,
        name: &str,
        credentials: &Credentials,
        workers: u16,
    ) -> Result<Connection, (String, String)> {
        for (name, child) in &self.children {
            child
                .check_workers(workers)
                .map_err(|what| (format!("children.{name}.per_resource_sas"), what))?;
        }
        let in_side = |side| move |(key, what)| (format!("{side}.{key}"), what);
        let (local_auth, subject) = self
            .local
            .local(&self.remote, credentials, self.ocsp.replies())
            .map_err(in_side("local"))?;
        let remote_auth = self
            .remote
            .remote(&self.local, credentials, self.ocsp.requests())
            .map_err(in_side("remote"))?;
        let proposals: Vec<Proposal> = self
            .proposals
            .iter()
            .flat_map(|p| p.0.proposals.clone())
            .collect();
        let rekey = self.rekey_time.nonzero();
        let longest = rekey.max(self.reauth_time.nonzero()).unwrap_or_default();
        Ok(Connection {
            name: name.to_owned(),
            version: ikev1::version(self.version),
            ikev1: ikev1::settings(self, credentials)?,
            local_addrs: self.local_addrs.iter().map(|a| a.0).collect(),
            remote_addrs: self.remote_addrs.iter().map(|a| a.0).collect(),
            remote_port: self.remote_port,
            local_id: self.local_id(subject),
            remote_id: self.remote.identity(),
            local_auth,
            remote_auth,
            send_cert: self.send_cert.into(),
            proposals: if proposals.is_empty() {
                Proposal::ike_default()
            } else {
                proposals
            },
            encap: self.encap,
            fragmentation: self.fragmentation,
            rand_time: self.rand_time.map(|time| time.0),
            reauth_time: self.reauth_time.nonzero(),
            reauth_frequency: self.reauth_frequency,
            unique: self.unique.into(),
            childless: self.childless.into(),
            mobike: self.mobike,
            tcp: self.tcp.into(),
            tcp_port: self.tcp_remote_port.unwrap_or(TCP_PORT),
            follow_redirects: self.follow_redirects,
            message_id_sync: self.message_id_sync,
            redirect: self.redirect_to.map(|gateway| Redirect {
                gateway,
                authenticated: self.redirect_when == Some(RedirectWhen::Auth),
            }),
            vips: self.vips.clone(),
            pools: self.pools.clone(),
            ppk_id: self.ppk_id.as_deref().map(name::identity),
            ppk_required: self.ppk_required,
            dpd_delay: self.dpd_delay.nonzero(),
            rekey_time: rekey,
            resumption: self.resumption.nonzero(),
            over_time: self.over_time.map_or(longest / 10, |over| over.0),
            children: self
                .children
                .iter()
                .map(|(name, child)| child.to_child(name, workers))
                .collect(),
        })
    }

    /// As in strongSwan: without an id we are our certificate's subject, or our address.
    fn local_id(&self, subject: Option<Identity>) -> Identity {
        match (self.local.identity(), subject) {
            (Identity::Any, Some(subject)) => subject,
            (Identity::Any, None) => {
                let own = self.local_addrs.iter().find_map(|a| a.0.single());
                own.map_or(Identity::Any, Identity::Address)
            }
            (id, _) => id,
        }
    }
}
