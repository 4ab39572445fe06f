// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manual keys.

use super::*;

const MANUAL: &str = r#"
        [manual.site]
        local = "192.0.2.1"
        remote = "192.0.2.2"
        local_ts = ["10.1.0.0/24"]
        remote_ts = ["10.2.0.0/24"]
        suite = "aes256-sha256"
        spi_in = "1001"
        spi_out = "0x1002"
        [manual.site.keys]
        encryption_in = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
        integrity_in = "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f"
        encryption_out = "40:41:42:43:44:45:46:47:48:49:4a:4b:4c:4d:4e:4f:50:51:52:53:54:55:56:57:58:59:5a:5b:5c:5d:5e:5f"
        integrity_out = "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f"
    "#;

/// S7, S18, S56: key lengths, SPIs, weak algorithms, windows are held to what negotiated SAs are held to.
#[test]
fn manual_keys_are_checked_as_negotiated_ones() {
    let config: Config = MANUAL.parse().unwrap();
    assert_eq!(config.manual_keys["site"].0.cipher.len(), 32);
    assert!(!format!("{config:?}").contains("0001020304"));
    for (from, to, expected) in [
        ("\"1001\"", "\"ff\"", "SPIs 0 to ff are reserved"),
        ("\"1001\"", "\"0\"", "SPIs 0 to ff are reserved"),
        (
            "aes256-sha256",
            "aes128-sha256",
            "expected 16 octets, found 32",
        ),
        (
            "aes256-sha256",
            "aes256-sha512",
            "expected 64 octets, found 32",
        ),
        ("aes256-sha256", "rot13", "expected one of aes128gcm16"),
        ("aes256-sha256", "aes256gcm16", "RFC 8221"),
        ("aes256-sha256", "ah-sha1", "SHA-1"),
        ("aes256-sha256", "ah-aes256gmac", "RFC 8221"),
        ("aes256-sha256\"", "ah-sha256\"\nencap = true", "encap"),
        (
            "spi_in",
            "replay_window = 4097\nspi_in",
            "0 (off) or 32 to 4096",
        ),
        (
            "spi_in",
            "replay_window = 31\nspi_in",
            "0 (off) or 32 to 4096",
        ),
        (
            "spi_in",
            "replay_window = 0\nspi_in",
            "extended sequence numbers need a window",
        ),
        ("spi_in", "replay_window = 0\nesn = false\nspi_in", ""),
        ("spi_in", "replay_window = 4096\nspi_in", ""),
        ("spi_in", "start_at = 0\nspi_in", "start_at"),
        (
            "spi_in",
            "esn = false\nstart_at = 4294967295\nspi_in",
            "start_at",
        ),
        (
            "remote = \"192.0.2.2\"",
            "remote = \"2001:db8::2\"",
            "families",
        ),
        ("remote = \"192.0.2.2\"", "remote = \"0.0.0.0\"", "one host"),
        ("[\"10.1.0.0/24\"]", "[]", "no traffic"),
        ("606162", "zz6162", "hexadecimal"),
        (
            "606162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f",
            "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
            "the same key both ways",
        ),
        (
            "202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "openssl rand",
        ),
        (
            "[manual.site.keys]",
            "keys_file = \"x\"\n[manual.site.keys]",
            "either keys_file or keys",
        ),
    ] {
        assert!(MANUAL.contains(from), "{from}");
        match MANUAL.replace(from, to).parse::<Config>() {
            Err(error) => {
                let error = error.to_string();
                assert!(
                    !expected.is_empty() && error.contains(expected),
                    "{to}: {error}"
                );
                assert!(!error.contains("0001020304"), "a key is told: {error}");
            }
            Ok(_) => assert!(expected.is_empty(), "{from} -> {to} is accepted"),
        }
    }
}

/// S18: counter modes and SHA-1 go with manual keys only where that is asked for.
#[test]
fn weak_manual_suites_want_legacy() {
    let gcm = MANUAL
        .replace("aes256-sha256\"", "aes256gcm16\"\nlegacy = true")
        .replace("1c1d1e1f\"", "1c1d1e1f01020304\"")
        .replace(":5e:5f\"", ":5e:5f:01:02:03:04\"");
    let keys = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains("integrity_"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let config: Config = keys(&gcm).parse().unwrap();
    assert_eq!(*config.manual_keys["site"].1.salt, [1, 2, 3, 4]);
}

/// S7, S18: keys in a file that others may read are refused.
#[test]
fn keys_that_everybody_may_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let (config, keys) = (
        directory.path().join("c.toml"),
        directory.path().join("site.keys"),
    );
    let (settings, table) = MANUAL.split_once("[manual.site.keys]").unwrap();
    let chmod = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::write(&config, format!("{settings}keys_file = \"site.keys\"\n")).unwrap();
    std::fs::write(&keys, table).unwrap();
    chmod(&config, 0o644);
    for (mode, good) in [
        (0o644, false),
        (0o604, false),
        (0o602, false),
        (0o600, true),
        (0o640, true),
    ] {
        chmod(&keys, mode);
        match Config::read(&config) {
            Ok(_) => assert!(good, "{mode:o}"),
            Err(error) => assert!(
                !good && error.to_string().contains("chmod 600"),
                "{mode:o}: {error}"
            ),
        }
    }
    std::fs::write(&keys, "encryption_in = \"0001020304xx\"").unwrap();
    let error = Config::read(&config).unwrap_err().to_string();
    assert!(!error.contains("0001020304"), "a key is told: {error}");
    // In the configuration itself.
    std::fs::write(&config, MANUAL).unwrap();
    assert!(
        Config::read(&config)
            .unwrap_err()
            .to_string()
            .contains("chmod 600")
    );
    chmod(&config, 0o600);
    Config::read(&config).unwrap();
}
