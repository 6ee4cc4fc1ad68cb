"""Spoilt payloads at everything that reads bytes from a peer: no crash, no hang, no surprise, no memory.

    python scripts/bench/fuzz_codec.py           a million and more, under 20 minutes on two cores
    python scripts/bench/fuzz_codec.py --quick   under two

Honest payloads of every preset, serializer, filter and compressor, of the downlink, reports and sealed envelopes are
spoilt: flipped bits, cuts, insertions, edges of numbers, splices. Three in four get their check values made right
again, so that the parsers behind these are reached; a quarter are made by one who knows the format: sound entropy
coding and sound zstd frames around contents that no writer would choose. Every reader must give finite values or a
typed error (fedlite.errors); a warning counts as untyped. Processes are watched: a payload that takes longer than ten
seconds is a hang.

Memory is measured on McMahan's CNN, of 1.66 M parameters: `rss_ratio` is the most that reading one payload took, above
the idle, over the bytes of the payload and of what it stands for: tracemalloc's peak over honest and spoilt payloads,
or what a fresh process's resident memory grew by at an honest one (VmHWM), whichever is more.
`bombs` are payloads that stand for far more than they may: each must be refused before memory is taken.
"""

import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from scripts.bench.fuzz import attack, memory  # noqa: E402
from scripts.bench.local import report, setting  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=1_050_000)
    parser.add_argument("--large", type=int, default=150, help="payloads of the large model for each codec")
    parser.add_argument("--codecs", nargs="+", default=memory.CODECS, help="whose memory is measured")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--examples", type=Path, help="write payloads that were not read as they should here, in hex"
    )
    parser.add_argument(
        "--quick", action="store_true", help="40,000 payloads, 8 of the large model for each codec"
    )
    args = parser.parse_args()
    if args.quick:
        args.mutations, args.large = 40_000, 8
    began = time.monotonic()
    total = attack.run(args.mutations, args.workers, args.seed, lambda tally: _tell(tally, began))
    large = memory.run(args.large, args.seed, args.codecs)
    total.add(large.tally)
    for where in total.examples:
        print(f"NOT AS IT SHOULD: {where}")
    if args.examples:
        args.examples.write_text(
            "\n".join(f"{where}\t{payload}" for where, payload in total.examples.items())
        )
    figures = {
        "mutations": total.mutations, "crashes": total.crashes + total.hangs, "untyped": total.untyped,
        "accepted": total.accepted, "rss_ratio": round(large.ratio, 2), "hangs": total.hangs,
        "typed": total.typed, "decoded": total.decoded, "slowest_ms": round(total.slowest_ms, 1),
        "grown_mb": round(total.grown_mb, 1), "bombs": large.bombs, "bombs_refused": large.refused,
        "bomb_bytes": large.bomb_bytes,
    }  # fmt: skip
    settings = setting(
        **{name: str(value) for name, value in vars(args).items()}, seconds=round(time.monotonic() - began)
    )
    report(figures, settings, more={"ratios": large.ratios})
    return 0


def _tell(tally: attack.Tally, began: float) -> None:
    print(
        f"{tally.mutations} payloads in {time.monotonic() - began:.0f} s: {tally.typed} typed errors, "
        f"{tally.decoded} decoded, {tally.untyped} untyped, "
        f"{tally.accepted} accepted, {tally.crashes} crashes, {tally.hangs} hangs",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
