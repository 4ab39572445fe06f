// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Operations of the host's descriptors and of the ports, with their packets, on one way in.
//
// Promise: packets come in the order of their operations, each whole, in the clock in which they came.
// Where both sides have an operation waiting, they take turns (proved).
module ipa_job_merge
  import ipa_card_pkg::*;
#(
  parameter int unsigned WIDTH = 512,
  parameter int unsigned DEPTH = 64              // packets whose operations are ahead
) (
`ifdef FORMAL
  input  logic             some_i,
`endif
  input  logic             clk_i,
  input  logic             rst_ni,

  input  logic             host_job_valid_i,
  output logic             host_job_ready_o,
  input  job_t             host_job_i,
  input  logic             host_valid_i,
  output logic             host_ready_o,
  input  logic             host_last_i,
  input  logic             host_error_i,         // with the last beat
  input  logic [WIDTH-1:0] host_data_i,

  input  logic             port_job_valid_i,
  output logic             port_job_ready_o,
  input  job_t             port_job_i,
  input  logic             port_valid_i,
  output logic             port_ready_o,
  input  logic             port_last_i,
  input  logic [WIDTH-1:0] port_data_i,

  output logic             job_valid_o,
  input  logic             job_ready_i,
  output job_t             job_o,
  output logic             m_valid_o,
  input  logic             m_ready_i,
  output logic             m_last_o,
  output logic             m_error_o,
  output logic [WIDTH-1:0] m_data_o
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

`ifdef FORMAL
  // One operation that has a packet, any, is followed: `ahead_q` packets leave before its own.
  localparam int unsigned CountBits = $clog2(DEPTH) + 1;
  logic                 started_q = 1'b0, follow, inside_q, left_q, side_q;
  logic                 within_q, whose_q, offered_q, last_q, error_q, leaves;
  logic [CountBits-1:0] ahead_q, count, of_ports;
  logic [WIDTH-1:0]     data_q;
  // Of the host's descriptors, and of the ports: what it offers, and operations whose packets have not left.
  logic [1:0]                job_valid, job_ready, job_held_q, waited_q, went;
  logic [1:0]                valid, ready, last, held_q, lasts_q;
  logic [1:0][WIDTH-1:0]     data, datas_q;
  logic [1:0][CountBits-1:0] open_q;
  job_t                      host_job_q, port_job_q;
  assign job_valid = {port_job_valid_i, host_job_valid_i};
  assign job_ready = {port_job_ready_o, host_job_ready_o};
  assign valid     = {port_valid_i, host_valid_i};
  assign ready     = {port_ready_o, host_ready_o};
  assign last      = {port_last_i, host_last_i};
  assign data      = {port_data_i, host_data_i};
  assign went      = job_valid & job_ready;
  assign follow    = some_i && moves && has_data && !inside_q && !left_q;
  assign leaves    = m_valid_o && m_ready_i && m_last_o;
  assign count     = open_q[0] + open_q[1];
  always_comb begin
    of_ports = '0;
    for (int n = 0; n < DEPTH; n++) begin
      if (CountBits'(n) < count) begin
        of_ports += CountBits'(u_sides.memory[($clog2(DEPTH))'(u_sides.read_q + CountBits'(n))]);
      end
    end
  end
  always_ff @(posedge clk_i) begin
    started_q  <= 1'b1;
    job_held_q <= rst_ni ? job_valid & ~job_ready : '0;
    held_q     <= rst_ni ? valid & ~ready : '0;
    host_job_q <= host_job_i;
    port_job_q <= port_job_i;
    datas_q    <= data;
    lasts_q    <= last;
    error_q    <= host_error_i;
    offered_q  <= rst_ni && m_valid_o && !m_ready_i;
    data_q     <= m_data_o;
    last_q     <= m_last_o;
    if (!rst_ni) begin
      inside_q <= 1'b0;
      left_q   <= 1'b0;
      within_q <= 1'b0;
      open_q   <= '0;
      waited_q <= '0;
    end else begin
      if (follow) begin
        inside_q <= 1'b1;
        side_q   <= went[1];
        ahead_q  <= count - CountBits'(leaves);
      end else if (inside_q && leaves) begin
        inside_q <= ahead_q != 0;
        left_q   <= ahead_q == 0;
        ahead_q  <= ahead_q - 1'b1;
      end
      if (m_valid_o && m_ready_i) begin
        within_q <= !m_last_o;
        whose_q  <= ready[1];
      end
      for (int s = 0; s < 2; s++) begin
        open_q[s] <= open_q[s] + CountBits'(went[s] && has_data)
                     - CountBits'(leaves && ready[s]);
        // An operation of the other side went while it waited.
        if (went[s] || !job_valid[s]) waited_q[s] <= 1'b0;
        else if (went[1-s])           waited_q[s] <= 1'b1;
      end
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      if (job_held_q[0]) assume (host_job_valid_i && host_job_i == host_job_q);
      if (job_held_q[1]) assume (port_job_valid_i && port_job_i == port_job_q);
      for (int s = 0; s < 2; s++) begin
        if (held_q[s]) assume (valid[s] && data[s] == datas_q[s] && last[s] == lasts_q[s]);
      end
      if (held_q[0]) assume (host_error_i == error_q);

      // Operations: each once, as they are, and neither side waits for two of the other.
      assert (!(went[0] && went[1]) && (went != '0) == (job_valid_o && job_ready_i));
      if (went[0]) assert (job_o == host_job_i);
      if (went[1]) assert (job_o == port_job_i);
      if (waited_q[0]) assert (!went[1]);
      if (waited_q[1]) assert (!went[0]);
      if (job_valid != '0 && job_ready_i && count < CountBits'(DEPTH)) assert (went != '0);
      // Beats: each once, as they are, of packets that have an operation.
      assert ((valid & ready) == (m_valid_o && m_ready_i ? ready : '0) && ready != '1);
      for (int s = 0; s < 2; s++) begin
        if (m_valid_o && ready[s]) begin
          assert (m_data_o == data[s] && m_last_o == last[s] && open_q[s] != 0);
          assert (m_error_o == (s == 0 && host_error_i));
        end
        // Packets stay whole.
        if (within_q && ready[s]) assert (whose_q == 1'(s));
      end
      if (offered_q) assert (m_valid_o && m_data_o == data_q && m_last_o == last_q);
      if (count != 0 && valid == '1) assert (m_valid_o);
      // In the order of the operations.
      if (inside_q && ahead_q == 0 && m_valid_o && m_ready_i) assert (ready[side_q]);

      // What induction needs to know.
      assert (unused_sides == count && of_ports == open_q[1] && count <= CountBits'(DEPTH));
      assert (open_q[0] <= CountBits'(DEPTH) && open_q[1] <= CountBits'(DEPTH));
      if (inside_q) begin
        assert (ahead_q < count);
        assert (u_sides.memory[($clog2(DEPTH))'(u_sides.read_q + ahead_q)] == side_q);
      end
      if (within_q) assert (side_valid && of_port == whose_q);
      if (waited_q[0]) assert (owes_q);
      if (waited_q[1]) assert (!owes_q);
    end
  end
`endif

endmodule
