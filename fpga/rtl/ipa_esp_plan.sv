// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Decides what is done with a packet (RFC 4303, 3.3 and 3.4.2): headers, room, sequence number, and
// for an inbound one a first look at the window. Makes the outer IP header of a tunnel, DSCP, ECN and DF
// copied from inside (RFC 4301, 5.1.2.1; RFC 6040, 4.1). Keeps what of outbound SAs moves.
//
// Promise: a packet in five clocks, and one more for each IPv6 extension header that is followed. A
// number of a grant is given to one packet at most, and none outside of it. Packets of one SA see
// each other's numbers and counters, in order.
module ipa_esp_plan
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS      = 4096,
  localparam int unsigned SaBits   = $clog2(SAS),
  localparam int unsigned WordBits = 5           // words of a window: 32 of 64 bits
) (
  input  logic                    clk_i,
  input  logic                    rst_ni,

  // Management: the state of an outbound SA
  input  logic                    state_valid_i,
  output logic                    state_ready_o,
  input  logic                    state_write_i,
  input  logic [SaBits-1:0]       state_index_i,
  input  outbound_t               state_i,
  output outbound_t               state_o,       // a clock after it was asked for

  // A packet that could not be written counts for nothing
  input  logic                    uncount_valid_i,
  output logic                    uncount_ready_o,
  input  logic [SaBits-1:0]       uncount_index_i,
  input  logic [14:0]             uncount_octets_i,

  // Management: an SA's outer headers
  input  logic                    ends_write_i,
  input  logic [SaBits-1:0]       ends_index_i,
  input  ends_t                   ends_i,

  // Copies of what ipa_esp_verdict keeps
  input  logic                    top_write_i,
  input  logic [SaBits-1:0]       top_index_i,
  input  logic [63:0]             top_i,
  input  logic                    word_write_i,
  input  logic [SaBits+WordBits-1:0] word_index_i,
  input  logic [63:0]             word_i,

  input  logic                    job_valid_i,
  output logic                    job_ready_o,
  input  job_t                    job_i,
  input  logic                    head_valid_i,  // where there is data
  output logic                    head_ready_o,
  input  logic                    head_error_i,
  input  logic [8*HeadOctets-1:0] head_i,

  output logic                    order_valid_o,
  input  logic                    order_ready_i,
  output order_t                  order_o,
  output logic                    cut_valid_o,   // taken together with the order
  input  logic                    cut_ready_i,
  output cut_t                    cut_o,
  output logic                    frame_valid_o,
  input  logic                    frame_ready_i,
  output frame_t                  frame_o,
  output logic                    event_valid_o,
  input  logic                    event_ready_i,
  output card_event_t             event_o
);

  typedef enum logic [2:0] {Idle, Load, Word, Judge, Push, Uncount} state_e;
  state_e state_q;

  logic              go, waits;
  logic [SaBits-1:0] sa;
  assign sa            = SaBits'(job_i.sa_index);
  assign state_ready_o = state_q == Idle;
  assign waits         = job_i.has_data && !head_valid_i;
  assign go            = state_q == Idle && !state_valid_i && !uncount_valid_i && job_valid_i
                         && !waits;

  // -- State --------------------------------------------------------------------------------------
  outbound_t         outbound_q, after_q, stored;
  logic              store;
  logic [SaBits-1:0] store_index, load_index;
  outbound_t         store_data;
  logic [63:0]       top_q, top;
  ram_1w1r #(.WIDTH($bits(outbound_t)), .DEPTH(SAS)) u_outbound (
    .clk_i, .write_i(store), .waddr_i(store_index), .wdata_i(store_data), .raddr_i(load_index),
    .rdata_o(stored)
  );
  ram_1w1r #(.WIDTH(64), .DEPTH(SAS)) u_top (
    .clk_i, .write_i(top_write_i), .waddr_i(top_index_i), .wdata_i(top_i), .raddr_i(sa),
    .rdata_o(top)
  );
  ends_t       ends;
  ram_1w1r #(.WIDTH($bits(ends_t)), .DEPTH(SAS)) u_ends (
    .clk_i, .write_i(ends_write_i), .waddr_i(ends_index_i), .wdata_i(ends_i), .raddr_i(sa),
    .rdata_o(ends)
  );
  logic [63:0] number_q, word;
  ram_1w1r #(.WIDTH(64), .DEPTH(SAS * 2 ** WordBits)) u_words (
    .clk_i, .write_i(word_write_i), .waddr_i(word_index_i), .wdata_i(word_i),
    .raddr_i({sa, number_q[6+:WordBits]}), .rdata_o(word)
  );
  always_comb begin
    load_index = sa;
    if (state_valid_i)        load_index = state_index_i;
    else if (uncount_valid_i) load_index = uncount_index_i;
  end
  assign state_o = stored;

  // -- Headers ------------------------------------------------------------------------------------
  logic   behind_ip, parses, parsed;
  facts_t facts;
  assign behind_ip = job_i.sa.transport || job_i.sa.outer;
  assign parses    = job_i.has_data && (job_i.sa.outbound || behind_ip);
  ipa_ip_parse u_parse (
    .clk_i, .rst_ni, .start_i(go && parses), .head_i, .len_i(17'(job_i.len)), .done_o(parsed),
    .facts_o(facts)
  );

  // Where ESP starts in an inbound packet, and what it and a UDP header in front of it say.
  logic [7:0]   upper_at, udp_octets, esp_at;
  logic [127:0] upper;
  logic [63:0]  esp_header;
  assign udp_octets = job_i.sa.udp ? 8'd8 : 8'd0;
  assign upper_at   = behind_ip ? facts.upper_at : 8'd0;
  assign esp_at     = upper_at + udp_octets;
  assign upper      = 128'(head_i >> {upper_at[6:0], 3'b0});
  assign esp_header = job_i.sa.udp ? upper[127:64] : upper[63:0];
  logic [14:0] esp_octets, body, udp_len;
  assign esp_octets = job_i.len - 15'(esp_at);
  assign body       = esp_octets - 15'd32;
  assign udp_len    = job_i.len - 15'(upper_at);

  // Whether it came from the SA's peer.
  logic same_ends;
  always_comb begin
    if (facts.is_v6) same_ends = head_i[64+:256] == {ends.destination, ends.source};
    else             same_ends = head_i[96+:64] == {ends.destination[31:0], ends.source[31:0]};
    if (facts.is_v6 != job_i.sa.outer_v6) same_ends = 1'b0;
  end

  status_t located;
  always_comb begin
    located = Ok;
    if (job_i.numbered) begin
      located = WrongNumbering;
    end else if (behind_ip && (!job_i.has_data || facts.bad || facts.total != 17'(job_i.len)
                 || facts.upper_at > 8'(HeadOctets - 8) - udp_octets)) begin
      located = BadIpHeader;
    end else if (behind_ip && facts.fragment) begin
      located = Fragment;
    end else if (job_i.sa.outer && !same_ends) begin
      located = OuterMismatch;
    end else if (behind_ip && facts.upper != (job_i.sa.udp ? ProtocolUdp : ProtocolEsp)) begin
      located = OuterMismatch;
    end else if (job_i.sa.udp && udp_len < 15'd8) begin
      located = BadLength;
    end else if (job_i.sa.udp && upper[31:0] != ends.ports) begin
      located = OuterMismatch;
    end else if (job_i.sa.udp && swap16(upper[47:32]) != 16'(udp_len)) begin
      located = BadLength;
    end else if (job_i.len < 15'(esp_at) + 15'd8) begin
      located = BadLength;
    end else if (swap32(esp_header[31:0]) != job_i.sa.spi) begin
      located = OuterMismatch;
    end else if (esp_octets < 15'd34 || body[1:0] != 2'd0) begin
      located = BadLength;
    end
  end

  place_e seen;
  logic   refused;
  assign seen    = place(top_q, job_i.sa.window, number_q);
  assign refused = seen == Old || (seen == Covered && word[number_q[5:0]]);

  // -- Numbers and limits of an outbound packet ---------------------------------------------------
  logic [63:0] last, number;
  logic        hard_bytes, hard_packets, hard, dry;
  assign last         = job_i.sa.esn ? '1 : 64'hffff_ffff;
  assign hard_bytes   = outbound_q.bytes >= job_i.sa.hard_bytes;
  assign hard_packets = outbound_q.packets >= job_i.sa.hard_packets;
  assign hard         = hard_bytes || hard_packets || job_i.sa.hard_time;
  assign dry          = outbound_q.ended != '0 || outbound_q.next > outbound_q.last;
  assign number       = job_i.sa.numbered ? job_i.number : outbound_q.next;

  status_t numbered;
  always_comb begin
    numbered = Ok;
    if (hard)                                                     numbered = HardExpired;
    else if (job_i.numbered != job_i.sa.numbered)                 numbered = WrongNumbering;
    else if (job_i.sa.numbered && (number == 0 || number > last)) numbered = SequenceExhausted;
    else if (!job_i.sa.numbered && dry)                           numbered = SequenceExhausted;
  end

  // -- Room ---------------------------------------------------------------------------------------
  // What is put in front of header and IV, and where the packet ends in memory.
  facts_t      front_facts;
  logic [7:0]  kept, added, next_header;
  logic [14:0] payload, sealed, behind;
  logic [1:0]  pad;
  logic [18:0] tailroom;
  logic [64:0] memory_end;
  always_comb begin
    front_facts = facts;
    if (job_i.sa.outbound && !job_i.sa.transport) begin
      front_facts.is_v6 = job_i.sa.outer_v6;
      front_facts.field = job_i.sa.outer_v6 ? 8'd6 : 8'd9;
      front_facts.kept  = job_i.sa.outer_v6 ? 8'd40 : 8'd20;
    end
  end
  assign added       = udp_octets
                       + (job_i.sa.outer && !job_i.sa.transport ? front_facts.kept : 8'd0);
  assign kept        = job_i.sa.transport ? facts.kept : 8'd0;
  assign payload     = job_i.len - 15'(kept);
  assign pad         = 2'd2 - payload[1:0];      // payload, padding and two octets are whole words
  assign behind      = 15'd18 + 15'(pad);        // with the ICV
  assign sealed      = job_i.len + 15'd16 + 15'(added) + behind;
  assign memory_end  = {1'b0, job_i.buffer} + 65'(job_i.offset) + 65'(job_i.len) + 65'(behind);
  assign tailroom    = 19'(job_i.room) - 19'(job_i.offset[17:0]) - 19'(job_i.len);
  assign next_header = job_i.sa.transport ? facts.protocol
                                          : (facts.is_v6 ? ProtocolIpv6 : ProtocolIpv4);

  status_t framed;
  always_comb begin
    framed = Ok;
    if (!job_i.has_data || facts.bad || facts.total != 17'(job_i.len)) framed = BadIpHeader;
    else if (job_i.sa.transport && facts.fragment)                     framed = Fragment;
    else if (kept > 8'(HeadOctets) - udp_octets)                       framed = BadIpHeader;
    else if (tailroom < 19'(behind) || job_i.offset < 32'(LeadOctets) + 32'(added))
                                                                       framed = NoSpace;
    else if (sealed > 15'(MaxPacket))                                  framed = BadLength;
    // What is put behind the packet must not wrap around to other memory.
    else if (memory_end > {1'b1, 64'b0} && !job_i.gather)              framed = DmaFault;
  end

  // -- The outer header of a tunnel; ipa_ip_patch adds protocol, length and checksum ---------------
  localparam logic [7:0] OuterTtl = 8'd64;
  logic [7:0]   class_in;
  logic         dont_fragment;
  logic [319:0] outer_v4, outer_v6;
  logic [8*HeadOctets-1:0] front;
  assign class_in      = facts.is_v6 ? {head_i[3:0], head_i[15:12]} : head_i[15:8];
  assign dont_fragment = facts.is_v6 || head_i[54];
  assign outer_v4      = {160'b0, ends.destination[31:0], ends.source[31:0], 24'b0, OuterTtl, 9'b0,
                          dont_fragment, 38'b0, class_in, 8'h45};
  assign outer_v6      = {ends.destination, ends.source, OuterTtl, 40'b0, class_in[3:0], 8'h06,
                          class_in[7:4]};
  always_comb begin
    front = head_i;
    if (job_i.sa.outbound && !job_i.sa.transport) begin
      front[319:0] = job_i.sa.outer_v6 ? outer_v6 : outer_v4;
    end
  end

  // -- Judgement ----------------------------------------------------------------------------------
  status_t     status;
  work_e       work;
  notices_t    notices;
  outbound_t   after;
  logic        counts, alive;
  logic [63:0] left;
  assign left  = job_i.sa.esn ? ~number >> 2 : 64'hffff_ffff - number;
  assign alive = job_i.status == Ok && !(job_i.has_data && head_error_i);

  always_comb begin
    status  = job_i.status;
    work    = Drop;
    notices = '0;
    after   = outbound_q;
    counts  = 1'b0;
    if (job_i.status == Ok && !alive) begin
      status = DmaFault;
    end else if (alive && !job_i.sa.outbound) begin
      status = located;
      if (located == Ok && !refused) work = Open;
    end else if (alive) begin
      status = numbered == Ok ? framed : numbered;
      if (numbered == HardExpired && !outbound_q.told.hard_limit) begin
        after.told.hard_limit = 1'b1;
        notices.hard_bytes    = hard_bytes;
        notices.hard_packets  = hard_packets && !hard_bytes;
        notices.hard_time     = !hard_packets && !hard_bytes;
      end
      if (numbered == Ok && !job_i.sa.numbered) begin
        if (outbound_q.next == '1) after.ended = 16'd1;
        else                       after.next  = outbound_q.next + 64'd1;
        notices.grant_low = outbound_q.last - outbound_q.next <= outbound_q.low_mark
                            && !outbound_q.told.grant_low;
        notices.sequence_end    = number == last && !outbound_q.told.sequence_end;
        notices.sequence_ending = left <= 64'h4000_0000 && !outbound_q.told.sequence_ending;
        after.told.grant_low       = outbound_q.told.grant_low || notices.grant_low;
        after.told.sequence_end    = outbound_q.told.sequence_end || notices.sequence_end;
        after.told.sequence_ending = outbound_q.told.sequence_ending || notices.sequence_ending;
      end
      if (status == Ok) begin
        work   = Seal;
        counts = 1'b1;
        after.packets = outbound_q.packets + 64'd1;
        after.bytes   = outbound_q.bytes + 64'(job_i.len);
        if (number > outbound_q.number) after.number = number;
      end
    end
  end

  // Soft limits, by the counters with this packet.
  logic soft_bytes, soft_packets, is_soft;
  logic counts_q;
  assign soft_bytes   = after_q.bytes >= job_i.sa.soft_bytes;
  assign soft_packets = after_q.packets >= job_i.sa.soft_packets;
  assign is_soft         = counts_q && (soft_bytes || soft_packets || job_i.sa.soft_time);

  status_t   status_q;
  work_e     work_q;
  notices_t  notices_q, told;
  outbound_t final_state;
  always_comb begin
    told        = notices_q;
    final_state = after_q;
    if (is_soft && !after_q.told.soft_limit) begin
      final_state.told.soft_limit = 1'b1;
      told.soft_bytes             = soft_bytes;
      told.soft_packets           = soft_packets && !soft_bytes;
      told.soft_time              = !soft_packets && !soft_bytes;
    end
  end

  logic push, pushes, has_event;
  assign has_event = told != '0;
  assign push      = state_q == Push && order_ready_i && (cut_ready_i || !job_i.has_data)
                     && (frame_ready_i || work_q == Drop) && (event_ready_i || !has_event);
  assign pushes    = push && job_i.status == Ok && job_i.sa.outbound;

  always_comb begin
    store       = pushes;
    store_index = sa;
    store_data  = final_state;
    if (state_q == Idle) begin
      store       = state_valid_i && state_write_i;
      store_index = state_index_i;
      store_data  = state_i;
    end else if (state_q == Uncount) begin
      store              = 1'b1;
      store_index        = uncount_index_i;
      store_data         = stored;
      store_data.packets = stored.packets - 64'd1;
      store_data.bytes   = stored.bytes - 64'(uncount_octets_i);
    end
  end
  assign uncount_ready_o = state_q == Uncount;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle: begin
          if (!state_valid_i && uncount_valid_i) state_q <= Uncount;
          else if (go)                           state_q <= Load;
        end
        Load:    if (parsed || !parses) state_q <= Word;
        Word:    state_q <= Judge;
        Judge:   state_q <= Push;
        Push:    if (push) state_q <= Idle;
        Uncount: state_q <= Idle;
        default: state_q <= Idle;
      endcase
    end
    if (state_q == Load) begin
      outbound_q <= stored;
      top_q      <= top;
      number_q   <= full_number(top, job_i.sa.window, job_i.sa.esn, swap32(esp_header[63:32]));
    end
    if (state_q == Judge) begin
      after_q   <= after;
      status_q  <= status;
      work_q    <= work;
      notices_q <= notices;
      counts_q  <= counts;
    end
  end

  // -- What comes of it ---------------------------------------------------------------------------
  logic [63:0] number_out;
  logic [8:0]  skipped;
  logic [14:0] trailer_at, octets;
  assign number_out = work_q == Seal ? number : number_q;
  assign trailer_at = 15'd16 + payload;
  assign octets     = work_q == Seal ? trailer_at + 15'd2 + 15'(pad) : esp_octets;
  assign skipped    = work_q == Seal ? 9'(kept) : 9'(esp_at) + 9'(LeadOctets);

  assign job_ready_o   = push;
  assign head_ready_o  = push && job_i.has_data;
  assign order_valid_o = push;
  assign cut_valid_o   = push && job_i.has_data;
  assign frame_valid_o = push && work_q != Drop;
  assign event_valid_o = push && has_event;

  always_comb begin
    order_o.job    = job_i;
    order_o.work   = work_q;
    order_o.status = status_q == Ok && is_soft ? OkSoftExpired : status_q;
    order_o.number = number_out;
    order_o.octets = octets;
    order_o.facts  = front_facts;
    order_o.ports  = ends.ports;
    order_o.head   = front;

    cut_o.work   = work_q;
    cut_o.beats  = 9'((16'(job_i.len) + 16'(LeadOctets) + 16'd63) >> 6);
    cut_o.skip   = skipped[7:6];
    cut_o.shift  = skipped[5:0];
    cut_o.lines  = 9'((16'(octets) + 16'(skipped[5:0]) + 16'd63) >> 6);
    cut_o.octets = octets;

    frame_o.seal       = work_q == Seal;
    frame_o.esn        = job_i.sa.esn;
    frame_o.sa_index   = job_i.sa_index;
    frame_o.spi        = job_i.sa.spi;
    frame_o.number     = number_out;
    frame_o.iv         = job_i.sa.numbered ? job_i.iv : swap64(number_out);
    frame_o.octets     = octets;
    frame_o.trailer_at = trailer_at;
    unique case (pad)
      2'd0:    frame_o.trailer = {24'b0, next_header, 8'd0};
      2'd1:    frame_o.trailer = {16'b0, next_header, 8'd1, 8'd1};
      2'd2:    frame_o.trailer = {8'b0, next_header, 8'd2, 8'd2, 8'd1};
      default: frame_o.trailer = {next_header, 8'd3, 8'd3, 8'd2, 8'd1};
    endcase

    event_o            = '0;
    event_o.kind       = Notice;
    event_o.what       = 16'(told);
    event_o.index      = job_i.sa_index;
    event_o.generation = job_i.sa_generation;
    event_o.value      = outbound_q.last - outbound_q.next;
  end

  logic unused;
  assign unused = ^{skipped[8], body[14:2]};

endmodule
