// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Memory of what the SAs have, each with whether it is there at all.
//
// Promise: there_o and rdata_o are what was written last for raddr_i of the clock before, before that
// clock; nothing is there behind a reset until it is written (proved). For as many clocks behind a reset as
// it has places, nothing may be written.
module ipa_sa_ram #(
  parameter  int unsigned WIDTH    = 48,
  parameter  int unsigned DEPTH    = 4096,
  localparam int unsigned AddrBits = $clog2(DEPTH)
) (
  input  logic                clk_i,
  input  logic                rst_ni,
  input  logic                write_i,
  input  logic [AddrBits-1:0] waddr_i,
  input  logic                there_i,
  input  logic [WIDTH-1:0]    wdata_i,
  input  logic [AddrBits-1:0] raddr_i,
  output logic                there_o,
  output logic [WIDTH-1:0]    rdata_o
);

  logic                cleared_q, known_q;       // all places; when raddr_i was looked at
  logic [AddrBits-1:0] clear_q;
  logic                there;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      cleared_q <= 1'b0;
      clear_q   <= '0;
      known_q   <= 1'b0;
    end else begin
      known_q <= cleared_q;
      if (!cleared_q) begin
        clear_q   <= clear_q + 1'b1;
        cleared_q <= clear_q == AddrBits'(DEPTH - 1);
      end
    end
  end
  ram_1w1r #(.WIDTH(1 + WIDTH), .DEPTH(DEPTH)) u_ram (
    .clk_i, .write_i(write_i || !cleared_q), .waddr_i(cleared_q ? waddr_i : clear_q),
    .wdata_i(cleared_q ? {there_i, wdata_i} : '0), .raddr_i, .rdata_o({there, rdata_o})
  );
  assign there_o = there && known_q;

`ifdef FORMAL
  // One place, any.
  logic                begun_q = 1'b0, some_there_q, expects_q, is_there;
  logic [AddrBits-1:0] some_q, looked_q;
  logic [WIDTH-1:0]    some_data_q, expected_q, data;
  assign {is_there, data} = u_ram.memory[some_q];
  always_ff @(posedge clk_i) begin
    begun_q <= 1'b1;
    if (!begun_q) some_q <= waddr_i;
    looked_q   <= raddr_i;
    expects_q  <= rst_ni && some_there_q;
    expected_q <= some_data_q;
    if (!rst_ni) begin
      some_there_q <= 1'b0;
    end else if (write_i && waddr_i == some_q) begin
      some_there_q <= there_i;
      some_data_q  <= wdata_i;
    end
  end
  always_comb begin
    if (!begun_q) assume (!rst_ni);
    if (begun_q && rst_ni) begin
      if (!cleared_q) assume (!write_i);
      if (looked_q == some_q) begin
        assert (there_o == expects_q);
        if (there_o) assert (rdata_o == expected_q);
      end

      // What induction needs to know.
      if (cleared_q) assert (is_there == some_there_q && (!is_there || data == some_data_q));
      if (!cleared_q) assert (!some_there_q && (some_q >= clear_q || !is_there));
      if (!cleared_q) assert (!known_q);
    end
  end
`endif

endmodule
