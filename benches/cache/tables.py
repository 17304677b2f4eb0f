#!/usr/bin/env python3
"""The tables of this folder's README from `table.json` of `refrain bench cache`: tables.py TABLE.json [OLD=NEW …]

Routers with the best rival at their speed, then the rivals. The rival's figure at a router's speed is that of the program's
own margin: linear in the logarithm of the speed between two neighbouring settings of one policy. OLD=NEW renames a row."""

import json
import math
import sys


def kind(name):
    return "router" if ".safetensors" in name or name.startswith("router") else name.split(":")[0]


def best_at(rows, speed):
    """Decibels at `speed` or faster."""
    points = [(math.log(row["speedup"]), row["psnr"]) for row in rows if row["psnr"] < 100]
    wanted = math.log(speed)
    fast = max((point for point in points if point[0] >= wanted), key=lambda point: point[1], default=None)
    if fast is None:
        return None
    slow = max((point for point in points if point[0] < wanted and point[1] > fast[1]), default=None)
    return fast[1] if slow is None else slow[1] + (fast[1] - slow[1]) * (wanted - slow[0]) / (fast[0] - slow[0])


def main():
    names = dict(pair.rsplit("=", 1) for pair in sys.argv[2:] if not pair.startswith("-"))
    data = json.load(open(sys.argv[1]))
    rows = data["rows"]
    kinds = {}
    for row in rows:
        kinds.setdefault(kind(row["policy"]), []).append(row)
    routers = sorted(kinds.pop("router", []), key=lambda row: row["speedup"])
    for outside in ("off", "dtype"):
        kinds.pop(outside, None)
    print("| router | s/image | speed-up | PSNR dB, median (5 %, least) | best rival at that speed, dB | margin, dB |")
    print("|---|---|---|---|---|---|")
    for row in routers:
        rivals = [(best_at(those, row["speedup"]), name) for name, those in kinds.items()]
        best, name = max((rival for rival in rivals if rival[0] is not None), default=(None, ""))
        rival = "none is as fast" if best is None else f"{best:.1f} ({'fewer steps' if name == 'steps' else name})"
        margin = "–" if best is None else f"{row['psnr'] - best:+.1f}"
        print(f"| {names.get(row['policy'], row['policy'])} | {row['seconds_per_image']:.3f} | {row['speedup']:.2f}× | "
              f"{row['psnr']:.1f} ({row['psnr_p5']:.1f}, {row['psnr_min']:.1f}) | {rival} | {margin} |")
    print("\n| rival | speed-up | PSNR dB |  | rival | speed-up | PSNR dB |\n|---|---|---|---|---|---|---|")
    rivals = sorted((row for those in kinds.values() for row in those), key=lambda row: row["speedup"])
    rivals = [row for row in rivals if row["speedup"] >= 1.05]
    cells = [f"{row['policy']} | {row['speedup']:.2f}× | {row['psnr']:.1f}" for row in rivals]
    half = (len(cells) + 1) // 2
    for index in range(half):
        print(f"| {cells[index]} |  | {cells[index + half] if index + half < len(cells) else ' | |'} |")


main()
