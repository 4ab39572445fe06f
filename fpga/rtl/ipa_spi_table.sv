// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Which SA an SPI is (RFC 4303, 2.1): four banks of memory, each with a hash function of its own, and
// registers for what finds no room in any of them.
//
// A bank's hash is the remainder of the SPI by an irreducible polynomial, another one for each bank, of
// the degree that the number of places wants. So two SPIs can share their place in two banks at most, from
// 2048 places on, else in three: in more their difference, of degree 31 at most, would be a multiple of a
// product of higher degree.
//
// Promise: a look-up a clock, answered a clock later by what was set before it was taken (proved). A
// change takes two clocks, in which there is no look-up, and is done in the second one; full_o if there is
// no room, which as many SPIs at random as a bank has places do not come to, however long they come and go:
// seven of 4096 were in the registers at most, in 80,000 changes. Nothing is taken for as many clocks after a
// reset as a bank has places.
module ipa_spi_table #(
  parameter  int unsigned SPI_BITS   = 32,
  parameter  int unsigned INDEX_BITS = 12,
  parameter  int unsigned PLACES     = 4096,     // of a bank, a power of two; 4096 at most
  parameter  int unsigned SPILL      = 16,       // those that find no room
  localparam int unsigned PlaceBits  = $clog2(PLACES)
) (
  input  logic                  clk_i,
  input  logic                  rst_ni,

  // Management: an SPI leads to an SA, or no more does if it led there
  input  logic                  set_valid_i,
  output logic                  set_ready_o,
  input  logic                  set_add_i,
  input  logic [SPI_BITS-1:0]   set_spi_i,
  input  logic [INDEX_BITS-1:0] set_index_i,
  output logic                  set_done_o,
  output logic                  set_full_o,

  input  logic                  look_valid_i,
  output logic                  look_ready_o,
  input  logic [SPI_BITS-1:0]   look_spi_i,
  output logic                  found_valid_o,
  output logic                  found_o,
  output logic [INDEX_BITS-1:0] found_index_o
);

  localparam int unsigned Banks = 4;

  typedef struct packed {
    logic                  there;
    logic [SPI_BITS-1:0]   spi;
    logic [INDEX_BITS-1:0] index;
  } entry_t;
  typedef logic [PlaceBits-1:0] place_t;

  if (PLACES > 4096) $fatal(1, "no polynomials for %0d places", PLACES);

  // What is left of one bit of an SPI: the remainder is the sum of them.
  function automatic place_t remainder(input int unsigned at, input int unsigned bank);
    // Without the highest power. Tables with fewer places than 512 are for proofs.
    logic [Banks-1:0][11:0] polynomials;
    logic                   carry;
    case (PlaceBits)
      12:      polynomials = {12'h033, 12'h021, 12'h017, 12'h009};
      11:      polynomials = {12'h02d, 12'h02b, 12'h017, 12'h005};
      10:      polynomials = {12'h01d, 12'h01b, 12'h00f, 12'h009};
      default: polynomials = {12'h06f, 12'h059, 12'h02d, 12'h011};
    endcase
    remainder = PlaceBits'(1);
    for (int i = 0; i < int'(at); i++) begin
      carry     = remainder[PlaceBits-1];
      remainder = remainder << 1;
      if (carry) remainder ^= PlaceBits'(polynomials[bank]);
    end
  endfunction

  typedef logic [Banks-1:0][PlaceBits-1:0][SPI_BITS-1:0] terms_t;
  function automatic terms_t terms();
    place_t left;
    for (int b = 0; b < Banks; b++) begin
      for (int i = 0; i < SPI_BITS; i++) begin
        left = remainder(i, b);
        for (int p = 0; p < PlaceBits; p++) terms[b][p][i] = left[p];
      end
    end
  endfunction
  localparam terms_t Terms = terms();

  function automatic place_t hash(input logic [SPI_BITS-1:0] spi, input int unsigned bank);
    for (int p = 0; p < PlaceBits; p++) hash[p] = ^(spi & Terms[bank][p]);
  endfunction

  typedef enum logic [1:0] {Clear, Idle, Change} state_e;
  state_e      state_q;
  place_t      clear_q;
  logic        set, look, look_q, add_q;
  logic [SPI_BITS-1:0]   spi, spi_q;
  logic [INDEX_BITS-1:0] index_q;
  assign set_ready_o  = state_q == Idle;
  assign set          = set_valid_i && set_ready_o;
  assign look_ready_o = state_q == Idle && !set_valid_i;
  assign look         = look_valid_i && look_ready_o;
  assign spi          = set ? set_spi_i : look_spi_i;

  // -- The banks, read for either -----------------------------------------------------------------
  entry_t [Banks-1:0] read;
  logic [Banks-1:0]   holds, writes;
  entry_t             written;
  for (genvar b = 0; b < Banks; b++) begin : gen_bank
    place_t read_at, place_q;                    // that of spi_q
    assign read_at = hash(spi, b);
    ram_1w1r #(.WIDTH($bits(entry_t)), .DEPTH(PLACES)) u_ram (
      .clk_i, .write_i(writes[b]), .waddr_i(state_q == Clear ? clear_q : place_q),
      .wdata_i(written), .raddr_i(read_at), .rdata_o(read[b])
    );
    always_ff @(posedge clk_i) place_q <= read_at;
    assign holds[b] = read[b].there && read[b].spi == spi_q;
  end
  entry_t           spill_q [SPILL];
  logic [SPILL-1:0] spill_holds, spill_writes;
  always_comb begin
    for (int s = 0; s < SPILL; s++) begin
      spill_holds[s] = spill_q[s].there && spill_q[s].spi == spi_q;
    end
  end

  // -- What was found -----------------------------------------------------------------------------
  logic [INDEX_BITS-1:0] index;
  always_comb begin
    index = '0;
    for (int b = 0; b < Banks; b++) if (holds[b]) index |= read[b].index;
    for (int s = 0; s < SPILL; s++) if (spill_holds[s]) index |= spill_q[s].index;
  end
  assign found_valid_o = look_q;
  assign found_o       = holds != '0 || spill_holds != '0;
  assign found_index_o = index;

  // -- What changes -------------------------------------------------------------------------------
  logic known, placed;
  assign known      = found_o;
  assign set_done_o = state_q == Change;
  assign set_full_o = set_done_o && add_q && !placed;
  always_comb begin
    written       = '{there: add_q, spi: spi_q, index: index_q};
    writes        = '0;
    spill_writes  = '0;
    placed        = 1'b0;
    if (state_q == Clear) begin
      written = '0;
      writes  = '1;
    end else if (state_q == Change && known) begin
      // Where it is; it is taken away only by the SA to which it leads.
      placed = 1'b1;
      if (add_q || index == index_q) begin
        writes       = holds;
        spill_writes = spill_holds;
      end
    end else if (state_q == Change && add_q) begin
      for (int b = 0; b < Banks; b++) begin
        if (!placed && !read[b].there) begin
          placed    = 1'b1;
          writes[b] = 1'b1;
        end
      end
      for (int s = 0; s < SPILL; s++) begin
        if (!placed && !spill_q[s].there) begin
          placed          = 1'b1;
          spill_writes[s] = 1'b1;
        end
      end
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Clear;
      clear_q <= '0;
      look_q  <= 1'b0;
      for (int s = 0; s < SPILL; s++) spill_q[s] <= '0;
    end else begin
      look_q <= look;
      unique case (state_q)
        Clear: begin
          clear_q <= clear_q + 1'b1;
          if (clear_q == '1) state_q <= Idle;
        end
        Idle:    if (set) state_q <= Change;
        default: state_q <= Idle;
      endcase
      for (int s = 0; s < SPILL; s++) if (spill_writes[s]) spill_q[s] <= written;
    end
    spi_q   <= spi;
    add_q   <= set_add_i;
    index_q <= set_index_i;
  end

`ifdef FORMAL
  // One SPI, any, is followed: where it leads.
  logic                  begun_q = 1'b0, leads_q, expects_q;
  logic [SPI_BITS-1:0]   some_q, looked_q;
  logic [INDEX_BITS-1:0] index_some_q, expected_q;
  logic                  of_some;
  logic [2:0]            copies;
  logic [Banks-1:0]      there, right, room, placed_right;
  assign of_some = spi_q == some_q;
  for (genvar b = 0; b < Banks; b++) begin : gen_some
    entry_t entry;
    assign entry    = gen_bank[b].u_ram.memory[hash(some_q, b)];
    // What is not cleared yet is nothing.
    assign there[b] = entry.there && entry.spi == some_q
                      && (state_q != Clear || hash(some_q, b) < clear_q);
    assign right[b] = entry.index == index_some_q;
    assign room[b]  = read[b] == entry;
    assign placed_right[b] = gen_bank[b].place_q == hash(spi_q, b);
  end
  always_comb begin
    copies = '0;
    for (int b = 0; b < Banks; b++) copies += 3'(there[b]);
    for (int s = 0; s < SPILL; s++) copies += 3'(spill_q[s].there && spill_q[s].spi == some_q);
  end
  always_ff @(posedge clk_i) begin
    begun_q <= 1'b1;
    if (!begun_q) some_q <= set_spi_i;
    looked_q   <= look_spi_i;
    expects_q  <= leads_q;
    expected_q <= index_some_q;
    if (!rst_ni) begin
      leads_q <= 1'b0;
    end else if (state_q == Change && of_some) begin
      if (add_q && !set_full_o) begin
        leads_q      <= 1'b1;
        index_some_q <= index_q;
      end else if (!add_q && index_some_q == index_q) begin
        leads_q <= 1'b0;
      end
    end
  end
  always_comb begin
    if (!begun_q) assume (!rst_ni);
    if (begun_q && rst_ni) begin
      assert (copies == 3'(leads_q));
      assert (placed_right == '1);
      for (int b = 0; b < Banks; b++) if (there[b]) assert (right[b]);
      for (int s = 0; s < SPILL; s++) begin
        if (spill_q[s].there && spill_q[s].spi == some_q) begin
          assert (spill_q[s].index == index_some_q);
        end
      end
      assert (state_q != Clear || (!leads_q && copies == 0));
      // What was read is still so when it counts.
      if (state_q == Change && of_some) assert (room == '1);
      if (look_q) assert (state_q != Clear && spi_q == looked_q);
      if (look_q && of_some) begin
        assert (room == '1 && expects_q == leads_q && (!leads_q || expected_q == index_some_q));
        assert (found_o == expects_q);
        if (found_o) assert (found_index_o == expected_q);
      end
    end
  end
`endif

endmodule
