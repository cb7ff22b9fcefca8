#!/usr/bin/env python3
"""Assembles cases/*.asm into one C++ table.

A case is a run of lines:

    ;; case NAME                     starts a case (unique in the whole suite)
    ;; mode MODE                     real16 prot16 prot32 user32 vm86 compat32 kernel64 user64
    ;; paging none|32|pae|4level     default: 4level in long mode, else none
    ;; high                          kernel64, user64: code and stack in the upper half, where
                                     `high` + ADDRESS shows the same pages; code begins there
    ;; seen_high                     the same pages there, but code and stack in the low half
    ;; skip native,kvm               where it cannot run (native runs user64 only anyway);
                                     translate_high: not with low code moved to the upper half
                                     emulated_kvm: hosts whose KVM is software, which gets
                                     some corners of the architecture wrong
    ;; in rax=1 rflags=0x246         initial registers; unset ones have fixed odd values
    ;; mem 0x20000 = 01 02 03        initial bytes; also: dq VALUE..., dd, dw
    ;; out rax=2                     expected registers; others are not compared
    ;; flags CF !ZF                  flags that must be set / clear
    ;; expect 0x20000 = 03           expected bytes
    ;; fault VECTOR [error=N] [cr2=N] [rip=LABEL|N]    ends in this exception
    nasm code ...

A ';; defaults' block before the first case applies its directives to every case below.
Values are Python integer expressions. Labels in rip= are nasm labels of the case.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile

CODE_BASE = 0x10000
HIGH = 0xFFFFFFFF80000000
MODES = {"real16": 16, "prot16": 16, "prot32": 32, "user32": 32, "vm86": 16, "compat32": 32,
         "kernel64": 64, "user64": 64}
FLAGS = {"CF": 0, "PF": 2, "AF": 4, "ZF": 6, "SF": 7, "TF": 8, "IF": 9, "DF": 10, "OF": 11,
         "NT": 14, "RF": 16, "VM": 17, "AC": 18, "VIF": 19, "VIP": 20, "ID": 21}
VECTORS = {"DE": 0, "DB": 1, "NMI": 2, "BP": 3, "OF": 4, "BR": 5, "UD": 6, "NM": 7, "DF": 8,
           "TS": 10, "NP": 11, "SS": 12, "GP": 13, "PF": 14, "MF": 16, "AC": 17, "XM": 19}


# For cases in 64-bit mode. They change RAX, RCX and RDX.
MACROS = """
%macro set_msr 2    ; number, value
mov ecx, %1
mov rax, %2
mov rdx, rax
shr rdx, 32
wrmsr
%endmacro
%macro apic_on 0    ; in x2APIC mode
set_msr 0x1b, 0xfee00d00
set_msr 0x80f, 0x1ff
%endmacro
%macro set_gate 3   ; vector, address, rights (0x8e, 0xee)
mov rax, %2
mov rdx, high + 0x9000 + 16 * %1
mov [rdx], ax
mov dword [rdx + 2], 8
mov word [rdx + 4], %3 << 8
shr rax, 16
mov [rdx + 6], ax
shr rax, 16
mov [rdx + 8], rax
%endmacro
"""


class Case:
    def __init__(self, name, file, line, defaults):
        self.name, self.file, self.line = name, file, line
        self.directives = list(defaults)
        self.code = []


def fail(case, text):
    sys.exit(f"{case.file}:{case.line}: case {case.name}: {text}")


def number(text):
    return int(eval(text, {"__builtins__": {}}, {"high": HIGH})) & 0xFFFFFFFFFFFFFFFF


def read_cases(path):
    cases, defaults, current, in_defaults = [], [], None, False
    for number_, line in enumerate(open(path), 1):
        match = re.match(r"\s*;;\s*(\w+)\s*(.*?)\s*$", line)
        if match and match[1] == "case":
            current, in_defaults = Case(match[2], os.path.basename(path), number_, defaults), False
            cases.append(current)
        elif match and match[1] == "defaults":
            in_defaults, current, defaults = True, None, []
        elif match and in_defaults:
            defaults.append((match[1], match[2]))
        elif match and current:
            current.directives.append((match[1], match[2]))
        elif current:
            current.code.append(line)
    return cases


def memory_bytes(case, text):
    address, _, value = text.partition("=")
    words = value.split()
    sizes = {"dw": 2, "dd": 4, "dq": 8}
    if words and words[0] in sizes:
        size = sizes[words[0]]
        data = b"".join((number(w) & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
                        for w in words[1:])
    else:
        data = bytes(int(w, 16) for w in words)
    if not data:
        fail(case, f"no bytes in '{text}'")
    return number(address), data


def assemble(path, cases):
    """One nasm run per file: a section per case, all at the same virtual address."""
    source = []
    for i, case in enumerate(cases):
        mode = next((v for k, v in reversed(case.directives) if k == "mode"), None)
        if mode not in MODES:
            fail(case, f"unknown mode {mode}")
        case.mode = mode
        # Segmented modes see their code at offset 0.
        base = 0 if mode in ("real16", "prot16", "vm86") else CODE_BASE
        case.high = any(k == "high" for k, v in case.directives)
        if case.high:
            base += HIGH
        source.append(f"section .c{i} vstart={base:#x} align=16\nbits {MODES[mode]}\n"
                      f"default abs\ncase_{i}:\n")
        # Labels of a case are local to it: each gets the case's own prefix.
        labels = [m[1] for line in case.code if (m := re.match(r"(\w+):", line))]
        pattern = re.compile(r"\b(" + "|".join(labels) + r")\b") if labels else None
        source += [pattern.sub(rf"case_{i}_\1", line) if pattern else line for line in case.code]
        source.append(f"case_{i}_finish:\n")
    table = f"%define high {HIGH:#x}\n{MACROS}section .table start=0 align=16\nbits 64\n"
    for i, case in enumerate(cases):
        rip = next((re.search(r"rip=(\S+)", v) for k, v in case.directives if k == "fault"), None)
        label = "0"
        if rip:
            text = rip[1]
            label = text if re.match(r"^[0-9]", text) else f"case_{i}_{text}"
        table += f"dq section..c{i}.start, case_{i}_finish - case_{i}, {label}\n"
    with tempfile.TemporaryDirectory() as folder:
        asm, out = os.path.join(folder, "in.asm"), os.path.join(folder, "out.bin")
        open(asm, "w").write(table + "".join(source))
        run = subprocess.run(["nasm", "-w-zeroing", "-f", "bin", "-o", out, asm],
                             capture_output=True, text=True)
        if run.returncode != 0:
            lines = (table + "".join(source)).splitlines()
            for error in run.stderr.splitlines():
                found = re.search(r"in\.asm:(\d+)", error)
                print(error, "|", lines[int(found[1]) - 1] if found else "", file=sys.stderr)
            sys.exit(f"{path}: nasm failed")
        blob = open(out, "rb").read()
    for i, case in enumerate(cases):
        at, size, label = (int.from_bytes(blob[24 * i + 8 * j:24 * i + 8 * j + 8], "little")
                           for j in range(3))
        case.bytes = blob[at:at + size]
        case.rip = label


def c_bytes(data):
    return "{" + ", ".join(f"0x{b:02x}" for b in data) + "}"


def emit(out, index, case):
    registers, memory, expected, expected_memory = [], [], [], []
    flags_set = flags_clear = 0
    where, fault = {"native", "interpret", "kvm", "emulated_kvm", "translate"}, "std::nullopt"
    long_mode = case.mode in ("compat32", "kernel64", "user64")
    paging = "4level" if long_mode else "none"
    seen_high = case.high or any(k == "seen_high" for k, v in case.directives)
    if case.mode != "user64" or seen_high:
        where.discard("native")
    if case.mode == "kernel64" and not seen_high:
        where.add("translate_high")
    for key, value in case.directives:
        if key == "in" or key == "out":
            for item in re.findall(r"([\w.]+)=(\S+)", value):
                (registers if key == "in" else expected).append((item[0], number(item[1])))
        elif key == "mem":
            memory.append(memory_bytes(case, value))
        elif key == "expect":
            expected_memory.append(memory_bytes(case, value))
        elif key == "flags":
            for flag in value.split():
                bit = 1 << FLAGS[flag.lstrip("!")]
                if flag.startswith("!"):
                    flags_clear |= bit
                else:
                    flags_set |= bit
        elif key == "paging":
            paging = value
        elif key == "skip":
            where -= set(re.split(r"[\s,]+", value))
        elif key == "fault":
            vector = value.split()[0]
            vector = VECTORS[vector] if vector in VECTORS else number(vector)
            error = re.search(r"error=(\S+)", value)
            cr2 = re.search(r"cr2=(\S+)", value)
            rip = re.search(r"rip=(\S+)", value)
            optional = lambda m: f"{number(m[1]):#x}" if m else "std::nullopt"
            fault = (f"ExpectedFault{{{vector}, {optional(error)}, {optional(cr2)}, "
                     f"{f'{case.rip:#x}' if rip else 'std::nullopt'}}}")
        elif key not in ("mode", "high", "seen_high"):
            fail(case, f"unknown directive '{key}'")
    if "kvm" not in where:
        where.discard("emulated_kvm")
    if not where:
        fail(case, "runs nowhere")
    prefix = f"case_{index}"
    code = case.bytes or b"\x90"
    out.append(f"constexpr std::uint8_t {prefix}_code[] = {c_bytes(code)};\n")

    def array(kind, name, items):
        if not items:
            return "{}"
        out.append(f"constexpr {kind} {prefix}_{name}[] = {{{', '.join(items)}}};\n")
        return f"{prefix}_{name}"

    def memory_array(name, items):
        refs = []
        for j, (address, data) in enumerate(items):
            out.append(f"constexpr std::uint8_t {prefix}_{name}_{j}[] = {c_bytes(data)};\n")
            refs.append(f"{{{address:#x}, {prefix}_{name}_{j}}}")
        return array("MemoryValue", name, refs)

    reg = lambda items: [f'{{"{n}", {v:#x}}}' for n, v in items]
    fields = [f'"{case.name}"', f'"{case.file}"', str(case.line), f"Mode::{case.mode}",
              "Paging::" + {"none": "none", "32": "bits32", "pae": "pae", "4level": "level4"}[paging],
              "true" if case.high else "false", "true" if seen_high else "false",
              " | ".join(f"on_{w}" for w in sorted(where)) or "0", f"{prefix}_code",
              array("RegisterValue", "in", reg(registers)), memory_array("mem", memory),
              array("RegisterValue", "out", reg(expected)), f"{flags_set:#x}", f"{flags_clear:#x}",
              memory_array("expect", expected_memory), fault]
    return "    {" + ", ".join(fields) + "},\n"


def main():
    folder, output = sys.argv[1:3]
    out = ["// Made by assemble.py.\n#include \"case.h\"\n\nnamespace doppel::conformance {\n"
           "namespace {\n"]
    rows, names, index = [], {}, 0
    for path in sorted(glob.glob(os.path.join(folder, "*.asm"))):
        cases = read_cases(path)
        if cases:
            assemble(path, cases)
        for case in cases:
            if case.name in names:
                fail(case, f"name is taken by {names[case.name]}")
            names[case.name] = case.file
            rows.append(emit(out, index, case))
            index += 1
    out.append("constexpr Case cases[] = {\n" + "".join(rows) + "};\n}  // namespace\n"
               "std::span<const Case> all_cases() { return cases; }\n"
               "}  // namespace doppel::conformance\n")
    open(output, "w").write("".join(out))


main()
