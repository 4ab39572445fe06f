// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `dpdk-test-crypto-perf` is told on QAT functions, and how its answer is judged: by the test on
//! this machine, and by `guest` on another's bus. Vectors are of an independent implementation
//! (`vectors/generate.py`).

/// Operations of a run.
pub(crate) const OPERATIONS: u64 = 200;

/// Of every run.
const COMMON: [&str; 9] = [
    "--devtype",
    "crypto_qat",
    "--total-ops",
    "200",
    "--burst-sz",
    "8",
    "--buffer-sz",
    "64",
    "--silent",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Seal,
    Open,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::Seal, Self::Open];
}

#[derive(Clone, Copy, Debug)]
enum Transform {
    /// Algorithm and octets of a key.
    Aead(&'static str, &'static str),
    /// Octets of AES-CBC's key; a hash, octets of its key and of what is left of its digest.
    Chain(&'static str, &'static str, &'static str, &'static str),
}

/// A transform with a vector for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Algorithm {
    pub(crate) name: &'static str,
    transform: Transform,
    vector: &'static str,
}

macro_rules! algorithm {
    ($name:literal, $transform:expr) => {
        Algorithm {
            name: $name,
            transform: $transform,
            vector: include_str!(concat!("vectors/", $name, ".data")),
        }
    };
}

/// What DPDK's driver has of what this is about.
pub(crate) const ALGORITHMS: [Algorithm; 7] = [
    algorithm!("aes128gcm16", Transform::Aead("aes-gcm", "16")),
    algorithm!("aes256gcm16", Transform::Aead("aes-gcm", "32")),
    algorithm!(
        "chacha20poly1305",
        Transform::Aead("chacha20-poly1305", "32")
    ),
    algorithm!(
        "aes128-sha1",
        Transform::Chain("16", "sha1-hmac", "20", "12")
    ),
    algorithm!(
        "aes128-sha256",
        Transform::Chain("16", "sha2-256-hmac", "32", "16")
    ),
    algorithm!(
        "aes256-sha384",
        Transform::Chain("32", "sha2-384-hmac", "48", "24")
    ),
    algorithm!(
        "aes256-sha512",
        Transform::Chain("32", "sha2-512-hmac", "64", "32")
    ),
];

/// Those of these names.
pub(crate) fn named(names: &[&str]) -> Vec<Algorithm> {
    let named = |name| ALGORITHMS.iter().find(|known| known.name == name).copied();
    let found: Vec<_> = names.iter().copied().filter_map(named).collect();
    assert_eq!(found.len(), names.len(), "{names:?}");
    found
}

impl Algorithm {
    /// The vector, or the same with one bit of its digest changed.
    pub(crate) fn vector(&self, spoiled: bool) -> String {
        let (head, digest) = self.vector.rsplit_once("digest =\n0x").unwrap_or_default();
        let (octet, rest) = digest.split_at_checked(2).unwrap_or_default();
        let octet = u8::from_str_radix(octet, 16).unwrap_or_default() ^ u8::from(spoiled);
        format!("{head}digest =\n0x{octet:02x}{rest}")
    }

    /// Arguments that hold it to a vector in a file.
    pub(crate) fn verify<'a>(&self, way: Way, vector: &'a str) -> Vec<&'a str> {
        let verify = ["--ptest", "verify", "--test-file", vector];
        let name = ["--test-name", "t64"];
        let run = COMMON.iter().chain(&verify).chain(&name).copied();
        run.chain(self.way(way)).collect()
    }

    /// Arguments that measure it.
    pub(crate) fn throughput(&self, way: Way) -> Vec<&'static str> {
        let run = COMMON.iter().chain(&["--ptest", "throughput"]).copied();
        run.chain(self.way(way)).collect()
    }

    fn way(&self, way: Way) -> Vec<&'static str> {
        let seals = way == Way::Seal;
        let cipher = if seals { "encrypt" } else { "decrypt" };
        match self.transform {
            Transform::Aead(algorithm, key) => vec![
                "--optype",
                "aead",
                "--aead-algo",
                algorithm,
                "--aead-key-sz",
                key,
                "--aead-iv-sz",
                "12",
                "--aead-aad-sz",
                "12",
                "--digest-sz",
                "16",
                "--aead-op",
                cipher,
            ],
            Transform::Chain(key, hash, hash_key, digest) => vec![
                "--cipher-algo",
                "aes-cbc",
                "--cipher-key-sz",
                key,
                "--cipher-iv-sz",
                "16",
                "--auth-algo",
                hash,
                "--auth-key-sz",
                hash_key,
                "--digest-sz",
                digest,
                "--optype",
                if seals {
                    "cipher-then-auth"
                } else {
                    "auth-then-cipher"
                },
                "--cipher-op",
                cipher,
                "--auth-op",
                if seals { "generate" } else { "verify" },
            ],
        }
    }
}

/// The last row of the program's table. Both of its tests have: lcore, octets, burst, enqueued, dequeued,
/// failed enqueues, failed dequeues.
fn row(said: &str) -> Vec<&str> {
    let mut rows = said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let numbers =
        |row: &Vec<&str>| row.len() > 5 && row.iter().all(|cell| cell.parse::<f64>().is_ok());
    rows.rfind(numbers).unwrap_or_default()
}

/// Whether all operations came home.
fn complete(row: &[&str]) -> bool {
    let all = OPERATIONS.to_string();
    row.get(3..5) == Some(&[all.as_str(), &all][..])
}

/// How many operations failed, if all came home.
pub(crate) fn failed(said: &str) -> Option<u64> {
    let row = row(said);
    let failed = row.last().and_then(|cell| cell.parse().ok());
    failed.filter(|_| complete(&row))
}

/// Million operations a second, if all came home.
pub(crate) fn rate(said: &str) -> Option<f64> {
    let row = row(said);
    let rate = row.get(7).and_then(|cell| cell.parse().ok());
    rate.filter(|_| complete(&row))
}
