// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `esplanade esp` against packets of an independent implementation (scapy), on both backends.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use assert_cmd::Command;
use pcap_file::DataLink;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use serde_json::{Value, json};

const VECTORS: &str = include_str!("../../offload-api/src/conformance/vectors/scapy.json");
const BACKENDS: [&str; 2] = ["software", "sim"];

fn esp(verb: &str, backend: &str, sa: &Path, input: impl Into<Vec<u8>>) -> (Vec<u8>, i32) {
    let output = Command::cargo_bin("esplanade")
        .unwrap()
        .args(["esp", verb, "--backend", backend, "--sa"])
        .arg(sa)
        .write_stdin(input)
        .timeout(Duration::from_secs(60))
        .output()
        .unwrap();
    let code = output.status.code().unwrap();
    assert!(
        code <= 1,
        "{verb} {backend}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    (output.stdout, code)
}

fn lines(output: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(output).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn joined(lines: impl IntoIterator<Item = Value>) -> String {
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

fn write(directory: &Path, name: &str, text: impl AsRef<[u8]>) -> std::path::PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn sa(vector: &Value) -> Value {
    let mut sa = json!({
        "spi": vector["spi"],
        "mode": "tunnel",
        "suite": vector["suite"],
        "key": vector["key"],
        "integrity_key": vector["integrity_key"],
        "esn": vector["esn"],
        "last_sequence": vector["sequence"].as_u64().unwrap() - 1,
    });
    match vector["mode"].as_str().unwrap() {
        "transport" => sa["mode"] = "transport".into(),
        "tunnel6" => {
            sa["source"] = "2001:db8::1".into();
            sa["destination"] = "2001:db8::2".into();
        }
        mode => {
            sa["source"] = "192.0.2.1".into();
            sa["destination"] = "192.0.2.2".into();
            if mode == "tunnel4udp" {
                sa["udp"] = json!({"source_port": 4500, "destination_port": 61234});
            }
        }
    }
    sa
}

#[test]
fn both_backends_seal_and_open_scapys_packets_to_the_octet() {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    assert!(vectors.len() >= 200);
    let directory = tempfile::tempdir().unwrap();
    let sas: Vec<_> = vectors.iter().map(sa).collect();
    let sas = write(directory.path(), "sas.json", json!({"sa": sas}).to_string());
    let seals = joined(vectors.iter().map(|vector| {
        json!({
            "packet": vector["plain"], "spi": vector["spi"],
            "seq": vector["sequence"], "iv": vector["iv"],
        })
    }));
    let opens = joined(
        vectors
            .iter()
            .map(|vector| json!({"packet": vector["sealed"]})),
    );
    for backend in BACKENDS {
        let (output, code) = esp("seal", backend, &sas, seals.clone());
        let answers = lines(&output);
        assert_eq!((answers.len(), code), (vectors.len(), 0));
        for (answer, vector) in answers.iter().zip(&vectors) {
            let mut expected = hex::decode(vector["sealed"].as_str().unwrap()).unwrap();
            if vector["mode"] == "tunnel4udp" {
                // RFC 3948 §2.1 wants zero; scapy computes the checksum.
                expected[26..28].fill(0);
            }
            let expected =
                json!({"ok": true, "packet": hex::encode(expected), "seq": vector["sequence"]});
            assert_eq!(*answer, expected, "{backend} {}", vector["suite"]);
        }
        let (output, code) = esp("open", backend, &sas, opens.clone());
        let answers = lines(&output);
        assert_eq!((answers.len(), code), (vectors.len(), 0));
        for (answer, vector) in answers.iter().zip(&vectors) {
            let expected =
                json!({"ok": true, "packet": vector["plain"], "seq": vector["sequence"]});
            assert_eq!(*answer, expected, "{backend} {}", vector["suite"]);
        }
    }
}

/// The vector's SA as a line of Wireshark's table, addresses left open.
fn table_line(vector: &Value) -> String {
    let suite = vector["suite"].as_str().unwrap();
    let encryption = match suite.split('-').next().unwrap() {
        "aes128gcm16" | "aes256gcm16" => "AES-GCM with 16 octet ICV [RFC4106]",
        "chacha20poly1305" => "ChaCha20 with Poly1305 [RFC7634]",
        "null" => "NULL",
        _ => "AES-CBC [RFC3602]",
    };
    let integrity = match suite.split('-').nth(1) {
        Some("sha256") => "HMAC-SHA-256-128 [RFC4868]",
        Some("sha384") => "HMAC-SHA-384-192 [RFC4868]",
        Some(_) => "HMAC-SHA-512-256 [RFC4868]",
        None => "NULL",
    };
    let (key, integrity_key) = (&vector["key"], &vector["integrity_key"]);
    let hex = |key: &Value| match key.as_str().unwrap() {
        "" => String::new(),
        key => format!("0x{key}"),
    };
    format!(
        "\"IPv4\",\"*\",\"*\",\"{:#010x}\",\"{encryption}\",\"{}\",\"{integrity}\",\"{}\"\n",
        vector["spi"].as_u64().unwrap(),
        hex(key),
        hex(integrity_key),
    )
}

#[test]
fn what_a_key_table_leaves_open_is_seen_from_the_packet() {
    let vectors: Vec<Value> = serde_json::from_str(VECTORS).unwrap();
    let fits = |v: &&Value| v["esn"] == false && v["mode"] != "transport";
    let vectors: Vec<_> = vectors.iter().filter(fits).collect();
    assert!(vectors.iter().any(|v| v["mode"] == "tunnel4udp"));
    let directory = tempfile::tempdir().unwrap();
    let table: String = vectors.iter().map(|v| table_line(v)).collect();
    let table = write(directory.path(), "esp_sa", table);
    let input = joined(vectors.iter().map(|v| json!({"packet": v["sealed"]})));
    for backend in BACKENDS {
        let (output, code) = esp("open", backend, &table, input.clone());
        let answers = lines(&output);
        assert_eq!((answers.len(), code), (vectors.len(), 0));
        for (answer, vector) in answers.iter().zip(&vectors) {
            assert_eq!(answer["packet"], vector["plain"], "{}", vector["mode"]);
        }
    }
}

const SA: &str = r#"
[[sa]]
spi = "c0de0001"
suite = "aes256gcm16"
key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fa0a1a2a3"
source = "192.0.2.1"
destination = "192.0.2.2"
"#;

/// A UDP packet between 10.0.0.1 and 10.0.0.2, without checksum.
fn packet(payload: &[u8]) -> Vec<u8> {
    let len = 28 + payload.len() as u16;
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend([0, 53, 0, 53]);
    packet.extend((len - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[test]
fn a_bad_line_is_told_and_the_next_one_still_works() {
    let directory = tempfile::tempdir().unwrap();
    let sa = write(directory.path(), "sa.toml", SA);
    let good = json!({"packet": hex::encode(packet(b"hello"))}).to_string();
    for backend in BACKENDS {
        let bad = [
            ("{\"packet\": \"45zz\"}", "packet"),
            ("not json", "JSON"),
            ("{\"pakket\": \"45\"}", "pakket"),
            ("{}", "packet is missing"),
            ("{\"packet\": \"4500\"}", "bad-ip-header"),
            ("{\"packet\": \"45\", \"iv\": \"00\"}", "iv without seq"),
            (
                "{\"packet\": \"45\", \"seq\": 1, \"iv\": \"00\"}",
                "expected 8 octets, found 1",
            ),
            ("{\"packet\": \"45\", \"spi\": \"beef00\"}", "00beef00"),
            ("{\"packet\": \"45\", \"seq\": 7}", "wrong-numbering"),
        ];
        let mut input = String::new();
        for (line, _) in bad {
            input += &format!("{good}\n{line}\n");
        }
        input += &format!("\n{good}");
        let (output, code) = esp("seal", backend, &sa, input);
        assert_eq!(code, 1);
        let answers = lines(&output);
        assert_eq!(answers.len(), 2 * bad.len() + 1);
        for (pair, (line, expected)) in answers.chunks(2).zip(bad) {
            assert_eq!(pair[0]["ok"], true, "{}", pair[0]);
            let error = pair[1]["error"].as_str().unwrap();
            assert!(error.contains(expected), "{line}: {error}");
        }
        // A refused packet may have used a number up.
        let numbers: Vec<_> = answers.iter().filter_map(|a| a["seq"].as_u64()).collect();
        assert_eq!(numbers.len(), bad.len() + 1);
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }
}

#[test]
fn what_is_sealed_is_opened_once_and_forgeries_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let sa = write(directory.path(), "sa.toml", SA);
    let plain: Vec<_> = (0..20).map(|n| packet(&vec![n; n as usize * 60])).collect();
    let input = joined(plain.iter().map(|p| json!({"packet": hex::encode(p)})));
    let mut seen = Vec::new();
    for backend in BACKENDS {
        let (sealed, code) = esp("seal", backend, &sa, input.clone());
        assert_eq!(code, 0);
        for (n, answer) in lines(&sealed).iter().enumerate() {
            assert_eq!(answer["seq"], n as u64 + 1);
        }
        // A forgery, what was sealed as it is (so that `seal | open` works), the first one again.
        let first = lines(&sealed)[0].clone();
        let mut forged = first["packet"].as_str().unwrap().to_owned();
        let last = if forged.pop() == Some('0') { '1' } else { '0' };
        forged.push(last);
        let mut wire = joined([json!({"packet": forged})]).into_bytes();
        wire.extend(&sealed);
        wire.extend(joined([first]).into_bytes());
        let (opened, code) = esp("open", backend, &sa, wire);
        assert_eq!(code, 1);
        let answers = lines(&opened);
        assert_eq!(answers.len(), plain.len() + 2);
        assert_eq!(answers[0], json!({"ok": false, "error": "bad-icv"}));
        for (answer, plain) in answers[1..].iter().zip(&plain) {
            assert_eq!(answer["packet"], hex::encode(plain));
        }
        assert_eq!(answers[21], json!({"ok": false, "error": "replayed"}));
        seen.push(sealed);
    }
    assert_eq!(seen[0], seen[1], "the same octets from both");
}

/// A pcapng file of raw IP packets with an interface that counts milliseconds.
fn pcapng(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    let interface = InterfaceDescriptionBlock {
        linktype: DataLink::RAW,
        snaplen: 0,
        options: vec![InterfaceDescriptionOption::IfTsResol(3)],
    };
    writer.write_pcapng_block(interface).unwrap();
    for (n, packet) in packets.iter().enumerate() {
        let block = EnhancedPacketBlock {
            interface_id: 0,
            // The writer puts its nanoseconds down as the count.
            timestamp: Duration::from_nanos(5000 + n as u64),
            original_len: packet.len() as u32,
            data: packet.into(),
            options: Vec::new(),
        };
        writer.write_pcapng_block(block).unwrap();
    }
    writer.into_inner()
}

#[test]
fn a_pcapng_capture_is_read_and_strangers_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let sa = write(directory.path(), "sa.toml", SA);
    let plain = [packet(b"one"), packet(b"two")];
    let lines_in = joined(plain.iter().map(|p| json!({"packet": hex::encode(p)})));
    let (sealed, _) = esp("seal", "software", &sa, lines_in);
    let mut wire: Vec<Vec<u8>> = lines(&sealed)
        .iter()
        .map(|answer| hex::decode(answer["packet"].as_str().unwrap()).unwrap())
        .collect();
    wire.insert(1, packet(b"a stranger's"));
    let (opened, code) = esp("open", "software", &sa, pcapng(&wire));
    assert_eq!(code, 0);
    let mut reader = PcapReader::new(&opened[..]).unwrap();
    for (plain, milliseconds) in plain.iter().zip([5000, 5002]) {
        let packet = reader.next_packet().unwrap().unwrap();
        assert_eq!(packet.data[..], plain[..]);
        assert_eq!(packet.timestamp, Duration::from_millis(milliseconds));
    }
    assert!(reader.next_packet().is_none());
    *wire[0].last_mut().unwrap() ^= 1;
    let (_, code) = esp("open", "software", &sa, pcapng(&wire));
    assert_eq!(code, 1, "a forgery is no stranger");
}

#[test]
fn a_capture_goes_through_and_comes_back() {
    let directory = tempfile::tempdir().unwrap();
    let sa = write(directory.path(), "sa.toml", SA);
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1fa0a1a2a3";
    let table = format!(
        "\"IPv4\",\"192.0.2.1\",\"192.0.2.2\",\"0xc0de0001\",\
         \"AES-GCM with 16 octet ICV [RFC4106]\",\"0x{key}\",\"NULL\",\"\"\n"
    );
    let table = write(directory.path(), "esp_sa", table);
    let header = PcapHeader {
        datalink: DataLink::ETHERNET,
        ..PcapHeader::default()
    };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    let plain: Vec<_> = (0..5).map(|n| packet(&vec![7; n * 100])).collect();
    for (n, packet) in plain.iter().enumerate() {
        let mut frame = vec![2; 12];
        frame.extend([8, 0]);
        frame.extend(packet);
        frame.resize(frame.len().max(60), 0);
        let time = Duration::from_secs(100 + n as u64);
        let packet = PcapPacket::new(time, frame.len() as u32, &frame);
        writer.write_packet(&packet).unwrap();
    }
    let capture = writer.into_writer();
    for backend in BACKENDS {
        let (sealed, code) = esp("seal", backend, &sa, capture.clone());
        assert_eq!(code, 0);
        let (opened, code) = esp("open", backend, &table, sealed);
        assert_eq!(code, 0);
        let mut reader = PcapReader::new(&opened[..]).unwrap();
        assert_eq!(reader.header().datalink, DataLink::RAW);
        let mut found = 0;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.unwrap();
            assert_eq!(packet.data[..], plain[found]);
            assert_eq!(packet.timestamp.as_secs(), 100 + found as u64);
            found += 1;
        }
        assert_eq!(found, plain.len());
    }
}
