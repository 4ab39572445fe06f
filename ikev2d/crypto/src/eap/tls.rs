// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EAP-TLS (RFC 5216, RFC 9190) at both ends: TLS by OpenSSL, in pieces that a datagram carries. Whom to
//! believe is decided by the same [`Trust`] as IKE's own certificates.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ikev2d_proto::config::Identity;
use ikev2d_proto::credential::Refusal;
use ikev2d_proto::eap::{EapError, Method, Methods, Msk, Turn, kind};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    HandshakeError, MidHandshakeSslStream, Ssl, SslContext, SslContextBuilder, SslMethod,
    SslOptions, SslRef, SslSessionCacheMode, SslStream, SslVerifyMode, SslVersion,
};
use openssl::stack::Stack;
use openssl::x509::{X509, X509StoreContextRef};
use zeroize::Zeroizing;

use crate::credential::CredentialError;
use crate::name;
use crate::trust::{Believed, Trust};

/// The whole length is told.
const LENGTH: u8 = 0x80;
/// There is more to come.
const MORE: u8 = 0x40;
/// The server begins.
const START: u8 = 0x20;
/// Octets of TLS in one packet.
const PIECE: usize = 1000;
/// Octets of one flight, at most: a chain of seven certificates is far less.
const MOST: usize = 1 << 16;
/// Octets of the key (RFC 5216 §2.3): the first half is the MSK.
const KEY: usize = 128;

/// Our key and certificates, and whom we believe.
pub struct EapTls {
    context: SslContext,
    trust: Arc<Trust>,
    role: Role,
}

#[derive(Clone)]
enum Role {
    /// The server must be this one; any where it has proved to IKE who it is.
    Client(Option<Identity>),
    /// The client must be whom it says to EAP, or to IKE alone.
    Server,
}

impl fmt::Debug for EapTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EapTls({:?})", self.trust)
    }
}

impl EapTls {
    /// The end that begins IKE, with its key and certificates, its own first. `Identity::Any` is for a
    /// server that has proved to IKE who it is.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn client(
        key: &PKey<Private>,
        certificates: &[X509],
        trust: Arc<Trust>,
        server: Identity,
    ) -> Result<Self, CredentialError> {
        let context = context(key, certificates, &trust)?;
        let role = Role::Client((server != Identity::Any).then_some(server));
        Ok(Self {
            context,
            trust,
            role,
        })
    }

    /// The end that answers.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn server(
        key: &PKey<Private>,
        certificates: &[X509],
        trust: Arc<Trust>,
    ) -> Result<Self, CredentialError> {
        let context = context(key, certificates, &trust)?;
        let role = Role::Server;
        Ok(Self {
            context,
            trust,
            role,
        })
    }
}

/// TLS 1.2 and 1.3, both ends with certificates, every conversation by itself.
fn context(
    key: &PKey<Private>,
    certificates: &[X509],
    trust: &Trust,
) -> Result<SslContext, CredentialError> {
    let mut builder = SslContextBuilder::new(SslMethod::tls())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // There is one handshake and never a second (NO_RENEGOTIATION), so that it is all the same whether the
    // server knows RFC 5746; strongSwan's does not.
    let legacy_server_connect = SslOptions::from_bits_retain(4);
    builder.set_options(
        SslOptions::NO_TICKET
            | SslOptions::NO_RENEGOTIATION
            | SslOptions::NO_COMPRESSION
            | legacy_server_connect,
    );
    builder.set_session_cache_mode(SslSessionCacheMode::OFF);
    builder.set_num_tickets(0)?;
    let Some((own, between)) = certificates.split_first() else {
        return Err(CredentialError::Malformed {
            what: "certificate",
        });
    };
    if !own.public_key()?.public_eq(key) {
        let subject = name::text(own.subject_name());
        return Err(CredentialError::Mismatch { subject });
    }
    builder.set_certificate(own)?;
    builder.set_private_key(key)?;
    for certificate in between {
        builder.add_extra_chain_cert(certificate.clone())?;
    }
    let mut names = Stack::new()?;
    for authority in trust.anchors() {
        names.push(authority.subject_name().to_owned()?)?;
    }
    builder.set_client_ca_list(names);
    Ok(builder.build())
}

impl Methods for EapTls {
    fn kinds(&self) -> &[u8] {
        &[kind::TLS]
    }

    /// Signatures, and what revocation asks of the network.
    fn is_slow(&self) -> bool {
        true
    }

    fn start(
        &self,
        kind: u8,
        name: &[u8],
        ike: Option<&Identity>,
    ) -> Result<Box<dyn Method>, EapError> {
        if kind != kind::TLS {
            return Err(EapError::NoMethod);
        }
        let (server, peer) = match &self.role {
            Role::Client(server) => (false, server.clone()),
            // RFC 5216 §5.2: a certificate is of the names that are in it, each of its own kind.
            Role::Server => {
                let peer = ike.cloned().unwrap_or_else(|| name::called(name));
                (true, Some(peer))
            }
        };
        let mut ssl = Ssl::new(&self.context).map_err(library)?;
        let verdict = Arc::new(Mutex::new(None));
        let (trust, place, expected) = (self.trust.clone(), verdict.clone(), peer.clone());
        ssl.set_verify_callback(
            SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            move |_, context| judge(&trust, expected.as_ref(), context, &place),
        );
        Ok(Box::new(Conversation {
            trust: self.trust.clone(),
            server,
            peer,
            tls: Some(Tls::New(Box::new(ssl))),
            verdict,
            begun: server,
            incoming: Vec::new(),
            announced: None,
            outgoing: Vec::new(),
            sent: 0,
            msk: None,
            refused: None,
        }))
    }
}

type Verdict = Arc<Mutex<Option<Result<Believed, Refusal>>>>;

/// The library's own path building has no anchors and knows no names: ours counts. It goes from the top
/// of the chain down, and asks at each step.
fn judge(
    trust: &Trust,
    peer: Option<&Identity>,
    context: &mut X509StoreContextRef,
    place: &Verdict,
) -> bool {
    if context.error_depth() != 0 {
        return true;
    }
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    let judged = place.get_or_insert_with(|| {
        let chain = context.chain().into_iter().flatten();
        let chain: Vec<X509> = chain.map(ToOwned::to_owned).collect();
        match chain.split_first() {
            Some((own, others)) => trust.path_of(peer, own, others),
            None => Err(Refusal("the peer has sent no certificate".to_owned())),
        }
    });
    judged.is_ok()
}

/// What TLS reads and writes.
#[derive(Default)]
struct Memory {
    input: Vec<u8>,
    read: usize,
    output: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut rest = self.input.get(self.read..).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = rest.read(out)?;
        self.read += len;
        Ok(len)
    }
}

impl Write for Memory {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Tls {
    New(Box<Ssl>),
    Shaking(MidHandshakeSslStream<Memory>),
    Up(SslStream<Memory>),
}

struct Conversation {
    trust: Arc<Trust>,
    server: bool,
    /// Whose certificate the other end's must be.
    peer: Option<Identity>,
    /// None when it has failed.
    tls: Option<Tls>,
    verdict: Verdict,
    begun: bool,
    /// A flight that comes in, and how long it is said to be.
    incoming: Vec<u8>,
    announced: Option<usize>,
    /// A flight that goes out, and how much of it has gone.
    outgoing: Vec<u8>,
    sent: usize,
    msk: Option<Msk>,
    /// Why it is over, once the other end has heard the alert.
    refused: Option<String>,
}

impl Method for Conversation {
    fn kind(&self) -> u8 {
        kind::TLS
    }

    fn peer(&self) -> Option<Identity> {
        self.peer.clone()
    }

    fn begin(&mut self) -> Result<Vec<u8>, EapError> {
        match self.server {
            true => Ok(vec![START]),
            false => Err(EapError::Unexpected("a server's turn")),
        }
    }

    fn handle(&mut self, data: &[u8]) -> Result<Turn, EapError> {
        let malformed = EapError::Unexpected("malformed EAP-TLS");
        let (&flags, rest) = data.split_first().ok_or(malformed.clone())?;
        if !self.begun {
            if flags & (START | LENGTH | MORE) != START || !rest.is_empty() {
                return Err(EapError::Unexpected("EAP-TLS does not start"));
            }
            self.begun = true;
            return self.advance();
        }
        if flags & START != 0 {
            return Err(EapError::Unexpected("EAP-TLS starts again"));
        }
        if let Some(reason) = self.refused.take() {
            return Err(EapError::Refused(reason));
        }
        if rest.is_empty() && flags & (LENGTH | MORE) == 0 {
            return self.acknowledged();
        }
        if self.sent < self.outgoing.len() || (self.server && self.msk.is_some()) {
            return Err(EapError::Unexpected("out of turn in EAP-TLS"));
        }
        let mut rest = rest;
        if flags & LENGTH != 0 {
            let (length, piece) = rest.split_first_chunk().ok_or(malformed.clone())?;
            let length = u32::from_be_bytes(*length) as usize;
            // Every piece may tell it, and none another.
            if length > MOST || self.announced.is_some_and(|before| before != length) {
                return Err(malformed);
            }
            self.announced = Some(length);
            rest = piece;
        }
        self.incoming.extend_from_slice(rest);
        if self.incoming.len() > self.announced.unwrap_or(MOST) {
            return Err(malformed);
        }
        if flags & MORE != 0 {
            // A piece with nothing in it would go on for ever.
            return match rest.is_empty() {
                true => Err(malformed),
                false => Ok(Turn::Say(vec![0])),
            };
        }
        if self
            .announced
            .take()
            .is_some_and(|length| length != self.incoming.len())
        {
            return Err(malformed);
        }
        self.advance()
    }
}

impl Conversation {
    /// The other end has taken a piece, or the last word.
    fn acknowledged(&mut self) -> Result<Turn, EapError> {
        if self.sent < self.outgoing.len() {
            return Ok(Turn::Say(self.piece()));
        }
        match self.msk.take() {
            Some(msk) if self.server => Ok(Turn::Done(msk)),
            _ => Err(EapError::Unexpected("out of turn in EAP-TLS")),
        }
    }

    /// The next piece of what goes out.
    fn piece(&mut self) -> Vec<u8> {
        let rest = self.outgoing.get(self.sent..).unwrap_or_default();
        let (piece, more) = rest
            .split_at_checked(PIECE)
            .filter(|(_, more)| !more.is_empty())
            .unwrap_or((rest, &[]));
        let mut out = Vec::with_capacity(piece.len() + 5);
        out.push(if more.is_empty() { 0 } else { MORE });
        if self.sent == 0 && !more.is_empty() {
            out = vec![LENGTH | MORE];
            out.extend((self.outgoing.len() as u32).to_be_bytes());
        }
        out.extend_from_slice(piece);
        self.sent += piece.len();
        out
    }

    /// Gives TLS what has come in, and says what it says.
    fn advance(&mut self) -> Result<Turn, EapError> {
        let input = std::mem::take(&mut self.incoming);
        let over = EapError::Unexpected("EAP-TLS is over");
        let memory = |input| Memory {
            input,
            ..Memory::default()
        };
        let shaken = match self.tls.take().ok_or(over)? {
            Tls::New(ssl) if self.server => ssl.accept(memory(input)),
            Tls::New(ssl) => ssl.connect(memory(input)),
            Tls::Shaking(mut stream) => {
                *stream.get_mut() = memory(input);
                stream.handshake()
            }
            Tls::Up(mut stream) => {
                *stream.get_mut() = memory(input);
                return self.await_commitment(stream);
            }
        };
        match shaken {
            Ok(stream) => self.shaken(stream),
            Err(HandshakeError::WouldBlock(mut stream)) => {
                self.outgoing = std::mem::take(&mut stream.get_mut().output);
                self.tls = Some(Tls::Shaking(stream));
                self.say()
            }
            Err(HandshakeError::SetupFailure(error)) => Err(library(error)),
            Err(HandshakeError::Failure(mut stream)) => {
                let alert = std::mem::take(&mut stream.get_mut().output);
                let judged = self.verdict();
                let reason = match judged {
                    Some(Err(refusal)) => refusal.0,
                    _ => format!("TLS: {}", stream.error()),
                };
                drop(ErrorStack::get());
                self.refuse(alert, reason)
            }
        }
    }

    fn verdict(&self) -> Option<Result<Believed, Refusal>> {
        let mut verdict = self.verdict.lock().unwrap_or_else(PoisonError::into_inner);
        verdict.take()
    }

    /// Both have shown their keys: what remains is revocation, about which nobody is asked before.
    fn shaken(&mut self, mut stream: SslStream<Memory>) -> Result<Turn, EapError> {
        let refused = |Refusal(reason)| EapError::Refused(format!("EAP-TLS: {reason}"));
        let none = || Refusal("the peer has sent no certificate".to_owned());
        let believed = self.verdict().ok_or_else(none).flatten();
        let judged = believed.and_then(|believed| self.trust.check_revocations(&believed, &[]));
        judged.map_err(refused)?;
        self.msk = Some(export(stream.ssl()).map_err(library)?);
        if is_1_3(stream.ssl()) && self.server {
            stream
                .write_all(&[0])
                .map_err(|error| EapError::Refused(format!("EAP-TLS: {error}")))?;
        }
        self.outgoing = std::mem::take(&mut stream.get_mut().output);
        if self.server || !self.outgoing.is_empty() {
            self.tls = Some(Tls::Up(stream));
            return self.say();
        }
        self.await_commitment(stream)
    }

    /// A client has what it wants, when the server has said that nothing more comes (RFC 9190 §2.1.1).
    fn await_commitment(&mut self, mut stream: SslStream<Memory>) -> Result<Turn, EapError> {
        if is_1_3(stream.ssl()) {
            let mut said = [0xff; 2];
            match stream.ssl_read(&mut said) {
                Ok(1) if said[0] == 0 => {}
                Ok(_) => return Err(EapError::Unexpected("EAP-TLS ends with another word")),
                Err(error) => {
                    drop(ErrorStack::get());
                    return self.refuse(Vec::new(), format!("TLS: {error}"));
                }
            }
        }
        match self.msk.take() {
            Some(msk) => Ok(Turn::Last(vec![0], msk)),
            None => Err(EapError::Unexpected("out of turn in EAP-TLS")),
        }
    }

    fn say(&mut self) -> Result<Turn, EapError> {
        self.sent = 0;
        if self.outgoing.is_empty() {
            return Err(EapError::Unexpected("EAP-TLS has nothing to say"));
        }
        Ok(Turn::Say(self.piece()))
    }

    /// Says why not; it is over then.
    fn refuse(&mut self, alert: Vec<u8>, reason: String) -> Result<Turn, EapError> {
        let reason = format!("EAP-TLS: {reason}");
        let none = alert.is_empty();
        let alert = [&[0][..], &alert].concat();
        if !self.server {
            // The other end's alert is acknowledged: EAP-Failure comes after it (RFC 5216 §2.1.3).
            return Ok(Turn::Refused(alert, reason));
        }
        if none {
            return Err(EapError::Refused(reason));
        }
        self.refused = Some(reason);
        Ok(Turn::Say(alert))
    }
}

fn is_1_3(ssl: &SslRef) -> bool {
    ssl.version2() == Some(SslVersion::TLS1_3)
}

/// The key of RFC 5216 §2.3, or RFC 9190 §2.3.
fn export(ssl: &SslRef) -> Result<Msk, ErrorStack> {
    let mut key = Zeroizing::new(vec![0; KEY]);
    match is_1_3(ssl) {
        true => ssl.export_keying_material(
            &mut key,
            "EXPORTER_EAP_TLS_Key_Material",
            Some(&[kind::TLS]),
        )?,
        false => ssl.export_keying_material(&mut key, "client EAP encryption", None)?,
    }
    Ok(Zeroizing::new(key.iter().take(KEY / 2).copied().collect()))
}

fn library(error: ErrorStack) -> EapError {
    EapError::Refused(format!("OpenSSL: {error}"))
}
