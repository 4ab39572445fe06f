// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Makes operations of the ports' packets, as ipa_decode makes them of descriptors: finds the SA, and hands the
// packet on as ipa_dma_read would, LeadOctets in front and without what is behind its end. Both ports take turns.
//
// Promise: a packet in as many clocks as it has beats, and three more; each is one operation, with all of its own
// octets and no others. An operation that is refused here has no data, and its packet is dropped (proved).
module ipa_port_jobs
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS    = 4096,
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
  logic              there;
  logic [SaBits-1:0] index;
  logic [31:0]       sa_index;
  sa_config_t        sa;
  logic              found;
  job_t              job_q;
  assign index    = source ? wire_sa_i : SaBits'(host_sa_index_i);
  assign sa_index = wire_q ? 32'(wire_sa_i) : host_sa_index_i;
  assign found    = sa_index < 32'(SAS) && there
                    && (wire_q || sa.generation == host_sa_generation_i)
                    && sa.outbound == !wire_q;
  ipa_sa_ram #(.WIDTH($bits(sa_config_t)), .DEPTH(SAS)) u_sas (
    .clk_i, .rst_ni, .write_i(sa_write_i), .waddr_i(sa_index_i), .there_i(sa_valid_i),
    .wdata_i(sa_config_i), .raddr_i(index), .there_o(there), .rdata_o(sa)
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

`ifdef FORMAL
  // The packet that was begun, and one SA, any: what was written of it.
  logic              started_q = 1'b0, waited_wire_q, waited_host_q;
  logic              busy_q, told_q, begun_q, over_q, knows_q, should_q;
  logic [1:0]        valid, ready, last, held_q, lasts_q, inside_q;       // wire, host
  logic [1023:0]     data, datas_q;
  logic [SaBits-1:0] some_q, wire_sa_q;
  logic              some_valid_q, held;
  sa_config_t        some_sa_q, sa_q, held_sa;
  logic [14:0]       wire_end_q, host_octets_q, packet_len, len_q;
  logic [63:0]       host_sa_q;
  logic [9:0]        out_q, beats;               // that have left; that are to leave
  logic [511:0]      front_q;                    // the beat that came before
  job_t              offered_q;
  assign {held, held_sa} = u_sas.u_ram.memory[some_q];
  assign valid      = {wire_valid_i, host_valid_i};
  assign ready      = {wire_ready_o, host_ready_o};
  assign last       = {wire_last_i, host_last_i};
  assign data       = {wire_data_i, host_data_i};
  assign packet_len = wire_q ? wire_end_i - 15'd14 : host_octets_i;
  assign beats      = 10'((17'(len_q) + 17'd16 + 17'd63) >> 6);
  always_ff @(posedge clk_i) begin
    started_q     <= 1'b1;
    if (!started_q) some_q <= sa_index_i;
    held_q        <= rst_ni ? valid & ~ready : '0;
    lasts_q       <= last;
    datas_q       <= data;
    wire_sa_q     <= wire_sa_i;
    wire_end_q    <= wire_end_i;
    host_octets_q <= host_octets_i;
    host_sa_q     <= {host_sa_index_i, host_sa_generation_i};
    offered_q     <= job_o;
    if (sa_write_i && sa_index_i == some_q) some_sa_q <= sa_config_i;
    if (!rst_ni) begin
      some_valid_q <= 1'b0;
      inside_q     <= '0;
      busy_q       <= 1'b0;
      waited_wire_q <= 1'b0;
      waited_host_q <= 1'b0;
    end else begin
      if (sa_write_i && sa_index_i == some_q) some_valid_q <= sa_valid_i;
      for (int s = 0; s < 2; s++) if (valid[s] && ready[s]) inside_q[s] <= !last[s];
      if (goes) busy_q <= 1'b1;
      else if ((valid & ready) != '0 && in_last && state_q == Drain) busy_q <= 1'b0;
      else if (m_valid_o && m_ready_i && m_last_o && (over_q || (take && in_last))) busy_q <= 1'b0;
      // A packet of the other port has begun while it waited.
      if (goes) waited_wire_q <= wire_valid_i && !source;
      if (goes) waited_host_q <= host_valid_i && source;
    end
    if (goes) begin
      told_q  <= 1'b0;
      begun_q <= 1'b0;
      over_q  <= 1'b0;
      out_q   <= '0;
    end else begin
      if (job_valid_o && job_ready_i) told_q <= 1'b1;
      if (take) begun_q <= 1'b1;
      if (take && in_last) over_q <= 1'b1;
      if (m_valid_o && m_ready_i) out_q <= out_q + 10'd1;
    end
    if (take) front_q <= in_data;
    if (state_q == Look) begin
      len_q    <= packet_len;
      knows_q  <= sa_index == 32'(some_q);
      sa_q     <= some_sa_q;
      should_q <= some_valid_q && some_sa_q.outbound == !wire_q
                  && (wire_q || (some_sa_q.generation == host_sa_generation_i
                                 && !some_sa_q.draining));
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      // Beats stay until they are taken, and what is said of a packet as long as it is there.
      for (int s = 0; s < 2; s++) begin
        if (held_q[s]) begin
          assume (valid[s] && last[s] == lasts_q[s]);
          assume (data[512*(1-s)+:512] == datas_q[512*(1-s)+:512]);
        end
      end
      if (held_q[1] || inside_q[1]) assume (wire_sa_i == wire_sa_q && wire_end_i == wire_end_q);
      if (held_q[0] || inside_q[0]) begin
        assume (host_octets_i == host_octets_q);
        assume ({host_sa_index_i, host_sa_generation_i} == host_sa_q);
      end
      assume (wire_end_i >= 15'd14 && wire_end_i <= 15'(MaxPacket));
      assume (host_octets_i <= 15'(MaxPacket));
      // The management changes SAs while no packet begins, and not before the table is cleared.
      if (goes || !u_sas.cleared_q) assume (!sa_write_i);

      // One packet after the other, in turns.
      if (goes) assert (run_i && !busy_q && inside_q == '0);
      if (goes && waited_wire_q && wire_valid_i) assert (source);
      if (goes && waited_host_q && host_valid_i) assert (!source);
      assert (!(inside_q[1] && !wire_q) && !(inside_q[0] && wire_q) && ready != '1);
      if ((valid & ready) != '0) assert (busy_q && told_q && ready[1] == wire_q);
      // An operation of its own, once, in front of its octets; without them if it is refused.
      if (job_valid_o) begin
        assert (busy_q && !told_q && !begun_q && job_o.port && job_o.wire_in == wire_q);
        assert (job_o.sa_index == (wire_q ? 32'(wire_sa_i) : host_sa_index_i));
        assert (job_o.len == packet_len && job_o.octets == 32'(packet_len));
        assert (job_o.has_data == (job_o.status == Ok));
        if (!wire_q) assert (job_o.sa_generation == host_sa_generation_i);
        if (job_o.sa_index >= 32'(SAS)) assert (!job_o.sa_found && !job_o.has_data);
        if (knows_q) assert (job_o.has_data == should_q);
        if (knows_q && job_o.has_data) assert (job_o.sa == sa_q && job_o.sa_found);
      end
      if (m_valid_o) assert (busy_q && told_q && job_q.has_data);
      // All of its octets, two or sixteen octets further on, and zeros behind its end.
      if (m_valid_o) begin
        assert (m_last_o == (out_q + 10'd1 == beats));
        if (wire_q) assert (m_data_o[511:16] == (over_q ? '0 : wire_data_i[495:0]));
        else        assert (m_data_o[511:128] == (over_q ? '0 : host_data_i[383:0]));
        if (out_q != 0 && wire_q)  assert (m_data_o[15:0] == front_q[511:496]);
        if (out_q != 0 && !wire_q) assert (m_data_o[127:0] == front_q[511:384]);
      end
      if (m_valid_o && m_ready_i && !over_q) assert (take);

      // What induction needs to know.
      assert (busy_q == (state_q != Idle) && state_q <= Drain);
      assert (busy_q || inside_q == '0);
      if (u_sas.cleared_q) begin
        assert (held == some_valid_q && (!held || held_sa == some_sa_q));
      end else begin
        assert (!some_valid_q && !u_sas.known_q && (some_q >= u_sas.clear_q || !held));
      end
      assert (!(waited_wire_q && wire_q) && !(waited_host_q && !wire_q));
      if (state_q == Look || state_q == Issue) assert (!told_q && out_q == 0);
      if (state_q == Look || state_q == Issue) assert (valid[wire_q] && held_q[wire_q]);
      if (state_q inside {Look, Issue}) assert (!begun_q && !over_q && inside_q == '0);
      if (state_q == Look && SaBits'(sa_index) == some_q) begin
        assert (there == some_valid_q && (!there || sa == some_sa_q));
      end
      if (state_q inside {Issue, Stream}) assert (ended_q == over_q && job_q.len == len_q);
      if (state_q == Issue) assert (len_q == packet_len);
      if (state_q inside {Issue, Stream}) begin
        assert (len_q <= 15'(MaxPacket) && out_q < beats);
      end
      if (state_q inside {Issue, Stream}) assert (out_q + 10'(left_q) == beats && left_q != 0);
      if (state_q == Stream) assert (told_q && job_q.has_data && begun_q == (out_q != 0));
      if (state_q == Drain) assert (told_q && !over_q);
      if (state_q == Stream) assert (begun_q || !over_q);
      if (state_q inside {Stream, Drain}) assert (over_q || valid[wire_q] || inside_q[wire_q]);
      if (state_q inside {Stream, Drain}) assert (inside_q[wire_q] == (begun_q && !over_q));
      if (state_q == Stream && begun_q) assert (carry_q == front_q[511-:128]);
    end
  end
`endif

endmodule
