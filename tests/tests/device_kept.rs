// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process with ten thousand SAs in a card is killed; the next one goes on with card and cache within
//! two seconds.
//!
//! `ESPLANADE_SAS` sets how many.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driver::DeviceAddress;
use driver::ipa::IpaCard;
use esp::engine::{SoftwareConfig, SoftwareEngine};
use netlab::process::Guarded;
use offload_api::cache::CacheWriter;
use offload_api::device::Accelerator;
use offload_api::event::Engine;
use offload_api::failover::{Failover, FailoverConfig, OffloadLevel};
use offload_api::frame::{FramePool, FramePoolConfig};
use offload_api::queue::{Op, QueueConfig, Status};
use offload_api::sa::*;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use sim::{CardConfig, RunningCard};

/// From the first look at what was left to SAs that can be used.
const LIMIT: Duration = Duration::from_secs(2);
/// Where the process that is killed finds the card, the socket of its keeper, and how many SAs to make.
const CARD: &str = "ESPLANADE_TEST_CARD";
const KEEPER: &str = "ESPLANADE_TEST_KEEPER";
const SAS: &str = "ESPLANADE_SAS";

fn sas() -> u32 {
    std::env::var(SAS).map_or(10_000, |sas| sas.parse().unwrap())
}

fn params(number: u32) -> SaParams {
    let suite = Suite::AES_256_GCM;
    let direction = if number.is_multiple_of(2) {
        Direction::Outbound
    } else {
        Direction::Inbound
    };
    SaParams::tunnel(
        Spi::new(0x1000_0000 + number).unwrap(),
        direction,
        suite,
        KeyMaterial::from_keymat(suite, &[3; 36], &[]).unwrap(),
    )
}

fn join(card: Arc<IpaCard>, cache: CacheWriter) -> Failover {
    let software = SoftwareEngine::new(SoftwareConfig::default()).unwrap();
    Failover::new(
        Some(card),
        Arc::new(software),
        Arc::new(cache),
        FailoverConfig::default(),
    )
}

/// What the process does that is killed: it fills the card, hands cache and connection over, and goes
/// on working until it dies.
#[test]
#[ignore = "started by the other test"]
fn the_process_that_dies() {
    let card = std::env::var(CARD).expect("the other test starts this one");
    let keeper = UnixStream::connect(std::env::var(KEEPER).unwrap()).unwrap();
    let card = driver::open(&DeviceAddress::User(card.into())).unwrap();
    let cache = CacheWriter::create("kept-test", 1 << 15).unwrap();
    let memory = cache.fd().try_clone_to_owned().unwrap();
    let both = join(card.clone(), cache);
    for number in 0..sas() {
        let level = OffloadLevel::Packet;
        both.install_at(level, &params(number), u64::from(number))
            .unwrap();
    }
    let connection = card.kept().unwrap().remove(0).1;
    let fds = [memory.as_fd(), connection.as_fd()];
    send_fds(&keeper, &fds);
    // Admin commands and register reads without end: it dies in the middle of one.
    loop {
        both.reconcile().unwrap();
    }
}

fn send_fds(stream: &UnixStream, fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(
        stream,
        &[IoSlice::new(b"k")],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
}

fn receive_fds(stream: &UnixStream) -> Vec<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut [0])],
        &mut control,
        flags,
    )
    .unwrap();
    assert_eq!(got.bytes, 1, "the process has ended");
    let rights = control.drain().filter_map(|ancillary| match ancillary {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
        _ => None,
    });
    rights.flatten().collect()
}

fn start_process(card: &Path, keeper: &Path) -> Guarded {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "the_process_that_dies"])
        .env(CARD, card)
        .env(KEEPER, keeper)
        .env(SAS, sas().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    Guarded::spawn(command).unwrap()
}

#[test]
fn ten_thousand_sas_of_a_killed_process_are_taken_up_within_two_seconds() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = CardConfig::new(directory.path().join("card"));
    config.max_sas = sas().max(16);
    let simulated = RunningCard::start(&config).unwrap();
    let path = directory.path().join("keeper");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let mut process = start_process(simulated.socket(), &path);
    let (stream, _) = listener.accept().unwrap();
    let mut kept = receive_fds(&stream);
    // Somewhere in its work.
    std::thread::sleep(Duration::from_millis(u64::from(std::process::id() % 97)));
    process.kill().unwrap();

    let start = Instant::now();
    let connection = kept.pop().unwrap();
    let cache = CacheWriter::take_over(kept.pop().unwrap()).unwrap();
    let cached = start.elapsed();
    let address = DeviceAddress::User(simulated.socket().to_owned());
    let named = vec![(driver::transport::user::CONNECTION.to_owned(), connection)];
    let card = driver::attach(&address, named).unwrap();
    let attached = start.elapsed();
    let both = join(card.clone(), cache);
    let adopted = both.adopt(|_| false).unwrap();
    let took = start.elapsed();
    println!(
        "{} SAs taken up in {took:?}: cache {cached:?}, card {:?}, SAs {:?}",
        adopted.len(),
        attached - cached,
        took - attached
    );
    assert_eq!(adopted.len(), sas() as usize);
    assert_eq!(card.counters().sas, u64::from(sas()));
    let reconciled = both.statistics().reconciled;
    assert_eq!((reconciled.orphans, reconciled.gone), (0, 0));
    assert!(took <= LIMIT, "{took:?}");

    // They are of use: the first outbound one seals, in the card, with a number that was never used.
    let outbound = adopted
        .iter()
        .find(|sa| sa.entry.direction == Direction::Outbound);
    let sa = outbound.unwrap().sa;
    assert_eq!(both.placement(sa).unwrap().engine, Engine::Device);
    let pool = FramePool::new(FramePoolConfig::default()).unwrap();
    both.register_pool(&pool).unwrap();
    let mut queue = both.open_queue(&QueueConfig { depth: 64 }).unwrap();
    let mut frame = pool.alloc().unwrap();
    assert!(frame.fill(&[
        0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2
    ]));
    let mut ops = vec![Op::new(sa, frame, 1)];
    let mut done = Vec::new();
    let end = Instant::now() + Duration::from_secs(5);
    while done.is_empty() {
        queue.enqueue(&mut ops).unwrap();
        queue.kick().unwrap();
        queue.dequeue(&mut done, 1).unwrap();
        assert!(Instant::now() < end);
    }
    assert_eq!((done[0].status, done[0].sequence), (Status::Ok, 1));
}
