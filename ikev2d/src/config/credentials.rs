// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Private keys, authorities and revocation lists: read from files, or loaded by clients.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ikev2d_crypto::credential::{CredentialError, OwnKey, certificates, private_key};
use ikev2d_crypto::crl::Lists;
use ikev2d_crypto::ocsp::{Ocsp, OwnStatuses};
use ikev2d_crypto::{PrivateKey, X509};
use ikev2d_proto::config::Identity;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::auth::eap_name;
use crate::fetch::Http;

/// Largest file that is read.
const FILE_LIMIT: u64 = 1 << 20;

/// An authority.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthoritySection {
    /// File with its certificate.
    pub cacert: String,
    /// `file://` and `http://` addresses of its revocation lists; the latter are fetched when a
    /// certificate is to be checked, before those that it names itself.
    #[serde(default)]
    pub crl_uris: Vec<String>,
    /// `http://` addresses of its OCSP responders, which are asked before those that certificates name.
    #[serde(default)]
    pub ocsp_uris: Vec<String>,
}

/// An authority, read.
#[derive(Clone)]
pub(crate) struct Authority {
    /// Its certificate.
    pub(crate) certificate: X509,
    /// Where its revocation lists are.
    pub(crate) crl_uris: Vec<String>,
    /// Where its responders are.
    pub(crate) ocsp_uris: Vec<String>,
}

/// What signatures are made and checked with.
#[derive(Clone, Default)]
pub struct Credentials {
    /// What relative paths begin at.
    base: PathBuf,
    keys: Vec<OwnKey>,
    /// Files of keys whose private halves are elsewhere, and what opens them: TLS wants those halves here.
    files: Vec<(String, Option<Zeroizing<String>>)>,
    authorities: Vec<X509>,
    /// Those with a name, which `authorities` has as well.
    named: BTreeMap<String, Vec<Authority>>,
    revocation_lists: Vec<String>,
    ocsp: Option<Arc<Ocsp>>,
    lists: Option<Arc<Lists>>,
    /// Users of EAP, and their passwords.
    eap: Vec<(Vec<u8>, Zeroizing<String>)>,
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
            ocsp: Some(Arc::new(Ocsp::new(Http::default()))),
            lists: Some(Arc::new(Lists::new(Http::default()))),
            ..Self::default()
        }
    }

    /// Reads a private key that nobody but its owner may read: one of `owners`, or us.
    pub(super) fn read_key(
        &self,
        file: &str,
        passphrase: Option<&str>,
        owners: &[u32],
    ) -> Result<PrivateKey, String> {
        let path = self.base.join(file);
        let octets = read(&path, Some(owners))?;
        private_key(&octets, passphrase.map(str::as_bytes))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A key whose private half is elsewhere, and was read from this file.
    pub(super) fn add_kept(&mut self, key: OwnKey, file: &str, passphrase: Option<&str>) {
        self.add_key(key);
        let passphrase = passphrase.map(|text| Zeroizing::new(text.to_owned()));
        self.files.push((file.to_owned(), passphrase));
    }

    pub(crate) fn add_key(&mut self, key: impl Into<OwnKey>) {
        let key = key.into();
        if !self.keys.iter().any(|known| known.is_same(&key)) {
            self.keys.push(key);
        }
    }

    pub(crate) fn add_authority(&mut self, authority: X509) {
        let der = authority.to_der().ok();
        let known = |other: &X509| der.is_some() && other.to_der().ok() == der;
        if !self.authorities.iter().any(known) {
            self.authorities.push(authority);
        }
    }

    /// Forgets what OCSP responders have said, and lists that were fetched.
    pub(crate) fn flush(&self) {
        if let Some(ocsp) = &self.ocsp {
            ocsp.forget();
        }
        if let Some(lists) = &self.lists {
            lists.forget();
        }
    }

    /// What was fetched by HTTP, by kind: of use, and of no use.
    pub(crate) fn fetched(&self) -> [(&'static str, (u64, u64)); 2] {
        let ocsp = self.ocsp.as_ref().map(|ocsp| ocsp.fetched().get());
        let lists = self.lists.as_ref().map(|lists| lists.fetched().get());
        [
            ("ocsp", ocsp.unwrap_or_default()),
            ("crl", lists.unwrap_or_default()),
        ]
    }

    pub(crate) fn read_authority(
        &mut self,
        name: &str,
        section: &AuthoritySection,
    ) -> Result<(), (&'static str, String)> {
        let found = self.read_all(std::slice::from_ref(&section.cacert), certificates);
        let found = found.map_err(|what| ("cacert", what))?;
        if let Some(uri) = section.ocsp_uris.iter().find(|u| !u.starts_with("http://")) {
            let what =
                format!("{uri:?}: expected http://HOST/PATH: an OCSP response is signed itself");
            return Err(("ocsp_uris", what));
        }
        let mut lists = Vec::new();
        for uri in &section.crl_uris {
            if uri.starts_with("http://") {
                continue;
            }
            let path = uri.strip_prefix("file://").ok_or_else(|| {
                let what = format!(
                    "{uri:?}: expected file://PATH, or http://HOST/PATH: a list is signed itself"
                );
                ("crl_uris", what)
            })?;
            let path = self.base.join(path);
            let text = path.to_str().ok_or(("crl_uris", "no text".to_owned()))?;
            if let Err(error) = File::open(&path) {
                return Err(("crl_uris", format!("{text}: {error}")));
            }
            lists.push(text.to_owned());
        }
        self.authorities.extend(found.iter().cloned());
        self.revocation_lists.extend(lists);
        let read = |certificate| Authority {
            certificate,
            crl_uris: section.crl_uris.clone(),
            ocsp_uris: section.ocsp_uris.clone(),
        };
        let read = found.into_iter().map(read).collect();
        self.named.insert(name.to_owned(), read);
        Ok(())
    }

    /// Authorities by name.
    pub(crate) fn named(&self) -> impl Iterator<Item = (&str, &Authority)> {
        let named = self.named.iter();
        named.flat_map(|(name, all)| all.iter().map(move |authority| (name.as_str(), authority)))
    }

    /// OCSP responders by authority.
    pub(super) fn responders(&self) -> Vec<(X509, Vec<String>)> {
        let named = self.named.values().flatten();
        let with = named.filter(|authority| !authority.ocsp_uris.is_empty());
        with.map(|authority| (authority.certificate.clone(), authority.ocsp_uris.clone()))
            .collect()
    }

    /// Addresses of revocation lists to be fetched, by authority.
    pub(super) fn list_uris(&self) -> Vec<(X509, Vec<String>)> {
        let named = self.named.values().flatten();
        let fetched = named.map(|authority| {
            let uris = authority.crl_uris.iter();
            let uris = uris.filter(|uri| uri.starts_with("http://")).cloned();
            (authority.certificate.clone(), uris.collect::<Vec<_>>())
        });
        fetched.filter(|(_, uris)| !uris.is_empty()).collect()
    }

    /// A password of EAP, and whose it is.
    pub(crate) fn add_eap_secret(&mut self, ids: &[Identity], secret: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(secret).map_err(|_| "a password of EAP is text")?;
        if text.is_empty() || ids.is_empty() {
            return Err("a password of EAP needs a text, and ids: whose it is".to_owned());
        }
        let all = ids
            .iter()
            .map(|id| (eap_name(id), Zeroizing::new(text.to_owned())));
        self.eap.extend(all);
        Ok(())
    }

    pub(super) fn eap_secrets(&self) -> &[(Vec<u8>, Zeroizing<String>)] {
        &self.eap
    }

    pub(super) fn ocsp(&self) -> Option<Arc<Ocsp>> {
        self.ocsp.clone()
    }

    /// What OCSP responders say of certificates of ours, where they are named. An issuer may be one of these,
    /// too.
    pub(super) fn own_statuses(
        &self,
        certificates: &[X509],
        mut issuers: Vec<X509>,
    ) -> Option<OwnStatuses> {
        let ocsp = self.ocsp()?;
        issuers.extend_from_slice(&self.authorities);
        let responders = self.responders();
        let own = OwnStatuses::new(ocsp, certificates, &issuers, &responders);
        (!own.is_empty()).then_some(own)
    }

    pub(super) fn lists(&self) -> Option<Arc<Lists>> {
        self.lists.clone()
    }

    /// Our key of a public one.
    pub(super) fn key_of<T: ikev2d_crypto::HasPublic>(
        &self,
        public: &ikev2d_crypto::KeyRef<T>,
    ) -> Option<OwnKey> {
        self.keys.iter().find(|key| key.is_of(public)).cloned()
    }

    /// Its private half, for who needs it in this process: read from its file where it is elsewhere.
    pub(super) fn private_half(&self, own: &OwnKey) -> Result<PrivateKey, String> {
        if let Some(key) = own.private() {
            return Ok(key.clone());
        }
        let mut wrong = Vec::new();
        for (file, passphrase) in &self.files {
            let passphrase = passphrase.as_ref().map(|text| text.as_str());
            match self.read_key(file, passphrase, &[]) {
                Ok(key) if own.is_of(&key) => return Ok(key),
                Ok(_) => {}
                Err(what) => wrong.push(what),
            }
        }
        let wrong = wrong.join("; ");
        Err(format!(
            "TLS needs the private key in the daemon itself: {wrong}"
        ))
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
                let octets = read(&path, None)?;
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
        let named = more.named.iter();
        all.named
            .extend(named.map(|(name, read)| (name.clone(), read.clone())));
        let lists = more.revocation_lists.iter().cloned();
        all.revocation_lists.extend(lists);
        all.eap.extend(more.eap.iter().cloned());
        all
    }
}

/// Reads a file whole, with bounds. A secret one must be ours, root's or one of `owners`', and nobody
/// else's to read.
fn read(path: &Path, secret: Option<&[u32]>) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => {
            // A name would be asked for by system calls that the keeper does not have.
            let who = format!("user {}", nix::unistd::geteuid());
            let shown = path.display();
            let owner = match secret {
                Some(_) => "own",
                None => "be let read",
            };
            format!("{shown}: {error}: {who} must {owner} it, and reads it again at every reload")
        }
        _ => failed(error),
    })?;
    let metadata = file.metadata().map_err(failed)?;
    if let Some(owners) = secret {
        let own = [0, nix::unistd::geteuid().as_raw()];
        let own = [&own, owners].concat();
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
