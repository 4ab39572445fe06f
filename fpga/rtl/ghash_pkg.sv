// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// GF(2^128) as GCM has it (SP 800-38D, 6.3). GCM's bit 0, the coefficient of x^0, is bit 127 of a
// block; polynomials here have it in bit 0.
package ghash_pkg;

  typedef logic [127:0] poly_t;
  typedef logic [254:0] product_t;

  function automatic poly_t reflect(input logic [127:0] block);
    poly_t p;
    for (int i = 0; i < 128; i++) p[i] = block[127-i];
    return p;
  endfunction

  // x^(128+k) = x^k (1 + x + x^2 + x^7)
  function automatic poly_t reduce(input product_t product);
    logic [126:0] top;
    logic [133:0] folded;
    logic [5:0]   rest;
    top    = product[254:128];
    folded = {7'b0, top} ^ {6'b0, top, 1'b0} ^ {5'b0, top, 2'b0} ^ {top, 7'b0};
    rest   = folded[133:128];
    return product[127:0] ^ folded[127:0] ^ {122'b0, rest} ^ {121'b0, rest, 1'b0}
           ^ {120'b0, rest, 2'b0} ^ {115'b0, rest, 7'b0};
  endfunction

  function automatic poly_t times_x(input poly_t p);
    return {p[126:0], 1'b0} ^ (128'h87 & {128{p[127]}});
  endfunction

endpackage
