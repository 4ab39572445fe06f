// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Checks a gather list as it comes from the host's memory, keeps its pieces, and names the runs that hold
// a packet. The list is looked at once, so whatever the host writes there later changes nothing.
//
// Promise: a list of n pieces is judged in n (n + 3) / 2 clocks, and some: good are those whose pieces have
// octets, share none, don't wrap around, and are as long together as the buffer is said to be.
module ipa_gather
  import ipa_card_pkg::*;
  import ipa_pkg::gather_entry_t;
#(
  localparam int unsigned IndexBits = $clog2(MaxGather),
  localparam int unsigned SlotBits  = $clog2(GatherSlots)
) (
  input  logic                clk_i,
  input  logic                rst_ni,

  // A list to be checked
  input  logic                start_i,
  input  logic [SlotBits-1:0] slot_i,            // where its pieces are kept
  input  logic [4:0]          entries_i,         // 1 to MaxGather
  input  logic [31:0]         octets_i,          // of the buffer
  output logic                judged_o,
  output logic                bad_o,             // with judged_o
  output logic                fault_o,           // likewise: it could not be read

  // The list, packed
  input  logic                list_valid_i,
  output logic                list_ready_o,
  input  logic [511:0]        list_i,
  input  logic                list_error_i,      // with the last beat

  // Then, a packet of it
  input  logic                walk_i,
  input  logic [17:0]         offset_i,
  input  logic [14:0]         len_i,
  output logic                run_valid_o,
  input  logic                run_ready_i,
  output logic [63:0]         run_addr_o,
  output logic [14:0]         run_octets_o,
  output logic                run_last_o,

  // A copy of the pieces
  output logic                piece_write_o,
  output logic [SlotBits+IndexBits-1:0] piece_index_o,
  output piece_t              piece_o
);

  typedef enum logic [1:0] {Rest, Take, Meet, Judge} state_e;
  state_e               state_q;
  logic [IndexBits-1:0] entry_q, other_q, walked;
  logic                 bad_q, fault_q, met_q, last;
  logic [35:0]          sum_q;
  gather_entry_t        entry;
  piece_t               piece_q, other;
  logic [64:0]          piece_end, other_end;
  logic                 take, meets, wraps;

  assign last      = {1'b0, entry_q} + 5'd1 == entries_i;
  assign entry     = list_i[128*entry_q[1:0]+:128];
  assign wraps     = ~entry.iova < 64'(entry.len);
  assign take      = state_q == Take && list_valid_i;
  assign list_ready_o = take && (last || entry_q[1:0] == '1);

  // Of pieces that wrap around, or are longer than any buffer, the list is bad anyway.
  assign piece_end = {1'b0, piece_q.addr} + 65'(piece_q.len);
  assign other_end = {1'b0, other.addr} + 65'(other.len);
  assign meets     = piece_end > {1'b0, other.addr} && other_end > {1'b0, piece_q.addr};

  assign piece_write_o = take;
  assign piece_index_o = {slot_i, entry_q};
  assign piece_o       = '{addr: entry.iova, len: 18'(entry.len)};
  ram_1w1r #(.WIDTH($bits(piece_t)), .DEPTH(GatherSlots * MaxGather)) u_pieces (
    .clk_i, .write_i(piece_write_o), .waddr_i(piece_index_o), .wdata_i(piece_o),
    .raddr_i({slot_i, state_q == Rest ? walked : other_q}), .rdata_o(other)
  );

  assign judged_o = state_q == Judge;
  assign fault_o  = fault_q;
  assign bad_o    = bad_q || sum_q != 36'(octets_i) || octets_i > MaxBuffer;

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      state_q <= Rest;
    end else begin
      unique case (state_q)
        Rest:    if (start_i) state_q <= Take;
        Take: begin
          if (take && entry_q != '0) state_q <= Meet;
          else if (take && last)     state_q <= Judge;
        end
        // All pieces in front of this one, each a clock after it was asked for.
        Meet: begin
          if (other_q == entry_q) state_q <= {1'b0, entry_q} + 5'd1 == entries_i ? Judge : Take;
        end
        Judge:   state_q <= Rest;
        default: state_q <= Rest;
      endcase
    end
    met_q <= state_q == Meet && other_q != entry_q;
    unique case (state_q)
      Rest: begin
        entry_q <= '0;
        other_q <= '0;
        sum_q   <= '0;
        bad_q   <= 1'b0;
        fault_q <= 1'b0;
      end
      Take: if (take) begin
        piece_q <= piece_o;
        sum_q   <= sum_q + 36'(entry.len);
        other_q <= '0;
        if (entry.len == '0 || entry.reserved != '0 || wraps) bad_q <= 1'b1;
        if (list_ready_o && list_error_i) fault_q <= 1'b1;
        if (entry_q == '0) entry_q <= IndexBits'(1);
      end
      Meet: begin
        if (met_q && meets) bad_q <= 1'b1;
        if (other_q == entry_q) entry_q <= entry_q + 1'b1;
        else                    other_q <= other_q + 1'b1;
      end
      default: ;
    endcase
  end

  ipa_pieces #(.PIECES(MaxGather)) u_walk (
    .clk_i, .rst_ni, .start_i(walk_i), .offset_i, .octets_i(len_i), .index_o(walked),
    .piece_addr_i(other.addr), .piece_len_i(other.len), .run_valid_o, .run_ready_i, .run_addr_o,
    .run_octets_o, .run_last_o
  );

endmodule
