// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes an operation of a descriptor: checks it, finds its SA, and asks for its packet; in runs, if its
// buffer is in pieces.
//
// Promise: a descriptor in three clocks; one with a list in as many more as ipa_gather and ipa_pieces need.
// Whatever a descriptor holds, only octets of its own buffer are asked for, and no packet of one that is
// refused.
module ipa_decode
  import ipa_card_pkg::*;
  import ipa_pkg::submission_t;
#(
  parameter  int unsigned SAS       = 4096,
  localparam int unsigned SaBits    = $clog2(SAS),
  localparam int unsigned SlotBits  = $clog2(GatherSlots),
  localparam int unsigned IndexBits = $clog2(MaxGather)
) (
  input  logic              clk_i,
  input  logic              rst_ni,

  // The table of SAs
  input  logic              sa_write_i,
  input  logic [SaBits-1:0] sa_index_i,
  input  logic              sa_valid_i,
  input  sa_config_t        sa_config_i,

  // Descriptors, as they were read
  input  logic              s_valid_i,
  output logic              s_ready_o,
  input  submission_t       s_descriptor_i,
  input  logic              s_error_i,
  input  logic [7:0]        s_queue_i,
  input  logic [63:0]       s_addr_i,
  input  logic              s_listed_i,          // its list was asked for

  // Gather lists, in their descriptors' order
  input  logic              list_valid_i,
  output logic              list_ready_o,
  input  logic [511:0]      list_i,
  input  logic              list_error_i,

  // Pieces of buffers, kept until the slot is given back
  output logic              piece_write_o,
  output logic [SlotBits+IndexBits-1:0] piece_index_o,
  output piece_t            piece_o,
  input  logic              slot_free_i,

  // Packets wanted
  output logic              read_valid_o,
  input  logic              read_ready_i,
  output logic [63:0]       read_addr_o,
  output logic [15:0]       read_len_o,
  output logic              read_lead_o,         // the packet's first run
  output logic              read_more_o,         // not its last one

  output logic              job_valid_o,
  input  logic              job_ready_i,
  output job_t              job_o
);

  localparam logic [7:0] OpProcess = 8'd1;

  typedef enum logic [2:0] {Idle, Look, List, Judge, Start, Walk, Issue} state_e;
  state_e      state_q;
  submission_t descriptor_q;
  logic        error_q, listed_q;
  logic [7:0]  queue_q;
  logic [63:0] addr_q;
  job_t        job_q;

  logic       there;
  sa_config_t sa;
  ipa_sa_ram #(.WIDTH($bits(sa_config_t)), .DEPTH(SAS)) u_sas (
    .clk_i, .rst_ni, .write_i(sa_write_i), .waddr_i(sa_index_i), .there_i(sa_valid_i),
    .wdata_i(sa_config_i), .raddr_i(SaBits'(s_descriptor_i.sa_index)), .there_o(there), .rdata_o(sa)
  );

  logic        found, gathers, bad_list;
  logic [32:0] packet_end;
  logic [64:0] host_end;
  status_t     status;
  assign found      = descriptor_q.sa_index < 32'(SAS) && there
                      && sa.generation == descriptor_q.sa_generation;
  assign gathers    = descriptor_q.flags[1];
  assign bad_list   = descriptor_q.entries == '0 || descriptor_q.entries > 16'(MaxGather)
                      || descriptor_q.buffer[3:0] != '0;
  assign packet_end = {1'b0, descriptor_q.offset} + {1'b0, descriptor_q.len};
  assign host_end   = {1'b0, descriptor_q.buffer} + {32'b0, packet_end};
  always_comb begin
    status = Ok;
    if (error_q)                                                  status = DmaFault;
    else if (descriptor_q.opcode != OpProcess)                    status = BadDescriptor;
    else if (descriptor_q.flags[7:2] != '0)                       status = BadDescriptor;
    // Good as far as it is seen here, the list is looked at first of all.
    else if (gathers && bad_list)                                 status = BadGather;
    else if (gathers && !listed_q)                                status = DmaFault;
    else if (!gathers && descriptor_q.entries != '0)              status = BadDescriptor;
    else if (!gathers && descriptor_q.buffer_len > MaxBuffer)     status = BadDescriptor;
    else if (packet_end > {1'b0, descriptor_q.buffer_len})        status = BadDescriptor;
    else if (descriptor_q.len > MaxPacket)                        status = BadLength;
    else if (!found || sa.draining)                               status = SaStale;
    else if (!gathers && host_end > {1'b1, 64'b0} && descriptor_q.len != '0) status = DmaFault;
  end

  // -- Buffers in pieces --------------------------------------------------------------------------
  // As many of them at once as there are slots, which are given back in order.
  logic [SlotBits-1:0] slot_q;
  logic [SlotBits:0]   slots_q;                  // that are taken
  logic                slot_take, list_start, judged, judged_bad, judged_fault;
  logic                run_valid, run_last, first_q;
  logic [63:0]         run_addr;
  logic [14:0]         run_octets;
  assign slot_take  = job_valid_o && job_ready_i && job_q.gather;
  assign list_start = state_q == List && slots_q != (SlotBits + 1)'(GatherSlots);
  ipa_gather u_gather (
    .clk_i, .rst_ni, .start_i(list_start), .slot_i(slot_q),
    .entries_i(5'(descriptor_q.entries)), .octets_i(descriptor_q.buffer_len), .judged_o(judged),
    .bad_o(judged_bad), .fault_o(judged_fault), .list_valid_i, .list_ready_o, .list_i,
    .list_error_i, .walk_i(state_q == Start), .offset_i(18'(job_q.offset)), .len_i(job_q.len),
    .run_valid_o(run_valid), .run_ready_i(read_ready_i), .run_addr_o(run_addr),
    .run_octets_o(run_octets), .run_last_o(run_last), .piece_write_o, .piece_index_o, .piece_o
  );
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      slot_q  <= '0;
      slots_q <= '0;
    end else begin
      if (slot_take) slot_q <= slot_q + 1'b1;
      slots_q <= slots_q + (SlotBits + 1)'(slot_take) - (SlotBits + 1)'(slot_free_i);
    end
    if (state_q == Start)                        first_q <= 1'b1;
    else if (state_q == Walk && run_valid && read_ready_i) first_q <= 1'b0;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle:    if (s_valid_i) state_q <= Look;
        Look:    state_q <= listed_q ? List : Issue;
        List:    if (list_start) state_q <= Judge;
        Judge: begin
          if (judged) state_q <= !judged_bad && !judged_fault && job_q.has_data ? Start : Issue;
        end
        Start:   state_q <= Walk;
        Walk:    if (run_valid && read_ready_i && run_last) state_q <= Issue;
        Issue:   if (job_valid_o && job_ready_i) state_q <= Idle;
        default: state_q <= Idle;
      endcase
    end
    if (state_q == Idle) begin
      descriptor_q <= s_descriptor_i;
      error_q      <= s_error_i;
      listed_q     <= s_listed_i;
      queue_q      <= s_queue_i;
      addr_q       <= s_addr_i;
    end
    if (state_q == Look) begin
      job_q                 <= '0;
      job_q.queue_index           <= queue_q;
      job_q.status          <= status;
      job_q.unfetched       <= error_q;
      job_q.buffer          <= addr_q;
      // Of what could not be read nothing is known.
      if (!error_q) begin
        job_q.sa              <= sa;
        job_q.sa_found        <= found;
        job_q.has_data        <= status == Ok && descriptor_q.len != '0;
        job_q.gather          <= status == Ok && gathers;
        job_q.numbered        <= descriptor_q.flags[0];
        job_q.opcode          <= descriptor_q.opcode;
        job_q.slot            <= descriptor_q.slot;
        job_q.slot_generation <= descriptor_q.slot_generation;
        job_q.sa_index        <= descriptor_q.sa_index;
        job_q.sa_generation   <= descriptor_q.sa_generation;
        job_q.buffer          <= descriptor_q.buffer;
        job_q.room            <= 18'(descriptor_q.buffer_len);
        job_q.offset          <= descriptor_q.offset;
        job_q.len             <= 15'(descriptor_q.len);
        job_q.octets          <= descriptor_q.len;
        job_q.number          <= descriptor_q.sequence_number;
        job_q.iv              <= descriptor_q.iv[63:0];
      end
    end
    if (state_q == Judge && judged && (judged_bad || judged_fault)) begin
      job_q.status   <= judged_fault ? DmaFault : BadGather;
      job_q.has_data <= 1'b0;
      job_q.gather   <= 1'b0;
    end
  end

  // A packet and its operation go together.
  assign s_ready_o    = state_q == Idle;
  logic whole;                                   // the packet is asked for at once
  assign whole        = job_q.has_data && !job_q.gather;
  assign read_valid_o = (state_q == Issue && whole && job_ready_i)
                        || (state_q == Walk && run_valid);
  assign read_addr_o  = job_q.gather ? run_addr : job_q.buffer + 64'(job_q.offset);
  assign read_len_o   = job_q.gather ? 16'(run_octets) : 16'(job_q.len);
  assign read_lead_o  = !job_q.gather || first_q;
  assign read_more_o  = job_q.gather && !run_last;
  assign job_valid_o  = state_q == Issue && (!whole || read_ready_i);
  assign job_o        = job_q;

  logic unused_iv;
  assign unused_iv = ^descriptor_q.iv[127:64];

endmodule
