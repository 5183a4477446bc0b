"""What differs between two plans is named by key and value."""

from __future__ import annotations

import json

from m2raap.core.plan_changes import changes, differences


def plan(model: object, **more: object) -> dict[str, object]:
    inputs = {"model": model if isinstance(model, str) else json.dumps(model), "view": "a" * 32}
    return {"format": 3, "stage": "embed", "settings": {"num_frames": None}, "inputs": inputs | more}


def test_a_model_that_is_given_by_its_settings_is_named_by_what_differs() -> None:
    tiny, large = ({"family": "open_clip", "model": f"open_clip-{size}"} for size in ("tiny", "large"))
    assert differences(plan(tiny), plan(large)) == (
        "inputs.model.model open_clip-tiny", "inputs.model.model open_clip-large",
    )  # fmt: skip
    assert changes(plan(tiny), plan(tiny, view="b" * 32)) == f"inputs.view {'a' * 12} -> {'b' * 12}"
    assert changes(plan("c" * 32), plan("{damaged")) == f"inputs.model {'c' * 12} -> {{damaged"
