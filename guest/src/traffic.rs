// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Packets through the card: real interrupts, queues on several processors, memory that the card may not
//! reach, and a card whose process dies.

use std::fs;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use driver::ipa::IpaCard;
use driver::transport::kernel::KernelTransport;
use driver::transport::{IovaRange, MappedRegion, Transport};
use offload_api::device::{Accelerator, Health};
use offload_api::error::DeviceError;
use offload_api::frame::{FramePool, FramePoolConfig, PoolMemory};
use offload_api::queue::{Arm, Done, Op, QueueConfig, QueuePair, Status};
use offload_api::sa::{Direction, Grant, KeyMaterial, Numbering, SaHandle, SaParams, Spi, Suite};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const PATIENCE: Duration = Duration::from_secs(10);

/// A sleeper is woken for every burst by MSI-X, and the kernel has counted the interrupts.
pub(crate) fn interrupts(address: &str) -> Result<()> {
    woken_by(&*crate::open(address)?, "vfio-msix")
}

/// A sleeper is woken for every burst, and the kernel has counted the interrupts under this name.
pub(crate) fn woken_by(card: &dyn Accelerator, kind: &str) -> Result<()> {
    let pool = pool(card)?;
    let sa = card.install(&outbound(1))?;
    let mut queue = card.open_queue(&QueueConfig { depth: 64 })?;
    let before = counted_interrupts(kind)?;
    // A card that is quicker than the sleeper, who sees its completions before, interrupts nobody.
    const BURSTS: u64 = 20;
    let end = Instant::now() + Duration::from_secs(60);
    let mut burst = 0;
    let interrupts = loop {
        submit(&mut *queue, &pool, sa, 8)?;
        let mut done = Vec::new();
        while done.len() < 8 {
            if queue.dequeue(&mut done, 8)? != 0 {
                continue;
            }
            let Arm::Wait(fd) = queue.arm()? else {
                continue;
            };
            let woken = wait(fd)?;
            ensure!(woken, "burst {burst}: nothing woke the sleeper");
        }
        all(&done, Status::Ok)?;
        burst += 1;
        let interrupts = counted_interrupts(kind)? - before;
        if burst >= BURSTS && interrupts > 0 || Instant::now() >= end {
            break interrupts;
        }
    };
    println!("GUEST interrupts {interrupts} of {kind} for {burst} bursts");
    ensure!(interrupts > 0, "completions came without interrupts");
    Ok(())
}

/// Two queue pairs, each with a thread of its own, at the same time.
pub(crate) fn two_queues(address: &str) -> Result<()> {
    let processors = std::thread::available_parallelism()?.get();
    ensure!(processors >= 2, "the guest has one processor");
    let card = crate::open(address)?;
    let pool = pool(&*card)?;
    const BURSTS: u64 = 50;
    std::thread::scope(|scope| {
        let threads = [1u32, 2].map(|n| {
            let (card, pool) = (&card, &pool);
            scope.spawn(move || -> Result<()> {
                let sa = card.install(&outbound(n))?;
                let mut queue = card.open_queue(&QueueConfig { depth: 64 })?;
                let mut next = 1;
                for _ in 0..BURSTS {
                    submit(&mut *queue, pool, sa, 16)?;
                    let done = collect(&mut *queue, 16)?;
                    all(&done, Status::Ok)?;
                    for done in done {
                        ensure!(done.sequence == next, "{} after {next}", done.sequence);
                        next += 1;
                    }
                }
                let usage = card.usage(sa)?;
                ensure!(usage.packets == BURSTS * 16, "{usage:?}");
                Ok(())
            })
        });
        for thread in threads {
            match thread.join() {
                Ok(result) => result?,
                Err(_) => bail!("a queue's thread panicked"),
            }
        }
        Ok(())
    })
}

/// Memory that was never mapped, and memory that is mapped no more: each access is refused, counted, and
/// told; what is mapped goes on.
pub(crate) fn refused_memory(address: &str) -> Result<()> {
    let fence = Arc::new(Fence::new(KernelTransport::open(address)?));
    let one = Mutex::new(Some(Fenced(fence.clone())));
    let connect = move || -> Result<Box<dyn Transport>, DeviceError> {
        let fenced = one.lock().ok().and_then(|mut one| one.take());
        match fenced {
            Some(fenced) => Ok(Box::new(fenced)),
            None => Err(DeviceError::Gone {
                reason: "opened once only".to_owned(),
            }),
        }
    };
    let card: Arc<IpaCard> = Arc::new(IpaCard::open(address.to_owned(), Box::new(connect))?);
    let sa = card.install(&outbound(1))?;
    let mut queue = card.open_queue(&QueueConfig { depth: 64 })?;
    let mut run = |pool: &FramePool| -> Result<Status> {
        submit(&mut *queue, pool, sa, 1)?;
        let done = collect(&mut *queue, 1)?;
        Ok(done.first().context("no completion")?.status)
    };
    let expect = |what: &str, found: Status, expected: Status| -> Result<()> {
        ensure!(
            found == expected,
            "{what}: {found:?}, expected {expected:?}"
        );
        Ok(())
    };

    let mapped = pool(&*card)?;
    expect("mapped", run(&mapped)?, Status::Ok)?;
    ensure!(dma_faults(&card)? == 0);

    fence.withhold.store(true, Ordering::Relaxed);
    let unreachable = pool(&*card)?;
    fence.withhold.store(false, Ordering::Relaxed);
    expect("never mapped", run(&unreachable)?, Status::DmaFault)?;
    let first = dma_faults(&card)?;
    ensure!(first > 0, "the refused access was not counted");
    expect("mapped, after a fault", run(&mapped)?, Status::Ok)?;

    let taken_back = pool(&*card)?;
    expect("not yet unmapped", run(&taken_back)?, Status::Ok)?;
    fence.unmap_last()?;
    expect("unmapped", run(&taken_back)?, Status::DmaFault)?;
    let second = dma_faults(&card)?;
    ensure!(second > first, "{second} faults after {first}");
    expect("mapped, after both", run(&mapped)?, Status::Ok)?;
    println!("GUEST dma-faults {second}");
    Ok(())
}

/// `xtask` kills the card's process when it reads the line. Everything comes back as aborted or done, and
/// every call ends with an error in time.
pub(crate) fn killed(address: &str) -> Result<()> {
    // Never closed: Linux waits more than a minute for a function that does not come out of its reset.
    let card = std::mem::ManuallyDrop::new(crate::open(address)?);
    let pool = pool(&**card)?;
    let sa = card.install(&outbound(1))?;
    let queue = Box::leak(card.open_queue(&QueueConfig { depth: 64 })?);
    let (mut submitted, mut back, mut done) = (0, 0, Vec::new());
    println!("GUEST kill the card");
    let begun = Instant::now();
    let mut last_good = begun;
    // In use until it is noticed.
    loop {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the card's death went unnoticed"
        );
        if queue.in_flight() < 32 {
            match submit(queue, &pool, sa, 1) {
                Ok(()) => submitted += 1,
                Err(_) => break,
            }
        }
        let result = queue.dequeue(&mut done, 64);
        if done.iter().any(|done| done.status == Status::Ok) {
            last_good = Instant::now();
        }
        back += settle(&mut done)?;
        if result.is_err() {
            break;
        }
    }
    let noticed = last_good.elapsed();
    let lost = card.health();
    ensure!(matches!(lost, Health::Lost { .. }), "{lost:?}");
    while queue.in_flight() != 0 && last_good.elapsed() < PATIENCE {
        let _ = queue.dequeue(&mut done, 64);
    }
    back += settle(&mut done)?;
    ensure!(back == submitted, "{back} of {submitted} came back");
    let asked = Instant::now();
    ensure!(
        card.install(&outbound(2)).is_err(),
        "installed on a dead card"
    );
    ensure!(asked.elapsed() < PATIENCE, "{:?}", asked.elapsed());
    println!("GUEST noticed after {} ms: {lost:?}", noticed.as_millis());
    Ok(())
}

/// Lets go of what came back, done or aborted, and counts it.
fn settle(done: &mut Vec<Done>) -> Result<usize> {
    for done in &*done {
        let fine = matches!(done.status, Status::Ok | Status::Aborted);
        ensure!(fine, "{:?}", done.status);
    }
    Ok(done.drain(..).count())
}

pub(crate) fn pool(card: &dyn Accelerator) -> Result<FramePool> {
    let pool = FramePool::new(FramePoolConfig {
        slots: 256,
        ..Default::default()
    })?;
    card.register_pool(&pool)?;
    Ok(pool)
}

pub(crate) fn outbound(spi: u32) -> SaParams {
    let suite = Suite::AES_256_GCM;
    #[expect(clippy::expect_used, reason = "constants")]
    let (spi, keys) = (
        Spi::new(0x1000 + spi).expect("an SPI"),
        KeyMaterial::from_keymat(suite, &[9; 36], &[]).expect("a key"),
    );
    SaParams {
        esn: false,
        numbering: Numbering::Granted(Some(Grant {
            first: 1,
            last: 10_000_000,
        })),
        ..SaParams::tunnel(spi, Direction::Outbound, suite, keys)
    }
}

pub(crate) fn submit(
    queue: &mut dyn QueuePair,
    pool: &FramePool,
    sa: SaHandle,
    count: u64,
) -> Result<()> {
    // An IPv4 header of 28 octets and eight more.
    let mut packet = [0x5a; 28];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1,
    ]);
    let mut ops = Vec::new();
    for cookie in 0..count {
        let mut frame = pool.alloc().context("no frame")?;
        ensure!(frame.fill(&packet));
        ops.push(Op::new(sa, frame, cookie));
    }
    let taken = queue.enqueue(&mut ops)?;
    ensure!(taken as u64 == count, "the ring took {taken} of {count}");
    Ok(queue.kick()?)
}

pub(crate) fn collect(queue: &mut dyn QueuePair, count: usize) -> Result<Vec<Done>> {
    let (mut done, begun) = (Vec::new(), Instant::now());
    while done.len() < count {
        ensure!(begun.elapsed() < PATIENCE, "{} of {count}", done.len());
        queue.dequeue(&mut done, count)?;
    }
    Ok(done)
}

pub(crate) fn all(done: &[Done], status: Status) -> Result<()> {
    let other = done.iter().find(|done| done.status != status);
    match other {
        Some(done) => bail!("{:?}, expected {status:?}", done.status),
        None => Ok(()),
    }
}

fn wait(fd: BorrowedFd<'_>) -> Result<bool> {
    let time_out = Timespec {
        tv_sec: PATIENCE.as_secs().try_into()?,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&time_out))? == 1)
}

/// What the kernel has counted of vfio-pci's vectors of a kind.
fn counted_interrupts(kind: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/interrupts")?;
    let lines = text.lines().filter(|line| line.contains(kind));
    let counts = lines.flat_map(|line| line.split_whitespace().skip(1));
    Ok(counts.filter_map(|count| count.parse::<u64>().ok()).sum())
}

fn dma_faults(card: &IpaCard) -> Result<u64> {
    let counters = card.inspect()?.counters;
    let faults = counters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("dma_faults"));
    Ok(faults.with_context(|| format!("{counters:?}"))?.1)
}

/// The kernel's transport, with maps that can be withheld or taken back behind the driver's back.
struct Fence {
    kernel: KernelTransport,
    withhold: AtomicBool,
    mapped: Mutex<Vec<(u64, usize)>>,
}

impl Fence {
    fn new(kernel: KernelTransport) -> Self {
        Self {
            kernel,
            withhold: AtomicBool::new(false),
            mapped: Mutex::default(),
        }
    }

    fn unmap_last(&self) -> Result<()> {
        let last = self.mapped.lock().ok().and_then(|mut all| all.pop());
        let (iova, len) = last.context("nothing is mapped")?;
        Ok(self.kernel.dma_unmap(iova, len)?)
    }
}

struct Fenced(Arc<Fence>);

impl Transport for Fenced {
    fn name(&self) -> &'static str {
        self.0.kernel.name()
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        self.0.kernel.read(region, offset, data)
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        self.0.kernel.write(region, offset, data)
    }

    fn map(&self, region: u32, offset: u64, len: usize) -> Result<MappedRegion, DeviceError> {
        self.0.kernel.map(region, offset, len)
    }

    fn reserved(&self) -> &[IovaRange] {
        self.0.kernel.reserved()
    }

    fn dma_map(&self, iova: u64, memory: PoolMemory<'_>) -> Result<(), DeviceError> {
        if self.0.withhold.load(Ordering::Relaxed) {
            return Ok(());
        }
        let len = memory.len;
        self.0.kernel.dma_map(iova, memory)?;
        if let Ok(mut mapped) = self.0.mapped.lock() {
            mapped.push((iova, len));
        }
        Ok(())
    }

    fn dma_unmap(&self, iova: u64, len: usize) -> Result<(), DeviceError> {
        let Ok(mut mapped) = self.0.mapped.lock() else {
            return Ok(());
        };
        // What is not mapped any more needs no unmapping.
        match mapped.iter().position(|known| *known == (iova, len)) {
            Some(index) => {
                mapped.remove(index);
                self.0.kernel.dma_unmap(iova, len)
            }
            None => Ok(()),
        }
    }

    fn enable_msix(&self, eventfds: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        self.0.kernel.enable_msix(eventfds)
    }

    fn reset(&self) -> Result<(), DeviceError> {
        self.0.kernel.reset()
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        self.0.kernel.liveness()
    }

    fn close(&self) {
        self.0.kernel.close();
    }

    fn ended(&self) -> bool {
        self.0.kernel.ended()
    }
}
