// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What comes from the host port: IP packets in the clear. Those that an outbound rule leads to an SA go on, with
// the SA; others are dropped (RFC 4301, 5.1).
//
// Promise: a beat a clock in and out; a verdict in as many clocks as ipa_rules needs, and three more, and one
// more for each IPv6 extension header. Packets leave unchanged, each once, in order, and with the SA of their own
// rule (proved, given ipa_port_store, ipa_rules and ipa_port_route). Headers must end, and ports lie, within
// HeadOctets.
module ipa_port_host
  import ipa_card_pkg::*;
#(
  parameter  int unsigned RULES     = MaxRules,
  localparam int unsigned IndexBits = $clog2(RULES)
) (
`ifdef FORMAL
  input  logic                 some_i,
`endif
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // From the host port
  input  logic                 s_valid_i,
  output logic                 s_ready_o,
  input  logic                 s_last_i,
  input  logic [6:0]           s_bytes_i,        // of the beat, 1 to 64
  input  logic [511:0]         s_data_i,

  // Packets with an SA
  output logic                 m_valid_o,
  input  logic                 m_ready_i,
  output logic                 m_last_o,
  output logic [511:0]         m_data_o,
  output logic [14:0]          m_octets_o,       // of the packet
  output logic [31:0]          m_sa_index_o,
  output logic [31:0]          m_sa_generation_o,
  output logic                 dropped_o,        // a packet: for a clock

  // Management (see ipa_rules)
  input  logic                 rule_write_i,
  input  logic [IndexBits-1:0] rule_index_i,
  input  rule_t                rule_i,
  input  logic [IndexBits:0]   rules_i,

  output logic [63:0]          received_o,
  output logic [63:0]          received_bytes_o,
  output logic [63:0]          no_rule_o,
  output logic [63:0]          too_big_o
);

  typedef struct packed {
    way_e        way;
    logic [14:0] octets;
    logic [31:0] sa_index;
    logic [31:0] sa_generation;
  } verdict_t;

  logic         beat_valid, beat_ready, beat_last, frame_valid, frame_ready;
  logic [6:0]   unused_beat_bytes;
  logic [511:0] beat_data;
  stored_t      frame;
  ipa_port_store u_store (
    .clk_i, .rst_ni, .s_valid_i, .s_ready_o, .s_last_i, .s_error_i(1'b0), .s_bytes_i, .s_data_i,
    .m_valid_o(beat_valid), .m_ready_i(beat_ready), .m_last_o(beat_last),
    .m_bytes_o(unused_beat_bytes), .m_data_o(beat_data), .frame_valid_o(frame_valid),
    .frame_ready_i(frame_ready), .frame_o(frame)
  );

  // -- Whose it is --------------------------------------------------------------------------------
  typedef enum logic [1:0] {Idle, Parse, Find, Done} state_e;
  state_e state_q;
  logic   start, parsed, looks, looked, found, found_q, verdict_in_ready;
  facts_t facts;
  flow_t  flow, flow_q;
  logic [31:0] sa_index, sa_generation, sa_index_q, sa_generation_q;
  assign start = state_q == Idle && frame_valid;
  ipa_ip_parse u_parse (
    .clk_i, .rst_ni, .start_i(start), .head_i(frame.head), .len_i(17'(frame.octets)),
    .done_o(parsed), .facts_o(facts)
  );
  ipa_ip_flow u_flow (
    .head_i(frame.head), .facts_i(facts), .octets_i(17'(frame.octets)), .flow_o(flow)
  );
  assign looks = state_q == Parse && parsed;
  ipa_rules #(.RULES(RULES)) u_rules (
    .clk_i, .rst_ni, .write_i(rule_write_i), .index_i(rule_index_i), .rule_i, .count_i(rules_i),
    .start_i(looks), .flow_i(flow_q), .sa_index_i('0), .sa_generation_i('0), .done_o(looked),
    .found_o(found), .sa_index_o(sa_index), .sa_generation_o(sa_generation)
  );
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle:    if (start) state_q <= Parse;
        Parse:   if (parsed) state_q <= Find;
        Find:    if (looked) state_q <= Done;
        default: if (frame_ready) state_q <= Idle;
      endcase
    end
    if (looks) flow_q <= flow;
    if (looked) begin
      found_q         <= found && !facts.bad && !frame.damaged;
      sa_index_q      <= sa_index;
      sa_generation_q <= sa_generation;
    end
  end

  // -- What becomes of it -------------------------------------------------------------------------
  verdict_t verdict_in, verdict;
  logic     verdict_valid, verdict_ready, unused_host;
  logic [3:0] unused_verdicts;
  assign frame_ready = state_q == Done && verdict_in_ready;
  assign dropped_o   = frame_ready && !found_q;
  assign verdict_in  = '{
    way:           found_q ? ToCard : ToNobody,
    octets:        frame.octets,
    sa_index:      sa_index_q,
    sa_generation: sa_generation_q
  };
  ipa_fifo #(.WIDTH($bits(verdict_t)), .DEPTH(8)) u_verdicts (
    .clk_i, .rst_ni, .in_valid_i(state_q == Done), .in_ready_o(verdict_in_ready),
    .in_data_i(verdict_in), .out_valid_o(verdict_valid), .out_ready_i(verdict_ready),
    .out_data_o(verdict), .count_o(unused_verdicts)
  );
  ipa_port_route #(.WIDTH(512)) u_route (
    .s_valid_i(beat_valid), .s_ready_o(beat_ready), .s_last_i(beat_last), .s_data_i(beat_data),
    .verdict_valid_i(verdict_valid), .verdict_ready_o(verdict_ready), .verdict_way_i(verdict.way),
    .card_valid_o(m_valid_o), .card_ready_i(m_ready_i), .host_valid_o(unused_host),
    .host_ready_i(1'b1), .m_last_o, .m_data_o
  );
  assign m_octets_o        = verdict.octets;
  assign m_sa_index_o      = verdict.sa_index;
  assign m_sa_generation_o = verdict.sa_generation;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      received_o       <= '0;
      received_bytes_o <= '0;
      no_rule_o        <= '0;
      too_big_o        <= '0;
    end else if (frame_ready) begin
      if (frame.damaged) begin
        too_big_o        <= too_big_o + 64'd1;
      end else begin
        received_o       <= received_o + 64'd1;
        received_bytes_o <= received_bytes_o + 64'(frame.octets);
        if (!found_q) no_rule_o <= no_rule_o + 64'd1;
      end
    end
  end

  logic unused;
  assign unused = ^{frame.kind, facts};

`ifdef FORMAL
  // One packet, any, is followed, from its last beat's coming: `ahead_q` packets leave before it. Verdicts of some
  // are there, then those of which what is known waits.
  logic        started_q = 1'b0, inside_q, left_q, judged_q, damaged_q, comes, leaves;
  logic        looked_q, fits_q;
  logic [4:0]  ahead_q, open_q, judged, known;
  logic [14:0] octets_q;
  logic [63:0] rule_sa_q;
  verdict_t    verdict_q;
  logic [15:0] known_at;                         // damaged, octets
  assign comes    = u_store.take && u_store.ends;
  assign leaves   = beat_valid && beat_ready && beat_last;
  assign judged   = 5'(unused_verdicts);
  assign known    = 5'(u_store.unused_frames);
  assign known_at = u_store.u_frames.memory[3'(5'(u_store.u_frames.read_q) + ahead_q - judged)];
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni) begin
      inside_q <= 1'b0;
      left_q   <= 1'b0;
      looked_q <= 1'b0;
      open_q   <= '0;
    end else begin
      open_q   <= open_q + 5'(comes) - 5'(leaves);
      looked_q <= looked || (looked_q && !frame_ready);
      if (some_i && comes && !inside_q && !left_q) begin
        inside_q  <= 1'b1;
        judged_q  <= 1'b0;
        ahead_q   <= open_q - 5'(leaves);
        damaged_q <= u_store.s_error_i || u_store.cut;
        octets_q  <= u_store.octets;
      end else if (inside_q) begin
        if (leaves) begin
          inside_q <= ahead_q != 0;
          left_q   <= ahead_q == 0;
          ahead_q  <= ahead_q - 1'b1;
        end
        if (frame_ready && !judged_q && ahead_q == judged) begin
          judged_q  <= 1'b1;
          verdict_q <= verdict_in;
        end
      end
    end
    if (looked) begin
      fits_q    <= found && !facts.bad;
      rule_sa_q <= {sa_index, sa_generation};
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      // A verdict by what the rules said of this packet.
      assert (!looked || !looked_q);
      if (frame_ready) begin
        assert (frame_valid && looked_q && dropped_o == (verdict_in.way != ToCard));
        assert (verdict_in.way == (fits_q && !frame.damaged ? ToCard : ToNobody));
        assert ({verdict_in.sa_index, verdict_in.sa_generation} == rule_sa_q);
      end
      // A packet leaves whole, with its own verdict, or not at all.
      if (leaves) assert (open_q != 0);
      if (inside_q && ahead_q == 0 && m_valid_o) begin
        assert (judged_q && !damaged_q && m_octets_o == octets_q && verdict_q.way == ToCard);
        assert (m_sa_index_o == verdict_q.sa_index);
        assert (m_sa_generation_o == verdict_q.sa_generation);
      end
      if (inside_q && ahead_q == 0 && judged_q && verdict_q.way == ToCard && beat_valid) begin
        assert (m_valid_o && beat_ready == m_ready_i);
      end

      // What induction needs to know.
      assert (looked_q == (state_q == Done) && u_rules.busy_q == (state_q == Find));
      if (looked_q) begin
        assert (found_q == (fits_q && !frame.damaged));
        assert ({sa_index_q, sa_generation_q} == rule_sa_q);
      end
      if (state_q != Idle) assert (frame_valid);
      assert (judged <= 5'd8 && known <= 5'd8 && open_q == judged + known);
      if (inside_q && judged_q) begin
        assert (ahead_q < judged && verdict_q.octets == octets_q);
        assert (verdict_q.way == ToNobody || (verdict_q.way == ToCard && !damaged_q));
        assert (u_verdicts.memory[3'(5'(u_verdicts.read_q) + ahead_q)] == verdict_q);
      end
      if (inside_q && !judged_q) begin
        assert (ahead_q >= judged && ahead_q < open_q);
        assert (known_at == {damaged_q, octets_q});
      end
    end
  end
`endif

endmodule
