// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an attacker peer may do to one payload, and how much it may be answered.

use ikev2d_proto::deviation::Outgoing;

use super::Pair;

/// What may be done to one payload.
pub(crate) const CHANGES: [&str; 10] = [
    "left out",
    "twice",
    "empty",
    "halved",
    "one octet short",
    "one octet long",
    "zeroed",
    "all ones",
    "first octet changed",
    "of an unknown type",
];

pub(crate) fn change(what: &str, at: usize, message: &mut Outgoing) -> Option<u8> {
    let (kind, mut body) = message.payloads.get(at)?.clone();
    let mut new_kind = kind;
    match what {
        "left out" => {
            message.payloads.remove(at);
            return Some(kind);
        }
        "twice" => {
            message.payloads.push((kind, body));
            return Some(kind);
        }
        "empty" => body.clear(),
        "halved" => body.truncate(body.len() / 2),
        "one octet short" => {
            body.pop();
        }
        "one octet long" => body.push(0x5a),
        "zeroed" => body.fill(0),
        "all ones" => body.fill(0xff),
        "first octet changed" => *body.first_mut()? ^= 0x55,
        _ => new_kind = 200,
    }
    message.payloads[at] = (new_kind, body);
    Some(kind)
}

/// Answers of the responder: one for each request, and none longer than what asks for it thrice.
pub(crate) fn assert_small_answers(pair: &Pair, what: &str) {
    let (answers, requests): (Vec<&Vec<u8>>, Vec<&Vec<u8>>) = pair
        .recorded
        .iter()
        .partition(|message| message[19] & 0x20 != 0);
    assert!(answers.len() <= requests.len(), "{what}");
    let most = requests.iter().map(|m| m.len()).max().unwrap_or_default();
    assert!(answers.iter().all(|m| m.len() <= 3 * most), "{what}");
}
