#!/usr/bin/env python3
"""Names the workspace's crates, each of which has the name of its directory, that changed files can
break.

Reads paths from standard input, relative to the repository's root, one a line. Prints the names of
the crates whose tests have to run, one a line: those that a path belongs to, and those that depend
on them, directly or not. "+blobs" and "+metadata" are printed as well where a store itself changed,
so that the stories have to run on every store. `cargo metadata` is the source of the dependencies.
"""

import json
import subprocess
import sys

# The program, which the stories start: they do not depend on it by any manifest.
PROGRAM, STORIES = "app", "tests"
STORES = {"blobs", "metadata"}


def dependants():
    """Returns the crates of the workspace, each with those whose code or whose tests alone
    (`users`, `testers`) depend on it directly.
    """
    command = ["cargo", "metadata", "--no-deps", "--format-version=1", "--offline"]
    packages = json.loads(subprocess.check_output(command))["packages"]
    users = {package["name"]: set() for package in packages}
    testers = {package["name"]: set() for package in packages}
    for package in packages:
        for dependency in package["dependencies"]:
            if dependency["name"] in users and dependency["name"] != package["name"]:
                kind = testers if dependency["kind"] == "dev" else users
                kind[dependency["name"]].add(package["name"])
    testers[PROGRAM].add(STORIES)
    return users, testers


def owner(path):
    """Returns the crate that a path belongs to, and whether other crates compile it.

    `None` stands for all crates: the path belongs to the workspace.
    """
    first, *rest = path.split("/")
    if first == "server" and len(rest) > 1:
        return rest[0], rest[1] not in ("tests", "benches", "fuzz")
    if first == "migrations":
        return "metadata", True
    if first in ("tests", "deploy") or path.endswith((".md", ".yml")):
        return STORIES, False
    return None, True


def main():
    users, testers = dependants()
    affected, waiting = set(), []
    for path in filter(None, sys.stdin.read().split("\n")):
        crate, compiled = owner(path)
        if crate not in users:
            affected |= users.keys() | {f"+{store}" for store in STORES}
            continue
        affected.add(crate)
        if compiled:
            affected |= {f"+{crate}"} if crate in STORES else set()
            waiting.append(crate)
    reached = set()
    while waiting:
        crate = waiting.pop()
        if crate not in reached:
            reached.add(crate)
            affected |= testers[crate]
            waiting.extend(users[crate])
    for name in sorted(affected | reached):
        print(name)


if __name__ == "__main__":
    main()
