// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where IKE comes in: messages of IKE SAs in the core's own task, first ones on threads of their own.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::task::Poll;

use ikev2d_proto::endpoint::Gate;
use ikev2d_proto::event::Path;
use offload_api::wire::natt;
use tokio::io::Interest;
use tokio::sync::mpsc;

use crate::dataplane::{Door, Doorkeeper, IkeReceiver, Upcall};

/// Sockets of IKE that the core's own task reads, so that no thread is woken for a message but the core:
/// port 500, where the TUN data plane reads port 4500, and both in inline mode.
#[derive(Default)]
pub(super) struct Listening {
    sockets: Vec<Listened>,
}

struct Listened {
    socket: tokio::net::UdpSocket,
    receiver: IkeReceiver,
    port: u16,
    /// IKE has a marker before it (RFC 3948 §2.2).
    marked: bool,
}

impl Listening {
    /// Reads these, too.
    pub(super) fn add(&mut self, sockets: &[UdpSocket], marked: bool) -> io::Result<()> {
        for socket in copies(sockets)? {
            self.sockets.push(Listened {
                receiver: IkeReceiver::new(&socket)?,
                port: socket.local_addr()?.port(),
                socket: tokio::net::UdpSocket::from_std(socket)?,
                marked,
            });
        }
        Ok(())
    }

    /// Waits until there is something to [`take`](Self::take).
    pub(super) async fn ready(&self) {
        poll_fn(|cx| {
            // Each is asked, so that each wakes.
            let ready = self.sockets.iter().fold(false, |any, listened| {
                any | listened.socket.poll_recv_ready(cx).is_ready()
            });
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Takes what one peer has left in each of the sockets. Whether there was any.
    pub(super) fn take(&mut self, mut each: impl FnMut(Path, &[u8])) -> bool {
        let mut any = false;
        for listened in &mut self.sockets {
            let taken = listened.take(&mut each);
            any |= taken.is_ok();
            if let Err(error) = taken.or_else(nothing_there) {
                tracing::debug!(%error, port = listened.port, "nothing received");
            }
        }
        any
    }
}

impl Listened {
    fn take(&mut self, each: &mut impl FnMut(Path, &[u8])) -> io::Result<()> {
        let (receiver, socket) = (&mut self.receiver, &self.socket);
        socket.try_io(Interest::READABLE, || {
            let any = receiver.take(socket, |local, remote, datagram| {
                let message = match self.marked {
                    false => datagram,
                    // ESP that the accelerator left to the host has an SPI that nobody knows.
                    true => match natt::classify(datagram) {
                        natt::Kind::Ike(message) => message,
                        _ => return,
                    },
                };
                each(
                    Path::new(SocketAddr::new(local, self.port), remote),
                    message,
                );
            })?;
            any.then_some(()).ok_or(io::ErrorKind::WouldBlock.into())
        })
    }
}

fn nothing_there(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock => Ok(()),
        _ => Err(error),
    }
}

/// Receives first messages apart, on threads of their own; a port has so many sockets by now. Where the
/// kernel can't do that they come with all others.
pub(super) fn open_doors(
    sockets: &[UdpSocket],
    (marked, of_port): (bool, u32),
    gate: &Arc<Gate>,
    ike: &mpsc::Sender<Upcall>,
) -> anyhow::Result<()> {
    for socket in sockets {
        let doors = match Door::open(socket, marked, of_port) {
            Ok(doors) => doors,
            Err(error) => {
                tracing::warn!(%error, "first messages of IKE share their room with all others");
                continue;
            }
        };
        for door in doors {
            let (ike, gate, port) = (ike.clone(), gate.clone(), door.port());
            std::thread::Builder::new()
                .name(format!("ike-{port}-door"))
                .spawn(move || {
                    let mut keeper = Doorkeeper::new(door);
                    while !ike.is_closed() {
                        let attended = keeper.attend(&gate, |message| {
                            // Full: the peer sends again.
                            let _ = ike.try_send(message);
                        });
                        if let Err(error) = attended {
                            tracing::debug!(%error, port, "nothing received");
                        }
                    }
                })?;
        }
    }
    Ok(())
}

pub(super) fn copies(sockets: &[UdpSocket]) -> std::io::Result<Vec<UdpSocket>> {
    sockets.iter().map(UdpSocket::try_clone).collect()
}
