"""Writes a tree like a real node_modules: many small files of real text.

usage: small_files.py TREE_WITH_TEXT DESTINATION NUMBER_OF_FILES

The same arguments give the same tree, whatever the machine: sizes, names and times come from a
seeded generator, the text from the sorted text files of the given tree.
"""

import os
import random
import sys

POOL_BYTES = 120_000_000
TEXT_SUFFIXES = (".py", ".pm", ".pl", ".h", ".hpp", ".txt", ".pod")
FOLDERS = ["", "lib", "dist", "lib/internal", "dist/esm", "test"]


def text_pool(tree):
    parts, size = [], 0
    for folder, names, files in os.walk(tree):
        names.sort()
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not name.endswith(TEXT_SUFFIXES) or os.path.islink(path):
                continue
            if os.path.getsize(path) < 2000:
                continue
            with open(path, "rb") as file:
                parts.append(file.read())
            size += len(parts[-1])
            if size > POOL_BYTES:
                return b"".join(parts)
    return b"".join(parts)


def main(tree, destination, count):
    pool = text_pool(tree)
    generator = random.Random(42)
    number = package = 0
    while number < count:
        root = os.path.join(destination, "app/node_modules/pkg-%04d" % package)
        files = int(generator.lognormvariate(2.6, 0.9)) + 3
        folders = FOLDERS[: generator.randint(1, 6)]
        for folder in folders:
            os.makedirs(os.path.join(root, folder), exist_ok=True)
        for i in range(min(files, count - number)):
            size = int(min(400_000, max(60, generator.lognormvariate(7.2, 1.35))))
            offset = generator.randrange(max(1, len(pool) - size))
            path = os.path.join(root, folders[i % len(folders)], f"module{i}.js")
            with open(path, "wb") as file:
                file.write(pool[offset : offset + size])
            os.utime(path, (1_700_000_000 + number,) * 2)
            number += 1
        package += 1
    for folder, _, _ in os.walk(destination, topdown=False):
        os.utime(folder, (1_700_000_000,) * 2)


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
