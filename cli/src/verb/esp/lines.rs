// SPDX-License-Identifier: Apache-2.0 OR MIT
//! JSON lines: a packet each way.

use std::io::{BufRead, Read, Write};

use anyhow::{Context, Result, bail};
use offload_api::queue::Explicit;
use offload_api::sa::{Direction, Suite};
use serde::{Deserialize, Serialize};

use super::sa_file::SpiValue;
use super::worker::{Processed, Worker};

/// Octets that a line may have.
const LIMIT: u64 = 1 << 20;

/// A line that is asked; an answer's fields too, so that answers can be piped on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    packet: Option<String>,
    seq: Option<u64>,
    iv: Option<String>,
    spi: Option<SpiValue>,
    #[serde(default = "yes")]
    ok: bool,
    error: Option<String>,
}

fn yes() -> bool {
    true
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Done { ok: bool, packet: String, seq: u64 },
    Failed { ok: bool, error: String },
}

/// Answers each line; whether all went well.
pub(super) fn run(
    worker: &mut Worker,
    mut input: impl BufRead,
    mut output: impl Write,
) -> Result<bool> {
    let mut all_well = true;
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let read = input.by_ref().take(LIMIT).read_until(b'\n', &mut line)?;
        if read == 0 {
            break;
        }
        if read as u64 == LIMIT && line.last() != Some(&b'\n') {
            bail!("line {number}: more than {LIMIT} octets");
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let answer = match answer(worker, &line)? {
            Ok(Processed { packet, sequence }) => Answer::Done {
                ok: true,
                packet: hex::encode(packet),
                seq: sequence,
            },
            Err(error) => {
                all_well = false;
                Answer::Failed { ok: false, error }
            }
        };
        serde_json::to_writer(&mut output, &answer).map_err(std::io::Error::from)?;
        output.write_all(b"\n")?;
        // Whoever asks may wait for the answer before the next line.
        output.flush()?;
    }
    Ok(all_well)
}

fn answer(worker: &mut Worker, line: &[u8]) -> Result<Result<Processed, String>> {
    let asked = match ask(worker, line) {
        Ok(asked) => asked,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    worker.process(asked.sa, &asked.packet, asked.explicit)
}

struct Asked {
    sa: usize,
    packet: Vec<u8>,
    explicit: Option<Explicit>,
}

fn ask(worker: &Worker, line: &[u8]) -> Result<Asked> {
    let request: Request =
        serde_json::from_slice(line).context("not a line of JSON as expected")?;
    if !request.ok {
        bail!(request.error.unwrap_or_else(|| "failed before".to_owned()));
    }
    let packet = request.packet.context("packet is missing")?;
    let packet = hex::decode(packet).context("packet")?;
    let spi = request.spi.map(|spi| spi.check()).transpose()?;
    let sa = worker.select(spi, &packet).map_err(anyhow::Error::msg)?;
    let suite = worker.suite(sa).context("no such SA")?;
    let explicit = match worker.direction {
        Direction::Outbound => explicit(suite, request.seq, request.iv.as_deref())?,
        // A packet brings its own.
        Direction::Inbound => None,
    };
    Ok(Asked {
        sa,
        packet,
        explicit,
    })
}

fn explicit(suite: Suite, sequence: Option<u64>, iv: Option<&str>) -> Result<Option<Explicit>> {
    let (sequence, given) = match (sequence, iv) {
        (None, None) => return Ok(None),
        (None, Some(_)) => bail!("iv without seq"),
        (Some(sequence), Some(iv)) => (sequence, hex::decode(iv).context("iv")?),
        // An AEAD's IV is the number, as the engines count it.
        (Some(sequence), None) if suite.iv_len() == 8 => {
            (sequence, sequence.to_be_bytes().to_vec())
        }
        (Some(sequence), None) if suite.iv_len() == 0 => (sequence, Vec::new()),
        (Some(_), None) => bail!("seq without iv: {suite} needs an unpredictable one"),
    };
    if given.len() != suite.iv_len() {
        bail!(
            "iv: expected {} octets, found {}",
            suite.iv_len(),
            given.len()
        );
    }
    let mut iv = [0; 16];
    iv.iter_mut().zip(&given).for_each(|(to, from)| *to = *from);
    Ok(Some(Explicit { sequence, iv }))
}
