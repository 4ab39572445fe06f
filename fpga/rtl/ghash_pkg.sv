// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// GF(2^128) as GCM has it (SP 800-38D, 6.3). GCM's bit 0, the coefficient of x^0, is bit 127 of a
// block; polynomials here have it in bit 0.
package ghash_pkg;

  typedef logic [127:0] poly_t;
  typedef logic [254:0] product_t;

  // Steps of Karatsuba in a multiplier: three are the smallest in LUTs, two the quickest to simulate.
  function automatic int unsigned karatsuba();
`ifdef SYNTHESIS
    return 3;
`else
    return 2;
`endif
  endfunction

  // Each octet's bits the other way round: the polynomial of 16 octets that lie in memory, octet 0
  // lowest. Wires in hardware, three steps in a simulator, which shifts a word far sooner than a wide vector.
  function automatic logic [127:0] flip(input logic [127:0] octets);
    logic [3:0][31:0] words;
    logic [31:0]      x;
    words = octets;
    for (int w = 0; w < 4; w++) begin
      x = words[w];
      x = ((x & 32'h0f0f_0f0f) << 4) | ((x >> 4) & 32'h0f0f_0f0f);
      x = ((x & 32'h3333_3333) << 2) | ((x >> 2) & 32'h3333_3333);
      words[w] = ((x & 32'h5555_5555) << 1) | ((x >> 1) & 32'h5555_5555);
    end
    return words;
  endfunction

  function automatic logic [127:0] swap(input logic [127:0] octets);
    logic [127:0] block;
    for (int i = 0; i < 16; i++) block[127-8*i-:8] = octets[8*i+:8];
    return block;
  endfunction

  function automatic poly_t reflect(input logic [127:0] block);
    return flip(swap(block));
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
