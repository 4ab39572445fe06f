// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// AES-GCM over a stream of packets laid out as ESP lays them out (RFC 4106): the first 16 octets are
// ESP header and IV, and the text follows. So lane 0 of a packet's first beat has no text: its
// AES block is J0, whose encryption masks the tag, and its hash block is the associated data. The
// block of lengths takes the lane behind the last text, or a beat of its own if that was the last.
//
// Promise: LANES blocks a clock, no bubble between packets of different SAs or key sizes, one behind a
// packet that fills its last beat. Text leaves 17 clocks after it entered, at most five clocks
// before its packet's tag, and can't be held back. No packet may use an SA whose keys are being
// written.
module gcm_core
  import aes_pkg::*;
  import ghash_pkg::*;
#(
  parameter  int unsigned LANES    = 4,
  parameter  int unsigned SAS      = 4096,
  parameter  int unsigned KARATSUBA  = karatsuba(),
  parameter  int unsigned ROM_ROUNDS = 4,        // see aes_lanes
  localparam int unsigned SaBits   = $clog2(SAS),
  localparam int unsigned Powers   = 2 * LANES,
  localparam int unsigned DataBits = 128 * LANES,
  localparam int unsigned ByteBits = $clog2(16 * LANES + 1)
) (
  input  logic                clk_i,
  input  logic                rst_ni,

  // Key memories
  input  logic [SaBits-1:0]   key_sa_i,
  input  logic [14:0]         rkey_write_i,      // by the round that uses it
  input  block_t              rkey_i,
  input  logic                salt_write_i,
  input  logic                key_256_i,
  input  logic [31:0]         salt_i,
  input  logic [Powers-1:0]   power_write_i,     // H^1 to H^(2 LANES)
  input  poly_t               power_i,
  // Asks for H of key_sa_i; the answer comes later
  input  logic                hash_key_request_i,
  output logic                hash_key_taken_o,
  output logic                hash_key_valid_o,
  output poly_t               hash_key_o,

  // Packets in. Octet n is in bits 8n+7 to 8n.
  input  logic                s_valid_i,
  output logic                s_ready_o,
  input  logic                s_first_i,
  input  logic                s_last_i,
  input  logic                s_seal_i,          // else open
  input  logic [SaBits-1:0]   s_sa_i,
  input  logic [127:0]        s_aad_i,           // with the first beat; zero behind its end
  input  logic [4:0]          s_aad_bytes_i,     // 0 to 16
  input  logic [ByteBits-1:0] s_bytes_i,         // 1 to 16 LANES with the last beat; first: 16
  input  logic [DataBits-1:0] s_data_i,

  // Packets out, and their tags
  output logic                m_valid_o,
  output logic                m_last_o,
  output logic [ByteBits-1:0] m_bytes_o,
  output logic [DataBits-1:0] m_data_o,
  output logic                tag_valid_o,
  output logic [127:0]        tag_o              // octet n in bits 8n+7 to 8n
);

  localparam int unsigned CountBits = $clog2(LANES + 1);
  localparam int unsigned Depth     = 16;        // clocks from entry to the end of AES

  typedef enum logic [1:0] {None, Packet, Length, HashKey} kind_e;
  typedef struct packed {
    kind_e                kind;
    logic                 first;
    logic                 last;                  // of the text
    logic                 seal;
    logic                 hash_last;             // the block of lengths is in this beat
    logic [CountBits-1:0] blocks;                // of text and associated data
    logic [ByteBits-1:0]  bytes;
    logic [SaBits-1:0]    sa;
    logic [4:0]           aad_bytes;
    logic [16:0]          text_bytes;            // up to and with this beat
    logic [127:0]         aad;
    logic [DataBits-1:0]  data;
  } beat_t;

  // -- Entry --------------------------------------------------------------------------------------
  beat_t       entry, length_q;
  logic        accept, length_pending_q;
  logic [4:0]  aad_bytes_q;
  logic [16:0] text_bytes_q, text_bytes;
  logic        seal_q, full;
  logic [SaBits-1:0]   sa_q;
  logic [ByteBits-1:0] bytes;

  assign s_ready_o        = !length_pending_q && !hash_key_request_i;
  assign hash_key_taken_o = hash_key_request_i && !length_pending_q;
  assign accept           = s_valid_i && s_ready_o;
  assign bytes            = s_last_i ? s_bytes_i : ByteBits'(16 * LANES);
  assign text_bytes       = s_first_i ? 17'(bytes) - 17'd16 : text_bytes_q + 17'(bytes);
  assign full             = bytes > ByteBits'(16 * (LANES - 1));

  always_comb begin
    entry            = '0;
    entry.kind       = None;
    entry.sa         = s_first_i ? s_sa_i : sa_q;
    entry.seal       = s_first_i ? s_seal_i : seal_q;
    entry.aad_bytes  = s_first_i ? s_aad_bytes_i : aad_bytes_q;
    entry.text_bytes = text_bytes;
    entry.first      = s_first_i;
    entry.last       = s_last_i;
    entry.hash_last  = s_last_i && !full;
    entry.blocks     = CountBits'((32'(bytes) + 32'd15) / 16);
    entry.bytes      = bytes;
    entry.aad        = s_aad_i;
    entry.data       = s_data_i;
    if (length_pending_q) begin
      entry      = length_q;
      // Not looked at, and no reason for a multiplexer.
      entry.aad  = s_aad_i;
      entry.data = s_data_i;
    end else if (hash_key_request_i) begin
      entry.kind = HashKey;
      entry.sa   = key_sa_i;
    end else if (accept) begin
      entry.kind = Packet;
    end
  end

  always_ff @(posedge clk_i) begin
    if (!rst_ni) begin
      length_pending_q <= 1'b0;
    end else begin
      length_pending_q <= accept && s_last_i && full;
    end
    if (accept) begin
      text_bytes_q <= text_bytes;
      aad_bytes_q  <= entry.aad_bytes;
      seal_q       <= entry.seal;
      sa_q         <= entry.sa;
      length_q     <= '0;
      length_q.kind       <= Length;
      length_q.hash_last  <= 1'b1;
      length_q.sa         <= entry.sa;
      length_q.aad_bytes  <= entry.aad_bytes;
      length_q.text_bytes <= text_bytes;
    end
  end

  // Beats ride beside the AES pipes; `ride[d]` entered d clocks ago.
  beat_t ride [1:Depth];
  always_ff @(posedge clk_i) begin
    ride[1] <= entry;
    if (!rst_ni) ride[1].kind <= None;
  end
  for (genvar d = 2; d <= Depth; d++) begin : gen_ride
    always_ff @(posedge clk_i) begin
      ride[d] <= ride[d-1];
      if (!rst_ni) ride[d].kind <= None;
    end
  end

  // -- Counter blocks -----------------------------------------------------------------------------
  logic        is_256;
  logic [31:0] salt, counter_q;
  logic [63:0] iv_q;
  ram_1w1r #(.WIDTH(33), .DEPTH(SAS)) u_salt (
    .clk_i, .write_i(salt_write_i), .waddr_i(key_sa_i), .wdata_i({key_256_i, salt_i}),
    .raddr_i(entry.sa), .rdata_o({is_256, salt})
  );
  always_ff @(posedge clk_i) begin
    if (accept) begin
      counter_q <= s_first_i ? 32'd1 : counter_q + LANES;
      if (s_first_i) begin
        for (int i = 0; i < 8; i++) iv_q[63-8*i-:8] <= s_data_i[64+8*i+:8];
      end
    end
  end

  // Of the hash key's beat they are zero.
  block_t      stream [LANES];
  logic [95:0] nonce;
  logic [31:0] counter [LANES];
  assign nonce = ride[1].kind == HashKey ? '0 : {salt, iv_q};
  for (genvar l = 0; l < LANES; l++) begin : gen_counter
    assign counter[l] = ride[1].kind == HashKey ? '0 : counter_q + l;
  end
  aes_lanes #(.LANES(LANES), .SAS(SAS), .ROM_ROUNDS(ROM_ROUNDS)) u_aes (
    .clk_i, .rkey_write_i, .rkey_sa_i(key_sa_i), .rkey_i,
    .sa_i(entry.sa), .is_256_i(is_256), .head_i(nonce), .count_i(counter), .block_o(stream)
  );

  // -- Text ---------------------------------------------------------------------------------------
  beat_t               done;
  logic [DataBits-1:0] keep, kept, text;
  assign done = ride[Depth];
  always_comb begin
    for (int i = 0; i < 16 * LANES; i++) keep[8*i+:8] = {8{ByteBits'(i) < done.bytes}};
  end
  assign kept = done.data & keep;
  for (genvar l = 0; l < LANES; l++) begin : gen_text
    if (l == 0) begin : gen_header
      assign text[127:0] = done.first ? kept[127:0] : kept[127:0] ^ (swap(stream[0]) & keep[127:0]);
    end else begin : gen_whole
      assign text[128*l+:128] = kept[128*l+:128] ^ (swap(stream[l]) & keep[128*l+:128]);
    end
  end
  always_ff @(posedge clk_i) begin
    m_valid_o <= rst_ni && done.kind == Packet;
    m_last_o  <= done.last;
    m_bytes_o <= done.bytes;
    m_data_o  <= text;
  end

  // -- Tag ----------------------------------------------------------------------------------------
  block_t       lengths;
  logic [127:0] mask_q, mask1_q, mask2_q, mask3_q, mask4_q;
  poly_t        x [LANES];
  assign lengths = {56'b0, done.aad_bytes, 3'b0, 44'b0, done.text_bytes, 3'b0};

  always_comb begin
    for (int l = 0; l < LANES; l++) begin
      if (l == 0 && done.first) x[l] = flip(done.aad);
      else if (done.seal)       x[l] = flip(text[128*l+:128]);
      else                      x[l] = flip(kept[128*l+:128]);
      // Where there is no text.
      if (done.hash_last && done.blocks == CountBits'(l)) x[l] |= reflect(lengths);
    end
  end
  always_ff @(posedge clk_i) begin
    if (done.kind == Packet && done.first) mask_q <= stream[0];
    mask1_q <= mask_q;
    mask2_q <= mask1_q;
    mask3_q <= mask2_q;
    mask4_q <= mask3_q;
  end

  logic [SaBits-1:0] power_sa;
  poly_t             power [Powers];
  for (genvar p = 0; p < Powers; p++) begin : gen_power
    ram_1w1r #(.WIDTH(128), .DEPTH(SAS)) u_power (
      .clk_i, .write_i(power_write_i[p]), .waddr_i(key_sa_i), .wdata_i(power_i),
      .raddr_i(power_sa), .rdata_o(power[p])
    );
  end

  poly_t hash;
  ghash_lanes #(.LANES(LANES), .SAS(SAS), .KARATSUBA(KARATSUBA)) u_ghash (
    .clk_i, .rst_ni, .valid_i(done.kind inside {Packet, Length}), .first_i(done.first),
    .last_i(done.hash_last), .count_i(done.blocks + CountBits'(done.hash_last)), .sa_i(done.sa),
    .x_i(x), .h_sa_o(power_sa), .h_i(power), .done_o(tag_valid_o), .hash_o(hash)
  );
  assign tag_o = swap(reflect(hash) ^ mask4_q);

  // -- Hash key -----------------------------------------------------------------------------------
  assign hash_key_valid_o = done.kind == HashKey;
  assign hash_key_o       = reflect(stream[0]);

endmodule
