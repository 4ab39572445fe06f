// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Cuts the writes of packets whose buffers lie in pieces into one for each piece.
//
// Promise: what is written to a buffer in one piece passes in the same clock. Of others each octet goes where
// the buffer's pieces say, a run in two clocks and more. An operation has one last write, and its slot is given
// back with it, in order.
module ipa_scatter
  import ipa_card_pkg::*;
#(
  localparam int unsigned IndexBits = $clog2(MaxGather),
  localparam int unsigned SlotBits  = $clog2(GatherSlots)
) (
  input  logic   clk_i,
  input  logic   rst_ni,

  // Pieces of the buffers, as they are found good
  input  logic   piece_write_i,
  input  logic [SlotBits+IndexBits-1:0] piece_index_i,
  input  piece_t piece_i,

  // Of a buffer in pieces the address is an offset
  input  logic   s_valid_i,
  output logic   s_ready_o,
  input  write_t s_write_i,

  output logic   m_valid_o,
  input  logic   m_ready_i,
  output write_t m_write_o,

  output logic   free_o                          // a slot is free again
);

  typedef enum logic {Pass, Walk} state_e;
  state_e state_q;

  // -- Runs ---------------------------------------------------------------------------------------
  logic [SlotBits-1:0]  slot_q;                  // of the next operation in pieces
  logic [IndexBits-1:0] index;
  piece_t               piece;
  logic                 starts, run_valid, run_last, run;
  logic [63:0]          run_addr;
  logic [14:0]          run_octets;
  assign starts = state_q == Pass && s_valid_i && s_write_i.gather && s_write_i.octets != '0;
  ram_1w1r #(.WIDTH($bits(piece_t)), .DEPTH(GatherSlots * MaxGather)) u_pieces (
    .clk_i, .write_i(piece_write_i), .waddr_i(piece_index_i), .wdata_i(piece_i),
    .raddr_i({slot_q, index}), .rdata_o(piece)
  );
  ipa_pieces #(.PIECES(MaxGather)) u_walk (
    .clk_i, .rst_ni, .start_i(starts), .offset_i(18'(s_write_i.addr)),
    .octets_i(s_write_i.octets), .index_o(index), .piece_addr_i(piece.addr),
    .piece_len_i(piece.len), .run_valid_o(run_valid), .run_ready_i(m_ready_i),
    .run_addr_o(run_addr), .run_octets_o(run_octets), .run_last_o(run_last)
  );
  assign run = run_valid && m_ready_i;

  // -- Beats: one that two runs share stays for the second ----------------------------------------
  logic [8:0]  beats_q, whole;                   // that are left, that end within the run
  logic [5:0]  skip_q;
  logic        second_q;
  logic [15:0] stop;
  assign stop  = 16'(skip_q) + 16'(run_octets);
  assign whole = 9'(stop >> 6);

  logic frees, empty;                            // nothing of it is written, nor was there a beat
  assign empty  = s_write_i.gather && s_write_i.beats == '0;
  assign frees = s_ready_o && s_valid_i && s_write_i.gather && !s_write_i.front;
  assign free_o = frees;
  always_comb begin
    m_valid_o = s_valid_i && !empty;
    s_ready_o = m_ready_i || empty;
    m_write_o = s_write_i;
    if (state_q == Walk) begin
      m_valid_o        = run_valid;
      s_ready_o        = run && run_last;
      m_write_o.addr   = run_addr;
      m_write_o.octets = run_octets;
      m_write_o.skip   = skip_q;
      m_write_o.second = second_q;
      m_write_o.last   = s_write_i.last && run_last;
      m_write_o.keep   = !run_last && stop[5:0] != '0;
      m_write_o.beats  = run_last ? beats_q : whole + 9'(stop[5:0] != '0);
    end else if (starts) begin
      m_valid_o = 1'b0;
      s_ready_o = 1'b0;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Pass;
      slot_q  <= '0;
    end else begin
      if (starts)               state_q <= Walk;
      else if (run && run_last) state_q <= Pass;
      if (frees) slot_q <= slot_q + 1'b1;
    end
    if (starts) begin
      beats_q  <= s_write_i.beats;
      skip_q   <= s_write_i.skip;
      second_q <= 1'b0;
    end else if (run) begin
      beats_q  <= beats_q - whole;
      skip_q   <= stop[5:0];
      second_q <= second_q || whole[0];
    end
  end

endmodule
