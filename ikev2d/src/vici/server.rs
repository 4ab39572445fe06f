// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The control socket: packets in, commands to the daemon, responses and events out.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use vfio_user::place;
use zeroize::Zeroizing;

use crate::daemon::engine::ENGINE;

use super::message::{PACKET_LIMIT, Section, decode, encode, packet, split_name};

/// How long a client may take to send what it began, or to take what it is sent.
const CLIENT_DEADLINE: Duration = Duration::from_secs(10);

/// Clients at once.
const CLIENTS: usize = 64;

/// What happens while a client's `initiate` or `terminate` runs.
pub(crate) const CONTROL_LOG: &str = "control-log";

/// Events that clients may ask for.
const EVENTS: [&str; 12] = [
    "log",
    CONTROL_LOG,
    "list-authority",
    "list-sa",
    "list-policy",
    "list-conn",
    "list-cert",
    "ike-updown",
    "child-updown",
    "ike-rekey",
    "child-rekey",
    ENGINE,
];

/// A command for the daemon.
pub(crate) struct Request {
    pub(crate) command: String,
    pub(crate) message: Section,
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// Its answer.
pub(crate) enum Reply {
    /// Events to stream, then the response.
    Response {
        events: Vec<(&'static str, Section)>,
        response: Section,
    },
    /// No such command.
    Unknown,
}

/// An event for whoever has asked for it.
pub(crate) type Broadcast = (&'static str, Section);

/// Listens on the control socket, which is its owner's alone.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    let listener = place::listen(path, || UnixListener::bind(path))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Accepts clients for ever.
pub(crate) async fn serve(
    listener: UnixListener,
    requests: mpsc::Sender<Request>,
    events: broadcast::Sender<Broadcast>,
) {
    let own = nix::unistd::geteuid().as_raw();
    let places = Arc::new(Semaphore::new(CLIENTS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let allowed = stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == own || peer.uid() == 0);
        if !allowed {
            tracing::warn!("control client of another user is refused");
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!("more than {CLIENTS} control clients: one is refused");
            continue;
        };
        let (requests, events) = (requests.clone(), events.subscribe());
        tokio::spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, requests, events).await {
                tracing::warn!(%error, "control client is cut off");
            }
        });
    }
}

async fn converse(
    stream: UnixStream,
    requests: mpsc::Sender<Request>,
    mut events: broadcast::Receiver<Broadcast>,
) -> io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    // A client that is served slowly must not hold up what it sends.
    let (packets_in, mut packets) = mpsc::channel::<Zeroizing<Vec<u8>>>(4);
    // Ends with the conversation.
    let mut reading = JoinSet::new();
    reading.spawn(async move {
        while let Some(packet) = read_packet(&mut reader).await? {
            if packets_in.send(packet).await.is_err() {
                break;
            }
        }
        io::Result::Ok(())
    });
    let mut registered: HashSet<String> = HashSet::new();
    loop {
        let packet = tokio::select! {
            packet = packets.recv() => packet,
            event = events.recv() => {
                match event {
                    // Without a command of its own that one is none of its business.
                    Ok((CONTROL_LOG, _)) => {}
                    Ok((name, section)) if registered.contains(name) => {
                        send(&mut writer, packet::EVENT, Some(name), Some(&section)).await?;
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                    _ => {}
                }
                continue;
            }
        };
        let Some(packet) = packet else { break };
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed vici packet");
        let (kind, body) = packet.split_first().ok_or_else(malformed)?;
        let (name, message) = split_name(body).ok_or_else(malformed)?;
        match *kind {
            packet::COMMAND_REQUEST => {
                let message = decode(message).map_err(|error| {
                    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
                })?;
                let (reply, answer) = oneshot::channel();
                let request = Request {
                    command: name.to_owned(),
                    message,
                    reply,
                };
                if requests.send(request).await.is_err() {
                    return Ok(());
                }
                match attend(&mut writer, &mut events, &registered, answer).await? {
                    Some(Reply::Response { events, response }) => {
                        for (name, section) in events {
                            if registered.contains(name) {
                                send(&mut writer, packet::EVENT, Some(name), Some(&section))
                                    .await?;
                            }
                        }
                        send(&mut writer, packet::COMMAND_RESPONSE, None, Some(&response)).await?;
                    }
                    Some(Reply::Unknown) | None => {
                        send(&mut writer, packet::COMMAND_UNKNOWN, None, None).await?;
                    }
                }
            }
            packet::EVENT_REGISTER | packet::EVENT_UNREGISTER => {
                if EVENTS.contains(&name) {
                    if *kind == packet::EVENT_REGISTER {
                        registered.insert(name.to_owned());
                    } else {
                        registered.remove(name);
                    }
                    send(&mut writer, packet::EVENT_CONFIRM, None, None).await?;
                } else {
                    send(&mut writer, packet::EVENT_UNKNOWN, None, None).await?;
                }
            }
            _ => return Err(malformed()),
        }
    }
    reading
        .join_next()
        .await
        .and_then(Result::ok)
        .unwrap_or(Ok(()))
}

/// Waits for a command's answer and hands on what is announced meanwhile.
async fn attend(
    writer: &mut tokio::net::unix::OwnedWriteHalf,
    events: &mut broadcast::Receiver<Broadcast>,
    registered: &HashSet<String>,
    mut answer: oneshot::Receiver<Reply>,
) -> io::Result<Option<Reply>> {
    loop {
        // Events first: those that led to the answer come before it.
        tokio::select! {
            biased;
            event = events.recv() => match event {
                Ok((name, section)) if registered.contains(name) => {
                    send(writer, packet::EVENT, Some(name), Some(&section)).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(None),
                _ => {}
            },
            answer = &mut answer => return Ok(answer.ok()),
        }
    }
}

async fn read_packet(
    reader: &mut tokio::net::unix::OwnedReadHalf,
) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut length = [0; 4];
    match reader.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > PACKET_LIMIT {
        let text = format!("packet of {length} octets, expected 1 to {PACKET_LIMIT}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut packet = Zeroizing::new(vec![0; length]);
    tokio::time::timeout(CLIENT_DEADLINE, reader.read_exact(&mut packet)).await??;
    Ok(Some(packet))
}

async fn send(
    writer: &mut tokio::net::unix::OwnedWriteHalf,
    kind: u8,
    name: Option<&str>,
    message: Option<&Section>,
) -> io::Result<()> {
    let packet =
        encode(kind, name, message).map_err(|error| io::Error::other(error.to_string()))?;
    tokio::time::timeout(CLIENT_DEADLINE, writer.write_all(&packet)).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else those who misbehave and stay would add up beside the bound of clients.
    #[tokio::test]
    async fn nothing_of_a_client_that_is_cut_off_is_left() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (requests, _served) = mpsc::channel(1);
        let (_announced, events) = broadcast::channel(1);
        let conversation = tokio::spawn(converse(ours, requests, events));
        theirs.write_all(&[0, 0, 0, 1, 99]).await.unwrap();
        assert!(conversation.await.unwrap().is_err());
        let closed = async {
            let writable = tokio::io::Interest::WRITABLE;
            while !theirs.ready(writable).await.unwrap().is_write_closed() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(CLIENT_DEADLINE, closed).await.unwrap();
    }

    /// P04, CVE-2018-5388: a length of nothing, or of more than a packet may have, is refused before anything is
    /// allocated or read for it.
    #[tokio::test]
    async fn a_packets_length_is_not_believed() {
        for length in [0u32, PACKET_LIMIT as u32 + 1, 64 << 20, u32::MAX] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let (mut reader, _writer) = ours.into_split();
            theirs.write_all(&length.to_be_bytes()).await.unwrap();
            let refused = read_packet(&mut reader).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{length}");
        }
    }
}
