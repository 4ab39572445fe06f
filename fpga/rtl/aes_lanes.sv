// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// LANES AES encryption pipes side by side. All blocks of a clock have one key; the next clock's may
// have any other, of either size: each round has its round keys of all SAs in a memory of its own,
// and the SA's index rides along.
//
// Promise: LANES blocks a clock without bubbles. sa_i comes first; block_i and is_256_i one clock
// later; block_o 15 clocks after those.
module aes_lanes
  import aes_pkg::*;
#(
  parameter  int unsigned LANES  = 4,
  parameter  int unsigned SAS    = 512,
  localparam int unsigned SaBits = $clog2(SAS)
) (
  input  logic                clk_i,

  // Round keys of an SA; each may be written alone.
  input  logic [14:0]         rkey_write_i,
  input  logic [SaBits-1:0]   rkey_sa_i,
  input  block_t              rkey_i,

  input  logic [SaBits-1:0]   sa_i,
  input  logic                is_256_i,
  input  block_t              block_i [LANES],
  output block_t              block_o [LANES]
);

  localparam int unsigned Rounds = 14;

  logic [SaBits-1:0] sa [Rounds + 1];
  block_t            rkey [Rounds + 1];
  logic              is_256 [Rounds + 1];

  assign sa[0] = sa_i;
  for (genvar r = 1; r <= Rounds; r++) begin : gen_sa
    always_ff @(posedge clk_i) sa[r] <= sa[r-1];
  end

  for (genvar r = 0; r <= Rounds; r++) begin : gen_rkey
    ram_1w1r #(.WIDTH(128), .DEPTH(SAS)) u_rkey (
      .clk_i, .write_i(rkey_write_i[r]), .waddr_i(rkey_sa_i), .wdata_i(rkey_i),
      .raddr_i(sa[r]), .rdata_o(rkey[r])
    );
  end

  assign is_256[0] = is_256_i;
  for (genvar r = 1; r <= Rounds; r++) begin : gen_size
    always_ff @(posedge clk_i) is_256[r] <= is_256[r-1];
  end

  for (genvar l = 0; l < LANES; l++) begin : gen_lane
    block_t state [Rounds + 1];
    always_ff @(posedge clk_i) state[0] <= block_i[l] ^ rkey[0];
    for (genvar r = 1; r <= Rounds; r++) begin : gen_round
      aes_round #(.ROUND(r)) u_round (
        .clk_i, .is_256_i(is_256[r]), .rkey_i(rkey[r]), .state_i(state[r-1]), .state_o(state[r])
      );
    end
    assign block_o[l] = state[Rounds];
  end

endmodule
