// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Frames of the wire, to where their verdicts say: to the card, to the host, or nowhere.
//
// Promise: each beat of a frame leaves once, in order, by the exit of its frame's verdict, or is
// dropped; the verdict goes with the last beat (proved). A beat a clock, in the clock in which it came. An
// exit that is not ready holds up what is behind.
module ipa_port_route
  import ipa_card_pkg::way_e;
  import ipa_card_pkg::ToCard;
  import ipa_card_pkg::ToHost;
#(
  parameter int unsigned WIDTH = 512
) (
`ifdef FORMAL
  input  logic             clk_i,
  input  logic             rst_ni,
`endif
  input  logic             s_valid_i,
  output logic             s_ready_o,
  input  logic             s_last_i,
  input  logic [WIDTH-1:0] s_data_i,

  input  logic             verdict_valid_i,
  output logic             verdict_ready_o,
  input  way_e             verdict_way_i,

  output logic             card_valid_o,
  input  logic             card_ready_i,
  output logic             host_valid_o,
  input  logic             host_ready_i,
  output logic             m_last_o,             // of both
  output logic [WIDTH-1:0] m_data_o
);

  logic goes;
  assign goes            = s_valid_i && verdict_valid_i;
  assign card_valid_o    = goes && verdict_way_i == ToCard;
  assign host_valid_o    = goes && verdict_way_i == ToHost;
  assign m_last_o        = s_last_i;
  assign m_data_o        = s_data_i;
  assign verdict_ready_o = s_valid_i && s_ready_o && s_last_i;
  always_comb begin
    unique case (verdict_way_i)
      ToCard:  s_ready_o = verdict_valid_i && card_ready_i;
      ToHost:  s_ready_o = verdict_valid_i && host_ready_i;
      default: s_ready_o = verdict_valid_i;
    endcase
  end

`ifdef FORMAL
  // Frames and their verdicts come from queues, where they stay until they are taken.
  logic             begun_q = 1'b0, s_held_q, verdict_held_q, inside_q, last_q;
  logic             offered_card_q, offered_host_q;
  logic [WIDTH-1:0] data_q;
  way_e             way_q, inside_way_q;
  logic [7:0]       verdicts_q, ends_q;
  logic             takes;
  assign takes = s_valid_i && s_ready_o;
  always_ff @(posedge clk_i) begin
    begun_q        <= 1'b1;
    s_held_q       <= rst_ni && s_valid_i && !s_ready_o;
    verdict_held_q <= rst_ni && verdict_valid_i && !verdict_ready_o;
    offered_card_q <= rst_ni && card_valid_o && !card_ready_i;
    offered_host_q <= rst_ni && host_valid_o && !host_ready_i;
    {data_q, last_q, way_q} <= {s_data_i, s_last_i, verdict_way_i};
    if (!rst_ni) begin
      inside_q   <= 1'b0;
      verdicts_q <= '0;
      ends_q     <= '0;
    end else begin
      if (takes) inside_q <= !s_last_i;
      if (takes && !inside_q) inside_way_q <= verdict_way_i;
      if (verdict_valid_i && verdict_ready_o) verdicts_q <= verdicts_q + 8'd1;
      if (takes && s_last_i) ends_q <= ends_q + 8'd1;
    end
  end
  always_comb begin
    if (!begun_q) assume (!rst_ni);
    if (begun_q && rst_ni) begin
      if (s_held_q) assume (s_valid_i && s_data_i == data_q && s_last_i == last_q);
      if (verdict_held_q) assume (verdict_valid_i && verdict_way_i == way_q);

      // A verdict for each frame, which is there all along.
      assert (verdicts_q == ends_q);
      if (inside_q) assert (verdict_valid_i && verdict_held_q && way_q == inside_way_q);
      if (takes && inside_q) assert (verdict_way_i == inside_way_q);
      // A beat goes to one exit, whose it is, and is gone then; or to none.
      assert (!(card_valid_o && host_valid_o));
      assert ((card_valid_o && card_ready_i) == (takes && verdict_way_i == ToCard));
      assert ((host_valid_o && host_ready_i) == (takes && verdict_way_i == ToHost));
      if (card_valid_o || host_valid_o) assert (m_data_o == s_data_i && m_last_o == s_last_i);
      // What is offered stays until it is taken.
      if (offered_card_q) assert (card_valid_o && m_data_o == data_q && m_last_o == last_q);
      if (offered_host_q) assert (host_valid_o && m_data_o == data_q && m_last_o == last_q);
      // Nobody waits for nothing.
      if (s_valid_i && verdict_valid_i && card_ready_i && host_ready_i) assert (takes);
    end
  end
`endif

endmodule
