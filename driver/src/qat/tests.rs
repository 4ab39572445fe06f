// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a simulated function on its bus does too seldom: its registers behind a transport that is made to
//! fail, to be slow, and to keep our memory.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use offload_api::error::DeviceError;
use offload_api::frame::PoolMemory;
use qat_regs::csr::ARBITER;
use qat_regs::{MISC_BAR, RING_BAR, pfvf};
use sim::fault::FaultPlan;
use sim::qat::{Generation, Vf};
use vfio_user::message::REGION_CONFIG;

use super::function::Function;
use super::life::Life;
use super::queue::QatQueue;
use crate::dma::IovaAllocator;
use crate::lock;
use crate::transport::{MappedRegion, Transport};

pub(super) struct Fake {
    vf: Mutex<Vf>,
    socket: File,
    /// Ring registers can't be written.
    refuses: AtomicBool,
    /// Memory is not given back.
    keeps: AtomicBool,
    hung_up: AtomicBool,
    /// A question to the physical function is not answered yet, or its answer not taken.
    is_asked: AtomicBool,
    /// Questions that came meanwhile.
    interruptions: AtomicU32,
}

impl Fake {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            vf: Mutex::new(Vf::new(Generation::Gen4, FaultPlan::default())),
            socket: File::open("/dev/null").unwrap(),
            refuses: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
            hung_up: AtomicBool::new(false),
            is_asked: AtomicBool::new(false),
            interruptions: AtomicU32::new(0),
        })
    }

    pub(super) fn function(self: &Arc<Self>) -> Function {
        let transport = Box::new(Handle(self.clone()));
        Function::begin(transport, &IovaAllocator::default()).unwrap()
    }
}

struct Handle(Arc<Fake>);

fn host() -> DeviceError {
    DeviceError::Host {
        what: "a transport for tests",
        error: "as it was told to".to_owned(),
    }
}

impl Transport for Handle {
    fn name(&self) -> &'static str {
        "a transport for tests"
    }

    fn read(&self, region: u32, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let value = match region {
            REGION_CONFIG => 0x4941_8086,
            _ => lock(&self.0.vf).read(region, offset),
        };
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
        Ok(())
    }

    fn write(&self, region: u32, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        match (region, offset) {
            (REGION_CONFIG, _) => return Ok(()),
            (RING_BAR, _) if self.0.refuses.load(Ordering::Relaxed) => return Err(host()),
            (MISC_BAR, pfvf::TO_PF) => {
                if self.0.is_asked.swap(true, Ordering::SeqCst) {
                    self.0.interruptions.fetch_add(1, Ordering::SeqCst);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            (MISC_BAR, pfvf::FROM_PF) => self.0.is_asked.store(false, Ordering::SeqCst),
            _ => {}
        }
        let value = u32::from_le_bytes(data.try_into().unwrap());
        lock(&self.0.vf).write(region, offset, value);
        Ok(())
    }

    fn map(&self, _: u32, _: u64, _: usize) -> Result<MappedRegion, DeviceError> {
        Err(host())
    }

    fn dma_map(&self, _: u64, _: PoolMemory<'_>) -> Result<(), DeviceError> {
        Ok(())
    }

    fn dma_unmap(&self, _: u64, _: usize) -> Result<(), DeviceError> {
        if self.0.keeps.load(Ordering::Relaxed) {
            return Err(host());
        }
        Ok(())
    }

    fn enable_msix(&self, _: &[BorrowedFd<'_>]) -> Result<(), DeviceError> {
        Err(host())
    }

    fn reset(&self) -> Result<(), DeviceError> {
        lock(&self.0.vf).reset();
        Ok(())
    }

    fn liveness(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.socket.as_fd())
    }

    fn close(&self) {
        self.0.hung_up.store(true, Ordering::SeqCst);
    }

    fn ended(&self) -> bool {
        self.0.hung_up.load(Ordering::SeqCst)
    }
}

#[test]
fn two_threads_do_not_speak_to_the_physical_function_at_once() {
    let fake = Fake::new();
    let function = fake.function();
    // The notice that the function starts has no answer that ended it.
    fake.is_asked.store(false, Ordering::SeqCst);
    fake.interruptions.store(0, Ordering::SeqCst);
    let together = Barrier::new(2);
    std::thread::scope(|scope| {
        for pair in &function.pairs[..2] {
            scope.spawn(|| {
                for _ in 0..10 {
                    together.wait();
                    assert!(function.reset_pair(*pair));
                }
            });
        }
    });
    assert_eq!(fake.interruptions.load(Ordering::SeqCst), 0);
}

#[test]
fn a_queue_that_opens_at_one_function_only_is_given_back() {
    let (first, second) = (Fake::new(), Fake::new());
    let transports: Vec<Box<dyn Transport>> = vec![
        Box::new(Handle(first.clone())),
        Box::new(Handle(second.clone())),
    ];
    let life = Life::begin(transports, 1).unwrap();
    second.refuses.store(true, Ordering::Relaxed);
    // More often than there are queues.
    for _ in 0..8 {
        assert!(QatQueue::open(life.clone(), 128).is_err());
        for pair in &life.functions[0].pairs {
            let bundle = u64::from(pair.bundle) * 0x2000;
            let arbiter = lock(&first.vf).read(RING_BAR, bundle + ARBITER);
            assert_eq!(arbiter, 0, "a pair that nobody has is served");
        }
    }
    second.refuses.store(false, Ordering::Relaxed);
    let open = || QatQueue::open(life.clone(), 1024);
    let queues: Vec<_> = (0..life.max_queues()).map(|_| open().unwrap()).collect();
    assert_eq!(queues.len(), 4);
    assert!(open().is_err());
}

#[test]
fn whether_a_function_has_let_go_is_decided_before_we_hang_up() {
    for keeps in [true, false] {
        let fake = Fake::new();
        let function = fake.function();
        fake.keeps.store(keeps, Ordering::Relaxed);
        assert!(function.lose("for a test"));
        assert_eq!(function.knows_let_go(), None);
        function.end("closed");
        // Our own hang-up looks as the end of its process does.
        assert!(fake.hung_up.load(Ordering::SeqCst));
        assert_eq!(function.knows_let_go(), Some(!keeps));
        assert_eq!(function.has_let_go(), !keeps);
    }
}
