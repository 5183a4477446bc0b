"""Claim: of captions that people wrote for real videos the text rules refuse few, and those rightly.

Every text rule with its default threshold judges all captions of MSVD (en), MSVD-CN (zh) and the MSR-VTT test list (en), each
as a corpus. Prints the share of captions that each rule is the first to refuse, and random refused captions to be judged by
a reader.

    python bench/real_text.py --data DIR [--seed 0] [--show 20]

DIR holds msvd/ and msrvtt/ with their caption lists.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import defaultdict
from pathlib import Path

from m2raap.curate import text_copies
from m2raap.curate.text_rules import RULES, FilterTextConfig, score_rows

ACROSS = {"duplicate_text": "copies", "frequent_in_source": "source_share", "near_duplicate_text": "near_copies"}


def corpora(data: Path) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """name -> (lang, [(video, caption)])"""
    msvd = json.loads((data / "msvd/captions_msvd.json").read_text(encoding="utf-8"))
    msrvtt = json.loads((data / "msrvtt/msrvtt_caption_test.json").read_text(encoding="utf-8"))
    with open(data / "msvd/msvd_cn/msvd_cn_captions_release_utf8.csv", encoding="utf-8", newline="") as source:
        chinese = [(row["video_id"], row["sentence"]) for row in csv.DictReader(source)]
    return {
        "MSVD": ("en", [(video, text) for video, texts in msvd.items() for text in texts]),
        "MSVD-CN": ("zh", chinese),
        "MSR-VTT test": ("en", [(row["video"], text) for row in msrvtt for text in row["caption"]]),
    }


def verdicts(lang: str, pairs: list[tuple[str, str]]) -> list[str | None]:
    """The reason by which each caption is refused, None where it stays."""
    cfg = FilterTextConfig()
    limits = cfg.thresholds(lang)
    signals = score_rows([text for _, text in pairs], lang)
    table = text_copies.TextTable()
    for at, ((video, _), row) in enumerate(zip(pairs, signals, strict=True)):
        table.add(str(at), video, "", row)
    for reason in ("duplicate_text", "near_duplicate_text"):
        limits[reason] = text_copies.allowed_copies(limits[reason], cfg.batch_share, table.num_clips)
    least = {signal: limits[reason] for reason, signal in ACROSS.items()}
    copies = text_copies.Copies(text_copies.decide(table, least, cfg.near_jaccard))
    verdicts = []
    for at, row in enumerate(signals):
        refused = RULES.refusals(row | copies.of(str(at), "", row["text_key"]), limits)
        verdicts.append(refused[0].reason if refused else None)
    return verdicts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20)
    args = parser.parse_args()
    counts: dict[str, dict[str, int]] = {}
    refused: dict[str, list[str]] = defaultdict(list)
    totals: dict[str, int] = {}
    for name, (lang, pairs) in corpora(args.data).items():
        totals[name], counts[name] = len(pairs), defaultdict(int)
        for (_, text), reason in zip(pairs, verdicts(lang, pairs), strict=True):
            if reason:
                counts[name][reason] += 1
                refused[reason].append(text)
    print(f"{'rule':<22}" + "".join(f"{f'{name} ({totals[name]:,})':>26}" for name in totals))
    for reason in [*RULES, "all"]:
        cells = [sum(counts[name].values()) if reason == "all" else counts[name][reason] for name in totals]
        print(
            f"{reason:<22}"
            + "".join(f"{n:>16,} {n / totals[name]:>8.3%} " for n, name in zip(cells, totals, strict=True))
        )
    for reason, texts in refused.items():
        chosen = random.Random(args.seed).sample(texts, min(args.show, len(texts)))
        print(f"\n{reason}: {len(chosen)} of {len(texts)}, seed {args.seed}")
        for text in chosen:
            print(f"  {text}")


if __name__ == "__main__":
    main()
