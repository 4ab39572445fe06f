// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// AES key expansion (FIPS 197, 5.2), for AES-128 and AES-256.
//
// Promise: after start_i the round keys leave on rkey_o in order, one a clock: 11 clocks for
// AES-128, 15 for AES-256. start_i is heeded only while busy_o is low. The key's registers are
// zero again after the last round key.
module aes_key_expand
  import aes_pkg::*;
(
  input  logic         clk_i,
  input  logic         rst_ni,
  input  logic         start_i,
  input  logic         is_256_i,
  input  logic [255:0] key_i,          // an AES-128 key is in bits [255:128]
  output logic         busy_o,
  output logic         rkey_valid_o,
  output logic [3:0]   rkey_index_o,
  output block_t       rkey_o
);

  logic       busy_q, is_256_q;
  logic [3:0] index_q;
  logic [7:0] rcon_q;
  block_t     now_q, next_q;           // the round key that leaves, and the one after it

  // AES-128 makes each round key from the one before, AES-256 from the one before that, with
  // RotWord and Rcon only for even ones. `now_q` is two behind what is made here for AES-256.
  block_t      made;
  logic        rotate;
  logic [31:0] last, mixed, word0, word1, word2, word3;
  assign last   = is_256_q ? next_q[31:0] : now_q[31:0];
  assign rotate = !is_256_q || !index_q[0];
  assign mixed  = rotate ? sub_word({last[23:0], last[31:24]}) ^ {rcon_q, 24'b0} : sub_word(last);
  assign word0  = now_q[127:96] ^ mixed;
  assign word1  = now_q[95:64] ^ word0;
  assign word2  = now_q[63:32] ^ word1;
  assign word3  = now_q[31:0] ^ word2;
  assign made   = {word0, word1, word2, word3};

  logic done;
  assign done = index_q == (is_256_q ? 4'd14 : 4'd10);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      busy_q   <= 1'b0;
      is_256_q <= 1'b0;
      index_q  <= '0;
      rcon_q   <= '0;
      now_q    <= '0;
      next_q   <= '0;
    end else if (!busy_q) begin
      if (start_i) begin
        busy_q   <= 1'b1;
        is_256_q <= is_256_i;
        index_q  <= '0;
        rcon_q   <= 8'h01;
        now_q    <= key_i[255:128];
        next_q   <= is_256_i ? key_i[127:0] : '0;
      end
    end else if (done) begin
      busy_q <= 1'b0;
      now_q  <= '0;
      next_q <= '0;
    end else begin
      index_q <= index_q + 4'd1;
      now_q   <= is_256_q ? next_q : made;
      next_q  <= is_256_q ? made : '0;
      if (rotate) rcon_q <= xtime(rcon_q);
    end
  end

  assign busy_o       = busy_q;
  assign rkey_valid_o = busy_q;
  assign rkey_index_o = index_q;
  assign rkey_o       = now_q;

endmodule
