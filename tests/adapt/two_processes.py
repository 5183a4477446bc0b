"""One of two processes that train together, for test_gradcache: python -m tests.adapt.two_processes CLIP FOLDER RANK."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from m2raap.adapt.distributed import start
from m2raap.adapt.loop import adapt
from m2raap.core.errors import M2raapError
from tests.adapt.test_gradcache import EVERYTHING, but, gradients_of, harmonised, opened, scored, training, world
from tests.adapt.world import ordered


def main(clip: Path, folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist_context = start(rank, 2, dist.FileStore(str(folder / "store"), 2))
    for micro in (None, 2):
        run = opened(
            but(clip, **EVERYTHING).model_copy(update={"micro_batch": micro}), folder / f"run{micro}", dist_context
        )
        torch.save(gradients_of(run), folder / f"gradients-{micro}-{rank}.pt")
    torch.save(
        gradients_of(opened(harmonised(clip, "both"), folder / "run harmonised", dist_context)),
        folder / f"gradients-both-{rank}.pt",
    )
    assert adapt(
        harmonised(clip, "both"), world(), ordered(3, 1), folder / "harmonised two", dist_context=dist_context
    ).finished
    cfg, two = training(clip), folder / "two"
    assert not adapt(cfg, world(), ordered(3, 1), two, stop_after=3, dist_context=dist_context).finished
    assert adapt(cfg, world(), ordered(3, 1), two, dist_context=dist_context).finished
    assert adapt(cfg, world(), ordered(3, 1), folder / "begun by one", dist_context=dist_context).finished
    assert adapt(scored(clip), world(), ordered(5, 1), folder / "scored two", dist_context=dist_context).finished
    messages = {}
    if dist_context.is_main:
        dist_context.send_task("a/adapt")
        dist_context.send_task("")
    else:
        messages["tasks"] = [dist_context.next_task(), dist_context.next_task()]
    try:
        dist_context.assert_same("data", str(rank) * 32)
    except M2raapError as error:
        messages["disagreed"] = str(error)
    if dist_context.is_main:
        return  # and is gone
    try:
        dist_context.barrier()
    except M2raapError as error:
        messages["alone"] = str(error)
    (folder / f"messages-{rank}.json").write_text(json.dumps(messages))
    # The group is broken: tearing it down while gloo still handles the lost connection has aborted this process (SIGABRT).
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
