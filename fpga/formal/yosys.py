#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR MIT
"""As much of a `yosys` command as sby needs, on PyPI's pyosys, which reads SystemVerilog by slang."""

import os
import sys

from pyosys import libyosys

arguments = sys.argv[1:]
log, quiet, commands = None, False, []
while arguments:
    argument = arguments.pop(0)
    if argument in ("-l", "-ql"):
        log = arguments.pop(0)
        quiet |= argument == "-ql"
    elif argument == "-q":
        quiet = True
    elif argument == "-p":
        commands.append(arguments.pop(0))
    elif argument == "-s":
        commands.append("script " + arguments.pop(0))
    elif argument == "-V":
        print("Yosys (pyosys)")
        sys.exit(0)
    else:
        commands.append("script " + argument)
if log:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    if quiet:
        os.dup2(file, 2)
design = libyosys.Design()
for command in commands:
    libyosys.run_pass(command, design)
