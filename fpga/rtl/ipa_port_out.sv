// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Packets of the ports on their way out: what was sealed to the wire, with an Ethernet header in front; what was
// opened to the host port, if a rule of its SA permits it (RFC 4301, 5.2).
//
// Lines come as ipa_dma_write makes them, with addresses within the frame: headers and what is behind them may
// share one.
//
// Promise: frames leave whole, each once, in order; nothing of a packet that was refused (proved, given
// ipa_port_store, ipa_rules and ipa_port_route). A sealed frame takes as many clocks as it has lines, and one for
// headers; an opened one as many as ipa_rules needs, too.
module ipa_port_out
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS       = 4096,
  parameter  int unsigned RULES     = MaxRules,
  localparam int unsigned SaBits    = $clog2(SAS),
  localparam int unsigned IndexBits = $clog2(RULES)
) (
`ifdef FORMAL
  input  logic                 some_i,
`endif
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // What is written
  input  logic                 line_valid_i,
  output logic                 line_ready_o,
  input  logic [8:0]           line_number_i,    // in its frame
  input  logic [511:0]         line_data_i,
  input  logic [63:0]          line_strobe_i,
  input  logic                 line_last_i,      // of the frame

  // What became of it, in order
  input  logic                 done_valid_i,
  output logic                 done_ready_o,
  input  logic                 done_good_i,
  input  logic                 done_wire_i,      // it came from the wire
  input  logic                 done_v6_i,        // of the outer header
  input  logic [7:0]           done_next_header_i,
  input  logic [14:0]          done_len_i,
  input  logic [31:0]          done_sa_index_i,
  input  logic [31:0]          done_sa_generation_i,

  output logic                 wire_valid_o,
  input  logic                 wire_ready_i,
  output logic                 host_valid_o,
  input  logic                 host_ready_i,
  output logic                 m_last_o,         // of both
  output logic [6:0]           m_bytes_o,
  output logic [511:0]         m_data_o,
  output logic                 dropped_o,        // a packet: for a clock

  // Management: the card's address, the wire's MTU, who takes an SA's packets on, rules
  input  logic [47:0]          mac_i,            // octet 0 in bits 7 to 0
  input  logic [15:0]          mtu_i,
  input  logic                 way_write_i,
  input  logic [SaBits-1:0]    way_index_i,
  input  logic                 way_known_i,
  input  logic [47:0]          way_mac_i,
  input  logic                 rule_write_i,
  input  logic [IndexBits-1:0] rule_index_i,
  input  rule_t                rule_i,
  input  logic [IndexBits:0]   rules_i,

  output logic [63:0]          wire_no_rule_o,
  output logic [63:0]          wire_refused_o,
  output logic [63:0]          host_refused_o,
  output logic [63:0]          too_big_o,
  output logic [63:0]          no_neighbour_o
);

  typedef struct packed {
    way_e         way;
    logic [111:0] ethernet;
  } verdict_t;

  // -- Lines to beats -----------------------------------------------------------------------------
  logic         acc_valid_q, acc_last_q, same, line, store_valid, store_ready;
  logic [8:0]   acc_number_q;
  logic [63:0]  acc_strobe_q;
  logic [511:0] acc_q, masked;
  logic [6:0]   acc_bytes;
  always_comb begin
    for (int i = 0; i < 64; i++) masked[8*i+:8] = line_data_i[8*i+:8] & {8{line_strobe_i[i]}};
    acc_bytes = 7'd1;
    for (int i = 0; i < 64; i++) if (acc_strobe_q[i]) acc_bytes = 7'(i + 1);
  end
  assign same         = acc_valid_q && !acc_last_q && line_number_i == acc_number_q;
  assign store_valid  = acc_valid_q && (acc_last_q || (line_valid_i && !same));
  assign line_ready_o = !acc_valid_q || same || store_ready;
  assign line         = line_valid_i && line_ready_o;
  always_ff @(posedge clk_i) begin
    if (!rst_ni)                         acc_valid_q <= 1'b0;
    else if (line)                       acc_valid_q <= 1'b1;
    else if (store_valid && store_ready) acc_valid_q <= 1'b0;
    if (line) begin
      acc_number_q <= line_number_i;
      acc_last_q   <= line_last_i;
      acc_q        <= same ? acc_q | masked : masked;
      acc_strobe_q <= same ? acc_strobe_q | line_strobe_i : line_strobe_i;
    end
  end

  logic         beat_valid, beat_ready, beat_last, frame_valid, frame_ready;
  logic [6:0]   beat_bytes;
  logic [511:0] beat_data;
  stored_t      frame;
  ipa_port_store u_store (
    .clk_i, .rst_ni, .s_valid_i(store_valid), .s_ready_o(store_ready), .s_last_i(acc_last_q),
    .s_error_i(1'b0), .s_bytes_i(acc_last_q ? acc_bytes : 7'd64), .s_data_i(acc_q),
    .m_valid_o(beat_valid), .m_ready_i(beat_ready), .m_last_o(beat_last), .m_bytes_o(beat_bytes),
    .m_data_o(beat_data), .frame_valid_o(frame_valid), .frame_ready_i(frame_ready),
    .frame_o(frame)
  );

  // -- Who takes it on ----------------------------------------------------------------------------
  logic        known;
  logic [47:0] mac;
  ipa_sa_ram #(.WIDTH(48), .DEPTH(SAS)) u_ways (
    .clk_i, .rst_ni, .write_i(way_write_i), .waddr_i(way_index_i), .there_i(way_known_i),
    .wdata_i(way_mac_i), .raddr_i(SaBits'(done_sa_index_i)), .there_o(known), .rdata_o(mac)
  );

  // -- Whether it may -----------------------------------------------------------------------------
  typedef enum logic [2:0] {Idle, Parse, Find, Judge} state_e;
  state_e state_q;
  logic   has_frame, start, opens, parsed, looks, looked, found, found_q, verdict_in_ready, ends;
  facts_t facts;
  flow_t  flow, flow_q;
  logic [31:0] unused_sa_index, unused_sa_generation;
  assign has_frame = done_good_i && done_len_i != '0;
  assign start     = state_q == Idle && done_valid_i && (!has_frame || frame_valid);
  assign opens     = has_frame && done_wire_i && done_next_header_i != ProtocolNone;
  ipa_ip_parse u_parse (
    .clk_i, .rst_ni, .start_i(start && opens), .head_i(frame.head), .len_i(17'(frame.octets)),
    .done_o(parsed), .facts_o(facts)
  );
  ipa_ip_flow u_flow (
    .head_i(frame.head), .facts_i(facts), .octets_i(17'(frame.octets)), .flow_o(flow)
  );
  assign looks = state_q == Parse && parsed;
  ipa_rules #(.RULES(RULES), .OF_SA(1'b1)) u_rules (
    .clk_i, .rst_ni, .write_i(rule_write_i), .index_i(rule_index_i), .rule_i, .count_i(rules_i),
    .start_i(looks), .flow_i(flow_q), .sa_index_i(done_sa_index_i),
    .sa_generation_i(done_sa_generation_i), .done_o(looked), .found_o(found),
    .sa_index_o(unused_sa_index), .sa_generation_o(unused_sa_generation)
  );
  assign ends = state_q == Judge && (verdict_in_ready || !has_frame);
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle:    if (start) state_q <= opens ? Parse : Judge;
        Parse:   if (parsed) state_q <= Find;
        Find:    if (looked) state_q <= Judge;
        Judge:   if (ends) state_q <= Idle;
        default: state_q <= Idle;
      endcase
    end
    if (looks) flow_q <= flow;
    if (looked) found_q <= found && !facts.bad;
  end

  // -- What becomes of it -------------------------------------------------------------------------
  logic     too_big, verdict_valid, verdict_ready, first_q;
  verdict_t verdict_in, verdict;
  logic [3:0]   unused_verdicts;
  logic [511:0] out_data;
  assign too_big = 16'(done_len_i) > mtu_i;
  always_comb begin
    verdict_in.way = ToNobody;
    if (done_wire_i && opens && found_q)             verdict_in.way = ToHost;
    if (!done_wire_i && has_frame && !too_big && known) verdict_in.way = ToCard;
    verdict_in.ethernet = {done_v6_i ? 16'hdd86 : 16'h0008, mac_i, mac};
  end
  assign done_ready_o = ends;
  assign frame_ready  = ends && has_frame;
  assign dropped_o    = ends && verdict_in.way == ToNobody;
  ipa_fifo #(.WIDTH($bits(verdict_t)), .DEPTH(8)) u_verdicts (
    .clk_i, .rst_ni, .in_valid_i(frame_ready), .in_ready_o(verdict_in_ready),
    .in_data_i(verdict_in), .out_valid_o(verdict_valid), .out_ready_i(verdict_ready),
    .out_data_o(verdict), .count_o(unused_verdicts)
  );
  // Its exit for the card is the wire here.
  ipa_port_route #(.WIDTH(519)) u_route (
    .s_valid_i(beat_valid), .s_ready_o(beat_ready), .s_last_i(beat_last),
    .s_data_i({beat_bytes, beat_data}), .verdict_valid_i(verdict_valid),
    .verdict_ready_o(verdict_ready), .verdict_way_i(verdict.way), .card_valid_o(wire_valid_o),
    .card_ready_i(wire_ready_i), .host_valid_o, .host_ready_i, .m_last_o,
    .m_data_o({m_bytes_o, out_data})
  );
  always_comb begin
    m_data_o = out_data;
    if (first_q && verdict.way == ToCard) m_data_o[111:0] = verdict.ethernet;
  end
  always_ff @(posedge clk_i) begin
    if (!rst_ni)                       first_q <= 1'b1;
    else if (beat_valid && beat_ready) first_q <= beat_last;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      wire_no_rule_o <= '0;
      wire_refused_o <= '0;
      host_refused_o <= '0;
      too_big_o      <= '0;
      no_neighbour_o <= '0;
    end else if (ends) begin
      if (done_good_i && done_wire_i && done_next_header_i != ProtocolNone && !(opens && found_q))
        wire_no_rule_o <= wire_no_rule_o + 64'd1;
      if (!done_good_i && done_wire_i)             wire_refused_o <= wire_refused_o + 64'd1;
      if (!done_good_i && !done_wire_i)            host_refused_o <= host_refused_o + 64'd1;
      if (!done_wire_i && has_frame && too_big)    too_big_o      <= too_big_o + 64'd1;
      if (!done_wire_i && has_frame && !too_big && !known)
        no_neighbour_o <= no_neighbour_o + 64'd1;
    end
  end

  logic unused;
  assign unused = ^{frame.kind, frame.damaged, facts};

`ifdef FORMAL
  // Of the frame whose lines come: the number of the last one, octets of that number, beats that are stored.
  logic         started_q = 1'b0, line_held_q, done_held_q, begun_q, line_last_q, stored;
  logic [8:0]   number_q, beats_q;
  logic [511:0] sum_q;
  logic [586:0] line_q;
  logic [103:0] done_q;
  // One frame, any, is followed, from its last beat's coming: `ahead_q` frames leave before it. Verdicts of some
  // are there, then those of which what is known waits.
  logic         inside_q, left_q, judged_q, comes, leaves, within_q, looked_q, fits_q;
  logic         sealed, opened;                  // what may leave of what is done
  logic         sealed_q, opened_q;
  logic [4:0]   ahead_q, open_q, judged, known_frames;
  verdict_t     verdict_q;
  assign stored = store_valid && store_ready;
  assign comes  = u_store.take && u_store.ends;
  assign leaves = beat_valid && beat_ready && beat_last;
  assign judged = 5'(unused_verdicts);
  assign known_frames = 5'(u_store.unused_frames);
  assign sealed = done_good_i && !done_wire_i && done_len_i != 0 && 16'(done_len_i) <= mtu_i
                  && known;
  assign opened = done_good_i && done_wire_i && done_len_i != 0
                  && done_next_header_i != ProtocolNone && looked_q && fits_q;
  always_ff @(posedge clk_i) begin
    started_q   <= 1'b1;
    line_held_q <= rst_ni && line_valid_i && !line_ready_o;
    line_q      <= {line_number_i, line_last_i, line_strobe_i, line_data_i};
    done_held_q <= rst_ni && done_valid_i && !done_ready_o;
    done_q      <= {done_good_i, done_wire_i, done_v6_i, done_next_header_i, done_len_i,
                    done_sa_index_i, done_sa_generation_i};
    if (!rst_ni) begin
      begun_q  <= 1'b0;
      beats_q  <= '0;
      inside_q <= 1'b0;
      left_q   <= 1'b0;
      within_q <= 1'b0;
      looked_q <= 1'b0;
      open_q   <= '0;
    end else begin
      if (line) begun_q <= !line_last_i;
      if (stored) beats_q <= acc_last_q ? '0 : beats_q + 9'd1;
      if (beat_valid && beat_ready) within_q <= !beat_last;
      looked_q <= looked || (looked_q && !ends);
      open_q   <= open_q + 5'(comes) - 5'(leaves);
      if (some_i && comes && !inside_q && !left_q) begin
        inside_q <= 1'b1;
        judged_q <= 1'b0;
        ahead_q  <= open_q - 5'(leaves);
      end else if (inside_q) begin
        if (leaves) begin
          inside_q <= ahead_q != 0;
          left_q   <= ahead_q == 0;
          ahead_q  <= ahead_q - 1'b1;
        end
        if (frame_ready && !judged_q && ahead_q == judged) begin
          judged_q  <= 1'b1;
          verdict_q <= verdict_in;
          sealed_q  <= sealed;
          opened_q  <= opened;
        end
      end
    end
    if (looked) fits_q <= found && !facts.bad;
    if (line) begin
      number_q    <= line_number_i;
      line_last_q <= line_last_i;
      sum_q       <= begun_q && line_number_i == number_q ? sum_q | masked : masked;
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      // Lines and what was done stay until they are taken. Lines of a frame follow each other.
      if (line_held_q) begin
        assume (line_valid_i);
        assume (line_q == {line_number_i, line_last_i, line_strobe_i, line_data_i});
      end
      if (done_held_q) begin
        assume (done_valid_i);
        assume (done_q == {done_good_i, done_wire_i, done_v6_i, done_next_header_i, done_len_i,
                           done_sa_index_i, done_sa_generation_i});
      end
      if (line_valid_i && !begun_q) assume (line_number_i == 0);
      if (line_valid_i && begun_q) begin
        assume (line_number_i == number_q || (line_number_i == number_q + 9'd1));
        assume (line_number_i >= number_q);
      end

      // A beat for each number, of all its lines.
      if (stored) begin
        assert (beats_q == number_q && acc_q == sum_q && acc_last_q == line_last_q);
      end
      // Of a refused packet there is no frame that could leave, nor a verdict.
      if (frame_ready) assert (done_valid_i && done_ready_o && done_good_i && frame_valid);
      if (frame_ready) assert ((verdict_in.way == ToCard) == sealed);
      if (frame_ready) assert ((verdict_in.way == ToHost) == opened);
      assert (dropped_o == (done_valid_i && done_ready_o && !(has_frame && (sealed || opened))));
      // A frame leaves whole, by the exit of its own verdict, or not at all.
      assert (!(wire_valid_o && host_valid_o));
      if (leaves) assert (open_q != 0);
      if (inside_q && ahead_q == 0 && wire_valid_o) assert (judged_q && sealed_q);
      if (inside_q && ahead_q == 0 && host_valid_o) assert (judged_q && opened_q);
      if (inside_q && ahead_q == 0 && judged_q && beat_valid) begin
        assert (verdict == verdict_q && wire_valid_o == sealed_q && host_valid_o == opened_q);
      end
      // Unchanged, but for the Ethernet header.
      if (wire_valid_o && !within_q) begin
        assert (m_data_o == {beat_data[511:112], verdict.ethernet});
      end else if (wire_valid_o || host_valid_o) begin
        assert (m_data_o == beat_data);
      end

      // What induction needs to know.
      assert (acc_valid_q || (!begun_q && beats_q == 0));
      if (acc_valid_q) begin
        assert (acc_q == sum_q && acc_number_q == number_q && acc_last_q == line_last_q);
        assert (beats_q == number_q && begun_q == !acc_last_q);
      end
      assert (first_q == !within_q);
      if (state_q != Idle) assert (done_valid_i && done_held_q && (!has_frame || frame_valid));
      if (state_q inside {Parse, Find}) assert (opens && !looked_q);
      if (state_q == Idle) assert (!looked_q);
      if (state_q == Judge) assert (looked_q == opens && (!opens || found_q == fits_q));
      assert (state_q <= Judge && u_rules.busy_q == (state_q == Find));
      assert (judged <= 5'd8 && known_frames <= 5'd8 && open_q == judged + known_frames);
      if (inside_q && judged_q) begin
        assert (ahead_q < judged && verdict_q.way <= ToHost);
        assert ((verdict_q.way == ToCard) == sealed_q && (verdict_q.way == ToHost) == opened_q);
        assert (u_verdicts.memory[3'(5'(u_verdicts.read_q) + ahead_q)] == verdict_q);
      end
      if (inside_q && !judged_q) assert (ahead_q >= judged && ahead_q < open_q);
    end
  end
`endif

endmodule
