// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Settings that come as messages (`load-conn`, `load-shared`) instead of by file: the same keys,
//! every value a text.

use ikev2d_crypto::credential::{certificates, public_key};
use ikev2d_crypto::name;
use ikev2d_proto::config::Secret;
use serde::Deserialize;
use toml::{Table, Value as Toml};
use zeroize::Zeroizing;

use super::message::{Section, Value};
use crate::config::{
    AuthoritySection, ConnectionSection, HexKey, KeyTable, Keys, ManualSection, PoolSection,
    check_secret, manual_keys,
};

/// Settings that are switches.
const SWITCHES: [&str; 12] = [
    "aggressive",
    "aggressive_psk",
    "commit",
    "encap",
    "esn",
    "follow_redirects",
    "fragmentation",
    "legacy",
    "message_id_sync",
    "mobike",
    "ppk_required",
    "pull",
];
/// Settings that are plain numbers.
const NUMBERS: [&str; 13] = [
    "start_at",
    "keyingtries",
    "version",
    "remote_port",
    "tcp_remote_port",
    "rekey_bytes",
    "life_bytes",
    "rekey_packets",
    "life_packets",
    "replay_window",
    "reauth_frequency",
    "rand_bytes",
    "rand_packets",
];
/// Settings that are lists even if there is one of them.
const LISTS: [&str; 19] = [
    "crl_uris",
    "ocsp_uris",
    "dns",
    "nbns",
    "dhcp",
    "netmask",
    "subnet",
    "vips",
    "pools",
    "certs",
    "cacerts",
    "pubkeys",
    "local_addrs",
    "remote_addrs",
    "proposals",
    "esp_proposals",
    "ah_proposals",
    "local_ts",
    "remote_ts",
];

/// The connection of a `load-conn` message, with its name.
pub(crate) fn connection(message: &Section) -> Result<(String, ConnectionSection), String> {
    let mut sections = message.sections();
    let (Some((name, section)), None) = (sections.next(), sections.next()) else {
        return Err("expected one section, named like the connection".to_owned());
    };
    let table = table(section, true).map_err(|what| format!("{name}.{what}"))?;
    let connection = ConnectionSection::deserialize(table)
        .map_err(|error| format!("{name}: {}", error.to_string().trim().replace('\n', " ")))?;
    connection
        .check()
        .map_err(|(key, what)| format!("{name}.{key}: {what}"))?;
    Ok((name.to_owned(), connection))
}

/// The pool of a `load-pool` message, with its name.
pub(crate) fn pool(message: &Section) -> Result<(String, PoolSection), String> {
    let mut sections = message.sections();
    let (Some((name, section)), None) = (sections.next(), sections.next()) else {
        return Err("expected one section, named like the pool".to_owned());
    };
    let table = table(section, false).map_err(|what| format!("{name}.{what}"))?;
    let pool = PoolSection::deserialize(table)
        .map_err(|error| format!("{name}: {}", error.to_string().trim().replace('\n', " ")))?;
    Ok((name.to_owned(), pool))
}

/// The authority of a `load-authority` message, with its name.
pub(crate) fn authority(message: &Section) -> Result<(String, AuthoritySection), String> {
    let mut sections = message.sections();
    let (Some((name, section)), None) = (sections.next(), sections.next()) else {
        return Err("expected one section, named like the authority".to_owned());
    };
    let mut section = Section(section.0.clone());
    // Clients send the file's content, whatever its form.
    let data = section.octets("cacert").filter(|data| !data.is_ascii());
    if let Some(data) = data {
        let text = content("cacert", data).map_err(|what| format!("{name}.cacert: {what}"))?;
        section.0.retain(|(key, _)| key != "cacert");
        section.put("cacert", text);
    }
    let table = table(&section, false).map_err(|what| format!("{name}.{what}"))?;
    let authority = AuthoritySection::deserialize(table)
        .map_err(|error| format!("{name}: {}", error.to_string().trim().replace('\n', " ")))?;
    Ok((name.to_owned(), authority))
}

/// What a shared secret is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedKind {
    /// Authentication.
    Psk,
    /// Keys (RFC 8784).
    Ppk,
    /// EAP and XAUTH.
    Eap,
}

/// The secret of a `load-shared` message, with its id and kind.
pub(crate) fn secret(message: &Section) -> Result<(String, Secret, SharedKind), String> {
    let kind = match message.text("type").unwrap_or_default() {
        kind if kind.eq_ignore_ascii_case("ike") => SharedKind::Psk,
        kind if kind.eq_ignore_ascii_case("ppk") => SharedKind::Ppk,
        kind if kind.eq_ignore_ascii_case("eap") => SharedKind::Eap,
        kind if kind.eq_ignore_ascii_case("xauth") => SharedKind::Eap,
        kind => {
            return Err(format!(
                "secret of type {kind:?}: only IKE, EAP, XAUTH and PPK are supported"
            ));
        }
    };
    let data = message.octets("data").ok_or("no data")?;
    let owners = message.texts("owners");
    if kind != SharedKind::Psk && owners.is_empty() {
        return Err("this secret is found by its ids: no owners".to_owned());
    }
    let id = message
        .text("id")
        .map_or_else(|| owners.join(","), str::to_owned);
    if kind != SharedKind::Eap {
        for warning in check_secret(data)? {
            tracing::warn!(id, "preshared key: {warning}");
        }
    }
    let ids = owners.into_iter().map(name::identity).collect();
    let secret = Zeroizing::new(data.to_vec());
    Ok((id, Secret { ids, secret }, kind))
}

/// The SAs of a `load-manual` message: name, settings, keys.
pub(crate) fn manual(message: &Section) -> Result<(String, ManualSection, Keys), String> {
    let mut sections = message.sections();
    let (Some((name, section)), None) = (sections.next(), sections.next()) else {
        return Err("expected one section, named like the SAs".to_owned());
    };
    let texts = section.section("keys").ok_or("no keys")?;
    let key = |name: &str| match texts.text(name) {
        Some(text) => HexKey::parse(text).map_err(|what| format!("keys.{name}: {what}")),
        None => Ok(HexKey::default()),
    };
    let table = KeyTable {
        encryption_in: key("encryption_in")?,
        integrity_in: key("integrity_in")?,
        encryption_out: key("encryption_out")?,
        integrity_out: key("integrity_out")?,
    };
    // Keys get into no other form.
    let settings = section.0.iter().filter(|(key, _)| key != "keys");
    let settings = table_of(&Section(settings.cloned().collect()))?;
    let settings = ManualSection::deserialize(settings)
        .map_err(|error| format!("{name}: {}", error.to_string().trim().replace('\n', " ")))?;
    settings
        .check()
        .map_err(|(key, what)| format!("{name}.{key}: {what}"))?;
    let keys = manual_keys(settings.suite.0, &table)?;
    Ok((name.to_owned(), settings, keys))
}

fn table(section: &Section, top: bool) -> Result<Table, String> {
    let mut table = Table::new();
    for (key, value) in &section.0 {
        // Rounds of authentication are named local-1 or local1 as well; we have one, and XAUTH's.
        let key = match key.as_str() {
            "local" | "remote" => key.as_str(),
            other if top && is_user(value) && other.starts_with("local") => "local-xauth",
            other if top && is_user(value) && other.starts_with("remote") => "remote-xauth",
            other if top && is_section(value) && other.starts_with("local") => "local",
            other if top && is_section(value) && other.starts_with("remote") => "remote",
            other => other,
        };
        let converted = match value {
            Value::Section(inner) => {
                Toml::Table(table_of(inner).map_err(|what| format!("{key}.{what}"))?)
            }
            Value::List(items) => Toml::Array(items.iter().cloned().map(Toml::String).collect()),
            Value::Text(text) => scalar(key, text).map_err(|what| format!("{key}: {what}"))?,
            Value::OctetsList(items) => {
                let texts = items
                    .iter()
                    .map(|item| content(key, item).map(Toml::String));
                let texts: Result<_, _> = texts.collect();
                Toml::Array(texts.map_err(|what| format!("{key}: {what}"))?)
            }
            Value::Octets(item) if LISTS.contains(&key) => {
                let text = content(key, item).map_err(|what| format!("{key}: {what}"))?;
                Toml::Array(vec![Toml::String(text)])
            }
            Value::Octets(_) => return Err(format!("{key}: expected a text")),
        };
        if table.insert(key.to_owned(), converted).is_some() {
            return Err(format!("{key}: given more than once"));
        }
    }
    Ok(table)
}

/// What clients send of a file whose name would be a text: as it is, or in PEM if it is in DER.
fn content(key: &str, item: &[u8]) -> Result<String, String> {
    if let Ok(text) = std::str::from_utf8(item) {
        return Ok(text.to_owned());
    }
    let pem = match key {
        "certs" | "cacerts" | "cacert" => {
            let read = certificates(item).map_err(|error| error.to_string())?;
            let pem: Result<Vec<_>, _> = read.iter().map(|read| read.to_pem()).collect();
            pem.map(|pem| pem.concat())
        }
        "pubkeys" => {
            let read = public_key(item).map_err(|error| error.to_string())?;
            read.public_key_to_pem()
        }
        _ => return Err("expected a text".to_owned()),
    };
    let pem = pem.map_err(|error| error.to_string())?;
    String::from_utf8(pem).map_err(|error| error.to_string())
}

fn table_of(section: &Section) -> Result<Table, String> {
    table(section, false)
}

fn is_section(value: &Value) -> bool {
    matches!(value, Value::Section(_))
}

/// Whether it is a round of authentication by XAUTH.
fn is_user(value: &Value) -> bool {
    matches!(value, Value::Section(round) if round.text("auth").is_some_and(|a| a.starts_with("xauth")))
}

fn scalar(key: &str, text: &str) -> Result<Toml, String> {
    if key == "fragmentation" && matches!(text, "accept" | "force") {
        return Err(format!(
            "{text:?} is not supported: expected yes (fragments where the peer can) or no"
        ));
    }
    if SWITCHES.contains(&key) {
        return match text {
            "yes" | "true" | "1" | "enabled" => Ok(Toml::Boolean(true)),
            "no" | "false" | "0" | "disabled" => Ok(Toml::Boolean(false)),
            _ => Err(format!("{text:?}: expected yes or no")),
        };
    }
    if NUMBERS.contains(&key) {
        let number: Result<i64, _> = text.parse();
        return number
            .map(Toml::Integer)
            .map_err(|_| format!("{text:?}: expected a number"));
    }
    if LISTS.contains(&key) {
        let items = text.split(',').map(|item| item.trim().to_owned());
        return Ok(Toml::Array(items.map(Toml::String).collect()));
    }
    Ok(Toml::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use ikev2d_proto::config::Identity;

    use super::*;
    use crate::config::Credentials;

    fn section(entries: &[(&str, &str)]) -> Section {
        let mut section = Section::default();
        for (key, value) in entries {
            section.put(key, value);
        }
        section
    }

    /// As `swanctl --load-conns` sends it.
    fn message() -> Section {
        let mut home = section(&[("version", "2"), ("encap", "yes"), ("rekey_time", "4h")]);
        home.put_list("remote_addrs", ["192.0.2.2".to_owned()]);
        home.put_section("local-1", section(&[("auth", "psk"), ("id", "a.test")]));
        home.put_section("remote-1", section(&[("auth", "psk"), ("id", "b.test")]));
        let mut net = section(&[("rekey_packets", "1000")]);
        net.put_list("local_ts", ["10.1.0.0/24".to_owned()]);
        net.put("remote_ts", "10.2.0.0/24, 10.3.0.0/24");
        let mut children = Section::default();
        children.put_section("net", net);
        home.put_section("children", children);
        let mut message = Section::default();
        message.put_section("home", home);
        message
    }

    #[test]
    fn a_connection_is_read_as_from_a_file() {
        let (name, connection) = connection(&message()).unwrap();
        assert_eq!(name, "home");
        assert!(connection.encap);
        let child = &connection.children["net"];
        assert_eq!(child.rekey_packets, 1000);
        assert_eq!(child.remote_ts.len(), 2);
        let core = connection
            .to_connection(&name, &Credentials::default(), 1)
            .unwrap();
        assert_eq!(core.local_id, Identity::Fqdn("a.test".to_owned()));
    }

    /// S8: XAUTH is a round of its own, as swanctl has it; `pull` is a switch.
    #[test]
    fn a_round_of_xauth_is_told_from_the_first() {
        let mut message = message();
        let Some((_, Value::Section(home))) = message.0.first_mut() else {
            panic!("no section");
        };
        home.replace("version", "1");
        home.put("pull", "no");
        let round = [("auth", "xauth-generic"), ("xauth_id", "carol")];
        home.put_section("local-2", section(&round));
        let (_, connection) = connection(&message).unwrap();
        assert_eq!(connection.local_xauth.unwrap().xauth_id, "carol");
        assert!(connection.remote_xauth.is_none() && !connection.pull);
        let xauth = section(&[("type", "XAUTH"), ("data", "short"), ("owners", "carol")]);
        assert_eq!(secret(&xauth).unwrap().2, SharedKind::Eap);
    }

    /// As `swanctl --load-authorities` sends it: the certificate's content, in either form.
    #[test]
    fn an_authority_comes_with_its_certificate() {
        let read = |cacert: Value| {
            let mut root = section(&[("ocsp_uris", "http://a.test/, http://b.test/")]);
            root.0.push(("cacert".to_owned(), cacert));
            root.put_list("crl_uris", ["file:///root.crl".to_owned()]);
            let mut message = Section::default();
            message.put_section("root", root);
            authority(&message)
        };
        let pem = include_str!("../../tests/data/authority.pem");
        let der = certificates(pem.as_bytes()).unwrap()[0].to_der().unwrap();
        for cacert in [Value::Text(pem.to_owned()), Value::Octets(der.clone())] {
            let (name, read) = read(cacert).unwrap();
            assert_eq!(name, "root");
            assert_eq!(read.ocsp_uris, ["http://a.test/", "http://b.test/"]);
            assert_eq!(read.crl_uris, ["file:///root.crl"]);
            let found = certificates(read.cacert.as_bytes()).unwrap();
            assert_eq!(found[0].to_der().unwrap(), der);
        }
        assert!(read(Value::Octets(vec![0xff; 9])).is_err());
    }

    /// B54: as `swanctl --load-conns` sends certificates and raw keys in DER: their files' content.
    #[test]
    fn certificates_come_in_either_form() {
        let pem = include_str!("../../tests/data/authority.pem");
        let read = &certificates(pem.as_bytes()).unwrap()[0];
        let der = read.to_der().unwrap();
        let raw = read.public_key().unwrap().public_key_to_der().unwrap();
        let lists = [
            Value::OctetsList(vec![der.clone(), pem.as_bytes().to_vec()]),
            Value::Octets(der.clone()),
        ];
        for (list, count) in lists.into_iter().zip([2, 1]) {
            let mut message = message();
            let Some((_, Value::Section(home))) = message.0.first_mut() else {
                panic!("no section");
            };
            let mut remote = section(&[("auth", "pubkey")]);
            remote.0.push(("cacerts".to_owned(), list));
            let keys = Value::OctetsList(vec![raw.clone()]);
            remote.0.push(("pubkeys".to_owned(), keys));
            home.0.retain(|(key, _)| key != "remote-1");
            home.put_section("remote-1", remote);
            let message = serde_vici::to_vec(&message).unwrap();
            let message = crate::vici::message::decode(&message).unwrap();
            let (_, connection) = connection(&message).unwrap();
            assert_eq!(connection.remote.cacerts.len(), count);
            for text in &connection.remote.cacerts {
                let found = certificates(text.as_bytes()).unwrap();
                assert_eq!(found[0].to_der().unwrap(), der);
            }
            let [key] = &connection.remote.pubkeys[..] else {
                panic!("no key");
            };
            let key = public_key(key.as_bytes()).unwrap();
            assert_eq!(key.public_key_to_der().unwrap(), raw);
        }
        let no_text = Value::OctetsList(vec![vec![0xff]]);
        for key in ["certs", "proposals"] {
            let mut table = Section::default();
            table.0.push((key.to_owned(), no_text.clone()));
            assert!(super::table(&table, false).unwrap_err().starts_with(key));
        }
    }

    /// As swanctl sends them: all of it texts.
    #[test]
    fn switches_and_numbers_come_as_texts() {
        for (fragmentation, expected, padding) in [("yes", true, "mtu"), ("no", false, "1280")] {
            let mut message = message();
            let Some((_, Value::Section(home))) = message.0.first_mut() else {
                panic!("no section");
            };
            home.put("fragmentation", fragmentation);
            home.put("reauth_frequency", "3");
            let Some((_, Value::Section(children))) =
                home.0.iter_mut().find(|(key, _)| key == "children")
            else {
                panic!("no children");
            };
            let Some((_, Value::Section(net))) = children.0.first_mut() else {
                panic!("no child");
            };
            net.put("rand_bytes", "5000");
            net.put("rand_packets", "50");
            net.put("tfc_padding", padding);
            let (_, connection) = connection(&message).unwrap();
            assert_eq!(connection.fragmentation, expected);
            assert_eq!(connection.reauth_frequency, 3);
            let read = connection.children["net"].tfc_padding;
            assert_eq!(read.to_string(), padding);
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (key, value, expected) in [
            ("version", "3", "home.version"),
            ("version", "two", "home.version"),
            ("encap", "maybe", "expected yes or no"),
            ("rekey_time", "4 parsecs", "parsecs"),
            ("local-1", "x", "local-1"),
        ] {
            let mut message = message();
            let Some((_, Value::Section(home))) = message.0.first_mut() else {
                panic!("no section");
            };
            home.replace(key, value);
            let error = connection(&message).unwrap_err();
            assert!(error.contains(expected), "{key} = {value}: {error}");
        }
        let mut unknown = message();
        if let Some((_, Value::Section(home))) = unknown.0.first_mut() {
            home.put("aggressive", "yes");
        }
        assert!(connection(&unknown).unwrap_err().contains("aggressive"));
        assert!(connection(&Section::default()).is_err());
    }

    #[test]
    fn secrets_may_be_any_octets_but_not_short() {
        let mut message = section(&[("id", "ike-1"), ("type", "IKE")]);
        let data = vec![0xff, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
        message
            .0
            .push(("data".to_owned(), Value::Octets(data.clone())));
        message.put_list("owners", ["b.test".to_owned()]);
        let (id, loaded, kind) = secret(&message).unwrap();
        assert_eq!(kind, SharedKind::Psk);
        assert_eq!((id.as_str(), &*loaded.secret), ("ike-1", &data));
        assert_eq!(loaded.ids, [Identity::Fqdn("b.test".to_owned())]);
        let short = section(&[("type", "IKE"), ("data", "short")]);
        assert!(secret(&short).unwrap_err().contains("at least 8"));
        let eap = section(&[("type", "EAP"), ("data", "short"), ("owners", "carol")]);
        assert_eq!(secret(&eap).unwrap().2, SharedKind::Eap);
        let other = section(&[("type", "NTLM"), ("data", "long enough")]);
        assert!(secret(&other).unwrap_err().contains("NTLM"));
    }
}
