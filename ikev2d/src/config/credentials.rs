// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Private keys, authorities and revocation lists: read from files, or loaded by clients.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ikev2d_crypto::credential::{CredentialError, certificates, private_key};
use ikev2d_crypto::{PrivateKey, X509};
use serde::Deserialize;
use zeroize::Zeroizing;

/// Largest file that is read.
const FILE_LIMIT: u64 = 1 << 20;

/// An authority.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthoritySection {
    /// File with its certificate.
    pub cacert: String,
    /// `file://` addresses of its revocation lists.
    #[serde(default)]
    pub crl_uris: Vec<String>,
    /// Without support: OCSP is not there yet.
    #[serde(default)]
    pub ocsp_uris: Vec<String>,
}

/// What signatures are made and checked with.
#[derive(Clone, Default)]
pub struct Credentials {
    /// What relative paths begin at.
    base: PathBuf,
    keys: Vec<PrivateKey>,
    authorities: Vec<X509>,
    revocation_lists: Vec<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (keys, authorities) = (self.keys.len(), self.authorities.len());
        write!(f, "Credentials({keys} keys, {authorities} authorities)")
    }
}

impl Credentials {
    /// None; relative paths begin beside the configuration.
    pub(super) fn beside(configuration: &Path) -> Self {
        let base = configuration.parent().map(Path::to_owned);
        Self {
            base: base.unwrap_or_default(),
            ..Self::default()
        }
    }

    /// Reads a private key that nobody else may read.
    pub(super) fn read_key(&mut self, file: &str, passphrase: Option<&str>) -> Result<(), String> {
        let path = self.base.join(file);
        let octets = read(&path, true)?;
        let key = private_key(&octets, passphrase.map(str::as_bytes))
            .map_err(|error| format!("{}: {error}", path.display()))?;
        self.add_key(key);
        Ok(())
    }

    pub(crate) fn add_key(&mut self, key: PrivateKey) {
        if self.key_of(&key).is_none() {
            self.keys.push(key);
        }
    }

    pub(crate) fn add_authority(&mut self, authority: X509) {
        self.authorities.push(authority);
    }

    pub(super) fn read_authority(
        &mut self,
        section: &AuthoritySection,
    ) -> Result<(), (&'static str, String)> {
        let found = self.read_all(std::slice::from_ref(&section.cacert), certificates);
        let found = found.map_err(|what| ("cacert", what))?;
        self.authorities.extend(found);
        if !section.ocsp_uris.is_empty() {
            let what = "OCSP is not supported: give crl_uris";
            return Err(("ocsp_uris", what.to_owned()));
        }
        for uri in &section.crl_uris {
            let path = uri.strip_prefix("file://").ok_or_else(|| {
                let what = format!("{uri:?}: expected file://PATH, nothing is fetched");
                ("crl_uris", what)
            })?;
            let path = self.base.join(path);
            let text = path.to_str().ok_or(("crl_uris", "no text".to_owned()))?;
            self.revocation_lists.push(text.to_owned());
        }
        Ok(())
    }

    /// The private key of a public one.
    pub(super) fn key_of<T: ikev2d_crypto::HasPublic>(
        &self,
        public: &ikev2d_crypto::KeyRef<T>,
    ) -> Option<PrivateKey> {
        self.keys.iter().find(|key| key.public_eq(public)).cloned()
    }

    pub(crate) fn authorities(&self) -> &[X509] {
        &self.authorities
    }

    pub(super) fn revocation_lists(&self) -> &[String] {
        &self.revocation_lists
    }

    /// Reads files, or what stands in their place (clients send contents).
    pub(super) fn read_all<T>(
        &self,
        values: &[String],
        parse: impl Fn(&[u8]) -> Result<Vec<T>, CredentialError>,
    ) -> Result<Vec<T>, String> {
        let mut all = Vec::new();
        for value in values {
            if value.trim_start().starts_with("-----BEGIN ") {
                let parsed = parse(value.as_bytes());
                all.extend(parsed.map_err(|error| error.to_string())?);
            } else {
                let path = self.base.join(value);
                let octets = read(&path, false)?;
                let parsed = parse(&octets);
                all.extend(parsed.map_err(|error| format!("{}: {error}", path.display()))?);
            }
        }
        Ok(all)
    }

    /// What others load comes on top.
    pub(crate) fn with(&self, more: &Self) -> Self {
        let mut all = self.clone();
        more.keys.iter().for_each(|key| all.add_key(key.clone()));
        all.authorities.extend(more.authorities.iter().cloned());
        all
    }
}

/// Reads a file whole, with bounds. A secret one must be ours or root's, and nobody else's to read.
fn read(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if secret {
        let own = [0, nix::unistd::geteuid().as_raw()];
        if metadata.mode() & 0o077 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(format!(
                "{}: mode {mode:o} lets others read this private key (chmod 600)",
                path.display()
            ));
        }
        if !own.contains(&metadata.uid()) {
            return Err(format!(
                "{}: this private key belongs to user {}, not to us or root",
                path.display(),
                metadata.uid()
            ));
        }
    }
    if metadata.len() > FILE_LIMIT {
        return Err(format!("{}: larger than 1 MiB", path.display()));
    }
    // As large as needed at once: a buffer that moves would leave the key behind.
    let mut octets = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(FILE_LIMIT)
        .read_to_end(&mut octets)
        .map_err(failed)?;
    Ok(octets)
}
