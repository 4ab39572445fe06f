// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Puts an SA's keys into gcm_core's memories: round keys, salt, and the powers of the hash key; or
// zeroes them. Behind a reset, and on zeroise_i, all SAs' keys are zeroed.
//
// Promise: an install takes at most 40 + 130 (2 LANES - 1) clocks plus the wait for a free beat; an
// erasure one clock; zeroising SAS clocks. Neither a key nor anything derived from it stays in a
// register of this module afterwards. done_o is high for one clock at the end of each command.
module gcm_keys
  import aes_pkg::*;
  import ghash_pkg::*;
#(
  parameter  int unsigned LANES  = 4,
  parameter  int unsigned SAS    = 4096,
  localparam int unsigned SaBits = $clog2(SAS),
  localparam int unsigned Powers = 2 * LANES
) (
  input  logic              clk_i,
  input  logic              rst_ni,
  input  logic              zeroise_i,

  input  logic              valid_i,
  output logic              ready_o,
  input  logic              erase_i,             // else install
  input  logic [SaBits-1:0] sa_i,
  input  logic              is_256_i,
  input  logic [255:0]      key_i,               // octet 0 in bits 255 to 248
  input  logic [31:0]       salt_i,              // octet 0 in bits 31 to 24
  output logic              done_o,

  output logic [SaBits-1:0] key_sa_o,
  output logic [14:0]       rkey_write_o,        // by the round that uses it
  output block_t            rkey_o,
  output logic              salt_write_o,
  output logic              key_256_o,
  output logic [31:0]       salt_o,
  output logic [Powers-1:0] power_write_o,       // H^1 to H^(2 LANES)
  output poly_t             power_o,
  output logic              hash_key_request_o,
  input  logic              hash_key_taken_i,
  input  logic              hash_key_valid_i,
  input  poly_t             hash_key_i
);

  localparam int unsigned PowerBits = $clog2(Powers + 1);

  typedef enum logic [2:0] {Sweep, Idle, Expand, Request, Await, Multiply} state_e;
  state_e               state_q;
  logic [SaBits-1:0]    sa_q;
  logic [PowerBits-1:0] power_q;                 // the highest power made so far
  poly_t                h_q;

  logic       sweep_q;                           // zeroising is wanted
  logic       is_256_q;
  logic       accept, expand_busy, rkey_valid, product_valid;
  logic [3:0] rkey_index;
  block_t     rkey;
  poly_t      product;
  assign ready_o = state_q == Idle && !sweep_q && !zeroise_i;
  assign accept  = valid_i && ready_o;

  aes_key_expand u_expand (
    .clk_i, .rst_ni, .start_i(accept && !erase_i), .is_256_i, .key_i, .busy_o(expand_busy),
    .rkey_valid_o(rkey_valid), .rkey_index_o(rkey_index), .rkey_o(rkey)
  );

  logic  multiply;
  poly_t latest;                                 // the power that is there now
  assign latest   = state_q == Multiply ? product : hash_key_i;
  assign multiply = (state_q == Await && hash_key_valid_i)
                    || (product_valid && power_q != PowerBits'(Powers - 1));
  ghash_mul_serial u_multiply (
    .clk_i, .rst_ni, .start_i(multiply), .a_i(state_q == Multiply ? h_q : hash_key_i), .b_i(latest),
    .done_o(product_valid), .p_o(product)
  );

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q  <= Sweep;
      sa_q     <= '0;
      is_256_q <= 1'b0;
      power_q  <= '0;
      h_q      <= '0;
      sweep_q  <= 1'b0;
      done_o   <= 1'b0;
    end else begin
      done_o <= 1'b0;
      if (zeroise_i) sweep_q <= 1'b1;
      unique case (state_q)
        Sweep: begin
          sa_q <= sa_q + 1'b1;
          if (sa_q == SaBits'(SAS - 1)) begin
            state_q <= Idle;
            done_o  <= 1'b1;
          end
        end
        Idle: begin
          sa_q <= sweep_q ? '0 : sa_i;
          if (sweep_q) begin
            state_q <= Sweep;
            sweep_q <= zeroise_i;
          end else if (accept && erase_i) begin
            done_o <= 1'b1;
          end else if (accept) begin
            state_q  <= Expand;
            is_256_q <= is_256_i;
          end
        end
        Expand: if (!expand_busy) state_q <= Request;
        Request: if (hash_key_taken_i) state_q <= Await;
        Await: begin
          power_q <= PowerBits'(1);
          if (hash_key_valid_i) begin
            h_q     <= hash_key_i;
            state_q <= Multiply;
          end
        end
        Multiply: begin
          if (product_valid) begin
            power_q <= power_q + 1'b1;
            if (power_q == PowerBits'(Powers - 1)) begin
              h_q     <= '0;
              state_q <= Idle;
              done_o  <= 1'b1;
            end
          end
        end
        default: state_q <= Sweep;
      endcase
    end
  end

  logic erase;
  // AES-128 has the last ten rounds of aes_lanes.
  logic [3:0] round;
  assign round              = is_256_q || rkey_index == 0 ? rkey_index : rkey_index + 4'd4;
  assign erase              = state_q == Sweep || (accept && erase_i);
  assign key_sa_o           = state_q == Idle ? sa_i : sa_q;
  assign rkey_write_o       = erase ? '1 : (rkey_valid ? 15'(1) << round : '0);
  assign rkey_o             = rkey_valid ? rkey : '0;
  assign salt_write_o       = erase || (accept && !erase_i);
  assign key_256_o          = !erase && is_256_i;
  assign salt_o             = erase ? '0 : salt_i;
  assign hash_key_request_o = state_q == Request;

  logic [PowerBits-1:0] now;                     // which power is there now
  assign now     = state_q == Await ? PowerBits'(1) : power_q + 1'b1;
  assign power_o = erase ? '0 : latest;
  always_comb begin
    power_write_o = '0;
    if (erase) begin
      power_write_o = '1;
    end else if ((state_q == Await && hash_key_valid_i)
                 || (state_q == Multiply && product_valid)) begin
      for (int unsigned p = 1; p <= Powers; p++) power_write_o[p-1] = now == PowerBits'(p);
    end
  end

endmodule
