// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// LANES AES encryption pipes side by side, for counter mode: blocks of a clock have one key and the
// same first 96 bits. The next clock's may have any other key, of either size: each round has its
// round keys of all SAs in a memory of its own, and the SA's index rides along.
//
// A 256-bit key takes all 14 rounds. A block with a 128-bit one waits beside the first four, as what
// round key 0 has made of it, and goes through the last ten: its round keys 1 to 10 are those of
// rounds 5 to 14. So only one round has to choose, and only one is without MixColumns.
//
// Promise: LANES blocks a clock without bubbles. sa_i comes first; head_i, count_i and is_256_i one
// clock later; block_o 15 clocks after those.
module aes_lanes
  import aes_pkg::*;
#(
  parameter  int unsigned LANES  = 4,
  parameter  int unsigned SAS    = 4096,
  parameter  int unsigned ROM_ROUNDS = 4,        // the last ones, with S-boxes in block memory
  localparam int unsigned SaBits = $clog2(SAS)
) (
  input  logic                clk_i,

  // Round keys of an SA, by the round that uses them; each may be written alone.
  input  logic [14:0]         rkey_write_i,
  input  logic [SaBits-1:0]   rkey_sa_i,
  input  block_t              rkey_i,

  input  logic [SaBits-1:0]   sa_i,
  input  logic                is_256_i,
  input  logic [95:0]         head_i,
  input  logic [31:0]         count_i [LANES],
  output block_t              block_o [LANES]
);

  localparam int unsigned Rounds = 14;
  localparam int unsigned Joins  = 4;            // behind this round, AES-128 comes in

  logic [SaBits-1:0] sa [Rounds + 1];
  block_t            rkey [Rounds + 1];
  logic              is_256 [Joins + 1];

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
  for (genvar r = 1; r <= Joins; r++) begin : gen_size
    always_ff @(posedge clk_i) is_256[r] <= is_256[r-1];
  end

  // What round key 0 makes, and made some clocks ago: the head is the same in all lanes.
  logic [95:0] head [Joins + 1];
  assign head[0] = head_i ^ rkey[0][127:32];
  for (genvar r = 1; r <= Joins; r++) begin : gen_head
    always_ff @(posedge clk_i) head[r] <= head[r-1];
  end

  for (genvar l = 0; l < LANES; l++) begin : gen_lane
    logic [31:0] count [Joins + 1];
    assign count[0] = count_i[l] ^ rkey[0][31:0];
    for (genvar r = 1; r <= Joins; r++) begin : gen_count
      always_ff @(posedge clk_i) count[r] <= count[r-1];
    end

    block_t state [Rounds + 1];
    assign state[0] = {head[0], count[0]};
    for (genvar r = 1; r <= Rounds; r++) begin : gen_round
      block_t made;
      aes_round #(.LAST(r == Rounds), .ROM(r > Rounds - ROM_ROUNDS)) u_round (
        .clk_i, .rkey_i(rkey[r]), .state_i(state[r-1]), .state_o(made)
      );
      assign state[r] = r == Joins && !is_256[Joins] ? {head[Joins], count[Joins]} : made;
    end
    always_ff @(posedge clk_i) block_o[l] <= state[Rounds];
  end

endmodule
