// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Operations of the host's descriptors and of the ports, with their packets, on one way in.
//
// Promise: packets come in the order of their operations, each whole, in the clock in which they came.
// Where both sides have an operation waiting, they take turns.
module ipa_job_merge
  import ipa_card_pkg::*;
#(
  parameter int unsigned DEPTH = 64              // packets whose operations are ahead
) (
  input  logic         clk_i,
  input  logic         rst_ni,

  input  logic         host_job_valid_i,
  output logic         host_job_ready_o,
  input  job_t         host_job_i,
  input  logic         host_valid_i,
  output logic         host_ready_o,
  input  logic         host_last_i,
  input  logic         host_error_i,             // with the last beat
  input  logic [511:0] host_data_i,

  input  logic         port_job_valid_i,
  output logic         port_job_ready_o,
  input  job_t         port_job_i,
  input  logic         port_valid_i,
  output logic         port_ready_o,
  input  logic         port_last_i,
  input  logic [511:0] port_data_i,

  output logic         job_valid_o,
  input  logic         job_ready_i,
  output job_t         job_o,
  output logic         m_valid_o,
  input  logic         m_ready_i,
  output logic         m_last_o,
  output logic         m_error_o,
  output logic [511:0] m_data_o
);

  // A port's turn, unless it had the last one and the host was waiting then.
  logic owes_q, port_turn, sides_ready, side_valid, of_port, moves, has_data;
  logic [$clog2(DEPTH):0] unused_sides;
  assign port_turn        = port_job_valid_i && !owes_q;
  assign job_o            = port_turn ? port_job_i : host_job_i;
  assign job_valid_o      = (port_turn || host_job_valid_i) && sides_ready;
  assign port_job_ready_o = port_turn && job_ready_i && sides_ready;
  assign host_job_ready_o = !port_turn && job_ready_i && sides_ready;
  assign moves            = job_valid_o && job_ready_i;
  assign has_data         = job_o.has_data;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) owes_q <= 1'b0;
    else         owes_q <= host_job_valid_i && (moves ? port_turn : owes_q);
  end

  ipa_fifo #(.WIDTH(1), .DEPTH(DEPTH)) u_sides (
    .clk_i, .rst_ni, .in_valid_i(moves && has_data), .in_ready_o(sides_ready),
    .in_data_i(port_turn), .out_valid_o(side_valid),
    .out_ready_i(m_valid_o && m_ready_i && m_last_o), .out_data_o(of_port), .count_o(unused_sides)
  );
  assign m_valid_o    = side_valid && (of_port ? port_valid_i : host_valid_i);
  assign m_last_o     = of_port ? port_last_i : host_last_i;
  assign m_error_o    = !of_port && host_error_i;
  assign m_data_o     = of_port ? port_data_i : host_data_i;
  assign port_ready_o = side_valid && of_port && m_ready_i;
  assign host_ready_o = side_valid && !of_port && m_ready_i;

endmodule
