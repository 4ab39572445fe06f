// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes an operation of a descriptor: checks it, finds its SA, and asks for its packet.
//
// Promise: a descriptor in three clocks. Whatever a descriptor holds, only octets of its own buffer
// are asked for, and no packet of one that is refused.
module ipa_decode
  import ipa_card_pkg::*;
  import ipa_pkg::submission_t;
#(
  parameter  int unsigned SAS    = 512,
  localparam int unsigned SaBits = $clog2(SAS)
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

  // Packets wanted
  output logic              read_valid_o,
  input  logic              read_ready_i,
  output logic [63:0]       read_addr_o,
  output logic [15:0]       read_len_o,

  output logic              job_valid_o,
  input  logic              job_ready_i,
  output job_t              job_o
);

  localparam logic [7:0] OpProcess = 8'd1;

  typedef enum logic [1:0] {Idle, Look, Issue} state_e;
  state_e      state_q;
  submission_t descriptor_q;
  logic        error_q;
  logic [7:0]  queue_q;
  logic [63:0] addr_q;
  job_t        job_q;

  // Validity apart, so that a reset clears it.
  logic [SAS-1:0] valid_q;
  sa_config_t     sa;
  always_ff @(posedge clk_i) begin
    if (!rst_ni)         valid_q <= '0;
    else if (sa_write_i) valid_q[sa_index_i] <= sa_valid_i;
  end
  ram_1w1r #(.WIDTH($bits(sa_config_t)), .DEPTH(SAS)) u_sas (
    .clk_i, .write_i(sa_write_i), .waddr_i(sa_index_i), .wdata_i(sa_config_i),
    .raddr_i(SaBits'(s_descriptor_i.sa_index)), .rdata_o(sa)
  );

  logic        found;
  logic [32:0] packet_end;
  logic [64:0] host_end;
  status_t     status;
  assign found      = descriptor_q.sa_index < 32'(SAS) && valid_q[SaBits'(descriptor_q.sa_index)]
                      && sa.generation == descriptor_q.sa_generation;
  assign packet_end = {1'b0, descriptor_q.offset} + {1'b0, descriptor_q.len};
  assign host_end   = {1'b0, descriptor_q.buffer} + {32'b0, packet_end};
  always_comb begin
    status = Ok;
    if (error_q)                                                  status = DmaFault;
    else if (descriptor_q.opcode != OpProcess)                    status = BadDescriptor;
    else if (descriptor_q.flags[7:2] != '0)                       status = BadDescriptor;
    else if (descriptor_q.flags[1])                               status = BadGather;
    else if (descriptor_q.entries != '0)                          status = BadDescriptor;
    else if (descriptor_q.buffer_len > MaxBuffer)                 status = BadDescriptor;
    else if (packet_end > {1'b0, descriptor_q.buffer_len})        status = BadDescriptor;
    else if (descriptor_q.len > MaxPacket)                        status = BadLength;
    else if (!found || sa.draining)                               status = SaStale;
    else if (host_end > {1'b1, 64'b0} && descriptor_q.len != '0)  status = DmaFault;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle:    if (s_valid_i) state_q <= Look;
        Look:    state_q <= Issue;
        Issue:   if (job_valid_o && job_ready_i) state_q <= Idle;
        default: state_q <= Idle;
      endcase
    end
    if (state_q == Idle) begin
      descriptor_q <= s_descriptor_i;
      error_q      <= s_error_i;
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
  end

  // A packet and its operation go together.
  assign s_ready_o    = state_q == Idle;
  assign read_valid_o = state_q == Issue && job_q.has_data && job_ready_i;
  assign read_addr_o  = job_q.buffer + 64'(job_q.offset);
  assign read_len_o   = 16'(job_q.len);
  assign job_valid_o  = state_q == Issue && (!job_q.has_data || read_ready_i);
  assign job_o        = job_q;

  logic unused_iv;
  assign unused_iv = ^descriptor_q.iv[127:64];

endmodule
