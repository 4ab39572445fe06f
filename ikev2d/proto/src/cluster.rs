// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An IKE SA as another member of a cluster takes it up (RFC 6311): what must be known to go on with its
//! peer. No key of a child SA is in it, so nobody seals with a number that another member has used: the
//! taker has the peer make new ones at once.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::Identity;
use crate::ike_sa::{Child, IkeSa, Phase, Standing, State};
use crate::proposal::{self, EspSuite, IkeSuite};
use crate::ts::{self, TrafficSelector};
use crate::wire::configuration::{self, Attribute, Kind};
use crate::wire::{Reader, WireError};

/// What the first octet says, as long as the rest is as it is here.
const VERSION: u8 = 1;
/// A time that does not come.
const NEVER: u64 = u64::MAX;

/// A number that nobody else takes an IKE SA up with, ever: no other member, and not this one another
/// time. It makes the IVs of what the taker seals other ones than those of all members before (RFC 5282
/// §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(pub NonZeroU32);

/// An IKE SA can't be taken up.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TakeUpError {
    /// It is no state of this version, or not a whole one.
    #[error("the state can't be read")]
    Malformed,
    /// No connection is for it.
    #[error("no connection {name:?} with these identities")]
    UnknownConnection {
        /// The connection's name.
        name: String,
    },
    /// An IKE SA has its SPI.
    #[error("an IKE SA with its SPI is there already")]
    Present,
    /// The pools give its peer another address than it has.
    #[error("its peer's addresses are not free")]
    Addresses,
}

impl From<WireError> for TakeUpError {
    fn from(_: WireError) -> Self {
        Self::Malformed
    }
}

/// What is written of an IKE SA.
pub(crate) struct SharedSa {
    pub(crate) connection: String,
    pub(crate) spis: (u64, u64),
    pub(crate) path: (SocketAddr, SocketAddr),
    pub(crate) flags: Flags,
    pub(crate) other_id: Option<Identity>,
    pub(crate) remote_id: Identity,
    pub(crate) suite: IkeSuite,
    pub(crate) next_request: u32,
    pub(crate) expected_request: u32,
    pub(crate) rekeyings: u32,
    /// From now: how long it is established, and when it is rekeyed, deleted, reauthenticated, and when the
    /// authentication ends.
    pub(crate) age: Duration,
    pub(crate) times: [Option<Duration>; 4],
    pub(crate) own: Vec<IpAddr>,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) peers: Vec<IpAddr>,
    pub(crate) children: Vec<SharedChild>,
    pub(crate) iv_base: u64,
    pub(crate) keys: Zeroizing<Vec<u8>>,
}

/// What is written of a child SA.
pub(crate) struct SharedChild {
    pub(crate) name: String,
    pub(crate) spis: (u32, u32),
    pub(crate) transport: bool,
    pub(crate) part: bool,
    pub(crate) resource: Option<u16>,
    pub(crate) suite: EspSuite,
    pub(crate) ts_local: Vec<TrafficSelector>,
    pub(crate) ts_remote: Vec<TrafficSelector>,
}

/// What is or is not so of an IKE SA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) initiator: bool,
    pub(crate) moves: bool,
    pub(crate) nat_local: bool,
    pub(crate) nat_remote: bool,
    pub(crate) encap: bool,
    pub(crate) fragmentation: bool,
    pub(crate) ppk: bool,
    pub(crate) mobike: bool,
    pub(crate) redirectable: bool,
    pub(crate) syncs_counters: bool,
}

impl Flags {
    fn all(&mut self) -> [&mut bool; 10] {
        [
            &mut self.initiator,
            &mut self.moves,
            &mut self.nat_local,
            &mut self.nat_remote,
            &mut self.encap,
            &mut self.fragmentation,
            &mut self.ppk,
            &mut self.mobike,
            &mut self.redirectable,
            &mut self.syncs_counters,
        ]
    }

    fn emit(mut self) -> [u8; 2] {
        let bits = self.all().into_iter().enumerate();
        let bits = bits.fold(0u16, |bits, (at, flag)| bits | u16::from(*flag) << at);
        bits.to_be_bytes()
    }

    fn read(bits: u16) -> Self {
        let mut flags = Self::default();
        for (at, flag) in flags.all().into_iter().enumerate() {
            *flag = bits >> at & 1 != 0;
        }
        flags
    }
}

fn put(out: &mut Vec<u8>, octets: &[u8]) {
    out.extend((octets.len() as u16).to_be_bytes());
    out.extend_from_slice(octets);
}

fn put_addresses(out: &mut Vec<u8>, addresses: &[IpAddr]) {
    out.extend((addresses.len() as u16).to_be_bytes());
    for address in addresses {
        put_address(out, *address);
    }
}

fn put_address(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => put(out, &v4.octets()),
        IpAddr::V6(v6) => put(out, &v6.octets()),
    }
}

fn put_end(out: &mut Vec<u8>, end: SocketAddr) {
    put_address(out, end.ip());
    out.extend(end.port().to_be_bytes());
}

fn take<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], TakeUpError> {
    let len = reader.u16()?;
    Ok(reader.take(len.into())?)
}

fn take_u32(reader: &mut Reader<'_>) -> Result<u32, TakeUpError> {
    let octets = reader.take(4)?.try_into();
    octets
        .map(u32::from_be_bytes)
        .map_err(|_| TakeUpError::Malformed)
}

fn take_u64(reader: &mut Reader<'_>) -> Result<u64, TakeUpError> {
    let octets = reader.take(8)?.try_into();
    octets
        .map(u64::from_be_bytes)
        .map_err(|_| TakeUpError::Malformed)
}

fn take_text(reader: &mut Reader<'_>) -> Result<String, TakeUpError> {
    let text = std::str::from_utf8(take(reader)?);
    text.map(str::to_owned).map_err(|_| TakeUpError::Malformed)
}

fn take_address(reader: &mut Reader<'_>) -> Result<IpAddr, TakeUpError> {
    let octets = take(reader)?;
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from));
    address.map_err(|_| TakeUpError::Malformed)
}

fn take_addresses(reader: &mut Reader<'_>) -> Result<Vec<IpAddr>, TakeUpError> {
    (0..reader.u16()?).map(|_| take_address(reader)).collect()
}

fn take_end(reader: &mut Reader<'_>) -> Result<SocketAddr, TakeUpError> {
    Ok((take_address(reader)?, reader.u16()?).into())
}

fn take_identity(reader: &mut Reader<'_>) -> Result<Identity, TakeUpError> {
    Identity::read(take(reader)?).map_err(|_| TakeUpError::Malformed)
}

/// How long it takes until then.
fn left(at: Option<Instant>, now: Instant) -> Option<Duration> {
    at.map(|at| at.saturating_duration_since(now))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(NEVER - 1)
}

impl SharedChild {
    fn of(child: &Child) -> Self {
        let sa = &child.sa;
        Self {
            name: sa.child.to_string(),
            spis: (sa.spi_in, sa.spi_out),
            transport: sa.transport,
            part: child.part,
            resource: sa.resource,
            suite: sa.suite,
            ts_local: sa.ts_local.to_vec(),
            ts_remote: sa.ts_remote.to_vec(),
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        put(out, self.name.as_bytes());
        out.extend(self.spis.0.to_be_bytes());
        out.extend(self.spis.1.to_be_bytes());
        out.push(u8::from(self.transport) | u8::from(self.part) << 1);
        let resource = self.resource.map(u16::to_be_bytes);
        put(out, resource.as_ref().map_or(&[], |number| &number[..]));
        let suite = [(1, self.suite.to_proposal())];
        put(
            out,
            &proposal::emit(&suite, false, &self.spis.0.to_be_bytes()),
        );
        put(out, &ts::emit(&self.ts_local));
        put(out, &ts::emit(&self.ts_remote));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, TakeUpError> {
        let name = take_text(reader)?;
        let spis = (take_u32(reader)?, take_u32(reader)?);
        let bits = reader.u8()?;
        let resource = <[u8; 2]>::try_from(take(reader)?).map(u16::from_be_bytes);
        let suite = proposal::parse(take(reader)?, false)?;
        let suite = suite.first().map(|only| &only.proposal);
        let suite = suite.and_then(|only| only.choose_esp(only, false));
        Ok(Self {
            name,
            spis,
            transport: bits & 1 != 0,
            part: bits & 2 != 0,
            resource: resource.ok(),
            suite: suite.ok_or(TakeUpError::Malformed)?,
            ts_local: ts::parse(take(reader)?)?,
            ts_remote: ts::parse(take(reader)?)?,
        })
    }
}

impl SharedSa {
    /// What is to be known of an IKE SA, if another member can go on with it: its peer must be able to
    /// synchronise, and what is by TCP ends with its connection.
    pub(crate) fn of(sa: &IkeSa, now: Instant) -> Option<Self> {
        let current = sa.state == State::Established && sa.standing == Standing::Current;
        if !current || !sa.syncs_ids || sa.path.stream.is_some() {
            return None;
        }
        let (suite, keys) = sa.suite.zip(sa.keys.as_ref())?;
        let (material, iv_base) = keys.shared();
        let lives = |child: &&Child| matches!(child.phase, Phase::Installed | Phase::Rekeying);
        let (next_request, _) = sa.message_ids();
        Some(Self {
            connection: sa.connection.name.clone(),
            spis: (sa.spi_i, sa.spi_r),
            path: (sa.path.local, sa.path.remote),
            flags: Flags {
                initiator: sa.initiator,
                moves: sa.moves,
                nat_local: sa.nat_local,
                nat_remote: sa.nat_remote,
                encap: sa.encap,
                fragmentation: sa.fragmentation,
                ppk: sa.ppk,
                mobike: sa.mobike,
                redirectable: sa.redirectable,
                syncs_counters: sa.syncs_counters,
            },
            other_id: sa.other_id.as_deref().cloned(),
            remote_id: sa.remote_id.clone(),
            suite,
            next_request,
            // What a member of the peer's has asked with is not to come again (RFC 6311 §5.1).
            expected_request: sa.unseen_request(),
            rekeyings: sa.reauth.rekeyings,
            age: sa.established.map_or(Duration::ZERO, |at| {
                now.saturating_duration_since(at.into())
            }),
            times: [
                sa.rekey_at.map(Instant::from),
                sa.expire_at.map(Instant::from),
                sa.reauth.at,
                sa.reauth.expire_at,
            ]
            .map(|at| left(at, now)),
            own: sa.assigned.own.clone(),
            attributes: sa.assigned.attributes.clone(),
            peers: sa.assigned.peers.clone(),
            children: sa
                .children
                .iter()
                .filter(lives)
                .map(SharedChild::of)
                .collect(),
            iv_base,
            keys: Zeroizing::new(material.to_vec()),
        })
    }

    /// Its octets.
    pub(crate) fn emit(&self) -> Zeroizing<Vec<u8>> {
        let mut out = vec![VERSION];
        put(&mut out, self.connection.as_bytes());
        out.extend(self.spis.0.to_be_bytes());
        out.extend(self.spis.1.to_be_bytes());
        put_end(&mut out, self.path.0);
        put_end(&mut out, self.path.1);
        out.extend(self.flags.emit());
        put(
            &mut out,
            &self
                .other_id
                .as_ref()
                .map(Identity::emit)
                .unwrap_or_default(),
        );
        put(&mut out, &self.remote_id.emit());
        let suite = proposal::emit(&[(1, self.suite.to_proposal())], true, &[]);
        put(&mut out, &suite);
        for number in [self.next_request, self.expected_request, self.rekeyings] {
            out.extend(number.to_be_bytes());
        }
        out.extend(millis(self.age).to_be_bytes());
        for time in self.times {
            out.extend(time.map_or(NEVER, millis).to_be_bytes());
        }
        put_addresses(&mut out, &self.own);
        put(
            &mut out,
            &configuration::emit(Kind::Reply, &self.attributes),
        );
        put_addresses(&mut out, &self.peers);
        out.extend((self.children.len() as u16).to_be_bytes());
        for child in &self.children {
            child.put(&mut out);
        }
        out.extend(self.iv_base.to_be_bytes());
        // With room for the keys, so that they lie nowhere else.
        let mut all = Zeroizing::new(Vec::with_capacity(out.len() + 2 + self.keys.len()));
        all.extend_from_slice(&out);
        put(&mut all, &self.keys);
        all
    }

    /// Reads what was written so long ago.
    pub(crate) fn read(octets: &[u8], ago: Duration) -> Result<Self, TakeUpError> {
        let mut reader = Reader::new(octets);
        let reader = &mut reader;
        if reader.u8()? != VERSION {
            return Err(TakeUpError::Malformed);
        }
        let connection = take_text(reader)?;
        let spis = (take_u64(reader)?, take_u64(reader)?);
        let path = (take_end(reader)?, take_end(reader)?);
        let flags = Flags::read(reader.u16()?);
        let other_id = take(reader)?;
        let other_id = (!other_id.is_empty()).then(|| Identity::read(other_id));
        let other_id = other_id.transpose().map_err(|_| TakeUpError::Malformed)?;
        let remote_id = take_identity(reader)?;
        let suite = proposal::parse(take(reader)?, true)?;
        let suite = suite.first().map(|only| &only.proposal);
        let suite = suite.and_then(|only| only.choose_ike(only));
        let (next_request, expected_request) = (take_u32(reader)?, take_u32(reader)?);
        let rekeyings = take_u32(reader)?;
        let age = Duration::from_millis(take_u64(reader)?).saturating_add(ago);
        let mut times = [None; 4];
        for time in &mut times {
            let millis = Some(take_u64(reader)?).filter(|millis| *millis != NEVER);
            *time = millis.map(|millis| Duration::from_millis(millis).saturating_sub(ago));
        }
        let own = take_addresses(reader)?;
        let (_, attributes) = configuration::parse(take(reader)?)?;
        let peers = take_addresses(reader)?;
        let children = (0..reader.u16()?).map(|_| SharedChild::take(reader));
        let children = children.collect::<Result<_, _>>()?;
        let iv_base = take_u64(reader)?;
        let keys = Zeroizing::new(take(reader)?.to_vec());
        if !reader.is_empty() {
            return Err(TakeUpError::Malformed);
        }
        Ok(Self {
            connection,
            spis,
            path,
            flags,
            other_id,
            remote_id,
            suite: suite.ok_or(TakeUpError::Malformed)?,
            next_request,
            expected_request,
            rekeyings,
            age,
            times,
            own,
            attributes,
            peers,
            children,
            iv_base,
            keys,
        })
    }
}
