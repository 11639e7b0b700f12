import sys
import seccomp

RULES, PROGRAM = sys.argv[1:]
ACTIONS = {0x7FFF0000: seccomp.ALLOW}


def action(value):
    return ACTIONS.get(value) or seccomp.ERRNO(value & 0xFFFF)


def condition(text):
    number, comparison = text.split("/")
    word, rest = comparison.split("(" if "(" in comparison else " ", 1)
    if word == "Masked":
        fields = dict(part.split(":") for part in rest.strip(" {}").split(","))
        fields = {key.strip(): int(value) for key, value in fields.items()}
        return seccomp.Arg(int(number), seccomp.MASKED_EQ, fields["mask"], fields["value"])
    operation = {"Equal": seccomp.EQ, "Less": seccomp.LT, "Greater": seccomp.GT}[word]
    return seccomp.Arg(int(number), operation, int(rest.rstrip(")")))


filter = seccomp.SyscallFilter(seccomp.ERRNO(1))
for architecture in (seccomp.Arch.X86, seccomp.Arch.X32):
    filter.add_arch(architecture)
for line in open(RULES):
    name, value, conditions = (line.rstrip("\n").split(" ", 2) + [""])[:3]
    arguments = [condition(text) for text in conditions.split("|") if text]
    try:
        filter.add_rule(action(int(value)), name, *arguments)
    except (RuntimeError, ValueError, OSError):
        # A name that this version does not know.
        print(name)
with open(PROGRAM, "wb") as output:
    filter.export_bpf(output)
