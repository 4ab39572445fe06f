// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Anti-replay window of one SA (RFC 4303, 3.4.3), as a ring of words of which a packet touches one
// (RFC 6479). A packet asks before its ICV is known, and marks after it has passed.
//
// Promise: seq_i's freshness in the same clock; a mark a clock. A number is accepted once at most,
// always if it is new and within WINDOW of the highest one or above it, and never below. All of
// this is proved.
module replay_window #(
  parameter int unsigned SEQ_BITS = 64,
  parameter int unsigned WINDOW   = 1024,
  parameter int unsigned WORD     = 64
) (
  input  logic                clk_i,
  input  logic                rst_ni,
  input  logic [SEQ_BITS-1:0] seq_i,
  output logic                fresh_o,           // would be accepted now
  input  logic                mark_i,            // seq_i passed authentication
  output logic                replay_o           // with mark_i: another one was faster
);

  // One word more than the window, so that the highest number's word is never the lowest one's.
  localparam int unsigned Words     = 2 ** $clog2(WINDOW / WORD + 1);
  localparam int unsigned IndexBits = $clog2(Words);
  localparam int unsigned BitBits   = $clog2(WORD);

  logic [WORD-1:0]     seen_q [Words];
  logic [SEQ_BITS-1:0] top_q;

  logic [IndexBits-1:0]        index;
  logic [BitBits-1:0]          place;
  logic                        newer, in_window;
  logic [SEQ_BITS-BitBits-1:0] advance;          // words that the top moves by
  assign {index, place} = seq_i[IndexBits+BitBits-1:0];
  assign newer          = seq_i > top_q;
  assign in_window      = !newer && (top_q - seq_i) < SEQ_BITS'(WINDOW);
  assign advance        = seq_i[SEQ_BITS-1:BitBits] - top_q[SEQ_BITS-1:BitBits];

  assign fresh_o  = seq_i != 0 && (newer || (in_window && !seen_q[index][place]));
  assign replay_o = mark_i && !fresh_o;

  // Words between the old top's and the new one's, both ends excluded but for the new one.
  logic [Words-1:0] passed;
  always_comb begin
    for (int i = 0; i < Words; i++) begin
      passed[i] = advance >= (SEQ_BITS - BitBits)'(Words)
          || IndexBits'(IndexBits'(i) - top_q[IndexBits+BitBits-1:BitBits] - IndexBits'(1))
             < IndexBits'(advance);
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      top_q <= '0;
      for (int i = 0; i < Words; i++) seen_q[i] <= '0;
    end else if (mark_i && fresh_o) begin
      if (newer) begin
        top_q <= seq_i;
        for (int i = 0; i < Words; i++) begin
          if (passed[i]) seen_q[i] <= '0;
        end
      end
      if (newer && advance != 0) seen_q[index] <= WORD'(1) << place;
      else                       seen_q[index] <= seen_q[index] | (WORD'(1) << place);
    end
  end

`ifdef FORMAL
  // `watched` is any one number: what seq_i is in reset. (1) It is accepted at most once; (2) it is
  // accepted whenever it was not seen and is inside or above the window; (3) never below;
  // (4) the top is the highest number accepted; (5) zero is no number.
  logic [SEQ_BITS-1:0] watched_q, best_q;
  logic                was_seen_q, started_q = 1'b0, in_reach;
  assign in_reach = watched_q <= top_q && top_q - watched_q < SEQ_BITS'(WINDOW);
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni) begin
      watched_q  <= seq_i;
      was_seen_q <= 1'b0;
      best_q     <= '0;
    end else if (mark_i && fresh_o) begin
      if (seq_i == watched_q) was_seen_q <= 1'b1;
      if (seq_i > best_q) best_q <= seq_i;
    end
  end
  logic watched_bit;
  assign watched_bit = seen_q[watched_q[BitBits+:IndexBits]][watched_q[BitBits-1:0]];
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      if (seq_i == watched_q && watched_q != 0) begin
        if (was_seen_q) assert (!fresh_o);                                      // (1)
        if (!was_seen_q && (watched_q > top_q || in_reach)) assert (fresh_o);     // (2)
        if (watched_q <= top_q && !in_reach) assert (!fresh_o);                   // (3)
      end
      assert (top_q == best_q);                                                 // (4)
      if (seq_i == 0) assert (!fresh_o);                                        // (5)
      // What induction needs to know: the bit tells the truth inside the window, and no bit above
      // the top is set in the top's own word.
      if (in_reach && watched_q != 0) assert (watched_bit == was_seen_q);
      if (watched_q > top_q) assert (!was_seen_q);
      if (watched_q > top_q && watched_q[SEQ_BITS-1:BitBits] == top_q[SEQ_BITS-1:BitBits])
        assert (!watched_bit);
    end
  end
`endif

endmodule
