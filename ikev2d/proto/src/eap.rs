// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EAP (RFC 3748) as IKE carries it (RFC 7296 §2.16): packets, and both ends' part of a conversation.
//! What a method does is behind [`Method`]; a conversation is as long as it is bounded here.

mod elsewhere;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::Identity;

pub(crate) use elsewhere::{Back, Converse, Elsewhere};

/// Rounds of a conversation, at most: certificates come in pieces of a thousand octets.
const MOST_ROUNDS: u32 = 64;
/// Octets of an identity, at most.
const MOST_IDENTITY: usize = 255;

const REQUEST: u8 = 1;
const RESPONSE: u8 = 2;
const SUCCESS: u8 = 3;
const FAILURE: u8 = 4;

/// Numbers of methods.
pub mod kind {
    /// Who are you?
    pub const IDENTITY: u8 = 1;
    /// A text for the user.
    pub const NOTIFICATION: u8 = 2;
    /// Another method, please.
    pub const NAK: u8 = 3;
    /// EAP-TLS (RFC 5216, RFC 9190).
    pub const TLS: u8 = 13;
    /// EAP-MSCHAPv2.
    pub const MSCHAPV2: u8 = 26;
}

/// A conversation has failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EapError {
    /// It is no packet, or none that may come now.
    #[error("a malformed or unexpected EAP packet ({0})")]
    Unexpected(&'static str),
    /// The other end has given up.
    #[error("the peer refuses: EAP-Failure")]
    Failure,
    /// Success is told that nobody has proved.
    #[error("EAP-Success comes before the method has proved anything")]
    Early,
    /// It goes on and on.
    #[error("the EAP conversation does not end")]
    Endless,
    /// No method suits both.
    #[error("no EAP method suits both ends")]
    NoMethod,
    /// The method does not believe the other end.
    #[error("EAP: {0}")]
    Refused(String),
}

/// The key that both ends have after a method: 64 octets (RFC 3748 §7.10).
pub type Msk = Zeroizing<Vec<u8>>;

/// What a method does with a packet.
pub enum Turn {
    /// Says this. A server goes on; a client may, and must not believe EAP-Success yet.
    Say(Vec<u8>),
    /// A client says this and has nothing more to prove or to be shown: EAP-Success may come.
    Last(Vec<u8>, Msk),
    /// A client says this, has been refused for this reason, and waits for EAP-Failure.
    Refused(Vec<u8>, String),
    /// A server is convinced.
    Done(Msk),
}

/// A method's part at one end of one conversation: what stands behind the type in a packet goes in and
/// out.
pub trait Method: Send {
    /// Its number.
    fn kind(&self) -> u8;

    /// As whom the other end proves itself, where the method tells the kinds of names apart.
    fn peer(&self) -> Option<Identity> {
        None
    }

    /// A server's first words.
    ///
    /// # Errors
    /// [`EapError`].
    fn begin(&mut self) -> Result<Vec<u8>, EapError>;

    /// Takes in what the other end says.
    ///
    /// # Errors
    /// [`EapError`]: the conversation is over.
    fn handle(&mut self, data: &[u8]) -> Result<Turn, EapError>;
}

/// An end's methods, best first, and who talks.
pub trait Methods: Send + Sync + fmt::Debug {
    /// Their numbers.
    fn kinds(&self) -> &[u8];

    /// Whether a turn takes so long (signatures, a network) that it is a job's.
    fn is_slow(&self) -> bool {
        false
    }

    /// One of them for one conversation, about this name: an EAP identity, or an IKE identity without its
    /// kind, which is beside it then.
    ///
    /// # Errors
    /// Why there is none for it.
    fn start(
        &self,
        kind: u8,
        name: &[u8],
        ike: Option<&Identity>,
    ) -> Result<Box<dyn Method>, EapError>;
}

/// How we let ourselves be authenticated.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Who we say we are.
    pub identity: Vec<u8>,
    /// What we can.
    pub methods: Arc<dyn Methods>,
}

/// How a peer is authenticated.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Whether it is asked who it is; otherwise its IKE identity counts.
    pub ask_identity: bool,
    /// What it may use.
    pub methods: Arc<dyn Methods>,
}

/// A packet, read.
struct Packet<'m> {
    code: u8,
    id: u8,
    /// Type and what stands behind it, of requests and responses.
    body: Option<(u8, &'m [u8])>,
}

impl<'m> Packet<'m> {
    fn read(octets: &'m [u8]) -> Result<Self, EapError> {
        let malformed = EapError::Unexpected("malformed");
        let Some((&[code, id, high, low], rest)) = octets.split_first_chunk() else {
            return Err(malformed);
        };
        if usize::from(u16::from_be_bytes([high, low])) != octets.len() {
            return Err(malformed);
        }
        let body = match code {
            REQUEST | RESPONSE => {
                let (kind, data) = rest.split_first().ok_or(malformed)?;
                Some((*kind, data))
            }
            SUCCESS | FAILURE if rest.is_empty() => None,
            _ => return Err(malformed),
        };
        Ok(Self { code, id, body })
    }
}

fn emit(code: u8, id: u8, body: Option<(u8, &[u8])>) -> Vec<u8> {
    let mut out = vec![code, id, 0, 0];
    if let Some((kind, data)) = body {
        out.push(kind);
        out.extend(data);
    }
    let len = u16::try_from(out.len()).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(place) = out.get_mut(2..4) {
        place.copy_from_slice(&len);
    }
    out
}

/// What a client does with a packet.
pub(crate) enum ClientTurn {
    /// Sends this.
    Say(Vec<u8>),
    /// It is over: both have this key.
    Success(Msk),
}

/// Our end of a conversation, as the one who is authenticated.
pub(crate) struct Client {
    config: ClientConfig,
    method: Option<Box<dyn Method>>,
    msk: Option<Msk>,
    /// Why the method's server does not believe us.
    refused: Option<String>,
    rounds: u32,
}

impl Client {
    pub(crate) fn new(config: ClientConfig) -> Self {
        Self {
            config,
            method: None,
            msk: None,
            refused: None,
            rounds: 0,
        }
    }

    pub(crate) fn handle(&mut self, octets: &[u8]) -> Result<ClientTurn, EapError> {
        self.rounds += 1;
        if self.rounds > MOST_ROUNDS {
            return Err(EapError::Endless);
        }
        let packet = Packet::read(octets)?;
        let (kind, data) = match (packet.code, packet.body) {
            (REQUEST, Some(body)) => body,
            // Only who has been shown the server's own proof believes it (CVE-2021-45079).
            (SUCCESS, _) => {
                return self
                    .msk
                    .take()
                    .map(ClientTurn::Success)
                    .ok_or(EapError::Early);
            }
            (FAILURE, _) => {
                let reason = self.refused.take();
                return Err(reason.map_or(EapError::Failure, EapError::Refused));
            }
            _ => return Err(EapError::Unexpected("a response")),
        };
        let say = |kind, data: &[u8]| {
            let packet = emit(RESPONSE, packet.id, Some((kind, data)));
            Ok(ClientTurn::Say(packet))
        };
        match kind {
            kind::NOTIFICATION => say(kind, &[]),
            // Once a method goes on nobody asks anew (RFC 3748 §2.1).
            kind::IDENTITY if self.method.is_none() => say(kind, &self.config.identity),
            kind if self.method.as_ref().is_some_and(|m| m.kind() != kind) => {
                Err(EapError::Unexpected("another method"))
            }
            kind if !self.config.methods.kinds().contains(&kind) => {
                say(kind::NAK, self.config.methods.kinds())
            }
            kind => {
                if self.msk.is_some() || self.refused.is_some() {
                    return Err(EapError::Unexpected("more than the method has to say"));
                }
                let mut method = match self.method.take() {
                    Some(method) => method,
                    None => {
                        let identity = &self.config.identity;
                        self.config.methods.start(kind, identity, None)?
                    }
                };
                let turn = method.handle(data)?;
                self.method = Some(method);
                match turn {
                    Turn::Say(data) => say(kind, &data),
                    Turn::Last(data, msk) => {
                        self.msk = Some(msk);
                        say(kind, &data)
                    }
                    Turn::Refused(data, reason) => {
                        self.refused = Some(reason);
                        say(kind, &data)
                    }
                    Turn::Done(_) => Err(EapError::Unexpected("a server's turn")),
                }
            }
        }
    }
}

/// What a server does with a packet.
pub(crate) enum ServerTurn {
    /// Sends this.
    Say(Vec<u8>),
    /// Sends this, which is EAP-Success: both have this key.
    Success(Vec<u8>, Msk),
}

/// Our end of a conversation, as the one who authenticates.
pub(crate) struct Server {
    config: ServerConfig,
    /// What it is called, and the IKE identity where it is called so by that alone.
    name: Vec<u8>,
    ike: Option<Identity>,
    asking: bool,
    method: Option<Box<dyn Method>>,
    /// Methods that the peer has not refused.
    left: Vec<u8>,
    /// The method has had an answer.
    answered: bool,
    id: u8,
    rounds: u32,
    over: bool,
}

impl Server {
    /// With the first request, about this IKE identity unless the peer is asked.
    pub(crate) fn begin(
        config: ServerConfig,
        (name, ike): (&[u8], &Identity),
        id: u8,
    ) -> Result<(Self, Vec<u8>), EapError> {
        let mut server = Self {
            name: name.to_vec(),
            ike: (!config.ask_identity).then(|| ike.clone()),
            asking: config.ask_identity,
            left: config.methods.kinds().to_vec(),
            config,
            method: None,
            answered: false,
            id,
            rounds: 0,
            over: false,
        };
        let first = if server.asking {
            emit(REQUEST, id, Some((kind::IDENTITY, &[])))
        } else {
            server.next_method()?
        };
        Ok((server, first))
    }

    /// Who is authenticated, if the peer was asked: what counts once it has succeeded. It is another than
    /// its IKE identity, which nothing has proved then.
    pub(crate) fn peer(&self) -> Option<Identity> {
        let proved = || self.method.as_ref()?.peer();
        let peer = || proved().unwrap_or_else(|| Identity::called(&self.name));
        self.config.ask_identity.then(peer)
    }

    /// EAP-Failure, for who is not believed.
    pub(crate) fn failure(&self) -> Vec<u8> {
        emit(FAILURE, self.id, None)
    }

    fn next_method(&mut self) -> Result<Vec<u8>, EapError> {
        if self.left.is_empty() {
            return Err(EapError::NoMethod);
        }
        let kind = self.left.remove(0);
        let mut method = self
            .config
            .methods
            .start(kind, &self.name, self.ike.as_ref())?;
        let data = method.begin()?;
        self.method = Some(method);
        self.id = self.id.wrapping_add(1);
        Ok(emit(REQUEST, self.id, Some((kind, &data))))
    }

    pub(crate) fn handle(&mut self, octets: &[u8]) -> Result<ServerTurn, EapError> {
        self.rounds += 1;
        if self.rounds > MOST_ROUNDS {
            return Err(EapError::Endless);
        }
        let packet = Packet::read(octets)?;
        let (RESPONSE, Some((kind, data))) = (packet.code, packet.body) else {
            return Err(EapError::Unexpected("no response"));
        };
        if packet.id != self.id || self.over {
            return Err(EapError::Unexpected("another request's response"));
        }
        if self.asking {
            if kind != kind::IDENTITY || data.is_empty() || data.len() > MOST_IDENTITY {
                return Err(EapError::Unexpected("no identity"));
            }
            self.asking = false;
            self.name = data.to_vec();
            return self.next_method().map(ServerTurn::Say);
        }
        let method = self.method.as_mut();
        let method = method.ok_or(EapError::Unexpected("no method"))?;
        match kind {
            // Only in answer to a method's first words (RFC 3748 §5.3.1).
            kind::NAK if !self.answered => {
                self.left.retain(|kind| data.contains(kind));
                self.next_method().map(ServerTurn::Say)
            }
            kind if kind == method.kind() => match method.handle(data)? {
                Turn::Say(data) => {
                    self.answered = true;
                    self.id = self.id.wrapping_add(1);
                    Ok(ServerTurn::Say(emit(REQUEST, self.id, Some((kind, &data)))))
                }
                Turn::Done(msk) => {
                    self.over = true;
                    Ok(ServerTurn::Success(emit(SUCCESS, self.id, None), msk))
                }
                Turn::Last(..) | Turn::Refused(..) => Err(EapError::Unexpected("a client's turn")),
            },
            _ => Err(EapError::Unexpected("another method")),
        }
    }
}
