// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One life of a device, from its opening to its reset: its functions, SAs and queues.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use esp_framing::table::Table;
use offload_api::device::Counters;
use offload_api::error::{DeviceError, InstallError, OpenQueueError, SaError, Unsupported};
use offload_api::event::Event;
use offload_api::frame::FramePool;
use offload_api::sa::{SaHandle, SaParams, SaUsage};
use qat_regs::Generation;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::function::Function;
use super::queue::Inner;
use super::session::{Session, SessionMemory};
use crate::counters::add;
use crate::dma::{DmaArena, IovaAllocator};
use crate::lock;
use crate::patience;
use crate::transport::Transport;

/// SAs that a device holds: they are the host's, and this is what is set aside for their keys.
pub(super) const MAX_SAS: u32 = 4096;
/// Memory for their content descriptors.
const SESSIONS: usize = 2 << 20;
/// Between two looks of the watchdog while something is owed.
const TICK: Duration = Duration::from_millis(10);
/// Between two looks while nothing is.
const REST: Duration = Duration::from_millis(100);
/// Ticks without a response after which a function is given up. It has no heart to listen to.
const HUNG: u32 = 50;

pub(super) struct Life {
    pub(super) functions: Vec<Arc<Function>>,
    pub(super) events: Mutex<Vec<Event>>,
    table: RwLock<Table<Session>>,
    sessions: Arc<SessionMemory>,
    iovas: IovaAllocator,
    /// Pools that are mapped, with their IOVAs: held, so that their memory lives.
    pools: RwLock<HashMap<u32, (FramePool, u64)>>,
    /// Queue numbers that are free.
    free: Mutex<Vec<usize>>,
    queues: Mutex<Vec<Weak<Mutex<Inner>>>>,
    max_queues: usize,
    counters: Mutex<Counters>,
    /// One for each queue number.
    vectors: Vec<OwnedFd>,
    /// Interrupts that all queues of a function share, by function; the watch thread passes them on.
    shared: Vec<Option<OwnedFd>>,
    /// Ends the watchdog.
    bell: OwnedFd,
    watch: Mutex<Option<JoinHandle<()>>>,
}

fn make_eventfd() -> Result<OwnedFd, DeviceError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| DeviceError::Host {
        what: "eventfd",
        error: error.to_string(),
    })
}

impl Life {
    /// Brings functions up as one device.
    pub(super) fn begin(
        transports: Vec<Box<dyn Transport>>,
        number: u64,
    ) -> Result<Arc<Self>, DeviceError> {
        let reserved: Vec<_> = transports
            .iter()
            .flat_map(|transport| transport.reserved().to_vec())
            .collect();
        let iovas = IovaAllocator::avoiding(&reserved);
        let functions: Result<Vec<_>, DeviceError> = transports
            .into_iter()
            .map(|transport| Function::begin(transport, &iovas).map(Arc::new))
            .collect();
        let functions = functions?;
        let older = |function: &Arc<Function>| function.generation == Generation::Gen2;
        if functions.iter().any(older) && !functions.iter().all(older) {
            // A content descriptor of one kind says nothing to the other.
            return Err(DeviceError::Protocol {
                what: "functions of C62x and its like, and of 4xxx and its like, are no one \
                       accelerator: give each kind a device of its own"
                    .to_owned(),
            });
        }
        let pairs = functions.iter().map(|function| function.pairs.len());
        let max_queues = pairs.min().unwrap_or(0);
        let arena = Arc::new(DmaArena::new(SESSIONS, iovas.alloc(SESSIONS as u64))?);
        arena.hide();
        let vectors: Result<Vec<_>, _> = (0..max_queues).map(|_| make_eventfd()).collect();
        let vectors = vectors?;
        let mut shared = Vec::new();
        for function in &functions {
            function.map(arena.iova(), arena.memory())?;
            shared.push(wire(function, &vectors)?);
        }
        let first_generation = (number as u32) << 16;
        let life = Arc::new(Self {
            functions,
            events: Mutex::default(),
            table: RwLock::new(Table::starting_at(MAX_SAS, first_generation)),
            sessions: Arc::new(SessionMemory::new(arena, MAX_SAS)),
            iovas,
            pools: RwLock::default(),
            free: Mutex::new((0..max_queues).rev().collect()),
            queues: Mutex::default(),
            max_queues,
            counters: Mutex::default(),
            vectors,
            shared,
            bell: make_eventfd()?,
            watch: Mutex::default(),
        });
        life.start_watch()?;
        Ok(life)
    }

    pub(super) fn max_queues(&self) -> usize {
        self.max_queues
    }

    /// The error of a device all of whose functions are lost.
    pub(super) fn check(&self) -> Result<(), DeviceError> {
        if self.functions.iter().any(|function| !function.is_lost()) {
            return Ok(());
        }
        let reason = self.lost_reason().unwrap_or_default();
        Err(DeviceError::Gone { reason })
    }

    /// Why the last of its functions was lost, if all are.
    pub(super) fn lost_reason(&self) -> Option<String> {
        let reasons: Option<Vec<_>> = self.functions.iter().map(|f| f.lost_reason()).collect();
        reasons?.pop()
    }

    pub(super) fn read_table(&self) -> RwLockReadGuard<'_, Table<Session>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_table(&self) -> RwLockWriteGuard<'_, Table<Session>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn install(&self, sa: &SaParams) -> Result<SaHandle, InstallError> {
        self.check()?;
        let mut table = self.write_table();
        let full = InstallError::TableFull { capacity: MAX_SAS };
        let live = lock(&self.counters).sas;
        if live >= u64::from(MAX_SAS) {
            return Err(full);
        }
        let older = |function: &Arc<Function>| function.generation == Generation::Gen2;
        let two_slices = self.functions.iter().any(older);
        let session = Session::new(sa, &self.sessions, two_slices);
        let session = session.ok_or(Unsupported::Suite { suite: sa.suite })?;
        let handle = table.insert(session, sa, Instant::now())?;
        lock(&self.counters).sas += 1;
        Ok(handle)
    }

    pub(super) fn retire(&self, sa: SaHandle) -> Result<SaUsage, SaError> {
        self.check()?;
        self.read_table().entry(sa)?.transform.retire();
        let queues: Vec<_> = lock(&self.queues)
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        for queue in queues {
            let mut inner = lock(&queue);
            inner.settle(sa);
        }
        let usage = self.write_table().remove(sa)?;
        lock(&self.counters).sas -= 1;
        Ok(usage)
    }

    pub(super) fn set_outer(
        &self,
        sa: SaHandle,
        outer: offload_api::sa::OuterHeaders,
    ) -> Result<(), SaError> {
        let mut table = self.write_table();
        table.entry_mut(sa)?.transform.framing.set_outer(outer);
        Ok(())
    }

    pub(super) fn register_pool(&self, pool: &FramePool) -> Result<(), DeviceError> {
        self.check()?;
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.contains_key(&pool.id()) {
            return Ok(());
        }
        let memory = pool.memory();
        let iova = self.iovas.alloc(memory.len as u64);
        for function in self.functions.iter().filter(|function| !function.is_lost()) {
            function.map(iova, memory)?;
        }
        pools.insert(pool.id(), (pool.clone(), iova));
        Ok(())
    }

    pub(super) fn pool_iova(&self, id: u32) -> Option<u64> {
        let pools = self.pools.read().unwrap_or_else(PoisonError::into_inner);
        pools.get(&id).map(|(_, iova)| *iova)
    }

    pub(super) fn take_queue(&self) -> Result<usize, OpenQueueError> {
        let max = self.max_queues as u16;
        lock(&self.free)
            .pop()
            .ok_or(OpenQueueError::NoneFree { max })
    }

    pub(super) fn put_queue(&self, number: usize) {
        lock(&self.free).push(number);
    }

    pub(super) fn know_queue(&self, inner: &Arc<Mutex<Inner>>) {
        let mut queues = lock(&self.queues);
        queues.retain(|queue| queue.strong_count() != 0);
        queues.push(Arc::downgrade(inner));
    }

    pub(super) fn vector(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        let interrupts = self.functions.iter().all(|function| function.interrupts());
        self.vectors
            .get(queue)
            .filter(|_| interrupts)
            .map(AsFd::as_fd)
    }

    pub(super) fn interrupts(&self) -> bool {
        self.functions.iter().all(|function| function.interrupts())
    }

    pub(super) fn count(&self, more: &Counters) {
        let mut counters = lock(&self.counters);
        *counters = add(*counters, *more);
    }

    pub(super) fn counters(&self) -> Counters {
        *lock(&self.counters)
    }

    fn wake(&self) {
        for vector in &self.vectors {
            let _ = rustix::io::write(vector, &1u64.to_ne_bytes());
        }
    }

    /// Ends this life: functions reset, memory unmapped, keys zeroised.
    pub(super) fn end(&self, reason: &str) {
        for function in &self.functions {
            function.end(reason);
        }
        self.write_table().clear();
        lock(&self.counters).sas = 0;
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        self.wake();
    }

    /// A thread that notices functions that vanish at once, and those that hang soon, even while
    /// everybody sleeps; and that has lost ones unmap our memory, which may take its time.
    fn start_watch(self: &Arc<Self>) -> Result<(), DeviceError> {
        let weak = Arc::downgrade(self);
        let error = |error: std::io::Error| DeviceError::Host {
            what: "starting the watchdog",
            error: error.to_string(),
        };
        let mut watched = vec![(Watched::Bell, self.bell.as_fd())];
        for (n, function) in self.functions.iter().enumerate() {
            let process = function.transport.liveness();
            watched.extend(process.map(|fd| (Watched::Process(n), fd)));
        }
        for (n, shared) in self.shared.iter().enumerate() {
            let shared = shared.as_ref();
            watched.extend(shared.map(|fd| (Watched::Interrupt(n), fd.as_fd())));
        }
        let copy = |(what, fd): (_, BorrowedFd<'_>)| Ok((what, fd.try_clone_to_owned()?));
        let watched: Result<Vec<_>, _> = watched.into_iter().map(copy).collect();
        let watched = watched.map_err(error)?;
        let thread = std::thread::Builder::new()
            .name("qat-watch".to_owned())
            .spawn(move || watch(&weak, &watched))
            .map_err(error)?;
        *lock(&self.watch) = Some(thread);
        Ok(())
    }

    /// Looks at every function; whether any owes something.
    fn tick(&self) -> bool {
        let mut owed = false;
        for function in self.functions.iter().filter(|function| !function.is_lost()) {
            let (owes, still) = function.tick();
            owed |= owes;
            if still >= HUNG * patience::times() {
                function.lose("it hangs: operations are not answered any more");
            }
        }
        owed
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        self.end("closed");
        let watch = lock(&self.watch).take();
        // The watchdog itself may be the last to hold this life: a thread can't join itself.
        if let Some(watch) = watch
            && watch.thread().id() != std::thread::current().id()
        {
            let _ = watch.join();
        }
    }
}

/// Each bundle's vector to the queue that has its ring pair, or the one that they share.
fn wire(function: &Function, vectors: &[OwnedFd]) -> Result<Option<OwnedFd>, DeviceError> {
    if function.shares_interrupt() {
        let shared = make_eventfd()?;
        function.wire_shared(&shared);
        return Ok(Some(shared));
    }
    let bundles = function.pairs.iter().map(|pair| pair.bundle).max();
    let by_bundle = (0..=bundles.unwrap_or(0)).map(|bundle| {
        let queue = function.pairs.iter().position(|pair| pair.bundle == bundle);
        let vector = queue.and_then(|queue| vectors.get(queue));
        match vector.map(|vector| vector.try_clone()) {
            Some(Ok(vector)) => Ok(vector),
            _ => make_eventfd(),
        }
    });
    let by_bundle: Vec<_> = by_bundle.collect::<Result<_, _>>()?;
    function.wire(&by_bundle);
    Ok(None)
}

/// What a descriptor tells the watch thread of; the numbers are functions.
#[derive(Clone, Copy, Debug)]
enum Watched {
    /// This life's end.
    Bell,
    /// The end of the function's process.
    Process(usize),
    /// An interrupt that all queues of the function share.
    Interrupt(usize),
}

/// The watch thread. It allocates nothing while it watches.
fn watch(weak: &Weak<Life>, watched: &[(Watched, OwnedFd)]) {
    let hung_up = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut watched: Vec<_> = watched.iter().collect();
    let mut fds: Vec<_> = watched
        .iter()
        .map(|(what, fd)| match what {
            Watched::Bell | Watched::Interrupt(_) => PollFd::new(fd, PollFlags::IN),
            Watched::Process(_) => PollFd::new(fd, PollFlags::RDHUP),
        })
        .collect();
    let mut settled = match weak.upgrade() {
        Some(life) => vec![false; life.functions.len()],
        None => return,
    };
    let mut owed = false;
    let mut looked = Instant::now();
    loop {
        let rest = if owed { TICK } else { REST };
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: rest.subsec_nanos().into(),
        };
        let _ = poll(&mut fds, Some(&time));
        let Some(life) = weak.upgrade() else { return };
        let mut over = None;
        for (at, ((what, source), fd)) in watched.iter().zip(&fds).enumerate() {
            let came = fd.revents();
            match *what {
                // Whoever rings it has marked what is looked at below.
                Watched::Bell => {}
                Watched::Process(n) => {
                    if came.intersects(hung_up) {
                        if let Some(function) = life.functions.get(n) {
                            function.lose("its process has ended");
                        }
                        over = Some(at);
                    }
                }
                Watched::Interrupt(n) => {
                    if came.contains(PollFlags::IN) {
                        let _ = rustix::io::read(source, &mut [0; 8]);
                        if let Some(function) = life.functions.get(n) {
                            function.disarm();
                        }
                        life.wake();
                    }
                }
            }
        }
        // An end is told for ever; that of another is told again in the next round.
        if let Some(at) = over {
            watched.swap_remove(at);
            fds.swap_remove(at);
        }
        // Ticks are time: one for each interrupt would call a busy function hung.
        if looked.elapsed() >= rest {
            looked = Instant::now();
            owed = life.tick();
        }
        for (function, settled) in life.functions.iter().zip(&mut settled) {
            if function.is_lost() && !*settled {
                *settled = true;
                function.has_let_go();
                life.wake();
            }
        }
        if settled.iter().all(|settled| *settled) {
            return;
        }
    }
}
