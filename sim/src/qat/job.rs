// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One request: copied once, validated, done.

use openssl::memcmp;
use qat_regs::Generation;
use qat_regs::descriptor::{
    self, CIPHER_HEADER, CipherConfig, HASH_HEADER, HashConfig, UCS_HEADER, hash_sizes,
};
use qat_regs::message::{
    CommonFlags, CryptoFlags, HEADER_VALID, ListEntry, ListHead, Request, ResponseStatus, command,
    service,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};
use zeroize::Zeroizing;

use super::cipher::{self, Failure, SLACK};
use super::{HostMemory, gcm, hash};

/// Octets of a request's data at most.
const MOST: usize = 1 << 20;
/// Entries of a gather list at most.
const MOST_ENTRIES: u32 = 256;
/// Octets of an AEAD's additional data at most.
const MOST_AAD: u32 = (1 << 14) - 1;

/// What a request came to.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) status: ResponseStatus,
    /// The output's last octet, for faults on purpose.
    pub(super) last_output: Option<u64>,
    /// The request enciphers.
    pub(super) seals: bool,
}

/// Does a request; its errors are answers, too.
pub(super) fn run(
    generation: Generation,
    request: &Request,
    memory: &dyn HostMemory,
    buffer: &mut Vec<u8>,
) -> Done {
    let mut done = Done {
        status: ResponseStatus::empty(),
        last_output: None,
        seals: false,
    };
    if let Err(status) = process(generation, request, memory, buffer, &mut done) {
        tracing::debug!(?status, "a request failed");
        done.status = status;
    }
    // What it held is the driver's, and some of it in the clear.
    buffer.fill(0);
    done
}

type Answer = Result<(), ResponseStatus>;

impl From<Failure> for ResponseStatus {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unsupported => Self::UNSUPPORTED,
            Failure::Parameter => Self::INVALID_PARAMETER,
            Failure::Tag => Self::CRYPTO_FAILED,
        }
    }
}

/// A parameter that is not there is invalid.
fn valid<T>(value: Option<T>) -> Result<T, ResponseStatus> {
    value.ok_or(ResponseStatus::INVALID_PARAMETER)
}

/// The job's parts, once read.
pub(super) struct Work<'job> {
    pub(super) request: &'job Request,
    pub(super) flags: CryptoFlags,
    pub(super) descriptor: Zeroizing<Vec<u8>>,
    pub(super) iv: [u8; 16],
    source: Segments,
    destination: Segments,
    pub(super) memory: &'job dyn HostMemory,
}

fn process(
    generation: Generation,
    request: &Request,
    memory: &dyn HostMemory,
    buffer: &mut Vec<u8>,
    done: &mut Done,
) -> Answer {
    if request.header_flags & HEADER_VALID == 0 {
        return Err(ResponseStatus::INVALID_PARAMETER);
    }
    match request.service {
        service::NULL => return Ok(()),
        service::CRYPTO => {}
        _ => return Err(ResponseStatus::UNSUPPORTED),
    }
    let flags = CryptoFlags::from_bits_retain(request.crypto_flags.get());
    let common = CommonFlags::from_bits_retain(request.common_flags);
    let never = CryptoFlags::PARTIAL_FIRST
        | CryptoFlags::PARTIAL_LAST
        | CryptoFlags::PROTOCOL_CCM
        | CryptoFlags::DIGEST_IN_BUFFER
        | CryptoFlags::WIRELESS_SLICE;
    if flags.intersects(never) || common.contains(CommonFlags::DESCRIPTOR_INLINE) {
        return Err(ResponseStatus::UNSUPPORTED);
    }
    // What came with a later generation.
    let later = CryptoFlags::SINGLE_PASS | CryptoFlags::UCS_SLICE;
    if generation == Generation::Gen2 && flags.intersects(later) {
        return Err(ResponseStatus::UNSUPPORTED);
    }
    let len = usize::from(request.descriptor_units) * 8;
    if len == 0 || len > descriptor::MOST {
        return Err(ResponseStatus::INVALID_PARAMETER);
    }
    let mut descriptor = Zeroizing::new(vec![0; len]);
    reach(memory.read(request.descriptor.get(), &mut descriptor))?;
    let mut iv = request.iv;
    if !flags.contains(CryptoFlags::IV_INLINE) {
        let address = u64::read_from_prefix(&request.iv).map_or(0, |(address, _)| address);
        iv = [0; 16];
        if address != 0 {
            reach(memory.read(u64::from_le(address), &mut iv))?;
        }
    }
    let lists = common.contains(CommonFlags::LISTS);
    let (from, to) = (request.source.get(), request.destination.get());
    let source = Segments::read(memory, from, request.source_len.get(), lists)?;
    let destination = if to == from {
        source.clone()
    } else {
        Segments::read(memory, to, request.destination_len.get(), lists)?
    };
    let work = Work {
        request,
        flags,
        descriptor,
        iv,
        source,
        destination,
        memory,
    };
    match request.command {
        command::CIPHER if flags.contains(CryptoFlags::SINGLE_PASS) => work.aead(buffer, done),
        command::CIPHER => work.cipher(buffer, done),
        command::HASH => work.hash(buffer),
        command::CIPHER_HASH | command::HASH_CIPHER
            if flags.contains(CryptoFlags::PROTOCOL_GCM) =>
        {
            gcm::run(&work, buffer, done)
        }
        command::CIPHER_HASH => {
            work.load(buffer, true, true)?;
            done.seals = work.encipher(buffer)?;
            work.store(buffer, done)?;
            work.judge(buffer)
        }
        command::HASH_CIPHER => {
            work.load(buffer, true, true)?;
            // What is not authentic is deciphered nevertheless, as in a pipeline.
            let verdict = work.judge(buffer);
            done.seals = work.encipher(buffer)?;
            work.store(buffer, done)?;
            verdict
        }
        _ => Err(ResponseStatus::UNSUPPORTED),
    }
}

/// Memory that can't be reached.
pub(super) fn reach(reached: bool) -> Answer {
    reached
        .then_some(())
        .ok_or(ResponseStatus::INVALID_PARAMETER)
}

impl Work<'_> {
    /// Octets of data that the job touches: the cipher's, the hash's, or both.
    fn end(&self, cipher: bool, hash: bool) -> Option<usize> {
        let end = |used: bool, offset: u32, len: u32| {
            if used {
                offset.checked_add(len)
            } else {
                Some(0)
            }
        };
        let request = self.request;
        let cipher = end(
            cipher,
            request.cipher_offset.get(),
            request.cipher_len.get(),
        )?;
        let hash = end(hash, request.job.offset.get(), request.job.len.get())?;
        let end = cipher.max(hash) as usize;
        (end <= MOST && end <= self.source.len && end <= self.destination.len).then_some(end)
    }

    /// Copies the source in, with room behind it.
    pub(super) fn load(&self, buffer: &mut Vec<u8>, cipher: bool, hash: bool) -> Answer {
        let end = valid(self.end(cipher, hash))?;
        buffer.clear();
        buffer.resize(end + SLACK, 0);
        let octets = valid(buffer.get_mut(..end))?;
        reach(
            self.source
                .copy(octets, |address, octets| self.memory.read(address, octets)),
        )
    }

    /// Copies to the destination: in place what the cipher has changed, elsewhere all.
    pub(super) fn store(&self, buffer: &mut [u8], done: &mut Done) -> Answer {
        let end = buffer.len() - SLACK;
        let from = self.request.cipher_offset.get() as usize;
        let len = self.request.cipher_len.get() as usize;
        let (from, to) = if self.request.source.get() == self.request.destination.get() {
            (from, from + len)
        } else {
            (0, end)
        };
        let octets = valid(buffer.get_mut(from..to))?;
        let mut last = None;
        let written = self.destination.walk(from, octets, |address, octets| {
            // Where the address space ends before the octets do, there is no memory either.
            last = address.checked_add(octets.len() as u64 - 1);
            last.is_some() && self.memory.write(address, octets)
        });
        done.last_output = last;
        reach(written)
    }

    /// The cipher's octets in the buffer, with what is behind them.
    pub(super) fn ciphered<'b>(
        &self,
        buffer: &'b mut [u8],
    ) -> Result<&'b mut [u8], ResponseStatus> {
        let from = self.request.cipher_offset.get() as usize;
        let to = from + self.request.cipher_len.get() as usize + SLACK;
        valid(buffer.get_mut(from..to))
    }

    /// The configuration of a cipher, and its key.
    pub(super) fn cipher_config(
        &self,
        at: usize,
        ucs: bool,
    ) -> Result<(CipherConfig, &[u8]), ResponseStatus> {
        let octets = valid(self.descriptor.get(at..))?;
        let (word, _) = valid(octets.split_first_chunk::<4>())?;
        let config = CipherConfig::parse(u32::from_le_bytes(*word));
        let len = cipher::key_len(config.algorithm).ok_or(ResponseStatus::UNSUPPORTED)?;
        let header = if ucs { UCS_HEADER } else { CIPHER_HEADER };
        Ok((config, valid(octets.get(header..header + len))?))
    }

    fn is_ucs(&self) -> bool {
        self.flags.contains(CryptoFlags::UCS_SLICE)
    }

    fn aead(&self, buffer: &mut Vec<u8>, done: &mut Done) -> Answer {
        // The older way of a single pass, of a generation between, has its parameters elsewhere.
        if !self.is_ucs() {
            return Err(ResponseStatus::UNSUPPORTED);
        }
        let (config, key) = self.cipher_config(0, true)?;
        let job = &self.request.job;
        let aad_len = job.len.get();
        if aad_len > MOST_AAD {
            return Err(ResponseStatus::INVALID_PARAMETER);
        }
        let mut aad = vec![0; aad_len as usize];
        if aad_len != 0 {
            reach(self.memory.read(job.aad.get(), &mut aad))?;
        }
        let mut tag = [0; 16];
        let tag = valid(
            tag.get_mut(..usize::from(job.digest_len))
                .filter(|tag| tag.len() >= 4),
        )?;
        self.load(buffer, true, false)?;
        let nonce = valid(self.iv.get(..12))?;
        done.seals = !config.decrypts;
        let result = if config.decrypts {
            if !self.flags.contains(CryptoFlags::DIGEST_COMPARED) {
                return Err(ResponseStatus::UNSUPPORTED);
            }
            reach(self.memory.read(job.digest.get(), tag))?;
            cipher::open(config, key, nonce, &aad, self.ciphered(buffer)?, tag)
        } else {
            cipher::seal(config, key, nonce, &aad, self.ciphered(buffer)?, tag)
        };
        match result {
            Ok(()) | Err(Failure::Tag) => self.store(buffer, done)?,
            Err(_) => {}
        }
        result?;
        if done.seals && self.flags.contains(CryptoFlags::DIGEST_RETURNED) {
            reach(self.memory.write(job.digest.get(), tag))?;
        }
        Ok(())
    }

    fn cipher(&self, buffer: &mut Vec<u8>, done: &mut Done) -> Answer {
        self.load(buffer, true, false)?;
        done.seals = self.encipher(buffer)?;
        self.store(buffer, done)
    }

    /// Runs the cipher over its part; whether it enciphers.
    fn encipher(&self, buffer: &mut [u8]) -> Result<bool, ResponseStatus> {
        let at = usize::from(self.request.control.cipher_config_units) * 8;
        let (config, key) = self.cipher_config(at, self.is_ucs())?;
        cipher::run(config, key, &self.iv, self.ciphered(buffer)?)?;
        Ok(!config.decrypts)
    }

    fn hash(&self, buffer: &mut Vec<u8>) -> Answer {
        self.load(buffer, false, true)?;
        self.judge(buffer)
    }

    /// Hashes its part, and returns the digest or compares it.
    fn judge(&self, buffer: &[u8]) -> Answer {
        let job = &self.request.job;
        let from = job.offset.get() as usize;
        let data = valid(buffer.get(from..from + job.len.get() as usize))?;
        let (digest, len) = self.digest(data)?;
        let digest = valid(digest.get(..usize::from(job.digest_len)))?;
        if digest.is_empty() || digest.len() > len {
            return Err(ResponseStatus::INVALID_PARAMETER);
        }
        self.settle(digest)
    }

    /// Returns a digest, or compares it.
    pub(super) fn settle(&self, digest: &[u8]) -> Answer {
        let address = self.request.job.digest.get();
        if self.flags.contains(CryptoFlags::DIGEST_COMPARED) {
            let mut expected = [0; 64];
            let expected = valid(expected.get_mut(..digest.len()))?;
            reach(self.memory.read(address, expected))?;
            if !memcmp::eq(expected, digest) {
                return Err(ResponseStatus::CRYPTO_FAILED);
            }
        }
        if self.flags.contains(CryptoFlags::DIGEST_RETURNED) {
            reach(self.memory.write(address, digest))?;
        }
        Ok(())
    }

    fn digest(&self, data: &[u8]) -> Result<hash::Digest, ResponseStatus> {
        let control = &self.request.control;
        let at = usize::from(control.hash_config_units) * 8;
        let octets = valid(self.descriptor.get(at..))?;
        let (word, _) = valid(octets.split_first_chunk::<4>())?;
        let config = HashConfig::parse(u32::from_le_bytes(*word));
        let sizes = hash_sizes(config.algorithm);
        let (_, first, second) = sizes.ok_or(ResponseStatus::UNSUPPORTED)?;
        let state1 = valid(octets.get(HASH_HEADER..HASH_HEADER + first))?;
        let digest = if config.precomputed {
            let at = usize::from(control.state2_units) * 8;
            let state2 = valid(self.descriptor.get(at..at + second))?;
            hash::hmac(config.algorithm, state1, state2, data)
        } else {
            hash::resume(config.algorithm, state1, 0, data)
        };
        valid(digest)
    }
}

/// Where a request's data are.
#[derive(Clone, Debug)]
struct Segments {
    pieces: Vec<(u64, usize)>,
    len: usize,
}

impl Segments {
    fn read(
        memory: &dyn HostMemory,
        address: u64,
        len: u32,
        is_list: bool,
    ) -> Result<Self, ResponseStatus> {
        if !is_list {
            let len = len as usize;
            return Ok(Self {
                pieces: vec![(address, len)],
                len,
            });
        }
        let mut head = ListHead::new_zeroed();
        reach(memory.read(address, head.as_mut_bytes()))?;
        let count = head.entries.get();
        if count > MOST_ENTRIES {
            return Err(ResponseStatus::INVALID_PARAMETER);
        }
        let mut entries = vec![ListEntry::new_zeroed(); count as usize];
        let first = valid(address.checked_add(size_of::<ListHead>() as u64))?;
        reach(memory.read(first, entries.as_mut_slice().as_mut_bytes()))?;
        let mut pieces = Vec::with_capacity(entries.len());
        let mut all = 0usize;
        for entry in entries {
            let len = entry.len.get() as usize;
            all = valid(all.checked_add(len))?;
            pieces.push((entry.address.get(), len));
        }
        Ok(Self { pieces, len: all })
    }

    /// Copies from the start on.
    fn copy(&self, octets: &mut [u8], run: impl FnMut(u64, &mut [u8]) -> bool) -> bool {
        self.walk(0, octets, run)
    }

    /// Visits the pieces of so many octets from an offset on.
    fn walk(
        &self,
        mut offset: usize,
        mut octets: &mut [u8],
        mut run: impl FnMut(u64, &mut [u8]) -> bool,
    ) -> bool {
        for (address, len) in &self.pieces {
            if octets.is_empty() {
                break;
            }
            if offset >= *len {
                offset -= len;
                continue;
            }
            let count = (len - offset).min(octets.len());
            let (piece, rest) = octets.split_at_mut(count);
            let Some(at) = address.checked_add(offset as u64) else {
                return false;
            };
            if !run(at, piece) {
                return false;
            }
            (octets, offset) = (rest, 0);
        }
        octets.is_empty()
    }
}
