// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Joins transfers, packed each from octet 0 of its first beat on, into one.
//
// Promise: each octet leaves once, in order, with zeros behind the last one (proved). A beat a clock, in the
// clock in which it came; one more at the end of what was joined and does not fit the last beat. What is one
// transfer anyway passes as it is. An error of any is told with the last beat.
module dma_join #(
  parameter  int unsigned OCTETS   = 64,         // of a beat, a power of two
  localparam int unsigned ByteBits = $clog2(OCTETS + 1),
  localparam int unsigned FillBits = $clog2(OCTETS)
) (
  input  logic         clk_i,
  input  logic         rst_ni,

  input  logic         s_valid_i,
  output logic         s_ready_o,
  input  logic [8*OCTETS-1:0] s_data_i,          // zeros behind its octets
  input  logic [ByteBits-1:0] s_bytes_i,         // OCTETS, fewer in a transfer's last beat
  input  logic         s_last_i,                 // of the transfer
  input  logic         s_error_i,                // with its last beat
  input  logic         s_more_i,                 // with it: another one belongs to it

  output logic         m_valid_o,
  input  logic         m_ready_i,
  output logic [8*OCTETS-1:0] m_data_o,
  output logic         m_last_o,
  output logic         m_error_o
);

  logic [8*OCTETS-1:0]  held_q;                  // octets that did not leave yet, zeros behind
  logic [FillBits-1:0]  fill_q;                  // how many
  logic          flush_q, error_q;
  logic [16*OCTETS-1:0] both;
  logic [ByteBits:0]    fill;
  logic                 ends, full, error, take;
  assign both  = (16 * OCTETS)'(held_q) | (16 * OCTETS)'(s_data_i) << {fill_q, 3'b0};
  assign fill  = (ByteBits + 1)'(fill_q) + (ByteBits + 1)'(s_bytes_i);
  assign ends  = s_last_i && !s_more_i;
  assign full  = fill >= (ByteBits + 1)'(OCTETS);
  assign error = error_q || (s_last_i && s_error_i);

  assign m_valid_o = flush_q || (s_valid_i && (full || ends));
  assign m_data_o  = flush_q ? held_q : both[8*OCTETS-1:0];
  assign m_last_o  = flush_q || (ends && fill <= (ByteBits + 1)'(OCTETS));
  assign m_error_o = flush_q ? error_q : error;
  assign s_ready_o = !flush_q && (m_ready_i || !(full || ends));
  assign take      = s_valid_i && s_ready_o;

  always_ff @(posedge clk_i) begin
    if (!rst_ni || (m_valid_o && m_ready_i && m_last_o)) begin
      held_q  <= '0;
      fill_q  <= '0;
      flush_q <= 1'b0;
      error_q <= 1'b0;
    end else if (take) begin
      held_q  <= full ? both[16*OCTETS-1:8*OCTETS] : both[8*OCTETS-1:0];
      fill_q  <= fill[FillBits-1:0];
      flush_q <= ends;
      error_q <= error;
    end
  end

`ifdef FORMAL
  // `watched` is any octet of what is joined: which one, s_data_i says in reset.
  logic        started_q = 1'b0, known_q, ended_q, comes, leaves;
  logic [15:0] watched_q, in_q, out_q, into, out_of;
  logic [7:0]  value_q, value, found;
  logic        m_out;
  assign m_out  = m_valid_o && m_ready_i;
  assign into   = watched_q - in_q;
  assign out_of = watched_q - out_q;
  assign comes  = s_valid_i && !flush_q && into < 16'(s_bytes_i);
  assign leaves = m_valid_o && out_of < 16'(OCTETS);
  assign value  = known_q ? value_q : (comes ? s_data_i[8*into[FillBits-1:0]+:8] : 8'd0);
  assign found  = m_data_o[8*out_of[FillBits-1:0]+:8];
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    if (!rst_ni || (m_out && m_last_o)) begin
      if (!rst_ni) watched_q <= {2'b0, s_data_i[13:0]};
      in_q    <= '0;
      out_q   <= '0;
      known_q <= 1'b0;
      ended_q <= 1'b0;
    end else begin
      if (take && comes) begin
        known_q <= 1'b1;
        value_q <= value;
      end
      if (take && ends) ended_q <= 1'b1;
      if (take)  in_q  <= in_q + 16'(s_bytes_i);
      if (m_out) out_q <= out_q + 16'(OCTETS);
    end
  end
  always_ff @(posedge clk_i) begin
    if (!started_q) begin
      assume (!rst_ni);
    end else if (rst_ni) begin
      assume (s_bytes_i != 0 && s_bytes_i <= ByteBits'(OCTETS)
              && (s_last_i || s_bytes_i == ByteBits'(OCTETS)));
      assume ((s_data_i >> {s_bytes_i, 3'b0}) == '0);
      assume (in_q < 16'h8000);
      if (leaves) assert (found == value);
      // What has come to its end leaves before anything else comes.
      assert (ended_q == flush_q && !(ended_q && take));
      if (m_valid_o && m_last_o) begin
        assert (out_q + 16'(OCTETS) >= in_q + (flush_q ? 16'd0 : 16'(s_bytes_i)));
      end
      if (m_valid_o && !m_last_o) assert (out_q + 16'(OCTETS) <= in_q + 16'(s_bytes_i));
      // What induction needs to know.
      assert (in_q == out_q + 16'(fill_q) && (!flush_q || fill_q != 0));
      assert (known_q == (watched_q < in_q) && out_q[FillBits-1:0] == '0 && watched_q < 16'h4000);
      assert ((held_q >> {fill_q, 3'b0}) == '0);
      if (known_q && out_of < 16'(OCTETS)) assert (held_q[8*out_of[FillBits-1:0]+:8] == value_q);
    end
  end
`endif

endmodule
