// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// AES's S-box (FIPS 197, 5.1.1) by itself: a function of eight bits is four tables of six and the
// multiplexers beside them, 32 LUTs for the octet. Merged with the logic around it takes more.
//
// Promise: combinational.
(* keep_hierarchy = "yes" *)
module aes_sbox
  import aes_pkg::*;
(
  input  logic [7:0] x_i,
  output logic [7:0] y_o
);

  assign y_o = SBOX[x_i];

endmodule
