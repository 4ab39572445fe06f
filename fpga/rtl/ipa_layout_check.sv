// SPDX-License-Identifier: Apache-2.0 OR MIT
//
// Promise: elaborates only if the structures of ipa_pkg lie in memory like those in Rust: each field
// has its part of the octets in fpga/rtl/golden.svh.
module ipa_layout_check
  import ipa_pkg::*;
();

  `include "golden.svh"

  localparam submission_t Submission = GoldenSubmission;
  if (Submission.opcode != 8'h01) $fatal(1, "submission_t.opcode");
  if (Submission.flags != 8'h02) $fatal(1, "submission_t.flags");
  if (Submission.entries != 16'h0403) $fatal(1, "submission_t.entries");
  if (Submission.slot != 32'h08070605) $fatal(1, "submission_t.slot");
  if (Submission.slot_generation != 32'h0c0b0a09) $fatal(1, "submission_t.slot_generation");
  if (Submission.sa_index != 32'h100f0e0d) $fatal(1, "submission_t.sa_index");
  if (Submission.sa_generation != 32'h14131211) $fatal(1, "submission_t.sa_generation");
  if (Submission.buffer_len != 32'h18171615) $fatal(1, "submission_t.buffer_len");
  if (Submission.buffer != 64'h201f1e1d1c1b1a19) $fatal(1, "submission_t.buffer");
  if (Submission.offset != 32'h24232221) $fatal(1, "submission_t.offset");
  if (Submission.len != 32'h28272625) $fatal(1, "submission_t.len");
  if (Submission.sequence_number != 64'h302f2e2d2c2b2a29) $fatal(1, "submission_t.sequence_number");
  if (Submission.iv != 128'h403f3e3d3c3b3a393837363534333231) $fatal(1, "submission_t.iv");
  if ($bits(submission_t) != 512) $fatal(1, "submission_t");

  localparam gather_entry_t GatherEntry = GoldenGatherEntry;
  if (GatherEntry.iova != 64'h0807060504030201) $fatal(1, "gather_entry_t.iova");
  if (GatherEntry.len != 32'h0c0b0a09) $fatal(1, "gather_entry_t.len");
  if (GatherEntry.reserved != 32'h100f0e0d) $fatal(1, "gather_entry_t.reserved");
  if ($bits(gather_entry_t) != 128) $fatal(1, "gather_entry_t");

  localparam completion_t Completion = GoldenCompletion;
  if (Completion.slot != 32'h04030201) $fatal(1, "completion_t.slot");
  if (Completion.slot_generation != 32'h08070605) $fatal(1, "completion_t.slot_generation");
  if (Completion.sequence_number != 64'h100f0e0d0c0b0a09) $fatal(1, "completion_t.sequence_number");
  if (Completion.offset != 32'h14131211) $fatal(1, "completion_t.offset");
  if (Completion.next_header != 8'h15) $fatal(1, "completion_t.next_header");
  if (Completion.reserved != 24'h181716) $fatal(1, "completion_t.reserved");
  if (Completion.len != 32'h1c1b1a19) $fatal(1, "completion_t.len");
  if (Completion.position != 16'h1e1d) $fatal(1, "completion_t.position");
  if (Completion.status != 8'h1f) $fatal(1, "completion_t.status");
  if (Completion.phase != 8'h20) $fatal(1, "completion_t.phase");
  if ($bits(completion_t) != 256) $fatal(1, "completion_t");

  localparam event_t Event = GoldenEvent;
  if (Event.sa_index != 32'h04030201) $fatal(1, "event_t.sa_index");
  if (Event.sa_generation != 32'h08070605) $fatal(1, "event_t.sa_generation");
  if (Event.value != 64'h100f0e0d0c0b0a09) $fatal(1, "event_t.value");
  if (Event.card_time != 64'h1817161514131211) $fatal(1, "event_t.card_time");
  if (Event.reserved != 48'h1e1d1c1b1a19) $fatal(1, "event_t.reserved");
  if (Event.kind != 8'h1f) $fatal(1, "event_t.kind");
  if (Event.phase != 8'h20) $fatal(1, "event_t.phase");
  if ($bits(event_t) != 256) $fatal(1, "event_t");

  localparam command_t Command = GoldenCommand;
  if (Command.opcode != 8'h01) $fatal(1, "command_t.opcode");
  if (Command.reserved0 != 8'h02) $fatal(1, "command_t.reserved0");
  if (Command.id != 16'h0403) $fatal(1, "command_t.id");
  if (Command.index != 32'h08070605) $fatal(1, "command_t.index");
  if (Command.generation != 32'h0c0b0a09) $fatal(1, "command_t.generation");
  if (Command.payload_len != 32'h100f0e0d) $fatal(1, "command_t.payload_len");
  if (Command.payload != 64'h1817161514131211) $fatal(1, "command_t.payload");
  if (Command.arguments != GoldenCommand[511:192]) $fatal(1, "command_t.arguments");
  if ($bits(command_t) != 512) $fatal(1, "command_t");

  localparam command_completion_t CommandCompletion = GoldenCommandCompletion;
  if (CommandCompletion.id != 16'h0201) $fatal(1, "command_completion_t.id");
  if (CommandCompletion.reserved0 != 16'h0403) $fatal(1, "command_completion_t.reserved0");
  if (CommandCompletion.index != 32'h08070605) $fatal(1, "command_completion_t.index");
  if (CommandCompletion.generation != 32'h0c0b0a09) $fatal(1, "command_completion_t.generation");
  if (CommandCompletion.reserved1 != 32'h100f0e0d) $fatal(1, "command_completion_t.reserved1");
  if (CommandCompletion.value != 64'h1817161514131211) $fatal(1, "command_completion_t.value");
  if (CommandCompletion.reserved2 != 48'h1e1d1c1b1a19) $fatal(1, "command_completion_t.reserved2");
  if (CommandCompletion.status != 8'h1f) $fatal(1, "command_completion_t.status");
  if (CommandCompletion.phase != 8'h20) $fatal(1, "command_completion_t.phase");
  if ($bits(command_completion_t) != 256) $fatal(1, "command_completion_t");

  localparam outer_t Outer = GoldenOuter;
  if (Outer.source != 128'h100f0e0d0c0b0a090807060504030201) $fatal(1, "outer_t.source");
  if (Outer.destination != 128'h201f1e1d1c1b1a191817161514131211) $fatal(1, "outer_t.destination");
  if (Outer.source_port != 16'h2221) $fatal(1, "outer_t.source_port");
  if (Outer.destination_port != 16'h2423) $fatal(1, "outer_t.destination_port");
  if (Outer.version != 8'h25) $fatal(1, "outer_t.version");
  if (Outer.reserved != 24'h282726) $fatal(1, "outer_t.reserved");
  if ($bits(outer_t) != 320) $fatal(1, "outer_t");

  localparam lifetimes_t Lifetimes = GoldenLifetimes;
  if (Lifetimes.soft_bytes != 64'h0807060504030201) $fatal(1, "lifetimes_t.soft_bytes");
  if (Lifetimes.soft_packets != 64'h100f0e0d0c0b0a09) $fatal(1, "lifetimes_t.soft_packets");
  if (Lifetimes.soft_time != 64'h1817161514131211) $fatal(1, "lifetimes_t.soft_time");
  if (Lifetimes.hard_bytes != 64'h201f1e1d1c1b1a19) $fatal(1, "lifetimes_t.hard_bytes");
  if (Lifetimes.hard_packets != 64'h2827262524232221) $fatal(1, "lifetimes_t.hard_packets");
  if (Lifetimes.hard_time != 64'h302f2e2d2c2b2a29) $fatal(1, "lifetimes_t.hard_time");
  if ($bits(lifetimes_t) != 384) $fatal(1, "lifetimes_t");

  localparam replay_state_t ReplayState = GoldenReplayState;
  if (ReplayState.top != 64'h0807060504030201) $fatal(1, "replay_state_t.top");
  if (ReplayState.seen != GoldenReplayState[4159:64]) $fatal(1, "replay_state_t.seen");
  if ($bits(replay_state_t) != 4160) $fatal(1, "replay_state_t");

  localparam usage_t Usage = GoldenUsage;
  if (Usage.packets != 64'h0807060504030201) $fatal(1, "usage_t.packets");
  if (Usage.bytes != 64'h100f0e0d0c0b0a09) $fatal(1, "usage_t.bytes");
  if (Usage.sequence_number != 64'h1817161514131211) $fatal(1, "usage_t.sequence_number");
  if (Usage.bad_icv != 64'h201f1e1d1c1b1a19) $fatal(1, "usage_t.bad_icv");
  if (Usage.replayed != 64'h2827262524232221) $fatal(1, "usage_t.replayed");
  if (Usage.errors != 64'h302f2e2d2c2b2a29) $fatal(1, "usage_t.errors");
  if ($bits(usage_t) != 384) $fatal(1, "usage_t");

  localparam sa_context_t SaContext = GoldenSaContext;
  if (SaContext.spi != 32'h04030201) $fatal(1, "sa_context_t.spi");
  if (SaContext.cipher != 8'h05) $fatal(1, "sa_context_t.cipher");
  if (SaContext.integrity != 8'h06) $fatal(1, "sa_context_t.integrity");
  if (SaContext.flags != 8'h07) $fatal(1, "sa_context_t.flags");
  if (SaContext.reserved0 != 8'h08) $fatal(1, "sa_context_t.reserved0");
  if (SaContext.replay_window != 32'h0c0b0a09) $fatal(1, "sa_context_t.replay_window");
  if (SaContext.salt != 32'h100f0e0d) $fatal(1, "sa_context_t.salt");
  if (SaContext.cipher_key != GoldenSaContext[383:128]) $fatal(1, "sa_context_t.cipher_key");
  if (SaContext.integrity_key != GoldenSaContext[895:384]) $fatal(1, "sa_context_t.integrity_key");
  if (SaContext.grant_first != 64'h7877767574737271) $fatal(1, "sa_context_t.grant_first");
  if (SaContext.grant_last != 64'h807f7e7d7c7b7a79) $fatal(1, "sa_context_t.grant_last");
  if (SaContext.outer != GoldenSaContext[1343:1024]) $fatal(1, "sa_context_t.outer");
  if (SaContext.lifetimes != GoldenSaContext[1727:1344]) $fatal(1, "sa_context_t.lifetimes");
  if (SaContext.replay != GoldenSaContext[5887:1728]) $fatal(1, "sa_context_t.replay");
  if (SaContext.cookie != 64'he8e7e6e5e4e3e2e1) $fatal(1, "sa_context_t.cookie");
  if (SaContext.reserved1 != GoldenSaContext[8191:5952]) $fatal(1, "sa_context_t.reserved1");
  if ($bits(sa_context_t) != 8192) $fatal(1, "sa_context_t");

endmodule
