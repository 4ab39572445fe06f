// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// First in, first out.
//
// Promise: what enters leaves once, in order; out_data_o is the oldest entry whenever out_valid_o is
// high, one clock after it entered at the earliest. in_ready_o is low only with DEPTH entries inside.
module ipa_fifo #(
  parameter  int unsigned WIDTH   = 64,
  parameter  int unsigned DEPTH   = 16,          // a power of two
  localparam int unsigned PtrBits = $clog2(DEPTH)
) (
  input  logic               clk_i,
  input  logic               rst_ni,
  input  logic               in_valid_i,
  output logic               in_ready_o,
  input  logic [WIDTH-1:0]   in_data_i,
  output logic               out_valid_o,
  input  logic               out_ready_i,
  output logic [WIDTH-1:0]   out_data_o,
  output logic [PtrBits:0]   count_o
);

  if (DEPTH < 2 || (DEPTH & (DEPTH - 1)) != 0) begin : gen_bad_depth
    $fatal(1, "DEPTH is not a power of two");
  end

  logic [WIDTH-1:0] memory [DEPTH];
  logic [PtrBits:0] write_q, read_q;
  logic             push, pop;

  assign count_o     = write_q - read_q;
  assign in_ready_o  = count_o != (PtrBits + 1)'(DEPTH);
  assign out_valid_o = write_q != read_q;
  assign out_data_o  = memory[read_q[PtrBits-1:0]];
  assign push        = in_valid_i && in_ready_o;
  assign pop         = out_valid_o && out_ready_i;

  always_ff @(posedge clk_i) begin
    if (push) memory[write_q[PtrBits-1:0]] <= in_data_i;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      write_q <= '0;
      read_q  <= '0;
    end else begin
      if (push) write_q <= write_q + 1'b1;
      if (pop)  read_q <= read_q + 1'b1;
    end
  end

`ifdef FORMAL
  // One entry, any, is followed: `ahead_q` entries leave before it.
  logic             follow, started_q = 1'b0, inside_q, left_q;
  logic [PtrBits:0] ahead_q;
  logic [WIDTH-1:0] followed_q;
  assign follow = in_data_i[0];
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni) begin
      inside_q <= 1'b0;
      left_q   <= 1'b0;
      ahead_q  <= '0;
    end else begin
      if (push && follow && !inside_q && !left_q) begin
        inside_q   <= 1'b1;
        followed_q <= in_data_i;
        ahead_q    <= count_o - (PtrBits + 1)'(pop);
      end
      if (inside_q && pop) begin
        if (ahead_q == 0) begin
          inside_q <= 1'b0;
          left_q   <= 1'b1;
        end else begin
          ahead_q <= ahead_q - 1'b1;
        end
      end
    end
  end
  always_ff @(posedge clk_i) begin
    if (!started_q) assume (!rst_ni);
    else if (rst_ni) begin
      assert (count_o <= (PtrBits + 1)'(DEPTH));
      if (inside_q) begin
        assert (out_valid_o && ahead_q < count_o);
        assert (memory[PtrBits'(read_q + ahead_q)] == followed_q);
        if (ahead_q == 0) assert (out_data_o == followed_q);
      end
      assert (in_ready_o || count_o == (PtrBits + 1)'(DEPTH));
      cover (left_q && count_o == (PtrBits + 1)'(DEPTH));
    end
  end
`endif

endmodule
