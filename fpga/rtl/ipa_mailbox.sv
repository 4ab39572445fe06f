// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The key mailbox's state: whether the words that the host has written make a key. The words lie in the
// register block, which nobody reads them from but the key memory (gcm_keys).
//
// Promise: loaded_o only if all words of the key and the salt were written since it was last zeroised
// (proved). A key is taken once: taking it zeroises the words, as do clear_i and a refused load, a clock
// later.
module ipa_mailbox (
  input  logic       clk_i,
  input  logic       rst_ni,

  input  logic [8:0] written_i,                  // for a clock: words of the key, and the salt (8)
  input  logic       load_128_i,
  input  logic       load_256_i,
  input  logic       clear_i,
  output logic       zeroise_o,                  // to the words
  output logic [1:0] state_o,                    // MailboxState

  output logic       loaded_o,
  output logic       is_256_o,
  input  logic       take_i                      // only while it is loaded
);

  typedef enum logic [1:0] {Empty, Key128, Key256, Incomplete} state_e;
  state_e     state_q;
  logic [8:0] there_q;                           // words that were written
  logic       loads, complete;
  assign loads    = (load_128_i || load_256_i) && !clear_i;
  assign complete = load_256_i ? there_q == '1 : (there_q & 9'h10f) == 9'h10f;

  assign state_o   = state_q;
  assign loaded_o  = state_q == Key128 || state_q == Key256;
  assign is_256_o  = state_q == Key256;
  assign zeroise_o = clear_i || take_i || (loads && !complete);

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Empty;
      there_q <= '0;
    end else if (zeroise_o) begin
      state_q <= loads && !take_i ? Incomplete : Empty;
      there_q <= '0;
    end else if (loads) begin
      state_q <= load_256_i ? Key256 : Key128;
    end else if (written_i != '0) begin
      // Another key begins.
      state_q <= Empty;
      there_q <= (loaded_o ? '0 : there_q) | written_i;
    end
  end

`ifdef FORMAL
  // Any word: written since all were zeroised, and what is in it is not of a key that was taken.
  logic       begun_q = 1'b0, fresh_q;
  logic [3:0] some_q;
  always_ff @(posedge clk_i) begin
    begun_q <= 1'b1;
    if (!begun_q) some_q <= {load_128_i, load_256_i, clear_i, take_i};
    if (!rst_ni || zeroise_o) fresh_q <= 1'b0;
    else if (written_i[some_q]) fresh_q <= 1'b1;
  end
  always_comb begin
    if (!begun_q) assume (!rst_ni && {load_128_i, load_256_i, clear_i, take_i} < 4'd9);
    if (begun_q) assert (some_q < 4'd9);
    if (begun_q && rst_ni) begin
      // One access of the host at a time.
      assume ($onehot0({written_i, load_128_i || load_256_i || clear_i}));
      assume (!take_i || loaded_o);
      if (there_q[some_q]) assert (fresh_q);
      if (loaded_o && (is_256_o || some_q < 4'd4 || some_q == 4'd8)) assert (there_q[some_q]);
      if (state_q == Incomplete) assert (there_q == '0);
      if (take_i) assert (zeroise_o);
    end
  end
`endif

endmodule
