// SPDX-License-Identifier: Apache-2.0 OR MIT
//! EAP-MSCHAPv2 (draft-kamath-pppext-eap-mschapv2-02) at both ends: RFC 2759's proofs, RFC 3079's keys.
//! Its MD4 and DES are broken, and who has seen a conversation can try passwords: the server must be
//! authenticated by the IKE around it first, so that nobody else sees one.

use std::fmt;

use des::Des;
use des::cipher::{BlockCipherEncrypt as _, KeyInit as _};
use ikev2d_proto::config::Identity;
use ikev2d_proto::eap::{EapError, Method, Methods, Turn, kind};
use md4::{Digest as _, Md4};
use openssl::memcmp;
use openssl::rand::rand_bytes;
use openssl::sha::Sha1;
use zeroize::{Zeroize as _, Zeroizing};

const CHALLENGE: u8 = 1;
const RESPONSE: u8 = 2;
const SUCCESS: u8 = 3;
const FAILURE: u8 = 4;

/// Octets of a response's value: the peer's challenge, eight of zeros, the proof, flags.
const VALUE: usize = 49;
/// Octets of a name, at most.
const MOST_NAME: usize = 255;
/// Characters of a password, at most (RFC 2759 §8.3).
const MOST_PASSWORD: usize = 256;

type Hash16 = Zeroizing<[u8; 16]>;

/// Users and passwords; of a client, its own.
pub struct Mschapv2 {
    passwords: Vec<(Vec<u8>, Zeroizing<String>)>,
    server: bool,
}

impl fmt::Debug for Mschapv2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mschapv2({} users)", self.passwords.len())
    }
}

impl Mschapv2 {
    /// The end that has a password.
    pub fn client(identity: Vec<u8>, password: Zeroizing<String>) -> Self {
        Self {
            passwords: vec![(identity, password)],
            server: false,
        }
    }

    /// The end that checks passwords of these users.
    pub fn server(passwords: Vec<(Vec<u8>, Zeroizing<String>)>) -> Self {
        Self {
            passwords,
            server: true,
        }
    }

    fn password(&self, identity: &[u8]) -> Option<&Zeroizing<String>> {
        let mut all = self.passwords.iter();
        all.find(|(user, _)| user == identity)
            .map(|(_, password)| password)
    }
}

impl Methods for Mschapv2 {
    fn kinds(&self) -> &[u8] {
        &[kind::MSCHAPV2]
    }

    fn start(
        &self,
        kind: u8,
        identity: &[u8],
        _: Option<&Identity>,
    ) -> Result<Box<dyn Method>, EapError> {
        if kind != kind::MSCHAPV2 {
            return Err(EapError::NoMethod);
        }
        let mut challenge = [0; 16];
        rand_bytes(&mut challenge).map_err(|_| EapError::NoMethod)?;
        let password = self.password(identity);
        let hash = password
            .map(|password| password_hash(password))
            .transpose()?;
        if !self.server {
            let hash = hash.ok_or(EapError::NoMethod)?;
            return Ok(Box::new(Client::new(identity, hash, challenge)));
        }
        // Who is unknown learns so as late as who has a wrong password.
        let hash = match hash {
            Some(hash) => (hash, true),
            None => {
                let mut nobody = Zeroizing::new([0; 16]);
                rand_bytes(&mut *nobody).map_err(|_| EapError::NoMethod)?;
                (nobody, false)
            }
        };
        Ok(Box::new(Server::new(identity, hash, challenge)))
    }
}

/// NtPasswordHash (RFC 2759 §8.3).
fn password_hash(password: &str) -> Result<Hash16, EapError> {
    if password.chars().count() > MOST_PASSWORD {
        return Err(EapError::Refused("the password is too long".to_owned()));
    }
    let mut text: Zeroizing<Vec<u8>> = Zeroizing::new(Vec::with_capacity(password.len() * 2));
    password
        .encode_utf16()
        .for_each(|unit| text.extend(unit.to_le_bytes()));
    Ok(Zeroizing::new(Md4::digest(text.as_slice()).into()))
}

/// HashNtPasswordHash (§8.4).
fn hash_hash(hash: &Hash16) -> Hash16 {
    Zeroizing::new(Md4::digest(hash.as_slice()).into())
}

fn sha1(parts: &[&[u8]]) -> [u8; 20] {
    let mut hash = Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finish()
}

/// ChallengeHash (§8.2): the user is what stands behind a domain.
fn challenge_hash(peer: &[u8; 16], authenticator: &[u8; 16], user: &[u8]) -> [u8; 8] {
    let name = user.rsplit(|octet| *octet == b'\\').next().unwrap_or(user);
    let hash = sha1(&[peer, authenticator, name]);
    let mut out = [0; 8];
    out.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    out
}

/// ChallengeResponse (§8.5): three times DES, by keys of seven octets.
fn challenge_response(challenge: [u8; 8], hash: &Hash16) -> [u8; 24] {
    let mut padded = Zeroizing::new([0; 21]);
    padded
        .iter_mut()
        .zip(hash.iter())
        .for_each(|(to, from)| *to = *from);
    let mut out = [0; 24];
    let keys = padded.as_chunks::<7>().0.iter();
    for (key, out) in keys.zip(out.as_chunks_mut::<8>().0) {
        // Seven bits in each octet; the parity's last bit does not count.
        let bits = key
            .iter()
            .fold(0_u64, |all, octet| all << 8 | u64::from(*octet));
        let mut wide = [0; 8];
        for (at, octet) in wide.iter_mut().enumerate() {
            *octet = ((bits >> (49 - 7 * at)) as u8 & 0x7f) << 1;
        }
        *out = challenge;
        Des::new(&wide.into()).encrypt_block(out.into());
        wide.zeroize();
    }
    out
}

/// GenerateAuthenticatorResponse (§8.7), in the form it is told.
fn authenticator_response(hash: &Hash16, proof: &[u8; 24], challenge: [u8; 8]) -> String {
    const MAGIC_1: &[u8] = b"Magic server to client signing constant";
    const MAGIC_2: &[u8] = b"Pad to make it do more than one iteration";
    let digest = sha1(&[&*hash_hash(hash), proof, MAGIC_1]);
    let code = sha1(&[&digest, &challenge, MAGIC_2]);
    format!("S={}", upper_hex(&code))
}

fn upper_hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect()
}

/// RFC 3079 §3.3 and §3.4: what the server receives with and sends with, then zeros to 64 octets.
fn session_key(hash: &Hash16, proof: &[u8; 24]) -> Zeroizing<Vec<u8>> {
    const MASTER: &[u8] = b"This is the MPPE Master Key";
    const TO_SERVER: &[u8] =
        b"On the client side, this is the send key; on the server side, it is \
                               the receive key.";
    const TO_CLIENT: &[u8] =
        b"On the client side, this is the receive key; on the server side, it \
                               is the send key.";
    let master = Zeroizing::new(sha1(&[&*hash_hash(hash), proof, MASTER]));
    let master = master.first_chunk::<16>().map_or(&[][..], |master| master);
    let mut key = Zeroizing::new(Vec::with_capacity(64));
    for magic in [TO_SERVER, TO_CLIENT] {
        let half = Zeroizing::new(sha1(&[master, &[0; 40], magic, &[0xf2; 40]]));
        key.extend(half.iter().take(16));
    }
    key.resize(64, 0);
    key
}

/// A packet behind its type: code, number, length, and what follows.
fn packet(code: u8, id: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let len = u16::try_from(body.len() + 4).unwrap_or(u16::MAX);
    [&[code, id][..], &len.to_be_bytes(), &body].concat()
}

struct Read<'m> {
    code: u8,
    id: u8,
    body: &'m [u8],
}

fn read(data: &[u8]) -> Result<Read<'_>, EapError> {
    let malformed = EapError::Unexpected("malformed MSCHAPv2");
    let (&[code, id, high, low], body) = data.split_first_chunk().ok_or(malformed.clone())?;
    if usize::from(u16::from_be_bytes([high, low])) != data.len() {
        return Err(malformed);
    }
    Ok(Read { code, id, body })
}

/// A value of so many octets with its length in front, and the name behind it.
fn value_and_name<const N: usize>(body: &[u8]) -> Result<(&[u8; N], &[u8]), EapError> {
    let malformed = || EapError::Unexpected("malformed MSCHAPv2 value");
    let (len, rest) = body.split_first().ok_or_else(malformed)?;
    let (value, name) = rest.split_first_chunk().ok_or_else(malformed)?;
    if usize::from(*len) != N || name.len() > MOST_NAME {
        return Err(malformed());
    }
    Ok((value, name))
}

enum ClientState {
    /// Awaits the server's challenge.
    Fresh([u8; 16]),
    /// Has proved itself, and awaits the server's proof.
    Proved {
        expected: String,
        proof: [u8; 24],
    },
    Over,
}

struct Client {
    user: Vec<u8>,
    hash: Hash16,
    state: ClientState,
}

impl Client {
    fn new(user: &[u8], hash: Hash16, challenge: [u8; 16]) -> Self {
        Self {
            user: user.to_vec(),
            hash,
            state: ClientState::Fresh(challenge),
        }
    }
}

impl Method for Client {
    fn kind(&self) -> u8 {
        kind::MSCHAPV2
    }

    fn begin(&mut self) -> Result<Vec<u8>, EapError> {
        Err(EapError::Unexpected("a server's turn"))
    }

    fn handle(&mut self, data: &[u8]) -> Result<Turn, EapError> {
        let Read { code, id, body } = read(data)?;
        match (std::mem::replace(&mut self.state, ClientState::Over), code) {
            (ClientState::Fresh(own), CHALLENGE) => {
                let (theirs, _) = value_and_name::<16>(body)?;
                let challenge = challenge_hash(&own, theirs, &self.user);
                let proof = challenge_response(challenge, &self.hash);
                let expected = authenticator_response(&self.hash, &proof, challenge);
                self.state = ClientState::Proved { expected, proof };
                let value = [&own[..], &[0; 8], &proof, &[0]].concat();
                let body: [&[u8]; 3] = [&[VALUE as u8], &value, &self.user];
                Ok(Turn::Say(packet(RESPONSE, id, &body)))
            }
            (ClientState::Proved { expected, proof }, SUCCESS) => {
                let told = body.get(..expected.len()).unwrap_or_default();
                let same = told.len() == expected.len() && memcmp::eq(told, expected.as_bytes());
                if !same {
                    let what = "the server does not know our password (MSCHAPv2)";
                    return Err(EapError::Refused(what.to_owned()));
                }
                Ok(Turn::Last(vec![SUCCESS], session_key(&self.hash, &proof)))
            }
            // Trying again or changing the password needs a human: the answer is the same for any error.
            (ClientState::Proved { .. }, FAILURE) => {
                let what = "the server does not take our password (MSCHAPv2)";
                Ok(Turn::Refused(vec![FAILURE], what.to_owned()))
            }
            _ => Err(EapError::Unexpected("out of turn in MSCHAPv2")),
        }
    }
}

enum ServerState {
    Fresh,
    Believed([u8; 24]),
    /// Has told the client so.
    Disbelieved,
    Over,
}

struct Server {
    user: Vec<u8>,
    hash: Hash16,
    known: bool,
    challenge: [u8; 16],
    state: ServerState,
}

impl Server {
    fn new(user: &[u8], (hash, known): (Hash16, bool), challenge: [u8; 16]) -> Self {
        Self {
            user: user.to_vec(),
            hash,
            known,
            challenge,
            state: ServerState::Fresh,
        }
    }
}

impl Method for Server {
    fn kind(&self) -> u8 {
        kind::MSCHAPV2
    }

    fn begin(&mut self) -> Result<Vec<u8>, EapError> {
        let body: [&[u8]; 3] = [&[16], &self.challenge, b"ikev2d"];
        Ok(packet(CHALLENGE, 1, &body))
    }

    fn handle(&mut self, data: &[u8]) -> Result<Turn, EapError> {
        match std::mem::replace(&mut self.state, ServerState::Over) {
            ServerState::Fresh => {
                let Read { code, id, body } = read(data)?;
                if (code, id) != (RESPONSE, 1) {
                    return Err(EapError::Unexpected("out of turn in MSCHAPv2"));
                }
                let (value, name) = value_and_name::<VALUE>(body)?;
                let malformed = EapError::Unexpected("malformed MSCHAPv2 value");
                let (theirs, rest) = value.split_first_chunk().ok_or(malformed.clone())?;
                let (reserved, rest) = rest.split_first_chunk::<8>().ok_or(malformed.clone())?;
                let (proof, flags) = rest.split_first_chunk::<24>().ok_or(malformed.clone())?;
                // RFC 2759 §4: both are zero.
                if reserved.iter().chain(flags).any(|octet| *octet != 0) {
                    return Err(malformed);
                }
                let proof = *proof;
                let challenge = challenge_hash(theirs, &self.challenge, &self.user);
                let expected = challenge_response(challenge, &self.hash);
                let right = memcmp::eq(&expected, &proof) && self.known;
                // Who it is was said before, and must not change.
                if !right || name != self.user {
                    self.state = ServerState::Disbelieved;
                    // ERROR_AUTHENTICATION_FAILURE, and no trying again (RFC 2759 §6).
                    let challenge = upper_hex(&self.challenge);
                    let text = format!("E=691 R=0 C={challenge} V=3 M=Authentication failed");
                    return Ok(Turn::Say(packet(FAILURE, 1, &[text.as_bytes()])));
                }
                let own = authenticator_response(&self.hash, &proof, challenge);
                self.state = ServerState::Believed(proof);
                let body: [&[u8]; 2] = [own.as_bytes(), b" M=Welcome"];
                Ok(Turn::Say(packet(SUCCESS, 1, &body)))
            }
            ServerState::Believed(proof) if data == [SUCCESS] => {
                Ok(Turn::Done(session_key(&self.hash, &proof)))
            }
            ServerState::Disbelieved => {
                let what = "an unknown user, or a wrong password (MSCHAPv2)";
                Err(EapError::Refused(what.to_owned()))
            }
            _ => Err(EapError::Unexpected("out of turn in MSCHAPv2")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text.replace(' ', ""))
            .unwrap()
            .try_into()
            .unwrap()
    }

    const USER: &[u8] = b"User";

    fn hash() -> Hash16 {
        password_hash("clientPass").unwrap()
    }

    fn challenge() -> [u8; 8] {
        let authenticator = octets("5B 5D 7C 7D 7B 3F 2F 3E 3C 2C 60 21 32 26 26 28");
        let peer = octets("21 40 23 24 25 5E 26 2A 28 29 5F 2B 3A 33 7C 7E");
        challenge_hash(&peer, &authenticator, USER)
    }

    const PROOF: &str = "82 30 9E CD 8D 70 8B 5E A0 8F AA 39 81 CD 83 54 42 33 11 4A 3D 85 D6 DF";

    /// B25: the known answers of RFC 2759 §9.2.
    #[test]
    fn proofs_are_those_of_rfc_2759() {
        assert_eq!(challenge(), octets("D0 2E 43 86 BC E9 12 26"));
        let expected = octets("44 EB BA 8D 53 12 B8 D6 11 47 44 11 F5 69 89 AE");
        assert_eq!(*hash(), expected);
        let proof = challenge_response(challenge(), &hash());
        assert_eq!(proof, octets(PROOF));
        let expected = octets("41 C0 0C 58 4B D2 D9 1C 40 17 A2 A1 2F A5 9F 3F");
        assert_eq!(*hash_hash(&hash()), expected);
        assert_eq!(
            authenticator_response(&hash(), &proof, challenge()),
            "S=407A5589115FD0D6209F510FE9C04566932CDA56"
        );
        // The domain does not count.
        let peer = [1; 16];
        let plain = challenge_hash(&peer, &peer, USER);
        assert_eq!(challenge_hash(&peer, &peer, b"DOMAIN\\User"), plain);
    }

    /// B25: the known answer of RFC 3079 §3.5.3 for the server's send key.
    #[test]
    fn keys_are_those_of_rfc_3079() {
        let key = session_key(&hash(), &octets(PROOF));
        let sends: [u8; 16] = octets("8B 7C DC 14 9B 99 3A 1B A1 18 CB 15 3F 56 DC CB");
        assert_eq!(key[16..32], sends);
        assert_eq!((key.len(), &key[32..]), (64, &[0; 32][..]));
    }

    fn ends(password: &str, user: &[u8]) -> [Box<dyn Method>; 2] {
        let text = |text: &str| Zeroizing::new(text.to_owned());
        let client = Mschapv2::client(user.to_vec(), text(password));
        let known = (USER.to_vec(), text("clientPass"));
        let server = Mschapv2::server(vec![(b"other".to_vec(), text("x")), known]);
        [
            client.start(kind::MSCHAPV2, user, None).unwrap(),
            server.start(kind::MSCHAPV2, user, None).unwrap(),
        ]
    }

    fn say(turn: Result<Turn, EapError>) -> Vec<u8> {
        match turn {
            Ok(Turn::Say(data)) => data,
            Ok(_) => panic!("over too soon"),
            Err(error) => panic!("{error}"),
        }
    }

    /// B25: both prove the password and have the same key.
    #[test]
    fn both_ends_prove_the_password() {
        let [mut client, mut server] = ends("clientPass", USER);
        let response = say(client.handle(&server.begin().unwrap()));
        let success = say(server.handle(&response));
        let Ok(Turn::Last(last, ours)) = client.handle(&success) else {
            panic!("not believed");
        };
        let Ok(Turn::Done(theirs)) = server.handle(&last) else {
            panic!("not believed");
        };
        assert_eq!(ours, theirs);
        assert!(client.handle(&success).is_err() && server.handle(&last).is_err());
    }

    /// A02: a wrong password, an unknown user, and a server that does not know the password.
    #[test]
    fn who_does_not_know_the_password_is_not_believed() {
        for (password, user) in [("clientpass", USER), ("clientPass", b"nobody"), ("x", USER)] {
            let [mut client, mut server] = ends(password, user);
            let response = say(client.handle(&server.begin().unwrap()));
            let failure = say(server.handle(&response));
            assert_eq!(failure[0], FAILURE, "{password} {user:?}");
            // Whatever it answers, this is the end.
            assert!(server.handle(&[SUCCESS]).is_err());
            assert!(server.handle(&[SUCCESS]).is_err());
            // And a server that says so nevertheless.
            let claims = [&b"S="[..], &[b'A'; 40], b" M=Welcome"].concat();
            assert!(client.handle(&packet(SUCCESS, 1, &[&claims])).is_err());
        }
        // A02, CVE-2015-8023: the last word is no proof without the first.
        let [mut client, mut server] = ends("clientPass", USER);
        server.begin().unwrap();
        assert!(server.handle(&[SUCCESS]).is_err());
        assert!(client.handle(&packet(SUCCESS, 1, &[b"S="])).is_err());
    }

    /// A02: a refusal is answered once ([MS-CHAP] §3.2.5.4), and nothing after it.
    #[test]
    fn a_refusal_is_answered_and_is_the_end() {
        let [mut client, mut server] = ends("wrong", USER);
        let response = say(client.handle(&server.begin().unwrap()));
        let failure = say(server.handle(&response));
        let text = String::from_utf8_lossy(&failure[4..]).into_owned();
        assert!(text.starts_with("E=691 R=0 C="), "{text}");
        let Ok(Turn::Refused(answer, reason)) = client.handle(&failure) else {
            panic!("not answered");
        };
        assert_eq!(answer, [FAILURE]);
        assert!(reason.contains("does not take our password"), "{reason}");
        let late = packet(SUCCESS, 1, &[b"S="]);
        assert!(client.handle(&failure).is_err() && client.handle(&late).is_err());
        assert!(server.handle(&answer).is_err());
        // A refusal of what has not been said yet is none.
        let [mut client, _] = ends("wrong", USER);
        assert!(client.handle(&failure).is_err());
    }

    /// CVE-2025-62291: lengths that lie, at every octet, in every message, to both.
    #[test]
    fn altered_messages_prove_nothing() {
        let [mut client, _] = ends("clientPass", USER);
        // Of one challenge: what fails fails by its alteration.
        let server = || Server::new(USER, (hash(), true), [7; 16]);
        let first = server().begin().unwrap();
        let response = say(client.handle(&first));
        let taken = |response: &[u8]| match server().handle(response) {
            Ok(Turn::Say(told)) => told.first() == Some(&SUCCESS),
            _ => false,
        };
        assert!(taken(&response));
        for at in 0..response.len() {
            for bit in 0..8 {
                let mut bad = response.clone();
                bad[at] ^= 1 << bit;
                assert!(!taken(&bad), "octet {at}, bit {bit}");
            }
            assert!(!taken(&response[..at]), "{at} octets");
        }
        for at in 0..first.len() {
            let [mut client, _] = ends("clientPass", USER);
            assert!(client.handle(&first[..at]).is_err(), "{at} octets");
        }
    }
}
