// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that has a card open is killed while somebody else holds its VFIO descriptors: the kernel
//! lets go of nothing, and who comes next goes on with the card's SAs.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use driver::DeviceAddress;
use driver::transport::kernel::KEPT;
use offload_api::carried::CarriedSa;
use offload_api::device::Accelerator;
use offload_api::queue::{QueueConfig, Status};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::traffic::{all, collect, outbound, pool, submit};

/// What the process that dies is told.
pub(crate) const ROLE: &str = "have-the-card";
const SAS: u32 = 16;

pub(crate) fn go_on(address: &str) -> Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut process = Command::new(std::env::current_exe()?)
        .args([ROLE, address])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let kept = receive(&ours);
    process.kill()?;
    process.wait()?;
    let kept = KEPT.iter().map(|name| (*name).to_owned()).zip(kept?);
    let address = DeviceAddress::Pci(address.to_owned());
    let card = driver::attach(&address, kept.collect())?;
    let mut carried = card.carried(0, usize::MAX)?;
    // The card tells them by its own places, which those before have left in any order.
    carried.sort_unstable_by_key(|sa| sa.cookie);
    let cookies: Vec<_> = carried.iter().map(|sa| sa.cookie).collect();
    let expected: Vec<_> = (1..=u64::from(SAS)).collect();
    ensure!(cookies == expected, "carried: {cookies:?}");
    let pool = pool(&*card)?;
    let mut queue = card.open_queue(&QueueConfig { depth: 64 })?;
    for CarriedSa { sa, next, .. } in &carried {
        submit(&mut *queue, &pool, *sa, 1)?;
        let done = collect(&mut *queue, 1)?;
        all(&done, Status::Ok)?;
        let found = done.first().context("no completion")?.sequence;
        ensure!(found == *next, "number {found}, expected {next}");
    }
    // It had been at work on the first.
    let first = carried.first().context("none carried")?;
    println!("GUEST gone on with {SAS} SAs at number {}", first.next);
    ensure!(first.next > 1);
    Ok(())
}

/// The process that dies: it hands over what keeps the card, and works until it is killed.
pub(crate) fn have_the_card(address: &str) -> Result<()> {
    let card = crate::open(address)?;
    let sas: Result<Vec<_>, _> = (1..=SAS)
        .map(|n| card.install_as(&outbound(n), n.into()))
        .collect();
    let sa = *sas?.first().context("no SA")?;
    let pool = pool(&*card)?;
    let mut queue = card.open_queue(&QueueConfig { depth: 64 })?;
    let mut work = || -> Result<()> {
        submit(&mut *queue, &pool, sa, 8)?;
        all(&collect(&mut *queue, 8)?, Status::Ok)
    };
    work()?;
    let kept = card.kept()?;
    let fds: Option<Vec<_>> = KEPT
        .iter()
        .map(|name| kept.iter().find(|(known, _)| known == name))
        .map(|kept| Some(kept?.1.as_fd()))
        .collect();
    send(
        std::io::stdin().as_fd(),
        &fds.context("not everything is kept")?,
    )?;
    loop {
        work()?;
    }
}

fn send(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    ensure!(control.push(SendAncillaryMessage::ScmRights(fds)));
    let text = [IoSlice::new(b"k")];
    sendmsg(socket, &text, &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: &UnixStream) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut text = [0];
    let got = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut text)],
        &mut control,
        flags,
    )?;
    ensure!(got.bytes == 1, "the process has ended by itself");
    let rights = control.drain().filter_map(|ancillary| match ancillary {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds.collect::<Vec<_>>()),
        _ => None,
    });
    Ok(rights.flatten().collect())
}
