// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Packs a transfer's lines, as they lie in memory, into beats that begin with its first octet.
//
// Promise: a line a clock in, as long as the exit is ready; beats of 64 octets but for the last one, each
// in the clock of the line that fills it, or in the next where that was its transfer's last.
// An error of any line is told with the last beat.
module dma_pack (
  input  logic         clk_i,
  input  logic         rst_ni,
  input  logic         s_valid_i,
  output logic         s_ready_o,
  input  logic         s_first_i,
  input  logic         s_last_i,
  input  logic         s_error_i,
  input  logic [5:0]   s_shift_i,                // the same for all of a transfer, like s_len_i
  input  logic [15:0]  s_len_i,
  input  logic [511:0] s_data_i,
  output logic         m_valid_o,
  input  logic         m_ready_i,
  output logic [511:0] m_data_o,
  output logic [6:0]   m_bytes_o,
  output logic         m_last_o,
  output logic         m_error_o
);

  // A held line has octets that did not leave yet; a finished one is its transfer's last.
  logic         held_q, finished_q, error_q;
  logic [5:0]   shift_q;
  logic [15:0]  left_q;                          // octets of the transfer that did not leave yet
  logic [511:0] held_data_q;

  // A line that begins a transfer and can't leave at once, because more of its beat is to come.
  logic        begins, flush, whole;
  logic [15:0] left, line_left;
  logic        error;
  assign begins    = s_first_i && s_shift_i != 0 && !s_last_i;
  assign flush     = held_q && finished_q;
  assign line_left = s_first_i ? s_len_i : left_q;
  assign left      = flush ? left_q : line_left;
  assign whole     = left > 16'd64;
  assign error     = flush ? error_q : (s_error_i || (!s_first_i && error_q));

  always_comb begin
    // Flushing needs no line; one that only begins needs no exit.
    m_valid_o = flush || (s_valid_i && !begins);
    s_ready_o = flush ? (begins && m_ready_i) : (begins || m_ready_i);
  end
  logic [1023:0] pair;
  logic [9:0]    by;
  assign by        = held_q ? {1'b0, shift_q, 3'b0} : {1'b0, s_shift_i, 3'b0};
  assign pair      = (held_q ? {s_data_i & {512{!flush}}, held_data_q} : {512'b0, s_data_i}) >> by;
  assign m_bytes_o = whole ? 7'd64 : left[6:0];
  assign m_last_o  = flush || (s_last_i && !whole);
  assign m_error_o = error && m_last_o;
  always_comb begin
    for (int i = 0; i < 64; i++) m_data_o[8*i+:8] = pair[8*i+:8] & {8{7'(i) < m_bytes_o}};
  end

  logic take, out;
  assign take = s_valid_i && s_ready_o;
  assign out  = m_valid_o && m_ready_i;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      held_q      <= 1'b0;
      finished_q  <= 1'b0;
      error_q     <= 1'b0;
      shift_q     <= '0;
      left_q      <= '0;
      held_data_q <= '0;
    end else begin
      if (out && flush) held_q <= 1'b0;
      if (take) begin
        held_data_q <= s_data_i;
        shift_q     <= s_shift_i;
        error_q     <= s_error_i || (!s_first_i && error_q);
        finished_q  <= s_last_i;
        left_q      <= begins ? s_len_i : (whole ? left - 16'd64 : '0);
        // What is left of this line waits for the next one, or to be flushed.
        held_q      <= begins || (s_shift_i != 0 && !s_first_i && !m_last_o);
      end
    end
  end

  logic unused_pair;
  assign unused_pair = ^pair[1023:512];

endmodule
