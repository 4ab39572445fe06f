// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Both ports of IKE, on every address.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};
use ikev2d::dataplane::{IkeReceiver, send_datagram};
use ikev2d_proto::event::{Path, Transmit};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What IKE on port 4500 begins with (RFC 3948 §2.2).
const MARKER: [u8; 4] = [0; 4];

pub(super) struct Sockets {
    ike: UdpSocket,
    nat: UdpSocket,
    receiver: IkeReceiver,
    nat_port: u16,
}

impl Sockets {
    pub(super) fn bind(v4: bool, port: u16, nat_port: u16) -> Result<Self> {
        let any = if v4 {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        };
        let bind = |port| {
            let address = SocketAddr::new(any, port);
            UdpSocket::bind(address).with_context(|| format!("UDP {address}"))
        };
        let (ike, nat) = (bind(port)?, bind(nat_port)?);
        let receiver = IkeReceiver::new(&ike)?;
        IkeReceiver::new(&nat)?;
        Ok(Self {
            ike,
            nat,
            receiver,
            nat_port,
        })
    }

    /// Sends; a full socket is a lost datagram.
    pub(super) fn send(&self, transmit: &Transmit) {
        let (local, remote) = (transmit.path.local, transmit.path.remote);
        let sent = if local.port() != self.nat_port {
            send_datagram(&self.ike, &transmit.payload, local.ip(), remote)
        } else if transmit.keepalive {
            send_datagram(&self.nat, &transmit.payload, local.ip(), remote)
        } else {
            let marked = [&MARKER[..], &transmit.payload].concat();
            send_datagram(&self.nat, &marked, local.ip(), remote)
        };
        if let Err(error) = sent {
            tracing::debug!(%error, to = %remote, "not sent");
        }
    }

    /// Waits so long at most, then takes what is there.
    pub(super) fn receive(
        &mut self,
        wait: Duration,
        mut take: impl FnMut(Path, &[u8]),
    ) -> Result<()> {
        let wait = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: i64::from(wait.subsec_nanos()),
        };
        let mut ready = [
            PollFd::new(&self.ike, PollFlags::IN),
            PollFd::new(&self.nat, PollFlags::IN),
        ];
        match poll(&mut ready, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for (socket, marked) in [(&self.ike, false), (&self.nat, true)] {
            let port = socket.local_addr()?.port();
            for _ in 0..64 {
                let more = self.receiver.take(socket, |local, remote, datagram| {
                    let local = SocketAddr::new(local, port);
                    let message = match marked {
                        true => datagram.strip_prefix(&MARKER[..]),
                        false => Some(datagram),
                    };
                    if let Some(message) = message {
                        take(Path::new(local, remote), message);
                    }
                })?;
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }
}
