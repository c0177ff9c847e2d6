#!/usr/bin/env python3
"""Checks the workspace's dependency graph: edges between crates point one way, heavy crates stay in leaves, and every
dependency has a licence that an Apache-2.0 project can ship. Reads `cargo metadata`; prints each violation."""

import json
import subprocess
import sys

# Which folders a crate of a folder may depend on. proto <- metadata <- agent/core <- front ends <- cli.
ALLOWED = {
    "proto/types": set(),
    "proto/record": {"proto/types"},
    "proto/segment": {"proto/types", "proto/record"},
    "proto/grpc": {"proto/types"},
    "metadata/state": {"proto/types"},
    "metadata/log": {"proto/types"},
    "metadata/objectstore": {"proto/types", "metadata/log"},
    "metadata/dynamodb": {"proto/types", "metadata/log"},
    "metadata/node": {"proto/types", "metadata/log", "metadata/state"},
    "agent/core": {"proto/types", "proto/record", "proto/segment", "metadata/log", "metadata/state", "metadata/node"},
    "agent/grpc": {"proto/types", "proto/record", "proto/grpc", "metadata/log", "metadata/state", "agent/core"},
    "agent/peer": {"proto/types", "metadata/state", "metadata/node", "agent/core"},
    "agent/client": {"proto/types", "proto/record", "proto/grpc", "metadata/log"},
    # The binary chooses backends; nothing depends on it.
    "agent/cli": None,
}
# Heavy crates, and the only folders that may name them.
LEAVES = {
    "aws-sdk-dynamodb": {"metadata/dynamodb", "tests/services"},
    "aws-config": {"metadata/dynamodb", "tests/services"},
    "arrow": {"compactor"},
    "parquet": {"compactor"},
    "testcontainers": {"tests/services"},
    "tonic": {"proto/grpc", "agent/grpc", "agent/peer", "agent/client", "agent/cli"},
    "clap": {"agent/cli", "tests/services"},
}
LICENCES = {
    "MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "ISC", "Zlib", "0BSD", "CC0-1.0",
    "Unicode-3.0", "BSL-1.0", "MPL-2.0", "MPL-2.0+", "MIT-0", "Unlicense", "OpenSSL", "CDLA-Permissive-2.0", "NCSA", "bzip2-1.0.6",
}


def licence_ok(expression):
    """Whether an SPDX expression can be satisfied with the allowed licences."""
    tokens = expression.replace("/", " OR ").replace("(", " ( ").replace(")", " ) ").split()

    def alternatives(position):
        value, position = conjunction(position)
        while position < len(tokens) and tokens[position] == "OR":
            other, position = conjunction(position + 1)
            value = value or other
        return value, position

    def conjunction(position):
        value, position = atom(position)
        while position < len(tokens) and tokens[position] == "AND":
            other, position = atom(position + 1)
            value = value and other
        return value, position

    def atom(position):
        if tokens[position] == "(":
            value, position = alternatives(position + 1)
            return value, position + 1
        name = tokens[position]
        position += 1
        if position + 1 < len(tokens) and tokens[position] == "WITH":
            name += f" WITH {tokens[position + 1]}"
            position += 2
        return name in LICENCES or name.split(" WITH ")[0] in LICENCES, position

    return alternatives(0)[0]


def main():
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"]))
    root = metadata["workspace_root"] + "/"
    members = set(metadata["workspace_members"])
    folders = {
        package["name"]: package["manifest_path"].removeprefix(root).removesuffix("/Cargo.toml")
        for package in metadata["packages"]
        if package["id"] in members
    }
    wrong = []
    for package in metadata["packages"]:
        if package["id"] not in members:
            if not package["license"] and not package["license_file"]:
                wrong.append(f"{package['name']} {package['version']} states no licence")
            elif package["license"] and not licence_ok(package["license"]):
                wrong.append(f"{package['name']} {package['version']} is under {package['license']!r}, which is not allowed")
            continue
        folder = folders[package["name"]]
        for dependency in package["dependencies"]:
            if dependency["kind"] == "dev":
                continue
            name = dependency["name"]
            target = folders.get(name)
            allowed = ALLOWED.get(folder)
            if target and folder in ALLOWED and allowed is not None and target not in allowed:
                wrong.append(f"{folder} must not depend on {target}")
            if target and target.startswith("tests/") and not folder.startswith("tests/"):
                wrong.append(f"{folder} must not depend on {target}")
            if name in LEAVES and not any(folder.startswith(leaf) for leaf in LEAVES[name]):
                wrong.append(f"{folder} must not depend on {name}: it belongs to {', '.join(sorted(LEAVES[name]))}")
        if folder not in ALLOWED and not folder.startswith(("tests/", "compactor")):
            wrong.append(f"{folder} is not in the table of .ci/edges.py")
    print("\n".join(wrong) or f"{len(folders)} crates, {len(metadata['packages'])} packages: edges and licences are as they should be")
    return bool(wrong)


sys.exit(main())
