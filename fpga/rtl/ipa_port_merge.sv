// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Frames of two sources, one after the other: the card's and the host's, on their way to the wire.
//
// Promise: a frame's beats leave together, each once and in order; who has sent a frame lets the other go
// first (proved). A beat a clock, in the clock in which it came; no bubble between frames.
module ipa_port_merge #(
  parameter int unsigned WIDTH = 512
) (
  input  logic                  clk_i,
  input  logic                  rst_ni,

  input  logic [1:0]            s_valid_i,
  output logic [1:0]            s_ready_o,
  input  logic [1:0]            s_last_i,
  input  logic [1:0][WIDTH-1:0] s_data_i,

  output logic                  m_valid_o,
  input  logic                  m_ready_i,
  output logic                  m_last_o,
  output logic                  m_source_o,
  output logic [WIDTH-1:0]      m_data_o
);

  // Whose a frame is that has begun, or was offered; else who goes first.
  logic begun_q, source_q, source;
  assign source     = begun_q || s_valid_i[source_q] ? source_q : !source_q;
  assign m_valid_o  = s_valid_i[source];
  assign m_last_o   = s_last_i[source];
  assign m_source_o = source;
  assign m_data_o   = s_data_i[source];
  always_comb begin
    s_ready_o         = '0;
    s_ready_o[source] = m_ready_i;
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      begun_q  <= 1'b0;
      source_q <= 1'b0;
    end else if (m_valid_o) begin
      begun_q  <= !(m_ready_i && m_last_o);
      source_q <= m_ready_i && m_last_o ? !source : source;
    end
  end

`ifdef FORMAL
  logic             started_q = 1'b0, inside_q, whose_q, offered_q, last_q, source_before_q;
  logic [1:0]       held_q, waited_q, ended;
  logic [1:0][WIDTH-1:0] data_q;
  logic [1:0]       lasts_q;
  logic [WIDTH-1:0] out_q;
  assign ended = {m_valid_o && m_ready_i && m_last_o && m_source_o,
                  m_valid_o && m_ready_i && m_last_o && !m_source_o};
  always_ff @(posedge clk_i) begin
    started_q <= 1'b1;
    held_q    <= rst_ni ? s_valid_i & ~s_ready_o : '0;
    data_q    <= s_data_i;
    lasts_q   <= s_last_i;
    offered_q <= rst_ni && m_valid_o && !m_ready_i;
    out_q     <= m_data_o;
    last_q    <= m_last_o;
    source_before_q <= m_source_o;
    if (!rst_ni) begin
      inside_q <= 1'b0;
      waited_q <= '0;
    end else begin
      if (m_valid_o && m_ready_i) begin
        inside_q <= !m_last_o;
        whose_q  <= m_source_o;
      end
      // A frame of the other one has gone by while it waited.
      for (int s = 0; s < 2; s++) begin
        if (ended[s] || !s_valid_i[s]) waited_q[s] <= 1'b0;
        else if (ended[1-s])           waited_q[s] <= 1'b1;
      end
    end
  end
  always_comb begin
    if (!started_q) assume (!rst_ni);
    if (started_q && rst_ni) begin
      for (int s = 0; s < 2; s++) begin
        if (held_q[s]) begin
          assume (s_valid_i[s] && s_data_i[s] == data_q[s] && s_last_i[s] == lasts_q[s]);
        end
        // Taken when it leaves, and only then.
        assert ((s_valid_i[s] && s_ready_o[s])
                == (m_valid_o && m_ready_i && m_source_o == 1'(s)));
        // Whoever has waited for a frame waits for no other one.
        if (waited_q[s] && m_valid_o) assert (m_source_o == 1'(s));
        if (waited_q[s]) assert (source_q == 1'(s));
      end
      if (m_valid_o) assert (m_data_o == s_data_i[m_source_o]);
      if (m_valid_o) assert (m_last_o == s_last_i[m_source_o]);
      assert (m_valid_o == (s_valid_i[source] && (begun_q || s_valid_i != '0)));
      // Frames stay whole.
      if (inside_q) assert (begun_q && source_q == whose_q && m_source_o == whose_q);
      if (offered_q) begin
        assert (begun_q && source_q == source_before_q);
        assert (m_valid_o && m_data_o == out_q && m_last_o == last_q);
      end
      if (begun_q) assert (inside_q || offered_q);
      if (!inside_q && !offered_q && s_valid_i != '0) assert (m_valid_o);
    end
  end
`endif

endmodule
