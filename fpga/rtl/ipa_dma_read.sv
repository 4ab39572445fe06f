// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Reads transfers from the host's memory: many bursts in flight, answered in any order, delivered
// in order.
//
// The host's side is AXI-like: a line is 64 octets at a multiple of 64; a burst (of at most 512
// octets, within a page) is answered by its lines in order, mixed with those of other bursts. Each
// burst must be answered, by an error if need be.
//
// Promise: TAGS bursts in flight, 32 KiB with 64 of them; a line a clock. A burst is asked for a clock
// after its transfer at the earliest, and its octets leave three clocks after its last line, if none in
// front of it is missing, each in the clock of the line that fills its beat. A transfer's octets leave packed
// from octet 0 of its first beat on, in order of the requests. Whatever goes wrong is told with
// the transfer's last beat; its octets are worthless then. A transfer of no octets, or one that
// wraps around, must not be asked for. With LEAD, so many octets of no meaning come in front of each
// transfer that asks for it: room for a header, at the price of a clock where the transfer has none in its
// first line.
module ipa_dma_read #(
  parameter  int unsigned TAGS    = 64,          // a power of two
  parameter  int unsigned LEAD    = 0,           // 0 to 63
  localparam int unsigned TagBits = $clog2(TAGS)
) (
  input  logic               clk_i,
  input  logic               rst_ni,

  // What is wanted
  input  logic               req_valid_i,
  output logic               req_ready_o,
  input  logic [63:0]        req_addr_i,
  input  logic [15:0]        req_len_i,
  input  logic               req_lead_i,

  // What came
  output logic               m_valid_o,
  input  logic               m_ready_i,
  output logic [511:0]       m_data_o,
  output logic [6:0]         m_bytes_o,          // 64, fewer in the last beat
  output logic               m_last_o,
  output logic               m_error_o,          // with the last beat

  // To the host
  output logic               burst_valid_o,
  input  logic               burst_ready_i,
  output logic [63:0]        burst_addr_o,
  output logic [9:0]         burst_len_o,
  output logic [TagBits-1:0] burst_tag_o,

  // From the host
  input  logic               line_valid_i,
  input  logic [TagBits-1:0] line_tag_i,
  input  logic [511:0]       line_data_i,
  input  logic               line_last_i,        // of the burst
  input  logic               line_error_i
);

  localparam int unsigned BurstLines = 8;
  localparam int unsigned LineBits   = $clog2(BurstLines);

  typedef struct packed {
    logic              first;                    // burst of the transfer
    logic              last;
    logic              lead;                     // a line of no meaning comes first
    logic [LineBits:0] lines;
    logic [5:0]        shift;                    // the transfer's first octet in its first line
    logic [15:0]       len;
  } slot_t;

  // -- Bursts out ---------------------------------------------------------------------------------
  logic        split_valid, split_ready, split_last, bad;
  logic [63:0] split_addr;
  logic [9:0]  split_len;
  ipa_dma_split #(.ADDR_BITS(64), .LEN_BITS(16), .BURST(512), .PAGE(4096)) u_split (
    .clk_i, .rst_ni, .in_valid_i(req_valid_i), .in_ready_o(req_ready_o), .in_addr_i(req_addr_i),
    .in_len_i(req_len_i), .bad_o(bad), .out_valid_o(split_valid), .out_ready_i(split_ready),
    .out_addr_o(split_addr), .out_len_o(split_len), .out_last_o(split_last)
  );

  // The transfer that is being split.
  logic        first_q, lead_q;
  logic [5:0]  shift_q;
  logic [15:0] len_q;
  logic [5:0]  lead;
  assign lead = req_lead_i ? 6'(LEAD) : 6'd0;
  always_ff @(posedge clk_i) begin
    if (req_valid_i && req_ready_o) begin
      first_q <= 1'b1;
      lead_q  <= 6'(req_addr_i[5:0] - lead) > req_addr_i[5:0];
      shift_q <= req_addr_i[5:0] - lead;
      len_q   <= req_len_i + 16'(lead);
    end else if (split_valid && split_ready) begin
      first_q <= 1'b0;
    end
  end

  // Tags are a ring: given out at the head, taken back at the tail, in order.
  logic [TagBits:0] head_q, tail_q;
  logic             full, take, give;
  assign full          = TagBits'(head_q) == TagBits'(tail_q) && head_q != tail_q;
  assign burst_valid_o = split_valid && !full;
  assign split_ready   = burst_ready_i && !full;
  assign burst_addr_o  = split_addr;
  assign burst_len_o   = split_len;
  assign burst_tag_o   = TagBits'(head_q);
  assign take          = burst_valid_o && burst_ready_i;

  slot_t       slots [TAGS];
  slot_t       slot_in, slot;
  logic [LineBits:0] lines;
  assign lines   = (LineBits + 1)'((10'(split_addr[5:0]) + split_len + 10'd63) >> 6);
  assign slot_in = '{first: first_q, last: split_last, lead: first_q && lead_q, lines: lines,
                     shift: shift_q, len: len_q};
  always_ff @(posedge clk_i) begin
    if (take) slots[TagBits'(head_q)] <= slot_in;
  end
  assign slot = slots[TagBits'(tail_q)];

  // -- Lines in -----------------------------------------------------------------------------------
  logic [LineBits-1:0] place_q [TAGS];           // of a burst's next line
  logic [TAGS-1:0]     done_q, error_q;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      done_q  <= '0;
      error_q <= '0;
      for (int i = 0; i < TAGS; i++) place_q[i] <= '0;
    end else begin
      if (take) begin
        done_q[TagBits'(head_q)]  <= 1'b0;
        error_q[TagBits'(head_q)] <= 1'b0;
      end
      if (line_valid_i) begin
        place_q[line_tag_i] <= line_last_i ? '0 : place_q[line_tag_i] + 1'b1;
        if (line_last_i) done_q[line_tag_i] <= 1'b1;
        if (line_error_i) error_q[line_tag_i] <= 1'b1;
      end
    end
  end

  // -- Lines in order -----------------------------------------------------------------------------
  typedef struct packed {
    logic        first;                          // line of the transfer
    logic        last;
    logic        error;
    logic [5:0]  shift;
    logic [15:0] len;
  } line_t;

  logic [LineBits:0] read_q;                     // the burst's next line to be read
  logic              led_q, leads;               // the line in front has been told, is being told
  logic              read, read_last, fetched_q;
  line_t             read_line, fetched_line_q, line;
  logic [511:0]      fetched, data;
  logic              line_there, line_taken, unused_line_ready;
  logic [2:0]        line_count;
  assign leads     = slot.lead && !led_q;
  assign read_last = read_q == slot.lines - 1'b1 && !leads;
  assign read      = head_q != tail_q && done_q[TagBits'(tail_q)]
                     && line_count + 3'(fetched_q) < 3'd4;
  assign give      = read && read_last;
  assign read_line = '{first: slot.first && read_q == 0 && !led_q, last: slot.last && read_last,
                       error: error_q[TagBits'(tail_q)], shift: slot.shift, len: slot.len};
  ram_1w1r #(.WIDTH(512), .DEPTH(TAGS * BurstLines)) u_lines (
    .clk_i, .write_i(line_valid_i), .waddr_i({line_tag_i, place_q[line_tag_i]}),
    .wdata_i(line_data_i), .raddr_i({TagBits'(tail_q), LineBits'(read_q)}), .rdata_o(fetched)
  );
  always_ff @(posedge clk_i) begin
    fetched_line_q <= read_line;
    if (!rst_ni) begin
      head_q    <= '0;
      tail_q    <= '0;
      read_q    <= '0;
      led_q     <= 1'b0;
      fetched_q <= 1'b0;
    end else begin
      fetched_q <= read;
      if (read) led_q <= leads || (led_q && !read_last);
      if (take) head_q <= head_q + 1'b1;
      if (give) tail_q <= tail_q + 1'b1;
      if (read && !leads) read_q <= read_last ? '0 : read_q + 1'b1;
    end
  end
  ipa_fifo #(.WIDTH($bits(line_t) + 512), .DEPTH(4)) u_queue (
    .clk_i, .rst_ni, .in_valid_i(fetched_q), .in_ready_o(unused_line_ready),
    .in_data_i({fetched_line_q, fetched}), .out_valid_o(line_there), .out_ready_i(line_taken),
    .out_data_o({line, data}), .count_o(line_count)
  );

  // -- Packing ------------------------------------------------------------------------------------
  dma_pack u_pack (
    .clk_i, .rst_ni, .s_valid_i(line_there), .s_ready_o(line_taken), .s_first_i(line.first),
    .s_last_i(line.last), .s_error_i(line.error), .s_shift_i(line.shift), .s_len_i(line.len),
    .s_data_i(data), .m_valid_o, .m_ready_i, .m_data_o, .m_bytes_o, .m_last_o, .m_error_o
  );

  logic unused_bad;
  assign unused_bad = bad;

endmodule
