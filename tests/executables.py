#!/usr/bin/env python3
"""Lists the test executables that cargo built.

Reads cargo's messages (`cargo test --no-run --message-format=json`) from standard input. Prints a
line for each executable: its crate, which has the name of its directory, its target ("lib" for the
unit tests of a library), the directory that cargo runs it in, and its path.
"""

import json
import os
import sys

for line in sys.stdin:
    message = json.loads(line)
    if not message.get("executable") or not message.get("profile", {}).get("test"):
        continue
    directory = os.path.dirname(message["manifest_path"])
    target = message["target"]
    name = "lib" if "lib" in target["kind"] else target["name"]
    print(os.path.basename(directory), name, directory, message["executable"])
