// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The threads that receive IKE.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use ikev2d_proto::endpoint::Gate;
use offload_api::wire::natt;
use tokio::sync::mpsc;

use crate::dataplane::{Door, Doorkeeper, IkeReceiver, Upcall};

/// Reads IKE on threads of its own: from port 500, where the TUN data plane reads port 4500, and from
/// both in inline mode. On the latter IKE is `marked` (RFC 3948 §2.2).
pub(super) fn listen(
    sockets: &[UdpSocket],
    marked: bool,
    ike: &mpsc::Sender<Upcall>,
) -> anyhow::Result<()> {
    for socket in super::copies(sockets)? {
        let port = socket.local_addr()?.port();
        let mut receiver = IkeReceiver::new(&socket)?;
        let ike = ike.clone();
        std::thread::Builder::new()
            .name(format!("ike-{port}"))
            .spawn(move || {
                while !ike.is_closed() {
                    if IkeReceiver::wait(&socket).is_err() {
                        continue;
                    }
                    let taken = receiver.take(&socket, |local, remote, datagram| {
                        let datagram = if marked {
                            // ESP that the accelerator left to the host has an SPI that nobody knows.
                            match natt::classify(datagram) {
                                natt::Kind::Ike(message) => message,
                                _ => return,
                            }
                        } else {
                            datagram
                        };
                        // Full: the peer sends again.
                        let _ = ike.try_send(Upcall::Ike {
                            local: SocketAddr::new(local, port),
                            remote,
                            stream: None,
                            datagram: datagram.to_vec(),
                        });
                    });
                    if let Err(error) = taken {
                        tracing::debug!(%error, port, "nothing received");
                    }
                }
            })?;
    }
    Ok(())
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
