// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is of one version of IKE, of certain suites, or of another time.

use super::*;

/// S113 to S118: suites by name, for ECDSA alone; PRIME for IKEv2 alone.
#[test]
fn suites_are_named_and_kept_to() {
    let with = |suite: &str, version: u8, auth: &str| {
        let config = GOOD
            .replace("aes256gcm16-prfsha384-x25519", suite)
            .replace("aes256gcm16-esn", suite)
            .replace("version = 2", &format!("version = {version}"))
            .replace("\"psk\"", &format!("{auth:?}"));
        config.parse::<Config>().unwrap_err().to_string()
    };
    for suite in [
        "Suite-B-GCM-128",
        "Suite-B-GCM-256",
        "PRIME-128",
        "PRIME-256",
    ] {
        let auth = if suite.ends_with("128") {
            "ecdsa-256-sha256"
        } else {
            "ecdsa-384-sha384"
        };
        for other in ["psk", "rsa", "ed25519", "ecdsa-521-sha512"] {
            let error = with(suite, 2, other);
            assert!(error.contains(auth), "{suite}, {other}: {error}");
        }
        // With the right kind only a certificate is missing.
        let error = with(suite, 2, auth);
        assert!(error.contains("certs"), "{suite}: {error}");
        let told = with(suite, 1, auth).contains("IKEv2 alone");
        assert_eq!(told, suite.starts_with("PRIME"), "{suite}");
    }
}

/// S10, S42, S45, S20: one version or the other; aggressive mode is IKEv1's, and has one group.
#[test]
fn what_is_of_one_version_is_refused_in_the_other() {
    let psk = "local = { auth = \"psk\", id = \"a.demo\" }";
    let v1 = GOOD
        .replace("version = 2", "version = 1")
        .replace("aes256gcm16-prfsha384-x25519", "aes256-sha256-modp2048");
    let config: Config = v1.parse().unwrap();
    assert_eq!(config.policy()[0].version, Version::V1);
    let either: Config = GOOD.replace("version = 2", "version = 0").parse().unwrap();
    assert_eq!(either.policy()[0].version, Version::Either);
    for (base, from, to, expected) in [
        (GOOD, "encap = true", "aggressive = true", "no modes"),
        (GOOD, "encap = true", "commit = true", "no commit bit"),
        (&v1, "encap = true", "commit = true", ""),
        (&v1, "encap = true", "aggressive = true", ""),
        (
            &v1,
            "encap = true",
            "aggressive = true\naggressive_psk = true",
            "",
        ),
        (
            &v1,
            "modp2048\"]",
            "modp2048\", \"aes128-sha256-modp2048\"]\naggressive = true",
            "",
        ),
        (
            &v1,
            "modp2048\"]",
            "modp2048\", \"aes256-sha256-ecp256\"]\naggressive = true",
            "same one",
        ),
        (
            &v1,
            "aes256-sha256-modp2048",
            "aes256gcm16-prfsha384-ecp256",
            "AEADs",
        ),
        (
            &v1,
            "aes256-sha256-modp2048",
            "aes256-aesxcbc-aescmac-modp2048",
            "codes by AES",
        ),
        (
            &v1,
            "aes256-sha256-modp2048",
            "aes256-aesxcbc-sha256-modp2048",
            "",
        ),
        (
            &v1,
            psk,
            "local = { auth = \"rsa\", id = \"a.demo\" }",
            "same way",
        ),
        (&v1, "aes256-sha256-modp2048", "PRIME-128", "IKEv2 alone"),
    ] {
        assert!(base.contains(from), "{from}");
        match base.replace(from, to).parse::<Config>() {
            Err(error) => {
                let error = error.to_string();
                let told = !expected.is_empty() && error.contains(expected);
                assert!(told, "{from} -> {to}: {error}");
            }
            Ok(_) => assert!(expected.is_empty(), "{from} -> {to} is accepted"),
        }
    }
}

/// S21 to S26, S31 to S34, S118, B51: what is of another time is there only where `legacy` says so, what
/// RFC 8247 forbids only in IKEv1 as well; Junos' sets have at most four proposals.
#[test]
fn algorithms_of_another_time_want_legacy() {
    let with = |version: u8, more: &str, ike: &str, esp: &str| {
        let config = GOOD
            .replace("aes256gcm16-prfsha384-x25519", ike)
            .replace("aes256gcm16-esn", esp)
            .replace("version = 2", &format!("version = {version}\n{more}"));
        config.parse::<Config>().map_err(|error| error.to_string())
    };
    let today = ("aes128-sha256-modp2048", "aes128-sha256");
    for (version, ike, esp, word) in [
        (1, "des-sha256-modp2048", today.1, "des"),
        (2, "3des-sha256-modp2048", today.1, "3des"),
        (1, "aes128-md5-modp2048", today.1, "md5"),
        (2, "aes128-sha1-modp2048", today.1, "sha1"),
        (2, "aes128gcm16-prfsha1-modp2048", today.1, "prfsha1"),
        (1, "aes128-sha256-modp768", today.1, "modp768"),
        (2, "aes128-sha256-modp1024", today.1, "modp1024"),
        (2, "aes128-sha256-modp1536", today.1, "modp1536"),
        (1, "aes128-sha256-modp1024s160", today.1, "modp1024s160"),
        (2, "aes128-sha256-modp2048s224", today.1, "modp2048s224"),
        (2, "aes128-sha256-modp2048s256", today.1, "modp2048s256"),
        (1, today.0, "des-sha256", "des"),
        (2, today.0, "3des-sha256", "3des"),
        (1, today.0, "aes128-md5", "md5"),
        (2, today.0, "aes128-sha1", "sha1"),
        (2, today.0, "aes128-sha256-modp1024", "modp1024"),
        (2, "standard", today.1, "3des"),
        (1, "compatible", today.1, "3des"),
        (1, today.0, "basic", "des"),
    ] {
        let error = with(version, "", ike, esp).unwrap_err();
        let key = if ike == today.0 {
            "esp_proposals"
        } else {
            "proposals"
        };
        for part in [key, &format!("{word} is of another time"), "legacy = true"] {
            assert!(error.contains(part), "{ike}, {esp}: {error}");
        }
        with(version, "legacy = true", ike, esp).unwrap();
        if version == 1 {
            let error = with(2, "legacy = true", ike, esp).unwrap_err();
            assert!(
                error.contains("with IKEv2, legacy or not"),
                "{ike}: {error}"
            );
        }
    }
    for set in ["standard", "compatible", "basic"] {
        with(1, "legacy = true", set, set).unwrap();
    }
    let error = with(1, "", "prime-128", "prime-128").unwrap_err();
    assert!(error.contains("IKEv2 alone"), "{error}");
    let more = "compatible\", \"aes128-sha256-modp1024";
    let error = with(1, "legacy = true", more, today.1).unwrap_err();
    assert!(error.contains("at most four"), "{error}");
    let many = vec![today.0; 33].join("\", \"");
    let error = with(1, "", &many, today.1).unwrap_err();
    assert!(error.contains("at most 32"), "{error}");
}

/// S29: DSA at both ends, for IKEv1, where `legacy` says so; SHA-1 goes without saying.
#[test]
fn dsa_wants_ikev1_and_legacy() {
    let with = |version: u8, more: &str, local: &str, remote: &str| {
        let config = GOOD
            .replace("aes256gcm16-prfsha384-x25519", "aes128-sha256-modp2048")
            .replace("version = 2", &format!("version = {version}\n{more}"))
            .replace(
                "local = { auth = \"psk\"",
                &format!("local = {{ auth = {local:?}"),
            )
            .replace(
                "remote = { auth = \"psk\"",
                &format!("remote = {{ auth = {remote:?}"),
            );
        config.parse::<Config>().unwrap_err().to_string()
    };
    let legacy = "legacy = true";
    for (version, more, local, remote, expected) in [
        (
            2,
            legacy,
            "dsa",
            "dsa",
            ["local.auth", "expected version = 1"],
        ),
        (
            0,
            legacy,
            "dsa",
            "dsa",
            ["local.auth", "expected version = 1"],
        ),
        (2, "", "psk", "dsa", ["remote.auth", "expected version = 1"]),
        (1, legacy, "dsa", "rsa", ["remote.auth", "expected dsa"]),
        (1, legacy, "ecdsa", "dsa", ["local.auth", "expected dsa"]),
        (1, "", "dsa", "dsa", ["local.auth", "legacy = true"]),
        (1, legacy, "dsa-sha256", "dsa", ["SHA-1", "expected dsa"]),
        (1, legacy, "dss", "dsa", ["expected psk", "or dsa"]),
        // Now only the certificate is missing.
        (1, legacy, "dsa", "dsa", ["local.auth", "needs certs"]),
        (1, legacy, "dsa-2048", "dsa", ["local.auth", "needs certs"]),
    ] {
        let error = with(version, more, local, remote);
        for part in expected {
            assert!(
                error.contains(part),
                "{version}, {local}, {remote}: {error}"
            );
        }
    }
    let user = "legacy = true\nremote-xauth = { auth = \"xauth\" }";
    let error = with(1, user, "dsa", "dsa");
    assert!(error.contains("psk or rsa alone"), "{error}");
}
