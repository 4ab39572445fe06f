// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes operations of the ports' packets, as ipa_decode makes them of descriptors: finds the SA, and hands the
// packet on as ipa_dma_read would, LeadOctets in front and without what is behind its end. Both ports take turns.
//
// Promise: a packet in as many clocks as it has beats, and three more. An operation that is refused here has no
// data, and its packet is dropped.
module ipa_port_jobs
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS    = 1024,
  localparam int unsigned SaBits = $clog2(SAS)
) (
  input  logic              clk_i,
  input  logic              rst_ni,
  input  logic              run_i,               // else none is begun

  // The table of SAs
  input  logic              sa_write_i,
  input  logic [SaBits-1:0] sa_index_i,
  input  logic              sa_valid_i,
  input  sa_config_t        sa_config_i,

  // ESP of the wire (see ipa_port_steer): an Ethernet frame
  input  logic              wire_valid_i,
  output logic              wire_ready_o,
  input  logic              wire_last_i,
  input  logic [511:0]      wire_data_i,
  input  logic [SaBits-1:0] wire_sa_i,
  input  logic [14:0]       wire_end_i,

  // Packets of the host port (see ipa_port_host)
  input  logic              host_valid_i,
  output logic              host_ready_o,
  input  logic              host_last_i,
  input  logic [511:0]      host_data_i,
  input  logic [14:0]       host_octets_i,
  input  logic [31:0]       host_sa_index_i,
  input  logic [31:0]       host_sa_generation_i,

  output logic              job_valid_o,
  input  logic              job_ready_i,
  output job_t              job_o,
  output logic              m_valid_o,
  input  logic              m_ready_i,
  output logic              m_last_o,
  output logic [511:0]      m_data_o
);

  localparam int unsigned Ethernet = 14;
  localparam int unsigned WireUp   = 8 * (LeadOctets - Ethernet);
  localparam int unsigned HostUp   = 8 * LeadOctets;
  // In front of a packet that is sealed: room for all headers, ESP's, and the IV.
  localparam logic [31:0] Headroom = 32'd128;

  typedef enum logic [2:0] {Idle, Look, Issue, Stream, Drain} state_e;
  state_e state_q;
  logic   wire_q, source, goes;                  // whose turn it is, or whose packet
  assign source = wire_valid_i && (!host_valid_i || !wire_q);
  assign goes   = state_q == Idle && run_i && (wire_valid_i || host_valid_i);

  // -- The SA -------------------------------------------------------------------------------------
  logic [SAS-1:0]    valid_q;
  logic [SaBits-1:0] index;
  logic [31:0]       sa_index;
  sa_config_t        sa;
  logic              found;
  job_t              job_q;
  assign index    = source ? wire_sa_i : SaBits'(host_sa_index_i);
  assign sa_index = wire_q ? 32'(wire_sa_i) : host_sa_index_i;
  assign found    = sa_index < 32'(SAS) && valid_q[SaBits'(sa_index)]
                    && (wire_q || sa.generation == host_sa_generation_i)
                    && sa.outbound == !wire_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni)         valid_q <= '0;
    else if (sa_write_i) valid_q[sa_index_i] <= sa_valid_i;
  end
  ram_1w1r #(.WIDTH($bits(sa_config_t)), .DEPTH(SAS)) u_sas (
    .clk_i, .write_i(sa_write_i), .waddr_i(sa_index_i), .wdata_i(sa_config_i), .raddr_i(index),
    .rdata_o(sa)
  );

  status_t     status;
  logic [14:0] len;
  // What drains still opens what its peer has sent before.
  assign status = found && (wire_q || !sa.draining) ? Ok : SaStale;
  assign len    = wire_q ? wire_end_i - 15'(Ethernet) : host_octets_i;

  // -- The packet ---------------------------------------------------------------------------------
  logic [8:0]   left_q;                          // beats that are still to leave
  logic [127:0] carry_q;
  logic         ended_q, in_valid, in_last, in_ready, take;
  logic [511:0] in_data;
  assign in_valid = wire_q ? wire_valid_i : host_valid_i;
  assign in_last  = wire_q ? wire_last_i : host_last_i;
  assign in_data  = ended_q ? '0 : (wire_q ? wire_data_i : host_data_i);
  always_comb begin
    if (wire_q) m_data_o = {in_data[511-WireUp:0], carry_q[127-:WireUp]};
    else        m_data_o = {in_data[511-HostUp:0], carry_q[127-:HostUp]};
  end
  assign m_valid_o = state_q == Stream && (ended_q || in_valid);
  assign m_last_o  = left_q == 9'd1;
  assign in_ready  = (state_q == Stream && m_ready_i && !ended_q) || state_q == Drain;
  assign take      = in_valid && in_ready;
  assign wire_ready_o = in_ready && wire_q;
  assign host_ready_o = in_ready && !wire_q;

  assign job_valid_o = state_q == Issue;
  assign job_o       = job_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
      wire_q  <= 1'b0;
    end else begin
      unique case (state_q)
        Idle: begin
          if (goes) begin
            state_q <= Look;
            wire_q  <= source;
          end
        end
        Look:    state_q <= Issue;
        Issue:   if (job_ready_i) state_q <= job_q.has_data ? Stream : Drain;
        Stream: begin
          if (m_valid_o && m_ready_i && m_last_o) begin
            state_q <= ended_q || in_last ? Idle : Drain;
          end
        end
        default: if (take && in_last) state_q <= Idle;
      endcase
    end
    if (state_q == Look) begin
      job_q               <= '0;
      job_q.sa            <= sa;
      job_q.sa_found      <= found;
      job_q.has_data      <= status == Ok;
      job_q.port          <= 1'b1;
      job_q.wire_in       <= wire_q;
      job_q.status        <= status;
      job_q.opcode        <= 8'd1;
      job_q.sa_index      <= sa_index;
      job_q.sa_generation <= wire_q ? sa.generation : host_sa_generation_i;
      job_q.room          <= '1;
      job_q.offset        <= wire_q ? '0 : Headroom;
      job_q.len           <= len;
      job_q.octets        <= 32'(len);
      left_q              <= 9'((16'(len) + 16'(LeadOctets) + 16'd63) >> 6);
      ended_q             <= 1'b0;
    end
    if (m_valid_o && m_ready_i) left_q <= left_q - 9'd1;
    if (take && state_q == Stream) begin
      carry_q <= in_data[511-:128];
      ended_q <= in_last;
    end
  end

endmodule
