#!/usr/bin/env python3
"""Holds SECURITY.md to what there is: every test that it names exists, and every threat names one or says that none shows it.

  .ci/security.py [FILE]

In the table of threats the last column names tests in backquotes:

  `path/to/file.rs::name`     a function of that file under #[test] or #[tokio::test]
  `path/to/file.rs::a_*`      at least one such function that begins so
  `tests/scenarios/x.txt`     any other file of the repository, as it is: a story, a script, a target of the fuzzer, an attack, a patch of
                              tests/mutants, figures

or says `none: REASON`. A row without either, a name that is not there, a number used twice, or a threat that is spoken of and has no
row fails.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| (T\d+) \|(.*)\|\s*$")
TEST = re.compile(r"#\[(?:test|tokio::test(?:\([^\]]*\))?)\]\s*(?:#\[[^\]]*\]\s*)*(?:pub )?(?:async )?fn (\w+)")


def tests_of(path):
    return set(TEST.findall(path.read_text("utf-8")))


def faults_of(name, tracked):
    path, _, function = name.partition("::")
    if path not in tracked:
        return [f"`{name}`: there is no file {path}"]
    if not function:
        if path.endswith(".rs") and not path.startswith("tests/"):
            return [f"`{name}`: a Rust file is named without its test"]
        return []
    there = tests_of(ROOT / path)
    if function.endswith("*"):
        good = any(test.startswith(function[:-1]) for test in there)
    else:
        good = function in there
    return [] if good else [f"`{name}`: there is no test {function} in {path}"]


def main():
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "SECURITY.md"
    text = path.read_text("utf-8")
    tracked = set(subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines())
    faults, numbers, named = [], [], set()
    for line in text.splitlines():
        row = ROW.match(line)
        if not row:
            continue
        number, cells = row[1], [cell.strip() for cell in re.split(r"(?<!\\)\|", row[2])]
        numbers.append(number)
        if len(cells) != 3 or not all(cells):
            faults.append(f"{number}: a threat, what defends and what shows it are expected, there are {len(cells)} cells")
            continue
        names = [name for name in re.findall(r"`([^`]+)`", cells[-1]) if "/" in name]
        if not names and not re.match(r"none: \S", cells[-1]):
            faults.append(f"{number}: neither a test is named nor `none:` with a reason")
        for name in names:
            named.add(name)
            faults += [f"{number}: {fault}" for fault in faults_of(name, tracked)]
    faults += [f"{number} stands twice" for number in sorted(set(numbers)) if numbers.count(number) > 1]
    spoken = set(re.findall(r"\bT\d+\b", text))
    faults += [f"{number} is spoken of and has no row" for number in sorted(spoken - set(numbers))]
    if not numbers:
        faults.append(f"{path.name} has no table of threats")
    for fault in faults:
        print(f"security: {fault}")
    print(f"security: {len(numbers)} threats, {len(named)} tests and files named, {len(faults)} faults")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
