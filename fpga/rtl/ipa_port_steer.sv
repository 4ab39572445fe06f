// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// What comes from the wire: Ethernet frames, of which ESP with a known SPI is the card's, in UDP port
// 4500 (RFC 3948, 2.1) or not, over IPv4 or IPv6. NAT keepalives are dropped (2.3), and frames that came
// damaged or are longer than the card takes. Everything else is the host's: IKE, fragments, other
// protocols, unknown SPIs.
//
// A frame is stored until all of it is there, so that what it says of its length can be compared with
// what it has. Headers are followed up to LastHeader octets behind the Ethernet header; beyond that a
// frame is the host's.
//
// Promise: a beat a clock in and out; a verdict in four clocks, and one more for each IPv6 extension
// header. Frames leave unchanged, each once, by the exit of its own verdict (proved, given ipa_port_store and
// ipa_port_route), and those of an exit in the order in which they came, at the earliest eight clocks after
// their last beat. An exit that is not ready holds up the frames behind, and at last the wire; nothing is lost.
module ipa_port_steer
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS    = 4096,
  parameter  int unsigned BEATS  = 512,          // that are stored: two of the longest frames
  localparam int unsigned SaBits = $clog2(SAS)
) (
`ifdef FORMAL
  input  logic              some_i,
`endif
  input  logic              clk_i,
  input  logic              rst_ni,

  // From the wire
  input  logic              s_valid_i,
  output logic              s_ready_o,
  input  logic              s_last_i,
  input  logic              s_error_i,           // with the last beat
  input  logic [6:0]        s_bytes_i,           // of the beat, 1 to 64
  input  logic [511:0]      s_data_i,

  // ESP: the frame, whose it is, and where in it
  output logic              card_valid_o,
  input  logic              card_ready_i,
  output logic [SaBits-1:0] card_sa_o,
  output logic [7:0]        card_esp_at_o,       // octets in front of the ESP header
  output logic [14:0]       card_end_o,          // octets of the frame without Ethernet's padding

  // To the host
  output logic              host_valid_o,
  input  logic              host_ready_i,
  output logic              host_unknown_o,      // ESP, but with an unknown SPI

  output logic              m_last_o,            // of both
  output logic [6:0]        m_bytes_o,
  output logic [511:0]      m_data_o,
  output logic              dropped_o,           // a frame: for a clock

  // Management (see ipa_spi_table)
  input  logic              set_valid_i,
  output logic              set_ready_o,
  input  logic              set_add_i,
  input  logic [31:0]       set_spi_i,
  input  logic [SaBits-1:0] set_index_i,
  output logic              set_done_o,
  output logic              set_full_o,

  output port_counts_t      counts_o
);

  localparam int unsigned Ethernet   = 14;
  localparam int unsigned LastHeader = HeadOctets - 16;
  localparam logic [15:0] NatPort    = 16'd4500;

  typedef struct packed {
    way_e              way;
    logic              unknown;
    logic [SaBits-1:0] sa;
    logic [7:0]        esp_at;
    logic [14:0]       stop;
  } verdict_t;

  // -- In -----------------------------------------------------------------------------------------
  logic         beat_valid, beat_ready, beat_last, frame_valid, frame_ready;
  logic [6:0]   beat_bytes;
  logic [511:0] beat_data;
  stored_t      frame;
  ipa_port_store #(.SKIP(Ethernet), .BEATS(BEATS)) u_store (
    .clk_i, .rst_ni, .s_valid_i, .s_ready_o, .s_last_i, .s_error_i, .s_bytes_i, .s_data_i,
    .m_valid_o(beat_valid), .m_ready_i(beat_ready), .m_last_o(beat_last), .m_bytes_o(beat_bytes),
    .m_data_o(beat_data), .frame_valid_o(frame_valid), .frame_ready_i(frame_ready),
    .frame_o(frame)
  );

  // -- What it is ---------------------------------------------------------------------------------
  typedef enum logic [1:0] {Idle, Parse, Judge, Find} state_e;
  state_e      state_q;
  logic        start, parsed, verdict_in_ready;
  logic [16:0] len;
  facts_t      facts;
  assign len   = frame.octets < 15'(Ethernet) ? 17'd0 : 17'(frame.octets) - 17'(Ethernet);
  assign start = state_q == Idle && frame_valid;
  ipa_ip_parse u_parse (
    .clk_i, .rst_ni, .start_i(start), .head_i(frame.head), .len_i(len), .done_o(parsed),
    .facts_o(facts)
  );

  // Octets behind all headers, and the first of them.
  logic [127:0] behind;
  logic [31:0]  in_datagram;                     // first word of UDP's payload
  logic [16:0]  left, datagram;
  logic         is_ip, plain, esp, udp, keepalive;
  assign behind      = 128'(frame.head >> {facts.upper_at[6:0], 3'b0});
  assign in_datagram = behind[95:64];
  assign left        = facts.total - 17'(facts.upper_at);
  assign datagram    = left - 17'd8;
  assign is_ip       = frame.kind == 16'h0800 || frame.kind == 16'h86dd;
  assign plain       = is_ip && !facts.bad && !facts.fragment
                       && facts.upper_at <= 8'(LastHeader) && left >= 17'd8;
  assign esp         = plain && facts.upper == ProtocolEsp;
  assign udp         = plain && facts.upper == ProtocolUdp && swap16(behind[31:16]) == NatPort;
  assign keepalive   = udp && datagram == 17'd1 && in_datagram[7:0] == 8'hff;

  logic in_udp, looks, look_ready, found_valid, found;
  logic [SaBits-1:0] found_sa;
  logic [31:0] spi;
  assign in_udp = udp && datagram >= 17'd9 && in_datagram != '0;
  assign spi    = swap32(in_udp ? in_datagram : behind[31:0]);
  assign looks  = !frame.damaged && (esp || in_udp);
  ipa_spi_table #(.INDEX_BITS(SaBits), .PLACES(SAS)) u_spis (
    .clk_i, .rst_ni, .set_valid_i, .set_ready_o, .set_add_i, .set_spi_i, .set_index_i, .set_done_o,
    .set_full_o, .look_valid_i(state_q == Judge && looks && verdict_in_ready),
    .look_ready_o(look_ready), .look_spi_i(spi), .found_valid_o(found_valid), .found_o(found),
    .found_index_o(found_sa)
  );

  // -- What becomes of it -------------------------------------------------------------------------
  logic     verdict_in_valid;
  verdict_t verdict_in;
  assign verdict_in_valid = state_q == Find || (state_q == Judge && !looks);
  assign frame_ready      = verdict_in_valid && verdict_in_ready;
  assign dropped_o        = frame_ready && verdict_in.way == ToNobody;
  always_comb begin
    verdict_in.way     = ToHost;
    verdict_in.unknown = 1'b0;
    if (frame.damaged || keepalive) begin
      verdict_in.way = ToNobody;
    end else if (state_q == Find) begin
      verdict_in.way     = found ? ToCard : ToHost;
      verdict_in.unknown = !found;
    end
    verdict_in.sa     = found_sa;
    verdict_in.esp_at = 8'(Ethernet) + facts.upper_at + (in_udp ? 8'd8 : 8'd0);
    verdict_in.stop   = 15'(facts.total) + 15'(Ethernet);
  end
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle:    if (start) state_q <= Parse;
        Parse:   if (parsed) state_q <= Judge;
        Judge: begin
          if (looks && verdict_in_ready && look_ready) state_q <= Find;
          else if (!looks && verdict_in_ready)         state_q <= Idle;
        end
        default: state_q <= Idle;                // there was room when it was looked up
      endcase
    end
  end

  port_counts_t counts_q;
  assign counts_o = counts_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      counts_q <= '0;
    end else if (frame_ready) begin
      counts_q.received       <= counts_q.received + 64'd1;
      counts_q.received_bytes <= counts_q.received_bytes + 64'(frame.octets);
      if (frame.damaged)             counts_q.damaged    <= counts_q.damaged + 64'd1;
      else if (keepalive)            counts_q.keepalives <= counts_q.keepalives + 64'd1;
      else if (verdict_in.way == ToHost) counts_q.exceptions <= counts_q.exceptions + 64'd1;
      if (verdict_in.unknown)        counts_q.unknown_spi <= counts_q.unknown_spi + 64'd1;
    end
  end

  // -- Out ----------------------------------------------------------------------------------------
  logic       verdict_valid, verdict_ready;
  verdict_t   verdict;
  logic [3:0] unused_verdicts;
  ipa_fifo #(.WIDTH($bits(verdict_t)), .DEPTH(8)) u_verdicts (
    .clk_i, .rst_ni, .in_valid_i(verdict_in_valid), .in_ready_o(verdict_in_ready),
    .in_data_i(verdict_in), .out_valid_o(verdict_valid), .out_ready_i(verdict_ready),
    .out_data_o(verdict), .count_o(unused_verdicts)
  );
  ipa_port_route #(.WIDTH(519)) u_route (
    .s_valid_i(beat_valid), .s_ready_o(beat_ready), .s_last_i(beat_last),
    .s_data_i({beat_bytes, beat_data}), .verdict_valid_i(verdict_valid),
    .verdict_ready_o(verdict_ready), .verdict_way_i(verdict.way), .card_valid_o, .card_ready_i,
    .host_valid_o, .host_ready_i, .m_last_o, .m_data_o({m_bytes_o, m_data_o})
  );
  assign card_sa_o      = verdict.sa;
  assign card_esp_at_o  = verdict.esp_at;
  assign card_end_o     = verdict.stop;
  assign host_unknown_o = verdict.unknown;

  logic unused;
  assign unused = ^{found_valid, behind[127:96], behind[63:32], facts.protocol, facts.field,
                    facts.kept, facts.is_v6, facts.total[16:15], facts.later, unused_verdicts};

`ifdef FORMAL
  // One frame, any, is followed, from its last beat's coming: `ahead_q` frames leave before it. Verdicts of some
  // are there, then those of which what is known waits.
  logic       started_q = 1'b0, inside_q, left_q, judged_q, damaged_q, comes, leaves, out_last;
  logic [4:0] ahead_q, open_q, judged, known;
  verdict_t   verdict_q;
  logic [15:0] known_at;                         // damaged, octets
  assign comes    = u_store.take && u_store.ends;
  assign leaves   = beat_valid && beat_ready && beat_last;
  assign out_last = m_last_o && ((card_valid_o && card_ready_i) || (host_valid_o && host_ready_i));
  assign judged   = 5'(unused_verdicts);
  assign known    = 5'(u_store.unused_frames);
  assign known_at = u_store.u_frames.memory[3'(5'(u_store.u_frames.read_q) + ahead_q - judged)];
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni) begin
      inside_q <= 1'b0;
      left_q   <= 1'b0;
      open_q   <= '0;
    end else begin
      open_q <= open_q + 5'(comes) - 5'(leaves);
      if (some_i && comes && !inside_q && !left_q) begin
        inside_q  <= 1'b1;
        judged_q  <= 1'b0;
        ahead_q   <= open_q - 5'(leaves);
        damaged_q <= u_store.s_error_i || u_store.cut;
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
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      // A frame that leaves does so by one exit, or by none.
      assert (!(card_valid_o && host_valid_o));
      if (out_last) assert (leaves);
      if (leaves) assert (out_last == (verdict.way inside {ToCard, ToHost}) && open_q != 0);
      assert (dropped_o == (frame_ready && verdict_in.way == ToNobody));
      // It is the one of its own verdict; nothing leaves of what came damaged.
      if (inside_q && ahead_q == 0 && (card_valid_o || host_valid_o)) begin
        assert (judged_q && verdict == verdict_q && !damaged_q);
        assert (card_valid_o == (verdict_q.way == ToCard));
        if (card_valid_o) assert (card_sa_o == verdict_q.sa && card_end_o == verdict_q.stop);
      end
      // What is looked up has an answer, and room for it.
      if (state_q == Find) assert (found_valid && verdict_in_ready);

      // What induction needs to know.
      assert (judged <= 5'd8 && known <= 5'd8 && open_q == judged + known);
      if (inside_q && judged_q) begin
        assert (ahead_q < judged && (!damaged_q || verdict_q.way == ToNobody));
        assert (u_verdicts.memory[3'(5'(u_verdicts.read_q) + ahead_q)] == verdict_q);
      end
      if (inside_q && !judged_q) begin
        assert (ahead_q >= judged && ahead_q < open_q && known_at[15] == damaged_q);
      end
      if (state_q != Idle) assert (frame_valid);
    end
  end
`endif

endmodule
