#!/usr/bin/env python3
"""Fails where modules of a crate use each other in a circle.

Modules beside each other are compared: those below the crate's root, and those below each of them. That a module names its own
parts, and they it, is no circle. What is in tests does not count. With -v, prints what each module uses.

    module-circles.py CRATE...        directories with a src/
"""
import pathlib
import re
import sys

NAME = r"(?:r#)?[a-z_][a-z0-9_]*"


def without_tests(text):
    """The text up to its `mod tests {`, which is last in a file, and without comments."""
    text = re.sub(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))? )?mod [a-z_]+ \{.*", "", text, flags=re.S)
    return re.sub(r"//[^\n]*", "", text)


def paths(tree, prefix=()):
    """Every path of a use tree: `a::{b, c::d}` gives a::b and a::c::d."""
    tree, depth, part = tree.strip(), 0, ""
    parts = []
    for letter in tree:
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    parts.append(part)
    for part in (part.strip() for part in parts if part.strip()):
        head, brace, rest = part.partition("{")
        names = tuple(name.strip() for name in head.split("::") if name.strip())
        if brace:
            yield from paths(rest.rstrip()[:-1], prefix + names)
        else:
            yield prefix + names


def place(file, source):
    """Where a file is in the tree of modules."""
    inside = file.relative_to(source).with_suffix("").parts
    return inside[:-1] if inside[-1] == "mod" else inside


def uses(text, inside, exported):
    """The crate's paths that a module's text names, from the root on."""
    trees = [path for use in re.findall(r"\buse\s+([^;]+);", text) for path in paths(use)]
    inline = re.findall(rf"\b((?:crate|super)(?:::(?:{NAME}|[A-Z]\w*))+)", re.sub(r"\buse\s+[^;]+;", "", text))
    trees += [tuple(path.split("::")) for path in inline]
    for path in trees:
        base = list(inside)
        if path[0] == "crate":
            base, path = [], path[1:]
        elif path[0] in ("super", "self"):
            while path and path[0] in ("super", "self"):
                if path[0] == "super":
                    base = base[:-1]
                path = path[1:]
        else:
            continue
        target = tuple(base) + tuple(path)
        # What a module above gives out counts as that of the module that has it.
        for end in range(len(target), 0, -1):
            if target[:end] in exported:
                target = exported[target[:end]] + target[end:]
                break
        yield target


def graphs(crate):
    """For each module that has modules in it, and the root: who of these uses whom."""
    source = pathlib.Path(crate) / "src"
    texts = {}
    for file in sorted(source.rglob("*.rs")):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[0] == "bin" or any("tests" in part or part == "fuzzing" for part in parts):
            continue
        inside = () if parts in (("lib",), ("main",)) else place(file, source)
        texts[inside] = without_tests(file.read_text())
    exported = {}
    for inside, text in texts.items():
        for use in re.findall(r"\bpub(?:\([a-z]+\))?\s+use\s+([^;]+);", text):
            for path in paths(use):
                path = tuple(name for name in path if name != "self")
                path = path[1:] if path[0] == "crate" else inside + path
                name = re.split(r"\s+as\s+", path[-1])[-1]
                if path[:-1] in texts:
                    exported[inside + (name,)] = path
    found = {}
    for module in texts:
        for end in range(len(module)):
            found.setdefault(module[:end], {}).setdefault(module[end], set())
    for inside, text in texts.items():
        for target in uses(text, inside, exported):
            level = 0
            while level < min(len(inside), len(target)) and inside[level] == target[level]:
                level += 1
            if level < min(len(inside), len(target)) and target[level] in found.get(inside[:level], {}):
                found[inside[:level]][inside[level]].add(target[level])
    return found


def circles(modules):
    """The strongly connected components of more than one module."""
    reached = {}
    for module in modules:
        seen, open_ = set(), [module]
        while open_:
            for used in modules[open_.pop()] - seen:
                seen.add(used)
                open_.append(used)
        reached[module] = seen
    together = {frozenset(b for b in modules if b in reached[a] and a in reached[b]) for a in modules}
    return [sorted(circle) for circle in together if len(circle) > 1]


def main(arguments):
    verbose = "-v" in arguments
    failed = False
    for crate in (argument for argument in arguments if argument != "-v"):
        for above, modules in sorted(graphs(crate).items()):
            where = "::".join((crate,) + above)
            if verbose:
                for module, used in modules.items():
                    print(f"{where}: {module} -> {' '.join(sorted(used))}")
            for circle in circles(modules):
                failed = True
                print(f"{where}: these modules use each other in a circle: {', '.join(circle)}")
                for module in circle:
                    print(f"    {module} uses {', '.join(sorted(modules[module] & set(circle)))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
