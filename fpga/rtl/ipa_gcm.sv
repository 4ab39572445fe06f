// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// The AES-GCM engine: gcm_core, its keys, and a queue behind it. A beat enters only when there is
// room for it in the queue, so that the pipes never have to stop.
//
// Promise: as gcm_core, with back-pressure; the tag comes with a packet's last beat. With an
// idle exit a beat enters every clock (QUEUE covers the pipes).
module ipa_gcm
  import aes_pkg::*;
  import ghash_pkg::*;
#(
  parameter  int unsigned LANES    = 4,
  parameter  int unsigned SAS      = 4096,
  parameter  int unsigned QUEUE    = 64,
  parameter  int unsigned KARATSUBA  = karatsuba(),
  parameter  int unsigned ROM_ROUNDS = 4,        // see aes_lanes
  localparam int unsigned SaBits   = $clog2(SAS),
  localparam int unsigned DataBits = 128 * LANES,
  localparam int unsigned ByteBits = $clog2(16 * LANES + 1)
) (
  input  logic                clk_i,
  input  logic                rst_ni,
  input  logic                zeroise_i,

  input  logic                key_valid_i,
  output logic                key_ready_o,
  input  logic                key_erase_i,
  input  logic [SaBits-1:0]   key_sa_i,
  input  logic                key_256_i,
  input  logic [255:0]        key_i,
  input  logic [31:0]         salt_i,
  output logic                key_done_o,

  input  logic                s_valid_i,
  output logic                s_ready_o,
  input  logic                s_first_i,
  input  logic                s_last_i,
  input  logic                s_seal_i,
  input  logic [SaBits-1:0]   s_sa_i,
  input  logic [127:0]        s_aad_i,
  input  logic [4:0]          s_aad_bytes_i,
  input  logic [ByteBits-1:0] s_bytes_i,
  input  logic [DataBits-1:0] s_data_i,

  output logic                m_valid_o,
  input  logic                m_ready_i,
  output logic                m_last_o,
  output logic [ByteBits-1:0] m_bytes_o,
  output logic [DataBits-1:0] m_data_o,
  output logic [127:0]        m_tag_o            // with the last beat
);

  logic [SaBits-1:0] key_sa;
  logic [14:0]       rkey_write;
  block_t            rkey;
  logic              salt_write, key_256;
  logic [31:0]       salt;
  logic [2*LANES-1:0] power_write;
  poly_t             power, hash_key;
  logic              hash_key_request, hash_key_taken, hash_key_valid;

  gcm_keys #(.LANES(LANES), .SAS(SAS)) u_keys (
    .clk_i, .rst_ni, .zeroise_i,
    .valid_i(key_valid_i), .ready_o(key_ready_o), .erase_i(key_erase_i), .sa_i(key_sa_i),
    .is_256_i(key_256_i), .key_i, .salt_i, .done_o(key_done_o),
    .key_sa_o(key_sa), .rkey_write_o(rkey_write), .rkey_o(rkey),
    .salt_write_o(salt_write), .key_256_o(key_256), .salt_o(salt),
    .power_write_o(power_write), .power_o(power),
    .hash_key_request_o(hash_key_request), .hash_key_taken_i(hash_key_taken),
    .hash_key_valid_i(hash_key_valid), .hash_key_i(hash_key)
  );

  // Credits: beats inside the pipes and the queue.
  localparam int unsigned CreditBits = $clog2(QUEUE + 1);
  logic [CreditBits-1:0] held_q;
  logic                  core_ready, room, push, pop;
  assign room      = held_q != CreditBits'(QUEUE);
  assign s_ready_o = core_ready && room;
  assign push      = s_valid_i && s_ready_o;
  assign pop       = m_valid_o && m_ready_i;
  always_ff @(posedge clk_i) begin
    if (!rst_ni) held_q <= '0;
    else         held_q <= held_q + CreditBits'(push) - CreditBits'(pop);
  end

  logic                c_valid, c_last, tag_valid;
  logic [ByteBits-1:0] c_bytes;
  logic [DataBits-1:0] c_data;
  logic [127:0]        tag;
  gcm_core #(.LANES(LANES), .SAS(SAS), .ROM_ROUNDS(ROM_ROUNDS), .KARATSUBA(KARATSUBA)) u_core (
    .clk_i, .rst_ni,
    .key_sa_i(key_sa), .rkey_write_i(rkey_write), .rkey_i(rkey),
    .salt_write_i(salt_write), .key_256_i(key_256), .salt_i(salt),
    .power_write_i(power_write), .power_i(power),
    .hash_key_request_i(hash_key_request), .hash_key_taken_o(hash_key_taken),
    .hash_key_valid_o(hash_key_valid), .hash_key_o(hash_key),
    .s_valid_i(s_valid_i && room), .s_ready_o(core_ready), .s_first_i, .s_last_i, .s_seal_i,
    .s_sa_i,
    .s_aad_i, .s_aad_bytes_i, .s_bytes_i, .s_data_i,
    .m_valid_o(c_valid), .m_last_o(c_last), .m_bytes_o(c_bytes), .m_data_o(c_data),
    .tag_valid_o(tag_valid), .tag_o(tag)
  );

  logic text_valid, text_ready, text_last, tag_there;
  logic unused_text_ready, unused_tag_ready;
  logic [$clog2(QUEUE):0] unused_text_count, unused_tag_count;
  ipa_fifo #(.WIDTH(1 + ByteBits + DataBits), .DEPTH(QUEUE)) u_text (
    .clk_i, .rst_ni,
    .in_valid_i(c_valid), .in_ready_o(unused_text_ready), .in_data_i({c_last, c_bytes, c_data}),
    .out_valid_o(text_valid), .out_ready_i(text_ready),
    .out_data_o({text_last, m_bytes_o, m_data_o}), .count_o(unused_text_count)
  );
  ipa_fifo #(.WIDTH(128), .DEPTH(QUEUE)) u_tag (
    .clk_i, .rst_ni,
    .in_valid_i(tag_valid), .in_ready_o(unused_tag_ready), .in_data_i(tag),
    .out_valid_o(tag_there), .out_ready_i(pop && text_last), .out_data_o(m_tag_o),
    .count_o(unused_tag_count)
  );
  assign m_valid_o  = text_valid && (!text_last || tag_there);
  assign m_last_o   = text_last;
  assign text_ready = m_ready_i && (!text_last || tag_there);

endmodule
