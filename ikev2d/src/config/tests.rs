// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Configurations that are read, and those that are refused with the reason.

mod manual;
mod reference;
mod versions;

use std::time::Duration;

use ikev2d_proto::config::{Identity, LocalAuth, Tcp, Version};
use ikev2d_proto::xauth::Xauth;

use super::*;

const GOOD: &str = r#"
        [daemon]
        vici_socket = "/tmp/a.vici"
        device = "vfio-user:/tmp/card.sock"
        tun = { name = "esp0", mtu = 1400, queues = 1 }
        [connections.gw]
        version = 2
        local_addrs = ["10.77.0.1"]
        remote_addrs = ["10.77.0.2"]
        proposals = ["aes256gcm16-prfsha384-x25519"]
        encap = true
        local = { auth = "psk", id = "a.demo" }
        remote = { auth = "psk", id = "b.demo" }
        rekey_time = "4h"
        [connections.gw.children.net]
        local_ts = ["10.1.0.0/24", "192.0.2.0/24[udp/53]"]
        remote_ts = ["10.2.0.0/24"]
        esp_proposals = ["aes256gcm16-esn"]
        start_action = "start"
        hw_offload = "auto"
        [secrets.ike-1]
        secret = "0123456789abcdef"
    "#;

/// B17: on unless it is off.
#[test]
fn synchronisation_is_on_unless_it_is_off() {
    let off = GOOD.replacen("encap = true", "message_id_sync = false", 1);
    for (text, on) in [(GOOD, true), (&off, false)] {
        let config: Config = text.parse().unwrap();
        assert_eq!(config.policy()[0].message_id_sync, on);
    }
}

/// B22.
#[test]
fn redirection_is_checked() {
    let read = |more: &str| {
        let text = GOOD.replacen("encap = true", more, 1);
        text.parse::<Config>().map_err(|error| error.to_string())
    };
    let connection = |more: &str| read(more).unwrap().policy()[0].clone();
    let off = connection("");
    assert!(!off.follow_redirects && off.redirect.is_none());
    assert!(connection("follow_redirects = true").follow_redirects);
    for (when, authenticated) in [("", false), ("init", false), ("auth", true)] {
        let when = match when {
            "" => String::new(),
            when => format!("redirect_when = {when:?}"),
        };
        let redirect = connection(&format!("redirect_to = \"192.0.2.9\"\n{when}")).redirect;
        let redirect = redirect.unwrap();
        assert_eq!(redirect.authenticated, authenticated);
        assert_eq!(redirect.gateway.to_string(), "192.0.2.9");
    }
    for (more, key) in [
        (
            "redirect_when = \"auth\"",
            "gw.redirect_when: is set without",
        ),
        ("redirect_to = \"gw.example\"", "configuration:11:"),
        ("redirect_when = \"never\"", "configuration:11:"),
    ] {
        let error = read(more).unwrap_err();
        assert!(error.contains(key), "{more}: {error}");
    }
    let text = "[connections.gw]\nversion = 1\nfollow_redirects = true\n\
                    local = { auth = \"psk\" }\nremote = { auth = \"psk\" }\n";
    let error = text.parse::<Config>().unwrap_err().to_string();
    assert!(
        error.contains("gw.follow_redirects") && error.contains("RFC 5685"),
        "{error}"
    );
}

/// RFC 7296 §2.16: behind EAP the responder proves itself by a public key.
#[test]
fn a_preshared_key_behind_eap_is_warned_of() {
    for (local, remote, warned) in [
        ("psk", "eap-mschapv2", "connections.gw.local.auth: "),
        ("eap-mschapv2", "psk", "connections.gw.remote.auth: "),
    ] {
        let text = format!(
            "[connections.gw]\nlocal = {{ auth = {local:?}, id = \"a.test\" }}\n\
                 remote = {{ auth = {remote:?} }}\n\
                 [secrets.eap-a]\nids = [\"a.test\"]\nsecret = \"a password\"\n"
        );
        let config: Config = text.parse().unwrap();
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(config.warnings[0].starts_with(warned));
    }
    let others = GOOD.parse::<Config>().unwrap().warnings;
    assert!(!others.iter().any(|warning| warning.contains("EAP")));
}

#[test]
fn a_good_configuration_is_read() {
    let config: Config = GOOD.parse().unwrap();
    let policy = config.policy();
    assert_eq!(policy[0].rekey_time, Some(Duration::from_secs(4 * 3600)));
    assert_eq!(policy[0].children[0].local_ts.len(), 2);
    assert_eq!(policy[0].local_id, Identity::Fqdn("a.demo".to_owned()));
    assert_eq!(config.psks().len(), 1);
    assert!(!format!("{config:?}").contains("0123456789abcdef"));
}

/// An IKE SA that is only authenticated anew has time for that too.
#[test]
fn over_time_is_a_tenth_of_the_longer_lifetime() {
    for (times, expected) in [
        ("rekey_time = \"0s\"\nreauth_time = \"10h\"", 3600),
        ("rekey_time = \"4h\"\nreauth_time = \"10h\"", 3600),
        ("rekey_time = \"4h\"\nreauth_time = \"1h\"", 1440),
    ] {
        let config: Config = GOOD.replace("rekey_time = \"4h\"", times).parse().unwrap();
        let over = config.policy()[0].over_time;
        assert_eq!(over, Duration::from_secs(expected), "{times}");
    }
}

/// B40.
#[test]
fn transport_mode_is_refused_with_what_it_does_not_go_with() {
    let read = |more: &str, child: &str| {
        let text = format!(
            "[connections.gw]\n{more}\nremote_addrs = [\"192.0.2.1\"]\n\
                 local = {{ auth = \"psk\" }}\nremote = {{ auth = \"psk\" }}\n\
                 [connections.gw.children.net]\nmode = \"transport\"\n{child}\n"
        );
        text.parse::<Config>()
    };
    let config = read("", "").unwrap();
    assert_eq!(
        config.connections["gw"].children["net"].mode,
        Mode::Transport
    );
    for (more, child, what) in [
        ("mobike = true", "", "mobike moves tunnels"),
        ("", "ah_proposals = [\"sha256\"]", "needs ESP"),
    ] {
        let error = read(more, child).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

/// B37: a least length or the path's, in numbers or texts as swanctl has them, where padding can be told from
/// what it is behind.
#[test]
fn tfc_padding_is_checked() {
    let read = |more: &str, child: &str| {
        let text = format!(
            "[connections.gw]\n{more}\nremote_addrs = [\"192.0.2.1\"]\n\
                 local = {{ auth = \"psk\" }}\nremote = {{ auth = \"psk\" }}\n\
                 [connections.gw.children.net]\n{child}\n"
        );
        let config: Result<Config, _> = text.parse();
        config.map(|config| config.connections["gw"].children["net"].tfc_padding)
    };
    for (child, expected) in [
        ("", TfcPadding::OFF),
        ("tfc_padding = 0", TfcPadding::OFF),
        ("tfc_padding = 0\nmode = \"transport\"", TfcPadding::OFF),
        ("tfc_padding = 1", TfcPadding(1)),
        ("tfc_padding = \"1280\"", TfcPadding(1280)),
        ("tfc_padding = \"mtu\"", TfcPadding::MTU),
        ("tfc_padding = 65535", TfcPadding::MTU),
    ] {
        assert_eq!(read("", child).unwrap(), expected, "{child}");
        assert_eq!(read("version = 2", child).unwrap(), expected, "{child}");
    }
    for (more, child, what) in [
        (
            "",
            "tfc_padding = 65536",
            "65536: expected 0 (off) to 65535",
        ),
        ("", "tfc_padding = -1", "-1: expected 0 (off) to 65535"),
        ("", "tfc_padding = \"MTU\"", "or \"mtu\""),
        ("", "tfc_padding = true", "expected 0 (off) to 65535"),
        (
            "",
            "tfc_padding = 1\nmode = \"transport\"",
            "children.net.tfc_padding: in transport mode nothing tells",
        ),
        (
            "",
            "tfc_padding = \"mtu\"\nah_proposals = [\"sha256\"]",
            "children.net.tfc_padding: AH has no TFC padding",
        ),
        (
            "version = 1",
            "tfc_padding = \"mtu\"",
            "children.net.tfc_padding: an IKEv1 peer",
        ),
    ] {
        let error = read(more, child).unwrap_err().to_string();
        assert!(error.contains(what), "{child}: {error}");
    }
}

/// B19.
#[test]
fn tcp_is_checked() {
    for (more, expected) in [
        ("tcp = \"fallback\"", ""),
        ("tcp = \"always\"\ntcp_remote_port = 4501", ""),
        ("tcp = \"sometimes\"", "sometimes"),
        ("tcp_remote_port = 4501", "tcp_remote_port"),
        ("tcp = \"always\"\ntcp_remote_port = 0", "no port"),
    ] {
        let text = GOOD.replacen("encap = true", more, 1);
        told(&text, expected);
    }
    let v1 = "[connections.v1]\nversion = 1\ntcp = \"always\"\nlocal = { auth = \"psk\" }\n\
              remote = { auth = \"psk\" }\n";
    told(v1, "version = 2");
    let inline = "[daemon]\ndataplane = \"inline\"\n";
    told(
        &format!("{inline}tcp_port = 4500\n"),
        "an inline card has no TCP",
    );
    let connection = v1.replace("version = 1\n", "");
    told(
        &format!("{inline}{connection}"),
        "an inline card has no TCP",
    );
    let config: Config = connection.parse().unwrap();
    let policy = config.policy();
    assert_eq!((policy[0].tcp, policy[0].tcp_port), (Tcp::Always, 4500));
    assert_eq!(config.daemon.tcp_port, 0, "nobody listens unasked");
}

/// What a text is refused with; nothing if it is good.
fn told(text: &str, expected: &str) {
    let told = text.parse::<Config>().err();
    let told = told.map(|error| error.to_string()).unwrap_or_default();
    assert!(
        told.contains(expected) && told.is_empty() == expected.is_empty(),
        "{told}: {text}"
    );
}

/// S56, S82: every setting out of its range is refused, with where it stands.
#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (from, to, expected) in [
        ("encap = true", "encapp = true", "encapp"),
        ("version = 2", "version = 3", "connections.gw.version"),
        ("x25519", "x25518", "x25518"),
        ("10.77.0.1", "10.77.0.300", "10.77.0.300"),
        ("\"4h\"", "\"4 parsecs\"", "parsecs"),
        ("0123456789abcdef", "short", "at least 8"),
        ("vfio-user:/tmp/card.sock", "usb:3", "vfio-user:PATH"),
        ("\"auto\"", "\"maybe\"", "maybe"),
        ("udp/53", "udp/x", "192.0.2.0/24[udp/x]"),
        (
            "auth = \"psk\", id = \"a.demo\"",
            "auth = \"rsa\"",
            "local.auth",
        ),
        ("id = \"b.demo\"", "revocation = \"ifuri\"", ""),
        ("id = \"b.demo\"", "revocation = \"some\"", "some"),
        ("id = \"b.demo\"", "revocation = \"relaxed\"", ""),
        ("[secrets", "[secrets", ""),
        (
            "start_action = \"start\"",
            "replay_window = 7",
            "replay_window",
        ),
        ("encap = true", "reauth_time = \"1h\"", ""),
        ("encap = true", "reauth_frequency = 100", ""),
        ("encap = true", "reauth_frequency = 101", "reauth_frequency"),
        ("encap = true", "unique = \"perhaps\"", "perhaps"),
        ("encap = true", "childless = \"force\"\nmobike = true", ""),
        ("encap = true", "keyingtries = 0\nunique = \"no\"", ""),
        (
            "start_action = \"start\"",
            "dpd_action = \"restart\"\nclose_action = \"start\"\nrand_time = 0",
            "",
        ),
        ("start_action", "close_action", ""),
        (
            "esp_proposals = [\"aes256gcm16-esn\"]",
            "ah_proposals = [\"sha256-esn\", \"aes128gmac\"]",
            "",
        ),
        (
            "esp_proposals = [\"aes256gcm16-esn\"]",
            "ah_proposals = [\"aes128-sha256\"]",
            "AH does not encrypt",
        ),
        (
            "start_action = \"start\"",
            "replay_window = 0",
            "extended sequence numbers need a window",
        ),
        (
            "esp_proposals = [\"aes256gcm16-esn\"]",
            "replay_window = 0\nesp_proposals = [\"aes256gcm16-esn-noesn\"]",
            "",
        ),
        ("start_action = \"start\"", "replay_window = 4096", ""),
        (
            "start_action = \"start\"",
            "replay_window = 4097",
            "expected 0 (off) or 32 to 4096",
        ),
        (
            "start_action = \"start\"",
            "close_action = \"later\"",
            "later",
        ),
    ] {
        assert!(GOOD.contains(from), "{from}");
        match GOOD.replace(from, to).parse::<Config>() {
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains(expected), "{from} -> {to}: {error}");
            }
            Ok(_) => assert!(expected.is_empty(), "{from} -> {to} is accepted"),
        }
    }
}

/// B24, B25: EAP needs a password of its own, the other end by something else, and IKEv2.
#[test]
fn eap_is_checked() {
    let client = "auth = \"eap-mschapv2\", id = \"a.demo\"";
    let text = GOOD.replace("auth = \"psk\", id = \"a.demo\"", client);
    let password = "\n[secrets.eap-a]\nids = [\"a.demo\", \"carol\"]\nsecret = \"short\"\n";
    let good = text.clone() + password;
    let config: Config = good.parse().unwrap();
    assert!(matches!(config.policy()[0].local_auth, LocalAuth::Eap(_)));
    assert_eq!(config.psks().len(), 1, "no preshared key");
    for (bad, expected) in [
        (text, "secrets.eap-NAME"),
        (
            good.replace("ids = [\"a.demo\", \"carol\"]", ""),
            "whose it is",
        ),
        (good.replace("version = 2", "version = 0"), "version = 2"),
        (good.replace("encap = true", "ppk_id = \"p\""), "ppk_id"),
        (
            good.replace("\"psk\", id = \"b.demo\"", "\"eap-mschapv2\""),
            "both ends",
        ),
        (
            good.replace("\"eap-mschapv2\"", "\"eap-tls\"")
                .replace("\"psk\", id = \"b.demo\"", "\"eap-tls\""),
            "without remote.id",
        ),
        (
            good.replace("\"eap-mschapv2\"", "\"eap-tls\""),
            "certificates of our own",
        ),
        (
            good.replace("id = \"b.demo\"", "id = \"b.demo\", eap_id = \"x\""),
            "eap_id",
        ),
    ] {
        let error = bad.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// S8, S27, S28: users behind phase 1 are IKEv1's, behind psk or rsa, at one end, with a password; strongSwan's
/// words.
#[test]
fn xauth_is_checked() {
    let user = "local-xauth = { auth = \"xauth\", xauth_id = \"carol\" }\nencap = true";
    let text = GOOD
        .replace("version = 2", "version = 1")
        .replace("aes256gcm16-prfsha384-x25519", "aes256-sha256-modp2048")
        .replace("encap = true", user);
    let password = "\n[secrets.xauth-a]\nids = [\"carol\"]\nsecret = \"short\"\n";
    let good = text.clone() + password;
    let config: Config = good.parse().unwrap();
    let ikev1 = &config.policy()[0].ikev1;
    assert!(matches!(&ikev1.xauth, Some(Xauth::Client((name, _))) if name == b"carol"));
    assert_eq!(config.psks().len(), 1, "no preshared key");
    let server = good.replace("local-xauth", "remote-xauth");
    let server: Config = server.parse().unwrap();
    let ikev1 = &server.policy()[0].ikev1;
    assert!(matches!(&ikev1.xauth, Some(Xauth::Server(users)) if users.len() == 1));
    for (bad, expected) in [
        (text, "secrets.xauth-NAME"),
        (good.replace("version = 1", "version = 0"), "version = 1"),
        (good.replace("version = 1", "version = 2"), "version = 1"),
        (
            good.replace("\"xauth\"", "\"xauth-pam\""),
            "expected \"xauth\"",
        ),
        (
            good.replace("encap = true", "remote-xauth = { auth = \"xauth\" }"),
            "not both",
        ),
        (
            GOOD.replace("encap = true", "pull = false"),
            "nor a push of addresses",
        ),
    ] {
        let error = bad.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// B42.
#[test]
fn interfaces_are_checked() {
    let text = |interfaces: &str, child: &str| {
        format!(
            "{interfaces}\n[connections.gw]\nlocal = {{ auth = \"psk\" }}\nremote = {{ auth = \"psk\" }}\n\
             [connections.gw.children.net]\n{child}\n"
        )
    };
    let bound = "interface = \"vpn0\"";
    let good = text(
        "[interfaces.vpn0]\nmtu = 1300\naddrs = [\"10.9.0.1/30\", \"fd00::1/64\"]",
        bound,
    );
    let config: Config = good.parse().unwrap();
    let addrs = &config.interfaces["vpn0"].addrs;
    assert_eq!(addrs[0].to_string(), "10.9.0.1/30");
    for (interfaces, child, key, what) in [
        (
            "",
            bound,
            "children.net.interface",
            "there is no [interfaces.vpn0]",
        ),
        ("[interfaces.\"a/b\"]", "", "interfaces.a/b", "no name"),
        (
            "[interfaces.a-name-of-sixteen]",
            "",
            "interfaces.a-name-of-sixteen",
            "at most 15",
        ),
        (
            "[interfaces.esp0]",
            "",
            "interfaces.esp0",
            "daemon.tun.name",
        ),
        (
            "[interfaces.vpn0]\nmtu = 1401",
            bound,
            "interfaces.vpn0.mtu",
            "68 to 1400",
        ),
        (
            "[interfaces.vpn0]\nmtu = 67",
            bound,
            "interfaces.vpn0.mtu",
            "68 to 1400",
        ),
        (
            "[daemon]\ndataplane = \"inline\"\n[interfaces.vpn0]",
            "",
            "interfaces.vpn0",
            "inline",
        ),
        (
            "[interfaces.vpn0]",
            "interface = \"vpn0\"\nmode = \"transport\"",
            "children.net.mode",
            "tunnels",
        ),
    ] {
        let error = text(interfaces, child)
            .parse::<Config>()
            .unwrap_err()
            .to_string();
        assert!(error.contains(key) && error.contains(what), "{error}");
    }
}

#[test]
fn garbage_is_refused() {
    for garbage in [
        "\0",
        "[",
        "connections = 3",
        "[daemon]\ndaemon=1",
        "= =",
        "[connections.x]",
    ] {
        assert!(garbage.parse::<Config>().is_err(), "{garbage:?}");
    }
}
