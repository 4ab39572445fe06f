// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Says how each packet ended, in order, and what of it is written (RFC 4303, 3.4.3 and 3.4.4). Keeps
// what of inbound SAs moves: the window (RFC 6479's ring of words) and the counters.
//
// Promise: nothing of a packet that is not authentic, replayed, or badly padded is written. A number
// is accepted once at most. A sealed packet takes two clocks; an opened one six, and one more for each
// word that the window moves by, 32 at most.
module ipa_esp_verdict
  import ipa_card_pkg::*;
#(
  parameter  int unsigned SAS      = 4096,
  localparam int unsigned SaBits   = $clog2(SAS),
  localparam int unsigned WordBits = 5
) (
  input  logic              clk_i,
  input  logic              rst_ni,

  // Management: the state of an inbound SA, or a word of its window
  input  logic              state_valid_i,
  output logic              state_ready_o,
  input  logic              state_write_i,
  input  logic              state_is_word_i,
  input  logic [SaBits-1:0] state_index_i,
  input  logic [WordBits-1:0] state_word_i,
  input  inbound_t          state_i,             // a word is in its lowest bits
  output inbound_t          state_o,             // a clock after it was asked for
  output logic [63:0]       word_o,

  // A packet that could not be written counts for nothing
  input  logic              uncount_valid_i,
  output logic              uncount_ready_o,
  input  logic [SaBits-1:0] uncount_index_i,
  input  logic [14:0]       uncount_octets_i,

  // Copies for ipa_esp_plan
  output logic              top_write_o,
  output logic [SaBits-1:0] top_index_o,
  output logic [63:0]       top_o,
  output logic              word_write_o,
  output logic [SaBits+WordBits-1:0] word_index_o,
  output logic [63:0]       word_data_o,

  input  logic              order_valid_i,
  output logic              order_ready_o,
  input  order_t            order_i,
  input  logic              answer_valid_i,      // where there is work
  output logic              answer_ready_o,
  input  opened_t           answer_i,

  output logic              done_valid_o,
  input  logic              done_ready_i,
  output done_t             done_o,
  output logic              write_valid_o,
  input  logic              write_ready_i,
  output write_t            write_o,
  output logic              front_valid_o,       // headers that stay, for a write of them
  input  logic              front_ready_i,
  output logic [8*HeadOctets-1:0] front_o,
  output logic              event_valid_o,
  input  logic              event_ready_i,
  output card_event_t       event_o
);

  typedef enum logic [3:0] {Idle, Load, Word, Judge, Clear, Mark, Front, Push, Uncount} state_e;
  state_e state_q;

  job_t              job;
  logic              go, inbound;
  logic [SaBits-1:0] sa;
  assign job     = order_i.job;
  assign sa      = SaBits'(job.sa_index);
  // Whether the window has a say: not where the packet never came so far.
  assign inbound = order_i.work == Open
                   || (order_i.work == Drop && order_i.status == Ok);
  assign go      = state_q == Idle && !state_valid_i && !uncount_valid_i && order_valid_i
                   && (order_i.work == Drop || answer_valid_i);
  assign state_ready_o = state_q == Idle;

  // -- State --------------------------------------------------------------------------------------
  inbound_t          inbound_q, after_q, stored, store_data;
  logic              store, word_write;
  logic [SaBits-1:0] store_index, load_index;
  logic [SaBits+WordBits-1:0] word_index, word_load;
  logic [63:0]       word_data, word, word_q, number_q;
  ram_1w1r #(.WIDTH($bits(inbound_t)), .DEPTH(SAS)) u_inbound (
    .clk_i, .write_i(store), .waddr_i(store_index), .wdata_i(store_data), .raddr_i(load_index),
    .rdata_o(stored)
  );
  ram_1w1r #(.WIDTH(64), .DEPTH(SAS * 2 ** WordBits)) u_words (
    .clk_i, .write_i(word_write), .waddr_i(word_index), .wdata_i(word_data), .raddr_i(word_load),
    .rdata_o(word)
  );
  always_comb begin
    load_index = sa;
    if (state_valid_i)        load_index = state_index_i;
    else if (uncount_valid_i) load_index = uncount_index_i;
  end
  assign word_load = state_q == Idle ? {state_index_i, state_word_i} : {sa, number_q[6+:WordBits]};
  assign state_o   = stored;
  assign word_o    = word;
  assign top_write_o  = store;
  assign top_index_o  = store_index;
  assign top_o        = store_data.top;
  assign word_write_o = word_write;
  assign word_index_o = word_index;
  assign word_data_o  = word_data;

  // -- The packet inside --------------------------------------------------------------------------
  logic [14:0] text, payload;
  logic        pad_fits, parsed, parses;
  facts_t      inner;
  assign text     = order_i.octets - 15'd34;     // without header, IV, ICV, two octets of trailer
  assign payload  = text - 15'(answer_i.pad_len);
  assign pad_fits = text >= 15'(answer_i.pad_len);
  assign parses   = order_i.work == Open && !job.sa.transport;
  ipa_ip_parse u_parse (
    .clk_i, .rst_ni, .start_i(go && parses), .head_i(answer_i.head),
    .len_i(pad_fits ? 17'(payload) : 17'd0), .done_o(parsed), .facts_o(inner)
  );

  // -- Judgement ----------------------------------------------------------------------------------
  logic     hard_bytes, hard_packets, hard;
  place_e   seen;
  status_t  status, status_q;
  logic [14:0] kept_len, inner_len, inner_len_q;
  assign hard_bytes   = inbound_q.bytes >= job.sa.hard_bytes;
  assign hard_packets = inbound_q.packets >= job.sa.hard_packets;
  assign hard         = hard_bytes || hard_packets || job.sa.hard_time;
  assign seen         = place(inbound_q.top, job.sa.window, number_q);

  always_comb begin
    status   = Ok;
    kept_len = payload;
    if (hard)                                                    status = HardExpired;
    else if (seen == Old)                                        status = TooOld;
    else if (seen == Covered && word[number_q[5:0]])             status = Replayed;
    // The window moved while the packet was under way, and the packet counts into another subspace
    // now, whatever the early look has found.
    else if (number_q != order_i.number)                         status = BadIcv;
    else if (order_i.work == Drop)                               status = Replayed;
    else if (!answer_i.icv_good)                                 status = BadIcv;
    else if (!pad_fits || !answer_i.pad_good)                    status = BadPad;
    else if (job.sa.transport) begin
      kept_len = payload + 15'(order_i.facts.kept);
    end else if (answer_i.next_header inside {ProtocolIpv4, ProtocolIpv6}) begin
      kept_len = inner.total[14:0];
      if (inner.bad)                                                    status = BadIpHeader;
      else if (inner.is_v6 != (answer_i.next_header == ProtocolIpv6))   status = BadNextHeader;
    end else if (answer_i.next_header != ProtocolNone) begin
      status = BadNextHeader;
    end
  end
  assign inner_len = kept_len;

  inbound_t after;
  notices_t notices, notices_q;
  logic     newer, softly, soft_bytes, soft_packets;
  assign newer        = number_q > inbound_q.top;
  logic [63:0] bytes_after, packets_after;
  assign packets_after = inbound_q.packets + 64'd1;
  assign bytes_after   = inbound_q.bytes + 64'(kept_len);
  assign soft_bytes   = bytes_after >= job.sa.soft_bytes;
  assign soft_packets = packets_after >= job.sa.soft_packets;
  assign softly       = soft_bytes || soft_packets || job.sa.soft_time;
  always_comb begin
    after   = inbound_q;
    notices = '0;
    if (status == HardExpired) begin
      if (!inbound_q.told.hard_limit) begin
        after.told.hard_limit = 1'b1;
        notices.hard_bytes    = hard_bytes;
        notices.hard_packets  = hard_packets && !hard_bytes;
        notices.hard_time     = !hard_packets && !hard_bytes;
      end
    end else if (status == Ok) begin
      after.packets = packets_after;
      after.bytes   = bytes_after;
      if (newer)                       after.top    = number_q;
      if (number_q > inbound_q.number) after.number = number_q;
      if (softly && !inbound_q.told.soft_limit) begin
        after.told.soft_limit = 1'b1;
        notices.soft_bytes    = soft_bytes;
        notices.soft_packets  = soft_packets && !soft_bytes;
        notices.soft_time     = !soft_packets && !soft_bytes;
      end
    end
  end

  // -- The window moves ---------------------------------------------------------------------------
  logic [57:0] steps;
  logic [5:0]  left_q;                           // words to be cleared
  logic [WordBits-1:0] clear_q;
  logic        crossed_q, marks;
  assign steps = number_q[63:6] - inbound_q.top[63:6];
  assign marks = status == Ok && job.sa.window != '0;

  always_comb begin
    word_write = 1'b0;
    word_index = {sa, clear_q};
    word_data  = '0;
    if (state_q == Idle) begin
      word_write = state_valid_i && state_write_i && state_is_word_i;
      word_index = {state_index_i, state_word_i};
      word_data  = state_i[63:0];
    end else if (state_q == Clear) begin
      word_write = 1'b1;
    end else if (state_q == Mark) begin
      word_write = 1'b1;
      word_index = {sa, number_q[6+:WordBits]};
      word_data  = (crossed_q ? 64'b0 : word_q) | 64'd1 << number_q[5:0];
    end
  end

  // -- What is written ----------------------------------------------------------------------------
  status_t     final_status;
  logic        good, seals, keeps, patched;
  logic [31:0] offset;
  logic [14:0] out_len, stream_len;
  logic [7:0]  front, added, udp_octets, protocol;
  assign final_status = inbound ? status_q : order_i.status;
  assign good         = final_status inside {Ok, OkSoftExpired};
  assign seals        = order_i.work == Seal;
  assign keeps        = job.sa.transport || (seals && job.sa.outer);
  assign udp_octets   = job.sa.udp ? 8'd8 : 8'd0;
  assign front        = keeps ? order_i.facts.kept + (seals ? udp_octets : 8'd0) : 8'd0;
  assign added        = job.sa.transport ? udp_octets : front;
  always_comb begin
    protocol = answer_i.next_header;
    if (seals) protocol = job.sa.udp ? ProtocolUdp : ProtocolEsp;
  end
  assign stream_len   = seals ? order_i.octets + 15'd16 : inner_len_q - 15'(front);
  assign out_len      = seals ? order_i.octets + 15'd16 + 15'(front) : inner_len_q;
  // Headers move up to make room for ESP's, or down over them.
  logic [31:0] esp_at;
  assign esp_at = job.sa.transport || job.sa.outer
                  ? 32'(order_i.facts.upper_at) + 32'(udp_octets) : 32'd0;
  assign offset = seals ? job.offset - 32'd16 - 32'(added)
                  : job.offset + esp_at + 32'd16 - 32'(front);

  ipa_ip_patch u_patch (
    .clk_i, .start_i(state_q == Front && !patched), .head_i(order_i.head), .facts_i(order_i.facts),
    .protocol_i(protocol), .len_i(16'(out_len)), .udp_i(seals && job.sa.udp),
    .ports_i(order_i.ports), .head_o(front_o)
  );
  logic patched_q;
  assign patched = patched_q;

  // Of a buffer in pieces, offsets are what the pieces are found by. A frame of a port has an address of its own.
  localparam logic [31:0] Ethernet = 32'd14;
  logic [63:0] at;
  always_comb begin
    at = job.buffer + 64'(offset);
    if (job.gather) at = 64'(offset);
    if (job.port)   at = seals ? 64'(Ethernet) : '0;
  end
  logic push, front_push, has_event, has_work, has_write, writes;
  assign writes     = good && (stream_len != '0 || front != '0);
  assign has_event  = notices_q != '0;
  assign has_work   = order_i.work != Drop;
  // Its pieces are kept until then.
  assign has_write  = has_work || job.gather;
  assign front_push = state_q == Front && patched && write_ready_i && front_ready_i;
  assign push       = state_q == Push && done_ready_i && (write_ready_i || !has_write)
                      && (event_ready_i || !has_event);

  assign order_ready_o  = push;
  assign answer_ready_o = push && has_work;
  assign done_valid_o   = push;
  assign write_valid_o  = front_push || (push && has_write);
  assign front_valid_o  = front_push;
  assign event_valid_o  = push && has_event;

  always_comb begin
    write_o        = '0;
    write_o.gather = job.gather;
    write_o.port   = job.port;
    write_o.addr   = at;
    if (state_q == Front) begin
      write_o.front  = 1'b1;
      write_o.beats  = 9'((10'(front) + 10'd63) >> 6);
      write_o.octets = 15'(front);
      write_o.last   = stream_len == '0;
    end else begin
      write_o.addr   = at + 64'(front);
      write_o.beats  = seals ? 9'((16'(order_i.octets) + 16'd79) >> 6)
                             : 9'((16'(order_i.octets) + 16'd47) >> 6);
      if (!has_work) write_o.beats = '0;
      write_o.skip   = seals ? 6'd0 : 6'd16;
      write_o.octets = good ? stream_len : '0;
      write_o.last   = 1'b1;
    end

    done_o.job         = job;
    done_o.status      = final_status;
    done_o.writes      = writes && !job.port;
    done_o.number      = good ? order_i.number : '0;
    done_o.offset      = good ? offset : job.offset;
    done_o.len         = good ? out_len : '0;
    done_o.next_header = good && order_i.work == Open ? answer_i.next_header : '0;
    done_o.counted     = seals ? job.len : inner_len_q;

    event_o            = '0;
    event_o.kind       = Notice;
    event_o.what       = 16'(notices_q);
    event_o.index      = job.sa_index;
    event_o.generation = job.sa_generation;
  end

  always_comb begin
    store       = push && inbound;
    store_index = sa;
    store_data  = after_q;
    if (state_q == Idle) begin
      store       = state_valid_i && state_write_i && !state_is_word_i;
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

  // Headers go first, where they stay.
  state_e written;
  assign written = keeps ? Front : Push;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Idle;
    end else begin
      unique case (state_q)
        Idle: begin
          if (!state_valid_i && uncount_valid_i) state_q <= Uncount;
          else if (go && inbound)                state_q <= Load;
          else if (go && order_i.work == Seal)   state_q <= written;
          else if (go)                           state_q <= Push;
        end
        Load:    if (parsed || !parses) state_q <= Word;
        Word:    state_q <= Judge;
        Judge: begin
          if (status != Ok)                            state_q <= Push;
          else if (!marks)                             state_q <= written;
          else if (newer && steps > 58'd1)             state_q <= Clear;
          else                                         state_q <= Mark;
        end
        Clear:   if (left_q == 6'd1) state_q <= Mark;
        Mark:    state_q <= written;
        Front:   if (front_push) state_q <= Push;
        Push:    if (push) state_q <= Idle;
        Uncount: state_q <= Idle;
        default: state_q <= Idle;
      endcase
    end
    patched_q <= state_q == Front && !front_push;
    if (state_q == Idle) notices_q <= '0;
    if (state_q == Load) begin
      inbound_q <= stored;
      number_q  <= full_number(stored.top, job.sa.window, job.sa.esn, order_i.number[31:0]);
    end
    if (state_q == Judge) begin
      after_q     <= after;
      status_q    <= status == Ok && softly ? OkSoftExpired : status;
      notices_q   <= notices;
      inner_len_q <= inner_len;
      word_q      <= word;
      crossed_q   <= newer && steps != 0;
      // Words strictly between the old top's and the new one's; all, if it moves by a whole ring.
      left_q      <= steps > 58'd32 ? 6'd32 : 6'(steps) - 6'd1;
      clear_q     <= inbound_q.top[6+:WordBits] + 1'b1;
    end
    if (state_q == Clear) begin
      left_q  <= left_q - 6'd1;
      clear_q <= clear_q + 1'b1;
    end
  end

  logic unused;
  assign unused = ^{inner.fragment, inner.protocol, inner.field, inner.kept, inner.upper,
                    inner.upper_at, inner.later};

endmodule
