// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Walks the pieces of a buffer, and names the memory that holds so many of its octets from an offset on,
// run by run.
//
// Promise: the runs cover what was asked for, in order and without gap or overlap; each lies within
// its piece, and no piece behind the one that holds the last octet is looked at (proved). A run, or a piece in
// front of the first one, in two clocks.
module ipa_pieces #(
  parameter  int unsigned PIECES    = 16,
  parameter  int unsigned ADDR_BITS = 64,
  parameter  int unsigned LEN_BITS  = 18,        // of a buffer
  parameter  int unsigned RUN_BITS  = 15,        // of what is asked for
  localparam int unsigned IndexBits = $clog2(PIECES)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,

  // What is wanted: at least one octet, all of them within the pieces
  input  logic                 start_i,          // while it rests
  input  logic [LEN_BITS-1:0]  offset_i,
  input  logic [RUN_BITS-1:0]  octets_i,

  // The pieces: a memory that answers a clock later
  output logic [IndexBits-1:0] index_o,
  input  logic [ADDR_BITS-1:0] piece_addr_i,
  input  logic [LEN_BITS-1:0]  piece_len_i,

  output logic                 run_valid_o,
  input  logic                 run_ready_i,
  output logic [ADDR_BITS-1:0] run_addr_o,
  output logic [RUN_BITS-1:0]  run_octets_o,
  output logic                 run_last_o
);

  typedef enum logic [1:0] {Rest, Look, Have} state_e;
  state_e               state_q;
  logic [IndexBits-1:0] index_q;
  logic [LEN_BITS-1:0]  skip_q, here;            // to be skipped; of the piece behind that
  logic [RUN_BITS-1:0]  left_q;
  logic                 skips, run;
  assign skips        = skip_q >= piece_len_i;
  assign here         = piece_len_i - skip_q;
  assign index_o      = index_q;
  assign run_valid_o  = state_q == Have && !skips;
  assign run_addr_o   = piece_addr_i + ADDR_BITS'(skip_q);
  assign run_last_o   = LEN_BITS'(left_q) <= here;
  assign run_octets_o = run_last_o ? left_q : RUN_BITS'(here);
  assign run          = run_valid_o && run_ready_i;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Rest;
    end else begin
      unique case (state_q)
        Rest:    if (start_i) state_q <= Look;
        Look:    state_q <= Have;
        Have: begin
          if (skips)    state_q <= Look;
          else if (run) state_q <= run_last_o ? Rest : Look;
        end
        default: state_q <= Rest;
      endcase
    end
    if (state_q == Rest) begin
      index_q <= '0;
      skip_q  <= offset_i;
      left_q  <= octets_i;
    end else if (state_q == Have && (skips || run)) begin
      index_q <= index_q + 1'b1;
      skip_q  <= skips ? skip_q - piece_len_i : '0;
      if (run) left_q <= left_q - run_octets_o;
    end
  end

`ifdef FORMAL
  // How far it has come: octets of the pieces in front, and of what was asked for.
  localparam int unsigned SumBits = LEN_BITS + IndexBits + 1;
  logic                 started_q = 1'b0, held_q;
  logic [SumBits-1:0]   passed_q, sent_q, offset_q, octets_q, size;
  logic [IndexBits-1:0] index_before_q, last_q;  // the piece that holds the last octet
  logic [ADDR_BITS-1:0] addr_q;
  logic [LEN_BITS-1:0]  len_q;
  always_ff @(posedge clk_i) begin
    started_q      <= 1'b1;
    index_before_q <= index_o;
    addr_q         <= piece_addr_i;
    len_q          <= piece_len_i;
    held_q         <= rst_ni && state_q == Have;
    if (!rst_ni || state_q == Rest) begin
      passed_q <= '0;
      sent_q   <= '0;
      offset_q <= SumBits'(offset_i);
      octets_q <= SumBits'(octets_i);
      last_q   <= piece_addr_i[IndexBits-1:0];   // any
    end else if (state_q == Have && (skips || run)) begin
      passed_q <= passed_q + SumBits'(piece_len_i);
      if (run) sent_q <= sent_q + SumBits'(run_octets_o);
    end
  end
  assign size = passed_q + SumBits'(piece_len_i);
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      if (start_i) assume (octets_i != 0);
      // A piece stays, has octets, and doesn't wrap around.
      if (held_q && index_o == index_before_q) begin
        assume (piece_addr_i == addr_q && piece_len_i == len_q);
      end
      assume (piece_len_i != 0 && piece_addr_i <= ~ADDR_BITS'(piece_len_i));
      if (state_q == Have) begin
        if (index_q == last_q) assume (size >= offset_q + octets_q);
        if (index_q < last_q)  assume (size < offset_q + octets_q);
        assume (size <= SumBits'({1'b0, {LEN_BITS{1'b1}}}));
      end

      if (run_valid_o) begin
        // The octet of the buffer that comes next is where the run begins.
        assert (run_addr_o - piece_addr_i == ADDR_BITS'(offset_q + sent_q - passed_q));
        assert (run_octets_o != 0 && SumBits'(run_octets_o) + sent_q <= octets_q);
        assert (SumBits'(run_addr_o - piece_addr_i) + SumBits'(run_octets_o)
                <= SumBits'(piece_len_i));
        assert (run_last_o == (SumBits'(run_octets_o) + sent_q == octets_q));
      end
      if (state_q != Rest) begin
        assert (index_q <= last_q);
        // What induction needs to know.
        assert (passed_q + SumBits'(skip_q) == offset_q + sent_q);
        assert (sent_q + SumBits'(left_q) == octets_q && left_q != 0);
        assert (passed_q < offset_q + octets_q);
        assert (octets_q < SumBits'(1 << RUN_BITS) && offset_q < SumBits'(1 << LEN_BITS));
        assert (sent_q <= octets_q);
      end
    end
  end
`endif

endmodule
