"""QSGD, FedPAQ, DRIVE/EDEN, DGC's top-k and PowerSGD beside our codecs, on the same real updates.

    python scripts/reproduce/codecs.py --data-dir DATA --write     docs/results/codecs.json and .svg; about 15 minutes
    python scripts/reproduce/codecs.py --quick                     the CNN, one client, half the settings, < 2 minutes
    python scripts/reproduce/codecs.py --report                    print docs/results/codecs.json; runs nothing

An update is what a client's training changes: 200 Fashion-MNIST samples in Dirichlet(0.3) proportions, one epoch,
batches of 10, learning rate 0.05, from a model after a few federated rounds. Every published method is written anew
from its paper (scripts/reproduce/published) and its payload holds nothing that both sides know; ours are whole
payloads, header and check value included. Bytes are len(payload).

The claim: at every ratio from 4 to 300 ours is better or equal in (bytes, cosine). Each published point there is held
against our front at the same bytes, cosine linear in log(bytes) between two of our measured points. `dominates` is
true only if no point of any client is above it or outside it. Before the JSON object in the last line comes the table.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from fedlite.data.spec import open_data  # noqa: E402
from fedlite.errors import FedliteError  # noqa: E402
from fedlite.types import Update  # noqa: E402
from scripts.reproduce.published import chart  # noqa: E402
from scripts.reproduce.published.base import Setting, flat  # noqa: E402
from scripts.reproduce.published.front import RATIOS, Margin, Point, front, margins  # noqa: E402
from scripts.reproduce.published.settings import OURS, ours, published  # noqa: E402
from scripts.reproduce.published.updates import MODELS, client_update  # noqa: E402
from scripts.reproduce.published.updates import Setting as Rounds  # noqa: E402

RESULTS = ROOT / "docs/results/codecs.json"
MEGA, ENOUGH_SECONDS = 1e6, 0.3


def main() -> int:
    args = _arguments()
    if args.report:
        show(json.loads(args.report.read_text()))
        return 0
    try:
        found = run(args)
    except FedliteError as error:
        sys.exit(str(error))
    if args.write:
        write(found, args.write)
    show(found)
    return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Every setting on every client's update, model by model."""
    began = time.monotonic()
    torch.set_num_threads(args.threads)
    rounds = Rounds(rounds=2, cohort=4) if args.quick else Rounds()
    data = open_data("fashion_mnist", split="train", data_dir=args.data_dir)
    models, seeds = (["cnn"], args.seeds[:1]) if args.quick else (args.models, args.seeds)
    found: dict[str, Any] = {}
    for model in models:
        runs = {}
        for seed in seeds:
            _, update = client_update(model, data, rounds, seed, args.cache, args.threads, _tell)
            runs[seed] = measured(update, seed, quick=args.quick, name=model)
        found[model] = summary(runs)
    return {
        "dominates": all(each["dominates"] for each in found.values()),
        "dominates_as_published": all(each["dominates_as_published"] for each in found.values()),
        "points": sum(each["compared"] for each in found.values()),
        "worst_margin": min((each["worst"]["margin"] for each in found.values()), default=None),
        "worst": {model: each["worst"] for model, each in found.items()},
        "models": found,
        "settings": rounds.record() | _setting(args, seeds, time.monotonic() - began),
    }


def measured(update: Update, seed: int, *, quick: bool, name: str) -> list[Point]:
    """All methods in turn, in one process."""
    size = sum(value.size for value in update.values())
    points = []
    for setting in [*ours(quick=quick), *published(size, quick=quick)]:
        points.append(measure(setting, update, seed))
        _tell(f"{name} seed {seed}: {_row(points[-1]._asdict())}")
    return points


def measure(setting: Setting, update: Update, seed: int) -> Point:
    """Coded and decoded; the speeds are the best of a few times."""
    values = flat(update)
    encoded, decoded, spent = list[float](), list[float](), 0.0
    while len(encoded) < 5 and spent < ENOUGH_SECONDS:
        begin = time.perf_counter()
        payload = setting.codec.encode(update, seed)
        middle = time.perf_counter()
        read = setting.codec.decode(payload, update, seed)
        end = time.perf_counter()
        encoded.append(middle - begin)
        decoded.append(end - middle)
        spent += end - begin
    wanted, got = values.astype(np.float64), flat(read).astype(np.float64)
    length = float(np.linalg.norm(wanted) * np.linalg.norm(got))
    return Point(
        setting.method, setting.setting, setting.kinder, len(payload), values.nbytes / len(payload),
        float(wanted @ got) / length if length else 0.0,
        float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted)),
        values.nbytes / MEGA / min(encoded), values.nbytes / MEGA / min(decoded),
    )  # fmt: skip


def summary(runs: Mapping[int, Sequence[Point]]) -> dict[str, Any]:
    """Means and spreads over clients, and the worst that any client saw."""
    by_setting: dict[tuple[str, str], list[Point]] = defaultdict(list)
    found: list[tuple[int, Margin]] = []
    for seed, points in runs.items():
        mine = [each for each in points if each.method == OURS]
        found += [(seed, each) for each in margins(mine, [each for each in points if each.method != OURS])]
        for point in points:
            by_setting[point.method, point.setting].append(point)
    by_point: dict[tuple[str, str], list[Margin]] = defaultdict(list)
    for _, each in found:
        by_point[each.point.method, each.point.setting].append(each)
    rows = [_mean(points) | _margin(by_point[key]) for key, points in by_setting.items()]
    for best in front(
        [Point(**{name: row[name] for name in Point._fields}) for row in rows if row["method"] == OURS]
    ):
        rows[[*by_setting].index((OURS, best.setting))]["front"] = True
    return {
        "dominates": all(each.reached for _, each in found),
        "dominates_as_published": all(each.reached for _, each in found if not each.point.kinder),
        "compared": len(by_point),
        "missed": sum(not all(each.reached for each in many) for many in by_point.values()),
        "worst": _worst(found),
        "points": rows,
    }


def _mean(points: Sequence[Point]) -> dict[str, Any]:
    """Over clients; `_spread` is the sample standard deviation."""
    first = points[0]
    row: dict[str, Any] = {"method": first.method, "setting": first.setting, "kinder": first.kinder}
    for name in ("bytes", "ratio", "cosine", "error", "encode_mb_s", "decode_mb_s"):
        values = [float(getattr(each, name)) for each in points]
        row[name] = statistics.fmean(values)
        if name in ("cosine", "error", "bytes") and len(values) > 1:
            row[f"{name}_spread"] = statistics.stdev(values)
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def _margin(found: Sequence[Margin]) -> dict[str, Any]:
    """The mean margin and the worst of a point's clients; nothing where its ratio is not compared."""
    if not found:
        return {}
    known = [each.margin for each in found if each.margin is not None]
    record: dict[str, Any] = {"reached": all(each.reached for each in found)}
    if len(known) < len(found):
        record["not_bracketed"] = len(found) - len(known)
    if known:
        record |= {"margin": round(statistics.fmean(known), 6), "margin_least": round(min(known), 6)}
    return record


def _worst(found: Iterable[tuple[int, Margin]]) -> dict[str, Any]:
    """Where a published point is the furthest above our front, or the nearest below it."""
    known = [(seed, each) for seed, each in found if each.margin is not None]
    if not known:
        return {"margin": None}
    seed, worst = min(known, key=lambda each: each[1].margin or 0.0)
    point = worst.point
    return {
        "margin": round(worst.margin or 0.0, 6), "method": point.method, "setting": point.setting, "seed": seed,
        "ratio": round(point.ratio, 2), "cosine": round(point.cosine, 6),
    }  # fmt: skip


def show(results: Mapping[str, Any]) -> None:
    """A table for people, then one JSON line for programs, without the table's rows."""
    for model, each in results["models"].items():
        print(f"\n{model}")
        print(
            f"{'':12}{'':36}{'bytes':>9}{'ratio':>8}{'cosine':>9}{'±':>8}{'error':>8}{'enc':>7}{'dec':>7}  margin"
        )
        for row in sorted(
            each["points"], key=lambda row: (row["method"] != OURS, row["method"], row["bytes"])
        ):
            print(_row(row))
        print(
            f"{each['compared']} published points between {RATIOS[0]:g}× and {RATIOS[1]:g}×, above our front: "
            f"{each['missed']}; worst {json.dumps(each['worst'])}"
        )
    brief = {
        name: {key: value for key, value in each.items() if key != "points"}
        for name, each in results["models"].items()
    }
    print(json.dumps(dict(results) | {"models": brief}), flush=True)


def _row(row: Mapping[str, Any]) -> str:
    mark = "~" if row["kinder"] else "*" if row.get("front") else " "
    margin = ""
    if "reached" in row:
        least = row.get("margin_least")
        margin = ("not bracketed" if least is None else f"{least:+.4f}") + (
            "" if row["reached"] else "  ABOVE OURS"
        )
    spread = f"{row['cosine_spread']:8.4f}" if "cosine_spread" in row else " " * 8
    return (
        f"{row['method']:<11}{mark}{row['setting']:<36}{row['bytes']:9.0f}{row['ratio']:8.1f}{row['cosine']:9.5f}"
        f"{spread}{row['error']:8.4f}{row['encode_mb_s']:7.0f}{row['decode_mb_s']:7.0f}  {margin}"
    ).rstrip()


def write(results: Mapping[str, Any], file: Path) -> None:
    """The results, one point a line, and the plot beside them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1)
    for model in results["models"].values():
        for row in model["points"]:
            text = text.replace(
                "\n".join("    " + line for line in json.dumps(row, indent=1).splitlines()),
                "    " + json.dumps(row),
            )
    file.write_text(text + "\n")
    file.with_suffix(".svg").write_text(chart.svg(results))


def _setting(args: argparse.Namespace, seeds: Sequence[int], seconds: float) -> dict[str, Any]:
    """What a figure needs beside it: seeds, the commit and the machine."""
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "seeds": list(seeds), "threads": args.threads, "quick": args.quick, "seconds": round(seconds),
        "commit": done.stdout.strip() or "unknown", "machine": platform.machine(), "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }  # fmt: skip


def _tell(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--quick", action="store_true", help="the CNN after 2 rounds of 4, one client, half the settings"
    )
    what.add_argument(
        "--report", type=Path, nargs="?", const=RESULTS, metavar="FILE", help="print these results, run nothing"
    )  # fmt: skip
    parser.add_argument(
        "--write", type=Path, nargs="?", const=RESULTS, metavar="FILE", help="write them to FILE, the plot beside it"
    )  # fmt: skip
    parser.add_argument(
        "--models", type=lambda text: text.split(","), default=[*MODELS], help=",".join(MODELS)
    )
    parser.add_argument(
        "--seeds", type=lambda text: [int(each) for each in text.split(",")], default=[1, 2, 3]
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--cache", type=Path, default=ROOT / "run/reproduce/codecs", help="where the updates are kept"
    )
    data = ROOT.parent / "shared/data"
    parser.add_argument(
        "--data-dir", type=Path, default=data if data.is_dir() and "FEDLITE_DATA" not in os.environ else None,
        help="holds fashion_mnist/fashion_mnist.npz; else $FEDLITE_DATA, else torchvision downloads it",
    )  # fmt: skip
    args = parser.parse_args()
    if odd := [each for each in args.models if each not in MODELS]:
        parser.error(f"there is no model {odd[0]}; there are {', '.join(MODELS)}")
    return args


if __name__ == "__main__":
    sys.exit(main())
