// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// GHASH (SP 800-38D, 6.4) over LANES blocks a clock, with one multiplier for each.
//
// A packet is a run of beats with LANES blocks each; its last beat has count_i of them, from lane 0
// on. Even and odd beats have a sum each, so that a beat's products may take two clocks. A sum goes
// through lane 0's multiplier together with the block there, and meets the power of H that its beat
// has: H^(2 LANES) carries it over two beats, the packet's last two have the powers that are left.
// With k blocks X in the last beat n, and powers falling by one from lane to lane:
//
//   A_i  = (A_(i-2) + X_i0) H^p + X_i1 H^(p-1) + ...      p = 2 LANES;  LANES + k in beat n-1;  k in n
//   hash = A_n + A_(n-1)
//
// So a beat waits until it is known what comes behind it.
//
// Promise: a beat a clock without bubbles, also from packet to packet and from key to key; done_o
// and hash_o five clocks after the last beat.
module ghash_lanes
  import ghash_pkg::*;
#(
  parameter  int unsigned LANES     = 4,
  parameter  int unsigned SAS       = 4096,
  parameter  int unsigned KARATSUBA = karatsuba(),
  localparam int unsigned SaBits    = $clog2(SAS),
  localparam int unsigned Powers    = 2 * LANES,
  localparam int unsigned CountBits = $clog2(LANES + 1),
  localparam int unsigned PowerBits = $clog2(Powers + 1)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,
  input  logic                 valid_i,
  input  logic                 first_i,
  input  logic                 last_i,
  input  logic [CountBits-1:0] count_i,          // blocks of the last beat, 1 to LANES
  input  logic [SaBits-1:0]    sa_i,
  input  poly_t                x_i [LANES],      // blocks behind count_i are zero
  // H^1 to H^(2 LANES) of an SA, a clock after it is named
  output logic [SaBits-1:0]    h_sa_o,
  input  poly_t                h_i [Powers],
  output logic                 done_o,
  output poly_t                hash_o
);

  typedef struct packed {
    logic valid;
    logic last;
    logic odd;
    logic alone;                                 // a packet's first
  } beat_t;

  // Stage 0: wait for the next beat, which has the packet's end or has not.
  beat_t                beat, held_q;
  logic [CountBits-1:0] count_q;
  logic [SaBits-1:0]    sa_q;
  poly_t                x0_q [LANES];
  logic                 moves, later_q;          // a packet's third beat, or behind that
  logic [PowerBits-1:0] power;                   // of lane 0's block
  always_comb begin
    beat.valid = 1'b1;
    beat.last  = last_i;
    beat.odd   = !first_i && !held_q.odd;
    beat.alone = first_i;
  end
  assign moves = held_q.valid && (held_q.last || valid_i);
  always_comb begin
    power = PowerBits'(Powers);
    if (held_q.last) power = PowerBits'(count_q);
    else if (last_i) power = PowerBits'(LANES) + PowerBits'(count_i);
  end
  always_ff @(posedge clk_i) begin
    if (!rst_ni)      held_q       <= '0;
    else if (valid_i) held_q       <= beat;
    else if (moves)   held_q.valid <= 1'b0;
    if (valid_i) begin
      later_q <= !first_i && !held_q.alone;
      count_q <= count_i;
      sa_q    <= sa_i;
      x0_q    <= x_i;
    end
  end
  assign h_sa_o = sa_q;

  // Stage 1: the powers come. Stage 2: each block times its power.
  beat_t                beat1_q, beat2_q, beat3_q;
  logic                 later1_q, later2_q;
  logic [PowerBits-1:0] power1_q;
  poly_t                x1_q [LANES], x2_q [LANES], h2_q [LANES];
  always_ff @(posedge clk_i) begin
    later1_q <= later_q;
    later2_q <= later1_q;
    power1_q <= power;
    x1_q     <= x0_q;
    x2_q     <= x1_q;
    if (!rst_ni) begin
      beat1_q <= '0;
      beat2_q <= '0;
      beat3_q <= '0;
    end else begin
      beat1_q       <= held_q;
      beat1_q.valid <= moves;
      beat2_q       <= beat1_q;
      beat3_q       <= beat2_q;
    end
  end
  for (genvar l = 0; l < LANES; l++) begin : gen_power
    poly_t h;
    always_comb begin
      h = h_i[0];
      for (int p = l + 2; p <= Powers; p++) begin
        if (power1_q == PowerBits'(p)) h = h_i[p-1-l];
      end
    end
    always_ff @(posedge clk_i) h2_q[l] <= h;
  end

  poly_t    sum_q [2];
  poly_t    x2 [LANES];
  product_t product;
  always_comb begin
    x2 = x2_q;
    if (later2_q) x2[0] = x2_q[0] ^ sum_q[beat2_q.odd];
  end
  clmul #(.WIDTH(128), .KARATSUBA(KARATSUBA), .TERMS(LANES)) u_clmul (
    .clk_i, .a_i(x2), .b_i(h2_q), .p_o(product)
  );

  // Stage 3: the beat's sum, or the hash.
  poly_t sum;
  assign sum = reduce(product);
  always_ff @(posedge clk_i) begin
    done_o <= rst_ni && beat3_q.valid && beat3_q.last;
    hash_o <= sum ^ (sum_q[!beat3_q.odd] & {128{!beat3_q.alone}});
    if (beat3_q.valid) sum_q[beat3_q.odd] <= sum;
  end

endmodule
