// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Splits a transfer into bursts that PCI Express allows: none crosses a boundary of PAGE octets, none
// is longer than BURST, and all but the first start at a multiple of BURST.
//
// Promise: the bursts cover the transfer, in order and without gap or overlap (proved); one burst a
// clock, the first one a clock after its transfer. A transfer of no octets gives no burst and is refused with bad_o, as is one that wraps around.
module ipa_dma_split #(
  parameter  int unsigned ADDR_BITS = 64,
  parameter  int unsigned LEN_BITS  = 16,
  parameter  int unsigned BURST     = 512,       // powers of two, BURST <= PAGE
  parameter  int unsigned PAGE      = 4096,
  localparam int unsigned BurstBits = $clog2(BURST + 1)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,
  input  logic                 in_valid_i,
  output logic                 in_ready_o,
  input  logic [ADDR_BITS-1:0] in_addr_i,
  input  logic [LEN_BITS-1:0]  in_len_i,
  output logic                 bad_o,            // with in_valid_i and in_ready_o
  output logic                 out_valid_o,
  input  logic                 out_ready_i,
  output logic [ADDR_BITS-1:0] out_addr_o,
  output logic [BurstBits-1:0] out_len_o,
  output logic                 out_last_o
);

  localparam int unsigned OffsetBits = $clog2(BURST);

  if (BURST > PAGE || (BURST & (BURST - 1)) != 0 || (PAGE & (PAGE - 1)) != 0) begin : gen_bad_size
    $fatal(1, "BURST and PAGE are powers of two, and BURST is the smaller one");
  end

  logic [ADDR_BITS-1:0] addr_q;
  logic [LEN_BITS-1:0]  left_q;

  // Up to the next multiple of BURST, of which the page boundaries are some.
  logic [BurstBits-1:0] room;
  assign room        = BurstBits'(BURST) - BurstBits'(addr_q[OffsetBits-1:0]);
  assign out_last_o  = left_q <= LEN_BITS'(room);
  assign out_len_o   = out_last_o ? BurstBits'(left_q) : room;
  assign out_addr_o  = addr_q;
  assign out_valid_o = left_q != 0;

  // The last octet's address must not be below the first one's.
  logic [ADDR_BITS-1:0] end_addr;
  assign end_addr   = in_addr_i + ADDR_BITS'(in_len_i) - 1'b1;
  assign bad_o      = in_len_i == 0 || end_addr < in_addr_i;
  assign in_ready_o = left_q == 0 || (out_ready_i && out_last_o);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      addr_q <= '0;
      left_q <= '0;
    end else if (in_valid_i && in_ready_o) begin
      addr_q <= in_addr_i;
      left_q <= bad_o ? '0 : in_len_i;
    end else if (out_valid_o && out_ready_i) begin
      addr_q <= addr_q + ADDR_BITS'(out_len_o);
      left_q <= left_q - LEN_BITS'(out_len_o);
    end
  end

`ifdef FORMAL
  // What was asked for, and how much of it went out.
  logic                 started_q = 1'b0;
  logic [ADDR_BITS-1:0] base_q;
  logic [LEN_BITS-1:0]  len_q, sent_q;
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni) begin
      len_q  <= '0;
      sent_q <= '0;
      base_q <= '0;
    end else if (in_valid_i && in_ready_o && !bad_o) begin
      base_q <= in_addr_i;
      len_q  <= in_len_i;
      sent_q <= '0;
    end else if (out_valid_o && out_ready_i) begin
      sent_q <= sent_q + LEN_BITS'(out_len_o);
    end
  end
  logic [ADDR_BITS-1:0] out_end;
  assign out_end = out_addr_o + ADDR_BITS'(out_len_o) - 1'b1;
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      if (out_valid_o) begin
        assert (out_len_o != 0 && out_len_o <= BurstBits'(BURST));
        assert (out_addr_o / PAGE == out_end / PAGE);
        assert (out_addr_o == base_q + ADDR_BITS'(sent_q));
        assert (sent_q == 0 || out_addr_o[OffsetBits-1:0] == 0);
        assert ((LEN_BITS + 1)'(sent_q) + (LEN_BITS + 1)'(left_q) == (LEN_BITS + 1)'(len_q));
        assert (out_last_o == (left_q == LEN_BITS'(out_len_o)));
        // No burst lies beyond the transfer's end.
        assert (ADDR_BITS'(base_q + ADDR_BITS'(len_q) - 1'b1) >= out_end);
      end
      assert (base_q <= ADDR_BITS'(base_q + ADDR_BITS'(len_q) - 1'b1) || len_q == 0);
      if (in_valid_i && in_len_i == 0) assert (bad_o);
      assert (in_ready_o || out_valid_o);
    end
  end
`endif

endmodule
