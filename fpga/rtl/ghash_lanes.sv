// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// GHASH (SP 800-38D, 6.4) over LANES blocks a clock.
//
// A packet is a run of beats with LANES blocks each; its last beat has count_i of them, from lane 0
// on. Blocks are summed in two interleaved accumulators, by H^(2 LANES), so that the multiplier in
// the loop may take two clocks; behind the last beat the same multiplier, idle then, folds the two.
// With S_i the sum of beat i's products, and n full beats before a last one with k blocks:
//
//   A_i  = S_i + A_(i-2) H^(2 LANES)
//   hash = S_last + (A_n + A_(n-1) H^LANES) H^k
//
// Promise: a beat a clock without bubbles, also from packet to packet and from key to key; done_o
// and hash_o five clocks after the last beat.
module ghash_lanes
  import ghash_pkg::*;
#(
  parameter  int unsigned LANES     = 4,
  localparam int unsigned CountBits = $clog2(LANES + 1)
) (
  input  logic                 clk_i,
  input  logic                 rst_ni,
  input  logic                 valid_i,
  input  logic                 first_i,
  input  logic                 last_i,
  input  logic [CountBits-1:0] count_i,          // blocks of the last beat, 1 to LANES
  input  poly_t                x_i [LANES],      // blocks behind count_i are zero
  input  poly_t                h_i [LANES],      // H^1 to H^LANES
  input  poly_t                h_double_i,       // H^(2 LANES)
  output logic                 done_o,
  output poly_t                hash_o
);

  typedef enum logic [1:0] {Begin, Second, Later} place_e;
  typedef struct packed {
    logic   valid;
    logic   last;
    place_e place;
  } beat_t;

  // Stage 0: each block times its power.
  logic [CountBits-1:0] count;
  assign count = last_i ? count_i : CountBits'(LANES);

  product_t product [LANES];
  for (genvar l = 0; l < LANES; l++) begin : gen_lane
    poly_t power;
    always_comb begin
      power = '0;
      for (int unsigned p = 0; p < LANES - l; p++) begin
        if (count == CountBits'(l + p + 1)) power = h_i[p];
      end
    end
    clmul #(.WIDTH(128)) u_clmul (.clk_i, .a_i(x_i[l]), .b_i(power), .p_o(product[l]));
  end

  beat_t  beat0, beat1_q, beat2_q;
  place_e place_q;
  always_comb begin
    beat0.valid = valid_i;
    beat0.last  = last_i;
    if (first_i)               beat0.place = Begin;
    else if (place_q == Begin) beat0.place = Second;
    else                       beat0.place = Later;
  end
  always_ff @(posedge clk_i) begin
    if (!rst_ni)      place_q <= Begin;
    else if (valid_i) place_q <= beat0.place;
  end

  poly_t h_loop1_q, h_count1_q, h_count2_q, h_count3_q;
  always_ff @(posedge clk_i) begin
    h_loop1_q  <= last_i ? h_i[LANES-1] : h_double_i;
    h_count1_q <= h_i[count-1];
    h_count2_q <= h_count1_q;
    h_count3_q <= h_count2_q;
  end

  // Stage 1: the beat's sum; the loop's multiplier starts on the accumulator of two beats ago.
  product_t sum_product;
  poly_t    sum2_q;
  always_comb begin
    sum_product = '0;
    for (int l = 0; l < LANES; l++) sum_product ^= product[l];
  end
  always_ff @(posedge clk_i) sum2_q <= reduce(sum_product);

  poly_t newer_q, older_q, fold_q, loop_a, loop_b, looped;
  logic  fold_valid_q;
  always_comb begin
    loop_a = (beat2_q.valid) ? newer_q : older_q;
    loop_b = h_loop1_q;
    if (fold_valid_q) begin
      loop_a = fold_q;
      loop_b = h_count3_q;
    end
  end
  product_t loop_product;
  clmul #(.WIDTH(128)) u_loop (.clk_i, .a_i(loop_a), .b_i(loop_b), .p_o(loop_product));
  assign looped = reduce(loop_product);

  // Stage 2: accumulate, or fold behind the last beat.
  poly_t from_loop, last_sum3_q, last_sum4_q;
  logic  fold4_q;
  assign from_loop = looped & {128{beat2_q.place == Later}};
  always_ff @(posedge clk_i) begin
    if (beat2_q.valid && !beat2_q.last) begin
      newer_q <= sum2_q ^ from_loop;
      older_q <= newer_q;
    end
    fold_q      <= from_loop ^ (newer_q & {128{beat2_q.place != Begin}});
    last_sum3_q <= sum2_q;
    last_sum4_q <= last_sum3_q;
    hash_o      <= last_sum4_q ^ looped;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      beat1_q      <= '{valid: 1'b0, last: 1'b0, place: Begin};
      beat2_q      <= '{valid: 1'b0, last: 1'b0, place: Begin};
      fold_valid_q <= 1'b0;
      fold4_q      <= 1'b0;
      done_o       <= 1'b0;
    end else begin
      beat1_q      <= beat0;
      beat2_q      <= beat1_q;
      fold_valid_q <= beat2_q.valid && beat2_q.last;
      fold4_q      <= fold_valid_q;
      done_o       <= fold4_q;
    end
  end

`ifndef SYNTHESIS
  // The loop's multiplier is never wanted twice.
  always_ff @(posedge clk_i) begin
    if (rst_ni && fold_valid_q) begin
      assert (!(beat1_q.valid && beat1_q.place == Later));
    end
  end
`endif

endmodule
