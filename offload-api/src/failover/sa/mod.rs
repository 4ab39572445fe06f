// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One SA of a failover: in which engine it lives, and what it has done.

mod adopted;
mod amend;
mod entry;
mod grants;
mod moves;

pub(super) use adopted::GrantFound;
pub(super) use entry::enter_device;
pub(super) use moves::Target;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::check::Verifier;
use super::reconcile::cookie;
use super::route::{Place, Route};
use super::{NumberLedger, OffloadLevel, Placement, Shared, lock};
use crate::cache::{CacheSlot, SaState};
use crate::capability::{Capabilities, Features};
use crate::error::{Advice, DeviceError, InstallError, SaError, Unsupported};
use crate::event::Engine;
use crate::queue::Status;
use crate::replay::{ReplaySnapshot, ReplayWindow, Verdict, WINDOW_MAX};
use crate::sa::{
    Amend, Direction, Lifetimes, Limits, Mode, Numbering, OuterHeaders, Protocol, SaHandle,
    SaParams, SaUsage,
};
use crate::wire::esp::Header;
use entry::Entry;

/// An SA with everything needed to install it anew.
pub(super) struct Sa {
    level: OffloadLevel,
    slot: CacheSlot,
    /// In a box, as all that few have.
    ledger: Option<Box<Arc<dyn NumberLedger>>>,
    route: Route,
    /// Held while the SA is moved or amended; the hot path only tries it.
    control: Mutex<Control>,
    /// Only the device has its keys.
    keyless: bool,
    /// Missing for levels that may not fall back.
    software: Option<SaHandle>,
    /// Opens again in software what the device has sealed or opened.
    verifier: Option<Box<Verifier>>,
    /// Its handle in the device, and in which of the device's lives. Written only while the route
    /// does not lead there.
    device: AtomicU64,
    device_life: AtomicU64,
    /// The device has it installed, and it moves there once nothing is on its way in software.
    moving: AtomicBool,
    retired: AtomicBool,
    /// What was delivered, whoever opened it; of an outbound SA the numbers that the device used. Where
    /// nothing is to be watched there is none.
    shadow: Option<Box<Mutex<ReplayWindow>>>,
    replay_window: u32,
    outbound: bool,
    esn: bool,
    /// Its packets begin with ESP's header when they come to be opened.
    bare_esp: bool,
    /// Engines draw from grants.
    granted: bool,
    /// It gets no further grants.
    frozen: bool,
    /// The grants of the engine in charge: first number of the oldest, last number of the newest.
    grant_first: AtomicU64,
    grant_end: AtomicU64,
    topping_up: AtomicBool,
    /// The next tick tops the grant up.
    thirsty: AtomicBool,
    soft_told: AtomicBool,
    hard_told: AtomicBool,
    created: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    sequence: AtomicU64,
    errors: AtomicU64,
    bad_icv: AtomicU64,
    replayed: AtomicU64,
}

struct Control {
    /// None where there is no device and never was: ten thousand SAs are kept small.
    kept: Option<Box<Kept>>,
    /// Why it is not in the device.
    reason: Option<Box<str>>,
}

impl Control {
    fn new(params: Option<SaParams>, reason: Option<&str>) -> Self {
        Self {
            kept: params.map(Kept::new),
            reason: reason.map(Box::from),
        }
    }

    /// How far its installation in a device that has returned is.
    fn entry(&mut self) -> Option<&mut Entry> {
        self.kept.as_mut().map(|kept| &mut kept.entry)
    }

    /// The same, which is over by that.
    fn take_entry(&mut self) -> Entry {
        self.entry().map(std::mem::take).unwrap_or_default()
    }

    fn set_entry(&mut self, to: Entry) {
        if let Some(entry) = self.entry() {
            *entry = to;
        }
    }
}

/// What it takes to install an SA in the device.
struct Kept {
    params: SaParams,
    /// What the SA had done, and its age, when it was installed there.
    before_device: (SaUsage, Duration),
    /// How far its installation in a device that has returned is.
    entry: Entry,
}

impl Kept {
    fn new(params: SaParams) -> Box<Self> {
        Box::new(Self {
            params,
            before_device: (SaUsage::default(), Duration::ZERO),
            entry: Entry::None,
        })
    }
}

impl Sa {
    pub(super) fn install(
        shared: &Shared,
        level: OffloadLevel,
        params: &SaParams,
        slot: CacheSlot,
        ledger: Option<Arc<dyn NumberLedger>>,
    ) -> Result<Self, InstallError> {
        let outbound = params.direction == Direction::Outbound;
        let mut sa = Self {
            level,
            slot,
            ledger: ledger.map(Box::new),
            route: Route::new(Place::Nowhere),
            control: Mutex::new(Control::new(
                shared.primary.is_some().then(|| params.clone()),
                None,
            )),
            keyless: false,
            software: None,
            verifier: None,
            device: AtomicU64::new(0),
            device_life: AtomicU64::new(0),
            moving: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            shadow: shadow(params, shared.primary.is_some()),
            replay_window: params.replay_window,
            outbound,
            esn: params.esn,
            bare_esp: is_bare_esp(params),
            granted: outbound && params.numbering != Numbering::Explicit,
            frozen: false,
            grant_first: AtomicU64::new(0),
            grant_end: AtomicU64::new(0),
            topping_up: AtomicBool::new(false),
            thirsty: AtomicBool::new(false),
            soft_told: AtomicBool::new(false),
            hard_told: AtomicBool::new(false),
            created: Instant::now(),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bad_icv: AtomicU64::new(0),
            replayed: AtomicU64::new(0),
        };
        if matches!(level, OffloadLevel::Auto | OffloadLevel::No) {
            // On standby: it has the keys and may not use a number yet.
            let mut standby = params.clone();
            if sa.granted {
                standby.numbering = Numbering::Granted(None);
            }
            sa.software = Some(shared.software.install(&standby)?);
        }
        if level != OffloadLevel::No {
            sa.verifier = Verifier::install(shared, params).map(Box::new);
        }
        match sa.begin(shared) {
            Ok(()) => Ok(sa),
            Err(error) => {
                if let Some(handle) = sa.software {
                    let _ = shared.software.retire(handle);
                }
                if let Some(verifier) = &sa.verifier {
                    verifier.retire(shared);
                }
                Err(error)
            }
        }
    }

    /// Its first stay.
    fn begin(&self, shared: &Shared) -> Result<(), InstallError> {
        let mut control = self.control();
        let refused = if self.level == OffloadLevel::No {
            Some(Box::from("hw_offload = no"))
        } else {
            let numbering = match &control.kept {
                _ if self.granted => Numbering::Granted(Some(self.reserve(shared)?)),
                Some(kept) => kept.params.numbering,
                None => Numbering::Granted(None),
            };
            match self.install_in_device(shared, &mut control, numbering) {
                Ok(()) => {
                    self.route.shift(Place::Nowhere, false, Place::Device);
                    self.record_engine(shared, Engine::Device);
                    return Ok(());
                }
                Err(error) if self.software.is_none() || !means_software(&error) => {
                    return Err(error);
                }
                // That there is none is told when it is asked for.
                Err(_) if control.kept.is_none() => None,
                Err(error) => Some(error.to_string().into()),
            }
        };
        control.reason = refused;
        if let Some(handle) = self.software
            && self.granted
        {
            // A block of its own, even where the device refused its: nobody asks what it did with it.
            let grant = self.reserve(shared)?;
            grants::grant_to(&*shared.software, handle, grant)?;
        }
        self.route.shift(Place::Nowhere, false, Place::Software);
        Ok(())
    }

    /// Installs it in the device as it is now, without leading anything there.
    fn install_in_device(
        &self,
        shared: &Shared,
        control: &mut Control,
        numbering: Numbering,
    ) -> Result<(), InstallError> {
        let (params, before) = self
            .for_device(control, numbering)
            .ok_or_else(|| no_device(shared))?;
        let life = shared.life();
        let installed = shared.with_device(life, |primary| {
            self.check_for(primary.capabilities(), &params)?;
            primary.install_as(&params, cookie(self.slot))
        });
        match installed {
            None => Err(no_device(shared)),
            Some(Ok(handle)) => {
                self.is_installed(control, life, handle, before);
                Ok(())
            }
            Some(Err(error)) => {
                if let InstallError::Device(error) = &error {
                    shared.lost(life, &error.to_string());
                }
                Err(error)
            }
        }
    }

    /// What the device is to install, and what the SA has done and how old it is by then; nothing where
    /// there is no device.
    fn for_device(
        &self,
        control: &Control,
        numbering: Numbering,
    ) -> Option<(SaParams, (SaUsage, Duration))> {
        let age = self.created.elapsed();
        let usage = self.usage();
        let mut params = control.kept.as_ref()?.params.clone();
        params.numbering = numbering;
        params.lifetimes = lifetimes_left(&params.lifetimes, &usage, age);
        if self.guards_replays() {
            params.replay_state = Some(self.seen());
        }
        Some((params, (usage, age)))
    }

    /// Whether a device can carry it as its level asks.
    fn check_for(
        &self,
        capabilities: &Capabilities,
        params: &SaParams,
    ) -> Result<(), InstallError> {
        let whole = !capabilities.features.contains(Features::LOOKASIDE);
        if self.level == OffloadLevel::Packet && !whole {
            return Err(Unsupported::Lookaside.into());
        }
        Ok(capabilities.check(params)?)
    }

    /// The device has it.
    fn is_installed(
        &self,
        control: &mut Control,
        life: u64,
        handle: SaHandle,
        before: (SaUsage, Duration),
    ) {
        self.device.store(pack(handle), Ordering::Release);
        self.device_life.store(life, Ordering::Release);
        if let Some(kept) = &mut control.kept {
            kept.before_device = before;
        }
        control.reason = None;
    }

    /// Whether whoever carries it has a window to keep.
    fn guards_replays(&self) -> bool {
        !self.outbound && self.replay_window != 0
    }

    /// Tells the events' names of its engines' handles.
    pub(super) fn name(&self, shared: &Shared, handle: SaHandle) {
        let mut names = lock(&shared.names);
        if self.route.load().place == Place::Device {
            let device = unpack(self.device.load(Ordering::Acquire));
            names.insert(Engine::Device, device, handle);
        }
        if let Some(software) = self.software {
            names.insert(Engine::Software, software, handle);
        }
    }

    /// Whether this is its handle in software.
    pub(super) fn is_in_software_as(&self, handle: SaHandle) -> bool {
        self.software == Some(handle)
    }

    fn engine(&self) -> Engine {
        match self.route.load().place {
            Place::Device => Engine::Device,
            _ => Engine::Software,
        }
    }

    fn record_engine(&self, shared: &Shared, engine: Engine) {
        let told = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        let state = match (told(&self.hard_told), told(&self.soft_told)) {
            (true, _) => SaState::Dead,
            (false, true) => SaState::Dying,
            (false, false) => SaState::Mature,
        };
        shared.cache.place(self.slot, engine, state);
    }

    /// Records what it has done where other processes see it.
    pub(super) fn record_usage(&self, shared: &Shared) {
        shared.cache.record_usage(self.slot, &self.usage());
    }

    /// Records where it goes where other processes see it.
    pub(super) fn note_path(&self, shared: &Shared, path: &OuterHeaders) {
        shared.cache.set_path(self.slot, path);
    }

    /// The number, or its low half, in a packet that is to be opened; 0 where it is not looked for.
    pub(super) fn number_in(&self, packet: &[u8]) -> u32 {
        if self.outbound || !self.bare_esp {
            return 0;
        }
        Header::parse(packet).map_or(0, |header| header.sequence.get())
    }

    /// Whether an inbound packet may be of this number: the one that it carries, and not further ahead
    /// than its high half could be told (RFC 4303 appendix A2.2).
    pub(super) fn may_carry(&self, low: u32, sequence: u64) -> bool {
        let high = sequence >> 32;
        sequence != 0
            && (low == 0 || sequence as u32 == low)
            && (high == 0 || (self.esn && high <= (self.top() >> 32) + 1))
    }

    /// Passes an inbound packet through the shadow window.
    pub(super) fn deliver(&self, sequence: u64) -> Verdict {
        match &self.shadow {
            Some(shadow) => lock(shadow).accept(sequence),
            None => Verdict::Fresh,
        }
    }

    /// The highest number that was delivered, as far as that is watched.
    fn top(&self) -> u64 {
        let shadow = self.shadow.as_deref();
        shadow.map_or(0, |shadow| lock(shadow).top())
    }

    /// What was delivered, as far back as the SA's own window reaches.
    fn seen(&self) -> ReplaySnapshot {
        let shadow = self.shadow.as_deref();
        let mut seen =
            shadow.map_or_else(ReplaySnapshot::default, |shadow| lock(shadow).snapshot());
        seen.seen
            .truncate((self.replay_window as usize).div_ceil(64));
        seen
    }

    /// Its handle in the device and the life it belongs to, while it lives there.
    pub(super) fn device_handle(&self) -> Option<(u64, SaHandle)> {
        let life = self.device_life.load(Ordering::Acquire);
        let in_device = self.route.load().place == Place::Device;
        in_device.then(|| (life, unpack(self.device.load(Ordering::Acquire))))
    }

    /// What does the device's packets again.
    pub(super) fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_deref()
    }

    /// Whether this stay is the present one.
    pub(super) fn is_in(&self, stay: u32) -> bool {
        self.route.load().number == stay
    }

    /// Whether the device may have used a number of an outbound SA in a stay: one of its grants, and not
    /// used before. Of one that is so far behind that nobody knows whether it was, nothing is said but
    /// that it is too old.
    pub(super) fn own_number(&self, stay: u32, sequence: u64) -> Verdict {
        if !self.granted || self.route.load().number != stay {
            return Verdict::Fresh;
        }
        let first = self.grant_first.load(Ordering::Acquire);
        let end = self.grant_end.load(Ordering::Acquire);
        // A stay that has just ended changes both.
        let granted = (first..=end).contains(&sequence) || self.route.load().number != stay;
        if !granted {
            return Verdict::Replayed;
        }
        self.deliver(sequence)
    }

    pub(super) fn is_outbound(&self) -> bool {
        self.outbound
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn is_moving(&self) -> bool {
        self.moving.load(Ordering::Acquire)
    }

    /// Whether a soft limit has not been reported yet since it was set.
    pub(super) fn tell_soft(&self, shared: &Shared) -> bool {
        let first = !self.soft_told.swap(true, Ordering::AcqRel);
        self.record_engine(shared, self.engine());
        first
    }

    /// Whether a hard limit has not been reported yet since it was set.
    pub(super) fn tell_hard(&self, shared: &Shared) -> bool {
        let first = !self.hard_told.swap(true, Ordering::AcqRel);
        self.record_engine(shared, self.engine());
        first
    }

    /// Counts a completion.
    pub(super) fn count(&self, sequence: u64, bytes: usize) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sequence.fetch_max(sequence, Ordering::AcqRel);
    }

    pub(super) fn count_error(&self, status: Status) {
        let counter = match status {
            Status::BadIcv => &self.bad_icv,
            Status::Replayed | Status::TooOld => &self.replayed,
            _ => &self.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn retire(&self, shared: &Shared) -> SaUsage {
        self.retired.store(true, Ordering::Release);
        let control = self.control();
        self.moving.store(false, Ordering::Release);
        let life = self.device_life.load(Ordering::Acquire);
        let device = unpack(self.device.load(Ordering::Acquire));
        if life != 0 && life == shared.life() {
            lock(&shared.names).remove(Engine::Device, device);
            let retired = shared.with_device(life, |primary| primary.retire(device));
            if let Some(Err(SaError::Device(error))) = retired {
                shared.lost(life, &error.to_string());
            }
        }
        if let Some(handle) = self.software {
            lock(&shared.names).remove(Engine::Software, handle);
            let _ = shared.software.retire(handle);
        }
        if let Some(verifier) = &self.verifier {
            verifier.retire(shared);
        }
        shared.cache.remove(self.slot);
        drop(control);
        self.usage()
    }

    pub(super) fn usage(&self) -> SaUsage {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SaUsage {
            packets: load(&self.packets),
            bytes: load(&self.bytes),
            sequence: load(&self.sequence),
            bad_icv: load(&self.bad_icv),
            replayed: load(&self.replayed),
            errors: load(&self.errors),
        }
    }

    pub(super) fn placement(&self, shared: &Shared) -> Placement {
        let lost = self.device_life.load(Ordering::Acquire) != shared.life();
        match self.route.load().place {
            Place::Device if !lost => Placement {
                engine: Engine::Device,
                reason: self.keyless.then(|| adopted::REASON.to_owned()),
            },
            Place::Device => Placement {
                engine: Engine::Software,
                reason: Some(shared.device_absence()),
            },
            _ => Placement {
                engine: Engine::Software,
                reason: self.reason(shared),
            },
        }
    }

    /// Why it is not in the device.
    fn reason(&self, shared: &Shared) -> Option<String> {
        let control = self.control();
        let none = || {
            control
                .kept
                .is_none()
                .then(|| no_device(shared).to_string())
        };
        control.reason.as_deref().map(str::to_owned).or_else(none)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As wide as a window gets, whatever the SA's: several queue pairs bring packets home out of order,
/// and what lies left of the window here can't be told from a replay.
/// Without a device there is one engine and its own window, and nobody else's numbers are to be
/// watched: there is none.
fn shadow(params: &SaParams, device: bool) -> Option<Box<Mutex<ReplayWindow>>> {
    let off = params.direction == Direction::Inbound && params.replay_window == 0;
    if off || !device {
        return None;
    }
    let mut shadow = ReplayWindow::new(WINDOW_MAX);
    if let Some(seen) = &params.replay_state {
        shadow.merge(seen);
    }
    Some(Box::new(Mutex::new(shadow)))
}

fn no_device(shared: &Shared) -> InstallError {
    let reason = shared.device_absence();
    DeviceError::Gone { reason }.into()
}

/// Whether an SA's packets begin with ESP's header when they come to be opened.
fn is_bare_esp(params: &SaParams) -> bool {
    params.suite.protocol() == Protocol::Esp
        && params.mode == Mode::Tunnel
        && params.outer.is_none()
}

/// Whether an error means that software shall do it.
fn means_software(error: &InstallError) -> bool {
    error.advice() == Advice::UseSoftware
}

/// What is left of lifetimes for an engine that starts to count after so much use.
fn lifetimes_left(lifetimes: &Lifetimes, used: &SaUsage, age: Duration) -> Lifetimes {
    let left = |limits: &Limits| Limits {
        bytes: limits.bytes.map(|limit| limit.saturating_sub(used.bytes)),
        packets: limits
            .packets
            .map(|limit| limit.saturating_sub(used.packets)),
        time: limits.time.map(|limit| limit.saturating_sub(age)),
    };
    Lifetimes {
        soft: left(&lifetimes.soft),
        hard: left(&lifetimes.hard),
    }
}

fn pack(handle: SaHandle) -> u64 {
    u64::from(handle.index) << 32 | u64::from(handle.generation)
}

fn unpack(word: u64) -> SaHandle {
    SaHandle {
        index: (word >> 32) as u32,
        generation: word as u32,
    }
}
