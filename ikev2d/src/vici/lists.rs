// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `swanctl --list-…` shows, in strongSwan's words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ikev2d_crypto::X509;
use ikev2d_crypto::name::{self, shown};
use ikev2d_proto::algorithm::{Encryption, Group, Integrity, Prf};
use ikev2d_proto::config::{
    AddressPattern, Connection, LocalAuth, RemoteAuth, SelectorConfig, Unique, Version,
};
use ikev2d_proto::credential::Certificate;
use ikev2d_proto::endpoint::{ChildInfo, IkeSaInfo};
use ikev2d_proto::proposal::{Additional, AdditionalGroups};
use ikev2d_proto::ts::TrafficSelector;

use crate::daemon::Along;
use offload_api::event::Engine;
use offload_api::failover::Placement;

use super::message::{Section, Value};
use crate::config::{Authority, ChildSection, TfcPadding};
use crate::install::Padding;

/// Traffic and placement of a child SA, from the data plane.
pub(crate) struct ChildFacts {
    pub(crate) placement: Option<Placement>,
    /// The interface that it is bound to.
    pub(crate) interface: Option<String>,
    /// Age at which it stops.
    pub(crate) life_time: Option<Duration>,
    /// The TFC padding that it sends.
    pub(crate) padding: Padding,
    pub(crate) inbound: (u64, u64),
    pub(crate) outbound: (u64, u64),
}

/// A `list-sa` event.
pub(crate) fn ike_sa(
    sa: &IkeSaInfo<'_>,
    now: Instant,
    facts: impl Fn(&ChildInfo<'_>) -> ChildFacts,
) -> Section {
    let mut section = ike(sa, now);
    let mut children = Section::default();
    for child in &sa.children {
        let listed = child_sa(child, now, &facts(child));
        children.put_section(&child_name(child), listed);
    }
    section.put_section("child-sas", children);
    let mut event = Section::default();
    event.put_section(sa.connection, section);
    event
}

/// What a child SA is listed as.
pub(crate) fn child_name(child: &ChildInfo<'_>) -> String {
    format!("{}-{}", child.sa.child, child.sa.id.0)
}

/// An IKE SA without its children.
pub(crate) fn ike(sa: &IkeSaInfo<'_>, now: Instant) -> Section {
    let mut section = Section::default();
    section.put("uniqueid", sa.id.0);
    section.put("version", sa.version);
    section.put("state", sa.state);
    section.put("local-host", sa.path.local.ip());
    section.put("local-port", sa.path.local.port());
    section.put("local-id", shown(sa.local_id));
    section.put("remote-host", sa.path.remote.ip());
    section.put("remote-port", sa.path.remote.port());
    section.put("remote-id", shown(sa.remote_id));
    if sa.initiator {
        section.put("initiator", "yes");
    }
    section.put("initiator-spi", format_args!("{:016x}", sa.spi_i));
    section.put("responder-spi", format_args!("{:016x}", sa.spi_r));
    for (key, nat) in [("nat-local", sa.nat_local), ("nat-remote", sa.nat_remote)] {
        if nat {
            section.put(key, "yes");
        }
    }
    if sa.path.stream.is_some() {
        section.put("tcp", "yes");
    }
    if let Some(suite) = &sa.suite {
        put_encryption(&mut section, suite.encryption);
        put_integrity(&mut section, suite.integrity);
        section.put("prf-alg", suite.prf.name());
        section.put("dh-group", group_name(suite.group));
        put_additional(&mut section, &suite.additional);
        put_legacy(&mut section, &sa.weak());
    }
    if !sa.local_vips.is_empty() {
        section.put_list("local-vips", sa.local_vips.iter().map(ToString::to_string));
        for (name, texts) in Along::new(sa.attributes).named() {
            if !texts.is_empty() {
                section.put_list(name, texts);
            }
        }
    }
    if !sa.remote_vips.is_empty() {
        section.put_list(
            "remote-vips",
            sa.remote_vips.iter().map(ToString::to_string),
        );
    }
    if sa.ppk {
        section.put("ppk", "yes");
    }
    if let Some(established) = sa.established {
        section.put(
            "established",
            now.saturating_duration_since(established).as_secs(),
        );
    }
    if let Some(at) = sa.rekey_at {
        section.put("rekey-time", at.saturating_duration_since(now).as_secs());
    }
    section
}

/// A child SA.
pub(crate) fn child_sa(child: &ChildInfo<'_>, now: Instant, facts: &ChildFacts) -> Section {
    let sa = child.sa;
    let mut section = Section::default();
    section.put("name", &sa.child);
    section.put("uniqueid", sa.id.0);
    section.put("reqid", 1);
    section.put("state", child.state);
    section.put("mode", if sa.transport { "TRANSPORT" } else { "TUNNEL" });
    section.put("protocol", if sa.suite.ah { "AH" } else { "ESP" });
    if sa.udp_encap {
        section.put("encap", "yes");
    }
    match sa.resource {
        None => {}
        Some(0) => section.put("per-cpu-sas", "yes"),
        Some(worker) => section.put("cpu", worker),
    }
    if sa.path.stream.is_some() {
        section.put("tcp", "yes");
    }
    if let Some(interface) = &facts.interface {
        section.put("interface", interface);
    }
    section.put("spi-in", format_args!("{:08x}", sa.spi_in));
    section.put("spi-out", format_args!("{:08x}", sa.spi_out));
    if !sa.suite.ah {
        put_encryption(&mut section, sa.suite.encryption);
    }
    put_integrity(&mut section, sa.suite.integrity);
    if let Some(group) = sa.suite.group {
        section.put("dh-group", group_name(group));
    }
    put_additional(&mut section, &sa.suite.additional);
    put_legacy(&mut section, &sa.suite.weak());
    if sa.suite.esn {
        section.put("esn", 1);
    }
    match facts.padding {
        Padding::Off => {}
        Padding::Sent(octets) => section.put("tfc-padding", octets),
        Padding::Refused => section.put("tfc-padding", "refused by the peer"),
    }
    section.put("bytes-in", facts.inbound.1);
    section.put("packets-in", facts.inbound.0);
    section.put("bytes-out", facts.outbound.1);
    section.put("packets-out", facts.outbound.0);
    let age = now.saturating_duration_since(child.installed);
    let left = child
        .rekey_at
        .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    section.put("rekey-time", left.as_secs());
    if let Some(life) = facts.life_time {
        section.put("life-time", life.saturating_sub(age).as_secs());
    }
    section.put("install-time", age.as_secs());
    section.put_list("local-ts", sa.ts_local.iter().map(selector));
    section.put_list("remote-ts", sa.ts_remote.iter().map(selector));
    if let Some(placement) = &facts.placement {
        let engine = match placement.engine {
            Engine::Device => "device",
            Engine::Software => "software",
        };
        section.put("engine", engine);
        if let Some(reason) = &placement.reason {
            section.put("engine-reason", reason);
        }
    }
    section
}

/// Settings of a child that the core does not know.
#[derive(Default)]
pub(crate) struct ChildSettings {
    pub(crate) rekey_bytes: u64,
    pub(crate) rekey_packets: u64,
    pub(crate) tfc_padding: TfcPadding,
}

impl From<&ChildSection> for ChildSettings {
    fn from(section: &ChildSection) -> Self {
        Self {
            rekey_bytes: section.rekey_bytes,
            rekey_packets: section.rekey_packets,
            tfc_padding: section.tfc_padding,
        }
    }
}

/// A `list-conn` event; `settings` are those of a child of this name.
pub(crate) fn connection(
    connection: &Connection,
    settings: impl Fn(&str) -> ChildSettings,
) -> Section {
    let mut section = Section::default();
    let address = |pattern: &AddressPattern| match (pattern, pattern.single()) {
        (_, Some(single)) => single.to_string(),
        (AddressPattern::Prefix(base, bits), None) => format!("{base}/{bits}"),
        (AddressPattern::Any, None) => "%any".to_owned(),
    };
    let addresses = |patterns: &[AddressPattern]| -> Vec<String> {
        if patterns.is_empty() {
            vec!["%any".to_owned()]
        } else {
            patterns.iter().map(address).collect()
        }
    };
    section.put_list("local_addrs", addresses(&connection.local_addrs));
    section.put_list("remote_addrs", addresses(&connection.remote_addrs));
    let version = match connection.version {
        Version::V1 => "IKEv1",
        Version::V2 => "IKEv2",
        Version::Either => "IKEv1/2",
    };
    section.put("version", version);
    section.put("reauth_time", seconds(connection.reauth_time));
    section.put("rekey_time", seconds(connection.rekey_time));
    let unique = match connection.unique {
        Unique::No => "UNIQUE_NO",
        Unique::Never => "UNIQUE_NEVER",
        Unique::Replace => "UNIQUE_REPLACE",
        Unique::Keep => "UNIQUE_KEEP",
    };
    section.put("unique", unique);
    let local = match connection.local_auth {
        LocalAuth::PublicKey(_) => "public key",
        LocalAuth::SharedKey => "pre-shared key",
        LocalAuth::Eap(_) => "EAP",
    };
    let remote = match connection.remote_auth {
        RemoteAuth::PublicKey(_) => "public key",
        RemoteAuth::SharedKey => "pre-shared key",
        RemoteAuth::Eap(_) => "EAP",
    };
    for (name, id, class) in [
        ("local-1", &connection.local_id, local),
        ("remote-1", &connection.remote_id, remote),
    ] {
        let mut end = Section::default();
        end.put("class", class);
        end.put("id", shown(id));
        section.put_section(name, end);
    }
    let mut children = Section::default();
    for child in &connection.children {
        let mut section = Section::default();
        section.put(
            "mode",
            if child.transport {
                "TRANSPORT"
            } else {
                "TUNNEL"
            },
        );
        section.put("rekey_time", seconds(child.rekey_time));
        let settings = settings(&child.name);
        section.put("rekey_bytes", settings.rekey_bytes);
        section.put("rekey_packets", settings.rekey_packets);
        if settings.tfc_padding != TfcPadding::OFF {
            section.put("tfc_padding", settings.tfc_padding);
        }
        let text = |config: &SelectorConfig| match config {
            SelectorConfig::Dynamic => "dynamic".to_owned(),
            SelectorConfig::Fixed(ts) => selector(ts),
        };
        section.put_list("local-ts", child.local_ts.iter().map(text));
        section.put_list("remote-ts", child.remote_ts.iter().map(text));
        children.put_section(&child.name, section);
    }
    section.put_section("children", children);
    let mut event = Section::default();
    event.put_section(&connection.name, section);
    event
}

/// A `list-authority` event.
pub(crate) fn authority(name: &str, authority: &Authority) -> Section {
    let mut section = Section::default();
    let subject = name::text(authority.certificate.subject_name());
    section.put("cacert", subject);
    section.put_list("crl_uris", authority.crl_uris.iter().cloned());
    section.put_list("ocsp_uris", authority.ocsp_uris.iter().cloned());
    let mut event = Section::default();
    event.put_section(name, section);
    event
}

/// `list-cert` events: the certificates of our ends, and authorities.
pub(crate) fn certificates(
    connections: &[Arc<Connection>],
    authorities: &[X509],
) -> Vec<(&'static str, Section)> {
    let mut all: Vec<(Vec<u8>, bool, bool)> = Vec::new();
    let own = connections
        .iter()
        .filter_map(|connection| match &connection.local_auth {
            LocalAuth::PublicKey(signer) => Some(signer),
            LocalAuth::SharedKey | LocalAuth::Eap(_) => None,
        });
    for signer in own {
        let certificates = signer.certificates().iter();
        for (at, c) in certificates
            .enumerate()
            .filter(|(_, c)| c.encoding == Certificate::X509)
        {
            all.push((c.octets.clone(), at == 0, false));
        }
    }
    all.extend(
        authorities
            .iter()
            .filter_map(|ca| Some((ca.to_der().ok()?, false, true))),
    );
    all.sort();
    all.dedup_by(|a, b| a.0 == b.0);
    all.into_iter()
        .map(|(der, has_key, authority)| {
            let mut section = Section::default();
            section.put("type", "X509");
            section.put("flag", if authority { "CA" } else { "NONE" });
            if has_key {
                section.put("has_privkey", "yes");
            }
            section.0.push(("data".to_owned(), Value::Octets(der)));
            ("list-cert", section)
        })
        .collect()
}

fn put_encryption(section: &mut Section, encryption: Encryption) {
    let (name, bits) = match encryption {
        Encryption::Des => ("DES_CBC", None),
        Encryption::TripleDes => ("3DES_CBC", None),
        Encryption::Null => ("NULL", None),
        Encryption::AesCbc(bits) => ("AES_CBC", Some(bits)),
        Encryption::AesCcm8(bits) => ("AES_CCM_8", Some(bits)),
        Encryption::AesCcm12(bits) => ("AES_CCM_12", Some(bits)),
        Encryption::AesCcm16(bits) => ("AES_CCM_16", Some(bits)),
        Encryption::AesGcm8(bits) => ("AES_GCM_8", Some(bits)),
        Encryption::AesGcm12(bits) => ("AES_GCM_12", Some(bits)),
        Encryption::AesGcm16(bits) => ("AES_GCM_16", Some(bits)),
        Encryption::NullAesGmac(bits) => ("NULL_AES_GMAC", Some(bits)),
        Encryption::ChaCha20Poly1305 => ("CHACHA20_POLY1305", None),
    };
    section.put("encr-alg", name);
    if let Some(bits) = bits {
        section.put("encr-keysize", bits);
    }
}

fn put_integrity(section: &mut Section, integrity: Option<Integrity>) {
    let name = match integrity {
        None => return,
        Some(Integrity::HmacSha256) => "HMAC_SHA2_256_128",
        Some(Integrity::HmacSha384) => "HMAC_SHA2_384_192",
        Some(Integrity::HmacSha512) => "HMAC_SHA2_512_256",
        Some(Integrity::HmacMd5) => "HMAC_MD5_96",
        Some(Integrity::HmacSha1) => "HMAC_SHA1_96",
        Some(Integrity::AesXcbc) => "AES_XCBC_96",
        Some(Integrity::AesCmac) => "AES_CMAC_96",
        Some(Integrity::Aes128Gmac) => "AES_128_GMAC",
        Some(Integrity::Aes192Gmac) => "AES_192_GMAC",
        Some(Integrity::Aes256Gmac) => "AES_256_GMAC",
    };
    section.put("integ-alg", name);
}

/// What RFC 8247 and RFC 8221 would have nobody use any more: a setting has allowed it.
fn put_legacy(section: &mut Section, weak: &[&str]) {
    if !weak.is_empty() {
        section.put("legacy", weak.join(" "));
    }
}

/// Additional key exchanges (RFC 9370) by their place.
fn put_additional(section: &mut Section, additional: &AdditionalGroups) {
    for (number, additional) in (1..).zip(additional) {
        if let Additional::Method(group) = additional {
            section.put(&format!("ke{number}"), group_name(*group));
        }
    }
}

fn group_name(group: Group) -> &'static str {
    match group {
        Group::Modp768 => "MODP_768",
        Group::Modp1024 => "MODP_1024",
        Group::Modp1536 => "MODP_1536",
        Group::Modp1024s160 => "MODP_1024_160",
        Group::Modp2048s224 => "MODP_2048_224",
        Group::Modp2048s256 => "MODP_2048_256",
        Group::Brainpool256 => "ECP_256_BP",
        Group::Brainpool384 => "ECP_384_BP",
        Group::Brainpool512 => "ECP_512_BP",
        Group::Modp2048 => "MODP_2048",
        Group::Modp3072 => "MODP_3072",
        Group::Modp4096 => "MODP_4096",
        Group::Ecp256 => "ECP_256",
        Group::Ecp384 => "ECP_384",
        Group::Ecp521 => "ECP_521",
        Group::X25519 => "CURVE_25519",
        Group::X448 => "CURVE_448",
        Group::MlKem512 => "ML_KEM_512",
        Group::MlKem768 => "ML_KEM_768",
        Group::MlKem1024 => "ML_KEM_1024",
    }
}

/// A selector as a prefix where it is one, else as a range; protocol and port behind it.
pub(crate) fn selector(ts: &TrafficSelector) -> String {
    let prefix = (0..=128u8).find(|bits| {
        let whole = TrafficSelector::prefix(ts.start, *bits);
        (whole.start, whole.end) == (ts.start, ts.end)
    });
    let net = match prefix {
        Some(bits) => format!(
            "{}/{}",
            ts.start,
            bits.min(if ts.start.is_ipv4() { 32 } else { 128 })
        ),
        None => format!("{}..{}", ts.start, ts.end),
    };
    let any_port = (ts.start_port, ts.end_port) == (0, u16::MAX);
    match (ts.protocol, any_port) {
        (0, true) => net,
        (protocol, true) => format!("{net}[{protocol}]"),
        (protocol, false) if ts.is_opaque() => format!("{net}[{protocol}/OPAQUE]"),
        (protocol, false) if ts.start_port == ts.end_port => {
            format!("{net}[{protocol}/{}]", ts.start_port)
        }
        (protocol, false) => format!("{net}[{protocol}/{}-{}]", ts.start_port, ts.end_port),
    }
}

/// The answer to `get-algorithms`.
pub(crate) fn algorithms() -> Section {
    let mut all = Section::default();
    let lists: [(&str, &[&str]); 5] = [
        ("encryption", &["AES_CBC", "3DES_CBC", "DES_CBC"]),
        (
            "integrity",
            &[
                "HMAC_SHA2_256_128",
                "HMAC_SHA2_384_192",
                "HMAC_SHA2_512_256",
                "HMAC_SHA1_96",
                "HMAC_MD5_96",
                "AES_XCBC_96",
                "AES_CMAC_96",
                // AH's.
                "AES_128_GMAC",
                "AES_192_GMAC",
                "AES_256_GMAC",
            ],
        ),
        (
            "aead",
            &[
                "AES_GCM_16",
                "AES_GCM_12",
                "AES_GCM_8",
                "AES_CCM_16",
                "AES_CCM_12",
                "AES_CCM_8",
                "CHACHA20_POLY1305",
                // ESP's.
                "NULL_AES_GMAC",
            ],
        ),
        ("prf", &Prf::ALL.map(Prf::name)),
        ("ke", &Group::ALL.map(group_name)),
    ];
    for (kind, names) in lists {
        let mut section = Section::default();
        for name in names {
            section.put(name, "openssl");
        }
        all.put_section(kind, section);
    }
    all
}

/// A time that is configured, where 0 is none: parts of a second count as a whole one.
fn seconds(time: Option<Duration>) -> u64 {
    let time = time.unwrap_or_default();
    time.as_secs() + u64::from(time.subsec_nanos() != 0)
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    use super::*;

    /// What is configured is what is listed.
    #[test]
    fn a_connection_is_listed_with_its_own_times_and_uniqueness() {
        for (unique, listed) in [
            ("no", "UNIQUE_NO"),
            ("never", "UNIQUE_NEVER"),
            ("replace", "UNIQUE_REPLACE"),
            ("keep", "UNIQUE_KEEP"),
        ] {
            let text = format!(
                "[connections.gw]\nreauth_time = \"3h\"\nunique = {unique:?}\n\
                 local = {{ auth = \"psk\" }}\nremote = {{ auth = \"psk\" }}\n\
                 [connections.gw.children.net]\nrekey_time = \"50ms\"\n"
            );
            let config: Config = text.parse().unwrap();
            let settings = |_: &str| ChildSettings {
                rekey_bytes: 7,
                rekey_packets: 8,
                tfc_padding: TfcPadding::MTU,
            };
            let event = connection(&config.policy()[0], settings);
            let (_, section) = event.sections().next().unwrap();
            assert_eq!(section.text("reauth_time"), Some("10800"));
            assert_eq!(section.text("unique"), Some(listed));
            let child = section.section("children").and_then(|c| c.section("net"));
            let child = child.unwrap();
            assert_eq!(child.text("rekey_time"), Some("1"));
            assert_eq!(child.text("rekey_bytes"), Some("7"));
            assert_eq!(child.text("rekey_packets"), Some("8"));
            assert_eq!(child.text("tfc_padding"), Some("mtu"));
        }
    }
}
