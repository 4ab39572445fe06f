// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The card's own capture: packets in the clear and protected, to a file, by a thread of its own.
//!
//! The data path copies packets into buffers that are there already and waits for nobody: where
//! there is no buffer, or the file has its full size, packets are left out and counted.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_queue::ArrayQueue;
use esp::transform::Transform;
use offload_api::sa::Direction;
use offload_api::wrap::{PcapngSink, Seen, Side};

use crate::card::{Core, MAX_PACKET};
use crate::pace::VirtualClock;

/// Where to capture to, and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// The file, for the first function; those of others have .1, .2, … behind their names. Only its
    /// owner may read it: it shows traffic in the clear.
    pub path: PathBuf,
    /// Octets of each file at most.
    pub limit: u64,
}

impl CaptureConfig {
    /// A capture of at most a gibibyte.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            limit: 1 << 30,
        }
    }
}

/// Packets that may wait for the file.
const SLOTS: usize = 1024;
/// How long the writer sleeps when there is nothing to write.
const NAP: Duration = Duration::from_millis(1);
/// Octets that are written at once: never a part of a block alone, so that the file of a card that
/// was killed is whole.
const BATCH: usize = 256 << 10;
/// Head and statistics of a file.
const FRAME: u64 = 1024;

struct Slot {
    side: Side,
    direction: Direction,
    at: Duration,
    sa: u32,
    spi: u32,
    sequence: u64,
    octets: Vec<u8>,
}

struct Shared {
    free: ArrayQueue<Slot>,
    full: ArrayQueue<Slot>,
    /// Of each side: packets, and those of them that were left out.
    seen: [AtomicU64; 2],
    dropped: [AtomicU64; 2],
    ended: AtomicBool,
}

impl Shared {
    fn drop_one(&self, side: Side) {
        if let Some(dropped) = self.dropped.get(side as usize) {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the data path holds of a capture.
pub(crate) struct Tap {
    shared: Arc<Shared>,
    clock: Option<VirtualClock>,
    /// A time since 1970, and the same by the card's clock.
    anchor: (Duration, Instant),
    /// A result whose time is not known yet.
    result: Option<Slot>,
}

/// Which packet.
#[derive(Clone, Copy)]
pub(crate) struct About {
    pub(crate) direction: Direction,
    pub(crate) sa: u32,
    pub(crate) spi: u32,
    pub(crate) sequence: u64,
}

impl About {
    pub(crate) fn sa(index: u32, transform: &Transform) -> Self {
        Self {
            direction: transform.direction(),
            sa: index,
            spi: transform.spi().value(),
            sequence: 0,
        }
    }
}

impl Tap {
    /// A packet comes to the engine.
    pub(crate) fn takes(&mut self, about: About, octets: &[u8]) {
        let side = match about.direction {
            Direction::Outbound => Side::Plain,
            Direction::Inbound => Side::Cipher,
        };
        let now = self
            .clock
            .as_ref()
            .map_or_else(Instant::now, VirtualClock::now);
        if let Some(slot) = self.fill(side, about, octets) {
            self.push(slot, now);
        }
    }

    /// A packet comes from the engine; [`show`](Self::show) says when.
    pub(crate) fn gives(&mut self, about: About, octets: &[u8]) {
        let side = match about.direction {
            Direction::Outbound => Side::Cipher,
            Direction::Inbound => Side::Plain,
        };
        self.result = self.fill(side, about, octets);
    }

    /// Writes the result that came last, if there was one, as of this time.
    pub(crate) fn show(&mut self, at: Instant) {
        if let Some(slot) = self.result.take() {
            self.push(slot, at);
        }
    }

    fn fill(&self, side: Side, about: About, octets: &[u8]) -> Option<Slot> {
        if let Some(seen) = self.shared.seen.get(side as usize) {
            seen.fetch_add(1, Ordering::Relaxed);
        }
        let Some(mut slot) = self.shared.free.pop() else {
            self.shared.drop_one(side);
            return None;
        };
        slot.octets.clear();
        // Within what the buffer has: it never grows.
        let fits = octets.len().min(slot.octets.capacity());
        slot.octets
            .extend_from_slice(octets.get(..fits).unwrap_or_default());
        (slot.side, slot.direction) = (side, about.direction);
        (slot.sa, slot.spi, slot.sequence) = (about.sa, about.spi, about.sequence);
        Some(slot)
    }

    fn push(&self, mut slot: Slot, at: Instant) {
        let (epoch, anchor) = self.anchor;
        slot.at = epoch + at.saturating_duration_since(anchor);
        // There is room: as many slots were made as fit in.
        let _ = self.shared.full.push(slot);
    }
}

impl Core {
    /// Shows the capture, where there is one, a packet that comes to the engine or from it.
    pub(crate) fn capture(&mut self, place: (u32, u32), sequence: Option<u64>, octets: &[u8]) {
        let (Some(tap), (index, generation)) = (&mut self.tap, place) else {
            return;
        };
        let Some(sa) = self.sas.find(index, generation) else {
            return;
        };
        let mut about = About::sa(index, &sa.transform);
        if let Some(sequence) = sequence {
            about.sequence = sequence;
            tap.gives(about, octets);
            tap.show(Instant::now());
        } else {
            tap.takes(about, octets);
        }
    }
}

/// Makes a file for packets that may be in the clear: its owner's alone.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)?;
    // One that was there already may have been anybody's to read.
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// The thread that writes.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes a file and the thread that writes it.
    pub(crate) fn start(
        path: PathBuf,
        limit: u64,
        clock: Option<VirtualClock>,
    ) -> io::Result<(Self, Tap)> {
        let about = {
            let path = path.display().to_string();
            move |error: io::Error| io::Error::new(error.kind(), format!("capture {path}: {error}"))
        };
        let file = create(&path).map_err(&about)?;
        let room = BATCH + MAX_PACKET as usize + 4096;
        let sink = PcapngSink::new(BufWriter::with_capacity(room, file)).map_err(&about)?;
        let shared = Arc::new(Shared {
            free: ArrayQueue::new(SLOTS),
            full: ArrayQueue::new(SLOTS),
            seen: Default::default(),
            dropped: Default::default(),
            ended: AtomicBool::new(false),
        });
        for _ in 0..SLOTS {
            let _ = shared.free.push(Slot {
                side: Side::Plain,
                direction: Direction::Outbound,
                at: Duration::ZERO,
                sa: 0,
                spi: 0,
                sequence: 0,
                octets: Vec::with_capacity(MAX_PACKET as usize),
            });
        }
        let epoch = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let tap = Tap {
            shared: shared.clone(),
            anchor: (
                epoch,
                clock.as_ref().map_or_else(Instant::now, VirtualClock::now),
            ),
            clock,
            result: None,
        };
        let mut work = Work {
            shared: shared.clone(),
            sink,
            path,
            written: FRAME,
            limit,
            told: [0; 2],
            buffered: 0,
            failed: false,
        };
        let thread = std::thread::Builder::new().name("ipa-capture".to_owned());
        let thread = thread.spawn(move || work.run())?;
        let writer = Self {
            shared,
            thread: Some(thread),
        };
        Ok((writer, tap))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

struct Work {
    shared: Arc<Shared>,
    sink: PcapngSink<BufWriter<File>>,
    path: PathBuf,
    written: u64,
    limit: u64,
    /// Packets of each side that were left out, as far as the file tells.
    told: [u64; 2],
    buffered: u64,
    failed: bool,
}

impl Work {
    fn run(&mut self) {
        loop {
            // Looked at first: what came before the end is written.
            let ended = self.shared.ended.load(Ordering::Acquire);
            while let Some(slot) = self.shared.full.pop() {
                self.write(&slot);
                let _ = self.shared.free.push(slot);
            }
            if ended {
                break;
            }
            self.flush();
            std::thread::park_timeout(NAP);
        }
        self.end();
    }

    fn write(&mut self, slot: &Slot) {
        let size = slot.octets.len() as u64 + PcapngSink::<File>::PACKET_OVERHEAD;
        if self.failed || self.written + size > self.limit {
            if !self.failed {
                tracing::warn!(path = %self.path.display(), limit = self.limit, "the capture is full");
                self.failed = true;
            }
            self.shared.drop_one(slot.side);
            return;
        }
        let side = slot.side as usize;
        let dropped = self.shared.dropped.get(side);
        let dropped = dropped.map_or(0, |dropped| dropped.load(Ordering::Relaxed));
        let told = self.told.get_mut(side);
        let since = told.map_or(0, |told| dropped - std::mem::replace(told, dropped));
        let seen = Seen {
            side: slot.side,
            direction: slot.direction,
            at: slot.at,
            sa: Some(slot.sa),
            spi: slot.spi,
            sequence: slot.sequence,
            octets: &slot.octets,
        };
        match self.sink.write(&seen, since) {
            Ok(octets) => {
                self.written += octets;
                self.buffered += octets;
            }
            Err(error) => self.fail(&error),
        }
        if self.buffered >= BATCH as u64 {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.buffered == 0 {
            return;
        }
        self.buffered = 0;
        if let Err(error) = self.sink.get_mut().flush() {
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if !self.failed {
            tracing::warn!(path = %self.path.display(), %error, "the capture ends here");
        }
        self.failed = true;
    }

    fn end(&mut self) {
        let at = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        for side in [Side::Plain, Side::Cipher] {
            let count = |of: &[AtomicU64; 2]| {
                let of = of.get(side as usize);
                of.map_or(0, |count| count.load(Ordering::Relaxed))
            };
            let (seen, dropped) = (count(&self.shared.seen), count(&self.shared.dropped));
            if dropped != 0 {
                tracing::warn!(?side, seen, dropped, "packets are missing in the capture");
            }
            if let Err(error) = self.sink.statistics(side, at, seen, dropped) {
                self.fail(&error);
            }
        }
        if let Err(error) = self.sink.get_mut().flush() {
            self.fail(&error);
        }
    }
}
